"""From a Pyro program to one graph: the handlers run once, while the step is traced."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from pyro_vaes.errors import first_line
from pyro_vaes.inference.objective import Loss
from pyro_vaes.pair import Pair

aten = torch.ops.aten
SEEN = "seen: "


class Untraceable(RuntimeError):
    """The program cannot become a graph; the message names the cause."""


@dataclass
class Traced:
    """One step without its optimiser, as a graph of tensor operations.

    Attributes:
        graph: (parameters, buffers, x) -> (*gradients, statistics); parameters that get no gradient give None.
        names: what the statistics are: ``loss``, ``bound``, then the sites.
    """

    graph: GraphModule
    names: tuple[str, ...]

    @property
    def operations(self) -> int:
        return sum(node.op == "call_function" for node in self.graph.graph.nodes)


def tensors(pair: Pair) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a step reads and changes: the parameters that learn, and everything else, buffers and settings included.

    >>> from pyro_vaes.variants import l2_vae
    >>> sorted(tensors(l2_vae(4, 2, ()))[1])
    ['model.prior.loc', 'model.prior.scale', 'model.scale.value', 'objective.beta']
    """
    named = dict(pair.named_parameters())
    learned: dict[str, Tensor] = {name: p for name, p in named.items() if p.requires_grad}
    fixed: dict[str, Tensor] = {name: p for name, p in named.items() if not p.requires_grad}
    return learned, fixed | dict(pair.named_buffers())


def statistics(loss: Loss) -> Tensor:
    """Loss, bound, terms and what else is seen as one vector: one copy to the host tells everything."""
    return torch.stack([loss.total, loss.bound, *loss.terms.values(), *loss.seen.values()]).detach()


def statistics_names(loss: Loss) -> tuple[str, ...]:
    """What the entries of :func:`statistics` are; what is part of no sum is marked."""
    return ("loss", "bound", *loss.terms, *(f"{SEEN}{name}" for name in loss.seen))


def trace(pair: Pair, x: Tensor, size: int, prepare: Callable[[Tensor], Any] | None = None) -> Traced:
    """Run model, guide and objective once on tensors without values, and keep every operation they did.

    The gradient is computed inside, so that forward and backward pass are one graph and nothing of autograd is left.
    What enters as a tensor (parameters, buffers, settings, the batch) stays a variable; every Python number becomes a
    constant.

    Args:
        x: (B, d), a batch of the shape to trace for. size: N, all data. prepare: x -> what the pair sees, x or (x, y).

    Raises:
        Untraceable: if the program looks at a value while it runs, or an operation has no graph.
    """
    learned, fixed = tensors(pair)
    names: list[str] = []

    def step(parameters: list[Tensor], buffers: list[Tensor], x: Tensor):
        leaves = [p.detach().requires_grad_() for p in parameters]
        originals = [*learned.values(), *fixed.values()]
        for leaf, original in zip(leaves, learned.values(), strict=True):
            for hook in (original._backward_hooks or {}).values():
                leaf.register_hook(hook)
        with swapped(pair, originals, [*leaves, *buffers]):
            loss = pair(*prepared(prepare, x), size=size)
            # Inside, because a checkpointed module runs again now.
            gradients = torch.autograd.grad(loss.total, leaves, allow_unused=True)
        names[:] = statistics_names(loss)
        return *gradients, statistics(loss)

    parameters = [p.detach() for p in learned.values()]
    try:
        with traceable():
            graph = make_fx(step, tracing_mode="fake")(parameters, list(fixed.values()), x)
    except Exception as error:
        raise Untraceable(cause(error)) from error
    simplify(graph)
    return Traced(graph, tuple(names))


def prepared(prepare: Callable | None, x: Tensor) -> tuple[Any, ...]:
    """What the pair is called with: the batch, and where ``prepare`` gives one its condition.

    >>> len(prepared(lambda x: (x, x), torch.zeros(1)))
    2
    """
    found = x if prepare is None else prepare(x)
    return found if isinstance(found, tuple) else (found,)


@contextmanager
def swapped(pair: Pair, originals: list[Tensor], others: list[Tensor]) -> Iterator[None]:
    """Let modules hold other tensors for a while, wherever the originals are held.

    ``torch.func.functional_call`` does not do here: where model and guide share a module, it swaps the module's
    tensors twice, and leaves the second ones behind.
    """
    other = {id(original): new for original, new in zip(originals, others, strict=True)}
    stores: list[dict[str, Any]] = [
        store for module in pair.modules() for store in (module._parameters, module._buffers)
    ]
    before = [dict(store) for store in stores]
    try:
        for store in stores:
            store.update({name: other[id(t)] for name, t in store.items() if id(t) in other})
        yield
    finally:
        for store, held in zip(stores, before, strict=True):
            store.update(held)


class _Values(TorchFunctionMode):
    """Let ``.item()`` give the tensor itself: Pyro's estimators use it for numbers that nothing depends on."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.item:
            return args[0].detach()
        return func(*args, **(kwargs or {}))


@contextmanager
def traceable() -> Iterator[None]:
    """Switch off what looks at values: Pyro's validation and its warnings about NaN. The guard of the loop looks."""
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("pyro.infer.") and hasattr(module, "warn_if_nan"):
                stack.enter_context(mock.patch.object(module, "warn_if_nan", lambda value, *_, **__: value))
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(_Values())
        stack.enter_context(torch.enable_grad())
        yield


def cause(error: BaseException) -> str:
    """Say in one line what stopped the trace, and at which line of whose file."""
    if isinstance(error, Untraceable):
        return str(error)
    what = first_line(error)
    if "FakeTensor" in what and "convert all Tensors" in what:
        what = (
            "the program uses a tensor that is neither a parameter nor a buffer of its modules, which a graph would "
            "take for a number: keep it with register_buffer()"
        )
    if "DataDependent" in type(error).__name__ or "data-dependent" in str(error).lower():
        what = "the program looks at a value while it runs (if, while, float() or a rejection sampler)"
        if any("traceenum" in f.filename for f in traceback.extract_tb(error.__traceback__)):
            return "TraceEnum_ELBO enumerates, which looks at values"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    ours = [f for f in frames if not f.filename.endswith(("inference/tracing.py", "inference/compile.py"))]
    where = f", at {ours[-1].filename}:{ours[-1].lineno}" if ours else ""
    return f"{what}{where}"


def simplify(graph: GraphModule) -> None:
    """Drop operations that do nothing: each costs microseconds wherever the graph runs without a compiler."""
    seen: dict[tuple, Node] = {}
    changes = any(_changes_an_input(node) for node in graph.graph.nodes)
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        # A running average is not the same before and after: there, only plain aliases are dropped.
        if changes:
            source = node.args[0] if node.target is aten.alias.default else None
        else:
            source = _same_as(node, seen) or _smaller(graph, node, seen)
        if source is not None:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _changes_an_input(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return False
    while node.op == "call_function" and node.args and isinstance(node.args[0], Node):
        node = node.args[0]
    return node.op == "placeholder"


# Views and pure arithmetic that a trace repeats; computing one of them once is enough.
_PURE = (
    aten.t.default, aten.expand.default, aten.view.default, aten.unsqueeze.default, aten.select.int,
    aten.mul.Tensor, aten.div.Tensor, aten.sub.Tensor, aten.add.Tensor, aten.pow.Tensor_Scalar, aten.log.default,
    aten.exp.default, aten.neg.default, aten.addmm.default, aten.relu.default, aten.tanh.default,
    aten.sigmoid.default, aten.softplus.default, aten.sqrt.default, aten.reciprocal.default,
)  # fmt: skip


def _same_as(node: Node, seen: dict[tuple, Node]) -> Node | None:
    """Find an earlier node with the value of this one."""
    source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    if source is not None and _is_identity(node, source):
        return source
    if source is not None and node.target is aten.t.default and source.target is aten.t.default:
        return source.args[0]  # type: ignore[return-value]
    if node.target not in _PURE:
        return None
    return None if (found := seen.setdefault(_key(node), node)) is node else found


def _key(node: Node) -> tuple:
    return node.target, repr(node.args), repr(node.kwargs)


# Functions of one tensor, entry by entry.
_ENTRYWISE = (
    aten.neg.default, aten.log.default, aten.exp.default, aten.sqrt.default, aten.reciprocal.default,
    aten.pow.Tensor_Scalar, aten.mul.Scalar, aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor,
)  # fmt: skip


def _smaller(graph: GraphModule, node: Node, seen: dict[tuple, Node]) -> Node | None:
    """Do the same on fewer entries, to the last bit: f(expand(a)) is expand(f(a)), and sum(-a) is -sum(a)."""
    source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
    if source is None or any(isinstance(a, Node) for a in node.args[1:]) or source.op != "call_function":
        return None
    entrywise = node.target in _ENTRYWISE and source.target is aten.expand.default
    negated = node.target in (aten.sum.dim_IntList, aten.sum.default) and source.target is aten.neg.default
    if not (entrywise or negated) or any(user.op == "output" for user in node.users):
        return None
    inner: Any = node.target
    outer: Any = source.target if entrywise else aten.neg.default
    if entrywise and source.args[0].meta["val"].numel() == source.meta["val"].numel():  # type: ignore[union-attr]
        return None
    with graph.graph.inserting_before(node):
        first = graph.graph.call_function(inner, (source.args[0], *node.args[1:]), node.kwargs)
        first.meta["val"] = inner(source.args[0].meta["val"], *node.args[1:], **node.kwargs)  # type: ignore
        same = _same_as(first, seen)
        if same is not None:
            first.replace_all_uses_with(same)
            graph.graph.erase_node(first)
            first = same
        last = graph.graph.call_function(outer, (first, *(source.args[1:] if entrywise else ())))
        last.meta["val"] = node.meta["val"]
    seen[_key(node)] = last
    return last


def _is_identity(node: Node, source: Node) -> bool:
    if node.target in (aten.alias.default, aten.detach.default):
        return True
    if node.target in (aten.expand.default, aten.view.default):
        return node.meta["val"].shape == source.meta["val"].shape
    if node.target in (aten.mul.Tensor, aten.div.Tensor, aten.pow.Tensor_Scalar):
        same = node.meta["val"].shape == source.meta["val"].shape and node.meta["val"].dtype == source.meta["val"].dtype
        return bool(same and not isinstance(node.args[1], Node) and node.args[1] == 1)
    return False
