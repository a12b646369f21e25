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
# # Conditioning
#
# Sometimes part of what you want is known: the class of a digit, one quadrant of an image, all pixels but a few. You
# learn the four ways in which a VAE can be told. A **condition** that is always there goes into the networks (two
# kinds, which are often confused). A label that is there *sometimes* becomes a latent site that is summed out.
# Entries that are missing at random are integrated out. And where *nothing* is given, we ask what a code can mean at
# all: less than one hopes, and a linear decoder changes that.
#
# For readers who know the VAE (`01-the-vae.ipynb`). Binary digits of 8 x 8 pixels, 1,797 of them; it runs in a good
# minute.

# %%
import copy
import math
import os

import matplotlib.pyplot as plt
import torch
from pyro import poutine
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import pyro_vaes as pv
from pyro_vaes.evaluation.identifiability import amari_distance, matched
from pyro_vaes.guides.conditional import FromCondition
from pyro_vaes.variants.conditional import direct_output

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


digits = pv.binarised(pv.load("digits"), "threshold05")  # a pixel is 1 where it was above 0.5
train, test = digits.x[:1400], digits.x[1400:]
y_train, y_test = digits.y[:1400], digits.y[1400:]
size = {"data_dim": 64, "hidden": (128,)}
plan = {"steps": steps(1200), "lr": 2e-3, "progress": False}

# %% [markdown] tags=["derivation", "T26"]
# ## 1. Two conditional bounds
#
# **What changes in the bound when something is given?**
#
# Write $x$ for what is modelled and $y$ for what is given; this library always does. There are two stories.
#
# *First kind* (`cvae`): the code knows nothing of the condition. Think of a class $y$ and a handwriting $z$:
#
# $$p(x \mid y) = \int p(z)\, p(x \mid z, y)\, \mathrm{d}z, \qquad p(z) = \mathcal{N}(0, I).$$
#
# *Second kind* (`structured_cvae`): what is given says something about the code. Think of a quadrant $y$ of an image
# and the rest $x$:
#
# $$p(x \mid y) = \int p(z \mid y)\, p(x \mid z, y)\, \mathrm{d}z, \qquad
#   p(z \mid y) = \mathcal{N}(\mu_p(y), \mathrm{diag}\, \sigma_p^2(y)).$$
#
# The derivation is that of the plain ELBO, *with every density given $y$*. Multiply and divide by any guide
# $q(z \mid x, y)$, which may look at both, and pull the logarithm into the expectation by Jensen's inequality:
#
# $$\log p(x \mid y) = \log \mathbb{E}_{q} \frac{p(z \mid y)\, p(x \mid z, y)}{q(z \mid x, y)}
#   \ge \mathbb{E}_{q} \log p(x \mid z, y) - \mathrm{KL}[q(z \mid x, y) \,\|\, p(z \mid y)],$$
#
# where $p(z \mid y)$ is just $p(z)$ in the first kind. The KL is between two Gaussians, so that per entry of the code
# it is
#
# $$\log \frac{\sigma_p}{\sigma_q} + \frac{\sigma_q^2 + (\mu_q - \mu_p)^2}{2 \sigma_p^2} - \frac12 .$$
#
# The course report's Eq. 3 is the *second* kind, with $x$ and $y$ in each other's place,
# $p(y \mid x, z)\, p(z \mid x)$; what it *trains* is the first, a digit given its label. So we keep two variants.
# Note also what bounds are of: $\log p(x \mid y)$ is not $\log p(x)$. A conditional model is told something that an
# unconditional one must pay for. Comparable is the joint $\log p(x, y) = \log p(x \mid y) + \log p(y)$, here
# $-\log 10$ more.
#
# We train one of each kind and write both bounds by hand, at the same draws.

# %%
parts = pv.quadrants(digits, observed=1)  # y: the bottom left quadrant, 16 pixels; x: the other 48
torch.manual_seed(1)
labelled = pv.cvae(**size, classes=10, latent_dim=6)
rest = pv.structured_cvae(48, condition_dim=16, latent_dim=6, hidden=(128,))
pv.fit(labelled, train, y_train, **plan)
pv.fit(rest, parts.x[:1400], parts.y[:1400], **plan)


def by_hand(pair, x, y, prior):
    """Log-likelihood and KL per datum, from the outputs of the networks."""
    torch.manual_seed(2)
    z = pair.guide(x, y)
    m, s = pair.guide.encoder(torch.cat([x, y], -1))
    m_p, s_p = prior
    kl = ((s_p / s).log() + (s**2 + (m - m_p) ** 2) / (2 * s_p**2) - 0.5).sum(-1)
    logits = pair.model.decoder(torch.cat([z, y], -1))
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1), kl


x, y = test[:60], one_hot(y_test[:60], 10).float()
x_rest, y_rest = parts.x[1400:1460], parts.y[1400:1460]
for pair, given, prior in (
    (labelled, (x, y), (torch.zeros(6), torch.ones(6))),
    (rest, (x_rest, y_rest), rest.model.prior(y_rest)),
):
    log_x, kl = by_hand(pair, *given, prior)
    torch.manual_seed(2)
    loss = pair(*given)
    assert torch.isclose(loss.terms["x"], -log_x.mean(), rtol=1e-4)
    assert torch.isclose(loss.terms["z"], kl.mean(), rtol=1e-4)
    print(f"{pair.name}: {log_x.mean():.2f} - {kl.mean():.2f} = {loss.bound:.2f} nats per datum, log p(x | y) at least")

# %% [markdown]
# ### What is left for the code
#
# If $z$ is independent of $y$ in the model, a well-trained guide should, *averaged over the data*, put nothing about
# the class into the code: the decoder is told anyway, and every nat of the code costs. An unconditional `vae` has to
# put the class into its code. So ask a linear classifier to read the class off the codes of both.

# %%
torch.manual_seed(1)
plain = pv.vae(**size, latent_dim=6, activation="relu")
pv.fit(plain, train, **plan)


def codes(pair, x, y=None):
    joined = x if y is None else torch.cat([x, one_hot(y, 10).float()], -1)
    with torch.no_grad():
        return pair.guide.encoder(joined)[0].numpy()


def read_off(at_train, at_test):
    return LogisticRegression(max_iter=3000).fit(at_train, y_train).score(at_test, y_test)


read = {"vae": read_off(codes(plain, train), codes(plain, test)),
        "cvae": read_off(codes(labelled, train, y_train), codes(labelled, test, y_test))}  # fmt: skip
bounds = {"vae: log p(x)": pv.bound(plain, test), "cvae: log p(x | y)": pv.bound(labelled, test, y_test)}
bounds["cvae: log p(x, y)"] = bounds["cvae: log p(x | y)"] - math.log(10)
if not SMOKE:
    assert read["cvae"] < 0.5 * read["vae"]
figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained", width_ratios=[1, 1.5])
axes[0].bar(list(read), [100 * share for share in read.values()], color=[GREY, RED], width=0.55)
axes[0].axhline(10, color=DARK, lw=1, ls=":")
axes[0].text(0.5, 12, "guess", ha="center")
axes[0].set_ylabel("classes read off the code (%)")
axes[0].set_title("Told the class, the code forgets it", loc="left", fontsize=11)
drawn = axes[1].barh(list(bounds), [-value for value in bounds.values()], color=[GREY, RED, YELLOW])
axes[1].bar_label(drawn, fmt="%.2f", padding=3)
axes[1].margins(x=0.15)
axes[1].invert_yaxis()
axes[1].set_xlabel("-bound on new digits (nats per digit, less is better)")
axes[1].set_title("Three bounds, of three different things", loc="left", fontsize=11)
plt.show()

# %% [markdown]
# (All 397 new digits here, 60 in the check above.) The last two bars differ by $\log 10 = 2.30$ nats, the price of the
# label. May the third stand beside the first? Within one model $\log p(x) = \log \sum_{y'} p(x, y') \ge \log p(x, y)$,
# so that the third bar bounds $\log p(x)$, too: that of the CVAE with its labels summed out. It has the better bound
# here, by little and in one training each. It had more to learn from: the `vae` never saw a label.
#
# What the code keeps is **style**. Take the code of one digit, given its own label, and decode it with every label.
# (Grey is a probability. At 8 x 8 pixels style is not much: compare a column from row to row, and you find slant, width
# and weight.)

# %%
chosen = [int((y_test == digit).nonzero()[1]) for digit in (2, 4, 7)]
style = torch.tensor(codes(labelled, test[chosen], y_test[chosen]))
tables = [labelled.model.decoder(torch.cat([z.expand(10, -1), torch.eye(10)], -1)).sigmoid() for z in style]
grid = torch.stack([torch.cat([test[row][None], table]) for row, table in zip(chosen, tables, strict=True)])
show(grid, "The style of one digit, given to every class", columns=["datum", *map(str, range(10))])

# %% [markdown]
# ## 2. Structured output: many right answers
#
# **Why a code at all, if $x$ is to be predicted from $y$?**
#
# One quadrant does not determine the others. A network without a code, `direct_output`, gives every pixel its
# probability *by itself*; its best answer is the mean of all right answers, and a mean of a 3 and an 8 is neither.
# With a code, pixels are independent only *given $z$*, and every draw of $z$ is one answer. The number to compare is
# $\log p(x \mid y)$ of the true rest. The network without a code has it exactly; for the CVAE we estimate it by
# importance sampling, which is too small on average, and so flatters the other side. (k-hat says of each datum
# whether its importance weights can be trusted: below 0.7.)

# %%
torch.manual_seed(1)
direct = direct_output(48, condition_dim=16, hidden=(128,))
pv.fit(direct, parts.x[:1400], parts.y[:1400], **plan)
held_x, held_y = parts.x[1400:], parts.y[1400:]
found = pv.log_likelihood(rest, held_x, held_y, samples=200)
without = pv.bound(direct, held_x, held_y)
if not SMOKE:
    assert found.mean > without
print(f"-log p(rest | quadrant), mean of {len(held_x)} new digits:")
print(f"with a code at most {-found.mean:.2f} +- {found.mean_se:.3f} nats, k-hat above 0.7 for {found.unreliable:.0%}")
print(f"without one {-without:.2f} nats, exactly")
rows = [int((y_test == digit).nonzero()[0]) for digit in (0, 4, 6, 8)]
assert torch.equal(held_y[rows[0]], held_y[rows[2]])  # a 0 and a 6: the same quadrant is seen
answers = [pv.sample(rest, 5, y=held_y[i].expand(5, -1), seed=1) for i in rows]
mean_answer = direct.model.decoder(held_y[rows]).sigmoid()
grid = []
for i, drawn, flat in zip(rows, answers, mean_answer, strict=True):
    one = held_y[i].expand(1, -1)
    grid.append(torch.cat([parts.join(held_x[i][None], one), parts.join(torch.full((1, 48), 0.35), one),
                           parts.join(flat[None], one), parts.join(drawn, held_y[i].expand(5, -1))]))  # fmt: skip
columns = ["truth", "seen", "no code", *[f"draw {i}" for i in range(1, 6)]]
show(torch.stack(grid).detach(), "Bottom left seen: one blurred answer, or five that differ", columns=columns)

# %% [markdown]
# Look at the third column: grey where answers disagree. The draws commit themselves more. (Shown are the probabilities
# of pixels given the code that was drawn.) The first and the third row are the same *question*: a 0 and a 6 with the
# same bottom left. With the same noise they get the same five answers, and must: nothing that was given tells them
# apart.
#
# Sohn, Lee & Yan (2015) estimate
# $\log p(x \mid y)$ with codes from the *prior* $p(z \mid y)$, which needs far more draws for the same accuracy; on
# MNIST the difference was tens of nats ([An honest likelihood](../docs/likelihoods.md)).

# %% [markdown] tags=["derivation", "T20"]
# ## 3. What a code means, if nothing is given
#
# **Can training find the factors that made the data?**
#
# Take four equiprobable images: {female, male} x {young, old}. One generator has two fair coins $z = (g, a)$, one for
# gender, one for age. That is disentangled: each coin has one meaning. Now a second generator, with coins
# $z' = (g', a')$ that are
#
# $$g' = g, \qquad a' = g \oplus a ,$$
#
# where $\oplus$ is "exclusive or". The map is one to one, so $z'$ takes its four values equally often; hence $g'$ and
# $a'$ are again two *independent fair coins*. But turning $g'$ over while $a'$ stays changes gender *and* age. The
# second generator is entangled, and its prior factorises just as well. Draw $z'$, compute $a = g' \oplus a'$, paint:
# the data are the same,
#
# $$p'(x) = \sum_{z'} \tfrac14\, p(x \mid g', g' \oplus a') = \sum_{z} \tfrac14\, p(x \mid g, a) = p(x),$$
#
# since the two sums have the same four terms in another order. No amount of data, and no likelihood, can tell the two
# apart. We check it on all four images and on random ones, with every pixel flipped with probability 1/20. (A ring
# with a cross below is female, a ring with an arrow male; the ring of the old is filled.)

# %%
ring = torch.zeros(8, 8)
ring[2:5, 3:6], ring[3, 4] = 1, 0
cross, arrow, dot = torch.zeros(3, 8, 8).unbind()
cross[5:, 4], cross[6, 3:6] = 1, 1
arrow[0, 5:], arrow[:3, 7], arrow[1, 6] = 1, 1, 1
dot[3, 4] = 1
people = torch.stack([ring + sex + age for sex in (cross, arrow) for age in (0 * dot, dot)]).reshape(4, 64)
coins = torch.cartesian_prod(torch.arange(2), torch.arange(2))


def log_p(x, gender, age):
    """log of the mean over four codes of p(x | image of the code), every pixel flipped with probability 1 / 20."""
    picture = people[2 * gender + age].double()
    chance = torch.distributions.Bernoulli(picture * 0.95 + (1 - picture) * 0.05)
    return chance.log_prob(x.double()[:, None]).sum(-1).logsumexp(1) - math.log(4)


seen = torch.cat([people, torch.rand(500, 64).round()])
straight = log_p(seen, coins[:, 0], coins[:, 1])
entangled = log_p(seen, coins[:, 0], coins[:, 0] ^ coins[:, 1])
assert torch.allclose(straight, entangled, rtol=1e-12)
# A map that is not one to one makes another model: g and a, both needed for age 1, has no old women.
assert not torch.allclose(straight, log_p(seen, coins[:, 0], coins[:, 0] & coins[:, 1]), rtol=1e-3)
print(f"largest difference over 504 images: {(straight - entangled).abs().max():.0e} nats")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.5, 4), layout="constrained")
layouts = [("disentangled", coins[:, 1]), ("entangled, and exactly as likely", coins[:, 0] ^ coins[:, 1])]
for ax, (title, age) in zip(axes, layouts, strict=True):
    for code, one in zip(coins, age, strict=True):
        at = code[0] - 0.3, code[0] + 0.3, code[1] - 0.3, code[1] + 0.3
        ax.imshow(people[2 * code[0] + one].reshape(8, 8), cmap="gray", extent=[float(e) for e in at])
        ax.add_patch(plt.Rectangle((float(at[0]), float(at[2])), 0.6, 0.6, fill=False, color=DARK, lw=3))
    ax.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5), xticks=[0, 1], yticks=[0, 1])
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel("$z_1$: " + ("gender changes" if title == "disentangled" else "gender and age change"))
    ax.set_ylabel("$z_2$: age changes")
plt.show()

# %% [markdown] tags=["derivation", "T20"]
# ### Two ways out: a prior with corners, or labels
#
# For codes of real numbers a rotation does what the exclusive or did to coins. If $z \sim \mathcal{N}(0, I)$ and $R$
# is any rotation, $R z \sim \mathcal{N}(0, I)$ again. A decoder that first turns back, $\mu'(z) = \mu(R^\top z)$,
# gives the same $p(x)$. A round prior cannot hold an axis.
#
# *First way out*: a prior that is not round, **and** a decoder that is stiff. Both are needed. A flexible decoder could
# bend each entry of any prior into a Gaussian, turn there, and bend back: again the same $p(x)$, from other codes. A
# linear one can turn but not bend, and a turn shows in the prior. Let $x = W z + b + \text{noise}$
# with independent, **non-Gaussian** $z_j$ of variance 1. Then turned sources are no longer independent, and the
# likelihood can tell. How much? Let true sources be $s$ with density $p(s) = \prod_j p(s_j)$, two of the same symmetric
# kind, and score them turned
# by an angle $\theta$ with that same prior:
#
# $$J(\theta) = \mathbb{E} \log p(R_\theta s) .$$
#
# By Gibbs' inequality $\mathbb{E} \log p(s) \ge \mathbb{E} \log r(s)$ for *any* density $r$. Turning keeps volumes, so
# $r(s) = p(R_\theta s)$ is one, and $J(0) \ge J(\theta)$: with equality only if turning does not change the density.
# For Gaussians it never does: $J$ is flat. For the others the maxima are at quarter turns, which only swap the two
# sources and their signs. (Where sources differ in kind a swap is noticed, too: exercise 2.) That is independent
# component analysis: $W$ is found up to the order, signs and lengths of its columns, if at most one source is Gaussian
# (Comon 1994).
#
# We check three things: that a turned decoder makes the same images from codes as likely, that $J$ is flat for Gaussian
# sources, and that for Laplace sources it is highest at quarter turns and clearly lower half way between.

# %%
generator = torch.Generator().manual_seed(3)
heavy = torch.distributions.Laplace(0.0, 0.5**0.5)  # of variance 1
laplace = heavy.icdf(torch.rand(2, 20000, generator=generator).clamp(1e-6, 1 - 1e-6))
gauss = torch.randn(2, 20000, generator=generator)
angles = torch.linspace(-90, 90, 61)


def turned(s, log_density):
    found = []
    for theta in torch.deg2rad(angles):
        spun = torch.stack([theta.cos() * s[0] - theta.sin() * s[1], theta.sin() * s[0] + theta.cos() * s[1]])
        found.append(log_density(spun).sum(0).mean())
    return torch.stack(found)


curve = turned(laplace, heavy.log_prob)
flat = turned(gauss, torch.distributions.Normal(0.0, 1.0).log_prob)
rotation, z = torch.linalg.qr(torch.randn(6, 6))[0], torch.randn(20, 6)
back = copy.deepcopy(plain.model.decoder)
back[0].weight.data = plain.model.decoder[0].weight.data @ rotation.T
assert torch.allclose(back(z @ rotation.T), plain.model.decoder(z), atol=1e-3)  # the same images ...
assert torch.allclose((z @ rotation.T).norm(dim=-1), z.norm(dim=-1), rtol=1e-4)  # ... at codes as likely
assert flat.max() - flat.min() < 1e-5  # to rounding: lengths do not turn
assert curve[30] > curve.max() - 1e-3 and curve[30] - curve[15] > 0.05  # 0 degrees against -45
assert torch.allclose(curve[[0, 60]], curve[30], atol=1e-5)  # quarter turns swap the axes

# %% [markdown]
# `ica_vae` is that model: a linear decoder, one learned noise, and a prior that is a learned mixture for each entry.
# With `components=1` the mixtures are $\mathcal{N}(0, 1)$, all else being equal. We mix three sources, and measure
# the *Amari distance* of the mixing matrices (0: same columns up to order, sign and length) and the mean correlation
# of codes with sources, matched.

# %%
n = 2000
sources = torch.stack([
    3**0.5 * (2 * torch.rand(n, generator=generator) - 1),
    heavy.icdf(torch.rand(n, generator=generator).clamp(1e-6, 1 - 1e-6)),
    0.95 * torch.randn(n, generator=generator).sign() + (1 - 0.95**2) ** 0.5 * torch.randn(n, generator=generator),
], 1)  # fmt: skip
mixing = torch.randn(5, 3, generator=generator)
mixtures = sources @ mixing.T + 0.1 * torch.randn(n, 5, generator=generator)
recovered = {}
for components in (3, 1):
    torch.manual_seed(1)
    ica = pv.ica_vae(data_dim=5, latent_dim=3, components=components)
    pv.fit(ica, mixtures, steps=steps(1500), lr=3e-2, progress=False)
    recovered[components] = (
        pv.aggregated(ica, mixtures).mean,
        amari_distance(ica.model.decoder.weight.detach(), mixing),
        pv.bound(ica, mixtures),
    )

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", width_ratios=[1.3, 1, 1])
axes[0].plot(angles, curve - curve[30], color=RED, lw=2, label="two Laplace sources")
axes[0].plot(angles, flat - flat[30], color=GREY, lw=2, label="two Gaussian sources")
axes[0].set_xticks([-90, -45, 0, 45, 90])
axes[0].set_xlabel("sources turned by (degrees)")
axes[0].set_ylabel("mean log density - that at 0 (nats)")
axes[0].set_ylim(-0.13, 0.06)
axes[0].set_title("A Gaussian holds no axis", loc="left", fontsize=11)
axes[0].legend(frameon=False, fontsize=10, loc="upper center")
names = {3: "mixtures as prior", 1: "N(0, I) as prior"}
for ax, (components, (code, amari, value)) in zip(axes[1:], recovered.items(), strict=True):
    pairs = matched(code, sources)
    column, of = pairs.found[1], pairs.true[1]
    ax.scatter(sources[:600, of], code[:600, column], s=5, color=RED if components == 3 else GREY)
    ax.set_title(f"{names[components]}: Amari {amari:.2f}", loc="left", fontsize=11)
    ax.set_xlabel(f"a true source\n(mean correlation {pairs.mean:.2f},\nbound {value:.2f} nats)")
    ax.set_ylabel("its code")
plt.show()

# %% [markdown]
# One set of sources, one seed. With six sources, or beside two Gaussian ones, the same variant gets stuck where
# FastICA does not ([From reconstruction to generation](../docs/generation.md)): the model is identifiable, and its
# training can still fail. Compare bounds from several seeds and keep the best.
#
# *Second way out*: say what an axis is to mean. A few labels will do, and that is the next section.

# %% [markdown] tags=["derivation"]
# ## 4. Labels that are there sometimes: M2
#
# **What does an image without a label teach a model with classes?**
#
# Make the class a random variable of its own (Kingma et al. 2014): $y \sim \mathrm{Cat}(1/10)$,
# $z \sim \mathcal{N}(0, I)$, $x \sim p(x \mid y, z)$. Where $y$ is known, the cost is that of section 1 with the
# price of the label,
#
# $$-\log p(x, y) \le \mathcal{L}(x, y) - \log p(y), \qquad
#   \mathcal{L}(x, y) = -\mathbb{E}_{q(z \mid x, y)} \log p(x \mid y, z)
#   + \mathrm{KL}[q(z \mid x, y) \,\|\, p(z)] .$$
#
# Where it is not, $y$ is latent like $z$, with the guide $q(y \mid x)\, q(z \mid x, y)$; $q(y \mid x)$ is a
# **classifier**. Take the expectation over $z$ first, then over $y$, which is a finite sum:
#
# $$-\log p(x) \le \mathcal{U}(x)
#   = \sum_{y} q(y \mid x) \Big[ \mathcal{L}(x, y) - \log p(y) + \log q(y \mid x) \Big] .$$
#
# The sum is done exactly. Why not draw $y$? A draw of a class has no derivative with respect to $q(y \mid x)$; the
# score-function estimator that replaces it is noisy. Ten terms cost little and are exact.
#
# Write $\mathcal{U}$ by hand: the guide draws one $z$ for *every* class. (The pair is still untrained; an identity
# holds at any parameters.)

# %%
torch.manual_seed(1)
half = pv.m2_vae(**size, latent_dim=6)
rows, nobody = test[:40], torch.zeros(40, 10)  # a row of zeros is "no label"
torch.manual_seed(2)
loss = half(rows, nobody)
torch.manual_seed(2)
noise = torch.randn(10, 40, 6)
q = half.guide.classifier(rows).softmax(-1)  # (40, 10)
classes = torch.eye(10)[:, None]  # (10, 1, 10): every class for every datum
m, s = half.guide.encoder(rows, classes)
z = m + s * noise
logits = half.model.decoder(torch.cat([z, classes.expand(10, 40, 10)], -1))
log_x = -binary_cross_entropy_with_logits(logits, rows.expand(10, -1, -1), reduction="none").sum(-1)
cost = -log_x + 0.5 * (s**2 + m**2 - 1 - 2 * s.log()).sum(-1)  # L(x, y), (10, 40)
unlabelled = (q * (cost.T + math.log(10) + q.log())).sum(-1)
assert torch.isclose(loss.total, unlabelled.mean(), rtol=1e-5)

known = one_hot(y_test[:40], 10).float()
torch.manual_seed(2)
sure = half(rows, known)
m, s = half.guide.encoder(rows, known)
kl = 0.5 * (s**2 + m**2 - 1 - 2 * s.log()).sum(-1).mean()
assert torch.isclose(sure.terms["z"], kl, rtol=1e-4) and sure.terms["y_unobserved"] == 0
assert math.isclose(sure.terms["y_observed"], math.log(10), rel_tol=1e-5)
print(f"-log p(x) at most {unlabelled.mean():.2f} nats without labels, of which KL[q(y | x) || p(y)] "
      f"{loss.terms['y_unobserved']:.2f}")  # fmt: skip

# %% [markdown]
# Look once more at the labelled cost: $q(y \mid x)$ does not occur in it. The bound alone never shows the classifier
# a label. So a term $-w \log q(y \mid x)$ is added for labelled data (`classifier_weight`); it is part of the
# objective, and of no bound.
#
# Does M2 help to classify? Compare it with *its own classifier, trained on the labels alone*, which few papers do.

# %%
found = {"M2": [], "its classifier alone": []}
counts = (30, 100, 300)
for count in counts:
    few = pv.few_labels(y_train, count)  # the others become -1: no label
    torch.manual_seed(1)
    half = pv.m2_vae(**size, latent_dim=6, classifier_weight=30.0)
    alone = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    pv.fit(half, train, few, steps=steps(600), lr=2e-3, progress=False)
    adam = torch.optim.Adam(alone.parameters(), lr=2e-3)
    for _ in range(steps(400)):
        adam.zero_grad()
        cross_entropy(alone(train[few >= 0]), few[few >= 0]).backward()
        adam.step()
    found["M2"].append((pv.classify(half, test).argmax(1) == y_test).float().mean().item())
    found["its classifier alone"].append((alone(test).argmax(1) == y_test).float().mean().item())
print("right on new digits, in %:", {name: [round(100 * v, 1) for v in shares] for name, shares in found.items()})

# %% [markdown] tags=["derivation"]
# ### A discriminator that classifies
#
# Another way to learn from images without labels (Shang et al. 2017, 4.5, after Denton et al. 2016): a network $D$
# with two heads. One tells images from an autoencoder's reconstructions, and so learns what images look like from
# *all* of them. The other, on the same trunk, names the class where a label is there. Here the class is **no** part
# of $p$ or $q$: the generator is trained as without labels, and labels reach only $D$. Its part of the loss is the
# mean over the labelled rows $K$ of the batch,
#
# $$-\frac{1}{\max(1, |K|)} \sum_{i \in K} \log D_c(y_i \mid x_i),$$
#
# zero if a batch has none. Which generator makes the best fakes to learn from? The paper compares a deterministic
# autoencoder, a VAE and a crVAE.

# %%
few = pv.few_labels(y_train, 100)
grey, grey_test = pv.load("digits").x[:1400], pv.load("digits").x[1400:]  # its pixels are Gaussian: no threshold
kind = {"data_dim": 64, "hidden": (4,), "filters": (16, 32), "rate": 3.0}
torch.manual_seed(1)
makers = [
    pv.ae_classifier(**kind, latent_dim=16),
    pv.vae_classifier(**kind, latent_dim=16),
    pv.crvae_classifier(**kind, latent_dim=64, blocks=4, units=16),
]
partial = torch.where(few[:50, None] >= 0, one_hot(few[:50].clamp(min=0), 10), 0).float()
for pair in makers:
    pair.eval()
    terms = pair(grey[:50], partial).terms
    log_c = pair.objective.network(grey[:50])[1].log_softmax(-1)
    by_hand_c = -log_c[few[:50] >= 0, few[:50][few[:50] >= 0]].mean()
    assert torch.isclose(terms["classifier"], by_hand_c, rtol=1e-5)
    assert pv.bound(pair, grey_test) == pv.bound(pair, grey_test, y_test)  # p and q do not read labels
    pair.train()
    pv.fit(pair, grey, few, steps=steps(150), batch_size=64, lr=1e-3, progress=False)

# %%
torch.manual_seed(1)
network = type(makers[0].objective.network)((1, 8, 8), (16, 32), 10)  # the same D, on labels alone
adam = torch.optim.Adam(network.parameters(), lr=3e-3)
for _ in range(steps(150)):
    adam.zero_grad()
    cross_entropy(network(grey[few >= 0])[1], few[few >= 0]).backward()
    adam.step()
share = {pair.name: (pv.classify(pair, grey_test).argmax(1) == y_test).float().mean().item() for pair in makers}
share["D on labels alone"] = (network(grey_test)[1].argmax(1) == y_test).float().mean().item()
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
for (name, values), colour in zip(found.items(), (RED, GREY), strict=True):
    axes[0].plot(range(3), [100 * v for v in values], "o-", color=colour, label=name)
axes[0].set_xticks(range(3), counts)
axes[0].set_xlabel("labels among 1,400 images")
axes[0].set_ylabel("right on new digits (%)")
axes[0].set_title("M2 and its own classifier (MLP)", loc="left", fontsize=11)
axes[0].legend(frameon=False, loc="lower right")
drawn = axes[1].barh(list(share), [100 * v for v in share.values()], color=[DARK, DARK, RED, GREY])
axes[1].bar_label(drawn, fmt="%.1f", padding=3)
axes[1].set_xlim(0, 115)
axes[1].invert_yaxis()
axes[1].set_xlabel("right on new digits (%), 100 labels, one training each")
axes[1].set_title("A discriminator that classifies, by its generator", loc="left", fontsize=11)
plt.show()

# %% [markdown]
# One training each on 397 test digits: a difference of three points is within what another draw of the labels makes.
# Read the figure for one question only: *is the network that saw labels alone really behind?* Here it is not: on the
# right it is ahead of all three. (Not quite like for like: it had all 100 labels at every step, the others the few that
# their batch of 64 held.) On larger images and
# over five draws neither M2 nor the GANs were clearly ahead of it ([From reconstruction to
# generation](../docs/generation.md), [Channel recurrence](../docs/channels.md)), and with an MLP M2 was behind. What
# M2 does give is a *generator* with a class, from few labels: section 1's table of styles, without a full set of
# labels.

# %% [markdown] tags=["derivation"]
# ## 5. Missing entries
#
# **What if it is not known in advance what will be given?**
#
# Write $m \in \{0, 1\}^d$ for which entries of $x$ are observed, and $x_{obs}$ for these entries. Entries are
# independent given the code, and each density integrates to one. So integrating out the missing ones just drops their
# factors:
#
# $$p(x_{obs}) = \int p(z) \prod_{j: m_j = 1} p(x_j \mid z)
#   \underbrace{\prod_{j: m_j = 0} \int p(x_j \mid z)\, \mathrm{d}x_j}_{= 1}\, \mathrm{d}z .$$
#
# With any guide, hence also with one that is shown $\tilde x$, the datum with a *fill* at its holes, Jensen gives the
# bound
#
# $$\log p(x_{obs}) \ge \mathbb{E}_{q(z \mid \tilde x)} \sum_{j: m_j = 1} \log p(x_j \mid z)
#   - \mathrm{KL}[q(z \mid \tilde x) \,\|\, p(z)],$$
#
# and that is what `pv.Masked(ELBO())` computes: NaN is missing, and `share` of the others is hidden on purpose in
# training, so that the guide learns to see holes. (All this takes for granted that holes do not depend on what they
# hide. If dark pixels are the ones that get lost, the model must say so, and this one does not.)
#
# We check the masked bound by hand, and the density that `pv.condition` makes a Pyro program of.

# %%
torch.manual_seed(1)
holed = pv.vae(**size, latent_dim=6, activation="relu")
holed.objective = pv.Masked(pv.ELBO(), 0.5)
pv.fit(holed, train, **plan)

gone = torch.rand(60, 64, generator=torch.Generator().manual_seed(5)) < 0.5
holes = test[:60].masked_fill(gone, torch.nan)
# Nothing more is hidden than what is missing.
measured = pv.Pair(holed.model, holed.guide, pv.Masked(pv.ELBO(), lambda x: ~x.isnan()))
torch.manual_seed(2)
loss = measured(holes)
torch.manual_seed(2)
z = holed.guide(holes.nan_to_num(0.0))
m, s = holed.guide.encoder(holes.nan_to_num(0.0))
each = -binary_cross_entropy_with_logits(holed.model.decoder(z), test[:60], reduction="none")  # (60, 64)
kl = 0.5 * (s**2 + m**2 - 1 - 2 * s.log()).sum(-1)
assert torch.isclose(loss.bound, (each.masked_fill(gone, 0.0).sum(-1) - kl).mean(), rtol=1e-4)

program = pv.condition(holed, holes)
there = poutine.trace(poutine.condition(program, {"z": z})).get_trace().log_prob_sum()
log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
assert torch.isclose(there, log_prior + each.masked_fill(gone, 0.0).sum(), rtol=1e-4)
print(f"bound on the observed half: {loss.bound:.2f} nats per digit")

# %% [markdown]
# Filling in is Bayes' rule once more,
# $p(x_{mis} \mid x_{obs}) = \int p(x_{mis} \mid z)\, p(z \mid x_{obs})\, \mathrm{d}z$. `pv.impute` draws codes and
# weighs them by the *observed* entries, so that it is right even if the guide is poor; k-hat says where the weights
# fail (above 0.7). Compare four ways of guessing the hidden pixels by what the truth costs under the guess, in nats
# per hidden pixel.


# %%
def price(guess):
    chance = guess.clamp(1e-3, 1 - 1e-3)
    log_chance = torch.where(test[:60] > 0.5, chance, 1 - chance).log()
    return -log_chance[gone].mean().item()


with torch.no_grad():
    once = {name: pair.model.decoder(pair.guide.encoder(holes.nan_to_num(0.0))[0]).sigmoid()
            for name, pair in (("vae", plain), ("masked", holed))}  # fmt: skip
by_plain = pv.impute(plain, holes, samples=400, draws=3)
by_holed = pv.impute(holed, holes, samples=400, draws=3)
prices = {
    "mean digit": price(train.mean(0).expand(60, -1)),
    "vae, guide once": price(once["vae"]),
    "masked, guide once": price(once["masked"]),
    "vae, impute": price(by_plain.mean),
    "masked, impute": price(by_holed.mean),
}
figure, ax = plt.subplots(figsize=(7.5, 3), layout="constrained")
drawn = ax.barh(list(prices), list(prices.values()), color=[GREY, GREY, YELLOW, RED, RED])
ax.bar_label(drawn, fmt="%.3f", padding=3)
ax.margins(x=0.12)
ax.invert_yaxis()
ax.set_xlabel("price of the truth (nats per hidden pixel, less is better)")
ax.set_title("Half of all pixels hidden: ask the posterior, not the encoder", loc="left", fontsize=11)
plt.show()
above = [int((filled.khat > 0.7).sum()) for filled in (by_plain, by_holed)]
print(f"k-hat is above 0.7 for {above[0]} of 60 digits by the vae, for {above[1]} by the masked one")

# %%
shown = torch.where(gone, torch.tensor(0.35), test[:60])
columns = [test[:60], shown, once["vae"].where(gone, test[:60]), by_plain.mean, *by_plain.draws, 2 * by_plain.sd]
names = ["truth", "seen", "encoder\nonce", "impute", "draw 1", "draw 2", "draw 3", "2 x sd"]
show(torch.stack(columns, 1)[[1, 4, 8, 12]], "Holes filled by the plain vae, which never saw one", columns=names)

# %% [markdown]
# Two lessons. The encoder of a plain `vae` takes a hole, which is filled with 0, for a pixel that it has seen black,
# and is surer than it may be; asked *with* the posterior, the same pair fills best of all. And training with holes
# helps the guide, which then guesses better by itself, at the price of a decoder that has learned from half of the
# pixels. Where k-hat is above 0.7 do not trust the draws, and take `method="metropolis"` or `"nuts"`.

# %% [markdown] tags=["exercise"]
# ## Exercises
#
# **1. A guide that looks at $y$ only.** For structured output one may take $q(z \mid x, y) = p(z \mid y)$, the
# model's own prior network (`FromCondition` in `pyro_vaes.guides.conditional`). *Derive* what the bound becomes and
# which term vanishes. Will it be above or below the bound of the trained guide, for the trained model? Then test
# both.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# The KL is exactly 0; what stays is E_p(z|y) log p(x | z, y), a bound that is loose because codes are drawn blindly.
blind = pv.Pair(rest.model, FromCondition(rest.model.prior), pv.ELBO(), condition_dim=16)
assert blind(x_rest, y_rest).terms["z"].abs() < 1e-5
print(f"guide of x and y: {pv.bound(rest, held_x, held_y):.2f}, of y alone: {pv.bound(blind, held_x, held_y):.2f} nats")
if not SMOKE:
    assert pv.bound(blind, held_x, held_y) < pv.bound(rest, held_x, held_y)

# %% [markdown] tags=["exercise"]
# **2. One Gaussian source.** Draw $J(\theta)$ of section 3 for one Laplace and one Gaussian source, scored with that
# prior in that order. *Predict* first: is it flat? Is a half turn as good as none? A quarter turn? What does that say
# about "at most one Gaussian"?

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# Not flat: the Laplace source holds its axis, and the Gaussian one has to take the other. A half turn changes signs
# only. A quarter turn swaps the two, and the prior has them in one order, so that it is worse here.
both = torch.stack([laplace[0], gauss[0]])


def mixed(s):
    return torch.stack([heavy.log_prob(s[0]), torch.distributions.Normal(0.0, 1.0).log_prob(s[1])])


one_gaussian = turned(both, mixed)
assert one_gaussian[30] > one_gaussian.max() - 1e-3 and one_gaussian[30] - one_gaussian[15] > 0.02
assert one_gaussian[30] - one_gaussian[0] > 0.02
assert torch.allclose(mixed(-both).mean(), mixed(both).mean(), atol=1e-5)  # a half turn

# %% [markdown] tags=["exercise"]
# **3. M2 with all labels.** Give `half` the label of *every* datum. *Derive* which terms of its loss are left, and
# show that without `classifier_weight` it is the loss of a CVAE plus $\log 10$. Test it by putting M2's networks in
# place of a CVAE's: the bound of the one must be the bound of the other, less $\log 10$.

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# y_unobserved is masked everywhere, so U(x) never enters: L(x, y) - log p(y) is left.
same = pv.cvae(**size, classes=10, latent_dim=6)
same.model.decoder.load_state_dict(half.model.decoder.state_dict())


class Beside(torch.nn.Module):
    """M2's encoder, called as a CVAE calls its own: with x and y side by side."""

    def forward(self, both):
        return half.guide.encoder(both[..., :64], both[..., 64:])


same.guide.encoder = Beside()
half.eval()
x_60, y_60 = test[:60], one_hot(y_test[:60], 10).float()
values = []
for pair in (half, same):
    # Many draws: M2 draws a code for every class, so that the noise is not the same.
    torch.manual_seed(3)
    values.append(torch.stack([pair(x_60, y_60).bound for _ in range(40)]).mean().item())
print(f"M2 {values[0]:.2f}, CVAE {values[1]:.2f} nats per digit; difference {values[1] - values[0]:.2f}, "
      f"log 10 = {math.log(10):.2f}")  # fmt: skip
assert math.isclose(values[1] - values[0], math.log(10), abs_tol=0.15)

# %% [markdown] tags=["exercise"]
# **4. One model, any question.** `structured_cvae` answers one question: the rest, given the bottom left. The plain
# `vae` was never trained for it, and `pv.impute` can answer it all the same. Compare the two by what the hidden
# pixels of the true digit cost, pixel by pixel. What do you expect, and why is this price unfair to both?

# %% tags=["solution", "hide-cell"] jupyter={"source_hidden": true}
# Nearly the same price: both average over codes given what is seen. A price pixel by pixel cannot see that draws of
# either hang together, which is what a code is for; log p(x | y) of section 2 does.
mask = torch.zeros(64).index_fill(0, parts.observed, 1)
asked = pv.impute(plain, test[:60], mask, samples=400)
draws = torch.stack([pv.sample(rest, 60, y=held_y[:60], seed=k) for k in range(50)]).mean(0)


def quadrant_price(guess):
    chance, truth = guess.clamp(1e-3, 1 - 1e-3), held_x[:60]
    return -torch.where(truth > 0.5, chance, 1 - chance).log().mean().item()


costs = {
    "structured_cvae": quadrant_price(draws),
    "vae, impute": quadrant_price(asked.mean[:, parts.missing]),
    "no code": quadrant_price(direct.model.decoder(held_y[:60]).sigmoid().detach()),
    "mean digit": quadrant_price(parts.x[:1400].mean(0).expand(60, -1)),
}
print({name: round(value, 3) for name, value in costs.items()}, "nats per hidden pixel")
if not SMOKE:
    assert max(costs["structured_cvae"], costs["vae, impute"]) < costs["mean digit"]

# %% [markdown]
# ## What to remember
#
# - A conditional bound is the plain one with every density given $y$. It bounds $\log p(x \mid y)$, which no
#   unconditional number may stand beside.
# - There are two kinds. In `cvae` the code is independent of the condition and keeps what the condition leaves open.
#   In `structured_cvae` the condition moves the prior of the code.
# - Without anything given, a code has no meaning that data could fix. A non-Gaussian prior with a linear decoder, or
#   labels, fix it.
# - A label that is missing is a latent site, and a finite sum is better than a draw. Ask of every semi-supervised
#   method what its classifier does alone.
# - Missing entries drop out of the likelihood. Train with `Masked`, fill with `impute`, and look at k-hat.
#
# ## Where to go on
#
# `07-channels.ipynb` completes images with codes in blocks, `09-posterior.ipynb` asks what the guide missed,
# `02-likelihood.ipynb` what a bound is worth as a number. Pages: [An honest likelihood](../docs/likelihoods.md)
# (quadrants of MNIST), [From reconstruction to generation](../docs/generation.md) (few labels, identifiability), [Did
# it work?](../docs/analysis.md) (missing data).
#
# **Sources.** Sohn, Lee & Yan (2015), structured output. Kingma, Rezende, Mohamed & Welling (2014), M2. The tutorial
# slides, part V: identifiability with four images, conditional VAEs. The course report, 4.2.3 and Eq. 3. Comon (1994)
# and Hyvärinen, Karhunen & Oja (2001), independent components. Locatello et al. (2019), disentanglement. Denton,
# Gross & Fergus (2016) and Shang, Sohn, Akata & Tian (2017), 4.5. Nazabal et al. (2020) and Mattei & Frellsen (2018,
# 2019), missing data.
