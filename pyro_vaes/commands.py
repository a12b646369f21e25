"""What the command line does: each function is one command, and a one-liner in Python as well.

Heavy imports stand inside the functions, so that `pyro-vaes --help` answers at once.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vaes.errors import InputError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.data import Dataset
    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair


def do_demo(out: str = "runs/demo", scale: str = "quick") -> None:
    """Clean 1797 dirty digits with nine methods, and show what came out.

    Args:
        out: folder for the report, the figures, the numbers and the trained t_vae.
        scale: quick (about two minutes on 2 cores) or paper (five seeds, twice the steps).
    """
    from pyro_vaes.experiments.demo import write

    check_scale(scale)
    write(Path(out), scale)


def do_variants() -> None:
    """List every variant: its p, its q, its objective, its source."""
    from pyro_vaes.variants import VARIANTS, card

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
    binarise: float | None = None,
    root: str = "data",
    split: str = "train",
    limit: int | None = None,
    download: bool = False,
    device: str = "auto",
    checkpoint_every: int = 500,
    **arguments: Any,
) -> int:
    """Train a variant, or one's own pair, on a data set, dirty or made dirty; write a run folder.

    Args:
        target: a variant, or file.py:function.
        data: a data set by name, or a .npy, .npz, .csv, .mat file or image folder.
        corrupt: make the data dirty first, such as impulse:0.4, salt_and_pepper:0.1, circles:0.6, gaussian:0.2.
        out: the run folder, by default runs/TARGET.
        start: a run folder to take the first parameters from, such as that of an ic_vae for a ric_vae.
        steps: optimiser steps.
        batch_size: rows per step.
        lr: Adam's learning rate.
        schedule: cosine or constant.
        seed: of the parameters, the corruption, the data order and the noise.
        binarise: make values above this one 1 and the others 0, for the Bernoulli variant.
        root: where data sets lie.
        split: train or test.
        limit: take this many rows only.
        download: let torchvision fetch the data set.
        device: cpu, cuda, or auto.
        checkpoint_every: steps between checkpoints.
    """
    from pyro_vaes.inference.run import Run, build, locate

    source = {
        "source": _locate_data(data), "root": root, "split": split, "limit": limit, "corrupt": corrupt,
        "binarise": binarise, "seed": seed,
    }  # fmt: skip
    plan = {"steps": steps, "batch_size": batch_size, "lr": lr, "schedule": schedule, "seed": seed}
    dataset, x, _ = _data(source, download)
    pair = build(target, x.shape[1], arguments, seed)
    config = {
        "target": locate(target), "arguments": arguments, "data_dim": x.shape[1], "shape": list(dataset.shape),
        "data": source, "plan": plan, "start": start, "device": device, "checkpoint_every": checkpoint_every,
    }  # fmt: skip
    _first_parameters(pair, start)
    _check_before(pair, x, plan)
    run = Run.create(out or f"runs/{pair.name}", config)
    print(pair.describe())
    return _train(run, pair, x, dataset, resume=False)


def do_resume(run: str) -> int:
    """Go on with an interrupted fit, bit for bit as if it had never stopped (also: fit --resume RUN).

    Args:
        run: the run folder.
    """
    from pyro_vaes.inference.run import Run, build

    folder = Run.open(run)
    config = folder.config
    dataset, x, _ = _data(config["data"])
    pair = build(config["target"], config["data_dim"], config["arguments"], config["plan"]["seed"])
    _first_parameters(pair, config.get("start"))
    return _train(folder, pair, x, dataset, resume=True)


def do_clean(
    run: str,
    input: str,
    output: str,
    passes: int | None = None,
    draws: int = 32,
    threshold: float = 2.0,
    root: str = "data",
) -> None:
    """Clean data with a trained run.

    Args:
        run: the run folder.
        input: a data set by name, a file, or an image folder.
        output: a .npz file (mean, sd, score, probability, mask), or a .npy file (the cleaned array alone).
        passes: how often the answer goes in again, by default what the variant says.
        draws: posterior draws for the standard deviation.
        threshold: residuals larger than this many ordinary ones are outliers.
        root: where data sets lie.
    """
    import numpy as np

    from pyro_vaes.evaluation.plots import image_rows
    from pyro_vaes.inference.guard import as_batch
    from pyro_vaes.inference.posterior import clean as clean_pair

    pair, dataset = _trained_and_data(run, input, root)
    path = _output(output, input, run, (".npz", ".npy"))
    found = clean_pair(pair, dataset.x, passes=passes, draws=draws, threshold=threshold)
    arrays = {name: value.numpy().reshape(-1, *dataset.shape) for name, value in vars(found).items()}
    if path.suffix == ".npy":
        _write_array(path, lambda file: np.save(file, arrays["mean"]))
    else:
        _write_array(path, lambda file: np.savez_compressed(file, **arrays))
    print(f"{len(dataset.x)} data cleaned; {found.mask.float().mean():.1%} of the entries look like outliers")
    print(f"wrote {path}" + (f": {', '.join(arrays)}, each {arrays['mean'].shape}" if path.suffix == ".npz" else ""))
    if _is_image(dataset.shape):
        rows = {"input": as_batch(dataset.x[:14]), "cleaned": found.mean[:14], "P(outlier)": found.probability[:14]}
        figure = image_rows(rows, dataset.shape, maps=_outlier_map(dataset.shape), title=f"{pair.name}: {input}")
        _write_figure(path.with_suffix(".png"), figure)


def do_detect(run: str, input: str, output: str | None = None, inlier: int | None = None, root: str = "data") -> None:
    """Find the samples that do not belong, without labels.

    Args:
        run: the run folder.
        input: a data set by name, a file, or an image folder.
        output: a .csv file for row, score and outlier (0 or 1).
        inlier: the label that belongs, where the data have labels; then F1 is printed.
        root: where data sets lie.
    """
    from pyro_vaes.evaluation.detection import detect as detect_pair
    from pyro_vaes.evaluation.metrics import f1
    from pyro_vaes.inference.checkpoint import write_atomically

    pair, dataset = _trained_and_data(run, input, root)
    path = _output(output, input, run, (".csv",)) if output else None
    if inlier is not None and dataset.y is None:
        raise InputError(f"{input} has no labels: leave --inlier out")
    if inlier is not None and dataset.y is not None and inlier not in dataset.y:
        raise InputError(f"no datum of {input} has the label {inlier}; labels are {dataset.y.unique().tolist()[:20]}")
    found = detect_pair(pair, dataset.x)
    print(
        f"{int(found.outlier.sum())} of {len(found.outlier)} samples are outliers (score above {found.threshold:.5f})"
    )
    worst = found.score.argsort(descending=True)[:10].tolist()
    print("largest scores: " + ", ".join(f"row {i} ({found.score[i]:.4f})" for i in worst))
    if inlier is not None and dataset.y is not None:
        print(f"F1 against the label {inlier}: {f1(found.outlier, dataset.y != inlier):.4f}")
    if path is not None:
        lines = [
            f"{i},{s:.8g},{int(o)}" for i, (s, o) in enumerate(zip(found.score.tolist(), found.outlier, strict=True))
        ]
        write_atomically(path, "\n".join(["row,score,outlier", *lines, ""]).encode())
        print(f"wrote {path}")


def do_sample(
    run: str, output: str | None = None, draws: int = 28, passes: int | None = None, noise: bool = False, seed: int = 0
) -> None:
    """Draw new data from a trained run.

    Args:
        run: the run folder.
        output: a .npy file, by default samples.npy in the run folder; a picture is written beside it.
        draws: how many.
        passes: how often a draw goes through the model again, by default what the variant says.
        noise: draw outliers too, instead of clean data.
        seed: of the draws.
    """
    import numpy as np

    from pyro_vaes.evaluation.plots import image_rows
    from pyro_vaes.inference.posterior import sample as sample_pair
    from pyro_vaes.inference.run import Run

    folder = Run.open(run)
    path = _output(output or str(folder.path / "samples.npy"), None, run, (".npy",))
    pair = folder.pair()
    x = sample_pair(pair, draws, passes=1 if noise and passes is None else passes, noise=noise, seed=seed)
    shape = tuple(folder.config["shape"])
    _write_array(path, lambda file: np.save(file, x.numpy().reshape(-1, *shape)))
    print(f"wrote {path}: {draws} samples of shape {shape}")
    if _is_image(shape):
        columns = min(14, draws)
        rows = {str(i * columns + 1): x[i * columns : (i + 1) * columns] for i in range(min(6, draws // columns))}
        _write_figure(path.with_suffix(".png"), image_rows(rows, shape, title=f"{pair.name}: samples"))


def do_evaluate(run: str) -> None:
    """Measure a trained run on the data it was trained on; against the clean data where we made them dirty.

    Args:
        run: the run folder; evaluation.json is written into it.
    """
    from pyro_vaes.evaluation import metrics
    from pyro_vaes.inference.checkpoint import write_atomically
    from pyro_vaes.inference.guard import as_batch
    from pyro_vaes.inference.posterior import bound
    from pyro_vaes.inference.posterior import clean as clean_pair
    from pyro_vaes.inference.run import Run

    folder = Run.open(run)
    pair = folder.pair()
    dataset, x, mask = _data(folder.config["data"])
    found = clean_pair(pair, x)
    figures: dict[str, Any] = {
        "bound (nats per datum)": bound(pair, x),
        "outlier entries": found.mask.float().mean().item(),
    }
    if mask is not None:
        truth = as_batch(dataset.x)
        figures["mse of the dirty data"] = metrics.mse(as_batch(x), truth)
        figures["mse of the cleaned data"] = metrics.mse(found.mean, truth)
        if 0 < int(mask.sum()) < mask.numel():
            figures["outlier entries: AUC"] = metrics.cell_auc(found.score, mask)
            figures["outlier entries: F1"] = metrics.f1(found.mask.flatten(), mask.flatten())
    path = folder.path / "evaluation.json"
    content = {**figures, "versions": folder.config.get("versions")}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")
    print(f"wrote {path}")


def do_reproduce(name: str, scale: str = "quick", out: str = "results", root: str = "data") -> None:
    """Run an experiment of the papers, and write its numbers and figures.

    Args:
        name: demo, frey-recovery, floor-sweep or recycling.
        scale: quick (minutes on 2 cores) or paper (the settings of the paper).
        out: folder for NAME.SCALE.json and its figures.
        root: where data sets lie.
    """
    from pyro_vaes.experiments import EXPERIMENTS

    check_scale(scale)
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, list(EXPERIMENTS))
    print(f"wrote {EXPERIMENTS[name](Path(out), scale, Path(root))} and the figures beside it")


def check_scale(scale: str) -> None:
    if scale not in ("quick", "paper"):
        raise unknown("scale", scale, ["quick", "paper"])


def _train(run: "Run", pair: "Pair", x: "Tensor", dataset: "Dataset", resume: bool) -> int:
    from pyro_vaes.evaluation.plots import image_rows, training
    from pyro_vaes.inference.fit import fit as fit_pair
    from pyro_vaes.inference.guard import as_batch
    from pyro_vaes.inference.posterior import reconstruct

    config = run.config
    x = x.to(_device(config["device"]))
    history = fit_pair(
        pair, x, **config["plan"], out=run.path, resume=resume, checkpoint_every=config["checkpoint_every"]
    )
    if history.interrupted is not None:
        print(f"stopped at step {history.step}; go on with: pyro-vaes fit --resume {shlex.quote(str(run.path))}")
        return 128 + history.interrupted
    _write_figure(run.path / "training.png", training(history.rows, pair.name))
    if _is_image(dataset.shape):
        batch = as_batch(x[:14])
        rows = {"data": batch.cpu(), "cleaned": reconstruct(pair, batch)[0].cpu()}
        _write_figure(run.path / "cleaned.png", image_rows(rows, dataset.shape, title=pair.name))
    last = history.rows[-max(1, len(history.rows) // 20) :]
    mean = sum(row["bound"] for row in last) / len(last)
    print(
        f"{pair.name}: {history.step} steps, bound {mean:.3f} nats per datum (mean of the last twentieth of the steps)"
    )
    print(f"wrote {run.path}: config.json, metrics.jsonl, checkpoint.safetensors, training.png")
    return 0


def _check_before(pair: "Pair", x: "Tensor", plan: dict[str, Any]) -> None:
    """Everything that can be refused is refused before the run folder exists."""
    from pyro_vaes.inference.fit import Plan
    from pyro_vaes.inference.guard import check_data

    Plan(**plan)
    check_data(pair, x)


def _first_parameters(pair: "Pair", start: str | None) -> None:
    if start is not None:
        from pyro_vaes.inference.fit import warm_start
        from pyro_vaes.inference.run import Run

        warm_start(pair, Run.open(start).pair())


def _data(source: dict[str, Any], download: bool = False) -> "tuple[Dataset, Tensor, Tensor | None]":
    """Give the clean data set, what to train on, and the mask of what we made dirty (None if nothing)."""
    from pyro_vaes.data import corrupt, load
    from pyro_vaes.inference.guard import as_batch

    options = {"root": source["root"], "split": source["split"], "limit": source["limit"]}
    dataset = load(source["source"], **options, download=download)
    x, mask = dataset.x, None
    if source["corrupt"] is not None:
        dirty = corrupt(x, source["corrupt"], shape=dataset.shape, seed=source["seed"])
        x, mask = dirty.x, dirty.mask
    if source["binarise"] is not None:
        x = (as_batch(x) > source["binarise"]).float()
    return dataset, x, mask


def _trained_and_data(run: str, input: str, root: str) -> "tuple[Pair, Dataset]":
    from dataclasses import replace

    from pyro_vaes.data import load
    from pyro_vaes.inference.guard import as_batch, check_data
    from pyro_vaes.inference.run import Run

    folder = Run.open(run)
    pair = folder.pair()
    dataset = load(input, root=root)
    threshold = folder.config["data"].get("binarise")
    if threshold is not None:
        dataset = replace(dataset, x=(as_batch(dataset.x) > threshold).float())
    check_data(pair, dataset.x)
    return pair, dataset


def _locate_data(data: str) -> str:
    """Name a file by its full path, so that a run can be resumed from elsewhere."""
    from pyro_vaes.data import DATASETS

    return data if data in DATASETS else str(Path(data).resolve())


def _output(output: str, input: str | None, run: str, suffixes: tuple[str, ...]) -> Path:
    path = Path(output)
    if path.suffix not in suffixes:
        raise InputError(f"output {output}: it must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"output {output} is a folder: name a file")
    if not path.parent.is_dir():
        raise InputError(f"output {output}: there is no folder {path.parent}")
    if input is not None and Path(input).exists() and (path.resolve() == Path(input).resolve()):
        raise InputError(f"output {output} would overwrite the input")
    if input is not None and Path(input).is_dir() and Path(input).resolve() in path.resolve().parents:
        raise InputError(f"output {output} lies inside the input folder")
    return path


def _write_array(path: Path, write: Any) -> None:
    import io

    from pyro_vaes.inference.checkpoint import write_atomically

    buffer = io.BytesIO()
    write(buffer)
    write_atomically(path, buffer.getvalue())


def _write_figure(path: Path, figure: Any) -> None:
    from pyro_vaes.evaluation.report import png
    from pyro_vaes.inference.checkpoint import write_atomically

    write_atomically(path, png(figure))
    print(f"wrote {path}")


def _is_image(shape: Any) -> bool:
    return len(shape) in (2, 3)


def _outlier_map(shape: Any) -> dict[str, tuple[str, float]]:
    # A probability per colour channel is itself a colour picture.
    return {} if len(shape) == 3 else {"P(outlier)": ("inferno", 1.0)}


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise unknown("device", name, ["auto", "cpu", "cuda"])
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: this machine has none")
    return name


def warn(message: str) -> None:
    print(f"pyro-vaes: {message}", file=sys.stderr)
