"""What a mutant is, and where one may be: formulas and programs, not words, types, or checks of what was given."""

import ast
import copy
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .room import ROOT

# What stands in a node's place: another one, statements, or nothing to say that it cannot.
Change = Callable[[ast.AST], ast.AST | list[ast.stmt]]


@dataclass(frozen=True)
class Place:
    """A node, what is around it (outermost first), and its number in the order of ``ast.walk``."""

    node: ast.AST
    around: tuple[ast.AST, ...]
    number: int

    @property
    def parent(self) -> ast.AST:
        return self.around[-1]

    @property
    def function(self) -> ast.FunctionDef | None:
        return next((a for a in reversed(self.around) if isinstance(a, ast.FunctionDef)), None)

    @property
    def owner(self) -> ast.ClassDef | None:
        return next((a for a in reversed(self.around) if isinstance(a, ast.ClassDef)), None)

    @property
    def statement(self) -> ast.stmt:
        return next(a for a in (self.node, *reversed(self.around)) if isinstance(a, ast.stmt))


@dataclass(frozen=True)
class Mutant:
    """One wrong thing: a node of a file, and what stands in its place."""

    path: Path
    operator: str
    number: int
    line: int
    lines: tuple[int, int]  # of the statement around it, which tests must run
    before: str
    after: str
    top: int  # which statement of the file holds it
    full: str  # what stands there instead, at whatever length
    source: str
    change: Change

    @property
    def file(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def constant(self) -> bool:
        """Whether it is run when the module is imported, and so by no test."""
        statement = ast.parse(self.source).body[self.top]
        parts = [statement, *statement.body] if isinstance(statement, ast.ClassDef) else [statement]
        return any(isinstance(s, ast.Assign) and s.lineno == self.lines[0] for s in parts)

    @property
    def words(self) -> str:
        return f"{self.operator}: {self.before} -> {self.after}"

    @property
    def key(self) -> str:
        """The same in another run, as long as the file's code is the same."""
        text = f"{self.file}|{self.number}|{self.operator}|{self.full}|{code_of(self.source)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tree(self) -> ast.Module:
        """The file with this one thing wrong; lines stay where they are."""
        return mutated(self.source, self.number, self.change)


@functools.cache
def code_of(source: str) -> str:
    """A name for the code of a file, whatever its words and its layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def places(tree: ast.Module) -> Iterator[Place]:
    """Every node where a wrong thing could stand, inside of a function or of a constant of the module."""
    numbers = {id(node): i for i, node in enumerate(ast.walk(tree))}

    def inside(node: ast.AST, around: tuple[ast.AST, ...]) -> Iterator[Place]:
        yield Place(node, around, numbers[id(node)])
        for child in children(node):
            yield from inside(child, (*around, node))

    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Assign):
            yield from inside(statement, (tree,))


def children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.FunctionDef):
        yield from [] if node.name == "__repr__" else [s for s in node.body if not idle(s)]
    elif isinstance(node, ast.ClassDef):
        yield from [s for s in node.body if isinstance(s, ast.FunctionDef | ast.Assign) and not idle(s)]
    elif isinstance(node, ast.AnnAssign):
        yield from [node.value] if node.value else []
    else:
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.stmt) and idle(child)):
                yield child


def idle(node: ast.stmt) -> bool:
    """Words, refusals, and checks of arguments: tests of bad input are another matter."""
    if isinstance(node, ast.Expr):
        checks = ("whole", "number", "check_sizes", "_known", "_check", "_consistent")
        call = node.value
        return isinstance(call, ast.Constant) or (isinstance(call, ast.Call) and ast.unparse(call.func) in checks)
    if isinstance(node, ast.If):
        return not node.orelse and all(isinstance(s, ast.Raise) for s in node.body)
    if isinstance(node, ast.For):
        return all(map(idle, node.body))
    return isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom)


def mutated(source: str, number: int, change: Change) -> ast.Module:
    """The tree with something else in the place of one node."""
    tree = ast.parse(source)
    parents = {id(child): (node, field) for node in ast.walk(tree) for field, child in fields(node)}
    node = list(ast.walk(tree))[number]
    parent, field = parents[id(node)]
    new = change(copy.deepcopy(node))
    for one in new if isinstance(new, list) else [new]:
        ast.copy_location(one, node)
    value = getattr(parent, field)
    if isinstance(value, list):
        at = next(i for i, item in enumerate(value) if item is node)
        value[at : at + 1] = new if isinstance(new, list) else [new]
    else:
        setattr(parent, field, new)
    return ast.fix_missing_locations(tree)


def fields(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield field, child


def differ(before: str, after: str, width: int = 90) -> tuple[str, str]:
    """Two texts on a line each, shortened to where they differ."""
    before, after = " ".join(before.split()), " ".join(after.split())
    if max(len(before), len(after)) <= width:
        return before, after
    pairs = enumerate(zip(before, after, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(before), len(after)))
    start = max(0, same - width // 3)
    lead = "... " if start else ""
    return tuple(lead + t[start : start + width] + " ..." * (len(t) > start + width) for t in (before, after))  # type: ignore[return-value]
