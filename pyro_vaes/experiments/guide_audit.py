"""What guides miss: gaps, k-hat and exact inference for four guides on two data sets (ours; Cremer et al. 2018).

Protocol: ``vae``, ``iwae``, ``crvae`` and ``ic_vae`` are trained on MNIST averaged to 14 x 14 (binarised anew at every
step for the first three; the iC-VAE sees the grey pixels, for which its outliers are made) and on Frey faces averaged
to 14 x 10 (N(mu, sd^2) with sd = 0.1 for the first three; the IWAE there is the Gaussian pair under the
importance-weighted bound). The VAE and the IWAE have the same networks, the iC-VAE the same with its own likelihood;
the crVAE is convolutional, with as many latent entries as its grid wants. Adam, at a rate that falls along a cosine.

Of test data (faces that training has not seen), ``data`` get a k-hat from ``draws`` draws of the guide,
and the first ``audited`` an audit: NUTS on the code with the decoder fixed, a Gaussian optimised for that datum, an
estimate of log p(x), and from them the approximation gap log p(x) - ELBO(q*) and the amortisation gap
ELBO(q*) - ELBO(q). For the iC-VAE, whose p is no density, log p(x) is known up to a constant, which the gaps do not
hold. Bias and scale error are of the guide's mean and standard deviation against those of NUTS, per entry of the code,
for data whose chains have mixed (R-hat up to 1.05).

At quick scale the crVAE and the iC-VAE, whose audit takes up to ten times as long, are trained once and twice, the
others five times, so that nothing is claimed of these two. The iC-VAE's chains are longer than the others': with
theirs, R-hat was above the limit for nearly all of its data.

Claims about gaps are of those data whose log p(x) has itself a k-hat of at most 0.7 (above it log p(x) is too low,
and with it the approximation gap alone), and a claim that sets gaps or widths of one pair beside another's of data
that serve in both; table and figure show the gaps of all audited data. On MNIST the iC-VAE sees grey pixels and the
others binary ones: there its k-hats differ by the data as well as by the pair. Intervals are over trainings, not over
data: every training is audited on the same test data. Faces are frames of one film, so that those held out have near
twins among those trained on.

Claims were written before anything was trained. That a gap is judged on data whose log p(x) is sure, and two pairs on
data that serve in both, was added when the first cells had been computed and no claim had been judged. Cremer et al.
find amortisation to be the larger gap on MNIST for fully factorised Gaussians; the others are ours.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vaes.analysis.compare import compare
from pyro_vaes.analysis.psis import psis, reweighted
from pyro_vaes.data import load
from pyro_vaes.data.binarise import binarised
from pyro_vaes.data.pool import pooled
from pyro_vaes.experiments.cells import Cells, compute
from pyro_vaes.experiments.guide_audit_figures import entries, errors_figure, gaps_figure, mixed, trainings
from pyro_vaes.experiments.likelihoods import spread
from pyro_vaes.experiments.record import markdown_table, record
from pyro_vaes.experiments.training import train, untrained
from pyro_vaes.experiments.verdicts import untested, verdict
from pyro_vaes.inference.importance import ImportanceWeighted
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair
from pyro_vaes.variants.parts import PIXELS, decoder_of, encoder_guide

NAME = "guide-audit"
SCALES: dict[str, dict[str, Any]] = {
    "quick": {
        "pool": 2, "steps": 2000, "batch_size": 64, "lr": 1e-3, "hidden": [200, 200], "latent_dim": 10,
        "filters": [8, 16], "channels": 4, "particles": 20, "data": 100, "draws": 1000, "audited": 16,
        "samples": 120, "warmup": 120, "depth": 5, "seeds": [0, 1, 2, 3, 4],
        "slow seeds": {"crvae": [0], "ic_vae": [0, 1]}, "ic_vae chains": {"samples": 200, "warmup": 200, "depth": 6},
    },
    "paper": {
        "pool": 1, "steps": 60_000, "batch_size": 128, "lr": 1e-3, "hidden": [200, 200], "latent_dim": 50,
        "filters": [32, 64], "channels": 8, "particles": 50, "data": 1000, "draws": 5000, "audited": 100,
        "samples": 1000, "warmup": 1000, "depth": 8, "seeds": [0, 1, 2, 3, 4],
        "slow seeds": {}, "ic_vae chains": {},
    },
}  # fmt: skip
SETS, ROWS = ("MNIST", "Frey"), ("vae", "iwae", "crvae", "ic_vae")
SD, BLOCKS = 0.1, 4
HELD_OUT = 365  # faces, the last ones of the film


def reproduce(out: Path, scale: str, root: Path) -> Path:
    """Run the protocol and record its numbers and figures."""
    plan = SCALES[scale]
    for name in SETS:  # a missing data set stops it before anything is trained
        images(name, "vae", scale, str(root))
    cells = Cells(out / f"{NAME}.{scale}.cells", {**plan, "sets": SETS, "rows": ROWS, "sd": SD}, root)
    found = compute(
        partial(cell, scale=scale, root=str(root)),
        # The slow rows last: their seeds are the first to go where time is short.
        [(name, row, seed) for row in ("vae", "iwae", "ic_vae", "crvae") for seed in seeds(row, plan) for name in SETS],
        cells,
        desc=NAME,
        steps=lambda _: plan["steps"],
    )
    result: dict[str, Any] = {
        "settings": {**plan, "sets": list(SETS), "rows": list(ROWS), "sd": SD},
        "seconds": cells.seconds(),
        "rows": [
            {"data": name, "row": row, "seeds": [found[name, row, seed] for seed in seeds(row, plan)]}
            for name in SETS
            for row in ROWS
        ],
    }
    result["verdicts"] = verdicts(result["rows"])
    figures = {"gaps": gaps_figure(result, scale), "errors": errors_figure(result, scale)}
    path = record(out, NAME, scale, result, figures)
    cells.discard()
    return path


def seeds(row: str, plan: Mapping[str, Any]) -> list[int]:
    """The seeds of a row."""
    found: list[int] = plan["slow seeds"].get(row, plan["seeds"])
    return found


def images(name: str, row: str, scale: str, root: str) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Give training data, test data and the shape of an image, as the row's likelihood takes them."""
    plan = SCALES[scale]
    if name == "Frey":
        faces = pooled(load("frey", root=root), plan["pool"])
        order = torch.randperm(len(faces.x), generator=torch.Generator().manual_seed(0))
        return faces.x[order[HELD_OUT:]], faces.x[order[:HELD_OUT]][: plan["data"]], faces.shape
    digits = pooled(load("mnist", root=root), plan["pool"])
    test = pooled(load("mnist", root=root, split="test", limit=plan["data"]), plan["pool"])
    return digits.x, (test if row == "ic_vae" else binarised(test, "static")).x, digits.shape


def built(name: str, row: str, shape: Sequence[int], scale: str, seed: int) -> Pair:
    """The untrained pair of a row."""
    plan, d = SCALES[scale], int(np.prod(shape))
    small = {"hidden": plan["hidden"], "latent_dim": plan["latent_dim"]}
    if row == "crvae":
        height, width = (-(-side // 2 ** len(plan["filters"])) for side in shape[-2:])
        own = {"hidden": plan["filters"], "latent_dim": plan["channels"] * height * width, "blocks": BLOCKS}
        sd = {} if name == "MNIST" else {"sd": SD}
        return untrained("crvae", d, {**own, **sd, "shape": list(shape)}, seed)
    if row == "ic_vae":
        return untrained("ic_vae", d, small, seed)
    if name == "MNIST":
        return untrained(row, d, {**small, **({"particles": plan["particles"]} if row == "iwae" else {})}, seed)
    pair = untrained(fixed_sd_vae, d, small, seed)
    if row == "iwae":
        pair.objective = ImportanceWeighted(plan["particles"])
    return pair


def fixed_sd_vae(data_dim: int, latent_dim: int, hidden: Sequence[int]) -> Pair:
    """The Gaussian VAE of pixels in [0, 1] with the standard deviation that the crVAE has."""
    model = LatentGaussian(StandardPrior(latent_dim), decoder_of(latent_dim, hidden, data_dim, False), FixedScale(SD))
    return Pair(model, encoder_guide(data_dim, hidden, latent_dim), range=PIXELS, name="vae")


def cell(name: str, row: str, seed: int, scale: str, root: str) -> dict[str, Any]:
    """Train one pair and audit its guide."""
    import time

    plan = SCALES[scale]
    x, test, shape = images(name, row, scale, root)
    dynamic: dict[str, Any] = {"augment": "dynamic"} if name == "MNIST" and row != "ic_vae" else {}
    pair = built(name, row, shape, scale, seed)
    how: dict[str, Any] = {key: plan[key] for key in ("steps", "batch_size", "lr")}
    pair = train(pair, x, seed=seed, **how, **dynamic)
    began = time.monotonic()
    weights = psis(pair, test, draws=plan["draws"], seed=seed)
    few = test[: plan["audited"]]
    chains = {key: plan[key] for key in ("samples", "warmup", "depth", "draws")}
    chains |= plan["ic_vae chains"] if row == "ic_vae" else {}
    found = compare(pair, few, **chains, seed=seed)
    line = found.chains.target.line
    means = reweighted(pair, few, lambda drawn: line.state(drawn.values), draws=plan["draws"], seed=seed).mean
    corrected = (means - found.chains.mean) / found.chains.sd
    kept = {key: value for key, value in found.as_dict().items() if key not in LEFT_OUT}
    numbers: dict[str, Any] = _plain({
        "k-hat of all": weights.khat.clamp(max=MOST).tolist(), "ess of all": weights.ess.tolist(), **kept,
        "corrected": corrected.tolist(), "audit minutes": (time.monotonic() - began) / 60,
    })  # fmt: skip
    return numbers


# What no table or figure shows, entry by entry.
LEFT_OUT = ("names", "rhat_by_entry", "ess_by_entry", "log_z_se", "best_se", "bound_se")
LIMIT = 0.7  # of a k-hat
FEWEST = 3  # trainings that a claim is judged by
MOST = 5.0  # an infinite k-hat is written as this one: JSON knows no infinity


def _plain(value: Any) -> Any:
    """Numbers that JSON can hold, to four places: the largest k-hat for an infinite one."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if not isinstance(value, float):
        return value
    return MOST if value == float("inf") else round(value, 4)


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Judge the claims by one number per seed."""
    of = {(row["data"], row["row"]): row["seeds"] for row in rows}
    found = []
    for name in SETS:

        def each(row: str, measure: Any, name: str = name) -> np.ndarray:
            return np.array([measure(seed) for seed in of[name, row]])

        where = f"{name}: "
        gap = each("vae", lambda s: _mean(np.subtract(s["amortisation"], s["approximation"]), _sound(s)))
        source = "Cremer et al. 2018, 5.2"
        found.append(_judged(f"{where}the VAE loses more by amortisation than by its family", source, list(gap)))
        wide = lambda s: mixed(s, "log2_width_by_entry")  # noqa: E731
        high = lambda s: _share(s["k-hat of all"])  # noqa: E731
        found.append(
            _judged(f"{where}the VAE's guide is narrower than the posterior", "ours", list(-each("vae", wide)))
        )
        claim = f"{where}the IWAE's guide is less narrow than the VAE's"
        pairs = list(zip(of[name, "iwae"], of[name, "vae"], strict=True))
        wider = [
            _mean(
                np.subtract(*(np.mean(s["log2_width_by_entry"], 1) for s in two)), np.all([s["mixed"] for s in two], 0)
            )
            for two in pairs
        ]
        found.append(_judged(claim, "ours", wider))
        claim = f"{where}the IWAE's guide lies further below log p(x) than the VAE's"
        further = [_mean(_total(a) - _total(b), _sound(a) & _sound(b)) for a, b in pairs]
        found.append(_judged(claim, "Rainforth et al. 2018", further))
        claim = f"{where}fewer data have k-hat above 0.7 under the IWAE's guide than under the VAE's"
        found.append(_judged(claim, "ours", list(each("vae", high) - each("iwae", high))))
        claim = f"{where}more data have k-hat above 0.7 under the iC-VAE's guide than under the VAE's"
        few = each("ic_vae", high)
        found.append(_judged(claim, "ours", list(few - each("vae", high)[: len(few)])))
        for row in ROWS:
            gain = each(row, lambda s: mixed(s, "bias_by_entry", absolute=True) - mixed(s, "corrected", absolute=True))
            claim = f"{where}{row}: smoothed weights bring the guide's mean nearer to that of NUTS"
            found.append(_judged(claim, "ours", list(gain)))
    return found


def _judged(claim: str, source: str, gains: list[float]) -> dict[str, Any]:
    if len(gains) < FEWEST:
        return untested(claim, source, f"{len(gains)} trainings are too few for an interval")
    if not np.isfinite(gains).all():
        return untested(claim, source, "of some seed no datum has a reference: chains that have mixed, or a sure log Z")
    return verdict(claim, source, gains)


def _sound(seed: Mapping[str, Any]) -> np.ndarray:
    """The data whose log Z can be believed: where it is too low, the approximation gap is too small."""
    return np.array(seed["log_z_khat"]) <= LIMIT


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    """The mean over some data; NaN without any."""
    return float(values[where].mean()) if where.any() else float("nan")


def _total(seed: Mapping[str, Any]) -> np.ndarray:
    return np.array(seed["approximation"]) + np.array(seed["amortisation"])


def _share(khat: Sequence[float]) -> float:
    return float(np.mean(np.array(khat) > LIMIT))


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    rows = list[list[object]]()
    for row in result["rows"]:
        seeds = row["seeds"]

        def over(measure: Any, digits: int = 2, seeds: Sequence[Any] = seeds) -> str:
            values = [float(measure(seed)) for seed in seeds]
            return spread(values, digits) if np.isfinite(values).all() else "-"

        rows.append([
            row["data"], f"`{row['row']}`", str(len(seeds[0]["bias_by_entry"][0])),
            f"{np.mean([np.median(s['k-hat of all']) for s in seeds]):.2f}",
            f"{np.mean([_share(s['k-hat of all']) for s in seeds]):.0%}",
            over(lambda s: np.mean(s["approximation"])), over(lambda s: np.mean(s["amortisation"])),
            f"{np.mean([_share(s['log_z_khat']) for s in seeds]):.0%}",
            f"{np.mean([np.mean(s['mixed']) for s in seeds]):.0%}",
            over(lambda s: 2 ** np.median(entries(s, "log2_width_by_entry")) if any(s["mixed"]) else np.nan),
            over(lambda s: mixed(s, "bias_by_entry", absolute=True)),
            over(lambda s: mixed(s, "corrected", absolute=True)),
        ])  # fmt: skip
    settings = result["settings"]
    names = (
        "data, pair, entries, k-hat, above 0.7, approximation gap, amortisation gap, log Z unsure, mixed, width, "
        "bias, bias under weights"
    )
    end = (
        f"k-hat (median) of {settings['data']} test data and {settings['draws']} draws; the rest of the first "
        f"{settings['audited']}, {trainings(settings)} with the half width of their 95 % interval. Gaps "
        "in nats per datum; *log Z unsure* is the share of data whose log Z has a k-hat above 0.7 of its own, so that "
        "the approximation gap is too small. *mixed*: R-hat of all entries up to 1.05; width sd(guide) / sd(NUTS), "
        "median over entries, and |bias| in posterior standard deviations, mean over entries, of those data only."
    )
    return f"{markdown_table(names.split(', '), rows)}\n\n{end}"
