"""The command impute, and fit --missing: what is written, what is said, what is refused."""

import json

import numpy as np
import pytest
from small import loaded

from pyro_vaes.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was trained on images with holes, and images with other holes."""
    place = tmp_path_factory.mktemp("impute")
    rng = np.random.default_rng(0)
    x = rng.random((30, 4, 4)).astype(np.float32)
    np.save(place / "whole.npy", x)
    x[rng.random(x.shape) < 0.3] = np.nan
    x[0] = 0.5
    np.save(place / "holes.npy", x)
    options = ["--latent-dim=2", "--hidden=[5]", "--steps=4", "--missing=0.1", f"--out={place / 'run'}"]
    assert main(["fit", "l2_vae", "--data", str(place / "holes.npy"), *options]) == 0
    return place


def run(folder, *words):
    return main(["impute", str(folder / "run"), *map(str, words)])


def test_it_fills_in(folder, capsys):
    assert json.loads((folder / "run" / "config.json").read_text())["missing"] == 0.1
    assert run(folder, folder / "holes.npy", "--output", folder / "out.npz", "--samples=60", "--limit=9") == 0
    out, x = capsys.readouterr().out, np.load(folder / "holes.npy")[:9]
    assert "8 data of 9 imputed" in out and "k-hat" in out
    found = loaded(folder / "out.npz")
    assert found["mean"].shape == (9, 4, 4) and found["draws"].shape == (8, 9, 4, 4)
    assert np.isfinite(found["mean"]).all() and np.array_equal(found["observed"], ~np.isnan(x))
    assert np.array_equal(found["mean"][found["observed"]], x[found["observed"]])
    assert (folder / "out.npz.png").stat().st_size > 1000


def test_rows_without_a_shape_have_that_of_the_run(folder, capsys):
    np.save(folder / "flat.npy", np.load(folder / "whole.npy").reshape(30, 16))
    words = "--mask=right", "--samples=40", "--limit=3", "--output", folder / "flat.npz"
    assert run(folder, folder / "flat.npy", *words) == 0
    assert "times the posterior sd" in capsys.readouterr().out and (folder / "flat.npz.png").exists()
    found = loaded(folder / "flat.npz")
    assert not found["observed"].reshape(3, 4, 4)[..., 2:].any() and found["mean"].size == 48


@pytest.mark.slow
def test_masks_and_arrays_and_the_other_methods(folder, capsys):
    for method in ("gibbs", "metropolis", "optimise"):
        words = (
            folder / "whole.npy",
            "--output",
            folder / "out.npy",
            "--mask=right",
            f"--method={method}",
            "--samples=20",
        )
        assert run(folder, *words, "--warmup=4", "--limit=3") == 0
        assert "root mean square" in capsys.readouterr().out
        filled = np.load(folder / "out.npy")
        assert np.array_equal(filled[..., :2], np.load(folder / "whole.npy")[:3, ..., :2])
    assert run(folder, folder / "whole.npy", "--mask=left", "--method=optimise", "--limit=2") == 0
    assert (folder / "run" / "imputation.npz").exists()


def test_an_empty_cell_is_missing(folder, capsys):
    (folder / "table.csv").write_text("\n".join(",".join(["0.5", ""] * 8) for _ in range(2)) + "\n")
    assert run(folder, folder / "table.csv", "--output", folder / "table.npy", "--method=optimise") == 0
    assert np.isfinite(np.load(folder / "table.npy")).all()
    assert main(["fit", "l2_vae", "--data", str(folder / "table.csv"), "--out", str(folder / "no")]) == 2
    assert "'' is not a number" in capsys.readouterr().err


def test_bad_input_is_one_line(folder, capsys):
    np.save(folder / "small.npy", np.full((3, 5), np.nan, dtype=np.float32))
    np.save(folder / "mask.npy", np.ones(7))
    for words, text in [
        ((folder / "whole.npy",), "nothing is missing"),
        ((folder / "small.npy",), "16"),
        ((folder / "holes.npy", "--output", folder / "out.txt"), ".npz or .npy"),
        ((folder / "holes.npy", "--output", folder / "holes.npy"), "overwrite"),
        ((folder / "holes.npy", "--mask", folder / "mask.npy"), "shape"),
        ((folder / "holes.npy", "--method=mean"), "method"),
        ((folder / "nowhere.npy",), "no such file"),
    ]:
        assert run(folder, *words) == 2
        said = capsys.readouterr().err
        assert text in said and said.count("\n") == 1, said
    assert main(["fit", "l2_vae", "--data", str(folder / "holes.npy"), "--out", str(folder / "no")]) == 2
    assert "nan at row" in capsys.readouterr().err
    assert main(["fit", "l2_vae", "--data", str(folder / "whole.npy"), "--missing=1", "--out", str(folder / "no")]) == 2
    assert "share is 1" in capsys.readouterr().err
