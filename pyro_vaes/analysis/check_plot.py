"""The verdicts of a check as a picture."""

import textwrap

from matplotlib.figure import Figure

from pyro_vaes.analysis.check import Checked
from pyro_vaes.evaluation.plots import CLASSICAL, NEUTRAL, ROBUST

COLOUR = {"good": "#3b8f5a", "caution": "#d9982b", "bad": ROBUST, "not tested": CLASSICAL}
ANSWER = {"yes": "good", "with care": "caution", "no": "bad", "not known": "not tested"}
LINE = 104


def verdicts_figure(found: Checked, title: str) -> Figure:
    """Draw a row for every test, with verdict, question (grey) and what was found, and under them what can be trusted.

    >>> import torch
    >>> from pyro_vaes.finding import Finding
    >>> one = Checked("vae", 9, (Finding("PSIS", "?", "good", "all is well"),), {})
    >>> len(verdicts_figure(one, "vae").axes)
    1
    """
    rows = [(f.test, f.verdict, f.verdict, f.said) for f in found.findings]
    asked = [f.question for f in found.findings]
    uses = [("", answer, ANSWER[answer], f"{use} ({', '.join(why)})" if why and answer != "yes" else use)
            for use, (answer, why) in found.uses().items()]  # fmt: skip
    texts = [textwrap.wrap(said, LINE) for *_, said in [*rows, *uses]]
    texts = [[question, *text] for question, text in zip(asked, texts[: len(rows)], strict=True)] + texts[len(rows) :]
    lines = sum(max(1, len(t)) for t in texts) + 0.6 * len(texts) + 2.6
    figure = Figure(figsize=(10.2, 0.19 * lines + 0.4), dpi=160)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, 100), ax.set_ylim(lines + 1.2, -1.2)
    ax.axis("off")
    ax.text(1, -0.2, title, fontsize=10, color=NEUTRAL, weight="bold", va="center")
    at = 1.4
    for i, ((name, word, verdict, _), text) in enumerate(zip([*rows, *uses], texts, strict=True)):
        if i == len(rows):
            ax.text(1, at + 0.6, "What can be trusted", fontsize=9, color=NEUTRAL, weight="bold", va="center")
            at += 2.0
        ax.text(
            6.5, at + 0.1, word, fontsize=7.5, color="white", ha="center", va="center", weight="bold",
            bbox={"boxstyle": "round,pad=0.3", "color": COLOUR[verdict]},
        )  # fmt: skip
        ax.text(13, at, name, fontsize=8.5, color=NEUTRAL, va="center", weight="bold")
        left = 31 if name else 13
        for line, words in enumerate(text):
            colour = "#6b7280" if name and not line else "black"
            ax.text(left, at + line, words, fontsize=8, va="center", color=colour)
        at += max(1, len(text)) + 0.6
    return figure
