"""What became of a claim: held, did not hold, or not tested; with seeds and an interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_vaes.errors import InputError, number

HELD, FAILED, UNTESTED = "held", "did not hold", "not tested"


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    r"""Give the mean of independent values, and its confidence interval.

    .. math:: \bar v \pm t_{n-1}\, s / \sqrt{n}

    Args:
        values: one per seed, finite, at least two.

    Returns:
        mean, lower end, upper end.

    Source: Student (1908).

    >>> [round(v, 3) for v in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.stats import t

    if not 0 < number("confidence", confidence) < 1:
        raise InputError(f"confidence is {confidence}: it must be between 0 and 1")
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) < 2 or not np.isfinite(v).all():
        raise InputError(f"an interval needs at least two finite values, not {list(values)}")
    half = float(t.ppf((1 + confidence) / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)))
    return float(v.mean()), float(v.mean()) - half, float(v.mean()) + half


def verdict(claim: str, source: str, gains: Sequence[float], per: str = "seeds") -> dict[str, Any]:
    """Judge a claim by paired differences, one per seed, that are positive where it holds.

    It *held* if the 95 % interval of the mean lies above zero, and *did not hold* otherwise: the interval tells
    a difference that points the other way from one that is too small for these seeds.

    Args:
        claim: one sentence. source: of the claim. gains: one per seed, in the units that the claim speaks of.
        per: what the gains are one for each of, if not seeds.

    >>> verdict("a beats b", "S0", [0.2, 0.3, 0.25])["verdict"]
    'held'
    >>> verdict("a beats b", "S0", [0.2, -0.3, 0.25])["verdict"]
    'did not hold'
    """
    mean, low, high = interval(gains)
    return {
        "claim": claim, "source": source, "verdict": HELD if low > 0 else FAILED,
        "gain": mean, "interval": [low, high], "seeds": len(gains), "per": per,
    }  # fmt: skip


def share_verdict(
    claim: str, source: str, right: Sequence[bool], above: float, per: str = "problems"
) -> dict[str, Any]:
    """Judge the claim that a share is above some value, from independent trials.

    By the exact interval of a share: of trials that all agree, however few, :func:`interval` has no width.

    Args:
        right: whether each trial came out as claimed. above: the value, in [0, 1]; gain and interval are what is
            above it. claim, source, per: as in :func:`verdict`.

    Source: Clopper & Pearson (1934).

    >>> [share_verdict("nearly all", "S0", [True] * n, 0.95)["verdict"] for n in (40, 100)]
    ['did not hold', 'held']
    """
    from scipy.stats import binomtest

    trials = np.asarray(right, dtype=bool)
    found = binomtest(int(trials.sum()), len(trials)).proportion_ci(0.95, method="exact")
    low, high = float(found.low) - above, float(found.high) - above
    return {
        "claim": claim, "source": source, "verdict": HELD if low > 0 else FAILED,
        "gain": float(trials.mean()) - above, "interval": [low, high], "seeds": len(trials), "per": per,
    }  # fmt: skip


def untested(claim: str, source: str, why: str) -> dict[str, Any]:
    """Say that a claim was not put to the test, and why.

    >>> untested("it scales", "S1", "needs other data")["verdict"]
    'not tested'
    """
    return {"claim": claim, "source": source, "verdict": UNTESTED, "why": why}


def verdict_rows(result: dict[str, Any]) -> list[list[object]]:
    """The verdicts of a result as rows: claim, source, verdict, gain with its interval and number of seeds.

    >>> verdict_rows({"verdicts": [untested("it scales", "S1", "needs other data")]})
    [['it scales', 'S1', 'not tested', 'needs other data']]
    """
    rows: list[list[object]] = []
    for v in result.get("verdicts", []):
        found = v["why"] if "why" in v else _gain(v)
        # A bar ends a cell in Markdown.
        claim = v["claim"].replace("|", "\\|")
        rows.append([claim, v["source"], f"**{v['verdict']}**" if v["verdict"] == HELD else v["verdict"], found])
    return rows


def _gain(v: dict[str, Any]) -> str:
    low, high = v["interval"]
    return f"{v['gain']:+.3g} ({low:+.3g} to {high:+.3g}), {v['seeds']} {v.get('per', 'seeds')}"
