"""The importance-weighted objective: Pyro's own on one datum, sums by hand, finite differences, known bounds."""

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from test_closed_forms import Solution, linear_data, linear_pair
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference.importance import ESTIMATORS, ImportanceWeighted
from pyro_vaes.plates import data_plate


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return pv.vae(data_dim=6, latent_dim=2, hidden=(5,)).double()


@pytest.fixture
def x():
    return (torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) > 0.5).double()


def loss_of(pair, x, seed=1, **options):
    torch.manual_seed(seed)
    return pair(x, **options)


def gradient(pair, x, seed=1):
    loss = loss_of(pair, x, seed).total
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(pair.parameters()))])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0, -1.0])
@pytest.mark.parametrize("particles", [2, 7])
def test_on_one_datum_it_is_pyros(pair, x, alpha, particles):
    pair.objective = ImportanceWeighted(particles, alpha)
    ours = loss_of(pair, x[:1]).total.item()
    torch.manual_seed(1)
    stock = RenyiELBO(alpha=alpha, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    assert ours == pytest.approx(stock.loss(pair.model, pair.guide, x[:1]), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_sum_by_hand(pair, x, alpha):
    """A loop over data and particles, with densities written out."""
    pair.objective = ImportanceWeighted(3, alpha)
    loss = loss_of(pair, x, size=40)
    torch.manual_seed(1)
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn(3, 4, 2, dtype=torch.float64)
    bounds = []
    for i in range(4):
        weights = []
        for k in range(3):
            log_p = -0.5 * (z[k, i] ** 2).sum() - math.log(2 * math.pi)
            prob = torch.sigmoid(pair.model.decoder(z[k, i]))
            log_p = log_p + torch.log(torch.where(x[i] == 1, prob, 1 - prob)).sum()
            eps = (z[k, i] - loc[i]) / scale[i]
            log_q = -0.5 * (eps**2).sum() - math.log(2 * math.pi) - torch.log(scale[i]).sum()
            weights.append((log_p - log_q).exp())
        w = torch.stack(weights)
        bounds.append(w.log().mean() if alpha == 1 else (w ** (1 - alpha)).mean().log() / (1 - alpha))
    assert loss.total.item() == pytest.approx(-torch.stack(bounds).mean().item(), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("estimator", ["iwae", "stl"])
def test_one_particle_is_the_elbo(pair, x, alpha, estimator):
    pair.objective = pv.ELBO(sampled=["z"])
    elbo = loss_of(pair, x)
    pair.objective = ImportanceWeighted(1, alpha, estimator)
    ours = loss_of(pair, x)
    assert ours.total.item() == pytest.approx(elbo.total.item(), rel=1e-12)
    assert ours.bound.item() == pytest.approx(elbo.bound.item(), rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_terms_sum_to_the_loss_and_weights_cost_something(pair, x, estimator):
    pair.objective = ImportanceWeighted(5, 0.0, estimator)
    loss = loss_of(pair, x)
    assert sum(loss.terms.values()).item() == pytest.approx(loss.total.item(), rel=1e-12)
    # KL[weights || uniform] is subtracted from the bound.
    assert loss.terms["weights"].item() > 0


class Given(Messenger):
    """Hand out draws that were made before."""

    def __init__(self, z):
        super().__init__()
        self.z = z

    def _pyro_sample(self, msg):
        if msg["name"] == "z" and msg["value"] is None:
            msg["value"], msg["done"] = self.z, True


def test_a_batch_is_the_sum_of_its_data(pair, x):
    """Split and permuted, with the same draws for the same data, the bound of every datum is what it was."""
    pair.objective = ImportanceWeighted(5)
    z = torch.randn(5, 4, 2, dtype=torch.float64)

    def bound(rows):
        with Given(z[:, rows]):
            return pair(x[rows], size=100).bound.item()

    together, parts = bound([0, 1, 2, 3]), [bound([i]) for i in range(4)]
    assert together == pytest.approx(sum(parts) / 4, rel=1e-12)
    assert bound([2, 0, 3, 1]) == pytest.approx(together, rel=1e-12)
    assert (bound([0, 2]) + bound([1, 3])) / 2 == pytest.approx(together, rel=1e-12)


def test_the_plate_scales_outside_of_the_logarithm(pair, x):
    """Pyro exponentiates the scaled log-weights of a subsampled plate; here a minibatch is not another bound."""
    pair.objective = ImportanceWeighted(5)
    assert loss_of(pair, x, size=4).total.item() == pytest.approx(loss_of(pair, x, size=4000).total.item(), rel=1e-12)
    torch.manual_seed(1)
    stock = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    theirs = stock.loss(pair.model, pair.guide, x, size=4000) / 4000
    assert abs(theirs - loss_of(pair, x).total.item()) > 0.05


def test_more_particles_tighten_the_bound_and_never_beyond_the_evidence():
    x = linear_data(n=200)
    solution = Solution.of(x, 2)
    encoder = solution.encoder()
    with torch.no_grad():
        encoder.scale.mul_(2.0)
    pair = linear_pair(solution, encoder)
    bounds = []
    for k in (1, 2, 5, 20, 100):
        pair.objective = ImportanceWeighted(k)
        bounds.append(sum(loss_of(pair, x, seed).bound.item() for seed in range(40)) / 40)
    assert all(b > a + 0.01 for a, b in pairwise(bounds)), bounds
    assert bounds[-1] == pytest.approx(solution.evidence(x).mean().item(), abs=0.02)
    assert bounds[-1] < solution.evidence(x).mean().item() + 0.005


def test_alpha_orders_the_bounds(pair, x):
    totals = []
    for alpha in (-1.0, 0.0, 0.5, 1.0, 3.0):
        pair.objective = ImportanceWeighted(6, alpha)
        totals.append(loss_of(pair, x).total.item())
    assert totals == sorted(totals)
    assert len(set(totals)) == 5


def test_the_plain_gradient_is_that_of_finite_differences(pair, x):
    for alpha in (0.0, 0.5, 1.0):
        pair.objective = ImportanceWeighted(4, alpha)
        found, step = gradient(pair, x), 1e-6
        numbers = []
        for p in pair.parameters():
            for i in range(p.numel()):
                values = []
                for sign in (1, -1):
                    with torch.no_grad():
                        p.view(-1)[i] += sign * step
                        values.append(loss_of(pair, x).total.item())
                        p.view(-1)[i] -= sign * step
                numbers.append((values[0] - values[1]) / (2 * step))
        assert torch.allclose(found, torch.tensor(numbers, dtype=torch.float64), atol=1e-7)


class Chain(PyroModule):
    """z_2 -> z_1 -> x as model, x -> z_1 -> z_2 as guide: the draw of one site moves that of the next."""

    def __init__(self, guide: bool):
        super().__init__()
        self.is_guide = guide
        self.first = nn.Linear(3 if guide else 2, 2)
        self.second = nn.Linear(2, 2 if guide else 3)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            if self.is_guide:
                z_1 = pyro.sample("z_1", dist.Normal(self.first(x), 0.7).to_event(1))
                return pyro.sample("z_2", dist.Normal(self.second(z_1).tanh(), 0.9).to_event(1))
            one = torch.ones(2, dtype=self.first.weight.dtype)
            z_2 = pyro.sample("z_2", dist.Normal(0 * one, one).to_event(1))
            z_1 = pyro.sample("z_1", dist.Normal(self.first(z_2), one).to_event(1))
            return pyro.sample("x", dist.Normal(self.second(z_1), 0.5).to_event(1), obs=x)


def chain():
    torch.manual_seed(0)
    model, guide = Chain(False), Chain(True)
    guide.first, guide.upper = nn.Linear(3, 2), guide.second
    # Names of their own, since model and guide are two programs with parameters apart.
    model.up, model.down = model.first, model.second
    return model.double(), guide.double()


def means(objective, model, guide, x, batches=20, rows=4000):
    """Mean gradient of a loss over many independent draws, and its standard error."""
    many, found = x.repeat(rows, 1), []
    parameters = [*model.parameters(), *guide.parameters()]
    for seed in range(batches):
        torch.manual_seed(seed)
        loss = objective(model, guide, many).total
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / math.sqrt(batches), sum(p.numel() for p in model.parameters())


def far(a, b):
    """Mean square of the differences in standard errors: about 1 where the expectations are equal."""
    return ((a[0] - b[0]) ** 2 / (a[1] ** 2 + b[1] ** 2).clamp(min=1e-24)).mean().item()


@pytest.mark.parametrize("particles", [1, 4])
def test_estimators_agree_in_expectation(particles):
    model, guide = chain()
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    with pyro.get_param_store().scope():
        iwae, stl, dreg = (means(ImportanceWeighted(particles, 0.0, e), model, guide, x) for e in ESTIMATORS)
    assert far(iwae, dreg) < 2.0
    # The dropped score has expectation zero for one particle only.
    assert far(iwae, stl) < 2.0 if particles == 1 else far(iwae, stl) > 20
    # The model's gradient is one and the same.
    for other in (stl, dreg):
        assert torch.allclose(iwae[0][: iwae[2]], other[0][: iwae[2]], rtol=1e-9)


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_at_the_exact_posterior_the_guides_gradient_is_zero_in_every_draw(estimator):
    """All weights are the evidence: the path derivative is zero, and the score of ``iwae`` only on average."""
    x = linear_data(n=20)
    solution = Solution.of(x, 2)
    pair = linear_pair(solution, solution.encoder())
    encoder = list(pair.guide.parameters())
    for name, limit in ((estimator, 1e-10), ("iwae", math.inf)):
        pair.objective = ImportanceWeighted(3, 0.0, name)
        size = max(g.abs().max().item() for g in torch.autograd.grad(loss_of(pair, x).total, encoder))
        assert size < limit
    assert size > 1e-4
    assert loss_of(pair, x).bound.item() == pytest.approx(solution.evidence(x).mean().item(), rel=1e-10)


def test_dreg_has_less_noise_for_the_guide_at_many_particles(pair, x):
    spread = {}
    for estimator in ("iwae", "dreg"):
        pair.objective = ImportanceWeighted(64, 0.0, estimator)
        found = torch.stack([gradient(pair, x, seed) for seed in range(60)])
        count = sum(p.numel() for p in pair.model.parameters())
        spread[estimator] = (found[:, count:].std(0) / found[:, count:].mean(0).abs()).median().item()
    assert spread["dreg"] < 0.8 * spread["iwae"], spread


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("engine", ["graph", "inductor"])
def test_compiled(pair, x, estimator, engine):
    pair = pair.float()
    pair.objective = ImportanceWeighted(5, 0.0, estimator)
    history = pv.fit(pair, x.float(), steps=2, engine=engine, progress=False)
    assert history.engine.kind == engine, pv.describe(history.engine)


def test_no_gradient_is_needed_for_a_value(pair, x):
    for estimator in ESTIMATORS:
        pair.objective = ImportanceWeighted(3, 0.0, estimator)
        with torch.no_grad():
            assert torch.isfinite(loss_of(pair, x).bound)


def test_exact_sites_are_integrated_out():
    """The t-VAE's weights add up to Student's t for every draw of w, so only z is sampled."""
    torch.manual_seed(0)
    pair, x = pv.t_vae(4, 2, (3,)), torch.rand(5, 4)
    pair.objective = ImportanceWeighted(1, exact=["w"])
    ours = loss_of(pair, x).total.item()
    pair.objective = pv.ELBO(sampled=["z"], exact=["w"])
    assert ours == pytest.approx(loss_of(pair, x).total.item(), rel=1e-5)


class Shared(PyroModule):
    def __init__(self, guide):
        super().__init__()
        self.is_guide, self.net = guide, nn.Linear(4, 2) if guide else nn.Linear(2, 4)

    def forward(self, x=None, y=None, *, size=None):
        u = pyro.sample("u", dist.Normal(0.1 if self.is_guide else 0.0, 1.0))
        with data_plate(x, size):
            if self.is_guide:
                return pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z) + u[..., None], 1.0).to_event(1), obs=x)


def test_a_site_outside_of_the_plate_is_refused():
    """Pyro would give a number, which is a bound on nothing (it moved from -46 to -58 where the evidence is -44)."""
    objective = ImportanceWeighted(3)
    with pytest.raises(pv.InputError, match="'u' of the model is outside of the data plate"):
        objective(Shared(False), Shared(True), torch.rand(5, 4))


class Halved(PyroModule):
    def __init__(self, program, site):
        super().__init__()
        self.program, self.site = program, site

    def forward(self, x=None, y=None, *, size=None):
        with pyro.poutine.block(hide=[]), pyro.poutine.scale(scale=0.5):
            return self.program(x, y, size=size)


def test_sites_of_other_scales_are_refused_and_common_scales_stay_outside(pair, x):
    objective = ImportanceWeighted(3)
    torch.manual_seed(1)
    plain = objective(pair.model, pair.guide, x).total
    torch.manual_seed(1)
    both = objective(Halved(pair.model, "z"), Halved(pair.guide, "z"), x).total
    assert both.item() == pytest.approx(0.5 * plain.item(), rel=1e-12)
    with pytest.raises(pv.InputError, match="scaled differently"):
        objective(pair.model, Halved(pair.guide, "z"), x)


def test_a_discrete_site_is_refused():
    pair = pv.rvae(4, 2, (3,))
    pair.objective = ImportanceWeighted(3)
    with pytest.raises(pv.InputError, match="'w' cannot be reparameterised"):
        pair(torch.rand(3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"particles": 0}, "particles is 0"),
        ({"particles": True}, "particles is True"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": "0"}, "alpha is '0'"),
        ({"estimator": "iwe"}, "did you mean 'iwae'"),
        ({"estimator": "dreg", "alpha": 0.5}, "alpha is 0.5"),
        ({"exact": "w"}, "list of sites"),
        ({"exact": ["w"], "estimator": "stl"}, "no exact sites"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(pv.InputError, match=message):
        ImportanceWeighted(**arguments)


def test_its_repr_can_be_read_back():
    for one in (ImportanceWeighted(), ImportanceWeighted(7, 0.5), ImportanceWeighted(2, estimator="dreg")):
        assert repr(eval(repr(one))) == repr(one)
