"""The gallery: one page per variant, from its card, results/gallery.quick.json and the notebooks that use it."""

from pathlib import Path

from pyro_vaes.card import card
from pyro_vaes.variants import VARIANTS


def pages(root: Path) -> dict[str, str]:
    """The page of every variant by its name, and their index."""
    made = {f"gallery/{name}.md": page(name) for name in VARIANTS}
    toc = "\n".join(VARIANTS)
    made["gallery/index.md"] = f"# Variants\n\n```{{toctree}}\n:maxdepth: 1\n\n{toc}\n```\n"
    return made


def page(name: str) -> str:
    rows = "\n".join(f"| {key} | {value} |".replace("``", "`") for key, value in card(VARIANTS[name]).items())
    return f"# {name}\n\n| | |\n|---|---|\n{rows}\n"
