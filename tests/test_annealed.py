"""Annealed importance sampling and its Hamiltonian steps: against closed forms, from both sides."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from test_closed_forms import Solution, linear_data
from test_exact_sites import mixture_pair, t_pair
from test_likelihood import imperfect_pair as _imperfect_pair
from test_likelihood import mixture_joint, quadrature, t_joint
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference.annealed import Path, adapted, annealed_weights, backward, forward
from pyro_vaes.inference.densities import examine, quietly, seed_at
from pyro_vaes.inference.hamiltonian import gradient, leapfrog, state_at, transition
from pyro_vaes.inference.likelihood import importance_weights
from pyro_vaes.pair import Pair
from pyro_vaes.plates import data_plate

F64 = torch.float64
SHORT = {"temperatures": 30, "leapfrog": 3}
NOISE = 1.5  # a posterior of a third of the prior's width: a short path is enough


def imperfect_pair(**options):
    return _imperfect_pair(noise=NOISE, **options)


def path_of(pair, x, start="prior") -> Path:
    return Path(pair, examine(pair, x), x, None, start)


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_the_evidence_of_a_linear_model(start, schedule):
    pair, s, x = imperfect_pair()
    found = pv.log_likelihood(
        pair, x, method="ais", samples=50, annealing=pv.Annealing(**SHORT, start=start, schedule=schedule)
    )
    z = (found.value - s.evidence(x)) / found.se
    assert z.square().mean().sqrt() < 1.6
    assert abs(found.mean - s.evidence(x).mean().item()) < 4 * found.mean_se
    # As many draws without the path leave a larger error.
    plain = pv.log_likelihood(pair, x, method="ais", samples=50, annealing=pv.Annealing(1, start=start))
    assert plain.se.mean() > 2 * found.se.mean()


def test_more_temperatures_leave_less_error():
    pair, s, x = imperfect_pair()
    errors = []
    for temperatures in (3, 12, 48):
        settings = pv.Annealing(temperatures, leapfrog=3)
        found = pv.log_likelihood(pair, x, method="ais", samples=8, annealing=settings)
        errors.append((found.value - s.evidence(x)).square().mean().sqrt().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("settings", [{"temperatures": 1}, {"temperatures": 9, "transitions": 0}])
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_without_transitions_it_is_importance_sampling_from_the_start(start, settings):
    pair, _, x = imperfect_pair()
    code = examine(pair, x)
    with quietly(pair):
        log_w = annealed_weights(pair, code, x, None, pv.Annealing(start=start, **settings), 20, 20, (7,))
        seed_at(7, 0, 1)
        if start == "guide":
            torch.testing.assert_close(log_w, _same_stream(pair, x), rtol=1e-10, atol=1e-10)
        else:
            z = torch.randn(20, 40, 2, dtype=F64)
            by_hand = dist.Normal(pair.model.decoder(z), pair.model.scale(z)).log_prob(x).sum(-1)
            torch.testing.assert_close(log_w, by_hand, rtol=1e-10, atol=1e-10)


def _same_stream(pair, x):
    """Importance weights as likelihood.py computes them, of the draws that the annealed ones begin with."""
    import pyro_vaes.inference.likelihood as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "seed_at", lambda *where: seed_at(7, 0, 1))
        return importance_weights(pair, x, None, 20, 20, (7,))


def test_leapfrog_runs_backwards_and_keeps_the_energy():
    pair, _, x = imperfect_pair()
    with quietly(pair):
        path = path_of(pair, x)
        z, p = torch.randn(3, 40, 2, dtype=F64), torch.randn(3, 40, 2, dtype=F64)
        step, b = torch.linspace(0.01, 0.05, 40, dtype=F64), torch.tensor(0.7, dtype=F64)
        there, q = leapfrog(path, b, z, p, step, 7)
        back, r = leapfrog(path, b, there.z, -q, step, 7)
        torch.testing.assert_close(back.z, z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(-r, p, rtol=1e-9, atol=1e-9)
        # The error of the energy falls with the square of the step.
        errors = []
        for shrink, steps in ((1, 4), (2, 8), (4, 16)):
            there, q = leapfrog(path, b, z, p, step / shrink, steps)
            before, after = state_at(path, z), there
            energy = [(1 - b) * s.start + b * s.end for s in (before, after)]
            change = energy[1] - 0.5 * q.square().sum(-1) - energy[0] + 0.5 * p.square().sum(-1)
            errors.append(change.abs().max())
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > 0


def test_the_gradient_is_that_of_the_density():
    pair, _, x = imperfect_pair()
    with quietly(pair):
        path, b = path_of(pair, x, "guide"), torch.tensor(0.3, dtype=F64)
        z = torch.randn(1, 40, 2, dtype=F64)
        found, _ = gradient(path, z, b)
        e = torch.zeros(2, dtype=F64)
        e[1] = 1e-5
        ends = [state_at(path, z + sign * e) for sign in (1, -1)]
        up, down = ((1 - b) * s.start + b * s.end for s in ends)
    torch.testing.assert_close(found[..., 1], (up - down) / 2e-5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [0.5, 1.4])
def test_transitions_keep_the_target_where_it_is(size):
    """Chains that begin as draws of N(1, diag(1, 4)) stay so, with a step that rejects often (2 would diverge)."""
    mean, sd = torch.ones(2, dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)
    target = torch.distributions.Normal(mean, sd)

    def ends(z):
        other = torch.distributions.Normal(torch.zeros(2, dtype=F64), 3.0)
        return other.log_prob(z).sum(-1), target.log_prob(z).sum(-1)

    one, step = torch.ones((), dtype=F64), torch.full((4,), size, dtype=F64)
    torch.manual_seed(0)
    now = state_at(ends, mean + sd * torch.randn(5000, 4, 2, dtype=F64))
    accepted = []
    for _ in range(5):
        now, probability = transition(ends, one, now, step, 3)
        accepted.append(probability.mean())
    z = now.z.reshape(-1, 2)
    assert (abs(z.mean(0) - mean) < 4 * sd / math.sqrt(len(z))).all()
    assert (abs(z.var(0) / sd**2 - 1) < 4 * math.sqrt(2 / len(z))).all()
    assert torch.corrcoef(z.T)[0, 1].abs() < 4 / math.sqrt(len(z))
    torch.testing.assert_close(now.end, ends(now.z)[1])
    if size > 1:
        assert torch.stack(accepted).mean() < 0.9  # the rule has something to do


def test_a_rule_that_always_accepts_would_be_noticed():
    """The test above can fail: without rejections the same steps leave another variance behind."""
    sd = torch.tensor([1.0, 2.0], dtype=F64)

    def ends(z):
        value = torch.distributions.Normal(torch.zeros(2, dtype=F64), sd).log_prob(z).sum(-1)
        return value, value

    one, step = torch.ones((), dtype=F64), torch.full((4,), 1.4, dtype=F64)
    z = sd * torch.randn(5000, 4, 2, dtype=F64)
    for _ in range(5):
        z = leapfrog(ends, one, z, torch.randn_like(z), step, 3)[0].z
    assert (z.reshape(-1, 2).var(0)[0] - 1).abs() > 0.2


def test_steps_come_to_the_acceptance_that_is_aimed_at():
    """Data with other scales need other steps, each found by the datum's own chains."""
    pair, _, x = imperfect_pair()
    x = x[:6]
    settings = pv.Annealing(temperatures=80, leapfrog=3)
    with quietly(pair):
        path = path_of(pair, x)
        steps = adapted(path, settings, 50, (0,))
        b = settings.betas()
        assert steps.shape == (81, 6)
        torch.manual_seed(1)
        now, seen = state_at(path, path.draw(200)), []
        for t in range(1, 80):
            now, probability = transition(path, b[t], now, steps[t], settings.leapfrog)
            seen.append(probability.mean(0))
    late = torch.stack(seen[20:]).mean(0)
    assert (late > 0.5).all() and (late < 0.8).all()


def test_the_steps_do_not_depend_on_the_chains_of_the_weights():
    pair, _, x = imperfect_pair()
    settings = pv.Annealing(**SHORT)
    with quietly(pair):
        path = path_of(pair, x)
        steps = adapted(path, settings, 4, (0, 0))
        seed_at(0, 0, 0, 1)
        by_hand = forward(path, path.draw(4), settings, steps)
        log_w = annealed_weights(pair, path.code, x, None, settings, 4, 4, (0, 0))
        assert torch.equal(by_hand, log_w)


def test_backwards_from_exact_draws_the_mean_weight_is_the_inverse_evidence():
    """The posterior of the linear model is known: many chains from it, and none of them from z*."""
    pair, s, x = imperfect_pair()
    settings = pv.Annealing(60, leapfrog=3)
    matrix, cov = s.posterior()
    with quietly(pair):
        path = path_of(pair, x)
        steps = adapted(path, settings, 50, (0, 0))
        z = (x - s.b) @ matrix.T + torch.randn(400, 40, 2, dtype=F64) * cov.diag().sqrt()
        log_w = backward(path, z, settings, steps)
    ratio = (log_w + s.evidence(x)).exp()
    assert ((ratio.mean(0) - 1).abs() / (ratio.std(0) / 20)).square().mean().sqrt() < 1.6
    assert abs(ratio.mean() - 1) < 0.05


def test_schedules_rise_from_zero_to_one():
    for schedule in ("sigmoid", "linear"):
        for t in (1, 2, 7, 1000):
            b = pv.Annealing(t, schedule=schedule).betas()
            assert len(b) == t + 1 and b[0] == 0 and b[-1] == 1
            assert (b.diff() > 0).all()
    assert pv.Annealing(100).betas()[1] < 0.002


def test_chunks_of_chains_and_data():
    pair, s, x = imperfect_pair()
    settings = pv.Annealing(12, leapfrog=2)
    for chunk, batch_size in ((7, 40), (100, 15)):
        options = {"samples": 20, "annealing": settings, "chunk": chunk, "batch_size": batch_size}
        found = pv.log_likelihood(pair, x, method="ais", **options)
        assert torch.equal(found.value, pv.log_likelihood(pair, x, method="ais", **options).value)
        assert abs(found.mean - s.evidence(x).mean().item()) < 4 * found.mean_se


class Deep(PyroModule):
    """z_2 ~ N(0, I_3), z_1 ~ N(W z_2, 1) in R^2, x ~ N(V z_1 + c z_3, 0.5), z_3 ~ N(0, 1) a plain number."""

    def __init__(self):
        super().__init__()
        self.up, self.out = nn.Linear(3, 2).double(), nn.Linear(2, 4).double()

    def forward(self, x=None, y=None, *, size=None):
        zero = torch.zeros(3, dtype=F64)
        with data_plate(x, size):
            z_2 = pyro.sample("z_2", dist.Normal(zero, 1.0).to_event(1))
            z_3 = pyro.sample("z_3", dist.Normal(zero[0], 1.0))
            z_1 = pyro.sample("z_1", dist.Normal(self.up(z_2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.out(z_1) + z_3[..., None], 0.5).to_event(1), obs=x)

    def evidence(self, x):
        w, v = self.up.weight, self.out.weight
        cov = v @ (w @ w.T + torch.eye(2, dtype=F64)) @ v.T + 1.0 + 0.25 * torch.eye(4, dtype=F64)
        return torch.distributions.MultivariateNormal(self.out(self.up.bias), cov).log_prob(x)


class DeepGuide(PyroModule):
    """Each site a rough Gaussian, the upper code seen through the lower one."""

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z_1 = pyro.sample("z_1", dist.Normal(0.3 * x[..., :2], 1.0).to_event(1))
            pyro.sample("z_3", dist.Normal(0.2 * x.mean(-1), 1.0))
            top = torch.cat([z_1, z_1[..., :1]], -1)
            pyro.sample("z_2", dist.Normal(0.1 * top, 1.0).to_event(1))


@torch.no_grad()
@pytest.mark.parametrize("start", ["prior", "guide"])
def test_several_sites_of_several_shapes(start):
    torch.manual_seed(2)
    pair = Pair(Deep(), DeepGuide())
    x = torch.randn(8, 4, dtype=F64)
    settings = pv.Annealing(20, leapfrog=3, start=start)
    found = pv.log_likelihood(pair, x, method="ais", samples=60, annealing=settings)
    z = (found.value - pair.model.evidence(x)) / found.se
    assert z.square().mean().sqrt() < 2
    enclosed = pv.sandwich(pair, 30, annealing=settings, chains=10, samples=0)
    low, high = enclosed.interval
    assert low < pair.model.evidence(enclosed.x).mean() < high
    assert enclosed.importance is None and math.isnan(enclosed.shortfall)


def test_states_pack_and_unpack():
    pair = Pair(Deep(), DeepGuide())
    x = torch.randn(5, 4, dtype=F64)
    path = path_of(pair, x)
    z = torch.randn(3, 5, 6, dtype=F64)
    values = path.values(z)
    assert {n: v.shape[2:] for n, v in values.items()} == {"z_1": (2,), "z_3": (), "z_2": (3,)}
    assert torch.equal(path.state(values), z)


@pytest.mark.slow
def test_the_sandwich_holds_the_evidence():
    """In at least 95 of 100 seeds the interval holds the exact mean evidence of the data it drew."""
    held = sum(_held(seed) for seed in range(100))
    assert held >= 95


def test_the_sandwich_holds_the_evidence_in_nine_of_ten():
    assert sum(_held(seed) for seed in range(10)) >= 9


def _held(seed):
    pair, _, _ = imperfect_pair()
    found = pv.sandwich(pair, 20, annealing=pv.Annealing(temperatures=12, leapfrog=2), chains=4, samples=0, seed=seed)
    low, high = found.interval
    return low < _evidence(found.x) < high


def _evidence(x):
    return Solution.of(linear_data(n=40, noise=NOISE), 2).evidence(x).mean().item()


def test_the_sandwich_is_ordered_and_knows_the_error_of_importance_sampling():
    """A path too short shows its gap; the truth lies between; importance sampling from a bad guide falls short."""
    pair, _, _ = imperfect_pair(width=0.25)
    short, long = (
        pv.sandwich(pair, 200, annealing=pv.Annealing(t, leapfrog=2), chains=4, samples=20, batch_size=200)
        for t in (3, 60)
    )
    assert torch.equal(short.x, long.x)
    assert short.gap.mean() > 10 * long.gap.mean() > 0
    truth = _evidence(short.x)
    assert short.lower.mean() < truth < short.upper.mean()
    low, high = long.interval
    assert low < truth < high
    # What importance sampling misses, known exactly here, is what the sandwich says, up to its own gap.
    missing = truth - long.importance.mean
    assert missing > 5 * long.se
    assert missing <= long.shortfall + 2 * long.se
    assert long.shortfall - missing < long.gap.mean().item() + 2 * long.se


@torch.no_grad()
@pytest.mark.parametrize("name", ["t_vae", "rvae"])
def test_exact_sites_are_integrated_out_of_the_sandwich(name):
    """The mean evidence by quadrature over the code, with w integrated or summed out by hand."""
    pair, log_joint = (t_pair(), t_joint) if name == "t_vae" else (mixture_pair(), mixture_joint)
    found = pv.sandwich(pair, 20, annealing=pv.Annealing(30, leapfrog=2), chains=8, samples=0)
    truth = quadrature(lambda z: log_joint(pair, found.x, z), points=161).mean()
    low, high = found.interval
    assert low < truth < high
    assert high - low < 0.5


def test_a_seed_fixes_the_sandwich_and_leaves_the_callers_randomness_alone():
    pair, _, _ = imperfect_pair()
    before = torch.random.get_rng_state()
    one, two, three = (
        pv.sandwich(pair, 6, annealing=pv.Annealing(4, leapfrog=2), chains=5, chunk=2, samples=9, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one.x, two.x) and torch.equal(one.gap, two.gap)
    assert torch.equal(one.importance.value, two.importance.value)
    assert not torch.equal(one.x, three.x)


class Positive(PyroModule):
    """z is Gamma, or Bernoulli: nothing a gradient moves over the whole line."""

    def __init__(self, family, observed):
        super().__init__()
        self.family, self.observed = family, observed

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.family().expand([1]).to_event(1))
            if self.observed:
                return pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("family", "message"), [(lambda: dist.Gamma(2.0, 1.0), "bounded"), (lambda: dist.Bernoulli(0.25), "discrete")]
)
def test_sites_that_cannot_be_moved_are_refused(family, message):
    pair = Pair(Positive(family, True), Positive(family, False))
    with pytest.raises(pv.InputError, match=f"site 'z' is {message}"):
        pv.log_likelihood(pair, torch.randn(3, 2), method="ais")
    with pytest.raises(pv.InputError, match=f"site 'z' is {message}"):
        pv.sandwich(pair, 3)
    assert pv.log_likelihood(pair, torch.randn(3, 2), samples=50).value.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: pv.Annealing(temperatures=0), "temperatures is 0"), (lambda p: pv.Annealing(leapfrog=0), "leapfrog"),
        (lambda p: pv.Annealing(transitions=-1), "transitions"), (lambda p: pv.Annealing(start="gude"), "'guide'"),
        (lambda p: pv.Annealing(schedule="cosine"), "unknown schedule"), (lambda p: pv.sandwich(p, 1), "size is 1"),
        (lambda p: pv.sandwich(p, 4, chains=0), "chains is 0"),
        (lambda p: pv.sandwich(p, 4, samples=1), "samples is 1"),
        (lambda p: pv.sandwich(p, 4, torch.zeros(3)), "one row for each of the 4 data"),
        (lambda p: pv.sandwich("pair"), "a Pair is needed"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(pv.InputError, match=message):
        call(pv.l2_vae(8, 2, (5,)))
