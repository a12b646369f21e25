"""The Gaussian VAE of the course report on Frey faces: its bound, and what its squashed variance costs (S4 4.1, 5).

Protocol: 1965 faces of 28 x 20 pixels in [0, 1], a tenth of them, drawn by the seed, held out. ``gaussian_vae`` with
one layer of 200 tanh units and 2, 5, 10 or 20 latent dimensions, batches of 100, one draw per datum, Adagrad without
weight decay at a constant rate: that of 0.1, 0.01 and 0.02 with the best bound on a tenth of the training faces after
some epochs on the others. Then the network is trained anew on all training faces. The figure is the negative bound on
the held-out faces, in nats per face, the mean of ten draws of the code of each; beside it stands -log p(x) by 500
importance samples, with the share of faces whose k-hat is above 0.7. A cell is (head, latent dimensions,
seed), and the seed is that of split, parameters and noise alike, so that settings are compared in pairs.

Two heads for sigma(z): ``course_report``, log sigma^2 = tanh(.), as the report's "tanh for the variance" can be read;
its negative bound is at least 280 (ln 2 pi - 1) = 234.61, which lies just under the published values; and ``softplus``
plus 0.01, the default of the library. The bounds of both bound the density of the same data, and can be compared. The
report does not say how faces are held out (frames of one film resemble their neighbours, and a random tenth has them in
training), nor whether mean and variance share their hidden layer: here they do not.

Scales: ``paper`` is 50 epochs to pick the rate and 3000 to train, five seeds; ``quick`` 30 and 150, three seeds.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import load
from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.plots import NEUTRAL, curves, image_rows
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained
from pyro_vaes.experiments.verdicts import interval, verdict
from pyro_vaes.inference.guard import Diverged
from pyro_vaes.inference.likelihood import log_likelihood
from pyro_vaes.inference.posterior import bound, reconstruct, sample
from pyro_vaes.pair import Pair

NAME = "frey-bound"
SOURCE = "S4 5"
HEADS = ("course_report", "softplus")
LATENT = (2, 5, 10, 20)
PUBLISHED = {2: 236.67, 5: 241.69, 10: 243.72, 20: 245.74}
SMALLEST = 280 * (math.log(2 * math.pi) - 1)
RATES = (0.1, 0.01, 0.02)
SHOWN, COLUMNS, SAMPLES = 5, 10, 500
KEYS = ("lr", "negative bound", "nll", "k-hat", "sigma")
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"pick epochs": 30, "epochs": 150, "seeds": [0, 1, 2]},
    "paper": {"pick epochs": 50, "epochs": 3000, "seeds": [0, 1, 2, 3, 4]},
}


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    plan = SCALES[scale]
    faces = load("frey", root=root)
    cells = Cells(out / f"{NAME}.{scale}.cells", {k: v for k, v in plan.items() if k != "seeds"}, root)
    settings = [(head, latent, seed) for head in HEADS for latent in LATENT for seed in plan["seeds"]]
    pick, train = _steps(len(faces.x) - len(faces.x) // 10, plan)
    found = compute(
        partial(cell, plan=plan, root=str(root)), settings, cells, desc=NAME, steps=lambda _: len(RATES) * pick + train,
    )  # fmt: skip
    seeds = plan["seeds"]
    rows = [
        {
            "head": head, "latent": latent, "published": PUBLISHED[latent] if head == "course_report" else None,
            **{key: [found[head, latent, seed][key] for seed in seeds] for key in KEYS},
        }
        for head in HEADS for latent in LATENT
    ]  # fmt: skip
    result = {
        "settings": plan,
        "seconds": cells.seconds(),
        "smallest possible with course_report": SMALLEST,
        "rows": rows,
        "verdicts": verdicts(rows),
    }
    shown = {head: found[head, SHOWN, seeds[0]]["shown"] for head in HEADS}
    path = record(out, NAME, scale, result, _figures(result, scale, shown, faces.shape))
    cells.discard()
    return path


def cell(head: str, latent: int, seed: int, plan: dict[str, Any], root: str) -> dict[str, Any]:
    """Pick a rate, train, and measure on the held-out faces."""
    train, held_out = split(load("frey", root=root).x, seed)
    arguments = {"latent_dim": latent, "hidden": (200,), "head": head}
    pair, lr = fitted(train, arguments, seed, plan)
    value: dict[str, Any] = {
        "lr": lr,
        "negative bound": -float(np.mean([bound(pair, held_out, seed=draw) for draw in range(10)])),
        "sigma": _sigma(pair, held_out),
    }
    estimate = log_likelihood(pair, held_out, samples=SAMPLES, seed=seed)
    value |= {"nll": -estimate.mean, "k-hat": estimate.unreliable}
    if latent == SHOWN and seed == plan["seeds"][0]:
        images = {
            "held out": held_out[:COLUMNS],
            "reconstructed": reconstruct(pair, held_out[:COLUMNS])[0],
            "generated": sample(pair, COLUMNS, seed=seed),
        }
        value["shown"] = {name: (255 * x.clamp(0, 1)).round().int().tolist() for name, x in images.items()}
    return value


def split(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Give nine tenths and one tenth, drawn by the seed.

    >>> [len(part) for part in split(torch.zeros(1965, 2), seed=0)]
    [1769, 196]
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[len(x) // 10 :]], x[order[: len(x) // 10]]


def fitted(train: Tensor, arguments: dict[str, Any], seed: int, plan: dict[str, Any]) -> tuple[Pair, float]:
    """Train with the rate that is best on a part of the training data; where it diverges later, with the next best."""
    part, validation = split(train, seed + 1)
    pick, steps = _steps(len(train), plan)
    options: dict[str, Any] = {"arguments": arguments, "seed": seed, "batch_size": 100, "schedule": "constant"}
    options["optimiser"] = "adagrad"
    tried: dict[float, float] = {}
    for lr in RATES:
        try:
            tried[lr] = bound(trained("gaussian_vae", part, steps=pick, lr=lr, **options), validation)
        except Diverged:
            continue
    for lr in sorted(tried, key=lambda rate: -tried[rate]):
        try:
            return trained("gaussian_vae", train, steps=steps, lr=lr, **options), lr
        except Diverged:
            continue
    raise InputError(f"{NAME}: {arguments} diverges at every rate of {RATES}")


def _steps(train: int, plan: dict[str, Any]) -> tuple[int, int]:
    """Steps of one training that tries a rate, and of the training itself, on so many faces."""
    part = train - train // 10
    return math.ceil(part / 100) * plan["pick epochs"], math.ceil(train / 100) * plan["epochs"]


def _sigma(pair: Pair, x: Tensor) -> float:
    """The median of sigma(z) over pixels and faces, at the mean of the code."""
    model: Any = pair.model
    guide: Any = pair.guide
    with torch.no_grad():
        return float(model.scale(guide.encoder(x)[0]).median())


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judge the claims, which were written down before any run of the protocol; one difference per seed."""
    found = {(row["head"], row["latent"]): np.asarray(row["negative bound"]) for row in rows}
    report = np.stack([found["course_report", latent] for latent in LATENT])
    softplus = np.stack([found["softplus", latent] for latent in LATENT])
    published = np.array([PUBLISHED[latent] for latent in LATENT])[:, None]
    claims = {
        "the report's -ELBO worsens with N_z: larger at 20 than at 2": report[-1] - report[0],
        "the report's -ELBO worsens at every step of N_z: the smallest of the three": np.diff(report, axis=0).min(0),
        "the report's values are reached: -ELBO at most the published one, at the worst N_z": (published - report).min(
            0
        ),
    }
    judged = [verdict(claim, SOURCE, gains.tolist()) for claim, gains in claims.items()]
    cost = (report - softplus).min(0)
    return [*judged, verdict("the tanh head costs nats against softplus + 0.01, at every N_z", "ours", cost.tolist())]


def _figures(
    result: dict[str, Any], scale: str, shown: dict[str, dict[str, Any]], shape: tuple[int, ...]
) -> dict[str, Figure]:
    lines = {(row["head"], row["latent"]): interval(row["negative bound"]) for row in result["rows"]}
    means = {head: [lines[head, latent][0] for latent in LATENT] for head in HEADS}
    bands = {head: [lines[head, latent][1:] for latent in LATENT] for head in HEADS}
    title = f"{scale} scale, {result['settings']['epochs']:,} epochs, {len(result['settings']['seeds'])} seeds"
    lowest = min(low for low, _ in bands["softplus"])
    figure = curves(
        LATENT,
        {"tanh head": means["course_report"], "published (S4)": list(PUBLISHED.values())},
        titles=[f"The report's head ({title}, 95 % bands)", "Softplus + 0.01: another scale"],
        xlabel="latent dimensions",
        ylabel="negative bound on held-out faces (nats)",
        bands={"tanh head": bands["course_report"], "softplus + 0.01": bands["softplus"]},
        bottoms=[SMALLEST - 1, lowest - 0.1 * abs(lowest)],
        softplus={"softplus + 0.01": means["softplus"]},
    )
    ax = figure.axes[0]
    ax.axhline(SMALLEST, color=NEUTRAL, linewidth=1, linestyle=":")
    ax.annotate(
        f"smallest possible: {SMALLEST:.2f}", (LATENT[0], SMALLEST), (6, 4), textcoords="offset points", fontsize=8,
        color=NEUTRAL,
    )  # fmt: skip
    pictures = {"held out": torch.tensor(shown[HEADS[0]]["held out"]) / 255}
    for kind in ("reconstructed", "generated"):
        pictures |= {f"{kind}, {head}": torch.tensor(shown[head][kind]) / 255 for head in HEADS}
    faces = image_rows(pictures, shape, title=f"Frey faces, {SHOWN} latent dimensions ({title})")
    return {"curve": figure, "faces": faces}


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: a row per head and number of latent dimensions."""
    header = ["head of sigma", "N_z", "-ELBO", "published (S4)", "smallest possible", "-log p(x), k-hat > 0.7", "sigma"]
    rows: list[list[object]] = []
    for row in result["rows"]:
        mean, low, _ = interval(row["negative bound"])
        report = row["head"] == "course_report"
        rows.append([
            row["head"], row["latent"], f"{mean:.2f} ± {mean - low:.2f}", row["published"] if report else "",
            f"{SMALLEST:.2f}" if report else "", f"{np.mean(row['nll']):.2f}, {np.mean(row['k-hat']):.0%}",
            f"{np.mean(row['sigma']):.3f}",
        ])  # fmt: skip
    for cells in rows:
        cells[3] = f"{cells[3]:.2f}" if isinstance(cells[3], float) else cells[3]
    return markdown_table(header, rows)
