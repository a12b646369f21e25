"""The gallery: one page per variant, from its docstring, results/gallery.quick.json and the notebooks that use it."""

import textwrap
from pathlib import Path
from typing import Any

import notebook_pages
from gallery_words import FAMILIES, LINES
from reading import read

from pyro_vaes.experiments import MODULES
from pyro_vaes.experiments.gallery import bound_words, said
from pyro_vaes.experiments.readme import result_table
from pyro_vaes.variants import VARIANTS

RESULT = "gallery.quick.json"
LEAD = (
    "Every variant, trained once for a few seconds on the 8 x 8 digits of scikit-learn, each on data that suit it. The "
    "columns are ten test digits, one of each class, the same wherever nothing else is said. This shows what a variant "
    "does; one seed and a few steps **rank nothing**. `pyro-vaes reproduce gallery` makes it anew."
)


def pages(root: Path) -> dict[str, str]:
    """The page of every variant by its name, and their index."""
    result = read(root / "results" / RESULT)
    missing = [name for name in VARIANTS if not {name} <= result["variants"].keys() & LINES.keys()]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: no entry in results/{RESULT} (`pyro-vaes reproduce gallery`), or no line in "
            "docs/_ext/gallery_words.py"
        )
    made = {f"gallery/{name}.md": page(name, result, root) for name in VARIANTS}
    made["gallery/index.md"] = index(root)
    return made


def figure(name: str) -> str:
    return f"../../results/{RESULT.removesuffix('.json')}.{name}.png"


def family(name: str) -> str:
    """The family that a variant is shown in: that of the page its function lives on."""
    home = VARIANTS[name].__module__.rsplit(".", 1)[-1]
    return next(title for title, (_, homes) in FAMILIES.items() if home in homes)


def index(root: Path) -> str:
    """A grid of cards, family by family, and all numbers in one table."""
    parts = [f"# Variants\n\n{LEAD}\n"]
    for title, (what, _) in FAMILIES.items():
        cards = "\n".join(card_of(name) for name in VARIANTS if family(name) == title)
        parts.append(f"## {title}\n\n{what}\n\n::::{{grid}} 1 1 2 2\n:gutter: 3\n\n{cards}\n::::\n")
    toc = "\n".join(name for title in FAMILIES for name in VARIANTS if family(name) == title)
    parts.append(f"## All numbers\n\n{result_table(root / 'results' / RESULT)}\n\nWhat they are: see any page.\n")
    parts.append(f"```{{toctree}}\n:hidden:\n\n{toc}\n```\n")
    return "\n".join(parts)


def card_of(name: str) -> str:
    return (
        f":::{{grid-item-card}} {name}\n:link: {name}\n:link-type: doc\n:img-top: {figure(name)}\n"
        f":img-alt: Rows of digits by {name}\n\n{LINES[name]}\n:::\n"
    )


def page(name: str, result: dict[str, Any], root: Path) -> str:
    """One variant: picture, programs, numbers, a few lines to copy, and where it is used."""
    found = result["variants"][name]
    rows = "; ".join(" ".join(row["label"].split()) for row in found["pictures"])
    versions, settings = result["versions"], result["settings"]
    made = (
        f"*{result['scale']} scale, one seed, CPU: no ranking. {settings['train']:,} digits to train, the others to "
        f"test; {found['steps']:,} steps; torch {versions['torch']}, pyro-ppl {versions['pyro-ppl']}. From "
        f"`results/{RESULT}`.*"
    )
    if found["numbers"]["k-hat"] is not None:
        made = f"log p(x) is estimated from below; of a datum with k-hat above 0.7 do not trust it.\n\n{made}"
    numbers = "\n".join(f"| {what} | {value} |" for what, value in facts(found, settings["weighed"]).items())
    parts = [
        f"# {name}\n\n{LINES[name]}",
        f"![Rows of digits by {name}]({figure(name)})",
        f"Trained on {found['shown']}. Rows from the top: {rows}.",
        f"## The pair\n\n```{{eval-rst}}\n.. autofunction:: pyro_vaes.variants.{name}\n   :no-index:\n```",
        f"As trained here, `pair.describe()` says:\n\n```text\n{found['describe']}\n```",
        f"## Numbers\n\n| number | value |\n|---|---|\n{numbers}\n\n{made}",
        f"## Use it\n\n```python\n{example(name, found)}\n```",
        f"## Where it is used\n\n{used(name, root)}",
    ]
    return "\n\n".join(parts) + "\n"


def facts(found: dict[str, Any], weighed: int) -> dict[str, str]:
    """The numbers of a variant in words, with what they are of; those of log p(x) are of ``weighed`` data."""
    n = found["numbers"]
    of = ", nats per test datum" + (" of standardised pixels" if found["data"] == "standardised" else "")
    shown = {
        "parameters of p": said(n["parameters of p"], 0), "of q, besides those of p": said(n["parameters of q"], 0),
        "of the objective": said(n["parameters of objective"], 0) if n["parameters of objective"] else None,
        bound_words(n) + of: said(n["bound"]),
        "the same, training data": said(n["bound on training data"]),
        # Of one sign with the bound above it.
        f"log p(x), nats, first {weighed} test data": f"-: {n['why']}" if n["nll"] is None
        else f"{said(-n['nll'])} ± {said(n['nll se'])} (error of the sampling)",
        "data with k-hat above 0.7": None if n["k-hat"] is None else f"{n['k-hat']:.0%}",
        "RMSE of test data, rebuilt": said(n["rmse"], 4),
        "RMSE of the data as given": said(n["rmse given"], 4) if n["rmse given"] else None,
        "RMSE of the mean training datum": said(n["rmse of the mean"], 4),
        "an ordinary residual": None if "binary" in found["shown"] else said(n["ordinary residual"], 4),
        "AUC of outlier scores": None if n["auc"] is None else said(n["auc"], 4),
        "classes guessed right": None if n["accuracy"] is None else f"{n['accuracy']:.1%}",
        "active units": ", ".join(
            f"{units} of {n['codes'][site]}" + (f" ({site})" if len(n["codes"]) > 1 else "")
            for site, units in sorted(n["active units"].items())
        ),
        "seconds of training (CPU)": said(n["seconds"], 1),
    }  # fmt: skip
    return {what: value for what, value in shown.items() if value is not None}


DATA = {
    "binary": "x = (digits.x > 0.5).float()", "grey": "x = digits.x",
    "dirty": 'x = pv.corrupt(digits.x, "impulse:0.2", shape=digits.shape).x',
    "standardised": "x = (digits.x - digits.x.mean()) / digits.x.std()",
    "strangers": "x = digits.x  # yours, with some that do not belong", "labels": "x = (digits.x > 0.5).float()",
    "halves": "parts = pv.quadrants(digits, observed=2)\n"
    "x, y = (parts.x > 0.5).float(), (parts.y > 0.5).float()",
    "100 labels": "x, few = digits.x, pv.few_labels(digits.y, 100)  # -1 is no label",
    "100 labels, binary": "x, few = (digits.x > 0.5).float(), pv.few_labels(digits.y, 100)  # -1 is no label",
}  # fmt: skip
USE = {
    "dirty": "found = pv.clean(pair, x)  # .mean, .sd, .score, .mask",
    "standardised": "chances = pv.outlier_probability(pair, x)  # of every cell",
    "strangers": "found = pv.detect(pair, x)  # found.outlier, .score", "labels": "threes = pv.sample(pair, 16, y=3)",
    "halves": "right = pv.sample(pair, len(y), y)", "100 labels": "chances = pv.classify(pair, x)",
    "100 labels, binary": "chances = pv.classify(pair, x)",
}  # fmt: skip
CONDITION = {"labels": ", digits.y", "halves": ", y", "100 labels": ", few", "100 labels, binary": ", few"}


def example(name: str, found: dict[str, Any]) -> str:
    """A few lines to copy: construct, fit, use, with the arguments of the gallery."""
    data, given = found["data"], {k: tuple(v) if isinstance(v, list) else v for k, v in found["arguments"].items()}
    size = "parts.x.shape[1]" if data == "halves" else "64"
    arguments = ", ".join([f"data_dim={size}", *(f"{key}={value!r}" for key, value in given.items())])
    warm = f', schedules={{"beta": (0, 1, {found["steps"] // 2})}}' if data in USE and "labels" not in data else ""
    warm = "" if data == "halves" or name in ("r_l2_vae", "rlc_vae", "induced_ae") else warm
    train, before = f"steps={found['steps']}, lr=0.002", []
    if name == "memoriser":
        arguments += ", points=x"
    if name == "vamp_vae":
        before = [f"pair.model.prior.place(x[:{given['components']}])"]
    if name == "r_l2_vae":
        before = ["pair.objective = pv.Recycled(pv.ELBO(1 / 12), passes=2)  # as small images want it"]
    if name == "ric_vae":
        before = [f"start = pv.indexed_ic_vae({arguments})", f"pv.fit(start, x, {train}{warm})",
                  "pv.warm_start(pair, start)"]  # fmt: skip
        train, warm = f"steps={found['steps']}, lr=0.0004", ""
    fit = "fit_stages" if name == "two_stage_vae" else "fit"
    blocks = "story = pv.evolve(pair, 6)  # nothing, then z_1, then z_2 ..." if "blocks" in given else None
    pair = f"pair = pv.{name}({arguments})"
    if len(pair) > 80:
        pair = f"pair = pv.{name}(\n    {textwrap.fill(arguments, 76, subsequent_indent='    ')}\n)"
    lines = [
        "import pyro_vaes as pv", "", 'digits = pv.load("digits")', DATA[data], pair,
        *before, f"pv.{fit}(pair, x{CONDITION.get(data, '')}, {train}{warm})",
        USE.get(data) or blocks or "new = pv.sample(pair, 16)",
    ]  # fmt: skip
    return "\n".join(lines)


def used(name: str, root: Path) -> str:
    """Links: the entry of the reference, notebooks that call the variant, pages and experiments that have it."""
    lines = [f"- The reference: {{py:func}}`pv.{name} <pyro_vaes.variants.{name}>`"]
    for source in sorted((root / "notebooks").glob("[0-9]*.py")):
        copy = source.with_suffix(".ipynb")
        if copy.exists() and f"pv.{name}(" in source.read_text():
            lines.append(f"- Notebook: [{notebook_pages.title(copy)}](../notebooks/{copy.name})")
    texts = {path: path.read_text() for path in sorted((root / "docs").glob("*.md"))}
    for path, text in texts.items():
        if f"`{name}`" in text or f"pv.{name}(" in text:
            lines.append(f"- Page: [{heading(text)}](../{path.name})")
    where: dict[Path, list[str]] = {}
    for module in MODULES.values():
        if module.NAME != "gallery" and f'"{name}"' in Path(str(module.__file__)).read_text():
            for path in [path for path, text in texts.items() if f"<!-- {module.NAME}.quick -->" in text][:1]:
                where.setdefault(path, []).append(f"`{module.NAME}`")
    lines += [f"- Experiments on [{heading(texts[p])}](../{p.name}): {', '.join(them)}" for p, them in where.items()]
    return "\n".join(lines)


def heading(text: str) -> str:
    """The first heading of a page."""
    return next(line for line in text.splitlines() if line.startswith("# ")).lstrip("# ")
