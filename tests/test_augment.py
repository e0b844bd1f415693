"""Crop and flip in one gather, against slicing picture by picture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spgca_lab.data import center_crop, random_crop_flip, stored_size


def sliced(images, size, seed):
    """The same crops by slicing one picture after the other, with the documented order of draws."""
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = images.shape
    down = torch.randint(0, height - size + 1, (n, 1), generator=generator)[:, 0].tolist()
    right = torch.randint(0, width - size + 1, (n, 1), generator=generator)[:, 0].tolist()
    flips = torch.randint(0, 2, (n, 1), generator=generator)[:, 0].tolist()
    crops = []
    for image, y, x, flip in zip(images, down, right, flips, strict=True):
        crop = image[:, y : y + size, x : x + size]
        crops.append(crop.flip(2) if flip else crop)
    return torch.stack(crops)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5),
    channels=st.integers(1, 4),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_one_gather_equals_slicing(n, channels, height, width, seed, data):
    size = data.draw(st.integers(1, min(height, width)))
    images = torch.arange(n * channels * height * width).reshape(n, channels, height, width)
    found = random_crop_flip(images, size, torch.Generator().manual_seed(seed))
    assert torch.equal(found, sliced(images, size, seed))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bool])
def test_masks_move_with_their_pictures(dtype):
    masks = torch.rand(40, 17, 17, generator=torch.Generator().manual_seed(3)) > 0.5
    images = masks[:, None].to(dtype).expand(-1, 3, -1, -1)  # not contiguous
    crops, cut = random_crop_flip(images, 13, torch.Generator().manual_seed(4), masks=masks)
    assert crops.dtype == dtype
    assert cut.dtype == torch.bool
    assert torch.equal(crops[:, 2].bool(), cut)


def test_every_place_and_both_flips_occur():
    pictures = torch.arange(16).reshape(1, 1, 4, 4).expand(600, 1, 4, 4)
    corners = random_crop_flip(pictures, 2, torch.Generator().manual_seed(0))[:, 0, 0]
    seen = {tuple(pair) for pair in corners.tolist()}
    assert seen == {
        (4 * y + a, 4 * y + b) for y in range(3) for x in range(3) for a, b in [(x, x + 1), (x + 1, x)]
    }


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 4096))
def test_stored_size_is_eight_sevenths(size):
    assert stored_size(size) == round(size * 8 / 7)


def test_center_crop_takes_the_middle():
    picture = torch.arange(49).reshape(1, 1, 7, 7)
    assert center_crop(picture, 3)[0, 0].tolist() == [[16, 17, 18], [23, 24, 25], [30, 31, 32]]
    assert center_crop(picture, 4)[0, 0, 0].tolist() == [8, 9, 10, 11]


def test_misfits_are_named():
    pictures, generator = torch.zeros(2, 3, 8, 8), torch.Generator()
    with pytest.raises(ValueError, match=r"crop of 9 does not fit images of 8×8"):
        random_crop_flip(pictures, 9, generator)
    with pytest.raises(ValueError, match=r"crop of 9 does not fit"):
        center_crop(pictures, 9)
    with pytest.raises(ValueError, match=r"masks have shape \(2, 7, 8\): expected \(2, 8, 8\)"):
        random_crop_flip(pictures, 4, generator, masks=torch.zeros(2, 7, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(3, 8, 8\): expected \[n, c, height, width\]"):
        center_crop(pictures[0], 4)
    for wrong in (0, -3, 64.0, True):
        with pytest.raises(ValueError, match="image_size is"):
            stored_size(wrong)
