"""Training of vision-language students (Qwen2.5-VL, Qwen3-VL): batches with images, and the frozen vision tower.

`Collator` reads the pixels when a batch is made; TRL's collator passes neither the tools nor the images that tools
return. Adapters are put on the language model alone and the vision tower is frozen, so a student's projector file is
that of its base model. The language model trains through the fused layers (student/kernels/fused_layers.py). An example
with images is a row of its own, because its M-RoPE position ids have three axes and do not tell packed examples apart.
"""

from pathlib import Path
from typing import Any

from PIL import Image

from student.rendering.vision import image_processor, scale_image, token_side
from teacher.scenes.images import ImageStore

# The modules that no adapter is put on.
TOWER = r".*\bvisual\b.*"


class Collator:
    """Makes batches of examples with images.

    A batch has input_ids, labels, attention_mask and mm_token_type_ids (1 at tokens of images), each [B, T] and padded
    on the right; for its images, in order, pixel_values [patches, values of a patch] and image_grid_thw [images, 3],
    the patches of an image in time, height and width. B: rows, T: tokens.

    Args:
        directory: the student's.
        image_store: the run's images, which are read when their batch is made.
    """

    def __init__(self, directory: Path, image_store: ImageStore | None) -> None:
        from transformers import AutoConfig

        self.processor, self.image_store = image_processor(directory), image_store
        self.side = token_side(self.processor)
        self.image_token = AutoConfig.from_pretrained(directory).image_token_id

    def __call__(self, examples: list[dict[str, Any]], multiple: int = 1) -> dict[str, Any]:
        from student.training.micro_batches import pad_right

        batch = pad_right(examples, multiple)
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token).long()
        if names := [name for e in examples for name in e["image_names"]]:
            images = [self._read(name) for name in names]
            tensors = self.processor(images=images, do_resize=False, return_tensors="pt")
            batch |= {key: tensors[key] for key in ("pixel_values", "image_grid_thw")}
        return batch

    def _read(self, name: str) -> Image.Image:
        assert self.image_store, "examples with images, but no image store"
        self.image_store.png(name)  # raises if the file is missing or damaged
        with Image.open(self.image_store.directory / f"{name}.png") as image:
            return scale_image(image, self.side)


def prepare_tower(model: Any) -> None:
    """Freezes a loaded model's vision tower and selects one attention kernel for all its windows, where there is one.

    Qwen2.5-VL's tower attends in windows of 64 patches. transformers calls PyTorch's attention once per window, which
    took a quarter of a training step (benchmarks/qlora.md).
    """
    import torch
    from transformers import AttentionInterface

    tower = model.model.visual
    tower.requires_grad_(False)
    if tower.device.type == "cuda" and tower.dtype in (torch.bfloat16, torch.float16):
        AttentionInterface.register(_WINDOWS, _attend_in_windows)
        tower.config._attn_implementation = _WINDOWS


# transformers passes the starts of the windows only to an attention with "flash" in its name.
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
    **unused: Any,
) -> tuple[Any, None]:
    """Attention of each patch over the patches of its window, [1, P, N, D].

    P: patches, N: heads, D: head size.

    Args:
        query, key, value: [1, N, P, D].
        cu_seq_lens_q: int32, the start of each window and the end of the last.
    """
    import torch

    query_PND, key_PND, value_PND = (x[0].transpose(0, 1) for x in (query, key, value))
    starts = cu_seq_lens_q.to(torch.int32)
    out_PND, *_ = torch.ops.aten._flash_attention_forward(
        query_PND,
        key_PND,
        value_PND,
        starts,
        starts,
        max_length_q,
        max_length_q,
        0.0,
        False,
        False,
        scale=scaling,
    )
    return out_PND[None], None
