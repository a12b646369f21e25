"""Write the pages that nobody should write by hand, before Sphinx reads the others; git ignores them."""

import shutil
from pathlib import Path
from typing import Any

import api_pages
import gallery_pages
import notebook_pages

from pyro_vaes.inference.checkpoint import write_atomically

DOCS = Path(__file__).parent.parent
FOLDERS = ("api", "gallery", "notebooks")


def write(app: Any = None) -> None:
    """Make docs/api, docs/gallery and docs/notebooks anew from the code, results/ and notebooks/."""
    for folder in FOLDERS:
        shutil.rmtree(DOCS / folder, ignore_errors=True)
        (DOCS / folder).mkdir()
    pages = {**api_pages.pages(), **gallery_pages.pages(DOCS.parent), **notebook_pages.pages(DOCS.parent)}
    for name, text in pages.items():
        write_atomically(DOCS / name, text.encode())


def nearer(app: Any, page: str, source: list[str]) -> None:
    """Links of pages to notebooks/, which in the built pages lie beside them."""
    if page.split("/")[0] not in FOLDERS:
        up = "../" * page.count("/")
        source[0] = source[0].replace(f"](../{up}notebooks/", f"]({up}notebooks/")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("source-read", nearer)
    return {"parallel_read_safe": True}
