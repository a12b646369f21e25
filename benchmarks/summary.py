"""What the times say: medians, quartiles, ratios within a repetition."""

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from benchmarks.harness import Row


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the quartiles.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    {'low': 2.0, 'median': 3.0, 'high': 4.0}
    """
    low, high = quantiles(values, n=4, method="inclusive")[::2] if len(values) > 1 else (values[0], values[0])
    return {"low": _short(low), "median": _short(median(values)), "high": _short(high)}


def ratios(row: Row, reference: Row) -> list[float]:
    """Repetition by repetition, how many times the reference's time."""
    return [_short(mine / its) for mine, its in zip(row.times, reference.times, strict=True)]


def summary(rows: dict[str, Row], reference: str) -> dict[str, Any]:
    """Times in ms and ratios to the reference, with their spread."""
    found: dict[str, Any] = {}
    for name, row in rows.items():
        found[name] = {
            "ms": spread([1e3 * t for t in row.times]),
            "steps per slice": row.steps,
            "first step, seconds": _short(row.first),
        }
        if reference in rows:
            each = ratios(row, rows[reference])
            found[name] |= {"ratio": spread(each), "ratios": each}
    return found


def pays_after(row: Row, eager: Row) -> int | None:
    """Steps after which a first step that took longer is earned back; None if never."""
    saved = median(eager.times) - median(row.times)
    return max(0, round((row.first - eager.first) / saved)) if saved > 0 else None


def _short(value: float) -> float:
    return float(f"{value:.4g}")
