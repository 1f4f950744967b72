"""Fixtures of vision-language students, for test modules with `pytest_plugins = ["vision_fixtures"]`."""

from typing import Any

import pytest
import tiny_vl
from small_students import END, tiny_tokenizer
from transformers import AutoTokenizer
from turns import page
from vision_students import TEMPLATES, processor

from student.export.image_limits import limit_images
from student.models import base
from student.rendering.vision import FAMILIES, VisionRenderer
from teacher.scenes.images import ImageStore


@pytest.fixture(scope="module")
def image_store(tmp_path_factory):
    return ImageStore(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def pages(image_store):
    """Three small pages of different sizes."""
    return [image_store.add(page(f"C-{n}", 150 + 60 * n, 260 - 70 * n)) for n in range(3)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def vision_directory(family, tmp_path_factory):
    """A random student with bytes as tokens, its image sizes limited as in an exported student."""
    to = tiny_vl.write(tiny_tokenizer(), TEMPLATES[family], tmp_path_factory.mktemp(family), family)
    limit_images(to)
    return to


@pytest.fixture(scope="module")
def vision_renderer(family, vision_directory, image_store):
    """The renderer of `vision_directory`, with transformers' own processor as `reference`."""
    tokenizer = AutoTokenizer.from_pretrained(vision_directory)
    renderer: Any = VisionRenderer(
        tokenizer, TEMPLATES[family], [END], image_store, vision_directory
    )
    renderer.reference = processor(family, tokenizer, vision_directory)
    return renderer


@pytest.fixture(scope="module")
def smollm_vision(family, image_store, tmp_path_factory):
    """A random student with the tokenizer of smollm2-135m, and its renderer."""
    tokenizer = AutoTokenizer.from_pretrained(base.prepare(base.load("smollm2-135m")))
    to = tmp_path_factory.mktemp("smollm")
    directory = tiny_vl.write(tokenizer, TEMPLATES[family], to, family)
    return directory, VisionRenderer(tokenizer, TEMPLATES[family], [END], image_store, directory)
