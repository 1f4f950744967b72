"""The limits of image sizes in an exported student."""

import json

from student.export.image_limits import limit_images

pytest_plugins = ["vision_fixtures"]


def test_the_limits_are_written_wherever_transformers_looks_for_them(
    vision_renderer, vision_directory, tmp_path
):
    from transformers import AutoImageProcessor

    plain = json.loads((vision_directory / "preprocessor_config.json").read_text())
    old = {k: v for k, v in plain.items() if k != "size"} | {"min_pixels": 1, "max_pixels": 9}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": old}))
    for _ in range(2):  # once with either file
        limit_images(tmp_path)
        read = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        assert read.size["shortest_edge"] == 8 * vision_renderer.side**2
        assert read.size["longest_edge"] == 4096 * vision_renderer.side**2
        (tmp_path / "processor_config.json").unlink(missing_ok=True)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
