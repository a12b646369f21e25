"""Models, guides and objectives that are wrong: one line that says so, and everything is as it was."""

import random
import sys
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
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
        return super().datum(z * random.choice([1.0, 2.0]) * np.random.rand(), x)


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
class DefaultType(Model):
    def datum(self, z, x):
        torch.set_default_dtype(torch.float64)
        return super().datum(z, x)


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
    "ChangesItsBatch", "GuideChangesItsBatch", "Warns", "DrawsOutside", "Seeds", "Looks", "Grows", "Detached",
    "ConstantOutside", "ClearsTheStore",
}  # fmt: skip


def world() -> tuple:
    return torch.get_default_dtype(), torch.is_grad_enabled(), sys.getrecursionlimit(), len(pyro.get_param_store())
