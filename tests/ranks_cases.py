"""What two ranks are asked to do, in one launch; what each found lies in a file of its own.

python tests/ranks_cases.py OUT CASE...
"""

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from threading import Event, Thread

import torch
from safetensors.torch import save_file
from small import BINARY, sizes

import pyro_vaes as pv
from pyro_vaes.data.rows import Rows
from pyro_vaes.inference.lock import held
from pyro_vaes.inference.rows import Still
from pyro_vaes.inference.state import state

STEPS, ROWS, BATCH, D = 4, 20, 8, 6


def pair_of(name):
    torch.manual_seed(3)
    return pv.VARIANTS[name](**sizes(name, D, 3, (8,)))


def data_of(name, pair):
    """Rows, and conditions, every third without its label where data may lack it."""
    torch.manual_seed(4)
    x, labels = torch.rand(ROWS, D), torch.arange(ROWS) % max(pair.condition_dim, 1)
    y = None
    if pair.condition_dim:
        y = torch.nn.functional.one_hot(labels, pair.condition_dim).float()
        if pair.partial:
            y[::3] = 0
    return (x > 0.5).float() if name in BINARY else x, y


def still(name, fabric=None, **options):
    """Train under noise that is the same for every row, so that ranks and one process see the same."""
    pair = pair_of(name)
    x, y = data_of(name, pair)
    batch = BATCH // (1 if fabric is None else fabric.world_size)
    settings = {"steps": STEPS, "batch_size": batch, "log_every": 1, "progress": False, "engine": "eager"} | options
    with Still(), warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.EngineWarning)
        history = pv.fit(pair, x, y, fabric=fabric, **settings)
    return pair, history


def noisy(name, fabric, **options):
    """Train with noise, each rank its own."""
    pair = pair_of(name)
    x, y = data_of(name, pair)
    settings = {"steps": STEPS, "batch_size": BATCH // 2, "log_every": 1, "progress": False, "engine": "eager"}
    return pair, pv.fit(pair, x, y, fabric=fabric, **settings | options)


def refused(fabric, call):
    try:
        call()
    except (pv.InputError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


class Centred(torch.nn.Module):
    """An objective in which rows meet, and which does not say so."""

    def forward(self, model, guide, x, y=None, *, size=None):
        return pv.ELBO()(model, guide, x - x.mean(0).abs(), y, size=size)


class Bad(torch.nn.Module):
    """An objective that is not finite for one datum."""

    def forward(self, model, guide, x, y=None, *, size=None):
        loss = pv.ELBO()(model, guide, x, y, size=size)
        bad = torch.where(x[:, 0] == 0.25, torch.nan, 0.0).sum()
        return loss._replace(total=loss.total + bad, terms={n: t + bad for n, t in loss.terms.items()})


def case_bad(fabric, out):
    pair = pair_of("l2_vae")
    pair.objective = Bad()
    x = torch.rand(ROWS, D, generator=torch.Generator().manual_seed(0))
    x[7, 0] = 0.25
    options = {"steps": 10, "batch_size": 4, "fabric": fabric, "progress": False, "engine": "eager"}
    return refused(fabric, lambda: pv.fit(pair, x, **options))


class Torn(Rows):
    """Rows of which one can be read among many, and not in a batch: one rank alone meets it."""

    dtype, shape = torch.float32, (ROWS, D)

    def __init__(self):
        self.x = torch.rand(ROWS, D, generator=torch.Generator().manual_seed(0))

    def read(self, numbers):
        if len(numbers) < 8 and 18 in numbers:
            raise pv.InputError("row 18 is torn")
        return self.x[numbers], None

    def checksum(self):
        return 1


def case_torn(fabric, out):
    """The others do not wait for it, and all say what it was; the pair is as it was before that step."""
    pair, options = pair_of("l2_vae"), {"batch_size": 2, "fabric": fabric, "progress": False, "log_every": 1}
    told = refused(fabric, lambda: pv.fit(pair, Torn(), steps=12, engine="eager", out=out / "torn", **options))
    keep(out, f"torn.{fabric.global_rank}", {"pair": pair})
    return told


def case_held(fabric, out):
    """A folder that is in use, which the first rank alone finds out."""
    pair, done, began = pv.two_stage_vae(D, 2, hidden=(4,), second_hidden=(4,)), Event(), Event()

    def work():
        with held(out / "held"):
            began.set()
            done.wait()

    other = Thread(target=work)
    if not fabric.global_rank:
        other.start()
        began.wait()
    x, options = torch.rand(ROWS, D), {"steps": 2, "fabric": fabric, "progress": False}
    told = refused(fabric, lambda: pv.fit_stages(pair, x, out=out / "held", **options))
    if not fabric.global_rank:
        done.set()
        other.join()
    return told


def case_centred(fabric, out):
    pair = pair_of("l2_vae")
    pair.objective = Centred()
    return refused(fabric, lambda: pv.fit(pair, torch.rand(ROWS, D), steps=2, fabric=fabric, progress=False))


def case_different(fabric, out):
    x = torch.full((ROWS, D), 0.5 + 0.1 * fabric.global_rank)
    return refused(fabric, lambda: pv.fit(pair_of("l2_vae"), x, steps=2, fabric=fabric, progress=False))


def case_ragged(fabric, out):
    options = {"steps": 2, "batch_size": 4, "fabric": fabric, "progress": False}
    return refused(fabric, lambda: pv.fit(pair_of("wae_mmd"), torch.rand(19, D), **options))


def case_replicas(fabric, out):
    return refused(fabric, lambda: pv.fit(pair_of("l2_vae"), torch.rand(9, D), replicas=2, fabric=fabric))


def case_signal(fabric, out):
    """The scheduler tells one rank alone."""

    def tell(step):
        if fabric.global_rank == 1 and step == 33:
            signal.raise_signal(signal.SIGTERM)

    _, history = noisy("l2_vae", fabric, steps=500, on_step=tell, out=out / "told")
    return {"step": history.step, "signal": history.interrupted}


def case_resumed(fabric, out):
    pairs = {"whole": noisy("l2_vae", fabric, steps=40, checkpoint_every=15, out=out / "whole")[0]}

    def stop(step):
        if step == 27:
            signal.raise_signal(signal.SIGTERM)

    _, history = noisy("l2_vae", fabric, steps=40, checkpoint_every=15, out=out / "cut", on_step=stop)
    pairs["cut"], later = noisy("l2_vae", fabric, steps=40, checkpoint_every=15, out=out / "cut", resume=True)
    keep(out, f"resumed.{fabric.global_rank}", pairs)
    return [history.step, later.step, [row["step"] for row in later.rows]]


def case_halfway(fabric, out):
    """Stop half-way; one process goes on."""

    def stop(step):
        if step == 11:
            signal.raise_signal(signal.SIGTERM)

    _, history = still("l2_vae", fabric, steps=30, out=out / "halfway", on_step=stop)
    return history.step


def case_graph(fabric, out):
    pairs = {kind: noisy("l2_vae", fabric, steps=12, engine=kind)[0] for kind in ("eager", "graph")}
    keep(out, f"graph.{fabric.global_rank}", pairs)
    return None


def case_small(fabric, out):
    """A last batch of one row, for two ranks."""
    pair = pair_of("l2_vae")
    x = data_of("l2_vae", pair)[0][:9]
    with Still():
        pv.fit(pair, x, steps=5, batch_size=4, fabric=fabric, progress=False, engine="eager")
    keep(out, f"small.{fabric.global_rank}", {"pair": pair})
    return None


def case_still(fabric, out):
    rows = {}
    for name in pv.VARIANTS:
        pair, history = still(name, fabric)
        keep(out, f"still.{name}.{who(fabric)}", {"pair": pair})
        rows[name] = [row["loss"] for row in history.rows]
    return rows


def case_noisy(fabric, out):
    for name in ("l2_vae", "iwae", "ric_vae"):
        keep(out, f"noisy.{name}.{fabric.global_rank}", {"pair": noisy(name, fabric)[0]})
    return None


def case_kinds(fabric, out):
    from ranks_kinds import KINDS, trained

    rows = {}
    for name in KINDS:
        pair, rows[name] = trained(name, out, fabric)
        keep(out, f"kinds.{name}.{fabric.global_rank}", {"pair": pair})
    return rows


def case_fresh(fabric, out):
    """What an augmentation draws belongs to the rank that it draws on."""
    drawn = []

    def fresh(x):
        drawn.append(torch.rand(()).item())
        return x

    noisy("l2_vae", fabric, augment=fresh)
    return drawn


def case_sampled(fabric, out):
    from ranks_kinds import sampled

    save_file(sampled(fabric, out), out / f"sampled.{fabric.global_rank}.safetensors")
    return (out / "posterior.nc").is_file()


def case_unlike(fabric, out):
    """Sampling with a seed of one's own on each rank."""
    pair = pair_of("l2_vae")
    options = {"samples": 30, "seed": fabric.global_rank, "fabric": fabric}
    return refused(fabric, lambda: pv.log_likelihood(pair, data_of("l2_vae", pair)[0], **options))


def case_nan(fabric, out):
    from ranks_kinds import not_a_number

    return refused(fabric, lambda: not_a_number(fabric))


def keep(out, name, pairs):
    tensors = {f"{k}.{n}": t.detach().clone() for k, pair in pairs.items() for n, t in state(pair).items()}
    save_file(tensors, out / f"{name}.safetensors")


def cases_of(fabric, out, names):
    found = {name: globals()[f"case_{name}"](fabric, out) for name in names}
    (out / f"found.{who(fabric)}.json").write_text(json.dumps(found))


def who(fabric):
    return "alone" if fabric is None else fabric.global_rank


def main(out, names):
    """By default Fabric starts this file again for the second rank; WAY and NODES ask for something else."""
    from lightning_fabric import Fabric

    if os.environ.get("WAY") == "alone":
        return cases_of(None, out, names)
    strategy, nodes = os.environ.get("WAY", "ddp"), int(os.environ.get("NODES", "1"))
    fabric = Fabric(accelerator="cpu", devices=2 // nodes, num_nodes=nodes, strategy=strategy)
    if strategy == "ddp":
        fabric.launch()
        return cases_of(fabric, out, names)
    return fabric.launch(cases_of, out, names)


if __name__ == "__main__":
    sys.modules["ranks_cases"] = sys.modules["__main__"]
    main(Path(sys.argv[1]), sys.argv[2:])
