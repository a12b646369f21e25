"""Hierarchies, ladders, skip connections, convolutions and the memoriser: reductions and closed forms."""

import math

import pytest
import torch
from pyro import poutine
from sklearn.decomposition import PCA
from small import sizes
from torch import nn

import pyro_vaes as pv
from pyro_vaes.guides.hierarchy import BottomUp
from pyro_vaes.inference.importance import ImportanceWeighted
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.posterior import active_units, bound
from pyro_vaes.models.hierarchy import LatentHierarchy
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.conv import ConvDecoder, ConvEncoder, image_shape
from pyro_vaes.nn.curve import Curve
from pyro_vaes.nn.ladder import product_of_normals
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder
from pyro_vaes.nn.skip import SkipDecoder
from pyro_vaes.pair import Pair

torch.set_num_threads(1)
F64 = torch.float64


class Linear(nn.Module):
    """z -> N(W z + b, s^2)."""

    def __init__(self, size_in, size_out, scale):
        super().__init__()
        self.linear, self.scale = nn.Linear(size_in, size_out), scale

    def forward(self, z):
        loc = self.linear(z)
        return loc, torch.full_like(loc, self.scale)


def binary(rows, width, seed=1, dtype=torch.float32):
    return torch.randint(0, 2, (rows, width), generator=torch.Generator().manual_seed(seed)).to(dtype)


# --- the hierarchy ----------------------------------------------------------------------------------------------


def test_three_linear_layers_are_one_joint_gaussian():
    """log p(z_3) + log p(z_2 | z_3) + log p(z_1 | z_2) is the density of the joint covariance."""
    torch.manual_seed(0)
    down = [Linear(2, 3, 0.7), Linear(2, 2, 0.4)]  # z_2 -> z_1, z_3 -> z_2
    model = LatentHierarchy(StandardPrior(2), down, nn.Linear(3, 4)).double()
    trace = poutine.trace(model).get_trace(size=5)
    trace.compute_log_prob()
    names = [n for n, s in trace.nodes.items() if s["type"] == "sample" and n[0] == "z"]
    assert names == ["z_3", "z_2", "z_1"]
    found = sum(trace.nodes[n]["log_prob"] for n in names)

    w_1, w_2 = down[0].linear.weight, down[1].linear.weight
    loc_2 = down[1].linear.bias
    loc = torch.cat([torch.zeros(2, dtype=F64), loc_2, w_1 @ loc_2 + down[0].linear.bias])
    # Each code as a linear map of the three noises.
    eye, zero = torch.eye(2, dtype=F64), torch.zeros(2, 3, dtype=F64)
    z_3 = torch.cat([eye, 0 * eye, zero], 1)
    z_2 = w_2 @ z_3 + torch.cat([0 * eye, 0.4 * eye, zero], 1)
    z_1 = w_1 @ z_2 + torch.cat([torch.zeros(3, 4, dtype=F64), 0.7 * torch.eye(3, dtype=F64)], 1)
    maps = torch.cat([z_3, z_2, z_1])
    values = torch.cat([trace.nodes[n]["value"] for n in names], -1)
    joint = torch.distributions.MultivariateNormal(loc, maps @ maps.T)
    torch.testing.assert_close(found, joint.log_prob(values), rtol=1e-9, atol=1e-9)


def small_hierarchy(objective):
    torch.manual_seed(2)
    model = LatentHierarchy(StandardPrior(1), [GaussianEncoder(1, (4,), 1, nn.Tanh)], nn.Linear(1, 2)).double()
    guide = BottomUp([GaussianEncoder(2, (4,), 1, nn.Tanh), GaussianEncoder(1, (4,), 1, nn.Tanh)]).double()
    with torch.no_grad():
        model.decoder.weight.mul_(4.0)
        for network in guide.up:  # as wide as the posterior: weights with a variance
            network.raw_scale.bias.add_(0.3)
    return Pair(model, guide, objective)


def evidence(model, x):
    """log p(x) on a grid of both codes, from the trace's own densities."""
    axis = torch.linspace(-7, 7, 281, dtype=F64)
    z_2, z_1 = (t.reshape(-1, 1) for t in torch.meshgrid(axis, axis, indexing="ij"))
    values = []
    for row in x:
        fixed = {"z_1": z_1, "z_2": z_2, "x": row.expand(len(z_1), 2)}
        trace = poutine.trace(poutine.condition(model, fixed)).get_trace(size=len(z_1))
        trace.compute_log_prob()
        log_joint = sum(trace.nodes[n]["log_prob"] for n in fixed)
        values.append(torch.logsumexp(log_joint, 0) + 2 * torch.log(axis[1] - axis[0]))
    return torch.stack(values).detach()


ALL = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=F64)


def test_the_probabilities_of_all_data_sum_to_one():
    """They would not if p(z_1) were counted twice, as in S4 Eq. 9."""
    pair = small_hierarchy(ELBO())
    torch.testing.assert_close(evidence(pair.model, ALL).exp().sum(), torch.tensor(1.0, dtype=F64), rtol=1e-6, atol=0)


def test_importance_weighting_comes_to_the_evidence_and_the_elbo_stays_below():
    pair = small_hierarchy(ELBO())
    exact = evidence(pair.model, ALL).mean()
    x = ALL.repeat(500, 1)
    bounds = []
    for objective in (ELBO(particles=20), ImportanceWeighted(2), ImportanceWeighted(200)):
        torch.manual_seed(3)
        with torch.no_grad():
            bounds.append(objective(pair.model, pair.guide, x).bound)
    assert bounds[0] < bounds[1] - 0.01 < bounds[2] - 0.02
    assert abs(bounds[2] - exact) < 0.01


def test_the_divergence_of_the_lower_code_has_no_closed_form_and_is_sampled():
    """q(z_1 | x) q(z_2 | z_1): the KL of two Gaussians at a z_2 that came from z_1 is not the bound's term."""
    pair, x = small_hierarchy(ELBO()), ALL.repeat(4, 1)
    losses = []
    for sampled in ((), ("z_1",)):
        torch.manual_seed(4)
        losses.append(ELBO(sampled=sampled, particles=50)(pair.model, pair.guide, x))
    assert torch.equal(losses[0].total, losses[1].total)
    torch.manual_seed(4)
    with torch.no_grad():
        all_sampled = ELBO(sampled=["z_1", "z_2"], particles=5000)(pair.model, pair.guide, x).bound
        q = poutine.trace(pair.guide).get_trace(x.repeat(5000, 1))
        p = poutine.trace(poutine.replay(pair.model, trace=q)).get_trace(x.repeat(5000, 1))
        wrong = torch.distributions.kl_divergence(q.nodes["z_1"]["fn"], p.nodes["z_1"]["fn"]).mean()
        torch.manual_seed(4)
        right = ELBO(particles=5000)(pair.model, pair.guide, x)
    assert abs(right.bound - all_sampled) < 0.01
    assert abs(right.terms["z_1"] - wrong) > 0.03


def test_widths_of_burda_s_network_and_of_s4_s():
    def shapes(program):
        return [tuple(p.shape) for n, p in program.named_parameters() if n.endswith("weight")]

    burda = pv.iwae_2(784)
    up = [(200, 784), (200, 200), (100, 200), (100, 200), (100, 100), (100, 100), (50, 100), (50, 100)]
    down = [(100, 50), (100, 100), (100, 100), (100, 100), (200, 100), (200, 200), (784, 200)]
    assert shapes(burda.guide) == up and shapes(burda.model) == down
    s4 = pv.iwae_2(784, latent_dim=5, hidden=(200,), middle=100, middle_hidden=(100,))
    assert shapes(s4.guide) == [(200, 784), (100, 200), (100, 200), (100, 100), (5, 100), (5, 100)]
    assert shapes(s4.model) == [(100, 5), (100, 100), (100, 100), (200, 100), (784, 200)]
    assert sum(isinstance(m, nn.Tanh) for m in s4.modules()) == 4


# --- the ladder -------------------------------------------------------------------------------------------------


def test_a_product_of_normals_is_the_product_of_their_densities():
    one, other = (torch.tensor(0.3, dtype=F64), torch.tensor(0.5, dtype=F64)), (torch.tensor(-1.0), torch.tensor(0.8))
    z = torch.linspace(-6, 6, 100_001, dtype=F64)
    density = (torch.distributions.Normal(*one).log_prob(z) + torch.distributions.Normal(*other).log_prob(z)).exp()
    density = density / density.sum()
    mean = (density * z).sum()
    loc, scale = product_of_normals(one, other)
    torch.testing.assert_close(mean, loc, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((density * (z - mean) ** 2).sum().sqrt(), scale, rtol=1e-6, atol=1e-6)


def ladder(**arguments):
    torch.manual_seed(5)
    return pv.ladder_vae(8, 2, (7, 6, 5), **arguments).double()


def test_a_ladder_that_sees_nothing_is_the_model():
    """Infinite standard deviations from below: q(z_l | z_{l+1}, x) = p(z_l | z_{l+1}), at no cost."""
    pair, x = ladder(), binary(9, 8, dtype=F64)
    seen = pair(x).terms
    assert seen["z_1"] > 1e-3 and seen["z_2"] > 1e-3
    with torch.no_grad():
        for head in pair.guide.up.raw_scale:
            head.weight.zero_()
            head.bias.fill_(1e9)
        pair.guide.up.raw_scale[-1].bias.fill_(math.log(math.e - 1))  # 1e-5 above 1
        pair.guide.up.loc[-1].weight.zero_()
        pair.guide.up.loc[-1].bias.zero_()
    loss = pair(x)
    for site in ("z_1", "z_2", "z_3"):
        assert loss.terms[site].abs() < 1e-8, site


def test_a_ladder_that_is_sure_ignores_the_model():
    pair, x = ladder(), binary(9, 8, dtype=F64)
    with torch.no_grad():
        for head in pair.guide.up.raw_scale:
            head.weight.zero_()
            head.bias.fill_(-1e9)
        q = poutine.trace(pair.guide).get_trace(x)
        for i, (loc, scale) in enumerate(pair.guide.up(x), 1):
            torch.testing.assert_close(q.nodes[f"z_{i}"]["fn"].mean, loc, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(q.nodes[f"z_{i}"]["fn"].stddev, scale, rtol=1e-6, atol=1e-6)


def test_a_ladder_of_one_step_is_the_amortised_normal_and_codes_can_be_given():
    pair = pv.ladder_vae(8, 2, (7,))
    assert {n for n in pair.traces()[0].nodes if n.startswith("z")} == {"z_1"}
    other = pv.ladder_vae(8, hidden=(7, 6), latent_dims=(5, 4))
    assert [n.split(" ")[0] for n in other.describe().splitlines()[2:]] == ["z_2", "z_1", "x"]
    assert other.model(size=3).shape == (3, 8)


def test_active_units_of_a_ladder_count_every_layer():
    pair, x = ladder(), binary(30, 8, dtype=F64)
    with torch.no_grad():
        for head in pair.guide.up.raw_scale:
            head.bias.fill_(-9.0)
        for head in pair.guide.up.loc:
            head.weight.mul_(40.0)
    assert active_units(pair, x) == 8 + 4 + 2
    with torch.no_grad():
        pair.guide.up.loc[-1].weight.zero_()
    assert active_units(pair, x) == 8 + 4


# --- skip connections -------------------------------------------------------------------------------------------


def test_without_its_skips_the_decoder_is_a_plain_one():
    torch.manual_seed(6)
    plain, skip = Decoder(3, (6, 5), 8), SkipDecoder(3, (6, 5), 8)
    with torch.no_grad():
        for mine, theirs in zip(skip.layers.parameters(), plain.parameters(), strict=True):
            mine.copy_(theirs)
    z = torch.randn(4, 7, 3)
    assert not torch.allclose(skip(z), plain(z))
    with torch.no_grad():
        for layer in skip.skip:
            layer.weight.zero_()
    assert torch.equal(skip(z), plain(z))


def test_the_code_reaches_the_data_when_the_hidden_layers_are_dead():
    pair = pv.skip_vae(8, 3, (6, 5))
    with torch.no_grad():
        pair.model.decoder.layers[-1].weight.zero_()
        pair.model.decoder.layers[1].weight.zero_()
    z = torch.randn(4, 3, requires_grad=True)
    pair.model.decoder(z).sum().backward()
    assert z.grad.abs().min() > 0


# --- convolutions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 5, 6), (2, 1, 7), (1, 1, 1), (1, 7, 4)])
@pytest.mark.parametrize("filters", [(3,), (4, 3), (2, 3, 4)])
def test_particles_go_through_convolutions_one_by_one(shape, filters):
    torch.manual_seed(7)
    d = math.prod(shape)
    decoder, encoder = ConvDecoder(3, filters, shape).double().eval(), ConvEncoder(shape, filters, 3).double().eval()
    for norm in [m for m in [*decoder.modules(), *encoder.modules()] if isinstance(m, nn.BatchNorm2d)]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    z = torch.randn(4, 5, 3, dtype=F64)
    logits = decoder(z)
    assert logits.shape == (4, 5, d)
    torch.testing.assert_close(logits, torch.stack([decoder(one) for one in z]))
    torch.testing.assert_close(logits[1, 2], decoder(z[1, 2]))
    loc, scale = encoder(logits)
    torch.testing.assert_close(loc, torch.stack([encoder(one)[0] for one in logits]))
    torch.testing.assert_close(scale, torch.stack([encoder(one)[1] for one in logits]))


def test_the_layers_of_s4():
    pair = pv.cnn_vae(784)
    kinds = [type(m).__name__ for m in pair.guide.encoder.trunk]
    assert kinds == ["Conv2d", "Norm", "LeakyReLU"] * 2 + ["Flatten"]
    kinds = [type(m).__name__ for m in pair.model.decoder.trunk]
    assert kinds == ["ReLU", "ConvTranspose2d", "Norm", "ReLU", "ConvTranspose2d", "Flatten"]
    assert pair.model.decoder.inner == (64, 7, 7)


def test_a_convolution_sees_neighbours_in_the_image():
    """Rows and columns are those of the shape: a pixel moves the features of its own place alone."""
    encoder = ConvEncoder((1, 8, 12), (4,), 2).eval()
    x = torch.zeros(1, 96)
    x[0, 7 * 12 + 11] = 1.0
    change = (encoder.trunk(x.reshape(1, 1, 8, 12)) - encoder.trunk(torch.zeros(1, 1, 8, 12))).reshape(4, 4, 6)
    assert change[:, 3, 5].abs().min() > 0
    change[:, 3, 5] = 0
    assert change.abs().max() == 0


@pytest.mark.parametrize("engine", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_engines_keep_the_running_averages(engine):
    """8 x 8 digits: as the program does, step by step, and they are what eval mode uses."""
    x = (pv.load("digits", limit=120).x > 0.5).double()
    pairs = {}
    for kind in ("eager", engine):
        torch.manual_seed(8)
        pairs[kind] = pv.cnn_vae(64, 3, (4, 5)).double()
        history = pv.fit(pairs[kind], x, steps=12, batch_size=30, engine=kind, progress=False)
        assert history.engine.kind == kind
    for (name, a), b in zip(pairs[engine].named_buffers(), pairs["eager"].buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")
    norm = pairs[engine].guide.encoder.trunk[1]
    assert norm.num_batches_tracked == 12 and norm.running_mean.abs().max() > 0
    before = norm.running_mean.clone()
    assert pv.clean(pairs[engine], x[:5], draws=2).mean.shape == (5, 64)
    assert torch.equal(norm.running_mean, before)
    loss = pairs[engine](x[:1])  # eval mode now: one datum has no batch statistics, and needs none
    assert torch.isfinite(loss.total)


def test_shapes_that_do_not_fit_are_refused():
    for arguments, message in [
        ({"data_dim": 8}, "data_dim is 8, which is no square"),
        ({"data_dim": 8, "shape": (2, 3)}, "holds 6 entries: data_dim is 8"),
        ({"data_dim": 8, "shape": 8}, r"must be \(height, width\)"),
        ({"data_dim": 8, "shape": "2x4"}, r"must be \(height, width\)"),
        ({"data_dim": 8, "shape": (-2, -4)}, "at least 1"),
        ({"data_dim": 9, "hidden": ()}, "hidden is empty"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            pv.cnn_vae(**arguments)
    assert image_shape((2, 4), 8) == (1, 2, 4)


def test_other_arguments_that_do_not_fit_are_refused():
    for name, arguments, message in [
        ("vae", {"activation": "swish"}, "unknown activation 'swish'"),
        ("iwae_2", {"middle": 0}, "middle is 0"),
        ("iwae_2", {"middle_hidden": (0,)}, "at least 1"),
        ("iwae_2", {"particles": 0}, "particles is 0"),
        ("iwae", {"estimator": "vimco"}, "unknown estimator"),
        ("ladder_vae", {"hidden": ()}, "hidden is empty"),
        ("ladder_vae", {"hidden": (5, 4), "latent_dims": (3,)}, "one of each per layer"),
        ("ladder_vae", {"hidden": (5,), "latent_dims": (0,)}, "at least 1"),
        ("memoriser", {"latent_dim": 2}, "one code"),
        ("memoriser", {"hidden": ()}, "at least 2"),
        ("memoriser", {"points": torch.rand(5, 9)}, "must be"),
        ("memoriser", {"points": torch.rand(1, 8)}, "at least 2"),
    ]:
        with pytest.raises(pv.InputError, match=message):
            pv.variant(name)(data_dim=8, **arguments)


# --- the memoriser ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [0.0, 0.5, 0.9])
def test_the_curve_goes_through_its_points_and_spends_equal_mass_on_each(rest):
    torch.manual_seed(9)
    points = torch.randn(6, 3, dtype=F64)
    curve = Curve(points, rest)
    i = torch.arange(6)
    torch.testing.assert_close(curve(curve.knot(i)[:, None]), points)
    assert torch.equal(curve.cell(points), i)
    # Half of each cell, by probability: what a code rests on is exactly its point.
    u = (torch.rand(20_000, dtype=F64) * 6).clamp(1e-6, 6 - 1e-6)
    mu = curve(torch.special.ndtri(u / 6)[:, None])
    at_rest = (mu[:, None] == points).all(-1).any(1).double().mean()
    assert abs(at_rest - (rest + (1 - rest) / 6)) < 0.02  # the two outer half cells never leave
    middle = curve(torch.special.ndtri(torch.tensor([[2.0 / 6]], dtype=F64)))
    torch.testing.assert_close(middle[0], (points[1] + points[2]) / 2)


def plane(rows, seed):
    """Two codes, eight entries, noise 0.1."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(2, 8, generator=torch.Generator().manual_seed(10))
    return torch.randn(rows, 2, generator=g) @ w + 0.1 * torch.randn(rows, 8, generator=g)


@pytest.mark.slow
def test_one_code_and_a_deep_decoder_beat_the_right_model_on_the_training_data_alone():
    """S3 V, Dai et al. 2018: the bound goes up where nothing is learned, and does not say so.

    The right model twice: as a network, and as the best linear one there is, whose evidence no bound of it exceeds.
    """
    train, held_out = plane(50, seed=11), plane(50, seed=12)
    torch.manual_seed(0)
    right = pv.gamma_vae(8, latent_dim=2, hidden=(32,), real=True)
    memoriser = pv.memoriser(8, points=train)
    start = bound(memoriser, train)
    for pair in (right, memoriser):
        pv.fit(pair, train, steps=1000, batch_size=50, lr=1e-2, progress=False)
    best = PCA(2).fit(train.numpy())
    assert bound(memoriser, train) > start + 10
    assert bound(memoriser, train) > best.score(train.numpy()) + 10
    assert bound(memoriser, held_out) < best.score(held_out.numpy()) - 1000
    assert bound(memoriser, train) > bound(right, train) + 10
    assert bound(memoriser, held_out) < bound(right, held_out) - 1000
    # A point of the curve for every datum, named with log N nats and a few for its width.
    assert memoriser(train).terms["z"] < math.log(50) + 5
    assert (pv.clean(memoriser, train, draws=2).mean - train).abs().max() < 0.02


def test_a_memoriser_is_as_precise_as_everything_else():
    torch.set_default_dtype(torch.float64)
    try:
        pair = pv.memoriser(data_dim=4, points=torch.rand(5, 4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in pair.parameters()} == {torch.float64}


def test_a_memoriser_without_points_learns_where_they_are():
    torch.manual_seed(1)
    pair, x = pv.memoriser(8, hidden=(4, 4)), plane(40, seed=13) / 10 + 0.5
    before = torch.cdist(x, pair.model.decoder.values.detach()).min(1).values.mean()
    pv.fit(pair, x, steps=300, batch_size=40, lr=1e-2, progress=False)
    after = torch.cdist(x, pair.model.decoder.values.detach()).min(1).values.mean()
    assert after < before / 2


@pytest.mark.parametrize("name", ["iwae", "iwae_2", "ladder_vae", "skip_vae", "cnn_vae", "memoriser"])
def test_training_raises_the_bound(name):
    x = (pv.load("digits", limit=200).x > 0.5).float()
    torch.manual_seed(2)
    pair = pv.variant(name)(**(sizes(name, 64, 4, (24, 16)) | ({"shape": None} if name == "cnn_vae" else {})))
    rows = pv.fit(pair, x, steps=200, batch_size=50, lr=3e-3, log_every=20, progress=False).rows
    assert rows[-1]["loss"] < rows[0]["loss"] - 5
