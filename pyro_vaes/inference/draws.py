"""Random numbers of replicas: each replica draws from a generator of its own, what it would draw alone.

A draw whose shape alone matters (standard normal noise, a dropout mask) is taken out of the graph and becomes an input.
A draw that depends on a value (a Gamma of a computed concentration) stays, as an operation that loops over replicas.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.fx import GraphModule, Node

from pyro_vaes.inference.tracing import Untraceable, aten

Draw = Callable[[Generator], Tensor]

# The generators of the replicas that are drawing now; an operation of a graph has no other way to get at them.
_generators: list[Generator] = []

_PARAMETRIC = {
    aten._standard_gamma.default: lambda p, g: torch._standard_gamma(p, generator=g),
    aten.bernoulli.default: lambda p, g: torch.bernoulli(p, generator=g),
    aten.poisson.default: lambda p, g: torch.poisson(p, generator=g),
}
_KINDS = list(_PARAMETRIC)


@torch.library.custom_op("pyro_vaes::draw_each", mutates_args=())
def draw_each(parameter: Tensor, kind: int) -> Tensor:
    """Draw for every replica from its own generator; ``parameter`` is (R, ...)."""
    draw = _PARAMETRIC[_KINDS[kind]]
    return torch.stack([draw(p.contiguous(), g) for p, g in zip(parameter, _generators, strict=True)])


@draw_each.register_fake
def _(parameter: Tensor, kind: int) -> Tensor:
    return torch.empty_like(parameter, memory_format=torch.contiguous_format)


@torch.library.custom_op("pyro_vaes::draw_one", mutates_args=())
def draw_one(parameter: Tensor, kind: int) -> Tensor:
    """What stands in the graph of one run; batching it over replicas gives :func:`draw_each`."""
    raise RuntimeError("a draw of replicas was run for one of them")


@draw_one.register_fake
def _(parameter: Tensor, kind: int) -> Tensor:
    return torch.empty_like(parameter, memory_format=torch.contiguous_format)


@draw_one.register_vmap
def _(info, in_dims, parameter: Tensor, kind: int):
    return draw_each(parameter.movedim(in_dims[0], 0), kind), 0


def use(generators: list[Generator]) -> None:
    """Name the generators that :func:`draw_each` draws from, until the next call."""
    _generators[:] = generators


def take_out(graph: GraphModule) -> list[Draw]:
    """Replace every random operation of a graph, and give the draws that became inputs, in order.

    Raises:
        Untraceable: for a random operation that this knows no rule for.
    """
    draws: list[Draw] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        if node.target in _PARAMETRIC:
            with graph.graph.inserting_before(node):
                new = graph.graph.call_function(draw_one._opoverload, (node.args[0], _KINDS.index(node.target)))
        else:
            draws.append(_draw(node))
            with graph.graph.inserting_after(last):
                new = last = graph.graph.placeholder(f"noise_{len(draws)}")
        new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return draws


def _draw(node: Node) -> Draw:
    """How to draw what a node drew: the same call, with a generator."""
    value, kind = node.meta["val"], str(node.target).removeprefix("aten.").split(".")[0]
    shape, options = tuple(value.shape), {"dtype": value.dtype, "device": value.device}
    numbers = [a for a in node.args[1:] if isinstance(a, int | float)]
    if kind in ("normal_", "uniform_", "exponential_", "bernoulli_", "cauchy_", "log_normal_", "geometric_"):
        if any(isinstance(a, Node) for a in node.args[1:]):
            raise Untraceable(f"replicas know no rule for {node.target} with a tensor as parameter")
        return lambda g: getattr(torch.empty(shape, **options), kind)(*numbers, generator=g)
    if kind in ("randn", "randn_like"):
        return lambda g: torch.randn(shape, generator=g, **options)
    if kind in ("rand", "rand_like"):
        return lambda g: torch.rand(shape, generator=g, **options)
    if kind == "randperm":
        return lambda g: torch.randperm(shape[0], generator=g, **options)
    raise Untraceable(f"replicas know no rule for the random operation {node.target}")
