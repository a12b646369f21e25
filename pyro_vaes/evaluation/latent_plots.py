"""Figures of the latent space, of one pair or of several side by side: each takes label -> draws, or the like."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.neighbours import histogram
from pyro_vaes.evaluation.normality import moments, quantile_error, quantiles, spectrum
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST

SHARES = (0.5, 0.9, 0.99)
POINTS = 4000


def scatter(
    draws: Mapping[str, Tensor],
    *,
    dimensions: Sequence[int] | None = None,
    labels: Mapping[str, Tensor] | None = None,
    title: str = "",
    name: str = "z",
) -> Figure:
    r"""Draw two dimensions of each set, with the circles that hold 50, 90 and 99 % of N(0, I).

    .. math:: r_p = \sqrt{-2 \ln(1 - p)}

    Args:
        draws: label -> (n, k), k at least 2, in random order: the first 4000 are shown.
        dimensions: the two to show; by default those of largest variance, of each set its own.
        labels: label -> (n,) whole numbers that colour the points of a set; grey without. title, name: to print, and
            of the code.

    Source: Wang et al. (2018), Fig. 8, where two dimensions were picked at random.

    >>> import torch
    >>> len(scatter({"a": torch.randn(50, 3), "b": torch.randn(50, 2)}).axes)
    2
    """
    figure, axes = _panels(len(draws), title)
    paper = {"boxstyle": "square,pad=0.1", "facecolor": "white", "linewidth": 0}
    reach = 3.3  # of every panel: the circles are seen whole, and of a set that lies far out 99.5 % of the points
    for ax, (label, z) in zip(axes, draws.items(), strict=True):
        if z.shape[1] < 2:
            raise InputError(f"{label} has one dimension: a scatter plot takes two")
        i, j = sorted(z.var(0).topk(2).indices.tolist()) if dimensions is None else dimensions
        shown = _numpy(z[:POINTS])[:, [i, j]]
        own_labels = (labels or {}).get(label)
        if own_labels is None:
            ax.scatter(*shown.T, s=3, color=CLASSICAL, linewidths=0, rasterized=True)
        else:
            # All classes at once, in the draws' order: one after the other, the last would cover the first.
            classes = _numpy(own_labels[:POINTS]).astype(int)
            ax.scatter(*shown.T, s=4, c=[f"C{c % 10}" for c in classes], linewidths=0, rasterized=True)
        for share in SHARES:
            radius = math.sqrt(-2 * math.log(1 - share))
            around = np.linspace(0, 2 * np.pi, 200)
            ax.plot(radius * np.cos(around), radius * np.sin(around), color=NEUTRAL, linewidth=1)
            ax.annotate(f"{share:.0%}", (0, -radius), fontsize=7, color=NEUTRAL, ha="center", va="center", bbox=paper)
        reach = max(reach, float(np.quantile(np.abs(shown), 0.995)) * 1.05)
        ax.set_xlabel(f"entry {i + 1} of {name}"), ax.set_ylabel(f"entry {j + 1} of {name}")
        ax.set_title(label, fontsize=9, loc="left", color=NEUTRAL)
    for ax in axes:
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    if labels:
        known = sorted({int(c) for of_set in labels.values() for c in of_set.unique()})
        dots = [Line2D([], [], marker="o", linestyle="", color=f"C{c % 10}", markersize=4) for c in known]
        figure.legend(dots, [str(c) for c in known], loc="outside right center", fontsize=7)
    return figure


def qq(draws: Mapping[str, Tensor], *, title: str = "") -> Figure:
    """Draw quantiles of every dimension against those of N(0, 1): the nearer to the diagonal the better.

    Args:
        draws: label -> (n, k). Thick is the dimension that is furthest from the diagonal.

    Source: Wang et al. (2018), Fig. 9.

    >>> import torch
    >>> len(qq({"a": torch.randn(50, 3)}).axes[0].lines)
    4
    """
    figure, axes = _panels(len(draws), title)
    for ax, (label, z) in zip(axes, draws.items(), strict=True):
        at, found = (_numpy(q) for q in quantiles(z))
        error = quantile_error(z)
        worst = int(error.argmax())
        for j in range(found.shape[1]):
            last = j == worst
            ax.plot(at, found[:, j], color=ROBUST if last else CLASSICAL, linewidth=2 if last else 0.8, zorder=1 + last)
        ax.plot(at, at, color=NEUTRAL, linewidth=1.2, linestyle="--", zorder=3)
        text = f"{label}\nrms distance from the diagonal:\nmean {error.mean():.3f}, worst {error.max():.3f}"
        ax.set_title(text, fontsize=8, loc="left", color=NEUTRAL)
        ax.set_xlabel("quantile of N(0, 1)"), ax.set_ylabel("quantile of each dimension (red: the worst)")
    low = min(ax.get_ylim()[0] for ax in axes)
    high = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high)
    return figure


def moment_panels(draws: Mapping[str, Tensor], *, data: int | None = None, title: str = "") -> Figure:
    """Draw mean, variance, skewness and excess kurtosis of all dimensions, with where N(0, 1) has them.

    Args:
        draws: label -> (n, k). data: as in :func:`~pyro_vaes.evaluation.normality.moments`; the grey band is two of its
            standard errors to either side, of the set with the fewest draws.

    Source: Wang et al. (2018), Fig. 10, means and variances.

    >>> import torch
    >>> [ax.get_title(loc="left") for ax in moment_panels({"a": torch.randn(50, 3)}).axes]
    ['mean', 'variance', 'skewness', 'excess kurtosis']
    """
    figure, axes = _panels(4, title, width=3.0, height=2.9)
    found = {label: moments(z, data) for label, z in draws.items()}
    ideal = {"mean": 0.0, "variance": 1.0, "skewness": 0.0, "kurtosis": 0.0}
    for ax, (name, value) in zip(axes, ideal.items(), strict=True):
        error = max(m.errors[name] for m in found.values())
        ax.axhspan(value - 2 * error, value + 2 * error, color=CLASSICAL, alpha=0.35, linewidth=0)
        ax.axhline(value, color=NEUTRAL, linewidth=1)
        for c, (label, m) in enumerate(found.items()):
            values = _numpy(getattr(m, name))
            ax.plot(np.arange(1, len(values) + 1), values, "o", markersize=3.5, color=_colour(c, found), label=label)
        ax.set_title("excess kurtosis" if name == "kurtosis" else name, fontsize=9, loc="left", color=NEUTRAL)
        ax.set_xlabel("dimension")
        ax.xaxis.get_major_locator().set_params(integer=True)
    if len(found) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(found), fontsize=8)
    return figure


def spectra(draws: Mapping[str, Tensor], *, title: str = "") -> Figure:
    """Draw the singular values of each set's covariance, largest first; those of N(0, I) are 1.

    Args:
        draws: label -> (n, k), of any k.

    Source: the slides S3, IV, which compare them without values.

    >>> import torch
    >>> len(spectra({"a": torch.randn(50, 3), "b": torch.randn(50, 5)}).axes[0].lines)
    3
    """
    figure, (ax,) = _panels(1, title, width=5.6, height=3.4)
    ax.axhline(1, color=NEUTRAL, linewidth=1.2, linestyle="--", label="N(0, I)")
    smallest = 1.0
    for c, (label, z) in enumerate(draws.items()):
        values = _numpy(spectrum(z))
        smallest = min(smallest, float(values.min()))
        ax.plot(np.arange(1, len(values) + 1), values, "o-", markersize=3, color=_colour(c, draws), label=label)
    # Singular values of codes that fill less than their space span decades; those near 1 are best seen as they are.
    if smallest < 0.05:
        ax.set_yscale("log"), ax.set_ylim(bottom=max(ax.get_ylim()[0], 1e-6))
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel("singular value, by size"), ax.set_ylabel("of the covariance of z")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=8, frameon=False)
    return figure


def pruning(variances: Mapping[str, Tensor], *, used: Mapping[str, Tensor] | None = None, title: str = "") -> Figure:
    """Draw how the variances that data's own posteriors have are distributed, over all data and dimensions.

    A hump near 0 is of dimensions that know their datum, one near 1 of dimensions that are pruned.

    Args:
        variances: label -> (N, k), sigma_z^2(x). used: label -> (k,) bool, to tell the two apart by colour.

    Source: the slides S3, III.

    >>> import torch
    >>> len(pruning({"a": torch.rand(50, 3)}).axes)
    1
    """
    figure, axes = _panels(len(variances), title, width=4.4, height=3.1)
    for ax, (label, v) in zip(axes, variances.items(), strict=True):
        values = _numpy(v)
        top = max(1.05, float(np.quantile(values, 0.999)))
        active = np.ones(values.shape[1], bool) if used is None else _numpy(used[label]).astype(bool)
        groups = [values[:, active].ravel(), values[:, ~active].ravel()]
        names = [f"{word}: {count.sum()} of {len(active)}" for word, count in (("used", active), ("pruned", ~active))]
        weights = [np.full(len(g), 100 / values.size) for g in groups]
        edges = np.linspace(0, top, 43)
        colours = (ROBUST, CLASSICAL)
        ax.hist([g.clip(0, top) for g in groups], edges, weights=weights, stacked=True, color=colours, label=names)
        ax.set_title(label, fontsize=9, loc="left", color=NEUTRAL)
        ax.set_xlabel("$\\sigma_z^2(x)$: 0 knows its datum, 1 is the prior"), ax.set_ylabel("share (%)")
        if used is not None:
            ax.legend(fontsize=8, frameon=False)
    return figure


def neighbour_histograms(
    distances: Mapping[str, Tensor], *, reference: str | None = None, bins: int = 60, title: str = ""
) -> Figure:
    """Draw distances to the nearest datum, one panel per set, all with the same bins.

    Args:
        distances: label -> (n,). reference: the label of the data's own distances, whose mean is drawn in every panel;
            samples that lie mostly to the left of it would be copies of data, or blurred means.

    Source: Wang et al. (2018), Fig. 11.

    >>> import torch
    >>> len(neighbour_histograms({"data": torch.rand(50), "samples": torch.rand(9)}, reference="data").axes)
    2
    """
    if reference is not None and reference not in distances:
        raise InputError(f"reference {reference!r} is none of {list(distances)}")
    figure, axes = _panels(len(distances), title, width=3.4, height=3.0)
    edges, shares = histogram(distances, bins)
    for ax, (label, share) in zip(axes, shares.items(), strict=True):
        colour = CLASSICAL if label == reference else ROBUST
        ax.stairs(100 * np.array(share), edges, fill=True, color=colour)
        own = float(distances[label].double().mean())
        ax.axvline(own, color=NEUTRAL, linewidth=1)
        text = f"{label}\nmean {own:.2f}"
        if reference is not None and label != reference:
            ax.axvline(float(distances[reference].double().mean()), color=NEUTRAL, linewidth=1, linestyle=":")
            text += f" (dotted: {reference})"
        ax.set_title(text, fontsize=8, loc="left", color=NEUTRAL)
        ax.set_xlabel("distance to the nearest datum"), ax.set_ylabel("share (%)")
    top = max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(0, top)
    return figure


def _panels(count: int, title: str, *, width: float = 3.4, height: float = 3.5) -> tuple[Figure, Sequence[Any]]:
    if not count:
        raise InputError("there is nothing to draw: label -> values is empty")
    figure = Figure(figsize=(width * count + 0.3, height + (0.3 if title else 0)), dpi=160, layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax in axes:
        ax.tick_params(labelsize=8)
        ax.xaxis.label.set_size(8), ax.yaxis.label.set_size(8)
        ax.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=9, color=NEUTRAL, x=0.01, ha="left")
    return figure, list(axes)


def _colour(index: int, among: Mapping[str, Any]) -> str:
    return ROBUST if len(among) == 1 else f"C{index}"


def _numpy(a: Tensor) -> np.ndarray:
    return a.detach().cpu().numpy()
