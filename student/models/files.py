"""The files that make up a student: config, tokenizer, chat template, and the shards of weights that are indexed.

Whatever else lies beside them (consolidated.safetensors, original/, onnx/, *.bin, *.pt, notes) is not fetched from the
hub, exported or published. Names are exact, because the hub's patterns would also match `original/tokenizer.model`.
"""

from pathlib import Path
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError, StageError
from schemas.files import BOM, open_bytes, read_json
from teacher.inference.llamacpp import Progress

_LICENCES = (
    *("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md"),
    *("NOTICE", "NOTICE.txt", "NOTICE.md", "USE_POLICY.md"),
)
# What an export takes of the base besides weights and template. A licence has to travel with the weights.
EXPORTED = (
    *("config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "tekken.json"),
    *("spiece.model", "sentencepiece.bpe.model", "spm.model", "qwen.tiktoken"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *_LICENCES,
)
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# What is read of a student without its weights.
DESCRIPTION = (
    *EXPORTED,
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("README.md", "LICEN[SC]E*", INDEX),
)


def weights(directory: Path, *, fetched: bool = True) -> list[Path]:
    """The student's files of weights: model.safetensors, else the shards that its index names, as transformers does.

    fetched: raise for a missing shard; else leave it out.

    Returns:
        An empty list where there are neither.

    Raises:
        InputError: the index cannot be read, names no plain file name, or names a shard that is missing.
    """
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    index = directory / INDEX
    if not index.is_file():
        return []
    shards = [directory / name for name in shard_names(index)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing and fetched:
        raise InputError(
            f"{index}: names {missing[0]}, expected this file beside it: fetch the missing shard"
        )
    return [shard for shard in shards if shard.name not in missing]


def shard_names(index: Path) -> list[str]:
    """The names of the shards in an index of safetensors, sorted.

    Raises:
        InputError: it is no index, or a name is not that of a safetensors file beside it.
    """
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: weight_map: found none, expected the shard of each tensor")
    for name in weight_map.values():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise InputError(
                f"{index}: weight_map: found {name!r}, expected the name of a safetensors file beside it"
            )
    return sorted(set(weight_map.values()))


def check_readable(directory: Path) -> None:
    """Raises InputError, which names the file, if transformers and vLLM cannot read a JSON file of a student."""
    for path in (directory / name for name in EXPORTED if name.endswith(".json")):
        if not path.is_file():
            continue
        if not isinstance(read_json(path), dict):
            raise InputError(f"{path}: found a JSON value of another form, expected an object")
        with open_bytes(path) as file:
            if file.read(len(BOM)) == BOM:
                raise InputError(
                    f"{path}: found a byte-order mark, expected none: transformers and vLLM cannot read it: save the"
                    " file as UTF-8 without one"
                )


def fetch(student: dict[str, Any], log: Progress = print) -> Path:
    """The directory of a student on the hub. The first use downloads its files, and no others, into the user's cache.

    Raises:
        StageError: the download failed, or the model has no safetensors.
    """
    from huggingface_hub import snapshot_download

    source = student["source"]
    name, revision = source["hub"], source.get("revision")
    log(f"fetching {name} from the hub")

    def snapshot(patterns: list[str]) -> Path:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        except Exception as error:
            raise StageError(
                f"{name}: cannot be fetched from the hub: {one_line(str(error))}"
            ) from error

    directory = snapshot([*DESCRIPTION, SINGLE])
    if not (directory / SINGLE).is_file() and (directory / INDEX).is_file():
        directory = snapshot([*DESCRIPTION, *shard_names(directory / INDEX)])
    if not weights(directory):
        raise StageError(f"{name}: no weights on the hub, expected {SINGLE} or {INDEX}")
    return directory


def on_this_machine(student: dict[str, Any]) -> Path | None:
    """The directory with a student's config and tokenizer, where no download is needed for it; else None."""
    source = student["source"]
    if "path" in source:
        path = Path(source["path"]).expanduser()
        return path if (path / "config.json").is_file() else None
    if "hub" not in source:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = snapshot_download(
            source["hub"], revision=source.get("revision"), local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(directory) if (Path(directory) / "tokenizer_config.json").is_file() else None
