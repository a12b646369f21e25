"""log p(x) by importance sampling: against closed forms, and what it refuses."""

import math
import sys
import types
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from small import BINARY, sizes
from test_closed_forms import LinearEncoder, Solution, linear_data, linear_pair
from test_exact_sites import mixture_pair, t_pair
from torch import nn

import pyro_vaes as pv
from pyro_vaes.evaluation.decomposition import decompose
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.inference.densities import draw_and_weigh, quietly
from pyro_vaes.inference.likelihood import summarise
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.pareto import khat
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.pair import Pair
from pyro_vaes.plates import data_plate

F64 = torch.float64
# Guides that score their own draws and no others: no path begins at them, and no aggregate is made of them.
DRAWS_ONLY = {"planar_vae"}


def imperfect_pair(width=1.5, shift=0.3, objective=None, noise=0.3) -> tuple[Pair, Solution, torch.Tensor]:
    """Probabilistic PCA whose guide is off: its mean by a shift, its standard deviation by a factor."""
    x = linear_data(n=40, noise=noise)
    s = Solution.of(x, 2)
    right = s.encoder()
    scale = right.scale.detach()
    wrong = LinearEncoder(right.matrix.detach(), right.centre.detach() + shift * scale.mean(), width * scale)
    return linear_pair(s, wrong, objective), s, x


def test_the_weights_of_the_exact_posterior_are_the_evidence_itself():
    x = linear_data()
    s = Solution.of(x, 2)
    found = pv.log_likelihood(linear_pair(s, s.encoder()), x, samples=30)
    torch.testing.assert_close(found.value, s.evidence(x), rtol=1e-10, atol=1e-10)
    assert found.se.max() < 1e-9
    assert torch.equal(found.khat, torch.zeros(60, dtype=F64))
    assert found.unreliable == 0


def test_the_truth_lies_in_the_interval_as_often_as_it_should():
    """Forty data and ten seeds: 95 % of 400 intervals, give or take four standard deviations of a binomial."""
    pair, s, x = imperfect_pair()
    truth = s.evidence(x)
    z = torch.cat([
        (found.value - truth) / found.se
        for found in (pv.log_likelihood(pair, x, samples=2000, chunk=1000, seed=seed) for seed in range(10))
    ])  # fmt: skip
    assert abs((z.abs() < 1.96).double().mean() - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
    assert abs(z.std() - 1) < 0.15
    assert abs(z.mean()) < 0.2


def test_the_mean_and_its_error():
    pair, s, x = imperfect_pair()
    found = pv.log_likelihood(pair, x, samples=500)
    assert found.value.shape == found.se.shape == found.khat.shape == (40,)
    assert found.mean == pytest.approx(found.value.mean().item())
    assert found.mean_se == pytest.approx((found.se.square().sum().sqrt() / 40).item())
    assert abs(found.mean - s.evidence(x).mean().item()) < 4 * found.mean_se


def test_k_hat_is_large_for_a_guide_far_too_narrow_and_small_for_a_good_one():
    """With a tenth of the posterior's width nothing is worth anything; one and a half times it bounds the weights."""
    narrow, _, x = imperfect_pair(width=0.1, shift=0.0)
    good, _, _ = imperfect_pair(width=1.5, shift=0.0)
    assert pv.log_likelihood(narrow, x, samples=1000).unreliable > 0.9
    found = pv.log_likelihood(good, x, samples=1000)
    assert found.unreliable == 0
    assert found.khat.mean() < 0.3


def test_k_hat_is_the_exponent_of_a_pareto_tail():
    u = torch.rand(20, 20000, dtype=F64)
    for k in (0.3, 0.9):
        assert khat(-k * u.log()).mean().item() == pytest.approx(k, abs=0.05)


def test_k_hat_is_never_nan():
    rows = torch.stack([
        torch.zeros(100), torch.full((100,), -math.inf), torch.arange(100.0) * 50, torch.randn(100) * 1e-14,
        torch.cat([torch.zeros(3), torch.full((97,), -math.inf)]), torch.cat([torch.ones(1), torch.zeros(99)]),
    ])  # fmt: skip
    found = khat(rows)
    assert not found.isnan().any()
    assert found[0] == found[3] == 0
    assert found[1] == found[4] == found[5] == math.inf
    assert found[2] > 0.7
    assert khat(torch.randn(3, 24)).isnan().all()


@pytest.mark.parametrize(("version", "sign"), [("0.23.4", 1), ("1.3.0", -1)])
def test_k_hat_takes_arviz_by_its_version(version, sign, monkeypatch):
    seen = []

    def psislw(log_weights):
        seen.append(log_weights)
        return log_weights, np.full(len(log_weights), 0.25)

    arviz, stats, base = (types.ModuleType(name) for name in ("arviz", "arviz_stats", "arviz_stats.base"))
    arviz.__version__ = version
    if sign > 0:
        arviz.psislw = psislw
    base.array_stats = types.SimpleNamespace(psislw=psislw)
    for module in (arviz, stats, base):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    log_w = torch.randn(2, 50, dtype=F64)
    assert khat(log_w).tolist() == [0.25, 0.25]
    torch.testing.assert_close(torch.as_tensor(sign * seen[0]), log_w - log_w.max(1, keepdim=True).values)


def test_a_seed_fixes_the_numbers_and_leaves_the_callers_randomness_alone():
    pair, _, x = imperfect_pair()
    pair.train()
    before = torch.random.get_rng_state()
    first = pv.log_likelihood(pair, x, samples=50, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert pair.training
    torch.rand(3)
    assert torch.equal(first.value, pv.log_likelihood(pair, x, samples=50, seed=3).value)
    assert not torch.equal(first.value, pv.log_likelihood(pair, x, samples=50, seed=4).value)
    assert not first.value.requires_grad


def test_a_batch_does_not_depend_on_the_others():
    """Rows that come later have a stream of their own, so that a run over fewer data agrees on those it has."""
    pair, _, x = imperfect_pair()
    whole = pv.log_likelihood(pair, x, samples=50, batch_size=8)
    assert torch.equal(whole.value[:16], pv.log_likelihood(pair, x[:16], samples=50, batch_size=8).value)


def test_chunks_change_the_draws_and_nothing_else(monkeypatch):
    """With draws that do not depend on the chunking, neither does the answer."""
    pair, _, x = imperfect_pair()
    reference = pv.log_likelihood(pair, x, samples=400, batch_size=40, chunk=400)
    for chunk, batch_size in ((7, 40), (400, 3), (50, 11)):
        other = pv.log_likelihood(pair, x, samples=400, chunk=chunk, batch_size=batch_size)
        difference = (other.value - reference.value) / (other.se.square() + reference.se.square()).sqrt()
        assert 0.6 < difference.square().mean().sqrt() < 1.5
    noise = torch.randn(400, 40, 2, dtype=F64)
    rows = {tuple(r.tolist()): i for i, r in enumerate(x)}

    def weigh(pair, batch, y, particles):
        i = [rows[tuple(r.tolist())] for r in batch]
        state["at"] = 0 if state["rows"] != i else state["at"]
        eps = noise[state["at"] : state["at"] + particles][:, i]
        state.update(rows=i, at=state["at"] + particles)
        loc, scale = pair.guide.encoder(batch)
        z = loc + scale * eps
        q = dist.Normal(loc, scale).log_prob(z).sum(-1)
        p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        return p + dist.Normal(pair.model.decoder(z), pair.model.scale(z)).log_prob(batch).sum(-1) - q

    values = []
    monkeypatch.setattr("pyro_vaes.inference.likelihood.draw_and_weigh", weigh)
    for chunk, batch_size in ((400, 40), (7, 40), (400, 3), (50, 11)):
        state = {"rows": None, "at": 0}
        values.append(pv.log_likelihood(pair, x, samples=400, chunk=chunk, batch_size=batch_size))
    for other in values[1:]:
        for ours, theirs in zip(vars(values[0]).values(), vars(other).values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["is", "ais"])
def test_memory_is_bounded_by_chunk_and_batch(method, monkeypatch):
    """However many draws and data: no pass through the programs is larger."""
    from pyro_vaes.inference import densities

    pair, _, x = imperfect_pair()
    passes = []

    def watched(program, x, y, particles, values, size=None, real=densities.run):
        passes.append((particles, len(x)))
        return real(program, x, y, particles, values, size)

    monkeypatch.setattr(densities, "run", watched)
    monkeypatch.setattr("pyro_vaes.inference.annealed.run", watched)
    options = {"annealing": pv.Annealing(3, leapfrog=1)} if method == "ais" else {}
    pv.log_likelihood(pair, x, method=method, samples=30, chunk=8, batch_size=9, **options)
    work = [size for size in passes if size != (3, 2)]  # the rehearsal
    assert max(particles for particles, _ in work) == 8
    assert max(rows for _, rows in work) == 9


def test_a_bar_is_shown_when_asked_for(capsys):
    pair, _, x = imperfect_pair()
    pv.log_likelihood(pair, x, samples=9, batch_size=20, progress=True)
    assert "40/40" in capsys.readouterr().err
    pv.log_likelihood(pair, x, samples=9)
    assert capsys.readouterr().err == ""


def test_weights_by_hand():
    """One draw's weight: log p(z) + log p(x | z) - log q(z | x), in other words."""
    pair, _, x = imperfect_pair()
    with quietly(pair):
        torch.manual_seed(5)
        log_w = draw_and_weigh(pair, x, None, 3)
        torch.manual_seed(5)
        loc, scale = pair.guide.encoder(x)
        z = loc + scale * torch.randn(3, 40, 2, dtype=F64)
        normal = torch.distributions.Normal
        by_hand = normal(0.0, 1.0).log_prob(z).sum(-1) - normal(loc, scale).log_prob(z).sum(-1)
        by_hand = by_hand + normal(pair.model.decoder(z), pair.model.scale(z)).log_prob(x).sum(-1)
    torch.testing.assert_close(log_w, by_hand)


def test_neither_beta_nor_the_objective_matters():
    values = []
    for objective in (None, ELBO(beta=4.0, particles=3), ELBO(sampled=["z"]), pv.Recycled(ELBO(0.5), 2)):
        pair, _, x = imperfect_pair(objective=objective)
        values.append(pv.log_likelihood(pair, x, samples=50).value)
    assert all(torch.equal(values[0], value) for value in values[1:])


def quadrature(log_joint, points=401, width=8.0):
    """log of the integral over z in the plane, by the trapezoidal rule; log_joint takes (P, 1, 2)."""
    t = torch.linspace(-width, width, points, dtype=F64)
    grid = torch.cartesian_prod(t, t).reshape(-1, 1, 2)
    return log_joint(grid).logsumexp(0) + 2 * math.log(2 * width / (points - 1))


def normal_prior(z):
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def t_joint(pair, x, z):
    """log p(z) + log p(x | z) of t_pair, its precisions integrated out."""
    return normal_prior(z) + torch.distributions.StudentT(1.5, pair.model.decoder(z), 0.25).log_prob(x).sum(-1)


def mixture_joint(pair, x, z):
    """log p(z) + log p(x | z) of mixture_pair, its weights summed out."""
    mu, sigma = pair.model.decoder(z), pair.model.scale(z)
    clean = math.log(0.75) + torch.distributions.Normal(mu, sigma).log_prob(x)
    dirt = math.log(0.25) + torch.distributions.Normal(0.0, 2.0).log_prob(x).expand(clean.shape)
    return normal_prior(z) + torch.logaddexp(clean, dirt).sum(-1)


@torch.no_grad()
@pytest.mark.parametrize("method", ["is", "ais"])
def test_the_precision_of_the_t_vae_is_integrated_out(method):
    pair = t_pair()
    x = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))

    options = {"samples": 4000, "chunk": 2000}
    if method == "ais":
        options = {"samples": 40, "annealing": pv.Annealing(temperatures=60, leapfrog=4, start="prior")}
    found = pv.log_likelihood(pair, x, method=method, **options)
    exact = quadrature(lambda z: t_joint(pair, x, z), points=201)
    assert ((found.value - exact).abs() < 4 * found.se).all()
    assert found.se.max() < 0.3


@torch.no_grad()
def test_the_discrete_site_of_the_rvae_is_summed_out():
    pair = mixture_pair()
    x = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))

    found = pv.log_likelihood(pair, x, samples=4000, chunk=2000)
    exact = quadrature(lambda z: mixture_joint(pair, x, z), points=201)
    assert ((found.value - exact).abs() < 4 * found.se).all()


@pytest.mark.parametrize("name", sorted(pv.VARIANTS))
def test_every_variant_answers_or_refuses_with_one_sentence(name, data):
    pair = pv.variant(name)(**sizes(name, 8, 2, (5, 4)))
    x = (data > 0.5).float() if name in BINARY else data
    refused = {
        "ic_vae": "ic_vae has no normalised density", "affine_ic_vae": "affine_ic_vae has no normalised density",
        "indexed_ic_vae": "indexed_ic_vae has no normalised density", "ric_vae": "ric_vae has no normalised density",
        "induced_ae": "induced_ae has no normalised density", "autoencoder": "autoencoder has no importance weights",
        "wae_mmd": "wae_mmd has no importance weights", "wae_gan": "wae_gan has no importance weights",
        "ae_classifier": "ae_classifier has no importance weights",
    }  # fmt: skip
    if name in refused:
        for work in (lambda: pv.log_likelihood(pair, x), lambda: pv.sandwich(pair, 4)):
            with pytest.raises(pv.InputError, match=refused[name]) as error:
                work()
            assert "\n" not in str(error.value)
        return
    y = pair.first_condition(len(x))
    found = pv.log_likelihood(pair, x, y, samples=30)
    assert found.value.shape == (20,) and found.value.isfinite().all() and not found.khat.isnan().any()
    start = "prior" if name in DRAWS_ONLY else "guide"
    settings = pv.Annealing(temperatures=3, leapfrog=2, start=start)
    few = y if y is None else y[:3]
    if name == "m2_vae":
        with pytest.raises(pv.InputError, match="is discrete"):
            pv.log_likelihood(pair, x[:3], few, method="ais", samples=2, annealing=settings)
        return
    annealed = pv.log_likelihood(pair, x[:3], few, method="ais", samples=2, annealing=settings)
    assert annealed.value.isfinite().all()
    if name in DRAWS_ONLY:
        with pytest.raises(pv.InputError, match="no inverse"):
            pv.log_likelihood(pair, x[:3], method="ais", samples=2, annealing=pv.Annealing(start="guide"))
        return
    # Both are the same number but for chance, and far more alike than two data are.
    assert (annealed.value - found.value[:3]).abs().max() < 10


def test_an_improper_jeffreys_prior_is_refused(data):
    pair = pv.ic_vae(8, 2, (5,), floor=0.1, width=math.inf)
    with pytest.raises(pv.InputError, match=r"no normalised density: .*improper"):
        pv.log_likelihood(pair, data)
    with pytest.raises(pv.InputError, match="no normalised density"):
        pv.sandwich(pair, 4)


class Global(PyroModule):
    """A model, or a guide, with one site for all data."""

    def __init__(self, observed):
        super().__init__()
        self.observed = observed
        if observed:
            self.layer = nn.Linear(2, 8)

    def forward(self, x=None, y=None, *, size=None):
        u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(u, 1.0).to_event(1))
            if self.observed:
                return pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_site_outside_of_the_plate_is_refused(rows, data):
    pair = Pair(Global(True), Global(False))
    with pytest.raises(pv.InputError, match="'u' of the model lies outside of the data plate"):
        pv.log_likelihood(pair, data[:rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples is 1"), ({"method": "hmc"}, "unknown method 'hmc'"), ({"chunk": 0}, "chunk is 0"),
        ({"batch_size": 0}, "batch_size is 0"), ({"seed": -1}, "seed is -1"),
        ({"y": torch.zeros(20)}, "takes no condition"),
        ({"annealing": pv.Annealing()}, "belongs to method='ais'"), ({"x": torch.full((3, 8), 2.0)}, "rescale"),
        ({"x": torch.zeros(3, 7)}, "7 entries"), ({"x": torch.zeros(0, 8)}, "empty"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(options, message, data):
    x = options.pop("x", data)
    with pytest.raises(pv.InputError, match=message):
        pv.log_likelihood(pv.l2_vae(8, 2, (5,)), x, **options)


def test_bytes_are_pixels():
    pair = pv.l2_vae(8, 2, (5,))
    x = torch.randint(0, 256, (5, 8), dtype=torch.uint8)
    assert torch.equal(pv.log_likelihood(pair, x, samples=9).value, pv.log_likelihood(pair, x / 255, samples=9).value)


def test_a_weight_that_is_not_a_number_names_its_row():
    log_w = torch.zeros(9, 4)
    log_w[3, 2] = math.nan
    with pytest.raises(ArithmeticError, match="row 12"):
        summarise(log_w, start=10)


def test_no_mass_is_no_estimate():
    value, se, k = summarise(torch.full((30, 1), -math.inf, dtype=F64))
    assert (value.item(), se.item(), k.item()) == (-math.inf, math.inf, math.inf)


class Conditioned(PyroModule):
    """z ~ N(y, 1), x ~ N((z, z), 1) for a condition y; the guide is N(x_1, 1)."""

    def __init__(self, observed):
        super().__init__()
        self.observed = observed
        if observed:
            self.unused = nn.Parameter(torch.ones(1, dtype=F64))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            mean = y if self.observed else 0.5 * (x[:, :1] + y)
            z = pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))
            if self.observed:
                return pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), obs=x)


def conditioned_evidence(x, y):
    cov = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=F64)
    return torch.distributions.MultivariateNormal(y.expand(len(x), 2), cov).log_prob(x)


def test_the_sandwich_and_the_parts_know_the_condition():
    pair = Pair(Conditioned(True), Conditioned(False), condition_dim=1)
    y = torch.linspace(-9, 9, 40, dtype=F64)[:, None]
    found = pv.sandwich(pair, 40, y, annealing=pv.Annealing(12, leapfrog=2), chains=8, samples=500, batch_size=15)
    low, high = found.interval
    assert (found.x - y).abs().max() < 6
    assert low < conditioned_evidence(found.x, y).mean() < high
    assert abs(found.importance.mean - conditioned_evidence(found.x, y).mean().item()) < 0.1
    # Guide and prior follow y together, over a range of twenty: neither is far from the other.
    parts = decompose(pair, found.x, y, batch_size=7)
    assert 0 < parts.kl < 2
    with pytest.raises(pv.InputError, match="y is missing"):
        pv.log_likelihood(pair, found.x)
    with pytest.raises(pv.InputError, match="y is missing"):
        pv.sandwich(pair, 4)


@pytest.mark.parametrize("method", ["is", "ais"])
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_condition_is_passed_on(method, start):
    pair = Pair(Conditioned(True), Conditioned(False), condition_dim=1)
    x, y = torch.randn(6, 2, dtype=F64), torch.linspace(-2, 2, 6, dtype=F64)[:, None]
    options = {"samples": 4000, "chunk": 4000}
    if method == "ais":
        options = {"samples": 100, "annealing": pv.Annealing(temperatures=20, leapfrog=3, start=start)}
    found = pv.log_likelihood(pair, x, y, method=method, **options)
    exact = conditioned_evidence(x, y)
    assert ((found.value - exact).abs() < 4 * found.se).all()


def test_sums_run_in_double_precision():
    """A weight of float32 networks: 400 entries of 1e4 nats each would lose the draw's own digits."""
    torch.manual_seed(0)
    model = LatentGaussian(pv.l2_vae(400, 2).model.prior, nn.Linear(2, 400), pv.l2_vae(400, 2).model.scale)
    pair = Pair(model, AmortisedNormal(pv.l2_vae(400, 2, (5,)).guide.encoder))
    found = pv.log_likelihood(pair, torch.randn(2, 400), samples=30)
    assert found.value.dtype == found.se.dtype == found.khat.dtype == F64


def test_nothing_warns(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.log_likelihood(pv.l2_vae(8, 2, (5,)), data, samples=100)
