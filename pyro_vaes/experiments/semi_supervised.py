"""Few labels: a discriminator that classifies, with an autoencoder, a VAE or a crVAE as the generator (S2 4.5).

Protocol: all images train generator and discriminator, a few of them with their label; the figure is the accuracy of
the discriminator's class head on test images, in per cent. A cell is (generator, fold): a fold is a draw of the
labelled images, and its number the seed of parameters, order and noise too. Generators: a deterministic autoencoder, a
VAE and a crVAE, with the same filters and number of codes; and none, that is, the same network trained on the labelled
images alone, which the images without a label have to improve on. The weights are S2's (alpha = 1e-4, beta = 1e-3),
all fakes are reconstructions, and the crVAE's learning rate is S2's, 0.002; that of the other two is 0.001, and so is
the discriminator's, whatever the generator. Labelled images are repeated so that half of the rows has a label; the
network without a generator takes as many steps, with that half as its batch.

Beside the accuracy: the error of the reconstructions of test images, and how often the discriminator still tells images
from reconstructions at the end of training, where half is not at all. Both are part of no claim.

Claims, written down before any run of the protocol: S2's order crVAE > VAE > autoencoder, and each of the three is
above the labelled images alone; differences are paired by fold.

Departs from S2, which leaves most of the protocol to Denton, Gross & Fergus (2016): at ``paper`` scale images of
64 x 64 (96 x 96 reduced by averaging), since 2048 codes are 128 channels on a grid of 4 x 4; a VGG trunk of our own
size; a learning rate that falls to zero by a cosine; no augmentation; both players step at once. Nothing was chosen by
an accuracy.

Scales: ``quick`` is a **stand-in**, part of CIFAR-10, reduced to 16 x 16, five draws of the labels and small networks.
It says nothing about STL-10, and is never shown beside accuracies on STL-10. ``paper`` is STL-10: its 100,000 images
without a label, its ten folds of 1000 labelled ones, its 8000 test images, 2048 codes, T = 8. It needs the data, a GPU
and 32 GB of memory, and only there the published accuracies are in the table.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from pyro_vaes.data import load
from pyro_vaes.data.labels import few_labels
from pyro_vaes.evaluation.plots import NEUTRAL
from pyro_vaes.experiments.cells import Cells, Setting, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import run, untrained
from pyro_vaes.experiments.verdicts import interval, verdict
from pyro_vaes.experiments.weak_labels import accuracy_of, alone, repeated
from pyro_vaes.inference.guard import as_batch
from pyro_vaes.inference.posterior import reconstruct

NAME = "semi-supervised"
SOURCE = "S2 4.5"
ALONE, AE, VAE, CRVAE = "alone", "ae", "vae", "crvae"
ARMS = {CRVAE: "crVAE", VAE: "VAE", AE: "deterministic autoencoder", ALONE: "none: labelled images alone"}
#: Accuracy in per cent on STL-10, and on nothing else: S2, Table 2.
PUBLISHED = {
    "published, STL-10: crVAE": 75.86, "published, STL-10: VAE": 74.91,
    "published, STL-10: deterministic autoencoder": 73.81, "published, STL-10: SWWAE": 74.33,
    "published, STL-10: Exemplar CNN": 75.40, "published, STL-10: unsupervised pre-training": 70.40,
}  # fmt: skip
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "data": "cifar10", "side": 16, "images": 8000, "labels": 500, "test": 4000, "seeds": [0, 1, 2, 3, 4],
        "latent_dim": 256, "hidden": [16, 32], "blocks": 8, "units": 64, "filters": [16, 32, 64], "layers": 1,
        "sd": 0.1, "steps": 400, "batch_size": 64, "share": 0.5, "lr": 1e-3, "crvae lr": 2e-3,
    },
    "paper": {
        "data": "stl10", "side": 64, "images": None, "labels": 1000, "test": None, "seeds": list(range(10)),
        "latent_dim": 2048, "hidden": [32, 64, 128, 128], "blocks": 8, "units": 256, "filters": [64, 128, 256, 512],
        "layers": 2, "sd": 0.1, "steps": 100_000, "batch_size": 128, "share": 0.5, "lr": 1e-3, "crvae lr": 2e-3,
    },
}  # fmt: skip
#: Test images whose reconstructions are measured.
MEASURED = 2000


class Images(NamedTuple):
    """What a cell is trained and measured on; -1 is no label."""

    x: Tensor
    y: Tensor
    test: Tensor
    truth: Tensor
    shape: tuple[int, ...]


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figure."""
    plan = SCALES[scale]
    load(plan["data"], root=root, limit=1)  # says that the data are missing before any work starts
    cells = Cells(out / f"{NAME}.{scale}.cells", {k: v for k, v in plan.items() if k != "seeds"}, root)
    settings: list[Setting] = [(arm, fold) for arm in ARMS for fold in plan["seeds"]]
    found = compute(
        partial(cell, plan=plan, root=str(root)), settings, cells, desc=NAME,
        steps=lambda setting: 0 if setting[0] == ALONE else plan["steps"],
        together=partial(in_turn, plan=plan, root=str(root)), group=lambda setting: setting,
    )  # fmt: skip
    measured = {
        arm: {what: [found[arm, fold][what] for fold in plan["seeds"]] for what in found[arm, plan["seeds"][0]]}
        for arm in ARMS
    }
    accuracy = {arm: values["accuracy"] for arm, values in measured.items()}
    result = {"settings": plan, "seconds": cells.seconds(), "measured": measured, "verdicts": verdicts(accuracy)}
    result |= {"published": PUBLISHED} if plan["data"] == "stl10" else {}
    path = record(out, NAME, scale, result, {"accuracy": accuracy_figure(result, scale)})
    cells.discard()
    return path


def cell(arm: str, fold: int, plan: dict[str, Any], root: str) -> dict[str, float]:
    """Train with one draw of labels; give the accuracy on test images in per cent, and what is seen beside it."""
    images = images_of(fold, plan, root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = untrained(*generator(arm, images, plan), fold).to(device)
    objective: Any = pair.objective
    known, test, truth = images.y >= 0, images.test.to(device), images.truth.to(device)
    if arm == ALONE:
        x, y = as_batch(images.x[known]).to(device), images.y[known].to(device)
        batch = round(plan["share"] * plan["batch_size"])
        alone(Classes(objective.network), x, y, plan["steps"], plan["lr"], fold, batch)
        return {"accuracy": accuracy_of(pair, test, truth)}
    rows = repeated(images.y, plan["share"])
    x, y = torch.cat([images.x, images.x[rows]]), torch.cat([torch.full_like(images.y, -1), images.y[rows]])
    history = run(pair, x, y, steps=plan["steps"], batch_size=plan["batch_size"], lr=rate(arm, plan), seed=fold,
                  device=device)  # fmt: skip
    error = [(part - reconstruct(pair, part)[0]).square().mean() for part in test[:MEASURED].split(500)]
    last = history.rows[-max(1, len(history.rows) // 10) :]
    return {
        "accuracy": accuracy_of(pair, test, truth),
        "error": torch.stack(error).mean().sqrt().item(),
        "told apart": 100 * float(np.mean([row["seen"]["accuracy"] for row in last])),
    }


def in_turn(settings: Sequence[Setting], plan: dict[str, Any], root: str) -> list[dict[str, float]]:
    """Cells on a GPU, one after another: the images of one fill much of a machine's memory."""
    return [cell(arm, fold, plan, root) for arm, fold in settings]


def rate(arm: str, plan: dict[str, Any]) -> float:
    """The learning rate of p and q."""
    return plan["crvae lr"] if arm == CRVAE else plan["lr"]


def generator(arm: str, images: Images, plan: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
    """Name variant, entries per datum and arguments; that of no generator is a VAE's discriminator.

    The discriminator learns at the plan's rate in all arms: ``rate`` is relative to the generator's.
    """
    arguments = {key: plan[key] for key in ("latent_dim", "hidden", "filters", "layers", "sd")}
    arguments |= {"shape": images.shape, "rate": plan["lr"] / rate(arm, plan)}
    arguments |= {key: plan[key] for key in ("blocks", "units")} if arm == CRVAE else {}
    return f"{VAE if arm == ALONE else arm}_classifier", images.x.shape[1], arguments


def images_of(fold: int, plan: dict[str, Any], root: str) -> Images:
    """Read the images of a fold: those of STL-10 in its own, those of other data in draws of the labels."""
    name, stl = plan["data"], plan["data"] == "stl10"
    data = load(name, root=root, split="unlabeled" if stl else "train", limit=plan["images"])
    test = load(name, root=root, split="test", limit=plan["test"])
    assert test.y is not None
    (x, shape), (others, _) = (reduced(d.x, d.shape, plan["side"]) for d in (data, test))
    if not stl:
        assert data.y is not None
        return Images(x, few_labels(data.y, plan["labels"], fold), others, test.y, shape)
    few = load(name, root=root, split=f"fold{fold}")
    assert few.y is not None
    y = torch.cat([torch.full((len(x),), -1), few.y])
    return Images(torch.cat([x, reduced(few.x, few.shape, plan["side"])[0].to(x.dtype)]), y, others, test.y, shape)


def reduced(x: Tensor, shape: tuple[int, ...], side: int) -> tuple[Tensor, tuple[int, ...]]:
    """Reduce flat images to a square of that side by averaging; bytes become floats.

    >>> reduced(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), (2, 2), 1)
    (tensor([[0.5000]]), (1, 1, 1))
    """
    channels = shape[0] if len(shape) == 3 else 1
    parts = [
        adaptive_avg_pool2d(as_batch(part).reshape(-1, channels, *shape[-2:]), side).flatten(1)
        for part in x.split(1000)
    ]
    return torch.cat(parts), (channels, side, side)


class Classes(nn.Module):
    """The class head of a network with two."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[1]


def verdicts(accuracy: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Judge the claims, in percentage points, one difference per fold.

    >>> found = verdicts({"crvae": [50.0, 50.2], "vae": [47.0, 47.1], "ae": [47.1, 47.0], "alone": [40.0, 40.5]})
    >>> [v["verdict"] for v in found]
    ['held', 'did not hold', 'held', 'held', 'held']
    """
    order = [(CRVAE, VAE), (VAE, AE), *((arm, ALONE) for arm in (CRVAE, VAE, AE))]
    named = {**ARMS, ALONE: "the labelled images alone"}
    return [
        verdict(
            f"a discriminator with the {named[one]} as generator is above "
            + (named[other] if other == ALONE else f"one with the {named[other]}")
            + " (points of accuracy)",
            SOURCE,
            np.subtract(accuracy[one], accuracy[other]).tolist(),
            per="label draws",
        )
        for one, other in order
    ]


def _data(plan: dict[str, Any]) -> str:
    """The data in words."""
    if plan["data"] == "stl10":
        return "STL-10, 100,000 images without a label and 1,000 labelled"
    return (
        f"stand-in: CIFAR-10 at {plan['side']} x {plan['side']}, {plan['images']:,} images, {plan['labels']} labelled"
    )


def accuracy_figure(result: dict[str, Any], scale: str) -> Figure:
    """Accuracy by generator: a dot for each fold, the mean with its 95 % interval, and chance."""
    plan = result["settings"]
    figure = Figure(figsize=(7.6, 3.4), dpi=160, layout="constrained")
    ax = figure.subplots()
    for i, arm in enumerate(ARMS):
        values = result["measured"][arm]["accuracy"]
        mean, low, _ = interval(values)
        color = NEUTRAL if arm == ALONE else f"C{i}"
        spread = np.linspace(-0.14, 0.14, len(values))
        ax.plot(values, i - 0.02 + spread, "o", markersize=4, color=color, alpha=0.5, linestyle="none")
        ax.errorbar(mean, i + 0.28, xerr=mean - low, fmt="D", markersize=5, color=color, capsize=3, linewidth=1.6)
        ax.annotate(
            f"{mean:.1f}", (mean, i + 0.28), xytext=(0, -12), textcoords="offset points", ha="center", fontsize=8
        )
    ax.set_yticks(range(len(ARMS)), list(ARMS.values()), fontsize=9)
    ax.set_ylim(len(ARMS) - 0.35, -0.4)
    ax.set_xlabel("accuracy on test images (%), more is better; 10 % is chance", fontsize=9)
    ax.set_ylabel("generator of the fakes", fontsize=9)
    ax.set_title(
        f"A discriminator that classifies ({_data(plan)})\n{scale} scale; dots: {len(plan['seeds'])} draws of the "
        "labels, diamonds: mean with 95 % interval", fontsize=9, loc="left", color=NEUTRAL,
    )  # fmt: skip
    ax.tick_params(labelsize=8)
    ax.grid(axis="x", linewidth=0.4, alpha=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: mean and 95 % interval over the folds."""
    rows: list[list[object]] = []
    for arm, label in ARMS.items():
        found = result["measured"][arm]
        mean, low, _ = interval(found["accuracy"])
        beside = [f"{np.mean(found[what]):.{digits}f}" if what in found else ""
                  for what, digits in (("error", 3), ("told apart", 1))]  # fmt: skip
        rows.append([label, f"{mean:.2f} ± {mean - low:.2f}", *beside])
    rows += [[name, f"{value:.2f}", "", ""] for name, value in result.get("published", {}).items()]
    header = ["generator", f"accuracy on test images (%; {_data(result['settings'])})"]
    return markdown_table([*header, "error of reconstructions (RMS)", "real and fake told apart (%)"], rows)
