"""The command impute: the missing entries of data, from a trained run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vaes.commands.completion import mask_of
from pyro_vaes.commands.files import (
    beside,
    binarised_how,
    check_writable,
    condition_for,
    head,
    is_image,
    modelled,
    output_path,
    write_array,
    write_figure,
)
from pyro_vaes.errors import InputError, whole

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vaes.data import Dataset
    from pyro_vaes.inference.impute import Imputed
    from pyro_vaes.inference.run import Run

MOST_SHOWN = 8


def do_impute(
    run: str,
    input: str,
    output: str | None = None,
    mask: str | None = None,
    method: str = "importance",
    draws: int = 8,
    samples: int = 1000,
    chains: int = 4,
    warmup: int = 200,
    noise: bool = True,
    root: str | None = None,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
) -> None:
    """Fill in the missing entries of data with a trained run; say how sure that is, and whether it can be trusted.

    Args:
        run: the run folder.
        input: a .npy, .npz, .csv, .mat file or image folder, in which NaN (of a .csv an empty cell) is missing; or a
            data set by name, with --mask.
        output: a .npz file, for mean, sd, draws and what was observed, or .npy for the data filled in with their mean;
            by default imputation.npz in the run folder. A figure of images goes beside it.
        mask: a .npy file, 1 where entries are OBSERVED, 0 where they are missing, one for all data or one for each; or
            right, left, top, bottom, eyes, mouth, centre of images. Its missing entries are never looked at, except to
            say how far off the imputation is.
        method: importance, metropolis, gibbs (pseudo-Gibbs), nuts (at most 64 data) or optimise (no uncertainty).
        draws: imputed data of each datum that are kept.
        samples: codes that are weighed for each datum, or kept over all chains.
        chains: of metropolis, gibbs and nuts, for each datum.
        warmup: steps of a chain before the first that counts.
        noise: draws and sd are of the entries themselves; false, of their mean given the code.
        root: where data sets lie; by default where the run's lay.
        split: of a data set, train or test.
        limit: take this many data only.
        seed: of the draws.
    """
    from pyro_vaes.data import load
    from pyro_vaes.inference.guard import as_batch
    from pyro_vaes.inference.impute import impute
    from pyro_vaes.inference.run import Run

    whole("limit", 1 if limit is None else limit)
    folder = Run.open(run)
    output = str(folder.path / "imputation.npz") if output is None else output
    path = output_path(output, input, run, (".npz", ".npy"), also=mask)
    check_writable(path.parent)
    pair = folder.pair()
    where = folder.config["data"]["root"] if root is None else root
    dataset = load(input, root=where, split=split, limit=limit, missing=True)
    dataset, _ = head(dataset, dataset.x)
    dataset = _binary(folder, dataset)
    x, labels, shape = modelled(folder.config["condition"], dataset, as_batch(dataset.x))
    # Rows without a shape of their own have that of the run's data.
    own = tuple(folder.config["shape"] or ())
    grid = own if not is_image(shape) and math.prod(own) == x.shape[1] else shape
    seen = ~x.isnan()
    if mask is not None:
        seen = seen & mask_of(mask, grid, len(x)).bool()
    if bool(seen.all()):
        raise InputError(f"nothing is missing in {input}: NaN is, or what --mask marks with 0")
    y = condition_for(pair, folder.config["condition"], x.nan_to_num(), labels, dataset.name)
    found = impute(
        pair, x, seen, y, method=method, draws=draws, samples=samples, chains=chains, warmup=warmup, noise=noise,
        seed=seed, progress=True,
    )  # fmt: skip
    share = float((~seen).float().mean())
    title = f"{pair.name}, {Path(dataset.name).name}: {share:.0%} of the entries of {len(x)} data missing"
    for line in said(found, x, f"{title}, by {method}"):
        print(line)
    _write(path, found, shape)
    if is_image(grid):
        rows = (~seen.all(1)).nonzero()[:MOST_SHOWN, 0]
        truth = x[rows] if bool(x[rows].isfinite().all()) else None
        write_figure(beside(path), _figure(found, x, truth, rows, grid, title))


def _binary(folder: "Run", dataset: "Dataset") -> "Dataset":
    """The observed values, made binary as the run's were; what is drawn anew in training is drawn once."""
    import torch

    from pyro_vaes.data import binarised
    from pyro_vaes.inference.guard import as_batch

    kind = binarised_how(folder)
    x = as_batch(dataset.x)
    gone = x.isnan()
    if kind is None or bool(((x == 0) | (x == 1) | gone).all()):
        return dataset
    whole_ = replace(dataset, x=x.nan_to_num())
    made = binarised(whole_, "static" if kind == "dynamic" else kind, seed=folder.config["data"]["seed"])
    print(f"binarised: {made.note}")
    return replace(made, x=torch.where(gone, torch.nan, as_batch(made.x)))


def said(found: "Imputed", x: "Tensor", title: str) -> list[str]:
    """What was done, in a few lines."""
    seen, gone = found.observed, ~found.observed
    rows = gone.any(1)
    lines = [f"{title}: {int(rows.sum())} data of {len(x)} imputed, {int(gone.sum()):,} entries"]
    blind = int((~seen.any(1)).sum())
    if blind:
        lines.append(f"{blind} data have nothing observed: they are drawn from the model")
    known = gone & x.isfinite()
    if known.any():
        away = float((found.mean - x)[known].double().square().mean().sqrt())
        sd = float(found.sd[known].double().square().mean().sqrt())
        ratio = f": {away / sd:.1f} times the posterior sd (1 is right, more is too sure)" if sd > 0 else ""
        lines.append(f"against what the mask hides: the mean is off by {away:.4f} (root mean square){ratio}")
    if found.sd[gone].isfinite().all():
        lines.append(f"posterior sd of a missing entry: {found.sd[gone].mean():.4f}")
    for name, word in (("ess", "effective sample size"), ("accepted", "share of accepted proposals")):
        values = getattr(found, name)[rows]
        if not values.isnan().all():
            lines.append(f"{word}: median {values.nanmedian():.3g}, least {values[~values.isnan()].min():.3g}")
    finding = found.finding()
    return [*lines, str(finding), "(none of this says whether the model is right: pyro-vaes check RUN does)"]


def _write(path: Path, found: "Imputed", shape: tuple[int, ...]) -> None:
    import numpy as np

    def shaped(rows: "Tensor") -> Any:
        return rows.numpy().reshape(*rows.shape[:-1], *shape)

    if path.suffix == ".npy":
        write_array(path, lambda file: np.save(file, shaped(found.mean)))
        print(f"wrote {path}: the data, their missing entries filled in with the mean")
        return
    arrays = {name: shaped(getattr(found, name)) for name in ("mean", "sd", "draws", "observed")}
    arrays |= {name: getattr(found, name).numpy() for name in ("ess", "khat", "rhat", "accepted")}
    write_array(path, lambda file: np.savez_compressed(file, **arrays))
    print(f"wrote {path}: {', '.join(arrays)}")


def _figure(
    found: "Imputed", x: "Tensor", truth: "Tensor | None", rows: "Tensor", shape: tuple[int, ...], title: str
) -> Any:
    from pyro_vaes.evaluation.completion_plots import completions

    drawn = found.method != "optimise"
    finding = found.finding()
    # What stands in brackets or after the colon is for the screen: the picture is narrow.
    short = finding.said.split(":")[0].split(" (")[0].replace(" data with missing entries", "")
    words = f"{title}\nmissing: light blue; imputed by {found.method}; {finding.verdict}: {short}"
    return completions(
        x[rows].nan_to_num(), found.mean[rows], found.observed[rows], shape, truth=truth,
        draws=found.draws[:3, rows] if drawn else None, sd=found.sd[rows] if drawn else None, most=3,
        label="imputed mean" if drawn else "imputed", title=words,
    )  # fmt: skip
