"""Training of vision-language students (Qwen2.5-VL, Qwen3-VL) on pixels: batches with images, and the frozen vision tower.

`Collator` reads the pixels when a batch is made; TRL's collator passes neither the tools nor the images that tools return.
Adapters are put on the language model alone and the vision tower is frozen, so a student's projector file is that of its
base model. The language model trains through the fused layers (student/kernels/fused_layers.py). An example with images is a
row of its own, because its M-RoPE position ids have three axes and do not tell packed examples apart.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from student.rendering.vision import image_processor, scale_image, token_side
from teacher.scenes.images import ImageStore

# The modules that no adapter is put on.
TOWER = r".*\bvisual\b.*"


class Collator:
    """Examples as a batch: input_ids, labels, attention_mask and mm_token_type_ids (1 where a picture is) [B, T],
    padded on the right; of all pictures, in order, pixel_values [patches, values of one] and image_grid_thw
    [pictures, 3], each picture's patches in time, height and width.

    directory: the student's. A picture is read from the album when its batch is made.
    """

    def __init__(self, directory: Path, album: ImageStore | None) -> None:
        from transformers import AutoConfig

        self.processor, self.album = image_processor(directory), album
        self.side = token_side(self.processor)
        self.image_token = AutoConfig.from_pretrained(directory).image_token_id

    def __call__(self, examples: list[dict[str, Any]], multiple: int = 1) -> dict[str, Any]:
        from student.training.micro_batches import padded

        batch = padded(examples, multiple)
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token).long()
        if names := [name for e in examples for name in e["image_names"]]:
            pictures = [self._read(name) for name in names]
            read = self.processor(images=pictures, do_resize=False, return_tensors="pt")
            batch |= {key: read[key] for key in ("pixel_values", "image_grid_thw")}
        return batch

    def _read(self, name: str) -> Image.Image:
        assert self.album, "examples with pictures, and no album"
        self.album.png(name)  # says what is wrong with a file that is missing or damaged
        with Image.open(self.album.directory / f"{name}.png") as image:
            return scale_image(image, self.side)


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
