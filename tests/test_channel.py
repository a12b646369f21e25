"""Channel recurrence: bounds by block, reductions, causality, a linear-Gaussian evidence, sizes and refusals."""

import copy
import math
import warnings

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

import pyro_vaes as pv
from pyro_vaes.guides.blocks import AmortisedBlocks
from pyro_vaes.inference.compile import Engine
from pyro_vaes.inference.importance import ImportanceWeighted
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.shapes import EngineWarning
from pyro_vaes.models.blocks import LatentBlocks
from pyro_vaes.models.likelihoods import BernoulliPixels, NormalPixels
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.recurrent import BlockLinear, Blockwise, ChannelLSTM
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair

torch.set_num_threads(1)
F64 = torch.float64
LOG_2PI = math.log(2 * math.pi)
RECURRENCES = ("both", "inference", "generation")
# 8 x 8 pixels: a grid of 4 x 4 cells, 8 channels of features and 4 of the code, in 4 blocks of one channel.
SMALL = {"data_dim": 64, "latent_dim": 64, "hidden": (4,), "blocks": 4}
PRESETS = {"paper": {"preset": "paper", "units": 5}, "repo": {"preset": "repo", "mean": "dense"}}


def make(seed=0, variant=pv.crvae, **kw):
    """A pair in double precision, whose offsets are not the zeros they start from."""
    torch.manual_seed(seed)
    own = {"units": 5} if variant is pv.crvae and kw.get("preset") != "repo" else {}
    pair = variant(**(SMALL | own | kw)).double()
    with torch.no_grad():
        for name, parameter in pair.named_parameters():
            if name.endswith("mu_0"):
                parameter.normal_(std=0.3)
    return pair


def digits(rows=6, width=64, seed=1):
    return (torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) > 0.6).to(F64)


def seeded(seed, function, *args):
    torch.manual_seed(seed)
    return function(*args)


def kl(loc, scale):
    """KL[N(loc, scale^2) || N(0, I)] by hand, per datum."""
    return 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1)


# --- blocks of a bound ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_divergences_of_the_blocks_sum_to_that_of_the_joint(recurrence, preset):
    """The guide and the prior are independent by block, so nothing is lost between the terms."""
    pair, x = make(recurrence=recurrence, **PRESETS[preset]), digits()
    terms = pair(x).terms
    loc, scale = pair.guide.encoder(x)
    torch.testing.assert_close(sum(terms[f"z_{t}"] for t in range(1, 5)), kl(loc, scale).mean(), rtol=1e-12, atol=0)
    for t, (m, s) in enumerate(zip(loc.chunk(4, -1), scale.chunk(4, -1), strict=True), 1):
        torch.testing.assert_close(terms[f"z_{t}"], kl(m, s).mean(), rtol=1e-12, atol=0)
    assert len({terms[f"z_{t}"].item() for t in range(1, 5)}) == 4, "blocks that cannot be told apart test nothing"


@pytest.mark.parametrize("variant", [pv.bcvae, pv.crvae])
def test_a_weight_per_time_step_weighs_that_step(variant):
    x, beta = digits(), [2.0, 0.5, 0.0, 1.25]
    plain, weighed = make(variant=variant), make(variant=variant, beta=beta)
    one, other = seeded(2, plain, x), seeded(2, weighed, x)
    for t, weight in enumerate(beta, 1):
        torch.testing.assert_close(other.terms[f"z_{t}"], weight * one.terms[f"z_{t}"], rtol=1e-12, atol=0)
    torch.testing.assert_close(other.terms["x"], one.terms["x"], rtol=0, atol=0)
    torch.testing.assert_close(other.bound, one.bound, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.total, sum(other.terms.values()), rtol=1e-12, atol=0)
    # One number for all is a list of it.
    number, listed = (seeded(2, make(variant=variant, beta=b), x).total for b in (0.784, [0.784] * 4))
    torch.testing.assert_close(number, listed, rtol=1e-12, atol=0)
    assert not torch.isclose(number, one.total)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_importance_weighted_bound_by_hand(preset):
    """log-mean-exp of log p(x, z) - log q(z | x) over K draws, with densities of this page's own."""
    particles, pair, x = 5, make(particles=5, **PRESETS[preset]), digits()
    assert isinstance(pair.objective, ImportanceWeighted)
    pair.eval()
    loss = seeded(3, pair, x)
    loc, scale = pair.guide.encoder(x)
    torch.manual_seed(3)
    noise = torch.cat([torch.randn(particles, len(x), 16, dtype=F64) for _ in range(4)], -1)
    z = loc + scale * noise
    logits = pair.model.likelihood.decoder(pair.model.recurrence(z.unflatten(-1, (4, 16))).flatten(-2))
    log_x = (x * logits - nn.functional.softplus(logits)).sum(-1)
    log_w = log_x + (-0.5 * z**2 + 0.5 * noise**2 + scale.log()).sum(-1)  # the constants of p and q cancel
    by_hand = (torch.logsumexp(log_w, 0) - math.log(particles)).mean()
    torch.testing.assert_close(loss.bound, by_hand.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss.total, -by_hand, rtol=1e-12, atol=0)
    parameters = list(pair.parameters())
    for a, b in zip(*(torch.autograd.grad(v, parameters) for v in (loss.total, -by_hand)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert by_hand > log_w.mean() + 0.1


def test_scales_of_real_pixels_weigh_the_mean_square_against_the_divergence():
    """S2's mean of (2x - 1 - y)^2 + alpha KL is the loss at beta = alpha d / (8 sd^2), up to factor and constant."""
    alpha, sd, x = 3e-4, 0.1, digits() * 0.7 + 0.1
    pair = make(sd=sd, beta=alpha * 64 / (8 * sd**2)).eval()
    loss = seeded(4, pair, x)
    torch.manual_seed(4)
    q = poutine.trace(pair.guide).get_trace(x)
    p = poutine.trace(poutine.replay(pair.model, trace=q)).get_trace(x)
    mean, (loc, scale) = p.nodes["x"]["fn"].base_dist.loc, pair.guide.encoder(x)
    theirs = ((2 * x - 1) - (2 * mean - 1)).square().mean() + alpha * kl(loc, scale).mean()
    constant = 64 * (0.5 * LOG_2PI + math.log(sd))
    torch.testing.assert_close(loss.total - constant, theirs * 64 / (8 * sd**2), rtol=1e-6, atol=0)  # sd is a float32


# --- reductions -------------------------------------------------------------------------------------------------


def test_one_block_without_recurrence_is_the_conv_vae():
    x, conv = digits(), make(variant=lambda **kw: pv.conv_vae(64, kw["latent_dim"], kw["hidden"]))
    model = LatentBlocks(StandardPrior(64), 1, nn.Identity(), BernoulliPixels(conv.model.decoder)).double()
    block = Pair(model, AmortisedBlocks(conv.guide.encoder, 1))
    one, other = seeded(5, conv, x), seeded(5, block, x)
    assert set(other.terms) == {"z_1", "x"}
    torch.testing.assert_close(other.terms["z_1"], one.terms["z"], rtol=0, atol=0)
    torch.testing.assert_close(other.total, one.total, rtol=0, atol=0)
    parameters = list(conv.parameters())
    for a, b in zip(*(torch.autograd.grad(v.total, parameters) for v in (one, other)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_one_block_of_its_own_layers_is_the_conv_vae():
    """bcvae with T = 1 and a dense mean: a full connection to the scale, one to the mean and one back."""
    x, conv = digits(), make(variant=lambda **kw: pv.conv_vae(64, kw["latent_dim"], kw["hidden"]))
    block = make(seed=1, variant=pv.bcvae, blocks=1, mean="dense")
    from_, to = dict(conv.named_parameters()), dict(block.named_parameters())
    given = {
        name: from_[name.replace("model.likelihood.decoder", "model.decoder")]
        for name in to
        if "trunk" in name or "head" in name
    }
    given |= {
        "guide.encoder.loc.0.1.weight": from_["guide.encoder.loc.1.weight"],
        "guide.encoder.loc.2.mu_0": -from_["guide.encoder.loc.1.bias"].view(4, 4, 4),
        "guide.encoder.raw_scale.recurrence.weight": from_["guide.encoder.raw_scale.1.weight"].T[None],
        "guide.encoder.raw_scale.recurrence.bias": from_["guide.encoder.raw_scale.1.bias"][None],
        "model.recurrence.weight": from_["model.decoder.lift.0.weight"].T[None],
        "model.recurrence.bias": torch.zeros(1, 128, dtype=F64),
        "model.likelihood.decoder.lift.1.mu_0": from_["model.decoder.lift.0.bias"].view(8, 4, 4),
    }
    assert set(given) == set(to)
    with torch.no_grad():
        for name, value in given.items():
            to[name].copy_(value)
    one, other = seeded(6, conv, x), seeded(6, block, x)
    torch.testing.assert_close(other.total, one.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(other.terms["z_1"], one.terms["z"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_recurrence_is_the_lstm_of_torch(layers):
    torch.manual_seed(7)
    ours, theirs = ChannelLSTM(3, 5, 2, layers).double(), nn.LSTM(3, 5, layers, batch_first=True).double()
    with torch.no_grad():
        for i, cell in enumerate(ours.cells):
            for name, parameter in cell.named_parameters():
                getattr(theirs, f"{name}_l{i}").copy_(parameter)
            # The gates of torch are in, forget, cell, out: the second of them starts open.
            assert (cell.bias_ih[5:10] == 1).all() and (cell.bias_hh[5:10] == 0).all()
            assert (cell.bias_ih[:5] != 1).all() and (cell.bias_ih[10:] != 1).all()
    z = torch.randn(4, 6, 7, 3, dtype=F64)
    expected = ours.out(theirs(z.view(24, 7, 3))[0]).view(4, 6, 7, 2)
    torch.testing.assert_close(ours(z), expected, rtol=1e-12, atol=1e-12)


# --- who hears of whom ------------------------------------------------------------------------------------------


def influence(function, blocks):
    """Share of the derivatives of output block t by input block s that are not zero: (T, T), row t, column s."""
    found = []
    for t in range(blocks.shape[-2]):
        jacobian = torch.autograd.functional.jacobian(lambda z, t=t: function(z)[t].flatten(), blocks)
        found.append((jacobian != 0).double().mean((0, 2)))
    return torch.stack(found)


@pytest.mark.parametrize("preset", PRESETS)
def test_block_t_of_u_hears_of_no_later_block(preset):
    """Exactly zero above the diagonal, and everything below it: an LSTM forgets nothing to the last bit."""
    pair = make(**PRESETS[preset])
    z = torch.randn(4, 16, dtype=F64)
    heard = influence(pair.model.recurrence, z)
    torch.testing.assert_close(heard, torch.ones(4, 4, dtype=F64).tril(), rtol=0, atol=0)
    separate = make(recurrence="inference", **PRESETS[preset])
    torch.testing.assert_close(influence(separate.model.recurrence, z), torch.eye(4, dtype=F64), rtol=0, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_variance_hears_of_earlier_features_only_and_the_mean_of_all(preset):
    for recurrence, expected in (("both", torch.ones(4, 4).tril()), ("generation", torch.eye(4))):
        encoder = make(recurrence=recurrence, **PRESETS[preset]).guide.encoder
        features = torch.randn(4, 32, dtype=F64)  # blocks of 2 channels of 4 x 4 cells

        def image(blocks):
            return blocks.reshape(1, 8, 4, 4)

        def variance(blocks, encoder=encoder):
            return encoder.raw_scale(image(blocks)).view(4, 16)

        def mean(blocks, encoder=encoder):
            return encoder.loc(image(blocks)).view(4, 16)

        torch.testing.assert_close(influence(variance, features), expected.to(F64), rtol=0, atol=0)
        assert (influence(mean, features) > 0.3).all()  # a convolution reaches the cells around it


def test_a_block_of_features_is_whole_channels():
    """Block t is channels 2t and 2t + 1, whatever the grid's sides are."""
    h = torch.arange(24.0).reshape(1, 4, 2, 3)
    seen = []

    class Watch(nn.Module):
        def forward(self, blocks):
            seen.append(blocks)
            return blocks[..., :1]

    assert Blockwise(2, Watch())(h).shape == (1, 2)
    torch.testing.assert_close(seen[0][0], torch.stack([h[0, :2].flatten(), h[0, 2:].flatten()]), rtol=0, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_datum_stands_by_itself_once_training_is_over(preset):
    """Batch norm has its running statistics then; in training the others of a batch do matter."""
    pair, x = make(**PRESETS[preset]), digits()
    with torch.no_grad():
        pair(x)
        moved = pair.guide.encoder(x)[1][0] - pair.guide.encoder(x[:3])[1][0]
        pair.eval()
        for whole, part in zip(pair.guide.encoder(x), pair.guide.encoder(x[:1]), strict=True):
            torch.testing.assert_close(whole[:1], part, rtol=1e-12, atol=1e-12)
        z = torch.randn(3, 5, 4, 16, dtype=F64)

        def decoded(z):
            return pair.model.likelihood.decoder(pair.model.recurrence(z).flatten(-2))

        torch.testing.assert_close(decoded(z)[2, 4], decoded(z[2, 4:5])[0], rtol=1e-12, atol=1e-12)
    assert moved.abs().max() > 1e-6


# --- a linear-Gaussian member, whose evidence is known ---------------------------------------------------------


class Affine(nn.Module):
    """u = L z + c over all blocks, L lower triangular by blocks: a recurrence without its nonlinearities."""

    def __init__(self, blocks, width):
        super().__init__()
        causal = torch.ones(blocks, blocks, dtype=F64).tril().kron(torch.ones(width, width, dtype=F64))
        self.weight = 0.5 * torch.randn(blocks * width, blocks * width, dtype=F64) * causal
        self.weight += torch.eye(blocks * width, dtype=F64)
        self.bias = torch.randn(blocks * width, dtype=F64)

    def forward(self, z):
        return (z.flatten(-2) @ self.weight.T + self.bias).view(z.shape)


class Encoder(nn.Module):
    """The mean of the posterior, and standard deviations that do not depend on x."""

    def __init__(self, gain, offset, scale):
        super().__init__()
        self.gain, self.offset, self.scale = gain, offset, scale

    def forward(self, x):
        loc = (x - self.offset) @ self.gain.T
        return loc, self.scale.expand_as(loc)


class LinearGaussian:
    """x = W u + b + sd e, u affine in z: N(offset, M M' + sd^2 I), with its posterior of precision I + M' M / sd^2.

    ``orthogonal``: choose W so that the columns of M are at right angles, and the posterior independent by entry.
    """

    def __init__(self, orthogonal, d=9, blocks=3, width=2, sd=0.6):
        torch.manual_seed(11)
        k = blocks * width
        recurrence, decoder = Affine(blocks, width), nn.Linear(k, d).double()
        if orthogonal:
            q, _ = torch.linalg.qr(torch.randn(d, k, dtype=F64))
            wanted = q * torch.linspace(0.5, 2.0, k, dtype=F64)
            decoder.weight = nn.Parameter(wanted @ recurrence.weight.inverse())
        with torch.no_grad():
            self.map = decoder.weight @ recurrence.weight
            self.offset = decoder.weight @ recurrence.bias + decoder.bias
        scale = FixedScale(sd).double()
        sd = scale.value.item()  # as float32 has it
        self.precision = torch.eye(k, dtype=F64) + self.map.T @ self.map / sd**2
        self.evidence = torch.distributions.MultivariateNormal(
            self.offset, self.map @ self.map.T + sd**2 * torch.eye(d, dtype=F64)
        )
        gain = self.precision.inverse() @ self.map.T / sd**2
        guide = AmortisedBlocks(Encoder(gain, self.offset, self.precision.diagonal().rsqrt()), blocks)
        model = LatentBlocks(StandardPrior(width), blocks, recurrence, NormalPixels(decoder, scale)).double()
        self.pair, self.width, self.blocks = Pair(model, guide), width, blocks

    def gap(self, width):
        """KL of the best q that is independent by blocks of so many entries to the posterior: Bishop (2006), 10.1.2."""
        parts = [p[i] for i, p in ((slice(n, n + width), self.precision[:, n : n + width]) for n in range(0, 6, width))]
        return 0.5 * (sum(torch.logdet(part) for part in parts) - torch.logdet(self.precision))


def test_the_evidence_of_a_linear_gaussian_member_is_met_draw_by_draw():
    """At the exact posterior log p(x, z) - log q(z | x) is log p(x) whatever z is: no expectation is needed."""
    exact = LinearGaussian(orthogonal=True)
    off = exact.precision - torch.diag(exact.precision.diagonal())
    assert off.abs().max() < 1e-9
    x = exact.evidence.sample((20,))
    truth = exact.evidence.log_prob(x)
    sites = [f"z_{t}" for t in (1, 2, 3)]
    for objective in (ELBO(sampled=sites), ImportanceWeighted(1), ImportanceWeighted(7)):
        loss = objective(exact.pair.model, exact.pair.guide, x)
        torch.testing.assert_close(loss.bound, truth.mean(), rtol=1e-9, atol=1e-9)
    found = pv.log_likelihood(exact.pair, x, samples=10)
    torch.testing.assert_close(found.value, truth, rtol=1e-9, atol=1e-9)
    assert found.se.max() < 1e-8
    # A scale that is off by a tenth is seen.
    exact.pair.guide.encoder.scale = 1.1 * exact.pair.guide.encoder.scale
    wrong = ELBO(sampled=sites)(exact.pair.model, exact.pair.guide, x).bound
    assert abs(wrong - truth.mean()) > 1e-3


def test_the_bound_of_the_best_mean_field_guide_lies_the_known_gap_below_the_evidence():
    """The posterior knows of no blocks: independence by entry costs more than by block, and both cost something."""
    pair_of = LinearGaussian(orthogonal=False)
    pair, x = pair_of.pair, pair_of.evidence.sample((8,))
    truth = pair_of.evidence.log_prob(x)
    assert pair_of.gap(1) > pair_of.gap(2) + 0.02 > pair_of.gap(6) + 0.1
    assert abs(pair_of.gap(6)) < 1e-9
    with torch.no_grad():
        bounds = torch.stack([ELBO(particles=300)(pair.model, pair.guide, x).bound for _ in range(20)])
    error = bounds.std() / math.sqrt(20)
    assert abs(bounds.mean() - (truth.mean() - pair_of.gap(1))) < 4 * error < 0.2 * pair_of.gap(1)
    # Importance sampling closes the gap: from the posterior's marginals, which are wider than the best bound's guide.
    pair.guide.encoder.scale = pair_of.precision.inverse().diagonal().sqrt()
    found = pv.log_likelihood(pair, x, samples=4000, chunk=1000)
    assert (found.khat < 0.7).all()
    assert ((found.value - truth).abs() < 5 * found.se).all()
    assert found.se.max() < 0.2 * pair_of.gap(1)


def test_draws_of_a_linear_gaussian_member_have_its_moments():
    known = LinearGaussian(orthogonal=False)
    n = 40_000
    with torch.no_grad(), pyro.validation_enabled(False):
        x = known.pair.model(size=n)
    covariance = known.evidence.covariance_matrix
    variance = covariance.diagonal()
    assert ((x.mean(0) - known.offset).abs() < 5 * (variance / n).sqrt()).all()
    error = ((variance[:, None] * variance + covariance**2) / n).sqrt()  # of an entry of a sample covariance
    assert ((x.T.cov() - covariance).abs() < 5 * error).all()


# --- sizes ------------------------------------------------------------------------------------------------------

SHAPES = {  # (channels, height, width) -> filters by default, grid
    (1, 28, 28): ((32, 64, 128), (256, 4, 4)),
    (1, 28, 20): ((32, 64, 128), (256, 4, 3)),
    (3, 32, 32): ((32, 64, 128), (256, 4, 4)),
    (3, 64, 64): ((32, 64, 128, 128), (256, 4, 4)),
    (3, 128, 128): ((32, 64, 128, 128, 128), (256, 4, 4)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_all_sizes_go_down_to_the_paper_s_grid_and_back(shape):
    """With the networks' own filters no weights are made: an eighth of them shows what their number does."""
    from pyro_vaes.nn.image import filters_of, grid_of

    filters, grid = SHAPES[shape]
    assert filters_of(None, shape) == filters and grid_of(filters, shape) == grid
    d, cells = math.prod(shape), grid[1] * grid[2]
    small = {"hidden": [f // 16 for f in filters], "shape": shape, "latent_dim": 8 * cells, "sd": 0.2}
    for preset, mean in (("paper", "conv"), ("repo", "dense")):
        pair = pv.crvae(d, **small, units=5, preset=preset, mean=mean)
        x = torch.rand(2, d)
        loss = pair(x)
        loss.total.backward()
        assert set(loss.terms) == {"x", *(f"z_{t}" for t in range(1, 9))}
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pair.parameters())
        assert pair.model(size=3).shape == (3, d)
        u = pair.traces(x)[1].nodes["u"]
        assert u["value"].shape == (2, 8, (cells if preset == "repo" else 2 * cells))
        assert u["infer"]["_deterministic"]


def test_by_default_the_code_has_64_channels():
    assert dict(pv.cvae_conv(784).model.named_buffers())["prior.loc"].shape == (1024,)
    assert dict(pv.crvae(560, shape=(28, 20), units=2).model.named_buffers())["prior.loc"].shape == (64 * 12 // 8,)


def test_units_are_those_of_the_paper_and_of_its_code():
    """256 in one layer; 512, as many as a block of features has entries, in two, at an eighth of the rate."""
    paper, repo = (pv.crvae(784, preset=preset).model.recurrence for preset in ("paper", "repo"))
    assert [cell.hidden_size for cell in paper.cells] == [256] and paper.out.out_features == 512
    assert [cell.hidden_size for cell in repo.cells] == [512, 512] and repo.out.out_features == 128
    assert paper.rate_factors == {} and repo.rate_factors == {"cells": 1 / 8, "out": 1 / 8}


# --- what is refused --------------------------------------------------------------------------------------------

NO_SHARED = {"blocks": 3, "latent_dim": 96}  # 8 channels of features are not three blocks
REFUSED = [
    (pv.crvae, {"blocks": 3}, "latent_dim is 64: it must be a multiple of 48"),
    (pv.bcvae, NO_SHARED, "blocks is 3: it must divide the 8 channels"),
    (pv.crvae, {"latent_dim": 70}, "latent_dim is 70"),
    (pv.crvae, {"blocks": 0}, "blocks is 0"),
    (pv.bcvae, {"blocks": 2.0}, "blocks is 2.0"),
    (pv.bcvae, {"blocks": True}, "blocks is True"),
    (pv.crvae, {"recurrence": "decoder"}, "unknown recurrence 'decoder'"),
    (pv.crvae, {"recurrence": None}, "unknown recurrence"),
    (pv.crvae, {"preset": "Paper"}, "unknown preset 'Paper': did you mean 'paper'"),
    (pv.crvae, {"mean": "fc"}, "unknown mean 'fc'"),
    (pv.bcvae, {"mean": 1}, "unknown mean '1'"),
    (pv.crvae, {"units": 0}, "units is 0"),
    (pv.crvae, {"units": 2.5}, "units is 2.5"),
    (pv.crvae, {"beta": [1.0, 1.0]}, "beta has 2 entries for 4 blocks"),
    (pv.bcvae, {"beta": []}, "beta has 0 entries for 4 blocks"),
    (pv.bcvae, {"beta": [1.0, 1.0, 1.0, -0.1]}, "beta"),
    (pv.bcvae, {"beta": [1.0, 1.0, 1.0, math.nan]}, "beta"),
    (pv.crvae, {"beta": -1.0}, "beta"),
    (pv.crvae, {"beta": "1.0"}, "beta"),
    (pv.crvae, {"particles": 5, "beta": 0.784}, "with 5 particles"),
    (pv.crvae, {"particles": 5, "beta": [1.0, 1.0, 1.0, 0.5]}, "with 5 particles"),
    (pv.crvae, {"particles": 0}, "particles is 0"),
    (pv.crvae, {"particles": 1.5}, "particles is 1.5"),
    (pv.crvae, {"sd": 0}, "sd is 0"),
    (pv.bcvae, {"sd": -0.1}, "sd is -0.1"),
    (pv.crvae, {"sd": math.nan}, "sd is nan"),
    (pv.crvae, {"sd": math.inf}, "sd is inf"),
    (pv.crvae, {"sd": True}, "sd is True"),
    (pv.crvae, {"hidden": ()}, "hidden is empty"),
    (pv.crvae, {"hidden": (4, 0)}, "hidden"),
    (pv.crvae, {"shape": (8, 9)}, "shape"),
    (pv.crvae, {"data_dim": 63}, "63"),
]


@pytest.mark.parametrize(("variant", "wrong", "says"), REFUSED, ids=[f"{v.__name__}-{w}" for v, w, _ in REFUSED])
def test_bad_arguments_are_one_clear_line(variant, wrong, says):
    with pytest.raises(pv.InputError) as caught:
        variant(**(SMALL | wrong))
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("variant", [pv.conv_vae, pv.cvae_conv])
@pytest.mark.parametrize("wrong", [{"sd": 0.0}, {"sd": math.nan}, {"beta": -1.0}, {"hidden": ()}, {"latent_dim": 0}])
def test_bad_arguments_of_the_two_without_blocks(variant, wrong):
    with pytest.raises(pv.InputError):
        variant(**({"data_dim": 64, "latent_dim": 64, "hidden": (4,)} | wrong))


def test_only_a_grid_needs_whole_channels():
    assert pv.conv_vae(64, 5, (4,)).model(size=2).shape == (2, 64)
    with pytest.raises(pv.InputError, match="must be a multiple of 16"):
        pv.cvae_conv(64, 5, (4,))


# --- as a graph -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"sd": 0.2, "beta": [2.0, 0.5]},
        {"particles": 3, **PRESETS["repo"]},
    ],
    ids=["paper", "repo and particles"],
)
def test_a_traced_step_is_the_program_s(arguments):
    """Statistics, parameters and running means after three steps, without falling back."""
    x, found = digits(10, 16), {}
    pair = make(**{"data_dim": 16, "latent_dim": 8, "hidden": (2,), "blocks": 2} | arguments).train()
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("error", EngineWarning)
        for kind in ("eager", "graph"):
            engine = Engine(kind, one := copy.deepcopy(pair), size=50)
            torch.manual_seed(8)
            stats = torch.stack([engine.step(x) for _ in range(3)])
            assert engine.kind == kind and not engine.fell
            found[kind] = [stats, *one.parameters(), *one.buffers()]
    for a, b in zip(found["graph"], found["eager"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_a_layer_for_each_block_is_as_many_layers():
    layer = BlockLinear(3, 4, 2).double()
    z = torch.randn(5, 3, 4, dtype=F64)
    rows = [z[:, t] @ layer.weight[t] + layer.bias[t] for t in range(3)]
    torch.testing.assert_close(layer(z), torch.stack(rows, 1), rtol=1e-12, atol=1e-12)
