"""Sites whose q is the model's exact posterior: the loss is the marginal one, whatever is drawn."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger

import pyro_vaes as pv
from pyro_vaes.guides.cell_posterior import CellPosterior
from pyro_vaes.guides.precision import ConjugatePrecision
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.student_t import PrecisionMixture
from pyro_vaes.nn.mlp import GaussianEncoder
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair
from pyro_vaes.plates import data_plate

torch.set_num_threads(1)
F64 = torch.float64


class Put(Messenger):
    """Let sites take given values as if they had been drawn."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def t_pair() -> Pair:
    torch.manual_seed(0)
    parts = torch.nn.Linear(2, 4), FixedScale(0.25), FixedScale(1.5)
    encoder = GaussianEncoder(4, (5,), 2)
    model, guide = PrecisionMixture(StandardPrior(2), *parts), ConjugatePrecision(encoder, *parts)
    return Pair(model.double(), guide.double(), ELBO(exact=["w"]))


def mixture_pair(exact=("w",), seed=0) -> Pair:
    torch.manual_seed(seed)
    pair = pv.rvae(4, 2, (5,), alpha=0.75).double()
    with torch.no_grad():
        for p in pair.parameters():
            p += 0.3 * torch.randn_like(p)
    return Pair(pair.model, pair.guide, ELBO(exact=exact), name="rvae")


def marginal_mixture(pair, x, z):
    """log p(x | z) with w summed out, by torch's own mixture distribution."""
    mu, sigma = pair.model.decoder(z), pair.model.scale(z).expand(x.shape)
    means, spreads = torch.stack([torch.zeros_like(mu), mu], -1), torch.stack([torch.full_like(mu, 2.0), sigma], -1)
    weights = torch.distributions.Categorical(torch.tensor([0.25, 0.75], dtype=F64).expand(means.shape))
    normal = torch.distributions.Normal(means, spreads)
    return torch.distributions.MixtureSameFamily(weights, normal).log_prob(x).sum(-1)


def fixed_code(pair, x, w=None):
    """The loss at one code, and at given weights if there are any."""
    z = torch.full((len(x), 2), 0.4, dtype=F64, requires_grad=True)
    values = {"z": z} if w is None else {"z": z, "w": w}

    def guide(*args, **kwargs):
        with Put(values):
            return pair.guide(*args, **kwargs)

    loss = pair.objective(pair.model, guide, x)
    return loss, z


def test_an_exact_site_gives_the_marginal_likelihood_whatever_is_drawn():
    """All sixteen weights of an entry row: one value, and one gradient, that of the mixture with w summed out."""
    pair = mixture_pair()
    x = torch.randn(1, 4, dtype=F64)
    parameters = [p for n, p in pair.named_parameters() if "encoder" not in n]
    seen = []
    for bits in range(16):
        w = torch.tensor([[float(bits >> j & 1) for j in range(4)]], dtype=F64)
        loss, z = fixed_code(pair, x, w)
        total = loss.terms["w"] + loss.terms["x"]
        closed = -marginal_mixture(pair, x, z).mean()
        torch.testing.assert_close(total, closed, rtol=1e-10, atol=1e-10)
        ours, theirs = (torch.autograd.grad(value, [z, *parameters], retain_graph=True) for value in (total, closed))
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)
        seen.append(loss.terms["w"].item())
    assert len(set(seen)) == 16  # the terms themselves differ


@pytest.mark.parametrize("particles", [1, 3])
def test_an_exact_site_as_it_is_drawn(particles):
    pair = mixture_pair()
    pair.objective.particles = particles
    x = torch.randn(6, 4, dtype=F64)
    torch.manual_seed(1)
    loss = pair(x, size=60)
    torch.manual_seed(1)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn((particles, *loc.shape) if particles > 1 else loc.shape, dtype=F64)
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1)
    closed = (kl - marginal_mixture(pair, x.expand(*z.shape[:-1], 4), z)).mean()
    torch.testing.assert_close(loss.total, closed, rtol=1e-10, atol=1e-10)
    parameters = list(pair.parameters())
    ours, theirs = torch.autograd.grad(loss.total, parameters), torch.autograd.grad(closed, parameters)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_exact_is_a_claim_and_a_wrong_one_biases_the_gradient():
    """A q(w | z, x) that believes in another alpha: the mean gradient over all w is not that of its own bound."""
    pair = mixture_pair()
    wrong = FixedScale(0.125).double()
    guide = CellPosterior(pair.guide.encoder, pair.guide.decoder, pair.guide.scale, wrong, pair.guide.broad)
    other = Pair(pair.model, guide, ELBO(exact=["w"]))
    x = torch.randn(1, 4, dtype=F64)
    z = torch.full((1, 2), 0.4, dtype=F64)
    with Put({"z": z}):
        q = poutine.trace(guide).get_trace(x).nodes["w"]["fn"]
    bias = pair.model.decoder[-2].bias
    totals, estimate = 0.0, torch.zeros(4, dtype=F64)
    for bits in range(16):
        w = torch.tensor([[float(bits >> j & 1) for j in range(4)]], dtype=F64)
        loss, _ = fixed_code(other, x, w)
        value = loss.terms["w"] + loss.terms["x"]
        totals = totals + q.log_prob(w).exp().sum() * value
        estimate += q.log_prob(w).exp().detach().sum() * torch.autograd.grad(value, bias, retain_graph=True)[0]
    (true,) = torch.autograd.grad(totals, bias)
    assert (estimate - true).abs().max() > 0.01
    assert (pair.objective.__doc__ or "").find("biased") > 0


def test_a_discrete_site_that_is_not_exact_is_refused():
    with pytest.raises(pv.InputError, match="cannot be reparameterised"):
        mixture_pair(exact=())(torch.randn(2, 4, dtype=F64))


def test_exact_sites_are_a_list_and_have_no_beta():
    with pytest.raises(pv.InputError, match="must be a list"):
        ELBO(exact="w")
    with pytest.raises(pv.InputError, match="beta weighs site 'w'"):
        ELBO({"w": 2.0}, exact=["w"])
    pair = mixture_pair()
    x, totals = torch.randn(3, 4, dtype=F64), []
    for beta in (1.0, 3.0):
        torch.manual_seed(2)
        totals.append(ELBO(beta, exact=["w"])(pair.model, pair.guide, x))
    torch.testing.assert_close(totals[1].terms["z"], 3 * totals[0].terms["z"])
    torch.testing.assert_close(totals[1].terms["w"], totals[0].terms["w"])


@pytest.mark.parametrize("w", [1e-6, 0.3, 50.0])
def test_the_precision_of_the_t_vae_is_exact_too(w):
    """Any constant precision gives Student's t and its gradient, for every parameter and for the code."""
    pair = t_pair()
    x = torch.randn(3, 4, dtype=F64)
    loss, z = fixed_code(pair, x, torch.full((3, 4), w, dtype=F64))
    closed = -torch.distributions.StudentT(1.5, pair.model.decoder(z), 0.25).log_prob(x).sum(-1).mean()
    total = loss.terms["w"] + loss.terms["x"]
    torch.testing.assert_close(total, closed, rtol=1e-9, atol=1e-9)
    wanted = [z, *pair.model.decoder.parameters()]
    ours, theirs = torch.autograd.grad(total, wanted), torch.autograd.grad(closed, wanted)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-7)


class TwoKinds(PyroModule):
    """z ~ N(0, I), kind ~ Categorical, x ~ N(mu_kind(z), 0.5^2); the guide gives z, and the kind's exact posterior."""

    def __init__(self, exact=False):
        super().__init__()
        torch.manual_seed(1)
        self.decoder, self.encoder, self.exact = torch.nn.Linear(2, 8).double(), torch.nn.Linear(4, 2).double(), exact

    def log_parts(self, z, x):
        """log p(kind) + log p(x | z, kind), (..., B, 2)."""
        mu = self.decoder(z).reshape(*z.shape[:-1], 2, 4)
        share = torch.tensor([0.3, 0.7], dtype=F64).log()
        return share + torch.distributions.Normal(mu, 0.5).log_prob(x[..., None, :]).sum(-1)

    def model(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7], dtype=F64)))
            first, second = self.decoder(z).chunk(2, -1)
            mu = torch.where((kind == 0)[..., None], first, second)
            pyro.sample("x", dist.Normal(mu, 0.5).to_event(1), obs=x)

    def guide(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(self.encoder(x), 0.4).to_event(1))
            if self.exact:
                pyro.sample("kind", dist.Categorical(logits=self.log_parts(z, x)))


def test_enumeration_the_explicit_sum_and_an_exact_site_are_one():
    """TraceEnum_ELBO sums a discrete site out; so does log-sum-exp, and so does a guide that has its posterior."""
    x = torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(2))
    found = []
    for way in ("enumerated", "summed", "exact"):
        kinds = TwoKinds(exact=way == "exact")
        parameters = [*kinds.decoder.parameters(), *kinds.encoder.parameters()]
        torch.manual_seed(3)
        if way == "summed":
            loc = kinds.encoder(x)
            z = loc + 0.4 * torch.randn_like(loc)
            log_q = torch.distributions.Normal(loc, 0.4).log_prob(z).sum(-1)
            log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + kinds.log_parts(z, x).logsumexp(-1)
            total = (log_q - log_p).mean()
        elif way == "exact":
            total = ELBO(exact=["kind"], sampled=["z"])(kinds.model, kinds.guide, x).total
        else:
            model = config_enumerate(kinds.model, "parallel")
            with pyro.get_param_store().scope():
                total = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, kinds.guide, x) / len(x)
        found.append((total, torch.autograd.grad(total, parameters)))
    for total, gradients in found[1:]:
        assert total.item() == pytest.approx(found[0][0].item(), rel=1e-10)
        for one, other in zip(gradients, found[0][1], strict=True):
            assert torch.allclose(one, other, atol=1e-10)
