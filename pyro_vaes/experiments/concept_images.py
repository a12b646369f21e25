"""One concept and strangers: a stand-in for the image sets of S0 V-A and S1 5.1 (Table 1), which cannot be had.

The sources use 30 sets of about 500 images that a search engine returned, one set per concept, and report a mean F1
score of .826 for UOCL, .849 for DRAE and .874 for an affine iC-VAE. **This is not that data**: the numbers here cannot
be compared with those, only the order of the methods can. Protocol: 500 images of CIFAR-10, of which a share of 5, 10,
... 50 % are strangers, drawn from the nine other classes, and the rest is one class; every class is the concept once.
Every method sees the 500 images alone. The affine iC-VAE has kappa = d, so that it finds the dimension itself, and its
residuals are cut by the threshold of Xia et al. (2015); likewise its l2 analogue (Sigma_x = I) and DRAE. UOCL, the
Isolation Forest and the one-class SVM (nu = 0.1) decide by rules of their own, and by that threshold too.

Which class is the positive one, the sources do not say. UOCL and DRAE, whose numbers they repeat, call the inliers the
positive class, and a mean F1 near .85 is what inliers give: flagging nothing at all gives 2 p / (1 + p) for a share p
of inliers, .82 for p = .7. So the F1 score of the *inliers* is the one that the table of the sources speaks of; that of
the strangers stands beside it, and so does what flagging nothing gives. Average precision, which knows no threshold, is
that of the strangers.

Features, on which S0 is silent, twice: 64 principal components of the set's own pixels, and of its histograms of
oriented gradients (Dalal & Triggs 2005), both centred and divided by one number. Not by one per component: that would
whiten away the low-dimensional structure that the affine model looks for. ``reproduce`` takes any functions of a module
that map (n, 3072) pixels to (n, d) in their place.

Networks: encoders d-256-128, DRAE d-64-32-8, 0.001 falling along a cosine, batches of 128. The width of the outliers'
prior is 20 root mean squares. All fixed beforehand. Scales: ``quick`` is 500 steps, three shares, one draw, from
the test images; ``paper`` 3000 steps, six shares, five draws, from the training images.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_vaes.data import Dataset, load
from pyro_vaes.evaluation.drae import drae
from pyro_vaes.evaluation.one_class import isolation_forest, one_class_svm
from pyro_vaes.evaluation.plots import curves
from pyro_vaes.evaluation.uocl import uocl
from pyro_vaes.experiments.cells import Cells, Setting, compute
from pyro_vaes.experiments.image_features import FEATURES
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.stranger_methods import (
    Method,
    classical,
    collected,
    evaluate,
    evaluate_together,
    network,
    say,
)
from pyro_vaes.experiments.verdicts import interval, verdict
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import GaussianEncoder
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair

NAME = "outlier-concepts"
CONCEPTS = tuple(range(10))
PUBLISHED = {"uocl": 0.826, "drae": 0.849, "affine_ic_vae": 0.874}
HIDDEN = [256, 128]
Features = Mapping[str, Callable[[Tensor], Tensor]]


def affine_l2_vae(data_dim: int, hidden: Sequence[int] = (256, 128)) -> Pair:
    """p: z ~ N(0, I), x ~ N(W z + b, I) | q: N(mu_z(x), sigma_z(x)^2) | ELBO | the l2 analogue of ``affine_ic_vae``.

    >>> affine_l2_vae(4).name
    'affine_l2_vae'
    """
    model = LatentGaussian(StandardPrior(data_dim), nn.Linear(data_dim, data_dim), FixedScale(1.0))
    return Pair(model, AmortisedNormal(GaussianEncoder(data_dim, hidden, data_dim)), name="affine_l2_vae")


METHODS: dict[str, Method] = {
    "affine_ic_vae": network("affine iC-VAE", "affine_ic_vae", {"hidden": HIDDEN, "width": 20.0}),
    "affine_l2_vae": network("affine l2-VAE", affine_l2_vae, {"hidden": HIDDEN}),
    "drae": network("DRAE", drae, {"latent_dim": 8, "hidden": [64, 32], "output": nn.Identity}),
    "uocl": classical("UOCL", lambda x, seed: uocl(x)),
    "one_class_svm": classical("one-class SVM", lambda x, seed: one_class_svm(x)),
    "isolation_forest": classical("Isolation Forest", isolation_forest),
}
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 500, "seeds": [0], "shares": [10, 30, 50], "images": 500, "split": "test"},
    "paper": {
        "steps": 3000,
        "seeds": [0, 1, 2, 3, 4],
        "shares": [5, 10, 20, 30, 40, 50],
        "images": 500,
        "split": "train",
    },
}


def reproduce(out: Path, scale: str, root: Path, features: Features = FEATURES) -> Path:
    """Run the protocol and record its numbers and figure.

    Args:
        features: by name, functions of a module: (n, 3072) pixels in [0, 1] -> (n, d).
    """
    settings = {**SCALES[scale], "features": list(features), "batch_size": 128, "lr": 1e-3, "schedule": "cosine"}
    _images(str(root), settings["split"])  # data that are missing are reported before any work starts
    cells = Cells(out / f"{NAME}.{scale}.cells", settings, root)
    shares, seeds = settings["shares"], settings["seeds"]
    sets = list(product(CONCEPTS, seeds))
    plan: dict[str, Any] = {"scale": scale, "root": str(root), "features": features}
    found = compute(
        partial(cell, **plan),
        [(*group, share, *each) for group in product(METHODS, features) for share in shares for each in sets],
        cells,
        desc=NAME,
        steps=lambda setting: settings["steps"] if METHODS[setting[0]].network else 0,
        together=partial(together, **plan),
        group=lambda setting: setting[:2],
    )
    rows: list[dict[str, Any]] = [
        {
            "method": name,
            "features": of,
            "share": share,
            **collected([found[name, of, share, *each] for each in sets]),
        }
        for name, of, share in product(METHODS, features, shares)
    ]
    result: dict[str, Any] = {"settings": settings, "seconds": cells.seconds(), "published, other data": PUBLISHED}
    result |= {"concepts": list(CONCEPTS), "order": "concept, then seed", "rows": rows}
    result["verdicts"] = _verdicts(result)
    path = record(out, NAME, scale, result, {of: _figure(result, of, scale) for of in features})
    cells.discard()
    return path


def cell(
    name: str, of: str, share: int, concept: int, seed: int, *, scale: str, root: str, features: Features
) -> dict[str, float]:
    """Train one method on one set, and judge it."""
    x, stranger = draw(share, concept, seed, scale=scale, root=root)
    return evaluate(METHODS[name], features[of](x), stranger, seed, SCALES[scale]["steps"])[0]


def together(
    settings: Sequence[Setting], *, scale: str, root: str, features: Features, **plan: Any
) -> list[dict[str, float]]:
    """The cells of one method and one kind of features, their networks trained as replicas."""
    method, function = METHODS[settings[0][0]], features[settings[0][1]]
    drawn = [draw(*case, scale=scale, root=root) for _, _, *case in settings]
    data = [(function(x), stranger) for x, stranger in drawn]
    plan = {"device": "cuda", **plan}
    seeds = [setting[-1] for setting in settings]
    return [judged for judged, _ in evaluate_together(method, data, seeds, SCALES[scale]["steps"], **plan)]


def draw(share: int, concept: int, seed: int, *, scale: str, root: str) -> tuple[Tensor, Tensor]:
    """Images of one class and a share (in per cent) of others, shuffled: (n, 3072), and True (n,) for a stranger."""
    images, n = _images(root, SCALES[scale]["split"]), SCALES[scale]["images"]
    labels, strangers = torch.as_tensor(images.y), round(n * share / 100)
    generator = torch.Generator().manual_seed(1000 * seed + concept)
    ours, others = (labels == concept).nonzero().flatten(), (labels != concept).nonzero().flatten()
    chosen = [ours[torch.randperm(len(ours), generator=generator)[: n - strangers]]]
    chosen += [others[torch.randperm(len(others), generator=generator)[:strangers]]]
    rows = torch.cat(chosen)[torch.randperm(n, generator=generator)]
    return images.x[rows], labels[rows] != concept


@cache
def _images(root: str, split: str) -> Dataset:
    return load("cifar10", root=root, split=split)


def flag_nothing(share: int) -> float:
    """F1 score of the inliers if nothing is flagged, for a share of strangers in per cent.

    >>> round(flag_nothing(50), 3)
    0.667
    """
    inliers = 1 - share / 100
    return 2 * inliers / (1 + inliers)


def by_concept(result: dict[str, Any], name: str, of: str, key: str) -> np.ndarray:
    """A number of one method for each concept, averaged over shares and seeds: (10,)."""
    rows = [row[key] for row in result["rows"] if (row["method"], row["features"]) == (name, of)]
    return np.reshape(rows, (len(rows), len(CONCEPTS), -1)).mean((0, 2))


ORDER = [
    ("affine_ic_vae", "drae", "own inlier f1"), ("drae", "uocl", "own inlier f1"),
    ("affine_ic_vae", "uocl", "own inlier f1"), ("affine_ic_vae", "drae", "own f1"), ("drae", "uocl", "own f1"),
    ("affine_ic_vae", "affine_l2_vae", "average precision"),
]  # fmt: skip
WORDS = {"own inlier f1": "F1 of the inliers", "own f1": "F1 of the strangers", "average precision": "ranking (AP)"}


def _verdicts(result: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    nothing = np.mean([flag_nothing(share) for share in result["settings"]["shares"]])
    for of in result["settings"]["features"]:
        where = f"(stand-in, CIFAR-10 {of}; one gain per concept)"
        for better, worse, key in ORDER:
            gains = by_concept(result, better, of, key) - by_concept(result, worse, of, key)
            claim = f"{METHODS[better].label} > {METHODS[worse].label}: {WORDS[key]} {where}"
            found.append(
                verdict(claim, "ours" if worse == "affine_l2_vae" else "S0 Table I", list(gains), per="concepts")
            )
        gains = by_concept(result, "affine_ic_vae", of, "own inlier f1") - nothing
        found.append(
            verdict(f"affine iC-VAE > flagging nothing: F1 of the inliers {where}", "ours", list(gains), per="concepts")
        )
    return found


def _figure(result: dict[str, Any], of: str, scale: str) -> Figure:
    shares = result["settings"]["shares"]
    panels: dict[str, dict[str, Sequence[float]]] = {"own inlier f1": {}, "own f1": {}}
    bands: dict[str, list[tuple[float, float]]] = {}
    for blank, (key, lines) in zip(("", " "), panels.items(), strict=True):
        for name, method in METHODS.items():
            rows = [row for row in result["rows"] if (row["method"], row["features"]) == (name, of)]
            ends = [interval(np.reshape(row[key], (len(CONCEPTS), -1)).mean(1)) for row in rows]
            # Bands belong to names, and the panels share them: a blank tells those of the second one apart.
            lines[method.label + blank] = [mean for mean, _, _ in ends]
            bands[method.label + blank] = [(low, high) for _, low, high in ends]
    panels["own inlier f1"]["nothing flagged"] = [flag_nothing(share) for share in shares]
    how = f"{scale} scale, {result['settings']['steps']:,} steps, seeds {result['settings']['seeds']}"
    # Nothing comes near to zero there, where every method keeps most inliers.
    lowest = min(low for name, ends in bands.items() if not name.endswith(" ") for low, _ in ends)
    return curves(
        shares,
        panels["own inlier f1"],
        titles=[f"Ten CIFAR-10 concepts, {of}: F1 of the inliers", f"F1 of the strangers ({how})"],
        xlabel="strangers in the set (%)",
        ylabel="F1 score, nothing chosen with labels",
        bands=bands,
        bottoms=[max(0.0, min(0.4, lowest)), 0.0],
        strangers=panels["own f1"],
    )


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: means over concepts, shares and seeds, intervals over concepts."""
    header = [
        "features", "method", "inlier F1", "stranger F1", "inlier F1, common threshold",
        "stranger F1, common threshold", "average precision (labels)", "stranger F1, oracle (labels)",
    ]  # fmt: skip
    keys = ("own inlier f1", "own f1", "inlier f1", "f1", "average precision", "oracle f1")
    rows: list[list[object]] = [
        [of, METHODS[name].label, *(say(list(by_concept(result, name, of, key))) for key in keys)]
        for of in result["settings"]["features"]
        for name in METHODS
    ]
    shares = result["settings"]["shares"]
    nothing = f"{np.mean([flag_nothing(share) for share in shares]):.3f}"
    everything = f"{np.mean([flag_nothing(100 - share) for share in shares]):.3f}"
    chance = f"{np.mean(shares) / 100:.3f}"
    rows.append(["any", "nothing flagged (oracle: everything)", nothing, "0", nothing, "0", chance, everything])
    return markdown_table(header, rows)
