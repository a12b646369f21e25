"""Two ranks are one process of twice the batch: every variant, with and without noise, stopped, resumed, refused."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import ranks_cases as cases
import ranks_kinds as kinds
import torch
from safetensors.torch import load_file
from torch import nn

import pyro_vaes as pv
from pyro_vaes.inference.batches import Order
from pyro_vaes.inference.optimiser import factors, rule, skips
from pyro_vaes.inference.rows import declared, separable
from pyro_vaes.inference.state import state

pytest.importorskip("lightning_fabric")
HERE = Path(__file__).parent


def launch(out, *names):
    """Run cases on two ranks; Fabric starts the second."""
    command = [sys.executable, str(HERE / "ranks_cases.py"), str(out), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"found.{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    kinds.from_a_map(out)
    names = "bad torn held centred different ragged replicas signal resumed halfway graph small noisy kinds fresh"
    names += " sampled unlike nan"
    return out, launch(out, *names.split())


def own(pair):
    return {f"pair.{name}": tensor.detach() for name, tensor in state(pair).items()}


def difference(one, other):
    """The largest difference of two sets of tensors, relative to the largest entry of each."""
    assert one.keys() == other.keys()
    return max(
        float((one[n].double() - other[n].double()).abs().max() / other[n].double().abs().max().clamp(min=1e-3))
        for n in one
        if one[n].numel()
    )


@pytest.mark.parametrize("case", ["signal", "resumed", "graph", "bad", "torn", "held", "different"])
def test_both_ranks_found_the_same(found, case):
    assert found[1][0][case] == found[1][1][case]


def test_a_signal_to_one_rank_stops_both_after_the_same_step(found):
    assert found[1][0]["signal"] == {"step": 40, "signal": 15}


def test_two_ranks_go_on_bit_for_bit(found):
    out, results = found
    stopped, ended, steps = results[0]["resumed"]
    assert 27 <= stopped < 40 and ended == 40 and steps == list(range(1, 41))
    for rank in (0, 1):
        kept = load_file(out / f"resumed.{rank}.safetensors")
        for name in (n for n in kept if n.startswith("cut.")):
            assert torch.equal(kept[name], kept[name.replace("cut.", "whole.")]), name
    whole, cut = ((out / f / "metrics.jsonl").read_text().splitlines() for f in ("whole", "cut"))
    assert [json.loads(a)["loss"] for a in whole] == [json.loads(a)["loss"] for a in cut]


def test_one_process_goes_on_where_two_ranks_stopped(found):
    out, results = found
    assert results[0]["halfway"] == 20
    pair, history = cases.still("l2_vae", steps=30, out=out / "halfway", resume=True)
    once, reference = cases.still("l2_vae", steps=30)
    assert difference(own(pair), own(once)) < 1e-4
    assert [r["loss"] for r in history.rows] == pytest.approx([r["loss"] for r in reference.rows], rel=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_graph_is_the_program_on_every_rank(found, rank):
    kept = load_file(found[0] / f"graph.{rank}.safetensors")
    eager, graph = ({n.partition(".")[2]: t for n, t in kept.items() if n.startswith(k)} for k in ("eager", "graph"))
    assert difference(graph, eager) < 1e-4


def test_a_rank_without_a_row_of_its_own_waits(found):
    pair = cases.pair_of("l2_vae")
    x = cases.data_of("l2_vae", pair)[0][:9]
    with cases.Still():
        pv.fit(pair, x, steps=5, batch_size=8, progress=False, engine="eager")
    for rank in (0, 1):
        assert difference(load_file(found[0] / f"small.{rank}.safetensors"), own(pair)) < 1e-5


@pytest.mark.parametrize("name", ["l2_vae", "iwae", "ric_vae"])
def test_noise_is_each_ranks_own_and_gradients_are_averaged(found, name):
    """The same, computed in one process by hand, from the two ranks' random states."""
    pair = cases.pair_of(name).train()
    x, _ = cases.data_of(name, pair)
    learned = [p for p in pair.parameters() if p.requires_grad]
    adam = rule("adam")(learned, 1e-3, factors=factors(pair), skips=skips(pair))
    noise = [torch.Generator().manual_seed(rank).get_state() for rank in (0, 1)]
    order = Order(len(x), cases.BATCH, 0, x.device)
    for step in range(cases.STEPS):
        rows, gradients = order(step), []
        for rank in (0, 1):
            torch.set_rng_state(noise[rank])
            loss = pair(x[rows[rank::2]], size=len(x)).total * len(rows[rank::2]) / len(rows)
            gradients.append(torch.autograd.grad(loss, learned))
            noise[rank] = torch.get_rng_state()
        adam.lr.fill_(1e-3 * 0.5 * (1 + math.cos(math.pi * step / cases.STEPS)))
        adam.step([a + b for a, b in zip(*gradients, strict=True)])
    for rank in (0, 1):
        assert difference(load_file(found[0] / f"noisy.{name}.{rank}.safetensors"), own(pair)) < 1e-5


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("centred", "InputError: the loss of l2_vae on a batch is not the mean of its losses on the halves: rows meet"),
        ("different", "InputError: ranks 0 and 1 have different settings or data: data checksum"),
        ("ragged", "InputError: a batch of 3 (19 data, 8 per step) on 2 ranks: rows of a batch meet in wae_mmd"),
        ("replicas", "InputError: replicas are trained in one process"),
        ("bad", "Diverged: rank "),
        ("unlike", "InputError: ranks 0 and 1 have different arguments or data: seed"),
        ("nan", "Diverged: rank 1: a weight of the datum at row 5 is not a number"),
    ],
)
def test_what_ranks_cannot_do_is_refused(found, case, words):
    assert found[1][0][case].startswith(words)


def test_rows_that_one_rank_cannot_read_end_all_after_the_same_step(found):
    out, results = found
    assert results[0]["torn"] == "InputError: rank 1: row 18 is torn"
    assert [json.loads(line)["step"] for line in (out / "torn" / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    one, other = (load_file(out / f"torn.{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[n], other[n]) for n in one)


def test_a_folder_in_use_is_refused_on_all_ranks_of_a_fit_in_stages(found):
    assert "is in use by another thread" in found[1][0]["held"] and not (found[0] / "held").exists()


def test_a_divergence_on_one_rank_is_told_on_both_with_its_site(found):
    assert "at site" in found[1][0]["bad"] and "there is no checkpoint" in found[1][0]["bad"]


@pytest.mark.parametrize("name", kinds.KINDS)
def test_every_kind_of_training_is_that_of_one_process(found, name):
    out, results = found
    pair, rows = kinds.trained(name, out)
    one, other = (load_file(out / f"kinds.{name}.{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert difference(one, own(pair)) < 1e-4
    assert [r["loss"] for r in results[0]["kinds"][name]] == pytest.approx([r["loss"] for r in rows], rel=1e-5)
    assert [r.get("seen") for r in results[0]["kinds"][name]] == [r.get("seen") for r in rows]


def test_a_discriminator_waits_in_the_same_steps(found):
    skipped = [row["seen"]["skipped"] for row in found[1][0]["kinds"]["game"]]
    assert 0 < sum(skipped) < len(skipped)


def test_what_is_drawn_anew_is_each_ranks_own(found):
    one, other = (result["fresh"][-cases.STEPS :] for result in found[1])
    assert len(one) == len(other) and len({*one, *other}) == 2 * len(one) == 8


def test_sampling_on_two_ranks_is_that_of_one_process_bit_for_bit(found, tmp_path):
    from lightning_fabric import Fabric

    out, results = found
    one, other = (load_file(out / f"sampled.{rank}.safetensors") for rank in (0, 1))
    plain = kinds.sampled(None, tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    streams = kinds.sampled(fabric, tmp_path)
    assert one.keys() == plain.keys() and len(one) == 17
    for name in one:
        # Without a Fabric what is drawn in clean comes from one stream for all batches.
        reference = streams if name in ("cleaned.sd", "cleaned.probability", "cleaned.mask") else plain
        assert one[name].dtype == reference[name].dtype
        for found_there in (one[name], other[name]):
            assert torch.equal(found_there.nan_to_num(9), reference[name].nan_to_num(9)), name
    assert [result["sampled"] for result in results] == [True, True]
    mine, theirs = (pv.open_posterior(folder / "posterior.nc") for folder in (tmp_path, out))
    assert mine.identical(theirs)


@pytest.mark.slow
def test_every_variant_is_that_of_one_process(tmp_path):
    out = tmp_path
    results = launch(out, "still")
    assert set(results[0]["still"]) == set(pv.VARIANTS)
    off = {}
    for name in pv.VARIANTS:
        pair, history = cases.still(name)
        losses = torch.tensor([row["loss"] for row in history.rows]).double()
        for rank in (0, 1):
            in_loss = ((torch.tensor(results[rank]["still"][name]) - losses).abs() / losses.abs()).max().item()
            off[name, rank] = in_loss, difference(load_file(out / f"still.{name}.{rank}.safetensors"), own(pair))
    assert not {key: both for key, both in off.items() if both[0] > 2e-5 or both[1] > 5e-3}


@pytest.mark.parametrize("name", pv.VARIANTS)
def test_a_variant_says_whether_rows_meet(name):
    pair = cases.pair_of(name).train()
    x, y = cases.data_of(name, pair)
    assert separable(pair, x[:8], y if y is None else y[:8]) != declared(pair)


def test_free_bits_meet():
    """Where the mean over all rows is above them, and that over one half is not."""
    pair = cases.pair_of("gaussian_vae")
    x = torch.cat([torch.zeros(4, cases.D), torch.ones(4, cases.D)])
    halves = [pair(part).terms["z"].item() / 3 for part in (x[:4], x[4:])]
    pair.objective = pv.ELBO(free_bits=sum(halves) / 2)
    assert declared(pair) and not separable(pair, x)


class Dropping(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return nn.functional.dropout(self.inner(x), 0.5, self.training)


def test_dropout_is_noise_and_no_meeting():
    pair = cases.pair_of("l2_vae").train()
    pair.model.decoder = Dropping(pair.model.decoder)
    assert separable(pair, torch.rand(8, cases.D))


@pytest.mark.parametrize("fabric", [1, "ddp", object()])
def test_something_else_than_a_fabric_is_refused(fabric):
    with pytest.raises(pv.InputError, match=r"it must be a lightning_fabric\.Fabric"):
        pv.fit(cases.pair_of("l2_vae"), torch.rand(4, cases.D), fabric=fabric)


def test_a_fabric_that_is_not_launched_or_shares_out_parameters_is_refused():
    from lightning_fabric import Fabric

    with pytest.raises(pv.InputError, match=r"call fabric\.launch\(\)"):
        pv.fit(cases.pair_of("l2_vae"), torch.rand(4, cases.D), fabric=Fabric(accelerator="cpu", devices=2))


def test_a_fabric_of_one_is_one_process():
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    alone, with_it = cases.noisy("l2_vae", None)[0], cases.noisy("l2_vae", fabric)[0]
    assert difference(own(alone), own(with_it)) == 0


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 17, 1000, 4097])
def test_an_order_without_a_permutation_is_one(rows, monkeypatch):
    from pyro_vaes.inference import batches

    monkeypatch.setattr(batches, "SCATTERED", 0)
    order = Order(rows, 7, 5, torch.device("cpu"))
    epochs = [torch.cat([order(epoch * order.batches + i) for i in range(order.batches)]) for epoch in (0, 1)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(rows))
    if rows > 100:
        # Places say nothing of rows, nor one epoch of the next: correlations of a random order have sd 1 / sqrt(rows).
        kept = torch.stack([torch.arange(rows), *epochs, epochs[0].roll(1)]).double()
        assert (torch.corrcoef(kept) - torch.eye(4)).abs().max() < 4.5 / rows**0.5


def test_an_order_without_a_permutation_is_of_any_size():
    from pyro_vaes.inference.batches import scattered

    found = scattered(torch.arange(10**12 - 1000, 10**12), 10**12, seed=2**31 - 1, epoch=3)
    assert found.unique().numel() == 1000 and int(found.min()) >= 0 and int(found.max()) < 10**12
    assert found.double().mean() == pytest.approx(5e11, rel=0.1)
