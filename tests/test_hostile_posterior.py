"""What the audits, imputation and posterior.nc do with input that nobody should give them."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import pyro_vaes as pv
from pyro_vaes.cli import COMMANDS, main
from pyro_vaes.data import load
from pyro_vaes.errors import InputError
from pyro_vaes.inference.masked import Masked


def boom(*_):
    raise KeyError("boom")


@pytest.fixture(scope="module")
def pair():
    return pv.l2_vae(6, 2, (5,))


@pytest.fixture(scope="module")
def x():
    return torch.rand(7, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [2.5, float("nan"), "ab", (-2, -3), (2.0, 3.0), (True, 6), (1, 1, 2, 3), (5,), 0])
def test_a_bad_shape_is_refused_everywhere(pair, x, shape):
    for audit in (pv.to_datatree, pv.predictive_check, pv.check, pv.planted_outliers):
        with pytest.raises(InputError, match="shape is"):
            audit(pair, x, shape=shape)


def test_a_row_of_a_table_is_no_image(pair, x):
    assert "roughness" not in pv.predictive_check(pair, x, draws=30, shape=(6,)).names


def test_one_column_has_a_mean_and_no_spread():
    one = torch.rand(7, 1, generator=torch.Generator().manual_seed(0))
    assert pv.predictive_check(pv.l2_vae(1, 1, (4,)), one, draws=30).names == ("mean",)


@pytest.mark.parametrize("bad", [0, "mean", [3], {"f": 3}, {"f": boom}])
@pytest.mark.parametrize("name", ["statistics", "of_set", "functions"])
def test_functions_that_are_none_or_fail_are_named(pair, x, name, bad):
    with pytest.raises(InputError, match=f"{name} is|'f' fails: KeyError"):
        pv.sbc(pair, functions=bad, simulations=20) if name == "functions" else pv.predictive_check(
            pair, x, draws=20, **{name: bad}
        )


@pytest.mark.parametrize("f", [None, boom, lambda drawn: drawn.mean * torch.nan])
def test_what_cannot_be_averaged_is_refused(pair, x, f):
    with pytest.raises(InputError, match=r"^f (is None|fails: KeyError|is not finite)"):
        pv.reweighted(pair, x, f, draws=30)


def test_conditions_of_nobody_are_refused():
    with pytest.raises(InputError, match="y is empty"):
        pv.sbc(pv.cvae(6, 3, 2, (5,)), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize(
    "proposal", [3, "a", (1, 2), (torch.zeros(7, 2),), (torch.zeros(7, 2), -torch.eye(2).expand(7, 2, 2))]
)
def test_a_proposal_is_a_gaussian_for_every_datum(pair, x, proposal):
    with pytest.raises(InputError, match="proposal"):
        pv.gaps(pair, x, proposal=proposal)


def test_judging_outliers_takes_tensors(x):
    pair = pv.t_vae(6, 2, (5,))
    found, mask = pv.outlier_posterior(pair, x, draws=30), x > 0.6
    for bad in (None, "a", mask.numpy()):
        with pytest.raises(InputError, match="mask"):
            pv.judge_outliers(found, bad)
    for bad in ("a", x.numpy(), x * torch.nan, (255 * x).byte()):
        with pytest.raises(InputError, match="clean"):
            pv.judge_outliers(found, mask, bad)
    with pytest.raises(InputError, match="outlier_posterior"):
        pv.judge_outliers(mask, mask)
    for bad in ({"spec": 3}, {"seed": "a"}, {"seed": True}):
        with pytest.raises(InputError, match=r"spec|seed"):
            pv.planted_outliers(pair, x, **bad)
    assert pv.planted_outliers(pair, x.clone().requires_grad_(), draws=30, spec="impulse:0.3")[3].any()


@pytest.mark.parametrize("fill", [0, "a", [3], torch.zeros(3), torch.tensor(1.0), torch.full((6,), torch.nan)])
def test_a_bad_fill_is_refused(pair, x, fill):
    with pytest.raises(InputError, match="fill"):
        pv.impute(pair, x, [1, 1, 1, 1, 1, 0], fill=fill)


@pytest.mark.parametrize("share", [boom, lambda x: None, torch.ones_like, lambda x: torch.ones(3, dtype=torch.bool)])
def test_a_share_that_gives_no_mask_is_refused(pair, x, share):
    with pytest.raises(InputError, match=r"share (gives|fails)"):
        Masked(pair.objective, share)(pair.model, pair.guide, x)


def test_a_fill_of_another_width_is_refused(pair, x):
    with pytest.raises(InputError, match="fill has 4 entries, data have 6"):
        Masked(pair.objective, 0.5, torch.zeros(4))(pair.model, pair.guide, x)


def test_damaged_files_are_refused(pair, x, tmp_path):
    path = pv.write_posterior(tmp_path / "a.nc", pair, x, draws=25, replicates=2)
    whole = path.read_bytes()
    for low, high in ((3000, 9000), (20000, 22000), (len(whole) // 2, len(whole))):
        path.write_bytes(whole[:low] + bytes(255 - b for b in whole[low:high]) + whole[high:])
        with pytest.raises(InputError, match="not a readable netCDF file"):
            pv.to_arviz(path)
    for bad in (None, 3):
        with pytest.raises(InputError, match="path is"):
            pv.open_posterior(bad)
        with pytest.raises(InputError, match="path is"):
            pv.write_posterior(bad, pair, x)


def test_rows_of_a_table_that_lack_everything_stay_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",,\n1,,2\n,,\n\n3,4,5\n")
    found = load(path, missing=True).x
    assert found.shape == (4, 3) and found.isnan().sum(1).tolist() == [3, 1, 3, 0]


def test_a_file_of_something_else_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["a"] = np.ones(3)
    with pytest.raises(InputError, match="holds no posterior"):
        pv.to_arviz(tmp_path / "a.nc")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    np.save(folder / "x.npy", np.random.default_rng(0).random((12, 2, 3), dtype=np.float32))
    options = ["--data", str(folder / "x.npy"), "--latent-dim=2", "--hidden=[5]", "--steps=2", "--out", f"{folder}/run"]
    assert main(["fit", "l2_vae", *options]) == 0
    return folder


def test_the_mask_is_not_overwritten(run, capsys):
    mask = np.array([[1, 1, 0], [1, 1, 0]])
    np.save(run / "mask.npy", mask)
    words = ["--mask", f"{run}/mask.npy", "--output", f"{run}/mask.npy"]
    assert main(["impute", f"{run}/run", f"{run}/x.npy", *words]) == 2
    assert "would overwrite the input" in capsys.readouterr().err and np.array_equal(np.load(run / "mask.npy"), mask)


def test_sigterm_leaves_no_half_written_file(run, capsys, monkeypatch):
    from pyro_vaes.analysis import netcdf

    monkeypatch.setattr(netcdf, "_write", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before, handler = set(Path(run, "run").iterdir()), signal.getsignal(signal.SIGTERM)
    assert main(["posterior", f"{run}/run", "--rows=4", "--draws=2", "--replicates=2"]) == 143
    assert "stopped" in capsys.readouterr().err
    assert set(Path(run, "run").iterdir()) == before and signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")])
def test_too_little_memory_is_one_line(capsys, monkeypatch, error):
    def fail(run: str):
        """Fail."""
        raise error

    monkeypatch.setitem(COMMANDS, "check", fail)
    assert main(["check", "x"]) == 2
    said = capsys.readouterr().err
    assert "out of memory" in said and len(said.splitlines()) == 1


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(run, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    for words in (["posterior"], ["check"], ["impute", f"{run}/x.npy"]):
        assert main([words[0], f"{run}/run", *words[1:]]) == 2
        assert "cannot be written to" in capsys.readouterr().err


def test_a_run_that_was_trained_on_holes_says_so(tmp_path, capsys):
    for name, share in (("some", 0.5), ("all", 2)):
        x = np.random.default_rng(0).random((12, 4), dtype=np.float32)
        np.save(tmp_path / f"{name}.npy", np.where(x < share, np.nan, x))
    words = ["--missing=0", "--latent-dim=2", "--hidden=[5]", "--steps=2", "--out", f"{tmp_path}/run"]
    assert main(["fit", "l2_vae", "--data", f"{tmp_path}/all.npy", *words]) == 2
    assert "nothing but missing entries" in capsys.readouterr().err
    assert main(["fit", "l2_vae", "--data", f"{tmp_path}/some.npy", *words]) == 0
    capsys.readouterr()
    for command in ("posterior", "check"):
        assert main([command, f"{tmp_path}/run"]) == 2
        assert "takes whole data: see impute" in capsys.readouterr().err


def test_a_number_that_is_none_is_told_plainly(capsys):
    assert main(["posterior", "x", "--rows", "nan"]) == 2
    assert capsys.readouterr().err == "pyro-vaes: rows is nan: it must be int or null\n"


def test_what_no_memory_holds_is_refused(pair, x, tmp_path):
    many = x[:1].expand(200_000, 6)
    with pytest.raises(InputError, match="write_posterior writes them a batch at a time"):
        pv.to_datatree(pair, many, draws=10**6)
    with pytest.raises(InputError, match="take fewer draws, or a smaller batch_size"):
        pv.write_posterior(tmp_path / "a.nc", pair, many, draws=10**7, batch_size=10**6)
    assert not list(tmp_path.iterdir())
