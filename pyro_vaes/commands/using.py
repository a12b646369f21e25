"""Commands that use a trained run: clean, detect, sample, evaluate."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyro_vaes.commands.files import (
    beside,
    binarised_how,
    binary,
    condition_for,
    data_of,
    head,
    is_image,
    modelled,
    output_path,
    quadrants_of,
    read_data,
    write_array,
    write_figure,
)
from pyro_vaes.commands.labels import blind, classification, seen_labels
from pyro_vaes.commands.ranks import fabric_of, launch
from pyro_vaes.commands.samples import check_samples, judged
from pyro_vaes.commands.stages import gammas
from pyro_vaes.errors import InputError, whole

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.data import Dataset
    from pyro_vaes.data.quadrants import Quadrants
    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair


def do_clean(
    run: str,
    input: str,
    output: str,
    passes: int | None = None,
    draws: int = 32,
    threshold: float = 2.0,
    root: str = "data",
    devices: int = 1,
    num_nodes: int = 1,
    timeout: float = 600,
) -> None:
    """Clean data with a trained run.

    Args:
        run: the run folder.
        input: a data set by name, a file, or an image folder; with labels where the run was trained with them.
        output: a .npz file (mean, sd, score, probability, mask), or a .npy file (the cleaned array alone).
        passes: how often the answer goes in again, by default what the variant says.
        draws: posterior draws for the standard deviation.
        threshold: residuals larger than this many ordinary ones are outliers.
        root: where data sets lie.
        devices: processes, each on a share of the data; sd and probability are then of other draws, the same ones for
            any number of processes above one.
        num_nodes: machines with so many processes each.
        timeout: seconds after which a process that gets no answer from another stops.
    """
    import numpy as np

    from pyro_vaes.evaluation.plots import image_rows
    from pyro_vaes.inference.guard import as_batch
    from pyro_vaes.inference.posterior import clean as clean_pair

    fabric = fabric_of(devices, num_nodes, "ddp", "cpu", timeout)
    pair, dataset, y = _trained_and_data(run, input, root)
    path = output_path(output, input, run, (".npz", ".npy"))
    first = launch(fabric)
    found = clean_pair(pair, dataset.x, y, passes=passes, draws=draws, threshold=threshold, fabric=fabric)
    if not first:
        return
    arrays = {name: value.numpy().reshape(-1, *dataset.shape) for name, value in vars(found).items()}
    if path.suffix == ".npy":
        write_array(path, lambda file: np.save(file, arrays["mean"]))
    else:
        write_array(path, lambda file: np.savez_compressed(file, **arrays))
    print(f"{len(dataset.x)} data cleaned; {found.mask.float().mean():.1%} of the entries look like outliers")
    print(f"wrote {path}" + (f": {', '.join(arrays)}, each {arrays['mean'].shape}" if path.suffix == ".npz" else ""))
    if is_image(dataset.shape):
        rows = {
            "input": as_batch(dataset.x[:14]),
            "cleaned": found.mean[:14],
            "P(large residual)": found.probability[:14],
        }
        figure = image_rows(rows, dataset.shape, maps=_outlier_map(dataset.shape), title=f"{pair.name}: {input}")
        write_figure(beside(path), figure)


def do_detect(
    run: str,
    input: str,
    output: str | None = None,
    inlier: int | None = None,
    neighbourhood: int | list[int] = 1,
    root: str = "data",
) -> None:
    """Find the samples that do not belong, without labels.

    Args:
        run: the run folder.
        input: a data set by name, a file, or an image folder.
        output: a .csv file for row, score and outlier (0 or 1).
        inlier: the label that belongs, where the data have labels; then F1 is printed.
        neighbourhood: an odd width b, or several such as [1,3,5]: residuals of images are averaged over b x b pixels,
            and the b is taken whose scores split best.
        root: where data sets lie.
    """
    from pyro_vaes.evaluation.detection import detect as detect_pair
    from pyro_vaes.evaluation.metrics import f1
    from pyro_vaes.inference.checkpoint import write_atomically

    pair, dataset, _ = _trained_and_data(run, input, root)
    path = output_path(output, input, run, (".csv",)) if output else None
    if inlier is not None and dataset.y is None:
        raise InputError(f"{input} has no labels: leave --inlier out")
    if inlier is not None and dataset.y is not None and inlier not in dataset.y:
        raise InputError(f"no datum of {input} has the label {inlier}; labels are {dataset.y.unique().tolist()[:20]}")
    found = detect_pair(pair, dataset.x, shape=dataset.shape, neighbourhood=neighbourhood)
    print(
        f"{int(found.outlier.sum())} of {len(found.outlier)} samples are outliers (score above {found.threshold:.5f})"
    )
    hint = "" if found.explained > 0.75 else ": perhaps none is one, the scores look like a single group"
    print(f"the split explains {found.explained:.0%} of the variance of the scores{hint}")
    if not isinstance(neighbourhood, int):
        print(f"of the neighbourhoods {neighbourhood} that is so for {found.neighbourhood}")
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
    run: str,
    output: str | None = None,
    draws: int = 28,
    label: int | None = None,
    passes: int | None = None,
    noise: bool = False,
    seed: int = 0,
) -> None:
    """Draw new data from a trained run; where it was trained on quadrants, complete the first images of its data.

    Args:
        run: the run folder.
        output: a .npy file, by default samples.npy in the run folder; a picture is written beside it.
        draws: how many.
        label: of all draws, where the run was trained with labels; without it the labels take turns.
        passes: how often a draw goes through the model again, by default what the variant says.
        noise: draw outliers too, instead of clean data.
        seed: of the draws.
    """
    import numpy as np

    from pyro_vaes.evaluation.plots import image_rows
    from pyro_vaes.inference.posterior import sample as sample_pair
    from pyro_vaes.inference.run import Run

    folder = Run.open(run)
    path = output_path(output or str(folder.path / "samples.npy"), None, run, (".npy",))
    pair = folder.pair()
    y, parts, shape = _to_draw(folder, pair, label, whole("draws", draws))
    x = sample_pair(pair, draws, y, passes=1 if noise and passes is None else passes, noise=noise, seed=seed)
    x = x if parts is None else parts.join(x, parts.y[:draws])
    write_array(path, lambda file: np.save(file, x.numpy().reshape(-1, *shape)))
    print(f"wrote {path}: {draws} samples of shape {shape}")
    if is_image(shape):
        columns = min(14, draws) if y is None or label is not None else min(pair.condition_dim, 14, draws)
        # Rows are of one length: the widest that leaves none out, if that is not very narrow.
        columns = next((c for c in range(columns, 4, -1) if draws % c == 0), columns)
        shown = min(10, draws // columns) * columns
        rows = {str(i + 1): x[i : i + columns] for i in range(0, shown, columns)}
        first = f", the first {shown} of {draws}" if shown < draws else ""
        write_figure(beside(path), image_rows(rows, shape, title=f"{pair.name}: samples{first}"))


def do_evaluate(
    run: str,
    likelihood: int = 0,
    ais: int = 0,
    rows: int | None = None,
    split: str | None = None,
    samples: int = 0,
    devices: int = 1,
    num_nodes: int = 1,
    timeout: float = 600,
) -> None:
    """Measure a trained run on the data it was trained on, or others; against the clean data where we made them dirty.

    Args:
        run: the run folder; evaluation.json is written into it.
        likelihood: estimate log p(x) with this many importance samples per datum, and split the bound; 0 does neither.
            Of a conditional run it is log p(x | y), and the bound stays whole.
        ais: estimate log p(x) with this many temperatures of annealed importance sampling (16 chains from the guide,
            10 leapfrog steps); 0 does not.
        rows: take this many data for these two, all by default.
        split: another part of the data set than the run was trained on, such as test, whole.
        samples: draw so many new images, and compare them with as many clean ones of the data set, in the features of
            a classifier that is trained on the rest; 0 does not. Its Frechet distance is no FID.
        devices: processes that share out what likelihood and ais ask for, with the same numbers as one process; the
            rest is one process's.
        num_nodes: machines with so many processes each.
        timeout: seconds after which a process that gets no answer from another stops.
    """
    from pyro_vaes.data import binarised
    from pyro_vaes.evaluation import metrics
    from pyro_vaes.inference.checkpoint import write_atomically
    from pyro_vaes.inference.densities import bound_in_words
    from pyro_vaes.inference.guard import as_batch
    from pyro_vaes.inference.posterior import active_units, bound, ordinary_residual
    from pyro_vaes.inference.posterior import clean as clean_pair
    from pyro_vaes.inference.run import Run

    for name, value in (("likelihood", likelihood), ("ais", ais)):
        whole(name, value, low=0)
    if likelihood == 1:
        raise InputError("likelihood is 1: an error needs two samples at least")
    whole("rows", 2 if rows is None else rows, low=2)
    fabric = fabric_of(devices, num_nodes, "ddp", "cpu", timeout)
    if fabric is not None and not likelihood and not ais:
        raise InputError("devices share out what likelihood and ais ask for, and neither is asked for")
    folder = Run.open(run)
    pair = folder.pair()
    dataset, x, mask = data_of(folder, split)
    kind = binarised_how(folder)
    condition = folder.config["condition"]
    x, labels, _ = modelled(condition, dataset, x)
    check_samples(folder, pair, x, labels, samples, dataset.name)
    seen = seen_labels(folder, pair, labels, split)
    y = condition_for(pair, condition, x, seen, dataset.name)
    first = launch(fabric)
    few = x[:rows], None if y is None else y[:rows]
    estimates = _likelihoods(pair, *few, likelihood, ais, fabric)
    if not first:
        return
    found = clean_pair(pair, x, y)
    figures: dict[str, Any] = {
        f"{bound_in_words(pair).strip(',')} (nats per datum)": bound(pair, x, y),
        **gammas(pair),
        "ordinary residual": ordinary_residual(pair, x, y),
        **({"active units": active_units(pair, x, y)} if len(x) > 1 else {}),
        "outlier entries": found.mask.float().mean().item(),
        **classification(pair, x, labels, seen),
    }
    truth = x
    if mask is not None:
        # The clean data by the rule that the dirty ones were made binary by: what the model gives is of that kind.
        rule = "static" if kind == "dynamic" else kind
        clean = dataset if rule is None else binarised(dataset, rule, seed=folder.config["data"]["seed"])
        truth, mask = as_batch(modelled(condition, dataset, clean.x)[0]), modelled(condition, dataset, mask)[0]
        figures["mse of the dirty data"] = metrics.mse(as_batch(x), truth)
        figures["mse of the cleaned data"] = metrics.mse(found.mean, truth)
        if 0 < int(mask.sum()) < mask.numel():
            figures["outlier entries: AUC"] = metrics.cell_auc(found.score, mask)
            figures["outlier entries: F1"] = metrics.f1(found.mask.flatten(), mask.flatten())
    figures |= estimates | _parts(pair, *few, likelihood)
    if samples and labels is not None:
        figures |= judged(pair, truth, labels, folder.config["shape"], samples)
    path = folder.path / "evaluation.json"
    content = {**figures, "versions": folder.config.get("versions")}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    for name, value in figures.items():
        if name.endswith("standard error"):
            continue
        error = figures.get(f"{name.removesuffix(' (nats per datum)')}: Monte-Carlo standard error")
        spread = "" if error is None else f" +- {error:.4f}"
        number = f"{value:.3g}" if name.startswith("gamma") else f"{value:.4f}" if isinstance(value, float) else value
        print(f"{name}: {number}{spread}")
    print(f"wrote {path}")


def _likelihoods(
    pair: "Pair", x: "Tensor", y: "Tensor | None", samples: int, temperatures: int, fabric: Any
) -> dict[str, Any]:
    """log p(x) by the estimators that were asked for; a refusal is an answer too."""
    from pyro_vaes.inference.annealed import Annealing
    from pyro_vaes.inference.likelihood import log_likelihood

    figures: dict[str, Any] = {}
    path = Annealing(max(1, temperatures), start="guide")
    what = "log p(x)" if y is None else "log p(x | y)"
    for name, asked, options in (
        (what, samples, {"samples": samples}),
        (f"annealed {what}", temperatures, {"method": "ais", "annealing": path}),
    ):
        if not asked:
            continue
        try:
            found = log_likelihood(pair, x, y, **options, fabric=fabric)
        except InputError as refusal:
            figures[name] = str(refusal)
            continue
        figures[f"{name} (nats per datum)"] = found.mean
        figures[f"{name}: Monte-Carlo standard error"] = found.mean_se
        known = not found.khat.isnan().all()
        figures[f"{name}: share of k-hat above 0.7"] = found.unreliable if known else "too few draws to say"
    return figures


def _parts(pair: "Pair", x: "Tensor", y: "Tensor | None", samples: int) -> dict[str, Any]:
    """The parts of the bound, where it is taken apart; a refusal is an answer too."""
    from pyro_vaes.evaluation.decomposition import decompose

    # With a condition there may be a prior for every datum, and none for them all.
    if not samples or y is not None:
        return {}
    try:
        parts = decompose(pair, x)
    except InputError as refusal:
        return {"parts of the bound": str(refusal)}
    return {
        f"ELBO of these {parts.size} data (nats per datum)": parts.bound,
        "reconstruction (nats per datum)": parts.reconstruction, "KL (nats per datum)": parts.kl,
        "KL: information of codes about their data": parts.information,
        "KL: aggregated posterior from the prior": parts.marginal,
    }  # fmt: skip


def _to_draw(
    folder: "Run", pair: "Pair", label: int | None, draws: int
) -> "tuple[Tensor | int | None, Quadrants | None, tuple[int, ...]]":
    """Give the condition of new draws, the images that they complete if any, and the shape of what is written."""
    import torch

    condition, shape = folder.config["condition"], tuple(folder.config["shape"])
    labels = bool(pair.condition_dim) and condition in (None, "labels")
    if label is not None and not labels:
        raise InputError(f"label is {label}: {folder.path} was not trained with labels")
    if label is not None and blind(pair):
        raise InputError(f"label is {label}: {folder.path} draws no image by its label")
    if not pair.condition_dim:
        return None, None, shape
    if labels:
        return torch.arange(draws) % pair.condition_dim if label is None else label, None, shape
    dataset, x, _ = read_data(folder.config["data"])
    parts = quadrants_of(condition, dataset, x)
    if parts is None or draws > len(parts.y):
        raise InputError(f"draws is {draws}: {dataset.name} has {len(x)} images to complete")
    return parts.y[:draws], parts, dataset.shape


def _trained_and_data(run: str, input: str, root: str) -> "tuple[Pair, Dataset, Tensor | None]":
    from pyro_vaes.data import load
    from pyro_vaes.inference.run import Run

    folder = Run.open(run)
    pair = folder.pair()
    dataset = load(input, root=root)
    dataset, _ = head(dataset, dataset.x)
    kind = binarised_how(folder)
    if kind is not None:
        # The literature tests what was trained on fresh draws on one fixed draw.
        source = {"root": root, "split": "train", "corrupt": None, "seed": folder.config["data"]["seed"]}
        dataset = binary(dataset, "static" if kind == "dynamic" else kind, source)
    x, y, shape = modelled(folder.config["condition"], dataset, dataset.x)
    # Where a label may be missing it is what is to be found out.
    y = condition_for(pair, folder.config["condition"], x, None if pair.partial else y, input)
    return pair, replace(dataset, x=x, shape=shape), y


def _outlier_map(shape: Any) -> dict[str, tuple[str, float]]:
    # A probability per colour channel is itself a colour picture.
    return {} if len(shape) == 3 else {"P(large residual)": ("inferno", 1.0)}
