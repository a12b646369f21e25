"""When recycling collapses, and what prevents it.

Protocol: the digits of the demo (40 % of the pixels replaced by noise). A ric_vae is trained from scratch; or from a
trained ic_vae with the learning rate of the demo, or with a fifth of it; with N = 2 and N = 5 passes; once with
gradients through the recycled datum; and with the KL term, which otherwise counts N times, weighed by 1/N.
All get the same number of steps after the start, and so does a
plain ic_vae that goes on without recycling. Collapse shows in the active units (none: the code says nothing) and in
the mean squared error against the clean images, here after M = 1, 2 and 5 passes at test time.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_vaes.evaluation.metrics import mse
from pyro_vaes.evaluation.plots import NEUTRAL
from pyro_vaes.experiments import demo
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import side_by_side, trained
from pyro_vaes.inference.posterior import active_units, clean

NAME = "recycling"
PASSES = (1, 2, 5)
WAYS: dict[str, dict[str, Any]] = {
    "iC goes on, no recycling": {"N": 1, "warm": True, "lr": 2e-4},
    "scratch, N = 2": {"N": 2, "warm": False, "lr": 1e-3},
    "scratch, N = 5": {"N": 5, "warm": False, "lr": 1e-3},
    "from iC, N = 2, full rate": {"N": 2, "warm": True, "lr": 1e-3},
    "from iC, N = 2, rate / 5": {"N": 2, "warm": True, "lr": 2e-4},
    "from iC, N = 2, rate / 5, gradient through x": {"N": 2, "warm": True, "lr": 2e-4, "recycle_grad": True},
    "from iC, N = 5, rate / 5": {"N": 5, "warm": True, "lr": 2e-4},
    "from iC, N = 2, rate / 5, KL / N": {"N": 2, "warm": True, "lr": 2e-4, "beta": 0.5},
    "from iC, N = 5, rate / 5, KL / N": {"N": 5, "warm": True, "lr": 2e-4, "beta": 0.2},
    "scratch, N = 5, KL / N": {"N": 5, "warm": False, "lr": 1e-3, "beta": 0.2},
}
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 2000, "seeds": [0]},
    "paper": {"steps": 6000, "seeds": [0, 1, 2]},
}


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figure."""
    began = time.monotonic()
    cells = [(way, seed, SCALES[scale]["steps"]) for way in reversed(WAYS) for seed in SCALES[scale]["seeds"]]
    runs = len(SCALES[scale]["seeds"]) * sum(2 if how["warm"] else 1 for how in WAYS.values())
    computed = side_by_side(cell, cells, desc=NAME, steps=runs * SCALES[scale]["steps"])
    found = {(way, seed): value for (way, seed, _), value in computed.items()}
    seeds = SCALES[scale]["seeds"]
    rows = [
        {
            "way": way,
            **{key: np.mean([found[way, seed][key] for seed in seeds], 0).tolist() for key in ("mse", "active units")},
        }
        for way in WAYS
    ]
    result = {
        **SCALES[scale],
        "corruption": demo.CORRUPTION,
        "seconds": round(time.monotonic() - began, 1),
        "rows": rows,
    }
    return record(out, NAME, scale, result, {"bars": _figure(result, scale)})


def cell(way: str, seed: int, steps: int) -> dict[str, Any]:
    """Train in one way from one seed."""
    x, dirty, _ = demo.data(seed)
    how = WAYS[way]
    plan: dict[str, Any] = {"seed": seed, "steps": steps}
    start = trained("ic_vae", dirty, arguments={}, **plan) if how["warm"] else None
    arguments = {"passes": how["N"], "recycle_grad": how.get("recycle_grad", False), "beta": how.get("beta", 1.0)}
    pair = trained("ric_vae", dirty, start=start, arguments=arguments, lr=how["lr"], **plan)
    errors = [mse(clean(pair, dirty, draws=2, passes=passes).mean, x) for passes in PASSES]
    return {"mse": errors, "active units": active_units(pair, dirty)}


def _figure(result: dict[str, Any], scale: str) -> Figure:
    rows = result["rows"][::-1]
    figure = Figure(figsize=(7.4, 4.2), dpi=160, layout="constrained")
    ax = figure.subplots()
    for i, (passes, colour) in enumerate(zip(PASSES, ("#2e4057", "#6c8ebf", "#c3d3ea"), strict=True)):
        y = np.arange(len(rows)) + 0.26 * (1 - i)
        ax.barh(y, [row["mse"][i] for row in rows], height=0.24, color=colour, label=f"M = {passes}")
    labels = [f"{row['way']}  [{row['active units']:.0f} active]" for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    ax.set_xlabel("mean squared error against the clean images", fontsize=9)
    ax.set_title(
        f"Recycling on digits, 40 % noise ({scale} scale, {result['steps']} steps)",
        fontsize=10,
        loc="left",
        color=NEUTRAL,
    )
    ax.legend(fontsize=8, frameon=False, title="passes at test time", title_fontsize=8, bbox_to_anchor=(1, 1))
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    header = ["training", "active units", *(f"MSE, M = {passes}" for passes in PASSES)]
    rows: list[list[object]] = [[row["way"], f"{row['active units']:.0f}", *row["mse"]] for row in result["rows"]]
    return markdown_table(header, rows)
