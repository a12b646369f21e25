"""The gallery: a cell, a figure and a page for every variant, and no number that is not in the result."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.evaluation.report import png
from pyro_vaes.experiments import gallery, gallery_figures
from pyro_vaes.experiments.gallery_pictures import COLUMNS, LINES
from pyro_vaes.experiments.likelihoods import unpacked
from pyro_vaes.experiments.readme import result_table
from pyro_vaes.inference.densities import family

ROOT = Path(pv.__file__).parent.parent
RESULT = ROOT / "results" / "gallery.quick.json"
TINY = {"steps": 2, "samples": 20, "weighed": 4}


@pytest.fixture(scope="module")
def result():
    return json.loads(RESULT.read_text())


@pytest.fixture(scope="module")
def builder():
    """The module that writes the pages, and all of them."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        import gallery_pages
    finally:
        sys.path.pop(0)
    return gallery_pages


@pytest.fixture(scope="module")
def pages(builder):
    return builder.pages(ROOT)


@pytest.fixture
def tiny(monkeypatch, in_this_process):
    monkeypatch.setitem(gallery.SCALES, "quick", gallery.SCALES["quick"] | TINY)


def test_every_variant_has_a_cell_a_figure_and_a_page(result, pages, builder):
    assert set(gallery.ROWS) == set(result["variants"]) == set(builder.LINES) == set(pv.VARIANTS)
    sizes = set()
    for name in pv.VARIANTS:
        picture = (RESULT.parent / f"gallery.quick.{name}.png").read_bytes()
        assert len(picture) <= 60_000, name
        sizes.add(picture[16:24])
        page = pages[f"gallery/{name}.md"]
        assert page.startswith(f"# {name}\n") and f"../../results/gallery.quick.{name}.png" in page
        assert f":link: {name}\n" in pages["gallery/index.md"] and builder.family(name)
    assert len(sizes) == 1, "figures of one size"


@pytest.mark.parametrize("name", [n for n in pv.VARIANTS if n != "spline_vae"])
def test_what_a_variant_is_given_suits_it(name):
    row = gallery.ROWS[name]
    data = gallery.split(row.data, 1400, 100)
    extra = {"points": data.x[:20]} if name == "memoriser" else {}
    pair = pv.variant(name)(data_dim=data.x.shape[1], **row.arguments, **extra)
    fn = family(pair.traces()[1].nodes["x"])
    assert type(fn).__name__.startswith("Bernoulli") == (
        row.data in ("binary", "labels", "halves", "100 labels, binary")
    )
    assert bool(pair.condition_dim) == (data.y is not None)
    assert pair.partial == (data.y is not None and data.test_y is None)
    if pair.range is not None:
        assert data.x.min() >= 0 and data.x.max() <= 1
    assert len(data.x) + len(data.test) == 1797 and len(data.test) == len(data.truth) == len(data.labels)


def test_truth_is_not_what_is_given():
    for kind in ("dirty", "standardised"):
        data = gallery.split(kind, 1400, 100)
        given = data.pixels(data.test)
        assert torch.allclose(given[~data.wrong], data.truth[~data.wrong], atol=1e-5)
        assert 0.18 < data.wrong.float().mean() < 0.22 and (given - data.truth).abs().max() > 0.5
    data = gallery.split("strangers", 1400, 100)
    assert torch.equal(data.test[~data.wrong], data.truth[~data.wrong]) and 0.05 < data.wrong.float().mean() < 0.15
    assert torch.allclose(data.test.sort(1).values, data.truth.sort(1).values)


@pytest.mark.parametrize("name", pv.VARIANTS)
def test_numbers_on_a_page_are_those_of_the_result(name, result, pages):
    numbers, page = result["variants"][name]["numbers"], pages[f"gallery/{name}.md"]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.split("## Numbers")[1], re.MULTILINE))
    by_words = {"parameters of p": ("parameters of p", "{:,}"), "RMSE of test data, rebuilt": ("rmse", "{:.4f}"),
                "the same, training data": ("bound on training data", "{:,.2f}"),
                "seconds of training (CPU)": ("seconds", "{:.1f}"), "AUC of outlier scores": ("auc", "{:.4f}"),
                "data with k-hat above 0.7": ("k-hat", "{:.0%}")}  # fmt: skip
    for words, (key, style) in by_words.items():
        assert (words in rows) == (numbers[key] is not None), words
        if words in rows:
            assert rows[words] == style.format(numbers[key])
    assert f"{numbers['bound']:,.2f}" in rows.values()
    likelihood = rows["log p(x), nats, first 100 test data"]
    assert (
        numbers["why"] in likelihood if numbers["nll"] is None else likelihood.startswith(f"{-numbers['nll']:,.2f} ±")
    )
    assert result["variants"][name]["describe"] in page
    total = sum(numbers[f"parameters of {part}"] for part in ("p", "q", "objective"))
    assert f"{total:,} parameters" in result["variants"][name]["describe"]


def test_the_index_has_all_numbers(pages):
    table = result_table(RESULT)
    assert table in pages["gallery/index.md"] and all(f"| `{name}` |" in table for name in pv.VARIANTS)


@pytest.mark.parametrize("name", pv.VARIANTS)
def test_pictures_fill_the_figure(name, result):
    rows = [len(unpacked(row["pixels"], 64)) for row in result["variants"][name]["pictures"]]
    assert sum(rows) == COLUMNS * LINES and all(n % COLUMNS == 0 for n in rows)


def test_a_variant_without_a_density_says_so(result):
    for name in ("ic_vae", "indexed_ic_vae", "affine_ic_vae", "ric_vae", "induced_ae"):
        assert "no normalised density" in result["variants"][name]["numbers"]["why"]
    for name in ("autoencoder", "wae_mmd", "wae_gan", "ae_classifier"):
        assert "point mass" in result["variants"][name]["numbers"]["why"]


def test_a_cell_of_a_cheap_variant(tiny):
    found = gallery.cell("t_vae", 0, "quick")
    numbers = found["numbers"]
    assert numbers["nll"] > 0 and 0 <= numbers["auc"] <= 1 and numbers["accuracy"] is None
    assert numbers["rmse given"] > 0.1 and numbers["codes"] == {"z": 16}
    assert png(gallery_figures.figure("t_vae", json.loads(json.dumps(found))))[1:4] == b"PNG"


def run(builder, name, found, steps=2):
    code = re.sub(r"steps=\d+", f"steps={steps}, progress=False", builder.example(name, found))
    code = code.replace('pv.load("digits")', 'pv.load("digits", limit=500)')
    exec(compile(code, name, "exec"), {})


def test_the_lines_to_copy_run(builder, result):
    for name in ("l2_vae", "ric_vae", "cvae", "structured_cvae"):
        run(builder, name, result["variants"][name])


@pytest.mark.slow
@pytest.mark.parametrize("name", pv.VARIANTS)
def test_the_lines_to_copy_run_for_every_variant(name, builder, result):
    run(builder, name, result["variants"][name])


@pytest.mark.slow
def test_the_whole_in_small(tiny, tmp_path):
    path = gallery.reproduce(tmp_path, "quick", tmp_path)
    found = json.loads(path.read_text())
    assert list(found["variants"]) == list(pv.VARIANTS)
    assert {p.name for p in tmp_path.iterdir()} == {"gallery.quick.json"} | {
        f"gallery.quick.{name}.png" for name in pv.VARIANTS
    }
    assert gallery.table(found).count("\n") == 3 + len(pv.VARIANTS)
