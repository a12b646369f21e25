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
# # The VAE meets robust PCA
#
# **What you learn.** A VAE whose decoder is affine is a robust PCA in disguise. You will see why: which problem its
# energy solves when no noise is left, why it does so although it is given too many codes, what the autoencoder that
# hides inside of it gets wrong, and what changes when the data lie on a curve. Then the two ways to fail: too much
# regularisation, and a decoder that is too deep.
#
# **For whom.** You know PCA and the ELBO ([the first notebook](01-the-vae.ipynb)). The logarithmic loss of
# [the third](03-outliers.ipynb) is derived again, in two lines.
#
# **How long.** About a minute and a half of computing on one core, two hours of reading and exercises.

# %%
import math
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.decomposition import PCA

import pyro_vaes as pv
from pyro_vaes.data.manifold import contaminated
from pyro_vaes.evaluation.rpca import rpca
from pyro_vaes.evaluation.slices import convex_energy, induced_energy, line, local_minima, vae_energy
from pyro_vaes.inference.posterior import bound, reconstruct
from pyro_vaes.inference.proposition1 import h_at, posterior, surrogate

SMOKE = bool(os.environ.get("PYRO_VAES_SMOKE"))  # a few steps only: the cells run, figures mean nothing
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
RED, DARK, GREY, YELLOW, TEAL = "#d1495b", "#2e4057", "#9aa5b1", "#edae49", "#00798c"


def steps(n):
    return 20 if SMOKE else n


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## 1. One bad entry, and PCA
#
# *Question: how much can a single number spoil?*
#
# Fifty points lie near a line in the plane. One of them gets a wrong second coordinate. PCA minimises *squares*, so
# the point that is eight units away counts as much as thousands that are a tenth of a unit away, and the first
# principal direction turns to it. We compare PCA with two methods that this notebook is about: *convex robust PCA*
# (section 2), and the *affine iC-VAE*. "Affine" is its decoder, $\mu_x(z) = Wz + b$. "iC" is short for
# index-conditional (Wang et al. 2018): every entry of every datum has a variance of its own, so that errors count by
# their logarithm (section 3). `width` is the largest error to expect.

# %%
angle = math.radians(30.0)
along = torch.randn(50, 1, generator=seeded(3))
clean = along * torch.tensor([math.cos(angle), math.sin(angle)]) + 0.05 * torch.randn(50, 2, generator=seeded(4))
dirty = clean.clone()
dirty[clean[:, 0].argmax(), 1] -= 8.0

torch.manual_seed(0)
toy = pv.affine_ic_vae(data_dim=2, latent_dim=1, hidden=(32,), width=10.0)
warm_up = {"beta": (0.0, 1.0, steps(750))}  # the weight of the KL term rises from 0 to 1
pv.fit(toy, dirty, steps=steps(1500), lr=5e-3, batch_size=50, schedules=warm_up, progress=False)


def first_direction(x):
    return torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]


def degrees(one, other):
    return math.degrees(math.acos(min(1.0, abs(float(one @ other / one.norm() / other.norm())))))


directions = {
    "PCA": first_direction(dirty),
    "convex RPCA": first_direction(rpca(dirty - dirty.median(0).values).low_rank),
    "affine iC-VAE": toy.model.decoder.weight.detach()[:, 0],
}
turned = {name: degrees(v, first_direction(clean)) for name, v in directions.items()}
for name, value in turned.items():
    print(f"{name:14s} turned by {value:5.1f} degrees")
if not SMOKE:
    assert turned["PCA"] > 30 > 5 > turned["affine iC-VAE"]

# %%
figure, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
ax.scatter(*dirty.T, s=16, color=GREY, label="data")
middle = clean.mean(0)
styles = {"PCA": (DARK, "--"), "convex RPCA": (TEAL, "-."), "affine iC-VAE": (RED, "-")}
for name, v in directions.items():
    ends = middle + torch.tensor([[-3.5], [3.5]]) * v / v.norm()
    color, dash = styles[name]
    ax.plot(*ends.T, color=color, linestyle=dash, label=f"{name}: {turned[name]:.1f}° off")
ax.set(xlabel="$x_1$", ylabel="$x_2$")
figure.suptitle("A single wrong entry turns PCA, but hardly the robust methods", fontsize=12)
ax.set_aspect("equal")
ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
plt.show()

# %% [markdown]
# ## 2. The problem, and its convex relaxation
#
# *Question: what should a method do that does not fall for outliers?*
#
# Write the $n$ data of $d$ entries as rows of a matrix $X$. Robust PCA splits it into $X = L + E$: the *inliers* $L$
# have low rank, the *outliers* $E$ are few but may be large. With $\|E\|_0$ the number of entries of $E$ that are not
# zero, the ideal is
#
# $$\min_{L,\, E}\; n \cdot \mathrm{rank}\, L + \|E\|_0 \quad\text{subject to}\quad X = L + E. \tag{1}$$
#
# Why the factor $n$? A further dimension gives each of the $n$ data one more free number, an outlier is one free
# number of one datum: (1) counts free numbers. The problem is combinatorial. Principal component pursuit replaces
# both counts by convex functions near them, the sum of singular values $\|L\|_*$ and the sum of absolute values
# $\|E\|_1$:
#
# $$\min_{L,\, E}\; \|L\|_* + \lambda \|E\|_1 \quad\text{subject to}\quad X = L + E, \qquad
# \lambda = 1/\sqrt{\max(n, d)}. \tag{2}$$
#
# In the code the split is `split.low_rank` and `split.sparse`, and $\lambda$ is `weight`.

# %% [markdown] tags=["derivation", "T12"]
# **How do you know that a solver has solved (2)?** You need not trust it. Take any matrix $Y$ whose largest singular
# value $\|Y\|_2$ is at most 1 and whose largest entry in size, $\|Y\|_\infty$, is at most $\lambda$. Write
# $\langle Y, X \rangle = \sum_{ij} Y_{ij} X_{ij}$. The norms in (2) are the largest values that such products can
# take: $\|L\|_* = \max_{\|Y\|_2 \le 1} \langle Y, L \rangle$ and
# $\lambda \|E\|_1 = \max_{\|Y\|_\infty \le \lambda} \langle Y, E \rangle$. So for *every* split
#
# $$\|L\|_* + \lambda \|E\|_1 \;\ge\; \langle Y, L \rangle + \langle Y, E \rangle = \langle Y, X \rangle. \tag{3}$$
#
# The right-hand side does not depend on the split. A $Y$ for which both sides agree proves that the split is optimal.
# The solver returns one, `split.dual`. We check it, and that with few outliers the truth is found *exactly*.

# %%
known = contaminated(300, 60, 3, 0.1, generator=seeded(0))  # n, d, rank, share of outliers
x = known.dirty.double()
split = rpca(x)
weight = 1 / math.sqrt(max(x.shape))
value = torch.linalg.matrix_norm(split.low_rank, "nuc") + weight * split.sparse.abs().sum()
lower = (split.dual * x).sum()
assert torch.linalg.matrix_norm(split.dual, 2) <= 1 + 1e-6 and split.dual.abs().max() <= weight + 1e-6
assert abs(value - lower) < 1e-4 * value
error = ((split.low_rank - known.clean).norm() / known.clean.norm()).item()
print(f"energy {value:.4f}, lower bound {lower:.4f}; rank {split.rank}; relative error of L {error:.1e}")
assert split.rank == 3 and error < 1e-4

# %% [markdown]
# With more outliers, or a higher rank, the relaxation has another optimum than (1), and the certificate then proves
# optimality for the wrong problem. Section 5 maps where.
#
# ## 3. The autoencoder inside the VAE
#
# *Question: what does a VAE minimise if its code has no noise and its variance is free?*

# %% [markdown] tags=["derivation", "T12"]
# Start from the negative ELBO of a Gaussian decoder with its own variance $\sigma_j^2$ for each entry of each datum,
#
# $$\mathrm{KL}\big[q(z \mid x)\,\|\,p(z)\big] + \mathrm{E}_q \sum_{j=1}^d \Big[ \tfrac12 \log 2 \pi \sigma_j^2 +
# \frac{e_j^2}{2 \sigma_j^2} \Big], \qquad e = x - \mu_x(z).$$
#
# *Step 1: switch the encoder's noise off.* $q$ becomes a point mass at $z = f(x)$ and the expectation goes. The KL
# term of a point mass is infinite; we *drop* it. This step is no limit of the VAE but another model: what is left
# when the VAE's noise and its regulariser are taken away.
#
# *Step 2: put the best variance in.* The bracket has derivative $\frac{1}{2 \sigma_j^2} - \frac{e_j^2}{2 \sigma_j^4}$
# in $\sigma_j^2$, which is zero at $\sigma_j^2 = e_j^2$. What is left is
#
# $$\sum_j \log |e_j| + \tfrac{d}{2} (1 + \log 2 \pi), \tag{4}$$
#
# the *induced autoencoder*. Its loss counts: since $\lim_{p \to 0} \frac1p (|e|^p - 1) = \log |e|$, the sum of
# logarithms is what $\ell_p$ norms become as $p \to 0$, and the limit of $\sum_j |e_j|^p$ itself is $\|e\|_0$. The
# logarithm has a pole at 0, so the library adds a *floor* $\epsilon$: the error below which a residual is no outlier.
# The variance is then $e_j^2 + \epsilon^2$. A normaliser $\log(2\, \mathrm{asinh}(R/\epsilon))$ per entry (with $R$
# the largest outlier to expect, `width`; the density $1 / \sqrt{e^2 + \epsilon^2}$ has that integral over $[-R, R]$)
# stops a *learned* floor from going to zero for nothing. With an $\ell_1$
# penalty on the code, a Laplace prior, `pv.induced_ae` minimises
#
# $$\sum_j \tfrac12 \log(e_j^2 + \epsilon^2) + \tfrac{d}{2} (1 + \log 2 \pi)
# {} + d \log\big(2\, \mathrm{asinh}(R / \epsilon)\big)
# {} + \rho \|z\|_1 + k \log \tfrac{2}{\rho}. \tag{5}$$
#
# ($\rho$ is `l1`.)

# %%
d, k, eps, R, l1 = 20, 4, 0.05, 8.0, 0.1
torch.manual_seed(1)
induced = pv.induced_ae(data_dim=d, latent_dim=k, hidden=(16,), floor=eps, l1=l1, width=R, affine=True)
some = torch.randn(7, d)
with torch.no_grad():
    z = induced.guide.encoder(some)
    e = some - induced.model.decoder(z)
    by_hand = (0.5 * (e**2 + eps**2).log()).sum(1) + d / 2 * (1 + math.log(2 * math.pi))
    by_hand = by_hand + d * math.log(2 * math.asinh(R / eps)) + l1 * z.abs().sum(1) + k * math.log(2 / l1)
    assert torch.allclose(induced(some).total, by_hand.mean(), rtol=1e-5)

sizes = torch.linspace(-R, R, 100_001, dtype=torch.float64)
mass = torch.trapezoid((sizes**2 + eps**2).rsqrt(), sizes)
assert abs(mass - 2 * math.asinh(R / eps)) < 1e-6  # the normaliser

small = torch.tensor([0.0, 0.3, -2.0, 0.0, 7.0], dtype=torch.float64)
power, tiny = 1e-9, 1e-100
assert torch.allclose((small[1:3].abs() ** power - 1) / power, small[1:3].abs().log(), atol=1e-6)
# Measured from the bottom of its wells, in units of their depth, the logarithm counts outliers.
count = (0.5 * (small**2 + tiny**2).log() - math.log(tiny)).sum() / math.log(1 / tiny)
print(f"entries that are not zero: 3; counted by the logarithm: {count:.3f}")
assert abs(count - 3) < 0.02

# %% [markdown] tags=["derivation", "T12"]
# **Why this autoencoder gets stuck.** Let the code of one datum move along a straight line, $z(t)$, with an affine
# decoder. Each error is then an affine function of $t$, and $\log |\text{affine function}|$ is *concave* on either
# side of its zero. A sum of concave functions is concave. So between two neighbouring zeros there is no local minimum
# at all, and at each zero there is one, with depth $-\infty$:
#
# $$\#\{\text{local minima}\} = \#\{\text{points where some } e_j(t) = 0\}.$$
#
# Each such point is a *pattern of supports*, a guess of which entries are clean. Once an entry is at zero, leaving it
# costs infinitely much: **with as many codes as the inliers have dimensions, the energy (4) has a minimum wherever
# the combinatorial problem (1) has one**, the good ones and the bad ones. That is both halves of the result in the
# tutorial slides: the right minima, and far too many. (We see it along lines here. With more codes even the lowest
# point may be wrong: section 4.)


# %%
def in_double(data, rank):
    """Inliers L of exactly that rank, their W and Z with L = Z W', and outliers E, in double precision."""
    U, S, Vh = torch.linalg.svd(data.clean.double(), full_matrices=False)
    n = len(U)
    W, Z = Vh[:rank].T * S[:rank] / n**0.5, U[:, :rank] * n**0.5
    return Z @ W.T, W, Z, (data.dirty - data.clean).double()


L, W, Z, E = in_double(contaminated(40, 20, 2, 0.3, generator=seeded(5)), 2)
E[0, 0] = 2.0  # the entry that we watch is an outlier
X, direction = L + E, torch.tensor([1.0, 0.4], dtype=torch.float64)
fine = line(X[0], W, Z[0], direction, reach=6.0, points=60_001)
wells = local_minima(induced_energy(fine, 1e-9))
step = W @ direction / (W @ direction)[0]
zeros = (E[0, 0] - E[0] / step).round(decimals=6).unique()
inside = int(((zeros - 2.0).abs() < 6.0).sum())
print(f"values of the first error at which some error is zero: {inside}; local minima: {len(wells)}")
assert len(wells) == inside

# %% [markdown]
# With a floor the wells have a finite depth, in proportion to the number of errors that vanish. At the truth all
# inliers of the datum do so at once: that well is the deepest. Now the VAE: let the posterior covariance $\Sigma_z$
# and the variances be at their best at each point of the line. A code that is uncertain blurs the poles,
# $\log \mathrm{E}\, e_j^2$ in place of $\log e_j^2$, and blurs the lonely ones more than the one where many agree.
# The picture moves the code of one datum along a line. The axis is the error of its first entry, an outlier of size
# 2: that is where the truth is. Dips below a thousandth of the curve's height are not counted. (Only the shapes can
# be compared: the convex energy is not in nats.)

# %%
on = line(X[0], W, Z[0], direction, reach=6.0, points=1201)
energies = {
    "convex": convex_energy(on, L[1:], E[1:]),
    "induced autoencoder": induced_energy(on, 1e-3),
    "VAE": vae_energy(on, X[0], W, 1e-3, iterations=100 if SMOKE else 300),
}
truth = 2.0
minima = {name: len(local_minima(energy)) for name, energy in energies.items()}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for ax, (name, energy), color in zip(axes, energies.items(), (GREY, DARK, RED), strict=True):
    ax.plot(on.t, energy, color=color)
    ax.axvline(truth, color=YELLOW, linewidth=4, alpha=0.5, zorder=0)
    many = "one local minimum" if minima[name] == 1 else f"{minima[name]} local minima"
    ax.set(title=f"{name}: {many}", xlabel="error of entry 1 along the line", ylabel="energy of the datum")
figure.suptitle("The VAE keeps the lowest point (yellow: the truth) and smooths most traps away", fontsize=12)
plt.show()
assert minima["convex"] == 1  # by convexity
assert minima["VAE"] < minima["induced autoencoder"]
for name in ("induced autoencoder", "VAE"):
    assert abs(on.t[energies[name].argmin()] - truth) < 0.02

# %% [markdown]
# One line through one problem proves nothing. Over two hundred problems the library's experiment `energies` finds the
# same: many minima for the induced autoencoder, hardly more than one for the VAE, both always lowest at the truth;
# the convex energy has a single minimum, which now and then is not the truth ([results](../docs/generation.md)).
#
# ## 4. Perfect recovery: what the VAE counts
#
# *Question: with more codes than needed, does the global optimum still solve (1)?*

# %% [markdown] tags=["derivation", "T12"]
# Take an affine decoder $\mu_x(z) = W z + b$, $W$ of $k$ columns, and fix the variances
# $\Lambda = \mathrm{diag}\, \lambda_1 \dots \lambda_d$ of one datum for a moment. Then everything is Gaussian, the
# true posterior is $\mathcal{N}(\mu, \Sigma)$ with
#
# $$\Sigma = (I + W' \Lambda^{-1} W)^{-1}, \qquad \mu = \Sigma W' \Lambda^{-1} (x - b),$$
#
# and a guide that equals it makes the ELBO tight. Twice the negative ELBO is therefore, up to $d \log 2 \pi$,
#
# $$h(x; W, b, \Lambda) = (x - b)' \Psi^{-1} (x - b) + \log |\Psi|, \qquad \Psi = \Lambda + W W'. \tag{6}$$
#
# No integral is left: **at the optimum of the guide the VAE's energy is a log-determinant**, the empirical-Bayes
# surrogate of Wipf (2012). (Notebook 3 proves the version where the variances are inside of the expectation,
# Proposition 1 of Wang et al. 2018; their Eq. 31 prints $W' \Lambda W$ where $W' \Lambda^{-1} W$ is meant.) The code
# checks the three forms against each other: the bound at the optimal guide, (6), and torch's own Gaussian density.

# %%
g = torch.Generator().manual_seed(2)
W5, b5 = torch.randn(6, 3, generator=g).double(), torch.randn(6, generator=g).double()
x5, lam5 = torch.randn(4, 6, generator=g).double(), 0.1 + torch.rand(4, 6, generator=g).double()
mu, Sigma = posterior(x5, W5, b5, lam5)
h = h_at(x5, W5, b5, lam5)
codes = W5.shape[1]
assert torch.allclose(surrogate(x5, W5, b5, mu, Sigma, lam5), codes + h)  # `surrogate` leaves out the KL term's -k
Psi = torch.diag_embed(lam5) + W5 @ W5.T
log_p = torch.distributions.MultivariateNormal(b5, Psi).log_prob(x5)
assert torch.allclose(-2 * log_p, h + 6 * math.log(2 * math.pi))
elsewhere = surrogate(x5, W5, b5, mu + 0.1, 1.2 * Sigma, lam5)
assert bool((elsewhere > codes + h).all())  # any other guide is worse
printed = torch.linalg.inv(torch.eye(3).double() + W5.T @ torch.diag_embed(lam5) @ W5)
assert bool((surrogate(x5, W5, b5, mu, printed, lam5) > codes + h + 1).all())  # so is Eq. 31 as it is printed
Q = torch.linalg.qr(torch.randn(3, 3, generator=g).double())[0]
assert torch.allclose(h_at(x5, W5 @ Q, b5, lam5), h)  # a rotation of the codes changes nothing
assert torch.allclose(h_at(x5, torch.cat([W5, torch.zeros(6, 2).double()], 1), b5, lam5), h)  # nor do useless codes

# %% [markdown] tags=["derivation", "T12"]
# **The theorem, by counting.** Let $X = L + E$ be *some* split, $r = \mathrm{rank}\, L$, the columns of $W$ spanning
# the rows of $L$. Choose variances $\lambda_{ij} = e_{ij}^2 + \epsilon^2$: tiny for inliers, ordinary for outliers.
# How does (6) behave as $\epsilon \to 0$? Datum $i$ has $d - \|e_i\|_0$ tiny variances. We suppose that its clean
# entries determine its code: the rows of $W$ that belong to them have rank $r$. Then $W W'$ lifts $r$ of the tiny
# directions back to ordinary size. The others leave $\log \epsilon^2$ each in $\log |\Psi|$; the quadratic form
# stays bounded, because the inliers do lie in the span of $W$. Hence
#
# $$\tfrac{1}{n} \sum_i h_i = \Big( d - r - \tfrac1n \|E\|_0 \Big) \log \epsilon^2 + O(1)
# {} = \tfrac1n \Big( n d - \underbrace{(n\, r + \|E\|_0)}_{\text{the objective of (1)}} \Big) \log \epsilon^2
# {} + O(1). \tag{7}$$
#
# As $\log \epsilon^2 \to -\infty$ the split with the *smallest* $n\, r + \|E\|_0$ wins: **the global optimum of the
# VAE is that of (1)**, and its $\mu_x$ is the inlier, its $\Sigma_x$ the squared outlier. Columns of $W$ beyond $r$
# are zero there and cost nothing. That is the perfect-recovery theorem of Dai, Wang, Aston, Hua & Wipf (2018). (We
# compared splits, each with the variances that suit it; their proof covers all others. A variance of its own for each
# datum is what a scale network of unlimited size can give.)
#
# The induced autoencoder's energy (4) has slope $d - \frac1n \|E\|_0$: **no rank in it**. Give it a code more and it
# buys another zero for each datum; give it $d$ codes and it explains all of $X$, outliers included.
#
# We measure the slope of four splits (per unit of $\log \epsilon$ of the energy in nats, $\frac12 h_i$: the same
# number): the truth; one column of $X$ counted as inlier, at the price of a rank;
# everything as inlier; everything as outlier.

# %%
L, W, _, E_true = in_double(contaminated(200, 20, 2, 0.1, generator=seeded(0)), 2)
X = L + E_true
unit = torch.zeros(20, 1).double()
unit[0] = 1.0
without_first = E_true.clone()
without_first[:, 0] = 0.0
splits = {  # W, E, rank
    "the truth": (W, E_true, 2),
    "column 1 is inlier": (torch.cat([W, unit], 1), without_first, 3),
    "all is inlier": (torch.eye(20).double(), torch.zeros_like(X), 20),
    "all is outlier": (torch.zeros(20, 1).double(), X, 0),
}
b = torch.zeros(20).double()
floors = np.logspace(0, -5, 11)


def vae_of(W, E, eps):
    return 0.5 * h_at(X, W, b, E**2 + eps**2).mean().item()


def induced_of(E, eps):
    return 0.5 * (E**2 + eps**2).log().sum(1).mean().item()


for name, (Wc, E, r) in splits.items():
    expected = 20 - r - float((E != 0).sum()) / 200
    slope = (vae_of(Wc, E, 1e-5) - vae_of(Wc, E, 1e-4)) / math.log(1e-5 / 1e-4)
    print(f"{name:20s} slope {slope:6.2f}, counted {expected:6.2f}")
    assert abs(slope - expected) < 0.1

# %%
figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained", sharey=True)
for (name, (Wc, E, _)), color in zip(splits.items(), (RED, YELLOW, DARK, GREY), strict=True):
    axes[0].plot(floors, [vae_of(Wc, E, eps) for eps in floors], color=color, label=name)
    axes[1].plot(floors, [induced_of(E, eps) for eps in floors], color=color)
axes[0].set(title="VAE: the truth falls fastest", ylabel="energy (nats per datum)")
axes[1].set(title="Induced AE: explaining all falls fastest")
for ax in axes:
    ax.set(xscale="log", xlabel="floor $\\epsilon$")
    ax.invert_xaxis()
axes[0].legend(frameon=False, loc="lower left")
plt.show()
vae_last = {name: vae_of(Wc, E, 1e-5) for name, (Wc, E, _) in splits.items()}
induced_last = {name: induced_of(E, 1e-5) for name, (_, E, _) in splits.items()}
assert min(vae_last, key=vae_last.get) == "the truth"
assert min(induced_last, key=induced_last.get) == "all is inlier"

# %% [markdown] tags=["exercise"]
# **Exercise 1.** How dirty must a column be before the VAE prefers to make it a dimension of its own? Predict from
# (7) by how much the slope changes when column 1, with a share $s$ of outliers, moves from $E$ to $L$. Is there an
# $s$ at which it pays? Then set $s = 1$ and test.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# The rank costs 1, the outliers saved are s per datum: the slope changes by s - 1, which is never above 0. At s = 1 it
# is a tie: a column that is all outliers and a column that is a dimension of its own are the same free numbers.
worse = E_true.clone()
worse[:, 0] = 3 * torch.randn(200, generator=seeded(9)).double()
X_before, X = X, L + worse
as_inlier = worse.clone()
as_inlier[:, 0] = 0.0
found = []
for Wc, E in ((W, worse), (torch.cat([W, unit], 1), as_inlier)):
    found.append((vae_of(Wc, E, 1e-5) - vae_of(Wc, E, 1e-4)) / math.log(0.1))
X = X_before
print(f"slopes with column 1 as outliers and as a dimension: {found[0]:.2f}, {found[1]:.2f}")
assert abs(found[0] - found[1]) < 0.05

# %% [markdown] tags=["exercise"]
# **Exercise 2.** The $\ell_1$ penalty on the code is meant to keep the induced autoencoder from using all its codes.
# With an affine decoder there is a way around it that changes no reconstruction. Find it, and predict what it does to
# the two terms of `induced`, the pair of section 3. What would close the loophole?

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# Codes ten times smaller, decoder weights ten times larger: the same W z, a tenth of the penalty. A bound on the length
# of W's columns (or the VAE's KL term, which keeps codes at unit scale and pays in logarithms) closes it.
with torch.no_grad():
    before = {name: term.item() for name, term in induced(some).terms.items()}
    induced.guide.encoder[-1].weight /= 10
    induced.guide.encoder[-1].bias /= 10
    induced.model.decoder.weight *= 10
    after = {name: term.item() for name, term in induced(some).terms.items()}
constant = k * math.log(2 / l1)
print(f"penalty before {before['z'] - constant:.4f}, after {after['z'] - constant:.4f}")
assert abs(after["x"] - before["x"]) < 1e-3
assert abs((after["z"] - constant) / (before["z"] - constant) - 0.1) < 1e-3

# %% [markdown]
# ## 5. What training finds: phase diagrams
#
# *Question: the theorem is about global optima. Which problems are solved in practice?*
#
# Nine problems, each of 400 data with 30 entries: a rank of 1, 3 or 6, and 5, 20 or 40 % of all entries hit by an
# outlier. Every network gets **eight** codes, whatever the rank. Three networks with affine means take part: the
# induced autoencoder with an $\ell_1$ penalty, the affine VAE whose variance is a network of the code (the model of
# the theorem), and the affine iC-VAE, which has the best variance for every datum. A list of pairs is trained side by
# side by one call of `pv.fit`.

# %%
ranks, ratios = (1, 3, 6), (0.05, 0.2, 0.4)
problems = [contaminated(400, 30, rank, ratio, generator=seeded(0)) for rank in ranks for ratio in ratios]
makers = {
    "induced AE + l1": lambda: pv.induced_ae(30, 8, (100,), affine=True, width=8.0, l1=0.1),
    "VAE, variance\nfrom the code": lambda: pv.affine_vae(30, 8, (100,), scale="diagonal", minimum=1e-2),
    "iC-VAE": lambda: pv.affine_ic_vae(30, 8, (100,), width=8.0),
}


def relative(estimate, clean):
    return ((estimate - clean).norm() / clean.norm()).item()


# A tolerance of 1e-5 is far below what is read off here.
errors = {"convex RPCA": [relative(rpca(one.dirty, tol=1e-5).low_rank, one.clean) for one in problems]}
for name, make in makers.items():
    pairs = []
    for _ in problems:
        torch.manual_seed(0)
        pairs.append(make())
    plan = {"steps": steps(700), "batch_size": 200, "lr": 1e-2, "progress": False}
    if not name.startswith("induced"):
        plan["schedules"] = {"beta": (0.0, 1.0, steps(350))}
    pv.fit(pairs, [one.dirty for one in problems], seed=0, **plan)
    errors[name] = [relative(reconstruct(p, one.dirty)[0], one.clean) for p, one in zip(pairs, problems, strict=True)]

# %%
figure, axes = plt.subplots(1, 4, figsize=(12, 3.6), layout="constrained")
for ax, (name, found) in zip(axes, errors.items(), strict=True):
    table = np.array(found).reshape(3, 3)
    shown = ax.imshow(table, cmap="Blues", vmin=0, vmax=0.5, origin="lower")
    for (i, j), value in np.ndenumerate(table):
        bold = "bold" if value < 0.1 else "normal"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.3 else "black", weight=bold)
    ax.set_xticks(range(3), [f"{ratio:.0%}" for ratio in ratios])
    ax.set_yticks(range(3), ranks)
    ax.set(title=name, xlabel="entries with an outlier")
axes[0].set_ylabel("rank of the inliers")
figure.colorbar(shown, ax=axes, label="relative error of L", extend="max")
figure.suptitle("Recovered (bold: error below 0.1) by rank and share of outliers", fontsize=12)
plt.show()
recovered = {name: int((np.array(found) < 0.1).sum()) for name, found in errors.items()}
print({name.replace("\n", " "): count for name, count in recovered.items()})
if not SMOKE:
    assert recovered["iC-VAE"] >= recovered["convex RPCA"]
    assert recovered["iC-VAE"] > recovered["VAE, variance\nfrom the code"]

# %% [markdown]
# Read it honestly. With few outliers convex RPCA is exact, or nearly (these matrices are small); a network that was
# trained for 700 steps stops at an error of some hundredths, so a stricter threshold would turn the order round. The
# iC-VAE goes further into the corner of many outliers. The model of the theorem, whose variance is a network of the
# code, does worst: nothing in the *code* says where this datum's outliers are, unless a very large network learns
# each by heart. The theorem holds for its optimum; training does not get there. With five seeds and curved manifolds
# the experiment `phase-diagram` ([results](../docs/generation.md)) says the same: the iC-VAE solved every problem
# that convex RPCA solved, and more; on a curve convex RPCA ends at one dimension, while the iC-VAE and the induced
# autoencoder go on.
#
# ### A curve no plane can follow: digits
#
# Images of digits do not lie in a plane. Each pixel is replaced by noise with probability 0.4; all methods see only
# the dirty images.

# %%
digits = pv.load("digits")
noisy = pv.corrupt(digits.x, "impulse:0.4", shape=digits.shape)
torch.manual_seed(0)
networks = {
    "autoencoder": pv.autoencoder(data_dim=64, latent_dim=10, hidden=(128, 64)),
    "induced AE": pv.induced_ae(data_dim=64, latent_dim=10, hidden=(128, 64)),
    "iC-VAE": pv.ic_vae(data_dim=64, latent_dim=10, hidden=(128, 64)),
}
cleaned = {"dirty": noisy.x, "convex RPCA": rpca(noisy.x, tol=1e-4).low_rank}
for name, pair in networks.items():
    warm = {"schedules": {"beta": (0.0, 1.0, steps(900))}} if name == "iC-VAE" else {}
    pv.fit(pair, noisy.x, steps=steps(1800), lr=2e-3, progress=False, **warm)
    cleaned[name] = reconstruct(pair, noisy.x)[0]
mse = {name: (rows - digits.x).square().mean().item() for name, rows in cleaned.items()}
if not SMOKE:
    assert max(mse["iC-VAE"], mse["induced AE"]) < min(mse["autoencoder"], mse["dirty"])

# %%
rows = {"truth": digits.x, **cleaned}
figure, axes = plt.subplots(len(rows), 10, figsize=(9.5, 5.6), layout="constrained")
for line_of_axes, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(line_of_axes, images, strict=False):
        ax.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    text = name if name == "truth" else f"{name}\n{mse[name]:.3f}"
    line_of_axes[0].set_ylabel(text, rotation=0, ha="right", va="center")
figure.suptitle("Squares average the noise in, logarithms ignore it (numbers: mean squared error against the truth)")
plt.show()

# %% [markdown]
# The autoencoder with squares keeps a grey veil: the mean of a noisy pixel is pulled to the mean of the noise. Convex
# RPCA keeps what the images have in common, one plane for all digits. The logarithmic losses do not care how wrong a
# wrong pixel is, and follow the curve. But look at the last row: some digits have become another one, or a bar. The
# iC-VAE prunes codes before it has learned to use them, and here it is hardly better than convex RPCA in numbers.
# One training each says little; the demo on the README's page trains the iC-VAE for longer, on the same dirty
# digits, and there it is well ahead of convex RPCA.
#
# ## 6. Codes that are not needed
#
# *Question: what does a VAE do with more codes than the data have dimensions?*

# %% [markdown] tags=["derivation", "T13"]
# Take clean data, one variance $\gamma$ for all entries, and the usual guide with independent entries,
# $q(z \mid x) = \mathcal{N}(\mu, \mathrm{diag}\, s^2)$. With $w_j$ the columns of an affine decoder's $W$, the
# negative ELBO is
#
# $$\mathcal{L} = \tfrac12 \Big[ d \log 2 \pi \gamma + \tfrac{1}{\gamma} \|x - W \mu - b\|^2 + \|\mu\|^2
# {} + \sum_{j=1}^{k} \Big( \tfrac{s_j^2 \|w_j\|^2}{\gamma} + s_j^2 - \log s_j^2 - 1 \Big) \Big]. \tag{8}$$
#
# The variances decouple: each $s_j$ has a bracket of its own. The best of each follows from its derivative,
# $\|w_j\|^2 / \gamma + 1 - 1 / s_j^2 = 0$:
#
# $$s_j^2 = \frac{\gamma}{\gamma + \|w_j\|^2}, \qquad \text{and what code } j \text{ then costs is } \tfrac12 \log
# \Big(1 + \frac{\|w_j\|^2}{\gamma} \Big). \tag{9}$$
#
# As $\gamma \to 0$ there are two kinds of codes, and nothing between. A *used* one, $w_j \ne 0$, has $s_j^2 \to 0$:
# it carries its datum without noise. One that is *not needed* has $w_j = 0$, hence $s_j^2 = 1$, $\mu_j = 0$ and no
# cost: the guide fills it with white noise, and the decoder does not look. Either way the noise does not reach the
# reconstruction,
#
# $$\mu_x(\mu + s \odot \varepsilon) \to \mu_x(\mu) = x,$$
#
# which is the *reconstruction invariance* theorem of Dai & Wipf (2019), there for any decoder, at global optima and
# under technical conditions. And each used code
# costs about $\frac12 \log \frac1\gamma$. So among all ways to reconstruct perfectly the optimum takes the one with
# the fewest codes: the count of section 4 again.

# %%
torch.manual_seed(3)
linear = pv.affine_vae(data_dim=8, latent_dim=3, hidden=()).double()
batch = torch.randn(5, 8).double()


def parts(mu, s, W, b, gamma, x):
    """(8) of each datum in two parts: reconstruction, and what is KL[q || p]."""
    fit = x.shape[1] * (2 * math.pi * gamma).log() + (x - mu @ W.T - b).square().sum(1) / gamma
    blur = (s**2 * W.square().sum(0)).sum(1) / gamma
    return 0.5 * (fit + blur), 0.5 * (mu.square() + s**2 - (s**2).log() - 1).sum(1)


def energy(pair, x):
    mu, s = pair.guide.encoder(x)
    return sum(parts(mu, s, pair.model.decoder.weight, pair.model.decoder.bias, pair.model.scale() ** 2, x)).mean()


with torch.no_grad():
    mu, s = linear.guide.encoder(batch)
    W, b, gamma = linear.model.decoder.weight, linear.model.decoder.bias, linear.model.scale() ** 2
    fit, kl = parts(mu, s, W, b, gamma, batch)
    assert torch.allclose(linear(batch).terms["z"], kl.mean())  # the KL part: the library has it without noise
    draws = torch.stack([linear(batch).terms["x"] for _ in range(1000)])
    z_score = (draws.mean() - fit.mean()) / (draws.std() / len(draws) ** 0.5)
    assert abs(z_score) < 4  # the reconstruction part: what the pair estimates with its noise

s2, ratio = torch.linspace(1e-4, 2, 200_001, dtype=torch.float64), 5.0  # ratio = |w|^2 / gamma
cost = 0.5 * (s2 * ratio + s2 - s2.log() - 1)
assert abs(s2[cost.argmin()] - 1 / (1 + ratio)) < 1e-4 and abs(cost.min() - 0.5 * math.log(1 + ratio)) < 1e-5

# %% [markdown] tags=["derivation", "T13"]
# **What leaves the energy as it is, and what does not.** Three changes of the code space:
#
# * *A permutation* of the codes, in encoder and decoder: only the order of the sums in (8) changes.
# * *A useless code*, $w_{k+1} = 0$ with the prior as its posterior: its bracket in (8) is $1 - \log 1 - 1 = 0$.
# * *A rotation* $W \to W Q$ with $\mu \to Q' \mu$. With a full covariance nothing changes, as we saw in section 4.
#   With independent entries it does: at the best $s$ the codes cost $\frac12 \sum_j \log M_{jj}$,
#   $M = I + W'W/\gamma$, where a full covariance costs $\frac12 \log |M|$. By Hadamard's inequality
#   $\sum_j \log M_{jj} \ge \log |M|$, with equality only if the columns of $W$ are orthogonal. So the independent
#   guide, though it is "wrong", picks the axes: those of PCA.
#
# The code puts the best $\mu$ and $s$ for the exact posterior's $M$ into (8), and compares with the exact
# $-\log p(x)$, which is what a full covariance reaches: the difference must be the one of Hadamard's inequality.


# %%
def widened(pair, order, extra):
    """A pair with permuted codes and useless ones at the end, equal in everything else."""
    new = pv.affine_vae(data_dim=8, latent_dim=3 + extra, hidden=()).double()
    one = math.log(math.expm1(1 - 1e-5))  # the encoder's scale is softplus(.) + 1e-5
    with torch.no_grad():
        for layer, fill in (("loc", 0.0), ("raw_scale", one)):
            old, into = getattr(pair.guide.encoder, layer), getattr(new.guide.encoder, layer)
            into.weight.copy_(torch.cat([old.weight[order], torch.zeros(extra, 8)]))
            into.bias.copy_(torch.cat([old.bias[order], torch.full((extra,), fill)]))
        new.model.decoder.weight.copy_(torch.cat([pair.model.decoder.weight[:, order], torch.zeros(8, extra)], 1))
        new.model.decoder.bias.copy_(pair.model.decoder.bias)
    return new


same = widened(linear, [2, 0, 1], extra=4)
assert torch.allclose(energy(same, batch), energy(linear, batch))
assert torch.allclose(same(batch).terms["z"], linear(batch).terms["z"])  # the library's own KL term
W, b, gamma = W.detach(), b.detach(), gamma.detach()
log_p = torch.distributions.MultivariateNormal(b, W @ W.T + gamma * torch.eye(8).double()).log_prob(batch)
orthogonal = W @ torch.linalg.eigh(W.T @ W)[1]  # the rotation that makes the columns orthogonal
for turned_W, name in ((W, "as it was"), (orthogonal, "orthogonal columns")):
    M = torch.eye(3).double() + turned_W.T @ turned_W / gamma
    best_mu = torch.linalg.solve(M, turned_W.T @ (batch - b).T / gamma).T
    best_s = M.diagonal().rsqrt().expand(5, 3)
    excess = sum(parts(best_mu, best_s, turned_W, b, gamma, batch)) + log_p
    assert torch.allclose(excess, 0.5 * (M.diagonal().log().sum() - torch.logdet(M)).expand(5))
    print(f"{name:20s} {excess.mean():.4f} nats more than a full covariance")
assert excess.abs().max() < 1e-9

# %% [markdown]
# Does training find it? The data lie on a curved surface of *two* dimensions in twenty; the VAE, with a learned
# $\gamma$, has *eight* codes and is not told.

# %%
surface = contaminated(800, 20, 2, 0.0, kind="curved", curvature=1.0, generator=seeded(1)).clean
torch.manual_seed(0)
pruned = pv.gamma_vae(data_dim=20, latent_dim=8, hidden=(128, 64), real=True)
pv.fit(pruned, surface, steps=steps(1500), batch_size=200, lr=3e-3, progress=False)
codes = pv.aggregated(pruned, surface, draws=1000)
variance = codes.variance.mean(0)
order = variance.argsort()
gamma = pruned.model.scale().item() ** 2
print(f"gamma {gamma:.4f}; codes in use: {int(codes.used.sum())} of 8")
moves = [pv.traversal(pruned, surface[0], int(j), torch.linspace(-2, 2, 9)).std(0).max().item() for j in order]
print(f"what moving a code moves most: {moves[1]:.2f} by the second used one, {max(moves[2:]):.3f} by all others")
noise = (pruned.model.decoder(codes.draws) - pruned.model.decoder(codes.mean[codes.rows])).square().mean().item()
print(f"mean square of what the guide's noise moves: {noise:.4f}; of the data: {surface.square().mean():.4f}")
if not SMOKE:
    assert int(codes.used.sum()) == 2 and variance[order[1]] < 0.05 < 0.7 < variance[order[2]]
    assert noise < gamma < 0.02 and moves[1] > 10 * max(moves[2:])

# %%
figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
heaps = [codes.variance[:, order[:2]].flatten().numpy(), codes.variance[:, order[2:]].flatten().numpy()]
bins = np.linspace(0, 1.2, 41)
axes[0].hist(heaps, bins=bins, stacked=True, color=[RED, GREY], label=["two used codes", "six others"])
axes[0].set(title="Posterior variances: two heaps", xlabel="$s_j^2(x)$ of a datum and a code", ylabel="how many")
axes[0].legend(frameon=False, loc="upper center")
span = torch.linspace(-2, 2, 21)
for j, color in ((int(order[0]), RED), (int(order[-1]), GREY)):
    moved = pv.traversal(pruned, surface[0], j, span)
    axes[1].plot(span, moved[:, :6], color=color)
    axes[1].plot([], [], color=color, label=f"moving a code of variance {variance[j]:.3f}")
axes[1].set(title="What one code moves (six entries of x)", xlabel="value of the code", ylabel="reconstruction")
axes[1].set_ylim(top=axes[1].get_ylim()[1] + 1.5)
axes[1].legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# Exactly two codes are used, and moving any of the other six changes next to nothing. (A code is *used* if the
# variance over the data of its posterior mean is above 0.01.) The variances of the six lie around a value a little below
# 1: by (9) a column that is exactly zero has $s^2 = 1$ at *any* $\gamma$, but the columns and the encoder have not
# quite arrived after so few steps. On MNIST the same two heaps appear, less cleanly
# (experiment `pruning`, [results](../docs/generation.md)).
#
# ## 7. Too much regularisation, and too little
#
# *Question: when does pruning go too far, and what does the bound not prune at all?*

# %% [markdown] tags=["derivation", "T19"]
# **Too much.** The KL term has an easy minimum: $\mu = 0$, $s = 1$ for every datum, which takes nothing but the last
# layer of the encoder. If the decoder ignores $z$ too, no gradient is left: in (8), summed over the data, at $W = 0$,
#
# $$\frac{\partial \mathcal{L}}{\partial W} = - \tfrac{1}{\gamma} \sum_i (x_i - b)\, \mu_i' = 0
# \ \text{ because } \mu_i = 0, \qquad
# \frac{\partial \mathcal{L}}{\partial \mu_i} = \mu_i - \tfrac1\gamma W'(x_i - b) = 0 \ \text{ because both are } 0.$$
#
# The other gradients are zero at $s = 1$, $b$ the mean of the data and $\gamma$ their mean variance. Collapse is a
# stationary point. Is it a trap? Put one column of length $c$ along an eigenvector of the data's
# covariance with eigenvalue $\ell$. The exact energy (6) in that direction, averaged over the data, is
# $\frac12 [\log(c^2 + \gamma) + \ell / (c^2 + \gamma)]$, whose minimum is at
#
# $$c^2 = \max(0, \ell - \gamma). \tag{10}$$
#
# A direction is used if and only if its variance exceeds $\gamma$. With $\gamma$ *learned* the collapsed point is
# only a saddle: its $\gamma$ is the mean eigenvalue, and some eigenvalue lies above the mean. With $\gamma$ *fixed*
# it may be the global optimum: pixels in $[0, 1]$ with $\gamma = 1$ are the common case. The digits' largest
# eigenvalue is below 1, so a linear VAE with fixed $\gamma = 1$ must lose all its codes, and no trick of training can
# help it. (For deep decoders there are collapsed *local* optima too; KL warm-up, free bits, skip connections and
# ladders are for those.)

# %%
eigenvalues = torch.linalg.eigvalsh(torch.cov(digits.x.T)).flip(0)
c2 = torch.linspace(0, 3, 300_001, dtype=torch.float64)
for ell in (0.4, 1.7):
    exact = 0.5 * ((c2 + 1.0).log() + ell / (c2 + 1.0))
    assert abs(c2[exact.argmin()] - max(0.0, ell - 1.0)) < 1e-4

collapsed = pv.affine_vae(data_dim=8, latent_dim=3, hidden=()).double()
with torch.no_grad():
    collapsed.guide.encoder.loc.weight.zero_(), collapsed.guide.encoder.loc.bias.zero_()
    collapsed.guide.encoder.raw_scale.weight.zero_()
    collapsed.guide.encoder.raw_scale.bias.fill_(math.log(math.expm1(1 - 1e-5)))
    collapsed.model.decoder.weight.zero_()
    collapsed.model.decoder.bias.copy_(batch.mean(0))
    spread = (batch - batch.mean(0)).square().mean().sqrt().item()  # the root of the mean variance
    collapsed.model.scale.log_excess.fill_(math.log(spread - collapsed.model.scale.minimum))
there = energy(collapsed, batch)
there.backward()
largest = max(p.grad.abs().max().item() for p in collapsed.parameters())
print(f"largest gradient at the collapsed point: {largest:.1e}; largest eigenvalue of the digits: {eigenvalues[0]:.3f}")
assert largest < 1e-10 and eigenvalues[0] < 1

b, gamma = batch.mean(0), torch.tensor(spread**2).double()
v = torch.linalg.svd(batch - b, full_matrices=False)[2][0]
step = 0.3 * v[:, None]  # one column, with the posterior that suits it
mu, s = (batch - b) @ step / (0.09 + gamma), (gamma / (0.09 + gamma)).sqrt().expand(5, 1)
lower = sum(parts(mu, s, step, b, gamma, batch)).mean()
print(f"energy there {there:.4f} nats, a step along the first principal direction {lower:.4f} nats")
assert lower < there - 0.01  # a saddle

# %%
kl = {}
for name, make in {"fixed, $\\gamma = 1$": pv.l2_vae, "learned $\\gamma$": pv.gamma_vae}.items():
    torch.manual_seed(0)
    pair = make(data_dim=64, latent_dim=8, hidden=(), real=True)
    pv.fit(pair, digits.x, steps=steps(800), lr=1e-2, progress=False)
    kl[name] = pair(digits.x).terms["z"].item()
for name, nats in kl.items():
    print(f"{name:18s} KL term: {nats:6.3f} nats per digit")
if not SMOKE:
    assert kl["fixed, $\\gamma = 1$"] < 0.05 < 5 < kl["learned $\\gamma$"]

# %% [markdown] tags=["derivation", "T19"]
# **Too little.** The bound prunes *codes*. It does not prune *depth*. Take one code only, $z \in \mathbb{R}$, and a
# decoder complex enough to be a curve through all $N$ training data, resting a while at each: `pv.memoriser`. The
# encoder answers with the stretch of the curve that rests at $x_i$: $q_i = \mathcal{N}(t_i, s_i^2)$. With $\phi$ the
# standard normal density, its KL term is
#
# $$\mathrm{KL}_i = -\log \Big( \underbrace{\phi(t_i)\, s_i \sqrt{2 \pi e}}_{\approx \text{ prior mass of the stretch}}
# \Big) + \tfrac12 s_i^2 \;\approx\; \log N + \text{const}, \tag{11}$$
#
# the nats that it takes to name one of $N$ data. (The curve rests at each datum for the same prior mass, below $1/N$.
# With $s_i = 0.1 / N$, as below, the mass of a stretch is near $0.1 / N$, and the constant near $\log 10$.) The
# reconstruction is exact, so
#
# $$\text{ELBO on the training data} = - \tfrac{d}{2} \log 2 \pi \gamma - \tfrac1N \sum_i \mathrm{KL}_i
# \;\longrightarrow\; \infty \quad \text{as } \gamma \to 0. \tag{12}$$
#
# $\log N$ is a price that is paid once, the gain grows without limit: the global optimum has memorised the data. A
# datum that was not in training is at a distance from the curve, and its bound goes to $-\infty$ like $-1 / \gamma$.

# %%
plane = torch.randn(2, 8, generator=seeded(10))
g = seeded(11)
train, fresh = (torch.randn(100, 2, generator=g) @ plane + 0.1 * torch.randn(100, 8, generator=g) for _ in range(2))
memory = pv.memoriser(data_dim=8, points=train)
with torch.no_grad():  # s_i = 0.1 / N: narrow enough to stay where the curve rests
    memory.guide.spread.log_excess.fill_(math.log(0.1 / 100 - memory.guide.spread.minimum))
curve, spread = memory.model.decoder, memory.guide.spread().detach()
t = curve.knot(torch.arange(100))
density = (-0.5 * t**2).exp() / math.sqrt(2 * math.pi)
named = -(density * spread * math.sqrt(2 * math.pi * math.e)).log() + 0.5 * spread**2
assert torch.allclose(memory(train).terms["z"], named.mean(), rtol=1e-4)
print(f"log N = {math.log(100):.2f} nats; the memoriser's KL term: {named.mean():.2f} nats")


def bounds_at(gamma):
    with torch.no_grad():
        memory.model.scale.log_excess.fill_(math.log(gamma**0.5 - memory.model.scale.minimum))
    return bound(memory, train), bound(memory, fresh)


gammas = np.logspace(0, -4.5, 12)
found = np.array([bounds_at(gamma) for gamma in gammas])
formula = -4 * np.log(2 * np.pi * gammas) - named.mean().item()
assert np.allclose(found[:, 0], formula, atol=0.2)
assert abs(named.mean() - math.log(100) - math.log(10)) < 0.1  # the constant: log N - log 0.1 in all

# %%
right = PCA(2).fit(train.numpy())  # the right model: probabilistic PCA with two codes, at its exact optimum
figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
ax.plot(gammas, found[:, 0], color=RED, marker="o", markersize=4, label="memoriser, training data")
ax.plot(gammas, formula, color=DARK, linestyle=":", label="formula (12)")
ax.plot(gammas, found[:, 1].clip(min=-100), color=RED, linestyle="--", label="memoriser, fresh data")
scores = right.score(train.numpy()), right.score(fresh.numpy())
ax.axhline(scores[1], color=TEAL, label=f"right model: {scores[0]:.2f} (training),\n{scores[1]:.2f} (fresh data)")
ax.set(xscale="log", ylim=(-60, 40), xlabel="$\\gamma$", ylabel="ELBO (nats per datum)")
ax.set_title("One code and a deep decoder: the training bound has no limit")
ax.invert_xaxis()
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()
assert found[-1, 0] > right.score(train.numpy()) + 5 and found[-1, 1] < right.score(fresh.numpy()) - 1000

# %% [markdown]
# Nothing on the training data tells the memoriser from a good model. Only data that it has not seen do: hold some
# out, keep decoders shallow, and keep a floor under $\gamma$.

# %% [markdown] tags=["exercise"]
# **Exercise 3.** At which $\gamma$ does the memoriser overtake the right model on the training data? Solve (12) for
# it, predict how it moves when $N$ grows a hundredfold, and test the first.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# score = -(d / 2) log(2 pi gamma) - KL  =>  gamma = exp(-(2 / d)(score + KL)) / (2 pi). KL grows by log 100 = 4.6, so
# that gamma falls by the factor exp(-4.6 * 2 / 8) = 0.32 only (if the score stays): more data hardly protect.
score = right.score(train.numpy())
crossing = math.exp(-(2 / 8) * (score + named.mean().item())) / (2 * math.pi)
print(f"it overtakes at gamma = {crossing:.5f}, a standard deviation of {crossing**0.5:.3f}")
assert abs(bounds_at(crossing)[0] - score) < 0.3

# %% [markdown]
# ## What to remember
#
# * With a free variance the VAE's loss is a logarithm of errors, which counts outliers, where squares let a single
#   one decide.
# * With an affine mean, the VAE's energy is a log-determinant that counts $n \cdot \mathrm{rank} + \|E\|_0$: its
#   global optimum is robust PCA's, and codes that are not needed are free. The induced autoencoder counts outliers
#   only.
# * The encoder's noise smooths bad minima away and prunes useless codes (variance 1); codes in use have variance near
#   0.
# * Theorems speak of global optima. In training, the variance from a code network falls short, the iC-VAE does well
#   on planes but may lose codes on images, and convex RPCA is exact where outliers are few.
# * A fixed $\gamma$ above the data's variance kills every code; a decoder deep enough memorises through a single one.
#
# ## Where to go on
#
# * [Outliers](03-outliers.ipynb): the logarithmic loss in full, and Proposition 1 with its proof.
# * [From reconstruction to generation](06-generation.ipynb): what pruning means for new samples.
# * [Experiments on dirty data](../docs/experiments.md), [phase diagrams and energies](../docs/generation.md).
#
# **Sources.** Candès, Li, Ma & Wright (2011), robust PCA. Wipf (2012), the log-determinant surrogate. Dai, Wang,
# Aston, Hua & Wipf (2018), the connection, perfect recovery, depth. Dai & Wipf (2019), reconstruction invariance.
# Lucas, Tucker, Grosse & Norouzi (2019), collapse of linear VAEs. Wang et al. (2018), Proposition 1. The tutorial
# slides (S3), parts III and V.
