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
# # From reconstruction to generation
#
# **What you learn.** A model that reconstructs its data well knows *where* they lie. To draw new data it must also
# know *how they are spread* there. You will meet the families of generative models, the two criteria that an
# autoencoder has to meet to become one, when a VAE recovers a density exactly and why it fails on manifolds, and four
# repairs: a penalty on the codes (WAE), a second stage, a prior that learns, and the weight $\beta$.
#
# **For whom.** You know the ELBO ([the first notebook](01-the-vae.ipynb)). [The fifth](05-robust-pca.ipynb), "notebook
# 5" below, explains why codes that are not needed are filled with noise; one sentence recalls it here.
#
# **How long.** A minute and a half of computing on one core, two hours of reading and exercises.

# %%
import math
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import wasserstein_distance
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import logsigmoid

import pyro_vaes as pv
from pyro_vaes.evaluation.normality import mmd_to, spectrum
from pyro_vaes.inference.posterior import bound, reconstruct
from pyro_vaes.models.gaussian import LatentGaussian
from pyro_vaes.nn.scales import FixedScale
from pyro_vaes.variants.staged import first_stage

SMOKE = bool(os.environ.get("PYRO_VAES_SMOKE"))  # a few steps only: the cells run, figures mean nothing
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
RED, DARK, GREY, YELLOW, TEAL = "#d1495b", "#2e4057", "#9aa5b1", "#edae49", "#00798c"


def steps(n):
    return 20 if SMOKE else n


# %% [markdown]
# ## 1. Four ways to write down a distribution
#
# *Question: what does each family of generative models give up?*

# %% [markdown] tags=["derivation", "T27"]
# **Three explicit families, one Gaussian.** Let $x \in \mathbb{R}^d$ have the density $\mathcal{N}(0, S)$. Three
# recipes describe the same thing.
#
# *Autoregressive*: the chain rule, $p(x) = \prod_j p(x_j \mid x_1 \dots x_{j-1})$. Here each factor is a linear
# regression on the entries before, with coefficients $a_j = S_{<j,<j}^{-1} S_{<j,j}$ and variance
# $S_{jj} - S_{j,<j} a_j$. The density is exact; sampling takes $d$ steps, one after the other.
#
# *Flow*: $x = f(z)$ with $f$ invertible and $z \sim \mathcal{N}(0, I_d)$. Probability is kept, so
# $p(x) = \mathcal{N}(f^{-1}(x); 0, I)\, |\det \partial f / \partial z|^{-1}$. Here $f(z) = A z$ with $S = A A'$. The
# density is exact and sampling is one pass; the price is that $z$ must have as many entries as $x$.
#
# *Latent variable*: $p(x) = \int p(z)\, p(x \mid z)\, dz$ with few $z$. Here $x = W z + \sqrt{\gamma}\, \varepsilon$,
# where $\gamma$ is the smallest eigenvalue of $S$ and $W W' = S - \gamma I$. The integral is seldom tractable: hence
# the bound. The price is a bound; the gain is a code.

# %%
g = torch.Generator().manual_seed(0)
M = torch.randn(4, 4, generator=g, dtype=torch.float64)
S = M @ M.T + 0.3 * torch.eye(4)
x = torch.randn(6, 4, generator=g, dtype=torch.float64)
exact = MultivariateNormal(torch.zeros(4, dtype=torch.float64), S).log_prob(x)

chain = Normal(0, S[0, 0].sqrt()).log_prob(x[:, 0])
for j in range(1, 4):
    a = torch.linalg.solve(S[:j, :j], S[:j, j])
    chain = chain + Normal(x[:, :j] @ a, (S[j, j] - S[j, :j] @ a).sqrt()).log_prob(x[:, j])
assert torch.allclose(chain, exact)

A = torch.linalg.cholesky(S)
flow = Normal(0, 1).log_prob(torch.linalg.solve(A, x.T).T).sum(1) - torch.linalg.slogdet(A)[1]
assert torch.allclose(flow, exact)

ell, V = torch.linalg.eigh(S)
W = V[:, 1:] * (ell[1:] - ell[0]).sqrt()  # three codes are enough
latent = MultivariateNormal(torch.zeros(4, dtype=torch.float64), W @ W.T + ell[0] * torch.eye(4)).log_prob(x)
assert torch.allclose(latent, exact)

# %% [markdown] tags=["derivation", "T27"]
# **The implicit family: a game.** A generator turns noise into samples with an unknown density $q$; a discriminator
# $D(x) \in (0, 1)$ guesses whether $x$ is real. They play
#
# $$\min_q \max_D V(D, q), \qquad V = \mathrm{E}_{p} \log D(x) + \mathrm{E}_q \log (1 - D(x)) =
# \int p \log D + q \log (1 - D). \tag{1}$$
#
# *The best $D$.* Under the integral each $x$ stands alone. The derivative $p / D - q / (1 - D)$ is zero at
#
# $$D^*(x) = \frac{p(x)}{p(x) + q(x)}, \qquad \text{whose logit is } \log p(x) - \log q(x). \tag{2}$$
#
# *The value there.* Put (2) into (1) and write $m = \frac12 (p + q)$, so that $D^* = p / 2m$:
#
# $$V(D^*, q) = \mathrm{KL}[p \| m] + \mathrm{KL}[q \| m] - 2 \log 2 = 2\, \mathrm{JS}(p, q) - \log 4. \tag{3}$$
#
# The Jensen-Shannon divergence JS is zero only for $q = p$: the game has the right solution. But JS is never above
# $\log 2$, and is flat there: when $D$ wins, the generator's loss in (1) has no slope. In practice the generator
# minimises $- \mathrm{E}_q \log D$ instead, which is steep exactly then. `pv.players` has both; as
# $D$'s loss it shows $-V$, which is to be minimised.

# %%
t = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
dt = float(t[1] - t[0])
real, fake = Normal(0.0, 1.0), Normal(1.5, 0.7)
p, q = real.log_prob(t).exp(), fake.log_prob(t).exp()


def value(logit):
    """(1), for a discriminator given by its logit: log D = log sigmoid(logit)."""
    return float((p * logsigmoid(logit) + q * logsigmoid(-logit)).sum() * dt)


def jensen_shannon(p, q):
    m = 0.5 * (p + q) + 1e-300
    return float(0.5 * (torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum() * dt)


best = real.log_prob(t) - fake.log_prob(t)
js = jensen_shannon(p, q)
assert abs(value(best) - (2 * js - math.log(4))) < 1e-6
for bump in (torch.sin(t), torch.cos(3 * t), torch.tanh(t)):  # any other discriminator earns less
    assert value(best + 0.1 * bump) < value(best)


class Best(nn.Module):
    def forward(self, x):
        return real.log_prob(x) - fake.log_prob(x)


n = 200_000
game = pv.players(Best(), real.sample((n, 1)), fake.sample((n, 1)))
print(
    f"D's loss {game.discriminator:.3f} nats, log 4 - 2 JS = {math.log(4) - 2 * js:.3f}; accuracy {game.accuracy:.2f}"
)
assert abs(game.discriminator - (math.log(4) - 2 * js)) < 0.02


# %%
class Ideal(nn.Module):
    """The logit (2) for real data N(0, 1) and fakes N(m, 1)."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, x):
        return -self.m * x + self.m**2 / 2


shifts = torch.linspace(0.0, 8.0, 33)
flat, steep, distance = [], [], []
for m in shifts:
    for slopes, saturating in ((flat, True), (steep, False)):
        where = m.clone().requires_grad_()
        fakes = where + torch.randn(4000, 1, generator=torch.Generator().manual_seed(1))
        pv.players(Ideal(m), torch.zeros(2, 1), fakes, saturating=saturating).generator.backward()
        slopes.append(where.grad.item())
    distance.append(jensen_shannon(p, Normal(m, 1.0).log_prob(t).exp()))  # p is N(0, 1) already

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
axes[0].plot(t, real.log_prob(t).exp(), color=DARK, label="$p$, real")
axes[0].plot(t, q, color=RED, label="$q$, fake")
axes[0].plot(t, best.sigmoid(), color=YELLOW, label="$D^*$")
axes[0].set(title="The best discriminator", xlim=(-4, 5), ylim=(0, 1.35), xlabel="x", ylabel="density, probability")
axes[0].legend(frameon=False, ncols=3, loc="upper center")
axes[1].plot(shifts, distance, color=DARK)
axes[1].axhline(math.log(2), color=GREY, linestyle=":")
axes[1].text(5.0, 0.63, "log 2", color="#555555")
axes[1].set(title="JS saturates", xlabel="shift of the fakes", ylabel="JS (nats)")
axes[2].plot(shifts, flat, color=DARK, label="$\\log(1 - D)$")
axes[2].plot(shifts, steep, color=RED, label="$-\\log D$")
axes[2].set(title="Slope of the generator's loss", xlabel="shift of the fakes", ylabel="derivative")
axes[2].legend(frameon=False)
plt.show()
assert abs(flat[-1]) < 1e-3 and steep[-1] > 5

# %% [markdown]
# On the left $D^*$ rises again at the far right: the fakes have the thinner tails, so that a large $x$ speaks for real
# data. In the other two panels the fakes are $\mathcal{N}(m, 1)$. $D$ is the best one for the shift $m$, and held
# fixed while the fakes move. Once they are far away, $\log(1 - D)$ gives no direction; $-\log D$ pulls the harder the
# farther they are.

# %% [markdown] tags=["exercise"]
# **Exercise 1.** Real data are exactly 0, fakes exactly 1: two points. What are $D^*$, $V(D^*, q)$, JS and the
# accuracy? What does $D$'s loss tend to in `pv.players` as its weight grows, and what happens to both generator
# losses' gradients?

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# D* is 1 at 0 and 0 at 1, V = 0, JS = log 2, accuracy 1. D's loss tends to 0 = log 4 - 2 log 2. The saturating gradient
# dies with e^{-w/2}; the other one grows like the weight itself.
D = nn.Linear(1, 1)
for w in (2.0, 40.0):
    with torch.no_grad():
        D.weight.fill_(-w), D.bias.fill_(w / 2)
    slopes = {}
    for saturating in (True, False):
        fakes = torch.ones(3, 1, requires_grad=True)
        found = pv.players(D, torch.zeros(3, 1), fakes, saturating=saturating)
        found.generator.backward()
        slopes[saturating] = fakes.grad.sum().item()
    print(f"weight {w:4.0f}: D's loss {found.discriminator:.4f}, slopes {slopes[True]:.2e} and {slopes[False]:.2e}")
assert found.discriminator < 1e-6 and found.accuracy == 1 and slopes[True] < 1e-6 and slopes[False] > 39

# %% [markdown]
# ## 2. What makes an autoencoder a generator
#
# *Question: a decoder reconstructs well. When are its outputs for codes from the prior good?*
#
# Encode all data: their codes, taken together, have the distribution
#
# $$q(z) = \int q(z \mid x)\, p_{\text{data}}(x)\, dx,$$
#
# the *aggregated posterior*. New data are made by drawing $z \sim p(z)$ and decoding it.
#
# * **Criterion A**: reconstructions are good, $\mu_x(z) \approx x$ for $z \sim q(z \mid x)$.
# * **Criterion B**: the codes that are drawn are codes that occur, $q(z) \approx p(z)$.

# %% [markdown] tags=["derivation", "T17"]
# **A and B suffice.** Measure distributions by the Wasserstein distance $W_1$: the least mean distance by which mass
# has to be moved. Let $G = \mu_x$ be the decoder, with Lipschitz constant $K$; write $G_\# p$ for the distribution of
# $G(z)$ when $z \sim p$. By the triangle inequality
#
# $$W_1(p_{\text{data}}, G_\# p) \le W_1(p_{\text{data}}, G_\# q) + W_1(G_\# q, G_\# p)
# \le \underbrace{\mathrm{E} \|x - G(z)\|}_{\text{criterion A}} + K\, \underbrace{W_1(q(z), p(z))}_{\text{criterion B}}.
# \tag{4}$$
#
# The first step moves each datum to its own reconstruction, which is *a* way to move the mass, so it costs at least
# as much as the best way, which is $W_1$.
# The second moves codes and decodes them: a decoder stretches distances by $K$ at most. Both terms are needed: an
# autoencoder drives the first to zero and says nothing of the second.

# %%
g = torch.Generator().manual_seed(1)
data = torch.cat([torch.randn(5000, generator=g) * 0.4 - 1, torch.randn(5000, generator=g) * 0.3 + 1.5])


def decode(z):
    return z + 0.3 * torch.sin(3 * z)  # its slope is at most 1 + 0.9


codes = 0.9 * data + 0.05 * torch.randn(10_000, generator=g)  # some encoder
prior = torch.randn(10_000, generator=g)
left = wasserstein_distance(data, decode(prior))
term_a = (data - decode(codes)).abs().mean().item()
term_b = wasserstein_distance(codes, prior)
print(f"W1(data, samples) = {left:.3f} <= A {term_a:.3f} + 1.9 x B {term_b:.3f} = {term_a + 1.9 * term_b:.3f}")
assert left <= term_a + 1.9 * term_b
assert wasserstein_distance(data, decode(codes)) <= term_a
assert wasserstein_distance(decode(codes), decode(prior)) <= 1.9 * term_b

# %% [markdown]
# ## 3. When a VAE recovers a density exactly, and when not
#
# *Question: encoder and decoder are Gaussian. How can that be enough for a density that is not?*
#
# Three numbers matter: the entries of a datum, $d$; the codes, $k$; and the dimension $r \le d$ of the set on which
# the data lie. A cloud that fills space has $r = d$, a curve $r = 1$. As in notebook 5, $\gamma$ is the variance of
# the decoder's noise, $p(x \mid z) = \mathcal{N}(\mu_x(z), \gamma I)$.

# %% [markdown] tags=["derivation", "T15"]
# **No manifold, $r = d$: it is enough.** Take $d = 1$ and any density $p$ with distribution function $F$. The map
# $G = F^{-1} \circ \Phi$ turns a standard normal into $p$. Use it as the decoder, with noise $\gamma$, and the
# encoder
#
# $$q(z \mid x) = \mathcal{N}\big(G^{-1}(x),\, s^2(x)\big), \qquad s^2 = \frac{\gamma}{\gamma + G'^2},$$
#
# the variance that notebook 5 found to be the best, with the slope $G'$ in the place of $w$. As $\gamma \to 0$ the
# code becomes sharp, $s^2 \approx \gamma / G'^2$, and on so short a distance $G$ is straight:
# $x - G(z) \approx -G' (z - \bar z)$, $\bar z = G^{-1}(x)$. The terms of the ELBO become, with $\phi$ the standard
# normal density,
#
# $$\begin{aligned}
# \mathrm{E}_q \log p(x \mid z) &\to -\tfrac12 \log 2 \pi \gamma - \tfrac{1}{2 \gamma} G'^2 s^2 = -\tfrac12 \log 2 \pi
# \gamma - \tfrac12, \\
# \mathrm{KL}[q \| p(z)] &= \tfrac12 (\bar z^2 + s^2 - \log s^2 - 1) \to \tfrac12 \bar z^2 - \tfrac12 \log \gamma + \log
# G' - \tfrac12,
# \end{aligned}$$
#
# and their difference is
#
# $$\text{ELBO} \to \log \phi(\bar z) - \log G'(\bar z) = \log p(x). \tag{5}$$
#
# (The last step is the change of variables: $x = G(z)$ with $z \sim \phi$ has density $\phi(\bar z) / G'(\bar z)$.)
# All $\gamma$ have cancelled, and what remains is the change of variables: **a VAE whose $\gamma$ goes to zero is a
# flow.** Its Gaussian posterior becomes exact, because every smooth function is straight in a small neighbourhood. In
# $d$ dimensions the same holds with Jacobians: that is the exact-density-recovery theorem of Dai & Wipf (2019), for
# $k \ge d$ codes.

# %%
grid = np.linspace(-5, 5, 200_001)
parts = ((0.5, -1.5, 0.5), (0.5, 1.2, 0.8))
pdf = sum(w * np.exp(-0.5 * ((grid - m) / s) ** 2) / s / math.sqrt(2 * math.pi) for w, m, s in parts)
cdf = sum(w * torch.special.ndtr(torch.tensor((grid - m) / s)).numpy() for w, m, s in parts)
z_grid = torch.special.ndtri(torch.tensor(cdf)).numpy()
middle = (np.arange(400) + 0.5) / 400
xs = np.interp(middle, cdf, grid)  # 400 quantiles stand for the data
zs, log_p = np.interp(xs, grid, z_grid), np.log(np.interp(xs, grid, pdf))
slope = np.exp(-0.5 * zs**2) / math.sqrt(2 * math.pi) / np.exp(log_p)
nodes, weights = np.polynomial.hermite_e.hermegauss(40)


def elbo(decoder, zs, slope, gamma):
    """The ELBO at each datum, the expectation by quadrature."""
    s2 = gamma / (gamma + slope**2)
    z = zs[:, None] + np.sqrt(s2)[:, None] * nodes
    fit = -0.5 * np.log(2 * np.pi * gamma) - (xs[:, None] - decoder(z)) ** 2 / (2 * gamma)
    return fit @ weights / math.sqrt(2 * math.pi) - 0.5 * (zs**2 + s2 - np.log(s2) - 1)


def quantile(z):
    return np.interp(z, z_grid, grid)


gammas = np.logspace(-1, -6, 11)
gap = [float(np.mean(log_p - elbo(quantile, zs, slope, gamma))) for gamma in gammas]
print(f"gap to log p(x): {gap[0]:.3f} nats at gamma = 0.1, {gap[-1]:.5f} at gamma = 0.000001")
assert min(gap) > -1e-4 and gap[-1] < 1e-3 and gap[0] > 0.05

# %% [markdown] tags=["derivation", "T15"]
# **A manifold, $r < d$: the density is no longer singled out.** Put the same data on a line in the plane,
# $x = (G(z), 0)$. The decoder reconstructs the second entry exactly, which adds $-\frac12 \log 2 \pi \gamma$ to every
# bound:
#
# $$\text{ELBO} \to \log p(x_1) - \tfrac12 \log 2 \pi \gamma \;\longrightarrow\; +\infty .$$
#
# Now take a *wrong* decoder, $x = (a z + m, 0)$: a Gaussian on the same line. Its ELBO goes to
# $\log \mathcal{N}(x_1; m, a^2) - \frac12 \log 2 \pi \gamma$, and so to $+ \infty$ too. In general,
#
# $$\text{ELBO} = \tfrac{d - r}{2} \log \tfrac1\gamma + O(1), \tag{6}$$
#
# and the distribution on the manifold is all in the $O(1)$. At the optimum, $\gamma = 0$, right and wrong are equally
# infinite, and no theorem about optima can tell them apart. At a small $\gamma$ their difference is finite, and here
# it is just $\mathrm{KL}[p \| \mathcal{N}]$; but a gain of $\frac{d - r}{2} \log \frac1\gamma$ for finding the
# manifold stands beside it. (It is also why a good NLL says little about samples when data lie on manifolds: see
# [the second notebook](02-likelihood.ipynb).)

# %%
m, a = float(np.mean(xs)), float(np.std(xs))
wrong_zs = (xs - m) / a
right_bound, wrong_bound = [], []
for gamma in gammas:
    flat_entry = -0.5 * np.log(2 * np.pi * gamma)
    right_bound.append(np.mean(elbo(quantile, zs, slope, gamma)) + flat_entry)
    wrong_bound.append(np.mean(elbo(lambda z: a * z + m, wrong_zs, np.full_like(xs, a), gamma)) + flat_entry)
right_bound, wrong_bound = np.array(right_bound), np.array(wrong_bound)
wrong_log_p = -0.5 * ((xs - m) / a) ** 2 - math.log(a) - 0.5 * math.log(2 * math.pi)
kl = float(np.mean(log_p - wrong_log_p))
growth = (right_bound[-1] - right_bound[-3]) / math.log(gammas[-3] / gammas[-1])
print(f"growth per unit of log 1/gamma: {growth:.3f} (theory: 0.5)")
print(f"right - wrong: {right_bound[-1] - wrong_bound[-1]:.3f} nats, KL[p || Gaussian] = {kl:.3f} nats")
assert abs(growth - 0.5) < 0.01 and abs(right_bound[-1] - wrong_bound[-1] - kl) < 0.01
assert wrong_bound[-1] > right_bound[0] + 2  # the wrong density with a finer gamma beats the right one with a coarser

# %%
torch.manual_seed(0)
one = pv.gamma_vae(data_dim=1, latent_dim=1, hidden=(32, 32), real=True)
some = torch.randint(2, (2000,))
x1 = torch.where(some == 0, -1.5 + 0.5 * torch.randn(2000), 1.2 + 0.8 * torch.randn(2000))[:, None]
pv.fit(one, x1, steps=steps(1200), lr=5e-3, progress=False)
new = pv.sample(one, 20_000, noise=True).flatten()
reached, sd = bound(one, x1), one.model.scale().item()
print(f"trained: bound {reached:.3f} nats, E log p of the truth {np.mean(log_p):.3f} nats; sqrt(gamma) {sd:.3f}")
if not SMOKE:
    assert abs(reached - np.mean(log_p)) < 0.25

figure, axes = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
axes[0].loglog(gammas, np.clip(gap, 1e-6, None), color=RED, marker="o", markersize=4)
axes[0].set(title="$r = d$: the gap closes", xlabel="$\\gamma$", ylabel="E log p(x) - ELBO (nats)")
axes[0].invert_xaxis()
axes[1].hist(new.numpy(), bins=80, range=(-4, 4), density=True, color=GREY, label="trained VAE")
axes[1].plot(grid, pdf, color=RED, label="truth")
axes[1].set(title="A small VAE, trained", xlim=(-4, 4), ylim=(0, 0.62), xlabel="x", ylabel="density")
axes[1].legend(frameon=False, loc="upper right")
axes[2].semilogx(gammas, right_bound, color=RED, label="right density")
axes[2].semilogx(gammas, wrong_bound, color=DARK, linestyle="--", label="wrong density")
axes[2].set(title="$r < d$: both grow without limit", xlabel="$\\gamma$", ylabel="ELBO (nats)")
axes[2].invert_xaxis()
axes[2].legend(frameon=False)
plt.show()

# %% [markdown]
# The theorem is about the optimum, in the middle is what a short training found: its $\gamma$ is far from 0, so that
# its samples are the truth seen through a blur, and a tenth of a nat is missing. The way from one mode to the other
# is the hard part: $G$ must be very steep there.

# %% [markdown]
# ## 4. The aggregated posterior, and what the KL term asks of it
#
# *Question: the ELBO pulls each code to the prior. What does that do to all of them together?*

# %% [markdown] tags=["derivation", "T17"]
# Add and subtract $\log q(z)$ in the mean KL term:
#
# $$\mathrm{E}_x \mathrm{KL}[q(z \mid x) \| p(z)] =
# \underbrace{\mathrm{E} \log \frac{q(z \mid x)}{q(z)}}_{I(x; z), \text{ what the code says}} +
# \underbrace{\mathrm{KL}[q(z) \| p(z)]}_{\text{criterion B}}. \tag{7}$$
#
# Only the second part concerns generation; the first is the price of criterion A. The ELBO charges for both at the
# same rate. Two remarks follow.
#
# * A WAE charges for the second only (section 5).
# * The prior appears in the second part alone, which is zero for $p(z) = q(z)$: *the aggregated posterior is the best
#   prior* (section 7).
#
# With a linear Gaussian encoder, $q(z \mid x) = \mathcal{N}(A x, \mathrm{diag}\, s^2)$ of $x \sim \mathcal{N}(0, C)$,
# all three are closed: $q(z) = \mathcal{N}(0, T)$ with $T = A C A' + \mathrm{diag}\, s^2$, and
# $I = \frac12 \log |T| - \frac12 \sum_j \log s_j^2$. The library's `pv.decompose` estimates the parts for any pair,
# from draws: we compare it with the closed forms.

# %%
g = torch.Generator().manual_seed(4)
C = torch.randn(3, 3, generator=g, dtype=torch.float64)
C, A = C @ C.T, 0.5 * torch.randn(2, 3, generator=g, dtype=torch.float64)
s2 = torch.tensor([0.3, 0.05], dtype=torch.float64)
T = A @ C @ A.T + torch.diag(s2)
mean_kl = 0.5 * ((A @ C @ A.T).trace() + s2.sum() - s2.log().sum() - 2)
information = 0.5 * (torch.logdet(T) - s2.log().sum())
zero, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
marginal = kl_divergence(MultivariateNormal(zero, T), MultivariateNormal(zero, eye))
print(f"KL {mean_kl:.3f} = information {information:.3f} + KL of q(z) {marginal:.3f} nats")
assert torch.allclose(mean_kl, information + marginal)

torch.manual_seed(0)
gaussian = pv.affine_vae(data_dim=3, latent_dim=2, hidden=()).double()
with torch.no_grad():  # the encoder of the derivation: its mean is A x, its variance is s2
    gaussian.guide.encoder.loc.weight.copy_(A), gaussian.guide.encoder.loc.bias.zero_()
    gaussian.guide.encoder.raw_scale.weight.zero_()
    gaussian.guide.encoder.raw_scale.bias.copy_((s2.sqrt() - 1e-5).expm1().log())  # scale = softplus(.) + 1e-5
cloud = torch.randn(2000, 3, dtype=torch.float64)
cloud = cloud - cloud.mean(0)  # mean 0 and covariance C, exactly
cloud = torch.linalg.solve(torch.linalg.cholesky(cloud.T @ cloud / 2000), cloud.T).T @ torch.linalg.cholesky(C).T
estimated = pv.decompose(gaussian, cloud, draws=4)
print(f"estimated: KL {estimated.kl:.3f}, {estimated.information:.3f} + {estimated.marginal:.3f} nats")
assert abs(estimated.information - information) < 0.05 and abs(estimated.marginal - marginal) < 0.05

# %% [markdown]
# ## 5. Six generators of digits
#
# *Question: which of them meets A, which B, and what does the number of codes do?*
#
# The first 1,200 of scikit-learn's digits train; the other 597 judge. The measure is the *Fréchet distance* between
# Gaussians fitted to the features of samples and of held-out digits, where the features are those of a small
# classifier that is trained on the spot (`pv.Judge`). It is no FID: compare it here only. It also measures criterion
# A, on reconstructions of held-out digits: 0 would be digits that are like the held-out ones as a set. Criterion B is
# measured by the MMD$^2$ of the next derivation.

# %% [markdown] tags=["derivation", "T17"]
# **The Wasserstein autoencoder** keeps the codes deterministic and replaces the KL term by a distance between *sets*
# of codes. `pv.wae_mmd` minimises over batches of $B$, with $\lambda$ = `weight`,
#
# $$\frac1B \sum_i \Big[ \tfrac12 \|x_i - \mu_x(z_i)\|^2 + \tfrac{d}{2} \log 2 \pi \Big] + \lambda\,
# \widehat{\mathrm{MMD}}{}^2\big(\{z_i\}, \{\tilde z_i\}\big), \qquad \tilde z_i \sim p(z),$$
#
# where $\mathrm{MMD}^2 = \mathrm{E}\, \kappa(z, z') + \mathrm{E}\, \kappa(\tilde z, \tilde z') - 2 \mathrm{E}\,
# \kappa(z, \tilde z)$ is zero only for equal distributions. The kernel $\kappa$ says how alike two codes are; here it
# is a sum of seven terms $h / (h + \|z - z'\|^2)$ with seven widths $h$, so that MMD$^2$ is at most 14. The hat is an
# *unbiased* estimate: where two sets have one distribution it is zero on average, and below zero as often as above.
# `pv.wae_gan` puts the game of section 1 in its place, played on codes.
#
# **Too few codes fail A**: no decoder can show more dimensions than the code has. **Too many fail B**: data of $r$
# dimensions, encoded smoothly and without noise, lie on an $r$-dimensional set, and no penalty can spread them over
# $k > r$. For
# codes of covariance $P$ with eigenvalues $\ell_j$, of which $k - r$ are zero, the distance to the prior is, if
# all is Gaussian,
#
# $$W_2^2\big(\mathcal{N}(0, P), \mathcal{N}(0, I_k)\big) = \sum_{j=1}^k \big(\sqrt{\ell_j} - 1\big)^2 \;\ge\; k - r,
# \tag{8}$$
#
# because each zero eigenvalue adds 1. ($W_2$ is $W_1$ with squared distances; between Gaussians it is what
# `pv.frechet_distance` computes.)
#
# Both are a matter of degree on real data, whose $r$ is not sharp. A weight $\lambda$ has to be tuned between them.

# %%
digits = pv.load("digits")
train, held_out = digits.x[:1200], digits.x[1200:]
torch.manual_seed(0)
wae = pv.wae_mmd(data_dim=64, latent_dim=3, hidden=(16,), weight=5.0)
batch = train[:50]
torch.manual_seed(7)
total = wae(batch).total
with torch.no_grad():
    z = wae.guide.encoder(batch)
    error = 0.5 * (batch - wae.model.decoder(z)).square().sum(1).mean() + 32 * math.log(2 * math.pi)
    torch.manual_seed(7)  # the same draws of the prior
    drawn = Normal(torch.zeros(50, 3), 1.0).rsample()
    assert torch.allclose(total, error + 5 * pv.mmd(z, drawn), rtol=1e-5)

two = torch.randn(500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
flat_codes = two @ torch.randn(2, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)  # r = 2, k = 8
roots = spectrum(flat_codes).sqrt()
white = torch.randn(500, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
white = torch.linalg.solve(torch.linalg.cholesky(torch.cov(white.T)), (white - white.mean(0)).T).T
centred = flat_codes - flat_codes.mean(0)
assert abs(pv.frechet_distance(centred, white) - float((roots - 1).square().sum())) < 1e-5
assert (roots - 1).square().sum() >= 8 - 2

# %%
judge = pv.Judge(train, digits.y[:1200], held_out, digits.shape)
wide = {"data_dim": 64, "hidden": (128, 64)}
makers = {
    "autoencoder": lambda k: pv.autoencoder(latent_dim=k, **wide),
    "WAE-MMD": lambda k: pv.wae_mmd(latent_dim=k, weight=5.0, **wide),
    "two-stage VAE": lambda k: pv.two_stage_vae(latent_dim=k, second_hidden=(64, 64), **wide),
    "VAE, fixed $\\gamma$": lambda k: pv.l2_vae(latent_dim=k, **wide),
    "WAE-GAN": lambda k: pv.wae_gan(latent_dim=k, weight=1.0, discriminator_hidden=(32,), **wide),
}
trained = {}
for k in (2, 8, 32):
    for name, make in makers.items():
        if k != 8 and name in ("VAE, fixed $\\gamma$", "WAE-GAN"):
            continue
        torch.manual_seed(0)
        pair = make(k)
        if name == "two-stage VAE":  # its first stage is a VAE with learned gamma
            pv.fit_stages(pair, train, steps=[steps(700), steps(700)], lr=2e-3, progress=False)
            trained["VAE, learned $\\gamma$", k] = first_stage(pair)
        else:
            pv.fit(pair, train, steps=steps(700), lr=2e-3, progress=False)
        trained[name, k] = pair

# %%
measured = {}
for (name, k), pair in trained.items():
    site = "u" if name == "two-stage VAE" else "z"  # what the prior N(0, I) is to match
    codes = pv.aggregated(pair, train, site=site, draws=2000).draws
    measured[name, k] = {
        "samples": judge(pv.sample(pair, len(held_out)))["frechet distance"],
        "A": judge(reconstruct(pair, held_out)[0])["frechet distance"],
        "B": mmd_to(codes, block=1000)[0],
        "codes": codes,
    }
print(f"real digits against held-out ones: {judge.real['frechet distance']:.2f}")
print("k = 8                  samples   A: reconstructions   B: MMD^2 of codes")
for (name, k), found in measured.items():
    if k == 8:
        print(f"{name:22s} {found['samples']:7.2f} {found['A']:16.2f} {found['B']:20.3f}")

# %%
shown = ["autoencoder", "WAE-MMD", "VAE, learned $\\gamma$", "two-stage VAE"]
colors = dict(zip(shown, (GREY, YELLOW, DARK, RED), strict=True))
figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.9), layout="constrained")
for name in shown:
    ks = (2, 8, 32)
    axes[0].plot(ks, [measured[name, k]["A"] for k in ks], marker="o", color=colors[name])
    axes[1].plot(ks, [measured[name, k]["samples"] for k in ks], marker="o", color=colors[name], label=name)
    axes[2].plot(range(1, 33), spectrum(measured[name, 32]["codes"]), color=colors[name])
for ax, title in ((axes[0], "A: reconstructions"), (axes[1], "Samples")):
    ax.axhline(judge.real["frechet distance"], color="black", linestyle=":", linewidth=1)
    ax.set(title=title, xlabel="codes k", ylabel="Fréchet distance", xscale="log", yscale="log")
    ax.set_xticks((2, 8, 32), ("2", "8", "32"))
    ax.minorticks_off()
axes[2].axhline(1, color="black", linestyle=":", linewidth=1)
axes[2].set(
    title="B: spectrum of the codes, k = 32", xlabel="number", ylabel="eigenvalue of q's covariance", yscale="log"
)
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
plt.show()

# %%
rows = [(name, k) for k in (8,) for name in shown] + [(name, 32) for name in shown]
figure, axes = plt.subplots(len(rows), 14, figsize=(11, 6.6), layout="constrained")
for line_of_axes, key in zip(axes, rows, strict=True):
    for ax, image in zip(line_of_axes, pv.sample(trained[key], 14, seed=1), strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    text = f"{key[0]}, k = {key[1]}"
    line_of_axes[0].set_ylabel(text, rotation=0, ha="right", va="center")
figure.suptitle("New digits: codes drawn from the prior")
plt.show()
if not SMOKE:
    for k in (8, 32):
        plain, second = measured["autoencoder", k], measured["two-stage VAE", k]
        assert plain["samples"] > 2 * second["samples"] and plain["B"] > second["B"]
    assert measured["autoencoder", 2]["A"] > measured["autoencoder", 32]["A"]  # too few codes fail A
    assert measured["WAE-MMD", 32]["B"] > measured["VAE, learned $\\gamma$", 32]["B"]  # too many fail B

# %% [markdown]
# Reading the figure:
#
# * The **autoencoder** meets A as well as any, and fails B by far: its codes have the size that training happened to
#   give them, and codes from the prior decode to nothing in particular.
# * With **two** codes nobody meets A. With many the **WAE** cannot meet B: its codes' spectrum falls far below 1, as
#   (8) says, and its samples get worse again. That is its trade-off, and the reason to tune $k$.
# * The **VAE** fills the codes that it does not need with noise, so that its spectrum stays near 1. Its
#   reconstructions (those of the two-stage VAE are the same, hence one line) are worse after so few steps.
# * The **two-stage VAE** improves on its first stage at every $k$, and from 8 codes to 32 it hardly changes. (Its line
#   on the right, and its B in the table, are those of $u$, the code of stage 2: that is what its prior is to match.)
#   At $k = 8$ the WAE is better still: at the right $k$ it is a fine generator, and a two-stage VAE is one that need
#   not know it.
# * One training each on 1,200 small images: the pattern is worth something, the numbers are not. With five seeds and
#   MNIST the experiment `two-stage` ([results](../docs/generation.md)) found the same pattern, with the two-stage VAE
#   ahead at every $k$ from 8 on.

# %% [markdown] tags=["exercise"]
# **Exercise 2.** The table has a VAE with $\gamma$ fixed at 1. Notebook 5 says what becomes of codes whose variance
# in the data is below $\gamma$. Predict which criterion it meets, and how its samples look. Then compare its numbers
# with those of the autoencoder, and count its used codes.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# Nearly all codes are pruned, so q(z) is the prior: B is met for nothing. Reconstructions and samples are both the mean
# digit: A fails. Criterion B alone is cheap, and a look at one criterion misleads.
fixed, plain = measured["VAE, fixed $\\gamma$", 8], measured["autoencoder", 8]
used = int(pv.aggregated(trained["VAE, fixed $\\gamma$", 8], train, draws=500).used.sum())
print(f"used codes: {used} of 8; autoencoder: B {plain['B']:.2f}, A {plain['A']:.1f}")
print(f"VAE with gamma fixed: B {fixed['B']:.4f}, A {fixed['A']:.1f}")
if not SMOKE:
    assert used < 8 and fixed["B"] < plain["B"] and fixed["A"] > plain["A"]

# %% [markdown]
# ## 6. Two stages
#
# *Question: the VAE's $q(z)$ is near the prior, not on it. How do we close the gap without spoiling A?*

# %% [markdown] tags=["derivation", "T18"]
# The argument of Dai & Wipf (2019), in three steps.
#
# *Stage 1* is a VAE with learned $\gamma$ and enough codes, $k \ge r$. It finds the manifold and reconstructs (A);
# section 3 says that it need not find the density on it.
#
# *Its codes have no manifold.* By the law of total variance
#
# $$\mathrm{Cov}\, q(z) = \underbrace{\mathrm{Cov}_x\, \mu_z(x)}_{\succeq 0} +
# \mathrm{E}_x\, \mathrm{diag}\, s^2(x), \tag{9}$$
#
# so that the smallest eigenvalue is at least $\min_j \mathrm{E}\, s_j^2 > 0$: the codes that are not needed are full
# of noise. A deterministic encoder has no second term, and its codes lie on a thin set.
#
# *Stage 2* is a small VAE whose data are draws $z \sim q(z)$. They have $r = d = k$: the case of section 3 in which
# density recovery is exact at the optimum. Its $p(z)$ replaces the prior, and B holds as far as stage 2 has learned.
#
# Why not train both at once? The joint ELBO would bend the codes of stage 1 towards what stage 2 finds easy, and the
# KL term would again charge for both parts of (7). In `pv.two_stage_vae` no gradient of the second loss reaches the
# first stage.

# %%
vae, ae = trained["VAE, learned $\\gamma$", 8], trained["autoencoder", 8]
found = pv.aggregated(vae, train, draws=40_000)
total_variance = torch.cov(found.mean.T) + torch.diag(found.variance.mean(0))
covariance = torch.cov(found.draws.T)  # of the draws themselves, which know nothing of (9)
assert (covariance - total_variance).abs().max() < 0.05
smallest, least = torch.linalg.eigvalsh(covariance)[0].item(), found.variance.mean(0).min().item()
without = torch.linalg.eigvalsh(torch.cov(found.mean.T))[0].item()  # the first term of (9) only
print(f"smallest eigenvalue of Cov q(z): {smallest:.3f}, at least {least:.3f}; without the noise {without:.4f}")
assert smallest > least - 0.05
if not SMOKE:
    assert without < 0.1 * least
assert bool((pv.aggregated(ae, train, draws=10).variance == 0).all())

stage = trained["two-stage VAE", 8]
stage.objective.stage = 2
stage.zero_grad()
stage(train[:20]).total.backward()
moved = {name for name, value in stage.named_parameters() if value.grad is not None and bool((value.grad != 0).any())}
stage.objective.stage = 0
print(sorted({name.split(".")[1] for name in moved}))
assert moved and not any(name.startswith(("model.decoder", "guide.encoder")) for name in moved)

# %% [markdown]
# What new codes does each stage draw? We look at the two codes of stage 1 whose posteriors are the narrowest, which
# carry most. As a control, a third way to draw codes that takes no network: a Gaussian with the mean and covariance of
# $q(z)$.

# %%
order = found.variance.mean(0).argsort()[:2]
with torch.no_grad():
    u = torch.randn(2000, 8, generator=torch.Generator().manual_seed(5))
    noise = torch.randn(2000, 8, generator=torch.Generator().manual_seed(6))
    second = stage.model.second_decoder(u) + stage.model.second_scale(u) * noise
clouds = {
    "codes of data, q(z)": found.draws[:2000],
    "stage 1 draws N(0, I)": torch.randn(2000, 8, generator=torch.Generator().manual_seed(7)),
    "stage 2 draws p(z)": second,
}
moments = MultivariateNormal(found.draws.mean(0), covariance)  # a Gaussian with the mean and covariance of q(z)
torch.manual_seed(8)
clouds["moments only"] = moments.sample((2000,))
to_data = {name: mmd_to(cloud, found.draws[2000:4000], block=1000)[0] for name, cloud in clouds.items()}
for name, cloud in clouds.items():
    with torch.no_grad():
        images = judge(stage.model.decoder(cloud[: len(held_out)]))["frechet distance"]
    print(f"{name:22s} MMD^2 to q(z): {to_data[name]:6.3f}; Frechet distance of the images: {images:.2f}")
figure, axes = plt.subplots(1, 4, figsize=(12.5, 3.8), layout="constrained", sharex=True, sharey=True)
for ax, (name, cloud), color in zip(axes, clouds.items(), (TEAL, GREY, RED, YELLOW), strict=True):
    ax.scatter(*cloud[:, order].T, s=4, color=color, alpha=0.5, linewidths=0)
    ax.set(title=f"{name}\nMMD² to q(z): {to_data[name]:.3f}", xlabel="code 1", xlim=(-4, 4), ylim=(-4, 4))
axes[0].set_ylabel("code 2")
figure.suptitle("The second stage is closer to the codes of data, though not all the way (k = 8)", fontsize=12)
plt.show()
if not SMOKE:
    assert to_data["stage 2 draws p(z)"] < to_data["stage 1 draws N(0, I)"]

# %% [markdown]
# Be as critical of the second stage as of the first. To the eye its cloud has no more of the gaps between the digits
# than $\mathcal{N}(0, I)$ has, and the control does about as well by both numbers: so far this stage has learned
# little beyond the mean and the covariance of $q(z)$. That alone brings the images nearer. How much more there is to
# gain says the first row, where codes of data are decoded: what remains there is stage 1's own error.

# %% [markdown]
# ## 7. A prior that learns
#
# *Question: instead of pulling the codes to the prior, can the prior go to the codes?*
#
# Equation (7) says that the best prior is $q(z)$ itself. With 1,200 data it would be a mixture of 1,200 Gaussians,
# costly and overfitted; two cheaper mixtures are common. `pv.mixture_vae` learns $C$ Gaussians. `pv.vamp_vae` learns
# $C$ *pseudo-inputs* $u_c$ and takes $p(z) = \frac1C \sum_c q(z \mid u_c)$, the guide's own answers. The digits are
# made binary and the code has two entries, so that we can look. The pseudo-inputs start at twenty of the data.
# `pv.decompose` estimates the parts of (7).

# %%
binary = (train > 0.5).float()
torch.manual_seed(0)
small = {"data_dim": 64, "latent_dim": 2, "hidden": (64,)}
priors = {
    "N(0, I)": pv.beta_vae(beta=1.0, **small),  # with beta = 1 it is the plain VAE
    "mixture of 10": pv.mixture_vae(components=10, **small),
    "VampPrior, 20 inputs": pv.vamp_vae(components=20, **small),
}
priors["VampPrior, 20 inputs"].model.prior.place(binary[:20])
split = {}
for name, pair in priors.items():
    pv.fit(pair, binary, steps=steps(800), lr=3e-3, progress=False)
    split[name] = part = pv.decompose(pair, binary)
    parts = f"{part.reconstruction:7.2f} - ({part.information:.2f} + {part.marginal:.2f})"
    print(f"{name:21s} ELBO {part.bound:7.2f} = {parts}")
    assert abs(part.bound - bound(pair, binary)) < 0.2  # the ELBO of other draws

# %%
side = torch.linspace(-4.0, 4.0, 121)
figure, axes = plt.subplots(1, 3, figsize=(11.5, 4.0), layout="constrained")
for ax, (name, pair) in zip(axes, priors.items(), strict=True):
    codes = pv.aggregated(pair, binary, draws=3000).draws
    ax.scatter(*codes.T, s=3, color=TEAL, alpha=0.5, linewidths=0)
    across, up = (codes.mean(0) + codes.std(0) * side[:, None]).T
    with torch.no_grad():
        density = pair.model.prior().log_prob(torch.cartesian_prod(across, up)).exp().reshape(121, 121)
    levels = np.array([0.05, 0.25, 0.6]) * float(density.max())
    ax.contour(across, up, density.T, levels=levels, colors=RED, linewidths=1.2)
    limits = {"xlim": (across[0], across[-1]), "ylim": (up[0], up[-1])}
    ax.set(title=f"{name}\nKL[q(z) || p(z)] = {split[name].marginal:.3f} nats", xlabel="code 1", **limits)
axes[0].set_ylabel("code 2")
figure.suptitle("Codes of digits (dots) and the prior (lines)", fontsize=12)
plt.show()
if not SMOKE:
    assert min(split[name].marginal for name in list(split)[1:]) < split["N(0, I)"].marginal

# %% [markdown]
# Look at the axes: the learned priors have wandered, and the codes with them. Nothing holds either in place, for only
# their difference counts. The VampPrior sits on its codes, criterion B is met; the mixture is hardly nearer to its codes
# than $\mathcal{N}(0, I)$ is to those of the plain VAE. But look at the printed lines too (ELBO = reconstruction -
# (information + KL of $q(z)$)): there was next to nothing to save with two codes, the KL of $q(z)$ from
# $\mathcal{N}(0, I)$ was a few hundredths of a nat. Both learned priors, which have more to learn in the same steps,
# end a little lower, and the VampPrior's codes say less of their data. A prior that learns pays where there are more
# codes and more steps; on this page it is a picture, not a gain.
#
# ## 8. The weight $\beta$: how much a code may say
#
# *Question: what does one number in front of the KL term do?*

# %% [markdown] tags=["derivation", "T25"]
# The loss $\mathrm{E}[-\log p(x \mid z)] + \beta\, \mathrm{KL}$ weighs two quantities: the *distortion*
# $D = \mathrm{E}[-\log p(x \mid z)]$ and the *rate* $R = \mathrm{E}_x \mathrm{KL}$, the nats that the code may spend.
# Where the best reachable $D$ is a smooth function of $R$, minimising $D + \beta R$ finds the point with
# $dD / dR = - \beta$: **$\beta$ is the exchange rate.** Three facts make it concrete.
#
# *It is the noise level in disguise.* With $p(x \mid z) = \mathcal{N}(\mu_x(z), \gamma I)$, $\gamma$ fixed,
#
# $$\frac{1}{2 \gamma} \mathrm{E} \|x - \mu_x\|^2 + \beta\, \mathrm{KL} =
# \beta \Big[ \frac{1}{2 \beta \gamma} \mathrm{E} \|x - \mu_x\|^2 + \mathrm{KL} \Big] : \tag{10}$$
#
# $\beta$ times the loss of the *plain* VAE whose variance is $\beta \gamma$, up to a constant. The gradients are the
# same.
#
# *It sets the capacity.* In the linear case a direction of the data with variance $\ell$ is used if and only if
# $\ell > \gamma$ (notebook 5); by (10) if and only if $\ell > \beta \gamma$. Large $\beta$ switches codes off one by
# one.
#
# *Averages hide it.* If a program averages the error over the entries of an image but sums the KL term and weighs it
# by $\alpha$, its $\beta$ is $\alpha$ times the number of entries: $\alpha = 0.0003$ on $3 \times 64 \times 64$
# (Shang et al. 2017) is $\beta \approx 3.69$.
#
# Mind what is reported. With $\beta \ne 1$ the loss is no bound that one would quote. The library minimises `total`
# and shows `bound`, the ELBO with $\beta = 1$; they differ by $(\beta - 1)\, \mathrm{KL}$. (The course report, S4,
# gives a $\beta$-VAE row without saying which of both it is, and prints $\log p(z \mid x)$ where $\log p(x \mid z)$
# is meant.)

# %%
torch.manual_seed(0)
weighted = pv.l2_vae(data_dim=64, latent_dim=4, hidden=(16,), beta=4.0)  # gamma = 1
wider = LatentGaussian(weighted.model.prior, weighted.model.decoder, FixedScale(2.0))  # sd 2: gamma = 4
plain = pv.Pair(wider, weighted.guide, name="plain")  # the same networks, the ELBO
gradients = []
for pair, factor in ((weighted, 1.0), (plain, 4.0)):
    weighted.zero_grad()
    torch.manual_seed(1)  # the same noise
    (factor * pair(batch).total).backward()
    gradients.append(torch.cat([value.grad.flatten() for value in weighted.parameters()]))
assert torch.allclose(gradients[0], gradients[1], atol=1e-5)

torch.manual_seed(1)
loss = weighted(batch)
kl_term = loss.terms["z"] / 4  # the term is shown weighted
assert torch.allclose(loss.total, -loss.bound + (4 - 1) * kl_term, rtol=1e-5)
assert abs(0.0003 * 3 * 64 * 64 - 3.69) < 0.01

# %%
betas = (0.1, 0.3, 1.0, 1.7, 3.0, 10.0)
family = []
for beta in betas:
    torch.manual_seed(0)
    family.append(pv.beta_vae(data_dim=64, latent_dim=8, hidden=(64,), beta=beta))
pv.fit(family, binary, steps=steps(700), lr=3e-3, seed=0, progress=False)  # six pairs side by side
curve = [pv.decompose(pair, binary) for pair in family]
used = [int(pv.aggregated(pair, binary, draws=500).used.sum()) for pair in family]
rate, distortion = [one.kl for one in curve], [-one.reconstruction for one in curve]
elbos = [one.bound for one in curve]
if not SMOKE:
    assert rate == sorted(rate, reverse=True) and distortion == sorted(distortion)
    assert betas[int(np.argmax(elbos))] in (0.3, 1.0, 1.7) and used[-1] < used[0]
    rates = -np.diff(distortion) / np.diff(rate)  # the slope between neighbours lies between their betas
    print("slopes between the points:", ", ".join(f"{value:.2f}" for value in rates))
    assert all(low <= value <= high for low, value, high in zip(betas, rates, betas[1:], strict=False))

figure, axes = plt.subplots(1, 2, figsize=(11, 4.0), layout="constrained")
axes[0].plot(rate, distortion, color=RED, marker="o")
for beta, r, dist in zip(betas, rate, distortion, strict=True):
    axes[0].annotate(f"$\\beta$ = {beta:g}", (r, dist), xytext=(6, 5), textcoords="offset points")
axes[0].set(title="$\\beta$ moves along one curve", xlabel="rate: KL (nats)", ylabel="distortion (nats)")
axes[0].set_xlim(right=1.15 * max(rate))
axes[0].set_ylim(top=max(distortion) + 1.2)
axes[1].semilogx(betas, elbos, color=DARK, marker="o", label="bound ($\\beta = 1$)")
axes[1].semilogx(
    betas,
    [e - (b - 1) * r for e, b, r in zip(elbos, betas, rate, strict=True)],
    color=GREY,
    marker="o",
    label="minus the loss",
)
for beta, e, count in zip(betas, elbos, used, strict=True):
    axes[1].annotate(f"{count}", (beta, e), xytext=(0, 7), textcoords="offset points", ha="center")
axes[1].set(title="Two numbers to report (above: used codes of 8)", xlabel="$\\beta$", ylabel="nats per digit")
axes[1].legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown] tags=["exercise"]
# **Exercise 3.** Take a *linear* VAE of the digits with $\gamma = 0.05$. Using (10) and the eigenvalues of the
# digits' covariance, predict how many codes are used at $\beta = 1$, $4$ and $20$, then check each prediction by
# minimising the exact energy $\frac12 [\log (c^2 + \beta \gamma) + \ell / (c^2 + \beta \gamma)]$ of a column of
# length $c$ along an eigenvector.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# A code is used if its eigenvalue exceeds beta gamma: 0.05, 0.2 and 1.0. At beta = 20 all are lost.
eigenvalues = torch.linalg.eigvalsh(torch.cov(train.T).double())
c2 = torch.linspace(0, 2, 20_001, dtype=torch.float64)
for beta in (1, 4, 20):
    noise = beta * 0.05
    energies = 0.5 * ((c2 + noise).log() + eigenvalues[:, None] / (c2 + noise))
    kept = int((c2[energies.argmin(1)] > 5e-4).sum())
    predicted = int((eigenvalues > noise + 5e-4).sum())
    print(f"beta = {beta:2d}: {kept} codes")
    assert kept == predicted
assert kept == 0

# %% [markdown]
# ## What to remember
#
# * Autoregressive models and flows have exact densities, GANs have none, latent-variable models have a bound, and a
#   code. The GAN's game measures $2\, \mathrm{JS} - \log 4$, which is flat when the discriminator wins.
# * A generator needs **A**, good reconstructions, and **B**, codes distributed like the prior: their errors add up.
# * With $r = d$ a VAE becomes an exact flow as $\gamma \to 0$. On a manifold the bound is infinite for right and
#   wrong densities alike.
# * Too few codes fail A; too many, without noise, fail B. The VAE's noise fills them, and a second stage learns what
#   is left.
# * $\beta$ is an exchange rate between rate and distortion, and for a Gaussian decoder with a fixed $\gamma$ just
#   another $\gamma$.
#
# ## Where to go on
#
# * [Likelihood honestly](02-likelihood.ipynb): what a likelihood says, and when it misleads.
# * [The VAE meets robust PCA](05-robust-pca.ipynb): pruning, and the theorems behind stage 1.
# * [Channel recurrence](07-channels.ipynb): a GAN's game beside an ELBO, for images.
# * [Generation: all results](../docs/generation.md).
#
# **Sources.** Goodfellow et al. (2014), the game. Tolstikhin, Bousquet, Gelly & Schölkopf (2018), WAE. Dai & Wipf
# (2019), density recovery and two stages. Hoffman & Johnson (2016), the parts of the KL term. Tomczak & Welling
# (2018), the VampPrior. Higgins et al. (2017), $\beta$. Alemi et al. (2018), rate and distortion. The tutorial slides
# (S3), parts I and IV.
