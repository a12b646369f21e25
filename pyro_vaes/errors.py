"""The one error that a user's input can cause, and the one warning of what no input caused."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Characters of a message; a name that a file or a user gave may be of any length.
LONGEST = 1000


class InputError(ValueError):
    """Say what was wrong with an input, where, and what is allowed.

    Every check of user input raises this and nothing else, before any work starts; the command line turns it
    into one line on stderr and exit code 2.

    Source: ours.

    >>> raise InputError("latent_dim is 0: it must be at least 1")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: latent_dim is 0: it must be at least 1

    A message is one line, whatever is in the names it holds:

    >>> print(InputError("a\\nb.npy: no such file"))
    a\\nb.npy: no such file
    """

    def __init__(self, message: object = ""):
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))
        # Beginning and end: the place stands in front, what is allowed comes last.
        half = LONGEST // 2
        super().__init__(text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}")


class FaultWarning(UserWarning):
    """Something has gone wrong that no input caused, and the work goes on: what it was, and what is done instead.

    A damaged checkpoint for which the one before it stands in, a chunk that was halved because memory ran out, a run
    folder that cannot be locked. The command line prints it as one line on stderr.

    Source: ours.

    >>> issubclass(FaultWarning, UserWarning)
    True
    """


def unknown(kind: str, name: str, known: "list[str] | tuple[str, ...]") -> InputError:
    """Build the error for an unknown name, with the nearest known one.

    >>> print(unknown("variant", "ic_vea", ["ic_vae", "vae"]))
    unknown variant 'ic_vea': did you mean 'ic_vae'? known: ic_vae, vae
    """
    import difflib

    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {said(name)}: {hint}known: {', '.join(known) or 'none'}")


def whole(name: str, value: object, low: int = 1, high: int = 2**31 - 1) -> int:
    """Give back a whole number in [low, high], or refuse it.

    >>> whole("steps", 2.5)
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: steps is 2.5: it must be a whole number of at least 1
    """
    # True is an int in Python, and never what a count was meant to be.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        most = f" and at most {high}" if isinstance(value, int) and value > high else ""
        raise InputError(f"{name} is {said(value)}: it must be a whole number of at least {low}{most}")
    return value


def number(name: str, value: object, low: float = 0.0, *, open_low: bool = False) -> float:
    """Give back a finite number of at least ``low`` (above it where ``open_low``), or refuse it.

    >>> number("beta", float("nan"))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: beta is nan: it must be finite and at least 0
    """
    # A whole number that no tensor holds is as good as infinite.
    real = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
    if not real or not math.isfinite(value) or not (value > low if open_low else value >= low):  # type: ignore
        where = "" if low == -math.inf else f" and {'above' if open_low else 'at least'} {low:g}"
        raise InputError(f"{name} is {said(value)}: it must be finite{where}")
    return float(value)  # type: ignore[arg-type]


def flag(name: str, value: object) -> bool:
    """Give back True or False, or refuse what is neither.

    >>> flag("draw", "yes")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: draw is 'yes': it must be True or False
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {said(value)}: it must be True or False")
    return value


def said(value: object) -> str:
    """A value in a message: as it is written, or its type where that would be long.

    >>> said(0.5), said([0] * 100)
    ('0.5', 'a list')
    """
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def first_line(error: BaseException) -> str:
    """Name an error in one line, for a message of ours.

    >>> first_line(ValueError("one; the rest"))
    'ValueError: one; the rest'
    """
    return f"{type(error).__name__}: {short(error)}"


def short(error: BaseException) -> str:
    """The first line of a message: Pyro adds the shapes of its trace to every error that passes through it.

    >>> short(ValueError("one\\n Trace Shapes:"))
    'one'
    """
    return (str(error).strip().splitlines() or [""])[0]


def room(what: str, needed: float, advice: str) -> None:
    """Refuse what this machine's memory could not hold, before anything is asked of it.

    Args:
        needed: bytes, about.

    >>> room("10 draws of 3 data", 240, "take fewer")
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        size = f"{needed / 1e9:,.0f} GB, and there are {there / 1e9:,.0f}"
        raise InputError(f"{what} take about {size}: {advice}")


def read_small(path: Path, most: int = 10**7) -> str:
    """Read a text file that a person could have written; a larger one is none of ours, and is not read.

    >>> read_small(Path(os.devnull))
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: /dev/null is not readable: it is no file
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} is not readable: it is no file")
        if path.stat().st_size > most:
            raise InputError(f"{path} is not readable: it has {path.stat().st_size:,} bytes, and {most:,} at most are")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable: {first_line(error)}") from None


def called(what: str, function: Any, *given: Any) -> Any:
    """Call a function of the user's; whatever goes wrong in it is told in one line.

    >>> called("statistic 'worst'", lambda a: a[3], [1, 2])
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: statistic 'worst' fails: IndexError: list index out of range
    """
    if not callable(function):
        raise InputError(f"{what} is {said(function)}: it must be a function")
    try:
        return function(*given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} fails: {first_line(error)}") from error


def functions_of(what: str, given: Any) -> dict[str, Any]:
    """Give named functions as a dict, or refuse what is none.

    >>> functions_of("statistics", ["mean"])
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: statistics is ['mean']: it must map names to functions
    """
    if not isinstance(given, Mapping) or not all(callable(f) for f in given.values()):
        raise InputError(f"{what} is {said(given)}: it must map names to functions")
    return {str(name): function for name, function in given.items()}


def image_shape(shape: Any, entries: int) -> tuple[int, ...]:
    """Give the shape of a datum of so many entries, or refuse it.

    >>> image_shape([2, 3], 6)
    (2, 3)
    """
    try:
        found = tuple(shape) if not isinstance(shape, int) else (shape,)
    except TypeError:
        found = ()
    plain = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in found)
    if not plain or not 1 <= len(found) <= 3 or math.prod(found) != entries:
        raise InputError(f"shape is {said(shape)}: it must be (H, W) or (C, H, W) with {entries} entries in all")
    return found
