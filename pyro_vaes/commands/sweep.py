"""The command that searches for good arguments."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vaes.commands.files import device_of, locate_data, modelled, read_data, write_figure
from pyro_vaes.commands.images import with_shape
from pyro_vaes.errors import InputError, first_line

if TYPE_CHECKING:
    from pyro_vaes.inference.sweep import Swept


def do_sweep(
    target: str,
    space: str = "",
    data: str = "digits",
    corrupt: str | None = None,
    out: str | None = None,
    trials: int = 20,
    metric: str = "bound",
    held_out: float = 0.2,
    prune: bool = True,
    steps: int = 3000,
    batch_size: int = 128,
    lr: float = 1e-3,
    schedule: str = "cosine",
    seed: int = 0,
    optimiser: str = "adam",
    betas: list[float] | None = None,
    binarise: float | str | None = None,
    root: str = "data",
    split: str = "train",
    limit: int | None = None,
    download: bool = False,
    device: str = "auto",
    engine: str = "auto",
    augment: str | None = None,
    track: str | None = None,
    **arguments: Any,
) -> int:
    """Search for the best arguments of a variant, or of one's own pair, by many trainings; the same command goes on.

    Args:
        target: a variant, or file.py:function, whose own options `sweep TARGET --help` lists: what is not in the space
            stays as it is given there.
        space: a .json file or its text, such as '{"latent_dim": [2, 32], "lr": [1e-4, 1e-2, "log"], "hidden":
            {"choices": [[64], [128, 64]]}}': any option of the target, and steps, batch_size, lr, betas, optimiser,
            schedule.
        data: a data set by name, or a .npy, .npz, .csv, .mat file or image folder.
        corrupt: make the data dirty first, such as impulse:0.4.
        out: the folder, by default sweeps/TARGET: trials.json, figures, and a run folder trial-0007 for each trial.
        trials: how many in all.
        metric: bound or loss of the rows held out; or rmse of them, cleaned, where --corrupt made them dirty.
        held_out: the share of the rows that no trial is trained on.
        prune: stop trials that are worse than the median of those before them.
        steps: optimiser steps of every trial.
        batch_size: rows per step.
        lr: the learning rate.
        schedule: cosine or constant.
        seed: of the proposals, the held-out rows, the parameters, the corruption, the data order and the noise.
        optimiser: adam or adagrad.
        betas: Adam's two weights, such as "[0.9,0.99]".
        binarise: for the Bernoulli variants: a threshold; or dynamic, static, threshold05, threshold0_inverted, gray.
        root: where data sets lie.
        split: train or test.
        limit: take this many rows only.
        download: let torchvision fetch the data set.
        device: cpu, cuda, or auto.
        engine: eager, graph (traced), inductor (traced and compiled), or auto.
        augment: draw the data anew at every step, dynamic or impulse:FRACTION.
        track: every trial by tensorboard, tensorboard:FOLDER, wandb:PROJECT or mlflow:EXPERIMENT.
    """
    from pyro_vaes.commands.training import binarised_augment
    from pyro_vaes.inference.run import Run, locate
    from pyro_vaes.inference.sweep import sweep

    varied = read_space_text(space)
    # What the run of a trial is made from: its data are those that the others are held out of.
    source: dict[str, Any] = {
        "source": locate_data(data), "root": root, "split": split, "limit": limit, "corrupt": corrupt,
        "binarise": binarise, "seed": seed,
    }  # fmt: skip
    if metric == "rmse" and corrupt is None:
        raise InputError("metric rmse is of data that were made dirty here: give --corrupt")
    augment = binarised_augment(binarise, augment)
    dataset, x, _ = read_data(source, download)
    x, y, shape = modelled(None, dataset, x)
    fixed = {name: value for name, value in with_shape(target, arguments, shape).items() if name not in varied}
    folder = Path(f"sweeps/{Path(target).stem}" if out is None else out)
    config = {
        "target": locate(target), "data_dim": x.shape[1], "shape": list(shape),
        "data": source | {"held_out": held_out}, "start": None, "device": device, "engine": engine,
        "schedules": {}, "augment": augment, "condition": None, "stage_steps": None, "checkpoint_every": 500,
        "labels": None, "missing": None, "track": track,
    }  # fmt: skip

    def write_config(path: Path, own: dict[str, Any], plan: dict[str, Any]) -> None:
        Run.create(path, {**config, "arguments": own, "plan": {**plan, "betas": list(plan["betas"])}})

    found = sweep(
        target, x, varied, _conditions(target, fixed, varied, x, y), out=folder, trials=trials, metric=metric,
        held_out=held_out, truth=dataset.x if metric == "rmse" else None, prune=prune, arguments=fixed,
        steps=steps, batch_size=batch_size, lr=lr, schedule=schedule, seed=seed, optimiser=optimiser, betas=betas,
        augment=augment, engine=engine, device=device_of(device), tracker=track, before=write_config,
    )  # fmt: skip
    if found.interrupted is not None:
        print(f"stopped after {_counted(found)}: the same command goes on")
        return 128 + found.interrupted
    from pyro_vaes.evaluation.sweep_plots import figures

    for name, figure in figures(found).items():
        write_figure(folder / name, figure)
    print(f"wrote {folder}: trials.json, {_counted(found)}")
    if found.best is None:
        print("other processes are still at work on it")
        return 0
    given = source | {"data": data, "batch_size": batch_size, "steps": steps, "lr": lr, "schedule": schedule}
    given |= {"optimiser": optimiser, "betas": betas, "augment": augment, "device": device, "engine": engine}
    given |= {"binarise": binarise} | ({"augment": None} if binarise is not None else {})
    told = {**given, **fixed, **found.best["parameters"], "out": str(folder / "best")}
    print(f"best: trial {found.best['number']}, {metric} {found.best['value']:.4f}: "
          + ", ".join(f"{name} {value}" for name, value in found.best["parameters"].items()))  # fmt: skip
    print(f"to train it in full: {fit_command(target, told)}")
    return 0


def read_space_text(space: str) -> dict[str, Any]:
    """Read a space from its file, or from itself.

    >>> read_space_text('{"latent_dim": [2, 32]}')
    {'latent_dim': [2, 32]}
    """
    if not space:
        raise InputError("a sweep needs a space: --space '{\"latent_dim\": [2, 32]}', or a .json file")
    inline = space.lstrip().startswith("{")
    where = "space" if inline else f"space {space}"
    try:
        text = space if inline else Path(space).read_text()
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        hint = "" if inline else "; it must be a .json file, or the text itself"
        raise InputError(f"{where} is not readable: {first_line(error)}{hint}") from None
    if not isinstance(found, dict):
        raise InputError(f'{where} must name arguments, such as {{"latent_dim": [2, 32]}}')
    return found


def fit_command(target: str, options: dict[str, Any]) -> str:
    """The command that trains with these options; what is as it would be without them is left out.

    >>> fit_command("t_vae", {"latent_dim": 3, "hidden": [64], "beta": 1.0, "data": "digits", "steps": 3000})
    "pyro-vaes fit t_vae --latent_dim=3 '--hidden=[64]'"
    """
    import inspect

    from pyro_vaes.commands.training import do_fit
    from pyro_vaes.inference.run import target_function

    known = {**inspect.signature(do_fit).parameters, **inspect.signature(target_function(target)).parameters}
    words = ["pyro-vaes", "fit", target]
    for name, value in options.items():
        default = known[name].default if name in known else None
        default = list(default) if isinstance(default, tuple) else default
        if name in known and value != default:
            words.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return shlex.join(words)


def _conditions(target: str, fixed: dict[str, Any], varied: dict[str, Any], x: Any, y: Any) -> Any:
    """The labels, if the pair takes them. Whether it does, no argument decides; any pair of the target tells."""
    from pyro_vaes.commands.files import condition_for
    from pyro_vaes.inference.run import build, target_function
    from pyro_vaes.inference.space import read_space, split_values

    least = {name: one.ends()[0] for name, one in read_space(varied, target_function(target)).items()}
    pair = build(target, x.shape[1], {**fixed, **split_values(least)[0]})
    return condition_for(pair, None, x, y, "the data set")


def _counted(found: "Swept") -> str:
    states = [row["state"] for row in found.trials]
    counts = ((state, states.count(state)) for state in dict.fromkeys(states))
    return ", ".join(f"{count} {state}" for state, count in counts) or "no trial"
