"""However the processes of a training are started, it is the same training; and what is refused before it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import pyro_vaes as pv
from pyro_vaes.cli import COMMANDS, main
from pyro_vaes.commands.ranks import fabric_of
from pyro_vaes.inference.ranks import Ranks

pytest.importorskip("lightning_fabric")
HERE = Path(__file__).parent
# What a surrounding job would say of itself.
OTHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "WAY", "NODES")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run(commands):
    """Run commands beside each other, each with what it finds in its environment; give what they printed."""
    own = {k: v for k, v in os.environ.items() if k not in OTHERS and not k.startswith(("SLURM", "TORCHELASTIC"))}
    started = [
        subprocess.Popen(words, env={**own, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words, more in commands
    ]
    try:
        told = [one.communicate(timeout=600) for one in started]
    finally:
        for one in started:
            one.kill()
    assert not [one.returncode for one in started if one.returncode], [err[-2000:] for _, err in told]
    return [out for out, _ in told]


def slurm(rank, nodes, port):
    per_node = 2 // nodes
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "2", "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS_PER_NODE": str(per_node), "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % per_node), "SLURM_NODEID": str(rank // per_node), "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": port, "NODES": str(nodes),
    }  # fmt: skip


def ways(out):
    """The processes that each way of starting two ranks consists of."""
    script, python, port = [str(HERE / "ranks_cases.py"), str(out), "noisy"], sys.executable, free_port()
    torchrun = [python, "-m", "torch.distributed.run"]
    where = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port]
    nodes = {"NODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {
        "Fabric": [([python, *script], {})],
        "torchrun": [([*torchrun, "--standalone", "--nproc_per_node", "2", *script], {})],
        "torchrun on two nodes": [
            ([*torchrun, *where, "--node_rank", str(r), *script], {"NODES": "2"}) for r in (0, 1)
        ],
        "SLURM": [([python, *script], slurm(r, 1, port)) for r in (0, 1)],
        "SLURM on two nodes": [([python, *script], slurm(r, 2, port)) for r in (0, 1)],
        "two nodes by hand": [([python, *script], {**nodes, "NODE_RANK": str(r), "LOCAL_RANK": "0"}) for r in (0, 1)],
        "ddp_spawn": [([python, *script], {"WAY": "ddp_spawn"})],
        "ddp_notebook": [([python, *script], {"WAY": "ddp_notebook"})],
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    run(ways(out)["Fabric"])
    return out


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in ways(Path()) if way != "Fabric"])
def test_however_ranks_are_started_they_train_the_same(reference, tmp_path, way):
    run(ways(tmp_path)[way])
    for rank in (0, 1):
        for name in ("l2_vae", "iwae", "ric_vae"):
            one, other = (load_file(f / f"noisy.{name}.{rank}.safetensors") for f in (reference, tmp_path))
            assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.slow
def test_commands_on_two_devices_find_what_one_finds(tmp_path):
    x = np.random.default_rng(0).random((1100, 5), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    cli, port = [sys.executable, "-m", "pyro_vaes.cli"], free_port()
    data, small = str(tmp_path / "x.npy"), ["--latent_dim", "2", "--hidden", "[4]", "--steps", "30"]
    fit = [*cli, "fit", "gaussian_vae", "--data", data, *small, "--devices", "2", "--out", str(tmp_path / "run")]
    told = run([(fit, slurm(rank, 1, port)) for rank in (0, 1)])
    assert "wrote" in told[0] and not told[1]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["devices"] == 2
    kept = {}
    for devices in ("1", "2"):
        for command in (
            ["evaluate", "--likelihood", "20", "--rows", "250"],
            ["posterior", "--draws", "30", "--rows", "100", "--entries", "0"],
            ["clean", data, str(tmp_path / f"cleaned.{devices}.npz")],
        ):
            out = run([([*cli, command[0], str(tmp_path / "run"), *command[1:], "--devices", devices], {})])[0]
            assert out.count("wrote") >= 1
        read = json.loads((tmp_path / "run" / "evaluation.json").read_text())
        with pv.open_posterior(tmp_path / "run" / "posterior.nc", lazy=True) as tree:
            kept[devices] = read, tree.load()
    assert kept["1"][0] == kept["2"][0] and kept["1"][1].identical(kept["2"][1])
    with np.load(tmp_path / "cleaned.1.npz") as one, np.load(tmp_path / "cleaned.2.npz") as two:
        assert all((one[name] == two[name]).all() for name in ("mean", "score"))
        assert one["sd"].mean() == pytest.approx(two["sd"].mean(), rel=0.02) and not (one["sd"] == two["sd"]).all()


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_strategies_that_share_out_parameters_are_refused(strategy):
    fabric = SimpleNamespace(all_reduce=None, global_rank=0, world_size=2, strategy=type(strategy, (), {})())
    with pytest.raises(pv.InputError, match=f"strategy {strategy}: it must be ddp, in which every rank has all"):
        Ranks.of(fabric)


@pytest.mark.parametrize(
    ("told", "devices", "words"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}, 1, "but this is one of 2 processes of a job"),
        ({"SLURM_STEP_NUM_TASKS": "3"}, 2, "devices is 2, num_nodes 1, but this is one of 3 processes of a job"),
        ({"SLURM_NTASKS": "2"}, 2, "these devices cannot be had: .*ntasks"),
        ({"RANK": "abc"}, 2, "the environment has RANK=abc: it must be a whole number, or left out"),
    ],
)
def test_a_job_of_another_size_is_refused(monkeypatch, told, devices, words):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(pv.InputError, match=words):
        fabric_of(devices, 1, "ddp", "cpu", 600)


def test_one_process_alone_speaks_whatever_rank_its_surroundings_name(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["describe", "l2_vae"]) == 0
    assert "site | p" in capsys.readouterr().out


def test_devices_that_have_nothing_to_share_are_refused(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path), "--devices", "2"]) == 2
    assert "share out what likelihood and ais ask for, and neither" in capsys.readouterr().err


def test_a_lost_rank_is_one_line(monkeypatch, capsys):
    def lost():
        """Be left alone."""
        raise pv.RankLost("rank 0 stops: another rank has gone")

    monkeypatch.setitem(COMMANDS, "variants", lost)
    assert main(["variants"]) == 1
    assert capsys.readouterr().err == "pyro-vaes: rank 0 stops: another rank has gone\n"
