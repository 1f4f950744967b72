"""Rendering for vision-language students (Qwen2.5-VL, Qwen3-VL): the size an image is given, and its tokens in a prompt.

The chat template writes one placeholder for each image, which `VisionRenderer` repeats for as many tokens as the image
takes. An image is scaled as llama.cpp's server scales it, because that server runs the exam: the aspect ratio is kept and
the rest of the last row or column of tokens is black. vLLM and transformers stretch the image to the same number of tokens
instead. The image processors are the ones on Pillow's resampling: they need no torchvision, and llama.cpp's is a port of it.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import InputError
from student.rendering.examples import Renderer, Unrenderable
from teacher.scenes.images import ImageStore, inline_pixels, message_images, request_messages

# config.json's model_type of the families whose templates, positions and converters are known here.
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# Tokens that llama.cpp's server gives a picture of these families, least and most (tools/mtmd/clip.cpp, at the pinned
# version); it knows no other limit, so training and vLLM are given the same.
FEWEST_TOKENS, MOST_TOKENS = 8, 4096
# Where an image processor's settings are: transformers 5 saves those of a whole processor in one file, and where it has
# that, looks for them nowhere else.
_SETTINGS, _PROCESSOR, _PART = (
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor",
)


def must_be_known(name: Path | str, config: Any, use: str = "for a student that sees") -> None:
    """Raises InputError where a model's family is none of FAMILIES."""
    if config.model_type not in FAMILIES:
        raise InputError(
            f"{name}: model_type: found {config.model_type}, expected one of {', '.join(FAMILIES)} {use}"
        )


def image_processor(directory: Path) -> Any:
    """The student's image processor.

    Raises:
        InputError: the directory has none.
    """
    from transformers import AutoImageProcessor

    if not processor_settings(directory):
        raise InputError(f"{directory}: no {_SETTINGS}: expected that of a student that sees")
    return AutoImageProcessor.from_pretrained(directory, backend="pil")


def token_side(processor: Any) -> int:
    """Pixels of a token's side."""
    return processor.patch_size * processor.merge_size


def processor_settings(directory: Path) -> list[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """The files with an image processor's settings: path, content, and the part of it that they are."""
    paths = [path for name in (_SETTINGS, _PROCESSOR) if (path := directory / name).is_file()]
    files = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return [
        (path, file, file if path.name == _SETTINGS else file[_PART])
        for path, file in files
        if path.name == _SETTINGS or _PART in file
    ]


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height in pixels that llama.cpp's server gives a picture, whose tokens are squares of `side` pixels.

    In float32 and with a half rounded up, as calc_size_preserved_ratio of its tools/mtmd/mtmd-image.cpp does;
    transformers rounds a half to the even number: 720 pixels are 23 tokens of 32 here, and 22 there.
    """
    w, h = (max(side, (2 * pixels + side) // (2 * side) * side) for pixels in (width, height))
    fewest, most = FEWEST_TOKENS * side**2, MOST_TOKENS * side**2
    area, one = np.float32(width) * np.float32(height), np.float32(side)
    if w * h > most:
        by = np.sqrt(area / np.float32(most))
        w = max(side, int(np.float32(width) / by / one) * side)
        h = max(side, int(np.float32(height) / by / one) * side)
    elif w * h < fewest:
        by = np.sqrt(np.float32(fewest) / area)
        w = math.ceil(np.float32(width) * by / one) * side
        h = math.ceil(np.float32(height) * by / one) * side
    return w, h


def scaled(image: Image.Image, side: int) -> Image.Image:
    """A picture as llama.cpp's server shows it to the tower: scaled in its shape, in the middle of black."""
    width, height = fitted(*image.size, side)
    scale = min(
        np.float32(width) / np.float32(image.width), np.float32(height) / np.float32(image.height)
    )
    size = (
        min(math.ceil(np.float32(image.width) * scale), width),
        min(math.ceil(np.float32(image.height) * scale), height),
    )
    whole = Image.new("RGB", (width, height))
    within = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    whole.paste(within, ((width - size[0]) // 2, (height - size[1]) // 2))
    return whole


class VisionRenderer(Renderer):
    """A tokenizer, its template and an image processor. Arguments as Renderer's; directory: the student's."""

    def __init__(
        self, tokenizer: Any, template: str, stop: list[str], album: ImageStore, directory: Path
    ) -> None:
        from transformers import AutoConfig

        super().__init__(tokenizer, template, stop, album)
        config = AutoConfig.from_pretrained(directory)
        must_be_known(directory, config)
        self.side = token_side(image_processor(directory))
        self.placeholder, start, end = tokenizer.convert_ids_to_tokens(
            [config.image_token_id, config.vision_start_token_id, config.vision_end_token_id]
        )
        # What the template writes for a picture, and llama.cpp's server around its own marker.
        self.shows = f"{start}{self.placeholder}{end}"

    def shown(self, messages: Sequence[dict]) -> list[dict]:
        return list(messages)

    def sent(self, messages: Sequence[dict]) -> list[dict]:
        return inline_pixels(request_messages(messages, "pixels", self.album), self.album)

    def pictures(self, messages: Sequence[dict]) -> list[str]:
        return message_images(messages)

    def ids(self, text: str, pictures: Sequence[str] | None = None) -> list[int]:
        """Token ids of rendered text. With `pictures` (their sha256, in order) each placeholder is repeated for the
        tokens of its picture.

        Raises:
            Unrenderable: the text shows more or fewer.
        """
        if pictures is not None:
            parts = text.split(self.placeholder)
            if len(parts) != len(pictures) + 1:
                raise Unrenderable(
                    f"the student's template shows {len(parts) - 1} pictures of {len(pictures)}"
                )
            repeated = [self.placeholder * self.tokens(name) for name in pictures]
            text = "".join(a + b for a, b in zip(parts, [*repeated, ""], strict=True))
        return super().ids(text)

    def tokens(self, name: str) -> int:
        """How many tokens a picture of the album takes."""
        assert self.album
        about = self.album.description(name)
        width, height = fitted(about["width"], about["height"], self.side)
        return width * height // self.side**2
