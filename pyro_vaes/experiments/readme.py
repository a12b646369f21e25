"""Write the README's tables from results/: ``python -m pyro_vaes.experiments.readme README.md``."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_vaes.experiments import demo, floor_sweep, frey_recovery, recycling, speed
from pyro_vaes.experiments.record import fill
from pyro_vaes.inference.checkpoint import write_atomically
from pyro_vaes.variants import VARIANTS, card

TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    module.NAME: module.table for module in (demo, floor_sweep, frey_recovery, recycling)
} | {"bench-steps": speed.steps_table, "bench-epochs": speed.epochs_table}


def filled(text: str, results: Path) -> str:
    """Fill every table of a text.

    A marker ``demo.quick`` gives the table of ``results/demo.quick.json`` and the line that says where it comes from;
    ``variants`` gives the cards of all variants.
    """
    tables: dict[str, Callable[[], str]] = {"variants": variants_table}
    for path in results.glob("*.json"):
        tables[path.stem] = lambda path=path: result_table(path)  # type: ignore[misc]
    return fill(text, tables)


def variants_table() -> str:
    """All variants as a Markdown table: p | q | objective | source."""
    # A bar ends a cell in Markdown.
    cells = [[f"`{name}`", *card(f).values()] for name, f in VARIANTS.items()]
    rows = ["| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in row) + " |" for row in cells]
    return "\n".join(["| variant | p | q | objective | source |", "|---|---|---|---|---|", *rows])


def result_table(path: Path) -> str:
    """One experiment's table, and under it device, versions, seeds and time."""
    result = json.loads(path.read_text())
    if result["experiment"].startswith("bench-"):
        return f"{TABLES[result['experiment']](result)}\n\n{speed.made(result, path)}"
    settings = result.get("settings", result)
    versions = result["versions"]
    made = (
        f"*{result['scale']} scale, {settings['steps']:,} steps, seeds {settings['seeds']}, {result['seconds']:.0f} s "
        f"on {versions['device']}; torch {versions['torch']}, pyro-ppl {versions['pyro-ppl']}. "
        f"From `results/{path.name}`.*"
    )
    return f"{TABLES[result['experiment']](result)}\n\n{made}"


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    write_atomically(readme, filled(readme.read_text(), readme.resolve().parent / "results").encode())
