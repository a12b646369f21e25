"""Many runs in one graph: other seeds, other settings, other data, the same programs."""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vaes.data.rows import Rows
from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.capture import capture_if_possible
from pyro_vaes.inference.compile import Engine
from pyro_vaes.inference.compiler import inductor
from pyro_vaes.inference.draws import take_out, use
from pyro_vaes.inference.frozen import generators, held, program, values
from pyro_vaes.inference.optimiser import Optimiser, Rule, factors, rule, skips
from pyro_vaes.inference.shapes import ByShape, EngineWarning, Gradients, Shape
from pyro_vaes.inference.tracing import Untraceable, cause, simplify, tensors, trace
from pyro_vaes.inference.verify import Agreement, Step, compare, untouched
from pyro_vaes.pair import Pair


class Replicas(ByShape):
    r"""Take the same step in R runs at once.

    The step of one run is a function of parameters, buffers, batch and noise, so that it can be batched over all of
    them. Every replica has its own parameters, settings, optimiser state, learning rate, data order and random
    generator: replica r is the run that it would be alone, up to rounding, because a batched matrix product may sum in
    another order.

    On a GPU, which one small model leaves idle, R replicas cost little more than one. On a CPU they cost about R times
    one.

    Args:
        kind: ``graph``, ``inductor``, or ``eager``, which takes the replicas one after another.
        pairs: R pairs of one structure; their parameters and buffers become slices of common tensors, until the
            context is left.
        size: N, all data. lrs, seeds: of each replica.
        prepare, batch, optimiser: see :class:`~pyro_vaes.inference.compile.Engine`.

    Raises:
        InputError: if the pairs differ in structure or in a Python number.
    """

    def __init__(
        self,
        kind: str,
        pairs: Sequence[Pair],
        size: int,
        lrs: Sequence[float],
        seeds: Sequence[int],
        reason: str = "as asked",
        prepare: Callable[[Tensor], Any] | None = None,
        batch: int | None = None,
        optimiser: Rule | None = None,
    ):
        _same(pairs)
        self.asked, self.kind, self.reason, self.fell = kind, kind, reason, ""
        self.pairs, self.size, self.prepare, self.batch = list(pairs), size, prepare, batch
        device = next(pairs[0].parameters()).device
        self.generators = [Generator(device).manual_seed(seed) for seed in seeds]
        self.learned = _stacked([tensors(pair)[0] for pair in pairs])
        self.fixed = _stacked([tensors(pair)[1] for pair in pairs])
        make, own = optimiser or rule("adam"), skips(pairs[0])
        self.optimiser = make(self.learned, lrs[0], factors=factors(pairs[0]), skips=own)
        self.lrs = list(lrs)
        # One optimiser steps for all, unless they have rates of their own, or may skip steps, each when it must.
        apart = len(set(lrs)) > 1 or bool(own)
        self._each = [self._slice(r) for r in range(len(pairs))] if apart else []
        self._modules = list(pairs[0].modules())
        self.names: tuple[str, ...] = ()
        self.shapes: list[Shape] = []
        self._alone = [Engine("eager", pair, size, prepare=prepare) for pair in pairs]
        for run, one in enumerate(self._alone):
            one.optimiser = self._slice(run)  # not a second set of moments
        self._cache: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def rates(self, rates: list[float]) -> None:
        self.optimiser.lr.fill_(rates[0])
        for one, rate in zip(self._each, rates, strict=False):
            one.lr.fill_(rate)

    def watched(self) -> list[Tensor]:
        return [*self.learned, *self.optimiser.moments()]

    def changing(self) -> list[Tensor]:
        counts = [count for one in self._each or [self.optimiser] for count in one.steps]
        return [*self.watched(), *counts, *self.fixed]

    def random(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def set_random(self, states: list[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def saved(self, run: int) -> dict[str, Tensor]:
        """What the checkpoint of one replica holds: the same as that of a run of its own."""
        state = (self._each[run] if self._each else self._slice(run)).state()
        kind = "random.cuda" if self.learned[0].is_cuda else "random.cpu"
        return {name: t.clone() for name, t in state.items()} | {kind: self.generators[run].get_state()}

    def load(self, saved: list[dict[str, Tensor]]) -> None:
        """Take up what :meth:`saved` gave, for every replica."""
        for run, state in enumerate(saved):
            (self._each[run] if self._each else self._slice(run)).load(state)
        for i, step in enumerate(self.optimiser.steps):
            step.copy_(saved[0][f"adam.{i}.step"])
        self.set_random([state["random.cuda" if self.learned[0].is_cuda else "random.cpu"] for state in saved])

    def diagnose(self, x: Tensor, run: int, step: int) -> None:
        self._alone[run].set_random(self._random_of(run))
        self._alone[run].diagnose(x[run], 0, step)

    def settle(self) -> None:
        """See at the end of a block whether the parameters are still slices of the common ones."""
        for run, one in enumerate(self._alone):
            for name, mine, its in zip(one.names_learned, self.learned, one.learned, strict=True):
                if mine[run].data_ptr() != its.data_ptr():
                    raise InputError(f"{name} was replaced during training: change parameters in place, with copy_()")

    def apart(self, x: Tensor) -> tuple[list[Tensor | None], Tensor]:
        """Gradients and statistics by the program itself, replica by replica."""
        parts, states = [], []
        with torch.random.fork_rng():
            for run, one in enumerate(self._alone):
                one.set_random(self._random_of(run))
                parts.append(one.eager(x[run]))
                states.append(one.random()[-1])
        self.set_random(states)
        self.names = self._alone[0].names
        gradients = [
            None if any(g is None for g in each) else torch.stack(each)
            for each in zip(*(g for g, _ in parts), strict=True)
        ]
        return gradients, torch.stack([stats for _, stats in parts])

    def _random_of(self, run: int) -> list[Tensor]:
        state = self.generators[run].get_state()
        return [torch.get_rng_state(), state] if self.learned[0].is_cuda else [state]

    def __enter__(self) -> "Replicas":
        return self

    def __exit__(self, *_: object) -> None:
        """Give every pair tensors of its own again."""
        with torch.no_grad():
            for pair in self.pairs:
                for group in tensors(pair):
                    for tensor in group.values():
                        tensor.data = tensor.data.clone()

    def _slice(self, run: int) -> Optimiser:
        return self.optimiser.part(run, [p.detach()[run] for p in self.learned], self.lrs[run])

    def _gradients(self, x: Tensor) -> Gradients:
        """Choose how this shape is run: batched and compiled, batched, or replica by replica."""
        record = Shape(
            f"x {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}", self.kind, x.shape[1], replicas=True
        )
        self.shapes.append(record)
        self.batch = self.batch or x.shape[1]
        if self.kind == "eager":
            return self.apart
        try:
            run, batched, inputs = self._batched(x, record)
        except Exception as error:
            return self._fall("eager", record, cause(error), self.apart)
        if self.kind == "graph" or x.shape[1] != self.batch:
            record.kind = "graph"
            return run
        try:
            began = time.monotonic()
            compiled = self._runner(inductor(batched, *inputs), run.draws)  # type: ignore[attr-defined]
            record.agreement = self._agreement(compiled, x)
            record.compiled = time.monotonic() - began
            return compiled
        except Exception as error:
            return self._fall("graph", record, cause(error), run)

    def _batched(self, x: Tensor, record: Shape) -> tuple[Gradients, GraphModule, list[Tensor]]:
        began = time.monotonic()
        with untouched(self.pairs[0], self.prepare):
            traced = trace(self.pairs[0], x[0], self.size, self.prepare)
        self.names = traced.names
        batch = [node for node in traced.graph.graph.nodes if node.op == "placeholder"][-1]
        draws = take_out(traced.graph, batch)
        noise = [torch.stack([draw(g.clone_state()) for g in self.generators]) for draw in draws]
        inputs = [*self.optimiser.parameters, *self.fixed, x, *noise]
        batched = _over_replicas(traced.graph, inputs)
        record.operations, record.traced = traced.operations, time.monotonic() - began
        run = self._runner(batched, draws)
        record.agreement = self._agreement(run, x)
        return run, batched, inputs

    def _runner(self, batched: Callable, draws: list) -> Gradients:
        def run(x: Tensor) -> tuple[list[Tensor | None], Tensor]:
            use(self.generators)
            with torch.no_grad():
                noise = [torch.stack([draw(g) for g in self.generators]) for draw in draws]
                *gradients, stats = batched(*self.optimiser.parameters, *self.fixed, x, *noise)
            return gradients, stats

        run.draws = draws  # type: ignore[attr-defined]
        return run

    def _whole(self, gradients: Gradients, x: Tensor) -> Callable[[Tensor], Tensor]:
        def step(x: Tensor) -> Tensor:
            found, stats = gradients(x)
            if not self._each:
                self.optimiser.step(found)
            for run, one in enumerate(self._each):
                one.step([None if g is None else g[run] for g in found], self._skipped(stats[run]))
            return stats

        return step if self.shapes[-1].kind == "eager" else capture_if_possible(self, step, x, self.generators)

    def _fall(self, kind: str, record: Shape, why: str, run: Gradients) -> Gradients:
        if not self.fell:
            how = "one after another" if kind == "eager" else f"as {kind}"
            message = f"replicas of {self.pairs[0].name} run {how}: {why}"
            warnings.warn(message, EngineWarning, stacklevel=6)
        record.kind, self.fell = kind, self.fell or why
        if record.rows == self.batch:
            self.kind = kind
        return run

    def _agreement(self, run: Gradients, x: Tensor) -> Agreement:
        """Compare every replica with its own program, twice in a row."""
        found = []
        for gradients_of in (run, self.apart):
            random, steps = self.random(), []
            with ExitStack() as stack:
                stack.callback(self.set_random, random)
                for pair in self.pairs:
                    stack.enter_context(untouched(pair, self.prepare))
                before, drawn = [program(pair, self.prepare) for pair in self.pairs], generators()
                for _ in range(2):
                    gradients, stats = gradients_of(x.clone())
                    after = [t.detach().clone() for t in (*self.learned, *self.fixed)]
                    steps.append(Step(gradients, stats, after, self.random()))
                if [program(pair, self.prepare) for pair in self.pairs] != before or generators() != drawn:
                    raise Untraceable("the program keeps count in Python, or draws there, which a graph would freeze")
            found.append(steps)
        return compare(found[0], found[1], self._alone[0].names_learned)


def _over_replicas(graph: GraphModule, inputs: list[Tensor]) -> GraphModule:
    """Batch a graph over replicas, and trace the result, so that nothing of vmap is left in a step."""
    # The interpreter takes the inputs that were added; the graph's own calling convention does not know them.
    flat = torch.fx.GraphModule(graph, graph.graph)
    flat.graph.set_codegen(torch.fx.graph.CodeGen())
    _reshape(flat)

    def all_replicas(*inputs: Tensor):
        return vmap(lambda *one: tuple(flat(*one)), randomness="error")(*inputs)

    if None in flat.graph.output_node().args[0]:  # type: ignore[operator]
        raise Untraceable("a parameter gets no gradient")
    # torch warns of operations that it batches by a loop; they are rare and small here.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        batched = make_fx(all_replicas, tracing_mode="fake")(*inputs)
    _reshape(batched)
    simplify(batched)
    return batched


def _reshape(graph: GraphModule) -> None:
    """Copy where a view cannot be: a batch of replicas may have other strides than one of them was traced with."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default
    graph.recompile()


def _stacked(each: list[dict[str, Tensor]]) -> list[Tensor]:
    """Stack the tensors of all replicas by name, and make every pair's own one a slice of the stack."""
    stacks = []
    for name in each[0]:
        stack = torch.stack([named[name].detach() for named in each])
        for r, named in enumerate(each):
            named[name].data = stack[r]
        stacks.append(stack)
    return stacks


def _same(pairs: Sequence[Pair]) -> None:
    """Refuse pairs that are not one structure: what is no tensor is the first one's for all of them."""
    shapes = [[(n, t.shape, t.dtype) for group in tensors(pair) for n, t in group.items()] for pair in pairs]
    numbers = [values(held(pair, private=False)) for pair in pairs]
    for i in range(1, len(pairs)):
        if shapes[i] != shapes[0]:
            other = sorted({str(t[0]) for t in set(shapes[i]) ^ set(shapes[0])})
            raise InputError(f"replica {i} has other tensors than replica 0, {other[0]}: replicas are of one structure")
        different = [name for name in numbers[0] if numbers[i].get(name) != numbers[0][name]]
        if different:
            name, one, other = different[0], numbers[i].get(different[0]), numbers[0][different[0]]
            raise InputError(f"replica {i} has {name} = {one!r}, replica 0 {other!r}: only tensors may differ")
    each = [(name, t) for pair in pairs for group in tensors(pair) for name, t in group.items() if t.numel()]
    memory: dict[int, str] = {}
    for name, t in each:
        if t.untyped_storage().data_ptr() in memory:
            raise InputError(
                f"{name} shares memory with {memory[t.untyped_storage().data_ptr()]}: each replica needs its own"
            )
        memory[t.untyped_storage().data_ptr()] = name


def copies(pair: Pair | Sequence[Pair], replicas: int | None) -> list[Pair]:
    """Give the pairs of R replicas: those given, or one and copies of it."""
    if isinstance(pair, Pair):
        try:
            return [pair, *(deepcopy(pair) for _ in range(whole("replicas", replicas) - 1))]
        except RuntimeError as error:
            raise InputError(f"{pair.name} cannot be copied, give a list of pairs: {error}") from None
    if replicas not in (None, len(pair)):
        raise InputError(f"replicas is {replicas}, but {len(pair)} pairs are given")
    if not pair or not all(isinstance(one, Pair) for one in pair):
        raise InputError("replicas need a list of pairs, at least one")
    return list(pair)


def each(name: str, value: Any, replicas: int, step: int = 0) -> list:
    """Give every replica its value of an argument: its own, or ``value``, ``value + step``, ...

    >>> each("seed", 5, 3, step=1), each("lr", [0.1, 0.2], 2)
    ([5, 6, 7], [0.1, 0.2])
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != replicas:
            raise InputError(f"{name} has {len(value)} entries for {replicas} replicas")
        return list(value)
    return [value + step * r for r in range(replicas)] if isinstance(value, int | float) else [value] * replicas


def each_data(x: Tensor | Sequence[Tensor], replicas: int) -> list[Tensor]:
    """Give every replica its data: the common ones, or its own, which must be of one shape."""
    if isinstance(x, Tensor):
        return [x] * replicas
    if isinstance(x, Rows):
        raise InputError("replicas would read other shards at the same time: fit them one by one, or give a tensor")
    if not isinstance(x, Sequence) or len(x) != replicas:
        raise InputError(f"x must be one tensor for all replicas, or a list of {replicas}")
    if not all(isinstance(rows, Tensor) for rows in x):
        raise InputError("the data of replicas must be tensors")
    if len({(getattr(rows, "shape", None), getattr(rows, "dtype", None)) for rows in x}) > 1:
        raise InputError("the data of replicas must have one shape and dtype")
    return list(x)
