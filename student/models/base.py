"""A student's description, and its starting weights as a Hugging Face directory with the chat template that ships.

A directory or a model on the hub is used unchanged. A GGUF is dequantised once into the user's cache. Three defects of
that conversion raise no error and are repaired here: the tokenizer's end of turn, the quantisation state that prevents
saving, and the pre-tokenizer, which GGUF stores only by name.
"""

from pathlib import Path
from typing import Any

from schemas.cache import cache_directory, make_once
from schemas.errors import InputError, StageError
from schemas.files import sha256, sha256_text, whole
from student.models import files
from student.models.chat_template import chat_template, check_vision
from student.models.introspect import DESCRIPTION_FILES, describe, read
from student.models.vocabulary import check_vocabulary
from teacher.inference.llamacpp import Progress
from teacher.models import catalog

STUDENTS = Path(__file__).parent
# To be raised with each change of what `_from_gguf` writes, so that older cached weights are not used.
VERSION = 1


def load(name: str) -> dict[str, Any]:
    """The description of a student (schemas/student.schema.json).

    Args:
        name: of a YAML file in student/models, or the path of one; else a directory or a model on the hub, which is
            described from its own files.

    Raises:
        InputError: there is no such student, or it cannot be trained.
    """
    if "/" in name and not name.endswith((".yaml", ".yml")):
        return describe(name)
    student = catalog.load(name, STUDENTS, "student")
    if has_vision(student) and "path" in student["source"]:
        check_vision(student, catalog.fetch(student))
    if directory := files.on_this_machine(student):
        check_vocabulary(name, directory, *read(name, directory))
    return student


def has_vision(student: dict[str, Any]) -> bool:
    """Whether the student is a vision-language model, by its description."""
    return bool(student.get("capabilities", {}).get("vision"))


def prepare(student: dict[str, Any], log: Progress = print) -> Path:
    """The directory of an untrained student: config, safetensors, tokenizer and chat template."""
    if "hub" in student["source"]:
        return files.fetch(student, log)
    weights = catalog.fetch(student, log)
    if weights.is_dir():
        return weights
    template = catalog.template(student)
    text = (
        template.read_text(encoding="utf-8") if template else ""
    )  # a copy of it is in the directory
    digest = sha256_text(f"{sha256(weights)} {text}")[:16]
    directory = cache_directory() / "students" / f"{student['name']}-{digest}-{VERSION}"
    with make_once(directory) as missing:
        if not missing:
            return directory
        log(f"unpacking {weights.name} for training (once, half a minute)")
        with whole(directory) as temporary:
            _from_gguf(student, weights, temporary)
    return directory


def tokenizer_directory(
    student: dict[str, Any], log: Progress = print, *, download: bool
) -> Path | None:
    """The directory with a student's config, tokenizer and template; its weights may be missing.

    download: fetch what is not on this machine, of a model on the hub only the small files. Without it, None is
        returned for such a student.

    Raises:
        InputError: a token of a model on the hub has no row in the embedding.
        StageError: with `download`, the hub does not provide the files.
    """
    source = student["source"]
    if "hub" in source:
        from huggingface_hub import snapshot_download

        try:
            directory = Path(
                snapshot_download(
                    source["hub"],
                    revision=source.get("revision"),
                    allow_patterns=DESCRIPTION_FILES,
                    local_files_only=not download,
                )
            )
        except Exception as error:  # of the hub's client
            if download:
                raise StageError(files.hub_problem(source, error)) from error
            return None
        if not (directory / "tokenizer_config.json").is_file():
            if download:
                raise StageError(f"{source['hub']}: no tokenizer_config.json on the hub")
            return None
        name = student["name"]
        check_vocabulary(name, directory, *read(name, directory))
        return directory
    if "path" in source and Path(source["path"]).expanduser().is_dir():
        return Path(source["path"]).expanduser()
    if not download and not catalog.is_fetched(student):
        return None
    return prepare(student, log)


def _from_gguf(student: dict[str, Any], gguf: Path, to: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = _pre_tokenizer(student)
    # The GGUF reader may take the token that starts a turn for the one that ends it; generation would never stop.
    tokenizer.eos_token = student["eos"]
    tokenizer.pad_token = student["eos"]
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights are plain tensors here, but transformers does not save a model whose config says it is quantised.
    del model.config.quantization_config
    vars(model).update(is_quantized=False, hf_quantizer=None)
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = tokenizer.eos_token_id
    model.bfloat16().save_pretrained(to)
    tokenizer.save_pretrained(to)
    (to / "chat_template.jinja").write_text(chat_template(student, to), encoding="utf-8")


def _pre_tokenizer(student: dict[str, Any]) -> Any:
    """The pre-tokenizer that a GGUF names (tokenizer.ggml.pre), as llama.cpp's llama-vocab.cpp implements it.

    Raises:
        InputError: it is not a known one.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if student.get("pre_tokenizer") != "smollm":
        raise InputError(
            f"{student['name']}: pre_tokenizer: found {student.get('pre_tokenizer')!r}, expected smollm for a student"
            f" that starts from a GGUF; use the original weights instead"
        )
    return Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
