"""The store in a real registry: what is pushed is what arrives, whatever fails on the way."""

import contextlib
import dataclasses
import gzip
import multiprocessing
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_server import Fault, Gate, OciServer, needs_registry, oci_server
from published_student import Q4, Q8, make_files, make_manifest, names_in, publish_legal

from schemas.errors import InputError, StageError
from schemas.files import sha256
from student.registry import claims, oci_http, oci_registry
from student.registry import pull as pulling
from student.registry.lookup import list_models, resolve
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import publish
from student.registry.pull import pull
from student.registry.store import Descriptor
from student.registry.upkeep import keep, promote, push, remove, rollback

pytestmark = needs_registry


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciServer]:
    with oci_server(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def fresh(server: OciServer, tmp_path: Path) -> OciServer:
    """A namespace of its own in the one registry."""
    return dataclasses.replace(server, namespace=f"of/{tmp_path.name.lower()}")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OciServer]:
    """A registry whose files a test may damage: namespaces share them."""
    with oci_server(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def gate(fresh: OciServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    for module in (oci_http, oci_registry):
        monkeypatch.setattr(module, "WAITS_S", (0.0, 0.0, 0.0))
    gate = Gate(fresh.host, fresh.namespace)
    yield gate
    gate.close()


def test_what_is_published_is_listed_and_pulled(fresh: OciServer, tmp_path: Path) -> None:
    store = fresh.store()
    assert list_models(store) == []
    with pytest.raises(
        InputError, match="legal: no such model in http://.*: nothing was published"
    ):
        resolve(store, "legal")
    store.check_writable("legal")
    published = publish_legal(store, tmp_path / "run")
    assert (published.tag, published.new) == ("1", True)
    assert publish_legal(store, tmp_path / "again").new is False

    (model,) = list_models(store)
    assert (model.name, model.tag, model.tags) == ("legal", "1", ("1", "latest"))
    assert sorted(model.manifests) == ["1-q4_k_m", "1-q8_0", "1-vllm"]
    pull(store, "legal", tmp_path / "out")
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8
    pull(store, "legal:1", tmp_path / "all", ["Q8_0", "Q4_K_M", "vllm"])
    assert (tmp_path / "all" / "legal-Q4_K_M.gguf").read_bytes() == Q4
    for file in model.files:
        assert sha256(tmp_path / "all" / file.path) == file.sha256
    # Nothing but the student: the claim of the number is gone.
    assert set(store.repository("legal").all_tags()) == {"1", "latest", *model.manifests}


def test_a_version_is_the_same_in_a_directory_and_in_a_registry(
    fresh: OciServer, tmp_path: Path
) -> None:
    local = publish_legal(DirectoryStore(tmp_path / "store"), tmp_path / "run")
    assert publish_legal(fresh.store(), tmp_path / "run").digest == local.digest


def test_a_push_keeps_the_number_where_it_is_free(fresh: OciServer, tmp_path: Path) -> None:
    directory, store = DirectoryStore(tmp_path / "store"), fresh.store()
    for number in range(3):
        publish_legal(directory, tmp_path / "run", q8=bytes([number]) * 100)
    seen: list[tuple[int, int, str]] = []
    pushed = push(directory, "legal:2", store, progress=lambda *step: seen.append(step))
    assert (pushed.tag, pushed.new) == ("2", True)
    assert pushed.digest == resolve(directory, "legal:2").digest
    assert seen[-1][0] == seen[-1][1] > 0
    assert push(directory, "legal:2", store).new is False
    assert push(directory, "legal:1", store).tag == "3"
    assert push(directory, "legal", store, variants=["vllm"]).tag == "4"
    assert list(resolve(store, "legal").variants()) == ["vllm"]
    with pytest.raises(InputError, match="no variant 'Q2_K': it has Q8_0, Q4_K_M, vllm"):
        push(directory, "legal", store, variants=["Q2_K"])
    with pytest.raises(InputError, match="expected a directory to push from"):
        push(store, "legal", directory)


def test_a_corrupted_blob_of_the_directory_is_not_pushed(fresh: OciServer, tmp_path: Path) -> None:
    directory = DirectoryStore(tmp_path / "store")
    publish_legal(directory, tmp_path / "run")
    file = next(f for f in resolve(directory, "legal").files if f.path == "legal-Q8_0.gguf")
    blob = directory.repository("legal").blob_path(file.sha256)
    blob.write_bytes(b"x" * file.bytes)
    with pytest.raises(StageError, match="corrupted: legal-Q8_0.gguf"):
        push(directory, "legal", fresh.store())
    assert fresh.store().repository("legal").tags() == []


def test_tags_move_by_promote_and_rollback_alone(fresh: OciServer, tmp_path: Path) -> None:
    store = fresh.store()
    for number, passed in enumerate((True, False, True)):
        publish_legal(store, tmp_path / "run", q8=bytes([number]) * 100, gate_passed=passed)
    assert resolve(store, "legal").tag == "3"
    assert rollback(store, "legal") == (3, 1)
    assert resolve(store, "legal").tag == "1"
    with pytest.raises(InputError, match="no version before 1 passed its gate"):
        rollback(store, "legal")
    # The same files published again do not undo it.
    assert publish_legal(store, tmp_path / "run", q8=bytes([2]) * 100).tag == "3"
    assert resolve(store, "legal").tag == "1"
    promote(store, "legal:3", "latest")
    promote(store, "legal:2-q4_k_m", "production")
    assert resolve(store, "legal").tag == "3"
    assert list(resolve(store, "legal:production").variants()) == ["Q4_K_M"]
    for tag in ("3", "3-q8_0", "a/b", "claim-1-0123456789abcdef"):
        with pytest.raises(InputError, match="expected latest, or a tag"):
            promote(store, "legal:3", tag)
    with pytest.raises(InputError, match="expected NAME:TAG"):
        promote(store, "legal", "latest")


def test_old_versions_are_removed_but_not_those_with_a_tag(
    fresh: OciServer, tmp_path: Path
) -> None:
    store = fresh.store()
    for number in range(5):
        publish_legal(store, tmp_path / "run", q8=bytes([number]) * 100)
    promote(store, "legal:1-vllm", "production")
    lines: list[str] = []
    assert keep(store, "legal", 2, lines.append) == [2, 3]
    assert "garbage collection" in lines[0]
    assert sorted(m.tag for m in list_models(store)) == ["1", "4", "5"]
    assert not [tag for tag in store.repository("legal").tags() if tag.startswith(("2", "3"))]
    with pytest.raises(InputError, match="legal:1: is legal:production too"):
        remove(store, "legal:1", print)
    pull(store, "legal:production", tmp_path / "out")


def test_a_registry_without_deletes_keeps_a_claim_and_still_publishes(tmp_path: Path) -> None:
    with oci_server(tmp_path / "registry", deletes=False) as server:
        store = server.store()
        assert [publish_legal(store, tmp_path / "run", q8=q).tag for q in (b"1", b"2")] == [
            "1",
            "2",
        ]
        assert [model.tag for model in list_models(store)] == ["2", "1"]
        with pytest.raises(InputError, match="does not allow to delete"):
            remove(store, "legal:1", print)


def _publish_one(server: OciServer, where: Path, number: int) -> None:
    publish_legal(server.store(), where, q8=f"weights {number}".encode() * 1000)


def test_concurrent_publishers_lose_no_version(fresh: OciServer, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    publishers = [
        context.Process(target=_publish_one, args=(fresh, tmp_path / f"run{n}", n))
        for n in range(4)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    assert [publisher.exitcode for publisher in publishers] == [0] * 4
    models = list_models(fresh.store())
    digests = {f.sha256 for model in models for f in model.files if f.variant == "Q8_0"}
    assert len(models) == len(digests) == 4
    assert resolve(fresh.store(), "legal").tag == max(models, key=lambda m: int(m.tag)).tag


def test_latest_ends_at_the_newest_of_three_versions_that_are_added_at_once(
    fresh: OciServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each time that the first publisher has decided where `latest` goes, a rival adds a newer version."""
    set_tags = oci_registry.RegistryRepository.set_tags
    rivals = [b"second", b"third"]
    at_work: list[bytes] = []

    def late(of: oci_registry.RegistryRepository, tags: dict[str, Descriptor]) -> None:
        if "latest" in tags and rivals and not at_work:
            at_work.append(rivals.pop(0))
            publish_legal(fresh.store(), tmp_path / "rival", q8=at_work[0])
            at_work.clear()
        set_tags(of, tags)

    monkeypatch.setattr(oci_registry.RegistryRepository, "set_tags", late)
    assert publish_legal(fresh.store(), tmp_path / "run", q8=b"first").tag == "1"
    assert not rivals and resolve(fresh.store(), "legal").tag == "3"


def test_a_manifest_that_the_registry_misses_for_a_moment_is_put_again(
    gate: Gate, fresh: OciServer, tmp_path: Path
) -> None:
    faults = [Fault(400, b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]}')]
    gate.rule = lambda method, path: (
        faults.pop() if faults and method == "PUT" and path.endswith("/manifests/latest") else None
    )
    publish_legal(gate.store(), tmp_path / "run")
    assert not faults and resolve(fresh.store(), "legal").tag == "1"


def test_two_publishers_with_one_number_both_withdraw_or_one_goes_on(
    fresh: OciServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rival claims the number in the worst moment: between listing and claiming."""
    repository, rival = (fresh.store().repository("legal") for _ in range(2))
    write = claims.write
    rivals: list[Descriptor] = []

    def late(of: Any, tag: str) -> Descriptor:
        if not rivals:
            rivals.append(write(rival, "claim-1-00000000000000aa"))
        return write(of, tag)

    monkeypatch.setattr(claims, "write", late)
    with repository.claim(1) as number:
        assert number == 2
    # The claim of a publisher that was killed keeps its number, and no more.
    with repository.claim(1) as number:
        assert number == 2


# Requests that write: uploads of eleven files and documents, the claim, manifests, tags.
@pytest.mark.parametrize(
    "allowed",
    [n if n in (25, 37) else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 44, 2)],
)
def test_a_publisher_killed_at_any_request_leaves_no_version_by_half(
    gate: Gate, fresh: OciServer, tmp_path: Path, allowed: int
) -> None:
    """From some writing request on, nothing reaches the registry any more, as after a kill."""
    count = 0

    def rule(method: str, path: str) -> Fault | None:
        nonlocal count
        count += method in ("POST", "PUT", "DELETE")
        return Fault(400) if count > allowed else None

    publish_legal(fresh.store(), tmp_path / "first", q8=b"first")
    gate.rule = rule
    store = gate.store()
    with contextlib.suppress(StageError):
        publish_legal(store, tmp_path / "run")
    for model in list_models(fresh.store()):
        pull(fresh.store(), f"legal:{model.tag}", tmp_path / f"out{model.tag}", ["Q8_0", "vllm"])
    # The next publisher is not disturbed, and what was left undone is done.
    gate.rule = lambda method, path: None
    again = publish_legal(store, tmp_path / "run")
    assert resolve(store, "legal").digest == again.digest
    model = resolve(store, f"legal:{again.tag}")
    assert set(model.manifests) <= set(store.repository("legal").tags())


def test_a_download_that_breaks_off_is_continued_from_there(
    gate: Gate, fresh: OciServer, tmp_path: Path
) -> None:
    publish_legal(fresh.store(), tmp_path / "run")
    digest = next(f for f in resolve(fresh.store(), "legal").files if f.variant == "Q8_0").sha256
    gate.rule = lambda method, path: Fault(cut=20_000) if digest in path else None
    pull(gate.store(), "legal", tmp_path / "out")
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8
    ranges = [headers.get("range") for _, path, headers in gate.requests if digest in path]
    assert ranges == [None, "bytes=20000-", "bytes=40000-"]


def test_a_pull_that_failed_is_continued_by_the_next(
    gate: Gate, fresh: OciServer, tmp_path: Path
) -> None:
    publish_legal(fresh.store(), tmp_path / "run")
    digest = next(f for f in resolve(fresh.store(), "legal").files if f.variant == "Q8_0").sha256
    seen = 0

    def rule(method: str, path: str) -> Fault | None:
        nonlocal seen
        seen += digest in path
        return (Fault(cut=20_000) if seen == 1 else Fault(503)) if digest in path else None

    gate.rule = rule
    with pytest.raises(StageError, match="replied with 503"):
        pull(gate.store(), "legal", tmp_path / "out")
    assert [name for name in names_in(tmp_path / "out") if not name.startswith(".pull/")] == []
    gate.rule = lambda method, path: None
    gate.requests.clear()
    pull(gate.store(), "legal", tmp_path / "out")
    ranges = [headers.get("range") for _, path, headers in gate.requests if digest in path]
    assert ranges == ["bytes=20000-"]
    assert (tmp_path / "out" / "legal-Q8_0.gguf").read_bytes() == Q8


def test_when_one_file_fails_the_others_stop(own: OciServer, tmp_path: Path) -> None:
    files = make_files(tmp_path / "run", q8=b"x" * (64 << 20))
    publish(own.store(), "legal", files, make_manifest(), gate_passed=True)
    small = next(f for f in resolve(own.store(), "legal").files if f.path == "README.md")
    own.blobs()[small.sha256].write_bytes(b"?" * small.bytes)
    large: list[int] = []

    def slowly(done: int, total: int, name: str) -> None:
        if name == "legal-Q8_0.gguf":
            large.append(done)
            time.sleep(0.3)

    with pytest.raises(StageError, match="corrupted: legal:1/README.md"):
        pull(own.store(), "legal", tmp_path / "out", progress=slowly)
    assert max(large, default=0) < 64 << 20


def test_an_upload_that_breaks_off_is_begun_again(gate: Gate, tmp_path: Path) -> None:
    broken = 0

    def rule(method: str, path: str) -> Fault | None:
        nonlocal broken
        if method == "PUT" and "/blobs/uploads/" in path and broken < 2:
            broken += 1
            return Fault(cut=0)
        return None

    gate.rule = rule
    publish_legal(gate.store(), tmp_path / "run")
    assert broken == 2
    pull(gate.store(), "legal", tmp_path / "out")


def test_a_registry_that_is_busy_is_asked_again(gate: Gate, tmp_path: Path) -> None:
    """Each request is refused once, whatever it is."""
    seen: set[tuple[str, str]] = set()

    def rule(method: str, path: str) -> Fault | None:
        # An upload has another path each time it is begun; its digest stays.
        request = (method, path.rpartition("digest=")[2].partition("?")[0])
        if request in seen:
            return None
        seen.add(request)
        return Fault(503, b"busy", {"Retry-After": "0"})

    gate.rule = rule
    publish_legal(gate.store(), tmp_path / "run")
    gate.rule = lambda method, path: None
    pull(gate.store(), "legal", tmp_path / "out")


@pytest.mark.parametrize("kind", ["truncated", "longer", "other"])
def test_a_blob_with_the_wrong_bytes_is_refused(
    fresh: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(oci_registry, "WAITS_S", (0.0, 0.0))
    publish_legal(fresh.store(), tmp_path / "run")
    digest = next(f for f in resolve(fresh.store(), "legal").files if f.variant == "Q8_0").sha256
    content = {"truncated": Q8[:1000], "longer": Q8 + b"more", "other": b"x" * len(Q8)}[kind]
    gate = Gate(fresh.host, fresh.namespace)
    gate.rule = lambda method, path: Fault(200, content) if digest in path else None
    try:
        with pytest.raises(StageError) as raised:
            pull(gate.store(), "legal", tmp_path / "out")
    finally:
        gate.close()
    expected = {"truncated": "cut short", "longer": "longer than", "other": "corrupted"}[kind]
    assert expected in str(raised.value) and "legal-Q8_0.gguf" in str(raised.value)
    assert [n for n in names_in(tmp_path / "out") if not n.startswith(".pull/")] == []


def test_a_manifest_with_another_digest_is_refused(
    gate: Gate, fresh: OciServer, tmp_path: Path
) -> None:
    publish_legal(fresh.store(), tmp_path / "run")
    digest = next(iter(resolve(fresh.store(), "legal:1").manifests.values()))["digest"]
    gate.rule = lambda method, path: Fault(200, b"{}") if digest in path else None
    with pytest.raises(InputError, match="legal:latest/Q8_0: corrupted"):
        pull(gate.store(), "legal", tmp_path / "out")


def test_a_full_disk_is_one_clear_line(
    fresh: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_legal(fresh.store(), tmp_path / "run")
    monkeypatch.setattr(pulling, "_SPARE", 1 << 60)
    with pytest.raises(StageError, match="the disk has .* GB free, expected"):
        pull(fresh.store(), "legal", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_registry_is_one_clear_line(gate: Gate, tmp_path: Path) -> None:
    full = b'{"errors": [{"code": "DENIED", "message": "quota of \\u001b[31m1 GB"}]}'
    gate.rule = lambda m, path: Fault(507, full) if m == "PUT" and "uploads" in path else None
    with pytest.raises(StageError, match="replied with 507: DENIED quota of  .31m1 GB") as raised:
        publish_legal(gate.store(), tmp_path / "run")
    assert "\n" not in str(raised.value) and "_state" not in str(raised.value)


def test_a_registry_that_lists_nothing_asks_for_a_name(
    gate: Gate, fresh: OciServer, tmp_path: Path
) -> None:
    publish_legal(fresh.store(), tmp_path / "run")
    gate.rule = lambda method, path: Fault(404) if "_catalog" in path else None
    with pytest.raises(InputError, match="does not list its repositories: name a student"):
        list_models(gate.store())
    assert [model.tag for model in list_models(gate.store(), ["legal"])] == ["1"]
    with pytest.raises(
        InputError, match="tax: no such model in .*: it does not list what it holds"
    ):
        resolve(gate.store(), "tax")


def test_a_broken_version_of_a_registry_is_no_obstacle(
    own: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_http, "WAITS_S", (0.0,))
    store = own.store()
    for number in range(3):
        publish_legal(store, tmp_path / "run", q8=bytes([number]) * 100)
    second = resolve(store, "legal:2")
    manifest = next(iter(second.manifests.values()))["digest"].removeprefix("sha256:")
    own.blobs()[manifest].write_bytes(b"{}")
    lines: list[str] = []
    assert [m.tag for m in list_models(own.store(), report=lines.append)] == ["3", "1"]
    assert len(lines) == 1 and "legal:2" in lines[0]
    assert publish_legal(own.store(), tmp_path / "run", q8=b"new").tag == "4"
    pull(own.store(), "legal:1", tmp_path / "out")


def test_oras_pulls_one_variant_with_its_files(server: OciServer, tmp_path: Path) -> None:
    client = pytest.importorskip("oras.client")
    publish_legal(server.store(), tmp_path / "run")
    oras = client.OrasClient(hostname=server.host, insecure=True)
    oras.pull(target=f"{server.host}/team/students/legal:1-q4_k_m", outdir=str(tmp_path / "out"))
    assert names_in(tmp_path / "out") == {
        "legal-Q4_K_M.gguf",
        "README.md",
        "chat_template.jinja",
        "manifest.json",
        "scorecard.json",
    }
    assert (tmp_path / "out" / "legal-Q4_K_M.gguf").read_bytes() == Q4
    oras.pull(target=f"{server.host}/team/students/legal:1-vllm", outdir=str(tmp_path / "vllm"))
    assert "vllm/model.safetensors" in names_in(tmp_path / "vllm")


def test_skopeo_copies_a_variant_out_of_a_registry(server: OciServer, tmp_path: Path) -> None:
    if subprocess.run(["which", "skopeo"], capture_output=True).returncode:
        pytest.skip("skopeo is not installed")
    publish_legal(server.store(), tmp_path / "run")
    subprocess.run(
        [
            *("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"),
            f"docker://{server.host}/team/students/legal:1-q4_k_m",
            f"dir:{tmp_path / 'out'}",
        ],
        check=True,
        capture_output=True,
    )
    assert any(path.read_bytes() == Q4 for path in (tmp_path / "out").iterdir())


def test_a_list_is_read_over_its_pages(gate: Gate, fresh: OciServer, tmp_path: Path) -> None:
    publish_legal(fresh.store(), tmp_path / "run")

    def rule(method: str, path: str) -> Fault | None:
        if "/tags/list" not in path:
            return None
        if "last=a" in path:
            return Fault(200, b'{"tags": ["1", "claim-4-0123456789abcdef", "../x", "-y"]}')
        link = f'<{path.partition("?")[0]}?n=1000&last=a>; rel="next"'
        return Fault(200, b'{"tags": ["a"]}', {"Link": link})

    gate.rule = rule
    assert gate.store().repository("legal").tags() == ["a", "1"]
    empty = b'{"tags": null}'
    gate.rule = lambda method, path: Fault(200, empty) if "/tags/list" in path else None
    assert gate.store().repository("legal").tags() == []


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Fault(200, b"{}", {"Link": '<http://127.0.0.1:1/v2/>; rel="next"'}), "expected JSON with"),
        (
            Fault(200, b'{"tags": []}', {"Link": '<http://127.0.0.1:1/v2/>; rel="next"'}),
            "another host",
        ),
        (Fault(200, b'{"tags": []}', {"Link": '</v2/t?n=1>; rel="next"'}), "more than 20 pages"),
        (Fault(200, b" " * (17 << 20)), "expected a reply of at most"),
        (Fault(307, b"", {"Location": "http://registry.example/x"}), "without TLS: not followed"),
        (Fault(307, b"", {"Location": "file:///etc/passwd"}), "without TLS: not followed"),
        (Fault(307, b"", {"Location": "https://[::1/x"}), "Invalid URL in location header"),
        (
            Fault(200, b'{"tags": []}', {"Link": '<https://[x>; rel="next"'}),
            "a URL that cannot be read",
        ),
        (
            Fault(401, b"", {"WWW-Authenticate": 'Bearer realm="https://[::1"'}),
            "a URL that cannot be read",
        ),
        (Fault(200, b"not gzip", {"Content-Encoding": "gzip"}), "a compressed reply that cannot"),
        (Fault(401, b"", {"WWW-Authenticate": "Negotiate"}), "unknown kind of login: 'negotiate'"),
        (
            Fault(401, b"", {"WWW-Authenticate": 'Bearer realm="http://evil.example/token"'}),
            "leads to http://evil.example/token without TLS",
        ),
    ],
)
def test_a_hostile_reply_is_one_clear_line(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, reply: Fault, message: str
) -> None:
    monkeypatch.setattr(oci_http, "_MOST_PAGES", 20)
    gate.rule = lambda method, path: reply
    with pytest.raises(StageError, match=message) as raised:
        gate.store().repository("legal").tags()
    assert "\n" not in str(raised.value)


def test_an_upload_that_leads_nowhere_is_one_clear_line(gate: Gate) -> None:
    nowhere = Fault(202, b"", {"Location": "https://[::1/upload"})
    gate.rule = lambda method, path: nowhere if method == "POST" else None
    with pytest.raises(StageError, match="a URL that cannot be read"):
        gate.store().repository("legal").add_text("text/plain", "text")


def test_a_proxy_that_compresses_all_the_same_is_read(gate: Gate) -> None:
    content = gzip.compress(b'{"tags": ["1"]}')
    gate.rule = lambda method, path: Fault(200, content, {"Content-Encoding": "gzip"})
    assert gate.store().repository("legal").tags() == ["1"]


def test_a_broken_claim_stays_and_ends_no_command(gate: Gate, fresh: OciServer) -> None:
    repository = fresh.store().repository("legal")
    claims.write(repository, "claim-7-00000000000000aa")
    created = claims.CREATED.encode()
    reply = Fault(200)

    def rule(method: str, path: str) -> Fault | None:
        return reply if method == "GET" and "/manifests/" in path else None

    gate.rule = rule
    for content in (b"[]", b"{}", b'{"annotations": null}', b'{"annotations": {"%b": 5}}'):
        reply.body = content.replace(b"%b", created)
        claims.remove_old(gate.store().repository("legal"))
    assert repository.all_tags() == ["claim-7-00000000000000aa"]
