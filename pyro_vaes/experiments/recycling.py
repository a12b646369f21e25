"""When recycling helps: scattered dirt and blocks, from scratch and from a trained pair, weights, draws and gradients.

Protocol: scikit-learn's digits. *Scattered* dirt is that of the demo: 40 % of the pixels replaced by noise. *Blocks*
are one dark rectangle on every image of the digits in negative, dark ink on bright paper, where a dark block is seen.
A base pair, the iC-VAE or the t-VAE, is trained; every way then goes on from its parameters with the learning rate / 5
for half as many steps more, or takes all these steps from scratch at the full rate. "goes on" is the control: the base
pair with those steps and without recycling. N is the number of passes in training. "KL x N" is the paper's sum,
in which the KL term counts once per pass; "KL / N" weighs it so that it counts once in all; "warm-up" raises that
weight from 0 over a third of the steps. A pass hands on a draw from the likelihood (the paper's Eq. 7), or its mean;
the gradient stops at the datum that is handed on unless a way says otherwise. Errors are mean squared errors against
the clean images after M = 1, 2, 5 passes at test time, where the mean is handed on.

Nothing here is chosen by looking at clean data: the ways are all listed and all reported.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import corrupt, load
from pyro_vaes.evaluation.metrics import mse
from pyro_vaes.evaluation.plots import NEUTRAL
from pyro_vaes.experiments import demo
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import train, untrained
from pyro_vaes.experiments.verdicts import interval, verdict
from pyro_vaes.inference.posterior import active_units, clean
from pyro_vaes.inference.recycled import Recycled
from pyro_vaes.inference.schedules import Linear
from pyro_vaes.inference.state import warm_start
from pyro_vaes.pair import Pair

NAME = "recycling"
PASSES = (1, 2, 5)
TITLES = {"scattered": "scattered dirt", "blocks": "dark blocks"}
DIRT = tuple(TITLES)
CONTROL = "goes on"
WAYS: dict[str, dict[str, Any]] = {
    "goes on": {"N": 1},
    "N = 2, KL x N": {"N": 2, "kl": 1.0},
    "N = 2, KL / N": {"N": 2},
    "N = 2, KL / N, mean handed on": {"N": 2, "mean": True},
    "N = 2, KL / N, gradient through the draw": {"N": 2, "recycle_grad": True},
    "N = 5, KL x N": {"N": 5, "kl": 1.0},
    "N = 5, KL / N": {"N": 5},
    "scratch, N = 2, KL x N": {"N": 2, "scratch": True, "kl": 1.0},
    "scratch, N = 2, KL / N": {"N": 2, "scratch": True},
    "scratch, KL warm-up, no recycling": {"N": 1, "scratch": True, "warm-up": True},
    "scratch, KL warm-up, N = 2": {"N": 2, "scratch": True, "warm-up": True},
    "scratch, KL warm-up, N = 2, gradient": {"N": 2, "scratch": True, "warm-up": True, "recycle_grad": True},
}
T_WAYS = (
    "goes on",
    "N = 2, KL / N",
    "N = 5, KL / N",
    "scratch, KL warm-up, no recycling",
    "scratch, KL warm-up, N = 2",
)
BASES = {"ic_vae": ("indexed_ic_vae", tuple(WAYS)), "t_vae": ("t_vae", T_WAYS)}
LABELS = {"ic_vae": "iC", "t_vae": "t"}
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 1500, "seeds": [0, 1, 2]},
    "paper": {"steps": 6000, "seeds": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]},
}


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers, verdicts and figure."""
    setting = SCALES[scale]
    cells = Cells(out / f"{NAME}.{scale}.cells", {**setting, "ways": WAYS})
    todo = [(base, dirt, seed) for base in BASES for dirt in DIRT for seed in setting["seeds"]]
    found = compute(
        partial(cell, steps=setting["steps"]),
        todo,
        cells,
        desc=NAME,
        steps=lambda c: sum(_steps(way, setting["steps"]) for way in BASES[c[0]][1]) + setting["steps"],
    )
    rows = [
        {
            "base": base, "dirt": dirt, "way": way,
            "mse": [found[base, dirt, seed][way]["mse"] for seed in setting["seeds"]],
            "active units": [found[base, dirt, seed][way]["active units"] for seed in setting["seeds"]],
        }
        for dirt in DIRT for base in BASES for way in BASES[base][1]
    ]  # fmt: skip
    result = {"settings": setting, "seconds": cells.seconds(), "rows": rows, "verdicts": verdicts(rows)}
    path = record(out, NAME, scale, result, {"bars": _figure(result, scale)})
    cells.discard()
    return path


def data(dirt: str, seed: int) -> tuple[Tensor, Tensor]:
    """Give clean and dirty images.

    >>> x, dirty = data("blocks", 0)
    >>> bool((dirty <= x).all())
    True
    """
    if dirt == "scattered":
        return demo.data(seed)[:2]
    digits = load("digits")
    return 1 - digits.x, corrupt(1 - digits.x, "rectangles:1.0", shape=digits.shape, seed=seed).x


def cell(base: str, dirt: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one base pair, and go on from it in every way."""
    x, dirty = data(dirt, seed)
    name, ways = BASES[base]
    start = train(untrained(name, 64, {}, seed), dirty, seed=seed, steps=steps)
    found = {}
    for way in ways:
        pair = _go_on(start, name, dirty, way, seed, steps)
        errors = [mse(clean(pair, dirty, draws=2, passes=passes).mean, x) for passes in PASSES]
        found[way] = {"mse": errors, "active units": active_units(pair, dirty)}
    return found


def _steps(way: str, steps: int) -> int:
    return steps + steps // 2 if WAYS[way].get("scratch") else steps // 2


def _go_on(start: Pair, name: str, dirty: Tensor, way: str, seed: int, steps: int) -> Pair:
    how = WAYS[way]
    passes = how["N"]
    weight = how.get("kl", 1 / passes)
    base = untrained(name, 64, {"beta": weight}, seed)
    objective = Recycled(base.objective, passes, how.get("recycle_grad", False), mean=how.get("mean", False))
    pair = Pair(base.model, base.guide, objective, passes=1, range=base.range, name=f"recycled {name}")
    plan: dict[str, Any] = {"seed": seed, "steps": _steps(way, steps)}
    if not how.get("scratch"):
        plan["lr"] = 2e-4
        warm_start(pair, start)
    if how.get("warm-up"):
        plan["schedules"] = {"beta": Linear(0.0, weight, steps // 2)}
    return train(pair, dirty, **plan)


def verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judge what is claimed or hoped of recycling, per kind of dirt, by differences of errors paired by seed."""
    errors = {(r["base"], r["dirt"], r["way"]): np.array(r["mse"]) for r in rows}
    found = []
    for dirt in DIRT:

        def gain(
            worse: str, better: str, at: tuple[int, int] = (1, 1), base: str = "ic_vae", dirt: str = dirt
        ) -> list[float]:
            before, after = (
                errors[base, dirt, way][:, PASSES.index(m)] for way, m in zip((worse, better), at, strict=True)
            )
            return (before - after).tolist()

        two, five, alone = "N = 2, KL / N", "N = 5, KL / N", "scratch, KL warm-up, no recycling"
        warm = "scratch, KL warm-up, N = 2"
        claims = [
            ("recycling cleans better than iC alone, both from iC", "S0 V-B", gain(CONTROL, two)),
            ("recycling cleans better than iC alone, both with KL warm-up", "S0 V-B", gain(alone, warm)),
            ("recycling cleans better than t alone, both from t", "ours", gain(CONTROL, two, base="t_vae")),
            ("recycling cleans better than t alone, both with KL warm-up", "ours", gain(alone, warm, base="t_vae")),
            ("two passes at test time beat one (N = 2)", "S0 V-B", gain(two, two, at=(1, 2))),
            ("after five passes at test time recycling is ahead of iC", "S0 V-C", gain(CONTROL, five, at=(5, 5))),
            ("recycling from iC is ahead of recycling from scratch", "S0 App. B", gain("scratch, N = 2, KL / N", two)),
            ("KL warm-up helps recycling from scratch", "ours", gain("scratch, N = 2, KL / N", warm)),
            ("weighing the KL by 1 / N helps at N = 5", "ours", gain("N = 5, KL x N", five)),
            ("the gradient through the draw helps, from iC", "Q1", gain(two, f"{two}, gradient through the draw")),
            ("the gradient through the draw helps, from scratch", "Q1", gain(warm, f"{warm}, gradient")),
            ("handing on the mean beats a draw", "Q3", gain(two, f"{two}, mean handed on")),
        ]
        found += [verdict(f"{text} (digits, {dirt})", source, gains) for text, source, gains in claims]
    return found


def _figure(result: dict[str, Any], scale: str) -> Figure:
    figure = Figure(figsize=(11.5, 5.4), dpi=160, layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colours = dict(zip(PASSES, ("#2e4057", "#6c8ebf", "#c3d3ea"), strict=True))
    for ax, dirt in zip(axes, DIRT, strict=True):
        rows = [row for row in result["rows"] if row["dirt"] == dirt][::-1]
        for i, (passes, colour) in enumerate(colours.items()):
            means, lows, _ = zip(*(interval([e[i] for e in row["mse"]]) for row in rows), strict=True)
            y = np.arange(len(rows)) + 0.26 * (1 - i)
            spread = np.array(means) - np.array(lows)
            style = {"elinewidth": 0.8, "ecolor": "#555555"}
            ax.barh(y, means, xerr=spread, height=0.24, color=colour, error_kw=style, label=f"M = {passes}")
        ax.set_yticks(range(len(rows)), [f"{LABELS[row['base']]}: {row['way']}" for row in rows], fontsize=8)
        ax.set_xlabel("mean squared error against the clean images", fontsize=9)
        ax.set_title(
            {"scattered": "scattered dirt", "blocks": "dark blocks"}[dirt], fontsize=10, loc="left", color=NEUTRAL
        )
        ax.tick_params(axis="x", labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].legend(fontsize=8, frameon=False, title="passes at test time", title_fontsize=8, loc="lower right")
    settings = result["settings"]
    how = f"{scale} scale, {settings['steps']} steps, {len(settings['seeds'])} seeds, 95 % intervals"
    title = f"Recycling on digits ({how})"
    figure.suptitle(title, fontsize=10, color=NEUTRAL)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: one row per way, both kinds of dirt, mean and half width of the interval."""
    header = ["training", *(f"{dirt}, M = {passes}" for dirt in DIRT for passes in PASSES), "active units"]
    found = {(row["base"], row["dirt"], row["way"]): row for row in result["rows"]}
    rows: list[list[object]] = []
    for base, (_, ways) in BASES.items():
        for way in ways:
            cells = [_cell([e[i] for e in found[base, dirt, way]["mse"]]) for dirt in DIRT for i in range(len(PASSES))]
            active = [f"{np.mean(found[base, dirt, way]['active units']):.0f}" for dirt in DIRT]
            rows.append([f"{LABELS[base]}: {way}", *cells, " / ".join(active)])
    return markdown_table(header, rows)


def _cell(values: list[float]) -> str:
    mean, low, _ = interval(values)
    return f"{mean:.4f} ± {mean - low:.4f}"
