"""The font registry. Fonts come from Python packages, so that images do not depend on the fonts of the machine."""

import functools
import importlib.util
from pathlib import Path

from PIL import ImageFont

from teacher.scenes.scene import SceneError

# family: (folder in its package, regular, bold). matplotlib ships DejaVu and STIX (Bitstream Vera's licence and the
# OFL); the others are under the OFL, Caladea under Apache 2.0.
_FONTS = {
    "DejaVu Sans": ("matplotlib/mpl-data/fonts/ttf", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "DejaVu Serif": ("matplotlib/mpl-data/fonts/ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    "DejaVu Mono": (
        "matplotlib/mpl-data/fonts/ttf",
        "DejaVuSansMono.ttf",
        "DejaVuSansMono-Bold.ttf",
    ),
    "STIX": ("matplotlib/mpl-data/fonts/ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf"),
    "Caladea": ("font_caladea/files", "Caladea-Regular.ttf", "Caladea-Bold.ttf"),
    "Source Serif": (
        "font_source_serif_pro/files",
        "SourceSerifPro-Regular.ttf",
        "SourceSerifPro-Bold.ttf",
    ),
    "Source Sans": (
        "font_source_sans_pro/files",
        "SourceSansPro-Regular.ttf",
        "SourceSansPro-Bold.ttf",
    ),
    "Lato": ("font_lato/files", "Lato-Regular.ttf", "Lato-Bold.ttf"),
    "Intuitive": ("font_intuitive/files", "Intuitive.ttf", "Intuitive.ttf"),
    "Amatic": ("font_amatic_sc/files", "AmaticSC-Regular.ttf", "AmaticSC-Bold.ttf"),
}
SERIF = ("DejaVu Serif", "STIX", "Caladea", "Source Serif")
SANS = ("DejaVu Sans", "Source Sans", "Lato")
MONO = ("DejaVu Mono",)
HAND = ("Intuitive", "Amatic")


@functools.cache
def font_file(family: str, bold: bool = False) -> Path:
    """The file of a font of one of the families above.

    Raises:
        SceneError: no such family, or its package is not installed.
    """
    if family not in _FONTS:
        raise SceneError(f"font: {family!r}: expected one of {', '.join(_FONTS)}")
    folder, regular, heavy = _FONTS[family]
    package, _, inside = folder.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SceneError(f"font {family}: package {package} is not installed")
    return Path(spec.origin).parent / inside / (heavy if bold else regular)


@functools.lru_cache(maxsize=256)
def font(family: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font at a size in pixels."""
    # The basic layout engine is in every build of Pillow; others would move glyphs.
    return ImageFont.truetype(font_file(family, bold), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _glyphs(file: str) -> frozenset[int]:
    """The code points that a font file has glyphs for."""
    from fontTools.ttLib import TTFont

    with TTFont(file, lazy=True) as opened:
        return frozenset(opened.getBestCmap())


def covering(text: str, preferred: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    """`preferred`, or DejaVu Sans at its size if `preferred` lacks a character of the text.

    Raises:
        SceneError: DejaVu Sans lacks it too, so it would be drawn as an empty box.
    """
    for candidate in (preferred, font("DejaVu Sans", round(preferred.size))):
        missing = {ord(c) for c in text} - _glyphs(str(candidate.path))
        if not missing:
            return candidate
    raise SceneError(f"text: {text[:40]!r}: no font here has {chr(min(missing))!r}")
