"""A run: a folder from which anything about a training can be redone."""

import importlib.metadata
import importlib.util
import inspect
import json
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from pyro_vaes import __version__
from pyro_vaes.errors import InputError, first_line, read_small, said
from pyro_vaes.inference import checkpoint, kept
from pyro_vaes.inference.lock import held, holder, transient
from pyro_vaes.inference.masked import Masked
from pyro_vaes.inference.plan import Plan
from pyro_vaes.inference.state import load_state
from pyro_vaes.inference.track import METRICS, read_rows
from pyro_vaes.inference.trust import check_code, code_of, remember
from pyro_vaes.pair import Pair
from pyro_vaes.variants import variant

CONFIG = "config.json"


@dataclass(frozen=True)
class Run:
    """A run folder: ``config.json``, ``metrics.jsonl``, ``checkpoint.safetensors``, figures.

    Attributes:
        path: the folder.
        config: everything the run was made from: target, arguments, data, corruption, plan, versions.
        trust: the file of code that the config names, if any, may be executed; without that it is only where this
            account has trained with that code itself, or has consented before.

    Source: ours.

    >>> Run.open("/nowhere")
    Traceback (most recent call last):
        ...
    pyro_vaes.errors.InputError: /nowhere is not a run folder: there is no config.json in it
    """

    path: Path
    config: dict[str, Any]
    trust: bool = False

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any], replace: bool = False) -> "Run":
        """Make the folder and write its config; the folder must not hold another run, unless that may be replaced.

        Whoever goes on to train in it holds it with :func:`~pyro_vaes.inference.lock.held`, from before this call.

        Raises:
            InputError: if the path is a file, holds a run already, or other files.
        """
        cls.check(path, replace)
        with held(path):
            path = cls.check(path, replace)  # again: another process may have been faster
            config = {**config, "code": code_of(config["target"]), "versions": versions()}
            checkpoint.write_atomically(path / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        remember(config)
        return cls(path, config)

    @staticmethod
    def check(path: str | Path, replace: bool = False) -> Path:
        """Refuse what :meth:`create` refuses, and make nothing."""
        if not str(path):
            raise InputError("the run folder has no name")
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file: a run needs a folder")
        if (path / CONFIG).exists() and not replace:
            if who := holder(path):
                raise InputError(f"{path} already holds a run, in use by {who}: name another folder")
            raise InputError(f"{path} already holds a run: resume it, or name another folder")
        if path.exists() and any(not transient(file.name) for file in path.iterdir()) and not replace:
            raise InputError(f"{path} is a folder with other files in it: name a new one, so that none is overwritten")
        return path

    @classmethod
    def open(cls, path: str | Path, *, trust: bool = False) -> "Run":
        """Read a run folder. No code runs; :meth:`pair` may run the file that the config names, if you trust it.

        Raises:
            InputError: if the folder or its config is not that of a run.
        """
        path = Path(path)
        if (path / "replica-0" / CONFIG).is_file():
            raise InputError(f"{path} holds replicas: name one of them, such as {path / 'replica-0'}")
        if not (path / CONFIG).is_file():
            raise InputError(f"{path} is not a run folder: there is no {CONFIG} in it")
        try:
            config = json.loads(read_small(path / CONFIG))
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path / CONFIG} is not readable: {first_line(error)}") from None
        if isinstance(config, dict):
            # What a run had before these could be chosen.
            later: dict[str, Any] = {"engine": "eager", "schedules": {}, "augment": None, "condition": None}
            later |= {"stage_steps": None, "labels": None, "missing": None, "devices": 1, "num_nodes": 1, "code": None}
            config = later | {"track": None} | config
        _check_types(config, TYPES, str(path / CONFIG))
        strange = sorted(set(config["plan"]) - {field.name for field in fields(Plan)})
        if strange:
            raise InputError(f"{path / CONFIG}: plan has {strange[0]!r}, which no plan has")
        if math.prod(config["shape"]) != config["data_dim"]:
            raise InputError(f"{path / CONFIG}: shape {config['shape']} does not hold {config['data_dim']} entries")
        return cls(path, config, trust)

    def untrained(self, seed: int = 0, function: Callable[..., Pair] | None = None) -> Pair:
        """Build the run's pair, its networks as they start from ``seed``.

        Args:
            function: what to build it with, instead of what the config names.

        Raises:
            InputError: if the target cannot be found, or is a file of code that is not to be trusted yet.
        """
        config = self.config
        if function is None:
            check_code(config, self.path, self.trust)
        target = config["target"] if function is None else function
        return build(target, config["data_dim"], config["arguments"], seed, config["missing"])

    def pair(self, function: Callable[..., Pair] | None = None) -> Pair:
        """Build the run's pair and load its trained parameters.

        If the checkpoint is damaged, the one before it is taken, and a :class:`~pyro_vaes.errors.FaultWarning` says so.

        Args:
            function: what to build it with, ``my_pair`` itself, so that no file needs to be trusted.

        Raises:
            InputError: if the target cannot be found or is not to be trusted, or the checkpoint is missing, damaged
                (and so is the one before it) or of another pair.
        """
        if not kept.exists(self.path) and (self.path / "stage-1").is_dir():
            raise InputError(f"{self.path} is not trained to its last stage: pyro-vaes fit --resume {self.path}")
        pair = self.untrained(function=function)
        (tensors, _), name = kept.load(self.path)
        load_state(pair, tensors, self.path / name)
        return pair.eval()

    def rows(self) -> list[dict[str, Any]]:
        """The logged steps, first to last."""
        return read_rows(self.path / METRICS)


TYPES: dict[str, Any] = {
    "target": str,
    "arguments": dict,
    "data_dim": int,
    "shape": list,
    "start": str | None,
    "device": str,
    "engine": str,
    "schedules": dict,
    "augment": str | None,
    "condition": str | None, "track": str | None,
    "stage_steps": list | None, "labels": int | None, "devices": int, "num_nodes": int,
    "missing": int | float | None, "checkpoint_every": int, "code": str | None,
    "data": {
        "source": str, "root": str, "split": str, "limit": int | None, "corrupt": str | None,
        "binarise": int | float | str | None, "seed": int,
    },
    "plan": {"steps": int, "batch_size": int, "lr": int | float, "schedule": str, "seed": int},
}  # fmt: skip


def _check_types(value: Any, types: dict[str, Any], where: str) -> None:
    """Compare a config, key by key, with what it must hold."""
    if not isinstance(value, dict):
        raise InputError(f"{where} is not the config of a run: {type(value).__name__} instead of named values")
    for key, kind in types.items():
        if key not in value:
            raise InputError(f"{where} is not the config of a run: it lacks {key!r}")
        if isinstance(kind, dict):
            _check_types(value[key], kind, f"{where}: {key}")
        elif not isinstance(value[key], kind) or isinstance(value[key], bool):
            raise InputError(f"{where}: {key} is {said(value[key])}, which is no {getattr(kind, '__name__', kind)}")
    if not all(isinstance(n, int) and n > 0 for n in value.get("shape", [])):
        raise InputError(f"{where}: shape is {said(value['shape'])}: it must hold whole numbers of at least 1")


def target_function(target: str) -> Callable[..., Pair]:
    """Find what a target names: a variant, or ``file.py:function`` of one's own.

    Raises:
        InputError: if there is no such variant, file or function.

    >>> target_function("t_vae").__name__
    't_vae'
    """
    if ":" not in target:
        return variant(target)
    file, _, name = target.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"no file {file}: a target is a variant, or file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # What lies beside the file can be imported, as when it is run.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        # Not by the loader, which would run a compiled __pycache__ in place of the text that was read and trusted.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        raise InputError(f"{file} could not be run: {first_line(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise InputError(f"{file} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function


def locate(target: str) -> str:
    """Name the file of a target by its full path, so that the run can be read from anywhere."""
    file, colon, name = target.rpartition(":")
    return f"{Path(file).resolve()}:{name}" if colon else target


def build(
    target: str | Callable[..., Pair],
    data_dim: int,
    arguments: dict[str, Any],
    seed: int = 0,
    missing: float | None = None,
) -> Pair:
    """Call a target; its networks start from ``seed``.

    Args:
        target: what :func:`target_function` finds, or the function itself.
        missing: the share of entries that its objective hides in training; see
            :class:`~pyro_vaes.inference.masked.Masked`. None leaves the objective as it is.

    Raises:
        InputError: if the target takes other arguments, or gives no :class:`~pyro_vaes.pair.Pair`.
    """
    function = target_function(target) if isinstance(target, str) else target
    target = target if isinstance(target, str) else said(target)
    try:
        inspect.signature(function).bind(data_dim=data_dim, **arguments)
    except TypeError as error:
        raise InputError(f"{target}: {error}; it takes {', '.join(inspect.signature(function).parameters)}") from None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            pair = function(data_dim=data_dim, **arguments)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"{target} could not be built: {first_line(error)}") from error
    if not isinstance(pair, Pair):
        raise InputError(f"{target} gave a {type(pair).__name__}: it must give a Pair")
    if missing is not None:
        pair.objective = Masked(pair.objective, missing)
    return pair


def versions() -> dict[str, str]:
    """What a result depends on besides its config: library, packages, device.

    >>> "torch" in versions()
    True
    """
    packages = {name: importlib.metadata.version(name) for name in ("torch", "pyro-ppl", "numpy", "scikit-learn")}
    return {"pyro-vaes": __version__, **packages, "python": platform.python_version(), "device": device()}


def device() -> str:
    """Name the device in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"
