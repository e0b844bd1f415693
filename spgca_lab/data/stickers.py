"""Make the sticker world: drawings on procedural backgrounds, with exact masks of the visible object."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from spgca_lab._checks import check_whole_number
from spgca_lab.data import sticker_compose as compose
from spgca_lab.data.sticker_bank import Bank, Concept, load_bank
from spgca_lab.data.sticker_compose import TURN, Placement

__all__ = ["DEFAULT_CLUTTER", "PRESETS", "Preset", "compose_sticker", "make_stickers", "sticker_classes"]

DEFAULT_CLUTTER = 2
MAX_CLUTTER = 12
SPLITS = {"train": 0, "test": 1, "pretrain": 2, "heldout": 3}


@dataclass(frozen=True)
class Preset:
    """Artists and styles ("colour", "grey" or "edges"), taken in turn, and artists of the test images if others."""

    artists: tuple[str, ...]
    styles: tuple[str, ...]
    test_artists: tuple[str, ...] | None = None


PRESETS = {
    "near": Preset(("fluent", "noto"), ("colour",)),
    "mid": Preset(("twemoji",), ("colour",)),
    "far": Preset(("twemoji",), ("grey", "edges")),
    # The training images of near, the test images of mid.
    "cross": Preset(("fluent", "noto"), ("colour",), test_artists=("twemoji",)),
}


class _Draws:
    """A sequence of uniform random numbers, drawn at once."""

    def __init__(self, random: np.random.RandomState, count: int):
        self._values = iter(random.randint(0, 65536, size=count, dtype=np.int64).tolist())

    def between(self, low: int, high: int) -> int:
        return low + ((high - low + 1) * next(self._values) >> 16)


def _colour(draws: _Draws, levels: list[np.ndarray] | None) -> list[int]:
    """Take a colour from a drawing and make it lighter or darker; without a drawing, take any."""
    x, y, shift = draws.between(0, 15), draws.between(0, 15), draws.between(-48, 48)
    hue = [draws.between(0, 255) for _ in range(3)]
    if levels is not None:
        red, green, blue, alpha = (int(v) for v in levels[-1][y + 1, x + 1])
        if alpha > 128:
            hue = [red * 255 // alpha, green * 255 // alpha, blue * 255 // alpha]
    return [min(255, max(0, value + shift)) for value in hue]


def _relight(patch: np.ndarray, draws: _Draws) -> None:
    """Vary lightness and tint of a premultiplied patch, in place."""
    light = draws.between(205, 290)
    for channel in range(3):
        gain = light + draws.between(-18, 18)
        patch[..., channel] = np.minimum(patch[..., channel] * gain >> 8, patch[..., 3])


def _distractor(
    draws: _Draws, levels: list[np.ndarray], palette: np.ndarray, size: int
) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """Draw a small other concept: whole, cut in two, or as a silhouette in a colour of the scene."""
    place = Placement(
        x=draws.between(0, size * 256),
        y=draws.between(0, size * 256),
        side=size * draws.between(52, 112),
        turn=draws.between(0, TURN - 1),
        mirror=draws.between(0, 1) == 1,
    )
    kind, cut, colour = draws.between(0, 3), draws.between(0, 3), draws.between(0, 2)
    drawn = compose.draw(levels, place, size)
    if drawn is None:
        return None
    patch, where = drawn
    if kind == 0:
        patch[..., :3] = palette[colour] * patch[..., 3:] // 255
    elif kind <= 2:
        half = [slice(None), slice(None)]
        middle = patch.shape[cut // 2] // 2
        half[cut // 2] = slice(0, middle) if cut % 2 else slice(middle, None)
        patch[tuple(half)] = 0
    _relight(patch, draws)
    return patch, where


def compose_sticker(
    bank: Bank,
    random: np.random.RandomState,
    concept: Concept,
    artist: str,
    size: int,
    clutter: int = DEFAULT_CLUTTER,
    style: str = "colour",
) -> tuple[np.ndarray, np.ndarray]:
    """Compose one image: a concept at a random place, size and angle among distractors on a procedural background.

    Args:
        bank: source of the drawings.
        random: source of every choice; its state alone determines the image.
        concept: class to show.
        artist: artist of the concept and the distractors.
        size: side of the image in pixels.
        clutter: number of distractors.
        style: "colour", "grey" or "edges".

    Returns:
        uint8 [size, size, 3] image, and bool [size, size] mask of the object's visible pixels (alpha ≥ 1/2 and not
        behind a distractor).
    """
    draws = _Draws(random, 80 + 32 * clutter)
    levels = bank.levels(artist, concept)
    others = [
        bank.levels(artist, bank.others[draws.between(0, len(bank.others) - 1)]) for _ in range(clutter)
    ]
    sources = [levels, others[0] if others else None, None, levels]
    palette = np.array([_colour(draws, sources[draws.between(0, 3)]) for _ in range(3)])
    image = compose.background(random, size, palette)

    side = draws.between(128, 218)  # in 1/256 of the image's side
    room = max(0, 256 - side) // 2 + 16
    place = Placement(
        x=size * (128 + draws.between(-room, room)),
        y=size * (128 + draws.between(-room, room)),
        side=size * side,
        turn=draws.between(-96, 96) % TURN,
        mirror=draws.between(0, 1) == 1,
    )
    drawn = compose.draw(levels, place, size)
    assert drawn is not None  # the centre always lies inside the image
    patch, where = drawn
    _relight(patch, draws)
    mask = np.zeros((size, size), dtype=bool)
    mask[where] = patch[..., 3] >= 128
    area = int(mask.sum())

    front = []
    for other in others:
        in_front = draws.between(0, 3) == 0
        distractor = _distractor(draws, other, palette, size)
        if distractor is None:
            continue
        piece, at = distractor
        hides = piece[..., 3] >= 128
        if in_front and int((mask[at] & hides).sum()) * 6 <= area:
            mask[at] &= ~hides
            front.append(distractor)
        else:
            compose.over(image, piece, at)
    compose.over(image, patch, where)
    for piece, at in front:
        compose.over(image, piece, at)

    if style == "grey":
        image = compose.to_grey(image)
    elif style == "edges":
        paper, ink = np.array([draws.between(215, 250)] * 3), np.array([draws.between(5, 60)] * 3)
        image = compose.sketch(image, paper, ink)
    return image.astype(np.uint8), mask


def sticker_classes() -> list[str]:
    """Return the names of the target classes in the order of their labels."""
    return [concept.name for concept in load_bank().targets]


def make_stickers(
    split: str,
    preset: str = "near",
    per_class: int = 5,
    size: int = 73,
    clutter: int = DEFAULT_CLUTTER,
    seed: int = 0,
    classes: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make one split of the target set; each image depends only on (seed, split, class, index).

    Args:
        split: "train" or "test".
        preset: "near", "mid", "far" or "cross".
        per_class: images per class; a smaller number gives a subset of a larger one.
        size: side of the images in pixels.
        clutter: distractors per image, 0–12.
        seed: 0 … 2³² − 1.
        classes: number of classes; None takes all.

    Returns:
        uint8 [n, size, size, 3] images, bool [n, size, size] masks, int64 [n] labels, class by class.

    Example:
        >>> images, masks, labels = make_stickers("train", per_class=1)
        >>> images.shape, labels[:3].tolist()
        ((48, 73, 73, 3), [0, 1, 2])
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: choose 'train' or 'test'")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r} of the stickers: choose one of {', '.join(PRESETS)}")
    check_whole_number("per_class", per_class, 1, 100_000)
    check_whole_number("size", size, 16, 2048)
    check_whole_number("clutter", clutter, 0, MAX_CLUTTER)
    check_whole_number("seed", seed, 0, 2**32 - 1)
    bank, chosen = load_bank(), PRESETS[preset]
    artists = chosen.test_artists if split == "test" and chosen.test_artists else chosen.artists
    classes = len(bank.targets) if classes is None else classes
    check_whole_number("classes", classes, 1, len(bank.targets))
    count = classes * per_class
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    masks = np.empty((count, size, size), dtype=bool)
    labels = np.repeat(np.arange(classes, dtype=np.int64), per_class)

    def fill(row: int) -> None:
        label, index = divmod(row, per_class)
        random = np.random.RandomState([seed, SPLITS[split], label, index])
        artist = artists[index % len(artists)]
        style = chosen.styles[index % len(chosen.styles)]
        concept = bank.targets[label]
        images[row], masks[row] = compose_sticker(bank, random, concept, artist, size, clutter, style)

    # Below about 128 px threads cost more than they save.
    workers = min(8, os.cpu_count() or 1) if size >= 128 else 1
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(count)):
            pass
    return images, masks, labels
