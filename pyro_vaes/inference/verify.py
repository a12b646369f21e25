"""Is the graph the program? Both are run on the same batch from the same random state, and compared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vaes.inference.frozen import generators, program, rewound
from pyro_vaes.inference.tracing import Untraceable, tensors

if TYPE_CHECKING:
    from pyro_vaes.inference.compile import Engine

# What rounding in another order may change, as norms: relative to the tensor, and to all gradients together. The second
# matters where a gradient is zero but for rounding, such as that of a bias in front of a batch norm. Norms, not largest
# entries: of a million ReLUs one or two stand so close to zero that rounding decides which side they are on.
TOLERANCE = {torch.float64: (1e-8, 1e-13), torch.float32: (2e-3, 1e-6)}


@dataclass
class Agreement:
    """How far a graph is from its program, relative to the statistics and to the largest gradient, as norms."""

    loss: float
    gradient: float

    def __str__(self) -> str:
        return f"off from the program by {self.loss:.0e} in the loss, {self.gradient:.0e} in the gradients"


class Step(NamedTuple):
    """What a step computed: gradients, statistics, and every tensor and random state after it."""

    gradients: list[Tensor | None]
    stats: Tensor
    buffers: list[Tensor]
    random: list[Tensor]


def agreement(engine: "Engine", run: Callable, x: Tensor) -> Agreement:
    """Compare two steps in a row, so that noise must be fresh and settings must be followed.

    Raises:
        Untraceable: if anything differs by more than rounding, or the program keeps count in Python.
    """
    with untouched(engine.pair, engine.prepare):
        ours = _twice(engine, run, x)
    with untouched(engine.pair, engine.prepare):
        before, drawn, tensors_before = program(engine.pair, engine.prepare), generators(), _tensors(engine)
        theirs = _twice(engine, engine.eager, x)
        if generators() != drawn:
            raise Untraceable("the program draws from Python's or NumPy's generator, which a graph would freeze")
        now = program(engine.pair, engine.prepare)
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            raise Untraceable(f"{changed[0]} changes from step to step, which a graph would freeze: count in a buffer")
        replaced = [name for name, t in _tensors(engine).items() if t is not tensors_before.get(name)]
        if replaced:
            raise Untraceable(
                f"{replaced[0]} is replaced in every step, and a graph would not see it: change it in place"
            )
    return compare(ours, theirs, engine.names_learned)


def compare(ours: list[Step], theirs: list[Step], names: list[str]) -> Agreement:
    """Compare steps of a graph with those of its program.

    Args:
        names: of the parameters, in the order of the gradients.

    Raises:
        Untraceable: for the first thing that differs by more than rounding.
    """
    relative, absolute = TOLERANCE.get(theirs[0].stats.dtype, (2e-2, 1e-3))
    worst = Agreement(0.0, 0.0)
    for mine, reference in zip(ours, theirs, strict=True):
        if not all(map(torch.equal, mine.random, reference.random)):
            raise Untraceable("the program draws other random numbers than its graph")
        scale = max(_size(reference.stats), 1e-30)
        worst.loss = max(worst.loss, _distance("the loss", mine.stats, reference.stats, relative, 0.0) / scale)
        scale = max((_size(g) for g in reference.gradients if g is not None), default=1.0)
        for name, one, other in zip(names, mine.gradients, reference.gradients, strict=True):
            if one is None and other is None:
                continue
            if one is None or other is None:
                raise Untraceable(f"the gradient of {name} is there in one and not in the other")
            off = _distance(f"the gradient of {name}", one, other, relative, absolute * scale)
            worst.gradient = max(worst.gradient, off / max(scale, 1e-30))
        for one, other in zip(mine.buffers, reference.buffers, strict=True):
            _distance("a buffer or parameter after the step", one, other, relative, 0.0)
    return worst


def _tensors(engine: "Engine") -> dict[str, Tensor]:
    learned, fixed = tensors(engine.pair)
    return learned | fixed


def _twice(engine: "Engine", run: Callable, x: Tensor) -> list[Step]:
    found = []
    for _ in range(2):
        # A program may change its batch.
        gradients, stats = run(x.clone())
        copies = [None if g is None else g.clone() for g in gradients]
        after = [t.detach().clone() for t in _tensors(engine).values()]
        found.append(Step(copies, stats.clone(), after, engine.random()))
        for setting in engine.varied:
            setting.mul_(0.5).add_(0.1)
    return found


@contextmanager
def untouched(pair: nn.Module, prepare: Callable | None = None) -> Iterator[None]:
    """Put everything back: tensors and which tensors they are, random states, whatever is counted in Python."""
    stores = [store for module in pair.modules() for store in (module._parameters, module._buffers)]
    names: list[dict[str, Any]] = [dict(store) for store in stores]
    contents = [(t, t.detach().clone()) for store in names for t in store.values() if t is not None]
    try:
        with rewound(pair, prepare), torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for store, before in zip(stores, names, strict=True):
                store.update(before)
            for tensor, value in contents:
                tensor.copy_(value)


def _distance(what: str, one: Tensor, other: Tensor, relative: float, absolute: float) -> float:
    if one.shape != other.shape or one.dtype != other.dtype:
        raise Untraceable(f"{what} is {one.dtype} {tuple(one.shape)}, not {other.dtype} {tuple(other.shape)}")
    if not torch.equal(torch.isfinite(one), torch.isfinite(other)):
        raise Untraceable(f"{what} is not finite where the program's is")
    off, size = _size(torch.nan_to_num(one.double()) - torch.nan_to_num(other.double())), _size(other)
    if off > relative * size + absolute:
        share = f"{off / max(size, 1e-30):.0e} of its size"
        raise Untraceable(f"{what} differs from the program's by {share}: it depends on something outside of the graph")
    return off


def _size(tensor: Tensor) -> float:
    return torch.nan_to_num(tensor.detach().double()).norm().item()
