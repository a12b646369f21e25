"""What recycling owes to each of its choices, on the Frey faces with circles on 60 % of the images (S0 IV, V-B).

Protocol: data, networks and error of ``frey-recovery``. An iC-VAE is trained for half of the steps, and then goes on
for the other half recycling with N passes (N = 1: without recycling), at 1/N of the learning rate; each answer is read
after M = 1, 2, 3, 5 and 10 passes at test time, which needs no training. From N = 2 one choice at a time is changed:

a. N in {1, 2, 3, 5} and M (S1 5 promises more of them);
b. the gradient goes through the recycled datum, or is cut there (S0 Fig. 2 does not say; cut by default);
c. start from the iC-VAE or from scratch, with the same number of steps altogether;
d. the floor of log|e| is learned, or fixed at 0.01, 0.03, 0.1, 0.2 (S0 has none), for N = 1 and N = 2;
e. the learning rate is lr / N (S0 App. B halves it for N = 2 and divides by 5 for N = 5), or stays lr;
f. the KL term counts N times as in S0 Eq. 22, or is weighed by 1/N.

The error of a variant is that after as many passes at test time as in training, M = N. Seeds are those of circles,
parameters and noise alike; all comparisons are paired. ``quick`` and ``paper`` are those of ``frey-recovery``, but the
paper's iC-VAE has half of its 150,000 steps before N passes begin.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from pyro_vaes.data import load
from pyro_vaes.evaluation.metrics import mse
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST
from pyro_vaes.experiments.cells import Cells, Setting, compute
from pyro_vaes.experiments.frey_recovery import TEST_LEVEL, mark, thousandths
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import trained_each
from pyro_vaes.experiments.verdicts import interval, untested, verdict
from pyro_vaes.inference.posterior import active_units, clean

NAME = "frey-ablation"
PASSES = (1, 2, 3, 5)
TEST_PASSES = (1, 2, 3, 5, 10)
FLOORS = (0.01, 0.03, 0.1, 0.2)
USUAL: dict[str, Any] = {"N": 2, "grad": False, "warm": True, "floor": None, "over N": True, "KL over N": False}
WAYS: dict[str, dict[str, Any]] = {
    **{f"N = {n}": {**USUAL, "N": n} for n in PASSES},
    "N = 2, gradient through x": {**USUAL, "grad": True},
    "N = 2, from scratch": {**USUAL, "warm": False},
    **{f"N = {n}, floor {floor:g}": {**USUAL, "N": n, "floor": floor} for n in (1, 2) for floor in FLOORS},
    **{f"N = {n}, rate not divided": {**USUAL, "N": n, "over N": False} for n in (2, 5)},
    **{f"N = {n}, KL / N": {**USUAL, "N": n, "KL over N": True} for n in (2, 5)},
}
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"hidden": [256, 128], "steps": 1000, "lr": 1e-3, "schedule": "cosine", "seeds": [0, 1, 2]},
    "paper": {
        "hidden": [1000, 500, 250], "steps": 150_000, "lr": 1e-4, "schedule": "constant", "seeds": [0, 1, 2, 3, 4],
    },
}  # fmt: skip


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    plan = {**SCALES[scale], "latent_dim": 10, "batch_size": 100, "level": TEST_LEVEL}
    load("frey", root=root)
    cells = Cells(out / f"{NAME}.{scale}.cells", {**plan, "ways": WAYS}, root)
    slowest = sorted(WAYS, key=lambda way: -WAYS[way]["N"] * (1 if WAYS[way]["warm"] else 2))
    settings = [(way, seed) for way in slowest for seed in plan["seeds"]]
    known: dict[str, Any] = {"scale": scale, "root": str(root)}
    found = compute(
        partial(cell, **known), settings, cells, desc=NAME, steps=lambda _: plan["steps"],
        together=partial(together, **known), group=structure,
    )  # fmt: skip
    rows = {
        way: {key: [found[way, seed][key] for seed in plan["seeds"]] for key in ("mse", "base mse", "active units")}
        for way in WAYS
    }
    result = {
        "settings": {**plan, "test passes": list(TEST_PASSES)},
        "seconds": cells.seconds(),
        "ways": rows,
        "verdicts": verdicts(rows),
    }
    path = record(out, NAME, scale, result, {"grid": _grid(result, scale), "choices": _choices(result, scale)})
    cells.discard()
    return path


def cell(way: str, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train in one way from one seed."""
    return together([(way, seed)], scale, root)[0]


def structure(setting: Setting) -> Setting:
    """What ways must have in common to be replicas: all but numbers that are tensors (floor, beta) or rates.

    >>> structure(("N = 2, floor 0.01", 0)) == structure(("N = 2, floor 0.2", 1))
    True
    >>> structure(("N = 2", 0)) == structure(("N = 2, floor 0.2", 0))
    False
    """
    how = WAYS[setting[0]]
    return how["N"], how["grad"], how["warm"], how["floor"] is None


def together(settings: Sequence[Setting], scale: str, root: str) -> list[dict[str, Any]]:
    """Train many ways of one structure, as replicas; give of each what ``cell`` gives."""
    plan, faces = SCALES[scale], load("frey", root=root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hows, seeds = [WAYS[way] for way, _ in settings], [seed for _, seed in settings]
    dirty = [mark(faces, "circles", TEST_LEVEL, seed).x.to(device) for seed in seeds]
    base = [{"latent_dim": 10, "hidden": plan["hidden"], "floor": how["floor"]} for how in hows]
    recycled = [
        {
            **arguments,
            "passes": how["N"],
            "recycle_grad": how["grad"],
            "beta": 1 / how["N"] if how["KL over N"] else 1.0,
        }
        for how, arguments in zip(hows, base, strict=True)
    ]
    shared: dict[str, Any] = {"seeds": seeds, "schedule": plan["schedule"], "batch_size": 100}
    rates = [plan["lr"] / how["N"] if how["over N"] else plan["lr"] for how in hows]
    start, steps = None, plan["steps"]
    if hows[0]["warm"]:
        steps = plan["steps"] - plan["steps"] // 2
        start = trained_each("indexed_ic_vae", dirty, arguments=base, steps=plan["steps"] // 2, lr=plan["lr"], **shared)
    pairs = trained_each("ric_vae", dirty, start=start, arguments=recycled, steps=steps, lr=rates, **shared)
    return [
        {
            "mse": [mse(clean(pair, x, draws=2, passes=m).mean.cpu(), faces.x) for m in TEST_PASSES],
            "base mse": mse(clean(start[i], x, draws=2).mean.cpu(), faces.x) if start else None,
            "active units": active_units(pair, x),
        }
        for i, (pair, x) in enumerate(zip(pairs, dirty, strict=True))
    ]


def error(ways: dict[str, Any], way: str, passes: int | None = None) -> np.ndarray:
    """The errors of a way, one per seed, after M passes at test time: by default N.

    >>> error({"N = 2": {"mse": [[5.0, 4.0, 3.0, 2.0, 1.0]]}}, "N = 2").tolist()
    [4.0]
    """
    column = TEST_PASSES.index(WAYS[way]["N"] if passes is None else passes)
    return np.asarray(ways[way]["mse"])[:, column]


def verdicts(ways: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge the choices; gains are paired per seed, and positive where the claim holds (MSE, 60 % circles)."""
    e = partial(error, ways)
    best = np.min([e(f"N = 2, floor {floor:g}") for floor in FLOORS], 0)
    claims = [
        ("recycling in training helps: N = M = 2 beats N = M = 1", "S0 V-B", e("N = 1") - e("N = 2")),
        ("recycling at test time alone helps: N = 1, M = 2 beats M = 1", "S0 IV", e("N = 1") - e("N = 1", 2)),
        ("more passes at test time help: M = 10 beats M = 2, N = 2", "S0 IV", e("N = 2") - e("N = 2", 10)),
        ("more passes in training help: N = M = 5 beats N = M = 2", "S0 IV", e("N = 2") - e("N = 5")),
        (
            "the gradient through the recycled datum helps, N = 2",
            "S0 Fig. 2 (unclear)",
            e("N = 2") - e("N = 2, gradient through x"),
        ),
        ("the start from an iC-VAE helps, N = 2", "S0 App. B (digits)", e("N = 2, from scratch") - e("N = 2")),
        ("the rate lr / N helps, N = 2", "S0 App. B", e("N = 2, rate not divided") - e("N = 2")),
        ("the rate lr / N helps, N = 5", "S0 App. B", e("N = 5, rate not divided") - e("N = 5")),
        ("KL / N helps, N = 2", "ours", e("N = 2") - e("N = 2, KL / N")),
        ("KL / N helps, N = 5", "ours", e("N = 5") - e("N = 5, KL / N")),
        (
            "a learned floor comes within 10 % of the best of four fixed ones, picked by the truth per seed, N = 2",
            "ours",
            1.1 * best - e("N = 2"),
        ),
    ]
    medical = untested("recycling finds anomalies in medical images", "S1 5.3", "the data are not named or published")
    return [*(verdict(claim, source, gains.tolist()) for claim, source, gains in claims), medical]


def _title(result: dict[str, Any], scale: str) -> str:
    plan = result["settings"]
    return f"{scale} scale, {plan['steps']:,} steps, {len(plan['seeds'])} seeds"


def _grid(result: dict[str, Any], scale: str) -> Figure:
    values = 1000 * np.array([np.mean(result["ways"][f"N = {n}"]["mse"], 0) for n in PASSES])
    figure = Figure(figsize=(6.4, 3.6), dpi=160, layout="constrained")
    ax = figure.subplots()
    drawn = ax.imshow(values, cmap="viridis_r", aspect="auto")
    middle = (values.min() + values.max()) / 2
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if value > middle else "black"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(len(TEST_PASSES)), [f"M = {m}" for m in TEST_PASSES], fontsize=8)
    ax.set_yticks(range(len(PASSES)), [f"N = {n}" for n in PASSES], fontsize=8)
    ax.set_xlabel("passes at test time", fontsize=9), ax.set_ylabel("passes in training", fontsize=9)
    ax.set_title(f"Frey, {TEST_LEVEL} % circles ({_title(result, scale)})", fontsize=10, loc="left", color=NEUTRAL)
    figure.colorbar(drawn, ax=ax).set_label("mean squared error x 1000", fontsize=8)
    return figure


def _choices(result: dict[str, Any], scale: str) -> Figure:
    ways = list(WAYS)[::-1]
    found = [interval((1000 * error(result["ways"], way)).tolist()) for way in ways]
    figure = Figure(figsize=(7.4, 5.4), dpi=160, layout="constrained")
    ax = figure.subplots()
    usual = [way in ("N = 1", "N = 2", "N = 3", "N = 5") for way in ways]
    halves = [mean - low for mean, low, _ in found]
    ax.barh(
        range(len(ways)), [mean for mean, *_ in found], xerr=halves, height=0.7, error_kw={"elinewidth": 1},
        color=[ROBUST if u else CLASSICAL for u in usual],
    )  # fmt: skip
    active = [np.mean(result["ways"][way]["active units"]) for way in ways]
    ax.set_yticks(range(len(ways)), [f"{w}  [{a:.0f} active]" for w, a in zip(ways, active, strict=True)], fontsize=8)
    ax.set_xlim(left=0)
    ax.set_xlabel("mean squared error x 1000 after M = N passes; line: 95 % interval", fontsize=9)
    ax.set_title(
        f"Choices of recycling: Frey, {TEST_LEVEL} % circles ({_title(result, scale)})",
        fontsize=10,
        loc="left",
        color=NEUTRAL,
    )
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: one row per way, one column per number of passes at test time."""
    rows: list[list[object]] = []
    for way, values in result["ways"].items():
        columns = [thousandths(list(column)) for column in zip(*values["mse"], strict=True)]
        base = "-" if None in values["base mse"] else thousandths(values["base mse"])
        rows.append([way, base, *columns, f"{np.mean(values['active units']):.1f}"])
    header = ["MSE x 1000", "the start", *(f"M = {m}" for m in TEST_PASSES), "active units"]
    return markdown_table(header, rows)
