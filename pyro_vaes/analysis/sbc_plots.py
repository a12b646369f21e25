"""The figure of a simulation-based calibration: ECDFs in their band, coverage of intervals, and bias."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_vaes.analysis.sbc import BIAS, LEVELS, SIZE, Calibration
from pyro_vaes.analysis.uniform import band, ecdf_difference
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST

NAMED = 6  # lines with a name of their own


def calibration_figure(found: Calibration, title: str = "", seed: int = 0) -> Figure:
    """Draw what :func:`~pyro_vaes.analysis.sbc.sbc` found, in three panels.

    Left, for every quantity the ECDF of its ranks minus that of uniform ones, with the band that a right guide leaves
    once in twenty (one line alone) and once in a hundred (all lines together); lines of what is off are red and named.
    Middle, how often central intervals held the truth. Right, how far the guide's mean is off.

    >>> from pyro_vaes.analysis.sbc import sbc
    >>> from pyro_vaes.variants import l2_vae
    >>> len(calibration_figure(sbc(l2_vae(4, 2, (5,)), simulations=40, draws=19)).axes)
    3
    """
    figure = Figure(figsize=(11.6, 3.9), dpi=160, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    off = (found.adjusted < SIZE).tolist()
    _ecdfs(left, found, off, seed)
    _coverage(middle, found, off)
    _bias(right, found, seed)
    for ax in (left, middle, right):
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    head = title or f"{found.pair}, guide audited on {len(found.ranks)} data drawn from its own model"
    said = "\n".join(textwrap.wrap(found.finding().said, 150))
    figure.suptitle(f"{head}\n{found.finding().verdict}: {said}", fontsize=9.5, color=NEUTRAL, x=0.01, ha="left")
    return figure


def _ecdfs(ax: Any, found: Calibration, off: list[bool], seed: int) -> None:
    n, cells, tests = len(found.ranks), found.draws + 1, len(found.names)
    for level, many, alpha in ((1 - SIZE, tests, 0.18), (0.95, 1, 0.35)):
        at, low, high = band(n, cells, level, many, seed)
        ax.fill_between(at, low, high, color=CLASSICAL, alpha=alpha, linewidth=0)
    at, lines = np.arange(cells + 1) / cells, ecdf_difference(found.ranks, cells)
    lines = np.pad(lines, ((1, 1), (0, 0)))
    named = sorted((j for j in range(tests) if off[j]), key=lambda j: float(found.p[j]) - np.abs(lines[:, j]).max())
    for j in range(tests):
        ax.plot(at, lines[:, j], color=ROBUST if off[j] else NEUTRAL, linewidth=0.9, alpha=0.9 if off[j] else 0.55)
    placed: list[float] = []
    span = max(float(np.abs(lines).max()), float(high.max()))
    for j in named[:NAMED]:
        where = int(np.abs(lines[:, j]).argmax())
        height = float(lines[where, j])
        while any(abs(height - other) < 0.085 * span for other in placed):
            height += 0.09 * span
        placed.append(height)
        ax.annotate(
            found.names[j], (at[where], lines[where, j]), (1.02, height), fontsize=7, color=ROBUST, va="center",
            arrowprops={"arrowstyle": "-", "color": ROBUST, "linewidth": 0.4, "alpha": 0.5}, annotation_clip=False,
        )  # fmt: skip
    if len(named) > NAMED:
        ax.annotate(f"and {len(named) - NAMED} more", (1.02, max(placed) + 0.1 * span), fontsize=7, color=ROBUST,
                    annotation_clip=False)  # fmt: skip
    ax.axhline(0, color=NEUTRAL, linewidth=0.5)
    ax.set_xlim(0, 1)
    ax.set_xlabel("rank of the true code among the guide's draws / draws", fontsize=8.5)
    ax.set_ylabel("ECDF - uniform", fontsize=8.5)
    ax.set_title(
        f"ranks of {tests} quantities ({sum(off)} off, red; grey: a right guide)", fontsize=9, loc="left", color=NEUTRAL
    )


def _coverage(ax: Any, found: Calibration, off: list[bool]) -> None:
    tests = len(found.names)
    for i, level in enumerate(LEVELS):
        c = found.coverage(level)
        at = i + (np.linspace(-0.34, 0.34, tests) if tests > 1 else np.zeros(1))
        ax.plot([i - 0.42, i + 0.42], [c.level] * 2, color=NEUTRAL, linewidth=1.4)
        for j in range(tests):
            colour = ROBUST if off[j] else CLASSICAL
            ax.plot([at[j]] * 2, [float(c.low[j]), float(c.high[j])], color=colour, linewidth=0.8, alpha=0.6)
            ax.plot(at[j], float(c.share[j]), marker="o", markersize=2.6, color=colour)
    ax.set_xticks(range(len(LEVELS)), [f"{100 * level:.0f} %" for level in LEVELS])
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("central interval (line: what it says; dots: z[0], ...)", fontsize=8.5)
    ax.set_ylabel("share that held the truth", fontsize=8.5)
    ax.set_title("coverage, with 95 % intervals", fontsize=9, loc="left", color=NEUTRAL)


def _bias(ax: Any, found: Calibration, seed: int) -> None:
    side = found.symmetry(seed)
    bias, error = side.bias.numpy(), 1.96 * side.error.numpy()
    wrong = (side.adjusted < SIZE).tolist()
    ax.axhspan(-BIAS, BIAS, color=CLASSICAL, alpha=0.2, linewidth=0)
    ax.axhline(0, color=NEUTRAL, linewidth=0.5)
    for j, name in enumerate(side.names):
        colour = ROBUST if wrong[j] else NEUTRAL
        ax.errorbar(j, bias[j], error[j], marker="o", markersize=3, linewidth=0.9, color=colour)
        if len(side.names) <= 12:
            ax.annotate(name, (j, bias[j] + error[j]), (0, 2), textcoords="offset points", fontsize=6.5, ha="center",
                        color=colour)  # fmt: skip
    ax.set_xticks([])
    ax.set_xlabel(f"{len(side.names)} dimensions of the code", fontsize=8.5)
    ax.set_ylabel("guide's mean - truth, median (its sds)", fontsize=8.5)
    ax.set_title(f"bias (VSBC: {sum(wrong)} to one side, red)", fontsize=9, loc="left", color=NEUTRAL)
