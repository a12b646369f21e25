"""The notebooks: source and executed copy in step, every derivation checked, every variant used."""

import importlib
import re
from pathlib import Path

import pytest

import pyro_vaes as pv

nbformat = pytest.importorskip("nbformat")
jupytext = pytest.importorskip("jupytext")

FOLDER = Path(pv.__file__).parent.parent / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
DERIVATIONS = {f"T{n}" for n in range(1, 28)}
# Folders that only one machine has.
FOREIGN = re.compile(r"/(?:home|root|work|tmp|Users|usr)/")


def read(source: Path):
    return jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def test_there_are_ten():
    assert [path.name[:2] for path in SOURCES] == [f"{n:02d}" for n in range(1, 11)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_source_and_copy_are_in_step(source):
    written, executed = read(source)
    assert [(c.cell_type, c.source, tags(c)) for c in written.cells] == [
        (c.cell_type, c.source, tags(c)) for c in executed.cells
    ], "run `make notebooks-write`"


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_it_was_run_from_top_to_bottom(source):
    code = [c for c in read(source)[1].cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [output for c in code for output in c.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3, "a lecture wants figures"
    assert not FOREIGN.search(
        "".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain")) for o in outputs)
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_derivations_are_asserted_and_exercises_solved(source):
    cells = read(source)[0].cells
    for n, cell in enumerate(cells):
        if "derivation" in tags(cell):
            check = next((c for c in cells[n + 1 :] if c.cell_type == "code"), None)
            assert check and re.search(r"\bassert|allclose\(", check.source), f"no check after: {cell.source[:80]}"
    solutions = [c for c in cells if "solution" in tags(c)]
    exercises = [c for c in cells if "exercise" in tags(c)]
    assert len(exercises) >= 2 and len(solutions) >= len(exercises)
    assert all("hide-cell" in tags(c) for c in solutions), "solutions are folded away"


def test_links_and_images_are_there_from_the_notebook_and_from_its_page(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER.parent / "docs" / "_ext")
    relinked = importlib.import_module("notebook_pages").relinked
    assert relinked("[a](../docs/a.md#b) ![c](../results/c.png)") == "[a](../a.md#b) ![c](../../results/c.png)"
    images = [
        found
        for source in SOURCES
        for cell in read(source)[0].cells
        if cell.cell_type == "markdown"
        for found in re.findall(r"!\[[^]]*\]\(([^)]+)\)", cell.source)
    ]
    assert images and not [path for path in images if not (FOLDER / path).is_file()]


def test_every_derivation_is_told():
    told = {tag for source in SOURCES for cell in read(source)[0].cells for tag in tags(cell)}
    assert told >= DERIVATIONS, sorted(DERIVATIONS - told)


def test_every_variant_is_used():
    text = "".join(source.read_text() for source in SOURCES)
    assert not [name for name in pv.VARIANTS if f"pv.{name}(" not in text]
