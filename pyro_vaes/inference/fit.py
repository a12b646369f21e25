"""Train a pair, or many of one kind together. The loop knows no variant."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vaes.data.augment import Augmentation, augmentation
from pyro_vaes.data.rows import Rows, sampled
from pyro_vaes.errors import InputError, flag, whole
from pyro_vaes.inference import kept
from pyro_vaes.inference.batches import Prefetched, Resident, batches_of, order_of
from pyro_vaes.inference.compile import ENGINES, Engine, choose
from pyro_vaes.inference.finish import finish
from pyro_vaes.inference.guard import (
    as_batch,
    batch_check,
    check_condition,
    check_data,
    check_rows,
    packed,
    takes_holes,
)
from pyro_vaes.inference.interruption import Interruption
from pyro_vaes.inference.joining import joined
from pyro_vaes.inference.loop import BLOCK, Loop
from pyro_vaes.inference.optimiser import rule, suited
from pyro_vaes.inference.plan import History, Plan
from pyro_vaes.inference.ranks import Ranks, answered
from pyro_vaes.inference.rehearsal import rehearse, rehearse_last
from pyro_vaes.inference.replicas import Replicas, copies, each, each_data
from pyro_vaes.inference.schedules import Schedule, check_schedule, find, read
from pyro_vaes.inference.state import load_state, read_engine
from pyro_vaes.inference.track import Track
from pyro_vaes.inference.trackers import Given, guarded
from pyro_vaes.pair import Pair


def fit(
    pair: Pair | Sequence[Pair],
    x: Tensor | Rows | Sequence[Tensor],
    y: Tensor | Sequence[Tensor] | None = None,
    *,
    steps: int = 3000,
    batch_size: int = 128,
    lr: float | Sequence[float] = 1e-3,
    schedule: str = "cosine",
    seed: int | Sequence[int] = 0,
    optimiser: str = "adam",
    betas: Sequence[float] | None = None,
    replicas: int | None = None,
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
    fabric: Any = None,
    tracker: Given = None,
) -> Any:
    """Train a pair on data, or many pairs of one structure together.

    Args:
        pair: any pair; its parameters change in place, and live where the training is. A list of pairs is trained as
            replicas: they may differ in every tensor (parameters, a fixed floor, beta), not in their programs.
        x: (N, d), in the pair's range, or uint8 pixels, which stay bytes until a batch is used; NaN where an entry is
            missing, for an objective that is :class:`~pyro_vaes.inference.masked.Masked`. For replicas one for all,
            or a list of one each, of one shape. Or :class:`~pyro_vaes.data.shards.Shards`, for one pair. Of shards,
            and of more than 4 GiB, parts are checked before the training, and every batch when it is read.
        y: conditions of a conditional pair, labels (N,) or (N, c); for replicas likewise one, or a list. None for
            shards whose rows have labels.
        steps, batch_size, lr, schedule, seed, optimiser, betas: see :class:`~pyro_vaes.inference.plan.Plan`; betas are
            by default those that suit the objective (0.5 and 0.999 for ``wae_gan``, else 0.9 and 0.999); for
            replicas ``lr`` and ``seed`` may be lists. Replicas of one seed given as a number have the seeds ``seed``,
            ``seed + 1``, ...
        replicas: train this many copies of one pair, which start from its parameters and differ in their seeds.
        schedules: settings that change on the way, by name, as (start, end, steps) or a function of the step:
            ``{"beta": (0, 1, 1000)}`` is KL warm-up. See :func:`~pyro_vaes.inference.schedules.settings`.
        augment: fresh randomness in the data at every step: ``dynamic``, ``impulse:0.4``, or a function of a batch.
        engine: ``eager``, ``graph`` or ``inductor`` (see :mod:`~pyro_vaes.inference.compile`), or ``auto``, which
            chooses by number of steps, device and whether there is a compiler. They give the same run, up to rounding.
        device: where to train; by default where the data are. Data that lie elsewhere, or are larger than a gigabyte,
            are read batch by batch, ahead of time; so a memory map is never copied whole.
        out: folder for ``metrics.jsonl`` (as it happens) and ``checkpoint.safetensors``; None writes nothing. Replica r
            writes into ``replica-r`` inside of it, and what it writes is that of an ordinary run.
        resume: go on from the checkpoint in ``out``, if there is one, bit for bit as if never interrupted.
        checkpoint_every, log_every: in steps. progress: show a bar.
        on_step: called with the number of steps taken, after each. That a step was good is known only after its block
            of a hundred; if it was not, the block is taken back.
        fabric: a launched ``lightning_fabric.Fabric`` of the strategy ``ddp``, on every rank: they train one pair on
            W times ``batch_size`` rows per step, from the first rank's parameters; ``out`` is read by all of them and
            written by the first. See :mod:`~pyro_vaes.inference.ranks`.
        tracker: is handed every logged row: a :class:`~pyro_vaes.inference.trackers.Tracker`, or its name, such as
            ``tensorboard``, ``wandb:PROJECT`` or ``mlflow:EXPERIMENT``; for replicas a name, or a list of one each.

    Returns:
        The :class:`~pyro_vaes.inference.plan.History`; for replicas a list of them, each with its ``pair``.

    Raises:
        InputError: for bad data, a bad plan, a folder that holds a checkpoint already (without ``resume``), or a
            checkpoint that belongs to another plan, pair or data; on several ranks for replicas, a pair whose rows
            meet unseen, or ranks that were told different things.
        RankLost: if another rank has gone, or does not answer within Fabric's time.
        Diverged: for a loss or gradient that is not finite; it names step and site. The pair is as it was before that
            step, and the last good checkpoint stays.

    Ctrl-C and SIGTERM end the run after the current step, with a checkpoint. A process that was killed, a full disk, a
    damaged checkpoint: ``docs/faults.md`` says what happens, and what is done about it.

    Source: ours; stochastic variational inference is of Hoffman et al. (2013), its gradients of Kingma & Welling
    (2014).

    >>> from pyro_vaes.variants import l2_vae
    >>> _ = torch.manual_seed(0)
    >>> fit(l2_vae(4, 2, (8,)), torch.rand(20, 4), steps=3, progress=False).step
    3
    >>> [h.step for h in fit(l2_vae(4, 2, (8,)), torch.rand(20, 4), steps=3, replicas=2, progress=False)]
    [3, 3]
    """
    options = {
        "schedules": schedules, "augment": augment, "engine": engine, "device": device, "resume": resume,
        "checkpoint_every": checkpoint_every, "log_every": log_every, "progress": progress, "on_step": on_step,
        "ranks": Ranks.of(fabric),
        "tracker": tracker,
    }  # fmt: skip
    if not isinstance(pair, Pair | Sequence):
        raise InputError(f"a Pair is needed, or a list of them, not {type(pair).__name__}")
    flag("resume", resume)
    if not (on_step is None or callable(on_step)):
        raise InputError(f"on_step is {on_step!r}: it must be a function of the step")
    first = pair if isinstance(pair, Pair) else next(iter(pair), None)
    betas = suited(getattr(first, "objective", None), optimiser) if betas is None else betas
    if replicas is None and isinstance(pair, Pair):
        many = whole("batch_size", batch_size) * getattr(options["ranks"], "count", 1)
        plan = Plan(steps, many, lr, schedule, seed, optimiser, betas)  # type: ignore[arg-type]
        return train([pair], x, y, [plan], [out], stacked=False, **options)[0]  # type: ignore[arg-type]
    if options["ranks"] is not None:
        raise InputError("replicas are trained in one process: give each rank a pair of its own, without fabric")
    pairs = copies(pair, replicas)
    lrs, seeds = each("lr", lr, len(pairs)), each("seed", seed, len(pairs), step=1)
    plans = [
        Plan(steps, batch_size, one, schedule, of, optimiser, betas)  # type: ignore[arg-type]
        for one, of in zip(lrs, seeds, strict=True)
    ]
    folders = [None if out is None else Path(out) / f"replica-{r}" for r in range(len(pairs))]
    return train(pairs, x, y, plans, folders, stacked=True, **options)  # type: ignore[arg-type]


def train(
    pairs: Sequence[Pair],
    x: Tensor | Rows | Sequence[Tensor],
    y: Tensor | Sequence[Tensor] | None,
    plans: Sequence[Plan],
    out: Sequence[str | Path | None],
    *,
    stacked: bool,
    schedules: Mapping[str, Schedule | Sequence[float]] | None,
    augment: str | Augmentation | None,
    engine: str,
    device: str | torch.device | None,
    resume: bool,
    checkpoint_every: int,
    log_every: int,
    progress: bool,
    on_step: Callable[[int], None] | None,
    tracker: Given = None,
    ranks: Ranks | None = None,
) -> list[History]:
    """Train the runs of one engine: what :func:`fit` does, with everything given run by run."""
    given, fresh = read(schedules), augmentation(augment)
    whole("checkpoint_every", checkpoint_every), whole("log_every", log_every)
    data: list[Any] = each_data(x, len(pairs)) if stacked else [x]  # type: ignore[arg-type]
    for folder in out:
        kept.check_folder(folder, resume)
    told = guarded(tracker if ranks is None or ranks.first else None, out, stacked)
    where = _device(pairs[0], data[0], ranks.device if ranks is not None and device is None else device)
    conditions: list[Any] = list(y) if stacked and isinstance(y, list | tuple) else [y] * len(pairs)
    if len(conditions) != len(pairs):
        raise InputError(f"y has {len(conditions)} entries for {len(pairs)} pairs")
    for i, (pair, rows) in enumerate(zip(pairs, data, strict=True)):
        check_data(pair, rows, fresh, holes=takes_holes(pair), large=True)
        conditions[i] = check_condition(pair, rows, conditions[i])
        check_rows(pair, len(rows), plans[i].batch_size)
        check_options(pair.to(where), rows[:2], schedules, augment, engine, conditions[i])
    if pairs[0].condition_dim:
        data = [packed(rows, condition, pairs[0]) for rows, condition in zip(data, conditions, strict=True)]
        x = data if stacked else data[0]
    prepare = _prepared(fresh, pairs[0].data_dim, takes_holes(pairs[0]))
    for pair, rows, plan in zip(pairs, data, plans, strict=True):
        rehearse_last(pair, rows, plan.batch_size, prepare)
    extra = _extra(given, fresh)
    tracks = [
        Track(pair.train(), rows, plan, Path(folder) if folder is not None else None, extra, one, ranks)
        for pair, rows, plan, folder, one in zip(pairs, data, plans, out, told, strict=True)
    ]
    targets = {name: (function, [t for pair in pairs for t in find(pair, name)]) for name, function in given.items()}
    # Noise is drawn from the global generator, which the caller gets back as it was; so are the settings.
    lost = answered(ranks)
    with (
        lost,
        kept.owned(out, ranks),
        torch.random.fork_rng(),
        pyro.validation_enabled(False),
        _given_back(targets.values()),
    ):
        before = kept.common(tracks) if resume else [None] * len(tracks)
        kind, reason = choose(engine, plans[0].steps, where)
        if before[0] is not None and engine == "auto" and before[0][1].get("engine") in ENGINES:
            kind, reason = before[0][1]["engine"], "as before the interruption"
        if ranks is not None:
            progress = progress and ranks.first
            kind, reason = joined(ranks, tracks[0], prepare, before[0], kind, reason)
        runner = _runner(kind, reason, tracks, targets, prepare, stacked, ranks)
        torch.manual_seed(plans[0].seed)
        _restore(tracks, runner, before)
        if progress and engine == "auto":
            tqdm.write(f"engine {kind}: {reason}", file=sys.stderr)
        if ranks is not None:
            tensors = before[0][0] if before[0] else {}
            ranks.noise(tracks[0].history.step, plans[0].seed, tensors, cast("Engine", runner))
        for track in tracks:
            track.history.engine, track.history.pair = runner, track.pair
        orders = [
            order_of(track.x, plan.batch_size, plan.seed, ranks) for track, plan in zip(tracks, plans, strict=True)
        ]
        check = batch_check(pairs[0], fresh is not None, takes_holes(pairs[0])) if sampled(data[0]) else None
        batches = batches_of(x, orders, where, stacked, check)
        with runner if isinstance(runner, Replicas) else nullcontext():
            loop, last = Loop(runner, tracks, batches, targets, ranks), partial(finish, tracks, prepare)
            _run(loop, batches, checkpoint_every, log_every, progress, on_step, last)
    for pair in pairs:
        pair.eval()
    return [track.history for track in tracks]


def _run(
    loop: Loop,
    batches: Resident | Prefetched,
    checkpoint_every: int,
    log_every: int,
    progress: bool,
    on_step: Callable[[int], None] | None,
    last: Callable[[], bool],
) -> None:
    """Run blocks to the end or to a signal, with checkpoints between them; after the end do what is ``last``."""
    began, steps = loop.taken, loop.plan.steps
    bar = tqdm(total=steps, initial=began, desc=loop.tracks[0].pair.name, disable=not progress, leave=False)

    def after(step: int) -> None:
        bar.update()
        if on_step is not None:
            on_step(step)

    try:
        with bar, Interruption(loop.ranks) as wish:
            saved = began
            while loop.taken < steps and wish.signal is None and not loop.stopped:
                next_save = (loop.taken // checkpoint_every + 1) * checkpoint_every
                next_look = (loop.taken // BLOCK + 1) * BLOCK
                loop.block(min(steps, next_save, next_look), wish, log_every, after)
                if loop.taken == next_save:
                    loop.save()
                    saved = loop.taken
            if loop.taken > saved:
                loop.save()
            if loop.taken == steps and wish.signal is None and loop.finish(last, wish):
                loop.save()
            for track in loop.tracks:
                track.history.interrupted = wish.signal
    finally:
        batches.close()
        for track in loop.tracks:
            track.close()


def _runner(
    kind: str,
    reason: str,
    tracks: list[Track],
    targets: Mapping[str, tuple[Schedule, list[Tensor]]],
    prepare: Callable[[Tensor], tuple[Tensor, ...]],
    stacked: bool,
    ranks: Ranks | None,
) -> Engine | Replicas:
    pairs, plans, size = [track.pair for track in tracks], [track.plan for track in tracks], len(tracks[0].x)
    varied = tuple(tensor for _, found in targets.values() for tensor in found)
    batch, made = min(plans[0].batch_size, size), rule(plans[0].optimiser, plans[0].betas)
    if not stacked:
        batch = batch if ranks is None else len(range(ranks.rank, batch, ranks.count))
        return Engine(kind, pairs[0], size, plans[0].lr, reason, prepare, varied, batch, made, ranks)
    lrs, seeds = [plan.lr for plan in plans], [plan.seed for plan in plans]
    return Replicas(kind, pairs, size, lrs, seeds, reason, prepare, batch, made)


def check_options(
    pair: Pair,
    x: Tensor | Rows,
    schedules: Mapping[str, Schedule | Sequence[float]] | None = None,
    augment: str | Augmentation | None = None,
    engine: str = "auto",
    y: Tensor | None = None,
) -> None:
    """Refuse data, settings, augmentations and engines that a fit would refuse, and rehearse a loss.

    Raises:
        InputError: naming what is wrong and what is allowed.
    """
    fresh = augmentation(augment)
    check_data(pair, x, fresh, holes=takes_holes(pair), large=True)
    choose(engine, 1, torch.device("cpu"))
    for name, schedule in read(schedules).items():
        check_schedule(pair, name, schedule)
    y = pair.first_condition(len(x)) if y is None and not isinstance(x, Rows) else y
    y = y if y is None else y[: len(x)].to(x.device)
    rehearse(pair, packed(x, y, pair), _prepared(fresh, pair.data_dim, takes_holes(pair)))


def _prepared(fresh: Augmentation | None, data_dim: int, holes: bool = False) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Make rows what the pair is called with: floats, drawn anew, their condition apart."""

    def prepare(batch: Tensor) -> tuple[Tensor, ...]:
        batch = as_batch(batch)
        x, y = (batch, None) if batch.shape[1] == data_dim else (batch[:, :data_dim], batch[:, data_dim:])
        if fresh is not None:
            # What is missing stays missing.
            x = torch.where(x.isnan(), x, fresh(x.nan_to_num())) if holes else fresh(x)
        return (x,) if y is None else (x, y)

    return prepare


def _device(pair: Pair, x: Tensor | Rows, device: str | torch.device | None) -> torch.device:
    if not isinstance(x, Tensor | Rows):
        check_data(pair, x)
    try:
        return x.device if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def _extra(given: Mapping[str, Schedule], fresh: Augmentation | None) -> dict[str, str]:
    """What a resumed run must have in common besides its plan, in words that are the same in another process."""

    def say(function: object) -> str:
        return repr(function) if hasattr(function, "__dataclass_fields__") else getattr(function, "__qualname__", "")

    words = {f"schedule of {name}": say(function) for name, function in given.items()}
    return words | ({} if fresh is None else {"augmentation": say(fresh)})


def _restore(
    tracks: list[Track], engine: Engine | Replicas, before: Sequence[tuple[dict[str, Tensor], dict] | None]
) -> None:
    """Put every run back to its checkpoint, or begin."""
    steps = {values["step"] for values in (found[1] for found in before if found is not None)}
    states = []
    for run, (track, found) in enumerate(zip(tracks, before, strict=True)):
        if found is not None and track.out is not None:
            states.append(read_engine(found[0], engine.saved(run), track.out / str(track.source)))
    # Nothing has changed up to here, so that a bad checkpoint leaves everything as it was.
    for track, found in zip(tracks, before, strict=True):
        if found is not None and track.out is not None:
            load_state(track.pair, found[0], track.out / str(track.source))
    if states:
        engine.load(states)
    for track in tracks:
        track.open(next(iter(steps), 0))


@contextmanager
def _given_back(targets) -> Iterator[None]:
    """A schedule ends with the training: the settings are again what they were."""
    before = [(tensor, tensor.clone()) for _, found in targets for tensor in found]
    try:
        yield
    finally:
        for tensor, value in before:
            tensor.copy_(value)
