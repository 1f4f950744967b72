"""CUDA_VISIBLE_DEVICES is read as CUDA reads it; torch's own parser is the reference."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torch import cuda

from teacher.planning import hardware
from teacher.planning.hardware import parse
from teacher.planning.visible_devices import Listing, Visible, choose, read_listing

UUIDS = tuple(f"GPU-0000000{n}-1111-2222-3333-444444444444" for n in range(4))
MIG_LIST = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-1111-2222-3333-444444444444)
  MIG 3g.40gb     Device  0: (UUID: MIG-aaaaaaaa-1111-2222-3333-444444444444)
  MIG 1g.10gb+me  Device  1: (UUID: MIG-bbbbbbbb-1111-2222-3333-444444444444)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-00000001-1111-2222-3333-444444444444)
"""
# nvidia-smi on a host of four H100.
SMI = """\
#!/bin/sh
case "$*" in
  *--query-gpu*) for i in 0 1 2 3; do echo "NVIDIA H100 80GB HBM3, 81559, 9.0"; done;;
  *) for i in 0 1 2 3; do echo "GPU $i: NVIDIA H100 80GB HBM3 (UUID: GPU-0000000$i-1111-2222-3333-444444444444)"; done;;
esac
"""


def torch_sees(value: str) -> list[int]:
    """The numbers of the GPUs that torch would find of UUIDS with a value of the variable."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = value
    try:
        parsed = cuda._parse_visible_devices()
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
    if parsed and isinstance(parsed[0], str):
        return cuda._transform_uuid_to_ordinals(parsed, list(UUIDS))
    numbers = [int(number) for number in parsed]
    end = next((i for i, number in enumerate(numbers) if number >= len(UUIDS)), len(numbers))
    return numbers[:end]


_ENTRY = st.one_of(
    st.integers(-2, 6).map(str),
    st.sampled_from([*UUIDS, UUIDS[1][:12], "GPU-", "GPU-zz", "", " 2", "1x", "x", "+1", "0x1"]),
)


@given(st.lists(_ENTRY, min_size=1, max_size=5).map(",".join))
@example("-1")
@example("0,-1,1")
@example("0,9,1")
@example("0,9,0")
@example("0,0")
@example(UUIDS[2])
@example(f"{UUIDS[2]},{UUIDS[0]}")
@example(f"{UUIDS[0]},GPU-,{UUIDS[0]}")
@example(f"{UUIDS[1]},GPU-zz,{UUIDS[0]},{UUIDS[0]}")
@example("0,GPU-00000001-1111-2222-3333-444444444444")
def test_it_sees_what_torch_sees(value: str) -> None:
    seen = choose(value, Listing(UUIDS))
    assert list(seen.gpus) == torch_sees(value)
    # What is not seen although it seems to be named is said.
    if len(seen.gpus) < len(value.split(",")):
        assert seen.remark.startswith(f"CUDA_VISIBLE_DEVICES={value}: ")


def test_a_mig_device_is_the_only_one_and_has_its_own_memory() -> None:
    listing = read_listing(MIG_LIST, 2)
    assert listing.uuids == UUIDS[:2]
    chosen = choose("MIG-bbbbbbbb-1111-2222-3333-444444444444,MIG-aaaaaaaa", listing)
    assert chosen.mig and (chosen.mig.gpu, chosen.mig.profile) == (0, "1g.10gb+me")
    unknown = choose("MIG-cccccccc", listing)
    assert (unknown.gpus, unknown.mig) == ((), None)
    assert "MIG-cccccccc names no MIG device; nvidia-smi -L lists MIG-aaaa" in unknown.remark


def test_a_divided_gpu_is_never_taken_as_a_whole() -> None:
    listing = read_listing(MIG_LIST, 2)
    assert choose(None, listing) == Visible((1,))
    first = choose("0", listing)
    assert first.gpus == () and first.mig and first.mig.profile == "3g.40gb"


@pytest.mark.parametrize(
    ("visible", "count", "remark"),
    [
        (None, 4, ""),
        ("-1", 0, "-1 hides the GPUs from there on"),
        ("", 0, "it is empty and hides the 4 GPUs"),
        (UUIDS[3], 1, ""),
        ("GPU-00000001,GPU-00000002", 2, ""),
        ("MIG-aaaaaaaa", 0, "MIG-aaaaaaaa names no MIG device; nvidia-smi -L lists none"),
        ("0,1,7", 2, "7 names no GPU, expected 0 to 3"),
        ("2,2", 0, "2 is named twice, which leaves no GPU"),
        ("GPU-9", 0, "GPU-9 names no GPU, expected a UUID of nvidia-smi -L"),
    ],
)
def test_this_machine_is_planned_for_as_a_cuda_program_sees_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    count: int,
    remark: str,
) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = hardware.find()
    assert found.count == count
    assert found.gpu == (parse("H100-80GB").gpu if count else None)
    assert remark in found.remark and bool(remark) == bool(found.remark)
    assert found.remark in str(found)


def test_a_mig_device_is_planned_with_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "NVIDIA H100 80GB HBM3, 81559, 9.0\n" * 2
    script = (
        f"#!/bin/sh\ncase \"$*\" in -L) cat <<'E'\n{MIG_LIST}E\n;; *) cat <<'E'\n{rows}E\n;; esac\n"
    )
    (tmp_path / "nvidia-smi").write_text(script)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-aaaaaaaa-1111-2222-3333-444444444444")
    found = hardware.find()
    assert found.gpu and (found.count, found.gpu.memory) == (1, 40 * 10**9)
    assert "MIG 3g.40gb" in str(found)


def test_a_gpu_without_memory_of_its_own_keeps_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "NVIDIA GB10, [N/A], 12.1\nNVIDIA H200, 143771, 9.0"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'E'\n{rows}\nE\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = hardware.find()
    assert found.gpu and found.gpu.name == "H200-141GB"
