"""What S0 V-C claims of new digits, the figures that show it, and the table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vaes.data import Dataset
from pyro_vaes.evaluation.plots import NEUTRAL, ROBUST, image
from pyro_vaes.experiments.record import markdown_table
from pyro_vaes.experiments.verdicts import interval, verdict

SHOWN = ("l2-VAE", "iC-VAE", "RiC(1, 20)", "RiC(5, 1)", "RiC(5, 20)")
OTHERS = SHOWN[:-1]
COLUMNS, ROWS = 10, 10
COLOURS = {"iC": "#3f88c5", "RiC": ROBUST}


def edges(pixels: int) -> np.ndarray:
    """Give the edges of the bins in which distances between images are counted."""
    return np.linspace(0, 0.3 * np.sqrt(pixels), 51)


def verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge the claims of S0 V-C; they were written before any training. Gains are paired by seed."""
    real = result["real"]

    def of(dirt: str, way: str, measure: str = "frechet distance") -> np.ndarray:
        return np.array(result["samples"][dirt][way][measure], dtype=float)

    def blur(way: str) -> np.ndarray:
        return np.abs(of("clean", way, "total variation") - real["total variation"])

    def distance(way: str) -> np.ndarray:
        return np.array([h["mean"] for h in result["samples"]["clean"][way]["histogram"]])

    def code(dirt: str, name: str, measure: str, ideal: float) -> np.ndarray:
        return np.array([np.abs(np.array(v) - ideal).mean() for v in result["codes"][dirt][name][measure]])

    best = {d: np.min([of(d, way) for way in OTHERS], axis=0) - of(d, "RiC(5, 20)") for d in ("clean", "dirty")}
    claims: list[tuple[str, str, Any]] = [
        ("clean: samples of the l2-VAE are blurred (total variation below the digits')", "V-C",
         real["total variation"] - of("clean", "l2-VAE", "total variation")),
        ("clean: the iC-VAE removes this blur (total variation nearer to the digits')", "V-C",
         blur("l2-VAE") - blur("iC-VAE")),
        ("clean: but shapes are compromised (iC-VAE further from digits than l2-VAE, Frechet distance)", "V-C",
         of("clean", "iC-VAE") - of("clean", "l2-VAE")),
        ("clean: 20 passes without recycling in training add artefacts (RiC(1, 20) further off than iC-VAE)", "V-C",
         of("clean", "RiC(1, 20)") - of("clean", "iC-VAE")),
        ("clean: recycling in training is of limited value without passes at test time (RiC(5, 20) beats (5, 1))",
         "V-C", of("clean", "RiC(5, 1)") - of("clean", "RiC(5, 20)")),
        ("clean: RiC(5, 20) is the closest to digits of the five", "Fig. 7", best["clean"]),
        ("dirty: RiC(5, 20) is the closest to clean digits of the five", "Fig. 7", best["dirty"]),
        ("dirty: RiC(5, 20) is closer to clean digits than the iC-VAE", "V-C",
         of("dirty", "iC-VAE") - of("dirty", "RiC(5, 20)")),
        ("dirty: RiC(5, 20)'s samples are clean (closer to clean digits than the median training image)", "V-C",
         result["median image"]["dirty"] - of("dirty", "RiC(5, 20)")),
        ("clean: the aggregated posterior's quantiles are nearer to N(0, 1) for RiC (N = 5) than for iC", "Fig. 9",
         code("clean", "iC", "quantile error", 0) - code("clean", "RiC", "quantile error", 0)),
        ("clean: its means are nearer to 0", "Fig. 10",
         code("clean", "iC", "mean", 0) - code("clean", "RiC", "mean", 0)),
        ("clean: its variances are nearer to 1", "Fig. 10",
         code("clean", "iC", "variance", 1) - code("clean", "RiC", "variance", 1)),
        ("clean: five passes first leave its variances as near to 1, within 0.05", "V-C",
         0.05 - (code("clean", "RiC, M = 5", "variance", 1) - code("clean", "RiC", "variance", 1))),
        ("clean: samples of RiC(5, 1) are no copies (as far from the data as new digits are)", "Fig. 11",
         distance("RiC(5, 1)") - real["histogram"]["mean"]),
        ("clean: nor are those of RiC(5, 5)", "Fig. 11", distance("RiC(5, 5)") - real["histogram"]["mean"]),
        ("clean: five passes keep the distances (RiC(5, 5) at least 95 % of RiC(5, 1))", "Fig. 11",
         distance("RiC(5, 5)") - 0.95 * distance("RiC(5, 1)")),
    ]  # fmt: skip
    ours = [
        ("clean: our weight of the KL term (KL / N) gives samples closer to digits than the paper's, M = 1",
         of("clean", "RiC(5, 1)") - of("clean", "RiC(5, 1), KL / N")),
        ("dirty: our weight of the KL term (KL / N) gives samples closer to digits than the paper's, M = 1",
         of("dirty", "RiC(5, 1)") - of("dirty", "RiC(5, 1), KL / N")),
    ]  # fmt: skip
    found = [verdict(claim, f"S0 {where}", list(gains)) for claim, where, gains in claims]
    return found + [verdict(claim, "ours", list(gains)) for claim, gains in ours]


def figures(
    result: dict[str, Any], scale: str, shown: dict[str, Any], digits: Dataset, dirt: dict[str, float]
) -> dict[str, Figure]:
    """Draw the hundred samples of each, the histograms of distances, and three views of the codes."""
    settings = result["settings"]
    about = f"MNIST {digits.shape[-2]} x {digits.shape[-1]}, {scale} scale, {settings['steps']:,} steps"
    return {
        "samples": _samples(shown, digits, f"New digits ({about}, first of {len(settings['seeds'])} seeds)"),
        "diversity": _diversity(result, about, int(np.prod(digits.shape))),
        "codes": _codes(result, about),
        "moments": _moments(result, about),
    }


def _samples(shown: dict[str, Any], digits: Dataset, title: str) -> Figure:
    figure = Figure(figsize=(2.1 * (len(SHOWN) + 1), 2.1 * len(shown) + 0.9), dpi=170, layout="constrained")
    axes = figure.subplots(len(shown), len(SHOWN) + 1, squeeze=False)
    words = {"clean": "trained on clean digits", "dirty": "trained on dirty digits\n(40 % of pixels noise)"}
    for row, (dirt, by) in zip(axes, shown.items(), strict=True):
        panels = {"real digits": digits.x[: COLUMNS * ROWS].tolist()} | {way: by[way] for way in SHOWN}
        for ax, (name, rows) in zip(row, panels.items(), strict=True):
            ax.imshow(_tiles(rows, digits.shape), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([]), ax.set_yticks([])
            ax.spines[:].set_visible(False)
            ax.set_title(name, fontsize=9, color=ROBUST if name.startswith("RiC(5, 20") else NEUTRAL)
        row[0].set_ylabel(words[dirt], fontsize=9, color=NEUTRAL)
    figure.suptitle(f"{title}. RiC(N, M): N passes in training, M for a sample", fontsize=10, color=NEUTRAL)
    return figure


def _tiles(rows: Sequence[Sequence[float]], shape: Sequence[int]) -> np.ndarray:
    """Lay a hundred images out as one."""
    images = np.stack([image(torch.tensor(row), shape) for row in rows[: COLUMNS * ROWS]])
    height, width = images.shape[1:3]
    return images.reshape(ROWS, COLUMNS, height, width).swapaxes(1, 2).reshape(ROWS * height, COLUMNS * width)


def _diversity(result: dict[str, Any], about: str, pixels: int) -> Figure:
    by = {"new real digits": [result["real"]["histogram"]]}
    by |= {way: result["samples"]["clean"][way]["histogram"] for way in ("RiC(5, 1)", "RiC(5, 5)", "RiC(5, 20)")}
    figure = Figure(figsize=(3.1 * len(by), 3.0), dpi=160, layout="constrained")
    axes = figure.subplots(1, len(by), sharex=True, sharey=True)
    real = result["real"]["histogram"]["mean"]
    for ax, (name, found) in zip(axes, by.items(), strict=True):
        counts = np.sum([h["counts"] for h in found], axis=0)
        colour = NEUTRAL if name.startswith("new") else ROBUST
        ax.stairs(counts / counts.sum(), edges(pixels), fill=True, color=colour, alpha=0.75)
        ax.axvline(real, color=NEUTRAL, linestyle="--", linewidth=1)
        mean = np.mean([h["mean"] for h in found])
        ax.set_title(f"{name}: mean {mean:.2f}", fontsize=9, loc="left", color=colour)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("share of the samples", fontsize=9)
    figure.supxlabel("Euclidean distance to the nearest training digit", fontsize=9)
    figure.suptitle(
        f"Copies would heap up near 0; dashed: the mean of new real digits ({about}, clean training data, "
        f"{len(result['settings']['seeds'])} seeds together)", fontsize=9, color=NEUTRAL,
    )  # fmt: skip
    return figure


def _codes(result: dict[str, Any], about: str) -> Figure:
    """Scatter (Fig. 8) and Q-Q (Fig. 9) of the two most active entries, clean and dirty."""
    dirts = list(result["first seed"])
    figure = Figure(figsize=(3.2 * 2 * len(dirts), 6.3), dpi=160, layout="constrained")
    axes = figure.subplots(2, 2 * len(dirts), squeeze=False)
    for i, dirt in enumerate(dirts):
        for j, name in enumerate(COLOURS):
            found = result["first seed"][dirt][name]
            ax, qq = axes[0, 2 * i + j], axes[1, 2 * i + j]
            points = np.array(found["scatter"])
            ax.scatter(*points.T, s=3, color=COLOURS[name], alpha=0.6, linewidth=0)
            angle = np.linspace(0, 2 * np.pi, 100)
            for radius in (1, 2, 3):
                ax.plot(radius * np.cos(angle), radius * np.sin(angle), color=NEUTRAL, linewidth=0.8, linestyle="--")
            ax.set_xlim(-4.5, 4.5), ax.set_ylim(-4.5, 4.5), ax.set_aspect("equal")
            ax.set_title(f"{name}, {dirt}: two entries of z", fontsize=9, loc="left", color=COLOURS[name])
            for column, style in zip(found["quantiles"], ("-", "-."), strict=True):
                qq.plot(found["normal"], column, style, color=COLOURS[name], linewidth=1.6)
            qq.plot([-3, 3], [-3, 3], color=NEUTRAL, linewidth=0.8, linestyle="--")
            qq.set_xlim(-3, 3), qq.set_ylim(-4.5, 4.5)
            qq.set_title(f"{name}, {dirt}: Q-Q of both", fontsize=9, loc="left", color=COLOURS[name])
            qq.set_xlabel("quantile of N(0, 1)", fontsize=8)
            for each in (ax, qq):
                each.tick_params(labelsize=7)
    figure.suptitle(
        f"Aggregated posterior, its two most active entries (Q-Q: full the first, dash-dotted the second)\n"
        f"N(0, I) has the dashed rings (1, 2, 3 sd) and the dashed line ({about}, first seed)",
        fontsize=9, color=NEUTRAL,
    )  # fmt: skip
    return figure


def _moments(result: dict[str, Any], about: str) -> Figure:
    """Mean and variance of every entry (Fig. 10), all seeds."""
    dirts = list(result["codes"])
    figure = Figure(figsize=(4.4 * len(dirts), 5.4), dpi=160, layout="constrained")
    axes = figure.subplots(2, len(dirts), squeeze=False, sharey="row")
    for i, dirt in enumerate(dirts):
        for measure, ideal, ax in (("mean", 0, axes[0, i]), ("variance", 1, axes[1, i])):
            for j, name in enumerate(COLOURS):
                # Sorted, since the order of entries means nothing and is another one for every seed.
                values = np.sort(np.array(result["codes"][dirt][name][measure]), axis=1)
                place = np.arange(values.shape[1]) + 1
                ax.plot(place, values.T, color=COLOURS[name], alpha=0.25, linewidth=0.8)
                ax.plot(place, values.mean(0), color=COLOURS[name], linewidth=2)
                label = name if name == "iC" else "RiC, N = 5"
                ax.text(0.03 + 0.1 * j, 0.92, label, color=COLOURS[name], fontsize=9, transform=ax.transAxes)
            ax.axhline(ideal, color=NEUTRAL, linestyle="--", linewidth=1)
            ax.set_title(f"{measure}, {dirt} training data", fontsize=9, loc="left", color=NEUTRAL)
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=8)
        axes[1, i].set_xlabel("entry of z, sorted by its value", fontsize=9)
    figure.suptitle(
        f"Aggregated posterior, every entry: N(0, I) has the dashed line ({about}, thin: single seeds)",
        fontsize=9, color=NEUTRAL,
    )  # fmt: skip
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: samples of every way on both kinds of data, mean and half of the interval."""
    measures = ("frechet distance", "precision", "recall", "density", "coverage", "total variation")
    real = result["real"]
    rows: list[list[object]] = [
        ["new real digits", "", *(f"{real[m]:.3g}" for m in measures), f"{real['histogram']['mean']:.3g}"]
    ]
    for dirt, level in result["median image"].items():
        rows.append(["median training image", dirt, f"{level:.3g}", *[""] * len(measures)])
    for dirt, by in result["samples"].items():
        for way, found in by.items():
            near = _plus_minus([h["mean"] for h in found["histogram"]])
            rows.append([way, dirt, *(_plus_minus(found[m]) for m in measures), near])
    return markdown_table(["samples of", "trained on", *measures, "distance to data"], rows)


def _plus_minus(values: Sequence[float]) -> str:
    mean, _, high = interval(values)
    return f"{mean:.3g} ± {high - mean:.2g}"
