"""Trainings of every kind, small, which several ranks and one process do alike under noise that is the same for every
row; and what sampling is compared on."""

import numpy as np
import ranks_cases as cases
import torch

import pyro_vaes as pv
from pyro_vaes.inference import batches as reading

D, ROWS = cases.D, cases.ROWS


def partial(out):
    """Labels that some data lack."""
    pair = cases.pair_of("m2_vae")
    labels = torch.arange(ROWS) % pair.condition_dim
    labels[::3] = -1
    return pair, cases.data_of("m2_vae", pair)[0], labels, {}


def holes(out):
    pair = cases.pair_of("l2_vae")
    pair.objective = pv.Masked(pv.ELBO(), 0.25)
    x = cases.data_of("l2_vae", pair)[0]
    return pair, torch.where(torch.arange(ROWS * D).reshape(ROWS, D) % 7 == 0, torch.nan, x), None, {}


def warm_up(out):
    pair = cases.pair_of("vae")
    return pair, *cases.data_of("vae", pair), {"schedules": {"beta": (0, 1, 3)}}


def drawn_anew(out):
    pair = cases.pair_of("vae")
    return pair, torch.rand(ROWS, D, generator=torch.Generator().manual_seed(0)), None, {"augment": "dynamic"}


def fitted_after(out):
    """A prior that is fitted to the codes once training is over."""
    pair = cases.pair_of("empirical_cvae")
    return pair, *cases.data_of("empirical_cvae", pair), {}


def in_stages(out):
    pair = cases.pair_of("two_stage_vae")
    return pair, *cases.data_of("two_stage_vae", pair), {"steps": [4, 3]}


def pixels(out):
    pair = cases.pair_of("l2_vae")
    return pair, (cases.data_of("l2_vae", pair)[0] * 255).to(torch.uint8), None, {}


def from_a_map(out):
    """A file larger than what is held at once."""
    pair = cases.pair_of("l2_vae")
    path = out / "x.npy"
    if not path.exists():  # written by the parent, before the ranks are started
        np.save(path, cases.data_of("l2_vae", pair)[0].numpy())
    return pair, torch.from_numpy(np.load(path, mmap_mode="c")), None, {}


def bits(out):
    pair = cases.pair_of("gaussian_vae")
    pair.objective = pv.ELBO(free_bits=0.02)
    return pair, *cases.data_of("gaussian_vae", pair), {}


def one_row(out):
    pair = cases.pair_of("iwae")
    return pair, *cases.data_of("iwae", pair), {"batch_size": 2, "steps": 12}


def game(out):
    """A discriminator that is held still in some steps, by its accuracy on the whole batch."""
    pair = cases.pair_of("vae_gan")
    pair.objective.threshold.fill_(0.55)
    return pair, *cases.data_of("vae_gan", pair), {"steps": 25, "lr": 0.02}


def norms(out):
    pair = cases.pair_of("ladder_vae")
    return pair, *cases.data_of("ladder_vae", pair), {"steps": 6}


ALL = (partial, holes, warm_up, drawn_anew, fitted_after, in_stages, pixels, from_a_map, bits, one_row, game, norms)
KINDS = {kind.__name__: kind for kind in ALL}


def trained(name, out, fabric=None):
    """Train a kind; give the pair and its rows."""
    pair, x, y, options = KINDS[name](out)
    settings = {"steps": cases.STEPS, "batch_size": cases.BATCH, "log_every": 1, "progress": False, "engine": "eager"}
    settings |= options
    settings["batch_size"] //= 1 if fabric is None else fabric.world_size
    large, reading.LARGE = reading.LARGE, 0 if name == "from_a_map" else reading.LARGE
    fit = pv.fit_stages if name == "in_stages" else pv.fit
    try:
        with cases.Still():
            found = fit(pair, x, y, fabric=fabric, **settings)
    finally:
        reading.LARGE = large
    rows = [row for history in (found if isinstance(found, list) else [found]) for row in history.rows]
    return pair, rows


def sampled(fabric, out):
    """Name -> (N, ...): what is shared out, with a last batch that is smaller, and with fewer batches than ranks."""
    pair, conditional = cases.pair_of("gaussian_vae").eval(), cases.pair_of("cvae").eval()
    x = cases.data_of("gaussian_vae", pair)[0]
    binary, y = cases.data_of("cvae", conditional)
    path = pv.Annealing(temperatures=3, leapfrog=2)
    found = {
        "is": pv.log_likelihood(pair, x, samples=30, batch_size=3, chunk=20, fabric=fabric),
        "one batch": pv.log_likelihood(pair, x, samples=30, fabric=fabric),
        "ais": pv.log_likelihood(pair, x, samples=4, method="ais", annealing=path, batch_size=7, fabric=fabric),
        "given y": pv.log_likelihood(conditional, binary, y, samples=30, batch_size=8, fabric=fabric),
        "cleaned": pv.clean(pair, x, draws=5, batch_size=6, fabric=fabric),
    }
    pv.write_posterior(out / "posterior.nc", pair, x, draws=30, replicates=3, batch_size=3, chunk=20, fabric=fabric)
    return {f"{n}.{k}": t.clone() for n, columns in found.items() for k, t in vars(columns).items()}


def not_a_number(fabric):
    """A weight of one datum, on the second rank, is none."""
    pair = cases.pair_of("gaussian_vae").eval()
    x = cases.data_of("gaussian_vae", pair)[0]
    x[5, 0] = 0.25
    first = next(m for m in pair.guide.modules() if isinstance(m, torch.nn.Linear))
    first.register_forward_hook(lambda _, given, out: out + torch.where(given[0][..., :1] == 0.25, torch.nan, 0.0))
    return pv.log_likelihood(pair, x, samples=30, batch_size=4, fabric=fabric)
