"""Frey faces with dark marks: clean training data, then marks of a kind never seen (S0 V-B, Fig. 4-6; App. B).

Protocol: 1965 faces of 28 x 20 pixels in [0, 1]. A share of 10, 20, ... 90 % of the images gets one dark circle of
random centre and radius. Each method is trained on (RPCA: solved for) the marked images and cleans those same images;
then the networks trained at 60 % clean all 1965 faces, each with a dark rectangle of random place and size, and once
more with a dark stripe of random direction, place and width (ours); RPCA, which has no parameters to keep, is solved
for those. The figure is the mean squared error against the clean faces; kappa = 10 for every network. A cell is
(method, level, seed), and the seed is that of marks, parameters and noise alike, so that methods are compared in
pairs. The iC-VAE is ``indexed_ic_vae``, equal to ``ic_vae`` up to a constant; the t-VAE is ours. Floors and scales are
learned.

Scales: ``paper`` is App. B: 560-1000-500-250-10, 150,000 steps of batch 100, learning rate 0.0001, 0.00005 for the
recycled ones, from scratch, constant (the optimiser is not stated: Adam), nine levels. ``quick``: four levels,
560-256-128-10, 1000 steps, learning rate 0.001 falling to zero along a cosine; the recycled ones spend the first half
of these steps as their base model and the second half recycling at half the rate, because recycling from scratch
collapses when steps are few; RPCA is solved to a residual of 1e-4 instead of 1e-7, which moves its error by less than
1 %.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import Corrupted, Dataset, corrupt, load
from pyro_vaes.evaluation.baselines import rpca_clean
from pyro_vaes.evaluation.metrics import mse
from pyro_vaes.evaluation.plots import curves, image_rows
from pyro_vaes.experiments.cells import Cells, Setting, compute
from pyro_vaes.experiments.frey_claims import verdicts
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained_each
from pyro_vaes.experiments.verdicts import interval
from pyro_vaes.inference.posterior import clean
from pyro_vaes.pair import Pair

NAME = "frey-recovery"
TEST_LEVEL = 60
NEW = ("rectangles", "stripes")
BASES = {"r_l2_vae": "l2_vae", "rlc_vae": "lc_vae", "ric_vae": "indexed_ic_vae"}
# S0's sum over two passes in training and two at test time; in the l2- and the LC-VAE the KL weighs 1 anyway.
RECYCLED, FULL_KL = {"passes": 2, "test_passes": 2}, {"ric_vae": {"beta": 1.0}}
LABELS = {
    "rpca": "RPCA", "autoencoder": "AE", "l2_vae": "l2-VAE", "r_l2_vae": "R-l2 (2,2)", "lc_vae": "LC-VAE",
    "rlc_vae": "RLC (2,2)", "indexed_ic_vae": "iC-VAE", "ric_vae": "RiC (2,2)", "t_vae": "t-VAE",
}  # fmt: skip
ROBUST = ("indexed_ic_vae", "ric_vae", "t_vae")
SLOWEST = ("t_vae", "rpca", "rlc_vae", "ric_vae")
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "hidden": [256, 128], "steps": 1000, "lr": 1e-3, "schedule": "cosine", "warm": True, "rpca tol": 1e-4,
        "levels": [10, 30, 60, 90], "seeds": [0, 1, 2, 3, 4],
    },
    "paper": {
        "hidden": [1000, 500, 250], "steps": 150_000, "lr": 1e-4, "schedule": "constant", "warm": False,
        "rpca tol": 1e-7, "levels": list(range(10, 100, 10)), "seeds": [0, 1, 2, 3, 4],
    },
}  # fmt: skip


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    plan = {**SCALES[scale], "latent_dim": 10, "batch_size": 100}
    faces = load("frey", root=root)
    # Levels and seeds name the cells: more of them can be added to those that are kept.
    cells = Cells(out / f"{NAME}.{scale}.cells", {k: v for k, v in plan.items() if k not in ("levels", "seeds")}, root)
    # The slowest first, so that the last process does not work alone at the end.
    methods = sorted(LABELS, key=lambda name: name not in SLOWEST)
    settings = [(name, level, seed) for name in methods for level in plan["levels"] for seed in plan["seeds"]]
    known: dict[str, Any] = {"scale": scale, "root": str(root)}
    found = compute(
        partial(cell, **known), settings, cells, desc=NAME,
        steps=lambda setting: 0 if setting[0] == "rpca" else plan["steps"], together=partial(together, **known),
    )  # fmt: skip
    training = {
        name: {str(level): [found[name, level, seed]["circles"] for seed in plan["seeds"]] for level in plan["levels"]}
        for name in LABELS
    }
    new = {kind: {n: [found[n, TEST_LEVEL, s][kind] for s in plan["seeds"]] for n in LABELS} for kind in NEW}
    result = {
        "settings": plan,
        "seconds": cells.seconds(),
        "levels": plan["levels"],
        "training mse": training,
        "new marks mse": new,
        "verdicts": verdicts(training, new),
    }
    shown = {name: found[name, TEST_LEVEL, plan["seeds"][0]]["shown"] for name in LABELS}
    path = record(out, NAME, scale, result, _figures(result, scale, shown, faces))
    cells.discard()
    return path


def cell(name: str, level: int, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train one method at one level; give its errors, and at the test level what it made of a few faces."""
    return together([(name, level, seed)], scale, root)[0]


def together(settings: Sequence[Setting], scale: str, root: str) -> list[dict[str, Any]]:
    """Train one method at many levels and from many seeds, as replicas; give of each what ``cell`` gives."""
    plan, faces = SCALES[scale], load("frey", root=root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = settings[0][0]
    dirty = [mark(faces, "circles", level, seed).x.to(device) for _, level, seed in settings]
    pairs: Sequence[Pair | None] = [None] * len(settings)
    if name != "rpca":
        pairs = train(name, dirty, [seed for *_, seed in settings], plan)
    return [_measured(pair, faces, setting, plan, device) for pair, setting in zip(pairs, settings, strict=True)]


def train(name: str, dirty: Sequence[Tensor], seeds: Sequence[int], plan: dict[str, Any]) -> list[Pair]:
    """Train one method on each of some data, the recycled ones from their trained base if the plan is warm."""
    arguments = {"latent_dim": 10, "hidden": plan["hidden"]}
    shared = {"arguments": [arguments] * len(seeds), "seeds": seeds, "schedule": plan["schedule"], "batch_size": 100}
    steps, lr = plan["steps"], plan["lr"]
    if name not in BASES:
        return trained_each(name, dirty, steps=steps, lr=lr, **shared)
    recycled = {**shared, "arguments": [arguments | RECYCLED | FULL_KL.get(name, {})] * len(seeds)}
    if not plan["warm"]:
        return trained_each(name, dirty, steps=steps, lr=lr / 2, **recycled)
    base = trained_each(BASES[name], dirty, steps=steps // 2, lr=lr, **shared)
    return trained_each(name, dirty, start=base, steps=steps - steps // 2, lr=lr / 2, **recycled)


def _measured(pair: Pair | None, faces: Dataset, setting: Setting, plan: dict[str, Any], device: str) -> dict[str, Any]:
    _, level, seed = setting
    value: dict[str, Any] = {"shown": {}}
    for kind in ("circles", *NEW) if level == TEST_LEVEL else ("circles",):
        dirty = mark(faces, kind, level, seed)
        x = dirty.x.to(device)
        cleaned = (rpca_clean(x, tol=plan["rpca tol"]) if pair is None else clean(pair, x, draws=2).mean).cpu()
        value[kind] = mse(cleaned, faces.x)
        if seed == plan["seeds"][0] and level == TEST_LEVEL:
            value["shown"][kind] = (255 * cleaned[columns(dirty)].clamp(0, 1)).round().int().tolist()
    return value


def mark(faces: Dataset, kind: str, level: int, seed: int) -> Corrupted:
    """Circles on a share of the faces, or a rectangle or a stripe on each."""
    spec, number = (f"circles:{level / 100}", 100 * seed + level) if kind == "circles" else (f"{kind}:1.0", seed + 1)
    return corrupt(faces.x, spec, shape=faces.shape, seed=number)


def columns(dirty: Corrupted) -> Tensor:
    """Ten marked faces, spread over the film."""
    marked = dirty.mask.any(1).nonzero().flatten()
    return marked[torch.linspace(0, len(marked) - 1, 10).long()]


def _figures(result: dict[str, Any], scale: str, shown: dict[str, Any], faces: Dataset) -> dict[str, Figure]:
    levels, seeds = result["levels"], result["settings"]["seeds"]
    title = f"{scale} scale, {result['settings']['steps']:,} steps, {len(seeds)} seeds"
    found = {
        LABELS[name]: [interval(values[str(level)]) for level in levels]
        for name, values in result["training mse"].items()
    }
    figures = {
        "curves": curves(
            levels,
            {name: [mean for mean, _, _ in points] for name, points in found.items()},
            titles=[f"Frey faces with dark circles ({title}, 95 % bands)"],
            xlabel="images with a circle (%)",
            ylabel="mean squared error against the clean faces",
            bands={name: [(low, high) for _, low, high in points] for name, points in found.items()},
        )
    }
    errors = {"circles": {n: v[str(TEST_LEVEL)] for n, v in result["training mse"].items()}, **result["new marks mse"]}
    for kind in errors:
        dirty = mark(faces, kind, TEST_LEVEL, seeds[0])
        labels = {name: f"{LABELS[name]}: {1000 * np.mean(errors[kind][name]):.1f}" for name in LABELS}
        rows = {"dirty": dirty.x[columns(dirty)]}
        rows |= {labels[name]: torch.as_tensor(images[kind]) / 255 for name, images in shown.items()}
        rows |= {"truth": faces.x[columns(dirty)]}
        what = f"{TEST_LEVEL} % have a circle" if kind == "circles" else f"{kind}, never seen in training"
        heading = f"Frey faces: {what} ({title}). Numbers: MSE x 1000"
        figures[kind] = image_rows(rows, faces.shape, title=heading, highlight=[labels[name] for name in ROBUST])
    return figures


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: one row per method, one column per level, and the new marks."""
    header = ["MSE x 1000", *(f"{level} %" for level in result["levels"]), *NEW]
    rows: list[list[object]] = []
    for name, values in result["training mse"].items():
        cells = [*values.values(), *(result["new marks mse"][kind][name] for kind in NEW)]
        rows.append([LABELS[name], *map(thousandths, cells)])
    return markdown_table(header, rows)


def thousandths(values: Sequence[float]) -> str:
    """Mean and half width of the 95 % interval, times a thousand.

    >>> thousandths([0.001, 0.002, 0.003])
    '2.00 ± 2.48'
    """
    mean, low, _ = interval(values)
    return f"{1000 * mean:.2f} ± {1000 * (mean - low):.2f}"
