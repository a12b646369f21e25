"""The still picture of the interactive page: images, their reconstructions, and the posterior of every entry."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST

GUIDE, NUTS = ROBUST, "#00798c"
ROWS = 5


def posterior_figure(model: Mapping[str, Any], tensors: Mapping[str, np.ndarray], scale: str) -> Figure:
    """A row per image: what was seen, the guide's mean decoded; prior, guide and NUTS for each entry of the code."""
    names, shape = model["names"], model["shape"]
    shown = np.linspace(0, len(model["images"]) - 1, ROWS).round().astype(int)
    figure = Figure(figsize=(1.9 + 1.35 * len(names), 1.02 * ROWS + 0.9), dpi=160, layout="constrained")
    grid = figure.subplots(ROWS, 2 + len(names), squeeze=False, width_ratios=[0.62, 0.62] + [1] * len(names))
    for axes, i in zip(grid, shown, strict=True):
        image = model["images"][i]
        pictures = tensors["images"][i] / 255, decoded(tensors, np.array(image["guide mean"]), model["activation"])
        for ax, picture in zip(axes[:2], pictures, strict=True):
            ax.imshow(picture.reshape(shape), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([]), ax.set_yticks([])
        for j, ax in enumerate(axes[2:]):
            _entry(ax, image["guide mean"][j], image["guide sd"][j], tensors["draws"][i, :, j])
            if i != shown[-1]:
                ax.set_xticklabels([])
    titles = ["seen", "decoded", *(n if u else f"{n}, pruned" for n, u in zip(names, model["used"], strict=True))]
    for ax, title in zip(grid[0], titles, strict=True):
        ax.set_title(title, fontsize=8, color=NEUTRAL)
    handles = [grid[0, 2].patches[0], *grid[0, 2].lines]
    figure.legend(
        handles, ["NUTS", "prior", "guide"], ncols=3, fontsize=8, frameon=False, loc="outside lower center"
    )  # fmt: skip
    title = f"{model['pair']}: the code of some images, guide against NUTS (each up to its own height; {scale} scale)"
    figure.suptitle(title, fontsize=9, color=NEUTRAL)
    return figure


def decoded(tensors: Mapping[str, np.ndarray], z: np.ndarray, activation: str) -> np.ndarray:
    """The mean image of a code, from the weights alone, in double precision."""
    last = sum(name.startswith("weight") for name in tensors) - 1
    h = np.asarray(z, np.float64)
    for i in range(last + 1):
        h = h @ tensors[f"weight {i}"].astype(np.float64).T + tensors[f"bias {i}"]
        if i < last:
            h = np.tanh(h) if activation == "tanh" else np.maximum(h, 0)
    return 1 / (1 + np.exp(-h))


def _entry(ax: Any, mean: float, sd: float, draws: np.ndarray) -> None:
    """One entry of the code: every curve up to its own highest point."""
    width = max(0.06, float(draws.std()) / 2)
    edges = np.arange(draws.min() - width, draws.max() + 2 * width, width)
    counts, edges = np.histogram(draws, edges)
    z = np.unique(np.concatenate([np.linspace(-4, 4, 400), mean + sd * np.linspace(-4, 4, 80)]))
    ax.bar(edges[:-1], counts / counts.max(), width, align="edge", color=NUTS, alpha=0.55)
    ax.plot(z, np.exp(-(z**2) / 2), color=CLASSICAL, linewidth=0.9, linestyle="--")
    ax.plot(z, np.exp(-(((z - mean) / sd) ** 2) / 2), color=GUIDE, linewidth=1.1)
    ax.set_xlim(-3.6, 3.6), ax.set_ylim(0, 1.12), ax.set_yticks([]), ax.set_xticks([-3, 0, 3])
    ax.tick_params(labelsize=7), ax.spines[["top", "right", "left"]].set_visible(False)
