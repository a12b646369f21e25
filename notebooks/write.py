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


def wrong(names: list[str]) -> str | None:
    """Say what is wrong with the arguments or the surroundings, before anything runs."""
    if os.environ.get("PYRO_VAES_SMOKE"):
        return "PYRO_VAES_SMOKE is set: notebooks are committed as they come out in full"
    if not names:
        return "give the sources: python notebooks/write.py notebooks/NN-name.py ..."
    strange = [name for name in names if not (Path(name).suffix == ".py" and Path(name).is_file())]
    return f"{strange[0]} is no notebook's source, a .py file" if strange else None


if __name__ == "__main__":
    if complaint := wrong(sys.argv[1:]):
        sys.exit(complaint)
    # Pyro's bars look for widgets, which no page has, and say so at every import.
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    for name in tqdm(sys.argv[1:], desc="notebooks"):
        written(Path(name))
