# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write your own
#
# A new model, a new guide, a new objective: about thirty lines each. You write them as plain Pyro and torch, test each
# against a closed form **before** anything is trained, swap them with the library's own, and then use them from Python
# and from the command line, compiled, and audited, like a built-in variant. Nothing is registered anywhere.
#
# For whom: you have read [01](01-the-vae.ipynb) and have data of a kind that no variant was made for. Here these are
# counts. About a minute and a half on two cores.

# %%
import math
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from IPython import get_ipython
from matplotlib.patches import Ellipse
from pyro.infer import TraceGraph_ELBO
from pyro.nn import PyroModule
from torch import nn

import pyro_vaes as pv
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.inference.objective import Loss, log_prob, sampled_sites, traces
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder, mlp
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.plates import data_plate

SMOKE = bool(os.environ.get("PYRO_VAES_SMOKE"))  # a few steps only: the cells run, figures mean nothing
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
OURS, DARK, GREY, GOLD, TEAL = "#d1495b", "#2e4057", "#9aa5b1", "#edae49", "#00798c"


def steps(n):
    return 20 if SMOKE else n


# %% [markdown]
# ## 1. The data: counts with too many zeros
#
# **Question: what is the likelihood of a count?** The pixels of scikit-learn's digits are counts already: how many of
# the 16 points of a small square were black. We take them as such, 0 to 16.

# %%
data = pv.load("digits")
order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))
counts = (16 * data.x[order]).round()
train, test = counts[:1500], counts[1500:]
pixel = 8 * 4 + 2  # a pixel near the middle
rate = counts[:, pixel].mean()
share = torch.bincount(counts[:, pixel].long(), minlength=17) / len(counts)
poisson = dist.Poisson(rate).log_prob(torch.arange(17.0)).exp()

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained", width_ratios=[1, 2.6])
left.imshow(counts[0].reshape(8, 8), cmap="gray"), left.axis("off"), left.set_title("one datum: 64 counts")
(
    right.bar(range(17), share, color=DARK, label="digits"),
    right.plot(range(17), poisson, "o-", color=OURS, label="Poisson"),
)
right.set_xlabel("count"), right.set_ylabel("share"), right.legend(frameon=False)
right.set_title("One pixel over all digits: far more zeros than a Poisson of its mean has")
plt.show()

# %% [markdown]
# Part of the excess of zeros is the code's business: where a 1 has ink, a 0 has none. The rest is for the likelihood:
# a **zero-inflated** Poisson, which is zero for a reason of its own with probability $\pi_j$, else a Poisson count.
#
# ## 2. A new p
#
# **Question: how does a generative story become a model?** Write the factorisation first, then one `pyro.sample` per
# factor:
#
# $$p(z)\, p(x \mid z) = \mathcal{N}(z; 0, I) \prod_j \Big[\pi_j\, \mathbb{1}[x_j = 0] +
#   (1 - \pi_j)\, \mathrm{Poisson}(x_j; \lambda_j(z))\Big].$$
#
# Three rules: everything lies inside `data_plate(x, size)`; the observation is called `x`; a vector ends in
# `.to_event(1)`. `x=None` means "draw".


# %%
class Counts(PyroModule):
    """p(z) p(x | z) with zero-inflated Poisson entries: x_j is 0 with probability pi_j, else Poisson(lambda_j(z))."""

    def __init__(self, prior, decoder, data_dim, inflation=0.1):
        super().__init__()
        self.prior, self.decoder = prior, decoder
        start = math.log(inflation / (1 - inflation))
        self.zero = nn.Parameter(torch.full((data_dim,), start))  # the logit of pi

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            rate = self.decoder(z) + 1e-4
            likelihood = dist.ZeroInflatedPoisson(rate, gate_logits=self.zero)
            return pyro.sample("x", likelihood.to_event(1), obs=x)


# %% [markdown] tags=["derivation"]
# **Test it before you train it.** A wrong likelihood trains as happily as a right one. So find a case that can be
# solved, and put it through the *same* class. Here the prior and the decoder are arguments, so choose: one entry,
# $z \sim \mathrm{Gamma}(a, b)$ and $\lambda(z) = z$. Without inflation, with $\Gamma$ the gamma function,
#
# $$\int_0^\infty \frac{b^a z^{a-1} e^{-b z}}{\Gamma(a)} \cdot \frac{z^x e^{-z}}{x!}\, dz
#  = \frac{b^a}{\Gamma(a)\, x!} \int_0^\infty z^{a + x - 1} e^{-(b + 1) z} dz
#  = \frac{\Gamma(a + x)}{\Gamma(a)\, x!} \frac{b^a}{(b + 1)^{a + x}} ,$$
#
# the negative binomial $\mathrm{NB}(x)$: the integrand is an unnormalised $\mathrm{Gamma}(a + x, b + 1)$, and that is
# the posterior. The inflation does not contain $z$, so
#
# $$p(x) = \pi\, \mathbb{1}[x = 0] + (1 - \pi)\, \mathrm{NB}(x),$$
#
# and for $x > 0$, where the zero cannot be "for a reason of its own", the posterior stays that Gamma. With it as
# guide, $\log p(x, z) - \log q(z \mid x) = \log p(x)$ for every draw: the bound must be the evidence, to rounding.


# %%
class GammaPrior(nn.Module):
    def forward(self):
        return dist.Gamma(torch.tensor([3.0]).double(), torch.tensor([0.5]).double()).to_event(1)


class GammaGuide(PyroModule):
    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return pyro.sample("z", dist.Gamma(3.0 + x, 0.5 + torch.ones_like(x)).to_event(1))


solved = pv.Pair(Counts(GammaPrior(), nn.Identity(), 1, inflation=0.3).double(), GammaGuide(), pv.ELBO(sampled=["z"]))
some = torch.arange(20.0).double()[:, None]
nb = dist.GammaPoisson(torch.tensor(3.0).double(), torch.tensor(0.5).double()).log_prob(some[:, 0]).exp()
pi = solved.model.zero.sigmoid()
evidence = torch.log(pi * (some[:, 0] == 0) + (1 - pi) * nb)
weights = pv.psis(solved, some[1:], draws=50).raw  # log p(x, z) - log q(z | x), 50 draws of 19 data
assert torch.allclose(weights, evidence[1:].expand(50, -1), atol=5e-3)
assert torch.allclose(solved(some[1:]).bound, evidence[1:].mean(), atol=1e-3)
found = pv.log_likelihood(solved, some, samples=4000)
assert torch.allclose(found.value[1:], evidence[1:], atol=1e-3)
assert abs(found.value[0] - evidence[0]) < 5 * found.se[0] + 0.02
print(f"log p(0): closed form {evidence[0]:.3f}, by weights {found.value[0]:.3f} nats, k-hat {found.khat[0]:.2f}")

# %% [markdown]
# (The model adds $10^{-4}$ to the rate, so that a dark pixel has a finite log; the tolerances allow for it. For
# $x = 0$ the posterior is a mixture of two Gammas, the guide only one of them, and k-hat says so.) The story is what
# it says. Now it needs a guide, and *any* guide of one code of that size will do: take an encoder from the library.

# %%
LATENT, HIDDEN = 6, (64,)


def rates():
    return Decoder(LATENT, HIDDEN, 64, output=nn.Softplus)


torch.manual_seed(0)
inflated = pv.Pair(
    Counts(StandardPrior(LATENT), rates(), 64), AmortisedNormal(GaussianEncoder(64, HIDDEN, LATENT)), name="inflated"
)
print(inflated.describe())
history = pv.fit(inflated, train, steps=steps(2000), lr=2e-3, progress=False)
print(f"bound on training data: {history.rows[-1]['bound']:.1f} nats per datum")

# %% [markdown]
# ## 3. Swap, and be refused
#
# **Question: was the inflation worth it?** A model is one half of a pair, so the comparison is the *same* guide class
# under two models. Let the library's own pieces make the other half of the story, a plain Poisson: the same class with
# $\pi_j$ held at practically zero.

# %%
torch.manual_seed(0)
plain_model = Counts(StandardPrior(LATENT), rates(), 64, inflation=1e-6)
plain_model.zero.requires_grad_(False)
plain = pv.Pair(plain_model, AmortisedNormal(GaussianEncoder(64, HIDDEN, LATENT)), name="plain")
pv.fit(plain, train, steps=steps(2000), lr=2e-3, progress=False)
nll = {}
for pair in (inflated, plain):
    found = pv.log_likelihood(pair, test, samples=200)
    nll[pair.name] = -found.value
    print(f"{pair.name}: -log p(x) {nll[pair.name].mean():.1f} nats per datum, k-hat > 0.7: {found.unreliable:.0%}")

# %% [markdown]
# Both are densities of the same counts, so these numbers could be compared. Could: k-hat is above 0.7 for half of the
# data, so a difference of less than a nat between two such estimates decides nothing. The guide must get better first
# ([02](02-likelihood.ipynb)). A guide that was *trained* for one model can be put under another as well: it fits if
# the sites do, and what it loses there is the gap that [09](09-posterior.ipynb) takes apart.

# %%
borrowed = pv.Pair(plain.model, inflated.guide, name="borrowed")
own, other = pv.bound(plain, test), pv.bound(borrowed, test)
print(f"bound of the plain model with its own guide {own:.1f}, with the other's {other:.1f} nats per held-out datum")

# %% [markdown]
# What does not fit is refused before anything is trained, in a sentence that says where:


# %%
class NoEvent(Counts):
    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Poisson(self.decoder(z) + 1e-4), obs=x)


wide = AmortisedNormal(GaussianEncoder(64, HIDDEN, LATENT + 1))
attempts = {
    "a model with outlier weights under a guide without": lambda: pv.Pair(pv.t_vae(64, LATENT).model, inflated.guide),
    "a code of seven under a model of six": lambda: pv.Pair(inflated.model, wide),
    "a vector without .to_event(1)": lambda: pv.Pair(NoEvent(StandardPrior(LATENT), rates(), 64), inflated.guide),
}
for what, attempt in attempts.items():
    try:
        attempt()
    except pv.InputError as refusal:
        print(f"{what}:\n    {refusal}")
    else:
        raise AssertionError(what)

# %% [markdown]
# ## 4. A new q
#
# **Question: what if the posterior is correlated?** The library's Gaussian guide has a diagonal covariance. A full one
# is $q(z \mid x) = \mathcal{N}(\mu(x), L(x) L(x)^\top)$ with $L$ lower triangular; a positive diagonal makes it unique
# and the covariance positive definite.


# %%
class FullEncoder(nn.Module):
    """x -> mean (..., k) and lower triangular root (..., k, k) of the covariance."""

    def __init__(self, data_dim, hidden, latent_dim):
        super().__init__()
        self.trunk = mlp([data_dim, *hidden])
        self.loc = nn.Linear(hidden[-1], latent_dim)
        self.root = nn.Linear(hidden[-1], latent_dim**2)

    def forward(self, x):
        h = self.trunk(x)
        loc = self.loc(h)
        raw = self.root(h).reshape(*loc.shape, loc.shape[-1])
        diagonal = nn.functional.softplus(raw.diagonal(dim1=-2, dim2=-1)) + 1e-5
        return loc, raw.tril(-1) + diagonal.diag_embed()


class FullNormal(PyroModule):
    """q(z | x) = N(z; mu(x), L(x) L(x)')."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, root = self.encoder(x)
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=root))


# %% [markdown] tags=["derivation"]
# **Its closed form.** Under the linear-Gaussian model $p(x \mid z) = \mathcal{N}(W z, \sigma^2 I)$ the posterior is
# Gaussian with precision $\Lambda = I + W^\top W / \sigma^2$ and mean $\Lambda^{-1} W^\top x / \sigma^2$
# ([09](09-posterior.ipynb) derives it). It lies *in* the new family. So with that mean and $L L^\top = \Lambda^{-1}$
# the bound must be $\log \mathcal{N}(x; 0, W W^\top + \sigma^2 I)$ for every draw. The best *diagonal* guide must lose
# exactly $\frac12 [\sum_j \log \Lambda_{jj} - \log |\Lambda|]$. We test class against class: the new guide at the
# exact answer, the library's at its best.

# %%
w, sigma = torch.tensor([[1.0, 0.6], [0.6, 1.0], [0.0, 0.0]]).double(), 0.5
precision = torch.eye(2).double() + w.T @ w / sigma**2
to_mean = torch.linalg.solve(precision, w.T) / sigma**2
marginal = dist.MultivariateNormal(torch.zeros(3).double(), w @ w.T + sigma**2 * torch.eye(3).double())


class Known(nn.Module):
    """An encoder that knows the mean, and learns one spread for all data: a standard deviation, or a root L."""

    def __init__(self, spread):
        super().__init__()
        self.log_spread = nn.Parameter(spread.log()) if spread.dim() == 1 else None
        self.register_buffer("spread", spread)
        self.register_buffer("to_mean", to_mean)  # constants that a graph must follow are buffers too

    def forward(self, x):
        spread = self.spread if self.log_spread is None else self.log_spread.exp()
        return x @ self.to_mean.T, spread.expand(*x.shape[:-1], *spread.shape)


class Given(nn.Module):
    """z -> W z, with a W that is not learned."""

    def __init__(self, w):
        super().__init__()
        self.register_buffer("w", w)

    def forward(self, z):
        return z @ self.w.T


def linear_model():
    return LatentGaussian(StandardPrior(2), Given(w), FixedScale(sigma)).double()


known = marginal.sample((500,))
exact = pv.Pair(linear_model(), FullNormal(Known(torch.linalg.cholesky(torch.linalg.inv(precision)))))
best = pv.Pair(linear_model(), AmortisedNormal(Known(precision.diag().rsqrt())))
weights = pv.psis(exact, known, draws=20).raw
assert torch.allclose(weights, marginal.log_prob(known).expand(20, -1))
gap = 0.5 * (precision.diag().log().sum() - precision.logdet())
loss = pv.psis(best, known, draws=400).raw.mean(0)  # the bound, datum by datum
assert abs((marginal.log_prob(known) - loss).mean() - gap) < 0.02
print(f"full covariance: bound = log p(x); best diagonal: {gap:.3f} nats below, as derived")

# %%
torch.manual_seed(0)
full = pv.Pair(Counts(StandardPrior(LATENT), rates(), 64), FullNormal(FullEncoder(64, HIDDEN, LATENT)), name="full")
print(full.describe())
pv.fit(full, train, steps=steps(2000), lr=2e-3, progress=False)
for pair in (inflated, full):
    found = pv.log_likelihood(pair, test, samples=200)
    low = pv.bound(pair, test)
    print(f"{pair.name}: bound {low:.1f}, log p(x) {found.mean:.1f}: the guide loses {found.mean - low:.1f} nats")

# %% [markdown]
# An honest negative. The full covariance does not pay here: what the guide loses is nearly the same, so the loss is
# the *network's* and not the family's, and the pair as a whole comes out worse. Torch has no closed form of this KL,
# so that its term is sampled, and there are 36 more numbers to predict per datum; we have not separated the two. A
# correct new guide is not yet a better one.
#
# ## 5. A new objective
#
# **Question: the ELBO is below $\log p(x)$. Is there a bound from above?** An objective is anything that takes (model,
# guide, x) and gives a `Loss`: the scalar to minimise, its terms, and the number to show.


# %%
class PowerBound(nn.Module):
    """U_n = log E_q[w^n] / n per datum: above log p(x) for n > 1. `bound` is the ELBO, below it."""

    def __init__(self, power=2.0, particles=64):
        super().__init__()
        self.particles = particles
        self.register_buffer("power", torch.tensor(float(power)), persistent=False)

    def forward(self, model, guide, x, y=None, *, size=None):
        q, p = traces(model, guide, x, y, size, self.particles)
        log_w = sum(log_prob(site) for _, site in sampled_sites(p))
        log_w = log_w - sum(log_prob(site) for _, site in sampled_sites(q))  # (particles, batch)
        upper = (torch.logsumexp(self.power * log_w, 0) - math.log(self.particles)) / self.power
        total = upper.mean()
        return Loss(total, {"upper": total}, log_w.mean().detach())


# %% [markdown] tags=["derivation"]
# With weights $w = p(x, z) / q(z \mid x)$ and $\mathbb{E}_q w = p(x)$, Jensen's inequality for the convex
# $t \mapsto t^n$, $n > 1$, gives $\mathbb{E}_q w^n \ge (\mathbb{E}_q w)^n = p(x)^n$. Hence
#
# $$\mathrm{U}_n(x) = \frac1n \log \mathbb{E}_q[w^n] \;\ge\; \log p(x) \;\ge\; \mathbb{E}_q \log w = \mathrm{ELBO},$$
#
# the **chi-square upper bound** for $n = 2$ (Dieng et al. 2017). In practice the expectation is a mean over $K$ draws,
# and the logarithm of a mean lies *low* on average. So the estimate is an upper bound only for large $K$, and none at
# all where $\mathbb{E} w^2 = \infty$.
#
# *Closed form.* For a Gaussian posterior of precision $\Lambda$ and a guide with its mean and precision $D$,
#
# $$\frac{\mathbb{E}_q w^2}{p(x)^2} = \int \frac{p(z \mid x)^2}{q(z)} dz
#  = \frac{|\Lambda|}{|D|^{1/2}} \int \frac{e^{-\frac12 z^\top (2 \Lambda - D) z}}{(2\pi)^{k/2}} dz
#  = \frac{|\Lambda|}{|D|^{1/2}\, |2 \Lambda - D|^{1/2}},$$
#
# if $2\Lambda - D$ is positive definite, and infinite if not: the guide may not be narrower than $1/\sqrt2$ of the
# posterior *in any direction*.
#
# *Where it leads.* For $\Lambda = \begin{pmatrix} a & c \\ c & a \end{pmatrix}$ and $D = \delta I$ we have
# $|2\Lambda - D| = (2a - \delta)^2 - 4c^2$. Setting the derivative of $-\log \delta - \tfrac12 \log |2 \Lambda - D|$
# to zero,
#
# $$(2a - \delta)^2 - 4 c^2 = \delta (2a - \delta) \;\Rightarrow\;
#   \delta = \tfrac12 \big(3a - \sqrt{a^2 + 8 c^2}\big) < a \quad (c \ne 0) .$$
#
# The ELBO's best diagonal guide has $\delta = a$. One bound wants a guide *inside* of the posterior, the other one
# *around* it.


# %%
def upper_gap(delta):
    d = delta * torch.eye(2).double()
    return 0.5 * (precision.logdet() - 0.5 * d.logdet() - 0.5 * (2 * precision - d).logdet())


for delta in (1.0, 2.0):
    guide = AmortisedNormal(Known(torch.full((2,), delta**-0.5).double()))
    loss = pv.Pair(linear_model(), guide, PowerBound(particles=20000))(known[:50])
    truth = marginal.log_prob(known[:50]).mean()
    assert abs(loss.total - truth - upper_gap(delta)) < 0.05
    print(f"delta {delta}: U - log p(x): closed form {upper_gap(delta):.3f}, PowerBound {loss.total - truth:.3f}")
    assert loss.bound < truth < loss.total

# %% [markdown]
# The number $n$ is a **buffer**, not a Python float: so a schedule can change it while a compiled step runs, and
# `pv.settings` finds it. Now train the spread of a diagonal guide from the same start under both bounds.

# %%
runs = {}
for name, objective in (("ELBO", pv.ELBO(sampled=["z"], particles=64)), ("upper bound", PowerBound())):
    pair = pv.Pair(linear_model(), AmortisedNormal(Known(torch.tensor([0.9, 1.2]).double())), objective, name=name)
    runs[name] = pair, pv.fit(pair, known, steps=steps(600), lr=2e-2, batch_size=100, progress=False)
print("settings:", sorted(pv.settings(runs["upper bound"][0])))
a, c = precision[0]
optimum = {"ELBO": a**-0.5, "upper bound": (0.5 * (3 * a - (a**2 + 8 * c**2).sqrt())) ** -0.5}
for name, (pair, _) in runs.items():
    sd = pair.guide.encoder.log_spread.exp().detach()
    print(f"{name}: sd {sd.numpy().round(3)}, closed form {float(optimum[name]):.3f}")
    if not SMOKE:
        assert ((sd / optimum[name]).log().abs() < 0.08).all()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=[1.4, 1])
rows = runs["upper bound"][1].rows
truth = marginal.log_prob(known).mean()
at = [row["step"] for row in rows]
left.plot(at, [row["loss"] for row in rows], color=OURS, label="$U_2$: from above")
left.plot(at, [row["bound"] for row in rows], color=TEAL, label="ELBO of the same guide: from below")
left.axhline(truth, color=DARK, linewidth=1.2, linestyle="--", label="log p(x), closed form")
left.set_xlabel("step (noise: each batch has its own mean)"), left.set_ylabel("nats per datum")
left.set_title("Trained with $U_2$: the truth lies between the two bounds"), left.legend(frameon=False, fontsize=10)
angles = torch.linspace(0, 2 * math.pi, 100).double()
circle = torch.stack([angles.cos(), angles.sin()])
right.plot(*(torch.linalg.cholesky(torch.linalg.inv(precision)) @ circle), color=DARK, linewidth=2, label="posterior")
for (name, (pair, _)), colour in zip(runs.items(), (TEAL, OURS), strict=True):
    sd = pair.guide.encoder.log_spread.exp().detach()
    right.add_patch(Ellipse((0, 0), *(2 * sd).tolist(), fill=False, color=colour, linewidth=2, label=name))
right.set_aspect("equal"), right.set_xlim(-0.95, 0.95), right.set_ylim(-0.95, 1.55)
right.legend(frameon=False, loc="upper center", fontsize=10)
right.set_title("Inside, or around (one sd)")
plt.show()

# %% [markdown]
# ## 6. Compiled, with nothing to write for it
#
# **Question: must my own program be slow?** `fit` runs it once on tensors without values, keeps the operations, and
# checks that they *are* the program. Own classes or the library's make no difference.


# %%
def fresh(name="mine"):
    torch.manual_seed(0)
    guide = FullNormal(FullEncoder(64, HIDDEN, LATENT))
    return pv.Pair(Counts(StandardPrior(LATENT), rates(), 64), guide, PowerBound(power=0.5, particles=8), name=name)


graph = pv.fit(fresh(), train, steps=40, engine="graph", log_every=1, progress=False)
eager = pv.fit(fresh(), train, steps=40, engine="eager", log_every=1, progress=False)
print(pv.describe(graph.engine))
losses = [np.array([row["loss"] for row in history.rows]) for history in (graph, eager)]
assert graph.engine.kind == "graph" and np.allclose(*losses, rtol=1e-4)
print(
    f"40 steps as a graph and as the program: losses differ by {np.abs(losses[0] - losses[1]).max():.1g} nats at most"
)

# %% [markdown]
# A program that *looks at values* cannot become a graph. It trains all the same, and says once what stopped it:


# %%
class Nosy(FullNormal):
    def forward(self, x=None, y=None, *, size=None):
        if x.mean() > 100:
            raise ValueError("these are no counts of digits")
        return super().forward(x, y, size=size)


nosy = pv.Pair(Counts(StandardPrior(LATENT), rates(), 64), Nosy(FullEncoder(64, HIDDEN, LATENT)), name="nosy")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always", pv.EngineWarning)
    history = pv.fit(nosy, train, steps=10, engine="graph", progress=False)
assert history.engine.kind == "eager" and len(said) == 1
print("asked for a graph, ran:", history.engine.kind)

# %% [markdown]
# ## 7. The same from the command line
#
# **Question: how does a colleague use it who never opens a notebook?** A file `mine.py` with a function
# `my_pair(data_dim, ...)` that gives a `Pair`. Its further arguments become options of the command.


# %%
def my_pair(data_dim: int, latent_dim: int = 6, width: int = 64) -> pv.Pair:
    """Counts with too many zeros, under a Gaussian guide of full covariance."""
    decoder = Decoder(latent_dim, (width,), data_dim, output=nn.Softplus)
    guide = FullNormal(FullEncoder(data_dim, (width,), latent_dim))
    return pv.Pair(Counts(StandardPrior(latent_dim), decoder, data_dim), guide, name="my_pair")


# %% [markdown]
# In real life you write that file in your editor. Here the cells above, as they are, become it, in a temporary folder.

# %%
head = """import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_vaes as pv
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, mlp
from pyro_vaes.plates import data_plate
"""
wanted = ("class Counts(", "class FullEncoder(", "def my_pair(")
cells = [next(cell for cell in get_ipython().user_ns["In"] if cell.startswith(start)) for start in wanted]
folder = tempfile.TemporaryDirectory()
here = Path(folder.name)
(here / "mine.py").write_text("\n\n".join([head, *cells]))
np.save(here / "counts.npy", train.numpy())


def command(line):
    """Run pyro-vaes in the folder, and give what it prints."""
    words = [sys.executable, "-m", "pyro_vaes", *line.split()]
    done = subprocess.run(words, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return f"$ pyro-vaes {line}\n{done.stdout}".replace(str(here), ".")


print(len((here / "mine.py").read_text().splitlines()), "lines in mine.py")
print(command("describe mine.py:my_pair --latent_dim 3"))

# %%
print(command(f"fit mine.py:my_pair --latent_dim 4 --data counts.npy --steps {steps(1000)} --engine graph --out run"))

# %% [markdown]
# The run folder holds all that it takes to go on, to redo, or to open the pair in Python:

# %%
trained = pv.Run.open(here / "run").pair()
drawn = pv.sample(trained, 10, noise=True)  # x itself, not its mean
assert bool((drawn == drawn.round()).all()) and bool((drawn >= 0).all())  # counts
print(sorted(path.name for path in (here / "run").iterdir()))
figure, axes = plt.subplots(2, 10, figsize=(10, 2.3), layout="constrained")
for ax, image in zip(axes.flat, torch.cat([test[:10], drawn]), strict=True):
    ax.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=16), ax.set_xticks([]), ax.set_yticks([])
axes[0, 0].set_ylabel("data"), axes[1, 0].set_ylabel("drawn")
figure.suptitle("Counts, and counts drawn by the model of mine.py")
plt.show()
folder.cleanup()

# %% [markdown]
# Be honest about the second row. Most draws are dark noise: after 1000 steps the codes of data do not fill the prior,
# and a code drawn from it mostly lands where no digit's does ([06](06-generation.ipynb) is about that). The audit
# finds the same in its own way.
#
# ## 8. Audited
#
# **Question: what of it can be trusted?** The audit knows no variant either. It reads the sites.

# %%
budget = pv.Budget(rows=32, nuts=0 if SMOKE else 2, draws=200, simulations=200, samples=50, warmup=50)
verdict = pv.check(inflated, test, shape=(8, 8), budget=budget)
print(verdict)
assert {finding.test for finding in verdict.findings} >= {"PSIS", "SBC", "posterior predictive"}

# %% [markdown]
# A list of homework. The guide is too narrow and too little trained, weights cannot mend it, and among the statistics
# is one that points at the *model*: the largest count of a digit is 16, always, and replicates go beyond. No Poisson
# knows of a largest count. Exercise 1 does.
#
# %% [markdown] tags=["exercise"]
# ## Exercises
#
# **1. The right likelihood.** Each count *is* a number of black points among 16, so a binomial knows something that no
# Poisson knows: the maximum. Write `Points` with $x_j \sim \mathrm{Binomial}(16, \sigma(l_j(z)))$. First the closed
# form: for a decoder that is constant, $l_j(z) = l$, what is $p(x)$, and what must the ELBO be under the guide
# $q = p(z)$? Then predict whether it beats 'inflated' on held-out data, and test.


# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
class Points(PyroModule):
    def __init__(self, prior, decoder):
        super().__init__()
        self.prior, self.decoder = prior, decoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Binomial(16, logits=self.decoder(z)).to_event(1), obs=x)


class Constant(nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.values = values

    def forward(self, v):
        found = tuple(value * torch.ones(*v.shape[:-1], 1) for value in self.values)
        return found if len(found) > 1 else found[0]


# x does not depend on z: p(x) is the binomial itself, and with q = p(z) the KL is 0 and the bound is log p(x).
one = pv.Pair(Points(StandardPrior(1), Constant(0.3)), AmortisedNormal(Constant(0.0, 1.0)))
value = torch.arange(17.0)[:, None]
by_hand = [math.log(math.comb(16, n)) + n * 0.3 - 16 * math.log1p(math.exp(0.3)) for n in range(17)]
assert torch.allclose(one(value).bound, torch.tensor(by_hand).mean(), atol=1e-4)

torch.manual_seed(0)
decoder = Decoder(LATENT, HIDDEN, 64, output=nn.Identity)
points = pv.Pair(
    Points(StandardPrior(LATENT), decoder), AmortisedNormal(GaussianEncoder(64, HIDDEN, LATENT)), name="points"
)
pv.fit(points, train, steps=steps(2000), lr=2e-3, progress=False)
found = pv.log_likelihood(points, test, samples=200)
print(f"-log p(x): binomial {-found.mean:.1f}, zero-inflated Poisson {nll['inflated'].mean():.1f} nats per datum,",
      f"k-hat > 0.7 for {found.unreliable:.0%}")  # fmt: skip
# The points of a small square are no independent coins: a stroke blackens neighbours together, so that 0 and 16
# are commoner than a binomial allows. Knowing the maximum need not be worth more than knowing about zeros.

# %% [markdown] tags=["exercise"]
# **2. One family from below to above.** Show that $U_n$ grows with $n$ and that $U_n \to$ ELBO for $n \to 0$ and
# $U_1 = \log p(x)$. Which exponent did section 6 use, and is it a bound from above or below? Then let a schedule move
# `power` during training and check that it did.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# (E w^n)^(1/n) is the n-norm of w under q, which grows with n (Jensen, as above); its limit for n -> 0 is exp(E log w).
# n = 0.5 < 1 is a lower bound, between the ELBO and log p(x).
pair = pv.Pair(linear_model(), AmortisedNormal(Known(torch.tensor([0.8, 0.8]).double())), PowerBound(particles=5000))
truth, values = marginal.log_prob(known[:40]).mean(), []
for power in (0.01, 0.5, 1.0, 2.0):
    pair.objective = PowerBound(power, particles=5000)
    torch.manual_seed(0)
    loss = pair(known[:40])
    values.append(float(loss.total.detach()))
assert values == sorted(values) and abs(values[0] - float(loss.bound)) < 0.1 and abs(values[2] - float(truth)) < 0.05
print("U_n for n = 0.01, 0.5, 1, 2, minus log p(x):", (np.array(values) - float(truth)).round(3))
seen = []
pair.objective = PowerBound(particles=16)
schedule = {"power": lambda step: seen.append(step) or 1.0 + step / 10}
pv.fit(pair, known, steps=10, schedules=schedule, progress=False)
assert set(range(10)) <= set(seen)

# %% [markdown] tags=["exercise"]
# **3. A guide of two Gaussians.** Write a guide whose $z$ is a mixture of two diagonal Gaussians
# (`dist.MixtureSameFamily`). Predict what the default objective says to it, and why. Then train it with one of Pyro's
# own estimators. Why is its gradient noisier?


# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
class TwoGaussians(PyroModule):
    def __init__(self, data_dim, hidden, latent_dim):
        super().__init__()
        self.encoder, self.shape = GaussianEncoder(data_dim, hidden, 2 * latent_dim), (2, latent_dim)
        self.share = nn.Parameter(torch.zeros(2))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc, scale = (part.reshape(*part.shape[:-1], *self.shape) for part in self.encoder(x))
            which = dist.Categorical(logits=self.share.expand(*loc.shape[:-1]))
            z = dist.MixtureSameFamily(which, dist.Normal(loc, scale).to_event(1))
            return pyro.sample("z", z)


torch.manual_seed(0)
mixture = pv.Pair(Counts(StandardPrior(LATENT), rates(), 64), TwoGaussians(64, HIDDEN, LATENT), name="mixture")
try:
    mixture(train[:8])
except pv.InputError as refusal:
    print(refusal)  # which of the two a draw came from is discrete: no gradient through the draw
else:
    raise AssertionError
mixture.objective = pv.Stock(TraceGraph_ELBO())
before = pv.bound(mixture, test)
pv.fit(mixture, train, steps=steps(200), progress=False, engine="eager")
print(f"bound before and after 200 steps: {before:.0f}, {pv.bound(mixture, test):.0f} nats per datum")
if not SMOKE:
    assert pv.bound(mixture, test) > before
# The score function log q(z) * cost replaces the path through z: right on average, but it only knows how good a draw
# was, not in which direction a better one lies.

# %% [markdown]
# ## What to remember
#
# - A model is its factorisation: one `pyro.sample` per factor, inside `data_plate`, vectors end in `.to_event(1)`, the
#   observation is `x`.
# - Make parts arguments (prior, decoder, encoder). Then the very class that you will train can be tested where the
#   answer is known.
# - An objective maps (model, guide, x) to a `Loss`. Numbers that may change are buffers.
# - Swapping is free, and what does not fit is refused in words. Speed, command line, run folders and audits come with
#   it.
#
# ## Where to go on
#
# [09 What did the guide miss?](09-posterior.ipynb) explains every line of the audit. The pages: [how a program becomes
# a graph](../docs/compiled-step.md), [did it work?](../docs/analysis.md). `CONTRIBUTING.md` says how a pair of yours
# becomes a variant.
#
# **Sources.** Lambert (1992), zero-inflated Poisson regression. Dieng, Tran, Ranganath, Paisley & Blei (2017),
# variational inference via chi upper bound minimization. Li & Turner (2016), Rényi divergence variational inference:
# $U_n$ is their bound with $\alpha = 1 - n$. Bingham et al. (2019), Pyro.
