"""What a graph would freeze: numbers that a program keeps in Python, random generators of Python and NumPy."""

import copy
import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn


class Held(NamedTuple):
    """A value that a program could count in, and how to put it back."""

    value: Any
    put_back: Callable[[Any], None]


def held(pair: nn.Module, prepare: Callable | None = None, private: bool = True) -> dict[str, Held]:
    """Find numbers, words and small containers of them: in modules, in plain objects that these hold, in the globals
    and closures that their functions name. What is kept anywhere else is not seen.

    Args:
        prepare: what happens to a batch first. private: look at names that begin with an underscore, too.
    """
    found: dict[str, Held] = {}
    for path, module in pair.named_modules():
        _add(found, path or type(pair).__name__, vars(module), private)
        for base in type(module).__mro__:
            for function in vars(base).values() if _users(base) else ():
                _function(found, function, private)
    for name in ("objective", "prepare"):
        thing = prepare if name == "prepare" else getattr(pair, "objective", None)
        if thing is not None and not isinstance(thing, nn.Module):
            _thing(found, name, thing, private)
    return found


def values(found: dict[str, Held]) -> dict[str, Any]:
    """Copies of the values, to compare later ones with."""
    return {name: copy.deepcopy(one.value) for name, one in found.items()}


def program(pair: nn.Module, prepare: Callable | None = None) -> dict[str, Any]:
    """What the program is, as far as a graph depends on it: its modules, their modes, its Python values."""
    modules = {f"the module {path or 'itself'}": (id(m), m.training) for path, m in pair.named_modules()}
    return modules | values(held(pair, prepare))


@contextmanager
def rewound(pair: nn.Module, prepare: Callable | None = None) -> Iterator[None]:
    """Put back whatever the program counted, and the generators of Python and NumPy."""
    before = {name: (one, copy.deepcopy(one.value)) for name, one in held(pair, prepare).items()}
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (the user's program may use it)
    try:
        yield
    finally:
        for one, value in before.values():
            one.put_back(value)
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def generators() -> str:
    """The state of the generators that a graph cannot follow."""
    state: Any = np.random.get_state()  # noqa: NPY002
    return repr((hash(random.getstate()), hash(state[1].tobytes()), state[2:]))


def _add(found: dict[str, Held], path: str, space: dict[str, Any], private: bool, depth: int = 3) -> None:
    for name, value in list(space.items()):
        if name.startswith("__") or (name.startswith("_") and not private) or name in ("name", "training"):
            continue
        if _small(value):
            found[f"{path}.{name}"] = Held(value, _setter(space, name, value))
        elif depth:
            _thing(found, f"{path}.{name}", value, private, depth - 1)


def _thing(found: dict[str, Held], path: str, thing: Any, private: bool, depth: int = 3) -> None:
    if isinstance(thing, functools.partial):
        _add(found, path, {"arguments": thing.args, "keywords": thing.keywords}, private, depth)
        _thing(found, f"{path}.func", thing.func, private, depth)
    elif hasattr(thing, "__code__"):
        _function(found, thing, private, depth)
    elif hasattr(thing, "__self__") and hasattr(thing, "__func__"):
        _thing(found, f"{path}.self", thing.__self__, private, depth)
        _function(found, thing.__func__, private, depth)
    elif _users(type(thing)) and hasattr(thing, "__dict__") and not isinstance(thing, nn.Module | Tensor | type):
        _add(found, path, vars(thing), private, depth)


def _function(found: dict[str, Held], function: Any, private: bool, depth: int = 3) -> None:
    code = getattr(function, "__code__", None)
    if code is None or not depth or not _users(function):
        return
    spaces = function.__globals__
    outside = {name: spaces[name] for name in code.co_names if name in spaces}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a cell that is still empty
            value = cell.cell_contents
            if _small(value):
                found[f"{name} in {function.__name__}"] = Held(value, functools.partial(_fill, cell, value))
            else:
                _thing(found, name, value, private, depth - 1)
    for name, value in outside.items():
        if _small(value):
            found[f"{name} in {function.__name__}"] = Held(value, _setter(spaces, name, value))
        elif hasattr(value, "__code__"):
            _function(found, value, private, depth - 1)


def _users(thing: Any) -> bool:
    return not (getattr(thing, "__module__", None) or "").startswith(
        ("torch", "pyro.", "numpy", "builtins", "pyro_vaes")
    )


def _setter(space: dict[str, Any], name: str, original: Any) -> Callable[[Any], None]:
    def put_back(value: Any) -> None:
        space[name] = _refill(original, value)

    return put_back


def _fill(cell: Any, original: Any, value: Any) -> None:
    cell.cell_contents = _refill(original, value)


def _refill(original: Any, value: Any) -> Any:
    """The same container with its old content: others may hold it too."""
    if isinstance(original, list):
        original[:] = value
    elif isinstance(original, dict | set):
        original.clear()
        original.update(value)
    else:
        return value
    return original


def _small(value: Any) -> bool:
    """A number, a word, or a container of few of them."""
    if isinstance(value, dict):
        return len(value) <= 100 and all(_small(v) for v in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) <= 100 and all(_small(v) for v in value)
    return value is None or isinstance(value, int | float | complex | str | bytes)
