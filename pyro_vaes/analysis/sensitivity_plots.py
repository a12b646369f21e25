"""The figure of power-scaling: what prior and likelihood decide, dimension by dimension."""

import textwrap

import torch
from matplotlib.figure import Figure

from pyro_vaes.analysis.sensitivity import SENSITIVE, Sensitivity
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST

MOST = 1_000_000  # values that a quantile is taken of


def sensitivity_figure(found: Sensitivity, title: str = "") -> Figure:
    """Draw sensitivity to the prior over that to the likelihood, and what a prior twice as strong does to the means.

    Left, a small point per datum and dimension, a large one for the middle datum of each dimension, red
    where the prior pulls at it, grey where it is the prior itself; right, the change
    of the posterior mean per doubling of the prior, in posterior standard deviations, from the 5 % to the 95 % datum.
    Data with k-hat above 0.7 are left out.

    >>> import torch
    >>> from pyro_vaes.analysis.sensitivity import power_scaling
    >>> from pyro_vaes.variants import l2_vae
    >>> len(sensitivity_figure(power_scaling(l2_vae(4, 2, (5,)), torch.rand(3, 4), draws=200)).axes)
    2
    """
    figure = Figure(figsize=(9.6, 4.3), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    finding, rows = found.finding(), found.trusted
    prior, likelihood = found.prior.distance[rows], found.likelihood.distance[rows]
    many = f"{int(rows.sum())} of {len(rows)} data (k-hat < 0.7)"
    if len(prior):
        left.scatter(likelihood.flatten(), prior.flatten(), s=4, color=CLASSICAL, alpha=0.35, linewidth=0)
        x, y = likelihood.median(0).values, prior.median(0).values
        moved = ~found.idle & (y >= SENSITIVE)
        pruned = found.idle.tolist()
        colours = [CLASSICAL if i else ROBUST if m else NEUTRAL for i, m in zip(pruned, moved.tolist(), strict=True)]
        left.scatter(x, y, s=24, c=colours, edgecolors=NEUTRAL, linewidths=0.5)
        # Beyond the 98 % datum there are few points, and the rest would be flat.
        left.set_xlim(right=1.1 * max(SENSITIVE, float(torch.quantile(likelihood.flatten()[:MOST], 0.98))))
        left.set_ylim(top=1.1 * max(SENSITIVE, float(torch.quantile(prior.flatten()[:MOST], 0.98))))
        shift = found.prior.mean[rows] / found.sd[rows]
        ends = torch.quantile(shift, torch.tensor([0.05, 0.5, 0.95], dtype=shift.dtype), dim=0)
        place = range(len(found.names))
        right.vlines(place, ends[0], ends[2], color=colours, linewidth=1.6)
        right.scatter(place, ends[1], s=16, color=colours)
    for ax, at in ((left.axhline, SENSITIVE), (left.axvline, SENSITIVE), (right.axhline, 0.0)):
        ax(at, color=NEUTRAL, linewidth=0.7, linestyle=":")
    left.set_xlim(left=0), left.set_ylim(bottom=0)
    left.text(0.99, 0.99, "both: prior and data may disagree", transform=left.transAxes, ha="right", va="top",
              fontsize=7, color=ROBUST)  # fmt: skip
    left.set_xlabel("sensitivity to the likelihood (CJS distance per doubling)", fontsize=8.5)
    left.set_ylabel("sensitivity to the prior", fontsize=8.5)
    left.set_title(
        f"{many}\nlarge: middle datum of a dimension; dotted: 0.05, the limit", fontsize=9, loc="left", color=NEUTRAL
    )
    right.set_xticks(range(len(found.names)), found.names, rotation=90 if len(found.names) > 8 else 0, fontsize=7)
    right.set_ylabel("shift of the mean per doubling of the prior\n(posterior sds)", fontsize=8.5)
    right.set_title("5 % to 95 % of the data, and the middle one", fontsize=9, loc="left", color=NEUTRAL)
    for ax in (left, right):
        ax.tick_params(axis="y", labelsize=8), left.tick_params(axis="x", labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    said = "\n".join(textwrap.wrap(f"{finding.verdict}: {finding.said}", 130))
    figure.suptitle(f"{title or f'{found.pair}: how far the prior decides'}\n{said}", fontsize=9.5, color=NEUTRAL,
                    x=0.01, ha="left")  # fmt: skip
    return figure
