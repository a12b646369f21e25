"""What cleaning and detection say, and when they refuse to say it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyro_vaes as pv
from pyro_vaes.inference.posterior import active_units, bound
from pyro_vaes.plates import data_plate


class Model(PyroModule):
    """A linear decoder with any likelihood of (mu,)."""

    def __init__(self, likelihood, record=False):
        super().__init__()
        self.decoder, self.likelihood, self.record = torch.nn.Linear(2, 8), likelihood, record

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mu = self.decoder(z)
            if self.record:
                pyro.deterministic("mu", mu, event_dim=1)
                pyro.deterministic("scale", torch.full_like(mu, 0.05), event_dim=1)
            return pyro.sample("x", self.likelihood(mu).to_event(1), obs=x)


def pair_with(likelihood, record=False):
    return pv.Pair(Model(likelihood, record), pv.l2_vae(8, 2, (5,)).guide)


@pytest.mark.parametrize(
    ("likelihood", "missing"),
    [(lambda mu: dist.Cauchy(mu, 0.05), '"mu"'), (lambda mu: dist.StudentT(2.0, mu, 0.05), '"scale"')],
)
def test_a_likelihood_without_moments_is_refused_until_the_model_records_its_own(likelihood, missing, data):
    with pytest.raises(pv.InputError, match=missing):
        pv.clean(pair_with(likelihood), data)
    found = pv.clean(pair_with(likelihood, record=True), data)
    assert torch.isfinite(found.score).all()
    assert torch.allclose(found.score, (data - found.mean).abs() / 0.05)


def test_cleaning_feeds_the_mean_back(data):
    pair = pv.l2_vae(8, 2, (6,))
    x = data
    with torch.no_grad():
        for _ in range(3):
            x = pair.model.decoder(pair.guide.encoder(x)[0])
    assert torch.allclose(pv.clean(pair, data, passes=3, draws=2).mean, x, atol=1e-6)


def test_sd_is_that_of_many_draws(data):
    pair = pv.l2_vae(8, 2, (6,))
    found = pv.clean(pair, data, draws=400)
    with torch.no_grad():
        loc, scale = pair.guide.encoder(data)
        draws = pair.model.decoder(loc + scale * torch.randn(4000, *loc.shape))
    assert torch.allclose(found.sd, draws.std(0), rtol=0.2)


def test_cleaning_does_not_depend_on_the_batches_or_the_callers_randomness(data):
    pair = pv.t_vae(8, 2, (6,))
    whole, parts = pv.clean(pair, data), pv.clean(pair, data, batch_size=7)
    assert torch.allclose(whole.mean, parts.mean, atol=1e-6)
    torch.rand(5)
    assert torch.equal(pv.clean(pair, data).sd, whole.sd)


def test_entries_far_off_are_marked_and_ordinary_ones_are_not():
    """A line in eight dimensions, one entry in ten replaced; the model has seen dirt, but never what is dirt."""
    torch.manual_seed(0)
    clean = (0.5 + 0.1 * torch.randn(800, 1) @ torch.ones(1, 8) + 0.02 * torch.randn(800, 8)).clamp(0, 1)
    dirty = pv.corrupt(clean, "impulse:0.1", shape=(8,), seed=1)
    pair = pv.t_vae(8, 2, (32,))
    pv.fit(pair, dirty.x, steps=1200, lr=3e-3, progress=False)
    found = pv.clean(pair, dirty.x)
    far = (dirty.x - clean).abs() > 0.3
    assert found.mask[far].float().mean() > 0.9
    assert found.mask[~dirty.mask].float().mean() < 0.3
    assert found.probability[far].mean() > 2 * found.probability[~dirty.mask].mean()
    assert (found.mean - clean).square().mean() < 0.2 * (dirty.x - clean).square().mean()


def test_detection_finds_strangers_and_says_when_there_are_none():
    torch.manual_seed(0)
    x = torch.cat([torch.full((80, 8), 0.5) + 0.01 * torch.randn(80, 8), torch.rand(20, 8).round()])
    pair = pv.t_vae(8, 1, (4,))
    with torch.no_grad():  # a model of the mean alone
        pair.model.decoder[-2].weight.zero_()
        pair.model.decoder[-2].bias.zero_()
    found = pv.detect(pair, x)
    assert torch.equal(found.outlier, torch.arange(100) >= 80)
    assert found.explained > 0.95
    alone = pv.detect(pair, 0.5 + 0.01 * torch.randn(500, 8).clamp(-3, 3))
    assert alone.explained < 0.75


def constant_pair(d):
    """A model whose mean is 1/2 whatever the data."""
    pair = pv.datum_t_vae(d, 1, (4,))
    with torch.no_grad():
        pair.model.decoder[-2].weight.zero_()
        pair.model.decoder[-2].bias.zero_()
    return pair


def test_residuals_of_both_signs_cancel_in_a_neighbourhood():
    board = (torch.arange(6).view(-1, 1) + torch.arange(6)) % 2 * 2.0 - 1
    sizes = 0.1 + 0.01 * torch.rand(40, 1)
    x = torch.cat([0.5 + sizes * board.flatten(), 0.5 + 0.9 * sizes[:10].expand(10, 36)])
    stranger = torch.arange(50) >= 40
    by_pixel, by_block = (pv.detect(constant_pair(36), x, shape=(6, 6), neighbourhood=b) for b in (1, 3))
    assert not torch.equal(by_pixel.outlier, stranger)
    assert torch.equal(by_block.outlier, stranger)
    chosen = pv.detect(constant_pair(36), x, shape=(6, 6), neighbourhood=[1, 3])
    assert (chosen.neighbourhood, chosen.explained) == (3, by_block.explained)
    assert by_block.explained > by_pixel.explained


@pytest.mark.parametrize("shape", [(4, 5), (2, 2, 5)])
def test_the_score_of_a_neighbourhood_by_hand(shape):
    x = torch.rand(6, 20)
    r = torch.nn.functional.pad((x - 0.5).reshape(6, -1, *shape[-2:]), (1, 1, 1, 1))
    total = sum(r[..., i : i + shape[-2], j : j + shape[-1]] for i in range(3) for j in range(3))
    found = pv.detect(constant_pair(20), x, shape=shape, neighbourhood=3, batch_size=4) if shape[-2] > 2 else None
    if found is None:
        with pytest.raises(pv.InputError, match="wider than the images"):
            pv.detect(constant_pair(20), x, shape=shape, neighbourhood=3)
        return
    torch.testing.assert_close(found.score, (total / 9).square().flatten(1).mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbourhood": 2, "shape": (4, 5)}, "must be odd"),
        ({"neighbourhood": 3}, "needs images"),
        ({"neighbourhood": 3, "shape": (3, 5)}, "a row has 20 entries"),
        ({"neighbourhood": []}, "empty"),
        ({"neighbourhood": 0}, "neighbourhood"),
    ],
)
def test_neighbourhoods_that_cannot_be(options, message):
    with pytest.raises(pv.InputError, match=message):
        pv.detect(constant_pair(20), torch.rand(6, 20), **options)


def test_bound_is_the_mean_over_the_data(data):
    pair = pv.autoencoder(8, 2, (6,))
    expected = -sum(pair(row[None]).terms["x"].item() for row in data) / len(data)
    prior = pair.model.prior().log_prob(pair.guide.encoder(data)).mean().item()
    assert bound(pair, data, batch_size=7) == pytest.approx(expected + prior, rel=1e-4)


def test_active_units_count_what_moves(data):
    pair = pv.l2_vae(8, 3, ())
    with torch.no_grad():
        pair.guide.encoder.loc.weight.zero_()
        pair.guide.encoder.loc.weight[1, 0] = 5.0
    assert active_units(pair, data) == 1


def test_samples_repeat_and_differ_by_seed():
    pair = pv.t_vae(8, 2, (6,))
    assert torch.equal(pv.sample(pair, 5, seed=1), pv.sample(pair, 5, seed=1))
    assert not torch.equal(pv.sample(pair, 5, seed=1), pv.sample(pair, 5, seed=2))
    noisy = pv.sample(pair, 5, noise=True)
    assert noisy.shape == (5, 8)
    assert not torch.equal(noisy, pv.sample(pair, 5, seed=0))
    with pytest.raises(pv.InputError, match="passes must be 1"):
        pv.sample(pair, 5, passes=2, noise=True)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_scores_close_together_or_far_from_one_are_split_as_any(scale):
    from pyro_vaes.evaluation.detection import split

    found = split(torch.tensor([0.0, 0.1, 0.9, 1.0]) * scale)
    assert found.outlier.tolist() == [False, False, True, True]
    assert found.explained == pytest.approx(1 - 0.01 / 0.82, rel=1e-5)
    eps = torch.finfo(torch.float32).eps
    near = split(torch.tensor([1 + eps, 1 + 2 * eps]))
    assert near.outlier.tolist() == [False, True]
    assert near.explained == 1.0
