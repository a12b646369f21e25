"""One figure per variant of the gallery, all of one size, drawn from the result alone."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyro_vaes.evaluation.plots import NEUTRAL, ROBUST
from pyro_vaes.evaluation.report import png
from pyro_vaes.experiments.gallery_pictures import COLUMNS, LINES
from pyro_vaes.experiments.likelihoods import unpacked
from pyro_vaes.inference.checkpoint import write_atomically

SIDE = 8
CELL, LABEL, TITLE, GAP = 0.54, 1.2, 0.36, 0.05  # inches
MAPS = {"grey": "gray", "marks": "Reds"}


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """The figure of every variant by its name."""
    return {name: figure(name, found) for name, found in result["variants"].items()}


def figure(name: str, found: dict[str, Any]) -> Figure:
    """Rows of ten pictures with labels at the left, and what was given in the title.

    Args:
        found: with ``shown``, the data in words, and ``pictures``.
    """
    width, height = LABEL + COLUMNS * CELL + 0.08, TITLE + LINES * CELL + 6 * GAP
    drawn = Figure(figsize=(width, height), dpi=120)
    top = height - TITLE
    for row in found["pictures"]:
        images = unpacked(row["pixels"], SIDE * SIDE).numpy().reshape(-1, COLUMNS, SIDE, SIDE)
        lines = len(images)
        drawn.text(
            (LABEL - 0.1) / width, (top - lines * CELL / 2) / height, row["label"], ha="right", va="center",
            fontsize=9.5, color=NEUTRAL, linespacing=1.05,
        )  # fmt: skip
        for i, line in enumerate(images):
            for j, image in enumerate(line):
                left, bottom = LABEL + j * CELL, top - (i + 1) * CELL
                ax = drawn.add_axes((left / width, bottom / height, 0.95 * CELL / width, 0.95 * CELL / height))
                ax.imshow(image, cmap=MAPS[row["kind"]], vmin=0, vmax=1, interpolation="nearest")
                ax.set_xticks([]), ax.set_yticks([])
                ax.spines[:].set(visible=row["kind"] == "marks", color="#d5dae0", linewidth=0.6)
                if row.get("words"):
                    _say(ax, row["words"][i * COLUMNS + j])
        top -= lines * CELL + GAP
    drawn.text(0.012, 1 - 0.11 / height, name, fontsize=12, va="top", color=ROBUST, weight="bold")
    drawn.text(0.992, 1 - 0.13 / height, found["shown"], fontsize=9.5, va="top", ha="right", color=NEUTRAL)
    return drawn


def _say(ax: Any, word: str) -> None:
    if word:
        box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.2}
        ax.text(
            0.04,
            0.05,
            word,
            transform=ax.transAxes,
            fontsize=8 if len(word) < 4 else 6.5,
            color=ROBUST,
            va="bottom",
            bbox=box,
        )


def draw_again(path: Path) -> None:
    """Draw the figures of a result anew, beside it, without any training."""
    for name, drawn in figures(json.loads(path.read_text())).items():
        write_atomically(path.with_suffix(f".{name}.png"), png(drawn))
