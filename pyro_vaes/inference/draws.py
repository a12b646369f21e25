"""Random numbers of replicas: each replica draws from a generator of its own, what it would draw alone.

Draws of which only the shape matters (standard normal noise, a dropout mask) are taken out of the graph and become
inputs. From the first draw on that depends on a value (a Gamma of a computed concentration) they stay inside, as an
operation that loops over the replicas, so that every generator is used in the program's own order.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.fx import GraphModule, Node

from pyro_vaes.inference.tracing import Untraceable, aten

Draw = Callable[[Tensor, Generator], Tensor]

# The generators of the replicas that draw now, and every draw that a graph knows by its number: an operation of a graph
# takes tensors and numbers, and has no other way to get at them.
_generators: list[Generator] = []
_draws: list[Draw] = []

_OF_A_VALUE: dict[object, Draw] = {
    aten._standard_gamma.default: lambda value, g: torch._standard_gamma(value, generator=g),
    aten.bernoulli.default: lambda value, g: torch.bernoulli(value, generator=g),
    aten.poisson.default: lambda value, g: torch.poisson(value, generator=g),
}


# In words of its own: earlier versions of torch cannot read it from list[int].
SCHEMA = "(Tensor value, int number, SymInt[] shape, ScalarType dtype) -> Tensor"


@torch.library.custom_op("pyro_vaes::draw_each", mutates_args=(), schema=SCHEMA)
def draw_each(value: Tensor, number: int, shape: list[int], dtype: torch.dtype) -> Tensor:
    """Draw for every replica from its own generator; ``value`` is (R, ...)."""
    each = zip(value, _generators, strict=True)
    return torch.stack([_draws[number](one.contiguous(), g) for one, g in each])


@draw_each.register_fake
def _(value: Tensor, number: int, shape: list[int], dtype: torch.dtype) -> Tensor:
    return value.new_empty((value.shape[0], *shape), dtype=dtype)


@torch.library.custom_op("pyro_vaes::draw_one", mutates_args=(), schema=SCHEMA)
def draw_one(value: Tensor, number: int, shape: list[int], dtype: torch.dtype) -> Tensor:
    """What stands in the graph of one run; batching it over replicas gives :func:`draw_each`."""
    raise RuntimeError("a draw of replicas was run for one of them")


@draw_one.register_fake
def _(value: Tensor, number: int, shape: list[int], dtype: torch.dtype) -> Tensor:
    return value.new_empty(shape, dtype=dtype)


@draw_one.register_vmap
def _(info, in_dims, value: Tensor, number: int, shape: list[int], dtype: torch.dtype):
    return draw_each(value.movedim(in_dims[0], 0), number, shape, dtype), 0


def use(generators: list[Generator]) -> None:
    """Name the generators that :func:`draw_each` draws from, until the next call."""
    _generators[:] = generators


def take_out(graph: GraphModule, batch: Node) -> list[Callable[[Generator], Tensor]]:
    """Replace every random operation of a graph, and give the draws that became inputs, in order.

    Args:
        batch: a placeholder that differs between replicas.

    Raises:
        Untraceable: for a random operation that this knows no rule for.
    """
    outside: list[Callable[[Generator], Tensor]] = []
    inside = False
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        inside = inside or node.target in _OF_A_VALUE
        value = node.meta["val"]
        if inside:
            of_a_value = node.target in _OF_A_VALUE
            _draws.append(_OF_A_VALUE[node.target] if of_a_value else _of_a_shape(node))
            arguments = (node.args[0] if of_a_value else batch, len(_draws) - 1, list(value.shape), value.dtype)
            with graph.graph.inserting_before(node):
                new = graph.graph.call_function(draw_one._opoverload, arguments)
        else:
            outside.append(partial(_of_a_shape(node), torch.empty(0)))
            with graph.graph.inserting_after(last):
                new = last = graph.graph.placeholder(f"noise_{len(outside)}")
        new.meta["val"] = value
        with graph.graph.inserting_before(node):
            new = _located(graph, node, new)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return outside


def _of_a_shape(node: Node) -> Draw:
    """How to draw what a node drew: the same call, with a generator."""
    value, kind = node.meta["val"], str(node.target).removeprefix("aten.").split(".")[0]
    shape, options = tuple(value.shape), {"dtype": value.dtype, "device": value.device}
    numbers = [a for a in node.args[1:] if isinstance(a, int | float)]
    if kind in ("normal_", "uniform_", "exponential_", "bernoulli_", "cauchy_", "log_normal_", "geometric_"):
        if any(isinstance(a, Node) for a in node.args[1:]):
            raise Untraceable(f"replicas know no rule for {node.target} with a tensor as parameter")
        return lambda _, g: getattr(torch.empty(shape, **options), kind)(*numbers, generator=g)
    if kind in ("randn", "randn_like", "normal"):
        return lambda _, g: torch.randn(shape, generator=g, **options)
    if kind in ("rand", "rand_like"):
        return lambda _, g: torch.rand(shape, generator=g, **options)
    if kind == "randperm":
        return lambda _, g: torch.randperm(shape[0], generator=g, **options)
    raise Untraceable(f"replicas know no rule for the random operation {node.target}")


def _located(graph: GraphModule, node: Node, noise: Node) -> Node:
    """N(mean, std) is drawn as mean + std times a standard draw, which is what torch does."""
    if not str(node.target).startswith("aten.normal.Tensor") and str(node.target) != "aten.normal.float_Tensor":
        return noise
    mean, std = node.args[0], node.args[1] if len(node.args) > 1 else 1.0
    scaled = graph.graph.call_function(aten.mul.Tensor, (noise, std))
    found = graph.graph.call_function(aten.add.Tensor, (scaled, mean))
    scaled.meta["val"] = found.meta["val"] = node.meta["val"]
    return found
