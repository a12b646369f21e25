"""The three figures of the experiment ``energies``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image_rows

COLOURS = {"PCA": "#e08e0b", "convex RPCA": "#2a9d8f", "Proposition 1": "#4a6fa5", "affine iC-VAE": ROBUST}
SAID = {"Proposition 1": "Proposition 1's solver"}


def figures(result: Mapping[str, Any], scale: str) -> dict[str, Figure]:
    """Draw slices, plane and clip from what the result holds under ``shown``."""
    shown, seeds = result["shown"], len(result["settings"]["seeds"])
    return {
        "slices": slices(shown["slices"], result["slices"], scale),
        "outlier": outlier(shown["outlier"], result["degrees"], seeds, scale),
        "background": background(shown["clip"], result["background"], seeds, scale),
    }


def slices(shown: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any], scale: str) -> Figure:
    """One row per share of outliers, one panel per energy, its lowest point and the truth marked."""
    names = [name for name in next(iter(shown.values())) if name not in ("truth", "t")]
    figure = Figure(figsize=(10.2, 2.7 * len(shown) + 0.5), dpi=160, layout="constrained")
    grid = figure.subplots(len(shown), len(names), squeeze=False)
    for axes, (share, curves) in zip(grid, shown.items(), strict=True):
        t, problems = np.array(curves["t"]), found[share]
        for ax, name in zip(axes, names, strict=True):
            energy = np.array(curves[name])
            ax.axvline(curves["truth"], color=ROBUST, linewidth=1, linestyle="--")
            ax.plot(t, energy, color=NEUTRAL, linewidth=1.1)
            ax.plot(t[energy.argmin()], energy.min(), "o", color=ROBUST, markersize=5)
            minima = np.mean([p[name]["minima"] for p in problems])
            true = sum(p[name]["off"] < 1e-4 for p in problems)
            ax.set_title(
                f"{name}: {minima:.1f} local minima on average,\nlowest at the truth in {true} of {len(problems)}",
                fontsize=8.5, loc="left", color=NEUTRAL,
            )  # fmt: skip
            ax.tick_params(labelsize=7), ax.set_yticks([])
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel(f"{float(share):.0%} outliers\nenergy", fontsize=9)
    for ax in grid[-1]:
        ax.set_xlabel("error $e_1$ of one entry", fontsize=9)
    title = "Energies of robust PCA as one error moves: dashed the true error, dot the lowest point"
    figure.suptitle(f"{title} (problem 0 of {len(problems)} each; {scale} scale)", fontsize=10, color=NEUTRAL)
    return figure


def outlier(shown: Mapping[str, Any], degrees: Mapping[str, Any], seeds: int, scale: str) -> Figure:
    """The plane of the first seed with every method's first direction, and the angles of all seeds."""
    figure = Figure(figsize=(9.4, 4.0), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    points = np.array(shown["points"])
    centre = np.median(points, axis=0)
    odd = np.abs(points - centre).max(1).argmax()
    for name, direction in shown["directions"].items():
        ends = centre + np.outer([-4, 4], direction)
        style = {"color": CLASSICAL, "linewidth": 6} if name == "truth" else {"color": COLOURS[name], "linewidth": 1.6}
        label = "PCA without the outlier" if name == "truth" else SAID.get(name, name)
        left.plot(*ends.T, label=label, alpha=0.6 if name == "truth" else 1.0, **style)
    left.plot(*np.delete(points, odd, 0).T, ".", color=NEUTRAL, markersize=5)
    left.plot(*points[odd], "o", color="black", markersize=7)
    left.annotate("the outlier", points[odd], (-8, 0), textcoords="offset points", fontsize=8, ha="right", va="center")
    left.set_aspect("equal"), left.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    left.set_xlabel("$x_1$", fontsize=9), left.set_ylabel("$x_2$", fontsize=9)
    left.set_title("First direction, seed 0", fontsize=10, loc="left", color=NEUTRAL)
    names = list(degrees)[::-1]
    for i, name in enumerate(names):
        right.plot(degrees[name], [i] * seeds, "o", color=COLOURS[name], alpha=0.6, markersize=6)
        right.plot(np.mean(degrees[name]), i, "|", color=COLOURS[name], markersize=22, markeredgewidth=2)
    right.set_yticks(range(len(names)), [SAID.get(name, name) for name in names], fontsize=9)
    right.set_xlabel("degrees it is turned by the outlier (0 is best)", fontsize=9)
    right.set_title(f"{seeds} seeds, and their mean ({scale} scale)", fontsize=10, loc="left", color=NEUTRAL)
    right.set_xlim(left=-1), right.set_ylim(-0.6, len(names) - 0.4)
    for ax in (left, right):
        ax.tick_params(labelsize=8), ax.spines[["top", "right"]].set_visible(False)
    return figure


def background(shown: Mapping[str, list[str]], errors: Mapping[str, Any], seeds: int, scale: str) -> Figure:
    """Frames, true background and the estimates, with the error of this clip and of all."""
    rows = {}
    for name, pictures in shown.items():
        label = f"{name}\n{errors[name][0]:.3f} (all: {np.mean(errors[name]):.3f})" if name in errors else name
        rows[label] = torch.tensor([list(bytes.fromhex(picture)) for picture in pictures]) / 255
    side = round(next(iter(rows.values())).shape[1] ** 0.5)
    title = f"Background of a clip, seed 0 of {seeds} ({scale} scale);\nnumbers: root mean square error where covered"
    return image_rows(rows, (side, side), title=title, highlight=[n for n in rows if n.startswith("affine")])
