"""Limits on the size of images in an exported Hugging Face directory."""

import json
from pathlib import Path

from student.rendering.vision import FEWEST_TOKENS, MOST_TOKENS, processor_settings


def limit_images(directory: Path) -> None:
    """Writes llama.cpp's limits to the image processor's settings, so that vLLM makes as many tokens of an image.

    A directory without an image processor is left unchanged.
    """
    for path, file, settings in processor_settings(directory):
        # Older names of the limits, which take precedence.
        for older_name in ("min_pixels", "max_pixels"):
            settings.pop(older_name, None)
        area = (settings["patch_size"] * settings["merge_size"]) ** 2
        settings["size"] = {
            "shortest_edge": FEWEST_TOKENS * area,
            "longest_edge": MOST_TOKENS * area,
        }
        path.write_text(json.dumps(file, indent=2) + "\n", encoding="utf-8")
