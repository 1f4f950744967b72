"""Rendering for vision-language students (Qwen2.5-VL, Qwen3-VL): the size of an image and its tokens in a prompt.

The chat template writes one placeholder for each image, which `VisionRenderer` repeats for as many tokens as the image
takes. An image is scaled as llama.cpp's server scales it, because that server runs the exam: the aspect ratio is kept
and the rest of the last row or column of tokens is black. vLLM and transformers stretch the image to the same number of
tokens instead. The image processors are those that resample with Pillow: they need no torchvision, and llama.cpp's code
is a port of Pillow's.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from schemas.errors import InputError
from schemas.files import read_json
from schemas.trace import Message
from student.rendering.errors import Unrenderable
from student.rendering.renderer import Renderer
from teacher.scenes.images import ImageStore, inline_pixels, message_images, request_messages

# config.json's model_type of the families whose templates, positions and converters are known here.
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# The least and the most tokens that llama.cpp's server gives an image of these families (tools/mtmd/clip.cpp, at the
# pinned version). They cannot be changed there, so training and vLLM use the same.
FEWEST_TOKENS, MOST_TOKENS = 8, 4096
# Files with an image processor's settings. transformers 5 saves those of a whole processor in one file, under the key
# _IMAGE_PROCESSOR, and reads no other file where that one exists.
_SETTINGS, _WHOLE_SETTINGS = "preprocessor_config.json", "processor_config.json"
_IMAGE_PROCESSOR = "image_processor"


def check_family(
    name: Path | str, config: Any, purpose: str = "for a vision-language student"
) -> None:
    """Raises InputError if a model's family is not one of FAMILIES."""
    if config.model_type not in FAMILIES:
        raise InputError(
            f"{name}: model_type: found {config.model_type}, expected one of {', '.join(FAMILIES)} {purpose}"
        )


def image_processor(directory: Path) -> Any:
    """The student's image processor. Raises InputError if the directory has none."""
    from transformers import AutoImageProcessor

    if not processor_settings(directory):
        raise InputError(
            f"{directory}: no {_SETTINGS}, expected the image processor of a vision-language student"
        )
    return AutoImageProcessor.from_pretrained(directory, backend="pil")


def token_side(processor: Any) -> int:
    """The side, in pixels, of the square that becomes one token."""
    return processor.patch_size * processor.merge_size


def processor_settings(directory: Path) -> list[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """The files with an image processor's settings: (path, content, the settings within the content)."""
    paths = [path for name in (_SETTINGS, _WHOLE_SETTINGS) if (path := directory / name).is_file()]
    files = [(path, read_json(path)) for path in paths]
    return [
        (path, content, content if path.name == _SETTINGS else content[_IMAGE_PROCESSOR])
        for path, content in files
        if path.name == _SETTINGS or _IMAGE_PROCESSOR in content
    ]


def fit_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height, in pixels, to which llama.cpp's server scales an image. A token is a square of `side` pixels.

    Computes in float32 and rounds a half up, as calc_size_preserved_ratio in llama.cpp's tools/mtmd/mtmd-image.cpp.
    transformers rounds a half to the even number: 720 pixels are 23 tokens of 32 pixels here, and 22 there.
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


def scale_image(image: Image.Image, side: int) -> Image.Image:
    """The image as llama.cpp's server passes it to the vision tower: its aspect ratio kept, centred on black."""
    width, height = fit_size(*image.size, side)
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
    """The renderer of a vision-language student.

    Args:
        tokenizer, template, stop, image_store: as of `Renderer`.
        directory: the student's, with its config and image processor.

    Attributes:
        side: pixels of a token's side.
        placeholder: the token of an image in the template's text.
        image_marker: the text that the template writes for one image.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        stop: list[str],
        image_store: ImageStore,
        directory: Path,
    ) -> None:
        from transformers import AutoConfig

        super().__init__(tokenizer, template, stop, image_store)
        config = AutoConfig.from_pretrained(directory)
        check_family(directory, config)
        self.side = token_side(image_processor(directory))
        self.placeholder, start, end = tokenizer.convert_ids_to_tokens(
            [config.image_token_id, config.vision_start_token_id, config.vision_end_token_id]
        )
        # llama.cpp's server writes the same two tokens around its own marker.
        self.image_marker = f"{start}{self.placeholder}{end}"

    def template_messages(self, messages: Sequence[Message]) -> list[Message]:
        return list(messages)

    def server_messages(self, messages: Sequence[Message]) -> list[Message]:
        return inline_pixels(
            request_messages(messages, "pixels", self.image_store), self.image_store
        )

    def image_names(self, messages: Sequence[Message]) -> list[str]:
        return message_images(messages)

    def ids(self, text: str, image_names: Sequence[str] | None = None) -> list[int]:
        """Token ids of rendered text. With `image_names` each placeholder is repeated for the tokens of its image.

        Raises:
            Unrenderable: the text has more or fewer placeholders than there are images.
        """
        return super().ids(text if image_names is None else self._with_tokens(text, image_names))

    def turn_length(self, prompt: str, target: str, image_names: Sequence[str], enough: int) -> int:
        return super().turn_length(
            self._with_tokens(prompt, image_names), target, image_names, enough
        )

    def _with_tokens(self, text: str, image_names: Sequence[str]) -> str:
        parts = text.split(self.placeholder)
        if len(parts) != len(image_names) + 1:
            raise Unrenderable(
                f"the student's template shows {len(parts) - 1} images of {len(image_names)}"
            )
        repeated = [self.placeholder * self.tokens(name) for name in image_names]
        return "".join(a + b for a, b in zip(parts, [*repeated, ""], strict=True))

    def tokens(self, name: str) -> int:
        """The number of tokens that an image of the image store takes."""
        assert self.image_store
        description = self.image_store.description(name)
        width, height = fit_size(description["width"], description["height"], self.side)
        return width * height // self.side**2
