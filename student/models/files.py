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
            raise StageError(hub_problem(source, error)) from error

    directory = snapshot([*DESCRIPTION, SINGLE])
    if not (directory / SINGLE).is_file() and (directory / INDEX).is_file():
        directory = snapshot([*DESCRIPTION, *shard_names(directory / INDEX)])
    if not weights(directory):
        raise StageError(f"{name}: no weights on the hub, expected {SINGLE} or {INDEX}")
    return directory


def check_weights(student: dict[str, Any], directory: Path) -> None:
    """Raises unless the student's weights are on this machine or can be fetched from the hub, of which it asks once.

    directory: with the student's small files (`base.tokenizer_directory`).

    Raises:
        InputError: the directory of a student that is not on the hub has no weights.
        StageError: the hub does not provide them.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    source, index = student["source"], directory / INDEX
    is_single = (directory / SINGLE).is_file() or not index.is_file()
    names = [SINGLE] if is_single else shard_names(index)
    missing = next((name for name in names if not (directory / name).is_file()), None)
    if missing is None:
        return
    expected = f"expected the weights as {SINGLE} or {INDEX} with its shards"
    if "hub" not in source:
        raise InputError(f"{student['name']}: {directory}: no {missing}, {expected}")
    url = hf_hub_url(source["hub"], missing, revision=source.get("revision"))
    try:
        HfApi().get_hf_file_metadata(url=url)
    except RemoteEntryNotFoundError as error:
        raise StageError(f"{source['hub']}: no {missing} on the hub, {expected}") from error
    except Exception as error:
        raise StageError(hub_problem(source, error)) from error


def hub_problem(source: dict[str, Any], error: Exception) -> str:
    """One line on why the hub does not provide a model, by the error of its client, and what to do."""
    from huggingface_hub import constants, errors

    name, page = source["hub"], f"{constants.ENDPOINT}/{source['hub']}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name}: the hub does not give it to this user: accept its licence at {page} and set HF_TOKEN to a token"
            " of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{name}: not on the hub, or private: correct the name, or set HF_TOKEN to a token that may read it"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: source.revision: the hub has no {source.get('revision')!r}: see {page}"
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set: unset it"
    else:
        reason = f"{one_line(str(error), 120)}: connect this machine to the hub"
    return (
        f"{name}: cannot be fetched from the hub: {reason}, or run `hf download {name}` on another machine and copy"
        f" the files into {constants.HF_HUB_CACHE}"
    )


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
