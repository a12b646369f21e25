"""MNIST with 40 % of the pixels replaced by noise, cleaned without labels (S0 V-A "Pixel-wise noise removal", Fig. 3).

Protocol: the 60,000 training digits of 28 x 28 pixels in [0, 1]; each pixel is replaced with probability 0.4 by a draw
from U[0, 1]. Every method sees the dirty digits alone; the networks draw their batches of 100 from all 60,000. Robust
PCA is solved for the first of them only, as many as the scale says, and there every method is measured: mean squared
error against the clean digits, and the area under the ROC curve of |x - xhat|, in units of the ordinary residual where
the model has one, for the replaced pixels (even a perfect map stays below 1: some of them hardly changed). kappa = 30.
S0 compares RPCA, the LC-VAE and the iC-VAE; AE, l2-VAE, RiC-VAE (2, 2) and t-VAE are ours to add. The iC-VAE is
``indexed_ic_vae``, equal to ``ic_vae`` up to a constant. Floors and scales are learned. The seed is that of noise,
parameters and training, so that methods are compared pairwise.

All networks get the same number of steps, ``steps + more``. The iC-VAE and the RiC-VAE are one run up to ``steps``;
from there one goes on as it is and the other recycling, both at the same lower rate (S0 App. B and V-C, for fairness).

Scales: ``paper`` is App. B: 784-1000-500-250-30, 600,000 steps at 0.0001, constant, and 100,000 more at 0.00002; App. B
recycles with N = 5 there, for generation, which Fig. 3 does not show: here N = M = 5 too. The other networks take all
700,000 steps at 0.0001. The optimiser is not stated: Adam. ``quick``: 784-400-200-30, 1500 steps at 0.001 falling to
zero along a cosine, and 500 more at 0.0005, with N = M = 2; the other networks take 2000 steps at 0.001; RPCA is solved
to a residual of 1e-4 instead of 1e-7. That is three passes over the data, where the source has a thousand: ``quick``
tells how far the networks get early, not how far they get.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import Corrupted, Dataset, corrupt, load
from pyro_vaes.evaluation.baselines import rpca_clean
from pyro_vaes.evaluation.metrics import cell_auc, mse
from pyro_vaes.evaluation.plots import bars, image_rows
from pyro_vaes.experiments.cells import Cells, Setting, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained_each
from pyro_vaes.experiments.verdicts import interval, verdict
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.inference.posterior import clean
from pyro_vaes.pair import Pair

NAME = "mnist-denoising"
CORRUPTION = "impulse:0.4"
IC, RIC = "indexed_ic_vae", "ric_vae"
LABELS = {
    "rpca": "RPCA", "autoencoder": "AE", "l2_vae": "l2-VAE", "lc_vae": "LC-VAE",
    IC: "iC-VAE", RIC: "RiC-VAE", "t_vae": "t-VAE",
}  # fmt: skip
ROBUST = (IC, RIC, "t_vae")
RUNS = ("t_vae", IC, "lc_vae", "rpca", "l2_vae", "autoencoder")  # the slowest first; the run of the iC is RiC's too
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "hidden": [400, 200], "steps": 1500, "more": 500, "lr": 1e-3, "more lr": 5e-4, "schedule": "cosine",
        "passes": 2, "measured": 5000, "rpca tol": 1e-4, "seeds": [0, 1, 2],
    },
    "paper": {
        "hidden": [1000, 500, 250], "steps": 600_000, "more": 100_000, "lr": 1e-4, "more lr": 2e-5,
        "schedule": "constant", "passes": 5, "measured": 10_000, "rpca tol": 1e-7, "seeds": [0, 1, 2],
    },
}  # fmt: skip
SHOWN = 12


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    plan = {**SCALES[scale], "latent_dim": 30, "batch_size": 100, "corruption": CORRUPTION}
    digits = load("mnist", root=root)
    cells = Cells(out / f"{NAME}.{scale}.cells", plan, root)
    settings = [(run, seed) for run in RUNS for seed in plan["seeds"]]
    known: dict[str, Any] = {"scale": scale, "root": str(root)}
    total = plan["steps"] + plan["more"]
    found = compute(
        partial(cell, **known), settings, cells, desc=NAME, together=partial(together, **known),
        steps=lambda setting: {"rpca": 0, IC: total + plan["more"]}.get(setting[0], total),
    )  # fmt: skip
    by_seed = [{k: v for run in RUNS for k, v in found[run, seed].items()} for seed in plan["seeds"]]
    result: dict[str, Any] = {
        "settings": {**plan, "images": len(digits.x), "measured": min(plan["measured"], len(digits.x))},
        "seconds": cells.seconds(),
        "dirty mse": [_dirty_mse(digits, plan, seed) for seed in plan["seeds"]],
        **{key: {name: [values[name][key] for values in by_seed] for name in LABELS} for key in ("mse", "auc")},
    }
    result["verdicts"] = verdicts(result["mse"])
    shown = {name: by_seed[0][name]["shown"] for name in LABELS}
    path = record(out, NAME, scale, result, _figures(result, scale, shown, digits))
    cells.discard()
    return path


def cell(run: str, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train one run from one seed; give the measures of each method in it."""
    return together([(run, seed)], scale, root)[0]


def together(settings: Sequence[Setting], scale: str, root: str) -> list[dict[str, Any]]:
    """Train one run from many seeds, as replicas; give of each what ``cell`` gives."""
    plan, digits, run = SCALES[scale], load("mnist", root=root), settings[0][0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seeds = [seed for _, seed in settings]
    dirty = [_dirty(digits, seed) for seed in seeds]
    pairs: dict[str, Sequence[Pair | None]] = {run: [None] * len(seeds)}
    if run != "rpca":
        pairs = dict(_train(run, [d.x.to(device) for d in dirty], seeds, plan))
    return [
        {name: _measured(those[i], digits, dirty[i], plan, device) for name, those in pairs.items()}
        for i in range(len(seeds))
    ]


def _train(run: str, dirty: Sequence[Tensor], seeds: Sequence[int], plan: dict[str, Any]) -> dict[str, list[Pair]]:
    arguments = {"latent_dim": 30, "hidden": plan["hidden"]}
    shared: dict[str, Any] = {"seeds": seeds, "schedule": plan["schedule"], "batch_size": 100}
    n = len(seeds)
    if run != IC:
        total = plan["steps"] + plan["more"]
        return {run: trained_each(run, dirty, arguments=[arguments] * n, steps=total, lr=plan["lr"], **shared)}
    start = trained_each(IC, dirty, arguments=[arguments] * n, steps=plan["steps"], lr=plan["lr"], **shared)
    on: dict[str, Any] = {**shared, "start": start, "steps": plan["more"], "lr": plan["more lr"]}
    recycled = {**arguments, "passes": plan["passes"], "test_passes": plan["passes"], "beta": 1.0}
    return {
        IC: trained_each(IC, dirty, arguments=[arguments] * n, **on),
        RIC: trained_each(RIC, dirty, arguments=[recycled] * n, **on),
    }


def _dirty(digits: Dataset, seed: int) -> Corrupted:
    return corrupt(digits.x, CORRUPTION, shape=digits.shape, seed=seed)


def _dirty_mse(digits: Dataset, plan: dict[str, Any], seed: int) -> float:
    few = slice(plan["measured"])
    return mse(as_batch(_dirty(digits, seed).x[few]), as_batch(digits.x[few]))


def _measured(
    pair: Pair | None, digits: Dataset, dirty: Corrupted, plan: dict[str, Any], device: str
) -> dict[str, Any]:
    x = as_batch(dirty.x[: plan["measured"]].to(device))
    truth, mask = as_batch(digits.x[: len(x)]), dirty.mask[: len(x)]
    if pair is None:
        cleaned = rpca_clean(x, tol=plan["rpca tol"])
        score = (x - cleaned).abs()
    else:
        found = clean(pair, x, draws=2)
        cleaned, score = found.mean, found.score
    images = (255 * cleaned[_columns(len(x))].clamp(0, 1)).round().int().tolist()
    return {"mse": mse(cleaned.cpu(), truth), "auc": cell_auc(score.cpu(), mask), "shown": images}


def _columns(rows: int) -> Tensor:
    return torch.arange(min(rows, SHOWN))


def verdicts(errors: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Judge S0's claim pair by pair: the share of the rival's error that is gone, one per seed.

    >>> found = verdicts({name: [0.2, 0.2] if name == "rpca" else [0.1, 0.1] for name in LABELS})
    >>> [(v["verdict"], v["gain"]) for v in found[:2]]
    [('held', 0.5), ('did not hold', 0.0)]
    """
    claims = [
        (IC, "rpca", "S0 V-A, Fig. 3"), (IC, "lc_vae", "S0 V-A, Fig. 3"), (IC, "autoencoder", "ours, after S0 V-A"),
        (IC, "l2_vae", "ours, after S0 V-A"), (RIC, IC, "ours, after S0 IV"), ("t_vae", IC, "ours"),
    ]  # fmt: skip
    e = {name: np.asarray(values) for name, values in errors.items()}
    return [
        verdict(
            f"{LABELS[one]} beats {LABELS[other]} (share of the error that is gone)",
            source,
            (1 - e[one] / e[other]).tolist(),
        )
        for one, other, source in claims
    ]


def _figures(result: dict[str, Any], scale: str, shown: dict[str, Any], digits: Dataset) -> dict[str, Figure]:
    plan = result["settings"]
    title = f"{scale} scale, {plan['steps'] + plan['more']:,} steps, {len(plan['seeds'])} seeds"
    columns = _columns(plan["measured"])
    means = {"the dirty images": float(np.mean(result["dirty mse"]))}
    means |= {LABELS[name]: float(np.mean(values)) for name, values in result["mse"].items()}
    order = sorted(LABELS, key=lambda name: -means[LABELS[name]])
    labels = {name: f"{LABELS[name]}: {means[LABELS[name]]:.3f}" for name in LABELS}
    rows = {"dirty": as_batch(_dirty(digits, plan["seeds"][0]).x[columns])}
    rows |= {labels[name]: torch.as_tensor(shown[name]) / 255 for name in order}
    rows |= {"truth": as_batch(digits.x[columns])}
    heading = f"MNIST, 40 % of the pixels are noise ({title}). Numbers: mean squared error"
    return {
        "rows": image_rows(rows, (28, 28), title=heading, highlight=[labels[name] for name in ROBUST]),
        "bars": bars(
            means,
            title=f"MNIST, 40 % noise ({title})",
            xlabel="mean squared error against the clean digits (lower is better)",
            highlight=[LABELS[name] for name in ROBUST],
        ),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: error and outlier map of each method, mean and 95 % interval over the seeds."""
    plan = result["settings"]
    n = f"first {plan['measured']:,} of {plan['images']:,}"
    rows: list[list[object]] = [["the dirty images", _mean(result["dirty mse"]), "-", "-"]]
    for name, values in sorted(result["mse"].items(), key=lambda item: -float(np.mean(item[1]))):
        saw = n if name == "rpca" else f"all {plan['images']:,}"
        rows.append([LABELS[name], _mean(values), _mean(result["auc"][name]), saw])
    return markdown_table(["method", f"MSE ({n})", "replaced pixels: AUC", "solved for or trained on"], rows)


def _mean(values: Sequence[float]) -> str:
    mean, low, _ = interval(values)
    return f"{mean:.4f} ± {mean - low:.4f}"
