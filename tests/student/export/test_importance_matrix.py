"""llama-imatrix itself on the default student (student/export/gguf.py)."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from schemas.errors import StageError
from student.export.conversations import CONVERSATIONS
from student.export.gguf import convert, importance_matrix, quantize
from student.models import base, gguf_file
from student.models.chat_template import chat_template
from student.rendering.renderer import Renderer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "full.gguf"
    convert(base.prepare(base.load("smollm2-135m")), path)
    return path


def test_k_quants_are_weighted_by_what_rendered_conversations_activate(
    full: Path, tmp_path: Path
) -> None:
    student = base.load("smollm2-135m")
    directory = base.prepare(student)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    renderer = Renderer(tokenizer, chat_template(student, directory), student["stop"])
    texts = [renderer.text(talk["messages"], talk["tools"]) for talk in CONVERSATIONS] * 4
    matrix = tmp_path / "imatrix.gguf"
    importance_matrix(full, texts, matrix)
    measured = gguf_file.read(matrix)
    assert (
        measured.value("imatrix.chunk_count") >= 2 and measured.value("imatrix.chunk_size") == 512
    )
    files = {name: tmp_path / f"{name}.gguf" for name in ("Q4_K_M", "Q8_0", "plain")}
    for name in ("Q4_K_M", "Q8_0"):
        quantize(full, files[name], name, matrix)
    quantize(full, files["plain"], "Q4_K_M")
    weighted = gguf_file.read(files["Q4_K_M"])
    assert weighted.value("quantize.imatrix.entries_count") == 30 * 7, "seven weights a layer"
    assert gguf_file.read(files["Q8_0"]).value("quantize.imatrix.entries_count") is None
    assert files["Q4_K_M"].read_bytes() != files["plain"].read_bytes()
    assert abs(files["Q4_K_M"].stat().st_size - files["plain"].stat().st_size) < 4096


def test_a_backslash_in_a_text_stays_one(full: Path, tmp_path: Path) -> None:
    # As line breaks, these would be a few tokens, and llama-imatrix wants 1,024.
    importance_matrix(full, ["\\n" * 1000], tmp_path / "imatrix.gguf")


def test_too_few_tokens_end_with_what_llama_imatrix_says(full: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="llama-imatrix failed: .*tokenizes to only"):
        importance_matrix(full, ["Hello."], tmp_path / "imatrix.gguf")
    assert not list(tmp_path.iterdir())
