"""Students that see: Qwen2.5-VL and Qwen3-VL learn from the pixels, with tools, on ids and labels as any other student.

A trace becomes text by the student's template, as in student/rendering/examples.py; each picture is one placeholder there, which
is repeated for as many tokens as the picture takes (`SeeingRenderer`). The pixels are read when a batch is made
(`Collator`): TRL's collator passes neither tools nor the pictures that tools return. Adapters lie on the language
model alone; the vision tower stays as it is, so a student's projector file is that of its base.

A picture is scaled as llama.cpp's server scales it, which sits the exam: its shape is kept, and what is left of the
last row or column of tokens is black. vLLM and transformers stretch it to the same tokens instead (`fitted`). The image
processors are those on Pillow's resampling: they need no torchvision, and llama.cpp's is a copy of it.
The language model trains through the fused layers of student/kernels/fused_layers.py, a picture's example as a row of its own: its
positions have three axes, by which packed examples cannot be told apart.
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
# The modules that no adapter is put on.
TOWER = r".*\bvisual\b.*"
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


def sees(student: dict[str, Any]) -> bool:
    """Whether the student's description says that it reads pictures."""
    return bool(student.get("capabilities", {}).get("vision"))


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

    if not _settings(directory):
        raise InputError(f"{directory}: no {_SETTINGS}: expected that of a student that sees")
    return AutoImageProcessor.from_pretrained(directory, backend="pil")


def _side(processor: Any) -> int:
    """Pixels of a token's side."""
    return processor.patch_size * processor.merge_size


def limit_pictures(directory: Path) -> None:
    """Writes llama.cpp's limits into an exported directory, so that vLLM sees a picture in as many tokens. A directory
    without an image processor is left as it is."""
    for path, file, settings in _settings(directory):
        for old in ("min_pixels", "max_pixels"):  # names of the same limits, which would win
            settings.pop(old, None)
        area = (settings["patch_size"] * settings["merge_size"]) ** 2
        settings["size"] = {
            "shortest_edge": FEWEST_TOKENS * area,
            "longest_edge": MOST_TOKENS * area,
        }
        path.write_text(json.dumps(file, indent=2) + "\n", encoding="utf-8")


def _settings(directory: Path) -> list[tuple[Path, dict[str, Any], dict[str, Any]]]:
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


class SeeingRenderer(Renderer):
    """A tokenizer, its template and an image processor. Arguments as Renderer's; directory: the student's."""

    def __init__(
        self, tokenizer: Any, template: str, stop: list[str], album: ImageStore, directory: Path
    ) -> None:
        from transformers import AutoConfig

        super().__init__(tokenizer, template, stop, album)
        config = AutoConfig.from_pretrained(directory)
        must_be_known(directory, config)
        self.side = _side(image_processor(directory))
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


class Collator:
    """Examples as a batch: input_ids, labels, attention_mask and mm_token_type_ids (1 where a picture is) [B, T],
    padded on the right; of all pictures, in order, pixel_values [patches, values of one] and image_grid_thw
    [pictures, 3], each picture's patches in time, height and width.

    directory: the student's. A picture is read from the album when its batch is made.
    """

    def __init__(self, directory: Path, album: ImageStore | None) -> None:
        from transformers import AutoConfig

        self.processor, self.album = image_processor(directory), album
        self.side = _side(self.processor)
        self.image_token = AutoConfig.from_pretrained(directory).image_token_id

    def __call__(self, examples: list[dict[str, Any]], multiple: int = 1) -> dict[str, Any]:
        from student.training.micro_batches import padded

        batch = padded(examples, multiple)
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token).long()
        if names := [name for e in examples for name in e["pictures"]]:
            pictures = [self._read(name) for name in names]
            read = self.processor(images=pictures, do_resize=False, return_tensors="pt")
            batch |= {key: read[key] for key in ("pixel_values", "image_grid_thw")}
        return batch

    def _read(self, name: str) -> Image.Image:
        assert self.album, "examples with pictures, and no album"
        self.album.png(name)  # says what is wrong with a file that is missing or damaged
        with Image.open(self.album.directory / f"{name}.png") as image:
            return scaled(image, self.side)


def prepare_tower(model: Any) -> None:
    """Has a loaded model's vision tower stay as it is, and attend in one kernel where there is one.

    Qwen2.5-VL's tower attends in windows of 64 patches; transformers calls the attention of PyTorch once a window,
    which took a quarter of a training step (benchmarks/qlora.md).
    """
    import torch
    from transformers import AttentionInterface

    tower = model.model.visual
    tower.requires_grad_(False)
    if tower.device.type == "cuda" and tower.dtype in (torch.bfloat16, torch.float16):
        AttentionInterface.register(_WINDOWS, _attend_in_windows)
        tower.config._attn_implementation = _WINDOWS


# transformers tells by "flash" in its name that an attention takes where the windows begin.
_WINDOWS = "flash_of_torch"


def _attend_in_windows(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: Any,
    max_length_q: int,
    **same: Any,
) -> tuple[Any, None]:
    """[1, T, heads, D] of query, key and value [1, heads, T, D]: each token over those of its window.

    cu_seq_lens_q: int32, where each window begins, and the end.
    """
    import torch

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    starts = cu_seq_lens_q.to(torch.int32)
    out, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, starts, starts, max_length_q, max_length_q, 0.0, False, False, scale=scaling
    )
    return out[None], None
