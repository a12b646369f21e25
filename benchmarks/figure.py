"""The figures: who is how fast, and how our step grows."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST

PYRO, OTHERS, HAND, FAINT = "#3d7ea6", "#5b8c5a", "#6b7885", "#b0b8c0"
TICKS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
ENGINES = {"eager": ("#2e4057", "o"), "graph": ("#e08e45", "s"), "inductor": (ROBUST, "D")}
OURS = "pyro-vaes"


def comparison(result: dict[str, Any], title: str, footnote: str) -> Figure:
    """Draw a panel per architecture and a row per implementation: time relative to the reference, with quartiles.

    Args:
        result: with ``reference`` and ``architectures``, as `benchmarks.steps` and `benchmarks.epochs` give it.
    """
    panels = result["architectures"]
    names = [name for name in _order(panels) if any(name in panel["rows"] for panel in panels.values())]
    labels, width = 2.6, max(2.6, 5.6 / len(panels))
    size = (labels + width * len(panels) + 0.15, 0.27 * len(names) + 1.8)
    figure = Figure(figsize=size, dpi=160)
    axes = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    low, high = _range([row["ratio"] for panel in panels.values() for row in panel["rows"].values()])
    axes[0].set_xscale("log")
    axes[0].set_xlim(low, high * 1.3)  # the numbers stand at the right
    for ax, (key, panel) in zip(axes, panels.items(), strict=True):
        _panel(ax, names, {name: row["ratio"] for name, row in panel["rows"].items()}, high)
        heading = f"({key}) {panel['title']}\nbatch {panel['batch']}"
        ax.set_title(heading, fontsize=9, color=NEUTRAL, loc="left")
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    for label, name in zip(axes[0].get_yticklabels(), names, strict=True):
        label.set_color(_colour(name))
        label.set_fontweight("bold" if name.startswith(OURS) else "normal")
    bottom, top = 0.85 / size[1], 1 - 0.85 / size[1]
    figure.subplots_adjust(left=labels / size[0], right=1 - 0.12 / size[0], bottom=bottom, top=top, wspace=0.06)
    figure.text(0.12 / size[0], 1 - 0.1 / size[1], title, fontsize=11, color=NEUTRAL, va="top", fontweight="bold")
    axis = f"time relative to “{result['reference']}”: left of the line is faster (dot, number: median; bar: quartiles)"
    figure.text(1 - 0.12 / size[0], 0.4 / size[1], axis, fontsize=8.5, color=NEUTRAL, ha="right")
    figure.text(0.12 / size[0], 0.12 / size[1], footnote, fontsize=7, color=HAND)
    return figure


def _range(spreads: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Room for every median, and for quartiles that are not far off."""
    low = min([*(max(row["low"], 0.8 * row["median"]) for row in spreads), 0.7])
    high = max([*(min(row["high"], 1.25 * row["median"]) for row in spreads), 1.4])
    return low / 1.12, high * 1.08


def _panel(ax: Axes, names: Sequence[str], rows: dict[str, dict[str, float]], high: float) -> None:
    low = ax.get_xlim()[0]
    ticks = [tick for tick in TICKS if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.axvline(1, color=NEUTRAL, linewidth=1, zorder=1)
    for y, name in enumerate(names):
        if y % 2 == 0:
            ax.axhspan(y - 0.5, y + 0.5, color="#f3f5f7", zorder=0, linewidth=0)
        colour, ours = _colour(name), name.startswith(OURS)
        number: dict[str, Any] = {"ha": "right", "va": "center", "transform": ax.get_yaxis_transform(), "fontsize": 8}
        if name not in rows:
            ax.text(0.98, y, "n/a", color=FAINT, **number)
            continue
        row = rows[name]
        ends = [max(row["low"], low), min(row["high"], high)]
        ax.plot(ends, [y, y], color=colour, linewidth=2.4, alpha=0.5, solid_capstyle="butt", zorder=2)
        ax.plot(row["median"], y, "o", color=colour, markersize=7 if ours else 5.5, zorder=3)
        ax.text(0.98, y, f"{row['median']:.2f}", color=colour, fontweight="bold" if ours else "normal", **number)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _order(panels: dict[str, Any]) -> list[str]:
    """Ours after those by hand, then Pyro's and the others, each group in the order in which it was measured."""
    seen = list(dict.fromkeys(name for panel in panels.values() for name in [*panel["rows"], *panel["absent"]]))
    groups = ("matrix", "hand", OURS, "Pyro", "")
    return sorted(seen, key=lambda name: next(i for i, group in enumerate(groups) if name.startswith(group)))


def _colour(name: str) -> str:
    if name.startswith("matrix"):
        return NEUTRAL
    for group, colour in ((OURS, ROBUST), ("hand", HAND), ("Pyro", PYRO)):
        if name.startswith(group):
            return colour
    return OTHERS


def growth(sweeps: dict[str, Any], title: str, footnote: str) -> Figure:
    """Draw a panel per setting: ms per step, a line per engine; dashed, what growth in proportion would be."""
    shown = [sweep for sweep in sweeps.values() if any(sweep["engines"].values())]
    columns = max(1, len(shown))
    size = (3.1 * columns + 0.3, 3.8)
    figure = Figure(figsize=size, dpi=160)
    for ax, sweep in zip(figure.subplots(1, columns, squeeze=False)[0], shown, strict=False):
        _lines(ax, sweep)
    figure.subplots_adjust(left=0.65 / size[0], right=1 - 0.12 / size[0], bottom=0.22, top=0.79, wspace=0.28)
    figure.text(0.12 / size[0], 0.975, title, fontsize=11, color=NEUTRAL, va="top", fontweight="bold")
    figure.text(0.12 / size[0], 0.03, footnote, fontsize=7, color=HAND)
    return figure


def _lines(ax: Axes, sweep: dict[str, Any]) -> None:
    drawn = {
        kind: {int(v): row for v, row in rows.items() if "ratio" in row} for kind, rows in sweep["engines"].items()
    }
    values = sorted({value for rows in drawn.values() for value in rows})
    for kind, rows in drawn.items():
        if not rows:
            continue
        colour, marker = ENGINES[kind]
        ms = [row["ms"] for row in rows.values()]
        spread = [[m["median"] - m["low"] for m in ms], [m["high"] - m["median"] for m in ms]]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.5}
        ax.errorbar([*rows], [m["median"] for m in ms], spread, label=kind, **style)
        linear = [ms[0]["median"] * value / values[0] for value in values]
        ax.plot(values, linear, color=CLASSICAL, linewidth=0.8, linestyle="--", zorder=1)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    name, _, of = sweep["title"].partition(" of ")
    ax.set_title(f"{name}\n{of}", fontsize=9, color=NEUTRAL, loc="left")
    ax.set_xlabel(name, fontsize=8.5)
    if ax.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        ax.set_ylabel("ms per step (dashed: in proportion)", fontsize=8.5)
    ax.set_xticks(values, [str(v) for v in values])
    ax.set_xticks([], minor=True)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=7.5, frameon=False, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
