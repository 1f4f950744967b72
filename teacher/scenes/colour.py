"""Luminance and contrast of colours, as WCAG 2.2 defines them for sRGB, and mixing of colours."""

from PIL import ImageColor

WEIGHTS = (0.2126, 0.7152, 0.0722)  # of red, green, blue


def linear(value: float) -> float:
    """The linear intensity of an sRGB channel value, both 0 to 1."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    """The relative luminance of a colour, 0 to 1."""
    red, green, blue = (linear(c / 255) for c in ImageColor.getrgb(colour)[:3])
    return WEIGHTS[0] * red + WEIGHTS[1] * green + WEIGHTS[2] * blue


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours: 1 for equal ones, 21 for black on white."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mix(one: str, other: str, share: float) -> str:
    """The mix of two colours; share: of `other`, 0 to 1."""
    pairs = zip(ImageColor.getrgb(one)[:3], ImageColor.getrgb(other)[:3], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
