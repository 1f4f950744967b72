"""A GGUF file with a model's real tokenizer and template, and tiny random weights in place of its own.

llama.cpp's server renders, tokenizes, stops and parses calls with such a file as with the full model, and it is written
before the weights are trained or downloaded. The tokenizer comes from llama.cpp's own converter.
"""

import json
import shutil
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from schemas.files import whole
from student.export.gguf import convert
from student.export.merge import set_template
from student.models import gguf_file
from teacher.inference.llamacpp import Progress

# Files of a model's directory that say how it tokenizes; the weights are not among them.
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
_HIDDEN = 32
_CONTEXT = 32768


def random_gguf(directory: Path, template: str, to: Path, report: Progress = print) -> None:
    """Writes the file for a model's directory in Hugging Face's form, which may lack its weights.

    Args:
        template: Jinja text that the file carries.

    Raises:
        StageError: llama.cpp's converter does not know the tokenizer, or the file cannot be written.
    """
    with TemporaryDirectory() as scratch:
        bare = Path(scratch, "model")
        bare.mkdir()
        for pattern in TOKENIZER_FILES:
            for file in directory.glob(pattern):
                if file.name != "model.safetensors.index.json" and file.is_file():
                    shutil.copy2(file, bare)
        if not (bare / "tokenizer_config.json").is_file():
            (bare / "tokenizer_config.json").write_text(json.dumps({}))
        set_template(bare, template)
        vocabulary = Path(scratch, "vocabulary.gguf")
        convert(bare, vocabulary, report, vocabulary_only=True)
        with whole(to) as temporary:
            add_random_weights(vocabulary, temporary)


def add_random_weights(vocabulary: Path, to: Path) -> None:
    """Writes a Llama of one small layer with the tokenizer and template of a GGUF without tensors."""
    pairs = gguf_file.read(vocabulary).pairs
    tokenizer = {key: value for key, value in pairs.items() if key.startswith("tokenizer.")}
    tokens = struct.unpack_from("<Q", tokenizer["tokenizer.ggml.tokens"], 8)[0]
    integers = {
        "context_length": _CONTEXT,
        "embedding_length": _HIDDEN,
        "feed_forward_length": _HIDDEN,
        "block_count": 1,
        "attention.head_count": 1,
        "attention.head_count_kv": 1,
        "rope.dimension_count": _HIDDEN,
        "vocab_size": tokens,
    }
    kept = {"general.architecture": struct.pack("<I", gguf_file.STRING) + _text("llama")}
    kept |= {f"llama.{key}": struct.pack("<II", 4, value) for key, value in integers.items()}
    kept["llama.attention.layer_norm_rms_epsilon"] = struct.pack("<If", 6, 1e-5)
    kept |= tokenizer
    tensors = _weights(tokens)
    with to.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(kept)))
        for key, value in kept.items():
            file.write(_text(key) + value)
        offset = 0
        for name, tensor in tensors.items():
            file.write(_text(name) + struct.pack("<I", tensor.ndim))
            file.write(struct.pack(f"<{tensor.ndim}Q", *reversed(tensor.shape)))
            file.write(struct.pack("<IQ", 1 if tensor.dtype == np.float16 else 0, offset))
            offset += _aligned(tensor.nbytes)
        file.write(bytes(_aligned(file.tell()) - file.tell()))
        for tensor in tensors.values():
            file.write(tensor.tobytes() + bytes(_aligned(tensor.nbytes) - tensor.nbytes))


def _weights(tokens: int) -> dict[str, np.ndarray]:
    """Returns random tensors, [out, in], by their names in a GGUF."""
    rng = np.random.default_rng(0)
    layer = "blk.0"
    matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {"token_embd": (tokens, _HIDDEN)} | {
        f"{layer}.{name}": (_HIDDEN, _HIDDEN) for name in matrices
    }
    tensors = {
        f"{name}.weight": (rng.standard_normal(shape, np.float32) / 8).astype(np.float16)
        for name, shape in shapes.items()
    }
    for name in ("output_norm", f"{layer}.attn_norm", f"{layer}.ffn_norm"):
        tensors[f"{name}.weight"] = np.ones(_HIDDEN, np.float32)
    return tensors


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(size: int) -> int:
    return -(-size // 32) * 32
