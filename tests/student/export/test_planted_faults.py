"""Faults that an export may have, each planted alone: `verify` names each by the right check, and no honest file fails.

The student is tiny and random, with a real tokenizer and template. How turns end and calls come out is learned, so
these two checks decide nothing here.
"""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_inputs import SHIPPED
from gguf import GGMLQuantizationType, dequantize, quantize
from gguf_edits import number, text, truth, with_metadata, with_tensors

from schemas.errors import InputError
from student.export import gate, gguf, untrained, verify
from student.export.conversations import CONVERSATIONS
from student.models import base, gguf_file

pytestmark = pytest.mark.slow
LEARNED = ("ends_turns", "tool_round_trip")
LAYERS, HIDDEN = 4, 128


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random Llama that depends on each of its layers, with the real tokenizer and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    real = base.prepare(base.load("smollm2-135m"))
    directory = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=json.loads((real / "config.json").read_text())["vocab_size"],
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.15,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(real / name, directory)
    return directory


@pytest.fixture(scope="module")
def full(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("gguf") / "full.gguf"
    gguf.convert(student, to)
    return to


@pytest.fixture(scope="module")
def q8(full: Path) -> Path:
    gguf.quantize(full, full.with_name("Q8_0.gguf"), "Q8_0")
    return full.with_name("Q8_0.gguf")


@pytest.fixture(scope="module")
def failed(
    student: Path, full: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], dict[str, str]]:
    """Verifies a file against the student, and returns the details of what failed. The student is converted once."""
    scratch = tmp_path_factory.mktemp("original")
    originals: list[gate.Original] = []

    def read_once(directory: Path, _: Path, *more: object) -> gate.Original:
        if not originals:
            originals.append(gate.read_original(directory, scratch, *more))  # type: ignore[arg-type]
        return originals[0]

    def run(file: Path) -> dict[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verify, "read_original", read_once)
            checks = verify.verify(file, student)["checks"]
        return {
            check["name"]: check["detail"]
            for check in checks
            if check["passed"] is False and check["name"] not in LEARNED
        }

    return run


# All tokens are about as likely for random weights, so four bits change the most likely one. The real student is below.
@pytest.mark.parametrize("variant", ["F16", "Q8_0"])
def test_an_honest_file_fails_nothing(
    variant: str, full: Path, failed: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    gguf.quantize(full, tmp_path / "a.gguf", variant)
    assert failed(tmp_path / "a.gguf") == {}


def reversed_rows(*names: str) -> Callable[[str, np.ndarray], None]:
    def edit(name: str, rows: np.ndarray) -> None:
        if name in names:
            rows[:] = rows[::-1].copy()

    return edit


def zeroed(name: str, rows: np.ndarray) -> None:
    if name == "blk.2.ffn_down.weight":
        rows[:] = 0


def four_bits(name: str, rows: np.ndarray) -> None:
    """Every matrix once through 4 bits, as after a merge into 4-bit weights."""
    if name.startswith("blk.") and "norm" not in name:
        own, four = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0
        rows[:] = quantize(dequantize(quantize(dequantize(rows, own), four), four), own)


@pytest.mark.parametrize(
    ("edit", "tensor"),
    [
        (reversed_rows(*(f"blk.{n}.attn_q.weight" for n in range(LAYERS))), "attn_q.weight"),
        (reversed_rows("blk.1.attn_v.weight", "blk.3.attn_v.weight"), "attn_v.weight"),
        (zeroed, "blk.2.ffn_down.weight"),
        (four_bits, ".weight (Q8_0)"),
    ],
    ids=["permuted heads", "two attn_v reversed", "one FFN zeroed", "4-bit merge"],
)
def test_damaged_weights_fail_by_the_tensors_name(
    edit: Callable[[str, np.ndarray], None],
    tensor: str,
    q8: Path,
    failed: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    problems = failed(with_tensors(q8, tmp_path / "a.gguf", edit))
    assert "weights" in problems and problems.keys() <= {"weights", "logits"}
    assert tensor in problems["weights"]


def test_weights_without_the_adapter_fail(
    student: Path, failed: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    """The untrained base: an adapter of rank 4 moved the student's weights by a few percent."""
    from safetensors.torch import load_file, save_file

    before = Path(shutil.copytree(student, tmp_path / "base"))
    tensors = load_file(before / "model.safetensors")
    rng = np.random.default_rng(0)
    import torch

    for name, tensor in tensors.items():
        if "proj" in name:
            a, b = (
                torch.tensor(rng.standard_normal(shape, np.float32))
                for shape in ((4, tensor.shape[1]), (tensor.shape[0], 4))
            )
            tensors[name] = (tensor.float() + 0.15 * 0.02 * b @ a).to(tensor.dtype)
    save_file(tensors, before / "model.safetensors", metadata={"format": "pt"})
    gguf.convert(before, tmp_path / "full.gguf")
    gguf.quantize(tmp_path / "full.gguf", tmp_path / "a.gguf", "Q8_0")
    problems = failed(tmp_path / "a.gguf")
    assert "weights" in problems and problems.keys() <= {"weights", "logits"}


def test_a_file_that_computes_otherwise_with_the_right_weights_fails_by_its_next_tokens(
    q8: Path, failed: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    wrong = {"llama.attention.layer_norm_rms_epsilon": struct.pack("<If", 6, 10.0)}
    assert list(failed(with_metadata(q8, tmp_path / "a.gguf", wrong))) == ["logits"]


OTHER_END = number(1)


@pytest.mark.parametrize(
    ("changes", "checks", "detail"),
    [
        (
            {"tokenizer.chat_template": text(SHIPPED[:-1] + " ")},
            ["template"],
            f"first at character {len(SHIPPED) - 1}",
        ),
        ({"tokenizer.chat_template": None}, ["template", "rendering"], "no chat template"),
        ({"tokenizer.ggml.eos_token_id": OTHER_END}, ["stop_token"], "token is 1, expected 2"),
        (
            {"tokenizer.ggml.bos_token_id": number(0), "tokenizer.ggml.add_bos_token": truth(True)},
            ["prompt_tokens"],
            "adds or drops a token such as BOS",
        ),
        ({"tokenizer.ggml.pre": text("gpt-2")}, ["token_ids"], "differs at token"),
        ({"tokenizer.ggml.pre": text("llama-bpe")}, ["token_ids"], "differs at token"),
    ],
    ids=["a byte of the template", "no template", "EOS", "BOS", "gpt-2", "llama-bpe"],
)
def test_wrong_metadata_fails_by_what_it_changes(
    changes: dict[str, bytes | None],
    checks: list[str],
    detail: str,
    q8: Path,
    failed: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    problems = failed(with_metadata(q8, tmp_path / "a.gguf", changes))
    assert set(checks) <= problems.keys() <= {*checks, "rendering", "prompt_tokens", "token_ids"}
    assert detail in problems[checks[0]]


def test_an_old_template_in_tokenizer_config_fails(
    student: Path, failed: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    """llama.cpp's converter takes it before chat_template.jinja."""
    other = Path(shutil.copytree(student, tmp_path / "other"))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings["chat_template"] = SHIPPED.replace("Tools:", "Old tools:")
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    gguf.convert(other, tmp_path / "a.gguf")
    assert {"template", "rendering"} <= failed(tmp_path / "a.gguf").keys()


def test_an_added_token_that_became_text_fails_by_its_ids(
    student: Path, q8: Path, failed: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    kinds = bytearray(gguf_file.read(q8).pairs["tokenizer.ggml.token_type"])
    # No conversation has it, and llama.cpp does not know it as the end of a file, as it does <file_sep>.
    lost: Any = AutoTokenizer.from_pretrained(student).convert_tokens_to_ids("<gh_stars>")
    assert struct.unpack_from("<i", kinds, 16 + 4 * lost) == (3,)
    struct.pack_into("<i", kinds, 16 + 4 * lost, 1)
    changes: dict[str, bytes | None] = {"tokenizer.ggml.token_type": bytes(kinds)}
    assert list(failed(with_metadata(q8, tmp_path / "a.gguf", changes))) == ["token_ids"]


def test_a_file_cut_short_is_bad_input_with_both_sizes(
    q8: Path, student: Path, tmp_path: Path
) -> None:
    whole = q8.read_bytes()
    (tmp_path / "a.gguf").write_bytes(whole[: len(whole) // 2])
    expected = rf"a.gguf: cut short: found {len(whole) // 2:,} bytes, expected {len(whole):,}"
    with pytest.raises(InputError, match=expected):
        verify.verify(tmp_path / "a.gguf", student)


@pytest.mark.parametrize("variant", ["F16", "Q8_0", "Q4_K_M"])
def test_the_real_student_of_135m_has_its_own_weights_in_every_type(
    variant: str, tmp_path: Path
) -> None:
    student = base.load("smollm2-135m")
    file = untrained.gguf(student, variant)
    checks = verify.verify(file, base.prepare(student))["checks"]
    assert {c["name"]: c["detail"] for c in checks if c["passed"] is False} == {}
    assert {"weights", "logits"} <= {c["name"] for c in checks if c["passed"]}


def test_the_conversations_are_enough_to_compare(student: Path) -> None:
    from student.export import logits

    renderer, _ = verify._original(student, with_images=False)
    drawn = logits.samples(CONVERSATIONS, renderer)
    assert sum(len(sample.lengths) for sample in drawn) >= 48
    assert all(0 < length < len(sample.ids) for sample in drawn for length in sample.lengths)
