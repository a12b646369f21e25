"""The commands evolve, interpolate and resample: what the blocks of a trained run's code do."""

import re
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_vaes.commands.files import condition_for, data_of, is_image, quadrants_of, write_array, write_figure
from pyro_vaes.commands.labels import blind, seen_labels
from pyro_vaes.errors import InputError, said, unknown, whole

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.data.quadrants import Quadrants
    from pyro_vaes.inference.run import Run
    from pyro_vaes.pair import Pair

EFFECTS = 512  # draws that a block's effect is measured from


def do_evolve(run: str, draws: int = 8, rows: str | None = None, label: int | None = None, seed: int = 0) -> None:
    """Show how images of a trained run come into being, block by block of the code, and how much each block moves.

    Args:
        run: the run folder; evolve.npz and its figures are written into it.
        draws: how many images.
        rows: take the codes of these data of the run instead of drawing them, such as 3,14,15 (counted from 0).
        label: of all draws, where the run was trained with labels; without it the labels take turns.
        seed: of the draws.
    """
    from pyro_vaes.evaluation import block_plots
    from pyro_vaes.evaluation.block_effects import block_effects
    from pyro_vaes.evaluation.blocks import blocks_of, evolve

    view = _view(run, draws, rows, label)
    found = evolve(view.pair, draws, view.y, x=view.x, seed=seed)
    arrays: dict[str, Any] = {"seed": seed}
    if len(blocks_of(view.pair)) > 1:
        effects = block_effects(
            view.pair, EFFECTS, _turns(view, EFFECTS), shape=view.shape if view.plain else None, seed=seed
        )
        for i, site in enumerate(effects.sites):
            coarse = "" if effects.coarse is None else f", {effects.coarse[i]:.0%} of it coarse (4 x 4 patches)"
            print(f"{site}: {effects.share[i]:.1%} of the variance of images hangs on it{coarse}")
        arrays |= {name: getattr(effects, name) for name in ("sites", "change", "error", "share", "coarse")}
        words = f"{EFFECTS} draws of each block; lines: 95 % intervals; shares pass 100 % in all where blocks interact"
        title = f"{view.title}: {words}"
        write_figure(view.folder.path / "evolve-effects.png", block_plots.effects(effects, title=title))
    words = "block after block of the code, the others at 0"
    _write(view, "evolve", words, found, arrays, block_plots.evolution)


def do_interpolate(
    run: str,
    block: int | None = None,
    rows: str | None = None,
    steps: int = 8,
    draws: int = 4,
    path: str = "linear",
    label: int | None = None,
    seed: int = 0,
) -> None:
    """Go between the codes of four data of a trained run; or with --block from one block of a code to a new draw of it.

    Args:
        run: the run folder; interpolate.npz (with --block interpolate-T.npz) and a figure are written into it.
        block: T, from 1, the block that moves while the others stay.
        rows: four data of the run, such as 3,14,15,92 (counted from 0), by default the first; with --block as many as
            there are to be, whose codes the way starts from, by default draws of the model.
        steps: images on a way.
        draws: with --block, how many images to start from.
        path: with --block, linear or spherical.
        label: of all draws, where the run was trained with labels.
        seed: of the draws.
    """
    from pyro_vaes.evaluation import block_plots
    from pyro_vaes.evaluation.blocks import PATHS, interpolate, interpolate_block

    if path not in PATHS:
        raise unknown("path", path, PATHS)
    if block is None and path != PATHS[0]:
        raise InputError(f"path is {path}: that is of one block, and without --block the way is always spherical")
    if block is not None:
        view = _view(run, draws, rows, label)
        found = interpolate_block(view.pair, block, steps, draws, view.y, x=view.x, path=path, seed=seed)
        words, arrays = f"only block {block} moves, in all rows to one new draw", {"block": block, "path": path}
        drawn = partial(block_plots.path, block=block)
        return _write(view, f"interpolate-{block}", words, found, {**arrays, "seed": seed}, drawn)
    view = _view(run, 4, rows, label, four=True)
    assert view.x is not None
    found = interpolate(view.pair, view.x, steps, view.y, seed=seed)
    words = f"between the codes of four data{'' if rows is None else f', rows {rows}'}"
    return _write(view, "interpolate", words, found, {"seed": seed}, block_plots.square)


def do_resample(
    run: str,
    block: int = 1,
    styles: int = 8,
    draws: int = 4,
    rows: str | None = None,
    label: int | None = None,
    seed: int = 0,
) -> None:
    """Draw one block of the code of a trained run anew while the others stay: the styles of what it holds.

    Args:
        run: the run folder; resample-T.npz and a figure are written into it.
        block: T, from 1.
        styles: how many new draws of the block.
        draws: how many images to start from.
        rows: start from these data of the run instead, such as 3,14,15 (counted from 0).
        label: of all draws, where the run was trained with labels; without it the labels take turns.
        seed: of the draws.
    """
    from pyro_vaes.evaluation import block_plots
    from pyro_vaes.evaluation.blocks import evolve, resample_block

    view = _view(run, draws, rows, label)
    found = resample_block(view.pair, block, styles, draws, view.y, x=view.x, seed=seed)
    start = _images(view, evolve(view.pair, draws, view.y, x=view.x, seed=seed)[:, -1:])
    arrays = {"block": block, "seed": seed, "start": start[:, 0]}
    drawn = partial(block_plots.styles, start=start[:, 0].flatten(1), block=block)
    _write(view, f"resample-{block}", f"block {block} drawn anew, the others stay", found, arrays, drawn)


class _View(NamedTuple):
    """A run, what to start from, under which condition, and how what it gives becomes whole images again."""

    folder: "Run"
    pair: "Pair"
    x: "Tensor | None"
    y: "Tensor | None"
    parts: "Quadrants | None"
    seen: "Tensor | None"
    shape: tuple[int, ...]
    title: str

    @property
    def plain(self) -> bool:
        """Whether what the pair gives is an image as it is."""
        return self.parts is None and is_image(self.shape)


def _view(run: str, draws: int, rows: str | None, label: int | None, four: bool = False) -> _View:
    """Read a run, and refuse what it cannot show before any work.

    Args:
        four: four data are needed, by default the first ones, of one label where the run has labels.
    """
    import torch

    from pyro_vaes.inference.run import Run

    folder, chosen = Run.open(run), _rows(rows)
    pair, condition = folder.pair(), folder.config["condition"]
    unseen = blind(pair)
    labelled = bool(pair.condition_dim) and condition in (None, "labels") and not unseen
    if label is not None and not labelled:
        why = "draws no image by its label" if unseen else "was not trained with labels"
        raise InputError(f"label is {label}: {folder.path} {why}")
    if label is not None and whole("label", label, low=0) >= pair.condition_dim:
        raise InputError(f"label is {label}: labels of {pair.name} are 0 to {pair.condition_dim - 1}")
    if label is not None and chosen is not None:
        raise InputError(f"label is {label}, but the rows have labels of their own: leave one of them out")
    whole("draws", draws, high=10**4)
    title, shape = pair.name, tuple(folder.config["shape"])
    if not (four or chosen or condition not in (None, "labels")):
        if not labelled:
            return _View(folder, pair, None, None, None, None, shape, title)
        y = torch.arange(draws) % pair.condition_dim if label is None else torch.full((draws,), label)
        return _View(folder, pair, None, y, None, None, shape, title)
    dataset, x, _ = data_of(folder)
    parts = quadrants_of(condition, dataset, x)
    given: Tensor | None = None if unseen else dataset.y if parts is None else parts.y
    shape, x = (shape, x) if parts is None else (dataset.shape, parts.x)
    every = condition_for(pair, condition, x, seen_labels(folder, pair, given, None), dataset.name)
    if four and chosen is None and labelled and every is not None:
        same = (every == every[0]).all(1) if label is None else every[:, label] == 1
        chosen = same.nonzero().flatten()[:4].tolist()
        if len(chosen) < 4:
            raise InputError(f"{dataset.name} has fewer than four data of one label: name four rows, or another label")
    some = list(range(4 if four else draws)) if chosen is None else chosen
    if four and len(some) != 4:
        raise InputError(f"rows is {rows}: a square is between four data, so name four")
    if max(some) >= len(x):
        raise InputError(f"row {max(some)} is not there: {dataset.name} has {len(x)} rows, from 0")
    start = x[some] if four or chosen is not None else None
    seen = None if parts is None else parts.y[some]
    return _View(folder, pair, start, None if every is None else every[some], parts, seen, shape, title)


def _rows(rows: str | None) -> list[int] | None:
    """Read numbers such as 3,14,15; brackets around them are as good as none."""
    if rows is None:
        return None
    if not re.fullmatch(r"\[?\s*\d{1,9}(\s*,\s*\d{1,9})*\s*\]?", rows):
        raise InputError(f"rows is {said(rows)}: it must be whole numbers from 0, such as 3,14,15")
    return [int(number) for number in re.findall(r"\d+", rows)]


def _turns(view: _View, draws: int) -> "Tensor | None":
    """The conditions of the view, again and again."""
    import torch

    return None if view.y is None else view.y[torch.arange(draws) % len(view.y)]


def _images(view: _View, found: "Tensor") -> "Tensor":
    """Give what was found its shape, (rows, columns, ...), the seen pixels of each row in their places."""
    if view.parts is not None and view.seen is not None:
        found = view.parts.join(found, view.seen[:, None].expand(-1, found.shape[1], -1))
    return found.reshape(*found.shape[:2], *view.shape)


def _write(view: _View, stem: str, words: str, found: "Tensor", arrays: dict[str, Any], drawn: Any) -> None:
    import numpy as np

    images, path = _images(view, found), view.folder.path / f"{stem}.npz"
    kept = {name: value for name, value in arrays.items() if value is not None}
    write_array(path, lambda file: np.savez_compressed(file, images=images.numpy(), **kept))
    print(f"wrote {path}: images, of shape {tuple(images.shape)}")
    if is_image(view.shape):
        figure = drawn(images.flatten(2), view.shape, title=f"{view.title}: {words}")
        write_figure(view.folder.path / f"{stem}.png", figure)
