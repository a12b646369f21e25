"""Which outlier ratios and dimensions of a manifold each method recovers (S3 III, "Non-linear manifold recovery").

Protocol: 800 rows of 40 entries on a linear or a curved manifold (:func:`~pyro_vaes.data.manifold.contaminated`), with
a share of the entries, 5 to 45 %, moved by an outlier of up to three standard deviations. The manifold has r
dimensions, the networks have codes of 2 r. Convex RPCA is compared with three networks that are trained on the very
rows that they clean: the induced autoencoder with an l1 penalty of 0.1 on the code, the VAE whose diagonal variance
Sigma(z) is a network of the code, and the iC-VAE, which is that VAE with the best covariance for every datum. Decoder
means are affine on the linear manifold and have one hidden layer on the curved one; all encoders have one. The floors
are learned, the largest outlier to expect is 8. One training for all: Adam at 0.01 down to 0 along a cosine, batches of
200; beta rises from 0 to 1 in the first half of the steps (the induced autoencoder has none).

The error is ||L_hat - L|| / ||L||, in Frobenius norms, over all rows; a recovery is a success if it is below 0.1. A
cell is (manifold, method, dimension, ratio); the seeds, which are those of the data and of the training alike, are
trained side by side. A seed's success rate is over the dimensions and ratios of one manifold. Claims, fixed before any
training: of the recoveries that the convex program gets right, the VAE gets more than 95 % right ("its region contains
the convex one"); its success rate is above the convex program's; and above the induced autoencoder's. Each is put to
both VAEs and both manifolds.

Departs from S3, whose slide names axes and methods and nothing else: sizes, generator, threshold, networks, l1 weight
and training are ours. The rate and the batch were chosen among a few (0.003, 0.01, 0.02; 128, 250) on a handful of
problems of other seeds, by the error against the truth, before the protocol was fixed, and are the same for all
networks. An encoder has to learn to see through outliers from 800 dirty rows, where the convex program solves for every
row: the claims of S3's theory are about global optima, not about what training finds.

Scales: ``quick`` is 1000 steps on hidden layers of 160 units; ``paper`` 6000 steps, hidden layers of 300, 2000 rows and
a finer grid.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data.manifold import Contaminated, contaminated
from pyro_vaes.evaluation.plots import NEUTRAL
from pyro_vaes.evaluation.rpca import rpca
from pyro_vaes.experiments.cells import Cells, Setting, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained_each
from pyro_vaes.experiments.verdicts import interval, share_verdict, untested, verdict
from pyro_vaes.inference.posterior import reconstruct

NAME = "phase-diagram"
SOURCE = "S3 III"
CONVEX, INDUCED, SIGMA, IC = "convex", "induced_ae", "sigma_vae", "ic_vae"
LABELS = {CONVEX: "convex RPCA", INDUCED: "induced AE + l1", SIGMA: "VAE, learned Σ(z)", IC: "iC-VAE"}
MANIFOLDS = ("linear", "curved")
SUCCESS, CONTAINED, WIDTH, L1, WORST = 0.1, 0.95, 8.0, 0.1, 0.5
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "rows": 800, "entries": 40, "ratios": [0.05, 0.15, 0.3, 0.45],
        "dimensions": {"linear": [2, 5, 10], "curved": [1, 2, 4]},
        "hidden": [160], "steps": 1000, "batch_size": 200, "lr": 1e-2, "seeds": [0, 1, 2, 3, 4],
    },
    "paper": {
        "rows": 2000, "entries": 100, "ratios": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5],
        "dimensions": {"linear": [2, 5, 10, 15, 20, 25], "curved": [1, 2, 3, 4, 6, 8]},
        "hidden": [300], "steps": 6000, "batch_size": 200, "lr": 1e-2, "seeds": [0, 1, 2, 3, 4],
    },
}  # fmt: skip


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figure; it needs no data from ``root``."""
    plan = SCALES[scale]
    cells = Cells(out / f"{NAME}.{scale}.cells", plan)
    settings: list[Setting] = [
        (manifold, method, dimension, ratio)
        for manifold in reversed(MANIFOLDS) for method in reversed(LABELS)
        for dimension in plan["dimensions"][manifold] for ratio in plan["ratios"]
    ]  # fmt: skip
    found = compute(
        partial(cell, scale=scale), settings, cells, desc=NAME,
        steps=lambda setting: 0 if setting[1] == CONVEX else plan["steps"],
    )  # fmt: skip
    errors = {
        manifold: {
            method: [[found[manifold, method, d, r] for r in plan["ratios"]] for d in plan["dimensions"][manifold]]
            for method in LABELS
        }
        for manifold in MANIFOLDS
    }
    result = {
        "settings": {**plan, "success below": SUCCESS},
        "seconds": cells.seconds(),
        "errors": errors,
        "rates": {str(t): rates(errors, t) for t in (SUCCESS / 2, SUCCESS, 2 * SUCCESS)},
        "verdicts": verdicts(errors),
    }
    path = record(out, NAME, scale, result, {"maps": _figure(result, scale)})
    cells.discard()
    return path


def cell(manifold: str, method: str, dimension: int, ratio: float, scale: str) -> list[float]:
    """Recover the manifold from every seed; give the relative errors."""
    plan = SCALES[scale]
    data = [problem(manifold, dimension, ratio, seed, plan) for seed in plan["seeds"]]
    if method == CONVEX:
        # 1e-5 is far below every threshold; at ratios that it cannot recover, 1e-7 takes many times as long.
        low = [rpca(one.dirty, tol=1e-5).low_rank for one in data]
    else:
        low = networks(manifold, method, dimension, [one.dirty for one in data], plan)
    return [error(estimate, one.clean) for estimate, one in zip(low, data, strict=True)]


def problem(manifold: str, dimension: int, ratio: float, seed: int, plan: Mapping[str, Any]) -> Contaminated:
    """The data of one cell and seed; the manifold of a seed is the same at every ratio."""
    generator = torch.Generator().manual_seed(seed)
    return contaminated(plan["rows"], plan["entries"], dimension, ratio, kind=manifold, generator=generator)


def networks(
    manifold: str, method: str, dimension: int, data: Sequence[Tensor], plan: Mapping[str, Any]
) -> list[Tensor]:
    """Train one network per data set, and give what each makes of its own rows."""
    kinds: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
        ("linear", INDUCED): ("induced_ae", {"affine": True, "width": WIDTH, "l1": L1}),
        ("linear", SIGMA): ("affine_vae", {"scale": "diagonal", "minimum": 1e-2}),
        ("linear", IC): ("affine_ic_vae", {"width": WIDTH}),
        ("curved", INDUCED): ("induced_ae", {"real": True, "width": WIDTH, "l1": L1}),
        ("curved", SIGMA): ("lc_vae", {"real": True}),
        ("curved", IC): ("ic_vae", {"real": True, "width": WIDTH}),
    }
    name, arguments = kinds[manifold, method]
    arguments = {"latent_dim": 2 * dimension, "hidden": plan["hidden"], **arguments}
    warm: dict[str, Any] = {} if method == INDUCED else {"schedules": {"beta": (0.0, 1.0, max(1, plan["steps"] // 2))}}
    pairs = trained_each(
        name, list(data), arguments=[arguments] * len(data), seeds=plan["seeds"][: len(data)], **warm,
        **{key: plan[key] for key in ("steps", "batch_size", "lr")},
    )  # fmt: skip
    return [reconstruct(pair, x)[0] for pair, x in zip(pairs, data, strict=True)]


def error(estimate: Tensor, clean: Tensor) -> float:
    """The distance of an estimate from the truth, as a share of the truth's own size.

    >>> error(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0]))
    0.08
    """
    return round(((estimate - clean).norm() / clean.norm()).item(), 4)


def rates(errors: Mapping[str, Mapping[str, Any]], threshold: float) -> dict[str, dict[str, list[float]]]:
    """The share of a manifold's cells with an error below a threshold, by manifold, method and seed.

    >>> rates({"linear": {"convex": [[[0.01, 0.3]], [[0.02, 0.04]]]}}, 0.1)
    {'linear': {'convex': [1.0, 0.5]}}
    """
    return {
        manifold: {method: (np.array(cells) < threshold).mean((0, 1)).tolist() for method, cells in methods.items()}
        for manifold, methods in errors.items()
    }


def verdicts(errors: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Judge the claims, one gain per seed, in shares of cells; containment by the exact interval of its share.

    >>> convex, better = [[[0.01, 0.02]], [[0.3, 0.3]]], [[[0.03, 0.02]], [[0.05, 0.04]]]
    >>> one = {"convex": convex, "induced_ae": convex, "sigma_vae": [[[0.5, 0.5]]] * 2, "ic_vae": better}
    >>> [v["verdict"] for v in verdicts({"linear": one})][3:]  # of one cell nothing is more than 95 % for certain
    ['did not hold', 'held', 'held']
    """
    found = []
    for manifold, methods in errors.items():
        right = {method: np.array(cells) < SUCCESS for method, cells in methods.items()}
        rate = {method: cells.mean((0, 1)) for method, cells in right.items()}
        for vae in (SIGMA, IC):
            name, where = LABELS[vae], f"{manifold} manifold"
            claim = f"{where}: of what convex RPCA recovers, {name} recovers more than {CONTAINED:.0%} (share above it)"
            contained = right[vae][right[CONVEX]].tolist()
            found.append(
                share_verdict(claim, SOURCE, contained, CONTAINED, per="cells and seeds")
                if contained else untested(claim, SOURCE, "convex RPCA recovers nothing")
            )  # fmt: skip
            for other in (CONVEX, INDUCED):
                claim = f"{where}: {name} recovers more cells than {LABELS[other]} (share of cells)"
                found.append(verdict(claim, SOURCE, (rate[vae] - rate[other]).tolist()))
    return found


def _figure(result: Mapping[str, Any], scale: str) -> Figure:
    plan, seeds = result["settings"], len(result["settings"]["seeds"])
    figure = Figure(figsize=(2.55 * len(LABELS) + 0.9, 6.0), dpi=160, layout="constrained")
    grid = figure.subplots(len(MANIFOLDS), len(LABELS))
    for row, (axes, manifold) in enumerate(zip(grid, MANIFOLDS, strict=True)):
        for ax, method in zip(axes, LABELS, strict=True):
            values = np.array(result["errors"][manifold][method])
            image = ax.imshow(values.mean(-1), cmap="Blues", vmin=0, vmax=WORST, origin="lower", aspect="auto")
            ax.set_xticks(range(len(plan["ratios"])), [f"{r:.0%}" for r in plan["ratios"]])
            ax.set_yticks(range(len(values)), plan["dimensions"][manifold])
            ax.tick_params(labelsize=8, length=0), ax.spines[:].set_visible(False)
            for i, j in np.ndindex(values.shape[:2]) if values[..., 0].size <= 20 else ():
                dark = values[i, j].mean() > 0.6 * WORST
                text = f"{(values[i, j] < SUCCESS).sum()}/{seeds}"
                ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else NEUTRAL)
            if row == 0:
                ax.set_title(LABELS[method], fontsize=10, color=NEUTRAL)
            else:
                ax.set_xlabel("entries with an outlier", fontsize=9)
        axes[0].set_ylabel(f"{manifold} manifold\nits dimension", fontsize=9)
    bar = figure.colorbar(image, ax=grid, shrink=0.8, extend="max")
    bar.set_label(f"relative error (white: recovered, dark: failed; a success is below {SUCCESS:g})", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.ax.axhline(SUCCESS, color=NEUTRAL, linewidth=1.5)
    title = f"Recovery of a manifold from data with outliers: mean error over {seeds} seeds, and how many of them"
    figure.suptitle(f"{title} are below {SUCCESS:g} ({scale} scale)", fontsize=10, color=NEUTRAL)
    return figure


def table(result: dict[str, Any]) -> str:
    """The success rates as a Markdown table: mean and 95 % interval over the seeds, and at other thresholds."""
    rows: list[list[object]] = []
    strict, middle, loose = sorted(result["rates"], key=float)
    for manifold in MANIFOLDS:
        for method, label in LABELS.items():
            mean, low, _ = interval(result["rates"][middle][manifold][method])
            others = [f"{np.mean(result['rates'][t][manifold][method]):.0%}" for t in (strict, loose)]
            rows.append([manifold, label, f"{mean:.0%} ± {mean - low:.0%}", *others])
    header = ["manifold", "method", f"recovered (error below {middle})", f"below {strict}", f"below {loose}"]
    return markdown_table(header, rows)
