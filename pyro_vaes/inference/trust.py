"""Whose code a run may execute: that a run folder names a file is no reason to run it."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pyro_vaes.errors import InputError

_CONSENT: ContextVar[bool] = ContextVar("consent", default=False)


@contextmanager
def consenting(given: bool) -> Iterator[None]:
    """Let every run that is read meanwhile execute the file of code that it names: what ``--trust`` does."""
    token = _CONSENT.set(given)
    try:
        yield
    finally:
        _CONSENT.reset(token)


def code_of(target: str) -> str | None:
    """The SHA-256 of the file of code that a target names; None for a variant, which has none, or without that file.

    >>> code_of("t_vae")
    """
    file, colon, _ = target.rpartition(":")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if colon and Path(file).is_file() else None


def remember(config: dict[str, Any]) -> None:
    """Note outside of all run folders that this account has asked for this function, these arguments and this code."""
    key, ledger = _key(config), _ledger()
    if key is None or ledger is None or key in _known():
        return
    # Where nothing can be kept, --trust is needed each time.
    with suppress(OSError):
        ledger.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One short write to the end: two trainings that end together do not lose each other's line.
        handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{key} {json.dumps(config['target'])}\n".encode())
        finally:
            os.close(handle)


def check_code(config: dict[str, Any], run: Path, trust: bool = False) -> None:
    """Refuse a run that names a file of code which this account has neither trained with nor consented to.

    Consent is for the function, its arguments and the content of its file, and remembered. The run folder is no
    witness: whoever made it could write into it whatever is asked for.

    Raises:
        InputError: with what to type in order to consent.
    """
    key = _key(config)
    # Without a key there is no such file, or a variant: the first is told by who looks for it.
    if key is None or key in _known():
        return
    if trust or _CONSENT.get():
        remember(config)
        return
    file = config["target"].rpartition(":")[0]
    changed = config.get("code") not in (None, code_of(config["target"]))
    why = "has changed since the run was trained" if changed else "this account has not trained with in this way"
    raise InputError(
        f"{run} wants to run the code of {file}, which {why}: read that file, and what it imports; "
        "to run it add --trust (in Python: Run.open(..., trust=True))"
    )


def _key(config: dict[str, Any]) -> str | None:
    """One hash of what is called, with what, and of its code."""
    code = code_of(config["target"])
    if code is None:
        return None
    file, _, name = config["target"].rpartition(":")
    asked = [str(Path(file).resolve()), name, config["arguments"], config["data_dim"], code]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _known() -> set[str]:
    ledger = _ledger()
    if ledger is None or not ledger.is_file():
        return set()
    return {line.partition(" ")[0] for line in ledger.read_text(errors="replace").splitlines()}


def _ledger() -> Path | None:
    """The file of this account; None without a home. A relative path would let the current folder be a witness."""
    # With an empty HOME Python takes the root folder for one's home.
    home = os.path.expanduser("~") if os.environ.get("HOME", "unset") else ""
    for base, below in ((os.environ.get("XDG_STATE_HOME", ""), ""), (home, ".local/state")):
        if os.path.isabs(base):
            return Path(base, below, "pyro-vaes", "trusted")
    return None
