"""The figures of a posterior, drawn from its tree alone, whatever version of ArviZ there is."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vaes.analysis.latents import Latents, values
from pyro_vaes.analysis.loo import LOO
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image, image_rows

if TYPE_CHECKING:
    from xarray import DataTree

UNTRUSTED = 0.7
INSIDE = (0.03, 0.25, 0.5, 0.75, 0.97)


def forest(found: Latents, labels: np.ndarray | None, *, title: str, most: int = 6, rows: int = 12) -> Figure:
    """Draw intervals of the most used latents, by class; without classes, of single data evenly spread.

    Args:
        labels: (N,), classes, -1 for none, or None.
    """
    known = [] if labels is None else [c for c in np.unique(labels) if c >= 0][:rows]
    if known and labels is not None:
        groups = {f"class {c}": np.flatnonzero(labels == c) for c in known}
    else:
        single = np.unique(np.linspace(0, found.draws.shape[1] - 1, rows).round().astype(int))
        groups = {f"datum {i}": single[j : j + 1] for j, i in enumerate(single)}
    shown = min(most, len(found.names))
    columns = min(3, shown)
    figure, axes = _grid(math.ceil(shown / columns), columns, (3.3, 0.22 * len(groups) + 1.1), title)
    heights = np.arange(len(groups))[::-1]
    for k, ax in enumerate(axes):
        if k >= shown:
            ax.set_visible(False)
            continue
        if found.prior is not None:
            low, q1, _, q3, high = np.quantile(found.prior[..., k], INSIDE)
            ax.axvspan(low, high, color=CLASSICAL, alpha=0.18, linewidth=0)
            ax.axvspan(q1, q3, color=CLASSICAL, alpha=0.25, linewidth=0)
        for y, (_, among) in zip(heights, groups.items(), strict=True):
            low, q1, middle, q3, high = np.quantile(found.draws[:, among, k], INSIDE)
            ax.plot([low, high], [y, y], color=NEUTRAL, linewidth=0.9)
            ax.plot([q1, q3], [y, y], color=NEUTRAL, linewidth=3.2, solid_capstyle="butt")
            ax.plot(middle, y, "o", color="white", markeredgecolor=ROBUST, markersize=4)
        ax.set_yticks(heights, groups if k % columns == 0 else [""] * len(groups))
        ax.set_title(f"{found.names[k]}, activity {found.activity[k]:.2f}", fontsize=9, loc="left", color=NEUTRAL)
    of = "the draws of all data of a class" if known else "the guide's draws of a datum"
    figure.supxlabel(
        f"dot: median; thick: 50 %; thin: 94 % of {of}; grey: the prior's 50 and 94 %\n"
        "activity: variance over the data of the guide's mean; the prior has 1, an unused latent 0",
        fontsize=8,
    )
    return figure


def against_prior(found: Latents, *, title: str, most: int = 8) -> Figure:
    """Draw the marginals of the most used latents: draws for all data together, over those of the prior."""
    shown = min(most, len(found.names))
    columns = min(4, shown)
    figure, axes = _grid(math.ceil(shown / columns), columns, (2.5, 1.9), title)
    for k, ax in enumerate(axes):
        if k >= shown:
            ax.set_visible(False)
            continue
        _marginal(ax, found, k)
        own = found.draws[..., k]
        said = f"{found.names[k]}: mean {own.mean():z.2f}, sd {own.std():.2f}"
        if found.prior is not None:
            said += f"\nprior: mean {found.prior[..., k].mean():z.2f}, sd {found.prior[..., k].std():.2f}"
        ax.set_title(said, fontsize=7.5, loc="left", color=NEUTRAL)
    figure.supxlabel("red: aggregated posterior, all data together; grey: prior. The nearer the better", fontsize=8)
    return figure


def pairs(found: Latents, labels: np.ndarray | None, *, title: str, most: int = 4) -> Figure:
    """Draw the most used latents against each other, one draw of each datum, over as many of the prior."""
    shown = min(most, len(found.names))
    size = 1.7 if shown > 1 else 3.0
    figure = Figure(figsize=(size * shown + 0.8, size * shown + 0.8), dpi=160, layout="constrained")
    axes = figure.subplots(shown, shown, squeeze=False)
    classes = labels is not None and 1 < len(np.unique(labels)) <= 11
    one = found.draws[0]
    colours = [f"C{c % 10}" if c >= 0 else CLASSICAL for c in labels] if classes and labels is not None else ROBUST
    for i in range(shown):
        for j in range(shown):
            ax = axes[i][j]
            _plain(ax, 6)
            if j > i:
                ax.set_visible(False)
                continue
            if i == j:
                _marginal(ax, found, i)
            else:
                if found.prior is not None:
                    ax.scatter(
                        found.prior[0][:, j], found.prior[0][:, i], s=3, color=CLASSICAL, alpha=0.4, linewidths=0
                    )
                ax.scatter(one[:, j], one[:, i], s=4, c=colours, linewidths=0)
            if i == shown - 1:
                ax.set_xlabel(found.names[j], fontsize=8)
            if j == 0 and i > 0:
                ax.set_ylabel(found.names[i], fontsize=8)
    if classes and labels is not None:
        from matplotlib.lines import Line2D

        known = [c for c in np.unique(labels) if c >= 0]
        dots = [Line2D([], [], marker="o", linestyle="", color=f"C{c % 10}", markersize=4) for c in known]
        figure.legend(dots, [str(c) for c in known], loc="upper right", fontsize=7, title="class", title_fontsize=7)
    figure.suptitle(title, fontsize=9, color=NEUTRAL)
    colour = "coloured by class" if classes else "red"
    figure.supxlabel(f"dots: one draw per datum, {colour}, over the prior, grey; red outlines: all draws", fontsize=8)
    return figure


def statistics(shape: Sequence[int]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Four numbers of a datum that a model may get wrong: arrays (..., d) -> (...).

    >>> {name: float(f(np.array([0.0, 1.0, 0.0, 1.0]))) for name, f in statistics((2, 2)).items()}
    {'mean': 0.5, 'standard deviation': 0.5, 'largest entry': 1.0, 'roughness': 0.5}
    """

    def roughness(x: np.ndarray) -> np.ndarray:
        # Mean absolute difference between neighbours: along rows and columns of images, along entries elsewhere.
        grid = x.reshape(*x.shape[:-1], *shape)
        along = [-1] if len(shape) == 1 or shape[-2] == 1 else [-1, -2]
        axes = tuple(range(-len(shape), 0))
        each = [np.abs(np.diff(grid, axis=a)).mean(axes) for a in along if grid.shape[a] > 1]
        return np.mean(each, 0) if each else np.zeros(x.shape[:-1])

    return {
        "mean": lambda x: x.mean(-1), "standard deviation": lambda x: x.std(-1),
        "largest entry": lambda x: x.max(-1), "roughness": roughness,
    }  # fmt: skip


def predictive(observed: np.ndarray, replicas: np.ndarray, shape: Sequence[int], *, title: str) -> Figure:
    """Draw the distribution of a few statistics over the data, and over replicas of the same data.

    Args:
        observed: (N, d). replicas: (R, N, d).
    """
    found = {name: (statistic(observed), statistic(replicas)) for name, statistic in statistics(shape).items()}
    # The largest entry of a binary image is 1, always: nothing to see.
    found = {name: (real, made) for name, (real, made) in found.items() if np.ptp(real) + np.ptp(made) > 0} or found
    figure, axes = _grid(1, len(found), (2.9, 2.6), title)
    for ax, (name, (real, made)) in zip(axes, found.items(), strict=True):
        low, high = np.quantile(np.concatenate([real, made.ravel()]), [0.001, 0.999])
        margin = 0.06 * (high - low) + 1e-6
        edges = np.linspace(low - margin, high + margin, 27)
        counts = np.stack([np.histogram(row, edges)[0] for row in made]) / len(real)
        middles = (edges[1:] + edges[:-1]) / 2
        ax.fill_between(middles, counts.min(0), counts.max(0), color=CLASSICAL, alpha=0.6, linewidth=0, step="mid")
        ax.step(middles, np.histogram(real, edges)[0] / len(real), where="mid", color=ROBUST, linewidth=1.6)
        above = ((made > real).mean() + 0.5 * (made == real).mean()) * 100
        ax.set_title(f"{name}\nreplica above its datum: {above:.0f} %", fontsize=8, loc="left", color=NEUTRAL)
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("share of the data", fontsize=8)
    figure.supxlabel(
        f"red: the data; grey: {len(replicas)} sets of replicas, least to most. Red within grey and 50 % are best",
        fontsize=8,
    )
    return figure


def replicas(tree: "DataTree", shape: Sequence[int], *, title: str, columns: int = 10) -> Figure:
    """Draw data, their clean means, two replicas of each, and draws of the prior, as images."""
    count = len(tree["observed_data"]["datum"])
    data = np.unique(np.linspace(0, count - 1, columns).round().astype(int))
    made = tree["posterior_predictive"]
    rows = {"data": _flat(values(tree, "observed_data", "x")[data], shape)}
    rows["clean mean, one draw"] = _flat(values(tree, "posterior_predictive", "mu")[0, 0, data], shape)
    if "x" in made.data_vars:
        rows |= {
            f"replica {r + 1}": _flat(values(tree, "posterior_predictive", "x")[0, r, data], shape)
            for r in range(min(2, int(made.sizes["draw"])))
        }
    if "prior_predictive" in tree.children:
        rows["prior, clean mean"] = _flat(values(tree, "prior_predictive", "mu")[0, 0, data], shape)
    return image_rows(rows, shape, title=title)


def khats(khat: np.ndarray, ess: np.ndarray, draws: int, *, title: str) -> Figure:
    """Draw the k-hat of every datum, sorted, and how many of its draws count."""
    figure, (left, right) = _grid(1, 2, (4.2, 3.0), title)
    order = np.argsort(khat)
    ranks, bad = np.arange(1, len(khat) + 1), khat[order] > UNTRUSTED
    for among, colour in ((~bad, NEUTRAL), (bad, ROBUST)):
        left.scatter(ranks[among], khat[order][among], s=5, color=colour, linewidths=0)
    levels = ((0.5, "below 0.5: finite variance", "top"), (UNTRUSTED, "above 0.7: do not trust the weights", "bottom"))
    for level, word, side in levels:
        left.axhline(level, color=CLASSICAL, linewidth=0.8)
        place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": side}
        left.annotate(word, (0.99, level), fontsize=7, color=NEUTRAL, **place)
    left.set_xlabel("data, sorted", fontsize=8), left.set_ylabel("Pareto k-hat", fontsize=8)
    count = int(bad.sum())
    left.set_title(
        f"k-hat above 0.7 for {count} of {len(khat)} data", fontsize=9, loc="left", color=ROBUST if count else NEUTRAL
    )
    right.hist(100 * ess / draws, bins=np.linspace(0, 100, 31), color=NEUTRAL)
    right.set_xlabel(f"importance effective sample size, % of {draws} draws", fontsize=8)
    right.set_ylabel("data", fontsize=8)
    right.set_title(
        f"median {100 * np.median(ess) / draws:.1f} %: more is better", fontsize=9, loc="left", color=NEUTRAL
    )
    return figure


def hardest(tree: "DataTree", total: tuple[int, int], shape: Sequence[int], *, title: str) -> Figure:
    """Show data of large k-hat with what the model makes of them.

    Args:
        tree: of these data alone, the hardest first. total: how many of all data are above 0.7, and how many there are.
    """
    khat, rows = values(tree, "sample_stats", "khat"), values(tree, "observed_data", "datum")
    x = _flat(values(tree, "observed_data", "x"), shape)
    mean = _flat(values(tree, "posterior_predictive", "mu")[0].mean(0), shape)
    columns = min(10, len(rows))
    lines = math.ceil(len(rows) / columns)
    size = (0.85 * columns + 0.7, 2.05 * lines + 0.7)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    axes = figure.subplots(2 * lines, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for n, row in enumerate(rows):
        above, below = axes[2 * (n // columns)][n % columns], axes[2 * (n // columns) + 1][n % columns]
        for ax, picture in ((above, x[n]), (below, mean[n])):
            ax.imshow(image(picture, shape).clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        colour = ROBUST if khat[n] > UNTRUSTED else NEUTRAL
        above.set_title(f"row {row}\nk-hat {khat[n]:.2f}", fontsize=6, color=colour, pad=2)
    said = f"k-hat above 0.7 for {total[0]} of {total[1]} (red); the {len(rows)} largest, each over its clean mean"
    figure.suptitle(f"{title}\n{said}", fontsize=8, color=NEUTRAL)
    return figure


def left_out(elpd: np.ndarray, khat: np.ndarray, entries: LOO | None, shape: Sequence[int], *, title: str) -> Figure:
    """Draw log p(x) of every datum, and which entries are well predicted by all others.

    Args:
        elpd, khat: (N,), of data. entries: of some data, entry by entry, or None.
    """
    figure, axes = _grid(1, 1 if entries is None else 2, (4.2, 3.2), title)
    bad = khat > UNTRUSTED
    edges = np.histogram_bin_edges(elpd[np.isfinite(elpd)], 30)
    axes[0].hist([elpd[~bad], elpd[bad]], edges, stacked=True, color=[NEUTRAL, ROBUST],
                 label=["k-hat below 0.7", "above: not to be trusted"])  # fmt: skip
    axes[0].legend(fontsize=7, frameon=False)
    (
        axes[0].set_xlabel("log p(x) of a datum, nats, the model being fixed; more is better", fontsize=8),
        axes[0].set_ylabel("data", fontsize=8),
    )
    se = math.sqrt(len(elpd)) * elpd.std(ddof=1) if len(elpd) > 1 else math.nan
    total = f"a datum left out: log p(x)\nsum {elpd.sum():,.0f} +- {se:,.0f} (standard error)"
    axes[0].set_title(total, fontsize=8, loc="left", color=NEUTRAL)
    if entries is None:
        return figure
    each, ax = entries.elpd.mean(0), axes[1]
    said = f"mean of {len(entries.elpd)} data; k-hat above 0.7 for {entries.unreliable:.1%}"
    ax.set_title(f"an entry left out, given all others\n{said}", fontsize=8, loc="left", color=NEUTRAL)
    if len(shape) == 1:
        ax.plot(each.numpy(), ".", color=NEUTRAL)
        ax.set_xlabel("entry", fontsize=8), ax.set_ylabel("log p(x_j | the others), nats", fontsize=8)
        return figure
    picture = each.reshape(tuple(shape)).mean(0) if len(shape) == 3 else each.reshape(tuple(shape))
    shown = ax.imshow(picture.numpy(), cmap="viridis", interpolation="nearest")
    ax.set_xticks([]), ax.set_yticks([])
    bar = figure.colorbar(shown, ax=ax)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("log p(x_j | the others), nats: bright is better", fontsize=7)
    return figure


def _flat(array: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    return torch.as_tensor(array.reshape(len(array), math.prod(shape)))


def _marginal(ax: Any, found: Latents, k: int) -> None:
    own = found.draws[..., k].ravel()
    parts = [own] if found.prior is None else [own, found.prior[..., k].ravel()]
    low, high = np.quantile(np.concatenate(parts), [0.0005, 0.9995])
    edges = np.linspace(low, high, 41)
    if found.prior is not None:
        ax.hist(parts[1], edges, density=True, color=CLASSICAL, alpha=0.6)
    ax.hist(own, edges, density=True, histtype="step", color=ROBUST, linewidth=1.3)
    ax.set_yticks([])


def _grid(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(size[0] * columns + 0.6, size[1] * rows + 0.5), dpi=160, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        _plain(ax, 7)
    figure.suptitle(title, fontsize=9, color=NEUTRAL)
    return figure, axes


def _plain(ax: Any, size: float) -> None:
    ax.tick_params(labelsize=size)
    ax.spines[["top", "right"]].set_visible(False)
