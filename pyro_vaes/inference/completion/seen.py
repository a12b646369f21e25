"""Which entries of data are seen, and what stands in for the others: hidden entries are never read."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyro_vaes.errors import InputError, said
from pyro_vaes.inference.densities import seed_at
from pyro_vaes.inference.guard import ROWS, as_batch, check_data, check_pair
from pyro_vaes.inference.posterior import recorded
from pyro_vaes.pair import Pair, _Representative
from pyro_vaes.tensors import NARROW, plain

# Values that some likelihood or other takes.
COMMON = (0.0, 0.5, 1.0)


def checked(pair: Pair, x: Any, mask: Any) -> tuple[Tensor, Tensor]:
    """Give data whose hidden entries hold a harmless number, and the mask as (B, d) bool, True where seen.

    Args:
        x: (B, d), in the pair's range, or uint8 pixels; whatever stands at hidden entries is not looked at.
        mask: (d,) or (B, d): 1 or True is SEEN, 0 or False is HIDDEN.

    Raises:
        InputError: for a mask that is none, that hides nothing at all or hides a whole datum, and for bad seen entries.

    >>> from pyro_vaes.variants import l2_vae
    >>> checked(l2_vae(3, 2, (4,)), torch.tensor([[0.5, torch.nan, 1.0]]), [1, 0, 1])
    (tensor([[0.5000, 0.0000, 1.0000]]), tensor([[ True, False,  True]]))
    """
    _check_rows(pair, x)
    seen = checked_mask(mask, x)
    return _harmlessly(pair, x, seen), seen


def observed(pair: Pair, x: Any, mask: Any = None) -> tuple[Tensor, Tensor]:
    """Give data whose missing entries hold a harmless number, and what is observed as (N, d) bool.

    Args:
        x: (N, d), in the pair's range, or uint8 pixels; NaN is missing.
        mask: (d,) or (N, d), 1 or True where x is OBSERVED, 0 or False where it is missing too; None for NaN only.

    Raises:
        InputError: for a mask that is none, and for bad observed entries.

    >>> from pyro_vaes.variants import l2_vae
    >>> observed(l2_vae(3, 2, (4,)), torch.tensor([[0.5, torch.nan, 1.0]]), [1, 1, 0])
    (tensor([[0.5000, 0.0000, 0.0000]]), tensor([[ True, False, False]]))
    """
    _check_rows(pair, x)
    seen = torch.ones(x.shape, dtype=torch.bool, device=x.device) if mask is None else read_mask(mask, x)
    if x.is_floating_point():
        seen = seen & ~x.isnan()
    return _harmlessly(pair, x, seen), seen


def _check_rows(pair: Pair, x: Any) -> None:
    check_pair(pair)
    if not len(plain("x", x, 2, ROWS)) or x.shape[1] != pair.data_dim:
        raise InputError(f"x is {tuple(x.shape)}: it must be {ROWS}, d is {pair.data_dim} for {pair.name}")
    if not (x.is_floating_point() or x.dtype == torch.uint8) or x.dtype in NARROW:
        raise InputError(f"x has dtype {x.dtype}: it must be floating point, or uint8 for pixels 0 to 255")


def _harmlessly(pair: Pair, x: Tensor, seen: Tensor) -> Tensor:
    rows = as_batch(x)
    rows = torch.where(seen, rows, torch.full_like(rows, _harmless(pair)))
    check_data(pair, rows)
    return rows


def checked_mask(mask: Any, x: Tensor) -> Tensor:
    """Give a mask as (B, d) bool on the device of x, or refuse it.

    >>> checked_mask(torch.ones(2), torch.zeros(3, 2))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: the mask hides nothing: its entries are 1 where x is seen and 0 where it is hidden
    """
    seen = read_mask(mask, x)
    if seen.all():
        raise InputError("the mask hides nothing: its entries are 1 where x is seen and 0 where it is hidden")
    blind = ~seen.any(1)
    if blind.any():
        raise InputError(
            f"the mask hides all of row {int(blind.nonzero()[0])}: 1 is seen, 0 is hidden; new data are drawn by sample"
        )
    return seen


def read_mask(mask: Any, x: Tensor) -> Tensor:
    """Give a mask as (B, d) bool on the device of x, however much it hides.

    Raises:
        InputError: for an array of another shape, or of other values than 0 and 1.
    """
    try:
        given = torch.as_tensor(mask)
    except Exception:  # torch does not say what an object that is no array raises
        raise InputError(f"the mask is {said(mask)}: it must be an array of 0 (hidden) and 1 (seen)") from None
    plain("mask", given, what="an array of 0 (hidden) and 1 (seen)")
    shapes = ((x.shape[1],), tuple(x.shape))
    if tuple(given.shape) not in shapes:
        raise InputError(f"the mask has shape {tuple(given.shape)}: it must be {shapes[0]} or {shapes[1]}, as x is")
    if given.is_complex() or given.dtype in NARROW or not bool(((given == 0) | (given == 1)).all()):
        raise InputError("the mask holds other values than 0 (hidden) and 1 (seen)")
    return given.to(x.device).bool().expand(x.shape)


def _harmless(pair: Pair) -> float:
    """A value that the likelihood takes, so that a check of all entries is one of the seen ones."""
    of: Any = pair.traces()[1].nodes["x"]["fn"].support
    family = getattr(of, "base_constraint", of)
    low, high = pair.range or (float("-inf"), float("inf"))
    fits = [v for v in COMMON if low <= v <= high and bool(family.check(torch.tensor(v)).all())]
    return fits[0] if fits else low if pair.range else COMMON[0]


def filling(pair: Pair, x: Tensor, y: Tensor | None, fill: Any, seed: int, codes: int = 64) -> Tensor:
    """What stands in for hidden entries before a completion is known: what was given, or the model's mean, (B, d).

    Raises:
        InputError: for a fill of another shape, or one that is not finite.
    """
    if fill is not None:
        what = f"a tensor ({x.shape[1]},) or {tuple(x.shape)} of real numbers"
        if tuple(plain("fill", fill, what=what).shape) not in ((x.shape[1],), tuple(x.shape)) or fill.is_complex():
            raise InputError(f"fill is {fill.dtype} of shape {tuple(fill.shape)}: it must be {what}")
        found = as_batch(fill).to(x).expand(x.shape)
        if not found.isfinite().all():
            raise InputError("fill is not finite everywhere: the guide is shown it")
        return found
    seed_at(seed, 9)
    # Without a condition all data have one mean.
    rows = x[:1] if y is None else x
    program = pyro.plate("particles", codes, dim=-2)(pair.model)
    with _Representative():
        trace = prune_subsample_sites(poutine.trace(program).get_trace(rows, y))
    return recorded(trace, "mu", "mean").expand(codes, *rows.shape).mean(0).expand(x.shape)


def stand_in(recorded: Mapping[str, Any], likelihood: Any) -> Any:
    """How a missing entry is drawn given the code: by the likelihood, but for models that record an ordinary residual.

    Those know of outliers: a missing entry is what a clean one would be, N(mu, scale^2).

    Args:
        recorded: the values that a model has recorded, among them the sites ``mu`` and ``scale`` where it has them.
    """
    if "scale" not in recorded:
        return likelihood
    mu = recorded.get("mu")
    mu = likelihood.mean if mu is None else mu
    return dist.Normal(mu, recorded["scale"].expand(mu.shape)).to_event(1)
