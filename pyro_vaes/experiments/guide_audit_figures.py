"""The figures of the audit of guides, and the measures that they share with its verdicts and its table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST


def mixed(seed: Mapping[str, Any], key: str, absolute: bool = False) -> float:
    """The mean of an error over the entries of data whose chains have mixed; NaN if there are none."""
    values = np.array(seed[key])[np.array(seed["mixed"])]
    return float(np.mean(np.abs(values) if absolute else values)) if len(values) else float("nan")


def entries(seed: Mapping[str, Any], key: str) -> np.ndarray:
    return np.array(seed[key])[np.array(seed["mixed"])].flatten()


def trainings(settings: Mapping[str, Any]) -> str:
    fewer = ", ".join(f"{len(some)} of {row}" for row, some in settings["slow seeds"].items())
    return f"{len(settings['seeds'])} trainings" + (f" ({fewer})" if fewer else "")


COLOURS = (NEUTRAL, "#3d8fb0", "#e0a030", ROBUST)


def gaps_figure(result: dict[str, Any], scale: str) -> Figure:
    """Both gaps of every row as one bar, in nats."""
    figure = Figure(figsize=(9.4, 3.0), dpi=160, layout="constrained")
    settings, sets = result["settings"], result["settings"]["sets"]
    for ax, name in zip(figure.subplots(1, len(sets)), sets, strict=True):
        rows = [row for row in result["rows"] if row["data"] == name]
        for i, row in enumerate(rows):
            parts = [np.mean([np.mean(s[key]) for s in row["seeds"]]) for key in ("approximation", "amortisation")]
            ax.barh(i, parts[0], color=CLASSICAL, label="approximation: the family" if i == 0 else None)
            ax.barh(
                i, parts[1], left=max(parts[0], 0), color=ROBUST, label="amortisation: the network" if i == 0 else None
            )
            label = f"{sum(parts):.1f} nats, {len(row['seeds'][0]['bias_by_entry'][0])} entries"
            ax.annotate(label, (max(sum(parts), 0), i), (5, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_yticks(range(len(rows)), [row["row"] for row in rows])
        ax.invert_yaxis(), ax.margins(x=0.45)
        ax.set_title(name, fontsize=9, loc="left", color=NEUTRAL)
        ax.set_xlabel("log p(x) - ELBO, nats per datum; shorter is better", fontsize=8)
        ax.tick_params(labelsize=8), ax.spines[["top", "right"]].set_visible(False)
        if name == sets[-1]:
            ax.legend(fontsize=7.5, frameon=False, loc="lower right")
    says = f"What guides lose, and to what: {settings['audited']} test data, {trainings(settings)}, {scale} scale"
    figure.suptitle(says, fontsize=10, x=0.01, ha="left", color=NEUTRAL)
    return figure


def errors_figure(result: dict[str, Any], scale: str) -> Figure:
    """Width and bias against NUTS, and k-hat."""
    figure = Figure(figsize=(10.4, 5.4), dpi=160, layout="constrained")
    sets = result["settings"]["sets"]
    grid = figure.subplots(len(sets), 3, squeeze=False)
    for axes, name in zip(grid, sets, strict=True):
        rows = [row for row in result["rows"] if row["data"] == name]
        places = np.arange(len(rows))
        for i, row in enumerate(rows):
            widths = np.concatenate([entries(s, "log2_width_by_entry") for s in row["seeds"]])
            if len(widths):
                low, middle, high = np.quantile(widths, [0.1, 0.5, 0.9])
                axes[0].plot([low, high], [i, i], color=CLASSICAL, linewidth=5, solid_capstyle="butt")
                axes[0].plot([middle], [i], "|", color=ROBUST, markersize=14, markeredgewidth=2.5)
            for key, marker, colour, shift in (
                ("bias_by_entry", "o", ROBUST, -0.15),
                ("corrected", "D", NEUTRAL, 0.15),
            ):
                each = [mixed(s, key, absolute=True) for s in row["seeds"]]
                axes[1].plot(each, [i + shift] * len(each), marker, color=colour, markersize=4, alpha=0.7)
            khat = np.sort(np.concatenate([s["k-hat of all"] for s in row["seeds"]]))
            axes[2].plot(
                np.minimum(khat, 2), np.linspace(0, 1, len(khat)), color=COLOURS[i], linewidth=1.6, label=row["row"]
            )
        for ax in axes[:2]:
            ax.set_yticks(places, [row["row"] for row in rows])
            ax.set_ylim(len(rows) - 0.5, -0.5)
        axes[0].axvline(0, color=NEUTRAL, linewidth=0.8)
        axes[0].set_title(f"{name}: width of the guide", fontsize=9, loc="left", color=NEUTRAL)
        axes[0].set_xlabel(
            "log2 of sd(guide) / sd(NUTS): median, 10 to 90 % of entries;\n0 is right, -1 half as wide as it should be",
            fontsize=7.5,
        )
        axes[1].set_title("mean: off by", fontsize=9, loc="left", color=NEUTRAL)
        axes[1].set_xlim(left=0)
        axes[1].set_xlabel(
            "mean |bias| in posterior sd, a dot a training:\nguide (red dots), under smoothed weights (dark diamonds)",
            fontsize=7.5,
        )
        axes[2].axvline(0.7, color=CLASSICAL, linewidth=0.8, linestyle="--")
        axes[2].set_title("k-hat", fontsize=9, loc="left", color=NEUTRAL)
        axes[2].set_xlabel(
            "k-hat of a datum (2 stands for 2 and above);\nright of the dashed line weights fail", fontsize=7.5
        )
        axes[2].set_ylabel("share of data", fontsize=8)
        axes[2].legend(fontsize=7.5, frameon=False)
        for ax in axes:
            ax.tick_params(labelsize=8), ax.spines[["top", "right"]].set_visible(False)
    settings = result["settings"]
    says = (
        f"Four guides against NUTS, {scale} scale, {trainings(settings)}; data whose chains have mixed "
        f"(of {settings['audited']}); k-hat of {settings['data']} test data"
    )
    figure.suptitle(says, fontsize=10, x=0.01, ha="left", color=NEUTRAL)
    return figure
