"""One small training of every variant, to be looked at: the pictures and numbers of the variant gallery.

Protocol: the 8 x 8 digits that come with scikit-learn, 1400 to train and 397 to test, by one permutation. A cell is one
variant, trained once from one seed: this shows what a variant does, and ranks none. What it is given suits it:

- *binary* (1 where the pixel is above .5) where the likelihood is Bernoulli; *grey* where it is Gaussian.
- *dirty* (each pixel replaced with probability .2 by a uniform draw, in training and in test) for the robust variants.
  The truth is held aside, and used for measuring only. *standardised*: the same, less its mean and over its standard
  deviation, for ``rvae``; its bound and likelihood are of such units, its errors are given in pixels.
- *strangers*: a tenth of the images have their pixels shuffled, for ``datum_t_vae``, which is for whole data that do
  not belong.
- *labels* with every datum for ``cvae``; *100 labels* for the semi-supervised ones; *halves* for ``structured_cvae``,
  which predicts the right half of a digit from its left half.

Plain variants share 64-128-64-16 networks, batches of 100, 1500 steps at a learning rate of .002 falling to zero along
a cosine. Departures, and why: the family of ``conv_vae`` has one stage of 16 filters (64 codes, four blocks) and a
third of the steps, since each costs as much as ten of the others'; and grey digits with sd = .1, since from binary ones
the ``crvae`` learned little in so few (it was tried: rebuilt digits all alike). Those with an image discriminator or a
convolutional classifier have a fifth, and narrow discriminators. ``iwae`` and ``iwae_2`` have ten particles.
``ric_vae`` starts from an ``indexed_ic_vae`` trained just before, as its card asks, at a fifth of the learning rate;
``two_stage_vae`` has as many steps for its second stage. Where the variance is 1 (``l2_vae``, ``r_l2_vae``) the
KL counts 1 / 12, and the penalties of both WAEs do: a sum of squares over 8 x 8 pixels is about (28 / 8)^2 = 12 times
smaller than over whole images; no principal component of these digits has a variance above 1, so that a whole KL would
leave no code in use. Of most robust ones the KL rises from 0 over the first half of the steps (see experiment
``generation``), and of ``vamp_vae``, which has 8 codes and 400 pseudo-inputs, placed at data (with 16 and 50 its code
stayed unused, with the rise and without). The ``memoriser`` is built from the training digits.
``beta_vae`` has beta = 2: its 4 left one of 16 entries in use here (it was tried).

Numbers: parameters of p, of q besides those of p, of the objective besides both. The bound in nats per test datum, and
on as many training data; where q is a point mass it is log p(x, z) at the code, which bounds nothing. -log p(x) by 500
importance samples of the first 100 test data, its Monte-Carlo error, and the share of data with k-hat above .7, whose
number cannot be trusted; where there is no density to weigh, the reason. The root of the mean squared error of test
data rebuilt from the mean code, against the truth; beside it that of the data as they are given, and of the mean of the
training data. Active units: entries of the code that test data move. AUC of the outlier scores for the pixels that were
replaced (or images, for *strangers*); accuracy of the classes guessed for test data. Seconds are those of the
processor, in training, on one thread.

Scales: ``quick``; ``paper`` is ten times the steps, and no paper's setting.
"""

import math
import time
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vaes.data import corrupt, load
from pyro_vaes.data.labels import few_labels
from pyro_vaes.data.quadrants import quadrants
from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.detection import detect
from pyro_vaes.evaluation.metrics import cell_auc
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.gallery_figures import figures
from pyro_vaes.experiments.gallery_pictures import pictures
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import train, trained, trained_in_stages, untrained
from pyro_vaes.inference.classify import classify
from pyro_vaes.inference.densities import bound_in_words
from pyro_vaes.inference.likelihood import log_likelihood
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.posterior import active_units_by_site, bound, clean, ordinary_residual
from pyro_vaes.inference.recycled import Recycled
from pyro_vaes.inference.schedules import Linear
from pyro_vaes.inference.state import warm_start
from pyro_vaes.pair import Pair
from pyro_vaes.variants import VARIANTS

NAME = "gallery"
SCALES: dict[str, dict[str, Any]] = {
    scale: {"steps": steps, "batch_size": 100, "lr": 2e-3, "schedule": "cosine", "samples": 500, "weighed": 100,
            "train": 1400, "labels": 100, "seeds": [0]}
    for scale, steps in (("quick", 1500), ("paper", 15_000))
}  # fmt: skip
DIRT, STRANGERS = "impulse:0.2", 0.1
LESS = 1 / 12  # what a penalty beside a sum of squares counts in images of 8 x 8
WORDS = {
    "binary": "binary digits", "grey": "grey digits", "dirty": "digits, a fifth of the pixels replaced",
    "standardised": "standardised digits, a fifth of the pixels replaced",
    "strangers": "digits, a tenth of them shuffled", "labels": "binary digits with their labels",
    "100 labels, binary": "binary digits, 100 of them labelled", "100 labels": "grey digits, 100 of them labelled",
    "halves": "right halves of binary digits, given the left",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """How one variant is shown.

    Attributes:
        data: a key of ``WORDS``. arguments: of the variant. steps: as a multiple of the scale's.
        warm_up: share of the steps over which the KL rises from 0.
    """

    data: str = "binary"
    arguments: dict[str, Any] = field(default_factory=dict)
    steps: float = 1.0
    warm_up: float = 0.0


def _plain(data: str = "binary", *, warm_up: float = 0.0, **more: Any) -> Row:
    return Row(data, {"latent_dim": 16, "hidden": [128, 64]} | more, warm_up=warm_up)


def _conv(data: str = "grey", steps: float = 1 / 3, **more: Any) -> Row:
    return Row(data, {"latent_dim": 64, "hidden": [16], "sd": 0.1} | more, steps)


_BLOCKS: dict[str, Any] = {"blocks": 4}
_UNITS: dict[str, Any] = {"blocks": 4, "units": 32}
_JUDGE: dict[str, Any] = {"discriminator_filters": [8, 16], "discriminator_hidden": 32}
_CLASSES: dict[str, Any] = {"filters": [8, 16], "latent_dim": 64}
ROWS: dict[str, Row] = {
    "vae": _plain(), "beta_vae": _plain(beta=2.0), "dvae": _plain(), "iwae": _plain(particles=10),
    "iwae_2": _plain(middle=32, middle_hidden=[32], particles=10), "ladder_vae": _plain(), "skip_vae": _plain(),
    "cnn_vae": Row("binary", {"latent_dim": 16, "hidden": [16, 32]}),
    "planar_vae": _plain(), "iaf_vae": _plain(), "spline_vae": _plain(width=32, bins=4), "mixture_vae": _plain(),
    "vamp_vae": _plain(warm_up=0.5, components=400, latent_dim=8), "cvae": _plain("labels"),
    "structured_cvae": _plain("halves", condition_dim=32),
    "gaussian_vae": _plain("grey"), "l2_vae": _plain("grey", beta=round(LESS, 4)), "gamma_vae": _plain("grey"),
    "lc_vae": _plain("grey"), "memoriser": Row("grey"),
    "ic_vae": _plain("dirty", warm_up=0.5), "indexed_ic_vae": _plain("dirty", warm_up=0.5),
    "affine_ic_vae": _plain("dirty", warm_up=0.5), "t_vae": _plain("dirty", warm_up=0.5),
    "datum_t_vae": _plain("strangers", warm_up=0.5), "rvae": _plain("standardised", warm_up=0.5),
    "ric_vae": _plain("dirty", warm_up=0.5), "r_l2_vae": _plain("dirty"), "rlc_vae": _plain("dirty"),
    "autoencoder": _plain("grey"), "induced_ae": _plain("dirty"),
    "wae_mmd": _plain("grey", latent_dim=8, weight=round(5 * LESS, 4)),
    "wae_gan": _plain("grey", latent_dim=8, weight=round(5 * LESS, 4), discriminator_hidden=[64, 64]),
    "two_stage_vae": _plain("grey", second_hidden=[64, 64]), "affine_vae": _plain("grey"),
    "ica_vae": Row("grey", {"latent_dim": 16}), "m2_vae": _plain("100 labels, binary"),
    "conv_vae": _conv(), "cvae_conv": _conv(), "bcvae": _conv(**_BLOCKS), "crvae": _conv(**_UNITS),
    "vae_gan": _conv(steps=1 / 5, **_JUDGE), "crvae_gan": _conv(steps=1 / 5, **_UNITS, **_JUDGE),
    "empirical_cvae": _conv(),
    "ae_classifier": _conv("100 labels", 1 / 5, **_CLASSES), "vae_classifier": _conv("100 labels", 1 / 5, **_CLASSES),
    "crvae_classifier": _conv("100 labels", 1 / 5, **_UNITS, **_CLASSES),
}  # fmt: skip
# The slowest first, so that no process works alone at the end.
SLOW = ("crvae_gan", "crvae_classifier", "crvae", "vae_gan", "vae_classifier", "ae_classifier", "bcvae", "spline_vae")


class Split(NamedTuple):
    """What a cell is trained and measured on: rows and their conditions; ``truth`` and ``wrong`` are of test data.

    Attributes:
        middle, unit: pixels are values times unit plus middle. wrong: pixels (N, d) or images (N,) that are dirty.
    """

    x: Tensor
    y: Tensor | None
    test: Tensor
    test_y: Tensor | None
    truth: Tensor
    labels: Tensor
    wrong: Tensor | None = None
    middle: float = 0.0
    unit: float = 1.0

    def pixels(self, x: Tensor) -> Tensor:
        """Bring values back to pixels in [0, 1]."""
        return x * self.unit + self.middle


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    settings = SCALES[scale]
    plan = {**settings, "rows": {name: repr(ROWS[name]) for name in VARIANTS}}
    cells = Cells(out / f"{NAME}.{scale}.cells", plan)
    order = [name for name in (*SLOW, *VARIANTS) if name in VARIANTS]
    seed = settings["seeds"][0]
    found = compute(
        partial(cell, scale=scale), [(name, seed) for name in dict.fromkeys(order)], cells, desc=NAME,
        steps=lambda setting: steps_of(setting[0], scale),
    )  # fmt: skip
    variants = {name: found[name, seed] for name in VARIANTS}
    # Of the processor, as each cell's: a machine that is busy with other things says nothing about a variant.
    seconds = round(sum(found["numbers"]["seconds"] for found in variants.values()), 1)
    result = {"settings": settings, "seconds": seconds, "variants": variants}
    path = record(out, NAME, scale, result, figures(result))
    cells.discard()
    return path


def steps_of(name: str, scale: str) -> int:
    """How many steps a variant is trained for, in its longest stage."""
    return max(1, round(ROWS[name].steps * SCALES[scale]["steps"]))


def cell(name: str, seed: int, scale: str) -> dict[str, Any]:
    """Train one variant; give its numbers, what it is made of, and its pictures."""
    row, data, began = ROWS[name], split(ROWS[name].data, SCALES[scale]["train"], SCALES[scale]["labels"]), _seconds()
    pair = fitted(name, data, seed, scale)
    spent = _seconds() - began
    return {
        "data": row.data, "shown": WORDS[row.data], "arguments": row.arguments, "steps": steps_of(name, scale),
        "describe": pair.describe(),
        "numbers": {**numbers(pair, data, scale, seed), "seconds": round(spent, 1)},
        "pictures": pictures(name, pair, data, seed),
    }  # fmt: skip


def _seconds() -> float:
    return time.process_time()


@cache
def split(kind: str, train: int, labels: int) -> Split:
    """Give the data of one kind."""
    digits = load("digits")
    assert digits.y is not None
    order = torch.randperm(len(digits.x), generator=torch.Generator().manual_seed(0))
    seen, held = order[:train], order[train:]
    grey, y = digits.x, digits.y
    binary = (grey > 0.5).float()
    x = binary if kind in ("binary", "labels", "100 labels, binary", "halves") else grey
    clean_test, classes = x[held], y[held]
    if kind in ("dirty", "standardised"):
        dirty = corrupt(grey, DIRT, shape=digits.shape, seed=0)
        middle, unit = (dirty.x[seen].mean().item(), dirty.x[seen].std().item()) if kind != "dirty" else (0.0, 1.0)
        x = (dirty.x - middle) / unit
        return Split(x[seen], None, x[held], None, clean_test, classes, dirty.mask[held], middle, unit)
    if kind == "strangers":
        x, wrong = shuffled(grey)
        return Split(x[seen], None, x[held], None, clean_test, classes, wrong[held])
    if kind == "halves":
        parts = quadrants(type(digits)("digits", binary, digits.shape, y), observed=2)
        return Split(parts.x[seen], parts.y[seen], parts.x[held], parts.y[held], parts.x[held], classes)
    conditions: tuple[Tensor | None, Tensor | None] = (None, None)
    if kind == "labels":
        conditions = y[seen], y[held]
    elif kind.startswith("100 labels"):
        conditions = few_labels(y[seen], labels), None
    return Split(x[seen], conditions[0], x[held], conditions[1], clean_test, classes)


def shuffled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Shuffle the pixels of a tenth of the images, of each in another way; and say of which."""
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(x), generator=generator) < STRANGERS
    places = torch.rand(x.shape, generator=generator).argsort(1)
    return torch.where(wrong[:, None], x.gather(1, places), x), wrong


def fitted(name: str, data: Split, seed: int, scale: str) -> Pair:
    """Build a variant from its seed and train it, in its own way where it has one."""
    row, settings = ROWS[name], SCALES[scale]
    steps = steps_of(name, scale)
    plan: dict[str, Any] = {key: settings[key] for key in ("batch_size", "lr", "schedule")} | {"seed": seed}
    if row.warm_up:
        plan["schedules"] = {"beta": Linear(0.0, 1.0, max(1, round(row.warm_up * steps)))}
    if name == "two_stage_vae":
        return trained_in_stages(name, data.x, arguments=row.arguments, steps=steps, **plan)
    if name == "memoriser":
        return trained(name, data.x, arguments={"points": data.x}, steps=steps, **plan)
    pair = untrained(name, data.x.shape[1], row.arguments, seed)
    if name == "ric_vae":
        warm_start(pair, trained("indexed_ic_vae", data.x, arguments=row.arguments, steps=steps, **plan))
        del plan["schedules"]
        plan["lr"] /= 5
    if name == "r_l2_vae":
        pair.objective = Recycled(ELBO(round(LESS, 4)), passes=2)
    if name == "vamp_vae":
        pair.model.prior.place(data.x[: row.arguments["components"]])  # type: ignore[union-attr,operator]
    return train(pair, data.x, data.y, steps=steps, **plan)


def numbers(pair: Pair, data: Split, scale: str, seed: int) -> dict[str, Any]:
    """Measure a trained pair by the library's own functions; None where a number is not defined."""
    x, y = data.test, data.test_y
    inside = slice(0, len(x))
    labels = None if pair.partial or data.y is None else data.y[inside]
    found: dict[str, Any] = {
        **parameters(pair),
        "bound": round(bound(pair, x, y, seed=seed), 2),
        "bound on training data": round(bound(pair, data.x[inside], labels, seed=seed), 2),
        "bound is": bound_in_words(pair),
        **likelihood(pair, data, scale, seed),
        "active units": active_units_by_site(pair, x, y),
        "codes": codes(pair),
    }
    rebuilt, mean = data.pixels(clean(pair, x, y, draws=2, seed=seed).mean), data.pixels(data.x.mean(0))
    belong = ~data.wrong if data.wrong is not None and data.wrong.dim() == 1 else torch.ones(len(x), dtype=torch.bool)
    for key, value in (("rmse", rebuilt), ("rmse given", data.pixels(x)), ("rmse of the mean", mean.expand(x.shape))):
        found[key] = round((value - data.truth)[belong].square().mean().sqrt().item(), 4)
    found["ordinary residual"] = round(ordinary_residual(pair, x, y) * data.unit, 4)
    found["auc"] = auc(pair, data, seed)
    found["accuracy"] = None
    if pair.partial:
        found["accuracy"] = round((classify(pair, x).argmax(1) == data.labels).float().mean().item(), 4)
    return found


def likelihood(pair: Pair, data: Split, scale: str, seed: int) -> dict[str, Any]:
    """-log p(x) with its error and k-hat, or why there is none."""
    few = SCALES[scale]["weighed"]
    y = None if data.test_y is None else data.test_y[:few]
    try:
        weighed = log_likelihood(pair, data.test[:few], y, samples=SCALES[scale]["samples"], seed=seed)
    except InputError as error:
        return {"nll": None, "nll se": None, "k-hat": None, "why": str(error)}
    return {
        "nll": round(-weighed.mean, 2), "nll se": round(weighed.mean_se, 2),
        "k-hat": None if math.isnan(weighed.unreliable) else round(weighed.unreliable, 2), "why": None,
    }  # fmt: skip


def parameters(pair: Pair) -> dict[str, int]:
    """Parameters of p, of q besides those of p, and of the objective besides both."""
    seen: set[int] = set()
    found = {}
    for part, module in (("p", pair.model), ("q", pair.guide), ("objective", pair.objective)):
        own = [p for p in module.parameters() if id(p) not in seen] if isinstance(module, nn.Module) else []
        seen |= {id(p) for p in own}
        found[f"parameters of {part}"] = sum(p.numel() for p in own)
    return found


def codes(pair: Pair) -> dict[str, int]:
    """Entries of every site of the code."""
    p: Any = pair.traces()[1].nodes
    names = [n for n in p if n == "z" or n.startswith("z_")]
    return {n: p[n]["value"][0].numel() for n in names if p[n]["type"] == "sample" and not p[n]["is_observed"]}


def auc(pair: Pair, data: Split, seed: int) -> float | None:
    """How well the outlier scores tell what is dirty: pixels, or whole images."""
    if data.wrong is None:
        return None
    images = data.wrong.dim() == 1
    score = detect(pair, data.test).score if images else clean(pair, data.test, draws=2, seed=seed).score
    return round(cell_auc(score.flatten(), data.wrong.flatten()), 4)


def bound_words(found: dict[str, Any]) -> str:
    """Say what stands where other pairs have a bound.

    >>> bound_words({"why": None, "bound is": "bound"})
    'bound'
    """
    if found["why"] and "normalised density" in found["why"]:
        return "minus the loss, which bounds no density"
    return found["bound is"].rstrip(",")


def said(value: Any, digits: int = 2) -> str:
    """A number of the gallery in words; "-" where there is none.

    >>> said(None), said(-21.149), said({"z_1": 3, "z_2": 0}), said(12345, 0)
    ('-', '-21.15', 'z_1 3, z_2 0', '12,345')
    """
    if value is None:
        return "-"
    if isinstance(value, dict):
        return str(*value.values()) if len(value) == 1 else ", ".join(f"{k} {v}" for k, v in sorted(value.items()))
    return f"{value:,.{digits}f}"


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    rows: list[list[object]] = []
    for name, found in result["variants"].items():
        n = found["numbers"]
        total = sum(n[f"parameters of {part}"] for part in ("p", "q", "objective"))
        nll = "-" if n["nll"] is None else f"{said(-n['nll'])} ± {said(n['nll se'])}"
        share = "-" if n["k-hat"] is None else f"{n['k-hat']:.0%}"
        bound = said(n["bound"]) + ("" if bound_words(n) == "bound" else "*")
        rows.append([
            f"`{name}`", found["data"], said(total, 0), bound, nll, share, said(n["rmse"], 3), said(n["active units"]),
            said(n["seconds"], 1),
        ])  # fmt: skip
    names = "variant, data, parameters, bound, log p(x), k-hat > .7, RMSE, active units, CPU s of training"
    return (
        f"{markdown_table(names.split(', '), rows)}\n\n\\* bounds nothing: there is no density, or q is a point mass."
    )
