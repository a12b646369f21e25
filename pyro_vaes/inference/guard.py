"""What stops a run before harm is done: wrong data at the start, a signal or a NaN on the way."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.data.rows import Beside, Rows, chunks, sampled, size
from pyro_vaes.errors import InputError, first_line
from pyro_vaes.inference.objective import Loss
from pyro_vaes.pair import Pair
from pyro_vaes.tensors import NARROW, plain

#: Bytes. Conditions are put beside data of more than this only when a batch is read.
JOINED = 2**30
#: What data must be.
ROWS = "a tensor of shape (N, d), one row per datum"


class Diverged(ArithmeticError):
    """A loss or gradient was not finite; the step was not taken.

    Source: ours.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> with torch.no_grad():
    ...     _ = next(pair.model.parameters()).fill_(torch.inf)
    >>> pv.fit(pair, x, steps=1, progress=False)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
        ...
    pyro_vaes.inference.guard.Diverged: ...
    """


def check_pair(pair: object) -> None:
    """Refuse what is no pair.

    >>> check_pair(5)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: a Pair is needed, not int
    """
    if not isinstance(pair, Pair):
        raise InputError(f"a Pair is needed, not {type(pair).__name__}")


def as_batch(x: Tensor) -> Tensor:
    """Give rows as floats: bytes 0..255 become [0, 1], so that large image sets stay bytes in memory.

    >>> as_batch(torch.tensor([[0, 255]], dtype=torch.uint8))
    tensor([[0., 1.]])
    """
    return x.float() / 255 if x.dtype == torch.uint8 else x


def check_data(
    pair: Pair,
    x: Tensor | Rows,
    augment: Callable[[Tensor], Tensor] | None = None,
    *,
    support: bool = True,
    holes: bool = False,
    large: bool = False,
) -> None:
    """Refuse data that the pair cannot model.

    Args:
        x: shape (N, d), float or uint8, read in chunks.
        augment: what happens to a batch before the pair sees it; it takes values in [0, 1].
        support: False lets any finite value pass, where no likelihood is asked for.
        holes: let NaN pass, where the objective takes it as missing.
        large: look at some parts only where there are more than 4 GiB, or shards, as a training does, which looks at
            every batch when it is read; see :func:`batch_check`.

    Raises:
        InputError: if x is no (N, d) tensor of the pair's d, is empty, holds NaN or infinity, or lies outside of the
            support of the likelihood or of the range the variant was made for.

    >>> from pyro_vaes.variants import l2_vae
    >>> check_data(l2_vae(data_dim=4), torch.tensor([[0.0, 0.5, 1.0, 3.0]]))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: x is 3 at row 0, column 3: l2_vae models values in [0, 1], so rescale
    """
    if isinstance(x, Rows):
        if not large:
            raise InputError(f"x is {x!r}, which only a training reads: give rows of it, such as x[:1000]")
    else:
        plain("x", x, 2, ROWS)
    check_pair(pair)
    if len(x) == 0:
        raise InputError("x is empty: there must be at least one datum")
    if x.shape[1] != pair.data_dim:
        raise InputError(f"x has {x.shape[1]} entries per datum, but {pair.name} was made for {pair.data_dim}")
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        raise InputError(f"x has dtype {x.dtype}: it must be floating point, or uint8 for pixels 0 to 255")
    ours = next((p.dtype for p in pair.parameters() if p.is_floating_point()), None)
    if ours is not None and as_batch(x[:1]).dtype != ours:
        raise InputError(f"x gives {as_batch(x[:1]).dtype} but {pair.name} has {ours} parameters: convert one of them")
    family = _family(pair) if support else None
    if augment is None and x.dtype == torch.uint8 and size(x) > JOINED and _any_byte_passes(pair, family):
        return  # and so does any row
    for start, part in chunks(x, large and sampled(x)):

        def place(row: int, start: int = start) -> str:
            return x.place(start + row) if isinstance(x, Rows) else f"row {start + row}"

        _check_chunk(pair, as_batch(part), family, place, holes, augment, support)


def batch_check(pair: Pair, augmented: bool, holes: bool) -> Callable[[Tensor, Callable[[int], str]], None]:
    """Give what refuses rows of a batch when it is read, where there were too many data to look at all of them before.

    It draws nothing, so that it may run beside the training: what an augmentation makes of a batch is not looked at.
    """
    family = None if augmented else _family(pair)

    def check(batch: Tensor, place: Callable[[int], str]) -> None:
        chunk = as_batch(batch[:, : pair.data_dim])
        _check_chunk(pair, chunk, family, place, holes, support=not augmented)
        if augmented:
            _refuse((chunk < 0) | (chunk > 1), chunk, place, "an augmentation takes values in [0, 1], so rescale")

    return check


def _family(pair: Pair) -> Any:
    of: Any = pair.traces()[1].nodes["x"]["fn"].support
    return _of_any(getattr(of, "base_constraint", of))


def _any_byte_passes(pair: Pair, family: Any) -> bool:
    """Whether any row of bytes would pass: then data of this type need not be read."""
    chunk = (torch.arange(256.0) / 255)[:, None].expand(256, pair.data_dim)
    try:
        _check_chunk(pair, chunk, family, str, False)
    except InputError:
        return False
    # A support of whole rows says nothing about each entry.
    return family is None or family.check(chunk).shape == chunk.shape


def _check_chunk(
    pair: Pair,
    chunk: Tensor,
    family: Any,
    place: Callable[[int], str],
    holes: bool,
    augment: Callable[[Tensor], Tensor] | None = None,
    support: bool = True,
) -> None:
    if holes and chunk.isnan().any():
        # Any value that is there stands in for one that is not.
        there = chunk[~chunk.isnan()]
        chunk = chunk.nan_to_num(nan=there[0].item() if len(there) else 0.0, posinf=math.inf, neginf=-math.inf)
    finite = "it must be finite"
    if takes_holes(pair) and not holes:
        finite += " here, though training took NaN: fill in what is missing with impute(pair, x) first"
    _refuse(~torch.isfinite(chunk), chunk, place, finite)
    if not support:
        return
    if augment is not None:
        _refuse((chunk < 0) | (chunk > 1), chunk, place, "an augmentation takes values in [0, 1], so rescale")
        chunk = _augmented(chunk, augment)
    if family is not None:
        _refuse(~family.check(chunk), chunk, place, f"it must lie in the support of the likelihood ({_say(family)})")
    if pair.range is not None:
        low, high = pair.range
        allowed = f"{pair.name} models values in [{low:g}, {high:g}], so rescale"
        _refuse((chunk < low) | (chunk > high), chunk, place, allowed)


def _of_any(family: Any) -> Any:
    """Bounds of a support that a rehearsal of two data has made (2, d), like a binomial's, for any number of data.

    None where they differ from datum to datum: what a rehearsal saw then says nothing of other data.
    """
    found = {name: getattr(family, name, None) for name in ("lower_bound", "upper_bound")}
    bounds = {name: b[:1] for name, b in found.items() if isinstance(b, Tensor) and b.dim() > 1}
    if any(not torch.equal(found[name], bound.expand_as(found[name])) for name, bound in bounds.items()):  # type: ignore[arg-type]
        return None
    if bounds:
        family = copy.copy(family)
        vars(family).update(bounds)
    return family


def check_condition(pair: Pair, x: Tensor | Rows, y: Tensor | None) -> Tensor | None:
    """Give the conditions of data as the pair takes them, (N, c), or refuse them.

    Args:
        y: whole labels (N,), which become one-hot vectors, or c numbers per datum. Where the pair lets data lack their
            label, -1 is none, which becomes a row of zeros, and None means that no datum has one.

    Raises:
        InputError: if the pair takes no condition or lacks one, or y does not fit.

    >>> from pyro_vaes.variants import l2_vae
    >>> check_condition(l2_vae(data_dim=4), torch.rand(2, 4), torch.tensor([0, 1]))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: y is given, but l2_vae takes no condition
    """
    check_pair(pair)
    c = pair.condition_dim
    if not c:
        if y is not None:
            raise InputError(f"y is given, but {pair.name} takes no condition")
        return None
    if y is None and isinstance(x, Rows) and x.labelled:
        return None  # each row brings its own
    if y is None and pair.partial:
        y = torch.full((len(x),), -1)
    if y is None:
        raise InputError(f"y is missing: {pair.name} takes a condition, {c} entries per datum or labels below {c}")
    plain("y", y, what=f"labels below {c} or numbers of shape ({len(x)}, {c}), in an ordinary tensor")
    if tuple(y.shape) not in ((len(x),), (len(x), c)):
        raise InputError(
            f"y is {tuple(y.shape)} for {len(x)} data: it must be their labels, or of shape ({len(x)}, {c})"
        )
    if y.is_complex() or y.dtype in NARROW:
        raise InputError(f"y has dtype {y.dtype}: it must be real, of 16 bits or more, or whole")
    if y.dim() == 1:
        low, none = (-1, ", or -1 for none") if pair.partial else (0, "")
        # As int64 first: a byte is compared with c, or -1, as a byte.
        labels = y.long()
        if y.is_floating_point() or y.dtype == torch.bool or not bool(((labels >= low) & (labels < c)).all()):
            raise InputError(f"y holds {y.unique()[:20].tolist()}: labels of {pair.name} are whole, 0 to {c - 1}{none}")
        # A class more, which is none, and then left out again.
        y = torch.nn.functional.one_hot(labels % (c + 1), c + 1)[:, :c]
    if not torch.isfinite(y).all():
        raise InputError("y is not finite everywhere: a condition must be")
    if pair.partial and not bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) <= 1)).all()):
        raise InputError(f"y must be one-hot for {pair.name}, or a row of zeros where there is no label")
    return y.to(x.device, _first(pair).dtype)


def packed(x: Tensor | Rows, y: Tensor | None, pair: Pair | None = None) -> Tensor | Rows:
    """Put the condition of every datum beside it, in one tensor that a training reads rows from.

    Beside more than a gigabyte, and beside shards, it is put when a row is read; so is the label of a shard's row,
    which is the condition of ``pair`` where y is None.
    """
    own = y is None and isinstance(x, Rows) and x.labelled and pair is not None and bool(pair.condition_dim)
    if y is None and not own:
        return x
    if isinstance(x, Tensor) and size(x) <= JOINED and y is not None:
        return torch.cat([as_batch(x).to(y.dtype), y], 1)
    c, dtype = (pair.condition_dim, _first(pair).dtype) if y is None and pair else (y.shape[1], y.dtype)  # type: ignore
    return Beside(x, y, c, dtype, as_batch, bool(pair and pair.partial))


def first_rows(pair: Pair, x: Tensor | Rows, y: Tensor | None, n: int) -> tuple[Tensor, Tensor | None]:
    """Give the first n rows, and their conditions, on the device of the pair."""
    device, few = _first(pair).device, None if y is None else y[:n]
    if isinstance(x, Rows) and x.labelled and y is None and pair.condition_dim:
        both = packed(x, None, pair)[:n]
        return x[:n].to(device), both[:, pair.data_dim :].to(device)
    return x[:n].to(device), few if few is None else few.to(device)


def takes_holes(pair: Pair) -> bool:
    """Whether the pair's objective takes NaN as missing."""
    return hasattr(pair.objective, "missing_fill")


def _augmented(chunk: Tensor, augment: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        with torch.random.fork_rng():
            found = augment(chunk.clone())
    except Exception as error:
        raise InputError(f"the augmentation cannot run: {first_line(error)}") from error
    if not isinstance(found, Tensor) or found.shape != chunk.shape or found.dtype != chunk.dtype:
        what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"the augmentation gives {what} for {chunk.dtype} {tuple(chunk.shape)}: it must keep both")
    return found


def _say(constraint) -> str:
    name = type(constraint).__name__.strip("_").lower()
    return "0 or 1; binarise grey values first, or draw them: augment='dynamic'" if name == "boolean" else name


def _refuse(bad: Tensor, chunk: Tensor, place: Callable[[int], str], allowed: str) -> None:
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise InputError(f"x is {chunk[row, column].item():g} at {place(row)}, column {column}: {allowed}")


def check_rows(pair: Pair, rows: int, batch_size: int) -> None:
    """Refuse batches that are too small for the pair's objective: one that compares the rows of a batch takes two.

    Args:
        rows: N, of which the last batch of an epoch holds what is left.

    Raises:
        InputError: naming the batch size and the rows.

    >>> from pyro_vaes.variants import wae_mmd
    >>> check_rows(wae_mmd(data_dim=4), rows=129, batch_size=64)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: a last batch of 1 (129 data, batch_size 64): wae_mmd needs at least 2 rows in each
    """
    data = max(getattr(module, "least_data", 1) for module in pair.modules())
    if rows < data:
        raise InputError(f"there is {rows} datum: {pair.name} needs at least {data}")
    least = max(getattr(module, "least_rows", 1) for module in pair.modules())
    smallest = min(batch_size, rows % batch_size or batch_size)
    if smallest < least:
        what = f"{'batches' if smallest == batch_size else 'a last batch'} of {smallest}"
        asked = f"({rows} data, batch_size {batch_size})"
        raise InputError(f"{what} {asked}: {pair.name} needs at least {least} rows in each")


def _first(pair: Pair) -> Tensor:
    return next(iter(pair.parameters()))


def check_loss(loss: Loss, step: int) -> None:
    """Stop on a loss that is not finite, and name the site."""
    if not math.isfinite(loss.total.item()):
        sites = [name for name, term in loss.terms.items() if not torch.isfinite(term)] or ["their sum"]
        raise Diverged(f"step {step}: the loss is {loss.total.item()} at site {', '.join(map(repr, sites))}")


def check_gradients(gradients: Mapping[str, Tensor | None], step: int) -> None:
    """Stop on a gradient that is not finite, and name the parameter."""
    bad = [name for name, g in gradients.items() if g is not None and not torch.isfinite(g).all()]
    if bad:
        raise Diverged(f"step {step}: the loss is finite but its gradient is not, at {', '.join(map(repr, bad))}")
