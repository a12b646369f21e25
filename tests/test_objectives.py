"""Every variant's loss against a formula written by hand from the papers, under the same noise.

Nothing here calls a network, a distribution or an objective of the library: the hand versions read the parameters
by name and do their own arithmetic. Every function of the hand side gives nats per datum, by site, as (B,) tensors.
"""

import math

import pytest
import torch
from small import BINARY, IMPORTANCE, sizes
from torch.nn.functional import fold, leaky_relu, softplus, unfold

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


def encode(p, x, activation=torch.relu, prefix="guide.encoder"):
    h = net(p, f"{prefix}.trunk", x, activation, activation)
    return net(p, f"{prefix}.loc", h), softplus(net(p, f"{prefix}.raw_scale", h)) + 1e-5


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


def cross_entropy(x, logits):
    prob = torch.sigmoid(logits)
    return -(x * torch.log(prob) + (1 - x) * torch.log(1 - prob)).sum(-1)


def hand_vae(p, x, activation="tanh", **kw):
    a = getattr(torch, activation)
    z, kl = draw(p, x, a)
    return {"z": kl, "x": cross_entropy(x, decode(p, z, a, IDENTITY))}


def hand_beta_vae(p, x, beta=4.0, **kw):
    terms = hand_vae(p, x)
    return {"z": beta * terms["z"], "x": terms["x"]}


def hand_dvae(p, x, corruption="salt_and_pepper:0.05", **kw):
    """The code is guessed from a datum with salt and pepper; it is the clean one that must be explained."""
    u, share = torch.rand_like(x), float(corruption.split(":")[1])
    seen = torch.where(u < share / 2, 1.0, torch.where(u < share, 0.0, x))
    z, kl = draw(p, seen)
    return {"z": kl, "x": cross_entropy(x, decode(p, z, output=IDENTITY))}


def log_mean_exp(log_w, alpha):
    """-1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha), with nothing taken out of the exponential."""
    return {"all": -torch.log(torch.exp((1 - alpha) * log_w).mean(0)) / (1 - alpha)}


def hand_iwae(p, x, particles=4, alpha=0.0, **kw):
    x = x.expand(particles, *x.shape)
    loc, scale = encode(p, x, torch.tanh)
    z = loc + scale * torch.randn_like(loc)
    prior = gauss(z, torch.zeros_like(z), torch.ones_like(z))
    cost = prior + cross_entropy(x, decode(p, z, torch.tanh, IDENTITY)) - gauss(z, loc, scale)
    return log_mean_exp(-cost, alpha)


def hand_iwae_2(p, x, particles=4, alpha=0.0, **kw):
    """S4 Eq. 9 without its fifth term, which weighs h_1 a second time; h_1 is z_1."""
    x = x.expand(particles, *x.shape)
    loc_1, scale_1 = encode(p, x, torch.tanh, "guide.up.0")
    z_1 = loc_1 + scale_1 * torch.randn_like(loc_1)
    loc_2, scale_2 = encode(p, z_1, torch.tanh, "guide.up.1")
    z_2 = loc_2 + scale_2 * torch.randn_like(loc_2)
    top = gauss(z_2, torch.zeros_like(z_2), torch.ones_like(z_2))
    middle = gauss(z_1, *encode(p, z_2, torch.tanh, "model.down.0"))
    bottom = cross_entropy(x, decode(p, z_1, torch.tanh, IDENTITY))
    return log_mean_exp(gauss(z_1, loc_1, scale_1) + gauss(z_2, loc_2, scale_2) - top - middle - bottom, alpha)


def kl_of_normals(loc, scale, other_loc, other_scale):
    ratio = (scale / other_scale) ** 2
    return 0.5 * (ratio + ((loc - other_loc) / other_scale) ** 2 - 1 - torch.log(ratio)).sum(-1)


def hand_ladder_vae(p, x, **kw):
    """Sonderby et al., Eq. 7-9, 16-17 in precisions; leaky ReLU of slope 0.01."""
    h_1 = net(p, "guide.up.trunk.0", x, output=leaky_relu)
    h_2 = net(p, "guide.up.trunk.1", h_1, output=leaky_relu)
    seen = [
        (net(p, f"guide.up.loc.{i}", h), softplus(net(p, f"guide.up.raw_scale.{i}", h)) + 1e-5)
        for i, h in enumerate((h_1, h_2))
    ]
    loc, scale = seen[1]
    z_2 = loc + scale * torch.randn_like(loc)
    terms = {"z_2": kl_of_normals(loc, scale, torch.zeros_like(loc), torch.ones_like(loc))}
    p_loc, p_scale = encode(p, z_2, leaky_relu, "model.down.0")
    a, b = seen[0][1] ** 2, p_scale**2
    loc, scale = (seen[0][0] * b + p_loc * a) / (a + b), torch.sqrt(a * b / (a + b))
    z_1 = loc + scale * torch.randn_like(loc)
    terms["z_1"] = kl_of_normals(loc, scale, p_loc, p_scale)
    return terms | {"x": cross_entropy(x, decode(p, z_1, leaky_relu, IDENTITY))}


def hand_skip_vae(p, x, **kw):
    z, kl = draw(p, x, torch.tanh)
    h = net(p, "model.decoder.layers.0", z)
    for i in range(2):
        h = net(p, f"model.decoder.layers.{i + 1}", torch.tanh(h)) + z @ p[f"model.decoder.skip.{i}.weight"].T
    return {"z": kl, "x": cross_entropy(x, h)}


def batch_norm(p, prefix, a):
    """Over everything but the channels, a batch's own moments, as in training."""
    mean = a.mean((0, 2, 3), keepdim=True)
    var = ((a - mean) ** 2).mean((0, 2, 3), keepdim=True)
    weight, bias = (p[f"{prefix}.{n}"][:, None, None] for n in ("weight", "bias"))
    return (a - mean) / torch.sqrt(var + 1e-5) * weight + bias


def hand_cnn_vae(p, x, **kw):
    """3 x 3 filters, stride 2, padding 1, as a matrix on patches; the deconvolution is its transpose."""
    lead, window = x.shape[:-1], {"kernel_size": 3, "stride": 2, "padding": 1}
    a = x.reshape(-1, 1, 1, D)
    for i in (0, 3):
        width = (a.shape[-1] + 1) // 2
        a = (p[f"guide.encoder.trunk.{i}.weight"].flatten(1) @ unfold(a, **window)).reshape(len(a), -1, 1, width)
        a = leaky_relu(batch_norm(p, f"guide.encoder.trunk.{i + 1}", a))
    h = a.reshape(*lead, -1)
    loc, scale = net(p, "guide.encoder.loc", h), softplus(net(p, "guide.encoder.raw_scale", h)) + 1e-5
    z = loc + scale * torch.randn_like(loc)
    a = torch.relu(net(p, "model.decoder.linear", z)).reshape(-1, HIDDEN[1], 2)
    a = fold(p["model.decoder.trunk.1.weight"].flatten(1).T @ a, (1, 3), **window)
    a = torch.relu(batch_norm(p, "model.decoder.trunk.2", a)).flatten(2)
    logits = fold(p["model.decoder.trunk.4.weight"].flatten(1).T @ a, (1, D), **window)
    logits = (logits + p["model.decoder.trunk.4.bias"]).reshape(x.shape)
    kl = kl_of_normals(loc, scale, torch.zeros_like(loc), torch.ones_like(loc))
    return {"z": kl, "x": cross_entropy(x, logits)}


def hand_memoriser(p, x, **kw):
    """The curve by its 2 N breaks in probability: v_i from (i + 1/4) / N to (i + 3/4) / N, straight lines between."""
    values, normal = p["model.decoder.values"], torch.distributions.Normal(0.0, 1.0)
    count = len(values)
    i = torch.cdist(x, values.detach()).argmin(-1)
    loc = normal.icdf((i.double() + 0.5) / count)[..., None]
    scale = (0.025 / count + torch.exp(p["guide.spread.log_excess"]))[i][..., None]
    z = loc + scale * torch.randn_like(loc)
    breaks = torch.stack([torch.arange(count) + 0.25, torch.arange(count) + 0.75], 1).flatten().double()
    at, ends = normal.cdf(z) * count, values.repeat_interleave(2, 0)
    left = (torch.searchsorted(breaks, at.detach()) - 1).clamp(0, 2 * count - 2)
    w = ((at - breaks[left]) / (breaks[left + 1] - breaks[left])).clamp(0, 1)
    mu = (1 - w) * ends[left[..., 0]] + w * ends[left[..., 0] + 1]
    gamma = (1e-3 + torch.exp(p["model.scale.log_excess"])) ** 2
    kl = kl_of_normals(loc, scale, torch.zeros_like(loc), torch.ones_like(loc))
    return {"z": kl, "x": ((x - mu) ** 2).sum(-1) / (2 * gamma) + D / 2 * torch.log(2 * math.pi * gamma)}


def hand_gaussian_vae(p, x, minimum=1e-2, head="softplus", **kw):
    z, kl = draw(p, x, torch.tanh)
    raw = net(p, "model.scale.net", z, torch.tanh)
    if head == "course_report":  # log sigma^2 = (e^a - e^-a) / (e^a + e^-a)
        log_var = (raw.exp() - (-raw).exp()) / (raw.exp() + (-raw).exp())
        squares = (x - decode(p, z, torch.tanh)) ** 2
        return {"z": kl, "x": 0.5 * (LOG_2PI + log_var + squares / log_var.exp()).sum(-1)}
    sigma = softplus(raw) + minimum
    return {"z": kl, "x": gauss(x, decode(p, z, torch.tanh), sigma)}


def hand_l2_vae(p, x, **kw):
    z, kl = draw(p, x)
    return {"z": kl, "x": 0.5 * ((x - decode(p, z)) ** 2).sum(-1) + D * LOG_2PI / 2}


def hand_gamma_vae(p, x, **kw):
    z, kl = draw(p, x)
    gamma = (1e-3 + torch.exp(p["model.scale.log_excess"])) ** 2
    square = ((x - decode(p, z)) ** 2).sum(-1)
    return {"z": kl, "x": square / (2 * gamma) + D / 2 * torch.log(2 * math.pi * gamma)}


def hand_lc_vae(p, x, minimum=1e-2, real=False, **kw):
    z, kl = draw(p, x)
    sigma = softplus(net(p, "model.scale.net", z)) + minimum
    return {"z": kl, "x": gauss(x, decode(p, z, output=IDENTITY if real else SIGMOID), sigma)}


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


def hand_affine_vae(p, x, scale="gamma", minimum=1e-3, **kw):
    z, kl = draw(p, x)
    residual = x - z @ p["model.decoder.weight"].T - p["model.decoder.bias"]
    if scale == "diagonal":
        return {"z": kl, "x": gauss(residual, 0.0, softplus(net(p, "model.scale.net", z)) + minimum)}
    gamma = (minimum + torch.exp(p["model.scale.log_excess"])) ** 2
    return {"z": kl, "x": (residual**2).sum(-1) / (2 * gamma) + D / 2 * torch.log(2 * math.pi * gamma)}


def hand_induced_ae(p, x, l1=0.0, width=1.0, affine=False, real=False, **kw):
    z = net(p, "guide.encoder", x)
    straight = affine and z @ p["model.decoder.weight"].T + p["model.decoder.bias"]
    mu = straight if affine else decode(p, z, output=IDENTITY if real else SIGMOID)
    terms = {"x+sigma": log_residual(x, mu, floor_of(p, kw), width) + PROFILED}
    if l1:
        terms["z"] = l1 * z.abs().sum(-1) + K * math.log(2 / l1)
    return terms


def bernoulli(p, x, z):
    prob = torch.sigmoid(decode(p, z, torch.tanh, IDENTITY))
    return -(x * torch.log(prob) + (1 - x) * torch.log(1 - prob)).sum(-1)


def flow(p, x, step):
    """Log q - log p(z) of a code that was pushed through layers; step: (layer's prefix, h, z) -> z, log|det|."""
    h = net(p, "guide.encoder.trunk", x, torch.tanh, torch.tanh)
    loc, scale = encode(p, x, torch.tanh)
    z = loc + scale * torch.randn_like(loc)
    log_q = -gauss(z, loc, scale)
    layers = sorted({".".join(n.split(".")[:3]) for n in p if n.startswith("guide.layers")}, key=lambda n: int(n[13:]))
    for t, layer in enumerate(layers):
        z, log_det = step(t, layer, h, z)
        log_q = log_q - log_det
    return {"z": log_q + gauss(z, torch.zeros_like(z), torch.ones_like(z)), "x": bernoulli(p, x, z)}


def hand_planar_vae(p, x, flows=10, **kw):
    """Rezende & Mohamed (2015), Eq. 10-12 and App. A.1."""

    def step(t, layer, h, z):
        out = net(p, layer, h)
        b, v, w = out[..., 0], out[..., 1 : 1 + K], out[..., 1 + K :]
        square = (w * w).sum(-1, keepdim=True)
        u = v + math.log(math.e - 1) * w / square
        wu = (w * u).sum(-1, keepdim=True)
        u = u + (torch.log1p(torch.exp(wu)) - 1 - wu) * w / square
        a = torch.tanh((w * z).sum(-1) + b)
        return z + u * a[..., None], torch.log(1 + (1 - a**2) * (u * w).sum(-1))

    return flow(p, x, step)


def hand_iaf_vae(p, x, flows=2, width=64, **kw):
    """Kingma et al. (2016), Eq. 10-11; a unit of degree m sees the entries before m, and all of h."""

    def step(t, layer, h, z):
        place = torch.arange(1, K + 1)
        place = place.flip(0) if t % 2 else place
        degree = torch.round(torch.linspace(1, K, width)) - 1
        seen = torch.cat([torch.zeros(h.shape[-1]), place.to(degree)])
        first, last = degree[:, None] >= seen, place.repeat(2)[:, None] > degree
        weights = [p[f"{layer}.nn.layers.{i}.weight"] for i in (0, 1)]
        biases = [p[f"{layer}.nn.layers.{i}.bias"] for i in (0, 1)]
        hidden = torch.relu(torch.cat([h, z], -1) @ (weights[0] * first).T + biases[0])
        m, log_s = (hidden @ (weights[1] * last).T + biases[1]).split(K, -1)
        assert log_s.min() > -5 and log_s.max() < 3
        return m + torch.exp(log_s) * z, log_s.sum(-1)

    return flow(p, x, step)


def rational_quadratic(z, raw, bins):
    """Durkan et al. (2019), Eq. 4 and 5, on [-5, 5]; zuko shrinks what softmax and exp are given."""
    w, v, d = raw.split([bins, bins, bins - 1], -1)
    least = abs(math.log(1e-3))
    w, v, d = w / (1 + 2 * w.abs() / least), v / (1 + 2 * v.abs() / least), d / (1 + d.abs() / least)
    edge = torch.full_like(w[..., :1], -5.0)
    xs, ys = (torch.cat([edge, -5 + 10 * torch.softmax(a, -1).cumsum(-1)], -1) for a in (w, v))
    d = torch.cat([torch.ones_like(edge), torch.exp(d), torch.ones_like(edge)], -1)
    k = ((z[..., None] > xs).sum(-1, keepdim=True) - 1).clamp(0, bins - 1)
    (x0, x1), (y0, y1), (d0, d1) = ([a.gather(-1, k + i)[..., 0] for i in (0, 1)] for a in (xs, ys, d))
    s, xi = (y1 - y0) / (x1 - x0), (z - x0) / (x1 - x0)
    below = s + (d0 + d1 - 2 * s) * xi * (1 - xi)
    y = y0 + (y1 - y0) * (s * xi**2 + d0 * xi * (1 - xi)) / below
    slope = s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) / below**2
    inside = z.abs() < 5
    return torch.where(inside, y, z), torch.where(inside, slope.log(), 0.0)


def hand_spline_vae(p, x, flows=2, width=64, bins=8, **kw):
    """The masks are zuko's; that they leave out what comes after is tested in test_flows.py."""

    def step(t, layer, h, z):
        a = torch.cat([z, h], -1)
        for i in (0, 2, 4):
            name = f"{layer}.lazy.hyper.{i}"
            a = a @ (p[f"{name}.weight"] * p[f"{name}.mask"]).T + p[f"{name}.bias"]
            a = torch.relu(a) if i < 4 else a
        z, log_slope = rational_quadratic(z, a.unflatten(-1, (K, -1)), bins)
        return z, log_slope.sum(-1)

    return flow(p, x, step)


def mixed(p, x, log_weights, centres, scales):
    """Log q - log p(z), with p(z) a sum of Gaussians, written out."""
    loc, scale = encode(p, x, torch.tanh)
    z = loc + scale * torch.randn_like(loc)
    parts = [torch.exp(a - gauss(z, m, s)) for a, m, s in zip(log_weights, centres, scales, strict=True)]
    return {"z": -gauss(z, loc, scale) - torch.log(sum(parts)), "x": bernoulli(p, x, z)}


def hand_mixture_vae(p, x, **kw):
    logits, log_scale = p["model.prior.logits"], p["model.prior.log_scale"]
    log_weights = logits - torch.log(torch.exp(logits).sum())
    return mixed(p, x, log_weights, p["model.prior.loc"], torch.exp(log_scale))


def hand_vamp_vae(p, x, components=500, **kw):
    """Tomczak & Welling (2018), Eq. 9: the encoder of the guide at inputs that are parameters."""
    u = 1 / (1 + torch.exp(-p["model.prior.raw"]))
    centres, scales = encode(p, u, torch.tanh)
    return mixed(p, x, torch.full_like(u[:, 0], -math.log(components)), centres, scales)


def hand_wae_mmd(p, x, weight=5.0, kernel="imq", **kw):
    """Tolstikhin et al. (2018), Algorithm 2, pair by pair; -log N(x; mu, 1) in place of the squared error."""
    z = net(p, "guide.encoder", x)
    draws = torch.randn_like(z)

    def k(u, v):
        square = ((u - v) ** 2).sum()
        scales = (0.1, 0.2, 0.5, 1, 2, 5, 10)
        return (
            torch.exp(-square / (2 * K)) if kernel == "rbf" else sum(2 * K * s / (2 * K * s + square) for s in scales)
        )

    def within(c):
        return sum(k(u, v) for i, u in enumerate(c) for j, v in enumerate(c) if i != j) / (len(c) * (len(c) - 1))

    across = sum(k(u, v) for u in z for v in draws) / len(z) ** 2
    penalty = weight * (within(z) + within(draws) - 2 * across)
    return {"x": gauss(x, decode(p, z), torch.ones_like(x)), "z": penalty.expand(len(x))}


def hand_wae_gan(p, x, weight=5.0, **kw):
    """Algorithm 1: one player's parameters are constants to the other; logarithms of probabilities, written out."""
    z = net(p, "guide.encoder", x)
    draws, fixed = torch.randn_like(z), {n: t.detach() for n, t in p.items()}
    generator = -torch.log(torch.sigmoid(net(fixed, "objective.discriminator", z)))
    on_draws, on_codes = (torch.sigmoid(net(p, "objective.discriminator", a)) for a in (draws, z.detach()))
    discriminator = -torch.log(on_draws) - torch.log(1 - on_codes)
    costs = {"x": gauss(x, decode(p, z), torch.ones_like(x)), "z": weight * generator[:, 0]}
    return costs | {"discriminator": discriminator[:, 0]}


def beside_itself(p, prefix, a):
    """The last hidden layer with the network's input beside it."""
    return torch.cat([net(p, prefix, a, output=torch.relu), a], -1)


def hand_two_stage_vae(p, x, beta=1.0, **kw):
    """Dai & Wipf (2019), 4: the loss of a gamma-VAE of x, and that of a gamma-VAE of its codes, which are data."""
    z, kl = draw(p, x)
    gamma = (1e-3 + torch.exp(p["model.scale.log_excess"])) ** 2
    square = ((x - decode(p, z)) ** 2).sum(-1)
    terms = {"x": square / (2 * gamma) + D / 2 * torch.log(2 * math.pi * gamma), "z": beta * kl}
    z = z.detach()
    h = beside_itself(p, "guide.second_encoder.trunk.trunk", z)
    loc = net(p, "guide.second_encoder.loc", h)
    scale = softplus(net(p, "guide.second_encoder.raw_scale", h)) + 1e-5
    u = loc + scale * torch.randn_like(loc)
    mean = net(p, "model.second_decoder.1", beside_itself(p, "model.second_decoder.0.trunk", u))
    gamma = (1e-3 + torch.exp(p["model.second_scale.log_excess"])) ** 2
    terms["z@2"] = ((z - mean) ** 2).sum(-1) / (2 * gamma) + K / 2 * torch.log(2 * math.pi * gamma)
    return terms | {"u": beta * kl_of_normals(loc, scale, torch.zeros_like(loc), torch.ones_like(loc))}


def hand_ica_vae(p, x, minimum=1e-2, **kw):
    """Entries of the prior one by one, each put to mean 0 and variance 1; q is a product of two Gaussians."""
    w, b = p["model.decoder.weight"], p["model.decoder.bias"]
    gamma = (minimum + torch.exp(p["model.scale.log_excess"])) ** 2
    loc, scale = encode(p, x)
    precision = torch.stack([torch.diag(s) for s in scale.reshape(-1, K) ** -2]) + w.T @ w / gamma
    cov = torch.linalg.inv(precision).reshape(*x.shape[:-1], K, K)
    mean = (cov @ (loc / scale**2 + (x - b) @ w / gamma)[..., None])[..., 0]
    z = mean + (torch.linalg.cholesky(cov) @ torch.randn_like(mean)[..., None])[..., 0]
    half = ((z - mean)[..., None, :] @ torch.linalg.inv(cov) @ (z - mean)[..., None])[..., 0, 0] / 2
    log_q = -half - torch.logdet(cov) / 2 - K * LOG_2PI / 2
    log_p = torch.zeros_like(log_q)
    for j in range(K):
        pi = torch.exp(p["model.prior.logits"][j]) / torch.exp(p["model.prior.logits"][j]).sum()
        m, var = p["model.prior.loc"][j], torch.exp(2 * p["model.prior.log_scale"][j])
        centre = (pi * m).sum()
        total = (pi * (var + m**2)).sum() - centre**2
        m, s = (m - centre) / torch.sqrt(total), torch.sqrt(var / total)
        bells = pi / s * torch.exp(-((z[..., j, None] - m) ** 2) / (2 * s**2)) / math.sqrt(2 * math.pi)
        log_p = log_p + torch.log(bells.sum(-1))
    square = ((x - z @ w.T - b) ** 2).sum(-1)
    return {"z": log_q - log_p, "x": square / (2 * gamma) + D / 2 * torch.log(2 * math.pi * gamma)}


def hand_m2_vae(p, x, y, beta=1.0, classifier_weight=10.0, **kw):
    """Kingma et al. (2014b), class by class: Eq. 6 where the label is known, Eq. 7 where it is not, and Eq. 9."""
    classes = torch.eye(y.shape[-1], dtype=x.dtype)
    noise = torch.randn(len(classes), *x.shape[:-1], K, dtype=x.dtype)
    log_q = torch.log_softmax(net(p, "guide.classifier", x), -1)
    known, log_share = y.sum(-1) == 1, -math.log(len(classes))

    def given(label, e):
        h = torch.relu(net(p, "guide.encoder.datum", x) + label @ p["guide.encoder.label.weight"].T)
        h = net(p, "guide.encoder.trunk", h, output=torch.relu)
        loc, scale = net(p, "guide.encoder.loc", h), softplus(net(p, "guide.encoder.raw_scale", h)) + 1e-5
        kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * torch.log(scale)).sum(-1)
        return beta * kl - log_bernoulli(x, decode(p, beside(loc + scale * e, label), output=IDENTITY))

    # Each draw is one of the class's own; where the label is known, all are the label's.
    labelled = torch.stack([given(y, e) for e in noise]).mean(0) - log_share
    unlabelled = sum(
        log_q[..., i].exp() * (given(one.expand_as(y), e) + beta * (log_q[..., i] - log_share))
        for i, (one, e) in enumerate(zip(classes, noise, strict=True))
    )
    return {
        "x+z+y_observed+y_unobserved": torch.where(known, labelled, unlabelled),
        "classifier": -classifier_weight * (y * log_q).sum(-1),
    }


def convolve(a, weight, stride):
    """A convolution as a matrix on patches, with as much padding as keeps the middle of the filter on the image."""
    k = weight.shape[-1]
    height, width = ((n - 1) // stride + 1 for n in a.shape[2:])
    patches = unfold(a, kernel_size=k, stride=stride, padding=k // 2)
    return (weight.flatten(1) @ patches).reshape(len(a), -1, height, width)


def image_trunk(p, x):
    """Stride 2 and CReLU, stride 1 and leaky ReLU of slope 0.1, once per entry of hidden; the image is 1 x D."""
    a, at = x.reshape(-1, 1, 1, D), "guide.encoder.trunk"
    for i in (0, 6):
        h = batch_norm(p, f"{at}.{i + 1}", convolve(a, p[f"{at}.{i}.weight"], 2))
        h = torch.cat([h.clamp(min=0), (-h).clamp(min=0)], 1)
        h = batch_norm(p, f"{at}.{i + 4}", convolve(h, p[f"{at}.{i + 3}.weight"], 1))
        a = leaky_relu(h, 0.1)
    return a


def image_head(p, a, at):
    """Deconvolutions are transposes of convolutions, 4 x 4 with stride 2; what is too large is cut at the far end."""
    window = {"kernel_size": 4, "stride": 2, "padding": 1}
    for i, width in ((0, 3), (7, D)):
        up = p[f"{at}.{i}.weight"].flatten(1).T @ a.flatten(2)
        a = fold(up, (2 * a.shape[2], 2 * a.shape[3]), **window)[..., :1, :width]
        a = leaky_relu(batch_norm(p, f"{at}.{i + 2}", a), 0.1)
        a = leaky_relu(batch_norm(p, f"{at}.{i + 5}", convolve(a, p[f"{at}.{i + 4}.weight"], 1)), 0.1)
    return convolve(a, p[f"{at}.14.weight"], 1) + p[f"{at}.14.bias"]


def pixels(x, found, sd):
    found = found.reshape(x.shape)
    return cross_entropy(x, found) if sd is None else gauss(x, torch.sigmoid(found), torch.full_like(x, sd))


def code_terms(loc, scale, x, beta=1.0, cut=1):
    """Draw each of the blocks for itself, and give the code, with its divergences."""
    locs, scales = (a.reshape(*x.shape[:-1], cut, -1).unbind(-2) for a in (loc, scale))
    z = [m + s * torch.randn_like(m) for m, s in zip(locs, scales, strict=True)]
    weights = beta if isinstance(beta, list) else [beta] * cut
    terms = [
        w * kl_of_normals(m, s, torch.zeros_like(m), torch.ones_like(m))
        for w, m, s in zip(weights, locs, scales, strict=True)
    ]
    return z, {"z": terms[0]} if cut == 1 else {f"z_{t}": term for t, term in enumerate(terms, 1)}


def hand_conv_vae(p, x, sd=None, beta=1.0, gan=False, **kw):
    h = image_trunk(p, x).flatten(1)
    loc, scale = net(p, "guide.encoder.loc", h), softplus(net(p, "guide.encoder.raw_scale", h)) + 1e-5
    (z,), terms = code_terms(loc, scale, x, beta)
    return terms | {"x": pixels(x, of_code(p, z), sd)} | (adversary(p, x, *images(x, [z], of_code, p)) if gan else {})


def of_code(p, z):
    a = net(p, "model.decoder.lift", z.reshape(-1, K)).reshape(-1, 8, 1, 2)
    return image_head(p, a, "model.decoder.head")


def channels_of_code(p, x):
    h, at = image_trunk(p, x), "guide.encoder"
    loc, raw = (
        convolve(h, p[f"{at}.{part}.0.weight"], 1) + p[f"{at}.{part}.0.bias"][:, None, None]
        for part in ("loc", "raw_scale")
    )
    return loc, softplus(raw) + 1e-5


def hand_cvae_conv(p, x, sd=None, beta=1.0, **kw):
    loc, scale = channels_of_code(p, x)
    (z,), terms = code_terms(loc, scale, x, beta)
    a = convolve(z.reshape(-1, 2, 1, 2), p["model.decoder.lift.1.weight"], 1)
    a = a + p["model.decoder.lift.1.bias"][:, None, None]
    return terms | {"x": pixels(x, image_head(p, a, "model.decoder.head"), sd)}


def hand_empirical_cvae(p, x, beta=1.0, **kw):
    """Two channels of two cells; the divergence from one Gaussian to another, with the inverse written out."""
    loc, scale = (a.reshape(*x.shape[:-1], 2, 2) for a in channels_of_code(p, x))
    cost = 0.0
    for k in range(2):
        a = p["model.prior.scale_tril"][k]
        covariance = a @ a.T
        (s, t), (_, v) = covariance
        det = s * v - t * t
        inverse = torch.stack([torch.stack([v, -t]), torch.stack([-t, s])]) / det
        away = loc[..., k, :] - p["model.prior.loc"][k]
        square = torch.einsum("...i,ij,...j->...", away, inverse, away)
        square = square + (scale[..., k, :] ** 2 * inverse.diag()).sum(-1)
        cost = cost + 0.5 * (square - 2 + torch.log(det) - 2 * torch.log(scale[..., k, :]).sum(-1))
    return hand_cvae_conv(p, x, **kw) | {"z": beta * cost}


def own_layers(p, at, blocks):
    return [b @ w + c for b, w, c in zip(blocks, p[f"{at}.weight"], p[f"{at}.bias"], strict=True)]


def lstm(p, at, blocks, layers=1):
    """Gates in the order of torch: input, forget, cell, output."""
    for layer in range(layers):
        w, u = (p[f"{at}.cells.{layer}.weight_{n}"] for n in ("ih", "hh"))
        b = p[f"{at}.cells.{layer}.bias_ih"] + p[f"{at}.cells.{layer}.bias_hh"]
        h, c, found = torch.zeros(1, u.shape[1]).double(), 0.0, []
        for block in blocks:
            i, f, g, o = (block @ w.T + h @ u.T + b).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            found.append(h)
        blocks = found
    return [h @ p[f"{at}.out.weight"].T + p[f"{at}.out.bias"] for h in blocks]


def hand_blocks(p, x, inference, generation, sd=None, beta=1.0, mean="conv", preset="paper", gan=False):
    """Two blocks of one channel each; the mean knows no blocks."""
    h, at = image_trunk(p, x), "guide.encoder"
    loc = convolve(h, p[f"{at}.loc.0.0.weight"], 1) if mean == "conv" else h.flatten(1) @ p[f"{at}.loc.0.1.weight"].T
    loc = loc.reshape(-1, 2, 1, 2) - next(v for n, v in p.items() if n.startswith(f"{at}.loc") and "mu_0" in n)
    raw = inference(p, f"{at}.raw_scale.recurrence", [part.flatten(1) for part in h.chunk(2, 1)])
    z, terms = code_terms(loc, softplus(torch.cat(raw, -1)) + 1e-5, x, beta, cut=2)

    def of_blocks(p, *z):
        u = generation(p, "model.recurrence", [part.reshape(-1, 2) for part in z])
        at = "model.likelihood.decoder"
        a = torch.cat(u, -1).reshape(-1, 2 if preset == "repo" else 8, 1, 2) + p[f"{at}.lift.1.mu_0"]
        if preset == "repo":
            a = batch_norm(p, f"{at}.lift.3", convolve(a, p[f"{at}.lift.2.weight"], 1))
        return image_head(p, a, f"{at}.head")

    terms |= {"x": pixels(x, of_blocks(p, *z), sd)}
    return terms | (adversary(p, x, *images(x, z, of_blocks, p)) if gan else {})


def hand_bcvae(p, x, **kw):
    return hand_blocks(p, x, own_layers, own_layers, **kw)


def hand_crvae(p, x, recurrence="both", particles=1, preset="paper", **kw):
    def many(p, at, blocks):
        return lstm(p, at, blocks, 2 if preset == "repo" else 1)

    ways = (many if recurrence in ("both", way) else own_layers for way in ("inference", "generation"))
    return hand_blocks(p, x, *ways, preset=preset, **kw)


def images(x, z, decode, p):
    """Fakes of both kinds: at the guide's draws, and at draws of the prior."""
    prior = [torch.randn_like(part) for part in z]
    return (torch.sigmoid(decode(p, *code)).reshape(x.shape) for code in (z, prior))


def image_discriminator(p, x):
    """One stage on an image of 1 x D: 3 x 3, the larger of two neighbours, ReLU; half of everything dropped."""
    at = "objective.discriminator"
    h = convolve(x.reshape(-1, 1, 1, D), p[f"{at}.trunk.0.weight"], 1) + p[f"{at}.trunk.0.bias"][:, None, None]
    h = torch.stack([h[..., i : i + 2].amax(-1) for i in (0, 2, 4)], -1).clamp(min=0)
    h = h * dropped(len(x), 3, 1, 1)
    h = net(p, f"{at}.linear", h.flatten(1))
    h = (h / h.square().sum(-1, keepdim=True).sqrt() * dropped(*h.shape)).clamp(min=0)
    m = torch.einsum("na,abc->nbc", h, p[f"{at}.batch.weight"])
    near = torch.exp(-(m[:, None] - m).abs().sum(-1))
    near = (near.sum(1) - 1) / (len(x) - 1)
    return net(p, f"{at}.logit", torch.cat([h, near], -1))[:, 0]


def dropped(*shape):
    return 2 * (torch.rand(shape, dtype=torch.float64) >= 0.5)


def adversary(p, x, *fakes, weight=0.01 * D / (8 * 0.125**2)):
    """Half real and half fake, the fakes of both kinds; each player's loss is a constant to the other."""
    constant = {name: value.detach() for name, value in p.items()}
    generator, discriminator, right = 0.0, 0.0, 0.0
    for fake in fakes:
        generator = generator - torch.log(torch.sigmoid(image_discriminator(constant, fake)))
        on_real, on_fake = image_discriminator(p, x), image_discriminator(p, fake.detach())
        discriminator = discriminator - torch.log(torch.sigmoid(on_real)) - torch.log(1 - torch.sigmoid(on_fake))
        right += ((on_real > 0).double().mean() + (on_fake <= 0).double().mean()) / 4
    return {"gan": weight * generator, "discriminator": (right <= 0.9) * discriminator / 2}


def hand_vae_gan(p, x, **kw):
    return hand_conv_vae(p, x, gan=True, **{"sd": 0.125} | kw)


def hand_crvae_gan(p, x, **kw):
    return hand_crvae(p, x, gan=True, **{"sd": 0.125} | kw)


HAND = {
    name.removeprefix("hand_"): f
    for name, f in list(globals().items())
    if name.startswith("hand_") and name != "hand_blocks"
}


# --- fixtures of a sort -----------------------------------------------------------------------------------------


def batch(name="", rows=B, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, D, generator=g, dtype=torch.float64)
    return x.round() if name in BINARY else x


CONDITIONS = {"cvae": 10, "structured_cvae": 10, "m2_vae": 10}


def condition(name, rows=B):
    """The condition of a batch: labels for one, numbers for the other; None for a variant that takes none."""
    labels = torch.eye(10, dtype=torch.float64)[torch.arange(rows) % 10]
    numbers = torch.linspace(-1, 1, rows * 10, dtype=torch.float64).reshape(rows, 10)
    some = labels * (torch.arange(rows) % 2)[:, None]
    return {"cvae": labels, "structured_cvae": numbers, "m2_vae": some}.get(name)


def build(name, seed=0, **kw):
    """A pair in float64 whose parameters are all different, those that start equal included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pair = VARIANTS[name](**(sizes(name, D, K, HIDDEN) | kw)).double()
        with torch.no_grad():
            for p in pair.parameters():
                p += 0.2 * torch.randn_like(p)
            if name == "empirical_cvae":  # as it is once it has been fitted
                pair.model.prior.loc += 0.3
                pair.model.prior.scale_tril += 0.2 * torch.randn_like(pair.model.prior.scale_tril).tril()
    return pair


def by_hand(name, pair, x, **kw):
    """(B,) losses by site; draws in the order in which the guide draws."""
    named = dict(pair.named_parameters(remove_duplicate=False))
    y = condition(name, x.shape[-2])
    kw = kw if y is None else {**kw, "y": y}
    return HAND[name](named | dict(pair.named_buffers()), x, **kw)


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
    "vae": [{"activation": "relu"}],
    "beta_vae": [{"beta": 0.5}],
    "dvae": [{"corruption": "salt_and_pepper:0.5"}],
    "iwae": [{"particles": 1}, {"particles": 9}, {"alpha": 0.5}],
    "iwae_2": [{"particles": 1}, {"alpha": -1.0}],
    "gaussian_vae": [{"minimum": 0.25}, {"head": "course_report"}],
    "lc_vae": [{"minimum": 0.25}, {"real": True}],
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
    "induced_ae": [
        {"l1": 0.5},
        {"floor": 0.125, "l1": 2.0},
        {"width": 4.0, "real": True},
        {"l1": 0.5, "width": 4.0, "affine": True},
    ],
    "affine_vae": [{"scale": "diagonal"}, {"minimum": 0.25}],
    "planar_vae": [{"flows": 1}],
    "iaf_vae": [{"flows": 1, "width": 5}],
    "spline_vae": [{"flows": 1, "width": 5, "bins": 3}],
    "mixture_vae": [{"components": 1}],
    "vamp_vae": [{"components": 2, "grey": 0.5}],
    "wae_mmd": [{"weight": 0.5}, {"kernel": "rbf", "weight": 2.0}],
    "wae_gan": [{"weight": 0.5}],
    "two_stage_vae": [{"beta": 0.5}],
    "ica_vae": [{"components": 2, "minimum": 0.25}],
    "m2_vae": [{"beta": 0.5}, {"classifier_weight": 0.0}],
    "conv_vae": [{"sd": 0.5, "beta": 2.0}],
    "cvae_conv": [{"sd": 0.5}],
    "empirical_cvae": [{"sd": 0.5, "beta": 2.0}],
    "bcvae": [{"beta": [2.0, 0.5]}, {"mean": "dense", "sd": 0.5}],
    "crvae": [
        {"recurrence": "inference"},
        {"recurrence": "generation", "beta": [2.0, 0.5]},
        {"preset": "repo", "mean": "dense"},
        {"preset": "repo", "recurrence": "inference"},
        {"sd": 0.5},
    ],
    "crvae_gan": [{"beta": [2.0, 0.5]}, {"preset": "repo"}],
}
POINTS = ("autoencoder", "induced_ae", "wae_mmd", "wae_gan")  # their guide is a point mass
CASES = [pytest.param(n, {}, id=n) for n in VARIANTS] + [
    pytest.param(n, kw, id=f"{n}-{'-'.join(f'{k}={v}' for k, v in kw.items())}")
    for n, options in OPTIONS.items()
    for kw in options
]
NOT_RECYCLED = [n for n in VARIANTS if n not in ("ric_vae", "r_l2_vae", "rlc_vae")]
ONE_DRAW = ("dvae", "wae_mmd", "wae_gan", "vae_gan", "crvae_gan")
# beta is an argument of these; autoencoders have none, and affine_ic_vae and the recurrent ones fix it at 1.
WITH_BETA = [
    "vae", "gaussian_vae", "l2_vae", "gamma_vae", "lc_vae", "ic_vae", "indexed_ic_vae", "t_vae", "datum_t_vae", "rvae",
    "ladder_vae", "skip_vae", "cnn_vae", "memoriser",
    "planar_vae", "iaf_vae", "spline_vae", "mixture_vae", "vamp_vae", "cvae", "structured_cvae", "affine_vae",
    "ica_vae", "conv_vae", "cvae_conv", "bcvae", "crvae", "empirical_cvae",
]  # fmt: skip


# --- the tests --------------------------------------------------------------------------------------------------


def test_every_variant_has_a_hand_formula():
    assert set(HAND) == set(VARIANTS)


OTHER_NETWORKS = {
    "affine_vae", "affine_ic_vae", "iwae_2", "ladder_vae", "skip_vae", "cnn_vae", "memoriser", "ica_vae", "m2_vae",
    "conv_vae", "cvae_conv", "bcvae", "crvae", "vae_gan", "crvae_gan", "empirical_cvae",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in OTHER_NETWORKS])
def test_networks_have_the_widths_that_were_asked_for(name):
    """The decoder's are the encoder's from back to front."""
    named = build(name).named_parameters(remove_duplicate=False)
    networks = ("model.decoder", "model.scale", "guide.encoder")
    shapes = [tuple(p.shape) for n, p in named if n.startswith(networks) and n.endswith("weight")]
    c = CONDITIONS.get(name, 0)
    decoder, encoder = [(4, K + c), (6, 4), (D, 6)], [(6, D + c), (4, 6), (K, 4)]
    heads = 1 if name in POINTS else 2
    scale = decoder if name in ("gaussian_vae", "lc_vae", "rlc_vae") else []
    assert shapes == decoder + scale + encoder + encoder[-1:] * (heads - 1)


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


def test_the_course_reports_head_has_a_smallest_bound():
    """560 pixels cannot cost less than 280 (ln 2 pi - 1) nats, which a perfect fit with the least variance costs."""
    smallest = 280 * (LOG_2PI - 1)
    assert smallest == pytest.approx(234.61, abs=0.005)
    pair = pv.gaussian_vae(data_dim=560, latent_dim=2, hidden=(4,), head="course_report").double()
    with torch.no_grad():
        for p in pair.parameters():
            p.zero_()
        pair.model.scale.net[-1].bias.fill_(-50.0)
        pair.guide.encoder.raw_scale.bias.fill_(math.log(math.expm1(1 - 1e-5)))
    loss = pair(torch.full((3, 560), 0.5, dtype=torch.float64))
    assert loss.total.item() == pytest.approx(smallest, abs=1e-9)
    for bad in ({"head": "tanh"}, {"head": "course_report", "minimum": 0.1}):
        with pytest.raises(pv.InputError, match="head"):
            pv.gaussian_vae(data_dim=4, **bad)


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


# Their bound is that of another loss: the prior of a code that is a point, the hierarchy of two stages.
OTHER_BOUND = (*POINTS, "two_stage_vae", "vae_gan", "crvae_gan")


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in OTHER_BOUND])
def test_the_bound_is_minus_the_loss_of_the_first_pass(name):
    """beta = 1: the loss is the bound; of recycled losses, the one on the data themselves."""
    pair, x = build(name), batch(name)
    kw = {} if name in NOT_RECYCLED else {"passes": 1}
    kw |= {"beta": 1.0} if name == "beta_vae" else {"classifier_weight": 0.0} if name == "m2_vae" else {}
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
    total = sum(beta * v.mean() if site[0] == "z" else v.mean() for site, v in terms.items())
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
@pytest.mark.parametrize("name", [n for n in NOT_RECYCLED if n not in {*IMPORTANCE, *ONE_DRAW}])
def test_particles_are_averaged(name, particles):
    """L draws per datum are L times the batch, each with noise of its own."""
    pair, x = build(name), batch(name)
    objective = pair.objective
    objective.particles = particles
    torch.manual_seed(9)
    loss = objective(pair.model, pair.guide, x, condition(name), size=70)
    torch.manual_seed(9)
    terms = by_hand(name, pair, x.expand(particles, B, D))
    assert name in ("autoencoder", "induced_ae") or next(iter(terms.values())).shape == (particles, B)
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
        loss = pair(x).total
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
