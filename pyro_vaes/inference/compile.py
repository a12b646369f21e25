"""Three engines for one training step: as it is, as a graph, as a compiled graph.

A model and a guide are plain Pyro programs, which the effect handlers of Pyro interpret anew at every step: that
costs more than the arithmetic of a small network, and keeps a compiler out. The engine ``graph`` runs the handlers
once, on tensors without values, and keeps the tensor operations they did, forward and backward pass together
(:mod:`~pyro_vaes.inference.tracing`). From then on a step is that list of operations. The engine ``inductor`` gives
the list to torch's compiler, which fuses it. The engine ``eager`` runs the program itself.

**What becomes a variable and what a constant.** Tensors stay variables: parameters, buffers (running averages, fixed
scales and floors), the objective's settings such as beta, the learning rate, the batch, the random draws. Python
numbers become constants: the number of particles and passes, sizes, a ``width``. A schedule therefore changes a tensor.

**What cannot become a graph:** a program that looks at values while it runs (``if tensor``, ``.item()`` on something
that matters, rejection samplers), that counts in Python, or enumerates. Such a program trains all the same: the
engine steps down to one that works, and says once what stopped it and where.

**Nothing is taken on trust.** The first batch of every shape is computed twice by the program and twice by its graph,
from the same random state: loss, every site's term, every gradient, every buffer and the state of the random generator
afterwards must agree. ``describe(engine)`` tells what was traced, what it cost and how well it agreed.

A graph belongs to a shape of the batch, a dtype, a device and a mode (training or not); the smaller last batch of an
epoch gets one of its own, which is not compiled, since it runs once per epoch.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from pyro_vaes.errors import InputError, first_line, unknown
from pyro_vaes.inference.capture import capture_if_possible
from pyro_vaes.inference.compiler import compiler, inductor
from pyro_vaes.inference.frozen import program
from pyro_vaes.inference.guard import check_gradients, check_loss
from pyro_vaes.inference.optimiser import Rule, factors, rule, skips
from pyro_vaes.inference.ranks import Ranks
from pyro_vaes.inference.shapes import ByShape, EngineWarning, Gradients, Shape
from pyro_vaes.inference.tracing import Traced, cause, prepared, statistics, statistics_names, tensors, trace
from pyro_vaes.inference.verify import agreement, untouched
from pyro_vaes.meeting import meeting, norms_of
from pyro_vaes.pair import Pair

ENGINES = ("eager", "graph", "inductor")
# Steps from which an engine pays for itself on small networks and two cores: a first trace takes one or two seconds and
# saves one or two milliseconds per step; a first compilation takes five to ten and saves another.
GRAPH_PAYS, INDUCTOR_PAYS = 500, 10_000


class Engine(ByShape):
    """Run training steps of a pair: loss, gradient, optimiser.

    Args:
        kind: ``eager``, ``graph`` or ``inductor``.
        pair: in the mode it is to run in; its parameters change in place, and must stay the same tensors.
        size: N, all data, for the plate's scale.
        lr: the learning rate; write ``engine.optimiser.lr`` to change it.
        reason: why this kind, for :func:`describe`.
        prepare: what happens to a batch before the pair sees it, inside the graph.
        varied: settings that a schedule changes: the engine checks that its graph follows them.
        batch: rows of a full batch, the shape that is worth a compilation; by default that of the first.
        optimiser: makes it of parameters and rate; by default Adam.
        ranks: the other ranks, with whose gradients and statistics this one's are averaged.

    Attributes:
        kind: what it runs; another than asked for after a :class:`EngineWarning`.
        names: of the statistics that a step gives: loss, bound, then the sites.
        shapes: a line for each shape of batch so far.
        traced: the graph of the latest shape, or None.

    Raises:
        InputError: for an unknown kind, a pair without parameters, or a parameter with gaps in memory.

    Source: ours; see ``docs/compiled-step.md``.

    >>> from pyro_vaes.variants import l2_vae
    >>> engine = Engine("graph", l2_vae(4, 2, (3,)).train(), size=20)
    >>> stats = engine.step(torch.rand(5, 4))
    >>> engine.names, stats.shape
    (('loss', 'bound', 'z', 'x'), torch.Size([4]))
    """

    def __init__(
        self,
        kind: str,
        pair: Pair,
        size: int,
        lr: float = 1e-3,
        reason: str = "as asked",
        prepare: Callable[[Tensor], Any] | None = None,
        varied: tuple[Tensor, ...] = (),
        batch: int | None = None,
        optimiser: Rule | None = None,
        ranks: Ranks | None = None,
    ):
        if kind not in ENGINES:
            raise unknown("engine", str(kind), ["auto", *ENGINES])
        self.asked, self.kind, self.reason, self.fell = kind, kind, reason, ""
        self.pair, self.size, self.prepare, self.varied, self.batch = pair, size, prepare, varied, batch
        learned, fixed = tensors(pair)
        if not learned:
            raise InputError(f"{pair.name} has no parameter to learn")
        self.learned, self.fixed, self.names_learned = list(learned.values()), list(fixed.values()), list(learned)
        for name, p in learned.items():
            if torch.empty_like(p).stride() != p.stride():
                raise InputError(f"{name} is a view with gaps or overlaps in memory: make it contiguous()")
        self.optimiser = (optimiser or rule("adam"))(self.learned, lr, factors=factors(pair), skips=skips(pair))
        self.ranks, self._norms = ranks, norms_of(pair)
        self._modules, self._program = list(pair.modules()), dict[str, Any]()
        self.names: tuple[str, ...] = ()
        self.shapes: list[Shape] = []
        self.traced: Traced | None = None
        self._cache: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def rates(self, rates: list[float]) -> None:
        """Set the learning rate of the next step; a list, because replicas have one each."""
        self.optimiser.lr.fill_(rates[0])

    def watched(self) -> list[Tensor]:
        """What must stay finite: the parameters and their moments."""
        return [*self.optimiser.parameters, *self.optimiser.moments()]

    def changing(self) -> list[Tensor]:
        """Every tensor that a step may change; a program that runs as it is may have replaced its buffers."""
        return [*self.watched(), *self.optimiser.steps, *tensors(self.pair)[1].values()]

    def settle(self) -> None:
        """See at the end of a block whether program and tensors are still those that were traced.

        Raises:
            InputError: if a parameter was given other memory, which no optimiser would follow.
        """
        there = tensors(self.pair)[0]
        for name, mine, its in zip(self.names_learned, self.optimiser.parameters, self.learned, strict=True):
            if mine.data_ptr() != its.data_ptr() or its is not there.get(name):
                raise InputError(f"{name} was replaced during training: change parameters in place, with copy_()")
        if not self._program:
            return
        now = program(self.pair, self.prepare)
        changed = [name for name in {**self._program, **now} if self._program.get(name) != now.get(name)]
        if changed:
            message = f"{changed[0]} was changed during training; from the next step on the graph follows"
            warnings.warn(message, EngineWarning, stacklevel=6)
            self._cache.clear()
            self.fixed, self._modules = list(tensors(self.pair)[1].values()), list(self.pair.modules())
            self._program = now

    def random(self) -> list[Tensor]:
        """The state of every random generator that a step draws from."""
        device = self.learned[0].device
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]

    def set_random(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self.learned[0].device)

    def saved(self, run: int = 0) -> dict[str, Tensor]:
        """What a checkpoint holds besides the pair itself: the optimiser's state and the random generators'."""
        return self.optimiser.state() | dict(zip(("random.cpu", "random.cuda"), self.random(), strict=False))

    def load(self, saved: list[dict[str, Tensor]]) -> None:
        """Take up what :meth:`saved` gave."""
        self.optimiser.load(saved[0])
        self.set_random([tensor for name, tensor in saved[0].items() if name.startswith("random.")])

    def diagnose(self, x: Tensor, run: int, step: int) -> None:
        """Compute a step by the program itself, and raise ``Diverged`` with the site or the parameter."""
        with torch.enable_grad():
            loss = self.loss(x)
            # All of it before any check: a rank that stopped half-way would leave the others waiting.
            gradients = torch.autograd.grad(loss.total, self.learned, allow_unused=True)
        with nullcontext() if self.ranks is None else self.ranks.together():
            check_loss(loss, step)
            check_gradients(dict(zip(self.names_learned, gradients, strict=True)), step)

    def eager(self, x: Tensor) -> tuple[list[Tensor | None], Tensor]:
        """Gradients and statistics by the program itself."""
        try:
            with torch.enable_grad():
                loss = self.loss(x)
                self.names = statistics_names(loss)
                gradients = torch.autograd.grad(loss.total, self.learned, allow_unused=True)
            return list(gradients), statistics(loss)
        except Exception as error:  # a program that was rehearsed, and breaks on other data or at a later step
            # Of several ranks one may have gone, which others tell.
            if self.ranks is not None or isinstance(error, InputError):
                raise
            raise InputError(f"{self.pair.name} cannot compute a step on {len(x)} rows: {first_line(error)}") from error

    def loss(self, x: Tensor):
        with meeting(self.ranks, self._norms):
            return self.pair(*prepared(self.prepare, x), size=self.size)

    def _gradients(self, x: Tensor) -> Gradients:
        """Choose how this shape is run: as this engine does, or as the next simpler one that works."""
        record = Shape(f"x {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}", self.kind, len(x))
        self.shapes.append(record)
        self.batch = self.batch or len(x)
        if self.kind == "eager":
            return self.eager
        try:
            run = self._graph(x, record)
        except Exception as error:
            self._fall("eager", cause(error), record)
            return self.eager
        # The ragged last batch of an epoch runs once per epoch, and is not worth a compilation.
        if self.kind == "graph" or len(x) != self.batch:
            record.kind = "graph"
            return run
        try:
            return self._compiled(x, record)
        except Exception as error:
            self._fall("graph", cause(error), record)
            return run

    def _graph(self, x: Tensor, record: Shape) -> Gradients:
        began = time.monotonic()
        with untouched(self.pair, self.prepare):
            traced = trace(self.pair, x, self.size, self.prepare)
        record.operations, record.traced = traced.operations, time.monotonic() - began
        run = self._runner(traced.graph)
        record.agreement = agreement(self, run, x)
        self.names, self.traced, self._program = traced.names, traced, program(self.pair, self.prepare)
        return run

    def _compiled(self, x: Tensor, record: Shape) -> Gradients:
        began = time.monotonic()
        assert self.traced is not None
        run = self._runner(inductor(self.traced.graph, self.optimiser.parameters, self.fixed, x))
        record.agreement = agreement(self, run, x)
        record.compiled = time.monotonic() - began
        return run

    def _runner(self, graph: Callable) -> Gradients:
        parameters, buffers = self.optimiser.parameters, self.fixed

        def run(x: Tensor) -> tuple[list[Tensor | None], Tensor]:
            with torch.no_grad():
                *gradients, stats = graph(parameters, buffers, x)
            return gradients, stats

        return run

    def _whole(self, gradients: Gradients, x: Tensor) -> Callable[[Tensor], Tensor]:
        def step(x: Tensor) -> Tensor:
            found, stats = gradients(x)
            if self.ranks is not None:
                found, stats = self.ranks.mean(found, stats)
            self.optimiser.step(found, self._skipped(stats))
            return stats

        # A message to other ranks is no part of a CUDA graph.
        as_it_is = self.shapes[-1].kind == "eager" or self.ranks is not None
        return step if as_it_is else capture_if_possible(self, step, x)

    def _fall(self, kind: str, why: str, record: Shape) -> None:
        """Step down for one shape, and say so once."""
        if not self.fell:
            message = f"engine {self.kind} of {self.pair.name} runs as {kind}: {why}"
            warnings.warn(message, EngineWarning, stacklevel=7)
        record.kind, self.fell = kind, self.fell or why
        if record.rows == self.batch:
            self.kind = kind


def choose(asked: str, steps: int, device: torch.device) -> tuple[str, str]:
    """Choose an engine for so many steps, and say why.

    >>> choose("auto", 100, torch.device("cpu"))
    ('eager', '100 steps are too few for a trace to pay')
    """
    if asked not in ("auto", *ENGINES):
        raise unknown("engine", str(asked), ["auto", *ENGINES])
    if asked != "auto":
        return asked, "as asked"
    if steps < GRAPH_PAYS:
        return "eager", f"{steps} steps are too few for a trace to pay"
    if not compiler(device):
        return "graph", f"there is no {'Triton' if device.type == 'cuda' else 'C++ compiler'} to compile with"
    if device.type != "cuda" and steps < INDUCTOR_PAYS:
        return "graph", f"{steps:,} steps are too few for a compilation to pay"
    return "inductor", f"{steps:,} steps are worth a compilation"


def engine(kind: str, pair: Pair, size: int, lr: float = 1e-3, steps: int = 10**6) -> Engine:
    """Make an engine for a pair in training, ``auto`` included.

    >>> from pyro_vaes.variants import l2_vae
    >>> print(describe(engine("eager", l2_vae(4, 2, (3,)), size=20)))
    engine eager: as asked
    """
    kind, reason = choose(kind, steps, next(pair.parameters()).device)
    return Engine(kind, pair.train(), size, lr, reason)


def describe(engine: Engine) -> str:
    """Say what an engine runs, why, and what it made of each shape of batch.

    Source: ours.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> _ = torch.manual_seed(0)
    >>> pair, x = pv.gaussian_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> print(pv.describe(pv.fit(pair, x, steps=1, engine="eager", progress=False).engine))
    engine eager: as asked
      x (6, 4) float32: the program itself
    """
    lines = [f"engine {engine.kind}: {engine.reason}"]
    if engine.fell:
        lines = [f"engine {engine.kind} (asked for {engine.asked}): {engine.fell}"]
    return "\n".join([*lines, *(f"  {shape}" for shape in engine.shapes)])
