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
# # What did the guide miss?
#
# Training ends with a bound that has stopped rising. That says nothing about whether a posterior mean, an interval or
# a probability can be believed. Here you learn to ask, and what each test can and cannot see: importance weights and
# k-hat, NUTS, the two gaps of a bound, simulation-based calibration, predictive checks, the pull of the prior, and
# whether "90 % likely to be an outlier" happens nine times in ten. On the way the draws go into
# [ArviZ](https://python.arviz.org).
#
# For whom: you know what a model $p$, a guide $q$ and the ELBO are ([01](01-the-vae.ipynb)). Every test is run twice:
# first on a pair whose posterior is known in closed form, where the test must be right, then on digits. About a minute
# and a half on two cores.

# %%
import math
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from matplotlib.patches import Ellipse
from pyro.nn import PyroModule
from torch import nn

import pyro_vaes as pv
from pyro_vaes.evaluation.reliability import calibration_error, reliability
from pyro_vaes.guides.amortised import AmortisedNormal
from pyro_vaes.inference.pareto import khat
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.plates import data_plate

SMOKE = bool(os.environ.get("PYRO_VAES_SMOKE"))  # a few steps only: the cells run, figures mean nothing
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
OURS, DARK, GREY, GOLD, TEAL = "#d1495b", "#2e4057", "#9aa5b1", "#edae49", "#00798c"


def steps(n):
    return 20 if SMOKE else n


# %% [markdown]
# Three things can be wrong, and they need different tests:
#
# | what can be wrong | the question | tests in this notebook |
# |---|---|---|
# | the **guide** | is $q(z\mid x)$ the posterior $p(z\mid x)$ of *this* model? | weights and k-hat, NUTS, gaps, SBC |
# | the **model** | does $p$ make data like mine? | predictive checks, calibration against planted dirt |
# | the **reading** | does my conclusion hang on the prior? | power scaling |
#
# A perfect guide of a wrong model is of little use, and a good model under a bad guide is too. So keep the rows apart.
#
# ## 1. A pair whose posterior we know
#
# **Question: what does a guide look like that misses nothing?**

# %% [markdown] tags=["derivation"]
# Take the linear-Gaussian model: a code $z \in \mathbb{R}^k$, a datum $x \in \mathbb{R}^d$, a matrix $W$ (code name
# `w`), a noise $\sigma$ (`sigma`):
#
# $$p(z) = \mathcal{N}(0, I), \qquad p(x \mid z) = \mathcal{N}(W z, \sigma^2 I).$$
#
# *The posterior.* As a function of $z$ alone, whatever does not contain $z$ being a constant,
#
# $$\log p(x, z) = -\tfrac12 z^\top z - \tfrac{1}{2\sigma^2} (x - W z)^\top (x - W z) + \text{const}
#  = -\tfrac12 z^\top \underbrace{\big(I + \tfrac{1}{\sigma^2} W^\top W\big)}_{\Lambda} z
#  + z^\top \tfrac{1}{\sigma^2} W^\top x + \text{const}.$$
#
# That is quadratic in $z$, and only a Gaussian has a quadratic log-density. Its precision is the matrix in the middle,
# and its mean is where the gradient $-\Lambda z + W^\top x / \sigma^2$ is zero:
#
# $$p(z \mid x) = \mathcal{N}(m, \Lambda^{-1}), \qquad m = \Lambda^{-1} W^\top x / \sigma^2.$$
#
# *The evidence.* $x = W z + \sigma e$ is a sum of Gaussians, so $p(x) = \mathcal{N}(0, W W^\top + \sigma^2 I)$.
#
# *The weights.* Bayes' rule says $p(x, z) = p(x)\, p(z \mid x)$ for **every** $z$. So if $q(z \mid x) = p(z \mid x)$,
# the **importance weight** of a draw,
#
# $$w(z) = \frac{p(x, z)}{q(z \mid x)} = p(x),$$
#
# is the same number wherever the draw lies. A guide misses something exactly where its weights vary. Everything in the
# first half of this notebook is an elaboration of this sentence.

# %%
w = torch.tensor([[1.0, 0.8], [0.6, 0.9], [0.8, 0.2], [-0.3, 0.5]]).double()
sigma, (d, k) = 0.5, w.shape
precision = torch.eye(k).double() + w.T @ w / sigma**2
covariance = torch.linalg.inv(precision)
to_mean = covariance @ w.T / sigma**2
evidence = dist.MultivariateNormal(torch.zeros(d).double(), w @ w.T + sigma**2 * torch.eye(d).double())


class FullGuide(PyroModule):
    """q(z | x) = N(z; A x, S), with one full covariance S for all data."""

    def __init__(self, matrix, covariance):
        super().__init__()
        self.matrix, self.root = matrix, torch.linalg.cholesky(covariance)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            return pyro.sample("z", dist.MultivariateNormal(x @ self.matrix.T, scale_tril=self.root))


def linear_model(w):
    decoder = nn.Linear(w.shape[1], w.shape[0], bias=False)
    decoder.weight.data = w
    return LatentGaussian(StandardPrior(w.shape[1]), decoder, FixedScale(sigma)).double()


exact = pv.Pair(linear_model(w), FullGuide(to_mean, covariance), name="exact")
known = evidence.sample((64,))
found = pv.psis(exact, known, draws=200)
assert torch.allclose(found.raw, evidence.log_prob(known).expand(200, -1))
assert bool((found.khat == 0).all())
print(f"log w of 200 draws for 64 data: all equal to log p(x) within {(found.raw - found.raw[0]).abs().max():.1g} nats")

# %% [markdown]
# `pv.psis` draws from the guide, weighs the draws, and reports one **k-hat** per datum; 0 is its word for "all weights
# are equal". We come to what other values mean.
#
# **A pair on digits that a grid can check.** For the second half of every test take digits in 64 pixels and a
# `gamma_vae`: Gaussian likelihood, one learned standard deviation, a code of **two** entries. Two are too few for good
# digits. They are taken because in two dimensions the posterior can be computed on a grid, so that we always know what
# the guide should have said. 1500 digits are for training, 297 are held out; all tests are made with the latter.

# %%
data = pv.load("digits")
order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(0))
x = data.x[order]
train, test, labels = x[:1500], x[1500:], data.y[order][1500:]

torch.manual_seed(0)
pair = pv.gamma_vae(data_dim=64, latent_dim=2, hidden=(64,))
history = pv.fit(pair, train, steps=steps(2000), lr=2e-3, progress=False)
print(pair.describe())
print(f"bound on training data: {history.rows[-1]['bound']:.1f} nats per datum")

# %%
axis = torch.linspace(-4.5, 4.5, 601)
grid = torch.cartesian_prod(axis, axis)
cell = float(axis[1] - axis[0]) ** 2
few = test[:60]
with torch.no_grad():
    mu, sd = pair.model.decoder(grid), pair.model.scale(grid)
    fit_of = -0.5 * torch.cdist(few, mu).square() / sd**2 - 64 * torch.log(sd * math.sqrt(2 * math.pi))
    prior_of = dist.Normal(0.0, 1.0).log_prob(grid).sum(1)
    joint = (fit_of + prior_of).double()
    loc, scale = pair.guide.encoder(few)
log_p = joint.logsumexp(1) + math.log(cell)  # log p(x): the integral of p(x, z) over z
posterior = (joint - log_p[:, None]).exp()
assert torch.allclose(posterior.sum(1) * cell, torch.ones(60).double())
print(f"log p(x) by the grid: mean {log_p.mean():.1f} nats per datum, held-out digits")

# %% [markdown]
# Now look. Grey is the posterior on the grid, the line is the guide's Gaussian (one and two standard deviations). The
# four digits are chosen by k-hat: the two lowest and the two highest of sixty.

# %%
psis = pv.psis(pair, few, draws=1000)
by_k = psis.khat.argsort().tolist()
shown = by_k[:2] + by_k[-2:]


def show_posterior(ax, i, reach=5.0):
    p = posterior[i].float() * cell
    mean = p @ grid
    spread = (p @ (grid - mean).square()).sqrt().max().item()
    ax.imshow(
        posterior[i].reshape(601, 601).T, origin="lower", extent=(-4.5, 4.5, -4.5, 4.5), cmap="Greys", aspect="auto"
    )
    for times in (1, 2):
        width, height = 2 * times * scale[i].numpy()
        ax.add_patch(Ellipse(loc[i].tolist(), width, height, fill=False, color=OURS, linewidth=1.6))
    centre, r = (mean + loc[i]) / 2, max(reach * spread, 1.3 * (mean - loc[i]).abs().max().item())
    ax.set_xlim(centre[0] - r, centre[0] + r), ax.set_ylim(centre[1] - r, centre[1] + r)
    ax.set_xlabel("$z_1$"), ax.set_ylabel("$z_2$")


figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), layout="constrained", height_ratios=[1, 1.7])
for column, i in enumerate(shown):
    axes[0, column].imshow(few[i].reshape(8, 8), cmap="gray", vmin=0, vmax=1)
    axes[0, column].axis("off")
    axes[0, column].set_title(f"k-hat {psis.khat[i]:.2f}")
    show_posterior(axes[1, column], i)
figure.suptitle("Two digits whose guide (red) lies on the posterior (grey), and two whose guide does not")
plt.show()

# %% [markdown]
# The guide is one network for all digits. For the first two it is wider than the posterior, but covers it. For the
# last two it sits beside it. Nothing in the training curve says which digit is which.
#
# ## 2. Weights that put things right, and how to know when they cannot
#
# **Question: the draws come from the wrong density. Can we still use them?**

# %% [markdown] tags=["derivation"]
# *The identity.* For any function $f$ of the code, multiply and divide by $q$:
#
# $$\mathbb{E}_{p(z\mid x)} f = \int \frac{p(x, z)}{p(x)} f(z)\, dz
#  = \frac{1}{p(x)} \int q(z \mid x) \underbrace{\frac{p(x, z)}{q(z \mid x)}}_{w(z)} f(z)\, dz
#  = \frac{\mathbb{E}_q[w f]}{\mathbb{E}_q[w]},$$
#
# because $f = 1$ gives $\mathbb{E}_q[w] = p(x)$. So average draws of the guide with weights
# $\bar w_s = w_s / \sum_t w_t$. The one condition: $q > 0$ wherever $p(x, z) > 0$.
#
# *What it costs.* If weights are uneven, few draws count. The **effective sample size** of $S$ draws is
# $1 / \sum_s \bar w_s^2$, and for many draws
#
# $$\frac{\mathrm{ESS}}{S} \to \frac{(\mathbb{E}_q w)^2}{\mathbb{E}_q w^2}.$$
#
# *A guide that is too narrow, in closed form.* Let the posterior be Gaussian in $k = 2$ dimensions and the guide have
# the right mean and $s$ times the right width. Write a draw as $z = m + s \Lambda^{-1/2} e$ with
# $e \sim \mathcal{N}(0, I)$. The posterior's exponent is $-s^2 |e|^2 / 2$, the guide's is $-|e|^2 / 2$, and the
# guide's density is higher by $s^{-2}$:
#
# $$w = p(x)\, s^2 \exp\!\big((1 - s^2)\, E\big), \qquad E = |e|^2 / 2 .$$
#
# In two dimensions $E$ is exponentially distributed, $P(E > t) = e^{-t}$. That is all we need:
#
# $$\mathbb{E} w = p(x)\, s^2 \int_0^\infty e^{(1 - s^2) t - t} dt = p(x), \qquad
#   \mathbb{E} w^2 = \frac{p(x)^2 s^4}{2 s^2 - 1} \ \text{ if } s^2 > \tfrac12, \text{ else } \infty,
#   \qquad \frac{\mathrm{ESS}}{S} \to \frac{2 s^2 - 1}{s^4}.$$
#
# A guide of less than $1/\sqrt2 = 0.71$ of the right width has weights of **infinite variance**.


# %%
def narrow(s, name="narrow"):
    return pv.Pair(linear_model(w), FullGuide(to_mean, s**2 * covariance), name=name)


found = pv.psis(narrow(0.9), known, draws=4000)
assert abs(found.ess.mean() / 4000 - (2 * 0.9**2 - 1) / 0.9**4) < 0.01
second = pv.reweighted(narrow(0.8), known, lambda drawn: drawn.values["z"].square(), draws=4000)
truth = covariance.diag() + (known @ to_mean.T).square()  # E z^2 = variance + mean^2
z_score = (second.mean - truth) / second.se
assert z_score.abs().max() < 5 and abs(z_score.square().mean() - 1) < 0.5
before, after = ((m - truth).abs().mean() for m in (second.plain, second.mean))
print(f"E[z^2 | x], mean error: {before:.3f} from the guide's draws, {after:.4f} with weights")

# %% [markdown] tags=["derivation"]
# *The tail.* Infinite variance is invisible in a finite sample: every sample variance is finite. What shows is how the
# **largest** weights grow. From the closed form,
#
# $$P(w > u) = P\!\Big(E > \frac{\log (u / c)}{1 - s^2}\Big) = \Big(\frac{u}{c}\Big)^{-1/k}, \qquad k = 1 - s^2, \quad
#   c = p(x)\, s^2 .$$
#
# (This $k$ is the field's letter for a tail, not the dimension.) A tail of this form is **Pareto's** with shape $k$.
# It has a mean if $k < 1$ and a variance if $k < \frac12$; for $\frac12 \le k < 1$ the weighted mean still converges,
# ever more slowly, and around $k = 0.7$ the number of draws it wants becomes absurd. For $s > 1$ weights are bounded:
# no tail, $k \le 0$.
#
# For other densities the tail is not exactly Pareto's, but a limit theorem (Pickands) says that what exceeds a high
# threshold $u$ follows, for nearly every density, a *generalised* Pareto distribution with quantiles
#
# $$F^{-1}(p) = u + \sigma_u \frac{(1 - p)^{-k} - 1}{k}.$$
#
# So: take the $M = \lceil \min(S / 5, 3 \sqrt S) \rceil$ largest weights, fit $k$ and $\sigma_u$, and report $\hat k$.
# That is k-hat (Vehtari et al. 2024), one per datum.

# %%
widths = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
khats = {s: pv.psis(narrow(s), known, draws=2500).khat for s in widths}
for s in widths:
    middle = khats[s].median()
    assert abs(middle - (1 - s**2)) < 0.06
    print(f"width {s}: k = 1 - s^2 = {1 - s**2:.2f}, k-hat {middle:.2f} (median of 64 data)")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for s, colour in ((0.9, TEAL), (0.7, GOLD), (0.5, OURS)):
    raw = pv.psis(narrow(s), known[:1], draws=10000).raw[:, 0]
    u = (raw - evidence.log_prob(known[0])).exp().sort().values / s**2
    left.loglog(u, 1 - (torch.arange(10000) + 0.5) / 10000, color=colour, linewidth=2.5, label=f"width {s}")
    left.loglog(u, u ** (-1 / (1 - s**2)), "--", color=DARK, linewidth=1)
left.set_xlabel("weight / smallest weight"), left.set_ylabel("share of weights above")
left.set_title("A guide that is too narrow has Pareto weights\n(dashed: closed form, slope $-1/(1-s^2)$)")
left.set_ylim(5e-5, 1.5), left.legend(frameon=False)
low, middle, high = np.array([np.quantile(khats[s], (0.1, 0.5, 0.9)) for s in widths]).T
right.errorbar(
    widths, middle, [middle - low, high - middle], fmt="o", color=OURS, capsize=3, label="k-hat, 80 % of data"
)
right.plot(np.linspace(0.35, 1, 50), 1 - np.linspace(0.35, 1, 50) ** 2, color=DARK, label="$1 - s^2$")
for level, says in ((0.7, "not to be used"), (0.5, "no variance")):
    right.axhline(level, color=GREY, linestyle=":")
    right.annotate(f"above {level}: {says}", (1.0, level + 0.02), ha="right", color=DARK, fontsize=10)
right.set_xlabel("width of the guide / width of the posterior"), right.set_ylabel("k")
right.set_title("k-hat reads the tail off 2500 draws")
right.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown] tags=["derivation"]
# *Pareto smoothing.* The largest weight of a sample is its noisiest number, and it dominates the weighted mean. But if
# the tail is known to be generalised Pareto with shape $\hat k$, we know where $M$ ordered draws of it *should* lie.
# So replace the $i$-th smallest of the $M$ tail weights by that quantile,
#
# $$w_{(i)} \leftarrow \min\Big\{ F^{-1}\!\Big(\frac{i - 1/2}{M}\Big),\ \max_t w_t \Big\}, \qquad i = 1 \dots M,$$
#
# and leave the rest alone. The order of the draws stays; a little bias comes in, much variance goes out. The cap by
# the largest raw weight keeps a badly fitted tail from inventing mass. We check the library against this formula: in
# units of the formula's quantile all smoothed excesses must be **one** number, $\sigma_u$.

# %%
found = pv.psis(narrow(0.6), known, draws=900)
tail = 90  # min(900 / 5, 3 sqrt 900)
p = (torch.arange(tail) + 0.5).double() / tail
for datum in range(64):
    raw, kept = found.raw[:, datum].sort()
    smooth = found.log_weights[kept, datum]
    largest, shift = raw[-1], (raw - smooth)[:-tail].mean()  # below the tail only the normalisation differs
    assert torch.allclose(raw[:-tail] - shift, smooth[:-tail])
    excess = (smooth[-tail:] + shift - largest).exp() - (raw[-tail - 1] - largest).exp()
    unit = ((1 - p) ** -found.khat[datum] - 1) / found.khat[datum]
    below = smooth[-tail:] + shift < largest - 1e-9
    assert torch.allclose((excess / unit)[below], excess[0] / unit[0])
print("the tails of 64 data are the quantiles of a generalised Pareto distribution of shape k-hat, capped")

# %% [markdown]
# **Does smoothing help?** Ask for something whose truth is known: $\log p(x)$ of the linear pair, from 400 draws of a
# guide of half the right width. $k = 0.75$, a tail that should not be trusted, and exactly where one is tempted to.

# %%
many = evidence.sample((500,))
found = pv.psis(narrow(0.5), many, draws=400)
truth, raw = evidence.log_prob(many), found.raw
rest = (raw - raw.logsumexp(0) - found.log_weights).median(0).values  # what smoothing has added to the sum of weights
plain = raw.logsumexp(0) - math.log(400) - truth
smoothed = plain + rest
figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
bins = np.linspace(-0.6, 1.2, 50)
for error, name, colour in ((plain, "raw weights", GREY), (smoothed, "smoothed weights", OURS)):
    rms = error.square().mean().sqrt()
    label = f"{name}: bias {error.mean():+.2f}, rms {rms:.2f} nats"
    ax.hist(error.clamp(-0.6, 1.2).numpy(), bins, histtype="step", linewidth=2, color=colour, label=label)
ax.axvline(0, color=DARK, linewidth=0.8)
ax.set_xlabel("estimate of log p(x) - truth, in nats"), ax.set_ylabel("data, of 500")
ax.set_title("Half the right width: smoothing pays for less variance with bias")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Raw weights are unbiased for $p(x)$, so their logarithm leans low (Jensen), and now and then one huge weight throws
# the estimate far up. Smoothing removes those, and leans lower. What it does not do is make $k = 0.75$ a good place to
# be.
#
# **And digits?** There the grid is the judge. For sixty held-out digits: how far is the posterior mean off, in
# posterior standard deviations, before and after weighting, and how far $\log p(x)$?

# %%
share = posterior * cell
mean = share @ grid.double()
sd_of = (share @ grid.double().square() - mean.square()).sqrt()
weighted = pv.reweighted(pair, few, lambda drawn: drawn.values["z"], draws=1000)
off = {
    "guide": ((weighted.plain - mean) / sd_of).abs().amax(1),
    "weighted": ((weighted.mean - mean) / sd_of).abs().amax(1),
}
estimate = psis.raw.logsumexp(0) - math.log(1000)

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for (name, error), colour in zip(off.items(), (GREY, OURS), strict=True):
    axes[0].semilogy(psis.khat, error, "o", color=colour, label=name, alpha=0.8)
axes[0].set_ylabel("posterior mean: error, in posterior sd"), axes[0].legend(frameon=False, loc="lower right")
axes[0].set_title("Weights mend the mean where k-hat is small")
axes[1].plot(psis.khat, estimate - log_p, "o", color=OURS, alpha=0.8)
axes[1].axhline(0, color=DARK, linewidth=0.8)
axes[1].set_ylabel("log p(x): estimate - grid, in nats"), axes[1].set_title("and so do they with log p(x)")
for ax in axes:
    ax.axvline(0.7, color=GREY, linestyle=":"), ax.set_xlabel("k-hat")
plt.show()
print(psis.finding())
trusted = psis.khat <= 0.7
for name, error in off.items():
    print(
        f"{name}: median error {error[trusted].median():.2f} sd at k-hat <= 0.7, {error[~trusted].median():.2f} above"
    )

# %% [markdown]
# Read the left picture twice. At small k-hat the grey points are *not* small: **k-hat does not say that the guide is
# right, it says that weights can put it right.** And on the right of 0.7 an estimate may be near by luck or off by
# nats, and nothing else in its output would tell you. The limit is no wall: k-hat is an estimate from 1000 draws
# itself, and a datum just below 0.7 may be off by a nat too. The smaller, the safer.
#
# One limit, before you trust it: draws say nothing about where there are none. If the posterior has two modes and the
# guide sits on one of them, its weights look fine. Exercise 1 makes such a case.
#
# ## 3. The draws in ArviZ
#
# **Question: how do these draws get to the tools that everybody uses?**
#
# `pv.to_datatree` puts draws, weights, replicated data, log-likelihoods and the data themselves under names, as a
# plain `xarray.DataTree`; `pv.to_arviz` hands it to the ArviZ that is installed, as the type that version wants.

# %%
tree = pv.to_datatree(pair, few, shape=data.shape, labels=labels[:60], draws=1000, replicates=10)
print("groups:", ", ".join(tree.children))
print("posterior z:", dict(tree["posterior"]["z"].sizes))
guide_draws = pv.to_arviz(tree)

import arviz as az  # after to_arviz, which knows what this version warns about

one = {"datum": [shown[2]]}
az.summary(guide_draws, var_names="z", coords=one, kind="stats")

# %% [markdown]
# `kind="stats"`, because the guide's draws are **independent and one chain**, and no Markov chain. There is no R-hat
# of them, and the ESS of a Markov chain would call them perfect: it measures autocorrelation, not whether $q$ is
# right. What says that stands beside the draws, in `sample_stats`: `khat`, `log_weight`, and the importance `ess`, per
# datum.

# %%
stats = tree["sample_stats"]
log_w = torch.tensor(stats["log_weight"].values[0])  # (1000 draws, 60 data)
assert np.allclose(stats["khat"], khat(log_w.T), atol=1e-3)
print(f"datum {shown[2]}: k-hat {float(stats['khat'][shown[2]]):.2f}, ESS {float(stats['ess'][shown[2]]):.0f} of 1000")
fours = guide_draws.posterior["z"].where(guide_draws.constant_data["label"] == 4, drop=True)
print(f"the {fours.sizes['datum']} fours: mean code", fours.mean(("chain", "draw", "datum")).values.round(2))

# %% [markdown]
# **The file.** The tree is netCDF, which any Python session with ArviZ opens, pyro-vaes or not. (`pv.write_posterior`
# writes the same a batch at a time, and `pyro-vaes posterior RUN` does it for a run folder.)

# %%
with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/posterior.nc"
    tree.to_netcdf(path)
    again = az.from_netcdf(path)
    assert np.array_equal(again["posterior"]["z"], tree["posterior"]["z"])
    print(f"ArviZ {az.__version__} opens it as {type(again).__name__}, {os.path.getsize(path) / 1e6:.1f} MB")
    again.close()

# %% [markdown]
# ArviZ comes in two generations, and the same file opens in both:
#
# | | 0.23 (Python 3.11) | 1.x (Python 3.12 and later) |
# |---|---|---|
# | `az.from_netcdf(path)` gives | `InferenceData` | the `xarray.DataTree` itself |
# | from a tree in memory | `az.from_datatree(tree)` | the tree as it is |
# | `az.from_dict({"posterior": ...})` | runs, and builds garbage | right |
# | `az.psislw` takes | log weights | **minus** log weights |
#
# `pv.to_arviz` and `pv.psis` mind this for you. And one warning: do not call `az.loo` on a guide's draws. The code of
# a datum has seen the datum that would be left out; `pv.loo` gives what belongs there.
#
# ## 4. NUTS: what exact inference would have said
#
# **Question: for *this* datum, where is the posterior?**
#
# Hamiltonian Monte Carlo needs no guide: only $\log p(x, z)$ and its gradient, and both are there. `pv.nuts` runs
# Pyro's NUTS for several data at once, decoder as it is, from starts that are spread out. First where we know the
# answer.

# %%
chains = pv.nuts(exact, known[:2], samples=80 if SMOKE else 150, warmup=60)
truth = known[:2] @ to_mean.T
error = (chains.mean - truth) / covariance.diag().sqrt()
assert error.abs().max() < 6 / chains.ess.min().sqrt()
assert ((chains.sd / covariance.diag().sqrt()).log2().abs() < 0.5).all()
print(chains.finding())

# %% [markdown]
# Now the four digits of the first figure. `pv.compare` runs NUTS on them and sets the guide beside it: bias in
# posterior standard deviations, width as a ratio, k-hat, and two gaps that the next section derives.

# %%
compared = pv.compare(pair, few[shown], samples=20 if SMOKE else 120, warmup=20 if SMOKE else 100)
print(compared.table())
print(compared.finding())

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained")
for ax, i, column in zip(axes, shown, range(4), strict=True):
    show_posterior(ax, i, reach=4)
    drawn = compared.chains.states[:, ::3, column].flatten(0, 1)
    ax.plot(*drawn.T, ".", color=TEAL, markersize=3)
    for name, values in (("x", drawn[:, 0]), ("y", drawn[:, 1])):
        low, high = getattr(ax, f"get_{name}lim")()
        getattr(ax, f"set_{name}lim")(min(low, values.min() - 0.1), max(high, values.max() + 0.1))
    ax.set_title(f"k-hat {psis.khat[i]:.2f}, R-hat {compared.chains.rhat[column].max():.2f}")
figure.suptitle("NUTS (dots) goes where the posterior is, or says by its R-hat that it has not")
plt.show()
if not SMOKE:
    mixed = compared.chains.mixed
    near = ((compared.chains.mean - mean[shown]).abs() < 0.4 * sd_of[shown]).all(1)
    assert bool(mixed.any()) and bool(near[mixed].all())  # where R-hat is content, the grid agrees

# %% [markdown]
# Look at the last panel. Four chains started in different places, and if one of them sits in another hollow, R-hat is
# far above 1. How much of the posterior lies there? The grid knows:

# %%
centres = compared.chains.states[:, :, 3].mean(1)  # one mean per chain
for c, at in enumerate(centres):
    mass = share[shown[3], (grid - at).norm(dim=1) < 0.3].sum()
    print(f"chain {c + 1} stays around ({at[0]:.2f}, {at[1]:.2f}): {mass:.1e} of the posterior is within 0.3 of it")

# %% [markdown]
# A chain that has fallen into a hollow without mass stays there for as long as we care to wait. So NUTS is the
# reference only where its chains agree; `compare` leaves the others out of its verdict. R-hat too has its blind spot:
# a mode that *no* chain has visited.
#
# Chains have an R-hat, and here it means something. Put into ArviZ, the two posteriors stand side by side:

# %%
dims = ("chain", "draw", "datum", "z_dim")
reference = xr.DataTree.from_dict({"posterior": xr.Dataset({"z": (dims, compared.chains.states.numpy())})})
reference = pv.to_arviz(reference)
print(az.summary(reference, var_names="z")[["mean", "sd", "ess_bulk", "r_hat"]])
picked = xr.DataTree.from_dict(
    {"posterior": tree["posterior"].to_dataset()[["z"]].isel(datum=shown).drop_vars("datum")}
)
axes = az.plot_forest(
    [pv.to_arviz(picked), reference], model_names=["guide", "NUTS"], var_names="z", combined=True,
    colors=[OURS, TEAL], figsize=(8, 5), textsize=11, linewidth=2.5,
)  # fmt: skip
axes[0].set_title("94 % intervals of four digits, in the order of the figure above: [datum, entry]", fontsize=12)
axes[0].get_legend().set_loc("lower left")
plt.show()

# %% [markdown]
# ## 5. Is it the network, or the family?
#
# **Question: the bound lies below $\log p(x)$. Would a bigger encoder help, or a richer guide?**

# %% [markdown] tags=["derivation"]
# Write $\mathrm{L}[q]$ for the bound of one datum. Bayes' rule in the form $p(x, z) = p(x)\, p(z \mid x)$ gives
#
# $$\mathrm{L}[q] = \mathbb{E}_q \log \frac{p(x, z)}{q(z)} = \log p(x) - \mathrm{KL}[q \,\|\, p(z \mid x)],$$
#
# so what the bound lacks is a divergence from the posterior. Let $q^*$ be the best density of the guide's *family*
# (here: Gaussians with a diagonal covariance) **for this one datum**, with no network in between. Add and subtract its
# bound:
#
# $$\log p(x) - \mathrm{L}[q] = \underbrace{\log p(x) - \mathrm{L}[q^*]}_{\text{approximation gap}\;\ge 0} +
#   \underbrace{\mathrm{L}[q^*] - \mathrm{L}[q]}_{\text{amortisation gap}\;\ge 0} .$$
#
# The first is $\mathrm{KL}[q^* \| p(z\mid x)]$: the family's fault. The second is the encoder's, which must answer for
# all data with one set of weights (Cremer, Li & Duvenaud 2018).
#
# *Both in closed form.* Let the posterior be $\mathcal{N}(m, \Lambda^{-1})$ and
# $q = \mathcal{N}(\mu, \mathrm{diag}\, s_j^2)$. The Gaussian KL, whose trace term sees only the diagonal of $\Lambda$,
# is
#
# $$\mathrm{KL}[q \| p] = \tfrac12 \Big[\sum_j \Lambda_{jj} s_j^2 - k - \sum_j \log s_j^2 - \log |\Lambda|
#   + (\mu - m)^\top \Lambda (\mu - m)\Big].$$
#
# Setting the derivative in $s_j^2$ to zero, $\Lambda_{jj} = 1 / s_j^2$; and $\mu = m$. So $q^*$ has the
# **precision's** diagonal, which is narrower than the marginals whenever entries are correlated, and
#
# $$\text{approximation gap} = \tfrac12 \Big[\sum_j \log \Lambda_{jj} - \log |\Lambda|\Big] \ge 0
#   \quad\text{(Hadamard; zero only for a diagonal } \Lambda).$$


# %%
class LinearEncoder(nn.Module):
    """x -> mean A x + shift and standard deviation of a diagonal Gaussian."""

    def __init__(self, matrix, shift, sd):
        super().__init__()
        self.matrix, self.shift, self.sd = matrix, shift, sd

    def forward(self, x):
        loc = x @ self.matrix.T + self.shift
        return loc, self.sd.expand(loc.shape)


def diagonal(shift=(0.0, 0.0), wider=1.0):
    best = precision.diag().rsqrt()
    return pv.Pair(linear_model(w), AmortisedNormal(LinearEncoder(to_mean, torch.tensor(shift).double(), wider * best)))


approximation = 0.5 * (precision.diag().log().sum() - precision.logdet())
shift, wider = torch.tensor([0.2, -0.1]).double(), 1.4
amortisation = 0.5 * (k * (wider**2 - 1) - k * math.log(wider**2) + shift @ precision @ shift)
gaps = pv.gaps(diagonal(tuple(shift.tolist()), wider), known[:16], draws=2000)
assert torch.allclose(gaps.log_z, evidence.log_prob(known[:16]), atol=0.1)
for name, closed in (("approximation", approximation), ("amortisation", amortisation)):
    found, se = getattr(gaps, name), getattr(gaps, f"{name}_se")
    assert ((found - closed).abs() < 5 * se + 0.01).all()
    print(f"{name} gap: closed form {closed:.3f}, pv.gaps {found.mean():.3f} nats (mean of 16 data)")
assert torch.allclose(gaps.approximation + gaps.amortisation, gaps.log_z - gaps.bound)

# %% [markdown]
# On digits the grid gives $\log p(x)$, so we need not believe the estimate of it inside of `pv.gaps` either.

# %%
digits = pv.gaps(pair, few, draws=500)
print(digits.finding())
if not SMOKE:
    near = (digits.log_z - log_p).abs()[digits.khat < 0.7]
    assert near.median() < 0.05
    print(f"log p(x), pv.gaps against the grid: median difference {near.median():.3f} nats")

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=[1, 1.6])
centre, angles = torch.zeros(2).double(), torch.linspace(0, 2 * math.pi, 100).double()
circle = torch.stack([angles.cos(), angles.sin()])
for root, name, colour, at in (
    (torch.linalg.cholesky(covariance), "posterior", DARK, centre),
    (precision.diag().rsqrt().diag(), "$q^*$, best diagonal", TEAL, centre),
    (wider * precision.diag().rsqrt().diag(), "$q$, the encoder's", OURS, shift),
):
    axes[0].plot(*(at[:, None] + root @ circle), color=colour, linewidth=2, label=name)
axes[0].set_title("Linear pair: one sd"), axes[0].set_ylim(-0.7, 1.0)
axes[0].legend(frameon=False, loc="upper right"), axes[0].set_xlabel("$z_1 - m_1$"), axes[0].set_ylabel("$z_2 - m_2$")
rank = digits.total.argsort()
axes[1].bar(range(60), digits.approximation[rank].clamp(min=0), color=TEAL, label="approximation (family)")
axes[1].bar(
    range(60), digits.amortisation[rank], bottom=digits.approximation[rank].clamp(min=0), color=OURS,
    label="amortisation (network)",
)  # fmt: skip
axes[1].set_title("Digits: it is the network"), axes[1].set_ylabel("log p(x) - bound, in nats")
axes[1].set_xlabel("60 held-out digits, in order of the gap"), axes[1].legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# A Gaussian fitted to the one digit would do nearly everything that is to be done; a normalising flow would be the
# wrong medicine. With 1500 digits to learn from, held-out ones are where an encoder guesses. On larger data the [audit
# of four guides](../docs/analysis.md) finds the same order of the two gaps, smaller.
#
# ## 6. Does the guide know how sure it may be?
#
# **Question: of a hundred 90 % intervals, do ninety hold the truth?** For one datum that cannot be asked. For data
# that the *model* draws it can, since there the true code is known.

# %% [markdown] tags=["derivation"]
# *Why ranks are uniform.* Draw a code and its datum from the model, $z^* \sim p(z)$, $x \sim p(x \mid z^*)$. Then draw
# $z^{(1)}, \dots, z^{(L)}$ from the posterior $p(z \mid x)$. The pair $(z^*, x)$ has the density
# $p(z^*) p(x \mid z^*) = p(x)\, p(z^* \mid x)$. So **given $x$, the true code is itself a draw from the posterior**,
# as good as any of the $L$ others: the $L + 1$ of them are exchangeable. In a shuffled row of $L + 1$ equals, each
# place is equally likely, so for any function $f(z, x)$
#
# $$r = \#\{l : f(z^{(l)}, x) < f(z^*, x)\} \sim \text{Uniform}\{0, \dots, L\} .$$
#
# This is **simulation-based calibration** (Talts et al. 2018). Draw from $q$ instead, and uniform ranks are what $q$
# must show if it is the posterior.
#
# *What a narrow guide shows.* Let $q$ have the right mean and $s$ times the right width, and look at one entry. In
# posterior standard deviations the truth is $\mathcal{N}(0, 1)$, and the central interval of level $c$ of the guide is
# $\pm s\, t$ with $t = \Phi^{-1}\big(\tfrac{1 + c}{2}\big)$. It holds the truth with probability
#
# $$2\, \Phi(s\, t) - 1 \; < \; c \quad \text{for } s < 1 .$$

# %%
calibrated = pv.sbc(exact, simulations=400)
too_sure = pv.sbc(narrow(0.5), simulations=400)
print(calibrated.finding()), print(too_sure.finding())
assert calibrated.adjusted.min() > 0.01 and calibrated.finding().verdict == "good"
assert too_sure.finding().verdict == "bad"
normal = torch.distributions.Normal(0.0, 1.0)
for level in (0.5, 0.9):
    t = normal.icdf(torch.tensor((1 + level) / 2))
    expected = float(2 * normal.cdf(0.5 * t) - 1)
    share_held = too_sure.coverage(level).share[:2]  # of z[0] and z[1]
    assert (share_held - expected).abs().max() < 4 * math.sqrt(expected * (1 - expected) / 400)
    print(f"{level:.0%} intervals of half the width: should hold {expected:.0%}, hold {share_held.mean():.0%}")

# %%
sbc = pv.sbc(pair, simulations=400)
print(sbc.finding())
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained", sharey=True)
columns = (("exact guide", calibrated, TEAL), ("half the width", too_sure, OURS), ("trained guide, digits", sbc, DARK))
for ax, (title, found, colour) in zip(axes, columns, strict=True):
    ax.hist(found.ranks[:, 0] / found.draws, bins=20, range=(0, 1), color=colour, alpha=0.85)
    ax.axhspan(20 - 2 * math.sqrt(19), 20 + 2 * math.sqrt(19), color=GREY, alpha=0.4)
    ax.set_title(title), ax.set_xlabel("rank of $z^*_1$ / draws")
axes[0].set_ylabel("simulations, of 400")
figure.suptitle("Ranks of the true code: flat if the guide is right, a bowl if it is too sure (grey: chance)")
plt.show()

# %% [markdown]
# Beside the entries of the code, `pv.sbc` ranks $\log p(x \mid z)$ and $\log p(x, z)$. They are functions of code
# *and* datum, and see what entries cannot: a guide that never looks at $x$ has perfectly uniform entries (exercise 3).
#
# The trained guide fails, and by more than on real digits. Mind on *whose* data it was audited: on digits that the
# **model** has drawn, with noise in every pixel. Real digits have a blank border, and the encoder has never seen
# another. SBC and k-hat on your data answer different questions, and section 7 shows from the other side that this
# model's data are not yours.
#
# ## 7. The model, and the prior
#
# **Question: does the model make data like mine?** Nothing so far asked. A predictive check names a statistic $T$, and
# compares $T(x)$ with $T(x^{rep})$ for data that the model draws.

# %%
ink = {"ink": lambda a: (a > 0.5).double().mean(-1), "blank": lambda a: (a.abs() < 0.05).double().mean(-1)}
checked = pv.predictive_check(pair, test, statistics=ink, kind="prior")
print(checked.finding())
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, j, name in zip(axes, (0, 1), ("pixels above 0.5", "pixels within 0.05 of 0"), strict=True):
    bins = np.linspace(0, 0.8, 40)
    ax.hist(checked.observed[j], bins, density=True, color=DARK, alpha=0.8, label="digits")
    ax.hist(checked.replicated[j].flatten()[::7], bins, density=True, color=OURS, alpha=0.6, label="model")
    ax.set_xlabel(f"share of {name}"), ax.set_yticks([])
axes[0].legend(frameon=False), axes[0].set_title("Ink")
axes[1].set_title("Blank paper: a Gaussian cannot make it")
plt.show()

# %% [markdown]
# A Gaussian with one standard deviation for every pixel blurs what is exactly 0 in half of the pixels of a digit. No
# guide can mend that. It is for the one who asks to say whether it matters: for the mean image it does not, for "how
# many pixels are blank" it does.
#
# **Question: does the answer hang on the prior?**

# %% [markdown] tags=["derivation"]
# Raise the prior to a power $\alpha$ near 1 and watch the posterior mean move (Kallioinen et al. 2024). In the linear
# pair the prior's precision becomes $\alpha I$, so $\Lambda_\alpha = \alpha I + W^\top W / \sigma^2$ and
# $m_\alpha = \Lambda_\alpha^{-1} W^\top x / \sigma^2$. With
# $\frac{d}{d\alpha} \Lambda_\alpha^{-1} = -\Lambda_\alpha^{-1} I \Lambda_\alpha^{-1}$, at $\alpha = 1$ and per
# **doubling** of $\alpha$ ($d\alpha = \ln 2 \; d \log_2 \alpha$ there),
#
# $$\frac{d m}{d \log_2 \alpha} = - \ln 2 \; \Lambda^{-1} m .$$
#
# For the likelihood the sign is the other: scaling both by the same power leaves their mode where it is, so the two
# derivatives cancel. No new run is needed for any of this: for small changes of $\alpha$ the weights
# $w\, p(z)^{\alpha - 1}$ of the draws that are there already are enough.

# %%
scaled = pv.power_scaling(exact, known, draws=2000)
mean_known = known @ to_mean.T
closed = -math.log(2) * mean_known @ covariance
assert (scaled.prior.mean - closed).abs().max() < 0.1
assert (scaled.likelihood.mean + closed).abs().max() < 0.1
slope = (scaled.prior.mean * closed).sum() / closed.square().sum()
assert abs(slope - 1) < 0.05
print(f"movement of the mean per doubling of the prior: regression on the closed form has slope {slope:.3f}")
print(pv.power_scaling(pair, few, draws=500).finding())

# %% [markdown]
# ## 8. "90 % likely to be an outlier"
#
# **Question: when the model says 0.9, does it happen nine times in ten?**

# %% [markdown] tags=["derivation"]
# Let $D \in \{0, 1\}$ say whether an entry is dirty and let $p = P(D = 1 \mid x)$ be the posterior probability under
# the model. Among all entries that are given the same $p$, the share that is dirty is, by the tower rule (average
# first given $x$, then over all $x$ of that $p$),
#
# $$P(D = 1 \mid p) = \mathbb{E}\big[\, P(D = 1 \mid x) \;\big|\; p \,\big] = \mathbb{E}[\, p \mid p \,] = p .$$
#
# A posterior probability is **calibrated by itself** - if data come from the model. The converse is the use of it: a
# curve of "share that was dirty" over "probability given" that is not the diagonal says that data and model differ.
# Asserted on scalars $x$ that are $\mathcal{N}(0, 0.1^2)$ with probability $1 - \epsilon$ and uniform on $[-1, 1]$
# with probability $\epsilon = 0.2$, once with the right $\epsilon$ and once with a model that believes in $0.02$.

# %%
generator = torch.Generator().manual_seed(1)
dirty = torch.rand(40000, generator=generator) < 0.2
noise = torch.randn(40000, generator=generator)
value = torch.where(dirty, 2 * torch.rand(40000, generator=generator) - 1, 0.1 * noise)


def chance(epsilon):
    clean = torch.where(value.abs() < 9, dist.Normal(0.0, 0.1).log_prob(value).exp(), 0.0)
    return epsilon * 0.5 / (epsilon * 0.5 + (1 - epsilon) * clean)


right, wrong = (reliability(chance(e), dirty) for e in (0.2, 0.02))
for said, happened, count in right:
    assert abs(said - happened) < 4 * math.sqrt(max(count, 1) * 0.25)
assert calibration_error(right) < 0.01 < calibration_error(wrong)
print(
    f"expected calibration error: right model {calibration_error(right):.3f}, wrong one {calibration_error(wrong):.3f}"
)

# %% [markdown]
# Now a robust model on digits, where we plant the dirt ourselves and so know the truth: a `t_vae` trained on digits of
# which a fifth of the pixels are noise, judged on held-out digits dirtied in the same way.

# %%
noisy = pv.corrupt(train, "impulse:0.2", shape=data.shape, seed=1)
torch.manual_seed(0)
robust = pv.t_vae(data_dim=64, latent_dim=10, hidden=(64,))
pv.fit(robust, noisy.x, steps=steps(2000), lr=2e-3, progress=False)
found, judged, dirt, mask = pv.planted_outliers(robust, test[:100], spec="impulse:0.2", shape=data.shape, draws=200)
again = pv.judge_outliers(found, mask, test[:100])
assert again.auc == judged.auc  # planted_outliers = corrupt + outlier_posterior + judge_outliers
print(judged.finding())

# %%
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.5), layout="constrained", width_ratios=[1, 1, 1.1])
for ax, image, title in ((axes[0], dirt[3], "dirty digit"), (axes[1], found.weighted.outlier[3], "P(outlier)")):
    ax.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=1), ax.axis("off"), ax.set_title(title)
for place in mask[3].nonzero().flatten().tolist():
    axes[1].add_patch(plt.Rectangle((place % 8 - 0.5, place // 8 - 0.5), 1, 1, fill=False, edgecolor=OURS, linewidth=2))
curves = ((right, "right model", TEAL, "--"), (wrong, "wrong model", GREY, "--"))
for bins, name, colour, line in (*curves, (judged.bins["weighted"], "t_vae on digits", OURS, "-")):
    kept = np.array([b for b in bins if b[2] >= 20])
    axes[2].plot(kept[:, 0] / kept[:, 2], kept[:, 1] / kept[:, 2], line, marker="o", color=colour, label=name)
axes[2].plot([0, 1], [0, 1], color=DARK, linewidth=0.8), axes[2].legend(frameon=False, fontsize=10)
axes[2].set_xlabel("probability given"), axes[2].set_ylabel("share that was dirty")
axes[2].set_title("Reliability")
figure.suptitle(
    "P(outlier) ranks pixels well; as a probability it is not to be taken at its word (red frames: truly dirty)"
)
plt.show()

# %% [markdown]
# At high probabilities the curve lies below the diagonal: many pixels that are *clean* are called outliers, because a
# model of ten codes cannot draw them. To the model, what it cannot explain and what somebody has put there are the
# same thing. At low ones it lies above: noise that happens to look like paper or ink is no outlier to anybody. So rank
# by this probability, and set no threshold in it, unless you have planted dirt and looked.
#
# ## 9. All of it in one call
#
# `pv.check` runs every test at a small budget and ends in what can be trusted for what. From a shell it is `pyro-vaes
# check RUN`.

# %%
budget = pv.Budget(rows=40, nuts=0 if SMOKE else 2, draws=300, simulations=200, samples=60, warmup=60)
verdict = pv.check(pair, test, shape=data.shape, budget=budget)
print(verdict)
answers = verdict.uses()
assert answers["which entries are outliers, and how likely"][0] == "not known"  # the model has none

# %% [markdown] tags=["exercise"]
# ## Exercises
#
# **1. The mode that nobody visits.** Let the posterior have two modes: $z \in \mathbb{R}$, $p(z) = \mathcal{N}(0, 1)$,
# $p(x \mid z) = \mathcal{N}(z^2, 0.3^2)$. Given $x = 2$ the modes are near $\pm\sqrt{2}$. Take a guide that sits on
# the right one with about the right width. Predict: (a) k-hat, good or bad? (b) the weighted mean of $z$, and the true
# one? (c) by how much is the estimate of $\log p(x)$ wrong? (d) R-hat of `pv.nuts`? Then test.


# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
class Square(nn.Module):
    def forward(self, z):
        return z.square()


class OneMode(PyroModule):
    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            where = dist.Normal(1.35 * torch.ones(len(x), 1), 0.15)
            return pyro.sample("z", where.to_event(1))


two_modes = pv.Pair(LatentGaussian(StandardPrior(1), Square(), FixedScale(0.3)), OneMode(), name="two modes")
at = torch.tensor([[2.0]])
line = torch.linspace(-5, 5, 20001)[:, None]
log_joint = dist.Normal(0.0, 1.0).log_prob(line) + dist.Normal(line.square(), 0.3).log_prob(at)
truth = log_joint.logsumexp(0) + math.log(10 / 20000)
found = pv.psis(two_modes, at, draws=2000)
weighted = pv.reweighted(two_modes, at, lambda drawn: drawn.values["z"], draws=2000)
missing = float(truth - (found.raw.logsumexp(0) - math.log(2000)))
assert found.khat < 0.7 and weighted.mean.item() > 1.2  # (a) and (b): content, and wrong; the true mean is 0
assert abs(missing - math.log(2)) < 0.1  # (c) half of the mass is gone: log 2, whatever the number of draws
chains = pv.nuts(two_modes, at, samples=60, warmup=60, whiten="guide", depth=5)
print(
    f"k-hat {found.khat.item():.2f}, weighted mean {weighted.mean.item():.2f} (truth 0), log p(x) low by {missing:.2f}"
)
print(f"(d) R-hat of NUTS from spread starts: {chains.rhat.item():.2f}, means of the chains:",
      chains.states.mean((1, 2, 3)).numpy().round(1))  # fmt: skip

# %% [markdown] tags=["exercise"]
# **2. Off to one side.** Shift the exact guide by $\delta$ posterior standard deviations in every direction and leave
# its width. Show that $\log w = \text{const} - \delta^\top e$ with $e$ the draw's standard normal noise: weights are
# log-normal. Log-normals have all moments, so $k = 0$ in the limit. What does k-hat say at 1000 draws for
# $|\delta| = 0.5, 1, 2, 3$? Which of the two is the more useful answer?


# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# Posterior exponent -(e + delta)^2 / 2, guide's -e^2 / 2: the difference is -delta e - delta^2 / 2.
class Shifted(FullGuide):
    def __init__(self, by):
        super().__init__(to_mean, covariance)
        self.move = self.root @ torch.tensor([by, 0.0]).double()

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            loc = x @ self.matrix.T + self.move
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.root))


medians = []
for by in (0.5, 1.0, 2.0, 3.0):
    found = pv.psis(pv.Pair(linear_model(w), Shifted(by), name="shifted"), known, draws=1000)
    log_w = found.raw - evidence.log_prob(known)
    assert abs(log_w.mean() + by**2 / 2) < 0.05 and abs(log_w.std() - by) < 0.05  # log-normal, as derived
    medians.append(float(found.khat.median()))
    print(f"off by {by} sd: k-hat {medians[-1]:.2f}, ESS {found.ess.median():.0f} of 1000")
assert medians == sorted(medians) and medians[0] < 0.5 < 0.7 < medians[-1]
# The limit needs more draws than anyone has: k-hat describes the tail that 1000 draws reach, which is the useful one.

# %% [markdown] tags=["exercise"]
# **3. The guide that never looks.** Take the prior as guide, $q(z \mid x) = p(z)$. Show from the derivation of SBC
# that the ranks of every entry of the code are exactly uniform. Which of the quantities that `pv.sbc` ranks by default
# can catch it, and why? Run it.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# z* and all z^(l) are draws of p(z): exchangeable again, so entries pass. But only z* belongs to x: log p(x | z*) is
# larger than log p(x | z^(l)) nearly always, and so its rank sits at the top.
blind = pv.Pair(linear_model(w), FullGuide(torch.zeros(k, d).double(), torch.eye(k).double()), name="blind")
found = pv.sbc(blind, simulations=300)
entries, functions = found.adjusted[: found.entries], found.adjusted[found.entries :]
assert entries.min() > 0.01 and functions.max() < 0.01
print(dict(zip(found.names, [f"{p:.3g}" for p in found.adjusted.tolist()], strict=True)))
print(found.finding())

# %% [markdown]
# ## What to remember
#
# - Weights $p(x, z) / q(z \mid x)$ vary exactly where the guide is wrong. Their tail says whether they can mend it:
#   k-hat up to 0.7, per datum. It does not say that the guide is right, and it sees no mode without a draw.
# - NUTS answers for the data that you choose, if R-hat is content. $\log p(x) - $ bound splits into the family's part
#   and the network's; here, and in most audits, the network's is the larger.
# - SBC asks for honest intervals on the model's own data. Predictive checks ask whether those data are like yours.
# - A posterior probability is calibrated if the model is right. Plant dirt, and look.
# - In ArviZ a guide's draws are one chain of independent draws: `kind="stats"`, no R-hat, k-hat beside them.
#
# ## Where to go on
#
# [02 Likelihood](02-likelihood.ipynb) uses the same weights for $\log p(x)$; [03 Outliers](03-outliers.ipynb) says
# what an outlier is; [10 Write your own](10-your-own.ipynb) audits a pair that you have written. The page [Did it
# work?](../docs/analysis.md) has all tests in one table, and four guides measured on MNIST and Frey faces.
#
# **Sources.** Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling. Yao, Vehtari, Simpson
# & Gelman (2018), Yes, but did it work? Cremer, Li & Duvenaud (2018), Inference suboptimality in VAEs. Talts,
# Betancourt, Simpson, Vehtari & Gelman (2018), Simulation-based calibration; Modrák et al. (2023), with functions of
# the data. Hoffman & Gelman (2014), NUTS. Kallioinen, Paananen, Bürkner & Vehtari (2024), power scaling. Gelman, Meng
# & Stern (1996), predictive checks. Kumar, Carroll, Hartikainen & Martin (2019), ArviZ.
