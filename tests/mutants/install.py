"""Put a mutant into a process in which the package is loaded already: its functions get the mutant's code.

Nothing is written to the source tree, and nothing is imported again, so that the tests that are collected, the classes
they know and the mutant are of one process. The process is to be thrown away afterwards.
"""

import ast
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from .mutant import Mutant
from .room import module_of


class Unfit(Exception):
    """A mutant that cannot be put in."""


def install(mutant: Mutant) -> None:
    module = importlib.import_module(module_of(mutant.path))
    tree = mutant.tree()
    fresh = types.ModuleType(module.__name__)
    fresh.__file__, fresh.__package__ = module.__file__, module.__package__
    try:
        exec(compile(tree, str(mutant.path), "exec"), fresh.__dict__)
    except Exception as error:
        raise Unfit(f"{type(error).__name__}: {error}") from None
    changed = list(swapped(module, fresh, tree.body[mutant.top]))
    if not changed:
        raise Unfit("nothing has changed")


def swapped(module: Any, fresh: Any, statement: ast.stmt) -> Iterator[str]:
    """Change what one statement of a module defines, and say what was changed."""
    if isinstance(statement, ast.FunctionDef):
        yield from into(vars(module)[statement.name], vars(fresh)[statement.name])
    elif isinstance(statement, ast.ClassDef):
        old, new = vars(module)[statement.name], vars(fresh)[statement.name]
        for node in statement.body:
            if isinstance(node, ast.FunctionDef):
                yield from into(vars(old)[node.name], vars(new)[node.name])
            elif isinstance(node, ast.Assign):
                for name in names(node):
                    setattr(old, name, getattr(new, name))
                    yield name
    elif isinstance(statement, ast.Assign):
        for name in names(statement):
            known = vars(module)[name]
            for other in list(sys.modules.values()):
                if vars(other).get(name) is known and isinstance(other, types.ModuleType):
                    setattr(other, name, vars(fresh)[name])
                    yield name


def names(node: ast.Assign) -> list[str]:
    return [n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def into(old: Any, new: Any) -> Iterator[str]:
    """Give a function another's code and defaults; whoever has the function has the mutant."""
    if isinstance(old, property):
        old, new = old.fget, new.fget
    old, new = getattr(old, "__func__", old), getattr(new, "__func__", new)
    old, new = getattr(old, "__wrapped__", old), getattr(new, "__wrapped__", new)
    if not isinstance(old, types.FunctionType):
        raise Unfit(f"{old!r} is no function")
    if old.__code__ != new.__code__:
        try:
            old.__code__ = new.__code__
        except ValueError as error:
            raise Unfit(str(error)) from None
        yield old.__qualname__
