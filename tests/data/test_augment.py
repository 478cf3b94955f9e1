"""Augmentation changes images as it says, the same with the same generator."""

from __future__ import annotations

import contextlib
import functools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssdml_fast.data.augment import Part, cut_out, mix_channels, mix_up, random_affine


def test_affine_augmentation_is_what_each_of_its_parts_says():
    image = torch.zeros(1, 1, 21, 31)
    image[0, 0, 10, 15:25] = 1  # a bar from the centre to the right
    many = image.expand(200, -1, -1, -1)
    rows, columns = torch.arange(21.0) - 10, torch.arange(31.0) - 15

    def centres(changed):
        mass = changed.sum((1, 2, 3))
        down = (changed.sum((1, 3)) * rows).sum(1) / mass
        return down, (changed.sum((1, 2)) * columns).sum(1) / mass

    def changed(**settings):
        generator = torch.Generator().manual_seed(0)
        return random_affine(many, **{"degrees": 0.0, "scale": 0.0, "shift": 0.0} | settings, generator=generator)

    down, right = centres(changed(shift=3.0))
    for moved in (down, right - 4.5):
        assert 2.8 < moved.max() < 3.01 and -3.01 < moved.min() < -2.8
    down, right = centres(changed(degrees=30.0))
    torch.testing.assert_close(torch.hypot(down, right), torch.full((200,), 4.5), atol=0.1, rtol=0)
    angles = torch.rad2deg(torch.atan2(down, right))
    assert 28 < angles.max() < 31 and -31 < angles.min() < -28
    down, right = centres(changed(scale=0.2))
    assert down.abs().max() < 1e-4 and 5.4 < right.max() < 5.8 and 3.6 < right.min() < 3.85
    assert torch.equal(changed(degrees=9.0, shift=1.0), changed(degrees=9.0, shift=1.0))


def test_affine_augmentation_mirrors_one_image_in_two():
    image = torch.rand(1, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    changed = random_affine(
        image.expand(400, -1, -1, -1), 0, 0, 0, flip=True, generator=torch.Generator().manual_seed(1)
    )
    kept, mirrored = (torch.isclose(changed, i, atol=1e-5).all((1, 2, 3)) for i in (image, image.flip(3)))
    assert (kept ^ mirrored).all() and 160 < mirrored.sum() < 240


@pytest.mark.parametrize(("padding", "mode"), [("border", "edge"), ("reflection", "symmetric")])
def test_what_affine_augmentation_takes_in_at_an_edge(padding, mode):
    ramp = torch.arange(8.0)
    images = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij")).expand(50, -1, -1, -1)  # rows' and columns' numbers
    changed = random_affine(images, 0, 0, 3, padding=padding, generator=torch.Generator().manual_seed(0)).numpy()
    padded = np.pad(ramp.numpy(), 4, mode=mode)
    for rows, columns in changed:
        for got, shift in ((rows[:, 4], rows[4, 4] - 4), (columns[4], columns[4, 4] - 4)):
            np.testing.assert_allclose(got, np.interp(ramp + shift, np.arange(-4, 12), padded), atol=1e-4)
    with pytest.raises(ValueError, match="padding must be one of 'border', 'reflection', found 'zeros'"):
        random_affine(images, padding="zeros")


def test_mixed_channels_are_of_one_random_matrix_per_image():
    images = torch.randn(500, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    first, again = (mix_channels(images, 0.2, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    matrices, rest = [], []
    for before, after in zip(images.flatten(2).double(), first.flatten(2).double(), strict=True):
        found = torch.linalg.lstsq(before.T, after.T)
        matrices.append(found.solution.T)
        rest.append((found.solution.T @ before - after).abs().max())
    assert max(rest) < 1e-5
    matrices = torch.stack(matrices)
    torch.testing.assert_close(matrices.mean(0), torch.eye(3, dtype=torch.float64), atol=0.04, rtol=0)
    assert (matrices.std(0) - 0.2).abs().max() < 0.03
    with pytest.raises(ValueError, match=r"^spread must be finite, found inf"):
        mix_channels(images, float("inf"))


@pytest.mark.parametrize("side", [0, 3, 4])
def test_a_square_anywhere_is_cut_out_of_every_image(side):
    images = torch.ones(2000, 2, 6, 8)
    first, again = (cut_out(images, side, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    expected = {
        tuple(tuple((abs(torch.arange(n) + 0.5 * (side % 2 == 0) - centre) < side / 2).tolist()) for n, centre in place)
        for place in [((6, i), (8, j)) for i in range(6) for j in range(8)]
    }
    got = set()
    for cut in (first == 0).numpy():
        assert np.array_equal(cut[0], cut[1])
        rows, columns = cut[0].any(1), cut[0].any(0)
        assert np.array_equal(cut[0], rows[:, None] & columns)
        got.add((tuple(rows.tolist()), tuple(columns.tolist())))
    assert got == expected if side else not (first == 0).any()
    with pytest.raises(ValueError, match="side must be at least 0"):
        cut_out(images, -1)


@pytest.mark.parametrize("change", [random_affine, functools.partial(random_affine, flip=True), mix_channels, cut_out])
def test_parts_of_a_batch_are_changed_as_the_whole_is(change):
    images = torch.rand(11, 3, 14, 14)
    whole = change(images, generator=torch.Generator().manual_seed(0))
    for rows in (slice(0, 4), slice(4, 5), slice(5, 11)):
        generator = torch.Generator().manual_seed(0)
        part = change(images[rows], generator=generator, part=Part(rows, 11))
        torch.testing.assert_close(part, whole[rows])
        after = torch.Generator().manual_seed(0)
        change(images, generator=after)
        assert torch.equal(generator.get_state(), after.get_state())  # what is drawn next is the same too


def test_blends_share_images_and_targets_alike():
    images, targets = torch.eye(6).reshape(6, 1, 2, 3), torch.eye(6)
    shares = []
    for seed in range(300):
        mixed, blended = mix_up(images, targets, 0.4, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(mixed.flatten(1), blended)
        torch.testing.assert_close(blended.sum(1), torch.ones(6))
        others = (blended - torch.diag(blended.diag())).sum(1)
        assert ((others < 1e-6) | ((others - others.max()).abs() < 1e-6)).all()  # one share for the batch
        shares.append(others.max().item())
    assert 0.38 < max(shares) <= 0.4 and min(shares) < 0.02 and 0.17 < np.mean(shares) < 0.23
    assert torch.equal(mix_up(images, targets, 0.0)[0], images)
    with pytest.raises(ValueError, match=r"^most must be in \[0, 1\], found 1.5"):
        mix_up(images, targets, 1.5)


# --- what is drawn, and where -----------------------------------------------------------------------------------------


def formulas(images, targets, generator):
    """Each change by its formula, with numbers drawn on the CPU, one generator through all of them."""

    def uniform(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float32)

    batch, channels, height, width = images.shape
    draw = 2 * uniform(4, batch) - 1
    angle, size = draw[0] * math.radians(15), 1 + 0.1 * draw[1]
    cos, sin, side = size * angle.cos(), size * angle.sin(), 1 - 2 * (uniform(batch) < 0.5)
    right, down = 2.0 * 2 / width * draw[2], 2.0 * 2 / height * draw[3]
    rows = torch.stack([side * cos, -sin * height / width, right, side * sin * width / height, cos, down], 1)
    grid = F.affine_grid(rows.view(batch, 2, 3).to(images), list(images.shape), align_corners=False)
    yield F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    noise = torch.randn(batch, channels, channels, generator=generator, dtype=torch.float32)
    matrices = (torch.eye(channels, dtype=torch.float32) + 0.3 * noise).to(images)
    yield torch.bmm(matrices, images.flatten(2)).view_as(images)
    first = [torch.randint(length, (batch, 1), generator=generator) - 3 for length in (height, width)]
    rows, columns = (
        (torch.arange(length) >= start) & (torch.arange(length) < start + 6)
        for length, start in zip((height, width), first, strict=True)
    )
    yield images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
    share, other = 0.7 * uniform().item(), torch.randperm(batch, generator=generator)
    yield images.lerp(images[other], share)
    yield targets.lerp(targets[other], share)


def changes(images, targets, generator):
    yield random_affine(images, flip=True, generator=generator)
    yield mix_channels(images, 0.3, generator)
    yield cut_out(images, 6, generator)
    yield from mix_up(images, targets, 0.7, generator)


@pytest.fixture(params=["nothing", "float64", "bfloat16", "device", "autocast", "inference", "deterministic"])
def surroundings(request):
    """torch's ambient state, set to what is not its default."""
    torch.set_default_dtype({"float64": torch.float64, "bfloat16": torch.bfloat16}.get(request.param, torch.float32))
    torch.use_deterministic_algorithms(request.param == "deterministic")
    entered = {
        "device": lambda: torch.device("meta"),
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "inference": torch.inference_mode,
    }.get(request.param, contextlib.nullcontext)
    yield entered
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_a_seed_decides_every_bit_whatever_surrounds_the_call(dtype, seed, surroundings):
    images = torch.randn(9, 3, 12, 16, generator=torch.Generator().manual_seed(9), dtype=dtype)
    targets = torch.softmax(torch.randn(9, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float32), 1)
    before = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    right = list(formulas(images, targets, torch.Generator().manual_seed(seed)))
    torch.set_default_dtype(before[0])
    torch.use_deterministic_algorithms(before[1])
    with surroundings():
        found = list(changes(images, targets, torch.Generator().manual_seed(seed)))
    for ours, expected in zip(found, right, strict=True):
        assert ours.dtype == expected.dtype and torch.equal(ours, expected)


def test_draws_where_the_images_are():
    """Values on the meta device are none: what was drawn elsewhere would not fit, and none can be looked at."""
    images, targets = torch.empty(9, 3, 12, 16, device="meta"), torch.empty(9, 4, device="meta")
    for changed, like in zip(changes(images, targets, None), [images] * 4 + [targets], strict=True):
        assert changed.is_meta and changed.shape == like.shape and changed.dtype == like.dtype


@pytest.mark.gpu
def test_waits_for_nothing_on_a_device():
    images, targets = torch.randn(9, 3, 12, 16, device="cuda"), torch.rand(9, 4, device="cuda")
    list(changes(images, targets, None))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(changes(images, targets, torch.Generator("cuda").manual_seed(0)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(changed.is_cuda and changed.isfinite().all() for changed in found)
