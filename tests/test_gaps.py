"""k-hat, NUTS and the gaps of a guide, where a posterior is known: linear-Gaussian, or one number on a grid."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from test_closed_forms import F64, LinearEncoder, Solution, fixed, linear_data, linear_pair
from test_contract import batch, condition, make
from torch import nn

import pyro_vaes as pv
from pyro_vaes.analysis.gap_plots import guide_against_nuts, suspects
from pyro_vaes.errors import InputError
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.inference.pareto import khat, smoothed
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.pair import Pair

SETTINGS = {"samples": 100, "warmup": 60, "depth": 5, "seed": 1}


class Known:
    """A linear-Gaussian pair with a correlated posterior N(m, C), and a diagonal guide that is what we make it."""

    def __init__(self, shift=(0.0, 0.0), factor=1.0, turn=0.6, rows=3):
        c, s = np.cos(turn), np.sin(turn)
        best = Solution.of(linear_data(), 2)
        self.solution = Solution(best.w @ torch.tensor([[c, -s], [s, c]], dtype=F64), best.b, best.sigma)
        matrix, self.covariance = self.solution.posterior()
        self.precision = torch.linalg.inv(self.covariance)
        self.x = linear_data()[:rows]
        self.mean = (self.x - best.b) @ matrix.T
        self.shift = torch.tensor(shift, dtype=F64)
        # The diagonal Gaussian of the smallest KL(q || p) has the precision's diagonal (Bishop 2006, 10.1.2).
        self.sd = factor * self.precision.diagonal().rsqrt()
        encoder = LinearEncoder(matrix, best.b, self.sd)
        self.pair = linear_pair(self.solution, _Shifted(encoder, self.shift))

    @property
    def approximation(self):
        return 0.5 * (self.precision.diagonal().log().sum() - torch.logdet(self.precision))

    @property
    def amortisation(self):
        stretch = self.precision.diagonal() * self.sd.square()
        return 0.5 * (self.shift @ self.precision @ self.shift + (stretch - 1 - stretch.log()).sum())


class _Shifted(nn.Module):
    def __init__(self, encoder, shift):
        super().__init__()
        self.encoder, self.shift = encoder, shift

    def forward(self, x):
        loc, scale = self.encoder(x)
        return loc + self.shift, scale


def folded(sigma):
    """p: z ~ N(0, 1), x ~ N(z^2, sigma^2), whose posterior has two modes; and that posterior on a grid."""

    class Square(nn.Module):
        def forward(self, z):
            return z.square()

    encoder = LinearEncoder(torch.zeros(1, 1, dtype=F64), torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64))
    pair = Pair(LatentGaussian(StandardPrior(1).double(), Square(), fixed(sigma)), AmortisedNormal(encoder))
    z = torch.linspace(-6, 6, 20001, dtype=F64)
    log_p = torch.distributions.Normal(0, 1).log_prob(z) + torch.distributions.Normal(z.square(), sigma).log_prob(
        torch.tensor(1.0, dtype=F64)
    )
    return pair, torch.ones(1, 1, dtype=F64), z, log_p.exp()


# --- weights ------------------------------------------------------------------------------------------------------


def test_weights_of_the_exact_guide_are_constant():
    found = pv.psis((known := Known(turn=0.0)).pair, known.x, draws=200)
    assert found.khat.tolist() == [0.0] * 3
    torch.testing.assert_close(found.raw, known.solution.evidence(known.x).expand(200, -1))
    torch.testing.assert_close(found.ess, torch.full((3,), 200.0, dtype=F64))
    assert found.finding().verdict == "good" and found.bad == []


def test_weights_put_a_shifted_guide_right():
    known = Known(shift=(0.15, -0.1), factor=1.3)
    found = pv.reweighted(known.pair, known.x, lambda drawn: drawn.values["z"], draws=4000, chunk=700, batch_size=2)
    assert bool((found.khat < 0.7).all())
    assert bool(((found.mean - known.mean).abs() < 4 * found.se).all())
    assert bool((found.se < 0.02).all())
    # What there was to put right:
    assert bool(((found.plain - known.mean).abs() > 5 * found.se).any(1).all())
    squares = pv.reweighted(known.pair, known.x, lambda drawn: drawn.values["z"].square(), draws=4000)
    expected = known.mean.square() + known.covariance.diagonal()
    assert bool(((squares.mean - expected).abs() < 4 * squares.se).all())


@pytest.mark.slow
def test_k_hat_is_blind_to_a_mode_without_a_draw_and_r_hat_is_not():
    """z^2 = 1 with two modes of one half each; the guide is all right around the one."""
    pair, x, z, p = folded(0.1)
    right = z > 0
    mean = (z * p)[right].sum() / p[right].sum()
    encoder = LinearEncoder(torch.zeros(1, 1, dtype=F64), torch.zeros(1, dtype=F64), torch.full((1,), 0.06, dtype=F64))
    pair.guide = AmortisedNormal(_Shifted(encoder, mean.reshape(1)))
    finding = pv.psis(pair, x, seed=1).finding()
    assert finding.verdict == "good" and "unless the guide misses a mode" in finding.said
    chains = pv.nuts(pair, x, **SETTINGS)
    assert chains.finding().verdict == "bad" and 0 < float((chains.states < 0).double().mean()) < 1


def test_averages_in_chunks_are_those_of_the_kept_draws():
    known = Known(shift=(0.2, 0.1))
    kept = pv.psis(known.pair, known.x, draws=300, chunk=70, batch_size=2, keep=True)
    found = pv.reweighted(known.pair, known.x, lambda d: d.values["z"], draws=300, chunk=70, batch_size=2)
    w = kept.log_weights.exp()[..., None]
    mean = (w * kept.values["z"]).sum(0)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.se, (w.square() * (kept.values["z"] - mean).square()).sum(0).sqrt())
    torch.testing.assert_close(found.plain, kept.values["z"].mean(0))
    torch.testing.assert_close(found.khat, kept.khat)


def test_a_guide_that_is_far_too_narrow_is_found_out():
    known = Known(factor=0.15)
    found = pv.psis(known.pair, known.x, draws=1000)
    assert len(found.bad) == 3 and found.finding().verdict == "bad"
    figure = suspects(torch.rand(3, 4), torch.rand(3, 4), found.khat, (2, 2))
    assert "3 of 3 data have k-hat > 0.7" in figure._suptitle.get_text()


def test_smoothed_weights_are_arviz_s_on_both_versions(tmp_path):
    """The other Python has numpy and ArviZ 1.x only, and runs the file that we run."""
    other = os.environ.get("PYRO_VAES_ARVIZ1")
    if not other:
        pytest.skip("PYRO_VAES_ARVIZ1 names no Python with ArviZ 1.x")
    rng = np.random.default_rng(0)
    # 3 sqrt(900) is whole: elsewhere the tails of the two versions differ by one weight.
    log_w = rng.standard_t(4, (5, 900)) * np.array([[0.1], [0.5], [1.0], [2.0], [4.0]])
    alone = np.where(np.arange(900) == 7, 0.0, -1e4)
    log_w = np.concatenate([log_w, np.full((1, 900), -3.0), alone[None]])
    chains = rng.normal(size=(4, 100, 3)) + np.array([0.0, 0.3, 2.0]) * np.arange(4)[:, None, None]
    np.savez(tmp_path / "in.npz", log_w=log_w, chains=chains)
    source = Path(pv.__file__).parent / "inference" / "by_arviz.py"
    program = (
        "import sys, numpy as np, runpy; ours = runpy.run_path(sys.argv[1]); d = np.load(sys.argv[2]);"
        "s, k = ours['psis'](d['log_w']); r, e = ours['rhat_and_ess'](d['chains']);"
        "import arviz; assert int(arviz.__version__.split('.')[0]) >= 1;"
        "np.savez(sys.argv[3], s=s, k=k, r=r, e=e)"
    )
    done = subprocess.run([other, "-c", program, source, tmp_path / "in.npz", tmp_path / "out.npz"],
                          env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    from pyro_vaes.inference.by_arviz import rhat_and_ess

    smooth, k = smoothed(torch.as_tensor(log_w))
    rhat, ess = rhat_and_ess(chains)
    with np.load(tmp_path / "out.npz") as theirs:
        np.testing.assert_allclose(k[:5].numpy(), theirs["k"][:5], rtol=1e-6)
        np.testing.assert_allclose(smooth.numpy(), theirs["s"], atol=1e-6)
        assert not np.isfinite(theirs["k"][5:]).any()
        np.testing.assert_allclose(rhat, theirs["r"], rtol=1e-6)
        np.testing.assert_allclose(ess, theirs["e"], rtol=1e-6)
    # The sign that 1.x takes the other way round: heavier tails, larger k-hat.
    assert k[4] > 0.7 > k[0] and k[5:].tolist() == [0.0, torch.inf]


def test_k_hat_is_that_of_the_smoothing():
    log_w = torch.randn(4, 300, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2
    smooth, k = smoothed(log_w)
    torch.testing.assert_close(k, khat(log_w))
    order = log_w.argsort(1)
    # Smoothing keeps the order, and touches the largest weights only.
    assert bool((smooth.gather(1, order).diff(dim=1) >= 0).all())
    body = order[:, :200]
    torch.testing.assert_close(
        smooth.gather(1, body).diff(dim=1), log_w.gather(1, body).diff(dim=1), rtol=1e-6, atol=1e-9
    )


def test_bad_functions_and_points_are_refused():
    known = Known()
    with pytest.raises(InputError, match=r"f gives \(2,\): it must give a tensor of a value per draw and datum"):
        pv.reweighted(known.pair, known.x, lambda drawn: torch.zeros(2), draws=30)
    points = pv.autoencoder(4, 2, (5,))
    for audit in (pv.psis, pv.gaps):
        with pytest.raises(InputError, match="point mass"):
            audit(points, torch.rand(3, 4))


# --- NUTS -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("whiten", ["laplace", "guide"])
def test_chains_have_the_moments_of_a_gaussian_posterior(whiten):
    known = Known(shift=(1.0, 1.0), factor=0.5)
    found = pv.nuts(known.pair, known.x, group=2, whiten=whiten, **SETTINGS)
    assert bool(found.mixed.all()) and found.finding().verdict == "good"
    sd = known.covariance.diagonal().sqrt()
    assert bool(((found.mean - known.mean).abs() < 5 * sd / found.ess.sqrt()).all())
    torch.testing.assert_close(found.sd, sd.expand(3, 2), rtol=0.15, atol=0.0)
    flat = found.states.flatten(0, 1)
    correlation = torch.corrcoef(flat[:, 0].T)[0, 1]
    expected = known.covariance[0, 1] / sd.prod()
    assert abs(correlation - expected) < 0.15 and abs(expected) > 0.2
    assert found.values()["z"].shape == (400, 3, 2)


@pytest.mark.slow
def test_chains_of_two_modes_visit_both_as_often_as_they_should():
    pair, x, z, density = folded(0.7)
    found = pv.nuts(pair, x, samples=150, warmup=60, depth=4, seed=2)
    density = density / density.sum()
    assert found.rhat.item() <= 1.05
    states = found.states.flatten()
    error = 5 / found.ess.item() ** 0.5
    assert abs(states.mean()) < error
    for f in (torch.square, torch.abs):
        exact = (density * f(z)).sum()
        assert abs(f(states).mean() - exact) < error * (density * (f(z) - exact).square()).sum().sqrt()


def test_discrete_codes_have_no_chains():
    pair = make("m2_vae")
    for audit in (pv.nuts, pv.gaps, pv.compare):
        with pytest.raises(InputError, match="is discrete"):
            audit(pair, batch("m2_vae", 4), condition("m2_vae", 4))


# --- gaps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "factor"), [((0.0, 0.0), 1.0), ((0.05, -0.05), 1.0), ((0.0, 0.0), 0.5), ((0.02, 0.03), 1.5)]
)
def test_gaps_have_the_size_they_must_have(shift, factor):
    known = Known(shift, factor)
    found = pv.gaps(known.pair, known.x, draws=4000, chunk=1000)
    assert found.same and found.normalised and bool((found.khat < 0.7).all())
    evidence = known.solution.evidence(known.x)
    assert bool(((found.log_z - evidence).abs() < 4 * found.log_z_se + 1e-9).all())
    assert bool(((found.approximation - known.approximation).abs() < 4 * found.approximation_se).all())
    assert bool(((found.amortisation - known.amortisation).abs() < 4 * found.amortisation_se + 1e-9).all())
    assert known.approximation > 0.05 and found.approximation_se.max() < 0.025 and found.amortisation_se.max() < 0.1
    torch.testing.assert_close(found.q.loc, known.mean, atol=2e-3, rtol=0.0)
    best = known.precision.diagonal().rsqrt().expand(3, 2)
    torch.testing.assert_close(found.q.scale.diagonal(dim1=1, dim2=2), best, rtol=2e-3, atol=0.0)
    torch.testing.assert_close(found.total, found.approximation + found.amortisation)


def test_a_full_gaussian_closes_the_approximation_gap():
    known = Known((0.2, -0.1))
    found = pv.gaps(known.pair, known.x, family="full", draws=500)
    assert bool((found.approximation.abs() < 3 * found.approximation_se + 1e-6).all())
    torch.testing.assert_close(found.q.scale @ found.q.scale.mT, known.covariance.expand(3, 2, 2), rtol=0.01, atol=1e-4)
    expected = known.approximation + known.amortisation
    assert bool(((found.amortisation - expected).abs() < 4 * found.amortisation_se).all())


def test_the_gap_of_two_modes_is_that_of_the_grid():
    pair, x, z, density = folded(0.3)
    found = pv.gaps(pair, x, draws=4000, chunk=1000)
    step = z[1] - z[0]
    assert abs(found.log_z.item() - (density.sum() * step).log().item()) < 4 * found.log_z_se.item() < 0.2
    q = torch.distributions.Normal(found.q.loc[0, 0], found.q.scale[0, 0, 0]).log_prob(z)
    kl = torch.where(q > -50, q.exp() * (q - (density / density.sum() / step).log()), 0.0).sum() * step
    assert abs(found.approximation.item() - kl.item()) < 4 * found.approximation_se.item()
    assert kl > 0.5 and found.amortisation.item() > 0  # one Gaussian holds one mode


SOME = ("planar_vae", "crvae", "ic_vae", "autoencoder", "t_vae", "datum_t_vae", "iwae_2")


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_every_kind_of_pair_can_be_compared(name, tmp_path):
    pair, x, y = make(name), batch(name, 3), condition(name, 3)
    found = pv.compare(pair, x, y, draws=40, samples=8, warmup=8, depth=2, group=2)
    assert found.bias.isfinite().all() and found.chains.states.isfinite().all()
    assert json.loads(json.dumps(found.as_dict()))["names"] == found.chains.names
    assert len(found.table().splitlines()) == 6
    assert {f.verdict for f in found.findings()} <= {"good", "caution", "bad", "not tested"}
    assert (found.gaps is None) == (name == "autoencoder")
    if found.gaps is not None:
        assert found.gaps.total.isfinite().all()
        assert found.gaps.normalised == (name != "ic_vae")
    guide_against_nuts(found, title=name).savefig(tmp_path / "figure.png")


@pytest.mark.slow
def test_a_wrong_guide_is_called_wrong_and_a_right_one_right():
    known = Known(shift=(0.4, 0.0), factor=0.5, rows=2)
    bad = pv.compare(known.pair, known.x, draws=500, **SETTINGS)
    sd = known.covariance.diagonal().sqrt()
    torch.testing.assert_close(bad.bias, (known.shift / sd).expand(2, 2), atol=0.35, rtol=0.1)
    torch.testing.assert_close(bad.scale, (known.sd / sd).log2().expand(2, 2), atol=0.35, rtol=0.0)
    assert bad.finding().verdict == "bad"
    right = Known(turn=0.0, rows=2)
    good = pv.compare(right.pair, right.x, draws=500, **SETTINGS)
    assert [finding.verdict for finding in good.findings()] == ["good"] * 4


def test_nothing_of_the_callers_changes():
    known = Known()
    known.pair.train()
    before, weights = torch.random.get_rng_state(), [p.clone() for p in known.pair.parameters()]
    pv.compare(known.pair, known.x[:1], draws=30, samples=6, warmup=6, depth=2)
    assert torch.equal(before, torch.random.get_rng_state()) and known.pair.training
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(weights, known.pair.parameters(), strict=True))
