"""Images by the channel-recurrent family: reconstructions, samples, completions (S2 Fig. 2-5, S2-S7).

Protocol: every pair is trained on images in [0, 1] with N(mu, 0.1^2) and beta = 1, same trunk, same number of latent
entries, same rate, which falls to zero along a cosine; the adversarial pairs have the same beside a discriminator.
The paper's ratios are kept: a generator's loss 33 times as heavy as the KL (beta_D = .01 to alpha = .0003), and in
crVAE-GAN a KL of the last five of eight blocks that is two thirds as heavy (.0002), as in the authors' code.

Measured on images that were held out: the mean squared error of reconstructions; the Frechet distance of as many
samples to them, in 32 principal components of histograms of oriented gradients of the training images (no network and
no labels, so no FID: compare within a column only; ``data`` is what the training images themselves get); and the mean
squared error of hidden pixels when the right half, the eyes or the mouth of an image is hidden and the code is found by
Eq. 5 (sign corrected, gamma from the likelihood), without the discriminator and, for the right half, with it (tau = 1).
The mean image and the training image that is nearest in what is seen are there to compare with.

Scales: ``quick`` is the Frey faces (28 x 20, held out at random, so that neighbours in time are on both sides) and
CIFAR-10's birds (3 x 32 x 32), an eighth of the paper's filters and channels, few steps; ``paper`` is CelebA at 64 and
128 pixels with the paper's networks, where the data are there. CelebA's crop is the central 140 x 140 pixels; the paper
does not say its own. No flips. The Birds of the paper are three data sets under licences of their own: not reproduced.

Departs from the paper: its pictures are judged by eye; all numbers here are ours. See ``vae_gan`` for the discriminator
and ``complete`` for Eq. 5. Regions are cut at fixed shares of the image, also for birds, which have no eyes there.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.data import Dataset, load
from pyro_vaes.data.datasets import celeba
from pyro_vaes.data.hidden import hiding
from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.block_effects import block_effects
from pyro_vaes.evaluation.blocks import evolve, interpolate, interpolate_block, resample_block
from pyro_vaes.evaluation.generation import frechet_distance, nearest_distance
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.crvae_images_figures import figures
from pyro_vaes.experiments.image_features import gradients
from pyro_vaes.experiments.likelihoods import packed, spread
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import train, untrained
from pyro_vaes.experiments.verdicts import verdict
from pyro_vaes.inference.complete import complete
from pyro_vaes.inference.posterior import reconstruct, sample
from pyro_vaes.pair import Pair
from pyro_vaes.variants.empirical import with_empirical_prior

NAME = "crvae-images"
_SMALL = {"hidden": [4, 8, 16], "channels": 8, "units": 64, "discriminator": [4, 8, 8], "width": 32}
_FULL = {"hidden": None, "channels": 64, "units": 256, "discriminator": None, "width": 512}
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "data": ["frey", "birds"], "steps": 400, "batch_size": 32, "lr": 2e-3, "samples": 265, "completed": 24,
        "search": 30, "seeds": [0, 1, 2], **_SMALL,
    },
    "paper": {
        "data": ["celeba 64", "celeba 128"], "steps": 190_000, "batch_size": 128, "lr": 3e-4, "samples": 10_000,
        "completed": 500, "search": 200, "seeds": [0, 1, 2], **_FULL,
    },
}  # fmt: skip
METHODS = {
    "VAE": "conv_vae", "cVAE": "cvae_conv", "bcVAE": "bcvae", "crVAE": "crvae",
    "VAE-GAN": "vae_gan", "crVAE-GAN": "crvae_gan",
}  # fmt: skip
EMPIRICAL = "empirical cVAE"
COMPLETE = ("VAE", "crVAE", "VAE-GAN", "crVAE-GAN")
REGIONS = ("right", "eyes", "mouth")
SD, RATIO, HEAVY, SHOWN = 0.1, 33.0, (1.0, 1.0, 1.0, *[2 / 3] * 5), 8


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    plan = SCALES[scale]
    settings = {**plan, "methods": METHODS, "sd": SD, "ratio": RATIO, "heavy": list(HEAVY)}
    sizes = {name: [len(part.x) for part in images(name, scale, str(root))] for name in plan["data"]}
    cells = Cells(out / f"{NAME}.{scale}.cells", settings, root)
    found = compute(
        partial(cell, scale=scale, root=str(root)),
        [(name, method, seed) for seed in plan["seeds"] for name in plan["data"] for method in reversed(METHODS)],
        cells,
        desc=NAME,
        steps=lambda _: plan["steps"],
    )
    result: dict[str, Any] = {
        "settings": {**settings, "images": sizes},
        "seconds": cells.seconds(),
        "data": {name: references(name, scale, str(root)) for name in plan["data"]},
        "rows": rows_of(found, plan),
        "pictures": {
            name: {method: found[name, method, plan["seeds"][0]]["pictures"] for method in METHODS}
            for name in plan["data"]
        },
    }
    result["verdicts"] = [v for name in plan["data"] for v in verdicts(result["rows"], name)]
    path = record(out, NAME, scale, result, figures(result, scale))
    cells.discard()
    return path


def rows_of(found: dict[Any, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per data set and method, a list over seeds for every measure."""
    rows = []
    for name in plan["data"]:
        for method in ("VAE", "cVAE", EMPIRICAL, *list(METHODS)[2:]):
            source = "cVAE" if method == EMPIRICAL else method
            each = [found[name, source, seed]["measures"][method] for seed in plan["seeds"]]
            rows.append({"data": name, "row": method, **{key: [one[key] for one in each] for key in each[0]}})
    return rows


def images(name: str, scale: str, root: str) -> tuple[Dataset, Dataset]:
    """Training images and held-out ones.

    Raises:
        InputError: if they are not there.
    """
    samples = SCALES[scale]["samples"]
    if name == "frey":
        faces = load("frey", root=root)
        order = torch.randperm(len(faces.x), generator=torch.Generator().manual_seed(0))
        train, test = (Dataset(name, faces.x[rows], faces.shape) for rows in (order[:-samples], order[-samples:]))
        return train, test
    if name == "birds":
        return birds(root, "train"), Dataset(name, birds(root, "test").x[:samples], (3, 32, 32))
    if name.startswith("celeba "):
        side = int(name.split()[1])
        parts = (
            celeba(Path(root), split, limit, False, side) for split, limit in (("train", None), ("valid", samples))
        )
        train, test = (Dataset(name, x, shape, y) for x, shape, y in parts)
        return train, test
    raise InputError(f"{NAME} has no images {name!r}")


def birds(root: str, split: str) -> Dataset:
    """CIFAR-10's birds, from their folder where there is one: the other classes need not be read."""
    folder = Path(root) / "cifar10" / split / "bird"
    if folder.is_dir():
        return load(folder)
    every = load("cifar10", root=root, split=split)
    assert every.y is not None
    return Dataset("birds", every.x[every.y == 2], every.shape)


def arguments(method: str, data: Dataset, scale: str) -> dict[str, Any]:
    """The arguments of a method's variant; the code has so many channels on a grid that is an eighth of the image."""
    plan, variant = SCALES[scale], METHODS[method]
    shape = data.shape if len(data.shape) == 3 else (1, *data.shape)
    halvings = len(plan["hidden"]) if plan["hidden"] else 0
    cells = [-(-side // 2**halvings) for side in shape[1:]] if halvings else [4, 4]
    found: dict[str, Any] = {"shape": shape, "hidden": plan["hidden"], "sd": SD}
    found["latent_dim"] = plan["channels"] * cells[0] * cells[1]
    if "crvae" in variant:
        found["units"] = plan["units"]
    if "gan" in variant:
        found |= {"discriminator_filters": plan["discriminator"], "discriminator_hidden": plan["width"]}
        found["weight"] = RATIO
    if variant == "crvae_gan":
        found["beta"] = list(HEAVY)
    return found


def cell(name: str, method: str, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train one pair from one seed and measure it; pictures of the first seed only."""
    plan, (train_set, test_set) = SCALES[scale], images(name, scale, root)
    x = train_set.x.to("cuda" if torch.cuda.is_available() else "cpu")
    pair = untrained(METHODS[method], x.shape[1], arguments(method, train_set, scale), seed)
    how = {"steps": plan["steps"], "batch_size": plan["batch_size"], "lr": plan["lr"], "seed": seed}
    pair = train(pair, x, **how).cpu().eval()
    pairs = {method: pair}
    if method == "cVAE":
        pairs[EMPIRICAL] = with_empirical_prior(pair, train_set.x, channels=plan["channels"], seed=seed)
    features = Features(train_set)
    found = {label: measures(one, test_set, features, plan, seed) for label, one in pairs.items()}
    if method in COMPLETE:
        found[method] |= completed(pair, test_set, plan, seed)
    first = seed == plan["seeds"][0]
    return {"measures": found, "pictures": pictures(pairs, method, test_set, plan) if first else {}}


class Features:
    """32 principal components of histograms of oriented gradients, fitted to the training images."""

    def __init__(self, train: Dataset):
        from sklearn.decomposition import PCA

        self.shape = train.shape
        seen = gradients(train.x[:5000], self.shape).numpy()
        self.pca = PCA(min(32, *seen.shape), svd_solver="full").fit(seen)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.pca.transform(gradients(x, self.shape).numpy()))


def measures(pair: Pair, test: Dataset, features: Features, plan: dict[str, Any], seed: int) -> dict[str, float]:
    """Reconstructions and samples against held-out images."""
    drawn = sample(pair, len(test.x), seed=seed)
    return {
        "reconstruction": (reconstruct(pair, test.x)[0] - test.x).square().mean().item(),
        "frechet": frechet_distance(features(drawn), features(test.x)),
        "apart": nearest_distance(drawn),
    }


def completed(pair: Pair, test: Dataset, plan: dict[str, Any], seed: int) -> dict[str, float]:
    """The squared error of hidden pixels, region by region."""
    x, found = test.x[: plan["completed"]], dict[str, float]()
    for region in REGIONS:
        found[region] = _hidden_error(pair, x, hiding(region, test.shape), plan, seed, 0.0)
    if hasattr(pair.objective, "discriminator"):
        found["right, tau = 1"] = _hidden_error(pair, x, hiding("right", test.shape), plan, seed, 1.0)
    return found


def _hidden_error(pair: Pair, x: Tensor, mask: Tensor, plan: dict[str, Any], seed: int, tau: float) -> float:
    made = complete(pair, x, mask, steps=plan["search"], restarts=2, tau=tau, seed=seed).mean
    return (made - x)[:, mask == 0].square().mean().item()


def references(name: str, scale: str, root: str) -> dict[str, float]:
    """What needs no training: the training images' own distance, and the mean and the nearest image as completions."""
    train_set, test = images(name, scale, root)
    features, x = Features(train_set), test.x[: SCALES[scale]["completed"]]
    spread_out = torch.linspace(0, len(train_set.x) - 1, len(test.x)).long()
    found = {"frechet": frechet_distance(features(train_set.x[spread_out]), features(test.x))}
    found["apart"] = nearest_distance(test.x)
    for region in REGIONS:
        mask = hiding(region, test.shape).bool()
        nearest = torch.cdist(x[:, mask], train_set.x[:, mask]).argmin(1)
        hidden = x[:, ~mask]
        found[f"{region}: mean image"] = (train_set.x.mean(0)[~mask] - hidden).square().mean().item()
        found[f"{region}: nearest image"] = (train_set.x[nearest][:, ~mask] - hidden).square().mean().item()
    return found


def pictures(pairs: dict[str, Pair], method: str, test: Dataset, plan: dict[str, Any]) -> dict[str, Any]:
    """Everything that the figures show of one method, as text."""
    pair, x = pairs[method], test.x[:SHOWN]
    found: dict[str, Any] = {"truth": packed(x), "reconstructed": packed(reconstruct(pair, x)[0])}
    found["samples"] = {label: packed(sample(one, 4 * SHOWN, seed=1)[:SHOWN]) for label, one in pairs.items()}
    if method in COMPLETE:
        made = [complete(pair, x[:4], hiding(r, test.shape), steps=plan["search"], restarts=2).mean for r in REGIONS]
        found["completed"] = {region: packed(one) for region, one in zip(REGIONS, made, strict=True)}
    if "GAN" in method:
        found["interpolated"] = packed(interpolate(pair, x[:4], 7, seed=1).flatten(0, 1))
    if method == "crVAE-GAN":
        found["evolved"] = packed(evolve(pair, 6, seed=1).flatten(0, 1))
        found["moved"] = {t: packed(interpolate_block(pair, t, 8, 3, seed=1).flatten(0, 1)) for t in (1, 4, 8)}
        found["styles"] = {t: packed(resample_block(pair, t, 7, 3, seed=1).flatten(0, 1)) for t in (1, 4, 8)}
    if method in ("crVAE", "crVAE-GAN", "bcVAE"):
        effects = block_effects(pair, 256, shape=test.shape, seed=1)
        assert effects.coarse is not None
        found["effects"] = {"share": effects.share.tolist(), "coarse": effects.coarse.tolist()}
    return found


def verdicts(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Judge the paper's claims on one data set, seed by seed: smaller is better for all of them."""
    by = {row["row"]: row for row in rows if row["data"] == name}
    claims = [
        ("cVAE reconstructs better than the VAE", "reconstruction", "cVAE", "VAE", "Fig. 2"),
        ("cVAE's samples are worse than the VAE's", "frechet", "VAE", "cVAE", "Fig. 2"),
        ("an empirical prior improves cVAE's samples", "frechet", EMPIRICAL, "cVAE", "Fig. 2"),
        ("bcVAE's samples are better than cVAE's", "frechet", "bcVAE", "cVAE", "Fig. 2"),
        ("crVAE reconstructs better than the VAE", "reconstruction", "crVAE", "VAE", "Fig. 2"),
        ("crVAE's samples are better than the VAE's", "frechet", "crVAE", "VAE", "Fig. 2"),
        ("crVAE's samples are better than bcVAE's", "frechet", "crVAE", "bcVAE", "Fig. 2"),
        ("crVAE-GAN's samples are better than VAE-GAN's", "frechet", "crVAE-GAN", "VAE-GAN", "4.2, Fig. 3"),
        *[
            (f"crVAE-GAN completes the {part} better than VAE-GAN", key, "crVAE-GAN", "VAE-GAN", "4.3, Fig. 4")
            for key, part in (("right", "right half"), ("eyes", "eyes"), ("mouth", "mouth"))
        ],
    ]
    return [
        verdict(f"{name}: {claim}", f"S2 {where}", list(np.subtract(by[worse][key], by[better][key])))
        for claim, key, better, worse, where in claims
    ]


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    keys = ["reconstruction", "frechet", "apart", *REGIONS, "right, tau = 1"]
    lines: list[list[object]] = []
    for name, reference in result["data"].items():
        for row in (row for row in result["rows"] if row["data"] == name):
            cells = [
                spread([v * (1000 if _error(key) else 1) for v in row[key]]) if key in row else "-" for key in keys
            ]
            lines.append([name, row["row"], *cells])
        lines.append([name, "data", "-", f"{reference['frechet']:.2f}", f"{reference['apart']:.2f}", *["-"] * 4])
        for what in ("mean image", "nearest image"):
            errors = [f"{1000 * reference[f'{region}: {what}']:.2f}" for region in REGIONS]
            lines.append([name, what, "-", "-", "-", *errors, "-"])
    header = (
        "images, method, reconstruction, Frechet distance, samples apart, right half, eyes, mouth, right half tau = 1"
    )
    settings = result["settings"]
    end = (
        "Reconstruction and completion are mean squared errors times 1000, of held-out images; the Frechet distance is "
        "in features of gradients, of as many samples as held-out images; apart is the mean distance of a sample to "
        f"the nearest other one. {len(settings['seeds'])} seeds with the half width of their 95 % interval, "
        f"{settings['steps']} steps of {settings['batch_size']}."
    )
    return f"{markdown_table(header.split(', '), lines)}\n\n{end}"


def _error(key: str) -> bool:
    return key not in ("frechet", "apart")
