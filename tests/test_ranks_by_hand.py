"""Two ranks beside their mathematics: in one process, without the library's objectives and without its optimisers.

Only the networks are the pair's own; densities, divergences, bounds, the MMD, free bits, batch norm and Adam are
written out here. A rank's noise is a stream seeded by ``seed + rank``; it takes every other row of a batch.

``python tests/test_ranks_by_hand.py FOLDER`` trains every case on the two ranks that it becomes.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import softplus

import pyro_vaes as pv
from pyro_vaes.nn.conv import Norm

SEED, ROWS, STEPS, LR = 3, 4, 5, 0.02
FREE = 0.32  # which the mean KL of one rank is above and that of the other below, for the rows of some steps


class Noise:
    """The streams of all ranks: what is drawn for a batch is what each draws for its own rows."""

    def __init__(self) -> None:
        self.streams, self.rows = [torch.Generator().manual_seed(SEED + rank) for rank in (0, 1)], [0, 0]

    def __call__(self, *tail: int, particles: tuple[int, ...] = ()) -> Tensor:
        # A rank without a row computes one that counts for nothing, and draws for it.
        drawn = [
            torch.randn(*particles, max(rows, 1), *tail, generator=stream, dtype=torch.float64)[..., :rows, :]
            for rows, stream in zip(self.rows, self.streams, strict=True)
        ]
        return torch.cat(drawn, -2)

    def gamma(self, shape: Tensor) -> None:
        """How many numbers a Gamma takes depends on its shape."""
        for own, stream in zip(shape.split(self.rows), self.streams, strict=True):
            torch._standard_gamma(own, generator=stream)


def normal(x: Tensor, m: Tensor, s: Tensor) -> Tensor:
    return (-0.5 * ((x - m) / s) ** 2 - s.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def standard(z: Tensor) -> Tensor:
    return normal(z, torch.zeros_like(z), torch.ones_like(z))


def kl(m: Tensor, s: Tensor) -> Tensor:
    return 0.5 * (m * m + s * s - 1) - s.log()


def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    return (x * logits - softplus(logits)).sum(-1)


def drawn(pair: Any, x: Tensor, noise: Noise, particles: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor]:
    m, s = pair.guide.encoder(x)
    return m, s, m + s * noise(m.shape[-1], particles=particles)


def gaussian(pair: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    m, s, z = drawn(pair, x, noise)
    bound = normal(x, pair.model.decoder(z), pair.model.scale(z)).mean() - kl(m, s).sum(-1).mean()
    return -bound, bound


def binary(pair: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    m, s, z = drawn(pair, x, noise)
    bound = bernoulli(x, pair.model.decoder(z)).mean() - kl(m, s).sum(-1).mean()
    return -bound, bound


def weighted(pair: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    m, s, z = drawn(pair, x, noise, (4,))
    log_w = bernoulli(x, pair.model.decoder(z)) + standard(z) - normal(z, m, s)
    bound = log_w.exp().mean(0).log().mean()
    return -bound, bound


def recycled(pair: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    losses, bounds = [], []
    for k in range(3):
        m, s, z = drawn(pair, x, noise)
        mu, floor = pair.model.decoder(z), pair.model.floor(z)
        variance = (x - mu) ** 2 + floor**2
        factor = -0.5 * floor**2 / variance - (2 * torch.asinh(1 / floor)).log()
        fit, code = (normal(x, mu, variance.sqrt()) + factor.sum(-1)).mean(), kl(m, s).sum(-1).mean()
        losses.append(code / 3 - fit)
        bounds.append(fit - code)
        x = x if k == 2 else (mu + variance.sqrt() * noise(x.shape[-1])).detach()
    return torch.stack(losses).sum(), bounds[0]


def student(pair: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    m, s, z = drawn(pair, x, noise)
    scale, nu = pair.model.scale(z), pair.model.dof(z)
    t = (x - pair.model.decoder(z)) / scale
    noise.gamma(((nu + 1) / 2).expand(t.shape).detach())  # w is drawn, and its value is nowhere in the bound
    constant = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * (nu * math.pi).log() - scale.log()
    bound = (constant - (nu + 1) / 2 * torch.log1p(t * t / nu)).sum(-1).mean() - kl(m, s).sum(-1).mean()
    return -bound, bound


def with_free_bits(pair: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    m, s, z = drawn(pair, x, noise)
    mu = pair.model.decoder(z)
    fit, entries = normal(x, mu, torch.ones_like(mu)).mean(), kl(m, s).mean(0)
    return torch.where(entries > FREE, entries, torch.full_like(entries, FREE)).sum() - fit, fit - entries.sum()


def together(pair: Any, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    a = pair.guide.encoder(x)
    mu, b = pair.model.decoder(a), noise(a.shape[-1])

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        squares = ((u[:, None] - v) ** 2).sum(-1)
        return torch.stack([c * 4 / (c * 4 + squares) for c in (0.1, 0.2, 0.5, 1, 2, 5, 10)]).sum(0)

    n, other = len(a), 1 - torch.eye(len(a), dtype=a.dtype)
    distance = ((kernel(a, a) + kernel(b, b)) * other).sum() / (n * (n - 1)) - 2 * kernel(a, b).mean()
    fit = normal(x, mu, torch.ones_like(mu)).mean()
    return 5 * distance - fit, fit + standard(a).mean()


def norm(self: Norm, x: Tensor) -> Tensor:
    """Batch norm of all rows, and the running statistics that it leaves."""
    m, count = x.mean((0, 2, 3)), x.numel() / x.shape[1]
    centred = x - m[:, None, None]
    v = (centred**2).mean((0, 2, 3))
    with torch.no_grad():
        self.running_mean.lerp_(m, 0.1)
        self.running_var.lerp_(v * count / (count - 1), 0.1)
        self.num_batches_tracked += 1
    of = (self.weight / (v + 1e-5).sqrt(), self.bias)
    return centred * of[0][:, None, None] + of[1][:, None, None]


def floored() -> pv.Pair:
    pair = pv.l2_vae(6, 3, (7,))
    pair.objective = pv.ELBO(free_bits=FREE)
    return pair


class Case(NamedTuple):
    make: Callable[[], pv.Pair]
    loss: Callable[[Any, Tensor, Noise], tuple[Tensor, Tensor]]
    size: int  # of 8 rows per step: 22 leaves 3 rows to each rank, 21 leaves 3 and 2, 17 leaves 1 and none
    width: int = 6

    def data(self) -> Tensor:
        x = torch.rand(self.size, self.width, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
        return (x > 0.5).double() if self.loss in (binary, weighted) else x


CASES = {
    "gaussian": Case(lambda: pv.gaussian_vae(6, 2, (7,)), gaussian, 21),
    "no_row": Case(lambda: pv.gaussian_vae(6, 2, (7,)), gaussian, 17),
    "iwae": Case(lambda: pv.iwae(6, 2, (7,), particles=4), weighted, 21),
    "recycled": Case(lambda: pv.ric_vae(6, 2, (7,), passes=3), recycled, 21),
    "student": Case(lambda: pv.t_vae(6, 2, (7,)), student, 21),
    "free_bits": Case(floored, with_free_bits, 22),
    "mmd": Case(lambda: pv.wae_mmd(6, 2, (7,)), together, 22),
    "batch_norm": Case(lambda: pv.cnn_vae(16, 2, (3, 4)), binary, 22, 16),
    # A single value per channel and rank, two of all: a norm of them, not of the running statistics.
    "one_pixel": Case(lambda: pv.cnn_vae(4, 2, (3,)), binary, 18, 4),
}


def on_two_ranks(folder: Path) -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    for name, case in CASES.items():
        torch.manual_seed(5 + fabric.global_rank)  # the second starts elsewhere: it must be given the first's
        pair = case.make().double()
        if fabric.global_rank == 0:
            save_file({key: t.clone() for key, t in pair.state_dict().items()}, folder / f"{name}.start")
        history = pv.fit(
            pair, case.data(), steps=STEPS, batch_size=ROWS, lr=LR, seed=SEED, log_every=1, progress=False,
            fabric=fabric,
        )  # fmt: skip
        save_file({key: t.clone() for key, t in pair.state_dict().items()}, folder / f"{name}.{fabric.global_rank}")
        if fabric.global_rank == 0:
            (folder / f"{name}.json").write_text(json.dumps(history.rows))


def by_hand(case: Case, start: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """What one process of 8 rows per step makes of a start: the end, and loss and bound on the way."""
    pair = case.make().double()
    pair.load_state_dict(start)
    pair.train()
    x, noise, each = case.data(), Noise(), math.ceil(case.size / (2 * ROWS))
    learned, rows = list(pair.parameters()), []
    mean, square = ([torch.zeros_like(p) for p in learned] for _ in range(2))
    for step in range(STEPS):
        epoch, i = divmod(step, each)
        order = torch.randperm(case.size, generator=torch.Generator().manual_seed(SEED * 1_000_003 + epoch))
        batch = order[2 * ROWS * i : 2 * ROWS * (i + 1)]
        noise.rows = [len(batch[rank::2]) for rank in (0, 1)]
        loss, bound = case.loss(pair, x[torch.cat([batch[rank::2] for rank in (0, 1)])], noise)
        rows.append((loss.item(), bound.item()))
        rate = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        gradients = torch.autograd.grad(loss, learned)
        for p, g, m, v in zip(learned, gradients, mean, square, strict=True):
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g * g)
            corrected = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            p.data -= rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
    return pair.state_dict(), rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    pytest.importorskip("lightning_fabric")
    folder = tmp_path_factory.mktemp("by_hand")
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_what_their_mathematics_says(name, trained, monkeypatch):
    monkeypatch.setattr(Norm, "forward", norm)
    start, ends = load_file(trained / f"{name}.start"), [load_file(trained / f"{name}.{rank}") for rank in (0, 1)]
    expected, rows = by_hand(CASES[name], start)
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in expected)
    torch.testing.assert_close(ends[0], dict(expected), rtol=1e-10, atol=1e-12)
    assert not any(torch.equal(start[key], ends[0][key]) for key, _ in CASES[name].make().named_parameters())
    logged = [(row["loss"], row["bound"]) for row in json.loads((trained / f"{name}.json").read_text())]
    assert [end for one in logged for end in one] == pytest.approx([end for one in rows for end in one], rel=1e-10)


if __name__ == "__main__":
    on_two_ranks(Path(sys.argv[1]))
