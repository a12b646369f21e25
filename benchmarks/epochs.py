"""The time of one epoch, with everything that a training loop does besides the steps."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.fitting import Fit
from benchmarks.harness import Effort, Local, Row, Runner, measure, ticks
from benchmarks.ours import KINDS
from benchmarks.peers import LR, Peer, own_store, pyro_adam
from benchmarks.pythae_peer import trainer
from benchmarks.summary import summary

NAME = "bench-epochs"
REFERENCE = "hand, DataLoader"
EFFORTS = {"quick": Effort(repetitions=5, seconds=0.0, warm=1), "paper": Effort(repetitions=10, seconds=0.0, warm=1)}
ROWS = {"quick": 12_800, "paper": 60_000}


def by_hand(architecture: Architecture, x: Tensor, device: torch.device) -> Peer:
    """Plain torch with torch's data loader."""
    network = architecture.hand().to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=LR)
    loader = _loader(architecture, x)

    def epoch() -> float:
        total = 0.0
        for batch, _ in loader:
            optimiser.zero_grad()
            loss = network(batch.to(device))
            loss.backward()
            optimiser.step()
            total += loss.item()
        return total

    return Peer(epoch)


def by_hand_resident(architecture: Architecture, x: Tensor, device: torch.device) -> Peer:
    """Plain torch at its best: fused Adam, data on the device, rows picked by a permutation."""
    network, x = architecture.hand().to(device), x.to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=LR, fused=True)

    def epoch() -> float:
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(x), device=device).split(architecture.batch):
            optimiser.zero_grad()
            loss = network(x[rows])
            loss.backward()
            optimiser.step()
            total += loss.detach()
        return total.item()

    return Peer(epoch)


def pyro_example(architecture: Architecture, x: Tensor, device: torch.device, *, validation: bool) -> Peer:
    """The loop of Pyro's VAE example: a data loader and SVI.step."""
    pair, loader = architecture.pair().to(device), _loader(architecture, x)
    loop = SVI(pair.model, pair.guide, pyro_adam({"lr": LR}), Trace_ELBO())

    def epoch() -> float:
        total = 0.0
        for batch, _ in loader:
            total += loop.step(batch.to(device))
        return total / len(x)

    return Peer(epoch, own_store(validation))


def pythae(architecture: Architecture, x: Tensor, device: torch.device) -> Peer:
    """pythae's trainer."""
    made = trainer(architecture, x)
    return Peer(lambda: made.train_step(1))


PEERS: dict[str, Callable[[Architecture, Tensor, torch.device], Peer]] = {
    REFERENCE: by_hand,
    "hand, fused Adam, resident data": by_hand_resident,
    "Pyro's VAE example": partial(pyro_example, validation=True),
    "Pyro's VAE example, no validation": partial(pyro_example, validation=False),
    "pythae BaseTrainer": pythae,
}


def run(x: Tensor, scale: str, effort: Effort | None = None) -> dict[str, Any]:
    """Measure an epoch of everyone on (a), and scale it to all rows of the data."""
    effort = effort or EFFORTS[scale]
    architecture, device = ARCHITECTURES["a"], x.device
    some = x[: ROWS[scale]]
    on_host = some.cpu()
    makers: dict[str, Callable[[], Runner]] = {
        name: partial(_local, peer, architecture, on_host, device) for name, peer in PEERS.items()
    }
    batches = math.ceil(len(some) / architecture.batch)
    for kind in KINDS:
        fit = partial(Fit, kind, architecture.pair, some, architecture.batch, unit=batches, skip=batches)
        makers[f"pyro-vaes fit, {kind}"] = fit
    with tqdm(total=ticks(len(makers), effort), desc=NAME) as bar:
        torch.manual_seed(0)
        rows, absent = measure(makers, effort, bar)
    found = summary(rows, REFERENCE)
    for name, row in rows.items():
        found[name]["seconds per 60000"] = _scaled(row, len(some))
    architectures = {"a": {"title": architecture.title, "batch": architecture.batch, "rows": found, "absent": absent}}
    return {"reference": REFERENCE, "rows of data": len(some), "architectures": architectures}


def _scaled(row: Row, rows: int) -> float:
    return round(sorted(row.times)[len(row.times) // 2] * 60_000 / rows, 3)


def _local(peer: Callable[..., Peer], architecture: Architecture, x: Tensor, device: torch.device) -> Runner:
    return Local(lambda: peer(architecture, x, device), device)


def _loader(architecture: Architecture, x: Tensor) -> DataLoader:
    return DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=architecture.batch, shuffle=True)
