"""The cells of an experiment: each is computed once, kept at once, and none may be missing from a result."""

import json
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from pyro_vaes.errors import InputError
from pyro_vaes.experiments.training import side_by_side
from pyro_vaes.inference.checkpoint import write_atomically
from pyro_vaes.inference.run import versions

PROTOCOL, LOCK = "protocol.json", "lock"
Setting = tuple[Any, ...]
Together = Callable[[Sequence[Setting]], Sequence[Any]]


class Cells:
    """A folder with one file per finished cell of an experiment.

    An experiment that was interrupted goes on with the cells it lacks. The folder remembers the protocol, and
    refuses cells of another one.

    Args:
        folder: where the cells are kept; made if it is missing. One run at a time may use it.
        protocol: what all cells share (steps, networks, ...), as plain values.
        root: where the data lie: other data are another protocol.

    Raises:
        InputError: the folder holds cells of another protocol, or of other versions of the packages, or of none that is
            known; another run uses it; or it cannot be made.

    >>> import tempfile
    >>> cells = Cells(Path(tempfile.mkdtemp()) / "cells", {"steps": 3})
    >>> cells.keep(("t_vae", 0), {"mse": 0.5}, seconds=2.0)
    >>> cells.kept([("t_vae", 0), ("t_vae", 1)])
    {('t_vae', 0): {'mse': 0.5}}
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any], root: Path | None = None):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made: {error.strerror}") from error
        weakref.finalize(self, os.close, _lock(folder))
        # How many threads the parent has does not matter: a cell runs on one.
        here = {name: version for name, version in versions().items() if name != "device" or "CPU" not in version}
        stamp = {"protocol": protocol, "versions": here, "root": str(root.resolve()) if root else None}
        stamp = json.loads(json.dumps(stamp))
        file = folder / PROTOCOL
        # Without a cell there is nothing that another protocol could be mixed with.
        if not self._files():
            write_atomically(file, json.dumps(stamp, indent=2).encode())
        elif (found := _read(file)) != stamp:
            old = found if isinstance(found, dict) else {}
            what = ", ".join(key for key in stamp if old.get(key) != stamp[key])
            raise InputError(
                f"{folder} holds cells of an unfinished run with other {what}: finish that one, or delete the folder"
            )

    def keep(self, setting: Setting, value: Any, seconds: float) -> None:
        """Write one finished cell."""
        content = {"cell": list(setting), "seconds": seconds, "value": value}
        try:
            text = json.dumps(content, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.folder.stem}: cell {setting} gave no plain, finite value: {error}") from error
        write_atomically(self._file(setting), text.encode())

    def kept(self, settings: Iterable[Setting]) -> dict[Setting, Any]:
        """Read the finished ones among some cells; a file that cannot be read counts as missing."""
        found = {}
        for setting in settings:
            content = _read(self._file(setting))
            if isinstance(content, dict) and content.get("cell") == list(setting) and "value" in content:
                found[setting] = content["value"]
        return found

    def seconds(self) -> float:
        """How long the cells took, added up."""
        contents = [_read(file) for file in self._files()]
        return round(sum(c["seconds"] for c in contents if isinstance(c, dict) and c.get("seconds")), 1)

    def discard(self) -> None:
        """Delete the cells, once the result that they make is written, and what says whose they are after them."""
        for file in [*self._files(), self.folder / PROTOCOL, self.folder / LOCK]:
            file.unlink(missing_ok=True)
        # What somebody else put there stays.
        with suppress(OSError):
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return [file for file in self.folder.glob("*.json") if file.name != PROTOCOL]

    def _file(self, setting: Setting) -> Path:
        words = "-".join(str(part) for part in setting)
        slug = "".join(c if c.isalnum() or c in "-._" else "_" for c in words)[:60]
        return self.folder / f"{slug}.{sha256(repr(setting).encode()).hexdigest()[:8]}.json"


def compute(
    cell: Callable[..., Any],
    settings: Sequence[Setting],
    cells: Cells,
    *,
    desc: str,
    steps: Callable[[Setting], int],
    together: Together | None = None,
    group: Callable[[Setting], Any] = lambda setting: setting[0],
) -> dict[Setting, Any]:
    """Compute every cell that is not kept yet, and give all of them.

    Args:
        cell: a function of a module: ``cell(*setting)`` gives plain values (lists, not tensors).
        settings: one tuple of plain values for each cell; the slowest first, so that no process works alone at the end.
        cells: where finished ones are kept.
        steps: training steps of a cell, for the bar and its estimate of what is left.
        together: computes many cells of one ``group`` at once, as replicas; used where there is a GPU.
        group: what cells must have in common to be computed together.

    Raises:
        InputError: a cell gave NaN, or none at all.

    >>> import tempfile
    >>> kept = Cells(Path(tempfile.mkdtemp()) / "cells", {})
    >>> kept.keep((1,), 10, seconds=0.1)
    >>> compute(print, [(1,)], kept, desc="tens", steps=lambda setting: 0)
    {(1,): 10}
    """
    found = cells.kept(settings)
    missing = [setting for setting in settings if setting not in found]
    if together is not None and _gpu():
        for key in dict.fromkeys(map(group, missing)):
            members = [setting for setting in missing if group(setting) == key]
            began = time.monotonic()
            values = together(members)
            each = (time.monotonic() - began) / len(members)
            for setting, value in zip(members, values, strict=True):
                cells.keep(setting, value, each)
    elif missing:

        def done(setting: Setting, timed: tuple[Any, float]) -> None:
            cells.keep(setting, *timed)

        total = sum(map(steps, missing))
        side_by_side(partial(_timed, cell), missing, desc=desc, steps=total, done=done)
    # Read back from the files: what is reported is what was kept, and a cell that was skipped cannot be overlooked.
    found |= cells.kept(missing)
    absent = [setting for setting in settings if setting not in found]
    if absent:
        raise InputError(f"{desc}: {len(absent)} of {len(settings)} cells have no result, the first is {absent[0]}")
    return {setting: found[setting] for setting in settings}


def _lock(folder: Path) -> int:
    """Hold a lock that ends with this process, however it ends."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # not a system with such locks
        pass
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"another run uses {folder}: wait for it, or give another --out") from error
    return descriptor


def _timed(cell: Callable[..., Any], *setting: Any) -> tuple[Any, float]:
    began = time.monotonic()
    return cell(*setting), time.monotonic() - began


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
