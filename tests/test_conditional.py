"""The conditional variants: exact reductions to what they generalise, and images completed from their quadrants."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vaes as pv
from pyro_vaes.data.quadrants import ORDER, quadrants
from pyro_vaes.guides.conditional import ConditionalNormal, FromCondition
from pyro_vaes.models.conditional import ConditionalBernoulli
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder
from pyro_vaes.variants.conditional import direct_output

D, K, C, B = 8, 3, 4, 6
X = (torch.rand(B, D, generator=torch.Generator().manual_seed(0)) > 0.5).double()
Y = torch.eye(C, dtype=torch.float64)[torch.arange(B) % C]


def make(name, **arguments):
    torch.manual_seed(1)
    return pv.variant(name)(D, latent_dim=K, hidden=(6, 5), **arguments).double()


def loss(pair, *batch):
    torch.manual_seed(2)
    return pair(*batch).total


def test_a_condition_that_says_nothing_leaves_the_plain_vae():
    """One class, and zeros where its column meets the first layers."""
    plain = make("vae")
    decoder = Decoder(K + 1, (6, 5), D, output=nn.Identity, activation=nn.Tanh)
    encoder = GaussianEncoder(D + 1, (6, 5), K, nn.Tanh)
    pair = pv.Pair(ConditionalBernoulli(StandardPrior(K), decoder), ConditionalNormal(encoder), condition_dim=1)
    pair.double().load_state_dict(
        {
            n: nn.functional.pad(p, (0, pair.state_dict()[n].shape[-1] - p.shape[-1]))
            for n, p in plain.state_dict().items()
        }
    )
    ones = torch.ones(B, 1, dtype=torch.float64)
    torch.testing.assert_close(loss(pair, X, ones), loss(plain, X), rtol=1e-14, atol=1e-14)
    with torch.no_grad():
        pair.model.decoder[0].weight[:, -1] = 1.0
    assert not torch.isclose(loss(pair, X, ones), loss(plain, X))


def silence(prior, scale=1.0):
    """Make a prior network say N(0, scale^2) whatever y is."""
    with torch.no_grad():
        for p in prior.parameters():
            p.zero_()
        prior.raw_scale.bias.fill_(math.log(math.expm1(scale - 1e-5)))


def test_a_prior_that_does_not_listen_is_the_unconditional_one():
    structured, plain = make("structured_cvae", condition_dim=C), make("cvae", classes=C)
    silence(structured.model.prior)
    own = structured.state_dict()
    own.update({n: p for n, p in plain.state_dict().items() if n in own})
    structured.load_state_dict(own)
    torch.testing.assert_close(loss(structured, X, Y), loss(plain, X, Y), rtol=1e-13, atol=1e-13)
    silence(structured.model.prior, scale=2.0)
    assert not torch.isclose(loss(structured, X, Y), loss(plain, X, Y))


def test_the_term_of_the_code_is_the_divergence_from_the_conditional_prior():
    """Against an average of log q - log p over many draws, for each datum its own prior."""
    pair = make("structured_cvae", condition_dim=C)
    with torch.no_grad():
        for p in pair.parameters():
            p += 0.3 * torch.randn_like(p)
    q = dist.Normal(*pair.guide.encoder(torch.cat([X, Y], 1)))
    p = dist.Normal(*pair.model.prior(Y))
    z = q.sample((40_000,))
    cost = (q.log_prob(z) - p.log_prob(z)).sum(-1).mean(1)
    found = pair(X, Y).terms["z"]
    assert abs(found - cost.mean()) < 4 * cost.std() / 200
    assert found > 0.05


@pytest.mark.parametrize("name", ["cvae", "structured_cvae"])
def test_one_condition_serves_all_codes_of_a_datum(name):
    pair = make(name)
    y = torch.eye(10, dtype=torch.float64)[:B]
    decoder = pair.model.decoder
    z = torch.randn(7, B, K, dtype=torch.float64)
    from pyro_vaes.nn.joined import joined

    expected = torch.stack([decoder(torch.cat([code, y], 1)) for code in z])
    torch.testing.assert_close(decoder(joined(z, y)), expected)
    for objective in (pv.ELBO(particles=5), pv.ImportanceWeighted(5)):
        pair.objective = objective
        assert pair(X, y).total.isfinite()


def test_with_the_prior_as_guide_the_bound_is_the_monte_carlo_estimate():
    """Weights are then p(x | z, y) alone; by quadrature over a code of one entry the estimate is right."""
    torch.manual_seed(3)
    pair = pv.structured_cvae(D, C, latent_dim=1, hidden=(5,)).double()
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    exact = []
    for x, y in zip(X, Y, strict=True):
        loc, scale = (t.detach() for t in pair.model.prior(y))
        logits = pair.model.decoder(torch.cat([(loc + scale * grid[:, None]), y.expand(len(grid), -1)], 1)).detach()
        likelihood = dist.Bernoulli(logits=logits).log_prob(x).sum(-1)
        exact.append(torch.trapezoid((likelihood + dist.Normal(0.0, 1.0).log_prob(grid)).exp(), grid).log())
    estimate = pv.Pair(pair.model, FromCondition(pair.model.prior), pv.ImportanceWeighted(4000), condition_dim=C)
    assert estimate(X, Y).bound.item() == pytest.approx(torch.stack(exact).mean().item(), abs=0.02)
    estimate.objective = pv.ELBO()
    assert estimate(X, Y).terms["z"].item() == 0.0


def test_without_a_code_the_bound_is_the_likelihood_itself():
    torch.manual_seed(4)
    pair = direct_output(D, C, (6, 5)).double()
    assert [tuple(p.shape) for p in pair.parameters() if p.dim() == 2] == [(6, C), (5, 6), (D, 5)]
    logits = pair.model.decoder(Y)
    expected = -nn.functional.binary_cross_entropy_with_logits(logits, X, reduction="none").sum(-1).mean()
    torch.testing.assert_close(pair(X, Y).bound, expected.detach())
    assert pv.fit(pair.float(), X.float(), Y.float(), steps=3, engine="graph", progress=False).step == 3


def test_labels_and_one_hot_vectors_give_one_likelihood():
    from pyro_vaes.evaluation.decomposition import decompose
    from pyro_vaes.inference.likelihood import log_likelihood

    pair, labels = make("cvae", classes=C), Y.argmax(1)
    values = [log_likelihood(pair, X, y, samples=20).value for y in (labels, Y)]
    assert torch.equal(*values)
    assert decompose(pair, X, labels) == decompose(pair, X, Y)
    for function in (log_likelihood, decompose):
        with pytest.raises(pv.InputError, match="labels of cvae are whole, 0 to 3"):
            function(pair, X, labels + 1)


def test_labels_steer_what_is_drawn():
    """Two classes that are opposite images: after training each label draws its own."""
    torch.manual_seed(5)
    labels = torch.arange(64) % 2
    x = torch.stack([torch.arange(D) % 2, 1 - torch.arange(D) % 2])[labels].float()
    pair = pv.cvae(D, classes=2, latent_dim=2, hidden=(16,))
    pv.fit(pair, x, labels, steps=400, batch_size=32, lr=1e-2, progress=False)
    for label in (0, 1):
        assert torch.equal(pv.sample(pair, 5, y=label).round(), x[label].expand(5, -1))


@pytest.mark.parametrize("name", ["cvae", "structured_cvae"])
def test_bad_arguments_are_refused_in_one_line(name):
    argument = "classes" if name == "cvae" else "condition_dim"
    for value in (0, -1, 2.5, True):
        with pytest.raises(pv.InputError, match=f"^{argument} is .*at least 1$"):
            pv.variant(name)(D, **{argument: value})
    pair = make(name)
    with pytest.raises(pv.InputError, match="y is missing"):
        pair.model(size=3)
    with pytest.raises(pv.InputError, match="takes a condition"):
        pv.detect(pair, X)


# --- quadrants ---------------------------------------------------------------------------------------------------


def images(shape, rows=3, dtype=torch.float32):
    d = math.prod(shape)
    x = torch.arange(rows * d).reshape(rows, d)
    x = x.to(dtype) if dtype == torch.uint8 else x.to(dtype) / (rows * d)
    return pv.Dataset("mine", x, shape)


@pytest.mark.parametrize("observed", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 2), (4, 6), (28, 28), (3, 4, 2)])
def test_split_and_join_are_inverse(shape, observed):
    data = images(shape)
    parts = quadrants(data, observed)
    assert parts.y.shape[1] * 4 == data.x.shape[1] * observed
    assert torch.equal(parts.join(parts.x), data.x)
    assert torch.equal(parts.join(parts.x.expand(5, -1, -1)), data.x.expand(5, -1, -1))
    assert sorted([*parts.missing.tolist(), *parts.observed.tolist()]) == list(range(data.x.shape[1]))


def test_which_quadrants_are_seen():
    picture = torch.tensor([[1, 2], [0, 3]]).repeat_interleave(2, 0).repeat_interleave(3, 1)  # as ORDER counts them
    assert ORDER == ("bottom left", "top left", "top right", "bottom right")
    data = pv.Dataset("mine", picture.reshape(1, -1).float(), (4, 6))
    for observed in (1, 2, 3):
        assert quadrants(data, observed).y.unique().tolist() == list(range(observed))


def test_bytes_stay_bytes_where_they_are_modelled():
    data = images((4, 4), dtype=torch.uint8)
    parts = quadrants(data)
    assert parts.x.dtype == torch.uint8 and parts.y.dtype == torch.float32
    assert torch.equal(parts.join(parts.x.float() / 255), data.x.float() / 255)


@pytest.mark.parametrize(
    ("shape", "observed", "message"),
    [
        ((3, 4), 1, "no quadrants"),
        ((4, 5), 1, "even sides"),
        ((8,), 1, "no quadrants"),
        ((4, 4), 0, "observed is 0"),
        ((4, 4), 4, "at most 3"),
    ],
)
def test_what_has_no_quadrants_is_refused(shape, observed, message):
    with pytest.raises(pv.InputError, match=message):
        quadrants(images(shape), observed)


def test_a_completion_of_another_size_is_refused():
    with pytest.raises(pv.InputError, match="12 are missing, 4 observed"):
        quadrants(images((4, 4))).join(torch.zeros(3, 4))
