"""Write the pages that nobody should write by hand, before Sphinx reads the others; git ignores them."""

import re
import shutil
from pathlib import Path
from typing import Any

import api_pages
import explorer_data
import gallery_pages
import notebook_pages

from pyro_vaes.inference.checkpoint import write_atomically

DOCS = Path(__file__).parent.parent
FOLDERS = ("api", "gallery", "notebooks")


def write(app: Any = None) -> None:
    """Make docs/api, docs/gallery, docs/notebooks and the explorer's data anew from code, results and notebooks."""
    for folder in FOLDERS:
        shutil.rmtree(DOCS / folder, ignore_errors=True)
        (DOCS / folder).mkdir()
    pages = {**api_pages.pages(), **gallery_pages.pages(DOCS.parent), **notebook_pages.pages(DOCS.parent)}
    pages["contributing.md"] = (DOCS.parent / "CONTRIBUTING.md").read_text().replace("](docs/", "](")
    for name, text in pages.items():
        write_atomically(DOCS / name, text.encode())
    write_atomically(DOCS / "_static/explorer-data.js", explorer_data.script(DOCS.parent).encode())


def nearer(app: Any, page: str, source: list[str]) -> None:
    """Links of pages to notebooks/, which in the built pages lie beside them."""
    if page.split("/")[0] not in FOLDERS:
        up = "../" * page.count("/")
        source[0] = source[0].replace(f"](../{up}notebooks/", f"]({up}notebooks/")


def linked(app: Any, name: str, text: list[str]) -> None:
    """Links of a page to files of the repository, as links to the page that holds them here."""
    up = "../" * name.count("/")
    text[0] = re.sub(r"\]\(((?:\.\./)*)\.\./CONTRIBUTING\.md", r"](\1contributing.md", text[0])
    listing = rf'<a href="{up}_modules/\2.html">\1</a>'
    text[0] = re.sub(r"\[([^]\n]+)\]\((?:\.\./)+(pyro_vaes/[\w/]+)\.py\)", listing, text[0])


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("source-read", nearer)
    app.connect("source-read", linked)
    return {"parallel_read_safe": True}
