"""-log p(x) of MNIST for the family of the channel-recurrent VAE (S2 Table 1; Shang et al. 2017, 4.1).

Protocol: training digits are binarised anew at every step (``dynamic``); the first 50,000 train, the last 10,000 of the
training set validate, the test set is ``static`` (Larochelle's file where the root has it, else a draw that the result
names). All rows have the same trunk, the same number of latent entries, the same number of blocks where there are
blocks, Adam, a rate that falls to zero along a cosine. Where a scale has several rates, the one with the best
validation bound is kept (the authors' code chooses the epoch by the *test* set). -log p(x) is by S importance samples
of the guide; its Monte-Carlo error and the share of digits with k-hat above 0.7, for which it cannot be trusted, stand
beside it, and so does what annealed importance sampling takes off it on a few digits. Importance sampling errs on the
high side, the more so the worse the guide: a row whose guide is bad has a worse number than its model deserves.

Main rows have beta = 1, the bound. The paper does not say how it weighs the KL on MNIST; its code's alpha = 0.001
beside a mean over 784 pixels is beta = 0.784, so rows are trained a second time so, and the published numbers may well
be those of that weight. ``repo`` is the network of the authors' code, which is not the paper's (see ``crvae``).

Scales: ``paper`` is the paper's networks (32, 64, 128 filters per halving, 1024 codes, LSTMs of 256 units, 200 epochs
in batches of 128, K = 40, 10,000 importance samples of all 10,000 test digits). ``quick`` is digits averaged to 14 x
14, a quarter of the filters, 64 codes in 4 blocks, 32 units, 1500 steps of 50, K = 5, and 300 samples of the first 300
test digits: good for the order of rows on these digits that far into training, and not to be compared with the
published column, which is of 28 x 28. One rate, so nothing is selected there.

An earlier quick scale (28 x 28, 1200 steps) was given up: it stopped in the plateau in which the code is not used yet.

Departs from the paper: one trunk for encoder and decoder that reaches 28 x 28 (see ``conv_vae``); a linear map behind
each LSTM (see ``ChannelLSTM``); where only one path is recurrent the other is bcVAE's, which the paper does not say; a
validation set; a cosine in place of halving the rate every 50 epochs. As in the paper's G.3, bcVAE's mean is a
convolution and crVAE's fully connected, so that the two differ in more than recurrence: bcVAE has a row with crVAE's
mean, which the paper has not.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vaes.data import Dataset, load
from pyro_vaes.data.binarise import binarised
from pyro_vaes.data.pool import pooled
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.likelihoods import annealed, measures, spread
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import train, untrained
from pyro_vaes.experiments.verdicts import untested, verdict
from pyro_vaes.inference.posterior import bound

NAME = "crvae-nll"
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "pool": 2, "steps": 1500, "batch_size": 50, "hidden": [8, 16], "latent_dim": 64, "blocks": 4, "units": 32,
        "particles": 5, "test": 300, "samples": 300, "annealed": 20, "lrs": [2e-3], "seeds": [0, 1, 2, 3, 4],
    },
    "paper": {
        "pool": 1, "steps": 78_000, "batch_size": 128, "hidden": [32, 64, 128], "latent_dim": 1024, "blocks": 8,
        "units": 256, "particles": 40, "test": 10_000, "samples": 10_000, "annealed": 100, "lrs": [3e-4, 1e-3, 3e-3],
        "seeds": [0, 1, 2, 3, 4],
    },
}  # fmt: skip
TRAIN = 50_000
AUTHORS = 0.784  # alpha = 0.001 beside a mean over 784 pixels

_IN, _OUT, _BOTH = ({"recurrence": where, "mean": "dense"} for where in ("inference", "generation", "both"))
# Variant, its own arguments, and -log p(x) as published.
ROWS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "VAE": ("conv_vae", {}, 82.04),
    "cVAE": ("cvae_conv", {}, 83.12),
    "bcVAE": ("bcvae", {}, 82.17),
    "bcVAE, dense mean": ("bcvae", {"mean": "dense"}, None),
    "crVAE, inference": ("crvae", _IN, 81.86),
    "crVAE, generation": ("crvae", _OUT, 81.71),
    "crVAE, both": ("crvae", _BOTH, 80.84),
    "crVAE, both, repo": ("crvae", {**_BOTH, "preset": "repo"}, None),
    "crVAE, both, IWAE": ("crvae", {**_BOTH, "particles": None}, 80.02),
}
KEYS = ("nll", "nll se", "k-hat", "elbo", "active units", "valid", "lr", "parameters", "minutes", "annealed", "each")


def rows_of(scale: str) -> list[tuple[str, float]]:
    """Rows with their beta; an importance-weighted bound has none, and at quick scale only two rows have another."""
    other = [n for n in ROWS if "IWAE" not in n] if scale == "paper" else ["VAE", "crVAE, both"]
    return [(n, 1.0) for n in ROWS] + [(n, AUTHORS) for n in other]


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figure."""
    plan, rows = SCALES[scale], rows_of(scale)
    settings = {**plan, "rows": [[n, b, *ROWS[n][:2]] for n, b in rows], "test note": digits(plan, root, "test").note}
    cells = Cells(out / f"{NAME}.{scale}.cells", settings, root)
    # The slowest first, so that no process works alone at the end.
    order = sorted(rows, key=lambda row: "IWAE" not in row[0])
    found = compute(
        partial(cell, scale=scale, root=str(root)),
        [(name, beta, seed) for seed in plan["seeds"] for name, beta in order],
        cells,
        desc=NAME,
        steps=lambda _: plan["steps"] * len(plan["lrs"]),
    )
    result: dict[str, Any] = {
        "settings": settings,
        "seconds": cells.seconds(),
        "rows": [
            {"row": name, "beta": beta, "published": ROWS[name][2] if beta == 1 else None,
             **{key: [found[name, beta, seed][key] for seed in plan["seeds"]] for key in KEYS}}
            for name, beta in rows
        ],
    }  # fmt: skip
    result["verdicts"] = verdicts(result["rows"], scale)
    path = record(out, NAME, scale, result, {"likelihood": _figure(result, scale)})
    cells.discard()
    return path


def digits(plan: dict[str, Any], root: Path, split: str) -> Dataset:
    """Binary digits of a scale's size: the test set's first ones, or the part of the training set that validates."""
    test = split == "test"
    grey = pooled(load("mnist", root=root, split=split, limit=plan["test"] if test else None), plan["pool"])
    if plan["pool"] == 1:
        found = binarised(grey, "static", root=root, split=split)
    else:
        found = binarised(replace(grey, name=f"mnist averaged by {plan['pool']}"), "static")
    return found if test else replace(found, x=found.x[TRAIN:])


def cell(name: str, beta: float, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train one row from one seed, at every rate, and judge what validates best."""
    import time

    plan, began, device = SCALES[scale], time.monotonic(), "cuda" if torch.cuda.is_available() else "cpu"
    x = pooled(load("mnist", root=root, limit=TRAIN), plan["pool"]).x.to(device)
    valid = digits(plan, Path(root), "train").x[: 10 * plan["test"]].to(device)
    tried = []
    for lr in plan["lrs"]:
        pair = untrained(ROWS[name][0], x.shape[1], arguments(name, beta, scale), seed)
        how: dict[str, Any] = {"steps": plan["steps"], "batch_size": plan["batch_size"], "lr": lr, "seed": seed}
        pair = train(pair, x, **how, augment="dynamic")
        tried.append((bound(pair, valid), lr, pair))
    score, lr, best = max(tried, key=lambda one: one[0])
    minutes, test = (time.monotonic() - began) / 60, digits(plan, Path(root), "test").x.to(device)
    found, each = measures(best, test, samples=plan["samples"], seed=seed)
    few = annealed(best, test[: plan["annealed"]], samples=plan["samples"], seed=seed) if seed == 0 else None
    count = sum(p.numel() for p in best.parameters())
    return {**found, "valid": score, "lr": lr, "parameters": count, "minutes": minutes, "annealed": few, "each": each}


def arguments(name: str, beta: float, scale: str) -> dict[str, Any]:
    """The arguments of a row's variant.

    >>> arguments("bcVAE", 0.784, "paper")
    {'hidden': [32, 64, 128], 'latent_dim': 1024, 'blocks': 8, 'beta': 0.784}
    """
    plan, (variant, own, _) = SCALES[scale], ROWS[name]
    found = {"hidden": plan["hidden"], "latent_dim": plan["latent_dim"]}
    if variant in ("bcvae", "crvae"):
        found["blocks"] = plan["blocks"]
    if variant == "crvae" and "preset" not in own:
        found["units"] = plan["units"]
    particles = {"particles": plan["particles"]} if "particles" in own else {}
    return {**found, **own, **particles, **({} if beta == 1.0 else {"beta": beta})}


CLAIMS = [
    ("cVAE is worse than the VAE", "VAE", "cVAE"),
    ("bcVAE is better than cVAE", "bcVAE", "cVAE"),
    ("recurrence at inference is better than the VAE", "crVAE, inference", "VAE"),
    ("recurrence at generation is better than the VAE", "crVAE, generation", "VAE"),
    ("recurrence at both is better than the VAE", "crVAE, both", "VAE"),
    ("recurrence at inference is better than bcVAE", "crVAE, inference", "bcVAE"),
    ("recurrence at generation is better than bcVAE", "crVAE, generation", "bcVAE"),
    ("recurrence at both is better than bcVAE", "crVAE, both", "bcVAE"),
    ("recurrence at both is better than at inference", "crVAE, both", "crVAE, inference"),
    ("recurrence at both is better than at generation", "crVAE, both", "crVAE, generation"),
    ("importance weighting improves it further", "crVAE, both, IWAE", "crVAE, both"),
]


def verdicts(rows: Sequence[dict[str, Any]], scale: str) -> list[dict[str, Any]]:
    """Judge the order of the table, seed by seed and of these test digits, and the published values."""
    nll = {(row["row"], row["beta"]): row["nll"] for row in rows}

    def judged(claim: str, source: str, better: tuple[str, float], worse: tuple[str, float]) -> dict[str, Any]:
        return verdict(claim, source, list(np.subtract(nll[worse], nll[better])))

    found = [judged(claim, "S2 4.1, Table 1", (better, 1.0), (worse, 1.0)) for claim, better, worse in CLAIMS]
    other = "recurrence at both is better than the VAE, both at beta = 0.784"
    found.append(judged(other, "S2 Table 1, S2's code", ("crVAE, both", AUTHORS), ("VAE", AUTHORS)))
    mean = "recurrence at both is better than bcVAE with the same mean"
    found.append(judged(mean, "ours", ("crVAE, both", 1.0), ("bcVAE, dense mean", 1.0)))
    for row in (row for row in rows if row["published"] is not None):
        claim = f"{row['row']}: at or below {row['published']}"
        if scale == "paper":
            found.append(verdict(claim, "S2 Table 1", [row["published"] - v for v in row["nll"]]))
        else:
            found.append(untested(claim, "S2 Table 1", "other images, small networks, few steps"))
    return found


def _figure(result: dict[str, Any], scale: str) -> Figure:
    """A dot of -log p(x) per seed and a line at their mean; the published column, whose scale is another, beside it."""
    rows, settings = result["rows"], result["settings"]
    figure = Figure(figsize=(9.4, 0.4 * len(rows) + 1.7), dpi=160, layout="constrained")
    ours, theirs = figure.subplots(1, 2, sharey=True, width_ratios=[2.4, 1])
    names = [row["row"] + ("" if row["beta"] == 1 else f", beta = {row['beta']}") for row in rows]
    ours.set_yticks(range(len(rows)), names)
    ours.invert_yaxis()
    for i, row in enumerate(rows):
        mean = float(np.mean(row["nll"]))
        ours.plot(row["nll"], [i] * len(row["nll"]), "o", color=CLASSICAL, markersize=4, alpha=0.7)
        ours.plot([mean] * 2, [i - 0.35, i + 0.35], color=ROBUST, linewidth=2)
        label = f"{mean:.2f}  (k-hat > 0.7: {np.mean(row['k-hat']):.0%})"
        ours.annotate(label, (max(row["nll"]), i), (6, 0), textcoords="offset points", va="center", fontsize=7.5)
        if row["published"] is not None:
            theirs.plot([row["published"]], [i], "D", color=NEUTRAL, markersize=5)
            value = f"{row['published']:.2f}"
            theirs.annotate(value, (row["published"], i), (6, 0), textcoords="offset points", va="center", fontsize=7.5)
    ours.margins(x=0.3), theirs.margins(x=0.3)
    side = 28 // settings["pool"]
    ours.set_title(f"ours, {scale} scale, {side} x {side}", fontsize=9, loc="left", color=NEUTRAL)
    theirs.set_title("published, 28 x 28", fontsize=9, loc="left", color=NEUTRAL)
    ours.set_xlabel(f"-log p(x) of {settings['test']} static test digits, nats;\nlower is better", fontsize=8)
    theirs.set_xlabel("-log p(x), all test digits,\nfull-size networks, 200 epochs", fontsize=8)
    says = f"MNIST: dots are {len(settings['seeds'])} trainings of {settings['steps']} steps, strokes their mean"
    figure.suptitle(says, fontsize=10, x=0.01, ha="left", color=NEUTRAL)
    for ax in (ours, theirs):
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


FORMS = {"nll se": ".2f", "k-hat": ".0%", "active units": ".0f", "parameters": ",.0f", "minutes": ".1f"}


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    settings, rows = result["settings"], list[list[object]]()
    for row in result["rows"]:
        error, share, units, count, minutes = (f"{np.mean(row[key]):{form}}" for key, form in FORMS.items())
        gains = [one["ais"] - one["is"] for one in row["annealed"] if one is not None]
        published = "-" if row["published"] is None else f"{row['published']:.2f}"
        found = [spread(row["nll"]), error, share, spread(gains), spread([-v for v in row["elbo"]]), units]
        rows.append([row["row"], str(row["beta"]), *found, count, minutes, published])
    names = "row, beta, -log p(x), Monte-Carlo error, k-hat > 0.7, annealing lowers it by, -ELBO, active units"
    end = (
        f"The first {settings['test']} test digits ({settings['test note']}), {settings['samples']} importance "
        f"samples, {len(settings['seeds'])} seeds with the half width of their 95 % interval, {settings['steps']} "
        f"steps of {settings['batch_size']}. The Monte-Carlo error is one training's; annealing is of the first seed "
        f"and the first {settings['annealed']} digits."
    )
    return f"{markdown_table([*names.split(', '), 'parameters', 'minutes', 'published'], rows)}\n\n{end}"
