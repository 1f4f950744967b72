"""What four clients of registries take from an artifact, by the rules in their own code of 2026.

docker model pull: docker/model-runner, pkg/distribution. kit: kitops-ml/kitops, pkg/lib. oras: oras-project/oras.
Each function gets a manifest and its config as the registry has them, and returns the files that the client writes, or
raises Refused.
"""

from pathlib import PurePosixPath
from typing import Any

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODELPACK = "application/vnd.cncf.model.manifest.v1+json"
MODELPACK_CONFIG = "application/vnd.cncf.model.config.v1+json"
_DOCKER_CONFIGS = {
    "application/vnd.docker.ai.model.config.v0.1+json",
    "application/vnd.docker.ai.model.config.v0.2+json",
    MODELPACK_CONFIG,
}
_KIT_MANIFEST = "application/vnd.kitops.modelkit.manifest.v1+json"
_KIT_CONFIG = "application/vnd.kitops.modelkit.config.v1+json"
_WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
_RAW = {
    _WEIGHT,
    "application/vnd.cncf.model.weight.config.v1.raw",
    "application/vnd.cncf.model.doc.v1.raw",
    "application/vnd.cncf.model.dataset.v1.raw",
}
_FILEPATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"


class Refused(Exception):
    """The client does not pull this."""


def docker_model_pull(manifest: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """Returns what docker's runner starts: {"model": ..., "mmproj": ...} for GGUF, shards for safetensors."""
    if manifest["mediaType"] != MANIFEST:
        raise Refused("an index is not resolved")
    kind = manifest["config"]["mediaType"]
    if kind not in _DOCKER_CONFIGS:
        raise Refused(f"config {kind}")
    if kind == MODELPACK_CONFIG and manifest.get("artifactType") != MODELPACK:
        raise Refused("artifactType")
    if not (config.get("config", {}).get("paramSize") or config["descriptor"].get("createdAt")):
        raise Refused("the config is not known as ModelPack's")
    if config["modelfs"]["diffIds"] != [layer["digest"] for layer in manifest["layers"]]:
        raise Refused("diffIds")
    weights = [
        layer["annotations"][_FILEPATH]
        for layer in manifest["layers"]
        if layer["mediaType"] == _WEIGHT
    ]
    if not weights:
        raise Refused("no weights")
    towers = [path for path in weights if "mmproj" in PurePosixPath(path).name]
    models = [path for path in weights if path not in towers]
    form = config["config"].get("format") or PurePosixPath(weights[0]).suffix[1:]
    if form == "gguf":
        return {"model": models[0], **({"mmproj": towers[0]} if towers else {})}
    if form == "safetensors":
        return {path: path for path in models}
    raise Refused(f"format {form}")


def kit_pull(manifest: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """Returns the paths that kit unpacks."""
    if manifest["mediaType"] != MANIFEST:
        raise Refused("an index is not resolved")
    kinds = (manifest.get("artifactType"), manifest["config"]["mediaType"])
    kit = kinds[0] == _KIT_MANIFEST or kinds[1] == _KIT_CONFIG
    if not kit and kinds != (MODELPACK, MODELPACK_CONFIG):
        raise Refused(f"{kinds}")
    for layer in manifest["layers"]:
        if layer["mediaType"] not in _RAW:
            raise Refused(layer["mediaType"])
    paths = [layer["annotations"][_FILEPATH] for layer in manifest["layers"]]
    return {path: path for path in paths}


def oras_pull(manifest: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """Returns the names under which oras writes layers; of an index, those of all that it lists with a title."""
    layers = manifest.get("layers", manifest.get("manifests", []))
    names = [layer.get("annotations", {}).get(_TITLE) for layer in layers]
    named = [name for name in names if name]
    if len(set(named)) != len(named) or any(".." in PurePosixPath(n).parts for n in named):
        raise Refused("names")
    return {name: name for name in named}


def plain_pull(manifest: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """Returns the digests of all layers, as a client of images copies them."""
    return {layer["digest"]: layer["digest"] for layer in manifest["layers"]}


CLIENTS = {
    "docker": docker_model_pull,
    "kit": kit_pull,
    "oras": oras_pull,
    "plain": plain_pull,
}
