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
# # Channel recurrence
#
# A code need not be one vector. Here it comes in **blocks** $z_1 \dots z_T$, one block per group of channels of a
# convolutional network, and an LSTM runs through them. You learn what that changes in the model, in the guide and in
# the bound, which argument was given for it and how far that argument carries, and what blocks can be asked: let an
# image come into being block by block, redraw one block, complete an image of which half is hidden. At the end a
# discriminator joins, and we see why it belongs to neither $p$ nor $q$.
#
# The model is that of Shang, Sohn, Akata & Tian (2017). Our digits have 8 x 8 pixels and our trainings last seconds,
# so that much of what the paper shows on faces cannot show here. We say so where it happens.
#
# For readers who know the VAE (`01-the-vae.ipynb`) and have met an LSTM. It runs in a good minute.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from pyro import poutine
from torch.func import jacrev
from torch.nn.functional import softplus

import pyro_vaes as pv
from pyro_vaes.data.hidden import hiding

SMOKE = bool(os.environ.get("PYRO_VAES_SMOKE"))  # a few steps only: the cells run, figures mean nothing
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 11})
RED, DARK, GREY, YELLOW, BLUE = "#d1495b", "#2e4057", "#9aa5b1", "#edae49", "#00798c"


def steps(n):
    return 20 if SMOKE else n


def show(grid, title, rows=None, columns=None):
    """Draw images (rows, columns, 64) as one picture, with a white line between them."""
    pads = [torch.nn.functional.pad(row.reshape(-1, 8, 8), (1, 1, 1, 1), value=1.0) for row in grid]
    picture = torch.cat([torch.cat(list(row), 1) for row in pads])
    height, width = len(grid), len(grid[0])
    _, ax = plt.subplots(
        figsize=(0.75 * width + (1.5 if rows else 0.3), 0.75 * height + (0.8 if columns else 0.45)),
        layout="constrained",
    )
    ax.imshow(picture.detach(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=11, loc="left")
    ax.set_yticks([10 * i + 4.5 for i in range(height)] if rows else [], rows or [])
    ax.set_xticks([10 * i + 4.5 for i in range(width)] if columns else [], columns or [])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    plt.show()


# %% [markdown]
# ## 1. Four ways to arrange a code
#
# **What does a code know about places?**
#
# A convolutional encoder turns an image into *features*: here 16 channels on a grid of 4 x 4 cells. From there to the
# code there are four ways, and all four codes below have 64 entries.
#
# | variant | from features to the code | from the code to features $u$ |
# |---|---|---|
# | `conv_vae` | fully connected | fully connected |
# | `cvae_conv` | a convolution: the code is a grid, 4 channels of 4 x 4 | a convolution |
# | `bcvae` | $T$ blocks of channels, a layer of its own for each | the same: $u_t = A_t z_t + b_t$ |
# | `crvae` | an LSTM through the $T$ blocks | an LSTM: $u_t$ hears of $z_1 \dots z_t$ |
#
# Why not stop at the first? A fully connected layer forgets where things were. Why not at the second? A grid
# remembers where, but in $p(z) = \mathcal{N}(0, I)$ the cells are independent: a draw has a top from one digit and a
# bottom from another. Blocks are the compromise. Within a block every cell meets every other; between blocks only the
# LSTM mediates.
#
# The third row holds for the *standard deviations* and for the way back. The means of `bcvae` and `crvae` come from one
# convolution over all features, less a learned offset $\mu_0$; an offset is added again on the way back.
#
# We take $T = 4$ blocks of one channel each, and pixels $x \sim \mathcal{N}(\mu, 0.1^2)$.

# %%
data = pv.load("digits")
train, test = data.x[:1500], data.x[1500:]
size = {"data_dim": 64, "latent_dim": 64, "hidden": (8,), "sd": 0.1}
torch.manual_seed(1)
fc = pv.conv_vae(**size)
grid = pv.cvae_conv(**size)
block = pv.bcvae(**size, blocks=4)
recurrent = pv.crvae(**size, blocks=4, units=32)
pairs = {"conv_vae": fc, "cvae_conv": grid, "bcvae": block, "crvae": recurrent}
for pair in pairs.values():
    pv.fit(pair, train, steps=steps(300), batch_size=64, lr=3e-3, progress=False)
    pair.eval()
print(recurrent.describe())

# %% [markdown]
# `hidden=(8,)` is one halving of the image with 8 filters (each kept twice, above zero and below it, hence the 16
# channels); `units` is the width of the LSTM. `describe` reads the pair's own traces.
# Four latent sites, each a Normal under $p$ and under $q$, then $u$, which is *recorded* and not drawn: it is a
# function of the codes.

# %% [markdown] tags=["derivation"]
# ## 2. The bound is a sum over blocks
#
# **What does the ELBO look like when the code comes in blocks?**
#
# Model and guide are programs: `pair.model` draws $z$ and then $x$, `pair.guide` draws $z$ given $x$, and `pair(x)`
# is the loss with one entry in `terms` per site, in nats per datum. The model draws blocks independently, and so does
# the guide once it has seen $x$:
#
# $$p(z) = \prod_{t=1}^T \mathcal{N}(z_t; 0, I), \qquad
# q(z \mid x) = \prod_{t=1}^T \mathcal{N}\big(z_t; \mu_t(x), \mathrm{diag}\, \sigma_t^2(x)\big).$$
#
# The logarithm of a quotient of products is a sum, so that
#
# $$\begin{aligned}
# \log p(x) &\ge \mathbb{E}_{q}\Big[\log p(x \mid u(z)) + \sum_t \log \frac{p(z_t)}{q(z_t \mid x)}\Big] \\
# &= \mathbb{E}_{q} \log p(x \mid u(z)) - \sum_{t=1}^T \mathrm{KL}\big[q(z_t \mid x) \,\|\, p(z_t)\big],
# \end{aligned}$$
#
# and every block has a Gaussian KL of its own, with the closed form
# $\tfrac12 \sum_j (\sigma_{tj}^2 + \mu_{tj}^2 - 1 - \log \sigma_{tj}^2)$.
#
# Note what the LSTM did *not* change. It computes $\sigma_t$ from several blocks of **features**, never from other
# codes. Given $x$ the guide is still one diagonal Gaussian. A recurrent network is not an autoregressive
# distribution.
#
# Below we write the bound by hand from the networks' outputs, at the very same draws, and compare site by site.

# %%
x = test[:50]
torch.manual_seed(2)
loss = recurrent(x)
torch.manual_seed(2)
z = recurrent.guide(x)  # (50, T, 16): the same draws again
mean, sd = (part.unflatten(-1, (4, 16)) for part in recurrent.guide.encoder(x))
kl = 0.5 * (sd**2 + mean**2 - 1 - 2 * sd.log()).sum(-1)  # (50, T)
mu = recurrent.model.likelihood.decoder(recurrent.model.recurrence(z).flatten(-2))
log_x = (-0.5 * ((x - mu) / 0.1) ** 2 - math.log(0.1 * math.sqrt(2 * math.pi))).sum(-1)
for t in range(4):
    assert torch.isclose(loss.terms[f"z_{t + 1}"], kl[:, t].mean(), rtol=1e-4)
assert torch.isclose(loss.terms["x"], -log_x.mean(), rtol=1e-4)
assert torch.isclose(loss.bound, (log_x - kl.sum(-1)).mean(), rtol=1e-4)
print(f"50 digits: log-likelihood {log_x.mean():.1f} - KL {kl.sum(-1).mean():.1f} = bound {loss.bound:.1f} nats each")

# %% [markdown]
# (Positive numbers are no error: a density of real pixels with standard deviation 0.1 may exceed 1. And these are the
# first 50 of the new digits; the figure below has all 297, among them harder ones.)
#
# Now look where the nats of each code live. The KL of a block is what the guide says about the digit through this
# block, and what the block costs.


# %%
def costs(pair, x):
    terms = pair(x).terms
    return [terms[f"z_{t}"].item() for t in range(1, 5)]


figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
places = torch.arange(1, 5)
axes[0].bar(places - 0.2, costs(block, test), 0.36, color=GREY, label="bcvae: blocks for themselves")
axes[0].bar(places + 0.2, costs(recurrent, test), 0.36, color=RED, label="crvae: an LSTM through blocks")
axes[0].set_xticks([1, 2, 3, 4])
axes[0].set_xlabel("block $t$")
axes[0].set_ylabel("KL of the block (nats per digit)")
axes[0].set_ylim(0, 1.45 * max(*costs(block, test), *costs(recurrent, test)))
axes[0].set_title("Blocks carry unequal loads", loc="left")
axes[0].legend(frameon=False, fontsize=10)
bounds = {name: pv.bound(pair, test) for name, pair in pairs.items()}
drawn = axes[1].barh(list(bounds), list(bounds.values()), color=[DARK, GREY, GREY, RED])
axes[1].bar_label(drawn, fmt="%.1f", padding=3)
axes[1].margins(x=0.15)
axes[1].invert_yaxis()
axes[1].set_xlabel("bound on new digits (nats per digit, more is better)")
axes[1].set_title("Same length of training: recurrence is behind", loc="left")
plt.show()

# %% [markdown]
# Left: some blocks carry nearly everything. Whether that is the LSTM's doing we shall see in section 5.
#
# Right is the honest start of this story: after the same few hundred steps the recurrent pair is *behind*. The way
# from code to image is deeper, and the code takes longer to be used. One short training each proves nothing about
# long ones. But on larger digits, five seeds each, recurrence on the way *back* to the image cost as well; recurrence
# towards the *variance* paid ([Channel recurrence](../docs/channels.md) has the table; there the
# convolutional code, which is ahead here, was behind the fully connected one).

# %% [markdown] tags=["derivation"]
# ## 3. Who hears of whom
#
# **Does the order of the blocks mean anything?**
#
# An LSTM has a state $h_t$ and reads one block per step: $h_t = f(z_t, h_{t-1})$, $u_t = A h_t + b$. Put the
# recursion into itself and $u_t$ is a function of $z_1, \dots, z_t$, and of no later block. In derivatives:
#
# $$\frac{\partial u_s}{\partial z_t} = 0 \quad \text{for } s < t .$$
#
# So the matrix of blocks $\lVert \partial u_s / \partial z_t \rVert$ is lower triangular. For `bcvae` it is diagonal.
# The same holds on the way in: $\sigma_s$ depends on the features' blocks $1 \dots s$. (The mean has no recurrence:
# the paper gives it a plain layer.)
#
# We take the Jacobians by automatic differentiation. The zeros must be exact, not small.


# %%
def heard(function, z):
    """Norms of the blocks of the Jacobian of z (T, k) -> (T, m): row s is what block s of the answer hears."""
    return jacrev(function)(z).square().sum((1, 3)).sqrt().detach()


code = torch.randn(4, 16)
features = recurrent.guide.encoder.trunk(test[:1].reshape(1, 1, 8, 8)).reshape(4, -1).detach()
towards_image = heard(recurrent.model.recurrence, code)
apart = heard(block.model.recurrence, code)
towards_variance = heard(recurrent.guide.encoder.raw_scale.recurrence, features)
for matrix in (towards_image, towards_variance):
    assert matrix.triu(1).abs().max() == 0 and matrix.tril().sum() == matrix.sum()
    assert (matrix[torch.tril_indices(4, 4).unbind()] > 0).all()
assert torch.equal(apart, torch.diag(apart.diagonal()))

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
panels = [
    (apart, "bcvae: $u_s$ hears $z_s$ alone", "of $z$"),
    (towards_image, "crvae: $u_s$ hears $z_1 \\dots z_s$", "of $z$"),
    (towards_variance, "crvae: $\\sigma_s$ hears features $1 \\dots s$", "of the features"),
]
for ax, (matrix, title, of) in zip(axes, panels, strict=True):
    ax.imshow(matrix, cmap="Reds", vmin=0)
    for s in range(4):
        for t in range(4):
            text = "0" if matrix[s, t] == 0 else f"{matrix[s, t]:.2f}"
            ax.text(
                t, s, text, ha="center", va="center", color="white" if matrix[s, t] > 0.6 * matrix.max() else "black"
            )
    ax.set_xticks(range(4), range(1, 5))
    ax.set_yticks(range(4), range(1, 5))
    ax.set_xlabel(f"block $t$ {of}")
    ax.set_title(title, fontsize=11)
axes[0].set_ylabel("block $s$ of the answer")
plt.show()

# %% [markdown]
# Read a row: what one block of the answer hears. Read a column: who hears of one block. $z_1$ is heard everywhere, a
# little less at every step, and $z_4$ by $u_4$ alone. (Norms of derivatives at one code: the zeros hold everywhere, the
# other numbers only there.)

# %% [markdown] tags=["derivation"]
# ### One block is the plain VAE
#
# With $T = 1$ there is nobody to hear of, and a layer "for each block" is a layer. So `bcvae` with one block and a
# fully connected mean must be `conv_vae`, under other names: $A_1 = W^\top$, and the offset $\mu_0$, which is
# *subtracted* on the way to the mean, is minus the bias. Copy the parameters over and the bounds must agree at the
# same draws.

# %%
one = pv.bcvae(**size, blocks=1, mean="dense").eval()
ours, theirs = one.guide.encoder, fc.guide.encoder
with torch.no_grad():
    ours.trunk.load_state_dict(theirs.trunk.state_dict())
    ours.loc[0][1].weight.copy_(theirs.loc[1].weight)
    ours.loc[2].mu_0.copy_(-theirs.loc[1].bias.reshape(4, 4, 4))
    ours.raw_scale.recurrence.weight[0] = theirs.raw_scale[1].weight.T
    ours.raw_scale.recurrence.bias[0] = theirs.raw_scale[1].bias
    one.model.recurrence.weight[0] = fc.model.decoder.lift[0].weight.T
    one.model.recurrence.bias[0] = fc.model.decoder.lift[0].bias
    one.model.likelihood.decoder.head.load_state_dict(fc.model.decoder.head.state_dict())
assert math.isclose(pv.bound(one, test), pv.bound(fc, test), rel_tol=1e-4)
print(f"bcvae, T = 1: {pv.bound(one, test):.4f}; conv_vae: {pv.bound(fc, test):.4f} nats per digit")

# %% [markdown] tags=["derivation", "T21"]
# ## 4. Why might a recurrence help? A bound for another model
#
# **The paper's argument, and where it ends.**
#
# Suppose for a moment that $u = (u_1, \dots, u_T)$ were **random** and **observed**, and that given $u_{t-1}$ and
# $z_t$ it knew nothing else of the past:
#
# $$p(u, z) = \prod_t p(z_t)\, p(u_t \mid u_{t-1}, z_t) \qquad (u_0 \text{ is nothing}).$$
#
# Each $z_t$ stands in *one* factor. Therefore the integral over all codes is a product of integrals, and its
# logarithm a sum:
#
# $$\log p(u) = \log \int \prod_t p(z_t)\, p(u_t \mid u_{t-1}, z_t)\, \mathrm{d}z
#   = \sum_t \log \int p(z_t)\, p(u_t \mid u_{t-1}, z_t)\, \mathrm{d}z_t .$$
#
# That step, a logarithm of a product of expectations that falls apart, is the heart of the proof, and it is right
# *because* $u$ is given and every factor has a code of its own. Now bound each small integral by Jensen's inequality,
# with a guide $q_t = q(z_t \mid u_t, u_{t-1})$ for it:
#
# $$\log p(u) \ge \sum_t \Big( \mathbb{E}_{q_t} \log p(u_t \mid u_{t-1}, z_t) - \mathrm{KL}[q_t \,\|\, p(z_t)] \Big).$$
#
# This is their Proposition A.1 (Eq. 2-3). The same independence says that the exact posterior
# $p(z \mid u) = \prod_t p(z_t \mid u_t, u_{t-1})$ is a product. A guide that factorises over blocks loses *nothing*.
# That is the intuition: later steps need not repeat what earlier steps have settled.
#
# We check it where everything is known: numbers $u_t = a u_{t-1} + b z_t + s \epsilon_t$ with
# $z_t, \epsilon_t \sim \mathcal{N}(0, 1)$. Then $p(u_t \mid u_{t-1}) = \mathcal{N}(a u_{t-1}, b^2 + s^2)$, and the
# exact local posterior is a Gaussian with precision $1 + b^2 / s^2$.

# %%
a, b, T = 0.8, 1.0, 4
u = torch.tensor([0.5, -1.0, 0.3, 1.2], dtype=torch.float64)


def local_bound(s, width=None):
    """The sum of the small bounds; q_t is the exact posterior, or has its mean and a width of its own."""
    innovation = u - a * torch.cat([u.new_zeros(1), u[:-1]])  # u_t - a u_{t-1}
    precision = 1 + b**2 / s**2
    m, v = b / s**2 * innovation / precision, 1 / precision if width is None else width**2
    rec = -0.5 * ((innovation - b * m) ** 2 + b**2 * v) / s**2 - 0.5 * math.log(2 * math.pi * s**2)
    return (rec - 0.5 * (m**2 + v - 1 - math.log(v))).sum().item()


def exact(s):
    mix = torch.tensor([[a ** (i - j) if i >= j else 0.0 for j in range(T)] for i in range(T)], dtype=torch.float64)
    cov = (b**2 + s**2) * mix @ mix.T  # u is a mixture of all z and all noise
    return torch.distributions.MultivariateNormal(torch.zeros(T, dtype=torch.float64), cov).log_prob(u).item()


for s in (1.0, 0.3, 0.05):
    assert math.isclose(local_bound(s), exact(s), rel_tol=1e-9)  # factorised and exact: no gap
    assert local_bound(s, width=0.2) < exact(s)  # another width: a bound, and not an equality

# %% [markdown]
# So far the proposition. But it is a statement about **another** model than the one we trained, in three ways.
#
# 1. In the crVAE $u$ is *deterministic*, as the authors say: $s \to 0$. Then $\log p(u_t \mid u_{t-1}, z_t)$ is the
#    logarithm of a spike. For any guide of fixed width the bound goes to $-\infty$: still true, and empty. Only a guide
#    that narrows as fast as $s$ keeps up, and in the limit it is a spike, too: a KL without end against a
#    log-likelihood without end.
# 2. $u$ is not observed. What we bound is $\log p(x)$, with $x$ made of *all* of $u$. An observation that mixes the
#    steps couples the codes: explaining away. The posterior $p(z \mid x)$ is no product.
# 3. An LSTM's $u_t$ depends on *all* of $z_1 \dots z_t$ through its state, not only on $u_{t-1}$ and $z_t$.
#
# The first two can be seen in the same chain of numbers. Put the recursion into itself: $u = M (b z + s \epsilon)$ with
# $M_{ij} = a^{i - j}$ for $j \le i$. For any Gaussian observation $y = A z + e$, $e \sim \mathcal{N}(0, R)$, Bayes'
# rule adds the squares in $z$, so that the posterior precision is $I + A^\top R^{-1} A$. We ask for it twice: for
# $y = u$, where $A = b M$ and $R = s^2 M M^\top$, and for $x = u_1 + \dots + u_T + \text{noise}$. And of all Gaussians
# with independent entries the one closest to a Gaussian with precision $P$, in the KL of the bound, has the precisions
# $P_{jj}$. What it loses is that KL, $\tfrac12 \big(\sum_j \log P_{jj} - \log \det P\big)$.

# %%
s, noise = 0.5, 0.5
mix = torch.tensor([[a ** (i - j) if i >= j else 0.0 for j in range(T)] for i in range(T)], dtype=torch.float64)
total = torch.ones(1, T, dtype=torch.float64) @ mix  # the weights of u_1 + ... + u_T


def posterior_precision(A, R):
    return torch.eye(T, dtype=torch.float64) + A.T @ torch.linalg.solve(R, A)


given_u = posterior_precision(b * mix, s**2 * mix @ mix.T)
given_x = posterior_precision(b * total, s**2 * total @ total.T + noise**2)
gap = [0.5 * (p.diagonal().log().sum() - p.logdet()).item() for p in (given_u, given_x)]
assert torch.allclose(given_u, (1 + b**2 / s**2) * torch.eye(T, dtype=torch.float64))  # the product of the derivation
assert abs(gap[0]) < 1e-9 and gap[1] > 0.1  # what the best factorised guide loses, in nats

widths = torch.logspace(-2, 0, 40).tolist()
figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.6), layout="constrained", width_ratios=[1.5, 1, 1])
axes[0].semilogx(widths, [exact(w) for w in widths], color=DARK, lw=4, alpha=0.35, label="$\\log p(u)$, exact")
axes[0].semilogx(widths, [local_bound(w) for w in widths], color=DARK, ls="--", label="local guides, exact")
axes[0].semilogx(widths, [local_bound(w, 0.2) for w in widths], color=RED, label="local guides of width 0.2")
axes[0].set_ylim(-30, 0)
axes[0].set_xlabel("noise $s$ of $u$")
axes[0].set_ylabel("nats")
axes[0].set_title("As $s \\to 0$ a guide of fixed width says nothing", loc="left", fontsize=11)
axes[0].legend(frameon=False, fontsize=10, loc="lower right")
titles = ("$u$ observed: a product", "only the sum of $u$ + noise: coupled")
for ax, precision, lost, title in zip(axes[1:], (given_u, given_x), gap, titles, strict=True):
    ax.imshow(precision, cmap="Reds", vmin=0)
    ax.set_xticks(range(T), range(1, T + 1))
    ax.set_yticks(range(T), range(1, T + 1))
    ax.set_title(title, fontsize=11)
    ax.set_xlabel(f"precision of the codes;\nbest factorised guide loses {lost:.2f} nats")
plt.show()

# %% [markdown]
# Left: every curve lies on or below the exact one, so all are bounds; the red one is worth nothing on the left. Right:
# the precision of the codes given $u$, and given only the sum; off the diagonal is what a factorised guide cannot have.
#
# Take the proposition for what it is: a reason to *hope* that steps divide the work. The bound that `fit` minimises
# is that of section 2, and nothing else.

# %% [markdown] tags=["derivation"]
# ## 5. A weight for every time step
#
# **Can we say which block should carry what?**
#
# Since the bound has one term per block, each may have a weight of its own:
#
# $$\mathcal{L} = -\mathbb{E}_q \log p(x \mid u) + \sum_t \beta_t\, \mathrm{KL}[q(z_t \mid x) \,\|\, p(z_t)] .$$
#
# KL terms are never negative. So with all $\beta_t \ge 1$ the loss is still an upper bound on $-\log p(x)$, a looser
# one; with a $\beta_t < 1$ it bounds nothing.
#
# The paper weighs early steps more, because they tend to do all the work. Its text says that the weight falls "over
# time" from 0.0003 to 0.0002, and leaves open whether time is epochs or steps; we follow the authors' code, where it
# is blocks. Its $\alpha$ stands beside the *mean* square of pixels in $[-1, 1]$. Ours stands beside
# $\sum_j (x_j - \mu_j)^2 / (2 s^2)$ with pixels in $[0, 1]$. An error is twice as large on $[-1, 1]$, its square four
# times. So their mean is $4 / d$ times our sum of squares, and dividing their loss by $8 s^2 / d$ gives
#
# $$\beta = \frac{\alpha\, d}{8 s^2} .$$

# %%
squares = ((x - mu) ** 2).sum(-1)
theirs = ((2 * x - 2 * mu) ** 2).mean(-1) + 0.0003 * kl.sum(-1)
assert torch.allclose(
    theirs * 64 / (8 * 0.1**2), squares / (2 * 0.1**2) + 0.0003 * 64 / (8 * 0.1**2) * kl.sum(-1), rtol=1e-4
)

weighted = pv.Pair(recurrent.model, recurrent.guide, pv.ELBO({"z_1": 4.0, "z_2": 2.0})).eval()
torch.manual_seed(2)
heavy = weighted(x)
assert torch.isclose(heavy.total, loss.total + 3 * loss.terms["z_1"] + loss.terms["z_2"], rtol=1e-5)
assert torch.isclose(heavy.bound, loss.bound) and -heavy.total <= heavy.bound
print(f"alpha = 0.0003 is beta = {0.0003 * 64 / (8 * 0.1**2):.2f} for 8 x 8 pixels and sd 0.1: no bound, but sharper")

# %% [markdown]
# What does a block do? `pv.block_effects` draws it anew, alone, and compares how much the image moves with how much
# it moves when everything is drawn anew. (This share is Sobol's total effect. The shares add up to one where images
# are a sum of functions of single blocks, and to more where blocks act together.)
#
# We look at two starts of `bcvae` and of `crvae` (the second in a lighter colour), and at a `crvae` whose first block
# is weighed four times. (The paper's ratio is 1.5, too gentle to be seen after seconds of training.) *Predict* before
# you look: which of the five must have an order in its blocks, and which can have one only by chance?

# %%
torch.manual_seed(2)
block_2 = pv.bcvae(**size, blocks=4)
recurrent_2 = pv.crvae(**size, blocks=4, units=32)
weighed = pv.crvae(**size, blocks=4, units=32, beta=[4.0, 1.0, 1.0, 1.0])
for pair in (block_2, recurrent_2, weighed):
    pv.fit(pair, train, steps=steps(300), batch_size=64, lr=3e-3, progress=False)
panels = {
    "bcvae, two starts": (GREY, (block, block_2)),
    "crvae, two starts": (RED, (recurrent, recurrent_2)),
    "crvae, $\\beta_1 = 4$": (YELLOW, (weighed,)),
}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained", sharey=True)
for ax, (name, (colour, members)) in zip(axes, panels.items(), strict=True):
    for i, pair in enumerate(members):
        share = pv.block_effects(pair, 400).share
        ax.bar(places + (0.42 * i - 0.21) * (len(members) > 1), share, 0.4, color=colour, alpha=1 - 0.45 * i)
    ax.set_xticks([1, 2, 3, 4])
    ax.set_xlabel("block $t$, drawn anew alone")
    ax.set_title(name, loc="left")
axes[0].set_ylabel("share of the image's variance")
plt.show()

# %% [markdown]
# The blocks of `bcvae` are interchangeable: number them anew, and the family of models is the same. Any order that
# you see there is chance. Those of `crvae` are not: $z_1$ stands in every $u_t$, and $z_4$ in one only, so that early
# blocks move more. A weight on the first block makes the pair avoid it, and the next ones take its place:
# weights *do* say which block carries what, and sharply.
#
# That early blocks move *more* is architecture. That they hold what is *global*, as the paper reads off its pictures,
# is a further claim; on Frey faces it held only in part ([Channel recurrence](../docs/channels.md)).

# %% [markdown]
# ## 6. What blocks can be asked
#
# **Evolution**: nothing, then $z_1$, then $z_1, z_2$, ..., each kept once it is drawn. "Nothing" is $z_t = 0$, the
# mean of the prior.

# %%
story = pv.evolve(recurrent, draws=5, seed=3)  # (5, T + 1, 64)
path = pv.interpolate_block(recurrent, 1, steps=5, draws=5, seed=3)
assert torch.allclose(story[:, 0], story[:1, 0].expand(5, -1))  # nothing is the same for all
assert torch.allclose(story[:, -1], path[:, 0], atol=1e-6)  # all of it is where a path starts
columns = ["nothing", "$z_1$", "$z_1 z_2$", "$z_1 .. z_3$", "$z_1 .. z_4$"]
show(story, "crvae: five images come into being", columns=columns)

# %% [markdown]
# Most is settled with the first block or two, as the bars said. **Styles**: draw one block anew, keep the others.
# Each column below has the *same* new block in all three rows, so that you can see whether it does the same
# everywhere.

# %%
for number in (1, 3):
    styles = pv.resample_block(recurrent, number, styles=7, draws=3, seed=3)
    start = pv.evolve(recurrent, draws=3, seed=3)[:, -1:]
    show(torch.cat([start, styles], 1), f"Block {number} drawn anew seven times", columns=["start", *"1234567"])

# %% [markdown] tags=["derivation", "T22"]
# ## 7. Between four images
#
# **Which way leads from one code to another?**
#
# On a straight line between two independent draws $Z_1, Z_2 \sim \mathcal{N}(0, I)$ the point $(1 - w) Z_1 + w Z_2$
# has covariance $((1 - w)^2 + w^2) I$: in the middle only $\tfrac12 I$. In many dimensions all draws of
# $\mathcal{N}(0, I)$ lie near the sphere of radius $\sqrt{k}$; the middle of the line is far inside, where the
# decoder has seen no code.
#
# So take weights whose *squares* sum to one. For four codes, with two angles $\psi, \varphi \in [0, \pi / 2]$
# (Shang et al., Eq. S1):
#
# $$Z_{\psi, \varphi} = \cos\varphi\, (\cos\psi\, Z_1 + \sin\psi\, Z_2)
#   + \sin\varphi\, (\cos\psi\, Z_3 + \sin\psi\, Z_4).$$
#
# A sum of independent Gaussians is Gaussian, and variances add with squared weights:
#
# $$\cos^2\varphi\, (\cos^2\psi + \sin^2\psi) + \sin^2\varphi\, (\cos^2\psi + \sin^2\psi) = 1 .$$
#
# Every point of the square is again distributed as $\mathcal{N}(0, I)$, and the corners are the four codes. (Codes of
# data, drawn from $q(z \mid x)$, are such draws only on average over the data, and only if the aggregated posterior
# is the prior.)

# %%
angle = torch.linspace(0, math.pi / 2, 6)
cos, sin = angle.cos(), angle.sin()
weights = torch.stack(
    [torch.outer(cos, cos), torch.outer(cos, sin), torch.outer(sin, cos), torch.outer(sin, sin)], -1
)  # (phi, psi, corner)
assert torch.allclose(weights.square().sum(-1), torch.ones(6, 6))

corners = {f"z_{t}": torch.randn(4, 16) for t in range(1, 5)}
square = pv.interpolate(recurrent, corners, 6)
between = {name: torch.einsum("pqc,ck->pqk", weights, value)[2, 4][None] for name, value in corners.items()}
by_hand = pv.evolve(recurrent, x=between)[0, -1]  # the last column of evolve is the image of the whole code
assert torch.allclose(square[2, 4], by_hand, atol=1e-5)

# %%
chosen = torch.stack([test[data.y[1500:] == digit][0] for digit in (0, 3, 6, 7)])
show(pv.interpolate(fc, chosen, 7), "conv_vae: a square between the codes of 0, 3, 6 and 7")

ends = torch.randn(2, 5000, 64)
w = torch.linspace(0, 1, 41)[:, None, None]
line = ((1 - w) * ends[0] + w * ends[1]).norm(dim=-1)
arc = ((w * math.pi / 2).cos() * ends[0] + (w * math.pi / 2).sin() * ends[1]).norm(dim=-1)
figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for lengths, colour, name in ((line, RED, "straight line"), (arc, BLUE, "cosine and sine")):
    ax.plot(w.flatten(), lengths.mean(1), color=colour, lw=2, label=name)
    ax.fill_between(w.flatten(), *torch.quantile(lengths, torch.tensor([0.05, 0.95]), 1), color=colour, alpha=0.2)
ax.axhline(8, color=DARK, lw=1, ls=":")
ax.text(0.01, 8.1, "$\\sqrt{64}$", va="bottom")
ax.set_xlabel("on the way from one code to the other")
ax.set_ylabel("length of the code")
ax.set_title("The straight line leaves the shell where codes lie (bands: 90 % of draws)", loc="left", fontsize=11)
ax.set_ylim(3.8, 9.6)
ax.legend(frameon=False, loc="lower center", ncols=2)
plt.show()

# %% [markdown] tags=["derivation"]
# ## 8. A prior fitted afterwards
#
# **What if we keep the convolutional code and mend its prior instead?**
#
# In the paper the grid of `cvae_conv` reconstructs faces well and draws them badly. Its codes are correlated from cell
# to cell, and $\mathcal{N}(0, I)$ does not know it. So fit, once training has ended, a Gaussian for every channel $k$
# to the codes of the data:
#
# $$\hat\mu_k = \frac1N \sum_n z_k^n, \qquad
# \hat\Sigma_k = \frac{1}{N - 1} \sum_n (z_k^n - \hat\mu_k)(z_k^n - \hat\mu_k)^\top, \qquad z^n \sim q(z \mid x^n).$$
#
# Why these moments? Only the KL depends on the prior, and of all Gaussians the one with the codes' own mean and
# covariance has the largest average $\log p(z)$. So the bound on the training data can only rise: *no parameter was
# touched*, and encoder and decoder stay as they are. What should $\hat\Sigma_k$ be for many draws? By the law of
# total variance
#
# $$\Sigma_k = \mathrm{Cov}_x[\mu_k(x)] + \mathbb{E}_x[\mathrm{diag}\, \sigma_k^2(x)],$$
#
# which has no draws in it, so that we can check the fit against it.

# %%
# The same networks, with another prior: first empirical_cvae, then the same as one call on a trained pair.
fitted = pv.empirical_cvae(**size)
fitted.model.decoder.load_state_dict(grid.model.decoder.state_dict())
fitted.guide.load_state_dict(grid.guide.state_dict())
fitted.eval()
pv.fit_prior(fitted, train, draws=20)
also = pv.with_empirical_prior(grid, train, channels=4, draws=20)
assert torch.allclose(also.model.prior.scale_tril, fitted.model.prior.scale_tril, atol=1e-4)

with torch.no_grad():
    mean, sd = (part.reshape(-1, 4, 16) for part in grid.guide.encoder(train))
for k in range(4):
    sigma = mean[:, k].T.cov() + torch.diag(sd[:, k].square().mean(0))
    found = fitted.model.prior.scale_tril[k]
    assert (found @ found.T - sigma).norm() < 0.05 * sigma.norm()
before, after = pv.bound(grid, train), pv.bound(fitted, train)
assert after > before
print(f"bound on training digits: {before:.1f} -> {after:.1f}; on new digits: {bounds['cvae_conv']:.1f} -> "
      f"{pv.bound(fitted, test):.1f} nats per digit")  # fmt: skip

# %%
show(
    torch.stack([pv.sample(grid, 9, seed=4), pv.sample(fitted, 9, seed=4), pv.sample(fc, 9, seed=4)]),
    "New digits: from a grid of independent cells, from its fitted prior, from conv_vae",
    rows=["cvae_conv", "fitted prior", "conv_vae"],
)
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for k, ax in enumerate(axes):
    factor = fitted.model.prior.scale_tril[k]
    cov = factor @ factor.T
    drawn = ax.imshow(cov / torch.outer(cov.diagonal().sqrt(), cov.diagonal().sqrt()), cmap="RdBu", vmin=-1, vmax=1)
    ax.set_title(f"channel {k + 1}", fontsize=11)
    ax.set_xlabel("cell (row by row)")
axes[0].set_ylabel("cell")
figure.colorbar(drawn, ax=axes, label="correlation", shrink=0.8)
figure.suptitle("Codes of digits are correlated between cells: what N(0, I) leaves out", fontsize=11)
plt.show()

# %% [markdown]
# In nats the repair is large. By eye it is modest: strokes of the second row hang together better than those of the
# first. (And `conv_vae`, after seconds of training, draws no better than the grid; the difference that the paper shows
# on faces is not to be had here.) A channel without correlations, such as the last one here, is one that the guide
# does not use: its codes *are* draws of the prior, and there is nothing to fit.
#
# On the page of results the fitted prior made samples of faces much better, and those of birds not. The `two_stage_vae`
# of `06-generation.ipynb` learns the codes with a second VAE instead.

# %% [markdown] tags=["derivation"]
# ## 9. Half an image, completed
#
# **What is the most likely code, given some pixels?**
#
# Write $m \in \{0, 1\}^d$ for the mask, 1 where a pixel is *seen*, and $\mathrm{gen}(z)$ for the image of a code. The
# code's density given the seen pixels is, by Bayes, proportional to $p(z) \prod_{j: m_j = 1} p(x_j \mid z)$. Take
# minus the logarithm, with $p(x_j \mid z) = \mathcal{N}(\mathrm{gen}_j(z), s^2)$, and multiply by $2 s^2$:
#
# $$E(z) = \lVert m \odot (\mathrm{gen}(z) - x) \rVert^2 - \gamma \log p(z) + \text{const}, \qquad \gamma = 2 s^2 .$$
#
# That is the paper's Eq. 5 with its sign mended. As printed it has $+ \gamma \log \mathcal{N}(z; 0, I)$, and then
# nothing holds the code: along any ray $z = r v$, $\lVert v \rVert = 1$, the squares stay below the number of seen
# pixels, since images lie in $[0, 1]$, while $+\gamma \log p(z)$ falls like $-\gamma r^2 / 2$. Its infimum is
# $-\infty$, at infinitely unlikely codes. The last term of Eq. 5, $\tau \log(1 - D(\mathrm{gen}(z)))$, asks a
# discriminator $D$; we come to it below.

# %%
seen = hiding("right", (8, 8))  # (64,), 1 is seen, 0 is hidden
rows = test[:6]
best = pv.complete(fc, rows, seen, gamma=0.02, steps=60, restarts=2)
assert torch.equal(best.mean[:, seen == 1], rows[:, seen == 1])  # seen pixels stay, to the bit
assert (best.trace.diff(dim=0) <= 1e-9).all()  # the line search never climbs


def energy(z, sign):
    with torch.no_grad():
        squares = (seen * (fc.model.decoder(z) - rows)).square().sum(-1)
    return squares + sign * 0.02 * torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


z_best = best.z["z"][0]
assert torch.allclose(energy(z_best, -1.0).double(), best.energy, rtol=1e-3)
printed = [energy(r * z_best, +1.0).mean().item() for r in (1, 10, 100, 1000)]
assert printed == sorted(printed, reverse=True) and printed[-1] < -1e4
print("with the printed sign, on the way out along a ray:", ", ".join(f"{e:,.1f}" for e in printed))

# %% [markdown]
# The minimum is one answer. Many codes may fit the seen half, and `method="importance"` weighs them: draws of the
# posterior, a standard deviation for every hidden pixel, and a k-hat per image that says whether the weights can be
# trusted (below 0.7).

# %%
fc_half = pv.complete(fc, rows, seen, method="importance", steps=60, restarts=2, samples=400, draws=3)
cr_half = pv.complete(recurrent, rows, seen, steps=60, restarts=2)
hidden = seen == 0
nearest = train[torch.cdist(rows * seen, train * seen).argmin(1)]
guesses = {
    "mean digit": train.mean(0).expand(6, -1),
    "nearest digit": nearest,
    "conv_vae, best code": best.mean,
    "conv_vae, 8 restarts": pv.complete(fc, rows, seen, steps=200, restarts=8).mean,
    "crvae, best code": cr_half.mean,
    "conv_vae, mean of draws": fc_half.mean,
}
for name, guess in guesses.items():
    print(f"{name:24s} error of the hidden half {(guess - rows)[:, hidden].square().mean():.4f}")
print("k-hat of conv_vae's draws:", ", ".join(f"{k:.2f}" for k in fc_half.khat.tolist()))
shaded = torch.where(hidden, torch.tensor(0.35), rows)
joined = torch.where(hidden, nearest, rows)
columns = [rows, shaded, best.mean, *fc_half.draws[:2], 3 * fc_half.sd, cr_half.mean, joined]
show(
    torch.stack(columns).transpose(0, 1),
    "The right half is hidden",
    columns=["truth", "seen", "conv_vae\nbest", "draw 1", "draw 2", "3 x sd", "crvae\nbest", "nearest\ndigit"],
)

# %% [markdown]
# Six images are an illustration, not a comparison. Still, see two things in the numbers (mean squares of hidden
# pixels). The *best* code of `conv_vae` is worse than the mean digit, and four times as many restarts, with three times
# the steps, do not mend it: the search is no longer the trouble, and the mode of a density over 64 entries need not
# look like its mean. And k-hat is above 0.7 for all or nearly all of them: take the draws as guesses, not as a
# posterior. A code of 64 entries is already much for importance sampling; `method="nuts"` is slower and surer
# (`09-posterior.ipynb`). The nearest training digit, no model at all, is hard to beat with 1,500 small digits to choose
# from.

# %% [markdown] tags=["derivation"]
# ## 10. The adversarial term is part of the objective, and of nothing else
#
# **What does a discriminator do to $p$ and $q$?**
#
# The paper adds a game (Eq. 4): a network $D$ learns to tell data from images that the model makes, and model and
# guide learn to be mistaken for data. $D(x)$ is its probability that $x$ is real (the
# networks in the code give its logit),
#
# $$\min_{\phi, \theta} \max_D \; -\mathrm{ELBO} + \lambda \Big( \mathbb{E}_{x} \log D(x)
#   + \mathbb{E}_{z \sim q(z \mid x)} \log(1 - D(\mathrm{gen}(z)))
#   + \mathbb{E}_{z \sim p(z)} \log(1 - D(\mathrm{gen}(z))) \Big) .$$
#
# Three places disagree. Eq. 4 has fakes from $q$ *and* $p$; Eq. S3 only from $p$, and with the sign of $D$'s own
# loss, which the generator would then minimise together with $D$; the experiment with few labels has reconstructions
# only. Hence `fakes="posterior"`, `"prior"` or `"both"` (the default, Eq. 4), and the right sign. Eq. 4 has no
# $\lambda$ either, Eq. S3 has one (called $\beta$ there): it is `weight`, in nats.
#
# One more departure, the authors' code has it too: where $D$ is sure of a fake, $\log(1 - D)$ is flat, and the
# generator learns nothing. So what `VAEGAN` gives it to minimise is $-\log D(\mathrm{gen}(z))$, which falls in the same
# direction and is steep there. `saturating=True` is the game as printed.
#
# Where does $D$ enter the probabilities? Nowhere. $p(z)\, p(x \mid z)$ and $q(z \mid x)$ are the programs, and the
# term is a function of *draws* of them, not a density of $x$. It changes where training goes, and it changes no
# formula: ask the trained pair for its bound, and $D$ has no say. We check that; that neither player's loss moves the
# other ($D$ is a constant in the generator's loss, the images in $D$'s); and that in the game as printed both losses
# pull the fakes in opposite directions.
# (`rate` is $D$'s learning rate as a multiple of the others'.)

# %%
torch.manual_seed(1)
gan = pv.vae_gan(**size, discriminator_filters=(16,), discriminator_hidden=64, rate=10.0).eval()
gan.load_state_dict(fc.state_dict(), strict=False)  # p and q of the trained conv_vae, a fresh D
inside = {id(p) for program in (gan.model, gan.guide) for p in program.parameters()}
assert not any(id(p) in inside for p in gan.objective.discriminator.parameters())
plain = pv.Pair(gan.model, gan.guide, pv.ELBO(), range=(0, 1)).eval()
assert pv.bound(gan, test) == pv.bound(plain, test) == pv.bound(fc, test)

fakes = fc.model.decoder(torch.randn(30, 64)).detach().requires_grad_()
game = pv.players(gan.objective.discriminator, test[:30], fakes, saturating=True)
weights_of_d = list(gan.objective.discriminator.parameters())
moved = torch.autograd.grad(game.generator, weights_of_d, allow_unused=True, retain_graph=True)
assert all(g is None or not g.any() for g in moved)  # D is a constant in the generator's loss
assert torch.autograd.grad(game.discriminator, fakes, allow_unused=True, retain_graph=True)[0] is None
ours = torch.autograd.grad(game.generator, fakes)[0]
loss_of_d = softplus(gan.objective.discriminator(fakes)).mean()  # -log(1 - D), with its images
assert torch.allclose(ours, -torch.autograd.grad(loss_of_d, fakes)[0], atol=1e-7)  # opposite signs: S3 has them equal

# %% [markdown]
# The rule of the paper: where $D$ tells more than 90 % of a batch right it skips its step, so that it does not win for
# good. Train on, and watch both, the game and the bound. We go on from the trained `conv_vae` with both objectives, for
# as many steps.

# %%
more = pv.conv_vae(**size)
more.load_state_dict(fc.state_dict())
pv.fit(more, train, steps=steps(120), batch_size=64, lr=1e-3, progress=False)
gan.train()
history = pv.fit(gan, train, steps=steps(120), batch_size=64, lr=1e-3, log_every=4, progress=False)
gan.eval()
rows_of = [row["seen"] for row in history.rows]
figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.4), layout="constrained")
at = [row["step"] for row in history.rows]
accuracy = torch.tensor([row["accuracy"] for row in rows_of])
skipped = torch.tensor([row["skipped"] for row in rows_of]) > 0
axes[0].plot(at, accuracy, color=GREY)
axes[0].scatter(torch.tensor(at)[skipped], accuracy[skipped], color=RED, s=22, label="D skips its step", zorder=3)
axes[0].axhline(0.9, color=DARK, ls=":", lw=1)
axes[0].set_ylim(0.3, 1.02)
axes[0].set_xlabel("step")
axes[0].set_ylabel("share that D tells right")
axes[0].set_title("The game", loc="left")
if skipped.any():
    axes[0].legend(frameon=False, loc="lower right")
found = {
    "conv_vae": pv.bound(fc, test),
    "conv_vae,\n120 steps more": pv.bound(more, test),
    "vae_gan": pv.bound(gan, test),
}
drawn = axes[1].barh(list(found), list(found.values()), color=[GREY, DARK, RED])
axes[1].bar_label(drawn, fmt="%.1f", padding=3)
axes[1].margins(x=0.15)
axes[1].invert_yaxis()
axes[1].set_xlabel("bound on new digits (nats per digit)")
axes[1].set_title("The discriminator is paid for in nats", loc="left")
plt.show()
show(torch.stack([pv.sample(more, 9, seed=5), pv.sample(gan, 9, seed=5)]), "New digits", rows=["conv_vae", "vae_gan"])

# %% [markdown]
# Of course the bound does not gain: the parameters now serve two masters. What the game should buy is that images
# *look* real, and at 8 x 8 pixels there is next to nothing to look at. At larger sizes and a few hundred steps the
# Frechet distance did not see a gain either ([Channel recurrence](../docs/channels.md)); the paper's images are of 64
# and 128 pixels, after 150 passes.
#
# `crvae_gan` is the same around blocks. Its terms show all of this notebook at once: one KL per block, with its
# weight; the data; the two players. (`gan` is $\lambda$ times the generator's loss, so that two kinds of fakes cost
# twice. `discriminator` is $D$'s own loss, and $2 \log 2 = 1.39$ is that of a coin: this $D$ has not learned yet.)

# %%
torch.manual_seed(1)
blocks_gan = pv.crvae_gan(
    **size, blocks=4, units=32, beta=[1.5, 1.0, 1.0, 1.0], discriminator_filters=(8,), discriminator_hidden=32
).eval()
blocks_gan.load_state_dict(recurrent.state_dict(), strict=False)
for kind in ("posterior", "prior", "both"):
    # The same D in every row; only the fakes it is shown differ.
    blocks_gan.objective = pv.VAEGAN(1.0, blocks_gan.objective.discriminator, weight=8.0, fakes=kind)
    torch.manual_seed(2)
    terms = {name: term.item() for name, term in blocks_gan(x).terms.items()}
    print(f"{kind:10s}", ", ".join(f"{name} {value:.2f}" for name, value in terms.items()))
    if kind == "posterior":  # the fakes are mu of section 2: -log D = softplus(-logit), -log(1 - D) = softplus(logit)
        with torch.no_grad():
            of_fakes, of_data = blocks_gan.objective.discriminator(mu), blocks_gan.objective.discriminator(x)
        assert math.isclose(terms["gan"], 8 * softplus(-of_fakes).mean(), rel_tol=1e-4)
        assert math.isclose(terms["discriminator"], softplus(-of_data).mean() + softplus(of_fakes).mean(), rel_tol=1e-4)
torch.manual_seed(2)
assert torch.isclose(blocks_gan(x).bound, loss.bound, rtol=1e-5)  # the bound of section 2, whatever D says
asked = pv.complete(blocks_gan, test[:6], seen, tau=1.0, steps=60, restarts=2).mean
change = (asked - cr_half.mean)[:, hidden].square().mean().sqrt()
print(f"Eq. 5 with tau = 1, and a D that was never trained: the hidden half moves by {change:.4f} (rms of pixels)")

# %% [markdown] tags=["exercise"]
# ## Exercises
#
# **1. A recurrence of your own.** The family needs no LSTM: any module from blocks $(\dots, T, k/T)$ to blocks
# $(\dots, T, m)$ will do. Take running sums, $u_t = z_1 + \dots + z_t$. *Predict* the matrix of section 3, entry by
# entry, for blocks of $k/T = 3$ entries. Then put the module into a pair, test your prediction, and train the pair.
# (The model is `LatentBlocks` of `pyro_vaes.models.blocks`, the guide `AmortisedBlocks` of `pyro_vaes.guides.blocks`.)

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# du_s / dz_t is the 3 x 3 identity for t <= s and 0 otherwise; its norm is the square root of 3.
from pyro_vaes.guides.blocks import AmortisedBlocks
from pyro_vaes.models.blocks import LatentBlocks
from pyro_vaes.models.likelihoods import NormalPixels
from pyro_vaes.models.prior import StandardPrior
from pyro_vaes.nn.mlp import Decoder, GaussianEncoder
from pyro_vaes.nn.scales import FixedScale


class Sums(torch.nn.Module):
    def forward(self, z):
        return z.cumsum(-2)


assert torch.allclose(heard(Sums(), torch.randn(4, 3)), math.sqrt(3) * torch.ones(4, 4).tril())
likelihood = NormalPixels(Decoder(12, (32,), 64), FixedScale(0.1))
sums = pv.Pair(
    LatentBlocks(StandardPrior(3), 4, Sums(), likelihood), AmortisedBlocks(GaussianEncoder(64, (32,), 12), 4)
)
start = pv.bound(sums, test)
pv.fit(sums, train, steps=steps(300), lr=3e-3, progress=False)
assert pv.bound(sums, test) > start
print("shares of the four blocks:", [round(v, 2) for v in pv.block_effects(sums, 300).share.tolist()])

# %% [markdown] tags=["exercise"]
# **2. The straight line.** Section 7 says that a point on the line has covariance $((1 - w)^2 + w^2) I$. Where is it
# smallest, and how long is the code there, compared with its ends? Derive both, then test them on the lengths `line`
# of that section.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# The derivative -2 (1 - w) + 2 w is zero at w = 1/2, where the variance is 1/2: lengths shrink by the square root of 2.
ratio = line[20].mean() / line[0].mean()
assert line.mean(1).argmin() == 20
assert math.isclose(ratio, math.sqrt(0.5), rel_tol=0.01)
print(f"half way the code has {ratio:.3f} of its length; sqrt(1/2) = {math.sqrt(0.5):.3f}")

# %% [markdown] tags=["exercise"]
# **3. Too much prior.** What image does `pv.complete` answer as $\gamma \to \infty$? And how do the squares of the
# *seen* pixels, and the length of the code, move as $\gamma$ grows from 0.002 over 0.02 to 0.2? *Predict*, then test.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# For a huge gamma only the prior counts: z = 0, its mode, whose image is the first column of evolve.
nothing = pv.evolve(fc, draws=1)[0, 0]
strict = pv.complete(fc, rows, seen, gamma=1e6, steps=60, restarts=2).mean
assert torch.allclose(strict[:, hidden], nothing[hidden].expand(6, -1), atol=1e-3)
# In between the seen pixels pay for a shorter code.
fits, lengths = [], []
for gamma in (0.002, 0.02, 0.2):
    z_gamma = pv.complete(fc, rows, seen, gamma=gamma, steps=60, restarts=2).z["z"][0]
    fits.append((seen * (fc.model.decoder(z_gamma) - rows)).square().sum(-1).mean().item())
    lengths.append(z_gamma.norm(dim=-1).mean().item())
print("squares of seen pixels", [round(f, 2) for f in fits])
print("lengths of codes", [round(n, 1) for n in lengths])
if not SMOKE:
    assert fits == sorted(fits) and lengths == sorted(lengths, reverse=True)

# %% [markdown] tags=["exercise"]
# **4. Is the guide recurrent?** Someone says: "with an LSTM in it the crVAE's guide can model correlations between
# blocks, so its gap is smaller." Use the pair's own trace to show what $q(z_3 \mid x)$ depends on once $x$ is given,
# and say in one sentence what the LSTM can help with instead.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# Fix z_1 and z_2 at wild values: the distribution of z_3 does not move. The LSTM can make the *variances* better
# functions of x; it cannot give q a covariance.
free = poutine.trace(recurrent.guide).get_trace(x).nodes["z_3"]["fn"]
wild = {"z_1": torch.full((50, 16), 9.0), "z_2": torch.full((50, 16), -9.0)}
held = poutine.trace(poutine.condition(recurrent.guide, wild)).get_trace(x).nodes["z_3"]["fn"]
assert torch.equal(free.mean, held.mean) and torch.equal(free.stddev, held.stddev)

# %% [markdown]
# ## What to remember
#
# - A code in blocks is $T$ sites. Each has its own KL in the bound, its own weight, and can be redrawn alone.
# - The LSTM is a *network* in $p$ and in $q$. Given $x$ the guide is still a diagonal Gaussian, and with one block
#   all of it is the plain VAE.
# - The paper's Proposition A.1 is right for a random, observed $u$. Ours is deterministic and hidden: an intuition,
#   not this model's bound.
# - A code on a grid wants a prior that knows the grid. Fitted afterwards, without a gradient, it raises the bound.
# - A discriminator is part of the objective. $p$, $q$, the bound and every posterior do not know it.
# - At our scale recurrence brought less than the paper reports, and on the way back to the image it cost. Short
#   trainings show the start of a story only.
#
# ## Where to go on
#
# `06-generation.ipynb` for what makes a good generator, `08-conditioning.ipynb` for codes beside labels,
# `09-posterior.ipynb` for what a guide misses. The page [Channel recurrence](../docs/channels.md) has Table 1 of the
# paper at small scale, Frey faces, birds and few labels.
#
# **Sources.** Shang, Sohn, Akata & Tian, *Channel-Recurrent Variational Autoencoders* (2017): Section 3, Eq. 2-5, Eq.
# S1 and S3, Proposition A.1. Larsen, Sønderby, Larochelle & Winther (2016) for the VAE-GAN. Hochreiter & Schmidhuber
# (1997) for the LSTM. Jansen (1999) for the estimator of total effects.
