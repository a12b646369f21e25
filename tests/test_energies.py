"""Slices of energies, the clip with a known background, and the experiment on both, small."""

import json
import math
from functools import partial

import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.data.clip import clip
from pyro_vaes.evaluation import slices
from pyro_vaes.experiments import energies as experiment

F64 = torch.float64


def problem(d=6, r=1, n=9):
    g = torch.Generator().manual_seed(3)
    W, Z = torch.randn(d, r, generator=g, dtype=F64), torch.randn(n, r, generator=g, dtype=F64)
    E = torch.zeros(n, d, dtype=F64)
    E[0, 0], E[0, 2], E[4, 1] = 1.5, -2.0, 1.0
    direction = torch.randn(r, generator=g, dtype=F64)
    return W, Z, E, direction


def on_line(r=1, **options):
    W, Z, E, direction = problem(r=r)
    low = Z @ W.T
    return slices.line(low[0] + E[0], W, Z[0], direction, **{"reach": 4.0, "points": 101, **options}), low[0] + E[0]


@pytest.mark.parametrize("r", [1, 2])
def test_the_line_stays_in_the_column_space_and_meets_every_zero(r):
    W, _, E, _ = problem(r=r)
    on, x = on_line(r)
    torch.testing.assert_close(on.e[:, 0], on.t)
    torch.testing.assert_close(on.z @ W.T, on.low, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(on.low + on.e, x.expand_as(on.e))
    truth = (on.t == E[0, 0]).nonzero().item()
    torch.testing.assert_close(on.e[truth], E[0], rtol=0, atol=1e-12)
    crossed = (on.e[:-1].sign() * on.e[1:].sign() < 0).any(0)
    assert not crossed[[0, 2]].any(), "between two points no wrong error changes its sign without being zero at one"
    with pytest.raises(pv.InputError, match="does not move"):
        slices.line(x, W * 0, torch.zeros(r, dtype=F64), torch.ones(r, dtype=F64), reach=1.0)


def test_the_convex_energy_is_the_relaxation_s_objective_and_convex():
    W, Z, E, _ = problem()
    low = Z @ W.T
    on, _ = on_line()
    energy = slices.convex_energy(on, low[1:], E[1:])
    for i in (0, 40, -1):
        whole, errors = torch.cat([on.low[i : i + 1 or None], low[1:]]), torch.cat([on.e[i : i + 1 or None], E[1:]])
        by_hand = torch.linalg.svdvals(whole).sum() + errors.abs().sum() / 3
        torch.testing.assert_close(energy[i], by_hand)
    t, slope = on.t, energy.diff() / on.t.diff()
    assert (slope.diff() > -1e-9).all() and len(t) > 100


def test_a_lowest_point_beside_the_truth_is_not_taken_for_it():
    """Problem 28 with 45 % outliers: the convex energy is lowest 0.001 from the truth, between two even steps."""
    W, Z, direction, E = experiment.drawn(0.45, 28)
    low = Z @ W.T
    x, truth = low[0] + E[0], E[0, 0]
    for near, off in ((0.0, 0.0), (experiment.NEAR, experiment.NEAR)):
        on = slices.line(x, W, Z[0], direction, reach=6.0, beside=near)
        energy = slices.convex_energy(on, low[1:], E[1:])
        assert (on.t[energy.argmin()] - truth).abs().item() == pytest.approx(off, abs=1e-9)
    fine = slices.line(x, W, Z[0], direction, reach=0.01, points=2001)
    at = fine.t[slices.convex_energy(fine, low[1:], E[1:]).argmin()] - truth
    assert at.item() == pytest.approx(-0.001, abs=2e-4)


def test_the_vae_s_energy_is_the_best_over_every_width_of_the_posterior():
    """One code: the width on a grid, the variances at their best by hand."""
    W, _, _, _ = problem()
    floor, (on, x) = 0.05, on_line()
    s = torch.logspace(-5, 1, 4001, dtype=F64)
    lam = on.e.square()[:, None] + (s[:, None] * W[:, 0]) ** 2 + floor**2
    cost = 0.5 * (s**2 - 2 * s.log() + on.z.square() + lam.log().sum(-1))
    best, where = cost.min(1)
    energy = slices.vae_energy(on, x, W, floor)
    torch.testing.assert_close(energy, best, rtol=0, atol=2e-4)
    # What it bounds, E log|e| in the place of log E e^2 / 2, by quadrature.
    node = torch.linspace(-8, 8, 4001, dtype=F64)
    weight = (-0.5 * node**2).exp()
    for i in range(0, len(s[where]), 20):
        width = s[where[i]]
        e = on.e[i] - width * node[:, None] * W[:, 0]
        mean_log = ((e.square() + floor**2).log().sum(1) * weight).sum() / weight.sum() / 2
        exact = 0.5 * (width**2 - 2 * width.log() + on.z[i, 0] ** 2) + mean_log
        assert exact <= energy[i] + 1e-4
        assert energy[i] - exact <= len(x) * (math.log(2) + 0.5772) / 2 + 1e-4


def test_one_well_per_error_that_can_be_zero_and_fewer_in_the_vae():
    on, x = on_line(points=201, reach=20.0)
    W, _, E, _ = problem()
    induced, vae = slices.induced_energy(on, 1e-3), slices.vae_energy(on, x, W, 1e-3)
    # Both outliers have a well of their own, beside the true one, where four errors vanish.
    assert len(slices.local_minima(induced)) == 3 > len(slices.local_minima(vae))
    for energy in (induced, vae):
        assert on.t[energy.argmin()].item() == pytest.approx(E[0, 0].item())


def test_the_clip_is_what_it_says():
    made = clip(frames=40, height=16, width=20, generator=torch.Generator().manual_seed(0))
    assert made.frames.shape == made.background.shape == made.mask.shape == (40, 320) and made.shape == (16, 20)
    assert torch.linalg.matrix_rank(made.background.double(), rtol=1e-5) == 2
    assert torch.equal(made.frames[~made.mask], made.background[~made.mask])
    assert made.frames.min() >= 0 and made.frames.max() <= 1
    area = made.mask.sum(1)
    assert area.max() == 50 and area.min() >= 25  # two squares of 25 pixels, that may overlap
    assert made.mask.float().mean(0).max() < 0.7, "no pixel is covered almost always"
    assert ((made.frames - made.background).abs()[made.mask] > 0.05).float().mean() > 0.95
    steps = (made.mask[1:] != made.mask[:-1]).any(1)
    assert steps.float().mean() > 0.9
    with pytest.raises(pv.InputError, match="side is 17"):
        clip(height=16, side=17, generator=torch.Generator())
    bare = clip(frames=3, objects=0, generator=torch.Generator())
    assert not bare.mask.any() and torch.equal(bare.frames, bare.background)


def test_from_cells_to_table(monkeypatch, in_this_process, tmp_path):
    small = {"steps": 10, "problems": 2, "frames": 12, "seeds": [0, 1]}
    monkeypatch.setitem(experiment.SCALES, "quick", {**experiment.SCALES["quick"], **small})
    monkeypatch.setattr(experiment, "line", partial(slices.line, points=41))
    monkeypatch.setattr(experiment, "vae_energy", partial(slices.vae_energy, iterations=5))
    path = experiment.reproduce(tmp_path, "quick", tmp_path)
    result = json.loads(path.read_text())
    assert all(p["convex"]["minima"] == 1 for problems in result["slices"].values() for p in problems)
    assert result["background"]["convex RPCA"][0] < result["background"]["median"][0]
    assert all(angle > 20 for angle in result["degrees"]["PCA"])
    assert len(result["verdicts"]) == 15
    lines = experiment.table(result).splitlines()
    assert len(lines) == 15 and lines[2].startswith("| slice, 20% outliers")
    assert {p.name for p in tmp_path.glob("*.png")} == {
        f"energies.quick.{name}.png" for name in ("slices", "outlier", "background")
    }


def test_claims_by_hand():
    def found(convex, induced, vae):
        wells = {"convex": (1, convex), "induced AE": (5, induced), "VAE": (2, vae)}
        return {name: {"minima": minima, "off": off} for name, (minima, off) in wells.items()}

    slices_of = {"0.45": [found(0.0, 0.0, 0.0), found(0.5, 0.0, 0.0)]}
    angles = {
        "PCA": [50.0, 40.0],
        "convex RPCA": [15.0, 4.0],
        "Proposition 1": [60.0, 1.0],
        "affine iC-VAE": [11.0, 1.0],
    }
    background = {"median": [0.1, 0.1], "convex RPCA": [0.01, 0.01], "affine iC-VAE": [0.02, 0.02]}
    verdicts = experiment.verdicts(slices_of, angles, background)
    kinds = [v["verdict"] == "held" for v in verdicts]
    # The first three are shares above 95 %, which two problems that agree cannot show.
    assert kinds == [False, False, False, True, False, True, False, True, True, True, False]
    assert [v["gain"] for v in verdicts[:3]] == pytest.approx([-0.45, 0.05, 0.05])
    many = experiment.verdicts({"0.45": slices_of["0.45"] * 50}, angles, background)
    assert [v["verdict"] == "held" for v in many[:3]] == [False, True, True]
    assert verdicts[3]["gain"] == 3 and verdicts[4]["gain"] == pytest.approx(0.5)
