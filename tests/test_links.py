"""No link inside of the project is broken."""

import json
import re
from pathlib import Path

import pytest

import pyro_vaes as pv

ROOT = Path(pv.__file__).parent.parent
DOCS = ROOT / "docs"
MADE = DOCS / "contributing.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted({*DOCS.glob("*.md")} - {MADE}), *DOCS.glob("howto/*.md")]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Pages that the build writes: docs/api, docs/gallery, docs/notebooks.
GENERATED = re.compile(r"docs/(api|gallery|notebooks)/([\w-]+)\.(md|ipynb)$")


def text_of(path: Path) -> str:
    if path.suffix != ".ipynb":
        # Code is no prose: x[i](y) is no link.
        return re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as MyST and code hosts make them."""
    heads = re.findall(r"^#+ (.*)$", text_of(path), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def there(target: Path) -> bool:
    relative = target.resolve().relative_to(ROOT).as_posix()
    made = GENERATED.match(relative)
    if made is None:
        return target.exists()
    folder, name, _ = made.groups()
    if folder == "gallery":
        return name == "index" or name in pv.VARIANTS
    if folder == "notebooks":
        return name == "index" or (ROOT / "notebooks" / f"{name}.ipynb").is_file()
    return True


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("http", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not there(target) or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken
