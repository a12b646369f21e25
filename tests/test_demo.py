"""The demo's claim, and the figures it draws."""

import json
from itertools import pairwise

import pytest
import torch

from pyro_vaes.cli import main
from pyro_vaes.evaluation import plots
from pyro_vaes.experiments import demo, floor_sweep, recycling
from pyro_vaes.experiments.training import trained


@pytest.mark.slow
def test_the_robust_variants_beat_robust_pca_and_every_classical_vae(tmp_path):
    demo.write(tmp_path, "quick")
    error = json.loads((tmp_path / "results.json").read_text())["mse"]
    assert {"mean", "pca", "rpca", "autoencoder", "l2_vae", "lc_vae", "ic_vae", "ric_vae", "t_vae"} <= set(error)
    others = [value for name, value in error.items() if name not in demo.ROBUST]
    for name in demo.ROBUST:
        assert error[name] < min(others), name
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_the_demo_end_to_end_in_small(tmp_path, monkeypatch):
    monkeypatch.setitem(demo.STEPS, "quick", 3)
    demo.write(tmp_path / "demo")
    assert main(["clean", str(tmp_path / "demo/t_vae"), "digits", str(tmp_path / "demo/o.npz")]) == 0
    assert (tmp_path / "demo/report.html").read_text().count("data:image/png;base64,") == 3
    results = tmp_path / "results"
    path = demo.reproduce(results, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert result["scale"] == "quick"
    assert set(result["floor"]) == {"ic_vae floor", "ric_vae floor", "t_vae scale", "t_vae nu"}
    found = {p.name for p in results.iterdir()}
    assert found == {f"demo.quick.{n}" for n in ("json", "rows.png", "bars.png", "outliers.png")}
    assert demo.table(result).count("\n") == 1 + len(result["mse"])


def test_dirty_digits_are_as_the_protocol_says():
    x, dirty, mask = demo.data(0)
    assert torch.equal(x[~mask], dirty[~mask])
    assert abs(mask.float().mean().item() - 0.4) < 0.01


def test_training_of_an_experiment_stops_as_a_whole():
    import os
    import signal

    with pytest.raises(KeyboardInterrupt):
        trained(
            "l2_vae", torch.rand(9, 4), arguments={"hidden": (3,)}, steps=50, progress=False,
            on_step=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 3 else None,
        )  # fmt: skip


def test_labels_of_curves_never_cover_each_other():
    ends = plots._spread([0.1, 0.1, 0.1001, 0.5], [0.1, 0.5])
    gaps = sorted(ends)
    assert all(b - a >= 0.045 * 0.5 - 1e-12 for a, b in pairwise(gaps))


def test_labels_of_curves_keep_their_distance_under_wide_bands():
    lines, bands = {"a": [0.1, 0.1], "b": [0.1, 0.11]}, {"a": [(0.0, 5.0), (0.0, 5.0)]}
    ax = plots.curves([1, 2], lines, titles=["t"], xlabel="x", ylabel="y", bands=bands).axes[0]
    low, high = sorted(text.xyann[1] for text in ax.texts)
    assert high - low >= 0.045 * 5 - 1e-12


@pytest.mark.slow
def test_the_floor_sweep_end_to_end_in_small(tmp_path, monkeypatch, in_this_process):
    monkeypatch.setitem(floor_sweep.SCALES, "quick", {"steps": 2, "seeds": [0]})
    result = json.loads(floor_sweep.reproduce(tmp_path, "quick", tmp_path).read_text())
    assert [row["floor"] for row in result["rows"]] == list(floor_sweep.SETTINGS)
    assert floor_sweep.table(result).count("\n") == 1 + len(floor_sweep.SETTINGS)
    assert {path.name for path in tmp_path.iterdir()} == {"floor-sweep.quick.json", "floor-sweep.quick.curve.png"}
    for row in result["rows"][: len(floor_sweep.FLOORS)]:
        assert row["ordinary residual"][0] == pytest.approx(row["floor"], rel=1e-4)


@pytest.mark.slow
def test_recycling_end_to_end_in_small(tmp_path, monkeypatch, in_this_process):
    monkeypatch.setitem(recycling.SCALES, "quick", {"steps": 2, "seeds": [0, 1]})
    result = json.loads(recycling.reproduce(tmp_path, "quick", tmp_path).read_text())
    ways = sum(len(ways) for _, ways in recycling.BASES.values())
    assert len(result["rows"]) == ways * len(recycling.DIRT)
    assert recycling.table(result).count("\n") == 1 + ways
    assert {v["verdict"] for v in result["verdicts"]} <= {"held", "did not hold"}
    assert {path.name for path in tmp_path.iterdir()} == {"recycling.quick.json", "recycling.quick.bars.png"}


@pytest.mark.slow
def test_floors_trained_as_replicas_are_those_trained_alone():
    for settings in ((0.001, 0.3), ("learned", "learned"), ("t_vae", "t_vae")):
        members = list(zip(settings, (1, 0), strict=True))
        together = floor_sweep.replicas(members, steps=3, device="cpu", engine="graph")
        assert together[0] == pytest.approx(floor_sweep.cell(*members[0], 3), rel=1e-4)
