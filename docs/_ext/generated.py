"""Write the pages that nobody should write by hand, before Sphinx reads the others; git ignores them."""

import re
import shutil
from pathlib import Path
from typing import Any

import api_pages
import explorer_data
import gallery_pages
import notebook_pages
from sphinx.errors import ExtensionError

from pyro_vaes.inference.checkpoint import write_atomically

DOCS = Path(__file__).parent.parent
FOLDERS = ("api", "gallery", "notebooks")


def made(root: Path) -> dict[str, str]:
    """Every page and script that is made, by its name."""
    files = {**api_pages.pages(), **gallery_pages.pages(root), **notebook_pages.pages(root)}
    files["contributing.md"] = (root / "CONTRIBUTING.md").read_text().replace("](docs/", "](")
    files["_static/explorer-data.js"] = explorer_data.script(root)
    return files


def write(app: Any = None, docs: Path = DOCS) -> None:
    """Make docs/api, docs/gallery, docs/notebooks and the explorer's data from code, results and notebooks.

    What has not changed is left alone: Sphinx then need not read it again.
    """
    try:
        files = made(docs.parent)
        for folder in FOLDERS:
            (docs / folder).mkdir(exist_ok=True)
            for old in (docs / folder).iterdir():
                if f"{folder}/{old.name}" not in files:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
        for name, text in files.items():
            if not (docs / name).is_file() or (docs / name).read_bytes() != text.encode():
                write_atomically(docs / name, text.encode())
    except (OSError, ValueError) as error:
        raise ExtensionError(f"pages cannot be made: {error}") from error


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
