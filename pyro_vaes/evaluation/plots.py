"""The figures: rows of images, outlier maps, bars and curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.errors import InputError

CLASSICAL, ROBUST, NEUTRAL = "#9aa5b1", "#d1495b", "#2e4057"


def image(row: Tensor, shape: Sequence[int]) -> np.ndarray:
    """Turn one datum of d entries into an array that imshow takes: (H, W), or (H, W, C) for colour.

    >>> import torch
    >>> image(torch.zeros(12), (3, 2, 2)).shape
    (2, 2, 3)
    """
    array = row.detach().cpu().float().numpy().reshape(tuple(shape))
    return array.transpose(1, 2, 0) if array.ndim == 3 else np.atleast_2d(array)


def image_rows(
    rows: dict[str, Tensor],
    shape: Sequence[int],
    *,
    title: str = "",
    maps: dict[str, tuple[str, float]] | None = None,
    highlight: Sequence[str] = (),
) -> Figure:
    """Draw one row of images per method, one column per datum, the method's name on the left.

    Args:
        rows: label -> (columns, d), all of one length; pixels in [0, 1].
        shape: of one datum, (H, W) or (C, H, W).
        maps: rows that are no pictures: label -> (colour map, largest value).
        highlight: labels to print in the colour of the robust methods.

    Raises:
        InputError: if the rows differ in length, or there are none.

    >>> import torch
    >>> image_rows({"dirty": torch.rand(3, 4), "clean": torch.rand(3, 4)}, (2, 2)).axes.__len__()
    6
    """
    lengths = {len(row) for row in rows.values()}
    if len(lengths) != 1:
        raise InputError(f"rows of images must have one length, these have {sorted(lengths)}")
    columns = lengths.pop()
    height, width = image(next(iter(rows.values()))[0], shape).shape[:2]
    cell = 0.62
    labels = max(len(label) for label in rows) * 0.066 + 0.15
    size = (labels + columns * cell, len(rows) * cell * height / width + (0.5 if title else 0.1))
    figure = Figure(figsize=size, dpi=160)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (label, row) in zip(grid, rows.items(), strict=True):
        cmap, top = (maps or {}).get(label, ("gray", 1.0))
        for ax, datum in zip(axes, row, strict=True):
            ax.imshow(image(datum, shape).clip(0, top), cmap=cmap, vmin=0, vmax=top, interpolation="nearest")
            ax.set_xticks([]), ax.set_yticks([])
            ax.spines[:].set_visible(False)
        colour = ROBUST if label in highlight else NEUTRAL
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, color=colour)
    figure.subplots_adjust(
        left=labels / size[0],
        right=0.995,
        bottom=0.01,
        top=1 - (0.4 / size[1] if title else 0.0),
        wspace=0.06,
        hspace=0.08,
    )
    if title:
        figure.suptitle(title, fontsize=9, y=1 - 0.1 / size[1], va="top", color=NEUTRAL)
    return figure


def bars(values: dict[str, float], *, title: str, xlabel: str, highlight: Sequence[str] = ()) -> Figure:
    """Draw one bar per method, best on top, its value beside it.

    >>> bars({"a": 0.2, "b": 0.1}, title="t", xlabel="error").axes[0].get_xlabel()
    'error'
    """
    order = sorted(values, key=lambda name: -values[name])
    figure = Figure(figsize=(6.4, 0.32 * len(order) + 0.9), dpi=160, layout="constrained")
    ax = figure.subplots()
    colours = [ROBUST if name in highlight else CLASSICAL for name in order]
    drawn = ax.barh(order, [values[name] for name in order], color=colours, height=0.72)
    ax.bar_label(drawn, fmt="%.4f", padding=3, fontsize=8, color=NEUTRAL)
    ax.set_xlim(0, max(values.values()) * 1.14)
    ax.set_title(title, fontsize=10, color=NEUTRAL, loc="left")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.tick_params(labelsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def curves(
    x: Sequence[float],
    lines: dict[str, Sequence[float]],
    *,
    titles: Sequence[str],
    xlabel: str,
    ylabel: str,
    bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    bottoms: Sequence[float] | None = None,
    **panels: Any,
) -> Figure:
    """Draw methods as lines over a setting, in one panel, or in one per entry of ``panels`` (name -> lines).

    Every line is named at its right end, so that no legend has to be matched by colour.

    Args:
        bands: name -> (low, high) at each point, a confidence interval that is shaded.
        bottoms: where the axis of each panel begins, zero by default.

    >>> curves([1, 2], {"a": [1.0, 2.0]}, titles=["t"], xlabel="x", ylabel="y").axes[0].get_title(loc="left")
    't'
    """
    groups = [lines, *panels.values()]
    figure = Figure(figsize=(5.6 * len(groups), 4.4), dpi=160, layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for ax, group, title, bottom in zip(axes, groups, titles, bottoms or [0.0] * len(groups), strict=True):
        shown = [v for values in group.values() for v in values]
        shown += [high for name in group for _, high in (bands or {}).get(name, ())]
        ends = _spread([values[-1] for values in group.values()], shown, bottom)
        for i, ((name, values), end) in enumerate(zip(group.items(), ends, strict=True)):
            colour = f"C{i}"
            ax.plot(x, values, marker="o", markersize=3, linewidth=1.5, color=colour)
            if bands is not None and name in bands:
                ax.fill_between(x, *zip(*bands[name], strict=True), color=colour, alpha=0.15, linewidth=0)
            ax.annotate(
                name, (x[-1], values[-1]), (x[-1] + 0.03 * (x[-1] - x[0]), end), fontsize=8, color=colour, va="center"
            )
        # A panel holds some 60 characters of 10 points.
        ax.set_title(title, fontsize=min(10, 600 / max(1, len(title))), loc="left", color=NEUTRAL)
        ax.set_xlabel(xlabel, fontsize=9), ax.set_ylabel(ylabel, fontsize=9)
        ax.set_xlim(x[0], x[-1] + 0.24 * (x[-1] - x[0]))
        ax.set_xticks(list(x))
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(bottom=bottom)
    return figure


def _spread(ends: Sequence[float], values: Sequence[float], bottom: float = 0.0) -> list[float]:
    """Move labels apart until none covers another."""
    gap = 0.045 * (max(values) - bottom)
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    placed: dict[int, float] = {}
    last = -math.inf
    for i in order:
        placed[i] = last = max(ends[i], last + gap)
    return [placed[i] for i in range(len(ends))]


def training(rows: list[dict[str, Any]], title: str, shown: str = "bound") -> Figure:
    """Draw the bound, in nats per datum, over the steps of a run; the line is a running mean.

    Args:
        shown: what that number is, in words, where it is no bound.

    >>> training([{"step": s, "bound": float(s)} for s in range(1, 30)], "t").axes[0].get_ylabel()
    'bound (nats per datum)'
    """
    steps = np.array([row["step"] for row in rows])
    bound = np.array([row["bound"] for row in rows])
    figure = Figure(figsize=(6.4, 2.8), dpi=160, layout="constrained")
    ax = figure.subplots()
    ax.plot(steps, bound, color=CLASSICAL, linewidth=0.6)
    window = max(1, len(bound) // 25)
    if window > 1:
        mean = np.convolve(bound, np.ones(window) / window, mode="valid")
        ax.plot(steps[window - 1 :], mean, color=NEUTRAL, linewidth=1.6)
    ax.set_title(title, fontsize=10, loc="left", color=NEUTRAL)
    (
        ax.set_xlabel("step", fontsize=9),
        ax.set_ylabel(f"{shown}\n(nats per datum)" if len(shown) > 9 else f"{shown} (nats per datum)", fontsize=9),
    )
    # The first steps are far away and would flatten the rest.
    low, high = np.quantile(bound, [0.05, 1.0])
    ax.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low) + 1e-9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
