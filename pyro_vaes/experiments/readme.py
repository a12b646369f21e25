"""Write the tables of the README and of docs/ from results/: ``python -m pyro_vaes.experiments.readme README.md``."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_vaes.card import card
from pyro_vaes.experiments import MODULES, faults, scaling, speed
from pyro_vaes.experiments.record import fill, markdown_table
from pyro_vaes.experiments.verdicts import verdict_rows
from pyro_vaes.inference.checkpoint import write_atomically
from pyro_vaes.variants import VARIANTS

TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    **{name: module.table for name, module in MODULES.items()},
    "bench-steps": speed.steps_table,
    "bench-epochs": speed.epochs_table,
    "bench-ranks": speed.ranks_table,
}


def filled(text: str, results: Path) -> str:
    """Fill every table of a text.

    A marker ``demo.quick`` gives the table of ``results/demo.quick.json`` and the line that says where it comes from;
    ``variants`` gives the cards of all variants, ``verdicts`` what became of every claim, ``scaling-data`` and
    ``scaling-steps`` what many devices would take.
    """
    tables: dict[str, Callable[[], str]] = {"variants": variants_table, "verdicts": lambda: verdicts_table(results)}
    for name in ("scaling-data", "scaling-steps"):
        tables[name] = lambda name=name: scaling.tables(results)[name]  # type: ignore[misc]
    for path in results.glob("*.json"):
        tables[path.stem] = lambda path=path: result_table(path)  # type: ignore[misc]
    return fill(text, tables)


def variants_table() -> str:
    """All variants as a Markdown table: p | q | objective | source."""
    # A bar ends a cell in Markdown.
    cells = [[f"`{name}`", *card(f).values()] for name, f in VARIANTS.items()]
    rows = ["| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in row) + " |" for row in cells]
    return "\n".join(["| variant | p | q | objective | source |", "|---|---|---|---|---|", *rows])


def verdicts_table(results: Path) -> str:
    """Every claim that an experiment judged: claim | of | verdict | gain and its 95 % interval | experiment."""
    rows: list[list[object]] = []
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text())
        name = f"{result['experiment']} ({result['scale']})"
        rows += [[*row, name] for row in verdict_rows(result)]
    return markdown_table(["claim", "of", "verdict", "gain, 95 % interval", "experiment"], rows)


def result_table(path: Path) -> str:
    """One experiment's table, and under it device, versions, seeds and time."""
    result = json.loads(path.read_text())
    if result["experiment"].startswith("bench-"):
        return f"{TABLES[result['experiment']](result)}\n\n{speed.made(result, path)}"
    if result["experiment"] == "faults":
        return f"{faults.table(result)}\n\n{faults.made(result, path)}"
    settings = result.get("settings", result)
    length = f"{settings['steps']:,} steps" if "steps" in settings else f"{settings['epochs']:,} epochs"
    versions = result["versions"]
    seconds = result["seconds"]
    # An experiment of many cells gives their times added up.
    spent = f"{seconds / 60:.0f} minutes of computing" if "verdicts" in result else f"{seconds:.0f} s"
    made = (
        f"*{result['scale']} scale, {length}, seeds {settings['seeds']}, {spent} "
        f"on {versions['device']}; torch {versions['torch']}, pyro-ppl {versions['pyro-ppl']}. "
        f"From `results/{path.name}`.*"
    )
    return f"{TABLES[result['experiment']](result)}\n\n{made}"


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        write_atomically(page, filled(page.read_text(), Path("results")).encode())
