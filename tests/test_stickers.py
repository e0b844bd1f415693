"""The sticker world: same seed, same bytes; exact masks; a bank that is checked on reading."""

import hashlib
import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spgca_lab.data import exhibits, load_dataset, sticker_classes, stickers
from spgca_lab.data import sticker_compose as compose
from spgca_lab.data.shipped import data_dir
from spgca_lab.data.sticker_bank import ARTISTS, Bank, load_bank
from spgca_lab.data.sticker_compose import TURN, Placement
from spgca_lab.data.stickers import PRESETS, compose_sticker, make_stickers

# sha256 of pictures and of masks, 2 a class at 73 px, seed 7: the same on every platform.
PINNED = {
    "near": ("aea3c5b82eabcf04f2781c4282d94346", "14a87d7f37a4a6aa71d21d5cd7409b86"),
    "mid": ("472713b5adf8dbe18409a09a0101cae2", "ed391c0cc7319ab44b7972517d86a57a"),
    "far": ("657a5420c299957252d7aae150e3c9b5", "ed391c0cc7319ab44b7972517d86a57a"),
    "cross": ("aea3c5b82eabcf04f2781c4282d94346", "14a87d7f37a4a6aa71d21d5cd7409b86"),
}


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


@pytest.mark.parametrize("preset", PRESETS)
def test_same_seed_same_bytes(preset):
    pictures, masks, _ = make_stickers("train", preset, 2, 73, seed=7)
    assert (digest(pictures), digest(masks)) == PINNED[preset]


def test_large_pictures_are_pinned_too():
    bank = load_bank()
    random = np.random.RandomState([7, 0])
    picture, mask = compose_sticker(bank, random, bank.targets[3], "fluent", 256, clutter=5)
    assert (digest(picture), digest(mask)) == (
        "c8a745c46c7eecd0f515ed02fd5cc625",
        "f4e5c769a5400083e67e56d8e8d418f3",
    )


def test_pictures_depend_on_seed_split_class_and_index_alone():
    few, masks, labels = make_stickers("train", "near", 1, 32)
    more, more_masks, more_labels = make_stickers("train", "near", 3, 32)
    assert np.array_equal(few, more[::3])
    assert np.array_equal(masks, more_masks[::3])
    assert labels.tolist() == list(range(48))
    assert more_labels.tolist() == [y for y in range(48) for _ in range(3)]
    every = [
        *more,
        *make_stickers("test", "near", 3, 32)[0],
        *make_stickers("train", "near", 3, 32, seed=1)[0],
    ]
    assert len({digest(picture) for picture in every}) == len(every)


def test_load_dataset_gives_sets_of_the_documented_shapes():
    train, test = load_dataset("stickers", preset="mid", per_class=2, test_per_class=1, image_size=32, seed=3)
    assert train.images.shape == (96, 3, 37, 37)
    assert test.images.shape == (48, 3, 37, 37)
    assert train.images.dtype == torch.uint8
    assert train.masks.shape == (96, 37, 37)
    assert train.classes == test.classes == sticker_classes()
    pictures, masks, labels = make_stickers("test", "mid", 1, 37, seed=3)
    assert np.array_equal(test.images.permute(0, 2, 3, 1).numpy(), pictures)
    assert np.array_equal(test.masks.numpy(), masks)
    assert test.labels.tolist() == labels.tolist()


def test_objects_cover_a_varied_part_of_the_picture():
    _, masks, _ = make_stickers("test", "mid", 4, 73)
    covered = masks.mean((1, 2))
    assert 0.04 < covered.min() < 0.12
    assert 0.2 < covered.mean() < 0.3
    assert 0.4 < covered.max() < 0.65


class _Painted(Bank):
    """The same shapes, with the target in magenta and everything else in green."""

    def levels(self, artist, concept):
        colour = (255, 0, 255) if concept.target else (0, 255, 0)
        painted = []
        for level in super().levels(artist, concept):
            alpha = level[..., 3:].astype(np.int32)
            painted.append(np.concatenate([np.array(colour) * alpha // 255, alpha], 2).astype(np.uint8))
        return painted


@pytest.fixture
def painted(monkeypatch):
    """A bank whose targets are magenta, on black, among green distractors: red is the object's alone."""
    monkeypatch.setattr(
        compose, "background", lambda random, size, palette: np.zeros((size, size, 3), np.int32)
    )
    monkeypatch.setattr(stickers, "_colour", lambda draws, levels: [0, 255, 0])
    return _Painted(data_dir() / "stickers")


def test_the_mask_is_exactly_what_is_visible_of_the_object(painted):
    touched = 0
    for seed in range(60):
        concept, artist = painted.targets[seed % 48], ARTISTS[seed % 3]
        picture, mask = compose_sticker(painted, np.random.RandomState(seed), concept, artist, 64, clutter=8)
        red, green = picture[..., 0].astype(int), picture[..., 1]
        full = red.max()  # red = alpha of the object · full · (1 − alpha of what lies in front)
        assert mask[red > full / 2 + 4].all()
        assert not mask[red < full / 4 - 4].any()
        unclear = (np.abs(red - full / 2) <= 4) | (green > 0)
        assert np.array_equal((red > full / 2) & ~unclear, mask & ~unclear)
        touched += int((mask & (green > 0)).sum())
    assert touched > 100  # there were distractors at the objects' borders


def test_distractors_in_front_are_cut_out_of_the_mask(painted):
    hits = 0
    for seed in range(60):
        random = np.random.RandomState(seed)
        picture, mask = compose_sticker(painted, random, painted.targets[26], "twemoji", 64, clutter=10)
        green = (picture[..., 1] > 190) & (picture[..., 0] < 40)
        assert not (green & mask).any()
        rows, columns = np.nonzero(mask)
        inside = green[rows.min() : rows.max(), columns.min() : columns.max()]
        hits += int(inside.sum() > 20)
    assert hits > 20


def test_far_is_without_colour_and_keeps_the_masks_of_mid():
    far, far_masks, _ = make_stickers("train", "far", 2, 73)
    mid, mid_masks, _ = make_stickers("train", "mid", 2, 73)
    assert (far == far[..., :1]).all()
    assert (mid != mid[..., :1]).any()
    assert np.array_equal(far_masks, mid_masks)
    grey, edges = far[::2], far[1::2]
    luma = (mid[::2].astype(int) @ np.array([77, 150, 29])) >> 8
    assert np.array_equal(grey[..., 0], luma)
    paper = np.median(edges.reshape(48, -1), axis=1)
    assert (paper >= 200).mean() > 0.9


def test_cross_is_trained_on_near_and_tested_on_mid():
    for split, preset in (("train", "near"), ("test", "mid")):
        cross, masks, _ = make_stickers(split, "cross", 2, 48, seed=5)
        same, same_masks, _ = make_stickers(split, preset, 2, 48, seed=5)
        assert np.array_equal(cross, same)
        assert np.array_equal(masks, same_masks)


def test_near_takes_turns_between_the_artists_that_mini_knows():
    assert PRESETS["near"].artists == ("fluent", "noto")
    assert PRESETS["mid"].artists == PRESETS["far"].artists == ("twemoji",)


def test_colour_alone_does_not_find_the_object():
    """Colours learnt from 480 pictures mark other objects poorly; knowing nothing gives 0.5 and 0.25."""
    pictures, masks, _ = make_stickers("train", "near", 10, 48)
    others, other_masks, _ = make_stickers("test", "near", 3, 48)
    cell = lambda x: (x.astype(int) // 32) @ np.array([64, 8, 1])  # noqa: E731
    inside = np.bincount(cell(pictures)[masks], minlength=512) / masks.sum()
    outside = np.bincount(cell(pictures)[~masks], minlength=512) / (~masks).sum()
    guess = (inside > outside)[cell(others)]
    balanced = (guess[other_masks].mean() + (~guess)[~other_masks].mean()) / 2
    overlap = (guess & other_masks).sum() / (guess | other_masks).sum()
    assert 0.5 < balanced < 0.72
    assert 0.2 < overlap < 0.4


def test_no_clutter_means_no_distractors(monkeypatch):
    calls = []
    real = compose.draw
    monkeypatch.setattr(compose, "draw", lambda *args: calls.append(1) or real(*args))
    bank = load_bank()
    for clutter in (0, 1, 6):
        calls.clear()
        compose_sticker(bank, np.random.RandomState(0), bank.targets[0], "noto", 48, clutter=clutter)
        assert len(calls) == 1 + clutter


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(16, 300),
    grids=st.lists(st.integers(3, 40), min_size=1, max_size=6),
)
def test_noise_in_float32_equals_noise_in_whole_numbers(seed, size, grids):
    found = compose.noise(np.random.RandomState(seed), size, tuple(grids))
    random, total, strength, strengths = np.random.RandomState(seed), 0, 256, 0
    for grid in grids:
        nodes = random.randint(0, 256, size=(grid, grid), dtype=np.uint8).astype(np.int64)
        weights = compose._spline(grid, size).astype(np.int64)
        assert (weights.sum(1) == 256).all()
        assert (weights >= 0).all()
        total = total + (weights @ nodes @ weights.T) // 256 * strength // 256
        strengths += strength
        strength //= 2
    assert np.array_equal(found, total // strengths)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_sprite_drawn_upright_or_by_quarter_turns_keeps_its_pixels(quarters, mirror):
    bank = load_bank()
    levels = bank.levels("noto", bank.targets[0])
    place = Placement(x=140 * 128, y=140 * 128, side=128 * 256, turn=quarters * TURN // 4, mirror=mirror)
    patch, where = compose.draw(levels, place, 140)
    canvas = np.zeros((140, 140, 4), dtype=np.int32)
    canvas[where] = patch
    sprite = levels[0][1:-1, 1:-1].astype(np.int32)
    expected = np.zeros_like(canvas)
    expected[6:134, 6:134] = np.rot90(sprite[:, ::-1] if mirror else sprite, -quarters)
    assert np.array_equal(canvas, expected)


def test_a_sprite_outside_the_picture_is_not_drawn():
    levels = load_bank().levels("noto", load_bank().targets[0])
    assert compose.draw(levels, Placement(-9000, -9000, 20 * 256, 0, False), 64) is None


def test_targets_and_pretraining_share_nothing():
    bank = load_bank()
    assert 40 <= len(bank.targets) <= 60
    assert len(bank.others) > 900
    assert all(5 <= count <= 8 for count in Counter(c.group for c in bank.targets).values())
    for field in ("name", "codepoint"):
        values = [getattr(concept, field) for concept in (*bank.targets, *bank.others)]
        assert len(set(values)) == len(values)
    for artist in ARTISTS:
        for concept in (*bank.targets, *bank.others):
            sprite = bank.sprite(artist, concept)
            assert sprite.shape == ((128, 128, 4) if concept.target else (64, 64, 4))
            assert (sprite[..., 3] > 127).mean() > 0.02, f"{concept.name} by {artist} is hardly there"


def test_the_index_is_what_the_build_script_lists():
    file = Path(__file__).resolve().parents[1] / "data" / "build_stickers.py"
    spec = importlib.util.spec_from_file_location("build_stickers", file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    bank = load_bank()
    listed = [(name, group) for group, names in script.TARGETS.items() for name in names.values()]
    assert [(concept.name, concept.group) for concept in bank.targets] == listed
    assert not {concept.name for concept in bank.others} & (script.TWINS | script.CLOCKS)
    index = json.loads((data_dir() / "stickers" / "index.json").read_text(encoding="utf-8"))
    for artist, about in script.ARTISTS.items():
        packages = [f"{name}@{script.PACKAGES[name]}" for name in about["packages"]]
        assert index["artists"][artist]["packages"] == packages
        assert index["artists"][artist]["license"] == about["license"]


def test_a_damaged_or_missing_atlas_is_named(tmp_path):
    folder = tmp_path / "stickers"
    shutil.copytree(data_dir() / "stickers", folder)
    atlas = folder / "noto-targets.webp"
    data = bytearray(atlas.read_bytes())
    data[5000] ^= 1
    atlas.write_bytes(data)
    bank = Bank(folder)
    bank.sprite("fluent", bank.targets[0])
    with pytest.raises(ValueError, match=r"noto-targets\.webp' is damaged: its sha256 is"):
        bank.sprite("noto", bank.targets[0])
    atlas.unlink()
    with pytest.raises(FileNotFoundError, match=r"noto-targets\.webp' is missing"):
        bank.sprite("noto", bank.targets[0])
    with pytest.raises(ValueError, match="unknown artist 'picasso': choose one of fluent, noto, twemoji"):
        bank.sprite("picasso", bank.targets[0])
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json' is missing"):
        Bank(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "nearr"}, "unknown preset 'nearr' of the stickers: choose one of near, mid, far"),
        ({"per_class": 0}, "per_class is 0: give a whole number from 1"),
        ({"test_per_class": -1}, "^test_per_class is -1: give a whole number from 1"),
        ({"clutter": 13}, "clutter is 13: give a whole number from 0 to 12"),
        ({"clutter": 1.5}, r"clutter is 1\.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 4}, "^image_size is 4: give a whole number from 14 to 1792"),
    ],
)
def test_options_out_of_range_are_quoted(options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("stickers", **options)


def test_unknown_split():
    with pytest.raises(ValueError, match="unknown split 'val': choose 'train' or 'test'"):
        make_stickers("val")


def test_exhibits_need_no_network(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("an exhibit asked for a network")

    monkeypatch.setattr(socket, "socket", refuse)
    pictures = exhibits()
    assert {"chelsea", "coffee"} <= set(pictures)
    for picture in pictures.values():
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3
        assert picture.float().std() > 5


def test_large_sets_do_not_depend_on_threads(monkeypatch):
    threaded = make_stickers("test", "near", 1, 128, seed=2)
    monkeypatch.setattr(stickers.os, "cpu_count", lambda: 1)
    single = make_stickers("test", "near", 1, 128, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(threaded, single, strict=True))
