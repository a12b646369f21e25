"""Is the graph the program? Both are run on the same batch from the same random state, and compared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_vaes.inference.tracing import Untraceable

if TYPE_CHECKING:
    from pyro_vaes.inference.compile import Engine

# What rounding in another order may change, relative to the largest entry of a gradient.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4}


@dataclass
class Agreement:
    """How far a graph is from its program: relative differences of the statistics and of the worst gradient."""

    loss: float
    gradient: float

    def __str__(self) -> str:
        return f"off from the program by {self.loss:.0e} in the loss, {self.gradient:.0e} in the gradients"


def agreement(engine: "Engine", run: Callable, x: Tensor) -> Agreement:
    """Compare two steps in a row, so that noise must be fresh and settings must be followed.

    Raises:
        Untraceable: if anything differs by more than rounding, or the program keeps count in Python.
    """
    numbers = _python_numbers(engine.pair)
    with _untouched(engine):
        ours = _twice(engine, run, x)
    with _untouched(engine):
        theirs = _twice(engine, engine.eager, x)
    changed = [name for name, value in _python_numbers(engine.pair).items() if numbers.get(name) != value]
    if changed:
        raise Untraceable(f"{changed[0]} changes from step to step in Python, which a graph would freeze: use a buffer")
    tolerance = TOLERANCE.get(theirs[0][1].dtype, 2e-2)
    worst = Agreement(0.0, 0.0)
    for (mine, stats, buffers, random), (reference, expected, kept, state) in zip(ours, theirs, strict=True):
        if not torch.equal(random, state):
            raise Untraceable("the program draws other random numbers than its graph")
        worst.loss = max(worst.loss, _distance("the loss", stats, expected, tolerance))
        for name, one, other in zip(engine.names_learned, mine, reference, strict=True):
            if (one is None) != (other is None):
                raise Untraceable(f"the gradient of {name} is there in one and not in the other")
            if one is not None:
                worst.gradient = max(worst.gradient, _distance(f"the gradient of {name}", one, other, tolerance))
        for one, other in zip(buffers, kept, strict=True):
            _distance("a buffer", one, other, tolerance)
    return worst


def _twice(engine: "Engine", run: Callable, x: Tensor) -> list[tuple]:
    found = []
    for _ in range(2):
        gradients, stats = run(x)
        buffers = [b.clone() for b in engine.fixed]
        random = torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()
        found.append(([None if g is None else g.clone() for g in gradients], stats.clone(), buffers, random))
        for setting in engine.varied:
            setting.mul_(0.5).add_(0.1)
    return found


@contextmanager
def _untouched(engine: "Engine") -> Iterator[None]:
    before = [b.clone() for b in engine.fixed]
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(engine.fixed, before, strict=True):
                buffer.copy_(value)


def _distance(what: str, one: Tensor, other: Tensor, tolerance: float) -> float:
    if one.shape != other.shape or one.dtype != other.dtype:
        raise Untraceable(f"{what} is {one.dtype} {tuple(one.shape)}, not {other.dtype} {tuple(other.shape)}")
    if not torch.equal(torch.isfinite(one), torch.isfinite(other)):
        raise Untraceable(f"{what} is not finite where the program's is")
    one, other = torch.nan_to_num(one.double()), torch.nan_to_num(other.double())
    size = other.abs().max().item() if other.numel() else 0.0
    off = (one - other).abs().max().item() / max(size, 1e-12) if other.numel() else 0.0
    # A gradient of rounding size has no digits to agree in.
    if off > tolerance and size > 1e-7:
        raise Untraceable(f"{what} differs from the program's by {off:.0e} of its size")
    return off if size > 1e-7 else 0.0


def _python_numbers(pair: nn.Module) -> dict[str, Any]:
    """Every plain number that a module of the pair holds, by name."""
    return {
        f"{type(module).__name__}.{name}": value
        for module in pair.modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str) and not name.startswith("_")
    }
