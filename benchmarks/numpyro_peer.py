"""NumPyro, in a process of its own that waits while others are measured.

`python -m benchmarks.numpyro_peer ARCH MODE`: a line "go N" on standard input takes N steps, and a line of JSON comes
back: the seconds per step, and the seconds of compilation before them, which do not count. MODE is `jit` (one call per
step) or `scan` (one call for N steps). Imports no torch.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

DATA_DIM = 784
# hidden, latent, batch, particles, activation: those of benchmarks.architectures.
SIZES: dict[str, tuple[tuple[int, ...], int, int, int, str]] = {
    "a": ((400,), 20, 128, 1, "Relu"),
    "b": ((1000, 500, 250), 30, 100, 1, "Relu"),
    "c": ((200, 200), 50, 20, 50, "Tanh"),
}


def programs(hidden: Sequence[int], latent: int, activation: str) -> tuple[Callable[..., None], Callable[..., None]]:
    """Model and guide, as in NumPyro's own VAE example."""
    import jax
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries import stax

    def layers(widths: Sequence[int]) -> list[Any]:
        return [layer for width in widths for layer in (stax.Dense(width), getattr(stax, activation))]

    scale = stax.elementwise(lambda h: jax.nn.softplus(h) + 1e-5)
    heads = (stax.FanOut(2), stax.parallel(stax.Dense(latent), stax.serial(stax.Dense(latent), scale)))
    encoder_net = stax.serial(*layers(hidden), *heads)
    decoder_net = stax.serial(*layers(hidden[::-1]), stax.Dense(DATA_DIM))

    def model(x: Any) -> None:
        decoder = numpyro.module("decoder", decoder_net, (len(x), latent))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([latent]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encoder = numpyro.module("encoder", encoder_net, (len(x), DATA_DIM))
        with numpyro.plate("data", len(x)):
            loc, sd = encoder(x)
            numpyro.sample("z", dist.Normal(loc, sd).to_event(1))

    return model, guide


class Training:
    """One training that goes on from slice to slice."""

    def __init__(self, architecture: str, mode: str, file: str | None, seed: int = 0):
        import jax
        import jax.numpy as jnp
        import numpy as np
        from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO
        from numpyro.optim import Adam

        hidden, latent, self.size, particles, activation = SIZES[architecture]
        noise = np.random.default_rng(seed)
        data = np.load(file) if file else noise.random((60_000, DATA_DIM)) < 0.13
        self.x, self.mode, self.taken = jnp.asarray(data, jnp.float32), mode, 0
        loss = TraceMeanField_ELBO() if particles == 1 else RenyiELBO(alpha=0, num_particles=particles)
        self.svi = SVI(*programs(hidden, latent, activation), Adam(1e-3), loss)
        self.state = self.svi.init(jax.random.PRNGKey(seed), self.x[: self.size])
        self.compiled: dict[int, Any] = {}

    def update(self, state: Any, i: Any, x: Any) -> tuple[Any, Any]:
        """One step on batch i."""
        import jax

        start = (i % (len(x) // self.size)) * self.size
        return self.svi.update(state, jax.lax.dynamic_slice_in_dim(x, start, self.size))

    def scan(self, steps: int) -> Callable[..., tuple[Any, Any]]:
        """That many steps as one program."""
        import jax
        import jax.numpy as jnp

        def run(state: Any, first: Any, x: Any) -> tuple[Any, Any]:
            return jax.lax.scan(lambda s, i: self.update(s, i, x), state, first + jnp.arange(steps))

        return run

    def go(self, steps: int) -> dict[str, float]:
        """Take steps; only what follows compilation counts."""
        import jax

        length = steps if self.mode == "scan" else 1
        began = time.perf_counter()
        if length not in self.compiled:
            function = self.scan(length) if self.mode == "scan" else self.update
            self.compiled[length] = jax.jit(function, donate_argnums=0).lower(self.state, 0, self.x).compile()
        compiled = self.compiled[length]
        ready = time.perf_counter()
        for _ in range(steps // length):
            self.state, loss = compiled(self.state, self.taken, self.x)
            self.taken += length
        jax.block_until_ready((self.state, loss))
        return {"seconds": (time.perf_counter() - ready) / steps, "compile": ready - began}


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.numpyro_peer", description=__doc__)
    parser.add_argument("architecture", choices=SIZES)
    parser.add_argument("mode", choices=("jit", "scan"))
    parser.add_argument("--data", help="a .npy of shape (N, 784); random ones without it")
    parser.add_argument("--threads", type=int, help="cores that may be used")
    args = parser.parse_args()
    if args.threads and hasattr(os, "sched_setaffinity"):
        # JAX takes one thread per core that it may run on.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    training = Training(args.architecture, args.mode, args.data)
    for line in sys.stdin:
        print(json.dumps(training.go(int(line.split()[1]))), flush=True)


if __name__ == "__main__":
    main()
