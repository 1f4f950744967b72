"""Machines by name, and the GPUs of this machine by a fake nvidia-smi."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from schemas.errors import InputError
from teacher.planning import hardware
from teacher.planning.hardware import Hardware, parse


@pytest.mark.parametrize(
    ("text", "gpu", "count", "nodes"),
    [
        ("8xH200", "H200-141GB", 8, 1),
        ("8xh100-80gb", "H100-80GB", 8, 1),
        ("4xH100", "H100-80GB", 4, 1),
        ("8xA100", "A100-80GB", 8, 1),
        ("8xA100-40GB", "A100-40GB", 8, 1),
        ("2x8xH100", "H100-80GB", 8, 2),
        ("16xH100", "H100-80GB", 8, 2),
        ("H200", "H200-141GB", 1, 1),
    ],
)
def test_a_machine_is_named_by_its_gpus(text: str, gpu: str, count: int, nodes: int) -> None:
    found = parse(text)
    assert found.gpu
    assert (found.gpu.name, found.count, found.nodes) == (gpu, count, nodes)


def test_a_machine_is_named_by_its_memory() -> None:
    assert parse("cpu-768GB") == Hardware(None, 0, host_memory=768 * 10**9)
    here = parse("cpu")
    assert here.gpu is None and here.cores and here.host_memory


@pytest.mark.parametrize(
    "text", ["", "8", "x", "0xH100", "8x", "8xH999", "-1xH100", "2x2x2xH100", "cpu-GB", "8xH100;ls"]
)
def test_what_is_no_machine_is_refused_with_the_forms_and_the_gpus(text: str) -> None:
    with pytest.raises(InputError, match="expected COUNTxGPU such as 8xH200") as raised:
        parse(text)
    assert "\n" not in str(raised.value)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An nvidia-smi that prints what it is told."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def says(*lines: str, code: int = 0) -> None:
        text = "\n".join(lines)
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
        script.chmod(0o755)

    return SimpleNamespace(says=says)


def test_this_machines_gpus_are_those_that_nvidia_smi_lists(smi: SimpleNamespace) -> None:
    smi.says(*["NVIDIA H100 80GB HBM3, 81559, 9.0"] * 8)
    found = hardware.find()
    assert (found.gpu, found.count) == (parse("H100-80GB").gpu, 8)
    assert found.host_memory and found.cores


def test_a_gpu_that_is_not_known_is_taken_as_it_says_it_is(smi: SimpleNamespace) -> None:
    smi.says("NVIDIA Z9 Turbo, 100000, 9.9")
    gpu = hardware.find().gpu
    assert gpu
    assert (gpu.name, gpu.bandwidth, gpu.flops, gpu.fp8_mla) == (
        "NVIDIA Z9 Turbo",
        None,
        None,
        True,
    )
    assert 0.98 * 100_000 * 2**20 < gpu.memory < 100_000 * 2**20


@pytest.mark.parametrize(("visible", "count"), [("0,1", 2), ("3", 1), ("", 0), ("0,7", 1)])
def test_only_visible_gpus_count(
    smi: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    smi.says(*["NVIDIA H200, 143771, 9.0"] * 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.find().count == count


@pytest.mark.parametrize("lines", [["No devices were found"], [""], ["a, b, c"], ["x, 1"]])
def test_an_nvidia_smi_without_gpus_leaves_the_cpu(smi: SimpleNamespace, lines: list[str]) -> None:
    smi.says(*lines)
    assert hardware.find().gpu is None
    smi.says("NVIDIA-SMI has failed", code=9)
    assert hardware.find().gpu is None


def test_of_two_kinds_of_gpus_the_more_numerous_is_taken(smi: SimpleNamespace) -> None:
    smi.says("NVIDIA A100-SXM4-40GB, 40960, 8.0", *["NVIDIA H200, 143771, 9.0"] * 2)
    found = hardware.find()
    assert found.gpu and (found.gpu.name, found.count) == ("H200-141GB", 2)
