"""The figure of a predictive check: each statistic of the data beside that of replicates."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_vaes.analysis.predictive import EXTREME, PredictiveCheck
from pyro_vaes.analysis.uniform import holm
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST

SHOWN = 300  # data in a panel


def predictive_figure(found: PredictiveCheck, title: str = "") -> Figure:
    """Draw for each statistic the data against their replicates, and the mean over data against that of replicates.

    Above, a point per datum: its statistic over the middle of its replicates, with their 90 % interval; on the line,
    data and replicates agree. For kind ``prior`` replicates belong to no datum, and the quantiles of both are drawn
    instead. Below, the mean over data: a line for the data, a histogram for the replicates.

    >>> import torch
    >>> from pyro_vaes.analysis.predictive import predictive_check
    >>> from pyro_vaes.variants import vae
    >>> len(predictive_figure(predictive_check(vae(4, 2, (5,)), torch.ones(9, 4), draws=50)).axes)
    2
    """
    columns = max(1, len(found.names))
    figure = Figure(figsize=(max(6.4, 2.15 * columns + 0.5), 4.9), dpi=160, layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    adjusted = holm(found.set_p)
    for j in range(len(found.names)):
        off = bool(adjusted[j] < EXTREME)
        _data(axes[0, j], found, j)
        _mean(axes[1, j], found, j, ROBUST if off else NEUTRAL)
    for ax in axes.flatten():
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
        ax.locator_params(axis="x", nbins=4)
    axes[0, 0].set_ylabel("of a datum" if found.kind == "posterior" else "quantiles of data", fontsize=8.5)
    axes[1, 0].set_ylabel(f"{len(found.set_replicated)} replicates of the set", fontsize=8.5)
    finding = found.finding()
    replicates = "drawn from each datum's own code" if found.kind == "posterior" else "drawn from the prior"
    head = title or f"{found.pair}: {found.observed.shape[1]} data and replicates {replicates}"
    said = "\n".join(textwrap.wrap(f"{finding.verdict}: {finding.said}", max(70, 26 * columns)))
    figure.suptitle(f"{head}\n{said}", fontsize=9.5, color=NEUTRAL, x=0.01, ha="left")
    return figure


def _data(ax: Any, found: PredictiveCheck, j: int) -> None:
    observed, replicated = found.observed[j].numpy(), found.replicated[j].numpy()
    if found.kind == "prior":
        at = np.linspace(0.005, 0.995, 100)
        ours, theirs = np.quantile(observed, at), np.quantile(replicated, at)
        ax.plot(theirs, ours, color=NEUTRAL, linewidth=1.4)
        ax.set_title(f"{found.names[j]}\nranks uniform: p = {float(found.uniform[j]):.2g}", fontsize=8, loc="left")
        low, high = min(ours[0], theirs[0]), max(ours[-1], theirs[-1])
    else:
        some = np.linspace(0, len(observed) - 1, min(SHOWN, len(observed))).astype(int)
        low_, middle, high_ = np.quantile(replicated[:, some], [0.05, 0.5, 0.95], axis=0)
        out = (observed[some] < low_) | (observed[some] > high_)
        for inside, colour in ((~out, CLASSICAL), (out, ROBUST)):
            ax.hlines(observed[some][inside], low_[inside], high_[inside], color=colour, linewidth=0.6, alpha=0.6)
            ax.plot(middle[inside], observed[some][inside], "o", markersize=2, color=colour)
        ax.set_title(
            f"{found.names[j]}\n{100 * out.mean():.0f} % outside (red; 10 % by chance)", fontsize=8, loc="left"
        )
        low, high = min(observed[some].min(), low_.min()), max(observed[some].max(), high_.max())
    ax.plot([low, high], [low, high], color=NEUTRAL, linewidth=0.7, linestyle=":")
    ax.set_xlabel(
        "quantiles of replicates" if found.kind == "prior" else "its replicates: median, 5 % to 95 %", fontsize=8
    )


def _mean(ax: Any, found: PredictiveCheck, j: int, colour: str) -> None:
    values, line = found.set_replicated[:, j].numpy(), float(found.set_observed[j])
    # Replicates that agree to the last digit have no histogram.
    if np.ptp(values) > 1e-9 * max(1.0, np.abs(values).max()):
        ax.hist(values, bins=25, color=CLASSICAL, alpha=0.8)
    else:
        ax.axvline(values.mean(), color=CLASSICAL, linewidth=3)
    ax.axvline(line, color=colour, linewidth=1.8)
    size = float(found.effect[j])
    off = f"off by {size:.2f} sd of the data" if np.isfinite(size) else "all data have this one value"
    ax.set_title(f"data: {line:.3g}   p = {float(found.set_p[j]):.2g}\n{off}", fontsize=7.5,
                 loc="left", color=colour)  # fmt: skip
    ax.set_yticks([])
    ax.set_xlabel(f"mean of {found.names[j]}", fontsize=8)
