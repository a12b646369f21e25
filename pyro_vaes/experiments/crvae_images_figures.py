"""The figures of the channel-recurrent family's images, from what its result holds as text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data.hidden import hiding
from pyro_vaes.evaluation import block_plots
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST, image_rows
from pyro_vaes.experiments.likelihoods import unpacked

SHAPES = {"frey": (28, 20), "birds": (3, 32, 32), "celeba 64": (3, 64, 64), "celeba 128": (3, 128, 128)}
WORDS = {"right": "right half hidden", "eyes": "eyes hidden", "mouth": "mouth hidden"}


def figures(result: dict[str, Any], scale: str) -> dict[str, Figure]:
    """All figures by name, one set for every data set."""
    found = {"measures": measures(result, scale)}
    for name, methods in result["pictures"].items():
        shape = SHAPES[name]
        short = name.replace(" ", "")
        title = f"{name}, {scale} scale, {result['settings']['steps']} steps"
        one = methods["crVAE-GAN"]
        found[f"strip-{short}"] = strip(methods, shape, title)
        found[f"completion-{short}"] = completion(methods, shape, title)
        found[f"evolution-{short}"] = block_plots.evolution(
            _images(one["evolved"], shape, 6), shape, title=f"crVAE-GAN, {title}: block by block"
        )
        found[f"paths-{short}"] = paths(one, shape, f"crVAE-GAN, {title}")
        found[f"styles-{short}"] = styles(one, shape, f"crVAE-GAN, {title}")
        found[f"effects-{short}"] = effects(methods, title)
        for method in ("VAE-GAN", "crVAE-GAN"):
            square = _images(methods[method]["interpolated"], shape, 7)
            label = f"{method.split('-')[0].lower()}-{short}"
            found[f"square-{label}"] = block_plots.square(square, shape, title=f"{method}, {title}")
    return found


def _flat(text: str, shape: Sequence[int]) -> Tensor:
    return unpacked(text, int(np.prod(shape)))


def _images(text: str, shape: Sequence[int], rows: int) -> Tensor:
    flat = _flat(text, shape)
    return flat.reshape(rows, -1, flat.shape[1])


def strip(methods: dict[str, Any], shape: Sequence[int], title: str) -> Figure:
    """Reconstructions of held-out images, then samples, one row per method."""
    rows = {"held out": _flat(methods["VAE"]["truth"], shape)}
    for method, one in methods.items():
        rows[f"{method}, reconstructed"] = _flat(one["reconstructed"], shape)
    for one in methods.values():
        for label, text in one["samples"].items():
            rows[f"{label}, new"] = _flat(text, shape)[:8]
    return image_rows(rows, shape, title=f"{title}: reconstructed and new images")


def completion(methods: dict[str, Any], shape: Sequence[int], title: str) -> Figure:
    """Four held-out images for each region: truth, what is seen, and what each method puts there."""
    columns, rows = {}, dict[str, list[Tensor]]()
    for region, words in WORDS.items():
        truth = _flat(methods["VAE"]["truth"], shape)[:4]
        mask = hiding(region, shape).bool()
        columns[words] = len(truth)
        rows.setdefault("truth", []).append(truth)
        rows.setdefault("seen", []).append(torch.where(mask, truth, 1.0))
        for method, one in methods.items():
            if "completed" in one:
                rows.setdefault(method, []).append(_flat(one["completed"][region], shape))
    says = ", then ".join(f"{n} with {words.removesuffix(' hidden')}" for words, n in columns.items())
    joined = {label: torch.cat(parts) for label, parts in rows.items()}
    return image_rows(joined, shape, title=f"{title}: hidden parts (white) completed: {says}")


def styles(one: dict[str, Any], shape: Sequence[int], title: str) -> Figure:
    """One block drawn anew seven times, the others as they were: three images for each of three blocks."""
    images = torch.cat([_images(text, shape, 3) for text in one["styles"].values()])
    rows = [f"z_{t}, image {i + 1}" for t in one["styles"] for i in range(3)]
    columns = [f"draw {i + 1}" for i in range(images.shape[1])]
    return block_plots.grid(images, shape, columns=columns, rows=rows, title=f"{title}: only one block is drawn anew")


def paths(one: dict[str, Any], shape: Sequence[int], title: str) -> Figure:
    """One block on its way to a new draw, the others as they were: three images for each of three blocks."""
    images, rows = [], []
    for t, text in one["moved"].items():
        images.append(_images(text, shape, 3))
        rows += [f"z_{t}, image {i + 1}" for i in range(3)]
    columns = ["start", *[""] * 6, "new block"]
    return block_plots.grid(
        torch.cat(images), shape, columns=columns, rows=rows, title=f"{title}: one block moves to a new draw"
    )


def effects(methods: dict[str, Any], title: str) -> Figure:
    """How much of the variance of images hangs on each block, and how coarse its change is."""
    figure = Figure(figsize=(8.4, 3.2), dpi=160, layout="constrained")
    panels = (
        ("share", "share of the images' variance (%)"),
        ("coarse", "of its change, left in 4 x 4 patch means (%)"),
    )
    shown = {label: one["effects"] for label, one in methods.items() if "effects" in one}
    colours = dict(zip(shown, (NEUTRAL, CLASSICAL, ROBUST), strict=False))
    for ax, (key, words) in zip(figure.subplots(1, 2), panels, strict=True):
        for label, one in shown.items():
            values = [100 * v for v in one[key]]
            ax.plot(range(1, len(values) + 1), values, "o-", color=colours[label], label=label, markersize=4)
        ax.set_xlabel("block t", fontsize=9)
        ax.set_ylabel(words, fontsize=8)
        ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.suptitle(f"{title}: what each block moves when it alone is drawn anew", fontsize=9, x=0.01, ha="left")
    return figure


def measures(result: dict[str, Any], scale: str) -> Figure:
    """Dots of all seeds: reconstruction, samples and completion, a column for every data set."""
    panels = (
        ("reconstruction", "reconstruction:\nmean squared error x 1000", 1000),
        ("frechet", "samples:\nFrechet distance", 1),
        ("right", "right half hidden:\nmean squared error x 1000", 1000),
    )
    names = list(result["data"])
    figure = Figure(figsize=(10.0, 2.7 * len(names) + 0.4), dpi=160, layout="constrained")
    axes = figure.subplots(len(names), len(panels), squeeze=False)
    for line, name in zip(axes, names, strict=True):
        for ax, (key, words, factor) in zip(line, panels, strict=True):
            rows = [row for row in result["rows"] if row["data"] == name and key in row]
            for i, row in enumerate(rows):
                values = [factor * v for v in row[key]]
                colour = ROBUST if row["row"].startswith("crVAE") else CLASSICAL
                ax.plot(values, [i] * len(values), "o", color=colour, markersize=4, alpha=0.7)
                ax.plot([np.mean(values)] * 2, [i - 0.35, i + 0.35], color=colour, linewidth=2)
            reference = {"frechet": "frechet", "right": "right: nearest image"}.get(key)
            if reference is not None:
                value = factor * result["data"][name][reference]
                label = "the data themselves" if key == "frechet" else "nearest training image"
                ax.axvline(value, color=NEUTRAL, linewidth=1, linestyle=":", label=label)
                ax.legend(fontsize=7, frameon=False)
            ax.set_yticks(range(len(rows)), [row["row"] for row in rows])
            ax.invert_yaxis()
            ax.margins(y=0.12)
            ax.set_xlim(left=0)
            ax.set_title(f"{name}: {words}", fontsize=8.5, loc="left", color=NEUTRAL)
            ax.tick_params(labelsize=8)
            ax.spines[["top", "right"]].set_visible(False)
    settings = result["settings"]
    says = f"{len(settings['seeds'])} trainings of {settings['steps']} steps ({scale} scale); strokes are means"
    figure.suptitle(f"{says}; further left is better", fontsize=10, x=0.01, ha="left", color=NEUTRAL)
    return figure
