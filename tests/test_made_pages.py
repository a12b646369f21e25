"""The pages that the build makes: every public name has a place, errors name their file, prose stays prose."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

import pyro_vaes as pv

pytest.importorskip("sphinx")
ROOT = Path(pv.__file__).parent.parent


@pytest.fixture
def built_by(monkeypatch):
    """Import a module of docs/_ext by its name."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    return importlib.import_module


def test_every_public_name_stands_on_one_page_of_the_reference(built_by):
    api = built_by("api_pages")
    told = [name for _, _, modules in api.TOPICS.values() for name in api.names(modules)]
    assert len(told) == len(set(told))
    rooms = tuple(f"{room}." for _, room in api.ROOMS.values())
    assert not [n for n in set(pv.__all__) - set(told) if not pv._HOME_OF[n].startswith(rooms)]


def test_only_prose_is_escaped(built_by):
    escaped = built_by("docstrings").escaped
    kept = [
        *[">>> print(pair.describe())", "site | p | q", "", "    >>> 1 | 2 ** 3", "    3 | a_", ""],
        *[".. math:: q(z | x)", "   |z|_1 *", "", "``a | b``, `c_`, :math:`|z|` and **so** *on*"],
    ]
    assert escaped(kept) == kept
    assert escaped(["log p(x | z) of q*, z_ and (*shape)"]) == [r"log p(x \| z) of q\*, z\_ and (\*shape)"]


@pytest.mark.parametrize("cut", ["gallery.quick.json", "explorer.quick.json", "explorer.quick.faces.bin"])
def test_a_damaged_result_is_named(built_by, tmp_path, cut):
    (tmp_path / "results").mkdir()
    for path in [*ROOT.glob("results/gallery.quick.json"), *ROOT.glob("results/explorer.quick.*")]:
        shutil.copy(path, tmp_path / "results")
    path = tmp_path / "results" / cut
    path.write_bytes(path.read_bytes()[:-40])
    make = built_by("gallery_pages").pages if cut.startswith("gallery") else built_by("explorer_data").script
    with pytest.raises(ValueError, match=f"{cut} is damaged"):
        make(tmp_path)
    path.unlink()
    with pytest.raises(OSError, match=cut):
        make(tmp_path)


def test_a_variant_without_an_entry_is_named(built_by, monkeypatch):
    gallery = built_by("gallery_pages")
    monkeypatch.setattr(gallery, "VARIANTS", {**pv.VARIANTS, "new_vae": pv.vae})
    with pytest.raises(ValueError, match="new_vae: no entry"):
        gallery.pages(ROOT)


@pytest.mark.parametrize("cells", [[], [{"source": ["no heading"]}]])
def test_a_notebook_without_a_title_is_named(built_by, tmp_path, cells):
    (tmp_path / "1.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(ValueError, match="ipynb has no title"):
        built_by("notebook_pages").title(tmp_path / "1.ipynb")


def test_pages_are_written_when_they_change_and_stay_when_they_cannot_be_made(built_by, tmp_path, monkeypatch):
    from sphinx.errors import ExtensionError

    generated = built_by("generated")
    (tmp_path / "_static").mkdir()
    files = {"api/a.md": "a", "gallery/b.md": "b", "_static/c.js": "c"}
    monkeypatch.setattr(generated, "made", lambda root: files)
    generated.write(docs=tmp_path)
    before = (tmp_path / "api/a.md").stat()
    files["_static/c.js"] = "d"
    del files["gallery/b.md"]
    generated.write(docs=tmp_path)
    after = (tmp_path / "api/a.md").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (tmp_path / "_static/c.js").read_text() == "d" and not (tmp_path / "gallery/b.md").exists()

    def broken(root):
        raise ValueError("results/x.json is damaged")

    monkeypatch.setattr(generated, "made", broken)
    with pytest.raises(ExtensionError, match=r"x\.json is damaged"):
        generated.write(docs=tmp_path)
    assert (tmp_path / "api/a.md").read_text() == "a"
