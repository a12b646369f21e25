"""Recycling (Wang et al. 2018, IV, Eq. 21-22): unrolled by hand, with and without a gradient through the new datum."""

import math

import pytest
import torch
from torch import nn

import pyro_vaes as pv
from pyro_vaes.errors import InputError
from pyro_vaes.guides.amortised import AmortisedDelta
from pyro_vaes.inference.objective import ELBO, Loss
from pyro_vaes.inference.recycled import Recycled
from pyro_vaes.models.bernoulli import LatentBernoulli
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.index_conditional import IndexConditional
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair

torch.set_num_threads(1)
D, K, B = 5, 3, 6
LOG_2PI = math.log(2 * math.pi)
EPS = 0.125


def ric(passes=2, recycle_grad=False, clip=None, floor=EPS, seed=0) -> Pair:
    torch.manual_seed(seed)
    pair = pv.ric_vae(D, K, (6,), floor=floor, passes=passes, recycle_grad=recycle_grad, beta=1.0).double()
    pair.objective.clip = clip
    return pair


def data(rows=B) -> torch.Tensor:
    return torch.rand(rows, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def one_pass(pair, x, eps=EPS):
    """The loss of one pass per datum, and N(mu, Sigma) of Eq. 7."""
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    mu = pair.model.decoder(z)
    sigma2 = (x - mu) ** 2 + eps**2
    kl = 0.5 * (scale**2 + loc**2 - 1 - torch.log(scale**2)).sum(-1)
    loss = kl + (0.5 * torch.log(sigma2) + math.log(2 * math.asinh(1 / eps)) + (1 + LOG_2PI) / 2).sum(-1)
    return loss.mean(), mu, sigma2


def unroll(pair, x, passes, flow, clip=None, mean=False):
    losses, xs = [], [x]
    for k in range(passes):
        loss, mu, sigma2 = one_pass(pair, x)
        losses.append(loss)
        if k + 1 < passes:
            x = mu if mean else mu + sigma2.sqrt() * torch.randn_like(x)
            if not flow:
                x = x.detach()
            if clip:
                low, high = torch.tensor(clip, dtype=x.dtype)
                x = torch.minimum(torch.maximum(x, low), high)
            xs.append(x)
    return losses, xs


def seeded(pair, x, seed=2, **kw):
    torch.manual_seed(seed)
    return pair(x, **kw)


def grads(total, pair):
    return torch.autograd.grad(total, list(pair.parameters()))


def largest_difference(left, right):
    return max((a - b).abs().max().item() for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("clip", [None, (0.0, 1.0), (0.4, 0.6)])
@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("passes", [2, 3])
def test_unrolled_by_hand(passes, flow, clip):
    pair, x = ric(passes, flow, clip), data()
    loss = seeded(pair, x)
    torch.manual_seed(2)
    losses, xs = unroll(pair, x, passes, flow, clip)
    torch.testing.assert_close(loss.total, sum(losses), rtol=1e-10, atol=1e-10)
    for k, by_hand in enumerate(losses, 1):
        of_pass = sum(v for name, v in loss.terms.items() if name.endswith(f"@{k}"))
        torch.testing.assert_close(of_pass, by_hand, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.bound, -losses[0].detach(), rtol=1e-10, atol=1e-10)
    assert largest_difference(grads(loss.total, pair), grads(sum(losses), pair)) < 1e-10
    if clip:
        assert all(low >= clip[0] and high <= clip[1] for low, high in ((y.min(), y.max()) for y in xs[1:]))
        assert any(((y == clip[0]) | (y == clip[1])).any() for y in xs[1:]), "nothing was clipped"


@pytest.mark.parametrize("flow", [False, True])
def test_the_mean_handed_on_by_hand(flow):
    pair, x = ric(3, flow), data()
    pair.objective.mean = True
    loss = seeded(pair, x)
    torch.manual_seed(2)
    losses, _ = unroll(pair, x, 3, flow, mean=True)
    torch.testing.assert_close(loss.total, sum(losses), rtol=1e-10, atol=1e-10)
    assert largest_difference(grads(loss.total, pair), grads(sum(losses), pair)) < 1e-10
    assert "mean=True" in repr(pair.objective)


@pytest.mark.parametrize("name", ["ic_vae", "indexed_ic_vae", "t_vae", "rvae"])
def test_the_clean_datum_is_handed_on_not_the_mean_of_the_likelihood(name):
    """In ic_vae that mean is mu + s, which is x again; in rvae it is 0 where the cell is dirty."""
    torch.manual_seed(0)
    base = pv.variant(name)(data_dim=D, latent_dim=K, hidden=(6,)).double()
    seen = []

    class Watch(nn.Module):
        def forward(self, model, guide, x, y=None, *, size=None):
            seen.append(x)
            return base.objective(model, guide, x, y, size=size)

    x = data() + (8.0 if name == "rvae" else 0.0) * torch.eye(B, D, dtype=torch.float64)
    torch.manual_seed(1)
    Recycled(Watch(), 2, mean=True)(base.model, base.guide, x)
    torch.manual_seed(1)
    loc, scale = base.guide.encoder(x)
    mu = base.model.decoder(loc + scale * torch.randn_like(loc))
    torch.testing.assert_close(seen[1], mu.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("passes", [2, 3])
def test_the_two_gradients_differ_and_the_values_do_not(passes):
    x = data()
    cut, flow = ric(passes, False), ric(passes, True)
    left, right = seeded(cut, x), seeded(flow, x)
    torch.testing.assert_close(left.total, right.total, rtol=0, atol=0)
    assert largest_difference(grads(left.total, cut), grads(right.total, flow)) > 1e-3


def test_a_cut_gradient_is_the_sum_of_two_separate_ones():
    """Q1: with x_2 given, L_2 is a bound on given data; its gradient is that of a loss on x_2 as if it were data."""
    pair, x = ric(), data()
    total = grads(seeded(pair, x).total, pair)
    torch.manual_seed(2)
    first, mu, sigma2 = one_pass(pair, x)
    g_1 = grads(first, pair)
    x_2 = (mu + sigma2.sqrt() * torch.randn_like(x)).detach().clone()
    g_2 = grads(one_pass(pair, x_2)[0], pair)
    assert largest_difference(total, [a + b for a, b in zip(g_1, g_2, strict=True)]) < 1e-10


def test_the_datum_itself_gets_no_gradient_from_the_second_pass():
    x = data().requires_grad_()
    for flow in (False, True):
        pair = ric(2, flow)
        loss = seeded(pair, x)
        second = sum(v for name, v in loss.terms.items() if name.endswith("@2"))
        (g,) = torch.autograd.grad(second, x, allow_unused=True)
        assert (g is None or g.abs().max() == 0) is not flow


def test_one_pass_is_the_index_conditional_loss_and_the_outlier_loss_up_to_its_constant():
    """RiC(1, 1) = iC."""
    torch.manual_seed(0)
    recurrent = pv.ric_vae(D, K, (6,), passes=1, test_passes=1).double()
    indexed, sparse = pv.indexed_ic_vae(D, K, (6,)).double(), pv.ic_vae(D, K, (6,)).double()
    with torch.no_grad():
        for p in recurrent.parameters():
            p += 0.1 * torch.randn_like(p)
    pv.warm_start(indexed, recurrent)
    pv.warm_start(sparse, recurrent)
    x = data()
    losses = {"recurrent": (recurrent, seeded(recurrent, x, size=40))}
    losses |= {"indexed": (indexed, seeded(indexed, x, size=40)), "sparse": (sparse, seeded(sparse, x, size=40))}
    (_, one), (_, two), (_, three) = losses.values()
    assert one.total.item() == two.total.item() and one.bound.item() == two.bound.item()
    assert one.terms.keys() == two.terms.keys() and all(one.terms[n].item() == two.terms[n].item() for n in one.terms)
    constant = D * (1 + LOG_2PI) / 2
    assert IndexConditional.constant(D) == pytest.approx(constant, abs=1e-12)
    assert (one.total - three.total).item() == pytest.approx(constant, abs=1e-9)
    found = {}
    for name, (pair, loss) in losses.items():
        own = dict(pair.named_parameters())
        found[name] = dict(zip(own, torch.autograd.grad(loss.total, list(own.values())), strict=True))
    assert found["recurrent"].keys() == found["indexed"].keys() == found["sparse"].keys()
    for n, g in found["recurrent"].items():
        assert torch.equal(g, found["indexed"][n]), n
        torch.testing.assert_close(g, found["sparse"][n], rtol=1e-9, atol=1e-11)


def test_passes_at_test_time_do_not_change_the_loss():
    x = data()
    values = []
    for test_passes in (1, 4):
        torch.manual_seed(0)
        pair = pv.ric_vae(D, K, (6,), test_passes=test_passes).double()
        assert pair.passes == test_passes
        values.append(seeded(pair, x).total.item())
    assert values[0] == values[1]


class Spy:
    """An objective that notes the data it is given and hands out ELBO's answer."""

    def __init__(self):
        self.seen, self.inner = [], ELBO()

    def __call__(self, model, guide, x, y=None, *, size=None) -> Loss:
        self.seen.append(x)
        return self.inner(model, guide, x, y, size=size)


def test_the_recycled_datum_has_the_moments_of_eq_7():
    """Mean mu and variance (x - mu)^2 + eps^2, for a code that is known: a point mass."""
    n = 40_000
    torch.manual_seed(0)
    decoder = nn.Linear(K, D).double()
    model = IndexConditional(StandardPrior(K).double(), decoder, FixedScale(EPS).double())
    pair = Pair(model, AmortisedDelta(nn.Linear(D, K).double()))
    row = data(1)
    spy = Spy()
    torch.manual_seed(3)
    Recycled(spy, 2)(pair.model, pair.guide, row.expand(n, D))
    x, x_2 = spy.seen
    assert torch.equal(x, row.expand(n, D)) and x_2.shape == (n, D)
    assert not x_2.requires_grad
    mu = decoder(pair.guide.encoder(row))[0].detach()
    variance = (row[0] - mu) ** 2 + EPS**2
    standard = (x_2 - mu) / variance.sqrt()
    # Of n standard normal draws: the error of the mean is 1/sqrt(n), of the variance sqrt(2/n).
    assert (standard.mean(0).abs() < 4.5 / math.sqrt(n)).all()
    assert ((standard.var(0) - 1).abs() < 4.5 * math.sqrt(2 / n)).all()
    assert ((standard**4).mean(0) - 3).abs().max() < 4.5 * math.sqrt(96 / n)
    correlation = torch.corrcoef(standard.T) - torch.eye(D, dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / math.sqrt(n)
    assert (variance.max() / variance.min()) > 2  # the entries do differ


def test_the_recycled_datum_of_a_fixed_scale_is_a_draw_around_the_mean():
    n, sigma = 40_000, 0.5
    torch.manual_seed(0)
    decoder = nn.Linear(K, D).double()
    pair = Pair(
        LatentGaussian(StandardPrior(K).double(), decoder, FixedScale(sigma).double()),
        AmortisedDelta(nn.Linear(D, K).double()),
    )
    row, spy = data(1), Spy()
    torch.manual_seed(3)
    Recycled(spy, 3)(pair.model, pair.guide, row.expand(n, D))
    mu = decoder(pair.guide.encoder(row))[0].detach()
    standard = (spy.seen[1] - mu) / sigma
    assert (standard.mean(0).abs() < 4.5 / math.sqrt(n)).all()
    assert ((standard.var(0) - 1).abs() < 4.5 * math.sqrt(2 / n)).all()
    # The third datum comes from the second.
    standard = (spy.seen[2] - decoder(pair.guide.encoder(spy.seen[1])).detach()) / sigma
    assert ((standard.var(0) - 1).abs() < 4.5 * math.sqrt(2 / n)).all()


def test_the_datum_is_recycled_with_the_code_of_the_loss():
    """x_2 is drawn around mu(z_1) for the z_1 that L_1 was computed with: no second code, no posterior mean."""
    torch.manual_seed(0)
    pair = pv.ric_vae(D, K, (6,), floor=1e-6).double()
    spy = Spy()
    x = data()
    torch.manual_seed(4)
    Recycled(spy, 2)(pair.model, pair.guide, x)
    torch.manual_seed(4)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn_like(loc)
    mu = pair.model.decoder(z)
    x_2 = mu + (x - mu).abs() * torch.randn_like(x)
    torch.testing.assert_close(spy.seen[1], x_2.detach(), rtol=1e-5, atol=1e-5)


def test_every_pass_is_of_the_same_data_set():
    """Nats per datum do not depend on the size of the set, in any pass."""
    pair, x = ric(3), data()
    torch.testing.assert_close(seeded(pair, x).total, seeded(pair, x, size=500).total, rtol=1e-10, atol=1e-10)


def test_recycled_bits_are_bits():
    torch.manual_seed(0)
    model = LatentBernoulli(StandardPrior(K).double(), nn.Linear(K, D).double())
    pair = Pair(model, AmortisedDelta(nn.Linear(D, K).double()))
    spy, x = Spy(), data().round()
    Recycled(spy, 2)(pair.model, pair.guide, x)
    assert set(spy.seen[1].unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(InputError, match="recycle_grad"):
        Recycled(ELBO(), 2, recycle_grad=True)(pair.model, pair.guide, x)


def test_several_particles_recycle_a_batch_of_the_same_shape():
    pair, spy = ric(), Spy()
    spy.inner = ELBO(particles=4)
    loss = Recycled(spy, 2)(pair.model, pair.guide, data())
    assert spy.seen[1].shape == (B, D) and loss.total.isfinite()


def test_no_passes_is_refused():
    with pytest.raises(InputError, match="passes is 0"):
        Recycled(ELBO(), 0)
