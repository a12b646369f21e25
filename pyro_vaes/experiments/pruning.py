"""Which entries of the code are used: variances of the posterior, and what an entry moves (S3 III).

Protocol: MNIST, a VAE with learned gamma (``gamma_vae``) that is given more codes than it needs. sigma_z^2(x) of every
datum and entry: the tutorial shows two heaps, near 0 (the entry knows its datum) and near 1, the prior's (it was
pruned). An entry is *pruned* here if the mean of its variances over the data is above 0.9, *used* if it is below 0.5.
Each moves from -2 to 2 while the others stay at their means, for 100 digits: how much the reconstruction changes is
the root mean square of the pixels' difference between both ends. The tutorial shows none for a pruned entry and a large
one for a used one.

Scales: ``quick``: 12,000 digits pooled to 14 x 14, 196-256-128-32, 3000 steps of batch 100, learning rate 0.001 falling
to zero along a cosine. ``paper``: all digits, 784-1000-500-250-64, 100,000 steps. The source states no network.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import load
from pyro_vaes.data.pool import pooled
from pyro_vaes.evaluation.aggregated import aggregated, traversal
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained
from pyro_vaes.experiments.verdicts import interval, untested, verdict
from pyro_vaes.pair import Pair

NAME = "pruning"
SOURCE = "S3 III"
USED, PRUNED = 0.5, 0.9
ENDS, STEPS = (-2.0, 2.0), 11
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "limit": 12_000, "pool": 2, "hidden": [256, 128], "latent_dim": 32, "moved": 100, "steps": 3000,
        "batch_size": 100, "lr": 1e-3, "schedule": "cosine", "seeds": [0, 1, 2, 3, 4],
    },
    "paper": {
        "limit": 60_000, "pool": 1, "hidden": [1000, 500, 250], "latent_dim": 64, "moved": 1000, "steps": 100_000,
        "batch_size": 100, "lr": 1e-3, "schedule": "cosine", "seeds": [0, 1, 2, 3, 4],
    },
}  # fmt: skip


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers, verdicts and figure."""
    settings = SCALES[scale]
    shape = _data(scale, str(root))[1]
    cells = Cells(out / f"{NAME}.{scale}.cells", settings, root)
    found = compute(
        partial(cell, scale=scale, root=str(root)), [(seed,) for seed in settings["seeds"]], cells,
        desc=NAME, steps=lambda _: settings["steps"],
    )  # fmt: skip
    seeds = [found[(seed,)] for seed in settings["seeds"]]
    result: dict[str, Any] = {
        "settings": settings, "seconds": cells.seconds(), "shape": list(shape),
        "entries": [{key: one[key] for key in ("variance", "change")} for one in seeds],
        "histogram": [one["histogram"] for one in seeds],
    }  # fmt: skip
    result["verdicts"] = verdicts(result)
    path = record(out, NAME, scale, result, {"heaps": _figure(result, scale, seeds[0]["shown"])})
    cells.discard()
    return path


def cell(seed: int, *, scale: str, root: str) -> dict[str, Any]:
    """Train from one seed; give each entry's variance, what it moves, and the histogram of all variances."""
    settings, (x, _) = SCALES[scale], _data(scale, root)
    arguments = {key: settings[key] for key in ("latent_dim", "hidden")}
    plan = {key: settings[key] for key in ("steps", "batch_size", "lr", "schedule")}
    pair = trained("gamma_vae", x, seed=seed, arguments=arguments, **plan)
    found = aggregated(pair, x, draws=2, seed=seed)
    counts, _ = np.histogram(found.variance.clamp(0, 1.1).numpy(), bins=44, range=(0, 1.1))
    variance = found.variance.mean(0)
    order = variance.argsort()
    shown = {f"{variance[j]:.3f}": _moved(pair, x[:1], int(j)) for j in (order[0], order[-1])}
    return {
        "variance": variance.tolist(), "histogram": counts.tolist(),
        "change": [change(pair, x[: settings["moved"]], j) for j in range(len(variance))],
        "shown": {word: [[round(v, 3) for v in row] for row in rows.tolist()] for word, rows in shown.items()},
    }  # fmt: skip


def change(pair: Pair, x: Tensor, entry: int) -> float:
    """Root mean square difference of the reconstructions with one entry of the code at -2 and at 2."""
    ends = torch.stack([traversal(pair, datum, entry, ENDS) for datum in x])
    return float((ends[:, 1] - ends[:, 0]).square().mean().sqrt())


def _moved(pair: Pair, x: Tensor, entry: int) -> Tensor:
    return traversal(pair, x[0], entry, torch.linspace(*ENDS, STEPS))


def _data(scale: str, root: str) -> tuple[Tensor, tuple[int, ...]]:
    settings = SCALES[scale]
    digits = pooled(load("mnist", root=root, limit=settings["limit"]), settings["pool"])
    return digits.x, digits.shape


def verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge the tutorial's two pictures, one gain per seed; they were written before any training.

    >>> one = {"variance": [0.01, 0.99], "change": [0.5, 0.01]}
    >>> [v["verdict"] for v in verdicts({"entries": [one, one]})]
    ['held', 'held', 'held']
    """
    claims: dict[str, list[float]] = {"two heaps": [], "none": [], "large": []}
    for entries in result["entries"]:
        v, moved = np.array(entries["variance"]), np.array(entries["change"])
        used, pruned = moved[v < USED], moved[v > PRUNED]
        # Nine in ten entries in either heap, and neither heap empty.
        claims["two heaps"].append(float((len(used) + len(pruned)) / len(v) - 0.9) if len(used) * len(pruned) else -0.9)
        if len(used) * len(pruned):
            claims["none"].append(0.1 * used.mean() - pruned.mean())
            claims["large"].append(used.min() - pruned.max())
    words = {
        "two heaps": "an entry's variance is below 0.5 or above 0.9 (share of entries above 0.9; both heaps there)",
        "none": "moving a pruned entry changes less than a tenth of what a used one changes (root mean square)",
        "large": "every used entry changes the image more than every pruned one (root mean square)",
    }
    return [
        verdict(words[name], SOURCE, gains)
        if len(gains) == len(result["entries"]) else untested(words[name], SOURCE, "a seed has one heap only")
        for name, gains in claims.items()
    ]  # fmt: skip


def _figure(result: dict[str, Any], scale: str, shown: dict[str, Any]) -> Figure:
    settings = result["settings"]
    figure = Figure(figsize=(11, 5.4), dpi=160, layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.7, 1])
    top, bottom = halves
    left, right = top.subplots(1, 2)
    counts = np.sum(result["histogram"], axis=0)
    left.stairs(100 * counts / counts.sum(), np.linspace(0, 1.1, 45), fill=True, color=CLASSICAL)
    left.set_xlabel("variance of a datum's posterior in an entry: 0 knows its datum, 1 is the prior", fontsize=9)
    left.set_ylabel("share (%)", fontsize=9)
    v, moved = (np.array([e[key] for e in result["entries"]]).ravel() for key in ("variance", "change"))
    right.scatter(v, moved, s=12, color=[ROBUST if one < USED else CLASSICAL for one in v], linewidths=0)
    right.set_xlabel("mean variance of an entry", fontsize=9)
    right.set_ylabel("what it moves (rms of pixels, -2 to 2)", fontsize=9)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    grid = bottom.subplots(len(shown), STEPS)
    for axes, (word, rows) in zip(grid, shown.items(), strict=True):
        for ax, row in zip(axes, rows, strict=True):
            ax.imshow(image(torch.tensor(row), result["shape"]), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([]), ax.set_yticks([])
            ax.spines[:].set_visible(False)
        axes[0].set_ylabel(f"variance {word}", rotation=0, ha="right", va="center", fontsize=8, color=NEUTRAL)
    for ax, value in zip(grid[-1], np.linspace(*ENDS, STEPS), strict=True):
        ax.set_xlabel(f"{value:g}", fontsize=7)
    about = (
        f"{settings['latent_dim']} entries, {scale} scale, {settings['steps']:,} steps, {len(settings['seeds'])} seeds"
    )
    figure.suptitle(
        f"MNIST, VAE with learned gamma: which entries of z are used ({about}; below, two entries of the first seed)",
        fontsize=10, color=NEUTRAL,
    )  # fmt: skip
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: entries in either heap and what they move, mean and half of the interval."""
    rows: list[list[object]] = []
    for word, low, high in (("used", -1.0, USED), ("between", USED, PRUNED), ("pruned", PRUNED, 9.0)):
        inside = [[low < v <= high for v in e["variance"]] for e in result["entries"]]
        mean, _, end = interval([float(sum(i)) for i in inside])
        moved = np.concatenate([np.array(e["change"])[i] for e, i in zip(result["entries"], inside, strict=True)])
        rows.append([word, f"{mean:.1f} ± {end - mean:.1f}", f"{moved.mean():.4f}" if len(moved) else "-"])
    count = result["settings"]["latent_dim"]
    return markdown_table(["entries", f"how many of {count}", "what one moves (rms of pixels, from -2 to 2)"], rows)
