"""The figures of the experiment on identifiability."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image
from pyro_vaes.experiments.verdicts import interval

WORDS = ("female, young", "female, old", "male, young", "male, old")
# Where the four images lie in a code of two coins; age = z_1 xor z_2 in the second.
PLACES = {
    "disentangled": [(0, 0), (0, 1), (1, 0), (1, 1)],
    "entangled": [(0, 0), (0, 1), (1, 1), (1, 0)],
}
AXES = {
    "disentangled": ("$z_1$: gender changes", "$z_2$: age changes"),
    "entangled": ("$z_1$: gender and age change", "$z_2$: age changes"),
}
COLOURS = {"ICA-VAE": ROBUST, "Gaussian prior": NEUTRAL, "FastICA": "#6b8fb5", "PCA": CLASSICAL}


def figures(result: dict[str, Any], scale: str, images: Tensor) -> dict[str, Figure]:
    """The two layouts, what trained pairs found, recovered sources, and Amari distances."""
    return {
        "layouts": layouts(result, images),
        "trained": trained(result, scale, images),
        "sources": sources(result, scale),
        "amari": amari(result, scale),
    }


def layouts(result: dict[str, Any], images: Tensor) -> Figure:
    """Both codes of the four images, and log p(x) under each."""
    figure = Figure(figsize=(10.5, 3.7), dpi=160, layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
    for ax, (layout, places) in zip(axes, PLACES.items(), strict=False):
        for picture, place in zip(images, places, strict=True):
            _glyph(ax, picture, place, 4.2)
        ax.set_title(f"{layout} code", fontsize=10, loc="left", color=NEUTRAL)
        ax.set_xlabel(AXES[layout][0], fontsize=9), ax.set_ylabel(AXES[layout][1], fontsize=9)
        ax.set_xlim(-0.5, 1.5), ax.set_ylim(-0.5, 1.5)
        ax.set_xticks([0, 1]), ax.set_yticks([0, 1])
        _plain(ax)
    at, ax = np.arange(4), axes[2]
    for i, (layout, values) in enumerate(result["layouts"]["log p"].items()):
        drawn = ax.barh(at + 0.19 - 0.38 * i, values, 0.36, color=(ROBUST, CLASSICAL)[i], label=layout)
        ax.bar_label(drawn, fmt="%.4f", fontsize=8, padding=-44, color="white" if i == 0 else "black")
    ax.set_yticks(at, WORDS), ax.invert_yaxis()
    apart = max(result["layouts"]["largest difference"])
    ax.set_title("log p(x), equal under both", fontsize=10, loc="left", color=NEUTRAL)
    said = f"differ by {apart:.0e} at most" if apart else "are equal too, to the last digit"
    ax.set_xlabel(f"nats; those of random images {said}", fontsize=9)
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    _plain(ax)
    figure.suptitle("Four equiprobable images, two codes with independent entries: no data can tell which",
                    fontsize=10, color=NEUTRAL)  # fmt: skip
    return figure


def trained(result: dict[str, Any], scale: str, images: Tensor) -> Figure:
    """The codes of five seeds, and alignment against the bound for all."""
    figure = Figure(figsize=(11.5, 5.2), dpi=160, layout="constrained")
    grid = figure.subplots(2, 6, width_ratios=[1, 1, 1, 1, 1, 1.9])
    for row, (method, values) in zip(grid, result["images"].items(), strict=True):
        for seed, (ax, codes) in enumerate(zip(row[:5], values["codes"], strict=False)):
            for picture, place in zip(images, codes, strict=True):
                _glyph(ax, picture, place, 2.0)
            reach = 1.5 * np.abs(codes).max()
            ax.set_xlim(-reach, reach), ax.set_ylim(-reach, reach)
            ax.axhline(0, color=CLASSICAL, linewidth=0.4, zorder=0), ax.axvline(0, color=CLASSICAL, linewidth=0.4)
            ax.set_xticks([]), ax.set_yticks([]), ax.set_aspect("equal")
            ax.set_title(f"seed {seed}: {values['alignment'][seed]:.2f}", fontsize=8, loc="left", color=NEUTRAL)
        row[0].set_ylabel(f"{method}\n$z_2$", fontsize=9)
        row[5].scatter(values["alignment"], values["bound"], color=ROBUST, s=22, alpha=0.8)
        row[5].set_xlim(0.3, 1.05)
        middle = float(np.mean(values["bound"]))
        reach = max(0.5, 1.3 * float(np.abs(np.array(values["bound"]) - middle).max()))
        row[5].set_ylim(middle - reach, middle + reach)
        row[5].ticklabel_format(useOffset=False)
        row[5].set_ylabel("bound (nats, higher is better)", fontsize=8)
        row[5].set_title(f"all {len(values['bound'])} seeds", fontsize=8, loc="left", color=NEUTRAL)
        _plain(row[5])
    for ax in grid[1, :5]:
        ax.set_xlabel("$z_1$", fontsize=9)
    grid[1, 5].set_xlabel("alignment with gender and age (1 = disentangled)", fontsize=8)
    steps = result["settings"]["images"]["steps"]
    figure.suptitle(f"Mean codes of the four images after training ({scale} scale, {steps:,} steps); in the titles the "
                    "alignment of each axis with one attribute", fontsize=10, color=NEUTRAL)  # fmt: skip
    return figure


def sources(result: dict[str, Any], scale: str) -> Figure:
    """True against recovered sources of one seed, one row of panels per method."""
    name = next(n for n, by in result["sources"].items() if all("shown" in v for v in by.values()))
    kinds, by = ("uniform", "Laplace", "two bumps"), result["sources"][name]
    figure = Figure(figsize=(7.2, 8.4), dpi=160, layout="constrained")
    for row, (method, values) in zip(figure.subplots(len(by), 3, sharex=True, sharey=True), by.items(), strict=True):
        true, found = (np.array(v) for v in values["shown"])
        for j, ax in enumerate(row):
            ax.scatter(true[:, j], found[:, j], s=4, color=COLOURS[method], alpha=0.6, linewidths=0)
            r = float(np.corrcoef(true[:, j], found[:, j])[0, 1])
            ax.set_title(f"{kinds[j]}: r = {r:.2f}", fontsize=9, loc="left", color=NEUTRAL)
            ax.set_xlim(-4, 4), ax.set_ylim(-4, 4)
            _plain(ax)
        row[0].set_ylabel(f"{method}\nrecovered", fontsize=9)
    figure.supxlabel("planted source (a straight line is best)", fontsize=9)
    figure.suptitle(f"{name}, {scale} scale, the first seed: sources against codes\n(order, sign and scale matched)",
                    fontsize=10, color=NEUTRAL)  # fmt: skip
    return figure


def amari(result: dict[str, Any], scale: str) -> Figure:
    """Bars with 95 % intervals, one group per set of sources, and a point per seed."""
    figure = Figure(figsize=(9.6, 4.2), dpi=160, layout="constrained")
    ax, names = figure.subplots(), list(result["sources"])
    for i, method in enumerate(COLOURS):
        for g, name in enumerate(names):
            values = result["sources"][name][method]["amari"]
            mean, low, high = interval(values)
            at = g + 0.2 * (i - 1.5)
            label = {"Gaussian prior": "the same VAE, Gaussian prior"}.get(method, method) if g == 0 else None
            ax.bar(at, mean, 0.18, color=COLOURS[method], label=label)
            ax.errorbar(at, mean, [[mean - max(low, 0.0)], [high - mean]], color="black", linewidth=1, capsize=2)
            ax.scatter([at] * len(values), values, s=5, color="black", alpha=0.4, zorder=3)
    ax.set_xticks(range(len(names)), [n.replace(", ", "\n").replace(" and 2", "\nand 2") for n in names], fontsize=9)
    ax.set_ylabel("Amari distance to the planted mixing\n(0 is best, 1 is worst)", fontsize=9)
    ax.set_ylim(0, None)
    ax.legend(fontsize=8, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, 1.1))
    settings = result["settings"]
    said = f"{scale} scale, {settings['steps']:,} steps; bars: mean of {len(settings['seeds'])} seeds, 95 % interval"
    figure.suptitle(f"Are the sources found? {said}; points: seeds", fontsize=10, color=NEUTRAL)
    _plain(ax)
    return figure


def _glyph(ax: Any, picture: Tensor, place: Any, zoom: float) -> None:
    box = OffsetImage(1 - image(picture, (8, 8)), zoom=zoom, cmap="gray", interpolation="nearest", clim=(0, 1))
    ax.add_artist(AnnotationBbox(box, place, frameon=True, pad=0.1, bboxprops={"edgecolor": CLASSICAL}))


def _plain(ax: Any) -> None:
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
