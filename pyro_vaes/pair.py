"""A variant: a model, a guide and an objective that fit each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import TransformedDistribution

from pyro_vaes.errors import InputError, first_line, flag, number, said, short, whole
from pyro_vaes.inference.objective import ELBO, Loss, Objective


class Pair(nn.Module):
    """Hold p, q and the objective, after a check that the two programs fit.

    Args:
        model: p; ``model(size=n)`` draws n data, ``model(x)`` scores a batch. It observes the site ``x``.
        guide: q; ``guide(x)`` samples every latent site of the model.
        objective: what is minimised, :class:`~pyro_vaes.inference.objective.ELBO` by default.
        passes: M, how often the answer goes in again when a datum is cleaned.
        range: (low, high) that data must lie in, narrower than the likelihood's support; None for no such limit.
        condition_dim: c, entries of the condition y that model and guide are given with every datum, (B, c), such as
            the classes of a one-hot label; 0 if they take none.
        partial: whether y is a label that data may lack: a row of zeros, and the programs take its class as latent.
        name: for reports.

    Calling the pair with a batch gives its :class:`~pyro_vaes.inference.objective.Loss` with parameters that are
    the modules' own: two pairs in one process never share any.

    Raises:
        InputError: if a site is missing on either side, differs in shape, or the observation ``x`` is not there.

    Source: ours; the pair of generative and recognition model is of Kingma & Welling (2014).

    >>> from pyro_vaes.variants import l2_vae
    >>> pair = l2_vae(data_dim=4, latent_dim=2, hidden=(5,))
    >>> from pyro_vaes.variants import t_vae
    >>> Pair(t_vae(data_dim=4, latent_dim=2).model, pair.guide)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: guide lacks site 'w' of shape (4,), which the model samples
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        objective: Objective | None = None,
        *,
        passes: int = 1,
        range: tuple[float, float] | None = None,
        condition_dim: int = 0,
        partial: bool = False,
        name: str = "pair",
    ):
        super().__init__()
        whole("passes", passes)
        whole("condition_dim", condition_dim, low=0), flag("partial", partial)
        name, range = _word(name), _limits(range)
        if objective is not None and not callable(objective):
            raise InputError(f"objective is {objective!r}: it must be callable, such as ELBO()")
        if not (isinstance(model, nn.Module) and isinstance(guide, nn.Module)):
            raise InputError("model and guide must be modules (PyroModule), not functions or bound methods")
        for program in (model, guide):
            if any(kind(program.forward) for kind in (isgeneratorfunction, iscoroutinefunction, isasyncgenfunction)):
                raise InputError(
                    f"{type(program).__name__}.forward is a generator or coroutine: it must be an ordinary method"
                )
        self.model, self.guide, self.name, self.passes, self.range = model, guide, name, passes, range
        if partial and not condition_dim:
            raise InputError("partial is for a condition that data may lack: condition_dim is 0")
        self.condition_dim, self.partial = condition_dim, bool(partial)
        self.objective: Objective = ELBO() if objective is None else objective
        self.data_dim = self._check()

    def __setattr__(self, name: str, value) -> None:
        if name == "objective":
            # A module may take the place of a plain function, and the other way round; torch would refuse.
            self.__dict__.pop(name, None)
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    def forward(self, x: Tensor, y: Tensor | None = None, *, size: int | None = None) -> Loss:
        # An empty store of its own for every call: Pyro's global one would hand the parameters of the first pair
        # of a process to the second.
        with pyro.get_param_store().scope():
            return self.objective(self.model, self.guide, x, y, size=size)

    def traces(self, x: Tensor | None = None, size: int = 2, y: Tensor | None = None):
        """Run guide and model once, without touching the random state, and give their traces.

        Args:
            x: a batch (B, d); by default ``size`` draws of the model itself.
            y: its condition (B, c), by default the first class, where there is a condition.
        """
        with aside(self), torch.no_grad():
            y = self.first_condition(size if x is None else len(x)) if y is None else y
            if x is None:
                x = _sites(self.model, None, y, size=size)["x"]["value"]
            q = poutine.trace(self.guide).get_trace(x, y)
            p = poutine.trace(poutine.replay(self.model, trace=q)).get_trace(x, y)
        return prune_subsample_sites(q), prune_subsample_sites(p)

    def first_condition(self, rows: int) -> Tensor | None:
        """A condition that any conditional program takes, the one-hot label of class 0; None if it takes none.

        Where it may be partial, every other row has none, so that a rehearsal sees both kinds.
        """
        if not self.condition_dim:
            return None
        like = next(self.parameters(), torch.empty(0))
        y = torch.zeros(rows, self.condition_dim, dtype=like.dtype, device=like.device)
        y[:: 2 if self.partial else 1, 0] = 1
        return y

    def describe(self) -> str:
        """Say what the pair is: objective, then site | p | q | shape, read off its traces.

        >>> from pyro_vaes.variants import l2_vae
        >>> print(l2_vae(data_dim=4, latent_dim=2, hidden=(5,)).describe())
        l2_vae: ELBO(), 1 pass at test time, 88 parameters
        site | p      | q      | shape
        z    | Normal | Normal | (2,)
        x    | Normal | data   | (4,)
        """
        q, p = self.traces()
        rows = [("site", "p", "q", "shape")]
        for name, site in p.nodes.items():
            if site["type"] != "sample":
                continue
            if site["infer"].get("_deterministic"):
                rows.append((name, "recorded", "-", _shape(site)))
                continue
            given = name == "x" or (site["is_observed"] and self.partial)
            source = _family(q.nodes[name]) if name in q.nodes else "data" if given else "-"
            rows.append((name, _family(site), source, _shape(site)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        table = [" | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        count = sum(p.numel() for p in self.parameters())
        passes = f"{self.passes} pass{'es' if self.passes > 1 else ''} at test time"
        return "\n".join([f"{self.name}: {self.objective!r}, {passes}, {count:,} parameters", *table])

    def _check(self) -> int:
        # Pyro would report a missing to_event before we can, in its own words.
        with aside(self), torch.no_grad(), pyro.validation_enabled(False):
            y = self.first_condition(2)
            drawn = _sites(self.model, None, y, size=2)
            if "x" not in drawn:
                raise InputError(f"the model has no site 'x', only {sorted(drawn)}: the observation is called 'x'")
            x = drawn.pop("x")["value"]
            if x.dim() != 2 or len(x) != 2:
                raise InputError(f"model(size=2) draws x of shape {tuple(x.shape)}: it must be (2, d)")
            # With a size, as every objective calls them: a program that cannot take one is refused here.
            _check_observation(_sites(self.model, x, y, size=2)["x"])
            _check_sites(drawn, _sites(self.guide, x, y, size=2))
        _check_names(self.model, self.guide)
        return x.shape[-1]


def _word(name: object) -> str:
    if not isinstance(name, str):
        raise InputError(f"name is {said(name)}: it must be text")
    return name


def _limits(range: object) -> tuple[float, float] | None:
    """The limits of data as two numbers, or None."""
    if range is None:
        return None
    plain = isinstance(range, tuple | list) and len(range) == 2
    low, high = (number("range", end, low=-float("inf")) for end in range) if plain else (0.0, 0.0)  # type: ignore
    if not low < high:
        raise InputError(f"range is {said(range)}: it must be (low, high), low below high, or None")
    return low, high


@contextmanager
def aside(pair: nn.Module) -> Iterator[None]:
    """Run something that leaves random state, running statistics and parameter store as they were."""
    modes = {m: m.training for m in pair.modules()}
    # The pair is in eval mode here, so that batch norm leaves its buffers alone.
    pair.eval()
    with torch.random.fork_rng(), pyro.get_param_store().scope(), pyro.validation_enabled(True):
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


class _Representative(Messenger):
    """Put the mean where a prior is improper and cannot be drawn."""

    def _pyro_sample(self, msg):
        if msg["value"] is not None or msg["is_observed"]:
            return
        try:
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
        except (NotImplementedError, ValueError):
            msg["value"] = msg["fn"].mean
        msg["done"] = True


def _check_observation(x: dict) -> None:
    if not x["is_observed"]:
        raise InputError("model(x) draws the site 'x' anew: pass obs=x")
    batch = tuple(x["fn"].batch_shape)
    if batch != (2,):
        raise InputError(
            f"site 'x' has batch shape {batch} for 2 data: it must be (2,), so end its vector in .to_event(1)"
        )


def _check_sites(drawn: dict[str, dict], guessed: dict[str, dict]) -> None:
    """Compare the latent sites of the model with those of the guide."""
    for name, site in drawn.items():
        if site["is_observed"]:  # deterministic sites and factors
            continue
        if name not in guessed:
            raise InputError(f"guide lacks site {name!r} of shape {_shape(site)}, which the model samples")
        ours, theirs = tuple(site["value"].shape), tuple(guessed[name]["value"].shape)
        if ours != theirs:
            raise InputError(f"site {name!r} has shape {ours} in the model but {theirs} in the guide")
        batches = tuple(site["fn"].batch_shape), tuple(guessed[name]["fn"].batch_shape)
        if batches[0] != batches[1]:
            raise InputError(
                f"site {name!r} has batch shape {batches[0]} in the model but {batches[1]} in the guide for 2 data: "
                "both draw it in their data_plate, its vector ended in .to_event(1), or both outside"
            )
        if not site["fn"].support.check(guessed[name]["value"]).all():
            raise InputError(f"guide draws {name!r} outside of the support of the model's {_family(site)}")
    extra = sorted(set(guessed) - set(drawn))
    if extra:
        raise InputError(f"guide samples {extra}, which the model lacks; it has {sorted(drawn)}")


def _check_names(model: nn.Module, guide: nn.Module) -> None:
    """Pyro knows parameters by name: two of one name would silently become one."""
    known = dict(model.named_parameters())
    for name, parameter in guide.named_parameters():
        if known.get(name, parameter) is not parameter:
            raise InputError(f"model and guide each have a parameter {name!r} of their own: share it, or rename one")


def _sites(program, *args, **kwargs) -> dict[str, dict]:
    try:
        # A store for each: two networks of one name would become one here already.
        with _Representative(), pyro.get_param_store().scope():
            trace = prune_subsample_sites(poutine.trace(program).get_trace(*args, **kwargs))
    except InputError as error:
        raise InputError(short(error)) from None
    except Exception as error:
        raise InputError(f"{type(program).__name__} cannot run: {first_line(error)}") from error
    _check_parameters(program, trace)
    return {name: dict(site) for name, site in trace.nodes.items() if site["type"] == "sample"}


def _check_parameters(program: nn.Module, trace) -> None:
    """Refuse ``pyro.param``: parameters are the modules' own here, so that one made in passing is never learned."""
    own, names = {id(p) for p in program.parameters()}, {name for name, _ in program.named_parameters()}
    for name, site in trace.nodes.items():
        if site["type"] != "param" or name.replace("$$$", ".") in names:
            continue
        value = site["value"]
        leaf = value.unconstrained() if hasattr(value, "unconstrained") else value
        if id(leaf) not in own and id(value) not in own:
            kind = type(program).__name__
            raise InputError(
                f"pyro.param({name!r}) of {kind} would never be learned: make it a PyroParam of the module"
            )


def _family(site) -> str:
    fn = site["fn"]
    while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
        fn = fn.base_dist
    return "factor" if type(fn).__name__ == "Unit" else type(fn).__name__


def _shape(site) -> str:
    return "-" if _family(site) == "factor" else str(tuple(site["fn"].event_shape))
