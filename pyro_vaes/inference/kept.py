"""The two last checkpoints of a run: the newest, and the one before it, should the newest be damaged."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pyro_vaes.errors import FaultWarning, InputError
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.guard import Diverged
from pyro_vaes.inference.lock import held
from pyro_vaes.inference.ranks import Ranks

CHECKPOINT = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"

Content = tuple[dict[str, Tensor], dict[str, Any]]


class Reader(Protocol):
    """What :func:`common` needs of a run; ``read`` remembers which of the two it took."""

    out: Path | None

    def read(self, name: str | None = None) -> Content | None: ...


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint, be it the previous one alone."""
    return any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS))


def save(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write the newest checkpoint; the one that was newest becomes the previous one."""
    checkpoint.save(folder / CHECKPOINT, tensors, values, folder / PREVIOUS)


def load(folder: Path) -> tuple[Content, str]:
    """Read the newest checkpoint that is whole, and give its name; that it is not the newest is said in a warning.

    Raises:
        InputError: if neither is whole.
    """
    try:
        return checkpoint.load(folder / CHECKPOINT), CHECKPOINT
    except InputError as error:
        if not (folder / PREVIOUS).exists():
            raise
        why = str(error)
    try:
        content = checkpoint.load(folder / PREVIOUS)
    except InputError as error:
        raise InputError(f"{why}; nor is the one before it whole: {error}") from None
    step = content[1].get("step")
    warnings.warn(f"{why}; the one before it, of step {step}, takes its place", FaultWarning, stacklevel=3)
    return content, PREVIOUS


def common(tracks: Sequence[Reader]) -> list[Content | None]:
    """Read the newest step of which every run has a whole checkpoint.

    Replicas save one after another: one that was killed in between leaves some of them a checkpoint ahead.

    Raises:
        InputError: if there is no such step, or a checkpoint belongs to another run.
    """
    found = [track.read() for track in tracks]
    steps = sorted({content[1]["step"] for content in found if content is not None})
    if len(steps) + (None in found) < 2:
        return found
    apart = InputError(f"the replicas' checkpoints are of different steps {steps}: resume each as a run of its own")
    earlier = [track.out is not None and (track.out / PREVIOUS).exists() for track in tracks]
    if None in found:
        # Cut off within the very first save, before which there was nothing to go on from.
        if any(earlier):
            raise apart
        warnings.warn("some replicas have no checkpoint yet: all begin at step 0", FaultWarning, stacklevel=3)
        return [None] * len(tracks)
    for run, track in enumerate(tracks):
        content = found[run]
        if content is not None and content[1]["step"] > steps[0] and earlier[run]:
            found[run] = track.read(PREVIOUS)
    if any(content is not None and content[1]["step"] != steps[0] for content in found):
        raise apart
    warnings.warn(f"cut off while the replicas were saved: all go on from step {steps[0]}", FaultWarning, stacklevel=3)
    return found


def settle(folder: Path, name: str | None) -> None:
    """Make the newest checkpoint the one that the run goes on from, or none: the next save keeps it as the previous.

    What could not be read must not become the previous one, nor what the other replicas do not have.
    """
    if name is None:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    elif name == PREVIOUS:
        os.replace(folder / PREVIOUS, folder / CHECKPOINT)


def check_folder(out: str | Path | None, resume: bool) -> None:
    """Refuse a folder that cannot be one, or that holds a checkpoint which nobody asked to go on from."""
    if resume and out is None:
        raise InputError("resume needs the run folder: give out")
    if out is not None and not str(out):
        raise InputError("out has no name")
    for folder in [Path(out), *Path(out).parents] if out is not None else []:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{out} cannot be a folder: {folder} is a file")
    if out is not None and not resume and exists(Path(out)):
        raise InputError(f"{out} already holds a checkpoint: resume it, or name another folder")


@contextmanager
def owned(out: Sequence[str | Path | None], ranks: Ranks | None) -> Iterator[None]:
    """Hold the run folders; say with a divergence, or with a disk that is full, which good checkpoint is left."""
    try:
        with held(*out, ranks=ranks):
            yield
    except (Diverged, OSError) as error:
        there = out[0] is not None and exists(Path(out[0]))
        left = f"the checkpoint in {out[0]} is from before it" if there else "there is no checkpoint from before it"
        if isinstance(error, Diverged):
            raise Diverged(f"{error}; {left}") from None
        if error.errno is None or out[0] is None:
            raise
        raise OSError(error.errno, f"{error.strerror}; {left}", error.filename) from error
