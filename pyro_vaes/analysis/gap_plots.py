"""The figures of a guide against its posterior: bias and width, gaps, k-hat, and the images it is furthest from."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.analysis.compare import BIAS, FACTOR, Compared
from pyro_vaes.analysis.psis import LIMIT
from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image


def guide_against_nuts(found: Compared, *, title: str = "") -> Figure:
    """Draw what :func:`~pyro_vaes.analysis.compare.compare` found: left all entries of all codes, right datum by datum.

    Args:
        title: pair and data, to print above.
    """
    n, k = found.bias.shape
    figure = Figure(figsize=(11, max(3.6, 1.4 + 0.17 * min(n, 40))), dpi=160, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1.2, 0.7))
    _entries(left, found)
    if found.gaps is None or found.psis is None:
        for ax in (middle, right):
            ax.set_axis_off()
        middle.text(0, 0.5, "a point mass has no bound, no gaps and no weights", fontsize=8, color=NEUTRAL)
    else:
        order = found.gaps.total.argsort()[-40:].tolist()
        _bars(middle, found, order)
        _khats(right, found, order)
    mixed = int(found.chains.mixed.sum())
    name = "" if title else f"{found.chains.target.pair.name}: "
    said = f"{name}{n} data, {k} entries of a code; chains mixed (R-hat ≤ {found.chains.limit}) for {mixed} of {n} data"
    figure.suptitle(f"{title}\n{said}" if title else said, fontsize=9, color=NEUTRAL, x=0.01, ha="left")
    return figure


def _entries(ax, found: Compared) -> None:
    limit = math.log2(FACTOR)
    box = np.array([(-BIAS, -limit), (BIAS, -limit), (BIAS, limit), (-BIAS, limit)])
    ax.fill(*box.T, color=CLASSICAL, alpha=0.25, linewidth=0, label="good: within ½ sd and a factor of 1.5")
    mixed = found.chains.mixed
    scale = found.scale.nan_to_num(nan=0.0)
    for rows, colour, label in ((mixed, NEUTRAL, "an entry of a datum's code"), (~mixed, ROBUST, "chains not mixed")):
        if rows.any():
            ax.scatter(found.bias[rows], scale[rows], s=7, color=colour, alpha=0.6, linewidth=0, label=label)
    ax.axhline(0, color=NEUTRAL, linewidth=0.5), ax.axvline(0, color=NEUTRAL, linewidth=0.5)
    wide = max(1.2, float(found.bias.abs().quantile(0.995)) * 1.1)
    high = max(1.2, float(scale.abs().quantile(0.995)) * 1.1)
    ax.set_xlim(-wide, wide), ax.set_ylim(-high, high)
    ax.set_xlabel("bias of the guide's mean (posterior sd)", fontsize=8)
    ax.set_ylabel("log2 of its width: sd of guide / sd of NUTS", fontsize=8)
    _plain(ax, "where the guide is, and how wide (0, 0 is exact)")
    ax.legend(fontsize=6.5, frameon=False, loc="upper left")


def _bars(ax, found: Compared, order: list[int]) -> None:
    g = found.gaps
    assert g is not None
    rows = np.arange(len(order))
    first, second = g.approximation[order].numpy(), g.amortisation[order].numpy()
    ax.barh(rows, first, color=CLASSICAL, height=0.7, label="approximation: log Z − bound of the best Gaussian")
    richer = "" if g.same else " (negative: its family is richer)"
    ax.barh(rows, second, left=np.maximum(first, 0), color=ROBUST, height=0.7,
            label="amortisation: what the network adds" + richer)  # fmt: skip
    ends, se = np.maximum(first, 0) + second, (g.log_z_se.square() + g.bound_se.square()).sqrt()[order].numpy()
    ax.errorbar(ends, rows, xerr=se, fmt="none", ecolor=NEUTRAL, elinewidth=0.8)
    ax.set_yticks(rows, [str(i) for i in order])
    ax.set_xlabel("KL(guide || posterior), nats (smaller is better)", fontsize=8), ax.set_ylabel("datum", fontsize=8)
    ax.set_ylim(-0.6, len(order) + 1.4)
    _plain(ax, "why the bound is loose")
    ax.legend(fontsize=6.5, frameon=False, loc="upper left")


def _khats(ax, found: Compared, order: list[int]) -> None:
    assert found.psis is not None
    khat = found.psis.khat[order].nan_to_num(nan=math.nan, posinf=1.5).numpy()
    ax.scatter(khat, np.arange(len(order)), s=14, color=[ROBUST if v > LIMIT else NEUTRAL for v in khat])
    ax.axvline(LIMIT, color=ROBUST, linewidth=0.8, linestyle="--")
    ax.text(LIMIT, len(order) + 0.4, " 0.7", fontsize=7, color=ROBUST)
    ax.set_yticks([]), ax.set_ylim(-0.6, len(order) + 1.4)
    ax.set_xlim(min(0.0, np.nanmin(khat, initial=0.0)) - 0.05, max(1.05, np.nanmax(khat, initial=0.0) + 0.05))
    ax.set_xlabel("k-hat of the guide's weights", fontsize=8)
    _plain(ax, "left of 0.7: weights correct it")


def _plain(ax, title: str) -> None:
    ax.set_title(title, fontsize=8.5, color=NEUTRAL, loc="left")
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)


def suspects(
    x: Tensor, reconstruction: Tensor, khat: Tensor, shape: Sequence[int], *, most: int = 16, title: str = ""
) -> Figure:
    """Draw the data with a k-hat above 0.7, worst first, each over its reconstruction; without any, the largest ones.

    Args:
        x, reconstruction: (N, d), pixels in [0, 1]. khat: (N,). shape: of one image, (H, W) or (C, H, W).
        most: images at most. title: pair and data, to print above.

    Raises:
        InputError: if the three differ in length, or the shape does not hold d pixels.

    >>> import torch
    >>> x = torch.rand(3, 16)
    >>> [ax.get_title() for ax in suspects(x, x, torch.tensor([0.2, 0.9, torch.inf]), (4, 4)).axes[:2]]
    ['k-hat inf', 'k-hat 0.90']
    """
    if not len(x) == len(reconstruction) == len(khat) or not len(x):
        raise InputError(f"x, reconstruction and khat are of {len(x)}, {len(reconstruction)} and {len(khat)} data")
    if math.prod(shape) != x.shape[1]:
        raise InputError(f"shape {tuple(shape)} does not hold {x.shape[1]} pixels")
    order = khat.nan_to_num(nan=-math.inf).argsort(descending=True)
    above = int((khat > LIMIT).sum())
    shown = order[: min(most, above or most)].tolist()
    columns = min(8, len(shown))
    blocks = math.ceil(len(shown) / columns)
    height, width = image(x[0], shape).shape[:2]
    figure = Figure(figsize=(max(4.6, 0.9 * columns + 0.7), blocks * (1.8 * height / width + 0.25) + 0.5), dpi=160,
                    layout="constrained")  # fmt: skip
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    for i, ax in enumerate(grid.flat):
        row, column = divmod(i, columns)
        ax.set_xticks([]), ax.set_yticks([]), ax.spines[:].set_visible(False)
        place = row // 2 * columns + column
        if column == 0:
            ax.set_ylabel("recon-\nstruction" if row % 2 else "datum", rotation=0, ha="right", va="center", fontsize=7)
        if place >= len(shown):
            continue
        j = shown[place]
        ax.imshow(image((reconstruction if row % 2 else x)[j], shape).clip(0, 1), cmap="gray", vmin=0, vmax=1)
        if row % 2 == 0:
            ax.set_title(f"k-hat {float(khat[j]):.2f}", fontsize=7, color=ROBUST if khat[j] > LIMIT else NEUTRAL)
    said = f"{above} of {len(x)} data have k-hat > 0.7: weights cannot put their guide right" if above else (
        f"none of {len(x)} data has k-hat > 0.7; these are the largest")  # fmt: skip
    figure.suptitle(f"{title}\n{said}" if title else said, fontsize=8, color=NEUTRAL, x=0.01, ha="left")
    return figure
