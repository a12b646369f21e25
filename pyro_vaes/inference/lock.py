"""One process at a time writes a run folder."""

import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pyro_vaes.errors import FaultWarning, InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# What a process that was killed leaves behind of files that only the holder of the lock writes.
STALE = re.compile(
    r"\.(checkpoint\.safetensors|checkpoint\.previous\.safetensors|metrics\.jsonl|config\.json"
    r"|training(-stage-\d+)?\.png|cleaned\.png)\.[a-z0-9_]{8}"
)


def transient(name: str) -> bool:
    """Whether a file is one that comes and goes while a process works in a run folder."""
    return name == LOCK or STALE.fullmatch(name) is not None


# Folder -> file descriptor (-1 where the file system has no locks), thread, and how often it is held.
_held: dict[str, tuple[int, int, int]] = {}
_guard = threading.Lock()


@contextmanager
def held(*folders: str | Path | None, ranks: Any = None) -> Iterator[None]:
    """Hold run folders against other processes, and other threads; what does not exist is made. None is no folder.

    Of several ``ranks`` the first one holds them for all, and all are refused if it is.

    The lock is the kernel's (``flock``): it ends with the process, however that ends, so that none is ever stale. A
    child that is forked does not hold it. Files that a killed process left half-written are cleared away.

    Raises:
        InputError: if another process holds a folder, with its process id and host, or if it cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, held(folder):
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['.lock']
    """
    with ExitStack() as stack:
        refused = None
        try:
            for folder in folders if ranks is None or ranks.first else ():
                if folder is not None:
                    stack.enter_context(_one(Path(folder)))
        except InputError as error:
            refused = error
        told = str(refused or "") if ranks is None else ranks.words(str(refused or ""))[0]
        if told:
            raise refused or InputError(told)
        yield


def holder(folder: Path) -> str | None:
    """The process that holds a folder, in words; None where none does but this one. Changes nothing."""
    if fcntl is None or os.path.realpath(folder) in _held:
        return None
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _who(file)
    except OSError:
        return None
    finally:
        os.close(file)
    return None


def _who(file: int) -> str:
    words = os.pread(file, 300, 0).decode(errors="replace").split()
    return f"process {words[0]} on {words[1]}" if len(words) == 2 else "another process"


@contextmanager
def _one(folder: Path) -> Iterator[None]:
    made = _made(folder)
    name = os.path.realpath(folder)
    try:
        _take(folder, name)
        try:
            yield
        finally:
            _give_back(folder, name)
    finally:
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def _made(folder: Path) -> Sequence[Path]:
    """Make a folder; give those that were not there, innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} is a file, or lies in one: a run needs a folder") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from None
    return new


def _take(folder: Path, name: str) -> None:
    with _guard:
        file, thread, count = _held.get(name, (-1, threading.get_ident(), 0))
        if thread != threading.get_ident():
            raise InputError(f"{folder} is in use by another thread of this process: wait for it, or name another")
        if not count:
            file = _locked(folder)
        _held[name] = (file, thread, count + 1)


def _locked(folder: Path) -> int:
    try:
        while True:
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            if not _flock(folder, file) or _same(file, folder / LOCK):
                break
            os.close(file)  # its holder has removed it in between
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        for path in folder.iterdir():
            if STALE.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error.strerror}") from None
    return file


def _flock(folder: Path, file: int) -> bool:
    """Lock a file, and say whether that could be done at all."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = _who(file)
        os.close(file)
        raise InputError(f"{folder} is in use by {who}: wait for it, end it, or name another folder") from None
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): let no other process write to it", FaultWarning, 4
        )
        return False
    return True


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _give_back(folder: Path, name: str) -> None:
    with _guard:
        file, thread, count = _held[name]
        if count > 1:
            _held[name] = (file, thread, count - 1)
            return
        del _held[name]
        # While it is still locked: whoever opens it from here on makes a new one, or finds that it is gone.
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(file)


def _forget() -> None:
    """A forked child shares its parent's locks as long as it has the file open."""
    for file, _, _ in _held.values():
        with suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
