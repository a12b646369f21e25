"""What the floor of log|e| does, and whether learning it does as well as the best one picked by looking at the truth.

Protocol: the digits of the demo (40 % of the pixels replaced by noise). An ic_vae is trained with each floor of a grid,
and once with a floor per entry that is learned; a t_vae, which has none, is the reference. The figure is the mean
squared error against the clean images, for each of the seeds (of data, parameters and noise alike).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_vaes.evaluation.metrics import mse
from pyro_vaes.evaluation.plots import NEUTRAL, ROBUST
from pyro_vaes.experiments import demo
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained, trained_together
from pyro_vaes.inference.posterior import active_units, clean, ordinary_residual
from pyro_vaes.pair import Pair

NAME = "floor-sweep"
FLOORS = (0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3)
SETTINGS = (*FLOORS, "learned", "t_vae")
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"steps": 3000, "seeds": [0]},
    "paper": {"steps": 6000, "seeds": [0, 1, 2]},
}


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figure."""
    steps = SCALES[scale]["steps"]
    cells = Cells(out / f"{NAME}.{scale}.cells", SCALES[scale])
    found = compute(
        partial(cell, steps=steps),
        [(setting, seed) for setting in SETTINGS for seed in SCALES[scale]["seeds"]],
        cells,
        desc=NAME,
        steps=lambda _: steps,
        together=lambda members: replicas(members, steps, device="cuda"),
        group=lambda setting: "fixed" if isinstance(setting[0], float) else setting[0],
    )
    keys, seeds = ("mse", "active units", "ordinary residual"), SCALES[scale]["seeds"]
    rows = [{"floor": s, **{key: [found[s, seed][key] for seed in seeds] for key in keys}} for s in SETTINGS]
    result = {
        **SCALES[scale],
        "corruption": demo.CORRUPTION,
        "seconds": cells.seconds(),
        "rows": rows,
    }
    path = record(out, NAME, scale, result, {"curve": _figure(result, scale)})
    cells.discard()
    return path


def cell(setting: float | str, seed: int, steps: int) -> dict[str, float]:
    """Train one floor from one seed."""
    name = "t_vae" if setting == "t_vae" else "ic_vae"
    arguments = {"floor": setting} if isinstance(setting, float) else {}
    return _measured(trained(name, demo.data(seed)[1], arguments=arguments, seed=seed, steps=steps), seed)


def replicas(
    members: Sequence[tuple[float | str, int]], steps: int, device: str, **plan: Any
) -> list[dict[str, float]]:
    """Train cells of one structure as replicas in one graph: all fixed floors, or all learned ones, or all t_vae.

    Args:
        members: (setting, seed) of each.
    """
    pairs = trained_together(
        "t_vae" if members[0][0] == "t_vae" else "ic_vae",
        [demo.data(seed)[1].to(device) for _, seed in members],
        arguments=[{"floor": setting} if isinstance(setting, float) else {} for setting, _ in members],
        seeds=[seed for _, seed in members],
        steps=steps,
        **plan,
    )
    return [_measured(pair.cpu(), seed) for (_, seed), pair in zip(members, pairs, strict=True)]


def _measured(pair: Pair, seed: int) -> dict[str, float]:
    x, dirty, _ = demo.data(seed)
    return {
        "mse": mse(clean(pair, dirty, draws=2).mean, x),
        "active units": active_units(pair, dirty),
        "ordinary residual": ordinary_residual(pair, dirty),
    }


def _figure(result: dict[str, Any], scale: str) -> Figure:
    values = {row["floor"]: float(np.mean(row["mse"])) for row in result["rows"]}
    figure = Figure(figsize=(6.4, 3.8), dpi=160, layout="constrained")
    ax = figure.subplots()
    ax.plot(FLOORS, [values[floor] for floor in FLOORS], marker="o", color=NEUTRAL)
    ax.set_xscale("log")
    lines = (("learned", "iC-VAE, floor learned", ROBUST, 4), ("t_vae", "t-VAE, no floor", "#2a9d8f", -11))
    for name, label, colour, offset in lines:
        ax.axhline(values[name], color=colour, linewidth=1.2)
        text, at = f"{label}: {values[name]:.4f}", (FLOORS[0], values[name])
        ax.annotate(text, at, (0, offset), textcoords="offset points", fontsize=8, color=colour)
    ax.annotate(
        "iC-VAE, floor fixed",
        (FLOORS[2], values[FLOORS[2]]),
        (8, 0),
        textcoords="offset points",
        fontsize=8,
        color=NEUTRAL,
    )
    ax.set_ylim(bottom=0)
    ax.set_xlabel("floor of log|e|, in pixel units", fontsize=9), ax.set_ylabel("mean squared error", fontsize=9)
    ax.set_title(f"Digits, 40 % noise ({scale} scale, {result['steps']} steps)", fontsize=10, loc="left", color=NEUTRAL)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    rows: list[list[object]] = [
        [
            row["floor"],
            *(float(np.mean(row[key])) for key in ("mse", "ordinary residual")),
            f"{np.mean(row['active units']):.0f}",
        ]
        for row in result["rows"]
    ]
    for row in rows:
        row[0] = f"{row[0]:g}" if isinstance(row[0], float) else str(row[0])
    return markdown_table(["floor", "MSE", "ordinary residual", "active units"], rows)
