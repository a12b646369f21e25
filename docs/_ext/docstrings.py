"""Docstrings as pages: a variant's card becomes a list, and a bar is a bar, not a substitution."""

import re
from typing import Any

from sphinx import addnodes

from pyro_vaes.card import card
from pyro_vaes.variants import VARIANTS

# What stays as it is: literals, roles, names in single backticks, emphasis.
MARKUP = re.compile(r"(``.+?``|:\w+:`.+?`|(?<!`)`[^`]+`(?!`)|(?<!\S)\*{1,2}\w[^*]*\*{1,2}(?!\w))")


def escaped(lines: list[str]) -> list[str]:
    """Escape the bars and trailing underscores of prose: outside of literals, doctests and indented directives."""
    done, directive, doctest = [], None, False
    for line in lines:
        # What a doctest prints is verbatim too, up to the next empty line.
        doctest = bool(line.strip()) and (doctest or line.lstrip().startswith(">>>"))
        indent = len(line) - len(line.lstrip())
        if directive is not None and line.strip() and indent <= directive:
            directive = None
        if line.lstrip().startswith(".. "):
            directive = indent
        if directive is not None or doctest:
            done.append(line)
        else:
            done.append("".join(p if MARKUP.fullmatch(p) else bars(p) for p in MARKUP.split(line)))
    return done


def bars(text: str) -> str:
    """One piece of prose, with what reStructuredText would take for its own escaped."""
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([|*])", r"\\\1", text))


def card_lines(name: str) -> list[str]:
    """The card of a variant as a list."""
    return [f"* **{key}:** {escaped([value])[0]}" for key, value in card(VARIANTS[name]).items()]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Called by autodoc for every docstring, before napoleon reads its sections."""
    short = name.rsplit(".", 1)[-1]
    if what == "function" and VARIANTS.get(short) is obj:
        end = lines.index("") if "" in lines else len(lines)
        lines[:] = [*card_lines(short), "", *escaped(lines[end:])]
    else:
        lines[:] = escaped(lines)


def unlisted(app: Any, doctree: Any) -> None:
    """Keep the gallery's entries from the listings of source code, whose way back leads to the API page."""
    if app.env.docname.startswith("gallery/"):
        for signature in doctree.findall(addnodes.desc_signature):
            signature["module"] = None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("doctree-read", unlisted, priority=100)
    return {"parallel_read_safe": True}
