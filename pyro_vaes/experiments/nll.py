"""-log p(x) of MNIST by importance sampling, for every variant of one likelihood (S2 Table 1; Burda et al. 2016).

Protocol: training digits are binarised anew at every step (``dynamic``); the first 50,000 train, the last 10,000 of the
training set validate, the test set is ``static`` (Larochelle's file where the root has it, else a draw that the result
names). Every row is one variant: the same two hidden layers of 200 and 50 codes, tanh, as in Burda et al., unless the
row says otherwise; Adam, batches of 100, a rate that falls to zero along a cosine; of the rates of a scale the one with
the best validation bound is kept. Reported are -log p(x) by S importance samples from the guide, its Monte-Carlo error,
and the share of data with k-hat above 0.7, for which it cannot be trusted: importance sampling errs on the high side,
the more so the worse the guide. How much is measured on the first test digits by annealed importance sampling with
Hamiltonian transitions, which starts from the guide and does not depend on it in the end; its gain over importance
sampling on the same digits is a column. (Flows, whose q is slow or impossible to score elsewhere, and convolutions,
which are slow, go without.)

Published numbers are of the same likelihood but not always of the same binarisation: each says which. ``beta`` = 0.784
is the weight that the code of S2's authors has in effect; beta = 1 is the bound.

Scales: ``quick`` is 6 passes over the data, 500 test digits, 1000 samples, one rate; ``paper`` 3280 passes as in Burda
et al., all 10,000 test digits, 10,000 samples, three rates.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vaes.data import load
from pyro_vaes.data.binarise import binarised
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.likelihoods import annealed, measures, spread, static_test
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import train, untrained
from pyro_vaes.experiments.verdicts import untested, verdict
from pyro_vaes.inference.denoised import Denoised
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.posterior import bound
from pyro_vaes.pair import Pair

NAME = "nll"
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 3000, "test": 500, "samples": 1000, "lrs": [2e-3], "annealed": 30, "seeds": [0]},
    "paper": {
        "steps": 1_640_000,
        "test": 10_000,
        "samples": 10_000,
        "lrs": [5e-4, 1e-3, 2e-3],
        "annealed": 1000,
        "seeds": [0, 1, 2],
    },
}
BATCH, TRAIN = 100, 50_000
BURDA, SAME = "Burda et al. 2016, dynamic", {"hidden": [200, 200], "latent_dim": 50}


@dataclass(frozen=True)
class Row:
    """One line of the table: a variant, its arguments, what changes on the way, and what others found."""

    variant: str
    arguments: dict[str, Any] = field(default_factory=lambda: dict(SAME))
    objective: Any = None
    warm_up: float = 0.0
    annealed: bool = True
    published: tuple[tuple[float, str], ...] = ()


def _iwae(k: int, *published: tuple[float, str], **more: Any) -> Row:
    return Row("iwae", {**SAME, "particles": k, **more}, published=published)


_PYTHAE, _BEST = "pythae's reproduction, static", "a reproduction of it, dynamic"
ROWS: dict[str, Row] = {
    "VAE": Row("vae", published=((82.04, "S2, conv trunk, trained dynamic, tested static"), (89.78, _PYTHAE))),
    "IWAE, K = 1": _iwae(1, (86.76, BURDA), (86.35, _BEST)),
    "IWAE, K = 5": _iwae(5, (85.54, BURDA), (85.18, _BEST)),
    "IWAE, K = 50": _iwae(50, (84.78, BURDA), (84.59, _BEST), (86.82, _PYTHAE)),
    "IWAE, K = 50, DReG": _iwae(50, (84.32, _BEST), estimator="dreg"),
    "IWAE, K = 5, STL": _iwae(5, estimator="stl"),
    "Renyi, alpha = 0.5, K = 5": _iwae(5, alpha=0.5),
    "two layers, K = 1": Row("iwae_2", {"particles": 1}),
    "two layers, K = 50": Row("iwae_2", {"particles": 50}, published=((82.90, BURDA), (82.82, _BEST))),
    "beta-VAE, beta = 4": Row("vae", {**SAME, "beta": 4.0}),
    "VAE, beta = 0.784": Row("vae", {**SAME, "beta": 0.784}),
    "KL warm-up": Row("vae", warm_up=0.2),
    "free bits, 0.05": Row("vae", objective=ELBO(free_bits=0.05)),
    "denoising VAE, 0.05": Row("vae", objective=Denoised(ELBO(), "salt_and_pepper:0.05")),
    "skip-VAE": Row("skip_vae"),
    "ladder VAE, 3 layers": Row(
        "ladder_vae", {}, warm_up=0.2, published=((79.24, "a 3-layer ladder, convolutional, static"),)
    ),
    "planar flow": Row(
        "planar_vae", {**SAME, "flows": 10}, annealed=False, published=((85.10, "planar flow, k = 80, static"),)
    ),
    "IAF": Row("iaf_vae", annealed=False),
    "neural spline flow": Row("spline_vae", annealed=False),
    "mixture prior": Row("mixture_vae"),
    "VampPrior": Row("vamp_vae", {**SAME, "components": 100}, published=((85.79, _PYTHAE),)),
    "CNN-VAE": Row("cnn_vae", {"latent_dim": 50}, annealed=False),
}

# The slowest first, so that no process works alone at the end.
SLOW = ("two layers, K = 50", "IWAE, K = 50", "IWAE, K = 50, DReG", "neural spline flow", "CNN-VAE", "VampPrior", "IAF")


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figure."""
    plan = {**SCALES[scale], "batch_size": BATCH, "latent_dim": 50, "binarisation": "dynamic, tested on static"}
    note = static_test(root, 1).note
    cells = Cells(
        out / f"{NAME}.{scale}.cells",
        {**plan, "rows": {name: repr(replace(row, published=())) for name, row in ROWS.items()}},
        root,
    )
    order = [*SLOW, *(name for name in ROWS if name not in SLOW)]
    found = compute(
        partial(cell, scale=scale, root=str(root)),
        [(name, seed) for name in order for seed in plan["seeds"]],
        cells,
        desc=NAME,
        steps=lambda _: plan["steps"] * len(plan["lrs"]),
    )
    rows = [
        {"row": name, **{key: [found[name, seed][key] for seed in plan["seeds"]] for key in KEYS},
         "published": [list(pair) for pair in row.published], "command": command(name, plan["steps"])}
        for name, row in ROWS.items()
    ]  # fmt: skip
    each = {name: [found[name, seed]["each"] for seed in plan["seeds"]] for name in ROWS}
    result = {
        "settings": {**plan, "test note": note},
        "seconds": cells.seconds(),
        "rows": rows,
        "verdicts": verdicts(each, plan["seeds"]),
    }
    path = record(out, NAME, scale, result, {"likelihood": _figure(result, scale)})
    cells.discard()
    return path


KEYS = ("elbo", "nll", "nll se", "k-hat", "active units", "valid", "lr", "minutes", "annealed")


def cell(name: str, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train one row from one seed, at every rate, and judge what validates best."""
    import time

    plan, row, began = SCALES[scale], ROWS[name], time.monotonic()
    grey = load("mnist", root=root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = grey.x[:TRAIN].to(device)
    valid = binarised(grey, "static", root=Path(root)).x[TRAIN:]
    best: tuple[float, float, Pair] | None = None
    for lr in plan["lrs"]:
        pair = _trained(row, x, seed, lr, plan["steps"]).cpu()
        score = bound(pair, valid)
        if best is None or score > best[0]:
            best = score, lr, pair
    assert best is not None
    test = static_test(Path(root), 10_000).x
    minutes = (time.monotonic() - began) / 60
    found, each = measures(best[2], test, samples=plan["samples"], data=plan["test"], seed=seed)
    few = test[: plan["annealed"]]
    found["annealed"] = annealed(best[2], few, samples=plan["samples"], seed=seed) if row.annealed else None
    return {**found, "valid": best[0], "lr": best[1], "minutes": minutes, "each": each}


def _trained(row: Row, x: torch.Tensor, seed: int, lr: float, steps: int) -> Pair:
    pair = untrained(row.variant, x.shape[1], row.arguments, seed)
    if row.objective is not None:
        pair.objective = deepcopy(row.objective)
    schedules = {"beta": (0.0, 1.0, max(1, int(row.warm_up * steps)))} if row.warm_up else None
    # Fifty particles are arithmetic enough to be worth a compilation even in few steps.
    engine = "inductor" if row.arguments.get("particles", 1) >= 50 else "auto"
    how: dict[str, Any] = {"steps": steps, "batch_size": BATCH, "lr": lr, "seed": seed, "engine": engine}
    return train(pair, x, **how, augment="dynamic", schedules=schedules)


def command(name: str, steps: int = 3000) -> str:
    """The command that makes a row by itself; what all rows have in common is left to the caption.

    >>> command("IWAE, K = 5")
    'pyro-vaes fit iwae --hidden "[200, 200]" --latent_dim 50 --particles 5'
    """
    row = ROWS[name]
    words = [
        f'--{key} "{value}"' if isinstance(value, list) else f"--{key} {value}" for key, value in row.arguments.items()
    ]
    if row.warm_up:
        words.append(f"""--schedules '{{"beta": [0, 1, {int(row.warm_up * steps)}]}}'""")
    return " ".join(["pyro-vaes fit", row.variant, *words])


def verdicts(each: dict[str, list[list[float]]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Judge the claims, test digit by test digit; with one training each, they hold for these trainings."""
    gain = {
        "more importance samples train a better model (K = 5 against 1)": ("IWAE, K = 5", "IWAE, K = 1"),
        "and more still a better one (K = 50 against 5)": ("IWAE, K = 50", "IWAE, K = 5"),
        "a second stochastic layer helps (K = 50)": ("two layers, K = 50", "IWAE, K = 50"),
        "DReG trains a better model than the plain gradient (K = 50)": ("IWAE, K = 50, DReG", "IWAE, K = 50"),
        "KL warm-up helps": ("KL warm-up", "VAE"),
        "an inverse autoregressive flow helps": ("IAF", "VAE"),
        "a VampPrior helps": ("VampPrior", "VAE"),
        "convolutions help": ("CNN-VAE", "VAE"),
    }
    source = {"DReG": "Tucker et al. 2019", "K = 5 ": "Burda et al. 2016", "K = 50": "Burda et al. 2016"}
    found = []
    for claim, (better, worse) in gain.items():
        if not {better, worse} <= set(each):
            found.append(untested(claim, "the rows' sources", "a row is missing"))
            continue
        both = [np.subtract(b, w) for b, w in zip(each[better], each[worse], strict=True)]
        where = next((name for key, name in source.items() if key in claim), "the row's source")
        found.append(verdict(claim, where, list(np.mean(both, 0)), per=f"test digits, {len(seeds)} training(s) each"))
    return found


def _figure(result: dict[str, Any], scale: str) -> Figure:
    """One dot of -log p(x) per row, what k-hat says of it, and the published numbers as strokes."""
    rows = sorted(result["rows"], key=lambda row: -float(np.mean(row["nll"])))
    names = [row["row"] for row in rows]
    figure = Figure(figsize=(8.4, 0.3 * len(rows) + 1.2), dpi=160, layout="constrained")
    ax = figure.subplots()
    values = [float(np.mean(row["nll"])) for row in rows]
    ax.hlines(range(len(rows)), min(values) - 20, values, color=CLASSICAL, linewidth=0.6)
    ax.plot(values, range(len(rows)), "o", color=ROBUST, markersize=6)
    ax.set_yticks(range(len(rows)), names)
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        ax.annotate(
            f"{value:.1f}  ({np.mean(row['k-hat']):.0%})",
            (value, i),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=NEUTRAL,
        )
        for number, _ in row["published"]:
            ax.plot([number] * 2, [i - 0.36, i + 0.36], color=NEUTRAL, linewidth=2)
    low = min([number for row in rows for number, _ in row["published"]] + values)
    ax.set_xlim(low - 5, max(values) + 22)
    says = "-log p(x), nats per digit, lower is better (in brackets: share of digits with k-hat above 0.7)"
    strokes = "strokes: published, other binarisations, networks and lengths among them: see the table"
    ax.set_xlabel(f"{says}\n{strokes}", fontsize=8)
    ax.margins(y=0.03)
    settings = result["settings"]
    title = f"MNIST, {settings['test']} static test digits ({scale} scale, {settings['steps']} steps)"
    ax.set_title(title, fontsize=10, loc="left", color=NEUTRAL)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    rows: list[list[object]] = []
    settings = result["settings"]
    for row in result["rows"]:
        published = "; ".join(f"{number:.2f} ({source})" for number, source in row["published"]) or "-"
        units, words = row["active units"], f"`{command(row['row'], settings['steps'])}`{_python(row['row'])}"
        rows.append(
            [
                row["row"], spread(row["nll"]), f"{np.mean(row['nll se']):.2f}", f"{np.mean(row['k-hat']):.0%}",
                _gain(row["annealed"]), spread([-v for v in row["elbo"]]), f"{np.mean(units):.0f}",
                f"{np.mean(row['minutes']):.1f}", published, words,
            ]
        )  # fmt: skip
    names = "row, -log p(x), Monte-Carlo error, k-hat > 0.7, annealing lowers it by, -ELBO, active units, minutes"
    common = "--data mnist --limit 50000 --binarise dynamic"
    common += f" --batch_size {BATCH} --lr {settings['lrs'][0]} --steps {settings['steps']}"
    end = (
        f"-log p(x) is of the first {settings['test']} test digits ({settings['test note']}), its error that of the "
        f"sampling alone; annealing is of the first {settings['annealed']}, the ELBO of all. Every command goes on "
        f"with `{common}`, and `pyro-vaes evaluate RUN --split test --likelihood {settings['samples']} --rows "
        f"{settings['test']}` follows it."
    )
    return f"{markdown_table([*names.split(', '), 'published', 'command'], rows)}\n\n{end}"


def _python(name: str) -> str:
    """What the command line cannot say of a row."""
    objective = ROWS[name].objective
    return "" if objective is None else f" with `pair.objective = {objective!r}`, from Python"


def _gain(annealed: list[dict[str, float] | None]) -> str:
    gains = [one["ais"] - one["is"] for one in annealed if one is not None]
    return spread(gains) if gains else "-"
