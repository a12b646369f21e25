"""The figure of completed images: what was true, what was seen, what was made of it, and how sure that is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.plots import NEUTRAL, image

# Light blue, which neither grey pictures nor the map of the deviation have.
HIDDEN = (0.62, 0.79, 0.93)


def completions(
    seen: Tensor,
    completion: Tensor,
    mask: Tensor,
    shape: Sequence[int],
    *,
    truth: Tensor | None = None,
    draws: Tensor | None = None,
    sd: Tensor | None = None,
    most: int = 4,
    title: str = "",
    label: str = "completion",
) -> Figure:
    """Draw one row per image: the truth, what was seen of it, its completion, draws of the posterior, their spread.

    Args:
        seen: (B, d), pixels in [0, 1]; hidden ones are not read. completion: (B, d).
        mask: (d,) or (B, d), 1 seen and 0 hidden; the hidden part is painted light blue.
        shape: of one image, (H, W) or (C, H, W). truth: (B, d), where it is known.
        draws: (S, B, d), of which the first ``most`` are shown. sd: (B, d), posterior standard deviation of each pixel;
            of a colour image the mean over its channels is shown.
        title, label: to print above, and over the completion's column.

    Raises:
        InputError: if the numbers of images differ, or there are none.

    >>> x = torch.rand(3, 16)
    >>> figure = completions(x, x, torch.ones(16).index_fill(0, torch.arange(4), 0), (4, 4), draws=x.repeat(2, 1, 1))
    >>> [ax.get_title() for ax in figure.axes[:4]]
    ['seen', 'completion', 'draw 1', 'draw 2']
    """
    lengths = {len(part) for part in (seen, completion, truth, sd) if part is not None}
    if len(lengths) != 1 or not len(seen):
        raise InputError(f"images and completions must be as many, and at least one: these are {sorted(lengths)}")
    shown = (mask if mask.dim() == 2 else mask.expand(len(seen), -1)).bool()
    columns: list[tuple[str, Sequence[np.ndarray]]] = []
    if truth is not None:
        columns.append(("truth", [image(row, shape) for row in truth]))
    columns.append(("seen", [_painted(x, m, shape) for x, m in zip(seen, shown, strict=True)]))
    columns.append((label, [image(row, shape) for row in completion]))
    for s in range(0 if draws is None else min(most, len(draws))):
        columns.append((f"draw {s + 1}", [image(row, shape) for row in draws[s]]))  # type: ignore[index]
    figure, grid = _grid(
        len(seen), len(columns) + (sd is not None), columns[0][1][0].shape, title, 0.1 if sd is None else 0.9
    )
    for c, (name, pictures) in enumerate(columns):
        grid[0, c].set_title(name, fontsize=8, color=NEUTRAL)
        for ax, picture in zip(grid[:, c], pictures, strict=True):
            ax.imshow(picture.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if sd is not None:
        _spreads(figure, grid[:, -1], sd, shape)
    return figure


def _painted(x: Tensor, seen: Tensor, shape: Sequence[int]) -> np.ndarray:
    """An image as three channels, its hidden part in one colour."""
    picture, shown = image(torch.where(seen, x, 0.0), shape), image(seen.float(), shape)
    if picture.ndim == 2:
        picture, shown = (np.repeat(a[..., None], 3, -1) for a in (picture, shown))
    return np.where(shown > 0.5, picture, np.array(HIDDEN, dtype=np.float32))


def _spreads(figure: Figure, axes: Any, sd: Tensor, shape: Sequence[int]) -> None:
    """The last column, on one scale for all images."""
    maps = [image(row, shape) for row in sd]
    maps = [m.mean(-1) if m.ndim == 3 else m for m in maps]
    # A few entries of which nothing is known would leave all others black.
    all_of = np.concatenate([m[m > 0].ravel() for m in maps])
    top = max(1e-6, float(np.quantile(all_of, 0.99))) if len(all_of) else 1e-6
    for ax, one in zip(axes, maps, strict=True):
        drawn = ax.imshow(one, cmap="inferno", vmin=0, vmax=top, interpolation="nearest")
    axes[0].set_title("posterior sd", fontsize=8, color=NEUTRAL)
    beyond = "max" if len(all_of) and all_of.max() > top else "neither"
    bar = figure.colorbar(drawn, ax=list(axes), fraction=0.08, pad=0.04, aspect=30, extend=beyond)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _grid(rows: int, columns: int, size: tuple[int, ...], title: str, extra: float) -> tuple[Figure, Any]:
    cell = 0.85
    height = cell * size[0] / size[1]
    figure = Figure(
        figsize=(columns * cell + extra, rows * height + 0.35 + 0.2 * len(title.split("\n"))),
        dpi=160,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(rows, columns, squeeze=False)
    for ax in grid.flat:
        ax.set_xticks([]), ax.set_yticks([])
        ax.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=8, color=NEUTRAL, x=0.01, ha="left")
    return figure, grid
