"""Where the numbers live: one JSON file per experiment and scale, figures beside it, and the tables made from it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyro_vaes.errors import InputError
from pyro_vaes.evaluation.report import png
from pyro_vaes.inference.checkpoint import write_atomically
from pyro_vaes.inference.run import versions

SCALES = ("quick", "paper")


def record(folder: str | Path, name: str, scale: str, result: dict[str, Any], figures: dict[str, Figure]) -> Path:
    """Write ``<name>.<scale>.json`` with device and versions, and ``<name>.<scale>.<figure>.png`` for each figure.

    Returns:
        the path of the JSON file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for figure_name, figure in figures.items():
        write_atomically(folder / f"{name}.{scale}.{figure_name}.png", png(figure))
    path = folder / f"{name}.{scale}.json"
    content = {"experiment": name, "scale": scale, "versions": versions(), **result}
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return path


def markdown_table(header: list[str], rows: list[list[object]]) -> str:
    """Write rows as a Markdown table; numbers get four digits.

    >>> print(markdown_table(["method", "mse"], [["pca", 0.05]]))
    | method | mse |
    |---|---|
    | pca | 0.0500 |
    """
    cells = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    return "\n".join(["| " + " | ".join(row) + " |" for row in [header, *cells]]).replace(
        "|\n", "|\n|" + "---|" * len(header) + "\n", 1
    )


def fill(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end -->`` by the table of that name.

    Raises:
        InputError: for a name that no table has.

    >>> fill("<!-- a -->old<!-- end -->", {"a": lambda: "new"})
    '<!-- a -->\\nnew\\n<!-- end -->'
    """

    def table(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in tables:
            raise InputError(f"the text asks for a table {name!r}; there are {', '.join(sorted(tables))}")
        return f"<!-- {name} -->\n{tables[name]()}\n<!-- end -->"

    return re.sub(r"<!-- (\S+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)
