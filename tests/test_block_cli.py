"""The commands evolve, interpolate and resample, from a run folder to a picture."""

import numpy as np
import pytest
import torch
from small import loaded

import pyro_vaes as pv
from pyro_vaes.cli import main

OWN = '''
import torch
from test_block_views import Blocks, Guide
import pyro_vaes as pv

def paired(data_dim):
    """Three blocks of two, a linear layer away from the data."""
    pair = pv.Pair(Blocks(torch.nn.Linear(6, data_dim)), Wide(data_dim))
    pair.name = "paired"
    return pair

class Wide(Guide):
    def __init__(self, data_dim):
        super().__init__()
        self.first = torch.nn.Linear(data_dim, 6)

    def forward(self, x=None, y=None, *, size=None):
        return super().forward(self.first(x), y, size=size)
'''
FEW = ["--steps", "2", "--limit", "40", "--device", "cpu", "--engine", "eager"]


def fitted(folder, *words):
    assert main(["fit", *words, *FEW, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "own.py").write_text(OWN)
    return fitted(folder / "run", f"{folder / 'own.py'}:paired")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    words = ["--hidden", "[8]", "--latent_dim", "3", "--binarise", "0.5"]
    return fitted(tmp_path_factory.mktemp("runs") / "labelled", "cvae", *words)


def images(path):
    return loaded(path)["images"]


def test_evolve_writes_images_and_effects(run, capsys):
    assert main(["evolve", str(run), "--draws", "3"]) == 0
    out = capsys.readouterr().out
    assert "z_3: " in out and "of the variance of images hangs on it" in out
    found = loaded(run / "evolve.npz")
    assert found["images"].shape == (3, 4, 8, 8) and found["share"].shape == (3,) and found["coarse"].max() <= 1
    assert {p.name for p in run.glob("evolve*.png")} == {"evolve.png", "evolve-effects.png"}
    again = pv.evolve(pv.Run.open(run).pair(), 3)
    assert np.array_equal(found["images"].reshape(3, 4, 64), again.numpy())


def test_interpolate_takes_rows_or_a_block(run):
    assert main(["interpolate", str(run), "--rows", "5,6,7,8", "--steps", "3"]) == 0
    pair, x = pv.Run.open(run).pair(), pv.load("digits", limit=40).x
    square = pv.interpolate(pair, x[5:9], 3)
    assert np.array_equal(images(run / "interpolate.npz").reshape(3, 3, 64), square.numpy())
    assert main(["interpolate", str(run), "--steps", "3"]) == 0
    assert np.array_equal(images(run / "interpolate.npz").reshape(3, 3, 64), pv.interpolate(pair, x[:4], 3).numpy())
    assert main(["interpolate", str(run), "--block", "2", "--rows", "[7]", "--steps", "3", "--path", "spherical"]) == 0
    one = pv.interpolate_block(pair, 2, 3, x=x[7:8], path="spherical")
    assert np.array_equal(images(run / "interpolate-2.npz").reshape(1, 3, 64), one.numpy())
    assert (run / "interpolate.png").exists() and (run / "interpolate-2.png").exists()


def test_resample_keeps_what_it_started_from(run):
    assert main(["resample", str(run), "--block", "3", "--styles", "5", "--draws", "2", "--seed", "4"]) == 0
    found, pair = loaded(run / "resample-3.npz"), pv.Run.open(run).pair()
    assert found["images"].shape == (2, 5, 8, 8) and (run / "resample-3.png").exists()
    assert np.array_equal(found["start"].reshape(2, 64), pv.evolve(pair, 2, seed=4)[:, -1].numpy())


def test_labels_are_conditions(labelled):
    pair = pv.Run.open(labelled).pair()
    assert main(["evolve", str(labelled), "--draws", "3", "--label", "7"]) == 0
    assert np.array_equal(images(labelled / "evolve.npz").reshape(3, 2, 64), pv.evolve(pair, 3, 7).numpy())
    assert not (labelled / "evolve-effects.png").exists()  # of one block there is nothing to compare
    assert main(["interpolate", str(labelled), "--steps", "2"]) == 0
    data = pv.load("digits", limit=40)
    four, often = (data.y == data.y[0]).nonzero().flatten()[:4], data.y.mode().values
    square = pv.interpolate(pair, (data.x[four] > 0.5).float(), 2, data.y[four])
    assert np.array_equal(images(labelled / "interpolate.npz").reshape(2, 2, 64), square.numpy())
    assert main(["interpolate", str(labelled), "--steps", "2", "--label", str(int(often))]) == 0
    four = (data.y == often).nonzero().flatten()[:4]
    square = pv.interpolate(pair, (data.x[four] > 0.5).float(), 2, int(often))
    assert np.array_equal(images(labelled / "interpolate.npz").reshape(2, 2, 64), square.numpy())


def test_quadrants_are_put_together(tmp_path):
    words = ["structured_cvae", "--condition", "quadrants:2", "--hidden", "[8]", "--latent_dim", "3"]
    run = fitted(tmp_path / "run", *words, "--binarise", "0.5")
    assert main(["resample", str(run), "--styles", "3", "--draws", "2"]) == 0
    found, x = images(run / "resample-1.npz"), (pv.load("digits", limit=2).x > 0.5).float().reshape(2, 1, 8, 8)
    # The left half is what was seen.
    assert np.array_equal(found[..., :4], x[..., :4].expand(2, 3, 8, 4).numpy())
    assert len(np.unique(found[0, :, :, 4:], axis=0)) == 3


def test_tables_have_no_pictures(tmp_path):
    np.save(tmp_path / "table.npy", torch.rand(30, 5).numpy())
    run = fitted(tmp_path / "run", "l2_vae", "--data", str(tmp_path / "table.npy"), "--hidden", "[4]")
    assert main(["evolve", str(run), "--draws", "2"]) == 0 and main(["resample", str(run), "--draws", "2"]) == 0
    assert images(run / "evolve.npz").shape == (2, 2, 5) and images(run / "resample-1.npz").shape == (2, 8, 5)
    assert not [p for p in run.glob("*.png") if p.name.startswith(("evolve", "resample"))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resample", "RUN", "--block", "9"], "block is 9: the blocks of paired are from 1 to 3"),
        (["resample", "RUN", "--block", "0"], "block is 0"),
        (["resample", "RUN", "--block", "two"], "block"),
        (["resample", "RUN", "--styles", "0"], "styles is 0"),
        (["evolve", "RUN", "--draws", "0"], "draws is 0"),
        (["evolve", "RUN", "--label", "3"], "was not trained with labels"),
        (["evolve", "RUN", "--seed", "-1"], "seed is -1"),
        (["evolve", "nowhere"], "nowhere is not a run folder"),
        (["interpolate", "RUN", "--rows", "1,2,3"], "a square is between four data"),
        (["interpolate", "RUN", "--rows", "a,b"], "rows is 'a,b': it must be whole numbers"),
        (["interpolate", "RUN", "--rows", "-1"], "rows"),
        (["interpolate", "RUN", "--rows", "1,2,3,40"], "row 40 is not there: digits has 40 rows, from 0"),
        (["interpolate", "RUN", "--block", "1", "--path", "great"], "unknown path 'great'"),
        (["interpolate", "RUN", "--steps", "1"], "steps is 1"),
        (["evolve", "LABELLED", "--label", "10"], "labels of cvae are 0 to 9"),
        (["evolve", "LABELLED", "--label", "1", "--rows", "1"], "the rows have labels of their own"),
        (["interpolate", "LABELLED", "--rows", "0,1,2,3"], "y differs between the four data"),
        (["resample", "LABELLED", "--block", "2"], "the blocks of cvae are 1, its only one"),
    ],
)
def test_bad_arguments_end_in_one_line(run, labelled, words, message, capsys):
    places = {"RUN": str(run), "LABELLED": str(labelled)}
    capsys.readouterr()
    assert main([places.get(word, word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err


def test_a_hierarchy_is_refused(tmp_path, capsys):
    run = fitted(tmp_path / "run", "ladder_vae", "--binarise", "0.5")
    assert main(["evolve", str(run)]) == 2
    assert "draws z_2 from the sites before it" in capsys.readouterr().err
