"""The validation split: cut from training pictures only, the same for every method and seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spgca_lab as lab
from spgca_lab.data import ImageSet, hold_out
from spgca_lab.runs.inputs import load_data

counts = st.lists(st.integers(2, 12), min_size=1, max_size=5)
shares = st.floats(0.01, 0.99)


def numbered(counts, offset=0):
    """Pictures that carry their own number in their first pixel, shuffled."""
    labels = torch.tensor([label for label, n in enumerate(counts) for _ in range(n)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(offset))]
    images = torch.zeros(len(labels), 3, 18, 18, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels)).to(torch.uint8)
    return ImageSet(images, labels, [f"c{i}" for i in range(len(counts))], 16, name="numbered")


def numbers(pictures):
    return pictures.images[:, 0, 0, 0].tolist()


@given(counts, shares, st.integers(0, 2**31))
def test_every_picture_is_on_one_side_and_every_class_on_both(counts, share, seed):
    whole = numbered(counts)
    left, held = hold_out(whole, share, seed)
    assert sorted(numbers(left) + numbers(held)) == list(range(len(whole)))
    assert numbers(left) == sorted(numbers(left)), "the order is that of the training pictures"
    for label, n in enumerate(counts):
        out = int((held.labels == label).sum())
        assert out == min(n - 1, max(1, round(share * n)))
    assert hold_out(whole, share, seed)[1].labels.tolist() == held.labels.tolist()


def test_another_seed_holds_out_others():
    whole = numbered([12, 12])
    chosen = {tuple(numbers(hold_out(whole, 0.25, seed)[1])) for seed in range(8)}
    assert len(chosen) > 4


def test_a_class_of_one_picture_is_named():
    with pytest.raises(ValueError, match=r"validation=0\.2 needs at least 2 .*'c1' have fewer"):
        hold_out(numbered([3, 1]), 0.2, 0)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_shares_outside_are_quoted(share):
    with pytest.raises(ValueError, match=f"got {share}"):
        hold_out(numbered([3, 3]), share, 0)


def test_a_run_with_validation_never_sees_a_test_picture(tmp_path):
    recipe = lab.Recipe(
        method="l2", weights="random", image_size=32, per_class=4, test_per_class=2, iterations=1,
        batch_size=8, evaluations=1, snapshots=0, validation=0.25,
    )  # fmt: skip
    train, test = load_data(recipe.replace(validation=0), 32)
    left, held = load_data(recipe, 32)
    pixels = {picture.numpy().tobytes() for picture in test.images}
    assert not pixels & {picture.numpy().tobytes() for part in (left, held) for picture in part.images}
    whole = {picture.numpy().tobytes() for picture in train.images}
    assert whole == {picture.numpy().tobytes() for part in (left, held) for picture in part.images}
    assert (len(left), len(held)) == (3 * len(train.classes), len(train.classes))
    *_, done = lab.fit(recipe, store=tmp_path, device="cpu")
    assert done.result["test_pictures"] == len(held)
    assert lab.Run(done.path).predictions.label.tolist() == held.labels.tolist()
