"""Compose images in integer arithmetic, so that a seed gives the same bytes on every platform.

Sprites are sampled bilinearly with 8-bit weights. Noise is a product of small integer matrices in float32: every
partial sum is an integer below 2**24, and therefore exact in any order.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["TURN", "Placement", "background", "draw", "noise", "over", "sketch", "to_grey"]

# OpenBLAS computes larger products with threads that wait for each other in busy loops: on a busy machine 15 µs become
# 15 ms. Up to this many multiplications it uses one thread.
_ONE_THREAD = 262_144
TURN = 1024  # angles are counted in 1/1024 of a full turn
_SINE = np.array([round(16384 * math.sin(2 * math.pi * k / TURN)) for k in range(TURN)], dtype=np.int64)


@dataclass(frozen=True)
class Placement:
    """Place of a sprite: centre and side of its cell in 1/256 pixel, angle in 1/1024 of a full turn."""

    x: int
    y: int
    side: int
    turn: int
    mirror: bool


@lru_cache(maxsize=256)
def _spline(grid: int, size: int) -> np.ndarray:
    """Return quadratic B-spline weights [size, grid] that stretch `grid` values over `size`; rows sum to 256."""
    weights = np.zeros((size, grid), dtype=np.float32)
    for i in range(size):
        position = ((2 * i + 1) * (grid - 2) * 256) // (2 * size)
        cell, t = position // 256, position % 256
        first, last = (256 - t) ** 2 // 512, t * t // 512
        for offset, weight in enumerate((first, 256 - first - last, last)):
            weights[i, min(cell + offset, grid - 1)] += weight
    return weights


def noise(random: np.random.RandomState, size: int, grids: tuple[int, ...]) -> np.ndarray:
    """Return multi-scale noise, int32 [size, size], 0–255.

    Args:
        random: source of the bits.
        size: side in pixels.
        grids: nodes per side of each octave, coarse to fine, each ≥ 3; every octave has half the previous strength.
    """
    total = np.zeros((size, size), dtype=np.int32)
    strength, strengths = 256, 0
    for grid in grids:
        nodes = random.randint(0, 256, size=(grid, grid), dtype=np.uint8).astype(np.float32)
        weights = _spline(grid, size)
        across, rows = weights @ nodes, max(1, _ONE_THREAD // (size * grid))
        octave = np.empty((size, size), dtype=np.float32)
        for first in range(0, size, rows):
            np.matmul(across[first : first + rows], weights.T, out=octave[first : first + rows])
        total += octave.astype(np.int32) // 256 * strength // 256
        strengths += strength
        strength //= 2
    return total // strengths


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = (2 * np.arange(size, dtype=np.int32) + 1 - size) * 128  # 1/256 pixel from the centre
    return line[None, :], line[:, None]


def _ramp(size: int, turn: int, low: int, high: int) -> np.ndarray:
    """Return a linear gradient at an angle, int32 [size, size] from `low` to `high`, 0–255."""
    x, y = _axes(size)
    cosine, sine = int(_SINE[(turn + TURN // 4) % TURN]), int(_SINE[turn % TURN])
    along = (x * (cosine >> 6) + y * (sine >> 6)) // size  # within ±√2 · 128 · 256
    level = np.clip(128 + along * 181 // 65536, 0, 255)
    return low + level * (high - low) // 255


def _texture(random: np.random.RandomState, size: int, warp: np.ndarray) -> np.ndarray:
    """Return stripes, a weave, blobs or marbling, bent by a noise field; int32 [size, size], 0–255."""
    kind, turn, period = (int(v) for v in random.randint(0, 65536, size=3, dtype=np.int64))
    kind, turn = kind % 4, turn % TURN
    x, y = _axes(size)
    cosine, sine = int(_SINE[(turn + TURN // 4) % TURN]) >> 4, int(_SINE[turn]) >> 4
    period = size * (20 + period % 44)  # in 1/256 pixel: 8 % to 25 % of the side
    if kind == 3:
        blobs = noise(random, size, (9 + period % 12,))
        return np.clip((blobs - 128) * 5 + 128, 0, 255)
    along = (x * cosine + y * sine) // 1024 + warp * (period // 96)
    wave = np.abs((along * 512 // period) % 512 - 256)
    if kind == 1:
        across = (y * cosine - x * sine) // 1024 + warp * (period // 128)
        wave = (wave + np.abs((across * 512 // period) % 512 - 256)) // 2
    return np.clip((wave - 128) * (2 if kind == 2 else 4) + 128, 0, 255)


def background(random: np.random.RandomState, size: int, palette: np.ndarray) -> np.ndarray:
    """Return a scene without objects, int32 [size, size, 3], 0–255.

    Two colours are mixed by 1/f noise and a gradient; a third is laid over as a texture.

    Args:
        random: source of the bits.
        size: side in pixels.
        palette: int [3, 3] colours, 0–255.
    """
    turn, low, high, amount, grain = (int(v) for v in random.randint(0, 256, size=5, dtype=np.int64))
    clouds = noise(random, size, (4, 6, 10, 18, 34))
    clouds = np.clip((clouds - 128) * 3 + 128, 0, 255)
    mix = (clouds * 160 + _ramp(size, turn * 4, low, high) * 96) // 256
    texture = _texture(random, size, clouds) * (amount % 176) // 256
    first, second, third = (palette[i].astype(np.int32) for i in range(3))
    out = first * 255 + (second - first) * mix[..., None]
    out = (out * 255 + (third * 255 - out) * texture[..., None]) // (255 * 255)
    speck = random.randint(0, 256, size=(size, size), dtype=np.uint8).astype(np.int32) - 128
    return np.clip(out + (speck * (1 + grain % 11) // 128)[..., None], 0, 255)


def draw(
    levels: list[np.ndarray], place: Placement, size: int
) -> tuple[np.ndarray, tuple[slice, slice]] | None:
    """Turn, scale and place a sprite.

    Args:
        levels: premultiplied pyramid as `Bank.levels` returns it.
        place: position, size and angle.
        size: side of the image in pixels.

    Returns:
        int32 [h, w, 4] premultiplied patch (0–255) and its place in the image, or None if it lies outside.
    """
    level = levels[0]
    for smaller in levels[1:]:
        if (smaller.shape[0] - 2) * 256 * 4 < place.side * 5:
            break
        level = smaller
    cells = level.shape[0] - 2
    reach = (place.side * 363 >> 9) + 256
    x0, x1 = max(0, (place.x - reach) >> 8), min(size, ((place.x + reach) >> 8) + 1)
    y0, y1 = max(0, (place.y - reach) >> 8), min(size, ((place.y + reach) >> 8) + 1)
    if x0 >= x1 or y0 >= y1:
        return None
    cosine, sine = int(_SINE[(place.turn + TURN // 4) % TURN]), int(_SINE[place.turn % TURN])
    dx = (np.arange(x0, x1, dtype=np.int64) * 256 + 128 - place.x)[None, :]
    dy = (np.arange(y0, y1, dtype=np.int64) * 256 + 128 - place.y)[:, None]
    u = (dx * cosine + dy * sine) * cells // (place.side * 64)
    v = (dy * cosine - dx * sine) * cells // (place.side * 64)
    middle = (cells + 1) * 128  # centre of the rimmed level, in 1/256 cells, less half a cell
    u = np.clip((-u if place.mirror else u) + middle, 0, (cells + 1) * 256 - 1).astype(np.int32)
    v = np.clip(v + middle, 0, (cells + 1) * 256 - 1).astype(np.int32)
    stride = cells + 2
    index = (v >> 8) * stride + (u >> 8)
    flat = np.ascontiguousarray(level).view(np.uint32).reshape(-1)  # one word per pixel gathers fastest
    fu, fv = (u & 255)[..., None], (v & 255)[..., None]
    top = _mix(flat.take(index), flat.take(index + 1), fu)
    bottom = _mix(flat.take(index + stride), flat.take(index + (stride + 1)), fu)
    bottom -= top
    bottom *= fv
    top <<= 8
    top += bottom
    top += 32768
    top >>= 16
    return top, (slice(y0, y1), slice(x0, x1))


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """256 · first + share · (second − first) for pixels packed in words; int32 [h, w, 4]."""
    before = first.view(np.uint8).reshape(*first.shape, 4).astype(np.int32)
    change = second.view(np.uint8).reshape(*second.shape, 4).astype(np.int32)
    change -= before
    change *= share
    before <<= 8
    before += change
    return before


def over(image: np.ndarray, patch: np.ndarray, where: tuple[slice, slice]) -> None:
    """Lay a premultiplied patch, int32 [h, w, 4], over an image, int32 [size, size, 3], in place."""
    below = image[where]
    below *= 255 - patch[..., 3:]
    below += 127
    below //= 255
    below += patch[..., :3]
    np.minimum(below, 255, out=below)


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return the luma of an int32 [h, w, 3] image in three equal channels: (77 R + 150 G + 29 B) / 256."""
    luma = (image[..., 0] * 77 + image[..., 1] * 150 + image[..., 2] * 29) >> 8
    return np.repeat(luma[..., None], 3, axis=2)


def sketch(image: np.ndarray, paper: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Redraw an int32 [h, w, 3] image as its edges: `ink` where neighbouring pixels differ, else `paper`."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    across = np.abs(padded[1:-1, 2:] - padded[1:-1, :-2])
    down = np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1])
    edge = np.clip((across + down).max(axis=2) * 3 // 2 - 48, 0, 255)[..., None]
    return (paper * (255 - edge) + ink * edge) // 255
