"""The committed notebooks as pages."""

from pathlib import Path

from reading import read

LEAD = (
    "Ten lessons. Each derivation is followed by a cell that asserts it against the library; exercises have their "
    "solutions folded away. They run in under two minutes each on two cores, on small data, and say where that "
    "matters. They lie in `notebooks/`, as `.ipynb` and as the `.py` that it is made from: open one with Jupyter in "
    "the environment that `make` has set up, or run all with `make notebooks`."
)


def title(path: Path) -> str:
    """A notebook's first heading."""
    cells = read(path).get("cells") or [{"source": ""}]
    first = "".join(cells[0]["source"]).partition("\n")[0]
    if not first.startswith("# "):
        raise ValueError(f"{path} has no title: its first cell begins with `# ...`")
    return first.removeprefix("# ")


def relinked(text: str) -> str:
    """Point links of notebooks/ to where they lead from docs/notebooks/.

    >>> relinked("[a](../docs/a.md#b) ![c](../results/c.png)")
    '[a](../a.md#b) ![c](../../results/c.png)'
    """
    return text.replace("](../docs/", "](../").replace("](../results/", "](../../results/")


def pages(root: Path) -> dict[str, str]:
    """Every notebook by its page, and their index."""
    found = sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    made = {f"notebooks/{path.name}": relinked(path.read_text()) for path in found}
    rows = "\n".join(f"{n}. [{title(path)}]({path.name})" for n, path in enumerate(found, 1))
    toc = "\n".join(path.stem for path in found)
    made["notebooks/index.md"] = f"# Notebooks\n\n{LEAD}\n\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    return made
