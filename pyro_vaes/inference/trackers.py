"""Hand the rows of a run to a tracker: TensorBoard, Weights & Biases, MLflow, or an object of one's own."""

import json
import re
import sys
import time
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from tqdm import tqdm

from pyro_vaes.errors import InputError, first_line, said, short, unknown
from pyro_vaes.inference.checkpoint import write_atomically

KEPT = "tracker.json"
# What a folder is called inside of that of its run, sweep or fit in stages: a name needs both.
PART = re.compile(r"(replica|stage|trial)-\d+")


class Stopped(Exception):
    """Raised by a tracker's ``log``, it ends the training after the block of steps that was looked at.

    That is no error: a checkpoint is written, ``History.stopped`` holds the message, and the run can be resumed. Of
    replicas it ends all.

    Source: ours.

    >>> import torch
    >>> import pyro_vaes as pv
    >>> class Enough:
    ...     def start(self, config): pass
    ...     def log(self, step, values):
    ...         if step >= 100:
    ...             raise pv.Stopped(f"no more after {step}")
    ...     def finish(self, status): print(status)
    >>> pair, x = pv.l2_vae(4, 2, (8,)), torch.rand(6, 4)
    >>> history = pv.fit(pair, x, steps=300, engine="eager", progress=False, tracker=Enough())
    stopped
    >>> history.step, history.stopped
    (100, 'no more after 100')
    """


@runtime_checkable
class Tracker(Protocol):
    """What ``fit(..., tracker=...)`` calls: three methods, from the host, where rows are logged.

    ``start(config)``: once, with the plan and the pair in plain values, ``name``, ``out`` (the folder, or None),
    ``step``, after which the run goes on (0 for a new one), and ``logged``, the last step that was logged before an
    interruption: rows between the two are computed, and handed on, again.

    ``log(step, values)``: a row as a flat dict of numbers: ``loss``, ``bound``, ``terms/x``, ``seen/accuracy``, ``lr``,
    ``epoch``, ``seconds``. Rows come in blocks of a hundred steps; at steps divisible by a hundred the pair is as it
    was after that step. :class:`Stopped` ends the run.

    ``finish(status)``: ``finished``, ``interrupted`` (a signal), ``stopped`` or ``failed``.

    Any other exception is told in one line, once, and the training goes on without the tracker.

    Source: ours.

    >>> isinstance(TensorBoard(), Tracker)
    True
    """

    def start(self, config: dict[str, Any]) -> None: ...

    def log(self, step: int, values: dict[str, float]) -> None: ...

    def finish(self, status: str) -> None: ...


class TensorBoard:
    """Write event files for TensorBoard (extra ``tensorboard``).

    Args:
        folder: a folder for each run is made in it, by the run's name; by default ``tensorboard`` in the run folder.

    A resumed run goes on in its folder: steps after the checkpoint are purged and written again.

    Source: ours, of torch.utils.tensorboard.

    >>> TensorBoard("logs").folder
    PosixPath('logs')
    """

    needs: ClassVar = ("tensorboard", "pyro-vaes[tensorboard]")

    def __init__(self, folder: str | Path | None = None):
        if folder is not None and not str(folder):
            raise InputError("tensorboard: the folder has no name")
        self.folder = None if folder is None else Path(folder)

    def start(self, config: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        where = self.folder / config["name"] if self.folder is not None else Path(config["out"]) / "tensorboard"
        self.writer = SummaryWriter(str(where), purge_step=config["step"] + 1)
        if not config["step"]:
            text = json.dumps(config, indent=2, default=str)
            self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, status: str) -> None:
        self.writer.close()


class WandB:
    """Log to Weights & Biases (``pip install wandb``); ``WANDB_MODE=offline`` needs no network.

    Args:
        project: of W&B. mode: ``online``, ``offline`` or ``disabled``; None leaves it to W&B and its environment.

    The id of its run is kept in ``tracker.json``, so that a resumed run goes on in it. W&B itself does not
    resume a run that is offline: there the pieces are folders that share their id and no step, and it depends on the
    version of W&B whether ``wandb sync`` joins them.

    W&B itself is not among what the tests install: they call this with a stand-in of the documented signatures
    (``init``, ``Run.log``, ``Run.finish``).

    Source: ours.

    >>> WandB("faces").project
    'faces'
    """

    needs: ClassVar = ("wandb", "wandb")

    def __init__(self, project: str, mode: str | None = None):
        if mode not in (None, "online", "offline", "disabled"):
            raise unknown("mode of W&B", str(mode), ["online", "offline", "disabled"])
        self.project, self.mode = _named("wandb", "project", project), mode

    def start(self, config: dict[str, Any]) -> None:
        import wandb

        before = kept(config["out"], "wandb")
        self.after = config["logged"] if before else 0
        mine = before or uuid.uuid4().hex[:12]
        # Several at once, of replicas, and none of them the global run of the process.
        self.run = wandb.init(
            project=self.project, id=mine, name=config["name"], config=config, dir=config["out"], mode=self.mode,
            resume="allow", reinit="create_new",
        )  # fmt: skip
        keep(config["out"], "wandb", mine)

    def log(self, step: int, values: dict[str, float]) -> None:
        if step > self.after:
            self.run.log(values, step=step)

    def finish(self, status: str) -> None:
        self.run.finish(exit_code=1 if status == "failed" else 0)


class MLflow:
    """Log to MLflow (``pip install mlflow``), to the server or folder that MLFLOW_TRACKING_URI names.

    Args:
        experiment: its name; made if there is none.

    The id of its run is kept in ``tracker.json``, so that a resumed run goes on in it.

    MLflow itself is not among what the tests install: they call this with a stand-in of the documented signatures of
    ``mlflow.MlflowClient``.

    Source: ours.

    >>> MLflow("faces").experiment
    'faces'
    """

    needs: ClassVar = ("mlflow", "mlflow")
    allowed = re.compile(r"[^A-Za-z0-9_\-. /]")  # what a name may not hold, such as the @ of z@2
    states: ClassVar = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

    def __init__(self, experiment: str):
        self.experiment = _named("mlflow", "experiment", experiment)

    def start(self, config: dict[str, Any]) -> None:
        import mlflow

        # The client, because the module's own functions know of one active run only, and replicas are several.
        self.client = mlflow.MlflowClient()
        before = kept(config["out"], "mlflow")
        self.after = config["logged"] if before else 0
        if before is not None:
            self.run = before
            self.client.update_run(before, status="RUNNING")
            return
        found = self.client.get_experiment_by_name(self.experiment)
        where = self.client.create_experiment(self.experiment) if found is None else found.experiment_id
        self.run = self.client.create_run(where, run_name=config["name"]).info.run_id
        keep(config["out"], "mlflow", self.run)
        for name, value in flat(config, every=True).items():
            self.client.log_param(self.run, self.allowed.sub("_", name), str(value)[:500])

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        if step > self.after:
            now = int(time.time() * 1000)
            metrics = [Metric(self.allowed.sub("_", name), value, now, step) for name, value in values.items()]
            self.client.log_batch(self.run, metrics=metrics)

    def finish(self, status: str) -> None:
        self.client.set_terminated(self.run, status=self.states[status])


class Guarded:
    """A tracker that may fail: it says so once, in one line, and the training goes on without it.

    Args:
        tracker: to call. folder: of the run. name: of the run, for those without a folder.
    """

    def __init__(self, tracker: Tracker, folder: Path | None, name: str):
        self.tracker: Tracker | None = tracker
        self.folder, self.name = folder, name
        self.stopped: str | None = None

    def start(self, pair: str, plan: dict[str, Any], step: int, logged: int) -> None:
        own = {"name": name_of(self.folder) or f"{pair}{self.name}", "out": self.folder and str(self.folder)}
        told = {"pair": pair, **plan, **_config(self.folder)}
        self._call("start", {**told, **own, "step": step, "logged": max(step, logged)})

    def log(self, row: dict[str, Any]) -> None:
        self._call("log", row["step"], {name: v for name, v in flat(row).items() if name != "step"})

    def finish(self, status: str) -> None:
        self._call("finish", status)

    def _call(self, method: str, *given: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, method)(*given)
        except Stopped as stop:
            self.stopped = short(stop) or "stopped by the tracker"
        except Exception as error:
            name, self.tracker = type(self.tracker).__name__, None
            tqdm.write(f"tracking by {name} ends, the training goes on: {first_line(error)}", file=sys.stderr)


def guarded(tracker: "Given", folders: Sequence[str | Path | None], stacked: bool) -> list[Guarded | None]:
    """Give every run its tracker: one by name for each, or the object, or those of a list.

    Raises:
        InputError: for what is no tracker, a package that is missing, or one object for several runs.

    >>> guarded(None, [None, None], stacked=True)
    [None, None]
    """
    several = isinstance(tracker, Sequence) and not isinstance(tracker, str)
    if several and (not stacked or len(tracker) != len(folders)):  # type: ignore[arg-type]
        runs = f"{len(folders)} runs" if stacked else "one run, which takes one"
        raise InputError(f"tracker has {len(tracker)} entries for {runs}")  # type: ignore[arg-type]
    if stacked and not several and not isinstance(tracker, str | None):
        raise InputError("one tracker object cannot follow replicas: give a list of one each, or a name")
    made: list[Guarded | None] = []
    for i, folder in enumerate(folders):
        one: Any = tracker[i] if several else tracker  # type: ignore[index]
        path = None if folder is None else Path(folder)
        ready = _ready(one, path)
        made.append(None if ready is None else Guarded(ready, path, f"-{i}" if stacked else ""))
    return made


def read_tracker(spec: str) -> Tracker:
    """Make the tracker that a name stands for.

    Args:
        spec: ``tensorboard``, ``tensorboard:FOLDER``, ``wandb:PROJECT`` or ``mlflow:EXPERIMENT``.

    Raises:
        InputError: for another.

    >>> read_tracker("wandb:faces").project
    'faces'
    """
    kind, colon, rest = spec.partition(":")
    if kind == "tensorboard":
        return TensorBoard(rest if colon else None)
    if kind in ("wandb", "mlflow"):
        return WandB(rest) if kind == "wandb" else MLflow(rest)
    raise unknown("tracker", spec, ["tensorboard", "tensorboard:FOLDER", "wandb:PROJECT", "mlflow:EXPERIMENT"])


def _ready(tracker: "Tracker | str | None", folder: Path | None) -> Tracker | None:
    """A tracker that can be started, as far as can be known before."""
    if tracker is None:
        return None
    made = read_tracker(tracker) if isinstance(tracker, str) else tracker
    if isinstance(made, type) or not isinstance(made, Tracker):
        raise InputError(f"tracker is {said(tracker)}: it must have start(config), log(step, values), finish(status)")
    module, package = getattr(made, "needs", (None, None))
    # What stands in for a module in sys.modules has no spec, and find_spec then raises.
    if module is not None and module not in sys.modules and find_spec(module) is None:
        raise InputError(f'{type(made).__name__} needs {module}: pip install "{package}"')
    if isinstance(made, TensorBoard) and made.folder is None and folder is None:
        raise InputError("tensorboard has no folder: give out, or tensorboard:FOLDER")
    return made


def flat(values: dict[str, Any], every: bool = False) -> dict[str, Any]:
    """The numbers of nested dicts under the names of their paths; with ``every`` all other values too.

    >>> flat({"loss": 1.0, "terms": {"x": 2.0}, "pair": "vae"})
    {'loss': 1.0, 'terms/x': 2.0}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": v for inner, v in flat(value, every).items()}
        elif every or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[name] = value
    return found


def name_of(folder: Path | None) -> str:
    """The name of a run by its folder; a part is called by that of the whole too.

    >>> name_of(Path("runs/faces")), name_of(Path("runs/faces/replica-1"))
    ('faces', 'faces-replica-1')
    """
    parts: list[str] = []
    for path in () if folder is None else (folder.resolve(), *folder.resolve().parents):
        parts.insert(0, path.name)
        if not PART.fullmatch(path.name):
            break
    return "-".join(parts)


def kept(out: str | None, kind: str) -> str | None:
    """The id under which a tracker knows the run of a folder, if it knows it."""
    try:
        found = json.loads((Path(out) / KEPT).read_text())[kind] if out is not None else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) and re.fullmatch(r"[\w-]{1,64}", found) else None


def keep(out: str | None, kind: str, mine: str) -> None:
    if out is not None:
        write_atomically(Path(out) / KEPT, (json.dumps({kind: mine}) + "\n").encode())


def _config(folder: Path | None) -> dict[str, Any]:
    """What the command line wrote about the run: its target, arguments and data."""
    try:
        found = json.loads((folder / "config.json").read_text()) if folder is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    names = ("target", "arguments", "data", "condition", "augment", "missing")
    return {name: found[name] for name in names if name in found} if isinstance(found, dict) else {}


def _named(kind: str, what: str, name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{kind} needs the name of its {what}: {kind}:{what.upper()}")
    return name


Given = Tracker | str | Sequence[Tracker | str | None] | None
