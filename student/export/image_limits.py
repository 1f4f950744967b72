"""Limits on the size of images in an exported Hugging Face directory."""

import json
from pathlib import Path

from student.rendering.vision import FEWEST_TOKENS, MOST_TOKENS, processor_settings


def limit_images(directory: Path) -> None:
    """Writes llama.cpp's limits into an exported directory, so that vLLM sees a picture in as many tokens. A directory
    without an image processor is left as it is."""
    for path, file, settings in processor_settings(directory):
        for old in ("min_pixels", "max_pixels"):  # names of the same limits, which would win
            settings.pop(old, None)
        area = (settings["patch_size"] * settings["merge_size"]) ** 2
        settings["size"] = {
            "shortest_edge": FEWEST_TOKENS * area,
            "longest_edge": MOST_TOKENS * area,
        }
        path.write_text(json.dumps(file, indent=2) + "\n", encoding="utf-8")
