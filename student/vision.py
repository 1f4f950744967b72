"""Students that see: Qwen2.5-VL and Qwen3-VL learn from the pixels, with tools, on ids and labels as any other student.

A trace becomes text by the student's template, as in student/examples.py; each picture is one placeholder there, which
is repeated for as many tokens as the picture takes (`SeeingRenderer`). The pixels are read when a batch is made
(`Collator`): TRL's collator passes neither tools nor the pictures that tools return. Adapters lie on the language
model alone; the vision tower stays as it is, so a student's projector file is that of its base.

The image processors are those on Pillow's resampling: they need no torchvision, and llama.cpp resizes as they do.
The language model trains through the fused layers of student/qlora.py, a picture's example as a row of its own: its
positions have three axes, by which packed examples cannot be told apart.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from schemas.errors import InputError
from student.examples import Renderer, Unrenderable
from teacher.pictures import Album, as_sent, names_in, with_pixels

# config.json's model_type of the families whose templates, positions and converters are known here.
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
# The modules that no adapter is put on.
TOWER = r".*\bvisual\b.*"
# Tokens that llama.cpp's server gives a picture of these families, least and most (tools/mtmd/clip.cpp, at the pinned
# version); it knows no other limit, so training and vLLM are given the same.
FEWEST_TOKENS, MOST_TOKENS = 8, 4096
_SETTINGS = "preprocessor_config.json"


def sees(student: dict[str, Any]) -> bool:
    """Whether the student's description says that it reads pictures."""
    return bool(student.get("capabilities", {}).get("vision"))


def image_processor(directory: Path) -> Any:
    """The student's image processor, with the limits that its servers have.

    Raises:
        InputError: the directory has none.
    """
    from transformers import AutoImageProcessor

    if not (directory / _SETTINGS).is_file():
        raise InputError(f"{directory}: no {_SETTINGS}: expected that of a student that sees")
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    processor.size = _limits(processor.patch_size * processor.merge_size)
    return processor


def limit_pictures(directory: Path) -> None:
    """Writes the same limits into an exported directory, so that vLLM sees a picture in as many tokens."""
    path = directory / _SETTINGS
    settings = json.loads(path.read_text(encoding="utf-8"))
    for old in ("min_pixels", "max_pixels"):  # names of the same limits, which would win
        settings.pop(old, None)
    settings["size"] = _limits(settings["patch_size"] * settings["merge_size"])
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _limits(side: int) -> dict[str, int]:
    """Pixels of a picture; a token is a square of `side` pixels. The names are those of transformers."""
    return {
        "shortest_edge": FEWEST_TOKENS * side * side,
        "longest_edge": MOST_TOKENS * side * side,
    }


class SeeingRenderer(Renderer):
    """A tokenizer, its template and an image processor. Arguments as Renderer's; directory: the student's."""

    def __init__(
        self, tokenizer: Any, template: str, stop: list[str], album: Album, directory: Path
    ) -> None:
        from transformers import AutoConfig

        super().__init__(tokenizer, template, stop, album)
        config = AutoConfig.from_pretrained(directory)
        if config.model_type not in FAMILIES:
            raise InputError(
                f"{directory}: model_type: found {config.model_type}, expected one of"
                f" {', '.join(FAMILIES)} for a student that sees"
            )
        self.processor = image_processor(directory)
        self.placeholder, start, end = tokenizer.convert_ids_to_tokens(
            [config.image_token_id, config.vision_start_token_id, config.vision_end_token_id]
        )
        # What the template writes for a picture, and llama.cpp's server around its own marker.
        self.shows = f"{start}{self.placeholder}{end}"

    def shown(self, messages: Sequence[dict]) -> list[dict]:
        return list(messages)

    def sent(self, messages: Sequence[dict]) -> list[dict]:
        return with_pixels(as_sent(messages, "pixels", self.album), self.album)

    def pictures(self, messages: Sequence[dict]) -> list[str]:
        return names_in(messages)

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
        about = self.album.about(name)
        patches = self.processor.get_number_of_image_patches(about["height"], about["width"], {})
        return patches // self.processor.merge_size**2


class Collator:
    """Examples as a batch: input_ids, labels, attention_mask and mm_token_type_ids (1 where a picture is) [B, T],
    padded on the right; of all pictures, in order, pixel_values [patches, values of one] and image_grid_thw
    [pictures, 3], each picture's patches in time, height and width.

    directory: the student's. A picture is read from the album when its batch is made.
    """

    def __init__(self, directory: Path, album: Album | None) -> None:
        from transformers import AutoConfig

        self.processor, self.album = image_processor(directory), album
        self.image_token = AutoConfig.from_pretrained(directory).image_token_id

    def __call__(self, examples: list[dict[str, Any]], multiple: int = 1) -> dict[str, Any]:
        from student.batches import padded

        batch = padded(examples, multiple)
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token).long()
        if names := [name for e in examples for name in e["pictures"]]:
            read = self.processor(images=[self._read(name) for name in names], return_tensors="pt")
            batch |= {key: read[key] for key in ("pixel_values", "image_grid_thw")}
        return batch

    def _read(self, name: str) -> Image.Image:
        assert self.album, "examples with pictures, and no album"
        self.album.png(name)  # says what is wrong with a file that is missing or damaged
        with Image.open(self.album.directory / f"{name}.png") as image:
            return image.convert("RGB")
