"""The wrong things, by the names of what they do. Each looks at one place and gives what could stand there instead."""

import ast
import copy
from collections.abc import Callable, Iterator
from pathlib import Path

from .mutant import Change, Mutant, Place, differ, places

NETWORKS = (
    "encoder", "decoder", "second_encoder", "second_decoder", "classifier", "recurrence", "net", "network", "scale",
    "second_scale", "dof", "share", "broad", "discriminator", "trunk",
)  # fmt: skip
OPPOSITES = {
    "q": "p", "q_site": "p_site", "q_fn": "p_fn", "log_q": "log_p", "real": "fake", "codes": "draws", "end": "start",
    "model": "guide", "first": "second", "generator": "discriminator", "loc": "scale",
}  # fmt: skip
OPPOSITES |= {b: a for a, b in OPPOSITES.items()}


CHECKS = (
    "number",
    "whole",
    "max",
    "min",
    "range",
    "tuple",
    "unknown",
    "InputError",
    "full",
    "zip",
    "isinstance",
    "getattr",
)


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def called(node: ast.AST, *names: str) -> bool:
    """Whether a node is a call of a function or a method of one of these names."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    return name in names


def method(node: ast.AST, *names: str) -> bool:
    return called(node, *names) and isinstance(node.func, ast.Attribute)  # type: ignore[attr-defined]


def without_call(node: ast.AST) -> ast.AST:
    return node.func.value  # type: ignore[attr-defined]


def wordy(node: ast.AST) -> bool:
    """Text, lists of names, types: their + is no sum."""
    parts = (ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp, ast.Starred)
    return any(
        isinstance(n, parts) or (isinstance(n, ast.Constant) and isinstance(n.value, str | type(None)))
        for n in (node.left, node.right)  # type: ignore[attr-defined]
    )


def with_op(op: type[ast.operator]) -> Change:
    def change(node):
        node.op = op()
        return node

    return change


def sign(place: Place) -> Iterator[Change]:
    """Flip a sign: of a sum, of a term, of a comparison."""
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and not wordy(node):
        yield with_op(ast.Sub if isinstance(node.op, ast.Add) else ast.Add)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not _axis(place):
        yield lambda n: n.operand
    if called(node, "log_prob", "log", "kl_divergence", "log_mean_exp", "mmd", "exp") and not _negated(place):
        yield lambda n: ast.UnaryOp(ast.USub(), n)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        turned = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}.get(type(node.ops[0]))
        if turned:
            yield lambda n: ast.Compare(n.left, [turned()], n.comparators)
    if called(node, "maximum", "minimum"):
        yield lambda n: _renamed(n, {"maximum": "minimum", "minimum": "maximum"})


def _axis(place: Place) -> bool:
    """-1 as a dimension, or counted from the end."""
    number = isinstance(place.node.operand, ast.Constant) and isinstance(place.node.operand.value, int)  # type: ignore[attr-defined]
    return number and not isinstance(place.parent, ast.BinOp)


def _negated(place: Place) -> bool:
    return isinstance(place.parent, ast.UnaryOp) and isinstance(place.parent.op, ast.USub)


def _renamed(node, names: dict[str, str]):
    if isinstance(node.func, ast.Attribute):
        node.func.attr = names[node.func.attr]
    else:
        node.func.id = names[node.func.id]
    return node


def plate(place: Place) -> Iterator[Change]:
    """Drop a plate, forget how large the data set is, or let entries be data."""
    node = place.node
    if isinstance(node, ast.With) and any(called(item.context_expr, "data_plate", "plate") for item in node.items):
        yield lambda n: n.body
    if called(node, "data_plate") and len(node.args) > 1:  # type: ignore[attr-defined]
        yield lambda n: ast.Call(n.func, n.args[:1], n.keywords)
    if isinstance(node, ast.Call) and called(node.func, "plate"):
        yield lambda n: n.args[0]
    if method(node, "to_event"):
        yield without_call


def detach(place: Place) -> Iterator[Change]:
    """Cut a network off from its gradient, or let a gradient through where it was cut."""
    node = place.node
    if method(node, "detach"):
        yield without_call
    elif called(node, *NETWORKS) and not method(place.parent, "condition"):
        if isinstance(place.parent, ast.Assign) and isinstance(place.parent.targets[0], ast.Tuple):
            yield lambda n: expression(f"[t.detach() for t in {ast.unparse(n)}]")
        else:
            yield lambda n: ast.Call(ast.Attribute(n, "detach", ast.Load()), [], [])
    elif method(node, "condition"):
        yield lambda n: ast.Call(n.func, [expression(f"{ast.unparse(a)}.detach()") for a in n.args], [])
    if isinstance(node, ast.With) and any(called(i.context_expr, "no_grad", "set_grad_enabled") for i in node.items):
        yield lambda n: n.body


def scale(place: Place) -> Iterator[Change]:
    """Forget a factor, a divisor, a power or a logarithm; a sum for a mean, or the other way round."""
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and not wordy(node):
        yield lambda n: n.left
        yield lambda n: n.right
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not wordy(node):
        yield lambda n: n.left
        yield with_op(ast.Mult)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        yield lambda n: n.left
    if method(node, "square", "sqrt", "exp", "log", "sigmoid", "tanh", "logit"):
        if node.args or ast.unparse(node.func.value) in ("torch", "math"):  # type: ignore[attr-defined]
            yield lambda n: n.args[0]
        else:
            yield without_call
    if method(node, "sum", "mean") and ast.unparse(node.func.value) not in ("torch",):  # type: ignore[attr-defined]
        yield lambda n: _renamed(n, {"sum": "mean", "mean": "sum"})


def swap(place: Place) -> Iterator[Change]:
    """Prior for posterior, model for guide, real for fake, mean for scale."""
    node = place.node
    if called(node, "kl_divergence", "players", "mmd", "Normal") and len(node.args) > 1:  # type: ignore[attr-defined]
        yield lambda n: ast.Call(n.func, [n.args[1], n.args[0], *n.args[2:]], n.keywords)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and OPPOSITES.get(node.id) in _known(place):
        yield lambda n: ast.Name(OPPOSITES[n.id], ast.Load())
    if isinstance(node, ast.Attribute) and node.attr in ("start", "end", "generator", "discriminator"):
        yield lambda n: ast.Attribute(n.value, OPPOSITES[n.attr], n.ctx)
    if called(node, "Normal") and ast.unparse(node) == "dist.Normal(loc, scale)":
        yield lambda n: expression("dist.Normal(0 * loc, 0 * scale + 1)")


def _known(place: Place) -> set[str]:
    """The names of a function: its arguments, and what it gives names to."""
    if place.function is None:
        return set()
    arguments = place.function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    stored = (n.id for n in ast.walk(place.function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return names.union(stored)


def constant(place: Place) -> Iterator[Change]:
    """Bake an argument in at its default, a setting as a number, a question as its answer."""
    node = place.node
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and place.function is not None:
        default = defaults(place.function).get(node.id)
        if default is not None and node.id != "x":  # data are no setting
            yield lambda n: copy.deepcopy(default)
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self" and isinstance(node.ctx, ast.Load):
        yield from _setting(place)
    if isinstance(node, ast.If | ast.IfExp):
        for answer in (True, False):
            yield lambda n, answer=answer: _answered(n, answer)
    if isinstance(node, ast.Call) and isinstance(place.parent, ast.Call):
        return
    if method(node, "to") and ast.unparse(node.func.value).startswith("self."):  # type: ignore[attr-defined]
        yield lambda n: expression(f"float({ast.unparse(n.func.value)})")
        yield lambda n: ast.Constant(1.0)


def _setting(place: Place) -> Iterator[Change]:
    """An attribute that an argument of __init__ gave."""
    init = next((s for s in getattr(place.owner, "body", []) if getattr(s, "name", "") == "__init__"), None)
    if init is None or place.function is init or isinstance(place.parent, ast.Attribute):
        return
    default = defaults(init).get(place.node.attr)  # type: ignore[attr-defined]
    if default is not None:
        yield lambda n: copy.deepcopy(default)


def defaults(function: ast.FunctionDef) -> dict[str, ast.expr]:
    a = function.args
    plain = [*a.posonlyargs, *a.args]
    pairs = [*zip(reversed(plain), reversed(a.defaults), strict=False), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return {argument.arg: value for argument, value in pairs if value is not None}


def _answered(node, answer: bool):
    node.test = ast.Constant(answer)
    return node


def forget(place: Place) -> Iterator[Change]:
    """Leave out what a constructor or an objective was told, so that its default holds."""
    node = place.node
    if not isinstance(node, ast.Call) or called(node, *CHECKS):
        return
    for i in range(len(node.keywords)):
        yield lambda n, i=i: ast.Call(n.func, n.args, n.keywords[:i] + n.keywords[i + 1 :])
    if len(node.args) > 1 and not isinstance(node.args[-1], ast.Starred):
        yield lambda n: ast.Call(n.func, n.args[:-1], n.keywords)


def share(place: Place) -> Iterator[Change]:
    """One network where there should be two, or two where there should be one."""
    node = place.node
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _made(place):
        yield lambda n: expression(f"__import__('copy').deepcopy({n.id})")
    if isinstance(node, ast.Call) and any(isinstance(n, ast.Call) for n in node.args):
        texts = [ast.unparse(a) for a in node.args]
        for i, argument in enumerate(node.args):
            if isinstance(argument, ast.Call) and texts[i] in texts[:i]:
                first = texts.index(texts[i])
                yield lambda n, i=i, first=first: _one(n, first, i)


def _made(place: Place) -> set[str]:
    """Names of networks that are used more than once in a function."""
    if place.function is None:
        return set()
    loads = [n.id for n in ast.walk(place.function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    return {name for name in ("decoder", "encoder", "scale", "dof", "network", "prior", "D") if loads.count(name) > 1}


def _one(node, first: int, second: int):
    node.args[first] = ast.NamedExpr(ast.Name("shared", ast.Store()), node.args[first])
    node.args[second] = ast.Name("shared", ast.Load())
    return node


def nothing(place: Place) -> Iterator[Change]:
    """The same in other words: a run in which this one is caught tells nothing of the others."""
    if isinstance(place.node, ast.BinOp):
        yield lambda n: ast.Subscript(ast.List([n], ast.Load()), ast.Constant(0), ast.Load())


Operators = dict[str, Callable[[Place], Iterator[Change]]]
OPERATORS: Operators = {f.__name__: f for f in (sign, plate, detach, scale, swap, constant, forget, share)}
NOTHING: Operators = {"nothing": nothing}
# What constructors are told matters where a pair is put together; elsewhere it is most often words of an error.
ONLY = {"forget": ("variants",), "share": ("variants",)}


def mutants(path: Path, source: str | None = None, operators: Operators = OPERATORS) -> list[Mutant]:
    """All mutants of a file."""
    source = path.read_text() if source is None else source
    tree = ast.parse(source)
    found: dict[tuple[int, str], Mutant] = {}
    for place in places(tree):
        for name, operator in operators.items():
            if name in ONLY and path.parent.name not in ONLY[name]:
                continue
            for change in operator(place):
                mutant = made(path, source, tree, place, name, change)
                if mutant.full != ast.unparse(place.node):  # a default may be what stands there
                    found.setdefault((mutant.number, mutant.full), mutant)
    return list(found.values())


def made(path: Path, source: str, tree: ast.Module, place: Place, operator: str, change: Change) -> Mutant:
    new = change(copy.deepcopy(place.node))
    at = place.statement
    top = next(i for i, s in enumerate(tree.body) if s is at or s in place.around)
    head = at.body[0].lineno - 1 if isinstance(at, ast.If | ast.With | ast.For) else (at.end_lineno or at.lineno)
    line = getattr(place.node, "lineno", at.lineno)
    full = "; ".join(map(ast.unparse, new if isinstance(new, list) else [new]))
    lines = (at.lineno, max(head, at.lineno))
    before, after = differ(ast.unparse(place.node), full)
    return Mutant(path, operator, place.number, line, lines, before, after, top, full, source, change)
