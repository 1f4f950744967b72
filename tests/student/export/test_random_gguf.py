"""A GGUF with a real tokenizer and random weights (student/export/random_gguf.py)."""

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from student.export.random_gguf import add_random_weights
from student.models import gguf_file

TOKENS = ["a", "é", "日本", "<|im_end|>"]


@pytest.fixture
def vocabulary(tmp_path):
    """A file as llama.cpp's converter writes it for a vocabulary alone."""
    path = tmp_path / "vocabulary.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a é"])
    writer.add_eos_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }} é\n")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_the_tokenizer_is_copied_and_the_weights_are_a_small_llama(vocabulary, tmp_path):
    add_random_weights(vocabulary, tmp_path / "random.gguf")
    before, after = GGUFReader(vocabulary), GGUFReader(tmp_path / "random.gguf")
    keys = [key for key in before.fields if key.startswith("tokenizer.")]
    assert len(keys) == 8
    for key in keys:
        assert after.fields[key].contents() == before.fields[key].contents()
    assert after.fields["general.architecture"].contents() == "llama"
    assert "qwen2.block_count" not in after.fields
    shapes = {tensor.name: list(tensor.shape) for tensor in after.tensors}
    assert shapes["token_embd.weight"] == [32, len(TOKENS)]  # in GGUF the inner dimension is first
    assert len(shapes) == 11
    assert all(np.isfinite(tensor.data).all() for tensor in after.tensors)
    norm = next(t for t in after.tensors if t.name == "output_norm.weight")
    assert norm.data.tolist() == [1.0] * 32


def test_template_and_end_are_read_from_the_header(vocabulary, tmp_path):
    add_random_weights(vocabulary, tmp_path / "random.gguf")
    file = gguf_file.read(tmp_path / "random.gguf")
    assert file.value("tokenizer.chat_template") == "{{ messages }} é\n"
    assert file.value("tokenizer.ggml.eos_token_id") == 3
