"""Views of a code in blocks: what moves, what stays, and where the paths begin and end."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from test_contract import SMALL, condition, make

import pyro_vaes as pv
from pyro_vaes.evaluation import block_plots
from pyro_vaes.evaluation.blocks import blocks_of
from pyro_vaes.evaluation.report import png
from pyro_vaes.plates import data_plate

T, K, D = 3, 2, 6


class Blocks(PyroModule):
    """p(z_1) ... p(z_T) p(x | z): a decoder of all blocks, the identity if none is given."""

    def __init__(self, decoder=None):
        super().__init__()
        self.decoder = torch.nn.Identity() if decoder is None else decoder

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            z = [pyro.sample(f"z_{t}", dist.Normal(torch.zeros(K), 1.0).to_event(1)) for t in range(1, T + 1)]
            return pyro.sample("x", dist.Normal(self.decoder(torch.cat(z, -1)), 0.1).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z_t | x): the entries of x, with a little noise; and a parameter, as every pair has."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(D))

    def forward(self, x=None, y=None, *, size=None):
        with data_plate(x, size):
            for t, part in enumerate((x + self.shift).chunk(T, -1), 1):
                pyro.sample(f"z_{t}", dist.Normal(part, 0.01).to_event(1))


def linear():
    """What is seen is the code itself."""
    return pv.Pair(Blocks(), Guide())


def bent():
    torch.manual_seed(1)
    return pv.Pair(Blocks(torch.nn.Sequential(torch.nn.Linear(D, 9), torch.nn.Tanh(), torch.nn.Linear(9, D))), Guide())


def test_evolve_fills_in_one_block_after_the_other():
    found = pv.evolve(linear(), 5, seed=3)
    assert found.shape == (5, T + 1, D)
    for t in range(T + 1):
        assert torch.equal(found[:, t, : K * t], found[:, -1, : K * t])
        assert not found[:, t, K * t :].any()
    assert (found[:, -1] != 0).all()
    # Not the same draw for every block, or every image.
    assert len(found[:, -1].unique()) == 5 * D
    pair = bent()
    torch.testing.assert_close(pv.evolve(pair, 2)[0, 0], pair.model.decoder(torch.zeros(D)))


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_only_the_block_moves_and_it_goes_straight(block, path):
    pair, mine = linear(), slice(K * (block - 1), K * block)
    found = pv.interpolate_block(pair, block, 5, 4, path=path, seed=2)
    others = [i for i in range(D) if not mine.start <= i < mine.stop]
    assert torch.equal(found[..., others], found[:, :1, others].expand(-1, 5, -1))
    assert torch.equal(found[:, 0], pv.evolve(pair, 4, seed=2)[:, -1])
    # One end for all rows, which is no row's own start.
    assert torch.equal(found[:, -1, mine], found[:1, -1, mine].expand(4, -1))
    assert (found[:, -1, mine] != found[:, 0, mine]).all()
    start, end = found[:, 0, mine], found[:, -1, mine]
    half = (start + end) / (2 if path == "linear" else math.sqrt(2))
    torch.testing.assert_close(found[:, 2, mine], half)
    if path == "linear":
        torch.testing.assert_close(found[:, 1, mine], 0.75 * start + 0.25 * end)


def test_resampling_changes_one_block_alone_and_in_all_rows_alike():
    pair = linear()
    found, start = pv.resample_block(pair, 2, 6, 4, seed=2), pv.evolve(pair, 4, seed=2)[:, -1]
    assert found.shape == (4, 6, D)
    for others in (slice(0, 2), slice(4, 6)):
        assert torch.equal(found[..., others], start[:, None, others].expand(-1, 6, -1))
    assert torch.equal(found[..., 2:4], found[:1, :, 2:4].expand(4, -1, -1))
    assert len(found[0, :, 2:4].unique()) == 12
    # Of another block there are other draws.
    assert not torch.equal(found[0, 0, 2:4], pv.resample_block(pair, 1, 6, 4, seed=2)[0, 0, 0:2])


def test_the_square_is_equation_s1():
    """Corner by corner, and every point by the formula, written out."""
    codes = torch.randn(4, D, generator=torch.Generator().manual_seed(5))
    sites = {f"z_{t}": part for t, part in enumerate(codes.chunk(T, 1), 1)}
    found = pv.interpolate(linear(), sites, 5)
    for corner, (phi, psi) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        assert torch.equal(found[phi, psi], codes[corner])
    angles = [i * math.pi / 8 for i in range(5)]
    for i, phi in enumerate(angles):
        for j, psi in enumerate(angles):
            expected = math.cos(phi) * (math.cos(psi) * codes[0] + math.sin(psi) * codes[1])
            expected = expected + math.sin(phi) * (math.cos(psi) * codes[2] + math.sin(psi) * codes[3])
            torch.testing.assert_close(found[i, j], expected)
    # A curved decoder: its corners are what it makes of each code alone.
    pair = bent()
    torch.testing.assert_close(pv.interpolate(pair, sites, 4)[-1, 0], pair.model.decoder(codes[2]))


def test_from_images_it_is_the_guides_code():
    pair, x = linear(), torch.rand(4, D)
    assert (pv.evolve(pair, x=x)[:, -1] - x).abs().max() < 0.06
    assert (pv.resample_block(pair, 1, 3, x=x)[..., K:] - x[:, None, K:]).abs().max() < 0.06
    assert (pv.interpolate_block(pair, 3, 3, x=x)[:, 0] - x).abs().max() < 0.06
    corners = pv.interpolate(pair, x, 3)[[0, 0, -1, -1], [0, -1, 0, -1]]
    # Drawn from the guide, as in the paper, and not its mean.
    assert 1e-5 < (corners - x).abs().max() < 0.06
    assert torch.equal(corners, pv.evolve(pair, x=x)[:, -1])


def test_the_seed_decides_and_nothing_outside_is_touched():
    pair = bent().train()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    one = pv.resample_block(pair, 1, 3, 2, seed=4)
    assert torch.equal(torch.get_rng_state(), before) and pair.training
    torch.manual_seed(10)
    assert torch.equal(one, pv.resample_block(pair, 1, 3, 2, seed=4))
    assert not torch.equal(one, pv.resample_block(pair, 1, 3, 2, seed=5))


def test_effects_of_a_linear_decoder_are_known():
    """x = A z: a block's total effect is the square of its columns, and all of them add up."""
    scale = torch.tensor([2.0, 2.0, 1.0, 1.0, 0.5, 0.0])
    pair = pv.Pair(Blocks(torch.nn.Linear(D, D, bias=False)), Guide())
    with torch.no_grad():
        pair.model.decoder.weight.copy_(scale.diag())
    found = pv.block_effects(pair, 20_000)
    exact = 2 * scale.square().reshape(T, K).sum(1) / D
    assert ((found.change - exact).abs() < 4 * found.error).all()
    torch.testing.assert_close(found.share, exact / exact.sum(), rtol=0.05, atol=0.0)
    assert found.everything == pytest.approx(exact.sum().item(), rel=0.05)
    assert (found.share.sum() - 1).abs() < 0.05
    # The product of two blocks: each alone leaves everything open.
    product = pv.Pair(Blocks(_Product()), Guide())
    shares = pv.block_effects(product, 20_000).share
    assert (shares[:2] > 0.9).all() and shares[2] == 0


class _Product(torch.nn.Module):
    def forward(self, z):
        return (z[..., 0] * z[..., 2])[..., None].expand(z.shape)


def test_coarse_is_what_patches_keep():
    """16 patches of 2 x 2: a change of a whole patch is all coarse, one that alternates within it not at all."""

    class Paint(torch.nn.Module):
        def forward(self, z):
            board = torch.ones(8, 8)
            board[::2, ::2], board[1::2, 1::2] = -1.0, -1.0
            patch = torch.zeros(8, 8)
            patch[:2, 2:4] = 1.0
            return z[..., :1] * patch.flatten() + z[..., 2:3] * board.flatten()

    class Blind(Guide):
        def forward(self, x=None, y=None, *, size=None):
            with data_plate(x, size):
                for t in range(1, T + 1):
                    pyro.sample(f"z_{t}", dist.Normal(self.shift[:K], 1.0).to_event(1))

    found = pv.block_effects(pv.Pair(Blocks(Paint()), Blind()), 50, shape=(8, 8))
    torch.testing.assert_close(found.coarse[:2], torch.tensor([1.0, 0.0]))
    assert found.change[2] == 0


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"iwae_2", "ladder_vae", "two_stage_vae", "spline_vae"}))
def test_every_flat_variant_can_be_viewed(name):
    pair = make(name)
    sites = blocks_of(pair)
    found = pv.evolve(pair, 2, condition(name, 2))
    assert found.shape == (2, len(sites) + 1, 8) and torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pv.evolve(make("ladder_vae")), "draws z_1 from the sites before it"),
        (lambda: pv.interpolate(make("two_stage_vae"), torch.rand(4, 8)), "draws z from the sites before it"),
        (lambda: pv.evolve(None), "a Pair is needed"),
        (lambda: pv.evolve(linear(), 0), "draws is 0"),
        (lambda: pv.evolve(linear(), seed=-1), "seed is -1"),
        (lambda: pv.evolve(make("cvae")), "y is missing"),
        (lambda: pv.evolve(make("cvae"), y=99), "labels of cvae are whole"),
        (lambda: pv.evolve(linear(), x=torch.rand(2, 5)), "x has 5 entries"),
        (lambda: pv.evolve(linear(), x="digits"), "x is str"),
        (lambda: pv.evolve(linear(), x={"z_1": torch.zeros(2, K)}), "codes of all blocks: z_1, z_2, z_3"),
        (lambda: pv.evolve(linear(), x={f"z_{t}": torch.zeros(2, 5) for t in (1, 2, 3)}), r"it must be \(2, 2\)"),
        (lambda: pv.evolve(linear(), x={f"z_{t}": torch.full((2, K), math.nan) for t in (1, 2, 3)}), "not finite"),
        (lambda: pv.interpolate_block(linear(), 0), "block is 0: the blocks of pair are from 1 to 3"),
        (lambda: pv.interpolate_block(linear(), 4), "block is 4"),
        (lambda: pv.interpolate_block(linear(), True), "block is True"),
        (lambda: pv.interpolate_block(make("l2_vae"), 2), "are 1, its only one"),
        (lambda: pv.interpolate_block(linear(), 1, steps=1), "steps is 1"),
        (lambda: pv.interpolate_block(linear(), 1, path="great"), "unknown path 'great'"),
        (lambda: pv.resample_block(linear(), 1, styles=0), "styles is 0"),
        (lambda: pv.interpolate(linear(), torch.rand(3, D)), "x holds 3 data: a square is between four"),
        (lambda: pv.interpolate(linear(), None), "x holds 0 data"),
        (lambda: pv.interpolate(make("cvae"), torch.ones(4, 8), y=torch.arange(4)), "y differs between the four"),
        (lambda: pv.block_effects(linear(), 1), "draws is 1"),
        (lambda: pv.block_effects(linear(), shape=(2, 2)), r"shape is \(2, 2\)"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(pv.InputError, match=message):
        call()


def test_figures_name_their_columns():
    images = torch.rand(2, 4, 12)
    for shape in ((3, 4), (3, 2, 2)):
        figure = block_plots.evolution(images, shape, title="t")
        assert [ax.get_title() for ax in figure.axes[:4]] == ["none", "+ z$_1$", "+ z$_2$", "+ z$_3$"]
        png(figure)
    figure = block_plots.styles(images, (3, 4), images[:, 0], 12)
    assert figure.axes[1].get_title() == "new z$_{12}$" and len(figure.axes) == 10
    assert len(block_plots.square(torch.rand(4, 4, 12), (3, 4)).axes) == 16
    with pytest.raises(pv.InputError, match="columns has 1 names for 4"):
        block_plots.grid(images, (3, 4), columns=["a"])
