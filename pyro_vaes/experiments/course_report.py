"""Seven classical variants at five sizes of the code, on binarised MNIST (S4 Table 1, Fig. 1 and 5-7).

Protocol: digits as the report has them, ``threshold0_inverted``: ink 0, paper 1 (its sentence, taken literally, would
leave nothing of any digit); 60,000 to train, 10,000 to test; N_z in {3, 5, 10, 20, 200}; batches of 100. *VAE*: one
tanh layer of 500, Adagrad, the rate picked from {0.1, 0.02, 0.01} by a tenth of the steps on 5,000 training digits held
back for it. *VAE tuned*: ReLU, Adam with beta_2 = 0.99, rate 0.001 (0.01 for N_z = 3). *CNN*: two convolutions and two
deconvolutions, rate 0.01 (0.001 for N_z = 200). *IWAE*: two stochastic layers, 200 and 100 tanh units, K = 50, rate
0.001. *DVAE* (salt and pepper, 0.05) and *CVAE* (labels) have the settings of the tuned one, *beta-VAE* (beta = 4)
those of the VAE. Rates are constant.

The report's table is of lower bounds, higher is better (its caption says otherwise), and does not say of what the
DVAE's and the beta-VAE's are. Ours gives, on the same test digits: each method's own objective (the beta-VAE's with its
beta, the DVAE's with q at corrupted digits); the ELBO of its p and q on the data as they are; -log p(x) by S importance
samples, with the share of digits whose k-hat is above 0.7. The CVAE's numbers are of log p(x | y), and not comparable
with the others'.

The report's IWAE row is not monotone (-177.95 at N_z = 10), and its authors suspect an error. Its Eq. 9 gives h_1 the
standard prior *beside* p(h_1 | h_2). ``Eq. 9`` is the value of that formula for our trained model, next to the bound
with p(h_1) counted once.

How much the binarisation matters ("no significant impact", says the report) is a table of its own: the tuned VAE at
N_z = 20, trained and tested on each of three.

Scales: ``quick`` is 2.5 passes over the data, the first 500 test digits, 300 samples: it tells how far the methods get
early, not how far they get. ``paper`` is 100 passes, all 10,000 digits, 5,000 samples.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro.poutine as poutine
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import load
from pyro_vaes.data.binarise import binarised
from pyro_vaes.evaluation.plots import NEUTRAL, image_rows
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.likelihoods import measures, packed, spread, unpacked
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import run, untrained
from pyro_vaes.experiments.verdicts import verdict
from pyro_vaes.inference.denoised import Denoised
from pyro_vaes.inference.importance import log_mean_exp
from pyro_vaes.inference.objective import ELBO, log_prob, sampled_sites, trace_of
from pyro_vaes.inference.posterior import bound, reconstruct, sample
from pyro_vaes.pair import Pair

NAME = "course-report"
SIZES = (3, 5, 10, 20, 200)
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 1500, "test": 500, "samples": 300, "seeds": [0]},
    "paper": {"steps": 60_000, "test": 10_000, "samples": 5000, "seeds": [0, 1, 2]},
}
INVERTED = "threshold0_inverted"
OTHERS = ("threshold05", "static")
# The report's Table 1: lower bounds, in the order of SIZES.
PUBLISHED = {
    "VAE": (-137.64, -116.93, -95.22, -87.95, -90.31),
    "VAE tuned": (-140.68, -110.32, -89.78, -80.97, -83.41),
    "CNN": (-134.99, -113.61, -94.41, -77.78, -75.47),
    "IWAE": (-124.89, -122.45, -177.95, -114.72, -107.02),
    "DVAE": (-109.48, -102.58, -98.26, -92.89, -94.50),
    "beta-VAE": (-154.17, -141.21, -136.14, -137.06, -138.79),
    "CVAE": (-116.27, -98.99, -80.85, -75.43, -76.39),
}
METHODS = tuple(PUBLISHED)
ADAGRAD = ("VAE", "beta-VAE")  # the settings of the original, its rate picked
PICTURES, MAP = 10, 2000


def build(data_dim: int, method: str, size: int) -> Pair:
    """The report's network for a method and a size of the code."""
    tuned = {"latent_dim": size, "hidden": [500], "activation": "relu"}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "VAE": ("vae", {"latent_dim": size, "hidden": [500]}),
        "CNN": ("cnn_vae", {"latent_dim": size}),
        "IWAE": (
            "iwae_2",
            {"latent_dim": size, "hidden": [200], "middle": 100, "middle_hidden": [100], "particles": 50},
        ),
        "beta-VAE": ("vae", {"latent_dim": size, "hidden": [500], "beta": 4.0}),
        "CVAE": ("cvae", {"latent_dim": size, "hidden": [500]}),
    }
    name, arguments = made.get(method, ("vae", tuned))
    pair = untrained(name, data_dim, arguments, seed=torch.initial_seed() % 2**31)
    if method == "DVAE":
        pair.objective = Denoised(ELBO(), "salt_and_pepper:0.05")
    return pair


def plan_of(method: str, size: int, steps: int, seed: int) -> dict[str, Any]:
    """How the report trains it; the baseline's rate is still to be picked."""
    plan: dict[str, Any] = {"steps": steps, "batch_size": 100, "schedule": "constant", "seed": seed, "lr": 1e-3}
    if method in ADAGRAD:
        return plan | {"optimiser": "adagrad"}
    if method == "IWAE":
        # Fifty particles are worth a compilation even in few steps.
        return plan | {"engine": "inductor"}
    fast = {"CNN": size != 200}.get(method, size == 3)
    return plan | {"betas": (0.9, 0.99), "lr": 1e-2 if fast else 1e-3}


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    plan = SCALES[scale]
    load("mnist", root=root)
    cells = Cells(out / f"{NAME}.{scale}.cells", {**plan, "methods": METHODS, "sizes": SIZES}, root)
    slow = ("IWAE", "CNN", *(m for m in METHODS if m not in ("IWAE", "CNN")))
    settings = [(m, size, INVERTED, seed) for m in slow for size in SIZES for seed in plan["seeds"]]
    settings += [("VAE tuned", 20, kind, seed) for kind in OTHERS for seed in plan["seeds"]]
    known: dict[str, Any] = {"scale": scale, "root": str(root)}
    found = compute(
        partial(cell, **known), settings, cells, desc=NAME,
        steps=lambda setting: round(plan["steps"] * (1.3 if setting[0] in ADAGRAD else 1)),
    )  # fmt: skip
    pictures = {m: found[m, 3, INVERTED, plan["seeds"][0]]["pictures"] for m in METHODS}
    curves = {m: found[m, 20, INVERTED, plan["seeds"][0]]["curve"] for m in METHODS}
    result = {
        "settings": {**plan, "batch_size": 100, "binarisation": INVERTED},
        "seconds": cells.seconds(),
        "rows": [
            {"method": m, "published": PUBLISHED[m],
             **{key: [[found[m, size, INVERTED, s].get(key) for s in plan["seeds"]] for size in SIZES] for key in KEYS}}
            for m in METHODS
        ],
        "binarisations": {
            kind: {key: [found["VAE tuned", 20, kind, s][key] for s in plan["seeds"]] for key in KEYS[:4]}
            for kind in (INVERTED, *OTHERS)
        },
        "curves": curves,
        "verdicts": verdicts({key: value["each"] for key, value in found.items()}, plan["seeds"]),
    }  # fmt: skip
    latent = found["CNN", 3, INVERTED, plan["seeds"][0]]["map"]
    path = record(out, NAME, scale, result, _figures(result, scale, pictures, curves, latent))
    cells.discard()
    return path


KEYS = ("own", "elbo", "nll", "nll se", "k-hat", "active units", "Eq. 9", "lr")


def cell(method: str, size: int, kind: str, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train one method at one size on one binarisation, and judge it by the test digits."""
    plan = SCALES[scale]
    train, test = (
        binarised(load("mnist", root=root, split=split), kind, root=Path(root), split=split)
        for split in ("train", "test")
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, labels = train.x.to(device), train.y if method == "CVAE" else None
    how = plan_of(method, size, plan["steps"], seed)
    if method in ADAGRAD:
        how["lr"] = picked(x, method, size, plan["steps"] // 10, seed)
    pair = _built(x.shape[1], method, size, seed)
    rows = run(pair, x, labels, **how, log_every=max(1, plan["steps"] // 60)).rows
    pair = pair.cpu()
    y = test.y[: plan["test"]] if method == "CVAE" else None  # type: ignore[index]
    found, each = measures(pair, test.x[: plan["test"]], y, samples=plan["samples"], seed=seed)
    found |= {"lr": how["lr"], "each": each, "curve": [[row["epoch"], row["bound"]] for row in rows]}
    if method == "IWAE":
        found["Eq. 9"] = _as_printed(pair, test.x[: plan["test"]], seed)
    if size == 3:
        found["pictures"] = _pictures(pair, test.x, y, seed)
    if size == 3 and method == "CNN":
        encoder: Any = pair.guide.encoder
        with torch.no_grad():
            codes = encoder(test.x[:MAP])[0]
        found["map"] = {"codes": codes.tolist(), "labels": test.y[:MAP].tolist()}  # type: ignore[index]
    return found


def _built(data_dim: int, method: str, size: int, seed: int) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(data_dim, method, size)


def picked(x: Tensor, method: str, size: int, steps: int, seed: int) -> float:
    """The rate with the best bound on training digits that were held back, after a short training."""
    scores, held = {}, min(5000, len(x) // 10)
    for lr in (0.1, 0.02, 0.01):
        pair = _built(x.shape[1], method, size, seed)
        run(pair, x[:-held], **{**plan_of(method, size, max(1, steps), seed), "lr": lr})
        scores[lr] = bound(pair, x[-held:])
    return max(scores, key=lambda lr: scores[lr])


def _as_printed(pair: Pair, x: Tensor, seed: int) -> float:
    """The bound that Eq. 9 of the report computes: with N(z_1; 0, I) as a second prior of z_1."""
    standard = torch.distributions.Normal(0.0, 1.0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        bounds = []
        for rows in x.split(250):
            q = trace_of(pair.guide, rows, None, None, 50)
            p = trace_of(pair.model, rows, None, None, 50, at=q)
            twice = standard.log_prob(p.nodes["z_1"]["value"]).sum(-1)
            bounds.append(log_mean_exp(log_joint(p) - log_joint(q) + twice))
    return torch.cat(bounds).mean().item()


def log_joint(trace: poutine.Trace) -> Tensor:
    """The sum of the log-densities of all sites of a trace, (K, B)."""
    return torch.stack([log_prob(site) for _, site in sampled_sites(trace)]).sum(0)


def _pictures(pair: Pair, x: Tensor, y: Tensor | None, seed: int) -> list[str]:
    """Reconstructions of the first test digits, and new ones; of a conditional pair, ones, as in the report."""
    from torch.nn.functional import one_hot

    labels = None if y is None else one_hot(y[:PICTURES], 10).to(x.dtype)
    made = reconstruct(pair, x[:PICTURES], labels)[0]
    return [packed(made), packed(sample(pair, PICTURES, None if y is None else 1, seed=seed))]


def verdicts(each: dict[Any, list[float]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Judge the report's claims by -log p(x), test digit by test digit."""

    def log_p(method: str, size: int, kind: str = INVERTED) -> np.ndarray:
        return np.mean([each[method, size, kind, seed] for seed in seeds], 0)

    def over_sizes(better: str, worse: str, sizes: Sequence[int] = SIZES) -> list[float]:
        return list(np.mean([log_p(better, size) - log_p(worse, size) for size in sizes], 0))

    per = f"test digits, {len(seeds)} training(s) each"
    second = max((log_p(m, 200) for m in METHODS if m not in ("CNN", "CVAE")), key=np.mean)
    claims = [
        ("tuning improves the VAE (mean over N_z)", over_sizes("VAE tuned", "VAE")),
        ("the CNN-VAE is better than the tuned VAE (mean over N_z)", over_sizes("CNN", "VAE tuned")),
        ("the CNN-VAE is best at N_z = 200, of those that see no label", list(log_p("CNN", 200) - second)),
        ("the DVAE is better than the tuned VAE at N_z = 3", list(log_p("DVAE", 3) - log_p("VAE tuned", 3))),
        ("the IWAE is worse than the VAE from N_z = 10 on", over_sizes("VAE", "IWAE", (10, 20, 200))),
        ("beta = 4 costs likelihood (mean over N_z)", over_sizes("VAE", "beta-VAE")),
    ]
    found = [verdict(claim, "S4 Table 1", gains, per=per) for claim, gains in claims]
    # Not the mean of the steps, which is a third of the way from 3 to 20 whatever happens between them.
    rise = min((log_p("IWAE", b) - log_p("IWAE", a) for a, b in ((3, 5), (5, 10), (10, 20))), key=np.mean)
    claim = "with p(h_1) counted once, the IWAE's likelihood rises with N_z up to 20 (the smallest step)"
    found.append(verdict(claim, "ours, against S4 Table 1", list(rise), per=per))
    return found


def _figures(
    result: dict[str, Any], scale: str, pictures: dict[str, list[str]], curves: dict[str, Any], latent: dict[str, Any]
) -> dict[str, Figure]:
    steps, entries = result["settings"]["steps"], 784
    where = f"MNIST, {INVERTED} ({scale} scale, {steps} steps)"
    again = {m: unpacked(pictures[m][0], entries) for m in METHODS}
    new = {m: unpacked(pictures[m][1], entries) for m in METHODS}
    return {
        "bounds": _bounds(result, where),
        "curves": _curves(curves, where),
        "reconstructions": image_rows(again, (28, 28), title=f"{where}: test digits, reconstructed, N_z = 3"),
        "samples": image_rows(new, (28, 28), title=f"{where}: new digits, N_z = 3 (CVAE: ones)"),
        "map": _map(latent, where),
    }


def _bounds(result: dict[str, Any], where: str) -> Figure:
    """One panel per method: published bound, our ELBO, our log p(x), over N_z."""
    figure = Figure(figsize=(13.5, 5.6), dpi=160, layout="constrained")
    axes = figure.subplots(2, 4).flat
    at = range(len(SIZES))
    shown = [v for row in result["rows"] for v in row["published"]]
    shown += [float(np.mean(v)) for row in result["rows"] for v in row["elbo"]]
    for ax, row in zip(axes, result["rows"], strict=False):
        ours = {key: [float(np.mean(v)) for v in row[key]] for key in ("elbo", "nll")}
        ax.plot(at, row["published"], color="#9aa5b1", marker="s", markersize=4, label="published bound")
        ax.plot(at, ours["elbo"], color=NEUTRAL, marker="o", markersize=4, label="our ELBO")
        ax.plot(at, [-v for v in ours["nll"]], color="#d1495b", marker="o", markersize=4, label="our log p(x)")
        if row["method"] == "IWAE":
            printed = [float(np.mean(v)) for v in row["Eq. 9"]]
            ax.plot(at, printed, color="#d1495b", linestyle=":", marker="x", label="ours by the report's Eq. 9")
            ax.legend(fontsize=7, frameon=False)
        else:
            # One scale for all but the one whose printed formula lies far below.
            ax.set_ylim(min(shown) - 8, max(shown) + 8)
        title = row["method"] + (": log p(x | y)" if row["method"] == "CVAE" else "")
        ax.set_title(title, fontsize=10, loc="left", color=NEUTRAL)
        ax.set_xticks(list(at), [str(size) for size in SIZES])
        ax.set_xlabel("N_z", fontsize=9), ax.set_ylabel("nats per digit, higher is better", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    last = figure.axes[-1]
    last.set_axis_off()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    last.legend(handles, labels, fontsize=10, frameon=False, loc="center")
    figure.suptitle(where, fontsize=11, color=NEUTRAL)
    return figure


def _curves(curves: dict[str, Any], where: str) -> Figure:
    """Training bounds over the passes (Fig. 1 of the report has the first three)."""
    figure = Figure(figsize=(7.6, 4.2), dpi=160, layout="constrained")
    ax = figure.subplots()
    for method, points in curves.items():
        epochs, bounds = zip(*points, strict=True)
        kernel = np.ones(5) / 5
        smooth = np.convolve(bounds, kernel, mode="valid") if len(bounds) > 8 else np.asarray(bounds)
        ax.plot(epochs[len(epochs) - len(smooth) :], smooth, linewidth=1.5, label=method)
    ax.set_ylim(min(points[-1][1] for points in curves.values()) - 10, None)
    ax.legend(fontsize=8, frameon=False)
    ax.set_xlabel("passes over the data", fontsize=9)
    ax.set_ylabel("bound of the method's own objective, nats per digit", fontsize=9)
    ax.set_title(f"{where}, N_z = 20, training digits", fontsize=9, loc="left", color=NEUTRAL)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _map(latent: dict[str, Any], where: str) -> Figure:
    """The three codes of the CNN-VAE, two at a time, coloured by label (Fig. 7)."""
    codes, labels = np.asarray(latent["codes"]), np.asarray(latent["labels"])
    figure = Figure(figsize=(13, 4.4), dpi=160, layout="constrained")
    for ax, (a, b) in zip(figure.subplots(1, 3), ((0, 1), (0, 2), (1, 2)), strict=True):
        drawn = ax.scatter(codes[:, a], codes[:, b], c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=5)
        ax.set_xlabel(f"mean of z_{a + 1}", fontsize=9), ax.set_ylabel(f"mean of z_{b + 1}", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.colorbar(drawn, ax=figure.axes, ticks=range(10), label="digit")
    title = f"{where}: codes of {len(codes)} test digits, CNN-VAE, N_z = 3"
    figure.suptitle(title, fontsize=10, color=NEUTRAL)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as Markdown tables: bounds and likelihoods by method and size, and the binarisations apart."""
    lines: dict[str, str] = {"published bound": "", "own": "own objective", "elbo": "ELBO", "nll": "-log p(x)"}
    rows: list[list[object]] = []
    for row in result["rows"]:
        for key, label in lines.items():
            if key == "published bound":
                cells = [f"{v:.2f}" for v in row["published"]]
            else:
                cells = [_cell(row, key, i) for i in range(len(SIZES))]
            rows.append([row["method"] if key == "published bound" else "", label or key, *cells])
        if row["method"] == "IWAE":
            rows.append(["", "by the report's Eq. 9", *(spread(v, 1) for v in row["Eq. 9"])])
    first = markdown_table(["", "nats per digit", *(f"N_z = {size}" for size in SIZES)], rows)
    second = markdown_table(
        ["three data sets, not one: VAE tuned, N_z = 20, trained and tested on", "ELBO", "-log p(x)"],
        [[f"`{k}`", spread(v["elbo"]), spread(v["nll"])] for k, v in result["binarisations"].items()],
    )
    return f"{first}\n\n{second}"


def _cell(row: dict[str, Any], key: str, i: int) -> str:
    bad = float(np.mean(row["k-hat"][i]))
    return spread(row[key][i]) + (f" (k-hat > 0.7: {bad:.0%})" if key == "nll" else "")
