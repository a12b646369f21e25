"""Commands that train: demo, variants, describe, fit, resume, reproduce, bench."""

import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pyro_vaes.commands.files import (
    condition_for,
    device_of,
    is_image,
    locate_data,
    modelled,
    named,
    of_shards,
    read_data,
    write_figure,
)
from pyro_vaes.commands.images import with_shape
from pyro_vaes.commands.labels import kept_labels
from pyro_vaes.commands.ranks import fabric_of, launch
from pyro_vaes.commands.replicas import check_free, replicas_of
from pyro_vaes.commands.stages import check_stages, fitted, report
from pyro_vaes.errors import InputError, whole
from pyro_vaes.inference.lock import held

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.inference.plan import History
    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair


def do_variants() -> None:
    """List every variant: its p, its q, its objective, its source."""
    from pyro_vaes.card import card
    from pyro_vaes.variants import VARIANTS

    for name, function in VARIANTS.items():
        fields = card(function)
        print(f"{name}\n    p: {fields['p']}\n    q: {fields['q']}")
        print(f"    objective: {fields['objective']}\n    source: {fields['source']}")


def do_describe(target: str, data_dim: int = 64, **arguments: Any) -> None:
    """Show the sites of a variant or of one's own pair: site | p | q | shape.

    Args:
        target: a variant, or file.py:function.
        data_dim: entries per datum.
    """
    from pyro_vaes.inference.run import build

    print(build(target, data_dim, arguments).describe())


def do_fit(
    target: str,
    data: str = "digits",
    corrupt: str | None = None,
    out: str | None = None,
    start: str | None = None,
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
    schedules: dict[str, list[float]] | None = None,
    augment: str | None = None,
    condition: str | None = None,
    labels: int | None = None,
    missing: float | None = None,
    replicas: int = 1,
    stage_steps: list[int] | None = None,
    checkpoint_every: int = 500,
    devices: int = 1,
    strategy: str = "ddp",
    num_nodes: int = 1,
    timeout: float = 600,
    track: str | None = None,
    **arguments: Any,
) -> int:
    """Train a variant, or one's own pair, on a data set, dirty or made dirty; write a run folder.

    Args:
        target: a variant, or file.py:function, whose own options `fit TARGET --help` lists; left out, it is t_vae,
            which learns its own scale.
        data: a data set by name, or a .npy, .npz, .csv, .mat file or image folder; or shards, a folder of .parquet or
            .tar files or a pattern such as "many/*.parquet", which stay on disk.
        corrupt: make the data dirty first, such as impulse:0.4, salt_and_pepper:0.1, circles:0.6.
        out: the run folder, by default runs/TARGET.
        start: a run folder to take the first parameters from, such as that of an ic_vae for a ric_vae.
        steps: optimiser steps.
        batch_size: rows per step, of each device.
        lr: the learning rate.
        schedule: cosine or constant.
        seed: of the parameters, the corruption, the data order and the noise.
        optimiser: adam or adagrad.
        betas: Adam's two weights, such as "[0.9,0.99]"; left out, "[0.9,0.999]", for wae_gan "[0.5,0.999]".
        binarise: for the Bernoulli variant: a threshold, above which values are 1; or dynamic (drawn anew at every
            step), static (drawn once), threshold05, threshold0_inverted, gray (as they are).
        root: where data sets lie.
        split: train or test.
        limit: take this many rows only.
        download: let torchvision fetch the data set.
        device: cpu, cuda, or auto.
        engine: eager, graph (traced), inductor (traced and compiled), or auto.
        schedules: settings that change on the way, '{"beta": [0, 1, 1000]}' for beta from 0 to 1 in 1000 steps.
        augment: draw the data anew at every step, dynamic or impulse:FRACTION.
        condition: what a conditional variant is given: labels, those of the data, as without this; or quadrants:N, so
            many quadrants of an image, from which it predicts the others (condition_dim follows).
        labels: keep only so many labels, as many of every class, drawn from the seed; for variants such as m2_vae that
            take data without one.
        missing: hide this share of the entries of every datum at every step, so that the guide learns to impute (see
            impute); NaN in the data is missing too, and 0 hides nothing else.
        replicas: train this many seeds together, each into a run folder replica-N inside of out (other floors or
            rates: from Python).
        stage_steps: steps of each stage, such as [3000,6000], of a variant that is fitted in stages (two_stage_vae);
            without it each has `steps`.
        checkpoint_every: steps between checkpoints.
        devices: processes that train together, each on batch_size rows per step; torchrun and SLURM start them
            themselves, and are told the same number here.
        strategy: how, ddp: each has all parameters, and they average their gradients.
        num_nodes: machines with so many devices each.
        timeout: seconds after which a process that gets no answer from another stops.
        track: hand the logged rows to tensorboard, tensorboard:FOLDER, wandb:PROJECT or mlflow:EXPERIMENT.
    """
    from pyro_vaes.inference.optimiser import BETAS, suited
    from pyro_vaes.inference.plan import Plan
    from pyro_vaes.inference.ranks import Ranks, answered
    from pyro_vaes.inference.run import Run, build, locate

    source = {
        "source": locate_data(data), "root": root, "split": split, "limit": limit, "corrupt": corrupt,
        "binarise": binarise, "seed": seed,
    }  # fmt: skip
    plan: dict[str, Any] = {
        "steps": steps, "batch_size": batch_size, "lr": lr, "schedule": schedule, "seed": seed,
        "optimiser": optimiser, "betas": BETAS if betas is None else betas,
    }  # fmt: skip
    Plan(**plan)
    fabric = fabric_of(devices, num_nodes, strategy, device_of(device), timeout)
    if fabric is not None and whole("replicas", replicas) > 1:
        raise InputError("replicas are trained in one process: leave out devices and num_nodes, or replicas")
    augment = binarised_augment(binarise, augment)
    dataset, x, _ = read_data(source, download, missing is not None)
    of_shards(x, labels=labels, replicas=replicas)
    x, y, shape = modelled(condition, dataset, x)
    if y is not None and y.dim() == 2:
        if augment is not None:
            raise InputError(
                f"augment {augment} would draw the predicted pixels anew, not the observed ones: leave it out, "
                "and make the data binary beforehand, such as binarise=threshold05"
            )
        arguments = _with_condition_dim(target, arguments, y.shape[1])
    arguments = with_shape(target, arguments, shape)
    count = whole("replicas", replicas)
    pairs = [build(target, x.shape[1], arguments, seed + r, missing) for r in range(count)]
    plan["betas"] = list(suited(pairs[0].objective, optimiser) if betas is None else betas)
    config = {
        "target": locate(target), "arguments": arguments, "data_dim": x.shape[1], "shape": list(shape),
        "data": source, "plan": plan, "start": start, "device": device, "engine": engine,
        "schedules": schedules or {}, "augment": augment, "condition": condition,
        "stage_steps": stage_steps, "checkpoint_every": checkpoint_every, "labels": labels, "missing": missing,
        "devices": devices, "num_nodes": num_nodes, "track": track,
    }  # fmt: skip
    check_stages(pairs[0], plan, stage_steps)
    for pair in pairs:
        _first_parameters(pair, start)
    y = condition_for(pairs[0], condition, x, kept_labels(pairs[0], y, labels, seed), data)
    _check_before(pairs[0], x, y, config)
    print(pairs[0].describe())
    folder = Path(f"runs/{pairs[0].name}" if out is None else named(out))
    if replicas == 1:
        Run.check(folder)
        first, ranks = launch(fabric), Ranks.of(fabric)
        with answered(ranks), held(folder, ranks=ranks):
            run = Run.create(folder, config) if first else Run(folder, config)
            return _train([run], pairs, x, y, resume=False, fabric=fabric)
    check_free(folder)
    with held(folder):
        # The first one last: where it is missing, the start was cut off, and nobody takes a part for the whole.
        runs = [
            Run.create(folder / f"replica-{r}", {**config, "plan": {**plan, "seed": seed + r}}, replace=True)
            for r in reversed(range(replicas))
        ]
        return _train(runs[::-1], pairs, x, y, resume=False)


def do_resume(
    run: str, devices: int | None = None, strategy: str = "ddp", num_nodes: int | None = None, timeout: float = 600
) -> int:
    """Go on with an interrupted fit, bit for bit as if it had never stopped (also: fit --resume RUN).

    On another number of devices the rows of each step and their order stay; the noise is other, and each device has
    other rows.

    Args:
        run: the run folder, or that of all replicas.
        devices: processes that train together, by default as many as before.
        strategy: ddp.
        num_nodes: machines, by default as many as before.
        timeout: seconds after which a process that gets no answer from another stops.
    """
    from pyro_vaes.inference.ranks import Ranks, answered
    from pyro_vaes.inference.run import Run

    folders = [Run.open(path) for path in replicas_of(Path(run)) or [Path(run)]]
    first = folders[0].config
    rows = first["plan"]["batch_size"] * first["devices"] * first["num_nodes"]
    devices = first["devices"] if devices is None else devices
    num_nodes = first["num_nodes"] if num_nodes is None else num_nodes
    fabric = fabric_of(devices, num_nodes, strategy, device_of(first["device"]), timeout)
    if rows % (devices * num_nodes):
        raise InputError(f"{run} takes {rows} rows per step, which {devices * num_nodes} devices cannot share evenly")
    first["plan"]["batch_size"] = rows // (devices * num_nodes)
    dataset, x, _ = read_data(first["data"], missing=first["missing"] is not None)
    x, y, _ = modelled(first["condition"], dataset, x)
    pairs = []
    for folder in folders:
        pairs.append(folder.untrained(folder.config["plan"]["seed"]))
        _first_parameters(pairs[-1], folder.config["start"])
    check_stages(pairs[0], first["plan"], first["stage_steps"])
    y = kept_labels(pairs[0], y, first["labels"], first["data"]["seed"])
    y = condition_for(pairs[0], first["condition"], x, y, first["data"]["source"])
    launch(fabric)
    ranks = Ranks.of(fabric)
    with answered(ranks), held(run, ranks=ranks):
        return _train(folders, pairs, x, y, resume=True, fabric=fabric)


def _train(
    runs: "list[Run]", pairs: "list[Pair]", x: "Tensor", y: "Tensor | None", resume: bool, fabric: Any = None
) -> int:
    from torch import Tensor

    from pyro_vaes.data.rows import size
    from pyro_vaes.inference.compile import describe
    from pyro_vaes.inference.guard import JOINED
    from pyro_vaes.inference.shapes import EngineWarning

    config = runs[0].config
    options = {"engine": config["engine"], "schedules": config["schedules"], "augment": config["augment"]}
    where = device_of(config["device"]) if fabric is None else fabric.device
    options |= {"checkpoint_every": config["checkpoint_every"], "device": where, "fabric": fabric}
    options |= {"tracker": config["track"]}
    if isinstance(x, Tensor) and size(x) <= JOINED:  # what is larger stays where it is, and is read batch by batch
        x, y = x.to(where), None if y is None else y.to(where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)  # describe() says it too
        histories = fitted(runs, pairs, x, y, options, resume)
    if fabric is not None and fabric.global_rank:
        return 0  # what is left to say and to draw is the first one's, and so is the exit code
    print(describe(cast("Any", histories[0].engine)))
    if histories[-1].interrupted is not None:
        where = shlex.quote(str(runs[0].path if len(runs) == 1 else runs[0].path.parent))
        print(f"stopped at step {histories[-1].step}; go on with: pyro-vaes fit --resume {where}")
        return 128 + histories[-1].interrupted
    for run, pair, history in zip(runs, pairs, histories, strict=True):
        _report(run, pair, history, x, y)
    return 0


def _report(run: "Run", pair: "Pair", history: "History", x: "Tensor", y: "Tensor | None") -> None:
    """Show what a training came to: curve, images, and the two numbers to look at."""
    from pyro_vaes.evaluation.plots import image_rows
    from pyro_vaes.inference.guard import as_batch, first_rows
    from pyro_vaes.inference.posterior import ordinary_residual, reconstruct

    shape = run.config["shape"]
    x, few = first_rows(pair, x, y, 512)
    if run.config["missing"] is not None:
        x = pair.objective.filled(as_batch(x[:512]))  # type: ignore[attr-defined]
    if is_image(shape):
        batch = as_batch(x[:14])
        rows = {"data": batch.cpu(), "cleaned": reconstruct(pair, batch, few if few is None else few[:14])[0].cpu()}
        write_figure(run.path / "cleaned.png", image_rows(rows, shape, title=pair.name))
    figures = report(pair, history, run.path)
    print(
        f"ordinary residual (the floor, or scale): {ordinary_residual(pair, x[:512], few):.4f} in the units of the data"
    )
    print(f"wrote {run.path}: config.json, metrics.jsonl, checkpoint.safetensors, {', '.join(figures)}")


def _check_before(pair: "Pair", x: "Tensor", y: "Tensor | None", config: dict[str, Any]) -> None:
    """Everything that can be refused is refused before the run folder exists."""
    from pyro_vaes.inference.fit import check_options
    from pyro_vaes.inference.guard import check_rows
    from pyro_vaes.inference.trackers import guarded

    device_of(config["device"])
    check_options(pair, x, config["schedules"], config["augment"], config["engine"], y)
    check_rows(pair, len(x), config["plan"]["batch_size"])
    whole("checkpoint_every", config["checkpoint_every"])
    guarded(config["track"], [""], stacked=False)


def _with_condition_dim(target: str, arguments: dict[str, Any], observed: int) -> dict[str, Any]:
    """Set the target's condition_dim, if it has one, to the observed pixels; another that was asked for is refused."""
    import inspect

    from pyro_vaes.inference.run import target_function

    if "condition_dim" not in arguments:
        return arguments
    asked = arguments["condition_dim"]
    if asked not in (observed, inspect.signature(target_function(target)).parameters["condition_dim"].default):
        raise InputError(f"condition_dim is {asked}, but {observed} pixels are observed: leave it out")
    return {**arguments, "condition_dim": observed}


def binarised_augment(binarise: float | str | None, augment: str | None) -> str | None:
    """The augmentation that a binarisation asks for; two that contradict each other are refused."""
    from pyro_vaes.data.augment import DYNAMIC
    from pyro_vaes.data.binarise import read_kind

    if binarise is None:
        return augment
    kind = read_kind(binarise)
    if kind == "dynamic" and augment not in (None, *DYNAMIC):
        raise InputError(f"--binarise dynamic and --augment {augment}: a step draws its data in one way only")
    if isinstance(kind, str) and kind != "dynamic" and augment in DYNAMIC:
        raise InputError(f"--binarise {kind} and --augment {augment}, which is dynamic: choose one binarisation")
    return "dynamic" if kind == "dynamic" else augment


def _first_parameters(pair: "Pair", start: str | None) -> None:
    if start is not None:
        from pyro_vaes.inference.run import Run
        from pyro_vaes.inference.state import warm_start

        warm_start(pair, Run.open(start).pair())
