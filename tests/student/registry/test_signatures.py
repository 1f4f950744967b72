"""Signatures and attestations: what is written, what is verified, and what is refused."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from oci_server import Fault, Gate, OciServer, needs_registry, oci_server
from published_student import Q8, document, names_in, publish_legal

from schemas.errors import GateError, InputError
from schemas.files import read_json, write_json
from student.registry.lookup import list_models, resolve
from student.registry.oci_layout import DirectoryStore
from student.registry.pull import pull
from student.registry.store import Store, referrers_tag
from student.registry.upkeep import keep, push

SETTINGS = ("SIGNING_KEY", "SIGNING_PASSWORD", "VERIFY_KEY", "VERIFY")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(f"STILLHOUSE_{name}", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def key_pair(where: Path, password: bytes | None = None, key: Any = None) -> tuple[Path, Path]:
    """Writes a key pair as PEM, and returns the paths of the private and the public key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    where.mkdir(parents=True, exist_ok=True)
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    private, public = where / "sign.key", where / "sign.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def signed(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> DirectoryStore:
    """A store with legal:1, signed, and STILLHOUSE_VERIFY_KEY set to its key."""
    private, public = key_pair(tmp_path / "keys")
    monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", str(private))
    publish_legal(store, tmp_path / "run")
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEY", str(public))
    return store


def bundles(store: DirectoryStore, digest: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Returns the manifest and the bundle of everything attached to a manifest, by its predicate type."""
    found = {}
    for entry in store.repository("legal").referrers(digest):
        manifest = document(store, entry["digest"])
        bundle = document(store, manifest["layers"][0]["digest"])
        found[entry["annotations"]["dev.sigstore.bundle.predicateType"]] = (manifest, bundle)
    return found


def test_the_index_and_each_variant_are_signed_as_cosign_does(signed: DirectoryStore) -> None:
    model = resolve(signed, "legal")
    targets = [model.digest, *(entry["digest"] for entry in model.manifests.values())]
    for digest in targets:
        attached = bundles(signed, digest)
        assert set(attached) == {
            "https://sigstore.dev/cosign/sign/v1",
            "https://slsa.dev/provenance/v1",
            "https://in-toto.io/attestation/test-result/v0.1",
            "urn:stillhouse:scorecard:1",
        }
        for kind, (manifest, bundle) in attached.items():
            assert manifest["artifactType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
            assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
            assert manifest["subject"]["digest"] == digest
            assert manifest["annotations"]["dev.sigstore.bundle.content"] == "dsse-envelope"
            (layer,) = manifest["layers"]
            assert layer["mediaType"] == manifest["artifactType"] == bundle["mediaType"]
            statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
            assert statement["_type"] == "https://in-toto.io/Statement/v1"
            assert statement["predicateType"] == kind
            assert statement["subject"][0]["digest"] == {"sha256": digest.removeprefix("sha256:")}


def test_the_attestations_say_how_it_was_made_and_what_it_reached(signed: DirectoryStore) -> None:
    attached = bundles(signed, resolve(signed, "legal").digest)

    def predicate(kind: str) -> dict[str, Any]:
        payload = base64.b64decode(attached[kind][1]["dsseEnvelope"]["payload"])
        return json.loads(payload)["predicate"]

    made = predicate("https://slsa.dev/provenance/v1")
    assert made["buildDefinition"]["externalParameters"]["recipe"]["teacher"] == "large"
    assert made["buildDefinition"]["resolvedDependencies"][2]["digest"] == {"sha256": "a" * 64}
    result = predicate("https://in-toto.io/attestation/test-result/v0.1")
    assert (result["result"], result["passedTests"]) == ("PASSED", ["gain"])
    assert predicate("urn:stillhouse:scorecard:1")["models"]["student"]["passed"] == 81


def test_openssl_verifies_the_signature(signed: DirectoryStore, tmp_path: Path) -> None:
    digest = resolve(signed, "legal").digest
    envelope = bundles(signed, digest)["https://sigstore.dev/cosign/sign/v1"][1]["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    (tmp_path / "signed").write_bytes(
        f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    )
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    command = ["openssl", "dgst", "-sha256", "-verify", str(tmp_path / "keys" / "sign.pub")]
    command += ["-signature", str(tmp_path / "sig"), str(tmp_path / "signed")]
    assert subprocess.run(command, capture_output=True).stdout == b"Verified OK\n"


@pytest.mark.parametrize("reference", ["legal", "legal:1", "legal:1-q4_k_m"])
def test_what_is_signed_is_pulled(signed: DirectoryStore, tmp_path: Path, reference: str) -> None:
    pull(signed, reference, tmp_path / "out")
    assert [model.tags for model in list_models(signed)] == [("1", "latest")]


@pytest.mark.parametrize("policy", ["refuse", "warn", "off"])
def test_what_is_not_signed_by_the_key_is_refused_or_warned_of(
    signed: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    _, other = key_pair(tmp_path / "other")
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEY", str(other))
    monkeypatch.setenv("STILLHOUSE_VERIFY", policy)
    lines: list[str] = []
    if policy == "refuse":
        with pytest.raises(GateError, match="legal:1: found no signature of .*other/sign.pub"):
            pull(signed, "legal", tmp_path / "out", report=lines.append)
        assert not (tmp_path / "out").exists()
        return
    pull(signed, "legal", tmp_path / "out", report=lines.append)
    assert len(lines) == (policy == "warn")


@pytest.mark.parametrize("tag", ["2", "2-q8_0", "1-q4_k_m"])
def test_a_signed_version_under_another_number_variant_or_name_is_refused(
    signed: DirectoryStore, tmp_path: Path, tag: str
) -> None:
    publish_legal(signed, tmp_path / "2", Q8 + b"2")
    repository = signed.repository("legal")
    old = repository.find("1-q8_0" if "-" in tag else "1")
    assert old
    repository.set_tags({tag: old})
    with pytest.raises(
        GateError, match=f"legal:{tag}: found what was signed as legal:1: not pulled"
    ):
        pull(signed, f"legal:{tag}", tmp_path / "out")
    pull(signed, "legal:1", tmp_path / "out")
    (signed.directory / "legal").rename(signed.directory / "medical")
    with pytest.raises(GateError, match="medical:1: found what was signed as legal:1"):
        pull(signed, "medical:1", tmp_path / "other")


def test_a_version_that_is_changed_has_no_signature(signed: DirectoryStore, tmp_path: Path) -> None:
    """The tags are moved to another version, whose signature belongs to the first."""
    file = signed.directory / "legal" / "index.json"
    index = read_json(file)
    old = resolve(signed, "legal").digest
    version = document(signed, old)
    version["manifests"] = version["manifests"][:1]
    content = json.dumps(version)
    new = signed.repository("legal").add_manifest(version["mediaType"], content)
    for entry in index["manifests"]:
        tag = entry["annotations"]["org.opencontainers.image.ref.name"]
        if tag == referrers_tag(old):  # the attacker brings the old signatures along
            index["manifests"].append(
                {
                    **entry,
                    "annotations": {
                        "org.opencontainers.image.ref.name": referrers_tag(new["digest"])
                    },
                }
            )
            break
    for entry in index["manifests"]:
        if entry["digest"] == old:
            entry.update(digest=new["digest"], size=new["size"])
    write_json(file, index)
    with pytest.raises(GateError, match="found no signature"):
        pull(signed, "legal", tmp_path / "out")


@pytest.mark.parametrize("kind", ["manifest", "bundle", "subject", "payload", "predicate"])
def test_a_damaged_signature_is_none(signed: DirectoryStore, tmp_path: Path, kind: str) -> None:
    digest = resolve(signed, "legal").digest
    repository = signed.repository("legal")
    signature = "https://sigstore.dev/cosign/sign/v1"
    attached = bundles(signed, digest)
    manifest, bundle = attached[signature]
    if kind == "predicate":  # an attestation of the same key is no signature
        manifest, bundle = attached["https://slsa.dev/provenance/v1"]
    elif kind == "bundle":
        bundle = {"dsseEnvelope": []}
    elif kind == "payload":
        payload = bundle["dsseEnvelope"]["payload"]
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(
            base64.b64decode(payload).replace(b"cosign", b"cosine")
        ).decode()
    layer = repository.add_text(manifest["artifactType"], json.dumps(bundle))
    manifest = {**manifest, "layers": [layer]}
    if kind == "subject":
        manifest["subject"]["digest"] = "sha256:" + "0" * 64
    if kind == "manifest":
        manifest = {"layers": []}
    entry = repository.add_manifest(
        "application/vnd.oci.image.manifest.v1+json", json.dumps(manifest)
    )
    index = repository.add_manifest(
        "application/vnd.oci.image.index.v1+json", json.dumps({"manifests": [entry]})
    )
    repository.set_tags({referrers_tag(digest): index})
    with pytest.raises(GateError, match="found no signature"):
        pull(signed, "legal", tmp_path / "out")


def test_a_version_published_without_a_key_is_signed_when_it_is_published_with_one(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish_legal(store, tmp_path / "run")
    private, public = key_pair(tmp_path / "keys", b"s3cret")
    monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", str(private))
    monkeypatch.setenv("STILLHOUSE_SIGNING_PASSWORD", "s3cret")
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEY", str(public))
    again = publish_legal(store, tmp_path / "run")
    assert (again.digest, again.new) == (first.digest, False)
    pull(store, "legal", tmp_path / "out")
    before = names_in(store.directory)
    publish_legal(store, tmp_path / "run")
    assert names_in(store.directory) == before


def test_what_is_attached_to_a_version_is_removed_with_it(
    signed: DirectoryStore, tmp_path: Path
) -> None:
    publish_legal(signed, tmp_path / "run", q8=b"two")
    assert keep(signed, "legal", 1, print) == [1]
    other = DirectoryStore(tmp_path / "other")
    push(signed, "legal", other)
    tags = {
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in read_json(signed.directory / "legal" / "index.json")["manifests"]
    }
    assert len([tag for tag in tags if tag.startswith("sha256-")]) == 4
    pull(other, "legal", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "password", "message"),
    [
        (b"no key", None, "expected a private key in PEM"),
        ("encrypted", None, "its password in STILLHOUSE_SIGNING_PASSWORD"),
        ("encrypted", "wr0ng", "its password in STILLHOUSE_SIGNING_PASSWORD"),
        ("ed25519", None, "expected a key of ECDSA P-256"),
        ("p384", None, "expected a key of ECDSA P-256"),
        (None, None, "no such file"),
    ],
)
def test_a_key_that_cannot_sign_is_one_clear_line_before_anything_is_written(
    store: DirectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | str | None,
    password: str | None,
    message: str,
) -> None:
    path = tmp_path / "keys" / "sign.key"
    if content == "encrypted":
        key_pair(path.parent, b"s3cret")
    elif content in ("ed25519", "p384"):
        ed = ed25519.Ed25519PrivateKey.generate()
        key_pair(
            path.parent, key=ed if content == "ed25519" else ec.generate_private_key(ec.SECP384R1())
        )
    elif isinstance(content, bytes):
        path.parent.mkdir()
        path.write_bytes(content)
    monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", str(path))
    if password:
        monkeypatch.setenv("STILLHOUSE_SIGNING_PASSWORD", password)
    with pytest.raises(InputError, match=message) as raised:
        publish_legal(store, tmp_path / "run")
    assert "wr0ng" not in str(raised.value) and not store.directory.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"VERIFY": "always"}, "STILLHOUSE_VERIFY: found 'always', expected refuse, warn or off"),
        ({"VERIFY": "refuse"}, "STILLHOUSE_VERIFY_KEY: not set"),
        ({"VERIFY_KEY": "absent.pub"}, "absent.pub: no such file"),
        ({"VERIFY_KEY": __file__}, "expected a public key in PEM"),
    ],
)
def test_a_wrong_setting_of_the_verification_is_one_clear_line(
    store: DirectoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    message: str,
) -> None:
    publish_legal(store, tmp_path / "run")
    for name, value in settings.items():
        monkeypatch.setenv(f"STILLHOUSE_{name}", value)
    with pytest.raises(InputError, match=message):
        pull(store, "legal", tmp_path / "out")


# ------------------------------------------------------------------------------------- in a registry


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OciServer]:
    with oci_server(tmp_path / "registry") as running:
        yield running


@needs_registry
def test_signatures_in_a_registry_without_the_referrers_api(
    server: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key_pair(tmp_path / "keys")
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEY", str(public))
    store: Store = server.store()
    publish_legal(store, tmp_path / "run", q8=b"not signed")
    with pytest.raises(GateError, match="found no signature"):
        pull(store, "legal", tmp_path / "out")
    monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", str(private))
    publish_legal(store, tmp_path / "run")
    pull(server.store(), "legal", tmp_path / "out")
    assert [model.tags for model in list_models(server.store())] == [("2", "latest"), ("1",)]
    assert keep(server.store(), "legal", 1, print) == [1]
    keep(server.store(), "legal", 1, print)
    pull(server.store(), "legal:2-vllm", tmp_path / "vllm")


@needs_registry
def test_signatures_are_found_by_the_referrers_api_too(
    server: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry with the API, where another tool has signed without the tag."""
    private, public = key_pair(tmp_path / "keys")
    monkeypatch.setenv("STILLHOUSE_SIGNING_KEY", str(private))
    monkeypatch.setenv("STILLHOUSE_VERIFY_KEY", str(public))
    publish_legal(server.store(), tmp_path / "run")
    repository = server.store().repository("legal")
    listed = json.dumps(
        {"manifests": repository.referrers(resolve(server.store(), "legal").digest)}
    )
    gate = Gate(server.host)

    def rule(method: str, path: str) -> Fault | None:
        if "/manifests/sha256-" in path:
            return Fault(404)
        return Fault(200, listed.encode()) if "/referrers/" in path else None

    gate.rule = rule
    try:
        pull(gate.store(), "legal", tmp_path / "out")
        html = Fault(200, b"<html>")
        gate.rule = lambda method, path: (
            Fault(404) if "/manifests/sha256-" in path else html if "/referrers/" in path else None
        )
        with pytest.raises(GateError, match="found no signature"):
            pull(gate.store(), "legal", tmp_path / "again")
    finally:
        gate.close()
