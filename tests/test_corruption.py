"""Corruptions do what they say, where they say, and the same again for the same seed."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vaes.data import CORRUPTIONS, circles, corrupt, gaussian, impulse, masked, rectangles, stripes
from pyro_vaes.errors import InputError

SHAPE = (14, 10)
MARKS = [circles, rectangles, stripes]
SPECS = [
    "impulse:0.4", "salt_and_pepper:0.1", "gaussian:0.2", "gaussian:0.2:0.5", "circles:0.6", "rectangles:0.5",
    "stripes:0.5",
]  # fmt: skip


def clean(n: int = 50, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.rand(n, math.prod(shape), generator=torch.Generator().manual_seed(3)) * 0.5 + 0.25
    return (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def mask_file(tmp_path):
    mask = np.random.default_rng(0).random((50, 140)) < 0.3
    np.save(tmp_path / "mask.npy", mask)
    return tmp_path / "mask.npy"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("spec", SPECS)
def test_only_the_mask_is_touched_and_the_input_is_not(spec, dtype):
    x = clean(dtype=dtype)
    before = x.clone()
    dirty = corrupt(x, spec, shape=SHAPE)
    assert torch.equal(x, before)
    assert dirty.x.dtype == dtype and dirty.x.shape == dirty.mask.shape == x.shape and dirty.mask.dtype == torch.bool
    assert torch.equal(dirty.x[~dirty.mask], x[~dirty.mask])
    # An even grey is redrawn by chance in a few entries; elsewhere the mask means a change.
    assert (dirty.x[dirty.mask] != x[dirty.mask]).float().mean() > 0.95


@pytest.mark.parametrize("spec", SPECS)
def test_the_seed_decides_and_the_global_generator_does_not(spec):
    x = clean()
    torch.manual_seed(1)
    first = corrupt(x, spec, shape=SHAPE, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = corrupt(x, spec, shape=SHAPE, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.x, second.x) and torch.equal(first.mask, second.mask)
    assert not torch.equal(corrupt(x, spec, shape=SHAPE, seed=6).x, first.x)


@pytest.mark.parametrize("spec", SPECS)
def test_where_the_dirt_falls_does_not_depend_on_the_data(spec):
    assert torch.equal(corrupt(clean(), spec, shape=SHAPE).mask, corrupt(torch.zeros(50, 140), spec, shape=SHAPE).mask)


@pytest.mark.parametrize("spec", ["impulse", "salt_and_pepper", "gaussian:0.1", "circles", "rectangles", "stripes"])
def test_fractions_zero_and_one(spec):
    x = clean()
    none, every = (corrupt(x, f"{spec}:{fraction}", shape=SHAPE) for fraction in (0, 1))
    assert torch.equal(none.x, x) and not none.mask.any()
    assert every.mask.any(dim=1).all()
    if spec not in ("circles", "rectangles", "stripes"):
        assert every.mask.all()


def test_impulse_hits_its_fraction_with_uniform_values():
    x = torch.full((500, 200), -1.0)
    dirty = impulse(x, 0.4, generator=generator())
    assert torch.equal(dirty.mask, dirty.x >= 0)
    n = dirty.mask.sum().item()
    assert stats.binomtest(n, x.numel(), 0.4).pvalue > 0.01
    assert stats.kstest(dirty.x[dirty.mask].numpy(), "uniform").pvalue > 0.01
    # and independent of place: rows and columns are hit alike
    for axis in (0, 1):
        assert stats.chisquare(dirty.mask.sum(axis).numpy()).pvalue > 0.01


def test_impulse_on_bytes_is_uniform_on_all_256_values():
    dirty = impulse(torch.zeros(500, 500, dtype=torch.uint8), 1.0, generator=generator())
    counts = torch.bincount(dirty.x.flatten().long(), minlength=256)
    assert len(counts) == 256 and stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize(("dtype", "top"), [(torch.float32, 1), (torch.uint8, 255)])
def test_salt_and_pepper_is_even_black_and_white(dtype, top):
    x = clean(2000, dtype=dtype)
    dirty = corrupt(x, "salt_and_pepper:0.25", shape=SHAPE)
    hit = dirty.x[dirty.mask]
    assert set(hit.unique().tolist()) == {0, top}
    assert stats.binomtest(int((hit == top).sum()), len(hit), 0.5).pvalue > 0.01
    assert stats.binomtest(len(hit), x.numel(), 0.25).pvalue > 0.01


def test_gaussian_noise_is_gaussian_of_its_std_and_not_clipped():
    x = torch.full((300, 300), 0.9, dtype=torch.float64)
    dirty = gaussian(x, 0.2, 0.5, generator=generator())
    noise = (dirty.x - x)[dirty.mask] / 0.2
    assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01
    assert stats.binomtest(len(noise), x.numel(), 0.5).pvalue > 0.01
    assert dirty.x.max() > 1


def test_gaussian_noise_on_bytes_is_scaled_and_clipped():
    grey = gaussian(torch.full((300, 300), 128, dtype=torch.uint8), 0.1, generator=generator())
    assert grey.x.float().std().item() == pytest.approx(25.5, rel=0.02)
    white = gaussian(torch.full((300, 300), 250, dtype=torch.uint8), 0.1, generator=generator())
    assert (white.x == 255).float().mean() > 0.4 and white.x.min() > 80


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.333, 0.6, 1.0])
def test_marks_fall_on_exactly_the_fraction_of_images(mark, fraction):
    dirty = mark(torch.ones(1965, 140), fraction, SHAPE, generator=generator())
    assert dirty.mask.any(dim=1).sum() == round(fraction * 1965)
    assert torch.equal(dirty.x == 0, dirty.mask)


def test_the_frey_setting_marks_1179_images():
    assert corrupt(torch.ones(1965, 560), "circles:0.6", shape=(28, 20)).mask.any(dim=1).sum() == 1179


@pytest.mark.parametrize("mark", MARKS)
def test_every_image_is_as_likely_to_be_marked(mark):
    hits = sum(mark(torch.ones(20, 140), 0.3, SHAPE, generator=generator(s)).mask.any(dim=1).int() for s in range(500))
    assert stats.chisquare(hits.numpy()).pvalue > 0.01


def disc_exists(mask: np.ndarray, low: float, high: float) -> bool:
    """Search centres in the image and radii for a disc whose pixels are exactly the mask's."""
    height, width = mask.shape
    i, j = np.mgrid[:height, :width] + 0.5
    inside = (low**2, high**2)
    for a in np.arange(0.0, height + 0.01, 0.1):
        for b in np.arange(0.0, width + 0.01, 0.1):
            squared = (i - a) ** 2 + (j - b) ** 2
            covered, bare = squared[mask].max(), squared[~mask].min()
            if covered < bare and covered <= inside[1] and bare >= inside[0]:
                return True
    return False


def test_circles_are_discs_of_the_documented_radii():
    dirty = circles(torch.ones(40, 140), 1.0, SHAPE, generator=generator(4))
    found = [disc_exists(mask, 10 / 8, 10 / 3) for mask in dirty.mask.view(-1, *SHAPE).numpy()]
    # The grid of centres may miss the few placements that sit between its points.
    assert sum(found) >= 36
    square = np.zeros(SHAPE, dtype=bool)
    square[4:10, 2:8] = True
    assert not disc_exists(square, 10 / 8, 10 / 3)


def test_circle_areas_follow_from_the_radius_when_the_edge_is_far():
    # r ~ U[a, b] has E[pi r^2] = pi (a^2 + ab + b^2) / 3; on 48 x 48 most discs are whole.
    mask = circles(torch.ones(3000, 48 * 48), 1.0, (48, 48), generator=generator()).mask.view(-1, 48, 48)
    edge = mask[:, 0].any(1) | mask[:, -1].any(1) | mask[:, :, 0].any(1) | mask[:, :, -1].any(1)
    radius = (mask[~edge].sum((1, 2)) / math.pi).sqrt()
    assert 5.5 < radius.min() < 6.5 and 15 < radius.max() < 16.5
    assert edge.any()


def test_circle_centres_are_uniform_over_the_image():
    # A pixel of the middle is covered as often as any other pixel of the middle, high or wide.
    mask = circles(torch.ones(20000, 600), 1.0, (30, 20), generator=generator()).mask.view(-1, 30, 20).float()
    middle = mask.mean(0)[7:23, 7:13]
    assert middle.std() < 0.01 and middle.mean().item() == pytest.approx(math.pi * 22.454 / 600, rel=0.05)


def test_rectangles_are_whole_boxes_of_the_documented_sides():
    dirty = rectangles(torch.ones(3000, 28 * 20), 1.0, (28, 20), generator=generator())
    sides, corners = set(), set()
    for mask in dirty.mask.view(-1, 28, 20).numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width
        sides.add((int(height), int(width)))
        corners.add((int(rows[0]), int(columns[0])))
    heights, widths = {h for h, _ in sides}, {w for _, w in sides}
    assert heights == set(range(4, 15)) and widths == set(range(2, 11))
    assert {top for top, _ in corners} == set(range(25)) and {left for _, left in corners} == set(range(19))


def stripe_angle(mask: np.ndarray, widest: float) -> float | None:
    """Search an angle at which the mask's pixels are exactly those between two lines, no further apart than allowed."""
    i, j = np.mgrid[: mask.shape[0], : mask.shape[1]]
    for angle in np.linspace(0, math.pi, 720, endpoint=False):
        across = i * math.cos(angle) + j * math.sin(angle)
        low, high = across[mask].min(), across[mask].max()
        between = (across > low) & (across < high)
        if high - low <= widest and mask[between].all():
            return angle
    return None


def test_stripes_are_straight_bands_of_the_documented_width_in_every_direction():
    dirty = stripes(torch.ones(200, 30 * 30), 1.0, (30, 30), generator=generator(4))
    angles = [stripe_angle(mask, 30 / 5) for mask in dirty.mask.view(-1, 30, 30).numpy()]
    # The grid of angles may miss a few long and thin ones.
    found = [angle for angle in angles if angle is not None]
    assert len(found) >= 180
    assert np.histogram(found, 4, (0, math.pi))[0].min() > len(found) / 8
    square = np.zeros((30, 30), dtype=bool)
    square[10:15, 12:16] = True
    assert stripe_angle(square, 30 / 5) is None


def test_stripe_areas_follow_from_the_width():
    # A whole horizontal or vertical band of w hides w / size of the image, and a slanted one as much on the average.
    mask = stripes(torch.ones(4000, 80 * 80), 1.0, (80, 80), generator=generator()).mask.float()
    assert mask.mean().item() == pytest.approx((1 / 12 + 1 / 5) / 2, rel=0.1)


@pytest.mark.parametrize("mark", MARKS)
def test_all_channels_get_the_same_mark(mark):
    mask = mark(torch.ones(30, 420), 1.0, (3, *SHAPE), generator=generator()).mask.view(30, 3, 140)
    assert torch.equal(mask[:, 0], mask[:, 1]) and torch.equal(mask[:, 0], mask[:, 2])
    assert torch.equal(mask[:, 0], mark(torch.ones(30, 140), 1.0, SHAPE, generator=generator()).mask)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 5), (3, 2, 3)])
@pytest.mark.parametrize("mark", MARKS)
def test_the_smallest_images_are_marked_too(mark, shape):
    dirty = mark(torch.ones(200, math.prod(shape)), 1.0, shape, generator=generator())
    assert dirty.mask.any(dim=1).all()


def test_large_data_is_drawn_in_blocks_with_new_dirt_in_each():
    dirty = impulse(torch.zeros(8192, 4), 1.0, generator=generator())
    assert not torch.equal(dirty.x[:4096], dirty.x[4096:])
    marks = circles(torch.ones(8192, 140), 1.0, SHAPE, generator=generator())
    assert marks.mask.any(dim=1).all()


@pytest.mark.parametrize(("dtype", "value", "fill"), [(torch.float32, 0.5, 0.5), (torch.uint8, 0.5, 128)])
def test_masked_fills_the_users_mask(dtype, value, fill):
    x, mask = clean(dtype=dtype), torch.rand(50, 140, generator=generator()) < 0.5
    dirty = masked(x, mask, value)
    assert (dirty.x[mask] == fill).all() and torch.equal(dirty.x[~mask], x[~mask])
    assert torch.equal(dirty.mask, mask) and dirty.mask is not mask


@pytest.mark.parametrize("folded", [False, True])
def test_the_mask_of_a_file(mask_file, folded):
    mask = np.load(mask_file)
    if folded:
        np.save(mask_file, mask.reshape(50, *SHAPE))
    dirty = corrupt(clean(), f"mask:{mask_file}", shape=SHAPE)
    assert np.array_equal(dirty.mask.numpy(), mask) and (dirty.x[dirty.mask] == 0).all()


def test_every_corruption_is_named_and_tested():
    assert {spec.partition(":")[0] for spec in SPECS} | {"mask"} == set(CORRUPTIONS)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("circle:0.4", "did you mean 'circles'"),
        ("fog:0.4", "known: impulse"),
        ("", "unknown corruption ''"),
        ("impulse:1.5", "fraction is 1.5"),
        ("impulse:-0.1", r"in \[0, 1\]"),
        ("impulse:nan", "fraction is nan"),
        ("impulse", "give it a number"),
        ("impulse:much", "give it a number, such as impulse:0.4"),
        ("circles:0.1:0.2", "give it a number"),
        ("rectangles:1.01", "fraction is 1.01"),
        ("gaussian:-1", "std is -1.0"),
        ("gaussian:inf", "std is inf"),
        ("gaussian:0.1:2", "fraction is 2.0"),
        ("gaussian:0.1:0.2:0.3", "gaussian:0.2:0.5"),
        ("mask:nowhere.npy", "no such file"),
        ("mask:", "no such file"),
    ],
)
def test_a_bad_spec_is_refused(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        corrupt(clean(), spec, shape=SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [((140,), "needs images"), ((1, 1, 14, 10), "must be .H, W"), ((14, 11), "with 140 entries")],
)
def test_marks_need_images_of_the_right_size(mark, shape, message):
    with pytest.raises(InputError, match=message):
        mark(clean(), 0.5, shape, generator=generator())


@pytest.mark.parametrize("x", [torch.zeros(4), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(0, 140)])
@pytest.mark.parametrize("spec", ["impulse:0.4", "gaussian:0.2", "circles:0.6"])
def test_data_of_the_wrong_kind_are_refused(x, spec):
    with pytest.raises(InputError, match="must be float or uint8"):
        corrupt(x, spec, shape=SHAPE)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_its_range_is_refused(seed):
    with pytest.raises(InputError, match="seed is"):
        corrupt(clean(), "impulse:0.4", shape=SHAPE, seed=seed)


@pytest.mark.parametrize(
    "mask", [torch.zeros(50, 139, dtype=torch.bool), torch.zeros(50, 140), torch.zeros(140, dtype=torch.bool)]
)
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(InputError, match="it must be bool of shape"):
        masked(clean(), mask)


@pytest.mark.parametrize(("value", "dtype"), [(math.nan, torch.float32), (2.0, torch.uint8)])
def test_a_fill_value_out_of_range_is_refused(value, dtype):
    with pytest.raises(InputError, match="value is"):
        masked(clean(dtype=dtype), torch.ones(50, 140, dtype=torch.bool), value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((50, 139), dtype=bool), r"it must be \(50, 140\)"),
        (np.zeros((14, 10), dtype=bool), r"it must be \(50, 140\)"),
        (np.zeros((50, 140)), "it must hold bool"),
        (np.array([None, {}]), "cannot be read"),
    ],
)
def test_a_mask_file_that_does_not_fit_is_refused(tmp_path, array, message):
    np.save(tmp_path / "mask.npy", array)
    with pytest.raises(InputError, match=message):
        corrupt(clean(), f"mask:{tmp_path / 'mask.npy'}", shape=SHAPE)


def test_a_truncated_mask_file_is_refused(mask_file):
    mask_file.write_bytes(mask_file.read_bytes()[:-10])
    with pytest.raises(InputError, match="cannot be read"):
        corrupt(clean(), f"mask:{mask_file}", shape=SHAPE)
