"""The engines: a graph is the program, compiled or not; and what cannot become one runs all the same."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from small import sizes
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference.compile import Engine, choose, describe
from pyro_vaes.inference.schedules import find
from pyro_vaes.inference.shapes import EngineWarning
from pyro_vaes.inference.tracing import Untraceable, tensors, trace
from pyro_vaes.plates import data_plate

D, K, N = 8, 3, 50
COMPILED = ["l2_vae", "ic_vae", "t_vae", "ric_vae"]
ENGINES = [
    *[("graph", name) for name in pv.VARIANTS],
    *[pytest.param("inductor", name, marks=() if name in COMPILED else pytest.mark.slow) for name in pv.VARIANTS],
]


def make(name="l2_vae", **arguments):
    torch.manual_seed(3)
    return pv.variant(name)(**sizes(name, D, K, (6, 5)), **arguments).train()


def batch(rows=10, dtype=torch.float64):
    return (torch.rand(rows, D, generator=torch.Generator().manual_seed(2)) > 0.5).to(dtype)


def steps(kind, pair, x, count=3, prepare=None, seed=1):
    """Take steps; give statistics, first gradients, buffers and the engine."""
    pyro.enable_validation(False)
    if pair.condition_dim:
        y = torch.eye(pair.condition_dim, dtype=x.dtype)[torch.arange(len(x)) % pair.condition_dim]
        x, prepare = torch.cat([x, y], 1), lambda rows: (rows[:, :D], rows[:, D:])
    engine = Engine(kind, pair, size=N, prepare=prepare)
    torch.manual_seed(seed)
    stats = [engine.step(x)]
    gradients = [10 * m.clone() for m in engine.optimiser.mean]  # after one step the mean is a tenth of the gradient
    stats += [engine.step(x) for _ in range(count - 1)]
    return torch.stack(stats), gradients, [b.clone() for b in pair.buffers()], engine


def assert_same(pair, kind, x, rtol=1e-5, **options):
    """The engine's steps are those of the program, to 1e-5 in double precision, without stepping down."""
    expected = steps("eager", copy.deepcopy(pair), x, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        found = steps(kind, pair, x, **options)
    torch.testing.assert_close(found[0], expected[0], rtol=rtol, atol=1e-12)
    largest = max(g.abs().max() for g in expected[1])
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * 1e-3 * largest.item())
    for one, other in zip(found[2], expected[2], strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-12)
    assert found[3].kind == kind and not found[3].fell
    return found[3]


@pytest.mark.parametrize(("kind", "name"), ENGINES)
def test_every_variant_is_its_program(kind, name):
    if (kind, name) == ("inductor", "rvae"):
        # In double precision torch's compiler draws other Bernoulli numbers than torch: the engine steps down there.
        engine = assert_same(make(name), kind, batch(dtype=torch.float32), rtol=1e-4)
    else:
        engine = assert_same(make(name).double(), kind, batch())
    assert engine.names[:2] == ("loss", "bound")
    assert engine.shapes[0].operations > 50


@pytest.mark.parametrize("name", pv.VARIANTS)
def test_in_single_precision_a_graph_is_bitwise_its_program(name):
    x = batch(dtype=torch.float32)
    expected = steps("eager", make(name), x)
    found = steps("graph", make(name), x)
    assert torch.equal(found[0], expected[0])
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_modules_hold_their_own_tensors_after_a_trace():
    """Model and guide of the ic_vae share a decoder: nothing of the trace may be left in it."""
    pair = make("ic_vae")
    before = dict(pair.named_parameters(remove_duplicate=False))
    trace(pair, batch(dtype=torch.float32), N)
    for name, p in pair.named_parameters(remove_duplicate=False):
        assert p is before[name], name
        assert type(p) is nn.Parameter
    assert torch.isfinite(pair(batch(dtype=torch.float32)).total)


@pytest.mark.parametrize("kind", ["graph", "inductor"])
def test_a_changed_setting_changes_the_step_as_in_the_program(kind):
    results = {}
    for engine_kind in ("eager", kind):
        pair = make("l2_vae").double()
        engine = Engine(engine_kind, pair, size=N)
        torch.manual_seed(1)
        values = [engine.step(batch())]
        find(pair, "beta")[0].fill_(0.25)
        values.append(engine.step(batch()))
        find(pair, "scale.value")[0].fill_(0.5)
        values.append(engine.step(batch()))
        results[engine_kind] = torch.stack(values)
    torch.testing.assert_close(results[kind], results["eager"], rtol=1e-9, atol=0)
    kl, loss = results[kind][:, 2], results[kind][:, 0]
    assert kl[1] < 0.5 * kl[0]
    assert (loss[2] - loss[1]).abs() > 0.5


class Chatty(nn.Module):
    """A program that a graph would freeze, or that no graph can hold."""

    def __init__(self, net, how):
        super().__init__()
        self.net, self.how, self.calls = net, how, 0

    def forward(self, z):
        out = self.net(z)
        if self.how == "counts":
            self.calls += 1
            return out * (1 + 0.01 * self.calls)
        if self.how == "looks" and out.mean() > 1e6:
            return out * 2
        if self.how == "random":
            import random

            return out * (1 + 0.1 * random.random())
        return out


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("counts", "decoder.calls changes"),
        ("looks", r"looks at a value .*test_compile.py:\d+"),
        ("random", "draws from Python's or NumPy's generator"),
    ],
)
@pytest.mark.parametrize("kind", ["graph", "inductor"])
def test_what_cannot_become_a_graph_trains_and_says_why_once(kind, how, message, data):
    pair = make("l2_vae")
    pair.model.decoder = Chatty(pair.model.decoder, how)
    before = [p.clone() for p in pair.parameters()]
    with pytest.warns(EngineWarning, match=message) as caught:
        history = pv.fit(pair, data, steps=7, batch_size=7, engine=kind, progress=False)
    assert len([w for w in caught if issubclass(w.category, EngineWarning)]) == 1
    assert history.engine.kind == "eager" and history.step == 7
    assert "asked for" in describe(history.engine)
    assert all(not torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))


def test_a_float_setting_of_a_schedule_that_the_program_bakes_in_is_found(data):
    """A program that takes its setting out of the tensor once, at the start, would not follow the schedule."""

    class Stale(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.tensor(1.0))
            self.inner = pv.ELBO()

        def forward(self, *args, **kwargs):
            loss = self.inner(*args, **kwargs)
            return loss._replace(total=loss.total * float(self.weight))

    pair = make("l2_vae")
    pair.objective = Stale()
    with pytest.warns(EngineWarning, match="looks at a value"):
        history = pv.fit(pair, data, steps=4, engine="graph", schedules={"weight": (1, 2, 3)}, progress=False)
    assert history.engine.kind == "eager"


class OwnModel(PyroModule):
    """A model with what the variants lack: masks, a scale, a parameter with a constraint, a likelihood to choose."""

    def __init__(self, feature):
        super().__init__()
        self.decoder, self.feature = nn.Linear(K, D), feature
        self.sigma = PyroParam(torch.tensor(0.5), constraint=dist.constraints.positive)
        self.register_buffer("zero", torch.zeros(K))
        self.register_buffer("seen", torch.rand(D, generator=torch.Generator().manual_seed(0)) > 0.3)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            if self.feature in ("gamma", "beta"):
                prior = dist.Gamma(self.zero + 2, self.zero + 1)
            elif self.feature == "reinforce":
                prior = dist.Bernoulli(self.zero + 0.4)
            else:
                prior = dist.Normal(self.zero, self.zero + 1)
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", prior.to_event(1))
            mu = self.decoder(z)
            if self.feature == "mask":
                return pyro.sample("x", dist.Normal(mu, self.sigma).mask(self.seen).to_event(1), obs=x)
            return pyro.sample("x", dist.Normal(mu, self.sigma).to_event(1), obs=x)


class OwnGuide(PyroModule):
    def __init__(self, feature):
        super().__init__()
        self.feature, self.encoder = feature, nn.Linear(D, 2 * K)
        if feature == "flow":
            self.flow = dist.transforms.planar(K)
            self.iaf = dist.transforms.affine_autoregressive(K, hidden_dims=[5])

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size), poutine.scale(scale=0.5):
            loc, raw = self.encoder(x).chunk(2, -1)
            scale = nn.functional.softplus(raw) + 0.1
            if self.feature == "gamma":
                q = dist.Gamma(nn.functional.softplus(loc) + 0.5, scale)
            elif self.feature == "reinforce":
                q = dist.Bernoulli(logits=loc)
            elif self.feature == "delta":
                return pyro.sample("z", dist.Delta(loc, event_dim=1))
            elif self.feature == "flow":
                base = dist.Normal(loc, scale).to_event(1)
                return pyro.sample("z", dist.TransformedDistribution(base, [self.flow, self.iaf]))
            else:
                q = dist.Normal(loc, scale)
            return pyro.sample("z", q.to_event(1))


def own(feature, objective=None):
    torch.manual_seed(3)
    return pv.Pair(OwnModel(feature), OwnGuide(feature), objective, name=feature).double().train()


@pytest.mark.parametrize("kind", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("feature", ["mask", "gamma", "delta", "flow", "normal"])
def test_features_of_ones_own_programs(feature, kind):
    assert_same(own(feature), kind, batch())


@pytest.mark.parametrize("kind", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("estimator", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, "renyi", "reinforce"])
def test_pyros_estimators(estimator, kind):
    if estimator == "renyi":
        made = RenyiELBO(alpha=0.0, num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        assert_same(own("normal", pv.Stock(made)), kind, batch())
    elif estimator == "reinforce":
        # In double precision the compiler draws other Bernoulli numbers, and the engine steps down.
        pair = own("reinforce", pv.Stock(Trace_ELBO()))
        if kind == "inductor":
            assert_same(pair.float(), kind, batch(dtype=torch.float32), rtol=1e-3)
        else:
            assert_same(pair, kind, batch())
    else:
        assert_same(own("normal", pv.Stock(estimator())), kind, batch())


def test_enumeration_steps_down(data):
    pair = make("l2_vae")
    pair.objective = pv.Stock(TraceEnum_ELBO(max_plate_nesting=1))
    with pytest.warns(EngineWarning, match="runs as eager"):
        assert pv.fit(pair, data, steps=2, engine="graph", progress=False).step == 2


@pytest.mark.parametrize("kind", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layers", ["batch norm", "dropout", "both"])
def test_dropout_and_batch_norm(layers, kind):
    """Together they gave NaN under the compiler's own random numbers."""
    pair = make("l2_vae")
    extra = {
        "batch norm": [nn.BatchNorm1d(16), nn.ReLU()],
        "dropout": [nn.ReLU(), nn.Dropout(0.3)],
        "both": [nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)],
    }[layers]
    torch.manual_seed(3)
    pair.guide.encoder.trunk = nn.Sequential(nn.Linear(D, 16), *extra, nn.Linear(16, 5))
    pair = pair.double().train()
    # The bias in front of a batch norm has no gradient but rounding, which Adam turns into steps: so one step only.
    engine = assert_same(pair, kind, batch(24), count=1)
    assert all(torch.isfinite(g).all() for g in engine.optimiser.mean)
    evaluated = Engine(kind, pair.eval(), size=N)
    evaluated.step(batch(24))
    assert evaluated.shapes[0].operations < engine.shapes[0].operations


@pytest.mark.parametrize("kind", ["eager", "graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_noise_is_fresh_and_the_seed_reproduces(kind):
    pair = make("l2_vae")
    engine = Engine(kind, pair, size=N, lr=1e-30)
    x = batch(dtype=torch.float32)
    engine.step(x)
    torch.manual_seed(7)
    first = torch.stack([engine.step(x)[0] for _ in range(200)])
    torch.manual_seed(7)
    again = torch.stack([engine.step(x)[0] for _ in range(200)])
    assert torch.equal(first, again)
    assert len(set(first.tolist())) > 190
    with torch.no_grad():
        program = torch.stack([pair(x, size=N).total for _ in range(400)])
    error = program.std() * (1 / 200 + 1 / 400) ** 0.5
    assert (first.mean() - program.mean()).abs() < 4 * error
    assert 0.8 < first.std() / program.std() < 1.25
    a, b = first[1:] - first.mean(), first[:-1] - first.mean()
    assert (a * b).mean().abs() < 0.3 * first.var()


@pytest.mark.parametrize("kind", ["graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_ragged_last_batch_has_a_graph_of_its_own(kind, data):
    one, other = make("ic_vae"), make("ic_vae")
    history = pv.fit(one, data, steps=9, batch_size=7, engine=kind, progress=False)
    pv.fit(other, data, steps=9, batch_size=7, engine="eager", progress=False)
    assert [shape.kind for shape in history.engine.shapes] == [kind, "graph"]
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store:UserWarning")
def test_frozen_parameters_stay_and_unused_ones_too(data):
    for kind in ("eager", "graph"):
        pair = make("l2_vae")
        pair.model.decoder[0].weight.requires_grad_(False)
        pair.register_parameter("unused", nn.Parameter(torch.ones(2)))
        before = pair.model.decoder[0].weight.clone()
        pv.fit(pair, data, steps=4, engine=kind, progress=False)
        assert torch.equal(before, pair.model.decoder[0].weight)
        assert torch.equal(pair.unused, torch.ones(2))


def test_a_trace_changes_nothing():
    """Neither parameters, buffers, randomness, gradients nor Pyro's store."""
    pair = make("t_vae")
    pyro.param("mine", torch.ones(1))
    before = {name: t.clone() for group in tensors(pair) for name, t in group.items()}
    state = torch.get_rng_state()
    Engine("graph", pair, size=N)._gradients(batch(dtype=torch.float32))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for group in tensors(pair) for name, t in group.items())
    assert all(p.grad is None for p in pair.parameters())
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_verification_can_fail():
    """A graph of another program is refused, in whatever it differs."""
    from pyro_vaes.inference.verify import agreement

    x = batch()
    pair = make("l2_vae").double()
    engine = Engine("graph", pair, size=N)
    right = engine._runner(trace(pair, x, N).graph)
    assert agreement(engine, right, x).gradient < 1e-12

    def spoiled(how):
        def run(x):
            gradients, stats = right(x)
            if how == "gradient":
                gradients[0] = gradients[0] * 1.001
            elif how == "loss":
                stats = stats + 1e-3
            elif how == "nan":
                gradients[1] = gradients[1] / 0
            elif how == "random":
                torch.rand(1)
            elif how == "missing":
                gradients[2] = None
            elif how == "buffer":
                engine.fixed[0].add_(1.0)
            return gradients, stats

        return run

    for how in ("gradient", "loss", "nan", "random", "missing", "buffer"):
        with pytest.raises(Untraceable):
            agreement(engine, spoiled(how), x)


@pytest.mark.parametrize(
    ("steps", "compiler", "expected"),
    [(100, True, "eager"), (3000, True, "graph"), (10**6, True, "inductor"), (10**6, False, "graph")],
)
def test_auto_chooses_by_steps_and_compiler(steps, compiler, expected, monkeypatch):
    monkeypatch.setattr("pyro_vaes.inference.compile.compiler", lambda device: compiler)
    kind, reason = choose("auto", steps, torch.device("cpu"))
    assert kind == expected
    assert "\n" not in reason and reason
    assert choose("graph", steps, torch.device("cpu"))[0] == "graph"


def test_a_missing_compiler_steps_down_to_the_graph(data, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr("torch._inductor.compile", broken)
    with pytest.warns(EngineWarning, match="runs as graph: .*no C"):
        history = pv.fit(make(), data, steps=3, engine="inductor", progress=False)
    assert history.engine.kind == "graph"


def test_unknown_engines_are_refused(data, tmp_path):
    with pytest.raises(pv.InputError, match="unknown engine 'grpah': did you mean 'graph'"):
        pv.fit(make(), data, steps=1, engine="grpah", out=tmp_path / "r", progress=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_cost_is_linear_in_the_passes():
    """N passes are N times the operations of one, up to what they share."""
    counts = []
    for passes in (1, 2, 4):
        engine = Engine("graph", make("ric_vae", passes=passes), size=N)
        engine.step(batch(dtype=torch.float32))
        counts.append(engine.shapes[0].operations)
    first, second = counts[1] - counts[0], (counts[2] - counts[1]) / 2
    assert 0.8 < second / first < 1.2
    assert counts[2] < 4.2 * counts[0]


@pytest.mark.parametrize("kind", ["eager", "graph", pytest.param("inductor", marks=pytest.mark.slow)])
def test_gradients_that_are_views_are_read_right(kind):
    """The gradient of a sum is one number, expanded; that of a transposed product is transposed. Adam's kernel
    walks through memory."""

    class Views(pv.ELBO):
        def __init__(self):
            super().__init__()
            self.summed = nn.Parameter(torch.ones(3, 4))
            self.turned = nn.Parameter(torch.ones(5, D))

        def forward(self, model, guide, x, y=None, *, size=None):
            loss = super().forward(model, guide, x, y, size=size)
            extra = self.summed.sum() + (self.turned.t().contiguous().view(-1) * torch.arange(5.0 * D)).sum()
            return loss._replace(total=loss.total + extra)

    pair = make("l2_vae")
    pair.objective = Views()
    engine = Engine(kind, pair, size=N)
    engine.step(batch(dtype=torch.float32))
    moments = dict(zip(engine.names_learned, engine.optimiser.mean, strict=True))
    torch.testing.assert_close(moments["objective.summed"], torch.full((3, 4), 0.1))
    torch.testing.assert_close(moments["objective.turned"], 0.1 * torch.arange(5.0 * D).view(D, 5).t())
    assert not engine.fell


@pytest.mark.parametrize("kind", ["eager", "graph"])
def test_in_double_precision_the_step_is_adams_to_the_last_digits(kind):
    """torch.optim.Adam on the program's own gradients, with a rate that single precision would round."""
    pair, other = make().double(), make().double()
    engine = Engine(kind, pair, size=N, lr=0.01)
    adam = torch.optim.Adam(other.parameters(), lr=0.01)
    for step in range(5):
        torch.manual_seed(step)
        engine.step(batch())
        torch.manual_seed(step)
        adam.zero_grad()
        other(batch(), size=N).total.backward()
        adam.step()
    for a, b in zip(pair.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
