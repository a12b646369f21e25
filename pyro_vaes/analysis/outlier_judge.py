"""Is an outlier's probability what it says? The posterior of outliers against a mask that is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vaes.analysis.outlier_posterior import Moments, OutlierPosterior, outlier_posterior
from pyro_vaes.errors import InputError, image_shape, said, whole
from pyro_vaes.evaluation.metrics import average_precision, cell_auc
from pyro_vaes.finding import Finding
from pyro_vaes.pair import Pair
from pyro_vaes.tensors import NARROW, plain

# Fixed beforehand: a probability that is five points off on average still orders what to look at; an interval that
# holds ten points less than it says is another interval, and twenty points less none.
CALIBRATED, OFF, FAR = 0.05, 0.1, 0.2
QUESTION = "is the probability of being an outlier calibrated?"


@dataclass(frozen=True)
class Judged:
    """How the probabilities and intervals of a pair fare where the dirt is known.

    Attributes:
        pair: its name. entries, dirty: how many there are, and the share that is dirty.
        auc, precision, skill, error: of the probability of being an outlier, by ``guide`` and ``weighted`` draws, and
            of ``exceeds`` (weighted): ROC AUC, average precision, Brier skill, expected calibration error.
        bins: what :func:`~pyro_vaes.evaluation.reliability.reliability` counted, of each.
        level: of the intervals. covered: share of dirty entries whose clean value lies in its interval, by ``guide``
            and ``weighted`` draws; empty where clean values are not known.
        trusted: share of data with k-hat below 0.7.
    """

    pair: str
    entries: int
    dirty: float
    auc: Mapping[str, float]
    precision: Mapping[str, float]
    skill: Mapping[str, float]
    error: Mapping[str, float]
    bins: Mapping[str, list[list[float]]]
    level: float
    covered: Mapping[str, float]
    trusted: float

    def finding(self) -> Finding:
        """Say whether the (weighted) probability and the interval of the clean value can be taken at their word.

        ``good`` if the expected calibration error is at most 0.05, the Brier skill is positive, and the intervals of
        dirty entries hold the clean value within ten points of their level (where it is known); ``bad`` if the plain
        share of dirt is the better probability, or intervals are off by more than twenty points; else ``caution``.
        """
        skill, error = self.skill["weighted"], self.error["weighted"]
        away = abs(self.covered["weighted"] - self.level) if self.covered else 0.0
        bad = skill <= 0 or away > FAR
        verdict = "bad" if bad else "caution" if error > CALIBRATED or away > OFF else "good"
        numbers: dict[str, Any] = {
            "auc": self.auc["weighted"], "brier skill": skill, "ece": error, "dirty": self.dirty,
            "covered": self.covered.get("weighted"), "level": self.level, "share with k-hat < 0.7": self.trusted,
        }  # fmt: skip
        said = f"AUC {self.auc['weighted']:.2f}, calibration error {error:.3f}, Brier skill {skill:.2f}"
        if self.covered:
            said += (
                f"; {100 * self.level:.0f} % intervals hold {100 * self.covered['weighted']:.0f} % of the clean values "
                "under dirt"
            )
        end = {
            "good": "probabilities can be taken at their word",
            "caution": "rank entries by it, set no threshold in it",
            "bad": "do not read it as a probability" if skill <= 0 else "do not use the intervals",
        }
        return Finding("outlier probability", QUESTION, verdict, f"{said}: {end[verdict]}", numbers)


def judge_outliers(found: OutlierPosterior, mask: Tensor, clean: Tensor | None = None) -> Judged:
    """Judge a posterior of outliers by a mask that is known.

    Args:
        mask: (N, d), bool, True where dirty; both kinds must occur. clean: (N, d), the data before they became dirty,
            in the units of x; None where nobody knows.

    Raises:
        InputError: if shapes differ, or mask has one value only.

    Source: Brier (1950) for the score and its skill; Naeini et al. (2015) for the calibration error.

    >>> from pyro_vaes.variants import t_vae
    >>> import torch
    >>> x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    >>> found = outlier_posterior(t_vae(4, 2, (5,)), x, draws=50)
    >>> sorted(judge_outliers(found, x > 0.7, x).covered)
    ['guide', 'weighted']
    """
    from pyro_vaes.evaluation.reliability import brier_skill, calibration_error, reliability

    if not isinstance(found, OutlierPosterior):
        raise InputError(f"found is {said(found)}: it must be what outlier_posterior gives")
    mask = plain("mask", mask, 2, "a bool tensor, True where an entry is dirty").cpu()
    both = {"guide": found.guide.outlier, "weighted": found.weighted.outlier, "exceeds": found.weighted.exceeds}
    bins = {name: reliability(p, mask) for name, p in both.items()}
    covered = {}
    if clean is not None:
        if plain("clean", clean, 2, "a tensor of finite floats in the units of x").shape != mask.shape:
            raise InputError(f"clean has shape {tuple(clean.shape)}, mask {tuple(mask.shape)}: they must agree")
        if not clean.is_floating_point() or clean.dtype in NARROW or not bool(clean.isfinite().all()):
            raise InputError(f"clean is {clean.dtype}: it must be a tensor of finite floats in the units of x")
        covered = {n: _covered(m, clean, mask) for n, m in (("guide", found.guide), ("weighted", found.weighted))}
    return Judged(
        found.pair,
        mask.numel(),
        float(mask.double().mean()),
        {name: cell_auc(p, mask) for name, p in both.items()},
        {name: average_precision(p, mask) for name, p in both.items()},
        {name: brier_skill(p, mask) for name, p in both.items()},
        {name: calibration_error(b) for name, b in bins.items()},
        bins,
        found.level,
        covered,
        float((found.khat < 0.7).double().mean()),
    )


def planted_outliers(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    *,
    spec: str = "impulse:0.1",
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
    **arguments: Any,
) -> tuple[OutlierPosterior, Judged, Tensor, Tensor]:
    """Plant outliers in data, and see whether they are found and their clean values lie where the pair says.

    What the data are dirty with already counts as clean here; on data that the pair was trained on with other dirt the
    answer is of this dirt, not of that.

    Args:
        x: (N, d). spec, shape, seed: see :func:`~pyro_vaes.data.corrupt`. arguments: those of
            :func:`~pyro_vaes.analysis.outlier_posterior.outlier_posterior`.

    Returns:
        the posterior, its judgement, the dirty data and the mask.

    Raises:
        InputError: see there; also if the corruption dirties nothing, or leaves the range of the pair.

    Source: ours.

    >>> from pyro_vaes.variants import t_vae
    >>> import torch
    >>> x = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))
    >>> planted_outliers(t_vae(4, 2, (5,)), x, draws=50, spec="impulse:0.3")[1].entries
    80
    """
    from pyro_vaes.data import corrupt
    from pyro_vaes.inference.guard import as_batch, check_data

    whole("seed", seed, low=0)
    if not isinstance(spec, str):
        raise InputError(f"spec is {said(spec)}: it must name a corruption, such as impulse:0.1")
    check_data(pair, x)
    shape = image_shape(x.shape[1] if shape is None else shape, x.shape[1])
    dirty = corrupt(as_batch(x).detach(), spec, shape=shape, seed=seed)
    if not 0 < float(dirty.mask.double().mean()) < 1:
        raise InputError(f"{spec!r} makes all or none of the entries dirty: there is nothing to tell apart")
    found = outlier_posterior(pair, dirty.x, y, seed=seed, **arguments)
    return found, judge_outliers(found, dirty.mask, as_batch(x)), dirty.x, dirty.mask


def _covered(moments: Moments, clean: Tensor, mask: Tensor) -> float:
    truth = clean.double().cpu()
    held = (truth >= moments.clean_low) & (truth <= moments.clean_high)
    return float(held[mask].double().mean())
