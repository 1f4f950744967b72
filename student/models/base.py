"""A student's starting weights as a Hugging Face directory, with the chat template that will ship with it.

A hub or a local directory is taken as it is, with its template replaced where the student's file says so. A
GGUF is dequantised once into the user's cache. Three things are silent traps there, and each is mended
here: the tokenizer's end of turn, the quantisation state that forbids saving, and the pre-tokenizer that
GGUF stores only by name.
"""

from pathlib import Path
from typing import Any

from schemas.cache import cache_directory, make_once
from schemas.errors import InputError
from schemas.files import sha256, whole
from student.models.chat_template import chat_template, must_see
from student.models.introspect import describe
from teacher.inference.llamacpp import Progress
from teacher.models import catalog

STUDENTS = Path(__file__).parent
# Raised when what `_from_gguf` writes changes, so that nobody trains on what an older one cached.
VERSION = 1


def load(name: str) -> dict[str, Any]:
    """The description of a student (schemas/student.schema.json): of a name in student/models or a YAML file as it is
    written there, of a directory or a model on the hub as it is found."""
    if "/" in name and not name.endswith((".yaml", ".yml")):
        return describe(name)
    student = catalog.load(name, STUDENTS, "student")
    if has_vision(student) and "path" in student["source"]:
        must_see(student, catalog.fetch(student))  # before a teacher is asked
    return student


def has_vision(student: dict[str, Any]) -> bool:
    """Whether the description says that the student is a vision-language model."""
    return bool(student.get("capabilities", {}).get("vision"))


def prepare(student: dict[str, Any], say: Progress = print) -> Path:
    """The directory with config, safetensors, tokenizer and template of an untrained student."""
    weights = catalog.fetch(student, say)
    if weights.is_dir():
        return weights
    digest = sha256(weights)[:16]
    directory = cache_directory() / "students" / f"{student['name']}-{digest}-{VERSION}"
    with make_once(directory) as missing:
        if not missing:
            return directory
        say(f"unpacking {weights.name} for training (once, half a minute)")
        with whole(directory) as temporary:
            _from_gguf(student, weights, temporary)
    return directory


def _from_gguf(student: dict[str, Any], gguf: Path, to: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = _pre_tokenizer(student)
    # The GGUF reader may take the start of a turn for its end; generation would never stop.
    tokenizer.eos_token = student["eos"]
    tokenizer.pad_token = student["eos"]
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights are plain tensors by now; while the model still says it is quantised, it refuses to be saved.
    del model.config.quantization_config
    vars(model).update(is_quantized=False, hf_quantizer=None)
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = tokenizer.eos_token_id
    model.bfloat16().save_pretrained(to)
    tokenizer.save_pretrained(to)
    (to / "chat_template.jinja").write_text(chat_template(student, to), encoding="utf-8")


def _pre_tokenizer(student: dict[str, Any]) -> Any:
    """The pre-tokenizer that a GGUF names (tokenizer.ggml.pre), as llama.cpp's llama-vocab.cpp implements it."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if student.get("pre_tokenizer") != "smollm":
        raise InputError(
            f"{student['name']}: pre_tokenizer: found {student.get('pre_tokenizer')!r}: a student that starts"
            f" from a GGUF needs one that is known (smollm); use the original weights instead"
        )
    return Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
