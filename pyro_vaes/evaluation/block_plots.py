"""Figures of the views of a code in blocks: images on a grid with named columns, and bars of what each block moves."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.block_effects import BlockEffects
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image

CELL = 0.72  # inches, the width of an image


def evolution(images: Tensor, shape: Sequence[int], *, title: str = "") -> Figure:
    """Draw what :func:`~pyro_vaes.evaluation.blocks.evolve` gave: a row per image, a column per block that is there.

    Args:
        images: (B, T + 1, d). shape: of one image.

    >>> import torch
    >>> [ax.get_title() for ax in evolution(torch.rand(2, 3, 4), (2, 2)).axes[:3]]
    ['none', '+ z$_1$', '+ z$_2$']
    """
    columns = ["none", *(f"+ {_name(t)}" for t in range(1, images.shape[1]))]
    if images.shape[1] == 2:
        columns = ["z = 0", "z"]
    return grid(images, shape, columns=columns, title=title)


def path(images: Tensor, shape: Sequence[int], block: int, *, title: str = "") -> Figure:
    """Draw what :func:`~pyro_vaes.evaluation.blocks.interpolate_block` gave: block t on its way, the others at rest.

    Args:
        images: (B, steps, d). shape: of one image. block: t.

    >>> import torch
    >>> [ax.get_title() for ax in path(torch.rand(2, 3, 4), (2, 2), 1).axes[:3]]
    ['z$_1$', '0.5', 'new z$_1$']
    """
    steps = images.shape[1]
    columns = [f"{i / (steps - 1):.2g}" for i in range(steps)]
    columns[0], columns[-1] = _name(block), f"new {_name(block)}"
    return grid(images, shape, columns=columns, title=title)


def styles(images: Tensor, shape: Sequence[int], start: Tensor, block: int, *, title: str = "") -> Figure:
    """Draw what :func:`~pyro_vaes.evaluation.blocks.resample_block` gave, beside the images it started from.

    Args:
        images: (B, S, d), in a column all with the same block t. shape: of one image. start: (B, d). block: t.

    >>> import torch
    >>> [ax.get_title() for ax in styles(torch.rand(2, 2, 4), (2, 2), torch.rand(2, 4), 3).axes[:3]]
    ['start', 'new z$_3$', 'another']
    """
    columns = ["start", f"new {_name(block)}", *["another"] * (images.shape[1] - 1)]
    return grid(torch.cat([start[:, None], images], 1), shape, columns=columns, title=title, apart=1)


def square(images: Tensor, shape: Sequence[int], *, title: str = "") -> Figure:
    """Draw what :func:`~pyro_vaes.evaluation.blocks.interpolate` gave; the four codes are the framed corners.

    Args:
        images: (steps, steps, d). shape: of one image.

    >>> import torch
    >>> len(square(torch.rand(3, 3, 4), (2, 2)).axes)
    9
    """
    last = images.shape[1] - 1
    columns = ["datum 1", *[""] * (last - 1), "datum 2"]
    figure = grid(images, shape, columns=columns, title=title, below=["datum 3", *[""] * (last - 1), "datum 4"])
    for corner in (0, last, last * (last + 1), (last + 1) ** 2 - 1):
        ax = figure.axes[corner]
        ax.spines[:].set_visible(True)
        for spine in ax.spines.values():
            spine.set(color=ROBUST, linewidth=1.6)
    return figure


def effects(found: BlockEffects, *, title: str = "") -> Figure:
    """Draw how much of the variance of images each block holds, and of its change how much is coarse.

    >>> import torch
    >>> one = torch.tensor([0.6, 0.5])
    >>> len(effects(BlockEffects(("z_1", "z_2"), one, one / 9, 1.0, one, one)).axes)
    2
    """
    panels: list[tuple[Tensor, Tensor | None, str]] = [
        (100 * found.share, 100 * found.error / found.everything, "share of the variance of images (%)")
    ]
    titles = ["How much of the image hangs on each block"]
    if found.coarse is not None:
        panels.append((100 * found.coarse, None, "share of the block's change (%)"))
        titles.append("Coarse: how much 4 x 4 patch means keep of the change")
    names = [site.replace("z_", "") for site in found.sites]
    width = max(4.0, 0.38 * len(names) + 1.2)
    figure = Figure(figsize=(width * len(panels), 3.0), dpi=160, layout="constrained")
    for ax, (values, error, ylabel), words in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, titles, strict=True
    ):
        spread = None if error is None else 1.96 * error.numpy()
        drawn = ax.bar(names, values.numpy(), yerr=spread, color=CLASSICAL, ecolor=NEUTRAL, width=0.72)
        if len(names) <= 16:
            ax.bar_label(drawn, fmt="%.1f", padding=2, fontsize=7, color=NEUTRAL)
        ax.set_title(words, fontsize=9, loc="left", color=NEUTRAL)
        ax.set_xlabel("block t" if len(names) > 1 else "the only block", fontsize=9), ax.set_ylabel(ylabel, fontsize=9)
        ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=9, color=NEUTRAL, x=0.01, ha="left")
    return figure


def _name(block: int) -> str:
    return f"z$_{block}$" if block < 10 else f"z$_{{{block}}}$"


def grid(
    images: Tensor,
    shape: Sequence[int],
    *,
    columns: Sequence[str],
    rows: Sequence[str] = (),
    below: Sequence[str] = (),
    title: str = "",
    apart: int = 0,
) -> Figure:
    """Draw images on a grid, a name above each column, and beside each row or below the columns if given.

    Args:
        images: (rows, columns, d), pixels in [0, 1]. shape: (H, W) or (C, H, W).
        apart: so many columns at the left stand a little apart.

    Raises:
        InputError: if there is another number of names than of columns or rows.

    >>> import torch
    >>> len(grid(torch.rand(2, 3, 4), (2, 2), columns=["a", "b", "c"]).axes)
    6
    """
    count, width = images.shape[:2]
    for what, names, number in (("columns", columns, width), ("rows", rows, count), ("below", below, width)):
        if len(names) not in (0, number) or (what == "columns" and len(names) != number):
            raise InputError(f"{what} has {len(names)} names for {number}")
    high, wide = image(images[0, 0], shape).shape[:2]
    left = max((len(row) for row in rows), default=0) * 0.075 + 0.08
    top, bottom = 0.26 + (0.28 if title else 0), 0.22 if any(below) else 0.05
    # A title in 9 points takes about 0.068 inches a letter.
    size = (
        max(left + (width + 0.25 * bool(apart)) * CELL, left + 0.068 * len(title) + 0.2),
        count * CELL * high / wide + top + bottom,
    )
    figure = Figure(figsize=size, dpi=160)
    ratios = [1.0] * width
    across = (width + (0.25 if apart else 0)) * CELL
    if apart:
        ratios.insert(apart, 0.25)
    axes = figure.subplots(count, len(ratios), squeeze=False, gridspec_kw={"width_ratios": ratios})
    for r in range(count):
        line = list(axes[r])
        if apart:
            line.pop(apart).remove()
        for c, ax in enumerate(line):
            ax.imshow(image(images[r, c], shape).clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([]), ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if r == 0:
                ax.set_title(columns[c], fontsize=8, color=NEUTRAL, pad=4)
            if r == count - 1 and below:
                ax.set_xlabel(below[c], fontsize=8, color=NEUTRAL, labelpad=3)
        if rows:
            line[0].set_ylabel(rows[r], rotation=0, ha="right", va="center", fontsize=8, color=NEUTRAL)
    figure.subplots_adjust(
        left=left / size[0], right=(left + across) / size[0] - 0.03 / size[0],
        bottom=bottom / size[1], top=1 - top / size[1], wspace=0.06, hspace=0.06,
    )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=9, x=left / size[0], y=1 - 0.07 / size[1], va="top", ha="left", color=NEUTRAL)
    return figure
