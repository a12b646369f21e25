"""The tables of the benchmarks: ratios of times, measured side by side by ``python -m benchmarks``."""

from pathlib import Path
from typing import Any

from pyro_vaes.experiments.record import markdown_table


def steps_table(result: dict[str, Any]) -> str:
    """One training step, by implementation and architecture: the median ratio to the reference, and its quartiles."""
    columns = result["architectures"]
    names = list(dict.fromkeys(name for column in columns.values() for name in column["rows"]))
    rows: list[list[object]] = []
    for name in names:
        cells = [_ratio(column["rows"].get(name)) for column in columns.values()]
        rows.append([f"**{name}**" if name.startswith("pyro-vaes") else name, *cells])
    reference = f"time of a step / {result['reference']}"
    return markdown_table(
        [reference, *(f"({key}) {c['title']}, batch {c['batch']}" for key, c in columns.items())], rows
    )


def epochs_table(result: dict[str, Any]) -> str:
    """One epoch by loop."""
    column = next(iter(result["architectures"].values()))
    rows: list[list[object]] = [
        [f"**{name}**" if name.startswith("pyro-vaes") else name, _ratio(row), f"{row['ms']['median'] / 1e3:.2f}"]
        for name, row in column["rows"].items()
    ]
    return markdown_table([f"{column['title']}, batch {column['batch']}", f"time / {result['reference']}", "s"], rows)


def ranks_table(result: dict[str, Any]) -> str:
    """Two ranks beside one process: how far they differ, what a step costs, what is paid per datum."""
    worst = sorted(result["differences"].items(), key=lambda item: -item[1]["parameters"])
    shown: list[list[object]] = [[f"`{name}`", f"{off['loss']:.0e}", f"{off['parameters']:.0e}"] for name, off in worst]
    far = markdown_table(["variant", "loss, relative", "parameters, relative to the largest of a tensor"], shown)
    rows: list[list[object]] = []
    for title, cost in result["costs"].items():
        cpu = [f"{cost['CPU ms'][name]['median']:.1f}" for name in ("one process", "two ranks", "the message alone")]
        ratios = [_spread(cost[f"two ranks / one process, {word}"]) for word in ("CPU ms", "ms by the clock")]
        shares = [f"{100 * cost['share of averaging'][word]['median']:.0f} %" for word in ("CPU", "by the clock")]
        rows.append([title, cost["rows per rank"], f"{cost['bytes per step']:,}", *cpu, *ratios, *shares])
    header = [
        "network",
        "rows b per rank",
        "bytes",
        "one process, 2b rows: CPU ms",
        "two ranks, b rows each: CPU ms of both",
    ]
    header += ["the message alone: CPU ms of both", "two ranks / one process, CPU", "by the clock"]
    steps = markdown_table([*header, "averaging, of a rank's CPU time", "of its time by the clock"], rows)
    once: list[list[object]] = [
        [name, f"{each['median']:.0f}"] for name, each in result["passes"]["ns per row"].items()
    ]
    passes = markdown_table([f"once per datum of {result['passes']['bytes per row']} bytes", "CPU ns"], once)
    sizes: list[list[object]] = [[f"({key})", f"{size:,}"] for key, size in result["checkpoints"].items()]
    kept = markdown_table(["checkpoint of", "bytes"], sizes)
    return "\n\n".join([far, steps, passes, kept])


def made(result: dict[str, Any], path: Path) -> str:
    """How it was measured, in one line."""
    settings, versions = result["settings"], result["versions"]
    where = versions["device"] if settings["device"] == "cuda" else f"CPU, {settings['threads']} threads"
    took_part = ("pythae",) if result["experiment"] == "bench-epochs" else ("numpyro", "jax")
    peers = "".join(f", {name} {v}" for name, v in result.get("peers", {}).items() if name in took_part)
    data = settings["data"].split(",")[0]
    return (
        f"*{result['scale']} scale, {settings['repetitions']} interleaved repetitions, median and quartiles of the "
        f"ratio; {data}; {where}; torch {versions['torch']}, pyro-ppl {versions['pyro-ppl']}{peers}. "
        f"From `results/{path.name}`.*"
    )


def _ratio(row: dict[str, Any] | None) -> str:
    if row is None or "ratio" not in row:
        return "-"
    return _spread(row["ratio"])


def _spread(ratio: dict[str, float]) -> str:
    low, middle, high = (ratio[key] for key in ("low", "median", "high"))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
