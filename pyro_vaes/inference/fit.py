"""Train a pair, or many of one kind together. The loop knows no variant."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vaes.data.augment import Augmentation, augmentation
from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.batches import LARGE, Order, Prefetched, Resident
from pyro_vaes.inference.compile import ENGINES, Engine, choose
from pyro_vaes.inference.guard import Diverged, Interruption, as_batch, check_data, rehearse
from pyro_vaes.inference.loop import BLOCK, Loop
from pyro_vaes.inference.plan import History, Plan
from pyro_vaes.inference.schedules import Schedule, find, read
from pyro_vaes.inference.state import load_state, read_engine
from pyro_vaes.inference.track import CHECKPOINT, Track
from pyro_vaes.pair import Pair


def fit(
    pair: Pair,
    x: Tensor,
    *,
    steps: int = 3000,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    seed: int = 0,
    schedules: Mapping[str, Schedule | Sequence[float]] | None = None,
    augment: str | Augmentation | None = None,
    engine: str = "auto",
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    log_every: int = 20,
    progress: bool = True,
    on_step: Callable[[int], None] | None = None,
) -> History:
    """Train a pair on data with Adam.

    Args:
        pair: any pair; its parameters change in place, and live where the training is.
        x: (N, d), in the pair's range, or uint8 pixels, which stay bytes until a batch is used.
        steps, batch_size, lr, schedule, seed: see :class:`~pyro_vaes.inference.plan.Plan`.
        schedules: settings that change on the way, by name, as (start, end, steps) or a function of the step:
            ``{"beta": (0, 1, 1000)}`` is KL warm-up. See :func:`~pyro_vaes.inference.schedules.settings`.
        augment: fresh randomness in the data at every step: ``binarise``, ``impulse:0.4``, or a function of a batch.
        engine: ``eager``, ``graph`` or ``inductor`` (see :mod:`~pyro_vaes.inference.compile`), or ``auto``, which chooses by
            the number of steps, the device and whether there is a compiler. They give the same run, up to rounding.
        device: where to train; by default where the data are. Data that lie elsewhere, or are larger than a gigabyte,
            are read batch by batch, ahead of time; so a memory map is never copied whole.
        out: folder for ``metrics.jsonl`` (as it happens) and ``checkpoint.safetensors``; None writes nothing.
        resume: go on from the checkpoint in ``out``, if there is one, bit for bit as if never interrupted.
        checkpoint_every, log_every: in steps.
        progress: show a bar.
        on_step: called with the number of steps taken, after each. That a step was good is known only after its block of
            a hundred; if it was not, the block is taken back.

    Raises:
        InputError: for bad data, a bad plan, a folder that holds a checkpoint already (without ``resume``), or a
            checkpoint that belongs to another plan, pair or data.
        Diverged: for a loss or gradient that is not finite; it names step and site. The pair is as it was before that step,
            and the last good checkpoint stays.

    Ctrl-C and SIGTERM end the run after the current step, with a checkpoint.

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> fit(l2_vae(4, 2, (8,)), torch.rand(20, 4), steps=3, progress=False).step
    3
    """
    plan = Plan(steps, batch_size, lr, schedule, seed)
    given, fresh = read(schedules), augmentation(augment)
    _check(pair, x, fresh, engine, out, resume, checkpoint_every, log_every)
    where = _device(x, device)
    pair.to(where)
    targets = {name: (function, find(pair, name)) for name, function in given.items()}
    prepare = as_batch if fresh is None else lambda batch: fresh(as_batch(batch))
    rehearse(pair, x, prepare)
    folder = Path(out) if out is not None else None
    # Noise is drawn from the global generator, which the caller gets back as it was; so are the settings.
    with _naming(out), torch.random.fork_rng(), pyro.validation_enabled(False), _given_back(targets.values()):
        track = Track(pair.train(), x, plan, folder, _extra(given, fresh))
        before = track.read() if resume else None
        kind, reason = choose(engine, steps, where)
        if before is not None and engine == "auto" and before[1].get("engine") in ENGINES:
            kind, reason = before[1]["engine"], "as before the interruption"
        varied = tuple(tensor for _, found in targets.values() for tensor in found)
        runner = Engine(kind, pair, len(x), lr, reason, prepare, varied, min(batch_size, len(x)))
        torch.manual_seed(seed)
        if before is not None:
            _restore(track, runner, *before)
        track.open(before[1]["step"] if before is not None else 0)
        track.history.engine = runner
        batches = _batches(x, [Order(len(x), batch_size, seed, x.device)], where)
        loop = Loop(runner, [track], batches, targets)
        _run(loop, batches, pair.name, checkpoint_every, log_every, progress, on_step)
    pair.eval()
    return track.history


def _run(
    loop: Loop,
    batches: Resident | Prefetched,
    name: str,
    checkpoint_every: int,
    log_every: int,
    progress: bool,
    on_step: Callable[[int], None] | None,
) -> None:
    """Run blocks to the end or to a signal, with checkpoints between them."""
    began, steps = loop.taken, loop.plan.steps
    bar = tqdm(total=steps, initial=began, desc=name, disable=not progress, leave=False)

    def after(step: int) -> None:
        bar.update()
        if on_step is not None:
            on_step(step)

    try:
        with bar, Interruption() as wish:
            while loop.taken < steps and wish.signal is None:
                next_save = (loop.taken // checkpoint_every + 1) * checkpoint_every
                next_look = (loop.taken // BLOCK + 1) * BLOCK
                loop.block(min(steps, next_save, next_look), wish, log_every, after)
                if loop.taken == next_save:
                    loop.save()
            for track in loop.tracks:
                track.history.interrupted = wish.signal
            if loop.taken > began:
                loop.save()
    finally:
        batches.close()
        for track in loop.tracks:
            track.close()


def _check(
    pair: Pair,
    x: Tensor,
    fresh: Augmentation | None,
    engine: str,
    out: str | Path | None,
    resume: bool,
    checkpoint_every: int,
    log_every: int,
) -> None:
    check_data(pair, x, fresh)
    choose(engine, 1, torch.device("cpu"))
    if resume and out is None:
        raise InputError("resume needs the run folder: give out")
    if out is not None and not resume and (Path(out) / CHECKPOINT).exists():
        raise InputError(f"{out} already holds a checkpoint: resume it, or name another folder")
    whole("checkpoint_every", checkpoint_every)
    whole("log_every", log_every)


def _device(x: Tensor, device: str | torch.device | None) -> torch.device:
    try:
        return x.device if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def _batches(x: Tensor, orders: list[Order], device: torch.device) -> Resident | Prefetched:
    if x.device == device and x.numel() * x.element_size() < LARGE:
        return Resident(x, orders)
    return Prefetched(x, orders, device)


def _extra(given: Mapping[str, Schedule], fresh: Augmentation | None) -> dict[str, str]:
    """What a resumed run must have in common besides its plan, in words that are the same in another process."""

    def say(function: object) -> str:
        return repr(function) if hasattr(function, "__dataclass_fields__") else getattr(function, "__qualname__", "")

    words = {f"schedule of {name}": say(function) for name, function in given.items()}
    return words | ({} if fresh is None else {"augmentation": say(fresh)})


def _restore(track: Track, engine: Engine, tensors: dict[str, Tensor], values: dict) -> None:
    assert track.out is not None
    path = track.out / CHECKPOINT
    expected = engine.saved()
    found = read_engine(tensors, expected, path)
    # Nothing has changed up to here, so that a bad checkpoint leaves everything as it was.
    load_state(track.pair, tensors, path)
    for name, tensor in zip(expected, found, strict=True):
        if name.startswith("adam."):
            expected[name].copy_(tensor)
    engine.set_random([tensor for name, tensor in zip(expected, found, strict=True) if name.startswith("random.")])


@contextmanager
def _given_back(targets) -> Iterator[None]:
    """A schedule ends with the training: the settings are again what they were."""
    before = [(tensor, tensor.clone()) for _, found in targets for tensor in found]
    try:
        yield
    finally:
        for tensor, value in before:
            tensor.copy_(value)


@contextmanager
def _naming(out: str | Path | None) -> Iterator[None]:
    """Say with a divergence which good checkpoint is left."""
    try:
        yield
    except Diverged as error:
        there = out is not None and (Path(out) / CHECKPOINT).exists()
        kept = f"the checkpoint in {out} is from before it" if there else "there is no checkpoint from before it"
        raise Diverged(f"{error}; {kept}") from None
