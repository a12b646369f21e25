"""What a sweep came to: its history, the metric along each parameter, and what each parameter accounts for."""

import json
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST
from pyro_vaes.inference.sweep import Swept
from pyro_vaes.inference.trials import METRICS

UNITS = {"bound": "held-out bound (nats per datum)", "loss": "held-out loss (nats per datum)",
         "rmse": "RMSE of held-out cleaned rows"}  # fmt: skip


def history(found: Swept) -> Figure:
    """Draw the metric of every trial in the order of their numbers, and the best so far; the pruned at the bottom.

    >>> from pathlib import Path
    >>> row = {"number": 0, "state": "complete", "value": -3.0, "parameters": {"lr": 0.1}}
    >>> history(Swept(Path("s"), "bound", [row], row)).axes[0].get_xlabel()
    'trial'
    """
    figure = Figure(figsize=(6.4, 3.2), dpi=160, layout="constrained")
    ax = figure.subplots()
    done = _complete(found)
    numbers, values = [row["number"] for row in done], [row["value"] for row in done]
    so_far = (np.maximum if METRICS[found.metric] == "maximize" else np.minimum).accumulate(values)
    ax.step(numbers, so_far, where="post", color=ROBUST, linewidth=1.5, label="best so far")
    ax.plot(numbers, values, "o", color=NEUTRAL, markersize=4, label="complete")
    for state, mark in (("pruned", "|"), ("failed", "x")):
        there = [row["number"] for row in found.trials if row["state"] == state]
        # Along the bottom, whatever the scale: they have no value.
        ax.plot(there, [0.03] * len(there), mark, color=CLASSICAL, markersize=7, clip_on=False,
                transform=ax.get_xaxis_transform(), label=f"{state} ({len(there)})" if there else "_none")  # fmt: skip
    _scale(ax, values)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("trial", fontsize=9)
    _style(ax, UNITS[found.metric], f"{found.out.name}: {len(done)} complete of {len(found.trials)} trials")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, -0.4), ncols=4, fontsize=8, frameon=False)
    return figure


def slices(found: Swept) -> Figure:
    """Draw the metric along each parameter, one panel each; later trials are darker, the best one is marked.

    >>> from pathlib import Path
    >>> row = {"number": 0, "state": "complete", "value": -3.0, "parameters": {"lr": 0.1, "hidden": [4]}}
    >>> [ax.get_xlabel() for ax in slices(Swept(Path("s"), "bound", [row], row)).axes]
    ['lr', 'hidden']
    """
    names = list(found.trials[0]["parameters"])
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.4, 2.7 * lines + 0.3), dpi=160, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    done = _complete(found)
    for ax, name in zip(grid, names, strict=False):
        _slice(ax, done, name, found.best)
        _scale(ax, [row["value"] for row in done])
        _style(ax, UNITS[found.metric] if ax in grid[::columns] else "", "")
    for ax in grid[len(names) :]:
        ax.remove()
    figure.suptitle("later trials are darker; the best is red", fontsize=9, color=NEUTRAL, x=0.01, ha="left")
    return figure


def importances(found: Swept) -> Figure:
    """Draw the share of the metric's spread that each parameter accounts for.

    >>> from pathlib import Path
    >>> importances(Swept(Path("s"), "bound", [], None, {"lr": 0.9, "hidden": 0.1})).axes[0].get_yticks()
    [0, 1]
    """
    order = sorted(found.importances, key=lambda name: found.importances[name])
    figure = Figure(figsize=(6.4, 0.34 * len(order) + 1.1), dpi=160, layout="constrained")
    ax = figure.subplots()
    drawn = ax.barh(order, [found.importances[name] for name in order], color=CLASSICAL, height=0.7)
    ax.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8, color=NEUTRAL)
    ax.set_xlim(0, 1.08)
    ax.set_xlabel("importance (PED-ANOVA; the shares add up to 1)", fontsize=9)
    _style(ax, "", f"what the {found.metric} depends on")
    return figure


def figures(found: Swept) -> dict[str, Figure]:
    """Every figure that there is something for, by the name of its file."""
    made: dict[str, Figure] = {}
    if _complete(found):
        made |= {"history.png": history(found), "slices.png": slices(found)}
    return made | ({"importances.png": importances(found)} if found.importances else {})


def _slice(ax: Axes, done: list[dict[str, Any]], name: str, best: dict[str, Any] | None) -> None:
    given, values = [row["parameters"][name] for row in done], [row["value"] for row in done]
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    if plain:
        at: list[Any] = given
        # Drawn evenly in the logarithm where the trials lie that far apart.
        if min(given) > 0 and max(given) / min(given) > 30:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        texts = sorted({json.dumps(v) for v in given})
        at = [texts.index(json.dumps(v)) for v in given]
        ax.set_xticks(range(len(texts)), [text.strip('"') for text in texts])
        ax.set_xlim(-0.6, len(texts) - 0.4)
    ages = np.linspace(0.25, 1.0, len(done))
    ax.scatter(at, values, s=18, c=[to_rgba(NEUTRAL, age) for age in ages], linewidths=0)
    for x, row in zip(at, done, strict=True):
        if best is not None and row["number"] == best["number"]:
            ax.plot(x, row["value"], "o", markersize=6, color=ROBUST)
    ax.set_xlabel(name, fontsize=9)


def _scale(ax: Axes, values: list[float]) -> None:
    """Values that are far worse than the others would flatten them: the axis ends near the worst of the ordinary."""
    low, q1, q3, high = np.quantile(values, [0.0, 0.25, 0.75, 1.0])
    reach = 3 * (q3 - q1)
    bottom, top = max(low, q1 - reach), min(high, q3 + reach)
    room = 0.12 * (top - bottom) or 0.05 * abs(top) or 1.0
    ax.set_ylim(bottom - room, top + room)


def _complete(found: Swept) -> list[dict[str, Any]]:
    return [row for row in found.trials if row["state"] == "complete"]


def _style(ax: Axes, ylabel: str, title: str) -> None:
    ax.set_ylabel(ylabel, fontsize=8)
    ax.set_title(title, fontsize=10, loc="left", color=NEUTRAL)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
