"""Search for good arguments: many short trainings, compared on rows that none of them was trained on."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vaes.errors import InputError, first_line, whole
from pyro_vaes.inference.checkpoint import write_atomically
from pyro_vaes.inference.fit import check_options, fit
from pyro_vaes.inference.guard import Diverged, check_condition, check_rows
from pyro_vaes.inference.journal import LOCK, FileLock, Journal, quiet
from pyro_vaes.inference.loop import BLOCK
from pyro_vaes.inference.plan import Plan
from pyro_vaes.inference.run import target_function
from pyro_vaes.inference.space import Space, read_space, split_values
from pyro_vaes.inference.stages import stages_of
from pyro_vaes.inference.trackers import Stopped, Tracker, read_tracker
from pyro_vaes.inference.trials import METRICS, Task, checksum, task_of
from pyro_vaes.pair import Pair

ABOUT, TABLE = "sweep.json", "trials.json"
# How often, at most, a trial is looked at while it trains.
LOOKS = 10


@dataclass(frozen=True)
class Swept:
    """What a sweep has come to so far.

    Attributes:
        out: its folder. metric: what was compared.
        trials: rows of ``trials.json``, by number: number, state (complete, pruned, failed, lost or running), value,
            parameters, seconds, and why it failed.
        best: the row of the best complete trial, or None.
        importances: the share of the metric's spread that each parameter accounts for (PED-ANOVA), where there are
            trials enough; else empty.
        interrupted: the signal that ended it early, or None.

    Source: ours.

    >>> Swept(Path("s"), "bound", [], None).best is None
    True
    """

    out: Path
    metric: str
    trials: list[dict[str, Any]] = field(repr=False)
    best: dict[str, Any] | None
    importances: dict[str, float] = field(default_factory=dict)
    interrupted: int | None = None


class Watch:
    """The tracker of a trial: reports to Optuna while it trains, and stops it where Optuna has seen enough.

    It looks at steps divisible by ``every``, a multiple of a block: there the pair is as it was after that step.
    """

    def __init__(self, trial: Any, value: Callable[[], float], every: int | None, last: int, also: Tracker | None):
        self.trial, self.value, self.every, self.last, self.also = trial, value, every, last, also

    def start(self, config: dict[str, Any]) -> None:
        if self.also is not None:
            self.also.start(config)

    def log(self, step: int, values: dict[str, float]) -> None:
        if self.also is not None:
            self.also.log(step, values)
        if self.every is None or step % self.every or step >= self.last:
            return
        with quiet():
            self.trial.report(self.value(), step)
            if self.trial.should_prune():
                raise Stopped(f"worse at step {step} than the median of the trials before it")

    def finish(self, status: str) -> None:
        if self.also is not None:
            self.also.finish(status)


def sweep(
    target: str | Callable[..., Pair],
    x: Tensor,
    space: Mapping[str, Any],
    y: Tensor | None = None,
    *,
    out: str | Path,
    trials: int = 20,
    metric: str = "bound",
    held_out: float = 0.2,
    truth: Tensor | None = None,
    prune: bool = True,
    arguments: Mapping[str, Any] | None = None,
    steps: int = 3000,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    seed: int = 0,
    optimiser: str = "adam",
    betas: Sequence[float] | None = None,
    augment: str | None = None,
    engine: str = "auto",
    device: str | torch.device | None = None,
    tracker: str | None = None,
    progress: bool = True,
    before: Callable[[Path, dict[str, Any], dict[str, Any]], None] | None = None,
) -> Swept:
    """Search for the arguments and the plan of the best pair, with Optuna (extra ``sweeps``).

    Each trial trains a pair on the same rows, from the same seed, and is judged by the rows held out. Proposals are
    those of the tree-structured Parzen estimator, the first ten random. The same call on the same folder goes on, also
    after a kill at any moment; with one process it comes to what it would have come to without.
    Several processes may work on one folder; then what is proposed depends on who was first.

    Args:
        target: a variant, ``file.py:function``, or a function that takes ``data_dim`` and gives a pair.
        x: (N, d), in the pair's range. y: conditions of a conditional pair, labels (N,) or (N, c).
        space: what varies; see :func:`~pyro_vaes.inference.space.read_space`:
            ``{"latent_dim": [2, 32], "lr": [1e-4, 1e-2, "log"], "hidden": {"choices": [[64], [128, 64]]}}``.
        out: folder of the sweep: ``sweep.json``, ``trials.json``, ``journal.jsonl`` (Optuna's), and ``trial-0007`` with
            what ``fit(out=...)`` writes.
        trials: in all, at least 1; more may be asked for later. Those that fail, or are pruned, count.
        metric: of the held-out rows: ``bound`` or ``loss`` in nats per datum, or ``rmse`` of what was cleaned against
            ``truth``. Losses compare only where the space leaves the objective as it is: no beta.
        held_out: the share of the rows that is judged by, in (0, 1), drawn once from the seed.
        truth: (N, d), the clean data, for ``rmse``; known only where one has made the data dirty oneself.
        prune: stop a trial that, at one of ten looks, is worse than the median of those before it; from the sixth on.
        arguments: of the target, that stay as they are.
        steps, batch_size, lr, schedule, seed, optimiser, betas, augment, engine, device: of every trial, as in ``fit``;
            what is augmented is drawn once for the held-out rows.
        tracker: by name, for every trial; see :class:`~pyro_vaes.inference.trackers.Tracker`.
        progress: show a bar.
        before: called with a trial's folder, arguments and plan, before it is trained.

    Returns:
        A :class:`Swept`.

    Raises:
        InputError: for bad input, before any work; a folder that holds another sweep; or if every trial failed.

    Source: Akiba et al. (2019), Optuna; Bergstra et al. (2011) for the estimator.

    >>> import tempfile
    >>> from pyro_vaes.variants import l2_vae
    >>> with tempfile.TemporaryDirectory() as out:
    ...     found = sweep(l2_vae, torch.rand(20, 4), {"latent_dim": [1, 3]}, out=out, trials=2, steps=3, progress=False)
    >>> [row["state"] for row in found.trials]
    ['complete', 'complete']
    """
    if find_spec("optuna") is None:
        raise InputError('sweeps need Optuna: pip install "pyro-vaes[sweeps]"')
    whole("trials", trials)
    function = target_function(target) if isinstance(target, str) else target
    if not callable(function):
        raise InputError("target must be a variant, file.py:function, or a function that gives a pair")
    read = read_space(space, function)
    plan = {"steps": steps, "batch_size": batch_size, "lr": lr, "schedule": schedule, "seed": seed}
    plan |= {"optimiser": optimiser, "betas": None if betas is None else list(betas)}
    options = {"augment": augment, "engine": engine, "device": device, "tracker": tracker}
    task = task_of(target, x, y, truth, metric, held_out, dict(arguments or {}), plan, options)
    _check(task, read)
    about = {
        "target": f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', target)}",
        "space": {name: str(one) for name, one in read.items()}, "metric": metric, "held_out": held_out,
        "arguments": task.arguments, "plan": plan, "augment": augment, "prune": prune,
        "data": [list(x.shape), checksum(x)],
    }  # fmt: skip
    folder = _folder(out, about)
    with quiet():
        journal = Journal(folder, METRICS[metric], {name: one.distribution() for name, one in read.items()}, seed)
    ended = _work(journal, task, read, trials, prune, progress, before)
    with quiet():
        found = _swept(journal, read, metric, ended)
        write_table(found)
    if ended is None and found.best is None and not any(row["state"] == "running" for row in found.trials):
        why = next((row["why"] for row in found.trials if row["why"]), "none is complete")
        raise InputError(f"no trial of {folder} succeeded: {why}")
    return found


def _work(
    journal: Journal,
    task: Task,
    space: Space,
    trials: int,
    prune: bool,
    progress: bool,
    before: Callable[[Path, dict[str, Any], dict[str, Any]], None] | None,
) -> int | None:
    """Run trials until there are as many as were asked for, or a signal comes; give that."""
    bar = tqdm(total=trials, desc="trials", disable=not progress, leave=False)
    with bar:
        while True:
            with quiet():
                begun = journal.begin(trials)
                bar.n = sum(t.state.is_finished() for t in journal.known())
            bar.refresh()
            if begun is None:
                return None
            trial, lock = begun
            try:
                ended = _one(journal, trial, task, space, prune, before)
            finally:
                # Whatever was not told by now is lost, and taken up again by the next who begins.
                lock.release()
            with quiet():
                write_table(_swept(journal, space, task.metric, ended, importances=False))
            if ended is not None:
                return ended


def _one(
    journal: Journal,
    trial: Any,
    task: Task,
    space: Space,
    prune: bool,
    before: Callable[[Path, dict[str, Any], dict[str, Any]], None] | None,
) -> int | None:
    """Train one pair and tell what it came to; give the signal that interrupted it, if one did."""
    own, planned = split_values({name: one.value(trial.params[name]) for name, one in space.items()})
    folder, began, states = journal.out / f"trial-{trial.number:04d}", time.monotonic(), journal.states
    try:
        pair = task.pair(own)
        plan = task.plan_of(planned, pair)
        if before is not None:
            before(folder, {**task.arguments, **own}, plan)
        also = None if task.options["tracker"] is None else read_tracker(task.options["tracker"])
        every = _every(space, task.plan["steps"]) if prune else None
        watch = Watch(trial, partial(task.value, pair), every, plan["steps"], also)
        x, y = task.rows
        options = {**task.options, "tracker": watch, "log_every": 20, "progress": False}
        history = fit(pair, x, y, **plan, **options, out=folder)
        if history.interrupted is not None:
            return history.interrupted
        value = None if history.stopped else task.value(pair)
    except (InputError, Diverged, MemoryError, torch.OutOfMemoryError) as error:
        _tell(journal, trial, states.FAIL, began, why=first_line(error))
        return None
    if value is None:
        _tell(journal, trial, states.PRUNED, began, why=history.stopped)
    elif not math.isfinite(value):
        _tell(journal, trial, states.FAIL, began, why=f"its {task.metric} is {value}")
    else:
        _tell(journal, trial, states.COMPLETE, began, value)
    return None


def _tell(journal: Journal, trial: Any, state: Any, began: float, value: float | None = None, why: str = "") -> None:
    with quiet():
        trial.set_user_attr("seconds", round(time.monotonic() - began, 3))
        trial.set_user_attr("why", why or None)
        journal.study.tell(trial, value, state)


def _every(space: Space, steps: int) -> int:
    """Steps between two looks, the same for all trials: whole blocks, about a tenth of the shortest."""
    varied = space.get("steps")
    least = steps if varied is None else min(varied.ends())
    return max(1, round(least / LOOKS / BLOCK)) * BLOCK


def _swept(journal: Journal, space: Space, metric: str, ended: int | None, importances: bool = True) -> Swept:
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    lost, rows = journal.lost(), list[dict[str, Any]]()
    for trial in journal.study.get_trials(deepcopy=False):
        if trial.state == journal.states.WAITING:
            continue
        complete = trial.state == journal.states.COMPLETE
        rows.append({
            "number": trial.number,
            "state": "lost" if trial.number in lost else names.get(trial.state.name, "running"),
            "value": trial.value if complete else None,
            "parameters": {name: one.value(trial.params[name]) for name, one in space.items() if name in trial.params},
            "seconds": trial.user_attrs.get("seconds"),
            "why": trial.user_attrs.get("why"),
        })  # fmt: skip
    done = [row for row in rows if row["state"] == "complete"]
    sign = 1 if METRICS[metric] == "minimize" else -1
    best = min(done, key=lambda row: (sign * row["value"], row["number"]), default=None)
    shares = _importances(journal) if importances and len(done) >= 10 and len(space) > 1 else {}
    return Swept(journal.out, metric, rows, best, shares, ended)


def _importances(journal: Journal) -> dict[str, float]:
    import optuna

    try:
        by = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(journal.study, evaluator=by))
    except (ValueError, RuntimeError):  # all values the same
        return {}


def write_table(found: Swept) -> None:
    """Write ``trials.json``, whole."""
    content = {"metric": found.metric, "best": found.best and found.best["number"], "trials": found.trials}
    write_atomically(found.out / TABLE, (json.dumps(content, indent=1) + "\n").encode())


def _check(task: Task, space: Space) -> None:
    """Build a pair at both ends of every range and for every choice, and refuse here what a trial would refuse."""
    both = sorted(set(task.arguments) & set(space))
    if both:
        raise InputError(f"{both[0]} is in the space, and given as well: leave one out")
    least = {name: one.ends()[0] for name, one in space.items()}
    for name, one in space.items():
        for i, value in enumerate(one.ends()):
            own, planned = split_values({**least, name: value})
            try:
                pair = task.pair(own)
                plan = task.plan_of(planned, pair)
                Plan(**plan)
            except InputError as error:
                raise InputError(f"space: {name} = {value!r}: {error}") from None
            if i == 0 and name == next(iter(space)):
                _check_pair(task, pair)
            check_rows(pair, len(task.rows[0]), plan["batch_size"])


def _check_pair(task: Task, pair: Pair) -> None:
    if stages_of(pair):
        raise InputError(f"{pair.name} is fitted in stages: a sweep trains pairs in one")
    x, y = task.rows
    check_condition(pair, x, y)
    check_options(pair, x, None, task.options["augment"], task.options["engine"], y)


def _folder(out: str | Path, about: dict[str, Any]) -> Path:
    """Make the folder, or see that it holds this very sweep."""
    if not str(out):
        raise InputError("out has no name")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: a sweep needs a folder")
    if folder.exists() and not (folder / ABOUT).exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
        raise InputError(f"{folder} is a folder with other files in it: name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    about = json.loads(json.dumps(about, default=str))
    with FileLock(folder / LOCK):
        if not (folder / ABOUT).exists():
            write_atomically(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())
            return folder
        try:
            was = json.loads((folder / ABOUT).read_text())
        except (ValueError, OSError, RecursionError) as error:
            raise InputError(f"{folder / ABOUT} is not readable: {first_line(error)}") from None
    for key, value in about.items():
        if not isinstance(was, dict) or was.get(key) != value:
            before = was.get(key) if isinstance(was, dict) else was
            raise InputError(f"{folder} holds another sweep: its {key} was {before!r}, is {value!r}")
    return folder
