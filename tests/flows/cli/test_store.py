"""The commands of the store, on directories: what they print, their exit codes, and hostile names."""

import json
from pathlib import Path

import pytest
from published_student import make_files, make_manifest, publish_legal

from flows.cli import main
from student.registry.oci_layout import DirectoryStore
from student.registry.publish import publish


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DirectoryStore:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_STORE", "store")
    store = DirectoryStore(tmp_path / "store")
    for number in range(3):
        publish_legal(store, tmp_path / "run", q8=bytes([number]) * 100)
    return store


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main._run(list(arguments))
    return code, *capfd.readouterr()


def test_the_upkeep_of_a_store_from_the_command_line(
    store: DirectoryStore, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "rollback", "legal") == (0, "legal:latest is legal:2, and was legal:3\n", "")
    assert run(capfd, "promote", "legal:3", "latest") == (0, "legal:latest is legal:3\n", "")
    assert run(capfd, "promote", "legal:2-vllm", "serving")[1] == "legal:serving is legal:2-vllm\n"
    assert run(capfd, "rm", "legal", "--keep", "1")[1] == "removed: legal:1\n"
    assert run(capfd, "rm", "legal", "--keep", "1")[1] == "removed: nothing\n"
    code, _, err = run(capfd, "rm", "legal:2")
    assert code == 2 and "legal:2: is legal:serving too" in err
    for arguments in (["rm", "legal"], ["rm", "legal:2", "--keep", "2"]):
        code, _, err = run(capfd, *arguments)
        assert code == 2 and "expected NAME:TAG, or NAME with --keep N" in err


def test_push_says_what_a_version_is_called_there(
    store: DirectoryStore, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capfd, "push", "legal:2", "--to", "other")
    assert code == 0 and out.startswith("pushed: legal:2 in other (sha256:")
    assert run(capfd, "push", "legal:2", "--to", "other")[1].startswith(
        "was there already: legal:2"
    )
    arguments = ["push", "legal", "--to", "other", "--variant", "vllm", "--json", "-"]
    pushed = json.loads(run(capfd, *arguments)[1])
    assert (pushed["tag"], pushed["store"], pushed["new"]) == ("3", "other", True)
    code, _, err = run(capfd, "push", "legal", "--to", "http://registry.example/a")
    assert code == 2 and "--to: found 'http://registry.example/a': expected oci://" in err


def test_show_has_the_digest_of_each_variant(
    store: DirectoryStore, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(run(capfd, "show", "legal", "--json", "-")[1])
    assert (shown["tag"], shown["tags"], shown["gate_passed"]) == ("3", ["3", "latest"], True)
    for variant, tag in (("Q8_0", "3-q8_0"), ("vllm", "3-vllm")):
        entry = store.repository("legal").find(tag)
        assert entry and shown["variants"][variant]["digest"] == entry["digest"]


def test_what_a_store_says_does_not_steer_the_terminal(
    store: DirectoryStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = make_manifest()
    manifest["teacher"]["name"] = "kind \x1b[2J\x1b]0;owned\x07 \u202e teacher"
    files = make_files(tmp_path / "run", q8=b"hostile")
    publish(store, "legal", files, manifest, gate_passed=True)
    for command in (["show", "legal"], ["models"], ["pull", "legal", "--to", "out"]):
        code, out, err = run(capfd, *command)
        assert code == 0
        assert all(c.isprintable() or c == "\n" for c in out + err)


@pytest.mark.parametrize(
    "command", ["show", "pull", "rollback", "models", "rm --keep 1", "push --to other"]
)
@pytest.mark.parametrize("name", ["../legal", "legal:../x", "Legal", "legal:x y", "\x1b[2J"])
def test_a_hostile_name_is_one_clear_line_and_writes_nothing(
    store: DirectoryStore,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    command: str,
    name: str,
) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capfd, *command.split(), name)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and "\x1b" not in err
    assert sorted(tmp_path.rglob("*")) == before
