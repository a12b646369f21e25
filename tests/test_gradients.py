"""Gradients: against finite differences, over minibatches, through Pyro's own estimators, between pairs."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from small import BINARY, sizes
from torch import nn

from pyro_vaes.guides.amortised import AmortisedDelta
from pyro_vaes.guides.outlier import OutlierDelta
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.inference.recycled import Recycled
from pyro_vaes.inference.stock import Stock
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.models.sparse_outlier import SparseOutlier
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder, PointEncoder
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.pair import Pair
from pyro_vaes.plates import data_plate
from pyro_vaes.variants import VARIANTS

torch.set_num_threads(1)
F64 = torch.float64
D, K = 5, 3
RECURRENT = ["ric_vae", "r_l2_vae", "rlc_vae"]


def build(name, seed=0, **kw):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pair = VARIANTS[name](**sizes(name, D, K, (6,)), **kw).double()
        with torch.no_grad():
            for p in pair.parameters():
                p += 0.1 * torch.randn_like(p)
    return pair


def batch(name="", rows=6, seed=1):
    x = torch.rand(rows, D, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return x.round() if name in BINARY else x


def seeded(pair, x, seed=3, **kw):
    torch.manual_seed(seed)
    return pair(x, pair.first_condition(len(x)), **kw)


def grads(total, pair):
    parameters = list(pair.parameters())
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def assert_same(left, right, rtol=1e-9, atol=1e-10):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


# --- finite differences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kw"),
    [pytest.param(n, {"recycle_grad": True} if n in RECURRENT else {}, id=n) for n in VARIANTS]
    + [pytest.param("ric_vae", {"recycle_grad": True, "passes": 3}, id="ric_vae-3")],
)
def test_gradient_is_the_finite_difference(name, kw):
    """Central differences under one seed, for every parameter along two random directions and along itself once.

    Recycled losses need ``recycle_grad``: a cut gradient is not the derivative of the number that is shown. The
    error of a central difference is O(h^2) + 1e-16 |loss| / h: about 1e-9 at h = 1e-6.
    """
    pair, x = build(name, **kw), batch(name)
    analytic = dict(zip(pair.named_parameters(), grads(seeded(pair, x).total, pair), strict=True))
    g = torch.Generator().manual_seed(2)
    h = 1e-6
    for (site, p), gradient in analytic.items():
        assert gradient.isfinite().all()
        for _ in range(2):
            direction = torch.randn(p.shape, generator=g, dtype=F64)
            values = []
            with torch.no_grad():
                for sign in (1, -1):
                    p += sign * h * direction
                    values.append(of_its_player(seeded(pair, x), site).item())
                    p -= sign * h * direction
            numeric = (values[0] - values[1]) / (2 * h)
            assert numeric == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=2e-7), site


def of_its_player(loss, site):
    """What a parameter minimises: the total, or of two players' losses, or of two stages', its own."""
    # A discriminator may classify; elsewhere the classifier is the guide's.
    theirs = ("discriminator", "classifier") if "discriminator" in loss.terms else ()
    apart = ("z@2", "u") if "u" in loss.terms else theirs
    other = sum((loss.terms[name] for name in apart if name in loss.terms), torch.zeros(()))
    return other if site.startswith("objective.") or ".second_" in site else loss.total - other


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_matters(name):
    """No network is forgotten: each gets a gradient that is not zero."""
    pair = build(name)
    x = batch(name, rows=40)
    for (site, _), gradient in zip(pair.named_parameters(), grads(seeded(pair, x).total, pair), strict=True):
        assert gradient.abs().max() > 0, site


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_is_finite_where_the_residual_is_zero(name):
    """The pole of log|x - mu| has a floor."""
    pair = build(name)
    with torch.no_grad():
        for p in getattr(pair.model, "likelihood", pair.model).decoder.parameters():
            p.zero_()
    x = torch.full((3, D), 0.0 if name in {*BINARY, "affine_ic_vae"} else 0.5, dtype=F64)
    loss = seeded(pair, x)
    assert loss.total.isfinite() and all(g.isfinite().all() for g in grads(loss.total, pair))


# --- minibatches ------------------------------------------------------------------------------------------------


class StillNormal(dist.Normal):
    """A Gaussian whose noise is a function of its mean, so that a row's loss does not depend on its neighbours."""

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * torch.sin(1000 * self.loc.detach())


class StillGuide(PyroModule):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return pyro.sample("z", StillNormal(*self.encoder(x)).to_event(1))


def still(objective=None) -> Pair:
    torch.manual_seed(0)
    model = LatentGaussian(StandardPrior(K), Decoder(K, (6,), D), FixedScale(0.5))
    return Pair(model, StillGuide(GaussianEncoder(D, (6,), K)), objective).double()


def delta(beta=1.0) -> Pair:
    torch.manual_seed(0)
    model = LatentGaussian(StandardPrior(K), Decoder(K, (6,), D), FixedScale(0.5))
    return Pair(model, AmortisedDelta(PointEncoder(D, (6,), K)), ELBO(beta)).double()


MINIBATCHED = {
    "still noise": still,
    "still noise, KL sampled": lambda: still(ELBO(sampled=["z"])),
    "still noise, beta": lambda: still(ELBO(beta=0.3)),
    "still noise, Pyro": lambda: still(Stock(Trace_ELBO())),
    "still noise, Renyi": lambda: still(Stock(RenyiELBO(alpha=0, num_particles=2))),
    "point mass": delta,
    "autoencoder": lambda: build("autoencoder"),
    "induced_ae": lambda: build("induced_ae", l1=0.5),
}


@pytest.mark.parametrize("which", MINIBATCHED)
@pytest.mark.parametrize("sizes", [(6, 6, 6, 6), (1,) * 24, (7, 7, 7, 3), (23, 1)])
def test_minibatches_average_to_the_full_data(which, sizes):
    """Equal batches: the mean; ragged ones: the mean weighted by the batch. Value, bound and gradient."""
    pair, x = MINIBATCHED[which](), batch(rows=24)
    full = pair(x)
    losses = [pair(part, size=24) for part in x.split(sizes)]
    weights = torch.tensor(sizes, dtype=F64) / 24
    total = sum(w * loss.total for w, loss in zip(weights, losses, strict=True))
    torch.testing.assert_close(total, full.total, rtol=1e-10, atol=1e-10)
    bound = sum(w * loss.bound for w, loss in zip(weights, losses, strict=True))
    torch.testing.assert_close(bound, full.bound, rtol=1e-10, atol=1e-10)
    assert_same(grads(total, pair), grads(full.total, pair))
    if len(set(sizes)) == 1:
        torch.testing.assert_close(torch.stack([loss.total for loss in losses]).mean(), full.total)
    else:
        assert not torch.isclose(torch.stack([loss.total for loss in losses]).mean(), full.total)


class GlobalShift(PyroModule):
    """x_i ~ N(z_i 1 + t, 1) with one t for the whole data set, outside the plate."""

    def forward(self, x=None, y=None, *, size=None):
        t = pyro.sample("t", dist.Normal(torch.zeros(D, dtype=F64), 2.0).to_event(1))
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z + t, 1.0).to_event(1), obs=x)


class GlobalGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.linspace(-1, 1, D, dtype=F64))

    def forward(self, x=None, y=None, *, size=None):
        t = pyro.sample("t", dist.Normal(self.loc, 0.3).to_event(1))
        with data_plate(x, size):
            loc = 0.5 * x.mean(-1, keepdim=True) - 0.1
            pyro.sample("z", dist.Delta(loc, event_dim=1))
        return t


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("size", [None, 6, 60])
def test_a_global_latent_is_counted_once_per_data_set(size, sampled, particles):
    """L = (KL[t] + N/B sum_i l_i) / N: the global divergence is shared by N data, not by B."""
    guide = GlobalGuide()
    pair = Pair(GlobalShift(), guide, ELBO(sampled=["t"] if sampled else [], particles=particles))
    x = batch()
    torch.manual_seed(3)
    loss = pair(x, size=size)
    torch.manual_seed(3)
    shape = (D,) if particles == 1 else (particles, 1, D)
    t = guide.loc + 0.3 * torch.randn(shape, dtype=F64)
    n = size or 6
    if sampled:
        normal = torch.distributions.Normal
        kl = (normal(guide.loc, 0.3).log_prob(t) - normal(torch.zeros(D, dtype=F64), 2.0).log_prob(t)).sum(-1).mean()
    else:
        kl = 0.5 * ((0.3**2 + guide.loc**2) / 4 - 1 - math.log(0.3**2 / 4)).sum()
    z = 0.5 * x.mean(-1, keepdim=True) - 0.1
    half_log = 0.5 * math.log(2 * math.pi)
    local = (0.5 * z**2 + half_log).sum(-1) + (0.5 * (x - z - t) ** 2 + half_log).sum(-1)
    expected = kl / n + local.mean()
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.bound, -expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.terms["t"], kl / n, rtol=1e-10, atol=1e-10)
    assert_same(torch.autograd.grad(loss.total, guide.loc), torch.autograd.grad(expected, guide.loc))


@pytest.mark.parametrize("estimator", [Trace_ELBO, TraceGraph_ELBO])
def test_a_global_latent_through_pyro_s_estimators(estimator):
    pair = Pair(GlobalShift(), GlobalGuide(), ELBO(sampled=["t", "z"]))
    x = batch()
    ours = seeded(pair, x, size=60)
    theirs = seeded(Pair(pair.model, pair.guide, Stock(estimator())), x, size=60)
    torch.testing.assert_close(ours.total, theirs.total, rtol=1e-10, atol=1e-10)
    assert_same(grads(ours.total, pair), grads(theirs.total, pair))


# --- Pyro's own estimators --------------------------------------------------------------------------------------


def estimators():
    return {
        "Trace_ELBO": (Trace_ELBO(), True),
        "TraceGraph_ELBO": (TraceGraph_ELBO(), True),
        "TraceEnum_ELBO": (TraceEnum_ELBO(max_plate_nesting=1), True),
        "RenyiELBO": (RenyiELBO(alpha=0, num_particles=1), True),
        "TraceMeanField_ELBO": (TraceMeanField_ELBO(), False),
    }


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites configured for enumeration")
@pytest.mark.parametrize("size", [None, 60])
@pytest.mark.parametrize(
    ("which", "name"),
    [
        (which, name)
        for which in estimators()
        for name in ("vae", "gaussian_vae", "l2_vae", "lc_vae", "indexed_ic_vae", "ic_vae", "t_vae")
        if (which, name) != ("TraceMeanField_ELBO", "ic_vae")  # see the next test
    ],
)
def test_pyro_s_estimators_agree_with_the_library(which, name, size):
    estimator, sampled = estimators()[which]
    pair, x = build(name), batch(name)
    if which == "TraceMeanField_ELBO" and name == "t_vae":
        ours = ELBO()
    else:
        ours = ELBO(sampled=["z", "w", "s"] if sampled else [])
    tolerance = 1e-9
    if which == "TraceEnum_ELBO":  # Pyro's sites that only record are float32, and TraceEnum_ELBO multiplies dtypes
        pair, x, tolerance = pair.float(), x.float(), 2e-5
    left = seeded(Pair(pair.model, pair.guide, ours), x, size=size)
    right = seeded(Pair(pair.model, pair.guide, Stock(estimator)), x, size=size)
    torch.testing.assert_close(left.total, right.total, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(right.bound, -left.total.detach(), rtol=tolerance, atol=tolerance)
    assert list(right.terms) == ["elbo"]
    torch.testing.assert_close(right.terms["elbo"], right.total)
    assert_same(grads(left.total, pair), grads(right.total, pair), rtol=100 * tolerance, atol=tolerance)


def test_pyro_s_mean_field_estimator_differs_for_a_point_mass_by_its_log_density():
    pair, x = build("ic_vae"), batch()
    left = seeded(pair, x)
    right = seeded(Pair(pair.model, pair.guide, Stock(TraceMeanField_ELBO())), x)
    peak = -math.log(0.01 * math.sqrt(2 * math.pi)) * D
    torch.testing.assert_close(left.total - right.total, torch.tensor(peak, dtype=F64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [None, 60])
@pytest.mark.parametrize("particles", [2, 5])
def test_importance_weights_by_hand(particles, size):
    """The bound of Burda et al. (2016), log-mean-exp per datum, with its gradient; Pyro draws particle by particle."""
    pair, x = build("lc_vae"), batch()
    loss = seeded(Pair(pair.model, pair.guide, Stock(RenyiELBO(alpha=0, num_particles=particles))), x, size=size)
    torch.manual_seed(3)
    normal = torch.distributions.Normal
    weights = []
    for _ in range(particles):
        loc, scale = pair.guide.encoder(x)
        z = loc + scale * torch.randn_like(loc)
        w = normal(pair.model.decoder(z), pair.model.scale(z)).log_prob(x).sum(-1)
        weights.append(w + (normal(0.0, 1.0).log_prob(z) - normal(loc, scale).log_prob(z)).sum(-1))
    by_hand = -(torch.logsumexp(torch.stack(weights), 0) - math.log(particles)).mean()
    torch.testing.assert_close(loss.total, by_hand, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss.bound, -by_hand.detach(), rtol=1e-9, atol=1e-9)
    assert_same(grads(loss.total, pair), grads(by_hand, pair))


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites configured for enumeration")
@pytest.mark.parametrize("which", [*estimators(), "the library's"])
def test_gradients_that_were_there_stay(which):
    """A loss computes; only backward() writes, and it adds."""
    pair, x = build("l2_vae"), batch()
    other = build("l2_vae", seed=5)
    objective = ELBO() if which == "the library's" else Stock(estimators()[which][0])
    tested = Pair(pair.model, pair.guide, objective)
    for p in (*pair.parameters(), *other.parameters()):
        p.grad = torch.full_like(p, 7.0)
    held = [p.grad for p in pair.parameters()]
    loss = seeded(tested, x)
    for p, grad in zip(pair.parameters(), held, strict=True):
        assert p.grad is grad and (grad == 7).all()
    expected = grads(loss.total, pair)
    loss = seeded(tested, x)
    loss.total.backward()
    for p, g in zip(pair.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g + 7)
    assert all((p.grad == 7).all() for p in other.parameters())


@pytest.mark.parametrize("which", ["RenyiELBO", "TraceGraph_ELBO"])
def test_gradients_that_were_not_there_stay_away(which):
    pair = build("l2_vae")
    seeded(Pair(pair.model, pair.guide, Stock(estimators()[which][0])), batch())
    assert all(p.grad is None for p in pair.parameters())


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
@pytest.mark.parametrize("which", ["RenyiELBO", "TraceGraph_ELBO"])
def test_frozen_parameters_stay_frozen_in_pyro_s_estimators(which):
    pair, x = build("l2_vae"), batch()
    pair.model.decoder.requires_grad_(False)
    tested = Pair(pair.model, pair.guide, Stock(estimators()[which][0]))
    ours = Pair(pair.model, pair.guide, ELBO(sampled=["z"]))
    encoder = list(pair.guide.parameters())
    assert_same(
        torch.autograd.grad(seeded(tested, x).total, encoder), torch.autograd.grad(seeded(ours, x).total, encoder)
    )
    assert all(p.grad is None for p in pair.parameters())


@pytest.mark.parametrize("cut", [True, False])
def test_pyro_s_estimators_can_be_recycled(cut):
    pair, x = build("l2_vae"), batch()
    left = seeded(Pair(pair.model, pair.guide, Recycled(ELBO(sampled=["z"]), 3, not cut)), x)
    right = seeded(Pair(pair.model, pair.guide, Recycled(Stock(Trace_ELBO()), 3, not cut)), x)
    torch.testing.assert_close(left.total, right.total, rtol=1e-9, atol=1e-9)
    assert_same(grads(left.total, pair), grads(right.total, pair))


@pytest.mark.parametrize("which", ["RenyiELBO", "TraceGraph_ELBO"])
def test_pyro_s_estimators_that_only_know_backward_can_be_recycled(which):
    pair, x = build("l2_vae"), batch()
    left = seeded(Pair(pair.model, pair.guide, Recycled(ELBO(sampled=["z"]), 2)), x)
    right = seeded(Pair(pair.model, pair.guide, Recycled(Stock(estimators()[which][0]), 2)), x)
    torch.testing.assert_close(left.total, right.total, rtol=1e-9, atol=1e-9)
    assert_same(grads(left.total, pair), grads(right.total, pair))


# --- two pairs in one process -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites configured for enumeration")
@pytest.mark.parametrize("which", ["the library's", *estimators()])
def test_two_pairs_never_share_parameters(which):
    """Same names, same process: each trains as if alone (Pyro's SVI fails this: the second never moves)."""
    x = batch()

    def objective():
        return ELBO() if which == "the library's" else Stock(estimators()[which][0])

    def step(pair, optimiser, seed):
        loss = seeded(pair, x, seed)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        return loss.total.item()

    def make(seed):
        pair = build("l2_vae", seed)
        pair.objective = objective()
        return pair, torch.optim.Adam(pair.parameters(), 0.01)

    alone = []
    for seed in (1, 2):
        pair, optimiser = make(seed)
        alone.append([step(pair, optimiser, s) for s in range(5)])
    first, second = make(1), make(2)
    before = [p.detach().clone() for p in second[0].parameters()]
    together = [[], []]
    for s in range(5):
        together[0].append(step(*first, s))
        if s == 0:
            assert_same(before, [p.detach() for p in second[0].parameters()], 0, 0)
        together[1].append(step(*second, s))
    assert together == alone
    assert alone[0] != alone[1]
    assert all((p - q).abs().max() > 0 for p, q in zip(second[0].parameters(), before, strict=True))


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites configured for enumeration")
@pytest.mark.parametrize("which", ["the library's", *estimators()])
def test_a_pair_leaves_nothing_in_pyro_s_store(which):
    with pyro.get_param_store().scope():
        pair = build("l2_vae")
        pair.objective = ELBO() if which == "the library's" else Stock(estimators()[which][0])
        pair(batch()).total.backward()
        assert not list(pyro.get_param_store().keys())


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites configured for enumeration")
@pytest.mark.parametrize("which", ["the library's", *estimators()])
def test_an_objective_called_without_a_pair_does_not_mix_models_up(which):
    objective = ELBO() if which == "the library's" else Stock(estimators()[which][0])
    x = batch()
    pairs = [build("l2_vae", seed) for seed in (1, 2)]
    for pair in (*pairs, *pairs):
        torch.manual_seed(3)
        direct = objective(pair.model, pair.guide, x)
        within = seeded(Pair(pair.model, pair.guide, objective), x)
        assert direct.total.item() == within.total.item()
        found = grads(direct.total, pair)
        assert_same(found, grads(within.total, pair))
        assert max(g.abs().max().item() for g in found) > 1e-3


@pytest.mark.parametrize("which", ["the library's", "Trace_ELBO", "TraceGraph_ELBO"])
def test_parameters_that_a_guide_holds_itself_are_not_shared_either(which):
    """Pyro finds such a parameter by its name alone, in whatever store is open."""
    pairs = []
    for shift in (0.0, 3.0):
        guide = GlobalGuide()
        with torch.no_grad():
            guide.loc += shift
        objective = ELBO(sampled=["t"]) if which == "the library's" else Stock(estimators()[which][0])
        pairs.append(Pair(GlobalShift(), guide, objective))
    x = batch()
    losses = [seeded(pair, x) for pair in pairs]
    again = [seeded(pair, x) for pair in reversed(pairs)]
    assert losses[0].total.item() == again[1].total.item() and losses[1].total.item() == again[0].total.item()
    assert abs(losses[0].total.item() - losses[1].total.item()) > 1
    for pair, loss in zip(pairs, losses, strict=True):
        assert torch.autograd.grad(loss.total, pair.guide.loc)[0].abs().max() > 0


def test_a_shared_decoder_is_one_parameter_with_both_gradients():
    """The outlier guide computes mu(z) with the model's own decoder: the gradient is that of one network."""
    pair, x = build("ic_vae", floor=0.25), batch()
    names = [n for n, _ in pair.named_parameters()]
    assert not [n for n in names if n.startswith("guide.decoder")]
    eps = 1e-3
    p = next(pair.model.decoder.parameters())
    gradient = torch.autograd.grad(seeded(pair, x).total, p)[0][0, 0].item()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            p[0, 0] += sign * eps
            values.append(seeded(pair, x).total.item())
            p[0, 0] -= sign * eps
    assert (values[0] - values[1]) / (2 * eps) == pytest.approx(gradient, rel=1e-4)


def test_a_sparse_outlier_of_any_noise_has_the_same_loss():
    """tau is not a parameter: it cancels, Eq. 17."""
    x = batch()
    values = []
    for noise in (1e-3, 0.01, 1.0):
        torch.manual_seed(0)
        decoder, encoder = Decoder(K, (6,), D), GaussianEncoder(D, (6,), K)
        model = SparseOutlier(StandardPrior(K), decoder, FixedScale(0.25), noise=noise)
        values.append(seeded(Pair(model, OutlierDelta(encoder, decoder, noise)).double(), x).total)
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(values[2], values[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("which", ["RenyiELBO", "TraceGraph_ELBO"])
def test_a_user_s_local_parameters_setting_changes_nothing(which):
    """With it, Pyro's backward-only estimators find no parameters, and say nothing."""
    x, found = batch(), []
    for local in (False, True):
        with pyro.settings.context(module_local_params=local):
            pair = build("l2_vae")
            pair.objective = Stock(estimators()[which][0])
            found.append(grads(seeded(pair, x).total, pair))
    assert_same(*found)
    assert max(g.abs().max().item() for g in found[0]) > 1e-3
