"""Frey faces with dark marks: clean training data, then marks of a kind never seen (S0 V-B, Fig. 4-6; App. B).

Protocol: 1965 faces of 28 x 20 pixels in [0, 1]. A share of 10, 20, ... 90 % of the images gets one dark circle of
random centre and radius. Each method is trained on (RPCA: solved for) the marked images and cleans those same images;
then the networks trained at 60 % clean all 1965 faces, each with a dark rectangle of random place and size; RPCA, which
has no parameters to keep, is solved for those. The figure is the mean squared error against the clean faces;
kappa = 10 for every network.

Scales: ``paper`` is App. B: 560-1000-500-250-10, 150,000 steps of batch 100, learning rate 0.0001, 0.00005 for the
recycled ones, from scratch, constant (the optimiser is not stated: Adam). ``quick``: 560-256-128-10, 1000 steps,
learning rate 0.001 falling to zero along a cosine; the recycled ones spend the first half of these steps as their base
model and the second half recycling at half the rate, because recycling from scratch collapses when steps are few.
"""

import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import Corrupted, Dataset, corrupt, load
from pyro_vaes.evaluation.baselines import rpca_clean
from pyro_vaes.evaluation.metrics import mse
from pyro_vaes.evaluation.plots import curves, image_rows
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import side_by_side, trained
from pyro_vaes.inference.posterior import clean
from pyro_vaes.pair import Pair

NAME = "frey-recovery"
LEVELS = tuple(range(10, 100, 10))
TEST_LEVEL = 60
BASES = {"r_l2_vae": "l2_vae", "rlc_vae": "lc_vae", "ric_vae": "indexed_ic_vae"}
LABELS = {
    "rpca": "RPCA", "autoencoder": "AE", "l2_vae": "l2-VAE", "r_l2_vae": "R-l2 (2,2)", "lc_vae": "LC-VAE",
    "rlc_vae": "RLC (2,2)", "ic_vae": "iC-VAE", "ric_vae": "RiC (2,2)", "t_vae": "t-VAE",
}  # fmt: skip
ROBUST = ("ic_vae", "ric_vae", "t_vae")
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"hidden": [256, 128], "steps": 1000, "lr": 1e-3, "schedule": "cosine", "warm": True},
    "paper": {"hidden": [1000, 500, 250], "steps": 150_000, "lr": 1e-4, "schedule": "constant", "warm": False},
}


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    began = time.monotonic()
    faces = load("frey", root=root)
    # The slowest first, so that the last process does not work alone at the end.
    cells = [
        (name, level, scale, str(root)) for name in LABELS for level in sorted(LEVELS, key=lambda l: l != TEST_LEVEL)
    ]
    computed = side_by_side(cell, cells, desc=NAME, steps=(len(LABELS) - 1) * len(LEVELS) * SCALES[scale]["steps"])
    found = {(name, level): value for (name, level, *_), value in computed.items()}
    result = {
        "settings": {**SCALES[scale], "latent_dim": 10, "batch_size": 100, "seeds": [0]},
        "seconds": round(time.monotonic() - began, 1),
        "levels": list(LEVELS),
        "training mse": {name: [found[name, level]["circles"] for level in LEVELS] for name in LABELS},
        "rectangles mse": {name: found[name, TEST_LEVEL]["rectangles"] for name in LABELS},
    }
    shown = {name: found[name, TEST_LEVEL]["shown"] for name in LABELS}
    return record(out, NAME, scale, result, _figures(result, scale, shown, faces))


def cell(name: str, level: int, scale: str, root: str) -> dict[str, Any]:
    """Train one method at one level; give its errors, and at the test level what it made of a few faces."""
    faces = load("frey", root=root)
    marked = {kind: mark(faces, kind, level) for kind in ("circles", "rectangles")}
    pair = None if name == "rpca" else _train(name, marked["circles"].x, SCALES[scale])
    value: dict[str, Any] = {"shown": {}}
    for kind, dirty in marked.items() if level == TEST_LEVEL else [("circles", marked["circles"])]:
        cleaned = rpca_clean(dirty.x) if pair is None else clean(pair, dirty.x, draws=2).mean
        value[kind] = mse(cleaned, faces.x)
        value["shown"][kind] = cleaned[columns(dirty)].numpy()
    return value


def mark(faces: Dataset, kind: str, level: int) -> Corrupted:
    """Circles on a share of the faces, or a rectangle on each."""
    spec, seed = (f"circles:{level / 100}", level) if kind == "circles" else ("rectangles:1.0", 1)
    return corrupt(faces.x, spec, shape=faces.shape, seed=seed)


def columns(dirty: Corrupted) -> Tensor:
    """Ten marked faces, spread over the film."""
    marked = dirty.mask.any(1).nonzero().flatten()
    return marked[torch.linspace(0, len(marked) - 1, 10).long()]


def _train(name: str, dirty: Tensor, settings: dict[str, Any]) -> Pair:
    plan = {
        "arguments": {"latent_dim": 10, "hidden": settings["hidden"]},
        "schedule": settings["schedule"], "batch_size": 100,
    }  # fmt: skip
    steps, lr = settings["steps"], settings["lr"]
    if name not in BASES:
        return trained(name, dirty, steps=steps, lr=lr, **plan)
    if not settings["warm"]:
        return trained(name, dirty, steps=steps, lr=lr / 2, **plan)
    base = trained(BASES[name], dirty, steps=steps // 2, lr=lr, **plan)
    return trained(name, dirty, start=base, steps=steps // 2, lr=lr / 2, **plan)


def _figures(result: dict[str, Any], scale: str, shown: dict[str, Any], faces: Dataset) -> dict[str, Figure]:
    title = f"{scale} scale, {result['settings']['steps']:,} steps, one seed"
    figures = {
        "curves": curves(
            LEVELS,
            {LABELS[name]: values for name, values in result["training mse"].items()},
            titles=[f"Frey faces with dark circles ({title})"],
            xlabel="images with a circle (%)",
            ylabel="mean squared error against the clean faces",
        )
    }
    headings = {
        "circles": f"{TEST_LEVEL} % of the images have a circle",
        "rectangles": "rectangles, never seen in training",
    }
    for kind, heading in headings.items():
        dirty = mark(faces, kind, TEST_LEVEL)
        rows = {"dirty": dirty.x[columns(dirty)]}
        rows |= {LABELS[name]: torch.as_tensor(images[kind]) for name, images in shown.items()}
        rows |= {"truth": faces.x[columns(dirty)]}
        robust = [LABELS[name] for name in ROBUST]
        figures[kind] = image_rows(rows, faces.shape, title=f"Frey faces: {heading} ({title})", highlight=robust)
    return figures


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: one row per method, one column per level, and the rectangles."""
    header = ["MSE x 1000", *(f"{level} %" for level in result["levels"]), "rectangles"]
    rows: list[list[object]] = [
        [LABELS[name], *(f"{1000 * v:.2f}" for v in values), f"{1000 * result['rectangles mse'][name]:.2f}"]
        for name, values in result["training mse"].items()
    ]
    return markdown_table(header, rows)
