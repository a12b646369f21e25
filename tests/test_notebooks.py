"""The notebooks: source and executed copy in step, every derivation checked, every variant used."""

import ast
import importlib
import importlib.util
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
FOREIGN = re.compile(r"(?:/(?:home|root|work|tmp|Users|usr|opt|mnt|private)/|[A-Z]:\\Users\\)")


def read(source: Path):
    return jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", []))


def calls(code: str) -> set[str]:
    """What a piece of code calls, dots and all; comments call nothing."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)}


def asserts(code: str) -> bool:
    """Whether it fails where something does not hold: an allclose that is only printed does not."""
    checks = any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code)))
    return checks or any(name.rpartition(".")[2].startswith("assert") for name in calls(code))


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
    texts = [o.get("text", "") + "".join(v for k, v in o.get("data", {}).items() if k[:5] == "text/") for o in outputs]
    assert not FOREIGN.search("\n".join(texts))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_derivations_are_asserted_and_exercises_solved(source):
    cells = read(source)[0].cells
    for n, cell in enumerate(cells):
        if "derivation" in tags(cell):
            check = next((c for c in cells[n + 1 :] if c.cell_type == "code"), None)
            assert check and asserts(check.source), f"no check after: {cell.source[:80]}"
    solutions = [c for c in cells if "solution" in tags(c)]
    exercises = [n for n, c in enumerate(cells) if "exercise" in tags(c)]
    assert len(exercises) >= 2
    for n, end in zip(exercises, [*exercises[1:], len(cells)], strict=True):
        solved = [c.source for c in cells[n:end] if "solution" in tags(c) and c.cell_type == "code"]
        assert any(map(asserts, solved)), f"no solution that checks itself: {cells[n].source[:80]}"
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
    code = [cell.source for source in SOURCES for cell in read(source)[0].cells if cell.cell_type == "code"]
    assert not {f"pv.{name}" for name in pv.VARIANTS} - set().union(*map(calls, code))


def test_rules_can_fail():
    assert calls("pv.a(1)  # pv.b(2)") == {"pv.a"}
    assert asserts("assert x") and asserts("torch.testing.assert_close(a, b)")
    assert not asserts("print(torch.allclose(a, b))  # assert")
    assert FOREIGN.search("<pre>/tmp/x</pre>") and not FOREIGN.search("p(x)/work")


def test_wrong_arguments_are_refused_before_anything_runs(monkeypatch, tmp_path):
    pytest.importorskip("nbclient")
    where = importlib.util.spec_from_file_location("write_notebooks", FOLDER / "write.py")
    write = importlib.util.module_from_spec(where)
    where.loader.exec_module(write)
    monkeypatch.delenv("PYRO_VAES_SMOKE", raising=False)
    (tmp_path / "1.ipynb").touch(), (tmp_path / "1.py").touch()
    assert write.wrong([str(tmp_path / "1.py")]) is None
    assert "no notebook's source" in write.wrong([str(tmp_path / "1.py"), str(tmp_path / "1.ipynb")])
    assert "no notebook's source" in write.wrong([str(tmp_path / "2.py")]) and "give the sources" in write.wrong([])
    monkeypatch.setenv("PYRO_VAES_SMOKE", "1")
    assert "in full" in write.wrong([str(tmp_path / "1.py")])
