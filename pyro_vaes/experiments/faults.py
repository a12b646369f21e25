"""The table of what ``python -m tests.faults`` has killed."""

from pathlib import Path
from typing import Any

from pyro_vaes.experiments.record import markdown_table


def table(result: dict[str, Any]) -> str:
    """How many processes were killed at which moment, and in how many runs.

    >>> print(table({"by moment": {"just saved": 2}, "signals": {}, "kills": 2, "survived": 2, "runs": [{}]}))
    | SIGKILL | processes |
    |---|---|
    | just saved | 2 |
    | **all** | **2, in 1 runs** |
    | survived, bit for bit | 2 |
    """
    rows: list[list[object]] = [[moment, count] for moment, count in result["by moment"].items()]
    rows.append(["**all**", f"**{result['kills']}, in {len(result['runs'])} runs**"])
    rows.append(["survived, bit for bit", result["survived"]])
    rows += [[f"{kind} (no SIGKILL)", count] for kind, count in result["signals"].items()]
    return markdown_table(["SIGKILL", "processes"], rows)


def made(result: dict[str, Any], path: Path) -> str:
    """Where the numbers come from, in one line."""
    versions = result["versions"]
    slowest = result["longest seconds from SIGTERM to the end"]
    return (
        f"*{result['scale']} scale, seeds {result['settings']['seeds']}, {result['seconds'] / 60:.0f} minutes on "
        f"{versions['device']}; at most {slowest:.1f} s from SIGTERM to the end; torch {versions['torch']}, pyro-ppl "
        f"{versions['pyro-ppl']}. From `results/{path.name}`.*"
    )
