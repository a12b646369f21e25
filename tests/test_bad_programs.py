"""Models, guides and objectives that are wrong: one line that says so, and everything is as it was."""

import random
import sys
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vaes as pv
from pyro_vaes.plates import data_plate

D, K = 4, 2


def rows() -> torch.Tensor:
    return torch.rand(8, D, generator=torch.Generator().manual_seed(5)).mul(0.8).add(0.1)


class Model(PyroModule):
    """A sound one, with places for a mistake."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(K, D)

    def code(self):
        return pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))

    def datum(self, z, x):
        return pyro.sample("x", dist.Normal(self.decoder(z), 0.3).to_event(1), obs=x)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return self.datum(self.code(), x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(D, K)

    def code(self, x):
        pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            self.code(x)


MODELS: dict[str, type] = {}
GUIDES: dict[str, type] = {}


def model(cls):
    MODELS[cls.__name__] = cls
    return cls


def guide(cls):
    GUIDES[cls.__name__] = cls
    return cls


# --- models -------------------------------------------------------------------------------------------------------


@model
class NoPlate(Model):
    def forward(self, x=None, y=None, *, size=None):
        return self.datum(self.code(), x)


@model
class NoEvent(Model):
    def datum(self, z, x):
        return pyro.sample("x", dist.Normal(self.decoder(z), 0.3), obs=x)


@model
class OtherName(Model):
    def datum(self, z, x):
        return pyro.sample("observation", dist.Normal(self.decoder(z), 0.3).to_event(1), obs=x)


@model
class OtherLatent(Model):
    def code(self):
        return pyro.sample("code", dist.Normal(torch.zeros(K), 1.0).to_event(1))


@model
class TwiceOneName(Model):
    def code(self):
        super().code()
        return super().code()


@model
class Wide(Model):
    def code(self):
        return pyro.sample("z", dist.Normal(torch.zeros(K + 1), 1.0).to_event(1))[..., :K]


@model
class Global(Model):
    def forward(self, x=None, y=None, *, size=None):
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with data_plate(x, size):
            return self.datum(self.code() + g, x)


@model
class NotANumber(Model):
    def datum(self, z, x):
        return super().datum(z * torch.nan, x)


@model
class Infinite(Model):
    def datum(self, z, x):
        return pyro.sample("x", dist.Normal(self.decoder(z), torch.tensor(0.0)).to_event(1), obs=x)


@model
class NotANumberBackwards(Model):
    def datum(self, z, x):
        return super().datum(z + (z - z).abs().sqrt() * 0, x)


@model
class NegativeScale(Model):
    def datum(self, z, x):
        return pyro.sample("x", dist.Normal(self.decoder(z), -0.3).to_event(1), obs=x)


@model
class NotObserved(Model):
    def datum(self, z, x):
        return pyro.sample("x", dist.Normal(self.decoder(z), 0.3).to_event(1))


@model
class OtherWidth(Model):
    def datum(self, z, x):
        return pyro.sample("x", dist.Normal(self.decoder(z)[..., :3], 0.3).to_event(1), obs=x)


@model
class NoArguments(Model):
    def forward(self):
        return None


@model
class Generator(Model):
    def forward(self, x=None, y=None, *, size=None):
        yield super().forward(x, y, size=size)


@model
class Coroutine(Model):
    async def forward(self, x=None, y=None, *, size=None):
        return super().forward(x, y, size=size)


@model
class Param(Model):
    def datum(self, z, x):
        return super().datum(z * pyro.param("scale", torch.ones(())), x)


@model
class Endless(Model):
    def code(self):
        return self.code()


@model
class Assertion(Model):
    def code(self):
        raise AssertionError("first\nsecond")


@model
class Odd(Model):
    def code(self):
        raise type("\n", (Exception,), {})("\x1b[31m\0" + "a" * 10_000)


@model
class NoMessage(Model):
    def code(self):
        raise KeyError


@model
class Stops(Model):
    def code(self):
        raise StopIteration


@model
class Memory(Model):
    def datum(self, z, x):
        return super().datum(z + torch.empty(2**45).sum(), x)


@model
class Warns(Model):
    def code(self):
        warnings.warn("look out", UserWarning, stacklevel=1)
        return super().code()


@model
class ChangesItsBatch(Model):
    def datum(self, z, x):
        if x is not None:
            x.mul_(0)
        return super().datum(z, x)


@model
class DrawsOutside(Model):
    """Its own randomness: no seed makes it the same again."""

    def datum(self, z, x):
        return super().datum(z * random.choice([1.0, 2.0]) * np.random.rand(), x)  # noqa: NPY002


@model
class Seeds(Model):
    def datum(self, z, x):
        torch.manual_seed(1)
        return super().datum(z, x)


@model
class Looks(Model):
    def datum(self, z, x):
        return super().datum(z if z.mean() > 0 else -z, x)


@model
class Detached(Model):
    def datum(self, z, x):
        with torch.no_grad():
            return super().datum(z, x)


@model
class Doubled(Model):
    def datum(self, z, x):
        return super().datum(z.double(), x)


@model
class Grows(Model):
    def datum(self, z, x):
        self.register_parameter(f"p{random.random()}".replace(".", ""), nn.Parameter(torch.zeros(1)))
        return super().datum(z, x)


@model
class ComplexValued(Model):
    def datum(self, z, x):
        return super().datum(z + 0j, x)


@model
class ClearsTheStore(Model):
    def datum(self, z, x):
        pyro.clear_param_store()
        return super().datum(z, x)


CONSTANT = torch.ones(K)


@model
class ConstantOutside(Model):
    def datum(self, z, x):
        return super().datum(z * CONSTANT, x)


# --- guides -------------------------------------------------------------------------------------------------------


@guide
class Extra(Guide):
    def code(self, x):
        super().code(x)
        pyro.sample("v", dist.Normal(torch.zeros(K), 1.0).to_event(1))


@guide
class Lacking(Guide):
    def code(self, x):
        pass


@guide
class Narrow(Guide):
    def code(self, x):
        pyro.sample("z", dist.Normal(self.encoder(x)[..., :1], 0.5).to_event(1))


@guide
class GuideNotANumber(Guide):
    def code(self, x):
        super().code(x * torch.nan)


@guide
class Observes(Guide):
    def code(self, x):
        super().code(x)
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1), obs=x)


@guide
class GuideChangesItsBatch(Guide):
    def code(self, x):
        super().code(x.zero_())


@guide
class Whole(Guide):
    def code(self, x):
        pyro.sample("z", dist.Poisson(self.encoder(x).exp()).to_event(1))


@guide
class Outside(Guide):
    def forward(self, x=None, y=None, *, size=None):
        pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(2))


# --- objectives ---------------------------------------------------------------------------------------------------


def loss(model, guide, x, y=None, *, size=None):
    return pv.ELBO()(model, guide, x, y, size=size)


def changed(**parts):
    def objective(*given, **named):
        found = loss(*given, **named)
        values = {"total": found.total, "terms": found.terms, "bound": found.bound} | {
            name: part(found) for name, part in parts.items()
        }
        return pv.Loss(**values)

    return objective


def raising(error):
    def objective(*given, **named):
        raise error

    return objective


OBJECTIVES = {
    "nothing": lambda *a, **k: None,
    "a number": lambda *a, **k: 3.0,
    "a tensor": lambda *a, **k: loss(*a, **k).total,
    "fewer arguments": lambda model: None,
    "a loss of rows": changed(total=lambda f: f.total.expand(8)),
    "a total that is none": changed(total=lambda f: 3.0),
    "a total without gradient": changed(total=lambda f: f.total.detach()),
    "a whole total": changed(total=lambda f: f.total.long()),
    "a complex total": changed(total=lambda f: f.total + 0j),
    "terms that are none": changed(terms=lambda f: 3),
    "terms of rows": changed(terms=lambda f: {n: t.expand(8) for n, t in f.terms.items()}),
    "terms that are numbers": changed(terms=lambda f: dict.fromkeys(f.terms, 1.0)),
    "a bound that is none": changed(bound=lambda f: None),
    "not a number": changed(total=lambda f: f.total * torch.nan),
    "infinite": changed(total=lambda f: f.total + torch.inf),
    "division by zero": raising(ZeroDivisionError("division by zero")),
    "an error of two lines": raising(RuntimeError("one\ntwo")),
    "endless": lambda *a, **k: OBJECTIVES["endless"](*a, **k),
}

# What trains all the same, and how it ends.
HARMLESS = {
    "GuideChangesItsBatch", "Warns", "DrawsOutside", "Seeds", "Looks", "Grows", "Detached",
    "ConstantOutside", "ClearsTheStore",
}  # fmt: skip


def world() -> tuple:
    return torch.get_default_dtype(), torch.is_grad_enabled(), sys.getrecursionlimit(), len(pyro.get_param_store())


@pytest.fixture
def unchanged():
    """The process is afterwards what it was: random states, settings, Pyro's store."""
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    before = world()
    yield
    assert world() == before
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()  # noqa: NPY002


def made(kind: str, name: str) -> pv.Pair:
    """A pair with one mistake in it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, guide = Model(), Guide()
        model = MODELS[name]() if kind == "model" else model
        guide = GUIDES[name]() if kind == "guide" else guide
    return pv.Pair(model, guide, OBJECTIVES[name] if kind == "objective" else None, name="mine")


BAD = [
    *(("model", name) for name in MODELS if name not in HARMLESS),
    *(("guide", name) for name in GUIDES if name not in HARMLESS),
    *(("objective", name) for name in OBJECTIVES),
]


@pytest.mark.parametrize(("kind", "name"), BAD, ids=lambda word: word.replace(" ", "-"))
def test_a_bad_program_is_refused_in_one_line(kind, name, unchanged):
    x, pair, before = rows(), None, {}
    with pytest.raises((pv.InputError, pv.Diverged)) as caught:  # noqa: PT012
        pair = made(kind, name)
        before = {key: value.clone() for key, value in pair.state_dict().items()}
        pv.fit(pair, x, steps=3, batch_size=4, engine="eager", progress=False)
    said = str(caught.value)
    assert said.isprintable() and 15 < len(said) < 1100
    assert torch.equal(x, rows())
    if pair is not None:
        assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())


WORDS = {
    ("model", "OtherName"): "the observation is called 'x'",
    ("model", "Generator"): "Generator.forward is a generator or coroutine: it must be an ordinary method",
    ("model", "Coroutine"): "Coroutine.forward is a generator or coroutine",
    ("model", "Global"): "guide lacks site 'g'",
    ("model", "NotObserved"): "pass obs=x",
    ("model", "NotANumberBackwards"): "its gradient is not, at 'guide.encoder.weight'",
    ("model", "ChangesItsBatch"): "inplace operation",
    ("model", "Endless"): "RecursionError",
    ("guide", "Extra"): r"guide samples \['v'\], which the model lacks",
    ("guide", "Outside"): r"site 'z' has batch shape \(2,\) in the model but \(\) in the guide",
    ("guide", "Whole"): "cannot be reparameterised",
    ("objective", "nothing"): "gives None: it must give a Loss",
    ("objective", "a total that is none"): "gives a total that is 3.0: it must be a tensor that holds one real number",
    ("objective", "a total without gradient"): "a total without a gradient",
    ("objective", "a loss of rows"): r"a total that is torch.float32 of shape \(8,\)",
    ("objective", "terms that are none"): "terms that are 3",
    ("objective", "infinite"): "the loss is inf",
}


@pytest.mark.parametrize(("kind", "name"), WORDS)
def test_the_line_says_what_is_wrong(kind, name):
    with pytest.raises((pv.InputError, pv.Diverged), match=WORDS[kind, name]):
        pv.fit(made(kind, name), rows(), steps=3, batch_size=4, engine="eager", progress=False)


@pytest.mark.parametrize("name", sorted(HARMLESS & MODELS.keys() - {"Grows", "Warns"}))
def test_what_is_odd_and_no_mistake_trains(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.EngineWarning)
        x = rows()
        history = pv.fit(made("model", name), x, steps=3, batch_size=4, engine="graph", progress=False)
    assert history.step == 3 and torch.equal(x, rows())


def test_a_constant_that_no_module_keeps_is_named_in_plain_words():
    with pytest.warns(pv.EngineWarning, match="neither a parameter nor a buffer of its modules.*register_buffer"):
        pv.fit(made("model", "ConstantOutside"), rows(), steps=2, batch_size=4, engine="graph", progress=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_wants_to_stop_is_not_told_that_the_program_is_wrong(error, unchanged):
    pair = made("model", "Detached")
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    pair.objective = raising(error())
    with pytest.raises(error):
        pv.fit(pair, rows(), steps=3, progress=False)
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_program_that_breaks_later_is_told_in_one_line(engine, unchanged):
    pair, calls = made("guide", "GuideChangesItsBatch"), []

    def objective(*given, **named):
        calls.append(1)
        if len(calls) > 3:
            raise ZeroDivisionError("division by zero\nand more")
        return loss(*given, **named)

    pair.objective = objective
    with warnings.catch_warnings(), pytest.raises(pv.InputError, match="mine cannot compute a step on 4 rows: Zero"):  # noqa: PT012
        warnings.simplefilter("ignore", pv.EngineWarning)
        pv.fit(pair, rows(), steps=50, batch_size=4, engine=engine, progress=False)


# --- what is left over at the end of an epoch, and schedules ------------------------------------------------------


def normalised() -> pv.Pair:
    with torch.random.fork_rng():
        pair = pv.l2_vae(D, K, (4,))
        pair.objective = pv.WAE("gan", discriminator=nn.Sequential(nn.Linear(K, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
    return pair


def test_a_last_batch_of_one_row_is_refused_where_something_normalises_over_it(unchanged):
    before = {key: value.clone() for key, value in normalised().state_dict().items() if "running" in key}
    pair = normalised()
    with pytest.raises(pv.InputError, match="a last batch of 1"):
        pv.fit(pair, rows()[:5], steps=3, batch_size=4, progress=False)
    assert all(torch.equal(pair.state_dict()[key], value) for key, value in before.items())


def test_batches_of_two_rows_are_enough():
    assert pv.fit(normalised(), rows()[:6], steps=3, batch_size=4, engine="eager", progress=False).step == 3


@pytest.mark.parametrize(("name", "schedule", "message"), [
    ("beta", (-1, 1, 10), "schedule of beta at step 0 is -1.0: it must be finite and at least 0"),
    ("beta", (1, -1, 10), "schedule of beta at step 10 is -1.0"),
    ("beta", lambda step: 1.0 - step, "schedule of beta at step 2 is -1.0"),
    ("beta", lambda step: "much", "schedule of beta at step 0 is 'much'"),
    ("objective.beta", (0, float("inf"), 10), "end is inf"),
    ("scale", (1, -1, 10), "schedule of scale at step 10"),
    (3, (0, 1, 10), "names a setting 3"),
])  # fmt: skip
def test_a_schedule_stays_in_range(name, schedule, message):
    with torch.random.fork_rng():
        pair = pv.l2_vae(D, K, (4,))
    with pytest.raises(pv.InputError, match=message):
        pv.fit(pair, rows(), steps=20, batch_size=4, engine="eager", progress=False, schedules={name: schedule})
    assert pair.objective.beta.item() == 1.0


def test_a_location_may_be_negative():
    with torch.random.fork_rng():
        pair = pv.l2_vae(D, K, (4,))
    pair.model.register_buffer("shift", torch.tensor(0.5))
    assert pv.fit(pair, rows(), steps=3, progress=False, schedules={"shift": (0.5, -1, 3)}).step == 3


def test_a_schedule_of_beta_does_not_make_the_weights_of_the_blocks_equal():
    with torch.random.fork_rng():
        pair = pv.crvae(D, 2, (2,), shape=(2, 2), blocks=2, units=3, sd=0.1, beta=(1.0, 2.0))
    with pytest.raises(
        pv.InputError, match=r"make equal what differs \(objective.beta.z_1 is 1, objective.beta.z_2 is 2"
    ):
        pv.fit(pair, rows(), steps=3, progress=False, schedules={"beta": (0, 1, 3)})
    parts = {f"beta.z_{i}": (0, i, 3) for i in (1, 2)}
    assert pv.fit(pair, rows(), steps=3, progress=False, schedules=parts).step == 3


# --- supports, and runs that took NaN -----------------------------------------------------------------------------


class Counts(Model):
    """Binomial counts: of one total, or of another total in every datum."""

    def __init__(self, totals):
        super().__init__()
        self.register_buffer("totals", totals)

    def datum(self, z, x):
        total = self.totals if len(self.totals) == 1 else self.totals[: len(z), None].expand(-1, D)
        return pyro.sample("x", dist.Binomial(total, logits=self.decoder(z)).to_event(1), obs=x)


def test_a_support_of_all_data_is_held_and_one_of_single_data_is_not_guessed():
    x = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 9.0, 1.0, 2.0]])
    with torch.random.fork_rng():
        one, each = (pv.Pair(Counts(torch.tensor(t)), Guide(), name="counts") for t in ([5.0], [5.0, 9.0]))
    with pytest.raises(pv.InputError, match="x is 9 at row 1, column 1: it must lie in the support"):
        pv.bound(one, x)
    assert torch.isfinite(torch.tensor(pv.bound(each, x)))


@pytest.mark.parametrize("call", [pv.check, pv.to_datatree, pv.clean, pv.log_likelihood])
def test_a_run_that_took_nan_is_told_what_to_do(call):
    with torch.random.fork_rng():
        pair = pv.l2_vae(D, K, (4,))
    pair.objective = pv.Masked(pv.ELBO(), 0.5)
    x = rows()
    x[1, 2] = torch.nan
    with pytest.raises(pv.InputError, match=r"x is nan at row 1, column 2: .*impute\(pair, x\)"):
        call(pair, x)
