"""The floor plan holds: who imports whom, what stands alone, what every claim rests on."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vaes as pv
from pyro_vaes.card import card

PACKAGE = Path(pv.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Written by hand; the others under docs/ are made by docs/_ext, and git ignores them.
MADE = {"contributing.md"}
PAGES = sorted(p for p in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")] if p.name not in MADE)


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("pyro_vaes")}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


LAST = {"experiments", "cli", "commands"}
AFTER_DATA = {"inference", "evaluation", "analysis", *LAST}
PROGRAMS = {"models", "guides", "pair", "variants"}
FORBIDDEN = {
    "nn": {*PROGRAMS, "data", *AFTER_DATA},
    "models": {"guides", "pair", "variants", "data", *AFTER_DATA},
    "guides": {"models", "pair", "variants", "data", *AFTER_DATA},
    "inference": {"evaluation", "analysis", *LAST},
    "evaluation": {"analysis", *LAST},
    "analysis": LAST,
    "experiments": {"cli", "commands"},
    "data": {*PROGRAMS, *AFTER_DATA},
    "plates": {"models", "guides", "nn", "pair", "variants", "inference"},
    "distributions": {"models", "guides", "nn", "pair", "variants", "inference"},
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    for name in imports(path):
        other = name.split(".")[1] if "." in name else ""
        assert other not in FORBIDDEN.get(room(path), set()), f"{path.name} imports {name}"


def test_no_pyro_in_the_networks():
    for path in (PACKAGE / "nn").glob("*.py"):
        assert "import pyro\n" not in path.read_text()
        assert "from pyro" not in path.read_text().replace("from pyro_vaes", "")


@pytest.mark.parametrize("folder", ["models", "guides"])
def test_every_program_is_used_by_a_variant(folder):
    # The spline's guide is that of the other flows, and zuko need not be there.
    parts = [part for n, f in pv.VARIANTS.items() if n != "spline_vae" for part in f(data_dim=4).modules()]
    used = {type(part).__module__ for part in parts}
    for path in (PACKAGE / folder).glob("[!_]*.py"):
        assert f"pyro_vaes.{folder}.{path.stem}" in used, f"no variant uses {path}"


@pytest.mark.parametrize("folder", ["models", "guides"])
def test_program_bodies_are_short(folder):
    """A body reads as the factorisation: fifteen lines at most."""
    for path in (PACKAGE / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "forward":
                assert node.end_lineno - node.lineno <= 15, path


def test_import_is_light():
    heavy = "torchvision arviz matplotlib sklearn scipy zuko optuna tensorboard"
    code = "import sys, pyro_vaes; pyro_vaes.fit; pyro_vaes.t_vae\n"
    code += f"print([m for m in {heavy!r}.split() if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_command_line_starts_without_torch():
    code = "import sys, pyro_vaes.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# (N, d), (B, c), (S, ...), or words.
SHAPE = re.compile(r"\((?:\.\.\., ?)?[A-Zdknmb0-9*](?: x [A-Z0-9]|, ?[^()]*)?,?\)|\(\.\.\.\)|shape|scalar")


def takes_arrays(thing) -> bool:
    """Whether a tensor goes in, or lies inside of what is handed back; a module's buffers are its own business."""
    if isinstance(thing, type) and not (dataclasses.is_dataclass(thing) or issubclass(thing, tuple)):
        return False
    notes = getattr(thing, "__annotations__", {})
    return any("Tensor" in str(note) for key, note in notes.items() if key != "return")


@pytest.mark.parametrize("name", [name for name in pv.__all__ if name != "VARIANTS"])
def test_every_public_docstring_has_shapes_a_source_and_an_example(name):
    text = pv.__dict__.get(name, getattr(pv, name)).__doc__ or ""
    assert "Source:" in text or (name in pv.VARIANTS and card(pv.VARIANTS[name])["source"])
    assert ">>>" in text
    assert SHAPE.search(text.split(">>>")[0]) or not takes_arrays(getattr(pv, name))


def test_no_other_name_is_public():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pv.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("page", "tables"),
    [
        ("README.md", 4),
        ("docs/experiments.md", 5),
        ("docs/likelihoods.md", 4),
        ("docs/generation.md", 7),
        ("docs/channels.md", 3),
        ("docs/analysis.md", 1),
        ("docs/explore.md", 1),
        ("docs/benchmark.md", 2),
        ("docs/scaling.md", 3),
        ("docs/quickstart.md", 1),
    ],
)
def test_tables_come_from_the_results(page, tables):
    from pyro_vaes.experiments.readme import filled

    text = (ROOT / page).read_text()
    assert filled(text, ROOT / "results") == text, "run `make readme`"
    assert text.count("<!-- end -->") >= tables


def test_figures_on_the_pages_exist():
    for page in [ROOT / "README.md", *PAGES]:
        for figure in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / figure).is_file(), f"{page.name}: {figure}"


def test_readme_code_runs(tmp_path, monkeypatch):
    """The README's Python blocks, one after the other."""
    monkeypatch.chdir(tmp_path)
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    namespace: dict = {}
    for block in blocks:
        code = block.split("```")[0].replace("steps=3000", "steps=3")
        exec(compile(code, "README.md", "exec"), namespace)
    assert len(blocks) >= 2


def test_every_table_of_every_page_is_filled():
    from pyro_vaes.experiments.readme import filled

    for page in PAGES:
        text = page.read_text()
        assert filled(text, ROOT / "results") == text, f"{page.name}: run `make readme`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_on_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for block in page.read_text().split("```python\n")[1:]:
        code = block.split("```")[0].replace("steps=3000", "steps=3")
        exec(compile(code, page.name, "exec"), namespace)


def test_results_name_device_versions_seeds_and_scale():
    import json

    files = sorted((ROOT / "results").glob("*.json"))
    assert files
    for path in files:
        result = json.loads(path.read_text())
        assert path.name == f"{result['experiment']}.{result['scale']}.json"
        assert {"torch", "pyro-ppl", "device"} <= set(result["versions"])
        assert "seeds" in result or "seeds" in result["settings"]


def test_file_sizes():
    """Small rooms: a file holds one idea."""
    for path in FILES:
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f"{path} has {lines} lines"
