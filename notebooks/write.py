"""Make each .ipynb from its .py source and execute it: ``python notebooks/write.py notebooks/01-the-vae.py``."""

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from tqdm import tqdm


def written(source: Path) -> Path:
    """Execute one notebook and write it beside its source, without what differs from run to run for no reason."""
    notebook = jupytext.read(source)
    NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": source.parent}}, record_timing=False
    ).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["language_info"] = {"name": "python"}
    target = source.with_suffix(".ipynb")
    part = target.with_suffix(".part")
    part.write_text(nbformat.writes(notebook) + "\n")
    part.replace(target)
    return target


if __name__ == "__main__":
    if os.environ.get("PYRO_VAES_SMOKE"):
        sys.exit("PYRO_VAES_SMOKE is set: notebooks are committed as they come out in full")
    # Pyro's bars look for widgets, which no page has, and say so at every import.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    for name in tqdm(sys.argv[1:], desc="notebooks"):
        written(Path(name))
