"""New digits from clean and from fully dirty training data, and what the code space holds (S0 V-C, Fig. 7-11).

Protocol: MNIST, training images as they are, or with 40 % of the pixels replaced by uniform noise. From each seed (of
dirt, parameters, noise and samples alike) are trained: an l2-VAE; an iC-VAE; and, starting from that iC-VAE, three
pairs with a sixth of the steps more at a fifth of the learning rate, as in S0 App. B: the iC-VAE itself, so that the
comparison is fair, the RiC-VAE with N = 5 passes, whose KL term counts five times (S0 Eq. 22), and our default of it,
in which it counts once. A sample is mu(z) of z ~ N(0, I), sent through the model M - 1 times more; "RiC(N, M)". No
clean image and no label is used in training.

- Samples against *clean* test digits: Frechet distance, precision, recall, density, coverage in the hidden layer of a
  classifier that was trained on the clean training images (no FID: other features); total variation, which blur lowers
  and noise raises.
- Diversity: the distance of each sample to its nearest training image, as a histogram, beside that of real test
  images. (S0 measures the real ones among the training images; test images are as new as samples are.)
- Aggregated posterior: draws of q(z) = 1/n sum_i q(z | x_i), x_i the data the pair was trained on (S0 Eq. 25 writes
  the model's density in place of the data's). Mean and variance of each entry, distance of its quantiles to those of
  N(0, 1), scatter of two entries; and the same where x_i has gone through M = 5 passes first.

Scales: ``paper`` is S0's App. B (784-1000-500-250-30; 600,000 steps of batch 100, learning rate 0.0001, then 100,000
more; the optimiser is not stated: Adam). ``quick``: the first 12,000 images, pooled to 14 x 14, 196-256-128-30, 3000
steps at a learning rate of 0.001 falling to zero along a cosine, then 500 more; and the weight of the KL term rises
from 0 to its full one over the first half of the 3000 in both pairs, without which so few steps leave the iC-VAE half
trained. The KL term of the l2-VAE counts 1 / 4 there, since a sum of squares over 2 x 2 pooled images is about four
times smaller: with a whole one two of its codes are in use on clean digits, and none on dirty ones. (The iC-VAE's
likelihood has no unit: it finds a scale of its own.)
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.data import Dataset, corrupt
from pyro_vaes.evaluation.aggregated import aggregated
from pyro_vaes.evaluation.generation import Judge, frechet_distance, hidden_activations
from pyro_vaes.evaluation.neighbours import nearest_distances
from pyro_vaes.evaluation.normality import gap, mmd_to, moments, quantile_error, quantiles
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.generation_claims import COLOURS, edges, figures, table, verdicts
from pyro_vaes.experiments.judged import judge_of, pooled_images
from pyro_vaes.experiments.record import record
from pyro_vaes.experiments.training import train, trained, untrained
from pyro_vaes.inference.posterior import reconstruct, sample
from pyro_vaes.inference.recycled import Recycled
from pyro_vaes.inference.schedules import Linear
from pyro_vaes.inference.state import warm_start
from pyro_vaes.pair import Pair

__all__ = ["NAME", "SCALES", "reproduce", "table"]
NAME = "generation"
DIRT = {"clean": 0.0, "dirty": 0.4}
WORDS = {"clean": "clean training data", "dirty": "40 % of all training pixels replaced"}
# What samples are drawn with: the trained pair, and the passes M.
WAYS = {
    "l2-VAE": ("l2", 1), "iC-VAE": ("iC", 1), "RiC(1, 20)": ("iC", 20), "RiC(5, 1)": ("RiC", 1),
    "RiC(5, 5)": ("RiC", 5), "RiC(5, 20)": ("RiC", 20), "RiC(5, 1), KL / N": ("RiC / N", 1),
    "RiC(5, 20), KL / N": ("RiC / N", 20),
}  # fmt: skip
SHOWN_CODES = ("scatter", "normal", "quantiles")
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "limit": 12_000, "pool": 2, "hidden": [256, 128], "latent_dim": 30, "samples": 2000, "draws": 12_000,
        "steps": 3000, "warm-up": 1500, "more": 500, "batch_size": 100, "lr": 1e-3, "schedule": "cosine",
        "seeds": [0, 1, 2, 3, 4],
    },
    "paper": {
        "limit": 60_000, "pool": 1, "hidden": [1000, 500, 250], "latent_dim": 30, "samples": 10_000,
        "draws": 60_000, "steps": 600_000, "warm-up": 0, "more": 100_000, "batch_size": 100, "lr": 1e-4,
        "schedule": "constant", "seeds": [0, 1, 2, 3, 4],
    },
}  # fmt: skip
PASSES, RATE = 5, 1 / 5


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    settings = SCALES[scale]
    known: dict[str, Any] = {"scale": scale, "root": str(root)}
    data(**known)  # a missing data set is told before anything is written
    cells = Cells(out / f"{NAME}.{scale}.cells", {**settings, "ways": WAYS}, root)
    found = compute(
        partial(cell, **known),
        [(dirt, seed) for dirt in DIRT for seed in settings["seeds"]],
        cells,
        desc=NAME,
        steps=lambda _: 2 * settings["steps"] + 3 * settings["more"],
    )
    digits, held_out = data(**known)
    first = settings["seeds"][0]
    result: dict[str, Any] = {
        "settings": settings,
        "seconds": cells.seconds(),
        "features": judge(**known).digest,
        "real": {**judge(**known).real, "histogram": histogram(held_out.x, digits.x)},
        "median image": {dirt: median_image(dirt, **known) for dirt in DIRT},
        "samples": {
            dirt: {way: _by_seed([found[dirt, s]["samples"][way] for s in settings["seeds"]]) for way in WAYS}
            for dirt in DIRT
        },
        "codes": {
            dirt: {name: _by_seed([found[dirt, s]["codes"][name] for s in settings["seeds"]], skip=SHOWN_CODES)
                   for name in found[dirt, first]["codes"]}
            for dirt in DIRT
        },
        "first seed": {
            dirt: {name: {key: found[dirt, first]["codes"][name][key] for key in SHOWN_CODES} for name in COLOURS}
            for dirt in DIRT
        },
    }  # fmt: skip
    result["verdicts"] = verdicts(result)
    shown = {dirt: found[dirt, first]["shown"] for dirt in DIRT}
    path = record(out, NAME, scale, result, figures(result, scale, shown, digits, DIRT))
    cells.discard()
    return path


def _by_seed(values: list[dict[str, Any]], skip: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    return {key: [value[key] for value in values] for key in values[0] if key not in skip}


def cell(dirt: str, seed: int, *, scale: str, root: str) -> dict[str, Any]:
    """Train all pairs on one kind of data from one seed; measure their samples and their codes."""
    digits = data(scale, root)[0]
    x = corrupt(digits.x, f"impulse:{DIRT[dirt]}", shape=digits.shape, seed=seed).x
    pairs = trained_pairs(x, seed, SCALES[scale])
    judged = judge(scale, root)
    found: dict[str, Any] = {"samples": {}, "codes": {}, "shown": {}}
    for way, (name, passes) in WAYS.items():
        drawn = sample(pairs[name], SCALES[scale]["samples"], passes=passes, seed=seed)
        found["samples"][way] = {**judged(drawn), "histogram": histogram(drawn, digits.x)}
        found["shown"][way] = [[round(v, 2) for v in row] for row in drawn[:100].tolist()]
    for name in ("iC", "RiC", "RiC / N"):
        for passes in (0, PASSES):
            given = recycled(pairs[name], x, passes, seed)
            found["codes"][f"{name}, M = {passes}" if passes else name] = codes(pairs[name], given, seed, scale)
    return found


def trained_pairs(x: Tensor, seed: int, settings: dict[str, Any]) -> dict[str, Pair]:
    """Train the l2-VAE and the iC-VAE, and go on from the latter with and without recycling."""
    arguments = {key: settings[key] for key in ("latent_dim", "hidden")}
    plan: dict[str, Any] = {key: settings[key] for key in ("batch_size", "lr", "schedule")}
    if settings["warm-up"]:
        plan["schedules"] = {"beta": Linear(0.0, 1.0, settings["warm-up"])}
    # A sum of squares over pooled images is about pool^2 times smaller: the balance is that of whole ones.
    fair = 1 / settings["pool"] ** 2
    warm = {"schedules": {"beta": Linear(0.0, fair, settings["warm-up"])}} if settings["warm-up"] else {}
    balanced: dict[str, Any] = {**plan, **warm, "arguments": {**arguments, "beta": fair}}
    l2 = trained("l2_vae", x, seed=seed, steps=settings["steps"], **balanced)
    start = trained("indexed_ic_vae", x, seed=seed, arguments=arguments, **plan, steps=settings["steps"])
    plan.pop("schedules", None)
    plan |= {"lr": settings["lr"] * RATE, "steps": settings["more"]}
    pairs = {"l2": l2}
    for name, passes, beta in (("iC", 1, 1.0), ("RiC", PASSES, 1.0), ("RiC / N", PASSES, 1 / PASSES)):
        base = untrained("indexed_ic_vae", x.shape[1], {**arguments, "beta": beta}, seed)
        pair = Pair(base.model, base.guide, Recycled(base.objective, passes), range=base.range, name=name)
        warm_start(pair, start)
        pairs[name] = train(pair, x, seed=seed, **plan)
    return pairs


@cache
def data(scale: str, root: str) -> tuple[Dataset, Dataset]:
    """Give the clean training images, and as many test images as there will be samples."""
    return pooled_images("mnist", SCALES[scale], root)


@cache
def judge(scale: str, root: str) -> Judge:
    """Give the classifier that all cells are judged by."""
    return judge_of(*data(scale, root), neighbours=5)


def recycled(pair: Pair, x: Tensor, passes: int, seed: int) -> Tensor:
    """Send data through the model; after M passes the mean of the last is what the guide is given next."""
    if not passes:
        return x
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.cat([reconstruct(pair, part, passes=passes, draw=True)[0] for part in x.split(1000)])


def codes(pair: Pair, x: Tensor, seed: int, scale: str) -> dict[str, Any]:
    """Say how far the aggregated posterior of some data is from N(0, I)."""
    found = aggregated(pair, x, draws=SCALES[scale]["draws"], seed=seed)
    z = found.draws
    by = moments(z)
    # Two entries that carry something: two at random may both be noise.
    shown = found.activity.argsort(descending=True)[:2]
    normal, seen = quantiles(z)
    return {
        "mean": by.mean.tolist(), "variance": by.variance.tolist(), "used": found.used.tolist(),
        "quantile error": quantile_error(z).tolist(), "gap": gap(z), "mmd": mmd_to(z)[0],
        "scatter": [[round(v, 3) for v in row] for row in z[:600, shown].tolist()],
        "normal": [round(v, 4) for v in normal.tolist()],
        "quantiles": [[round(v, 3) for v in column] for column in seen[:, shown].T.tolist()],
    }  # fmt: skip


def histogram(x: Tensor, others: Tensor) -> dict[str, Any]:
    """Distances of images to the nearest of some others: counted in bins, the last open to the right; their mean."""
    near, bins = nearest_distances(x, others).numpy(), edges(x.shape[1])
    return {"counts": np.histogram(near.clip(max=bins[-1]), bins)[0].tolist(), "mean": float(near.mean())}


def median_image(dirt: str, scale: str, root: str) -> float:
    """Frechet distance of one image, the median of the training images, repeated: a model that generates nothing."""
    digits = data(scale, root)[0]
    x = corrupt(digits.x, f"impulse:{DIRT[dirt]}", shape=digits.shape, seed=0).x
    judged = judge(scale, root)
    image = x.median(0).values.expand(2, -1)
    return frechet_distance(hidden_activations(judged.classifier, image), judged.features)
