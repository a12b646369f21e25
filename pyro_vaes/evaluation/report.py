"""A report: one HTML file with its pictures inside."""

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #2e4057; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #5b6b7b; font-size: .9rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .9rem .2rem 0; text-align: left; }
td.number { font-variant-numeric: tabular-nums; text-align: right; } tr.robust td { color: #d1495b; }
code, pre { background: #f3f5f7; padding: .1rem .3rem; } pre { padding: .6rem; overflow-x: auto; }
"""


def png(figure: Figure) -> bytes:
    """Draw a figure as PNG.

    >>> png(Figure())[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def listing(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def picture(content: bytes, caption: str) -> str:
    """Put a PNG into the page itself, with its caption."""
    data = base64.b64encode(content).decode()
    caption = html.escape(caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], robust: Sequence[str] = ()) -> str:
    """Draw a table; numbers stand right, rows whose first cell is in ``robust`` are coloured.

    >>> table(["method", "mse"], [["a", 0.5]])
    '<table><tr><th>method</th><th>mse</th></tr><tr><td>a</td><td class="number">0.5000</td></tr></table>'
    """

    def cell(value: object) -> str:
        if isinstance(value, float):
            return f'<td class="number">{value:.4f}</td>'
        return f"<td>{html.escape(str(value))}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr{' class=' + chr(34) + 'robust' + chr(34) if row[0] in robust else ''}>{''.join(map(cell, row))}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def page(title: str, parts: Sequence[str]) -> str:
    """Join parts into a page that needs nothing besides itself.

    >>> page("t", [paragraph("a < b")]).splitlines()[0]
    '<!doctype html>'
    """
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
