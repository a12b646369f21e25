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
# # The VAE from scratch
#
# For readers who know densities, expectations and a little PyTorch, and have never met a variational autoencoder
# (VAE). You will derive its objective in two ways, see why an encoder is needed at all, get gradients through a
# random draw, work out the closed forms for Gaussians, and meet a model in which *everything* is known exactly. At
# the end the VAE is a pair of Pyro programs that you write yourself and train twice: with Pyro's own `SVI`, and with
# `pv.fit`.
#
# Every formula is followed by a cell that computes it a second time in another way, and stops with an error if the
# two disagree. The notebook takes about a minute.

# %%
import math
import os

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.nn import PyroModule
from sklearn.decomposition import PCA
from torch import nn
from torch.nn.functional import softplus

import pyro_vaes as pv
from pyro_vaes.plates import data_plate

SMOKE = bool(os.environ.get("PYRO_VAES_SMOKE"))  # a few steps only: the cells run, figures mean nothing
F64 = torch.float64
RED, DARK, GREY, YELLOW, TEAL = "#d1495b", "#2e4057", "#9aa5b1", "#edae49", "#00798c"
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 11})


def steps(n):
    return 20 if SMOKE else n


def tiled(images, rows, columns):
    """Images (rows * columns, 64) as one array, with a dark line between them."""
    framed = nn.functional.pad(images.detach().reshape(rows, columns, 8, 8), (1, 1, 1, 1))
    return framed.permute(0, 2, 1, 3).reshape(10 * rows, 10 * columns).numpy()


def normal_log_prob(z, loc, scale):
    """log N(z; loc, diag scale^2), written out; the last dimension is summed."""
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


# %% [markdown]
# ## 1. A model with something unseen in it
#
# *Question: how do we describe images by a few numbers that nobody has written down?*
#
# An image is a vector $x$ of $d = 64$ pixels, here 0 or 1. We suppose that it was made in two steps. First a **code**
# $z$ of $k$ numbers was drawn from a fixed density, the **prior**. Then the pixels were drawn, given the code:
#
# $$z \sim p(z) = \mathcal{N}(0, I), \qquad
#   x \sim p_\theta(x \mid z) = \prod_{j=1}^{d} \mathrm{Bernoulli}\big(x_j;\ \mathrm{sigmoid}(l_j(z))\big).$$
#
# The logits $l(z)$ come from a neural network, the **decoder**, with weights $\theta$. The code is never observed, so
# the density of an image is an integral over all codes that could have made it:
#
# $$p_\theta(x) = \int p_\theta(x \mid z)\, p(z)\, dz .$$
#
# It is called the **evidence**. We would like to choose $\theta$ such that $\log p_\theta(x)$ is large for our
# images. We would also like the **posterior** $p_\theta(z \mid x) = p_\theta(x \mid z)\, p(z) / p_\theta(x)$: which
# codes may have made *this* image? Both need the integral, which has no closed form. That is the whole difficulty.
# (Where it is clear which weights are meant we leave $\theta$ and $\phi$ away.)
#
# `pv.vae` makes such a model. Beside it comes a second network, the **encoder** with weights $\phi$: it looks at $x$
# and proposes a Gaussian $q_\phi(z \mid x) = \mathcal{N}(\mu_z(x), \mathrm{diag}\,\sigma_z^2(x))$ for the code. In
# Pyro's words $p$ is the *model* and $q$ is the *guide*. Take for granted for now that `pv.fit` finds good weights;
# by the end you will know what it does. We start with two codes, $k = 2$, because then the integral *can* be done: on
# a grid.
#
# `describe()` prints one row per random quantity, a *site*: its density in the model (p) and in the guide (q), and
# its shape. The guide says `data` where it draws nothing, since $x$ is given. (*1 pass*: at test time encoder and
# decoder run once. [Notebook 4](04-recycling.ipynb) has models that run them more often.)

# %%
grey = pv.load("digits").x  # 1797 images of 8 x 8 pixels in [0, 1]
binary = (grey > 0.5).float()
train, test = binary[:1500], binary[1500:]
small = pv.vae(data_dim=64, latent_dim=2, hidden=(64,))
pv.fit(small, train, steps=steps(1500), lr=5e-3, progress=False)
small = small.double().eval()  # double precision: the checks below are meant to be strict
print(small.describe())

# %% [markdown]
# The first picture shows what a trained decoder has made of the plane: the mean image $\mathrm{sigmoid}(l(z))$ at
# codes on a lattice. Neighbouring codes make similar images, and from one digit to the next there are blends. The
# prior puts 94 % of its codes within 2.4 of the origin.

# %%
across = torch.linspace(-2.4, 2.4, 13, dtype=F64)
lattice = torch.cartesian_prod(across.flip(0), across).flip(1)  # rows from top to bottom, (z_1, z_2)
with torch.no_grad():
    images = small.model.decoder(lattice).sigmoid()
figure, axis = plt.subplots(figsize=(5.2, 5.2), layout="constrained")
axis.imshow(tiled(images, 13, 13), cmap="gray", extent=(-2.6, 2.6, -2.6, 2.6))
axis.set(title="What each code makes", xlabel="code $z_1$", ylabel="code $z_2$")
plt.show()

# %% [markdown]
# On a grid over the plane we now compute, for twenty test images, what is usually out of reach: $\log p(x)$ and the
# posterior. An integral becomes a sum of values times the area of a cell. Sums of tiny numbers are done in
# logarithms. For the pixels we insert $\mathrm{sigmoid}(l) = e^l / (1 + e^l)$, and $1 / (1 + e^l)$ for the opposite,
# into the Bernoulli density, with $\mathrm{softplus}(l) = \log(1 + e^l)$:
#
# $$\log p(x \mid z) = \sum_j \big[x_j \log \mathrm{sigmoid}(l_j) + (1 - x_j) \log(1 - \mathrm{sigmoid}(l_j))\big]
#   = \sum_j \big[x_j\, l_j - \mathrm{softplus}(l_j)\big].$$

# %%
line = torch.linspace(-5, 5, 321, dtype=F64)
grid = torch.cartesian_prod(line, line)  # (321 * 321, 2)
log_cell = 2 * math.log(line[1] - line[0])
x = test[:20].double()
with torch.no_grad():
    logits = small.model.decoder(grid)
log_prior = normal_log_prob(grid, torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64))
log_lik = x @ logits.T - softplus(logits).sum(-1)  # log p(x | z), (20, cells)
log_joint = log_lik + log_prior
evidence = log_joint.logsumexp(1) + log_cell  # log p(x), (20,)
log_posterior = log_joint - evidence[:, None]
print(f"log p(x), mean of twenty images: {evidence.mean():.2f} nats")

# %% [markdown]
# (A *nat* is the unit of a natural logarithm. $\log p(x) = -20$ means a probability of $e^{-20}$ for this very image
# out of $2^{64}$. An image of fair coin flips would have $-64 \log 2 = -44.4$ nats.)

# %% [markdown] tags=["derivation", "T1"]
# ## 2. The bound, derived twice
#
# *Question: what can we maximise instead of the integral?*
#
# **By Jensen.** Multiply and divide by any density $q(z \mid x)$ that is positive where the integrand is. The
# integral becomes an expectation, of the ratio $w(z) = p(x, z) / q(z \mid x)$:
#
# $$\log p(x) = \log \int q(z \mid x)\, \frac{p(x, z)}{q(z \mid x)}\, dz = \log \mathbb{E}_{q}\, w(z)
#   \ \ge\ \mathbb{E}_{q} \log w(z) =: \mathcal{L}(x).$$
#
# The logarithm is concave, so the log of a mean is at least the mean of the logs. $\mathcal{L}$ is the **evidence
# lower bound**, ELBO for short. Jensen says *that* it is a bound, but not how far off it is.
#
# **By the gap.** Write down how far the guide is from the posterior, as a Kullback-Leibler divergence, and insert
# Bayes' rule $p(z \mid x) = p(x, z) / p(x)$:
#
# $$\begin{aligned}
# \mathrm{KL}[q(z \mid x) \,\|\, p(z \mid x)] &= \mathbb{E}_q \big[\log q(z \mid x) - \log p(z \mid x)\big] \\
# &= \mathbb{E}_q \big[\log q(z \mid x) - \log p(x, z)\big] + \log p(x)
#  = \log p(x) - \mathcal{L}(x).
# \end{aligned}$$
#
# $\log p(x)$ leaves the expectation because it does not depend on $z$. So $\log p(x) = \mathcal{L}(x) + \mathrm{KL}$,
# an *equality*. A KL divergence is never negative: the bound again. But now we know the gap. For fixed $\theta$,
# raising the bound over $\phi$ does one thing only: it pulls the guide towards the posterior. Over $\theta$ it does
# *two*: it raises $\log p(x)$, and it prefers models whose posterior the guide can reach. The course report (S4)
# takes raising the bound and raising the likelihood for one thing. They are one only where the gap stays zero.
#
# **What one computes.** With $p(x, z) = p(x \mid z)\, p(z)$ the bound falls into a data term and a regulariser:
#
# $$\mathcal{L}(x) = \underbrace{\mathbb{E}_q \log p(x \mid z)}_{\text{how well codes explain } x}
#   {} - \underbrace{\mathrm{KL}[q(z \mid x) \,\|\, p(z)]}_{\text{what the code costs}} .$$
#
# (Kingma & Welling 2014; the course report (S4) has both steps as Eq. 1 and 2, the tutorial slides (S3) the negative
# bound, to be minimised.) The next cell computes bound and gap on the grid. There the equality is mere algebra, as
# all terms come from one table: what it tests is that the grid is fine enough. The cell after it is the real test. It
# knows nothing of the grid: the evidence comes from 5000 weighted draws per image (section 3), the bound from the
# library, and their difference must be the grid's gap.

# %%
with torch.no_grad():
    loc, scale = small.guide.encoder(x)
log_q = normal_log_prob(grid, loc[:, None], scale[:, None])  # (20, cells)
q_mass = (log_q + log_cell).exp()
elbo = (q_mass * (log_joint - log_q)).sum(1)
gap = (q_mass * (log_q - log_posterior)).sum(1)
data_term = (q_mass * log_lik).sum(1)
cost = (q_mass * (log_q - log_prior)).sum(1)
torch.testing.assert_close(q_mass.sum(1), torch.ones(20, dtype=F64), rtol=0, atol=1e-6)  # the grid is fine enough
torch.testing.assert_close(evidence, elbo + gap, rtol=0, atol=1e-4)
torch.testing.assert_close(elbo, data_term - cost, rtol=0, atol=1e-9)
assert (gap > 0).all()
print(f"log p(x) {evidence.mean():.3f} = ELBO {elbo.mean():.3f} + gap {gap.mean():.3f} nats, mean of twenty images")

# %%
weighted = pv.log_likelihood(small, x, samples=5000)
copies, many = x.repeat(1000, 1), pv.ELBO(sampled=["z"])  # log p(x, z) - log q(z | x), with 1000 draws per image
with torch.no_grad():
    library = torch.stack([many(small.model, small.guide, part).bound for part in copies.split(1000)])
error = library.std() / len(library) ** 0.5
print(f"without the grid: log p(x) {weighted.mean:.3f} +- {weighted.mean_se:.3f}", end=", ")
print(f"pyro_vaes' ELBO {library.mean():.3f} +- {error:.3f}, so gap {weighted.mean - library.mean():.3f} nats")
assert abs(weighted.mean - evidence.mean()) < 5 * weighted.mean_se
assert abs(library.mean() - elbo.mean()) < 5 * error
assert abs(weighted.mean - library.mean() - gap.mean()) < 5 * (error**2 + weighted.mean_se**2) ** 0.5

# %%
worst = int(gap.argmax())
best = int(gap.argmin())
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", width_ratios=[1, 1, 1.1])
for axis, i, name in [(axes[0], best, "smallest gap"), (axes[1], worst, "largest gap")]:
    shape = (len(line), len(line))
    axis.contourf(line.numpy(), line.numpy(), log_posterior[i].exp().reshape(shape).T.numpy(), levels=12, cmap="Greys")
    density = log_q[i].exp().reshape(shape).T.numpy()
    peak = density.max()
    axis.contour(line.numpy(), line.numpy(), density, levels=[0.135 * peak, 0.607 * peak], colors=RED)
    mean, sd = loc[i].numpy(), 4.5 * scale[i].max().item()
    axis.set(xlim=(mean[0] - sd, mean[0] + sd), ylim=(mean[1] - sd, mean[1] + sd), xlabel="$z_1$", ylabel="$z_2$")
    axis.set_title(f"The {name}: {gap[i]:.2f} nats\ngrey: posterior, red: guide", fontsize=11)
axes[2].bar(range(20), gap.sort(descending=True).values, color=RED)
axes[2].set(
    title="Every image has a gap of its own", xlabel="image, largest gap first", ylabel="$\\log p(x)$ - ELBO, nats"
)
plt.show()

# %% [markdown]
# (Red: one and two standard deviations of the guide.) A posterior need not be a Gaussian with axes along the
# coordinates, and the guide can be nothing else: that is one part of the gap. Part of the rest is that one network
# must guess the posterior of every image. (Flows loosen the first of the two: [notebook 2](02-likelihood.ipynb).)

# %% [markdown] tags=["derivation", "T2"]
# ## 3. Why not simply average over the prior?
#
# *Question: $p(x) = \mathbb{E}_{p(z)}\, p(x \mid z)$ is a mean. Why not draw $m$ codes from the prior and average?*
#
# $$\hat p_{\text{prior}}(x) = \frac1m \sum_{i=1}^m p(x \mid z_i),\quad z_i \sim p(z), \qquad\qquad
#   \hat p_{\text{guide}}(x) = \frac1m \sum_{i=1}^m \frac{p(x, z_i)}{q(z_i \mid x)},\quad z_i \sim q(z \mid x).$$
#
# Both are unbiased for every $m$: the second because
# $\mathbb{E}_q\, p(x, z) / q(z \mid x) = \int p(x, z)\, dz = p(x)$. What differs is their variance. Most codes of the
# prior make *other* images: their $p(x \mid z)$ is practically zero, and the mean lives on the few draws that fell
# where the posterior is. The encoder was trained to look there. If $q$ *were* the posterior, the ratio would be
# $p(x)$ for every draw, and $m = 1$ would be enough.
#
# How many draws does the prior need? About $\exp \mathrm{KL}[p(z \mid x) \,\|\, p(z)]$ (Chatterjee & Diaconis 2018):
# the exponential of what an image says about its code, in nats.
#
# Training needs $\log p(x)$, not $p(x)$. The log of an unbiased estimate is too low on average (Jensen again). With
# $m = 1$ this bias is largest, and we know it: $\mathbb{E} \log \hat p_{\text{guide}} = \mathcal{L}(x)$, the ELBO.
# And $\mathbb{E} \log \hat p_{\text{prior}} = \mathbb{E}_{p(z)} \log p(x \mid z)$ is the ELBO of a guide that ignores
# $x$. So *one draw from the encoder per step is enough to train*: it is an unbiased estimate of a bound that is
# nearly tight. Compare the two $\mathbb{E} \log w$ that the next cell prints with the exact value.

# %%
i = int(evidence.sort().indices[10])  # an ordinary image
draws, repeats = 1000 if SMOKE else 4000, 50


def log_p_x_given(z):
    logits = small.model.decoder(z)
    return logits @ x[i] - softplus(logits).sum(-1)


with torch.no_grad():
    z_prior = torch.randn(repeats, draws, 2, dtype=F64)
    z_guide = loc[i] + scale[i] * torch.randn(repeats, draws, 2, dtype=F64)

    standard = normal_log_prob(z_guide, torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64))
    log_w = {
        "prior": log_p_x_given(z_prior),
        "guide": log_p_x_given(z_guide) + standard - normal_log_prob(z_guide, loc[i], scale[i]),
    }
print(f"exact: log p(x) = {evidence[i]:.2f} nats")
for name, value in log_w.items():
    ratio = (value - evidence[i]).exp()  # w / p(x): its mean should be 1
    error = ratio.std() / ratio.numel() ** 0.5
    print(f"{name}: mean of w / p(x) = {ratio.mean():.3f} +- {error:.3f}, E log w = {value.mean():.2f} nats")
    assert abs(ratio.mean() - 1) < 5 * error + 1e-3
bound_of_prior = (log_prior.exp() * log_lik[i]).sum() * math.exp(log_cell)
assert abs(log_w["prior"].mean() - bound_of_prior) < 5 * log_w["prior"].std() / (repeats * draws) ** 0.5
assert abs(log_w["guide"].mean() - elbo[i]) < 5 * log_w["guide"].std() / (repeats * draws) ** 0.5
if not SMOKE:
    assert log_w["prior"].sub(evidence[i]).exp().std() > 3 * log_w["guide"].sub(evidence[i]).exp().std()

# %%
sizes = [1, 3, 10, 30, 100, 300, 1000]
figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
for name, colour in [("prior", GREY), ("guide", RED)]:
    found = [(log_w[name][:, :1000].reshape(-1, 1000)[:, :m].logsumexp(1) - math.log(m)) for m in sizes]
    low, middle, high = (torch.stack([values.quantile(q) for values in found]) for q in (0.1, 0.5, 0.9))
    axis.fill_between(sizes, low, high, color=colour, alpha=0.3)
    axis.plot(sizes, middle, "o-", color=colour, label=f"codes from the {name}: median, 10 to 90 %")
axis.axhline(evidence[i], color=DARK, ls="--", label="exact, by the grid")
axis.set(xscale="log", xlabel="draws m", ylabel="estimate of log p(x), nats", ylim=(evidence[i] - 25, evidence[i] + 4))
axis.set_title("One draw from the encoder is worth dozens from the prior")
axis.legend(frameon=False, loc="lower right", fontsize=10)
plt.show()

# %% [markdown]
# Two codes are kind to the prior: its draws cannot miss a plane by much. The price grows exponentially with what the
# code says. Here is the bill for larger models. The posterior's KL is out of reach there, so we take the guide's
# (the cost term of the bound) in its place, averaged over images.

# %%
middle_vae = pv.vae(data_dim=64, latent_dim=8, hidden=(64,))
pv.fit(middle_vae, train, steps=steps(1500), lr=3e-3, progress=False)
gamma = pv.gamma_vae(data_dim=64, latent_dim=8, hidden=(64,))  # grey pixels, see section 6
pv.fit(gamma, grey[:1500], steps=steps(1500), lr=3e-3, progress=False)
rows = [
    ("2 codes, binary", small, test.double()),
    ("8 codes, binary", middle_vae, test),
    ("8 codes, grey", gamma, grey[1500:]),
]
for name, pair, images in rows:
    kl = pv.decompose(pair, images).kl  # the code's cost of section 2, mean over images
    print(f"{name:16s} code costs {kl:5.2f} nats: about {math.exp(kl):9,.0f} draws from the prior per image")

# %% [markdown] tags=["derivation", "T3"]
# ## 4. A gradient through a draw
#
# *Question: the draw $z \sim q_\phi$ depends on $\phi$. How does one differentiate $\mathbb{E}_{q_\phi} f(z)$?*
#
# **The score function.** Differentiate the density under the integral and use $\nabla q = q \nabla \log q$:
#
# $$\nabla_\phi \mathbb{E}_{q_\phi} f(z) = \int f(z)\, \nabla_\phi q_\phi(z)\, dz
#   = \mathbb{E}_{q_\phi}\big[ f(z)\, \nabla_\phi \log q_\phi(z) \big].$$
#
# It works for any $q$, even a discrete one, but it uses only the *values* of $f$, never its slope: it rewards draws
# that happened to be good. Its noise grows with the size of $f$, even with a constant that says nothing. But
# $\mathbb{E}_q \nabla_\phi \log q_\phi = \nabla_\phi \int q_\phi = \nabla_\phi 1 = 0$, so any constant may be subtracted from
# $f$. We do it both ways, with $f$ as it is, and *centred*: minus the mean of $f$ over the draws.
#
# **The path.** Let the noise come from a density without parameters, and make the draw a function of it:
#
# $$\varepsilon \sim \mathcal{N}(0, I), \quad z = \mu_z + \sigma_z \varepsilon \qquad\Rightarrow\qquad
#   \nabla_\phi \mathbb{E}_{q_\phi} f(z)
#   = \mathbb{E}_{\varepsilon}\big[ \nabla_\phi f(\mu_z + \sigma_z \varepsilon) \big].$$
#
# Now $\phi$ stands *inside* the expectation, and automatic differentiation does the rest. This is the
# **reparameterisation** of Kingma & Welling (2014) and Rezende, Mohamed & Wierstra (2014). It asks for more than the
# score function does: a $z$ that moves smoothly with $\phi$, and an $f$ with a slope. A class has neither ([notebook
# 8](08-conditioning.ipynb) sums it out).
#
# In the ELBO $f(z) = \log p(x, z) - \log q_\phi(z)$ depends on $\phi$ by itself too. In the score-function form that
# adds $-\mathbb{E}_q \nabla_\phi \log q_\phi = 0$ once more, so nothing. In the path form it is simply differentiated
# along. All must give the gradient of the ELBO, which the grid knows. The next two cells compute one gradient per draw,
# for 20,000 draws, at two guides: the trained one, and $\mathcal{N}(0, I)$, which knows nothing yet.


# %%
def f(z, mu, log_sigma):
    standard = normal_log_prob(z, torch.zeros_like(z), torch.ones_like(z))
    return log_p_x_given(z) + standard - normal_log_prob(z, mu, log_sigma.exp())


def exact_gradient(mu, log_sigma):
    """The gradient of the ELBO by the grid, for mu_1, mu_2, log sigma_1, log sigma_2."""
    at = [t.clone().requires_grad_() for t in (mu, log_sigma)]
    log_q = normal_log_prob(grid, at[0], at[1].exp())
    q, value = (log_q + log_cell).exp(), log_joint[i] - log_q
    direct = torch.cat(torch.autograd.grad((q * value).sum(), at, retain_graph=True))
    by_score = torch.cat(torch.autograd.grad((q.detach() * value.detach() * log_q).sum(), at))
    torch.testing.assert_close(direct, by_score, rtol=0, atol=1e-4)  # the score function's mean, without draws
    return direct


def per_draw(mu, log_sigma, count):
    """The same from one draw each, (count, 4), in three ways; every draw has its own copy of mu and log sigma."""
    own = [t.detach().expand(count, 2).clone().requires_grad_() for t in (mu, log_sigma)]
    z = own[0] + own[1].exp() * torch.randn(count, 2, dtype=F64)
    value = f(z, *own)
    path = torch.cat(torch.autograd.grad(value.sum(), own), 1)
    log_q, reward = normal_log_prob(z.detach(), own[0], own[1].exp()), value.detach()
    slope_of_log_q = torch.cat(torch.autograd.grad(log_q.sum(), own), 1)
    score, centred = (r[:, None] * slope_of_log_q for r in (reward, reward - reward.mean()))
    return {"score function": score, "score, centred": centred, "path": path}


# %%
count = 2000 if SMOKE else 20000
nothing = torch.zeros(2, dtype=F64)
guides = {"trained guide": (loc[i], scale[i].log()), "guide N(0, I)": (nothing, nothing)}
exact, gradients = {}, {}
for where, at in guides.items():
    exact[where], gradients[where] = exact_gradient(*at), per_draw(*at, count)
    print(f"{where}: exact gradient {exact[where].numpy().round(2)} for mu_1, mu_2, log sigma_1, log sigma_2")
    for name, g in gradients[where].items():
        error = g.std(0) / count**0.5
        spread = g.std(0).numpy().round(1)
        print(f"  {name:14s} mean {g.mean(0).numpy().round(2)}, standard deviation of one draw {spread}")
        assert ((g.mean(0) - exact[where]).abs() < 5 * error + 1e-3).all()
if not SMOKE:
    noise = {where: {name: g.var(0) for name, g in found.items()} for where, found in gradients.items()}
    assert (noise["trained guide"]["score function"] > 10 * noise["trained guide"]["path"]).all()
    assert (noise["guide N(0, I)"]["score, centred"] > 1.5 * noise["guide N(0, I)"]["path"]).all()

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), layout="constrained")
for axis, (where, found) in zip(axes, gradients.items(), strict=True):
    edge = 100
    for (name, g), colour in zip(found.items(), (GREY, YELLOW, RED), strict=True):
        bins = torch.linspace(-edge, edge, 101).numpy()
        axis.hist(
            g[:, 0].clamp(-edge, edge).numpy(),
            bins=bins,
            color=colour,
            histtype="step",
            lw=1.8,
            density=True,
            label=name,
        )
    axis.axvline(exact[where][0].item(), color=DARK, ls="--", lw=1, label="exact")
    axis.set(title=f"Gradient for $\\mu_1$, {where}", xlabel="nats per unit", yscale="log")
axes[0].set_ylabel("density of draws")
axes[1].legend(frameon=False, fontsize=10, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# All three have the same mean, the dashed line. (A mean of 20,000 draws is off by about the standard deviation over
# $\sqrt{20000} \approx 141$: that is why the first row differs most. The outermost bars hold what lies beyond.) The
# plain score function is spread widest by far, but at the trained guide that is *all* due to the constant: $f$ is
# near $\log p(x)$ for every draw, and centred it is as quiet as the path. At the guide that knows nothing, $f$ differs
# by many nats from draw to draw, and there the slope is worth having: the path is the quietest for all four entries.
# This is where training starts. And the more codes there are, the less a single value of $f$ says about any of them,
# while the path has a slope for each.
#
# With its noise held still, the loss is an ordinary smooth function of all weights. So the gradient that `backward`
# gives can be checked in the ordinary way, against finite differences. Here for the whole pair, $\theta$ and $\phi$
# together, in a random direction:

# %%
pair = pv.vae(data_dim=64, latent_dim=2, hidden=(16,)).double()
weights = nn.utils.parameters_to_vector(pair.parameters()).detach()
direction = torch.randn_like(weights)


def loss_at(step):
    nn.utils.vector_to_parameters(weights + step * direction, pair.parameters())
    torch.manual_seed(1)  # the same noise every time
    return pair(x).total


h = 1e-5
finite = (loss_at(h) - loss_at(-h)).item() / (2 * h)
slopes = torch.autograd.grad(loss_at(0.0), list(pair.parameters()))
by_backward = (nn.utils.parameters_to_vector(slopes) @ direction).item()
print(f"slope by backward {by_backward:.6f}, by finite differences {finite:.6f}")
assert math.isclose(by_backward, finite, rel_tol=1e-5)

# %% [markdown] tags=["derivation", "T4"]
# ## 5. What a Gaussian code costs
#
# *Question: can the KL term be computed without a draw?*
#
# For two Gaussians, yes. Densities of independent entries multiply, so their logs add: it is enough to do one entry,
# $q = \mathcal{N}(\mu, \sigma^2)$ and $p = \mathcal{N}(0, 1)$:
#
# $$\begin{aligned}
# \mathrm{KL}[q \,\|\, p] &= \mathbb{E}_q[\log q(z) - \log p(z)]
#   = \mathbb{E}_q\Big[-\tfrac12 \log 2\pi - \log \sigma - \frac{(z - \mu)^2}{2 \sigma^2}
#   {} + \tfrac12 \log 2\pi + \frac{z^2}{2}\Big] \\
# &= -\log \sigma - \tfrac12 + \tfrac12 (\mu^2 + \sigma^2),
# \end{aligned}$$
#
# since $\mathbb{E}_q (z - \mu)^2 = \sigma^2$ and $\mathbb{E}_q z^2 = \mu^2 + \sigma^2$. For $k$ entries
#
# $$\mathrm{KL} = \tfrac12 \sum_{j=1}^{k} \big(\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2\big).$$
#
# (Wang et al. 2018, Eq. 4; the tutorial slides (S3) write it per dimension.) It is zero only for
# $\mu = 0, \sigma = 1$: a code that says nothing is free. Each term punishes a mean away from 0, and a $\sigma$ away
# from 1 in both directions: to say something *precisely* costs $-\log \sigma$, without limit as $\sigma \to 0$.

# %%
by_formula = 0.5 * (loc**2 + scale**2 - 1 - (scale**2).log()).sum(1)
torch.testing.assert_close(by_formula, cost, rtol=0, atol=1e-4)  # the sum over the grid, section 2
torch.testing.assert_close(by_formula.mean(), small(x).terms["z"].detach())  # the library's term of the site z
by_torch = torch.distributions.kl_divergence(torch.distributions.Normal(loc, scale), torch.distributions.Normal(0, 1))
torch.testing.assert_close(by_formula, by_torch.sum(1))
print(f"KL {by_formula.mean():.4f} nats: by formula, by the grid, by torch and as a term of pyro_vaes' loss")

# %%
with torch.no_grad():
    loc8, scale8 = middle_vae.guide.encoder(test)
per_code = 0.5 * (loc8**2 + scale8**2 - 1 - (scale8**2).log()).mean(0).sort(descending=True).values
sigma = torch.linspace(0.02, 2.5, 300)
figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.5), layout="constrained")
for m, colour in [(0.0, DARK), (1.0, TEAL), (2.0, YELLOW)]:
    axes[0].plot(sigma, 0.5 * (m**2 + sigma**2 - 1) - sigma.log(), color=colour, label=f"$\\mu$ = {m:.0f}")
axes[0].set(title="The cost of one entry", xlabel="$\\sigma$ of the guide", ylabel="nats", ylim=(0, 5))
axes[0].legend(frameon=False)
axes[1].bar(range(1, 9), per_code, color=[RED if value > 0.05 else GREY for value in per_code])
axes[1].set(
    title=f"8 codes of digits: {(per_code > 0.05).sum()} in use, the rest is free",
    xlabel="code, by its cost",
    ylabel="KL, nats per image",
)
plt.show()

# %% [markdown] tags=["derivation", "T5"]
# ## 6. Grey pixels: a Gaussian decoder
#
# *Question: what is the bound when pixels are real numbers?*
#
# Let the decoder give a mean and a standard deviation per pixel:
# $p(x \mid z) = \prod_j \mathcal{N}(x_j; \mu_j(z), \sigma_j(z)^2)$. Insert this density into the data term, and the
# result of section 5 into the other, with *one* draw $z$ of the guide:
#
# $$\hat{\mathcal{L}}(x) =
#   -\frac12 \sum_{j=1}^{d} \Big(\log 2\pi + \log \sigma_j(z)^2 + \frac{(x_j - \mu_j(z))^2}{\sigma_j(z)^2}\Big)
#   {} + \frac12 \sum_{j=1}^{k} \big(1 + \log \sigma_{z,j}^2 - \mu_{z,j}^2 - \sigma_{z,j}^2\big).$$
#
# That is Eq. 6 of the course report (S4). Three choices of $\sigma$ are three variants of this library:
#
# * `gaussian_vae`: a network $\sigma_j(z)$;
# * `l2_vae`: $\sigma = 1$, so that the data term is the squared error, $-\frac12 \lVert x - \mu(z) \rVert^2$, plus a
#   constant;
# * `gamma_vae`: one number for all pixels, $\sigma^2 = \gamma$, which is learned.
#
# For the last one, set the derivative in $\gamma$ of
# $-\frac d2 \log \gamma - \frac{1}{2\gamma} \mathbb{E} \lVert x - \mu(z) \rVert^2$ to zero:
# $\gamma^\star = \frac1d\, \mathbb{E} \lVert x - \mu(z) \rVert^2$, the mean over training data and draws of the guide.
# *The best $\gamma$ is the mean squared error itself.*

# %%
makers = {"gaussian_vae": pv.gaussian_vae(64, 8, (64,)), "l2_vae": pv.l2_vae(64, 8, (64,)), "gamma_vae": gamma}
for name in ("gaussian_vae", "l2_vae"):
    pv.fit(makers[name], grey[:1500], steps=steps(1500), lr=3e-3, progress=False)
held_out = grey[1500:].double()
dark = (grey[:1500] > 0).double().mean(0) < 0.05  # pixels with hardly ever any ink
for name, pair in makers.items():
    pair.double().eval()
    torch.manual_seed(2)
    loss = pair(held_out)
    torch.manual_seed(2)
    with torch.no_grad():
        loc_z, scale_z = pair.guide.encoder(held_out)
        z = loc_z + scale_z * torch.randn_like(loc_z)
        mean, sd = pair.model.decoder(z), pair.model.scale(z).expand(len(held_out), 64)
    data = -0.5 * (math.log(2 * math.pi) + (sd**2).log() + (held_out - mean) ** 2 / sd**2)  # per pixel
    code = 0.5 * (1 + (scale_z**2).log() - loc_z**2 - scale_z**2).sum(1)
    torch.testing.assert_close(loss.total.detach(), -(data.sum(1) + code).mean())
    error = (held_out - mean).square().mean().sqrt()
    print(
        f"{name:12s} bound {loss.bound:6.2f} nats ({data[:, dark].sum(1).mean():6.2f} in {dark.sum()} dark pixels), "
        f"KL {-code.mean():5.2f}, error {error:.3f}, sigma {sd.median():.3f}, {sd.min():.3f} at least"
    )

# %% [markdown]
# (*error*: root mean squared, pixels are in [0, 1], *sigma*: median and smallest; all of unseen images.) The formula
# for $\gamma^\star$ is about the images that $\gamma$ was trained on. On unseen ones the error is a little larger.

# %%
fitted = grey[:1500].double()
with torch.no_grad():
    loc_z, scale_z = gamma.guide.encoder(fitted)
    error = (fitted - gamma.model.decoder(loc_z + scale_z * torch.randn_like(loc_z))).square().mean().sqrt().item()
learned_sigma = gamma.model.scale().item()
print(f"gamma_vae, training images: root mean squared error {error:.4f}, learned sqrt(gamma) {learned_sigma:.4f}")
assert SMOKE or abs(learned_sigma / error - 1) < 0.03

# %% [markdown]
# Four lessons stand in these lines.
#
# * **A higher bound is not a smaller error.** `gaussian_vae` is tens of nats ahead of `gamma_vae`, and reconstructs
#   *worse*. More than half of its gain sits in the few pixels that are nearly always black: it says so with a
#   $\sigma$ at its floor of 0.01 there, which costs it nothing.
# * **The $\sigma$ you fix is an exchange rate.** With $\sigma = 1$ a squared error of one whole pixel from white to
#   black costs half a nat. No code is worth its KL at that price: `l2_vae` has *given its code up*, and draws the
#   mean image for everybody. Learning $\gamma$ finds the right rate by itself.
# * **Bounds of densities may be positive**, and are in nats per datum *in the units of the data*: multiply the pixels
#   by 255, and $64 \log 255$ nats disappear. Compare only on the same data.
# * **$\gamma \to 0$.** Where the decoder can fit the data exactly, the best $\gamma$ is zero and the density has no
#   upper limit. Then a good bound says that the data were memorised. The library keeps $\sqrt\gamma$ above 0.001, and
#   you should report $\gamma$ next to any likelihood. Watch it with ever fewer training images:

# %%
sizes, scales_found, bounds, unseen = [8, 32, 128, 1500], [], [], []
for n in sizes:
    torch.manual_seed(0)
    few = pv.gamma_vae(64, 8, (64,))
    pv.fit(few, grey[:n], steps=steps(1200), batch_size=min(n, 128), lr=3e-3, progress=False)
    scales_found.append(few.model.scale().item())
    bounds.append(pv.bound(few, grey[:n]))
    unseen.append(pv.bound(few, grey[1500:]))
figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.5), layout="constrained")
axes[0].semilogx(sizes, scales_found, "o-", color=RED)
axes[0].set(
    title="Fewer images: the noise is explained away",
    xlabel="training images",
    ylabel="$\\sqrt{\\gamma}$, units of a pixel",
)
axes[1].semilogx(sizes, bounds, "o-", color=RED, label="ELBO of the training images")
axes[1].semilogx(sizes, unseen, "s--", color=DARK, label="of unseen images")
axes[1].set(title="... and the bound rises, for them only", xlabel="training images", ylabel="nats per image")
axes[1].set_yscale("symlog", linthresh=100)
axes[1].set_yticks([-1000, -100, 0, 100], ["-1000", "-100", "0", "100"])
axes[1].legend(frameon=False, fontsize=10)
plt.show()

# %%
columns = slice(0, 10)
pictures = {
    "image": held_out[columns],
    **{name: pv.clean(pair, held_out[columns]).mean for name, pair in makers.items()},
}
figure, axes = plt.subplots(4, 10, figsize=(8.4, 3.6), layout="constrained")
for row, (name, images) in zip(axes, pictures.items(), strict=True):
    for axis, image in zip(row, images, strict=True):
        axis.imshow(image.reshape(8, 8).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.suptitle("Reconstructions of unseen digits: with $\\sigma = 1$ there is only one")
plt.show()

# %% [markdown]
# One more trap stands in the course report (S4): it squashes the *variance* with a tanh, "against exploding
# gradients". A tanh can be negative and a variance cannot. If one reads it as $\log \sigma^2 = \tanh(\cdot)$, then
# $\sigma^2 \ge 1/e$. In the bound above the squares and the KL cost at least nothing and each $\log \sigma_j^2$ is at
# least $-1$: so the negative bound can never fall below $\frac d2 (\log 2\pi - 1)$, however good the model is. The
# library has this head under the name `course_report`, so that you can look; for its faces of 560 pixels the
# limit is 234.6 nats, and the values that the report gives lie just above it. See [the likelihood
# page](../docs/likelihoods.md).

# %%
squashed = pv.gaussian_vae(64, 8, (64,), head="course_report")
pv.fit(squashed, grey[:1500], steps=steps(400), lr=3e-3, progress=False)
limit = 64 / 2 * (math.log(2 * math.pi) - 1)
print(f"-ELBO {-pv.bound(squashed, grey[1500:]):.2f} nats, never below {limit:.2f}")
assert -pv.bound(squashed, grey[1500:]) > limit

# %% [markdown] tags=["derivation", "T1"]
# ## 7. The case where everything is exact
#
# *Question: is there a VAE whose evidence and posterior we can write down, so that every claim can be checked?*
#
# Make the decoder affine and the noise the same everywhere: $x = W z + b + \sigma \varepsilon$. This is
# **probabilistic PCA** (Tipping & Bishop 1999). A linear map of Gaussians plus Gaussian noise is Gaussian, so only
# mean and covariance are needed:
#
# $$\mathbb{E} x = b, \quad \mathrm{Cov}\, x = W W^\top + \sigma^2 I =: C, \qquad
#   \log p(x) = -\tfrac12 \big[(x - b)^\top C^{-1} (x - b) + \log\det C + d \log 2\pi\big].$$
#
# The log posterior is $\log p(x, z)$ up to a constant, and that is quadratic in $z$:
#
# $$-\tfrac{1}{2\sigma^2} \lVert x - W z - b \rVert^2 - \tfrac12 \lVert z \rVert^2
#   = -\tfrac12\, z^\top \frac{M}{\sigma^2}\, z + z^\top \frac{W^\top (x - b)}{\sigma^2} + \text{const},
#   \qquad M = W^\top W + \sigma^2 I .$$
#
# A quadratic is a Gaussian: precision $M / \sigma^2$, and mean where the slope is zero. So
# $p(z \mid x) = \mathcal{N}\big(M^{-1} W^\top (x - b),\ \sigma^2 M^{-1}\big)$. The mean is *linear* in $x$ and the
# covariance is the same for all $x$: an encoder without hidden layers can be exactly this, if $M$ is diagonal, that
# is, if the columns of $W$ are orthogonal.
#
# **When $q$ is exact, the bound is the evidence, at every single draw:** $p(x, z) / p(z \mid x) = p(x)$ does not
# depend on $z$. The estimate has no gap *and no variance*. We build that pair from `affine_vae` with the known
# maximum-likelihood solution: $W = U_k (\Lambda_k - \sigma^2)^{1/2}$, from the largest $k$ eigenvalues of the data's
# covariance, and $\sigma^2$ the mean of the others. (To set the library's networks by hand we undo how they keep scales
# positive: the decoder's is `minimum + exp(log_excess)`, the encoder's `softplus(raw_scale) + 1e-5`, and
# `expm1(s).log()` is the inverse of softplus.)

# %%
torch.manual_seed(3)
mixing = torch.randn(2, 5, dtype=F64) * torch.tensor([[2.0], [1.0]], dtype=F64)
linear = torch.randn(300, 2, dtype=F64) @ mixing + 0.4 * torch.randn(300, 5, dtype=F64) + 1.0
b = linear.mean(0)
values, vectors = torch.linalg.eigh(torch.cov(linear.T, correction=0))  # ascending
sigma = values[:3].mean().sqrt()
W = vectors[:, 3:] * (values[3:] - sigma**2).sqrt()
M = W.T @ W + sigma**2 * torch.eye(2, dtype=F64)
C = W @ W.T + sigma**2 * torch.eye(5, dtype=F64)
r = linear - b
exact_log_p = -0.5 * ((r @ torch.linalg.inv(C) * r).sum(1) + torch.logdet(C) + 5 * math.log(2 * math.pi))
posterior_mean, posterior_cov = r @ W @ torch.linalg.inv(M), sigma**2 * torch.linalg.inv(M)
torch.testing.assert_close(exact_log_p, torch.distributions.MultivariateNormal(b, C).log_prob(linear))
assert (posterior_cov - posterior_cov.diag().diag()).abs().max() < 1e-12  # diagonal, as the guide can say it

exact_pair = pv.affine_vae(data_dim=5, latent_dim=2, hidden=()).double()
encoder, decoder, noise = exact_pair.guide.encoder, exact_pair.model.decoder, exact_pair.model.scale
posterior_sd = posterior_cov.diag().sqrt()
with torch.no_grad():
    decoder.weight.copy_(W), decoder.bias.copy_(b), noise.log_excess.copy_((sigma - noise.minimum).log())
    encoder.loc.weight.copy_(torch.linalg.inv(M) @ W.T), encoder.loc.bias.copy_(-encoder.loc.weight @ b)
    encoder.raw_scale.weight.zero_(), encoder.raw_scale.bias.copy_(torch.expm1(posterior_sd - 1e-5).log())
exact_pair.objective = pv.ELBO(sampled=["z"])  # log p(x, z) - log q(z | x) at the draw, nothing in closed form
drawn = torch.stack([exact_pair(linear).bound for _ in range(10)])
print(f"log p(x) {exact_log_p.mean():.6f}; ELBO {drawn.mean():.6f}, standard deviation over draws {drawn.std():.0e}")
torch.testing.assert_close(drawn, exact_log_p.mean().expand(10), rtol=0, atol=1e-9)

# %% [markdown]
# Now spoil the guide and watch the gap open. Between Gaussians the KL of section 2 is known too, so the right-hand
# side of $\log p(x) = \mathcal{L} + \mathrm{KL}[q \| p(z \mid x)]$ is two closed forms. The encoder's $\sigma_z$ is
# multiplied by a factor $f$; $f = 1$ is the posterior. In units of the posterior's width, section 5 with $\mu = 0$ and
# $\sigma = f$ gives $\frac12 (f^2 - 1 - \log f^2)$ per code, and we have two.


# %%
def expected_bound(factor):
    """The ELBO without a draw: E_q |x - Wz - b|^2 = |x - Wm - b|^2 + trace(W S W')."""
    s = posterior_sd * factor
    error = (r - posterior_mean @ W.T).square().sum(1) + (W**2 @ s**2).sum()
    data = -0.5 * (5 * math.log(2 * math.pi) + 10 * sigma.log() + error / sigma**2)
    return (data - 0.5 * (posterior_mean**2 + s**2 - 1 - 2 * s.log()).sum(1)).mean()


factors = torch.logspace(-1, 0.7, 60, dtype=F64)
curve = torch.stack([expected_bound(factor) for factor in factors])
kl = torch.stack([(factor**2 - 1 - 2 * factor.log()) for factor in factors])  # 0.5 * sum over 2 codes
torch.testing.assert_close(exact_log_p.mean() - curve, kl, rtol=0, atol=1e-9)
figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
axis.axhline(exact_log_p.mean(), color=DARK, label="log p(x), by the determinant")
axis.semilogx(factors, curve, color=RED, label="ELBO")
axis.fill_between(
    factors, curve, exact_log_p.mean().expand(60), color=RED, alpha=0.15, label="KL of the guide from the posterior"
)
axis.set(
    title="The bound touches the evidence where the guide is exact",
    xlabel="factor on the guide's $\\sigma_z$",
    ylabel="nats per datum",
)
axis.legend(frameon=False, loc="lower center", fontsize=10)
plt.show()

# %% [markdown]
# Too *wide* a guide is punished harder than one that is too narrow: the KL grows like the square of the factor to the
# right, and only like a logarithm to the left. That is the direction of this KL, $\mathrm{KL}[q \,\|\, p]$: what
# costs is mass of $q$ where $p(z \mid x)$ has none. So trained guides tend to be too narrow, which has a price of its
# own in [notebook 2](02-likelihood.ipynb).
#
# Does training find the solution, from random weights, knowing nothing of eigenvalues? The optimum can be had from
# scikit-learn too: the `score` of `PCA(2)` is its mean $\log p(x)$. (It divides the covariance by $n - 1$ and we by $n$,
# which shows in the fifth digit at most.)

# %%
torch.manual_seed(0)
learned = pv.affine_vae(data_dim=5, latent_dim=2, hidden=()).double()
learned.objective = pv.ELBO(particles=10)
history = pv.fit(learned, linear, steps=steps(600), batch_size=300, lr=0.1, progress=False, log_every=5)
best = exact_log_p.mean().item()
print(f"best possible {best:.4f}, scikit-learn {PCA(2).fit(linear.numpy()).score(linear.numpy()):.4f}", end=", ")
found = torch.tensor([pv.bound(learned, linear.repeat(5, 1), seed=seed) for seed in range(10)])
print(f"ELBO after training {found.mean():.4f} +- {found.std() / 10**0.5:.4f} nats per datum")
assert math.isclose(best, PCA(2).fit(linear.numpy()).score(linear.numpy()), abs_tol=1e-3)
if not SMOKE:
    assert abs(found.mean() - best) < 0.02
    assert abs(learned.model.scale().item() - sigma) < 0.01
figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
axis.plot([row["step"] for row in history.rows], [best - row["bound"] for row in history.rows], color=RED)
axis.axhline(0, color=DARK, ls="--")
axis.set(
    title="Training closes the gap to probabilistic PCA",
    xlabel="step",
    ylabel="log p(x) at the optimum\nminus ELBO, nats",
)
axis.set_yscale("symlog", linthresh=0.1)
plt.show()

# %% [markdown]
# No ELBO is above the best evidence, but an *estimate* of it may be, by chance: hence the wiggles below zero. Nor do
# they die out. Here the library takes the KL in closed form and draws the data term only, which varies from draw to
# draw even where the guide is exact. Above, `sampled=["z"]` drew both, and what varies in one cancelled in the other.
#
# ## 8. The VAE as a pair of Pyro programs
#
# *Question: what does all this look like as code?*
#
# A **Pyro program** is a function that draws. Every `pyro.sample` is one factor of a joint density and has a name,
# its *site*. The model draws $z$ and then observes $x$ (`obs=x`); the guide draws $z$, knowing $x$. The *plate* says
# that images are independent, and `.to_event(1)` that the entries of one vector belong together. Read the bodies
# aloud: they *are* the factorisations of section 1. (Two arguments are there because every program of the library has
# them: `size` is how many images to draw where none is given, and `y` a condition such as a label, which comes in
# [notebook 8](08-conditioning.ipynb).)


# %%
class Model(PyroModule):
    """p(z) p(x | z)."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z | x)."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
        self.loc, self.raw_scale = nn.Linear(64, 8), nn.Linear(64, 8)

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            h = self.trunk(x)
            return pyro.sample("z", dist.Normal(self.loc(h), softplus(self.raw_scale(h)) + 1e-5).to_event(1))


torch.manual_seed(0)
mine = pv.Pair(Model(), Guide(), name="mine")
print(mine.describe())

# %% [markdown]
# `pv.Pair` has run both programs once and checked that they fit: the same sites, the same shapes. If we had forgotten
# a site, or made $z$ of 8 entries in one and of 7 in the other, it would have said so in words. Without `x` the model
# draws images. Here is what Pyro sees when it runs the guide, and then the model at the guide's draw (`replay`): a
# *trace*, site by site, with the log-densities that make up the bound. No other ingredient is needed: with the same
# noise the library's bound is the same number.

# %%
images = train[:5]
torch.manual_seed(2)
q_trace = poutine.trace(mine.guide).get_trace(images)
p_trace = poutine.trace(poutine.replay(mine.model, trace=q_trace)).get_trace(images)
p_trace.compute_log_prob(), q_trace.compute_log_prob()
log_p = p_trace.nodes["z"]["log_prob"] + p_trace.nodes["x"]["log_prob"]
from_traces = (log_p - q_trace.nodes["z"]["log_prob"]).mean()
by_hand = normal_log_prob(q_trace.nodes["z"]["value"], torch.zeros(8), torch.ones(8))
torch.testing.assert_close(p_trace.nodes["z"]["log_prob"], by_hand)
torch.manual_seed(2)
torch.testing.assert_close(pv.ELBO(sampled=["z"])(mine.model, mine.guide, images).bound, from_traces.detach())
for name in ("z", "x"):
    site = p_trace.nodes[name]
    print(f"site {name}: value {tuple(site['value'].shape)}, log p {site['log_prob'].detach().numpy().round(1)}")
print(
    f"one draw of the ELBO for five images, untrained: {from_traces:.1f} nats (64 coin flips: {-64 * math.log(2):.1f})"
)

# %% [markdown]
# Nothing here is ours, so Pyro's own training works. `SVI` ("stochastic variational inference") takes the model, the
# guide, an optimiser and a loss; `TraceMeanField_ELBO` is the ELBO with the KL of section 5 in closed form. Pyro
# keeps all parameters of a process in one global store, by name; the `scope` gives this training a store of its own.
# Then the same pair, from the same start, with `pv.fit`: same bound, same Adam, same batches of 100. We keep the
# learning rate constant in both.

# %%
start = {name: value.clone() for name, value in mine.state_dict().items()}
torch.manual_seed(1)
with pyro.get_param_store().scope():
    svi = SVI(mine.model, mine.guide, pyro.optim.Adam({"lr": 3e-3}), TraceMeanField_ELBO())
    svi_curve = []
    for _ in range(steps(450)):
        batch = train[torch.randperm(len(train))[:100]]
        svi_curve.append(-svi.step(batch) / 100)
by_svi = pv.bound(mine, test)
mine.load_state_dict(start)
history = pv.fit(mine, train, steps=steps(450), batch_size=100, lr=3e-3, schedule="constant", progress=False)
by_fit = pv.bound(mine, test)
print(f"ELBO of unseen digits: SVI {by_svi:.2f}, pv.fit {by_fit:.2f} nats")
if not SMOKE:
    assert abs(by_svi - by_fit) < 1.0

# %% [markdown]
# The two runs see other batches and other noise, so their numbers agree but are not equal. What `fit` adds is a
# compiled step, a guard against values that are not finite, checkpoints and a history
# ([how](../docs/compiled-step.md)); the mathematics is the same.
#
# **Swap the networks.** Model and guide are statements about densities, not about layers. `cnn_vae` has the same $p$
# and $q$ as `vae`, with convolutions inside: the description does not change. Is it better? Three seeds each, since
# one says little. (Both are trained with `fit`'s default, a rate that falls to zero. In so few steps that costs a nat
# against the constant rate above: `vae` is the very network of `mine`.)

# %%
print(pv.cnn_vae(data_dim=64, latent_dim=8, hidden=(8, 16)).describe())
found = {"vae": [], "cnn_vae": []}
for seed in range(1 if SMOKE else 3):
    torch.manual_seed(seed)
    pairs = {"vae": pv.vae(64, latent_dim=8, hidden=(64,)), "cnn_vae": pv.cnn_vae(64, latent_dim=8, hidden=(8, 16))}
    for name, pair in pairs.items():
        pv.fit(pair, train, steps=steps(450), batch_size=100, lr=3e-3, seed=seed, progress=False)
        found[name].append(pv.bound(pair, test))
for name, values in found.items():
    print(f"{name:8s} ELBO of unseen digits", [round(value, 2) for value in values])

# %%
window = 15
smooth = torch.tensor(svi_curve).unfold(0, window, window).mean(1)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained", width_ratios=[1.2, 1])
axes[0].plot(torch.arange(len(smooth)) * window + window / 2, smooth, color=GREY, label="SVI, mean of 15 steps")
axes[0].plot(
    [row["step"] for row in history.rows], [row["bound"] for row in history.rows], ".-", color=RED, label="pv.fit"
)
axes[0].axhline(by_fit, color=DARK, ls=":", label="pv.fit, unseen digits")
axes[0].set(title="The same training twice", xlabel="step", ylabel="ELBO, nats per image")
axes[0].legend(frameon=False, fontsize=10)
axes[1].imshow(tiled(pv.sample(mine, 24), 4, 6), cmap="gray", vmin=0, vmax=1)
axes[1].set(title="24 new digits: z from the prior, decoded", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# On the left both trainings rise alike, and end where unseen digits are: nothing is overfitted yet. As for the
# networks, the convolutional one is two nats *behind* here, and that is many times what the seeds differ. It has half
# the weights, normalises each batch, and has had 450 steps of 8 x 8 images, where little is local. On MNIST and for
# longer it is the other way round ([page](../docs/likelihoods.md)).

# %% [markdown]
# ## Exercises

# %% [markdown] tags=["exercise"]
# **1. A guide that ignores the image.** Suppose $q(z \mid x) = p(z)$ for every $x$. What is the KL term? What is the
# ELBO? Is it still a bound? Set the encoder of `small` to this by hand, predict its bound for the twenty images from
# quantities of section 2, then compute it with the library. (Hint: `GaussianEncoder` has layers `loc` and
# `raw_scale`, and $\sigma = \mathrm{softplus}(\text{raw}) + 10^{-5}$.)

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# KL[p || p] = 0, so the ELBO is the mean of log p(x | z) over the prior: still a bound, and a bad one.
prediction = (log_prior.exp() * log_lik).sum(1) * math.exp(log_cell)
blind = pv.vae(data_dim=64, latent_dim=2, hidden=(64,)).double()
blind.load_state_dict(small.state_dict())
with torch.no_grad():
    for layer in (blind.guide.encoder.loc, blind.guide.encoder.raw_scale):
        layer.weight.zero_(), layer.bias.zero_()
    blind.guide.encoder.raw_scale.bias.fill_(math.log(math.expm1(1 - 1e-5)))
torch.manual_seed(0)
with torch.no_grad():
    losses = [blind(x) for _ in range(300)]
values = torch.stack([loss.bound for loss in losses])
print(
    f"predicted {prediction.mean():.2f}, computed {values.mean():.2f} +- {values.std() / 300**0.5:.2f};"
    f" before: {elbo.mean():.2f} nats"
)
assert abs(losses[0].terms["z"]) < 1e-6
assert abs(values.mean() - prediction.mean()) < 5 * values.std() / 300**0.5
assert (prediction < evidence).all()

# %% [markdown] tags=["exercise"]
# **2. How precise should a code be?** In the linear model of section 7 with $k = 1$ let the data term be
# $-\frac{1}{2\sigma^2} \mathbb{E}_q \lVert x - w z - b \rVert^2$. Derive the $\sigma_z$ that maximises the ELBO. When
# is it 1, and when almost 0? Show that it is the posterior's standard deviation, and check it against `posterior_sd`.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# E|x - wz - b|^2 = const + |w|^2 s^2. So the ELBO in s is -|w|^2 s^2 / (2 sigma^2) - s^2 / 2 + log s, and its slope
# -s (|w|^2 / sigma^2 + 1) + 1 / s is zero at s^2 = sigma^2 / (|w|^2 + sigma^2) = sigma^2 M^-1. It is 1 if w = 0, where
# the code does not matter, and almost 0 if the code moves x by much more than the noise.
for j in range(2):  # M is diagonal: the two codes do not interfere
    w = W[:, j]
    s = torch.linspace(0.01, 1.2, 100_001, dtype=F64)
    bound_in_s = -(w @ w) * s**2 / (2 * sigma**2) - s**2 / 2 + s.log()
    formula = (sigma**2 / (w @ w + sigma**2)).sqrt()
    print(f"code {j + 1}: best sigma_z on a fine grid {s[bound_in_s.argmax()]:.4f}, formula {formula:.4f}")
    assert abs(s[bound_in_s.argmax()] - formula) < 2e-5
    torch.testing.assert_close(formula, posterior_sd[j])

# %% [markdown] tags=["exercise"]
# **3. More draws.** `pv.ELBO(particles=10)` averages ten draws of the guide per image. Predict: does the *expected*
# bound rise, fall or stay? What happens to the spread of its estimate? Test both on `small` and the twenty images.
# (An average of logs, not a log of an average: the latter is another bound, and the subject of [notebook
# 2](02-likelihood.ipynb).)

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# The expectation stays: a mean of ten estimates of one number. The spread falls by the square root of ten.
repeats = 400
with torch.no_grad():
    found = {
        L: torch.stack([pv.ELBO(particles=L)(small.model, small.guide, x).bound for _ in range(repeats)])
        for L in (1, 10)
    }
for L, values in found.items():
    print(
        f"{L:2d} draws: {values.mean():.3f} +- {values.std() / repeats**0.5:.3f}, "
        f"spread of one estimate {values.std():.3f}"
    )
error = (found[1].var() / repeats + found[10].var() / repeats).sqrt()
assert abs(found[1].mean() - found[10].mean()) < 5 * error
assert 2.4 < found[1].std() / found[10].std() < 4.2  # sqrt(10) = 3.16, give or take

# %% [markdown]
# ## What to remember
#
# * $\log p(x) = \mathrm{ELBO} + \mathrm{KL}[q(z \mid x) \,\|\, p(z \mid x)]$. It is an equality; the bound is what is
#   left when you cannot compute the gap.
# * The encoder is there because drawing codes blindly costs about $e^{\mathrm{KL}}$ draws. With it, one draw per step
#   trains.
# * Noise outside, parameters inside: a reparameterised draw passes on the slope of $\log p$, the score function does
#   not.
# * A code costs $\frac12 \sum (\mu^2 + \sigma^2 - 1 - \log \sigma^2)$ nats; what does not help the data term is
#   switched off. The noise you assume for the data sets the exchange rate.
# * With an affine decoder and Gaussian noise the bound can be tight and equals probabilistic PCA. Test new code
#   there.
#
# ## Where to go on
#
# * [Likelihood honestly](02-likelihood.ipynb): how far is the bound from $\log p(x)$ where no grid can help?
# * [Outliers](03-outliers.ipynb): other likelihoods for pixels that lie.
# * [From reconstruction to generation](06-generation.ipynb): are codes of data where the prior says?
# * [Write your own](10-your-own.ipynb), and the page [how a Pyro program becomes one
#   graph](../docs/compiled-step.md).
#
# ## Sources
#
# Kingma & Welling (2014), *Auto-encoding variational Bayes*; Rezende, Mohamed & Wierstra (2014), *Stochastic
# backpropagation*; Tipping & Bishop (1999), *Probabilistic principal component analysis*; Chatterjee & Diaconis
# (2018), *The sample size required in importance sampling*; Wang, Dai, Hua, Aston & Wipf (2018), *Recurrent
# variational autoencoders for learning nonlinear generative models in the presence of outliers*; tutorial slides on
# VAEs (S3, part II); a course report, *Improving variational autoencoders* (S4, 2019, section 4.1 and appendix A.1).
