"""The demo: handwritten digits with 40 % of the pixels replaced by noise, cleaned without labels.

Protocol (after S0, V-A "Pixel-wise noise removal", on scikit-learn's digits): 1797 images of 8 x 8; each pixel is
replaced with probability 0.4 by a draw from U[0, 1]. Every method sees the dirty images alone and cleans those same
images; the figure is the mean squared error against the clean ones, pixels in [0, 1]. All networks are 64-512-256-16,
trained with Adam, 0.001 falling to zero along a cosine, batches of 128, the same number of steps; the recurrent one
starts from the trained ic_vae and goes on for a third of the steps with the learning rate / 5.
"""

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vaes.data import corrupt, load
from pyro_vaes.evaluation import report
from pyro_vaes.evaluation.baselines import BASELINES
from pyro_vaes.evaluation.metrics import cell_auc, f1, mse
from pyro_vaes.evaluation.plots import bars, image_rows
from pyro_vaes.evaluation.report import png
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import side_by_side, trained, untrained
from pyro_vaes.inference import checkpoint
from pyro_vaes.inference.checkpoint import write_atomically
from pyro_vaes.inference.posterior import Cleaned, clean
from pyro_vaes.inference.run import Run, versions
from pyro_vaes.inference.state import load_state, state
from pyro_vaes.inference.track import CHECKPOINT
from pyro_vaes.pair import Pair

NAME = "demo"
CORRUPTION = "impulse:0.4"
CLASSICAL = ("autoencoder", "l2_vae", "lc_vae")
ROBUST = ("ic_vae", "ric_vae", "t_vae")
STEPS = {"quick": 3000, "paper": 6000}
SEEDS = {"quick": (0,), "paper": (0, 1, 2, 3, 4)}
LABELS = {
    "dirty": "the dirty images",
    "mean": "mean image", "median": "median image", "pca": "PCA (10)", "rpca": "robust PCA",
    "autoencoder": "autoencoder", "l2_vae": "l2-VAE", "lc_vae": "LC-VAE",
    "ic_vae": "iC-VAE", "ric_vae": "RiC-VAE (2, 1)", "t_vae": "t-VAE",
}  # fmt: skip


def run(scale: str = "quick") -> tuple[dict[str, Any], dict[str, Pair]]:
    """Run the protocol once per seed; give the figures, and the trained pairs of the first seed.

    Args:
        scale: ``quick`` (3000 steps, one seed) or ``paper`` (6000 steps, five seeds).
    """
    began = time.monotonic()
    steps, seeds = STEPS[scale], SEEDS[scale]
    # The longest first: the iC-VAE is trained for its own sake and then goes on as the RiC-VAE.
    cells = [(name, seed, steps) for seed in seeds for name in ("ic_vae", "t_vae", *CLASSICAL)]
    total = len(cells) * steps + len(seeds) * (steps // 3)
    states = side_by_side(cell, cells, desc="training", steps=total)
    found: list[dict[str, Pair]] = [{} for _ in seeds]
    for (_, seed, _), part in states.items():
        found[seeds.index(seed)] |= _revive(part)
    per_seed = [_measure(pairs, seed) for pairs, seed in zip(found, seeds, strict=True)]
    first = per_seed[0]
    result = {
        "corruption": CORRUPTION,
        "steps": steps,
        "seeds": list(seeds),
        "seconds": round(time.monotonic() - began, 1),
        "mse": {name: sum(r["mse"][name] for r in per_seed) / len(per_seed) for name in first["mse"]},
        "mse by seed": {name: [r["mse"][name] for r in per_seed] for name in first["mse"]},
        "cells": {name: {k: _mean(per_seed, name, k) for k in first["cells"][name]} for name in first["cells"]},
        "floor": first["floor"],
    }
    return result, found[0]


def _mean(per_seed: list[dict[str, Any]], name: str, figure: str) -> float:
    return sum(r["cells"][name][figure] for r in per_seed) / len(per_seed)


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Give the clean digits, the dirty ones, and the mask of the pixels that were replaced."""
    digits = load("digits")
    dirty = corrupt(digits.x, CORRUPTION, shape=digits.shape, seed=seed)
    return digits.x, dirty.x, dirty.mask


@cache
def _baselines(seed: int) -> dict[str, Tensor]:
    return {name: baseline(data(seed)[1]) for name, baseline in BASELINES.items()}


def cell(name: str, seed: int, steps: int) -> dict[str, dict[str, Any]]:
    """Train one variant, and after the iC-VAE the RiC-VAE that starts from it; give their parameters as arrays."""
    _, dirty, _ = data(seed)
    pairs = {name: trained(name, dirty, arguments={}, seed=seed, steps=steps)}
    if name == "ic_vae":
        plan: dict[str, Any] = {"seed": seed, "steps": steps // 3, "lr": 2e-4}
        pairs["ric_vae"] = trained("ric_vae", dirty, start=pairs[name], arguments={}, **plan)
    return {n: {f"pair.{k}": t.detach().numpy() for k, t in state(pair).items()} for n, pair in pairs.items()}


def _revive(states: dict[str, dict[str, Any]]) -> dict[str, Pair]:
    pairs = {name: untrained(name, 64, {}, 0) for name in states}
    for name, pair in pairs.items():
        load_state(pair, {key: torch.as_tensor(array) for key, array in states[name].items()}, name)
    return pairs


def _measure(pairs: dict[str, Pair], seed: int) -> dict[str, Any]:
    x, dirty, mask = data(seed)
    figures: dict[str, Any] = {"mse": {"dirty": mse(dirty, x)}, "cells": {}, "floor": {}}
    for name, cleaned in _baselines(seed).items():
        figures["mse"][name] = mse(cleaned, x)
    for name, pair in pairs.items():
        found = clean(pair, dirty, seed=seed)
        figures["mse"][name] = mse(found.mean, x)
        inside = ((found.mean - x).abs() <= 2 * found.sd).float().mean().item()
        figures["cells"][name] = {
            "within 2 sd": inside,
            "auc": cell_auc(found.score, mask),
            "f1": f1(found.mask.flatten(), mask.flatten()),
        }
        figures["floor"] |= _floor(name, pair)
    return figures


def _floor(name: str, pair: Pair) -> dict[str, float]:
    """The size of an ordinary residual, which every result of a robust variant is read with."""
    model: Any = pair.model
    if name == "t_vae":
        return {"t_vae scale": model.scale().mean().item(), "t_vae nu": model.dof().item()}
    return {f"{name} floor": model.floor().mean().item()} if hasattr(model, "floor") else {}


def figures(result: dict[str, Any], scale: str, trained_pairs: dict[str, Pair]) -> dict[str, Figure]:
    """Draw the bars, the rows of images and the outlier maps, from the pairs of the first seed."""
    x, dirty, mask = data(result["seeds"][0])
    columns = list(range(0, 1797, 120))[:14]
    cleaned = {name: _baselines(result["seeds"][0])[name][columns] for name in ("pca", "rpca")}
    cleaned |= {name: clean(pair, dirty[columns]).mean for name, pair in trained_pairs.items()}
    order = sorted(cleaned, key=lambda name: -result["mse"][name])
    rows = {"dirty": dirty[columns]} | {_label(name, result): cleaned[name] for name in order} | {"truth": x[columns]}
    robust = [_label(name, result) for name in ROBUST]
    noise = f"40 % of the pixels are noise ({scale} scale, {result['steps']} steps)"
    return {
        "rows": image_rows(
            rows, (8, 8), title=f"Cleaned digits: {noise}. Mean squared error in brackets", highlight=robust
        ),
        "bars": bars(
            {LABELS[name]: value for name, value in result["mse"].items()},
            title=f"Digits, {noise}",
            xlabel="mean squared error against the clean images (lower is better)",
            highlight=[LABELS[name] for name in ROBUST],
        ),
        "outliers": _outliers(clean(trained_pairs["t_vae"], dirty[columns]), x[columns], dirty[columns], mask[columns]),
    }


def _outliers(found: Cleaned, x: Tensor, dirty: Tensor, mask: Tensor) -> Figure:
    rows = {
        "dirty": dirty,
        "cleaned": found.mean,
        "posterior sd": found.sd,
        "P(large residual)": found.probability,
        "pixels replaced": mask.float(),
        "truth": x,
    }
    maps = {"posterior sd": ("magma", 0.3), "P(large residual)": ("inferno", 1.0), "pixels replaced": ("inferno", 1.0)}
    return image_rows(
        rows, (8, 8), title="What the t-VAE says about each pixel. Bright is 1, for the posterior sd 0.3", maps=maps
    )


def _label(name: str, result: dict[str, Any]) -> str:
    return f"{LABELS[name]} ({result['mse'][name]:.3f})"


def write(out: Path, scale: str = "quick") -> None:
    """Run the demo and write results.json, the figures, the trained t_vae and a report.html into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    result, found = run(scale)
    drawn = {name: png(figure) for name, figure in figures(result, scale, found).items()}
    for name, content in drawn.items():
        write_atomically(out / f"{name}.png", content)
    write_atomically(out / "results.json", (json.dumps({**result, "versions": versions()}, indent=2) + "\n").encode())
    write_atomically(out / "report.html", _report(result, scale, drawn, found).encode())
    _write_run(out / "t_vae", found["t_vae"], STEPS[scale])
    print(table(result))
    print(f"\nwrote {out}: report.html (open this one), rows.png, bars.png, outliers.png, results.json, t_vae/")
    print(f"clean digits of your own with: pyro-vaes clean {out / 't_vae'} INPUT OUTPUT.npz")


def _write_run(folder: Path, pair: Pair, steps: int) -> None:
    """Keep a trained pair as a run folder that the other commands take."""
    source = {"source": "digits", "root": "data", "split": "train", "limit": None, "corrupt": CORRUPTION}
    config = {
        "target": pair.name, "arguments": {}, "data_dim": 64, "shape": [8, 8], "start": None,
        "data": {**source, "binarise": None, "seed": 0}, "device": "cpu", "checkpoint_every": 500,
        "plan": {"steps": steps, "batch_size": 128, "lr": 1e-3, "schedule": "cosine", "seed": 0},
    }  # fmt: skip
    Run.create(folder, config, replace=True)
    checkpoint.save(folder / CHECKPOINT, {f"pair.{k}": t for k, t in state(pair).items()}, {"step": steps})


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the demo and record it among the results."""
    result, found = run(scale)
    return record(out, NAME, scale, result, figures(result, scale, found))


def _report(result: dict[str, Any], scale: str, drawn: dict[str, bytes], found: dict[str, Pair]) -> str:
    order = sorted(result["mse"], key=lambda name: result["mse"][name])
    rows = [(LABELS[name], result["mse"][name]) for name in order]
    floors = ", ".join(f"{name} {value:.3f}" for name, value in result["floor"].items())
    parts = [
        report.paragraph(
            "1797 handwritten digits of 8 x 8 pixels; 40 % of the pixels were replaced by noise. Every method saw the "
            "dirty images alone: no clean image, no label, no mask. Coloured rows model outliers explicitly."
        ),
        report.picture(drawn["rows"], "Fourteen digits, from the worst method to the best."),
        report.heading("Mean squared error against the clean images"),
        report.table(["method", "MSE"], rows, robust=[LABELS[name] for name in ROBUST]),
        report.picture(drawn["bars"], "The same numbers; shorter is better, coloured methods model outliers."),
        report.heading("Which pixels are wrong, and how sure is that?"),
        report.picture(
            drawn["outliers"],
            "Bright in the fourth row: the t-VAE thinks that the residual is more than two ordinary ones. A replaced "
            "pixel that happens to fit the digit stays dark.",
        ),
        report.heading("What the t-VAE assumes"),
        report.listing(found["t_vae"].describe()),
        report.heading("How this was made"),
        report.paragraph(
            f"Scale: {scale}, {result['steps']} steps, seeds {result['seeds']}, {result['seconds']} s. Learned size of "
            f"an ordinary residual, in pixel units: {floors}. {', '.join(f'{k} {v}' for k, v in versions().items())}."
        ),
    ]
    return report.page("Dirty digits in, clean digits out", parts)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    order = sorted(result["mse"], key=lambda name: -result["mse"][name])
    cells, keys = result["cells"], ("auc", "f1", "within 2 sd")
    rows: list[list[object]] = [
        [LABELS[name], result["mse"][name], *(cells[name][key] if name in cells else "-" for key in keys)]
        for name in order
    ]
    return markdown_table(["method", "MSE", "replaced pixels: AUC", "F1", "truth within 2 sd"], rows)
