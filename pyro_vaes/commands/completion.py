"""The command complete: what a trained run makes of images of which it sees a part."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vaes.commands.files import (
    binarised_how,
    condition_for,
    data_of,
    finite,
    is_image,
    modelled,
    write_array,
    write_figure,
)
from pyro_vaes.commands.labels import seen_labels
from pyro_vaes.errors import InputError, whole

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.data import Dataset
    from pyro_vaes.inference.complete import Completed
    from pyro_vaes.inference.run import Run

WORDS = {"optimise": "most likely", "importance": "posterior mean", "nuts": "posterior mean"}


def do_complete(
    run: str,
    hide: str = "right",
    method: str = "optimise",
    count: int = 8,
    draws: int = 16,
    split: str | None = None,
    gamma: float | None = None,
    tau: float = 0.0,
    steps: int = 100,
    restarts: int = 4,
    samples: int = 1000,
    chains: int = 4,
    warmup: int = 200,
    noise: bool = False,
    seed: int = 0,
) -> None:
    """Complete images of which a part is hidden, with a trained run; show how sure the completions are.

    Args:
        run: the run folder; completion.npz, completion.json and, for images, completion.png are written into it.
        hide: what is hidden: right, left, top, bottom, eyes, mouth, centre, or a .npy file with a mask for all images,
            or for each of those that are taken: 1 where pixels are SEEN, 0 where they are hidden.
        method: optimise (one completion each), importance or nuts (draws of the posterior).
        count: how many images, evenly spread over the data.
        draws: completions of each, for importance and nuts.
        split: another part of the data set than the run was trained on, such as test, whole.
        gamma: weight of log p(z) beside the squared error of the seen pixels; left out, the run's own likelihood is
            taken.
        tau: weight of the run's discriminator, where it has one for images.
        steps: of the line search, at most.
        restarts: of the line search.
        samples: codes that are weighed, or kept of the chains.
        chains: of nuts, for each image: about a minute an image, for a small network.
        warmup: steps of a chain before the first that counts.
        noise: draw pixels with the noise of the likelihood.
        seed: of the draws.
    """
    import torch

    from pyro_vaes.inference.complete import complete
    from pyro_vaes.inference.run import Run

    whole("count", count)
    folder = Run.open(run)
    pair = folder.pair()
    dataset, x, dirty = data_of(folder, split)
    truth = x if dirty is None else _clean(folder, dataset)
    condition = folder.config["condition"]
    truth = modelled(condition, dataset, truth)[0]
    x, labels, shape = modelled(condition, dataset, x)
    y = condition_for(pair, condition, x, seen_labels(folder, pair, labels, split), dataset.name)
    if count > len(x):
        raise InputError(f"count is {count}: {dataset.name} has {len(x)} data")
    rows = torch.linspace(0, len(x) - 1, count).round().long()
    x, truth, y = x[rows], truth[rows], None if y is None else y[rows]
    mask = mask_of(hide, shape, count)
    found = complete(
        pair, x, mask, y, method=method, gamma=gamma, tau=tau, steps=steps, restarts=restarts, draws=draws,
        samples=samples, chains=chains, warmup=warmup, noise=noise, seed=seed, progress=method == "nuts",
    )  # fmt: skip
    settings = {
        "pair": pair.name, "data": dataset.name, "split": split, "rows": rows.tolist(), "hide": hide,
        "method": method, "gamma": gamma, "tau": tau, "steps": steps, "restarts": restarts, "samples": samples,
        "draws": len(found.draws), "noise": noise, "seed": seed,
    }  # fmt: skip
    figures = measured(found, truth, mask)
    for line in said(settings, figures):
        print(line)
    _write(folder, settings, figures, found, x, truth, mask, shape)


def mask_of(hide: str, shape: tuple[int, ...], rows: int) -> "Tensor":
    """The mask that an option names, (d,) or (rows, d): 1 seen, 0 hidden."""
    from pyro_vaes.data.hidden import hiding, read_mask

    return read_mask(hide, shape, rows) if Path(hide).suffix == ".npy" else hiding(hide, shape)


def _clean(folder: "Run", dataset: "Dataset") -> "Tensor":
    """The data before we made them dirty, made binary by the same rule."""
    from pyro_vaes.data import binarised

    kind = binarised_how(folder)
    rule = "static" if kind == "dynamic" else kind
    return dataset.x if rule is None else binarised(dataset, rule, seed=folder.config["data"]["seed"]).x


def measured(found: "Completed", truth: "Tensor", mask: "Tensor") -> dict[str, Any]:
    """Everything that completion.json says of the completions, as plain values, datum by datum."""
    from pyro_vaes.inference.guard import as_batch

    hidden = ~mask.bool().expand(found.mean.shape)
    true = as_batch(truth)

    def mse(image: "Tensor") -> list[float]:
        squares = (image - true).square().where(hidden, 0.0).double()
        return (squares.sum(-1) / hidden.sum(-1).clamp(min=1)).flatten().tolist()

    figures = {
        "hidden entries": hidden.sum(1).tolist(),
        "energy at the start": found.trace[0].tolist(), "energy": found.energy.tolist(),
        "energies of the restarts": found.restarts.T.tolist(), "steps": len(found.trace) - 1,
        "mse of the hidden entries": mse(found.mean),
    }  # fmt: skip
    if found.sd.isfinite().all():
        figures["mse of a draw"] = [sum(d) / len(d) for d in zip(*_by_draw(found, mse), strict=True)]
        spread = found.sd.double().where(hidden, 0.0).sum(1) / hidden.sum(1).clamp(min=1)
        figures["posterior sd, mean of the hidden entries"] = spread.tolist()
        known = {"ess": found.ess, "k-hat": found.khat, "R-hat": found.rhat}
        figures |= {name: value.tolist() for name, value in known.items() if not value.isnan().all()}
        figures |= {"codes come from": found.shares} if found.shares else {}
    return figures


def _by_draw(found: "Completed", mse: Any) -> list[list[float]]:
    return [mse(draw) for draw in found.draws]


def said(settings: dict[str, Any], figures: dict[str, Any]) -> list[str]:
    """The figures in a few lines."""
    count = len(figures["energy"])
    hidden = sum(figures["hidden entries"]) / count
    lines = [
        f"{settings['pair']}: {count} data of {settings['data']}, {hidden:.0f} entries hidden of each "
        f"({settings['hide']}), by {settings['method']}",
        f"energy: {_mean(figures['energy at the start']):.2f} -> {_mean(figures['energy']):.2f} "
        f"in {figures['steps']} steps",
        f"mse of the hidden entries: {_mean(figures['mse of the hidden entries']):.5f}",
    ]
    if "mse of a draw" in figures:
        lines.append(
            f"mse of a draw: {_mean(figures['mse of a draw']):.5f}; posterior sd of a hidden entry "
            f"{_mean(figures['posterior sd, mean of the hidden entries']):.4f}"
        )
    if "ess" in figures:
        lines.append(f"effective sample size: {min(figures['ess']):.1f} at least, of {settings['samples']}")
    if "k-hat" in figures:
        bad = sum(1 for k in figures["k-hat"] if not k <= 0.7)
        hint = ": their draws are not to be trusted; try nuts" if bad else ""
        lines.append(f"k-hat above 0.7: {bad} of {count}{hint}")
    if "R-hat" in figures:
        worst = max(figures["R-hat"])
        lines.append(f"R-hat: {worst:.3f} at most" + (": not mixed; take more samples" if not worst <= 1.05 else ""))
    return lines


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _write(
    folder: "Run",
    settings: dict[str, Any],
    figures: dict[str, Any],
    found: "Completed",
    x: "Tensor",
    truth: "Tensor",
    mask: "Tensor",
    shape: tuple[int, ...],
) -> None:
    import numpy as np

    from pyro_vaes.evaluation.completion_plots import completions
    from pyro_vaes.inference.checkpoint import write_atomically
    from pyro_vaes.inference.guard import as_batch

    path = folder.path / "completion.npz"
    seen, true = mask.bool().expand(found.mean.shape), as_batch(truth)
    images = {"truth": true, "completion": found.mean, "draws": found.draws, "sd": found.sd, "seen": seen}
    arrays = {name: value.numpy().reshape(*value.shape[:-1], *shape) for name, value in images.items()}
    arrays |= {name: value.numpy() for name, value in found.z.items() if name not in arrays}
    arrays |= {"energy": found.energy.numpy(), "trace": found.trace.numpy(), "rows": np.array(settings["rows"])}
    write_array(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    print(f"wrote {path}: {', '.join(arrays)}")
    path = folder.path / "completion.json"
    content = {**settings, **figures, "versions": folder.config.get("versions")}
    write_atomically(path, (json.dumps(finite(content), indent=2) + "\n").encode())
    print(f"wrote {path}")
    if not is_image(shape):
        return
    drawn, few = settings["method"] != "optimise", slice(0, 10)
    title = f"{settings['pair']}, {settings['data']}: {Path(settings['hide']).name} hidden (light blue)"
    bad = sum(1 for k in figures.get("k-hat", []) if not k <= 0.7)
    warning = f"\nk-hat above 0.7 for {bad} of {len(x)}: their draws and sd are not to be trusted" if bad else ""
    figure = completions(
        as_batch(x)[few], found.mean[few], seen[few], shape, truth=true[few], label=WORDS[settings["method"]],
        draws=found.draws[:, few] if drawn else None, sd=found.sd[few] if drawn else None,
        title=title + warning,
    )  # fmt: skip
    write_figure(folder.path / "completion.png", figure)
