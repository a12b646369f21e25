"""The parts of the bound, and the active units of guides of every kind."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from small import BINARY, sizes
from test_annealed import Deep, DeepGuide
from test_likelihood import DRAWS_ONLY, imperfect_pair
from torch import nn

import pyro_vaes as pv
from pyro_vaes.evaluation.decomposition import decompose
from pyro_vaes.inference.densities import quietly, run, seed_at
from pyro_vaes.inference.objective import log_prob
from pyro_vaes.inference.posterior import active_units, active_units_by_site
from pyro_vaes.pair import Pair
from pyro_vaes.plates import data_plate

POINTS = {"autoencoder", "induced_ae", "wae_mmd", "wae_gan", "ae_classifier"}

F64 = torch.float64


def by_hand(pair, x, seed=0):
    """Every part from the guide's own normals, pair by pair: (reconstruction, kl, information, marginal)."""
    with quietly(pair):
        seed_at(seed, 0)
        z = run(pair.guide, x, None, 1, {})["z"]["value"][0]
        loc, scale = pair.guide.encoder(x)
        normal = torch.distributions.Normal
        own = normal(loc, scale).log_prob(z).sum(-1)
        prior = normal(0.0, 1.0).log_prob(z).sum(-1)
        each = torch.stack([normal(m, s).log_prob(z).sum(-1) for m, s in zip(loc, scale, strict=True)])
        aggregate = each.logsumexp(0) - math.log(len(x))
        data = normal(pair.model.decoder(z), pair.model.scale(z)).log_prob(x).sum(-1)
    parts = [data, own - prior, own - aggregate, aggregate - prior]
    return [part.mean().item() for part in parts]


@pytest.mark.parametrize("batch_size", [7, 100])
def test_parts_by_hand(batch_size):
    pair, _, x = imperfect_pair()
    found = decompose(pair, x, batch_size=batch_size)
    ours = [found.reconstruction, found.kl, found.information, found.marginal]
    assert ours == pytest.approx(by_hand(pair, x), abs=1e-10)
    assert found.size == 40


@pytest.mark.parametrize("options", [{}, {"draws": 3}, {"chunk": 11, "batch_size": 6}, {"seed": 5}])
def test_sums_are_exact_and_information_is_at_most_log_n(options):
    pair, _, x = imperfect_pair()
    found = decompose(pair, x, **options)
    assert found.bound == pytest.approx(found.reconstruction - found.kl, abs=1e-12)
    assert found.kl == pytest.approx(found.information + found.marginal, abs=1e-12)
    assert 0 < found.information <= math.log(40)
    assert decompose(pair, x, **options) == found


def test_the_bound_is_the_objective_s():
    """With sampled terms and many draws, both estimate the same number."""
    pair, _, x = imperfect_pair()
    found = decompose(pair, x, draws=200)
    pair.objective = pv.ELBO(particles=200, sampled=["z"])
    with torch.no_grad():
        assert found.bound == pytest.approx(pair(x).bound.item(), abs=0.05)


def test_a_guide_that_ignores_its_data_says_nothing_of_them():
    """q(z | x) = N(1, 1) for every x: no information, and the aggregated posterior is half a nat from the prior."""
    pair, _, x = imperfect_pair()
    with torch.no_grad():
        pair.guide.encoder.matrix.zero_(), pair.guide.encoder.scale.fill_(1.0)
    found = decompose(pair, x)
    assert found.information == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        pair.guide.encoder.scale.fill_(1e-6)
        pair.guide.encoder.matrix.copy_(torch.randn(2, 5))
    assert decompose(pair, x).information == pytest.approx(math.log(40), abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(pv.VARIANTS) - POINTS - DRAWS_ONLY))
def test_every_variant_with_a_posterior_is_split(name, data):
    """For the outlier and the exact sites too: with the same draw, the reconstruction is their own loss's."""
    pair = pv.variant(name)(**sizes(name, 8, 2, (5, 4)))
    x = (data > 0.5).float() if name in BINARY else data
    y = pair.first_condition(len(x))
    found = decompose(pair, x, y)
    assert found.kl == pytest.approx(found.information + found.marginal, abs=1e-9)
    with quietly(pair):
        seed_at(0, 0)
        q = run(pair.guide, x, y, 1, {})
        p = run(pair.model, x, y, 1, {n: s["value"] for n, s in q.items()})
        bound = sum(map(log_prob, p.values())) - sum(map(log_prob, q.values()))
    assert found.bound == pytest.approx(bound.mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", sorted(DRAWS_ONLY))
def test_a_guide_that_scores_only_its_own_draws_is_refused(name, data):
    with pytest.raises(pv.InputError, match="no inverse"):
        decompose(pv.variant(name)(**sizes(name, 8, 2, (5, 4))), (data > 0.5).float() if name in BINARY else data)


def test_a_code_without_a_posterior_is_refused(data):
    for name in POINTS:
        with pytest.raises(pv.InputError, match="point mass"):
            decompose(pv.variant(name)(**sizes(name, 8, 2, (5,))), data)
    with pytest.raises(pv.InputError, match="needs two"):
        decompose(pv.l2_vae(8, 2, (5,)), data[:1])
    with pytest.raises(pv.InputError, match="draws is 0"):
        decompose(pv.l2_vae(8, 2, (5,)), data, draws=0)


def test_several_layers_are_split_and_counted():
    """z_1 follows x, z_2 follows z_1, z_3 follows the mean of x: what moves is known from the guide's own numbers."""
    pair = Pair(Deep(), DeepGuide())
    x = torch.randn(3000, 4, dtype=F64) * torch.tensor([2.0, 0.1, 1.0, 1.0])
    found = decompose(pair, x[:60])
    assert found.kl == pytest.approx(found.information + found.marginal, abs=1e-9)
    # Var E z_1 = 0.09 (4, 0.01); z_3: 0.04 (4 + 0.01 + 2) / 16 = 0.015; z_2: 0.01 Var E z_1, below the threshold.
    assert active_units_by_site(pair, x) == {"z_1": 1, "z_3": 1, "z_2": 0}
    assert active_units(pair, x) == 2


class Drawn(PyroModule):
    """A guide whose density has no mean in closed form: a normal through the identity."""

    def __init__(self, closed):
        super().__init__()
        self.encoder, self.closed = nn.Linear(8, 3), closed

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc = self.encoder(x) * torch.tensor([1.0, 0.0, 0.05])
            base = dist.Normal(loc, torch.tensor([0.5, 1.0, 1.0])).to_event(1)
            affine = [dist.transforms.AffineTransform(0.0, 1.0, event_dim=1)]
            return pyro.sample("z", base if self.closed else dist.TransformedDistribution(base, affine))


@pytest.mark.parametrize("draws", [16, 64])
def test_active_units_of_a_flow_are_those_of_its_mean(draws):
    """The second entry is all prior: the mean of 16 draws has variance 0.06 there, above the threshold."""
    x = torch.randn(4000, 8)
    closed, flow = (Pair(pv.l2_vae(8, 3, (5,)).model, Drawn(closed)) for closed in (True, False))
    flow.guide.load_state_dict(closed.guide.state_dict())
    assert active_units_by_site(closed, x) == {"z": 1}
    assert active_units_by_site(flow, x, draws=draws) == {"z": 1}
    before = torch.random.get_rng_state()
    active_units(flow, x[:100])
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_centre_of_a_bent_flow_is_not_its_mean():
    """z_0 ~ N(0, s(x)^2), z = z_0 + u tanh(w'z_0 + b): the centre, u tanh(b), is not moved by x; the mean is."""
    torch.manual_seed(0)
    pair = pv.planar_vae(data_dim=8, latent_dim=2, hidden=(), flows=1)
    layer, encoder = pair.guide.layers[0].nn.linear, pair.guide.encoder
    with torch.no_grad():
        for p in [*layer.parameters(), *encoder.parameters()]:
            p.zero_()
        layer.bias.copy_(torch.tensor([1.0, 4.0, 0.0, 1.0, 0.0]))  # b, u and w, both along the first entry
        encoder.raw_scale.weight[0, 0] = 3.0
    assert active_units_by_site(pair, torch.randn(500, 8)) == {"z": 1}


def test_active_units_as_they_were(data):
    """One site with a mean: the variance of that mean, no draws; outliers and exact weights are no units."""
    for name in ("l2_vae", "t_vae", "ic_vae", "autoencoder", "rvae"):
        pair = pv.variant(name)(8, 3, (5,))
        with torch.no_grad():
            encoded = pair.guide.encoder(data)
            mean = encoded if name == "autoencoder" else encoded[0]
        assert active_units(pair, data) == int((mean.var(0) > 0.01).sum())
