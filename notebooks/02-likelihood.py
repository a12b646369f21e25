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
# # Likelihood honestly
#
# How good is a model, in nats? You know the ELBO ([notebook 1](01-the-vae.ipynb)), a lower bound on $\log p(x)$. Here
# you learn to get closer: with importance weights, with annealing, and from both sides at once. You learn to tell
# when an estimate cannot be trusted, you compare nine models without claiming more than the noise allows, you take
# apart a published table that went wrong, and you see two models whose likelihood says nothing about what they draw.
#
# It takes about a minute and a half. Everything is small: 8 x 8 digits, eight codes, a few hundred steps.

# %%
import math
import os

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.nn import PyroModule
from torch.nn.functional import softplus

import pyro_vaes as pv
from pyro_vaes.experiments.course_report import PUBLISHED, SIZES
from pyro_vaes.plates import data_plate

SMOKE = bool(os.environ.get("PYRO_VAES_SMOKE"))  # a few steps only: the cells run, figures mean nothing
F64 = torch.float64
RED, DARK, GREY, YELLOW, TEAL = "#d1495b", "#2e4057", "#9aa5b1", "#edae49", "#00798c"
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 11})

# "graph" compiles the training step, which pays from some hundred steps on; the mathematics is the same
how = {"batch_size": 100, "lr": 3e-3, "progress": False, "engine": "eager" if SMOKE else "graph"}


def steps(n):
    return 20 if SMOKE else n


def normal_log_prob(z, loc, scale):
    """log N(z; loc, diag scale^2), written out; the last dimension is summed."""
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


# %% [markdown]
# ## 1. A model whose answer is known
#
# *Question: how can we test an estimate of $\log p(x) = \log \int p(x \mid z)\, p(z)\, dz$?*
#
# With two codes the integral can be done on a grid over the plane. This little model is our ruler: whatever we claim
# of an estimate, it must show here first. As before $p$ is the model (prior $p(z) = \mathcal{N}(0, I)$, decoder
# $p(x \mid z)$), and $q(z \mid x)$ is the guide, a Gaussian from an encoder.

# %%
grey = pv.load("digits")
binary = (grey.x > 0.5).float()
train, test = binary[:1500], binary[1500:]
ruler = pv.vae(data_dim=64, latent_dim=2, hidden=(64,))
pv.fit(ruler, train, steps=steps(800), lr=5e-3, progress=False)
ruler = ruler.double().eval()
x = test[:40].double()
line = torch.linspace(-5, 5, 321, dtype=F64)
grid = torch.cartesian_prod(line, line)
with torch.no_grad():
    logits = ruler.model.decoder(grid)
    log_joint = x @ logits.T - softplus(logits).sum(-1)
    log_joint += normal_log_prob(grid, torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64))
exact = log_joint.logsumexp(1) + 2 * math.log(line[1] - line[0])
print(f"exact log p(x), mean of 40 unseen digits: {exact.mean():.3f} nats")

# %% [markdown] tags=["derivation", "T23"]
# ## 2. The importance-weighted bound
#
# *Question: one draw of the guide gives the ELBO. What do $K$ draws buy?*
#
# Let $w_k = p(x, z_k) / q(z_k \mid x)$ with $z_k \sim q(z \mid x)$. Each weight is an unbiased estimate of $p(x)$,
# and so is their mean. Take the logarithm of the *mean* (not the mean of logarithms, which would be the ELBO again):
#
# $$\mathcal{L}_K(x) = \mathbb{E} \log \frac1K \sum_{k=1}^{K} w_k
#   \ \le\ \log \mathbb{E}\, \frac1K \sum_{k=1}^K w_k = \log p(x).$$
#
# * *It is a bound* by Jensen, whatever $K$ is. $\mathcal{L}_1$ is the ELBO.
# * *It never falls with $K$.* Take $K + 1$ weights and leave out one of them, $w_l$, in turn. The mean of all is the
#   mean of the $K + 1$ means that this gives. Jensen once more, for that outer mean:
#
#   $$\log \frac{1}{K+1} \sum_{k=1}^{K+1} w_k = \log \frac{1}{K+1} \sum_{l=1}^{K+1} \Big(\frac1K \sum_{k \ne l} w_k\Big)
#     \ \ge\ \frac{1}{K+1} \sum_{l=1}^{K+1} \log \Big(\frac1K \sum_{k \ne l} w_k\Big).$$
#
#   On the left the expectation is $\mathcal{L}_{K+1}$. On the right each of the logs has $\mathcal{L}_K$, as its $K$
#   draws are as good as any.
# * *It tends to* $\log p(x)$: the mean of many weights tends to $p(x)$, as long as the weights are not too wild.
#   Section 3 is about "too wild".
#
# **Its gradient.** With the noise outside (reparameterised draws), differentiate a log of a sum, and use
# $\nabla w = w \nabla \log w$:
#
# $$\nabla \log \frac1K \sum_k w_k = \frac{\sum_k \nabla w_k}{\sum_k w_k} = \sum_k \tilde w_k\, \nabla \log w_k, \qquad
#   \tilde w_k = \frac{w_k}{\sum_l w_l}.$$
#
# The ELBO with $K$ draws would have $1/K$ in place of $\tilde w_k$. So the bound listens to the draws that explain
# $x$ best, and a draw that is way off is forgiven instead of punished. (Burda, Grosse & Salakhutdinov 2016, Eq. 8 to
# 14; the course report (S4), Eq. 7 and 8.)


# %%
def log_weights(pair, x, draws):
    """log w, (K, B), from the networks of a pair of one code; differentiable."""
    loc, scale = pair.guide.encoder(x)
    z = loc + scale * torch.randn(draws, *loc.shape, dtype=loc.dtype)
    logits = pair.model.decoder(z)
    log_lik = (x * logits - softplus(logits)).sum(-1)
    return log_lik + normal_log_prob(z, torch.zeros_like(z), torch.ones_like(z)) - normal_log_prob(z, loc, scale)


ruler.objective = pv.ImportanceWeighted(particles=5)
torch.manual_seed(1)
ours = log_weights(ruler, x, 5)
bound = (ours.logsumexp(0) - math.log(5)).mean()
torch.manual_seed(1)
torch.testing.assert_close(ruler(x).bound, bound.detach())  # the same noise, the library's program

parameters = list(ruler.parameters())
by_autograd = torch.autograd.grad(bound, parameters, retain_graph=True)
weights = ours.softmax(0).detach()  # w / sum of w, as constants
by_weights = torch.autograd.grad((weights * ours).sum(0).mean(), parameters)
for a, b in zip(by_autograd, by_weights, strict=True):
    torch.testing.assert_close(a, b)

sizes, copies = [1, 2, 5, 10, 30, 100], 50
with torch.no_grad():
    found = [log_weights(ruler, x.repeat(copies, 1), K).logsumexp(0) - math.log(K) for K in sizes]
means = torch.stack([values.mean() for values in found])
errors = torch.stack([values.reshape(copies, -1).mean(1).std() / copies**0.5 for values in found])
for K, mean, error in zip(sizes, means, errors, strict=True):
    print(f"K = {K:3d}: {mean:.3f} +- {error:.3f} nats, {exact.mean() - mean:.3f} below log p(x)")
assert (means < exact.mean() + 4 * errors).all()
assert (means.diff() > -4 * (errors[1:] + errors[:-1])).all() and means[-1] > means[0]

# %%
torch.manual_seed(2)
with torch.no_grad():
    shares = log_weights(ruler, x, 50).softmax(0).sort(0, descending=True).values
effective = 1 / shares.square().sum(0)  # 50 if all weigh the same, 1 if one has all
show = {"even": int(effective.argmax()), "uneven": int(effective.argmin())}
figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.5), layout="constrained")
axes[0].errorbar(sizes, means, yerr=2 * errors, color=RED, marker="o", label="bound of K draws")
axes[0].axhline(exact.mean(), color=DARK, ls="--", label="exact log p(x)")
axes[0].set(xscale="log", title="More draws, a tighter bound", xlabel="draws K", ylabel="nats per image")
axes[0].legend(frameon=False, loc="lower right")
for (name, i), colour in zip(show.items(), (DARK, RED), strict=True):
    axes[1].plot(range(1, 51), shares[:, i], ".-", color=colour, label=f"{name} image: worth {effective[i]:.0f} draws")
axes[1].set(
    title="Gradient weights of 50 draws", xlabel="draw, heaviest first", ylabel="normalised weight", yscale="log"
)
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# The *effective* number of draws, $1 / \sum_k \tilde w_k^2$, tells how many of the fifty do any work.

# %% [markdown] tags=["derivation"]
# ## 3. Importance sampling, its error, and k-hat
#
# *Question: to evaluate a trained model one takes $S$ = hundreds of draws and reports the log of the mean weight. How
# far off is it?*
#
# **The error it admits.** A small relative error of $\hat p = \frac1S \sum w_s$ is an absolute error of its log:
# $\mathrm{se} = \mathrm{sd}(w) / (\sqrt S\, \bar w)$. And the next term of the logarithm's series says the estimate
# is too low by about $\mathrm{se}^2 / 2$. Both are honest only if the *observed* spread of the weights tells of the
# true one.
#
# **The error it does not admit.** If the guide is narrower than the posterior, then far out in its tail lie codes
# that it hardly ever draws, and whose weight is huge. Until one comes along, the sample looks perfect. We can work
# out how bad this is in a case where all is Gaussian: let the posterior be $\mathcal{N}(m, s^2)$ and the guide
# $\mathcal{N}(m, f^2 s^2)$, with $f < 1$. At $z = m + f s\, \varepsilon$
#
# $$\log w = \text{const} - \frac{(z - m)^2}{2 s^2} + \frac{(z - m)^2}{2 f^2 s^2}
#   = \text{const} + \frac{\varepsilon^2}{2}\, (1 - f^2).$$
#
# $w$ exceeds $t$ when $\varepsilon^2 > 2 \log t / (1 - f^2)$, and a Gaussian does so with probability about
# $e^{-\varepsilon^2 / 2}$:
#
# $$P(w > t) \approx e^{-\log t / (1 - f^2)} = t^{-1 / \kappa}, \qquad \kappa = 1 - f^2 .$$
#
# This is a *power law*, of the kind that Pareto found for incomes. Its shape $\kappa$ says which moments exist: no
# variance for $\kappa \ge \frac12$, no mean for $\kappa \ge 1$. **k-hat** is $\kappa$ estimated from the largest
# weights (Vehtari, Simpson, Gelman, Yao & Gabry 2024). Above 0.7 no practical number of draws helps. Note that
# $\kappa$ depends on the tails alone: a guide that is too *wide* wastes draws but is safe.
#
# We take `affine_vae` with one code, whose evidence and posterior are known (notebook 1, section 7), and set its guide
# to $f$ times the posterior's width. Numbers are means over 200 data, and the claimed error is that of the mean, so
# smaller than that of one datum by $\sqrt{200} \approx 14$:


# %%
def affine_pair(factor):
    """An affine decoder with one code, and a guide of `factor` times the posterior's standard deviation."""
    pair = pv.affine_vae(data_dim=3, latent_dim=1, hidden=()).double()
    w = torch.tensor([[1.0], [-0.5], [0.8]], dtype=F64)
    noise = pair.model.scale()
    precision = (w.T @ w / noise**2 + 1).squeeze()  # of the posterior
    encoder = pair.guide.encoder
    with torch.no_grad():
        pair.model.decoder.weight.copy_(w), pair.model.decoder.bias.zero_()
        encoder.loc.weight.copy_(w.T / noise**2 / precision), encoder.loc.bias.zero_()
        encoder.raw_scale.weight.zero_()
        encoder.raw_scale.bias.copy_(torch.expm1(factor / precision.sqrt() - 1e-5).log())
    return pair, torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), w @ w.T + noise**2 * torch.eye(3))


_, evidence = affine_pair(1.0)
torch.manual_seed(0)
points = evidence.sample((200,))
factors = [1.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
table = {f: pv.log_likelihood(affine_pair(f)[0], points, samples=1000, seed=1) for f in factors}
short = {f: (evidence.log_prob(points) - table[f].value).mean().item() for f in factors}
for f in factors:
    kappa = f"theory {1 - f**2:.2f}" if f < 1 else "no tail"
    print(
        f"f = {f}: too low by {short[f]:7.4f}, claims +- {table[f].mean_se:.4f}, "
        f"k-hat {table[f].khat.mean():5.2f} ({kappa}), above 0.7 for {table[f].unreliable:3.0%}"
    )
assert abs(short[1.0]) < 1e-9 and table[1.0].se.max() < 1e-9  # the exact posterior: every weight is p(x)
for f in (0.5, 0.6, 0.7, 0.8):
    assert abs(table[f].khat.mean() - (1 - f**2)) < 0.12
assert abs(short[0.9]) < 4 * table[0.9].mean_se and short[0.3] > 8 * table[0.3].mean_se

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.5), layout="constrained")
narrow = [f for f in factors if f < 1]
axes[0].plot(narrow, [table[f].khat.mean() for f in narrow], "o", color=RED, label="k-hat, mean of 200 data")
axes[0].plot(narrow, [1 - f**2 for f in narrow], color=DARK, label="theory, $1 - f^2$")
axes[0].axhline(0.7, color=GREY, ls="--", label="0.7: do not trust")
axes[0].set(title="k-hat reads the tail", xlabel="guide's width / posterior's, f", ylabel="k-hat")
axes[1].plot(narrow, [abs(short[f]) for f in narrow], "o-", color=RED, label="error that it has")
axes[1].plot(narrow, [table[f].mean_se for f in narrow], "s--", color=DARK, label="error that it claims")
axes[1].set(
    title="... and the claimed error does not",
    xlabel="guide's width / posterior's, f",
    ylabel="mean of 200 data, nats",
    yscale="log",
)
for axis in axes:
    axis.legend(frameon=False, fontsize=10)
plt.show()

# %% [markdown]
# At $f = 0.3$ a thousand draws are short by twenty times the error that they claim for the mean. Chance averages out
# over many data; this error has the same sign for each. k-hat gives the warning, from the same draws.
#
# It is no proof of the contrary. The power law holds far out only, and a thousand draws do not reach far: so k-hat
# falls *short* of $1 - f^2$ for the narrowest guides, where it matters most. At $f = 0.5$ the mean is off by six times
# its claimed error, and only a third of the data are above 0.7. Read k-hat as "do not trust these", never as "trust
# the others".

# %% [markdown] tags=["derivation"]
# ## 4. Annealing: walk to the posterior instead of jumping
#
# *Question: the guide is bad. Can we still get $p(x)$ right?*
#
# **Annealed importance sampling** (Neal 2001) moves in small steps from a density $\pi_0(z)$ that we can draw from,
# the prior or the guide, to $p(x, z)$:
#
# $$\pi_t(z) = \pi_0(z)^{1 - b_t}\, p(x, z)^{b_t}, \qquad 0 = b_0 < b_1 < \dots < b_T = 1 .$$
#
# Draw $z_0 \sim \pi_0$. For $t = 1, 2, \dots$ pay the ratio $\pi_t(z_{t-1}) / \pi_{t-1}(z_{t-1})$, then move to $z_t$
# by a Markov transition that leaves $\pi_t$ invariant (here: one proposal of Hamiltonian Monte Carlo, of five leapfrog
# steps). The product of what was paid is the weight:
#
# $$\log w = \sum_{t=1}^{T} (b_t - b_{t-1}) \big( \log p(x, z_{t-1}) - \log \pi_0(z_{t-1}) \big),
#   \qquad \mathbb{E}\, w = p(x).$$
#
# *Why unbiased?* Let $Z_t = \int \pi_t$, and let $w_{t}$ be the product up to step $t$. If
# $\mathbb{E}[w_{t-1} h(z_{t-1})] = \int \pi_{t-1} h$ for every function $h$ (true at the start, where $w_0 = 1$),
# then with $h$ times the next ratio $\mathbb{E}[w_t h(z_{t-1})] = \int \pi_t h$, and the move, which keeps $\pi_t$,
# keeps this too. At the end take $h = 1$: $\mathbb{E}\, w_T = Z_T = p(x)$. With $T = 1$ it *is* importance sampling.
# More steps make each ratio tamer; the log of a mean of weights is a lower bound on average, as ever.
#
# **The other side.** Data that the *model* has drawn come with the code $z^\star$ that made them, an exact draw of
# the posterior. Walk from it backwards, to $\pi_0$. By the same argument $\mathbb{E}\, w' = 1 / p(x)$, so that
# $-\log$ of the mean of such weights is an **upper** bound on average. The two enclose $\log p(x)$ (Grosse,
# Ghahramani & Adams 2015): `pv.sandwich`. Its `interval` goes from the mean of the lower ends to the mean of the upper
# ones, and 1.96 standard errors further on both sides, so it is wide for few data; `shortfall` is how much importance
# sampling lacks to the upper mean. On real data there is no $z^\star$, and no upper bound.

# %%
bad, _ = affine_pair(0.3)
path = pv.Annealing(temperatures=30, leapfrog=5, start="prior")
annealed = pv.log_likelihood(bad, points[:50], method="ais", samples=16, annealing=path)
truth = evidence.log_prob(points[:50])
by_is = (table[0.3].value[:50] - truth).mean()
by_ais = (annealed.value - truth).mean()
print(
    f"guide of 0.3 times the width: importance sampling off by {by_is:.4f}, "
    f"annealing by {by_ais:.4f} +- {annealed.mean_se:.4f}"
)
assert abs(by_ais) < 5 * annealed.mean_se + 0.005 and abs(by_ais) < abs(by_is)

both = pv.sandwich(bad, size=60, annealing=path, chains=8, samples=1000)
inside = evidence.log_prob(both.x).mean().item()
low, high = both.interval
print(f"sandwich: mean log p(x) of 60 simulated data in [{low:.3f}, {high:.3f}], exact {inside:.3f}")
print(f"importance sampling is short by at most {both.shortfall:.3f}, in truth by {inside - both.importance.mean:.3f}")
assert low < inside < high

# %% [markdown]
# ## 5. Nine models, one likelihood
#
# *Question: which is the best model of these digits, and do we know?*
#
# All are trained alike: 400 steps, 1500 binary digits, three seeds (`pv.fit` takes a list of pairs and trains them
# side by side). What sets them apart from `vae`:
#
# * `iwae`: the objective is $\mathcal{L}_5$; `iwae_2` has a code of codes besides,
#   $p(z_2)\, p(z_1 \mid z_2)\, p(x \mid z_1)$.
# * `ladder_vae`: two layers, with a guide that starts from the model's own $p(z_1 \mid z_2)$ and corrects it.
# * `dvae`: the encoder sees a noisy image while training (section 6). `skip_vae`: the code enters every layer of the
#   decoder, here the hidden one and the last.
# * `planar_vae`, `iaf_vae`, `spline_vae`: the guide is a flow, a Gaussian bent by learned invertible layers, so that
#   it need not be a Gaussian.
#
# The number is $-\log p(x)$ of 120 unseen digits by importance sampling, in nats (lower is better), with the
# Monte-Carlo error and the share of digits whose k-hat is above 0.7.

# %%
same = {"data_dim": 64, "latent_dim": 8, "hidden": (64,)}
makers = {
    "vae": lambda: pv.vae(**same),
    "iwae": lambda: pv.iwae(particles=5, **same),
    "iwae_2": lambda: pv.iwae_2(particles=5, middle=16, middle_hidden=(32,), **same),
    "ladder_vae": lambda: pv.ladder_vae(data_dim=64, hidden=(64, 32), latent_dims=(16, 8)),
    "dvae": lambda: pv.dvae(**same),
    "skip_vae": lambda: pv.skip_vae(**same),
    "planar_vae": lambda: pv.planar_vae(flows=4, **same),
    "iaf_vae": lambda: pv.iaf_vae(width=32, **same),
    "spline_vae": lambda: pv.spline_vae(flows=1, width=32, bins=4, **same),
}
SEEDS = range(3)
unseen, draws = (test[:30], 60) if SMOKE else (test[:120], 300)
trained, scores = {}, {}
for name, make in makers.items():
    pairs = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        pairs.append(make())
    warm = {"beta": (0, 1, steps(150))} if name == "ladder_vae" else None  # its paper warms the KL up
    pv.fit(pairs, train, steps=steps(400), schedules=warm, **how)
    trained[name] = pairs
    scores[name] = [pv.log_likelihood(pair, unseen, samples=draws) for pair in pairs]
    of_elbo = [pv.bound(pv.Pair(pair.model, pair.guide), unseen) for pair in pairs]
    numbers = " ".join(f"{-found.mean:6.2f}" for found in scores[name])
    error = max(found.mean_se for found in scores[name])
    doubtful = np.mean([found.unreliable for found in scores[name]])
    print(f"{name:11s} -log p {numbers}  +- {error:.2f}  k-hat > 0.7: {doubtful:4.0%}  -ELBO {-np.mean(of_elbo):6.2f}")

# %%
names = list(makers)
figure, axis = plt.subplots(figsize=(8.6, 3.9), layout="constrained")
for row, name in enumerate(names):
    values = [-found.mean for found in scores[name]]
    axis.plot(values, [row] * len(values), "o", color=RED, alpha=0.75)
    axis.plot(np.mean(values), row, "|", color=DARK, ms=18, mew=2)
axis.set(yticks=range(len(names)), yticklabels=names, xlabel="$-\\log p(x)$ of unseen digits, nats; less is better")
axis.set_title("Dots: three seeds; bar: their mean")
axis.invert_yaxis()
plt.show()
spread = np.mean([np.std([found.mean for found in scores[name]], ddof=1) for name in names])
print(f"between seeds of one model: standard deviation {spread:.2f} nats on average")

# %% [markdown]
# How to read such a table:
#
# * **Three kinds of error.** The Monte-Carlo error is of *estimating* (hundredths of a nat). The spread between seeds
#   is of *training*, and many times larger. And 120 digits are a sample of digits. Only the first is printed by most
#   papers.
# * **Which differences hold?** Compare seed by seed and ask whether the interval of the mean difference clears zero.
#   With three seeds it is wide, as it should be. The next cell does it.
# * $-\mathrm{ELBO}$ mixes two things: how good the *model* is and how good its *guide*. `iwae` has a better likelihood
#   than `vae` and a worse ELBO, because its objective forgives the guide. That is no fault of the model.


# %%
def against(name, other="vae"):
    """Mean gain in log p(x) over another model, and half the width of its 95 % interval, over seeds."""
    gains = np.array([a.mean - b.mean for a, b in zip(scores[name], scores[other], strict=True)])
    return gains.mean(), 4.30 * gains.std(ddof=1) / len(gains) ** 0.5  # Student's t, 2 degrees of freedom


for name in names[1:]:
    gain, half = against(name)
    verdict = "nothing is decided" if abs(gain) < half else "better" if gain > 0 else "worse"
    print(f"{name:11s} gains {gain:5.2f} +- {half:.2f} nats over vae: {verdict}")

# %% [markdown]
# These are 8 x 8 digits and 400 steps: nobody should choose a model for MNIST by this. And where eight intervals of
# 95 % are looked at, at least one misleads by chance in a third of all such tables ($1 - 0.95^8$, were they
# independent). [The likelihood page](../docs/likelihoods.md) has the same table for MNIST, with published numbers next to ours.
#
# Are the estimates themselves right? Annealing is the second opinion, and the sandwich the third. We ask for the
# model with the most doubtful k-hats.

# %%
# Among those without a flow: annealing needs q(z | x) at codes that q has not drawn, which not every flow can give.
doubtful = max(names[:6], key=lambda name: scores[name][0].unreliable)
judged = trained[doubtful][0]
path = pv.Annealing(temperatures=10 if SMOKE else 40, leapfrog=5, start="guide")
rows = scores[doubtful][0].khat.nan_to_num(-1).sort(descending=True).indices[:20]
second = pv.log_likelihood(judged, unseen[rows], method="ais", samples=8, annealing=path)
first = scores[doubtful][0].value[rows]
print(
    f"{doubtful}, the 20 digits of largest k-hat: "
    f"IS {first.mean():.2f}, AIS {second.mean:.2f} +- {second.mean_se:.2f} nats"
)
both = pv.sandwich(judged, size=30, annealing=path, chains=8, samples=draws)
print(f"on digits of its own: AIS below {both.lower.mean():.2f}, above {both.upper.mean():.2f};", end=" ")
print(f"IS {both.importance.mean:.2f}, short by at most {both.shortfall:.2f} nats")
figure, axis = plt.subplots(figsize=(8.2, 3.4), layout="constrained")
order = both.upper.argsort()
place = torch.arange(len(order))
axis.vlines(place, both.lower[order], both.upper[order], color=GREY, lw=5, label="sandwich: below to above")
axis.plot(place, both.importance.value[order], ".", color=RED, label="importance sampling, 300 draws")
axis.set(title=f"{doubtful}: log p(x) of 30 digits drawn from the model", xlabel="digit, by log p(x)", ylabel="nats")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# All three agree to within about a tenth of a nat, even for the digits with the largest k-hats: small against what
# divides most models of the table. There a large k-hat was a warning that we could dismiss, *after* a look.
#
# Each end of a sandwich is a bound *on average*. For a single digit, with eight chains, the ends may cross, and a red
# dot may lie outside by a nat or two, as one does here. Judge the means, by their errors; do not sort digits by such
# numbers.

# %% [markdown] tags=["derivation", "T24"]
# ## 6. The denoising bound
#
# *Question: `dvae` shows its encoder a corrupted image $\tilde x \sim p(\tilde x \mid x)$ in training, and asks for
# the clean one. Is that still a bound?*
#
# $$\mathcal{L}_{\mathrm d}(x) = \mathbb{E}_{p(\tilde x \mid x)}\, \mathbb{E}_{q(z \mid \tilde x)}
#   \log \frac{p(x, z)}{q(z \mid \tilde x)} .$$
#
# Yes. For every fixed $\tilde x$ the inner expectation is the ELBO of $x$ with the guide $q(\cdot \mid \tilde x)$,
# and the ELBO is a bound for *any* guide. A mean of lower bounds is one. How tight is it? By the equality of notebook
# 1, $\log p(x) - \mathcal{L}_{\mathrm d}(x)$ is the mean over $\tilde x$ of
# $\mathrm{KL}[q(z \mid \tilde x) \,\|\, p(z \mid x)]$. With $p$ and $q$ held still, a guide that was trained on clean
# images does best on clean images, as a rule: less to look at is less to go by.
#
# Averaged over the corruption, the guide is a mixture
# $\bar q(z \mid x) = \mathbb{E}_{p(\tilde x \mid x)}\, q(z \mid \tilde x)$, which can have many modes. Because the KL
# divergence is convex in $q$, the mixture's ELBO is *above* $\mathcal{L}_{\mathrm d}$: what the course report (S4,
# 4.2.5) calls tighter is the mixture, not the bound that one computes and trains (Im et al. 2017). So a table
# must say which bound it shows: the one with $q$ at noisy images, the ELBO at clean ones, or $\log p(x)$.
#
# Two tests: the library against the formula, under the same noise; and all three bounds on the grid, with a corruption
# that has two outcomes only.


# %%
def bound_at_noise(levels, repeats=100):
    """The bound of the ruler with its guide at noisy images, by level of the noise: mean and error, in nats."""
    found = {}
    for level in levels:
        objective = pv.Denoised(pv.ELBO(), f"salt_and_pepper:{level}") if level else pv.ELBO()
        torch.manual_seed(3)
        with torch.no_grad():
            values = torch.stack([objective(ruler.model, ruler.guide, x).bound for _ in range(repeats)])
        found[level] = values.mean().item(), values.std().item() / repeats**0.5
    return found


def first_row_inverted(batch):
    """A corruption without chance."""
    return torch.cat([1 - batch[:, :8], batch[:, 8:]], 1)


torch.manual_seed(4)
library = pv.Denoised(pv.ELBO(sampled=["z"]), first_row_inverted)(ruler.model, ruler.guide, x).bound
torch.manual_seed(4)
with torch.no_grad():
    loc, scale = ruler.guide.encoder(first_row_inverted(x))
    z = loc + scale * torch.randn_like(loc)
    logits = ruler.model.decoder(z)
    by_hand = (x * logits - softplus(logits)).sum(-1) + normal_log_prob(z, torch.zeros_like(z), torch.ones_like(z))
    by_hand = (by_hand - normal_log_prob(z, loc, scale)).mean()
torch.testing.assert_close(library, by_hand)

with torch.no_grad():  # x~ is x or its inverted copy, with one half each: all three bounds on the grid
    log_q = [
        normal_log_prob(grid, *(t[:, None] for t in ruler.guide.encoder(shown))) for shown in (x, first_row_inverted(x))
    ]
    log_mixture = torch.stack(log_q).logsumexp(0) - math.log(2)
    cell = (line[1] - line[0]) ** 2
    each = [(q.exp() * (log_joint - q)).sum(1) * cell for q in log_q]
    denoising, mixture = sum(each) / 2, (log_mixture.exp() * (log_joint - log_mixture)).sum(1) * cell
print(f"denoising bound {denoising.mean():.3f} < its mixture's {mixture.mean():.3f} < log p(x) {exact.mean():.3f} nats")
print(f"... and the ELBO with the clean image only: {each[0].mean():.3f}")
assert (denoising <= mixture + 1e-9).all() and (mixture < exact).all()

# %%
levels = bound_at_noise([0.0, 0.05, 0.1, 0.2, 0.4])
for level, (mean, error) in levels.items():
    print(f"level {level:4.2f}: bound {mean:.2f} +- {error:.2f}, log p(x) {exact.mean():.2f} nats")
    assert mean < exact.mean() + 4 * error
if not SMOKE:
    assert levels[0.4][0] < levels[0.2][0] < levels[0.0][0]

# %% [markdown]
# So far $p$ and $q$ were those of a plain VAE. Trained with noise, does the *model* gain? Three numbers for each
# training of `dvae`, and those of `vae`. (The bounds are of thirty draws per image, so that chance hardly counts.)

# %%
for name in ("vae", "dvae"):
    for seed in SEEDS:
        pair, found = trained[name][seed], scores[name][seed]
        copies = unseen.repeat(2 if SMOKE else 30, 1)
        clean = pv.bound(pv.Pair(pair.model, pair.guide), copies)
        noisy = pv.bound(pv.Pair(pair.model, pair.guide, pv.Denoised(pv.ELBO(), "salt_and_pepper:0.05")), copies)
        print(
            f"{name:5s} seed {seed}: q at noisy images {noisy:.2f}, "
            f"ELBO at clean ones {clean:.2f}, log p {found.mean:.2f} nats"
        )

# %% [markdown]
# The first column is not comparable with anybody's ELBO; the last is with anybody's likelihood on the same data.
# Whether 5 % of salt and pepper helps is, here, within the noise of three seeds. The course report saw 31 nats at
# three codes, against its tuned VAE, which has the same settings; our own training on MNIST did not
# ([page](../docs/likelihoods.md)).

# %% [markdown]
# ## 7. What went wrong in a table
#
# *Question: the course report's Table 1 compares seven methods on MNIST at five sizes of the code. What may we
# conclude from it?*
#
# **Signs.** Its caption calls the numbers log-likelihoods, "the lower, the better". Read them:

# %%
print("codes " + "".join(f"{size:9d}" for size in SIZES))
for name, row in PUBLISHED.items():
    print(f"{name:9s}" + "".join(f"{value:9.2f}" for value in row))
lowest = min(PUBLISHED, key=lambda name: PUBLISHED[name][0])
tuned = [a - b for a, b in zip(PUBLISHED["VAE tuned"], PUBLISHED["VAE"], strict=True)]
print(f"lowest at 3 codes: {lowest}; tuned minus VAE: {[round(d, 2) for d in tuned]}")
assert lowest == "beta-VAE" and tuned[0] < 0 < min(tuned[1:])

# %% [markdown]
# If lower were better, the beta-VAE would win at three codes, while the text says it fell behind. The numbers are
# ELBOs, and *higher* is better. (For its faces the same report gives 236.67 and so on, without the sign: as we read it,
# notebook 1, section 6, those are negative ELBOs.) Then "tuning improves" holds at every size but three codes, where it costs three nats. The last row
# is of $p(x \mid y)$, given the label, and belongs in a table of its own. For two more rows the report does not say
# which number it shows: with $q$ at noisy or at clean images (`DVAE`), with the KL counted once or four times
# (`beta-VAE`). And all of them are bounds: a method with a bad guide looks like a bad model.
#
# **Pixels.** MNIST is grey; a Bernoulli likelihood needs 0 or 1. The report sets "to zero any pixel greater than
# zero". Taken alone that erases everything. With the inverted colours of its next sentence it is $x' = 1[x = 0]$: ink
# 0, paper 1. It adds that the choice has no significant impact.

# %%
erased = torch.where(grey.x > 0, 0.0, grey.x)
print(f"taken literally: {int(erased.sum())} bright pixels left in {len(erased)} images")
assert erased.sum() == 0
kinds = ["threshold0_inverted", "threshold05", "static"]
data = {kind: pv.binarised(grey, kind).x for kind in kinds}
nll = {}
for kind in kinds:
    torch.manual_seed(0)
    pairs = [pv.vae(**same) for _ in range(2)]
    pv.fit(pairs, data[kind][:1500], steps=steps(400), **how)
    nll[kind] = [-pv.log_likelihood(pair, data[kind][1500:1620], samples=draws).mean for pair in pairs]
    ink = data[kind][:1500].mean(0).clamp(1e-3, 1 - 1e-3)  # independent pixels: no training at all
    flat = torch.distributions.Bernoulli(ink).log_prob(data[kind][1500:1620]).sum(1).mean()
    print(f"{kind:20s} -log p: independent pixels {-flat:6.2f}, VAE {nll[kind][0]:6.2f} and {nll[kind][1]:6.2f} nats")
if not SMOKE:
    assert min(nll["static"]) > max(nll["threshold05"]) + 1

# %% [markdown]
# The *inversion* is harmless, as we shall assert: turn all pixels round, and a network with its first and last
# layer's signs turned gives the same number. The *threshold* is not: these are three data sets with three entropies,
# and a difference between their columns is not a difference between models. `pv.binarised` keeps the rule in the data
# set's `note`.

# %%
pair = trained["vae"][0]
turned = pv.vae(**same)
turned.load_state_dict(pair.state_dict())
with torch.no_grad():
    first_layer, last_layer = (
        turned.guide.encoder.trunk[0],
        [m for m in turned.model.decoder if hasattr(m, "weight")][-1],
    )
    first_layer.bias.add_(first_layer.weight.sum(1)), first_layer.weight.neg_()
    last_layer.weight.neg_(), last_layer.bias.neg_()
upright, inverted = pv.bound(pair, unseen), pv.bound(turned, 1 - unseen)
print(f"the same network turned round, on inverted digits: {upright:.4f} and {inverted:.4f} nats")
assert math.isclose(upright, inverted, abs_tol=1e-3)

figure, axes = plt.subplots(3, 8, figsize=(8, 3.2), layout="constrained")
for row, kind in zip(axes, kinds, strict=True):
    for axis, image in zip(row, data[kind], strict=False):
        axis.imshow(image.reshape(8, 8).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(kind, rotation=0, ha="right", va="center")
figure.suptitle("Three data sets, not one")
plt.show()

# %% [markdown] tags=["derivation", "T23"]
# **Counting twice.** The IWAE row of the table jumps (-177.95 at ten codes), and the authors suspect an error of
# their own. It stands in their Eq. 9. For two layers, with their $h_1, h_2$ called $z_1, z_2$, the weight is
#
# $$\log w = \log p(z_2) + \log p(z_1 \mid z_2) + \log p(x \mid z_1) - \log q(z_1 \mid x) - \log q(z_2 \mid z_1),$$
#
# by the chain rule: *one* factor per site. Eq. 9 has $\log \mathcal{N}(z_1; 0, I)$ besides. What does that do? It is
# $-\frac{k_1}{2} \log 2\pi - \frac12 \lVert z_1 \rVert^2$ for $k_1$ units: every $\log w$ falls by $0.92\, k_1$ nats, 92
# for a middle layer of 100 as we read theirs, and by $\frac12 \lVert z_1 \rVert^2$ on top. What is bounded is
# $\log \int p(z_2)\, p(z_1 \mid z_2)\, \mathcal{N}(z_1; 0, I)\, p(x \mid z_1)$, and that integrates over all $x$ to
#
# $$Z = \mathbb{E}_{p(z_1)}\, \mathcal{N}(z_1; 0, I) < 1 .$$
#
# It is not a density, and $-\log Z$ nats are lost before any image is looked at. We write Eq. 9 down as a Pyro model:
# a second `pyro.sample` for the same value. Two checks follow: at the same draw, the two weights must differ by that
# factor and nothing else. And $Z$ can be had in two ways, by averaging $\mathcal{N}(z_1; 0, I)$ over draws of $z_1$, or
# over draws of $z_2$ alone, with $z_1 \sim \mathcal{N}(\mu, \sigma^2)$ integrated out in closed form:
# $\int \mathcal{N}(z_1; \mu, \sigma^2)\, \mathcal{N}(z_1; 0, 1)\, dz_1 = \mathcal{N}(\mu; 0, 1 + \sigma^2)$ per unit.


# %%
class CountedTwice(PyroModule):
    """p(z_2) p(z_1 | z_2) N(z_1; 0, I) p(x | z_1): the report's Eq. 9, which is not a density."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z_2 = pyro.sample("z_2", self.model.prior())
            loc, scale = self.model.down[0](z_2)
            z_1 = pyro.sample("z_1", dist.Normal(loc, scale).to_event(1))
            pyro.sample("again", dist.Normal(torch.zeros_like(z_1), 1.0).to_event(1), obs=z_1)
            return pyro.sample("x", dist.Bernoulli(logits=self.model.decoder(z_1)).to_event(1), obs=x)


honest = trained["iwae_2"][0]
counted_twice = CountedTwice(honest.model)
for particles in (5, 1):
    objective, bounds = pv.ImportanceWeighted(particles=particles), []
    for model in (honest.model, counted_twice):
        torch.manual_seed(5)
        bounds.append(objective(model, honest.guide, unseen).bound.detach())
    print(f"L_{particles} with p(z_1) counted once {bounds[0]:.2f}, twice {bounds[1]:.2f} nats")
torch.manual_seed(5)
z_1 = poutine.trace(honest.guide).get_trace(unseen).nodes["z_1"]["value"].detach()
extra = normal_log_prob(z_1, torch.zeros_like(z_1), torch.ones_like(z_1))  # at the draws of the last round, K = 1
torch.testing.assert_close(bounds[1] - bounds[0], extra.mean(), rtol=0, atol=1e-3)

with torch.no_grad():
    loc, scale = honest.model.down[0](torch.randn(200_000, 8))
    drawn = loc + scale * torch.randn_like(loc)
    by_draws = normal_log_prob(drawn, torch.zeros_like(loc), torch.ones_like(loc)).exp().double()
    in_closed_form = normal_log_prob(loc, torch.zeros_like(loc), (1 + scale**2).sqrt()).exp().double()
print(f"log Z = {by_draws.mean().log():.2f} or {in_closed_form.mean().log():.2f}: so much is lost for every image")
error = ((by_draws.var() + in_closed_form.var()) / len(loc)).sqrt()
assert abs(by_draws.mean() - in_closed_form.mean()) < 5 * error < in_closed_form.mean()

# %% [markdown]
# It does not only mislabel a good model. Whoever *trains* with it pays $\frac12 \lVert z_1 \rVert^2$ for every code,
# and so presses them towards zero, where they say less. We train both ways and judge both by the honest likelihood:

# %%
for seed in SEEDS[:2]:
    torch.manual_seed(seed)
    fresh = makers["iwae_2"]()
    wrong = pv.Pair(CountedTwice(fresh.model), fresh.guide, pv.ImportanceWeighted(particles=5))
    pv.fit(wrong, train, steps=steps(400), seed=seed, **how)
    own = pv.bound(wrong, unseen)
    true = pv.log_likelihood(fresh, unseen, samples=draws).mean
    print(
        f"seed {seed}: trained on Eq. 9: its own bound {own:.2f}, honest log p {true:.2f}; "
        f"trained honestly {scores['iwae_2'][seed].mean:.2f} nats"
    )

# %% [markdown]
# The bound that Eq. 9 reports is about fifteen nats below the likelihood of its own model. The model is worse too, by
# a nat or two, but by far not as bad as its number. That is the point of checking: *most of it was the
# number, not the method*. On MNIST, with a middle layer of a hundred, the same formula costs our models hundreds of
# nats and its values wander with the size of the top layer, as the report's do ([page](../docs/likelihoods.md)).

# %% [markdown] tags=["derivation", "T16"]
# ## 8. When the likelihood misleads
#
# *Question: we can now measure $\log p(x)$ properly. Does a better one mean better samples?*
#
# **Good likelihood, bad samples.** Let the data lie on a curve in the plane, here the unit circle, spread evenly. A
# model draws an angle from a density $u(\theta)$, takes that point of the circle and adds Gaussian noise of standard
# deviation $s$. The right $u$ is even. Our wrong one has 97 % of its mass in a bump at angle 0 (`VonMises`, the
# circle's Gaussian) and only 3 % spread evenly. Near the circle the density is, for small $s$, that of the angle along the curve times that of the
# noise across it:
#
# $$p_s(x) \approx u(\theta)\, \frac{1}{\sqrt{2\pi}\, s} \qquad\Rightarrow\qquad
#   -\mathbb{E} \log p_s(x)
#   \approx -\mathbb{E} \log u(\theta) + \tfrac12 \log 2\pi + \log s \ \longrightarrow\ -\infty \quad (s \to 0).$$
#
# What happens *along* the curve, which is all we see in samples, is one finite number. What happens *across* it is
# $\log s$ for every dimension that the data do not use, $d - r$ of them ($r = 1$ is the dimension of the curve), and
# has no limit. A model with the wrong $u$ and a smaller $s$ wins against the right $u$. In the limit the density is
# infinite all along the curve, a set that has no area, for *any* $u$ that leaves no part of it out: the tutorial slides
# (S3, part IV) make the point with a $u$ that is even where the data are not. Their source is Theis, van den Oord &
# Bethge (2016).
#
# **Good samples, bad likelihood** is easier: let the right model be shifted off the curve by a hair, less than the
# eye can see but many $s$.
#
# **Bad samples at hardly any cost.** Mix 10 % of a good model with 90 % of noise $n(x)$:
# $\log(0.1\, p(x) + 0.9\, n(x)) \ge \log p(x) - \log 10$. It loses 2.3 nats at most, whatever the noise is, and for
# images of many pixels that is less than what separates one model from the next.

# %%
angles = torch.linspace(-math.pi, math.pi, 20_001, dtype=F64)[:-1]
circle = torch.stack([angles.cos(), angles.sin()], 1)
even = torch.full_like(angles, 1 / (2 * math.pi))
lopsided = 0.97 * torch.distributions.VonMises(torch.tensor(0.0, dtype=F64), 20.0).log_prob(angles).exp() + 0.03 * even
at = circle[::400]  # fifty data, evenly on the circle


def nll_on_circle(u, s, points=at):
    """-E log p_s, the integral over the angle as a sum."""
    log_noise = -torch.cdist(points, circle).square() / (2 * s**2) - math.log(2 * math.pi * s**2)
    return -(log_noise + u.log() + math.log(2 * math.pi / len(angles))).logsumexp(1).mean().item()


widths = torch.logspace(-3, -0.7, 40, dtype=F64).tolist()
curves = {"right": [nll_on_circle(even, s) for s in widths], "wrong": [nll_on_circle(lopsided, s) for s in widths]}
asymptote = -lopsided[::400].log().mean().item() + 0.5 * math.log(2 * math.pi) + math.log(widths[0])
print(f"wrong u, s = 0.001: -log p {curves['wrong'][0]:.4f}, by the formula {asymptote:.4f} nats")
assert math.isclose(curves["wrong"][0], asymptote, abs_tol=1e-3)
right, wrong, shifted = nll_on_circle(even, 0.05), nll_on_circle(lopsided, 0.002), nll_on_circle(even, 0.002, at * 1.02)
print(
    f"-log p: right u, s = 0.05: {right:.2f}; wrong u, s = 0.002: {wrong:.2f}; "
    f"right u, off by 2 %, s = 0.002: {shifted:.2f}"
)
assert wrong < right < shifted

# %%
torch.manual_seed(0)


def draw(u, s, n=300, radius=1.0):
    return radius * circle[torch.multinomial(u, n, replacement=True)] + s * torch.randn(n, 2, dtype=F64)


figure, axes = plt.subplots(1, 4, figsize=(12.4, 3.4), layout="constrained", width_ratios=[1.25, 1, 1, 1])
axes[0].semilogx(widths, curves["right"], color=TEAL, label="right u")
axes[0].semilogx(widths, curves["wrong"], color=RED, label="wrong u")
axes[0].plot([0.05], [right], "o", color=TEAL), axes[0].plot([0.002], [wrong], "o", color=RED)
axes[0].set(title="Less noise beats the right shape", xlabel="noise s across the circle", ylabel="$-\\log p$, nats")
axes[0].legend(frameon=False)
panels = [
    (draw(even, 0.05), TEAL, f"right u, s = 0.05\n{right:.2f} nats"),
    (draw(lopsided, 0.002), RED, f"wrong u, s = 0.002\n{wrong:.2f} nats: better?"),
    (draw(even, 0.002, radius=1.02), DARK, f"2 % too large, s = 0.002\n{shifted:.0f} nats: worse?"),
]
for axis, (points_drawn, colour, title) in zip(axes[1:], panels, strict=True):
    axis.plot(circle[:, 0], circle[:, 1], color=GREY, lw=1)
    axis.plot(points_drawn[:, 0], points_drawn[:, 1], ".", ms=3, color=colour)
    axis.set(title=title, aspect="equal", xticks=[], yticks=[], xlim=(-1.3, 1.3), ylim=(-1.3, 1.3))
plt.show()

# %% [markdown]
# A VAE with a learned noise level, `gamma_vae`, does just that on data with a curve inside: it makes $\sqrt\gamma$
# smaller and smaller, and the bound has no end but the floor of 0.001 that the library sets. Here on half a circle,
# with one code:

# %%
half = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * math.pi
arc = torch.stack([half.cos(), half.sin()], 1)
torch.manual_seed(0)
curve_vae = pv.gamma_vae(data_dim=2, latent_dim=1, hidden=(32, 32), real=True)
noise = []
history = pv.fit(
    curve_vae, arc, steps=steps(1500), lr=2e-2, progress=False, log_every=5 if SMOKE else 100,
    on_step=lambda step: noise.append(curve_vae.model.scale().item()),
)  # fmt: skip
at_step = [row["step"] for row in history.rows]
figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.3), layout="constrained")
axes[0].loglog(range(1, len(noise) + 1), noise, color=RED)
axes[0].axhline(1e-3, color=GREY, ls="--", label="the library's floor")
axes[0].set(title="The noise falls and falls", xlabel="step", ylabel="$\\sqrt{\\gamma}$")
axes[0].legend(frameon=False)
axes[1].plot(at_step, [row["bound"] for row in history.rows], ".-", color=RED)
axes[1].set(title="... and the bound climbs with it", xlabel="step", ylabel="ELBO, nats per point")
plt.show()

# %% [markdown]
# So **report $\gamma$ next to every likelihood of continuous data**, and never compare two models whose floors
# differ. Binary data have no such abyss: a probability is at most 1, so that $-\log p(x) \ge 0$. But the mixture with
# noise works there too:

# %%
good = scores["iwae"][0].value
coin_flips = torch.full_like(good, -64 * math.log(2))
mixed = torch.logaddexp(good + math.log(0.1), coin_flips + math.log(0.9))
ink = train.mean(0).clamp(1e-3, 1 - 1e-3)
independent = torch.distributions.Bernoulli(ink).log_prob(unseen).sum(1)
print(
    f"-log p: iwae {-good.mean():.2f}; 10 % iwae, 90 % coin flips {-mixed.mean():.2f}; "
    f"independent pixels {-independent.mean():.2f}"
)
assert (mixed >= good - math.log(10) - 1e-6).all()
if not SMOKE:
    assert mixed.mean() > independent.mean()

torch.manual_seed(1)
from_iwae = torch.bernoulli(pv.sample(trained["iwae"][0], 24))
pick = torch.rand(24, 1) < 0.1
panels = {
    f"iwae: {-good.mean():.1f} nats": from_iwae,
    f"independent pixels: {-independent.mean():.1f}": torch.bernoulli(ink.expand(24, -1)),
    f"10 % iwae, 90 % coin flips: {-mixed.mean():.1f}": torch.where(
        pick, from_iwae, torch.bernoulli(torch.full((24, 64), 0.5))
    ),
}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 2.9), layout="constrained")
for axis, (title, images) in zip(axes, panels.items(), strict=True):
    framed = torch.nn.functional.pad(images.reshape(4, 6, 8, 8), (1, 1, 1, 1), value=0.4)
    axis.imshow(framed.permute(0, 2, 1, 3).reshape(40, 60).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# By likelihood the right panel is better than the middle one. Likelihood answers "how many bits would a code for
# *these data* need?", and for that question the order is right: one pays $\log_2 10 = 3.3$ bits per image, which is
# 2.3 nats, to say "from the good part".
# It does not answer "does it draw nice digits?". Ask both questions, with different tools ([From reconstruction to
# generation](06-generation.ipynb)).

# %% [markdown]
# ## Exercises

# %% [markdown] tags=["exercise"]
# **1. The price of a few draws.** Section 3 says that the log of a mean of $S$ weights lies too low by about
# $\mathrm{se}^2 / 2$ on average. Predict the shortfall of $S = 10$ and $S = 100$ draws for the ruler model, from the
# variance of its weights (use the exact $p(x)$), then measure it. Where does the prediction fail, and why?

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
torch.manual_seed(6)
with torch.no_grad():
    ratio = (log_weights(ruler, x, 10_000) - exact).exp()  # w / p(x)
variance = ratio.var(0)
tame = variance < 0.5
for S in (10, 100):
    means = ratio.reshape(-1, S, len(x)).mean(1)  # many estimates of S draws each
    shortfalls = means - 1 - means.log()  # means - 1 is 0 on average, and takes most of the noise away
    for name, which in (("tame", tame), ("wild", ~tame)):
        measured, predicted = shortfalls[:, which].mean().item(), (variance[which] / (2 * S)).mean().item()
        error = shortfalls[:, which].mean(1).std().item() / len(means) ** 0.5
        print(f"S = {S:3d}, {name} weights: measured {measured:.5f} +- {error:.5f}, predicted {predicted:.5f} nats")
        assert name == "wild" or abs(measured - predicted) < 4 * predicted / S + 4 * error
# It fails where the variance is large against S: the series log(1 + e) = e - e^2/2 + ... wants a small error e. For wild
# weights and S = 10 it promises twice what is there. What it leaves out falls like 1/S^2.

# %% [markdown] tags=["exercise"]
# **2. Does the encoder learn from more draws?** The tighter the bound, the less it depends on the guide: in the limit
# not at all. Measure the *signal-to-noise ratio* of the gradient for the encoder's last bias, the absolute mean over
# the standard deviation of repeats, for $K = 1, 10, 100$ and `estimator="iwae"`. Then for `"dreg"`, which rearranges
# the same gradient (Tucker et al. 2019). Predict both trends first.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
bias = ruler.guide.encoder.loc.bias


def signal(K, estimator, repeats=20 if SMOKE else 150):
    objective, grads = pv.ImportanceWeighted(particles=K, estimator=estimator), []
    torch.manual_seed(7)
    for _ in range(repeats):
        loss = objective(ruler.model, ruler.guide, x[:10]).total
        grads.append(torch.autograd.grad(loss, bias)[0])
    grads = torch.stack(grads)
    return (grads.mean(0).abs() / grads.std(0)).mean().item(), grads.mean(0), grads.std(0) / repeats**0.5


results = {name: [signal(K, name) for K in (1, 10, 100)] for name in ("iwae", "dreg")}
for name, found in results.items():
    print(f"{name}: signal to noise {[round(one[0], 2) for one in found]} for K = 1, 10, 100")
for a, b in zip(results["iwae"], results["dreg"], strict=True):  # two estimators of one gradient
    assert ((a[1] - b[1]).abs() < 6 * (a[2] + b[2])).all()
if not SMOKE:
    assert results["dreg"][2][0] > results["iwae"][2][0]
# With "iwae" the gradient shrinks like 1/K and its noise only like 1/sqrt(K): in theory the ratio falls like 1/sqrt(K)
# (Rainforth et al. 2018). Here it soon is so small that 150 repeats hardly see it (0.08 would be pure chance). For
# "dreg" the theory has it rise. We do not see that: it falls here too, but is several times as large at every K. The
# theory is for large K and for weights without heavy tails; some of these ten images have heavy ones.

# %% [markdown] tags=["exercise"]
# **3. How long a walk?** In section 4 take the guide of width 0.3 and start the annealing from the *guide* instead of
# the prior, with 1, 5 and 30 temperatures. What must happen at 1? Does it matter where one starts?

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
off = {}
for start in ("guide", "prior"):
    for T in (1, 5, 30):
        walk = pv.Annealing(temperatures=T, leapfrog=5, start=start)
        found = pv.log_likelihood(bad, points[:50], method="ais", samples=16, annealing=walk)
        off[start, T] = (found.value - truth).mean().item()
        print(f"from the {start}, {T:2d} temperatures: off by {off[start, T]:8.4f} +- {found.mean_se:.4f} nats")
# One temperature is importance sampling from the start, with 16 draws: too low for both, and the guide is the better
# start, narrow as it is. The walk mends both. From five temperatures on the errors do not tell the two starts apart.
assert abs(off["guide", 30]) < abs(off["guide", 1]) and abs(off["prior", 30]) < abs(off["prior", 1])

# %% [markdown]
# ## What to remember
#
# * $\mathcal{L}_K$ rises with $K$ to $\log p(x)$; its gradient weighs the draws by $\tilde w_k$. Any such number is a
#   lower bound on average: report the highest, as a bound.
# * Look at k-hat before you look at the error. Where it is above 0.7 take more draws, then anneal; the sandwich tells
#   how far off you are on data of the model's own.
# * Compare on the same data, made binary by the same rule, with several seeds, and claim what the seeds carry.
# * One factor per site. If a published row jumps, write its formula down as a program and look for the site that is
#   there twice.
# * Likelihood is about coding the data. On a manifold it is about $\gamma$. It is not about samples.
#
# ## Where to go on
#
# * [An honest likelihood](../docs/likelihoods.md): the same on MNIST, with published numbers, and the report's table
#   redone.
# * [From reconstruction to generation](06-generation.ipynb): judging samples. [What did the guide
#   miss?](09-posterior.ipynb): k-hat and more, for the posterior.
#
# ## Sources
#
# Burda, Grosse & Salakhutdinov (2016), *Importance weighted autoencoders*; Neal (2001), *Annealed importance
# sampling*; Grosse, Ghahramani & Adams (2015), *Sandwiching the marginal likelihood using bidirectional Monte Carlo*;
# Wu, Burda, Salakhutdinov & Grosse (2017), *On the quantitative analysis of decoder-based generative models*;
# Vehtari, Simpson, Gelman, Yao & Gabry (2024), *Pareto smoothed importance sampling*; Im, Ahn, Memisevic & Bengio
# (2017), *Denoising criterion for variational auto-encoding framework*; Tucker, Lawson, Gu & Maddison (2019), *Doubly
# reparameterized gradient estimators*; Rainforth, Kosiorek, Le, Maddison, Igl, Wood & Teh (2018), *Tighter variational
# bounds are not necessarily better*; Theis, van den Oord & Bethge (2016), *A note on the evaluation of generative
# models*; Sonderby et al. (2016), Rezende & Mohamed (2015), Kingma et al. (2016), Durkan et al. (2019) and Dieng et
# al. (2019) for the variants; tutorial slides on VAEs (S3, part IV); a course report, *Improving variational
# autoencoders* (S4, 2019, 3, 4.2, 5 and appendix A.3).
