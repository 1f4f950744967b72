"""Signs the manifests of a student and verifies them: cosign's bundle format, with a key.

A signature is an in-toto statement in a DSSE envelope in a sigstore bundle, in a manifest of OCI whose `subject` is the
signed manifest (cosign's specs/BUNDLE_SPEC.md). The keys are ECDSA P-256 in PEM, which `openssl` makes and cosign
imports; `cosign verify --key` reads the signatures. Sigstore's identities and transparency log are not used.
"""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from schemas.errors import GateError, InputError
from schemas.files import dumps, open_bytes
from schemas.tags import variant_tag
from student.registry.artifact import CREATED, TITLE, Model
from student.registry.store import (
    EMPTY_TYPE,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    Descriptor,
    Repository,
    referrers_by_tag,
    referrers_tag,
)

SIGNING_KEY, SIGNING_PASSWORD = "STILLHOUSE_SIGNING_KEY", "STILLHOUSE_SIGNING_PASSWORD"
VERIFY_KEY, VERIFY = "STILLHOUSE_VERIFY_KEY", "STILLHOUSE_VERIFY"

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE = "https://sigstore.dev/cosign/sign/v1"  # the predicate type of cosign's signatures
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "dev.sigstore.bundle.predicateType"
_MOST_REFERRERS = 200

# (predicate type, predicate) of an attestation.
Statement = tuple[str, dict[str, Any]]


def signing_key() -> ec.EllipticCurvePrivateKey | None:
    """Returns the private key that STILLHOUSE_SIGNING_KEY names, or None where it is not set.

    Raises:
        InputError: no key of ECDSA P-256 in PEM, or the password is missing or wrong.
    """
    if not (name := os.environ.get(SIGNING_KEY)):
        return None
    password = os.environ.get(SIGNING_PASSWORD, "").encode() or None
    try:
        key = load_pem_private_key(_read(name), password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            f"{SIGNING_KEY}: {name}: expected a private key in PEM, and its password in {SIGNING_PASSWORD}"
            " if it has one"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError(f"{SIGNING_KEY}: {name}: expected a key of ECDSA P-256")
    return key


def sign(
    repository: Repository,
    key: ec.EllipticCurvePrivateKey,
    targets: list[Descriptor],
    attestations: list[Statement],
) -> None:
    """Attaches a signature and the attestations to each manifest, unless it has a signature of this key."""
    for target in targets:
        if _is_signed(repository, target["digest"], key.public_key()):
            continue
        entries = referrers_by_tag(repository, target["digest"])
        for kind, predicate in [(SIGNATURE, {}), *attestations]:
            entries.append(_attach(repository, key, target, kind, predicate))
        index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": entries}
        # For registries without the referrers API, and for directories.
        repository.set_tags(
            {
                referrers_tag(target["digest"]): repository.add_manifest(IMAGE_INDEX, dumps(index)),
            }
        )


def verify(repository: Repository, model: Model, report: Callable[[str], None]) -> None:
    """Checks that a student is signed by the key that STILLHOUSE_VERIFY_KEY names, where that is set.

    All that its manifest leads to is then known to be what was signed, because it is named by digests. So are name and
    number, which the signed files have and the tag must repeat. `latest` and the tags of people may name any version.

    Args:
        report: called with a line, where STILLHOUSE_VERIFY is `warn`.

    Raises:
        GateError: it is not, and STILLHOUSE_VERIFY is `refuse`, the default.
        InputError: the key or the setting is wrong.
    """
    policy = os.environ.get(VERIFY) or "refuse"
    if policy not in ("refuse", "warn", "off"):
        raise InputError(f"{VERIFY}: found {policy!r}, expected refuse, warn or off")
    name = os.environ.get(VERIFY_KEY)
    if not name or policy == "off":
        if not name and os.environ.get(VERIFY) in ("refuse", "warn"):
            raise InputError(
                f"{VERIFY_KEY}: not set, expected a public key beside {VERIFY}={policy}"
            )
        return
    try:
        key = load_pem_public_key(_read(name))
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{VERIFY_KEY}: {name}: expected a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError(f"{VERIFY_KEY}: {name}: expected a key of ECDSA P-256")
    label = f"{model.name}:{model.tag}"
    line = None
    if not _is_signed(repository, model.digest, key):
        line = f"{label}: found no signature of {name} for {model.digest}"
    elif not _has_own_name(model):
        signed = f"{model.manifest['name']}:{model.manifest['tag']}"
        line = f"{model.name}:{model.tags[0]}: found what was signed as {signed}"
    if line:
        if policy == "refuse":
            raise GateError(f"{line}: not pulled ({VERIFY}=warn pulls it all the same)")
        report(f"warning: {line}")


def _has_own_name(model: Model) -> bool:
    """Whether the store has a version, or a variant of it, under the name and the number that its files say."""
    number = model.manifest["tag"]
    variants = {*(file.variant for file in model.files), "files"}
    tags = {number, *(variant_tag(number, variant) for variant in variants)}
    return model.name == model.manifest["name"] and model.tags[0] in tags


def _read(name: str) -> bytes:
    with open_bytes(Path(name)) as file:
        return file.read(1 << 20)


def _attach(
    repository: Repository,
    key: ec.EllipticCurvePrivateKey,
    target: Descriptor,
    kind: str,
    predicate: dict[str, Any],
) -> Descriptor:
    """Adds the manifest of a signed statement about a manifest, and returns its entry for an index."""
    layer = repository.add_text(BUNDLE_TYPE, dumps(_bundle(key, target["digest"], kind, predicate)))
    title = f"{layer['digest'].replace(':', '-')}.sigstore.json"
    notes = {
        CREATED: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dev.sigstore.bundle.content": "dsse-envelope",
        _PREDICATE: kind,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": BUNDLE_TYPE,
        "config": repository.add_text(EMPTY_TYPE, "{}"),
        "layers": [{**layer, "annotations": {TITLE: title}}],
        "subject": {field: target[field] for field in ("mediaType", "digest", "size")},
        "annotations": notes,
    }
    entry = repository.add_manifest(IMAGE_MANIFEST, dumps(manifest))
    return {**entry, "artifactType": BUNDLE_TYPE, "annotations": notes}


def _bundle(
    key: ec.EllipticCurvePrivateKey, digest: str, kind: str, predicate: dict[str, Any]
) -> dict[str, Any]:
    statement = {
        "_type": _STATEMENT,
        "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": {}}],
        "predicateType": kind,
        "predicate": predicate,
    }
    payload = dumps(statement).encode()
    signature = key.sign(_pae(payload), ec.ECDSA(hashes.SHA256()))
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": base64.b64encode(hashlib.sha256(public).digest()).decode()}
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }


def _pae(payload: bytes) -> bytes:
    """Returns what is signed of an envelope: DSSE's pre-authentication encoding."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _is_signed(repository: Repository, digest: str, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether a manifest has a valid signature of a key. What is broken or of another key does not count."""
    for entry in repository.referrers(digest)[:_MOST_REFERRERS]:
        try:
            if _signs(repository, entry, digest, key):
                return True
        except (InputError, InvalidSignature, binascii.Error, ValueError, LookupError):
            continue
        except (TypeError, AttributeError, RecursionError):
            continue
    return False


def _signs(
    repository: Repository, entry: Descriptor, digest: str, key: ec.EllipticCurvePublicKey
) -> bool:
    """Whether an entry of an index of referrers is a signature of a key for a manifest.

    Raises:
        An error of another kind for each way in which what a registry says may be broken.
    """
    manifest = repository.document(entry, f"{repository.name}: signature")
    if manifest["artifactType"] != BUNDLE_TYPE or manifest["subject"]["digest"] != digest:
        return False
    (layer,) = manifest["layers"]
    bundle = repository.document(layer, f"{repository.name}: signature")
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    (signature,) = envelope["signatures"]
    key.verify(
        base64.b64decode(signature["sig"], validate=True),
        _pae(payload),
        ec.ECDSA(hashes.SHA256()),
    )
    statement = json.loads(payload)
    if statement["_type"] != _STATEMENT or statement["predicateType"] != SIGNATURE:
        return False
    signed = [subject["digest"]["sha256"] for subject in statement["subject"]]
    return digest.removeprefix("sha256:") in signed
