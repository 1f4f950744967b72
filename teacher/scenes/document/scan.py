"""The effects of a scanner on a page: skew, blur, uneven light, noise and specks of dust."""

import math
import random

import numpy as np
from PIL import Image, ImageFilter

from teacher.scenes.canvas import rotated
from teacher.scenes.scene import Cell


def scanned(image: Image.Image, cells: list[Cell], seed: int) -> tuple[Image.Image, list[Cell]]:
    """A page as scanned, and its cells with the boxes around their new places; `seed` chooses the effects."""
    rng = random.Random(f"scan/{seed}")
    # The streams of RandomState are frozen (NEP 19); those of numpy's newer generators may change.
    noise = np.random.RandomState(rng.randrange(1 << 31))
    if rng.random() < 0.7:
        image = image.convert("L")
    # The longest text rises by at most 8 px, which is less than the gap below a heading.
    longest = max(cell.box[2] - cell.box[0] for cell in cells)
    skew = min(2.0, math.degrees(math.asin(min(1.0, 8 / longest))))
    image, cells = rotated(image, cells, rng.uniform(-skew, skew), "white")
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.65)))
    pixels = np.asarray(image, np.float32)
    height, width = pixels.shape[:2]
    light_HW = (
        np.linspace(0, rng.uniform(-14, 14), width)[None, :]
        + np.linspace(0, rng.uniform(-14, 14), height)[:, None]
    )
    grain_HW = noise.normal(0, rng.uniform(2, 9), (height, width))
    paper = rng.uniform(236, 252)
    change_HW = light_HW + grain_HW
    if pixels.ndim == 3:
        change_HW = change_HW[:, :, None]
    # Ink fades and paper darkens; 16 levels a channel keep a page of noise under half a megabyte.
    faded = 18 + pixels / 255 * (paper - 18) + change_HW
    # A level is 17, so that the brightest is 255.
    result = (np.clip(np.round(faded / 17), 0, 15) * 17).astype(np.uint8)
    boxes = [cell.box for cell in cells]
    for _ in range(rng.randrange(25)):
        y, x = noise.randint(height), noise.randint(width)
        grey = rng.randrange(40, 140)
        # No dust on text: a speck between two digits would look like a decimal point.
        if not any(b[0] - 9 < x < b[2] + 9 and b[1] - 9 < y < b[3] + 9 for b in boxes):
            result[y : y + 2, x : x + 2] = grey
    return Image.fromarray(result), cells
