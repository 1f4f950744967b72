"""The reader of GGUF files, beside the one of the package gguf, and on files that are damaged."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quantize
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from student.export.weights import check_weights
from student.models import gguf_file


def write(path: Path, matrix: np.ndarray, kind: GGMLQuantizationType) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_chat_template("{{ messages }} é\n")
    writer.add_token_list(["a", "é", "日本"])
    writer.add_add_bos_token(True)
    writer.add_tensor("norm", np.ones(64, np.float32))
    writer.add_tensor("matrix", quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((48, 64), np.float32)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_1"])
def test_numbers_are_those_that_the_package_reads(
    tmp_path: Path, matrix: np.ndarray, kind: str
) -> None:
    path = write(tmp_path / "a.gguf", matrix, GGMLQuantizationType[kind])
    file = gguf_file.read(path)
    assert file.value("llama.block_count") == 2
    assert file.value("tokenizer.chat_template") == "{{ messages }} é\n"
    assert file.value("tokenizer.ggml.add_bos_token") is True
    assert file.value("missing") is None
    for expected in GGUFReader(path).tensors:
        tensor = file.tensors[expected.name]
        assert tensor.shape == tuple(int(n) for n in expected.shape[::-1])
        assert (tensor.kind, tensor.start) == (expected.tensor_type, expected.data_offset)
    rows = file.rows(file.tensors["matrix"], 1 << 20)
    assert rows.shape == matrix.shape
    assert np.abs(rows - matrix).max() < 0.3
    assert np.array_equal(file.rows(file.tensors["matrix"], 3 * 64), rows[[0, 24, 47]])


@given(st.data())
def test_a_file_that_is_cut_short_anywhere_is_named_as_that(tmp_path_factory, data) -> None:
    directory = tmp_path_factory.mktemp("cut")
    matrix = np.ones((4, 64), np.float32)
    whole = write(directory / "a.gguf", matrix, GGMLQuantizationType.F16).read_bytes()
    # The writer pads the last tensor, which no reader needs.
    last = 4 * 64 * 2
    cut = data.draw(st.integers(4, len(whole) - 1 - (-last % 32)))
    path = directory / "cut.gguf"
    path.write_bytes(whole[:cut])
    with pytest.raises(InputError, match="cut.gguf: cut short"):
        gguf_file.read(path)


@given(st.integers(4, 400), st.integers(0, 255))
def test_a_damaged_header_is_read_or_refused_in_one_line(tmp_path_factory, at, byte) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    path = write(directory / "a.gguf", np.ones((4, 64), np.float32), GGMLQuantizationType.F16)
    content = bytearray(path.read_bytes())
    content[at] = byte
    path.write_bytes(content)
    try:
        gguf_file.read(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_what_is_no_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("<html>")
    with pytest.raises(InputError, match="does not begin with GGUF"):
        gguf_file.read(tmp_path / "a.gguf")
    with pytest.raises(InputError, match="no such file"):
        gguf_file.read(tmp_path / "b.gguf")


# ------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_honest_quantization_passes_and_one_more_before_it_does_not(
    tmp_path: Path, matrix: np.ndarray, kind: str
) -> None:
    from gguf import dequantize

    honest = GGMLQuantizationType[kind]
    original = gguf_file.read(write(tmp_path / "a.gguf", matrix, GGMLQuantizationType.BF16))
    check = check_weights(gguf_file.read(write(tmp_path / "b.gguf", matrix, honest)), original)
    assert check == {
        "name": "weights",
        "passed": True,
        "detail": "2 tensors, equal but for the error of their types",
    }
    if honest in (GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q4_0):
        return  # the error of their own is as large
    four = GGMLQuantizationType.Q4_0
    twice = dequantize(quantize(matrix, four), four)
    check = check_weights(gguf_file.read(write(tmp_path / "c.gguf", twice, honest)), original)
    assert check["passed"] is False
    assert check["detail"].startswith(f"matrix ({kind}): the squared error is 0.00")


@pytest.mark.parametrize("fault", ["reversed", "zeroed", "a row", "not a number"])
def test_a_wrong_tensor_is_named(tmp_path: Path, matrix: np.ndarray, fault: str) -> None:
    kind = GGMLQuantizationType.Q8_0
    original = gguf_file.read(write(tmp_path / "a.gguf", matrix, GGMLQuantizationType.F16))
    wrong = matrix.copy()
    if fault == "reversed":
        wrong = matrix[::-1].copy()
    elif fault == "zeroed":
        wrong[:] = 0
    elif fault == "a row":
        wrong[7] = wrong[8]
    else:
        kind = GGMLQuantizationType.F32
        wrong[7, 7] = np.nan
    check = check_weights(gguf_file.read(write(tmp_path / "b.gguf", wrong, kind)), original)
    assert check["passed"] is False
    assert check["detail"].startswith(f"matrix ({kind.name}): the squared error is ")
    assert check["detail"].endswith("1 of 2 tensors are wrong")


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(
    tmp_path: Path, matrix: np.ndarray
) -> None:
    kind = GGMLQuantizationType.F16
    original = gguf_file.read(write(tmp_path / "a.gguf", matrix, kind))
    short = gguf_file.read(write(tmp_path / "b.gguf", matrix[:-1], kind))
    detail = "matrix: found shape (47, 64), expected (48, 64)"
    assert check_weights(short, original)["detail"] == detail
    del short.tensors["matrix"]
    assert "matrix: the file lacks" in check_weights(short, original)["detail"]
