"""Every variant's loss against a formula written by hand from the papers, under the same noise.

Nothing here calls a network, a distribution or an objective of the library: the hand versions read the parameters
by name and do their own arithmetic. Every function of the hand side gives nats per datum, by site, as (B,) tensors.
"""

import math

import pytest
import torch
from torch.nn.functional import softplus

import pyro_vaes as pv
from pyro_vaes.inference.objective import ELBO
from pyro_vaes.variants import VARIANTS

torch.set_num_threads(1)
D, K, HIDDEN, B = 5, 3, (6, 4), 7
LOG_2PI = math.log(2 * math.pi)
SIGMOID, IDENTITY = torch.sigmoid, lambda a: a


# --- the hand side ----------------------------------------------------------------------------------------------


def net(p, prefix, a, activation=torch.relu, output=IDENTITY):
    """Apply the linear layers below a prefix, in the order in which they were made."""
    weights = [v for n, v in p.items() if n.startswith(prefix) and n.endswith("weight")]
    biases = [v for n, v in p.items() if n.startswith(prefix) and n.endswith("bias")]
    assert weights, f"no layers below {prefix}: {list(p)}"
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        a = a @ w.T + b
        a = output(a) if i == len(weights) - 1 else activation(a)
    return a


def encode(p, x, activation=torch.relu):
    h = net(p, "guide.encoder.trunk", x, activation, activation)
    return net(p, "guide.encoder.loc", h), softplus(net(p, "guide.encoder.raw_scale", h)) + 1e-5


def draw(p, x, activation=torch.relu):
    """A code by the reparameterisation trick, and KL[q(z | x) || N(0, I)] from Eq. 4 of Wang et al."""
    loc, scale = encode(p, x, activation)
    z = loc + scale * torch.randn_like(loc)
    var = scale**2
    return z, 0.5 * (var.sum(-1) + (loc**2).sum(-1) - torch.log(var).sum(-1) - loc.shape[-1])


def decode(p, z, activation=torch.relu, output=SIGMOID):
    return net(p, "model.decoder", z, activation, output)


def gauss(x, mu, sigma):
    """-log N(x; mu, diag sigma^2), entries summed."""
    return (0.5 * LOG_2PI + torch.log(sigma) + (x - mu) ** 2 / (2 * sigma**2)).sum(-1)


def log_residual(x, mu, eps, width):
    """sum_j log|x_j - mu_j| with its floor, and the log-normaliser of 1/sqrt(s^2 + eps^2) on |s| <= width."""
    a = width / eps
    mass = 2 * torch.log(a + torch.sqrt(a**2 + 1)) if math.isfinite(width) else torch.ones_like(eps)
    return (0.5 * torch.log((x - mu) ** 2 + eps**2) + torch.log(mass)).sum(-1)


def floor_of(p, kw, name="floor", minimum=1e-3):
    if kw.get(name) is not None:
        return torch.full((D,), kw[name], dtype=torch.float64)
    log_excess = p[f"model.{name}.log_excess"]
    assert log_excess.shape == (D,), "one per entry"
    return minimum + torch.exp(log_excess)


PROFILED = D * (1 + LOG_2PI) / 2  # -log N at its own best variance, beyond log sigma: Eq. 6 with Eq. 7 put in


def hand_vae(p, x, **kw):
    z, kl = draw(p, x, torch.tanh)
    logits = decode(p, z, torch.tanh, IDENTITY)
    prob = torch.sigmoid(logits)
    return {"z": kl, "x": -(x * torch.log(prob) + (1 - x) * torch.log(1 - prob)).sum(-1)}


def hand_gaussian_vae(p, x, minimum=1e-2, **kw):
    z, kl = draw(p, x, torch.tanh)
    sigma = softplus(net(p, "model.scale.net", z, torch.tanh)) + minimum
    return {"z": kl, "x": gauss(x, decode(p, z, torch.tanh), sigma)}


def hand_l2_vae(p, x, **kw):
    z, kl = draw(p, x)
    return {"z": kl, "x": 0.5 * ((x - decode(p, z)) ** 2).sum(-1) + D * LOG_2PI / 2}


def hand_gamma_vae(p, x, **kw):
    z, kl = draw(p, x)
    gamma = (1e-3 + torch.exp(p["model.scale.log_excess"])) ** 2
    square = ((x - decode(p, z)) ** 2).sum(-1)
    return {"z": kl, "x": square / (2 * gamma) + D / 2 * torch.log(2 * math.pi * gamma)}


def hand_lc_vae(p, x, minimum=1e-2, **kw):
    z, kl = draw(p, x)
    sigma = softplus(net(p, "model.scale.net", z)) + minimum
    return {"z": kl, "x": gauss(x, decode(p, z), sigma)}


def hand_ic_vae(p, x, width=1.0, **kw):
    """Eq. 20: KL + E sum_j log|x_j - mu_j|; q(s) and p(x | z, s) cancel, Eq. 17."""
    z, kl = draw(p, x)
    return {"z": kl, "s+x": log_residual(x, decode(p, z), floor_of(p, kw), width)}


def hand_indexed_ic_vae(p, x, width=1.0, **kw):
    """Eq. 8 on the scale of the ELBO, with its constants."""
    z, kl = draw(p, x)
    return {"z": kl, "x+sigma": log_residual(x, decode(p, z), floor_of(p, kw), width) + PROFILED}


def hand_affine_ic_vae(p, x, width=1.0, **kw):
    z, kl = draw(p, x)
    mu = z @ p["model.decoder.weight"].T + p["model.decoder.bias"]
    return {"z": kl, "s+x": log_residual(x, mu, floor_of(p, kw), width)}


def hand_t_vae(p, x, **kw):
    """log p(x | z) is Student's t; the weights are integrated out."""
    z, kl = draw(p, x)
    s = floor_of(p, {}, "scale")
    nu = 1e-2 + torch.exp(p["model.dof.log_excess"])
    log_c = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * torch.log(nu * math.pi) - torch.log(s)
    u = ((x - decode(p, z)) / s) ** 2
    return {"z": kl, "w+x": (-log_c + (nu + 1) / 2 * torch.log(1 + u / nu)).sum(-1)}


def hand_datum_t_vae(p, x, **kw):
    """log p(x | z) is the multivariate t with spread s^2 I; the one weight of a datum is integrated out."""
    z, kl = draw(p, x)
    s = 1e-3 + torch.exp(p["model.scale.log_excess"])
    assert s.shape == (1,), "one for all entries"
    nu, d = 1e-2 + torch.exp(p["model.dof.log_excess"]), x.shape[-1]
    log_c = torch.lgamma((nu + d) / 2) - torch.lgamma(nu / 2) - d / 2 * torch.log(nu * math.pi) - d * torch.log(s)
    u = (((x - decode(p, z)) / s) ** 2).sum(-1)
    return {"z": kl, "w+x": -log_c + (nu + d) / 2 * torch.log(1 + u / nu)}


def hand_rvae(p, x, alpha=0.95, broad=2.0, minimum=0.22, **kw):
    """log p(x | z) is a mixture of two Gaussians per entry; which one it was is summed out."""
    z, kl = draw(p, x)
    alpha = torch.tensor(alpha).item()  # 0.95, as the variant's buffer of single precision holds it
    sigma = minimum + torch.exp(p["model.scale.log_excess"])
    clean = alpha * torch.exp(-((x - decode(p, z, output=IDENTITY)) ** 2) / (2 * sigma**2)) / sigma
    dirt = (1 - alpha) * torch.exp(-(x**2) / (2 * broad**2)) / broad
    return {"z": kl, "w+x": -(torch.log(clean + dirt) - LOG_2PI / 2).sum(-1)}


def recycle(x, moments, passes, one_pass, cut=True):
    """Eq. 22: the same loss on X_1, ..., X_N; x_{k+1} ~ N(mu(z_k), Sigma(z_k)) with the z_k of the loss."""
    total = 0.0
    for k in range(passes):
        terms, z = one_pass(x)
        total = total + sum(terms.values())
        if k + 1 < passes:
            mu, sigma = moments(x, z)
            x = mu + sigma * torch.randn_like(x)
            x = x.detach() if cut else x
    return {"all": total}


def hand_ric_vae(p, x, passes=2, recycle_grad=False, beta=None, **kw):
    """The KL term counts once in all by default; with beta = 1 it counts in every pass, as in Eq. 22."""
    eps = floor_of(p, kw)
    weight = 1 / passes if beta is None else beta

    def one(x):
        z, kl = draw(p, x)
        return {"z": weight * kl, "x": log_residual(x, decode(p, z), eps, 1.0) + PROFILED}, z

    def moments(x, z):
        mu = decode(p, z)
        return mu, torch.sqrt((x - mu) ** 2 + eps**2)  # Eq. 7

    return recycle(x, moments, passes, one, not recycle_grad)


def hand_r_l2_vae(p, x, passes=2, recycle_grad=False, **kw):
    def one(x):
        z, kl = draw(p, x)
        return {"z": kl, "x": gauss(x, decode(p, z), torch.ones_like(x))}, z

    return recycle(x, lambda x, z: (decode(p, z), torch.ones_like(x)), passes, one, not recycle_grad)


def hand_rlc_vae(p, x, passes=2, recycle_grad=False, **kw):
    def sigma(z):
        return softplus(net(p, "model.scale.net", z)) + 1e-2

    def one(x):
        z, kl = draw(p, x)
        return {"z": kl, "x": gauss(x, decode(p, z), sigma(z))}, z

    return recycle(x, lambda x, z: (decode(p, z), sigma(z)), passes, one, not recycle_grad)


def log_bernoulli(x, logits):
    prob = torch.sigmoid(logits)
    return (x * torch.log(prob) + (1 - x) * torch.log(1 - prob)).sum(-1)


def beside(a, y):
    """Vector and condition side by side; the condition of a datum is that of all its codes."""
    return torch.cat([a, y + 0 * a[..., :1]], -1)


def hand_cvae(p, x, y, **kw):
    """S4 4.2.3: the label beside the pixels and beside the code, whose prior knows nothing of it."""
    z, kl = draw(p, beside(x, y))
    return {"z": kl, "x": -log_bernoulli(x, decode(p, beside(z, y), output=IDENTITY))}


def hand_structured_cvae(p, x, y, **kw):
    """S4 Eq. 3, with x for what is predicted: -KL[q(z | x, y) || p(z | y)] + E log p(x | y, z)."""
    loc, scale = encode(p, beside(x, y))
    h = net(p, "model.prior.trunk", y, output=torch.relu)
    m, s = net(p, "model.prior.loc", h), softplus(net(p, "model.prior.raw_scale", h)) + 1e-5
    z = loc + scale * torch.randn_like(loc)
    kl = (torch.log(s / scale) + (scale**2 + (loc - m) ** 2) / (2 * s**2) - 0.5).sum(-1)
    return {"z": kl, "x": -log_bernoulli(x, decode(p, beside(z, y), output=IDENTITY))}


def hand_autoencoder(p, x, **kw):
    z = net(p, "guide.encoder", x)
    return {"x": 0.5 * ((x - decode(p, z)) ** 2).sum(-1) + D * LOG_2PI / 2}


def hand_induced_ae(p, x, l1=0.0, **kw):
    z = net(p, "guide.encoder", x)
    terms = {"x+sigma": log_residual(x, decode(p, z), floor_of(p, kw), 1.0) + PROFILED}
    if l1:
        terms["z"] = l1 * z.abs().sum(-1) + K * math.log(2 / l1)
    return terms


HAND = {name.removeprefix("hand_"): f for name, f in list(globals().items()) if name.startswith("hand_")}


# --- fixtures of a sort -----------------------------------------------------------------------------------------


def batch(name="", rows=B, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, D, generator=g, dtype=torch.float64)
    return x.round() if name in ("vae", *CONDITIONS) else x


CONDITIONS = {"cvae": 10, "structured_cvae": 10}


def condition(name, rows=B):
    """The condition of a batch: labels for one, numbers for the other; None for a variant that takes none."""
    labels = torch.eye(10, dtype=torch.float64)[torch.arange(rows) % 10]
    numbers = torch.linspace(-1, 1, rows * 10, dtype=torch.float64).reshape(rows, 10)
    return {"cvae": labels, "structured_cvae": numbers}.get(name)


def build(name, seed=0, **kw):
    """A pair in float64 whose parameters are all different, those that start equal included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pair = VARIANTS[name](data_dim=D, latent_dim=K, hidden=HIDDEN, **kw).double()
        with torch.no_grad():
            for p in pair.parameters():
                p += 0.2 * torch.randn_like(p)
    return pair


def by_hand(name, pair, x, **kw):
    """(B,) losses by site; draws in the order in which the guide draws."""
    y = condition(name, x.shape[-2])
    kw = kw if y is None else {**kw, "y": y}
    return HAND[name](dict(pair.named_parameters()), x, **kw)


def total_of(terms):
    return sum(terms.values()).mean()


def gradients(total, pair):
    grads = torch.autograd.grad(total, list(pair.parameters()), allow_unused=True)
    return {n: g for (n, _), g in zip(pair.named_parameters(), grads, strict=True)}


def same_gradients(a, b, rtol=1e-9, atol=1e-11):
    assert a.keys() == b.keys()
    for name in a:
        left, right = a[name], b[name]
        if left is None or right is None:
            other = right if left is None else left
            assert other is None or other.abs().max() <= atol, name
            continue
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


INF = math.inf
OPTIONS = {
    "gaussian_vae": [{"minimum": 0.25}],
    "lc_vae": [{"minimum": 0.25}],
    "ic_vae": [{"floor": 0.125}, {"width": 4.0}],
    "indexed_ic_vae": [{"floor": 0.125}, {"width": 4.0}, {"floor": 0.0625, "width": INF}],
    "affine_ic_vae": [{"floor": 0.125, "width": 8.0}],
    "rvae": [{"alpha": 0.75, "broad": 4.0, "minimum": 0.125}],
    "ric_vae": [
        {"passes": 1},
        {"passes": 3},
        {"floor": 0.125},
        {"recycle_grad": True},
        {"test_passes": 5},
        {"beta": 1.0},
    ],
    "r_l2_vae": [{"passes": 1}, {"passes": 3}, {"recycle_grad": True}],
    "rlc_vae": [{"passes": 1}, {"passes": 3}, {"recycle_grad": True}],
    "induced_ae": [{"l1": 0.5}, {"floor": 0.125, "l1": 2.0}],
}
CASES = [pytest.param(n, {}, id=n) for n in VARIANTS] + [
    pytest.param(n, kw, id=f"{n}-{'-'.join(f'{k}={v}' for k, v in kw.items())}")
    for n, options in OPTIONS.items()
    for kw in options
]
NOT_RECYCLED = [n for n in VARIANTS if n not in ("ric_vae", "r_l2_vae", "rlc_vae")]
# beta is an argument of these; autoencoders have none, and affine_ic_vae and the recurrent ones fix it at 1.
WITH_BETA = [
    "vae", "gaussian_vae", "l2_vae", "gamma_vae", "lc_vae", "ic_vae", "indexed_ic_vae", "t_vae", "datum_t_vae", "rvae",
    "cvae", "structured_cvae",
]  # fmt: skip


# --- the tests --------------------------------------------------------------------------------------------------


def test_every_variant_has_a_hand_formula():
    assert set(HAND) == set(VARIANTS)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "affine_ic_vae"])
def test_networks_have_the_widths_that_were_asked_for(name):
    """The decoder's are the encoder's from back to front."""
    shapes = [tuple(p.shape) for n, p in build(name).named_parameters() if n.endswith("weight")]
    c = CONDITIONS.get(name, 0)
    decoder, encoder = [(4, K + c), (6, 4), (D, 6)], [(6, D + c), (4, 6), (K, 4)]
    heads = 1 if name in ("autoencoder", "induced_ae") else 2
    scale = decoder if name in ("gaussian_vae", "lc_vae", "rlc_vae") else []
    prior = [(6, c), (4, 6), (K, 4), (K, 4)] if name == "structured_cvae" else []
    assert shapes == prior + decoder + scale + encoder + encoder[-1:] * (heads - 1)


@pytest.mark.parametrize(("name", "kw"), CASES)
def test_loss_and_gradient_are_those_of_the_hand_formula(name, kw):
    pair, x = build(name, **kw), batch(name)
    torch.manual_seed(3)
    loss = pair(x, condition(name))
    torch.manual_seed(3)
    terms = by_hand(name, pair, x, **kw)
    total = total_of(terms)
    torch.testing.assert_close(loss.total, total, rtol=1e-10, atol=1e-10)
    same_gradients(gradients(loss.total, pair), gradients(total, pair))
    for sites, value in terms.items():  # "s+x" are two sites of the library that mean something together only
        if sites != "all":
            theirs = sum(loss.terms[site] for site in sites.split("+"))
            torch.testing.assert_close(theirs, value.mean(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["ic_vae", "indexed_ic_vae", "affine_ic_vae"])
def test_the_improper_prior_of_the_source_can_be_trained_on(name):
    """width = inf drops the normaliser: the loss is Eq. 20 to the letter."""
    kw = {"floor": 0.0625, "width": INF}
    pair, x = build(name, **kw), batch(name)
    torch.manual_seed(3)
    loss = pair(x, condition(name))
    torch.manual_seed(3)
    total = total_of(by_hand(name, pair, x, **kw))
    torch.testing.assert_close(loss.total, total, rtol=1e-10, atol=1e-10)
    same_gradients(gradients(loss.total, pair), gradients(total, pair))


@pytest.mark.parametrize(("name", "kw"), CASES)
def test_terms_sum_to_the_total(name, kw):
    loss = build(name, **kw)(batch(name), condition(name), size=50)
    torch.testing.assert_close(sum(loss.terms.values()), loss.total)
    assert loss.total.dim() == 0 and loss.bound.dim() == 0 and not loss.bound.requires_grad


@pytest.mark.parametrize(("name", "kw"), CASES)
def test_size_scales_the_batch_to_the_set_and_back(name, kw):
    """Without a global site, nats per datum do not depend on the size of the set."""
    pair, x = build(name, **kw), batch(name)
    losses = []
    for size in (None, B, 1000):
        torch.manual_seed(4)
        losses.append(pair(x, condition(name), size=size))
    for other in losses[1:]:
        torch.testing.assert_close(other.total, losses[0].total, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(other.bound, losses[0].bound, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in ("autoencoder", "induced_ae")])
def test_the_bound_is_minus_the_loss_of_the_first_pass(name):
    """beta = 1: the loss is the bound; of recycled losses, the one on the data themselves."""
    pair, x = build(name), batch(name)
    kw = {} if name in NOT_RECYCLED else {"passes": 1}
    torch.manual_seed(5)
    loss = pair(x, condition(name))
    torch.manual_seed(5)
    torch.testing.assert_close(loss.bound, -total_of(by_hand(name, pair, x, **kw)).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("name", WITH_BETA)
def test_beta_weighs_the_divergence_of_the_code(name, beta):
    pair, x = build(name, beta=beta), batch(name)
    torch.manual_seed(6)
    loss = pair(x, condition(name))
    torch.manual_seed(6)
    terms = by_hand(name, pair, x)
    total = sum(beta * v.mean() if site == "z" else v.mean() for site, v in terms.items())
    torch.testing.assert_close(loss.total, total, rtol=1e-10, atol=1e-10)
    same_gradients(gradients(loss.total, pair), gradients(total, pair))


@pytest.mark.parametrize("name", WITH_BETA)
def test_bound_does_not_know_beta(name):
    bounds, totals = [], []
    for beta in (0.0, 1.0, 4.0):
        torch.manual_seed(7)
        loss = build(name, beta=beta)(batch(name), condition(name))
        bounds.append(loss.bound)
        totals.append(loss.total.detach())
    torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bounds[2], bounds[1], rtol=1e-10, atol=1e-10)
    assert not torch.isclose(totals[0], totals[1]) and not torch.isclose(totals[2], totals[1])
    torch.testing.assert_close(totals[1], -bounds[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["vae", "l2_vae", "gamma_vae", "indexed_ic_vae"])
def test_beta_zero_switches_the_divergence_off(name):
    loss = build(name, beta=0.0)(batch(name))
    assert loss.terms["z"].item() == 0.0
    assert loss.bound < -loss.total - 1e-3  # the bound still pays for it


@pytest.mark.parametrize("name", ["autoencoder", "induced_ae"])
def test_bound_of_an_autoencoder_still_has_the_prior(name):
    """The loss has beta = 0; the joint log-density at the code is what is shown."""
    pair, x = build(name), batch(name)
    p = dict(pair.named_parameters())
    z = net(p, "guide.encoder", x)
    prior = (0.5 * z**2).sum(-1) + K * LOG_2PI / 2
    loss = pair(x, condition(name))
    torch.testing.assert_close(loss.bound, -(loss.total + prior.mean()).detach(), rtol=1e-10, atol=1e-10)


def test_beta_of_one_site_alone():
    x = batch()
    pair = build("ic_vae")
    losses = {}
    for key, beta in {"one": 1.0, "z": {"z": 3.0}}.items():
        torch.manual_seed(8)
        losses[key] = ELBO(beta)(pair.model, pair.guide, x)
    torch.manual_seed(8)
    kl = by_hand("ic_vae", pair, x)["z"].mean()
    torch.testing.assert_close(losses["z"].total - losses["one"].total, 2 * kl, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("particles", [2, 5])
@pytest.mark.parametrize("name", NOT_RECYCLED)
def test_particles_are_averaged(name, particles):
    """L draws per datum are L times the batch, each with noise of its own."""
    pair, x = build(name), batch(name)
    objective = pair.objective
    objective.particles = particles
    torch.manual_seed(9)
    loss = objective(pair.model, pair.guide, x, condition(name), size=70)
    torch.manual_seed(9)
    terms = by_hand(name, pair, x.expand(particles, B, D))
    assert name in ("autoencoder", "induced_ae") or terms["z"].shape == (particles, B)
    total = total_of(terms)
    torch.testing.assert_close(loss.total, total, rtol=1e-10, atol=1e-10)
    same_gradients(gradients(loss.total, pair), gradients(total, pair))


def test_eq_4_is_the_library_s_divergence_and_can_be_sampled():
    """The sampled KL is log q - log p at the very code, the analytic one its mean."""
    pair, x = build("l2_vae"), batch(rows=1).expand(40_000, D)
    torch.manual_seed(10)
    sampled = ELBO(sampled=["z"])(pair.model, pair.guide, x).terms["z"]
    torch.manual_seed(10)
    p = dict(pair.named_parameters())
    loc, scale = encode(p, x)
    z, kl = draw(p, x)
    pointwise = gauss(z, torch.zeros_like(z), torch.ones_like(z)) - gauss(z, loc, scale)
    torch.testing.assert_close(sampled, pointwise.mean(), rtol=1e-9, atol=1e-9)
    assert abs(sampled - kl[0]) < 5 * pointwise.std() / math.sqrt(len(x))
    assert pointwise.std() > 0.1


@pytest.mark.parametrize("name", ["ic_vae", "indexed_ic_vae"])
def test_eq_8_is_twice_eq_20(name):
    """Q5: as printed, Eq. 8 is twice Eq. 20; the difference is a constant, k. The library is on the scale of Eq. 20."""
    floor = 2.0**-30
    pair = build(name, floor=floor)
    constant = D * math.log(2 * math.asinh(1 / floor)) + (PROFILED if name == "indexed_ic_vae" else 0.0)
    p = dict(pair.named_parameters())
    for row in batch():
        x = row[None]
        torch.manual_seed(11)
        loss = pair(x, condition(name)).total
        torch.manual_seed(11)
        loc, scale = encode(p, x)
        z = loc + scale * torch.randn_like(loc)
        trace, log_det = (scale**2).sum(), torch.log(scale**2).sum()
        eq_8 = trace - log_det + (loc**2).sum() + 2 * torch.log((x - decode(p, z)).abs()).sum()
        torch.testing.assert_close(2 * (loss - constant), eq_8 - K, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", [{"exact": ["nope"]}, {"beta": {"zz": 5.0}}])
def test_sites_that_do_not_exist_are_named(objective):
    pair, other = build("l2_vae"), batch()
    with pytest.raises(pv.InputError, match="which the guide does not sample"):
        pv.ELBO(**objective)(pair.model, pair.guide, other)
