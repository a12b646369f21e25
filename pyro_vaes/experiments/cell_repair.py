"""Dirty cells of tables: who finds them, who repairs them, and whose probabilities can be believed.

Protocol: scikit-learn's wine (178 x 13) and breast cancer (569 x 30); at ``paper`` scale also 2000 rows of California
housing (8 columns), where ``fetch_california_housing`` finds it under the root without a download (``sets`` of the
result lists what ran). A share of the rows gets noise in 20 % of its cells (see ``data/tabular.py``), for each seed of
rows, cells, noise and parameters alike. Columns are standardised by the median and the interquartile range / 1.349 of
the *dirty* data: no method sees a clean statistic, a label or the share of dirt. Errors are in units in which each
clean column has standard deviation 1, and every column that has dirty cells weighs the same.

Scales: ``quick`` has 800 steps, Gaussian noise in 1, 5, 10, 20 and 50 % of the rows and the other noises in 10 %, and
6 seeds; ``paper`` has 5000 steps, all noises at all shares, and 10 seeds. The seeds of a setting are replicas in one
graph, on a CPU too, which costs hardly more than one of them.

Methods, all trained on (or solved for) the dirty table that they then judge, hyper-parameters fixed in advance:

- ``rvae`` (alpha = 0.95, S = 2, sigma at least 0.22: the source's numbers); ``t_vae`` with the same smallest scale;
  ``ic_vae`` with a learned floor and width 30; ``gamma_vae`` (one learned sigma), ``l2_vae`` (sigma = 1). Encoders of
  one hidden layer of 64, codes of min(d // 2, 10), Adam at 0.005 falling along a cosine, batches of 128.
- RPCA (lambda = 1 / sqrt(max(n, d))), PCA with as many components as the code, the columns' medians; Isolation Forest
  (rows only).

One rule for all turns residuals into probabilities: ``rvae`` has P(dirty) of its own; everywhere else the residuals are
read again as a narrow and a broad Gaussian (``inference/outliers.py``), in units of the model's ordinary residual or,
for RPCA, PCA and medians, of the standardised columns (narrow at least 0.22). A cell's score is -log P(clean), cells of
all columns ranked together. A row's is the sum over its cells, each at most -log 1e-6 = 13.8, as the source's code has
it: -log of the probability that all are clean, in which no single cell outweighs several. A repaired table keeps what
is thought clean (P(dirty) <= 1/2) and replaces the rest by mu at the mean code; the raw reconstruction is measured too.

Source: Eduardo, Nazabal, Williams & Sutton (2020). Departs from it: other tables, smaller networks, no split into
training and validation rows, and a plain average precision over all cells instead of its mean over columns.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data.tabular import corrupt_cells
from pyro_vaes.errors import unknown
from pyro_vaes.evaluation.baselines import BASELINES
from pyro_vaes.evaluation.metrics import average_precision, cell_auc, masked_smse
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST
from pyro_vaes.evaluation.reliability import brier_skill, calibration_error, reliability, reliability_diagram
from pyro_vaes.experiments.cells import Cells, Setting, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained_together
from pyro_vaes.experiments.verdicts import interval, verdict
from pyro_vaes.inference.outliers import clean_log_probability, two_parts
from pyro_vaes.inference.posterior import reconstruct
from pyro_vaes.pair import Pair

NAME = "cell-repair"
SOURCE = "Eduardo et al. 2020"
RESOLUTION = 0.22
TRAINED: dict[str, dict[str, Any]] = {
    "t_vae": {"real": True, "minimum": RESOLUTION}, "rvae": {"minimum": RESOLUTION},
    "ic_vae": {"real": True, "width": 30.0}, "gamma_vae": {"real": True}, "l2_vae": {"real": True},
}  # fmt: skip
LABELS = {
    "rvae": "RVAE", "t_vae": "t-VAE", "ic_vae": "iC-VAE", "gamma_vae": "Gaussian VAE", "l2_vae": "l2-VAE",
    "rpca": "RPCA", "pca": "PCA", "median": "medians", "forest": "Isolation Forest",
}  # fmt: skip
TITLES = {"wine": "Wine", "cancer": "Breast cancer", "california": "California housing"}
MIDDLE = 0.1  # the share of dirty rows at which all noises are compared
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"sets": ["wine", "cancer"], "crossed": False, "steps": 800, "seeds": list(range(6))},
    "paper": {"sets": ["wine", "cancer", "california"], "crossed": True, "steps": 5000, "seeds": list(range(10))},
}
SHARED: dict[str, Any] = {
    "shares": [0.01, 0.05, 0.1, 0.2, 0.5], "noises": ["gaussian", "laplace", "lognormal", "mixture"],
    "hidden": [64], "lr": 0.005, "batch_size": 128,
}  # fmt: skip


def clean_table(name: str, root: str) -> Tensor | None:
    """One table, float64, or None if it is not there.

    >>> clean_table("wine", "").shape
    torch.Size([178, 13])
    """
    from sklearn.datasets import fetch_california_housing, load_breast_cancer, load_wine

    if name in ("wine", "cancer"):
        return torch.as_tensor((load_wine if name == "wine" else load_breast_cancer)().data)
    if name != "california":
        raise unknown("table", name, list(TITLES))
    if not Path(root).is_dir():  # which scikit-learn would make
        return None
    try:
        x = torch.as_tensor(fetch_california_housing(data_home=root, download_if_missing=False).data)
    except OSError:
        return None
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:2000]]


def dirty_table(name: str, noise: str, share: float, seed: int, root: str) -> tuple[Tensor, Tensor, Tensor]:
    """The truth, the dirty data and the mask, both tables standardised by what the dirty one shows."""
    x = clean_table(name, root)
    assert x is not None
    dirty = corrupt_cells(x, noise, share, seed=seed)
    low, middle, high = dirty.x.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype), dim=0)
    spread = torch.where(high > low, (high - low) / 1.349, dirty.x.std(0))
    return ((x - middle) / spread).float(), ((dirty.x - middle) / spread).float(), dirty.mask


def settings_of(scale: str, sets: Sequence[str]) -> list[Setting]:
    """Every cell of the experiment, the slowest methods and tables first."""
    shares, noises = SHARED["shares"], SHARED["noises"]
    grid = [(n, s) for n in noises for s in shares if SCALES[scale]["crossed"] or n == noises[0] or s == MIDDLE]
    methods = [*TRAINED, *(method for method in LABELS if method not in TRAINED)]
    return [(m, name, n, s) for m in methods for name in reversed(sets) for n, s in grid]


def cell(method: str, name: str, noise: str, share: float, *, scale: str, root: str) -> list[dict[str, Any]]:
    """Train one method on one kind of dirty table, all seeds as replicas; give its measures for each seed."""
    return together([(method, name, noise, share)], scale=scale, root=root)[0]


def together(settings: Sequence[Setting], *, scale: str, root: str) -> list[list[dict[str, Any]]]:
    """Train all cells of one method and table as replicas, on a GPU if there is one."""
    (method, name), seeds = settings[0][:2], SCALES[scale]["seeds"]
    runs = [(noise, share, seed) for _, _, noise, share in settings for seed in seeds]
    tables = [dirty_table(name, *run, root) for run in runs]
    if method in TRAINED:
        pairs = _pairs(method, [x for _, x, _ in tables], [seed for *_, seed in runs], scale)
        found = [
            measured(*judged(pair, x, seed), truth, x, mask)
            for pair, (*_, seed), (truth, x, mask) in zip(pairs, runs, tables, strict=True)
        ]
    else:
        found = [_untrained(method, *table, seed) for (*_, seed), table in zip(runs, tables, strict=True)]
    return [found[start : start + len(seeds)] for start in range(0, len(found), len(seeds))]


def _pairs(method: str, tables: Sequence[Tensor], seeds: Sequence[int], scale: str) -> list[Pair]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = {"latent_dim": _code(tables[0]), "hidden": SHARED["hidden"], **TRAINED[method]}
    plan = {"steps": SCALES[scale]["steps"], "lr": SHARED["lr"], "batch_size": SHARED["batch_size"]}
    pairs = trained_together(
        method, [x.to(device) for x in tables], arguments=[arguments] * len(tables), seeds=seeds, **plan
    )
    return [pair.cpu() for pair in pairs]


def _untrained(method: str, truth: Tensor, x: Tensor, mask: Tensor, seed: int) -> dict[str, Any]:
    if method == "forest":
        return _rows_alone(x, mask, seed)
    mean = BASELINES[method](x.double(), **({"components": _code(x)} if method == "pca" else {}))
    return measured(two_parts(x - mean, minimum=RESOLUTION).log_clean, mean, truth, x, mask)


def judged(pair: Pair, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """What a trained pair says: log P(clean) of every cell, and what should stand there."""
    return clean_log_probability(pair, x, seed=seed, batch_size=4096), reconstruct(pair, x)[0]


def measured(log_clean: Tensor, mean: Tensor, truth: Tensor, x: Tensor, mask: Tensor) -> dict[str, Any]:
    """Every measure of one method on one table.

    Args:
        log_clean: log P(clean). mean: the reconstruction. truth, x, mask: clean, dirty, and where it is dirty.
    """
    probability = -torch.expm1(log_clean.clamp(max=0.0))
    repaired = torch.where(probability > 0.5, mean.to(x), x)
    bins = reliability(probability, mask)
    rows = (-log_clean).clamp(max=-np.log(1e-6)).sum(1)
    return {
        "cell ap": average_precision(-log_clean, mask), "cell auc": cell_auc(-log_clean, mask),
        "row ap": average_precision(rows, mask.any(1)), "row auc": cell_auc(rows, mask.any(1)),
        "smse": masked_smse(repaired, truth, mask), "raw smse": masked_smse(mean, truth, mask),
        "damage": masked_smse(repaired, truth, ~mask), "raw damage": masked_smse(mean, truth, ~mask),
        "unrepaired": masked_smse(x, truth, mask), "ece": calibration_error(bins), "bins": bins,
        "brier skill": brier_skill(probability, mask), "called dirty": float((probability > 0.5).double().mean()),
    }  # fmt: skip


def _rows_alone(x: Tensor, mask: Tensor, seed: int) -> dict[str, Any]:
    from sklearn.ensemble import IsolationForest

    score = torch.as_tensor(-IsolationForest(random_state=seed).fit(x.numpy()).score_samples(x.numpy()))
    return {"row ap": average_precision(score, mask.any(1)), "row auc": cell_auc(score, mask.any(1))}


def _code(x: Tensor) -> int:
    return min(x.shape[1] // 2, 10)


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    sets = [name for name in SCALES[scale]["sets"] if clean_table(name, str(root)) is not None]
    protocol = {**SCALES[scale], **SHARED, "sets": sets, "methods": TRAINED}
    cells = Cells(out / f"{NAME}.{scale}.cells", protocol, root)
    found = compute(
        partial(cell, scale=scale, root=str(root)), settings_of(scale, sets), cells, desc=NAME,
        steps=lambda setting: SCALES[scale]["steps"] if setting[0] in TRAINED else 0,
        together=partial(together, scale=scale, root=str(root)), group=lambda setting: setting[:2],
    )  # fmt: skip
    result = {
        "settings": protocol, "seconds": cells.seconds(), "verdicts": _verdicts(found), "rows": _gathered(found),
        "reliability": {name: _pooled(found, name) for name in sets},
    }  # fmt: skip
    path = record(out, NAME, scale, result, figures(result, scale))
    cells.discard()
    return path


def _gathered(found: dict[Setting, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per method, table, noise and share, with a list over seeds for each measure."""
    rows = []
    for key, values in found.items():
        row = dict(zip(("method", "set", "noise", "share"), key, strict=True))
        rows.append(row | {measure: [v[measure] for v in values] for measure in values[0] if measure != "bins"})
    return rows


def _pooled(found: dict[Setting, list[dict[str, Any]]], name: str) -> dict[str, list[list[float]]]:
    """Counts of P(dirty) by method, over all shares of Gaussian noise and all seeds of one table."""
    pooled: dict[str, Any] = {}
    for (method, there, noise, _), values in found.items():
        for value in values:
            if (there, noise) == (name, "gaussian") and "bins" in value:
                pooled[method] = pooled.get(method, 0) + np.asarray(value["bins"])
    return {method: pooled[method].round(6).tolist() for method in LABELS if method in pooled}


def _verdicts(found: dict[Setting, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Paired by seed, averaged over the tables and over all shares of Gaussian noise."""

    def each(method: str, measure: str) -> np.ndarray:
        picked = [[v[measure] for v in vs] for s, vs in found.items() if (s[0], s[2]) == (method, "gaussian")]
        return np.asarray(picked).mean(0)

    claims = [
        ("a mixture model per cell finds dirty cells better than a Gaussian VAE (cell AP, RVAE - Gaussian VAE)", SOURCE,
         each("rvae", "cell ap") - each("gamma_vae", "cell ap")),
        ("a mixture model per cell finds dirty cells better than an l2-VAE (cell AP, RVAE - l2-VAE)", SOURCE,
         each("rvae", "cell ap") - each("l2_vae", "cell ap")),
        ("RVAE finds dirty cells better than robust PCA (cell AP, RVAE - RPCA)", SOURCE,
         each("rvae", "cell ap") - each("rpca", "cell ap")),
        ("RVAE finds dirty rows better than an Isolation Forest (row AP, RVAE - forest)", SOURCE,
         each("rvae", "row ap") - each("forest", "row ap")),
        ("RVAE repairs better than the columns' medians (SMSE of dirty cells, medians - RVAE)", SOURCE,
         each("median", "smse") - each("rvae", "smse")),
        ("RVAE repairs better than robust PCA (SMSE of dirty cells, RPCA - RVAE)", SOURCE,
         each("rpca", "smse") - each("rvae", "smse")),
        ("repairing only what is thought dirty spares clean cells (SMSE of clean cells, raw - repaired RVAE)", "ours",
         each("rvae", "raw damage") - each("rvae", "damage")),
        ("the t-VAE finds dirty cells no worse than RVAE, to 0.01 (cell AP, t-VAE - RVAE + 0.01)", "ours",
         each("t_vae", "cell ap") - each("rvae", "cell ap") + 0.01),
        ("RVAE's own probabilities are better calibrated than those read off the t-VAE (ECE, t-VAE - RVAE)", "ours",
         each("t_vae", "ece") - each("rvae", "ece")),
    ]  # fmt: skip
    return [verdict(claim, source, gains.tolist()) for claim, source, gains in claims]


def _row(result: dict[str, Any], method: str, name: str, share: float) -> dict[str, Any]:
    key = (method, name, "gaussian", share)
    return next(row for row in result["rows"] if (row["method"], row["set"], row["noise"], row["share"]) == key)


def figures(result: dict[str, Any], scale: str) -> dict[str, Figure]:
    """AP and SMSE over the share of dirty rows, and the reliability of P(dirty), for each table."""
    settings, drawn = result["settings"], {}
    title = f"{scale} scale, {settings['steps']:,} steps, {len(settings['seeds'])} seeds"
    for name in settings["sets"]:
        heading = f"{TITLES[name]}, Gaussian noise ({title}; bands: 95 %)"
        drawn[f"ap-{name}"] = _panels(result, name, "cell ap", "average precision of dirty cells", heading)
        drawn[f"smse-{name}"] = _panels(result, name, "smse", "SMSE of dirty cells, repaired", heading, log=True)
        drawn[f"reliability-{name}"] = reliability_diagram(
            {LABELS[method]: bins for method, bins in result["reliability"][name].items()},
            f"{TITLES[name]}, Gaussian noise in 1 to 50 % of the rows ({title}; bars: 95 %)",
        )
    return drawn


def _panels(result: dict[str, Any], name: str, measure: str, ylabel: str, title: str, log: bool = False) -> Figure:
    """One panel per method, in colour, with all the others in grey behind it."""
    shares, methods = result["settings"]["shares"], [method for method in LABELS if method != "forest"]
    found = {m: np.array([interval(_row(result, m, name, share)[measure]) for share in shares]).T for m in methods}
    figure = Figure(figsize=(9.6, 5.0), dpi=160, layout="constrained")
    at = np.arange(len(shares))
    for ax, method in zip(figure.subplots(2, 4, sharex=True, sharey=True).flatten(), methods, strict=True):
        for other in methods:
            ax.plot(at, found[other][0], color=CLASSICAL, linewidth=0.7, alpha=0.6)
        mean, low, high = found[method]
        colour = ROBUST if method in ("rvae", "t_vae", "ic_vae") else NEUTRAL
        ax.plot(at, mean, color=colour, linewidth=1.8, marker="o", markersize=3)
        # An interval of a positive measure may reach below zero, where a logarithmic axis ends.
        ax.fill_between(at, low.clip(0.05 if log else 0.0), high, color=colour, alpha=0.2, linewidth=0)
        ax.set_title(LABELS[method], fontsize=10, loc="left", color=colour)
        ax.set_xticks(at, [f"{100 * share:g}" for share in shares])
        if log:
            ax.set_yscale("log"), ax.set_ylim(0.1, 100)
        else:
            ax.set_ylim(0, 1)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("rows with dirty cells (%)", fontsize=9), figure.supylabel(ylabel, fontsize=9)
    figure.suptitle(title, fontsize=10, color=NEUTRAL)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: every method at the middle share of dirty rows, Gaussian noise."""
    measures = {
        "cell AP": "cell ap", "row AP": "row ap", "SMSE, dirty cells": "smse", "SMSE, clean cells": "damage",
        "raw SMSE, dirty": "raw smse", "ECE": "ece", "Brier skill": "brier skill",
    }  # fmt: skip
    rows: list[list[object]] = []
    for name in result["settings"]["sets"]:
        for method, label in LABELS.items():
            row = _row(result, method, name, MIDDLE)
            rows.append([TITLES[name], label, *(_cell(row.get(measure)) for measure in measures.values())])
    return markdown_table(["10 % of the rows dirty", "method", *measures], rows)


def _cell(values: list[float] | None) -> str:
    if values is None:
        return "-"
    mean, low, _ = interval(values)
    return f"{mean:.3f} ± {mean - low:.3f}"
