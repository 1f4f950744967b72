"""The planned memory and speed of training (student/training/memory.py), against measured runs."""

from bisect import bisect_left
from typing import Any

import pytest

from schemas.recipe import Train
from student.models import base
from student.training.memory import activation_bytes, layers_to_keep, resolve_dtype
from student.training.memory import memory as typed_memory
from teacher.planning.hardware import GIB, Gpu, Hardware, parse


def memory(student: dict[str, Any], train: Train, hardware: Hardware) -> Any:
    """`student.training.memory.memory`; fields that may be None are checked by the assertions."""
    return typed_memory(student, train, hardware)


def training(**settings: Any) -> Train:
    return Train(**{"batch_size": 1, "max_length": 2048} | settings)


@pytest.mark.parametrize(
    ("student", "batch", "peak", "tokens_s"),
    # TRL on one H100, 2,048 tokens, rank 16, 4 bits: peak GiB and, with Liger's kernels, tokens/s. Layers with dropout
    # are not fused.
    [("qwen3-32b", 4, 26.9, None), ("qwen3-32b", 8, 33.9, 2419), ("llama-3.3-70b", 4, 50.6, 1188)],
)
def test_four_bit_training_takes_what_was_measured_on_an_h100(
    student: str, batch: int, peak: float, tokens_s: float | None
) -> None:
    settings = training(method="qlora", batch_size=batch, dropout=0.05)
    plan = memory(base.load(student), settings, parse("1xH100"))
    assert plan["fits"] and plan["batch"] is None
    assert plan["peak_bytes"] / GIB == pytest.approx(peak, rel=0.05)
    assert plan["peak_bytes"] == sum(plan["parts"].values())
    if tokens_s:
        assert plan["tokens_s"] == pytest.approx(tokens_s, rel=0.07)


@pytest.mark.parametrize(
    ("student", "tokens", "kept", "peak"),
    # Fused layers on one H100 (benchmarks/qlora.md): peak GiB. In long sequences the plan is a little higher.
    [
        ("qwen3-32b", 4096, 64, 59.7),
        ("qwen3-32b", 2048, 0, 20.9),
        ("qwen3-32b", 32768, 0, 46.0),
        ("llama-3.3-70b", 2048, 80, 67.8),
        ("llama-3.3-70b", 2048, 0, 41.9),
        ("llama-3.3-70b", 16384, 0, 62.9),
    ],
)
def test_fused_layers_take_what_was_measured_on_an_h100(
    student: str, tokens: int, kept: int, peak: float
) -> None:
    described = base.load(student)
    shape = described["shape"]
    parts = memory(described, training(method="qlora"), parse("1xH100"))["parts"]
    whole, least = activation_bytes(shape)
    parts_sum = (
        parts["weights"]
        + parts["trained"]
        + tokens * (kept * whole + (shape["layers"] - kept) * least)
    )
    # The least free memory with which `kept` layers can be kept.
    free = bisect_left(range(80 * GIB), kept, key=lambda n: layers_to_keep(shape, tokens, n))
    planned = parts["weights"] + parts["trained"] + free
    assert planned > parts_sum
    assert peak * 0.99 < planned / GIB < peak * (1.03 if tokens < 8192 else 1.08)


@pytest.mark.parametrize(
    ("student", "tokens_s"), [("qwen3-32b", (3800, 4200)), ("llama-3.3-70b", (1750, 1900))]
)
def test_a_batch_is_chosen_that_keeps_every_layer_where_that_fits(
    student: str, tokens_s: tuple[float, float]
) -> None:
    plan = memory(base.load(student), training(method="qlora"), parse("1xH100"))
    shape = base.load(student)["shape"]
    assert plan["batch"]["layers_kept"] == shape["layers"]
    assert plan["batch"]["tokens"] >= 2048
    assert tokens_s[0] < plan["tokens_s"] < tokens_s[1]
    assert plan["peak_bytes"] < 77.2 * GIB
    assert f"{plan['batch']['tokens']:,} tokens at a time with all layers kept" in plan["reason"]


def test_a_card_of_24_gib_trains_32b_and_one_of_48_trains_70b_by_recomputing_layers() -> None:
    card = Gpu("a card", int(23.6 * GIB), None, None, True)
    plan = memory(
        base.load("qwen3-32b"), training(method="qlora", max_length=1024), Hardware(card, 1)
    )
    assert plan["fits"] and 0 <= plan["batch"]["layers_kept"] < 64
    card = Gpu("a card", int(47.4 * GIB), None, None, True)
    plan = memory(base.load("llama-3.3-70b"), training(method="qlora"), Hardware(card, 1))
    assert plan["fits"] and 0 <= plan["batch"]["longest_layers_kept"] < 80


def test_the_inputs_of_a_sequence_that_does_not_fit_go_to_the_hosts_memory() -> None:
    plan = memory(
        base.load("qwen3-32b"), training(method="qlora", max_length=80000), parse("1xH100")
    )
    assert plan["fits"] and plan["batch"]["longest_layers_kept"] == -1
    assert "an example of 80,000 with every layer recomputed, their inputs in" in plan["reason"]
    longer = training(method="qlora", max_length=300000)
    plan = memory(base.load("qwen3-32b"), longer, parse("1xH100"))
    assert not plan["fits"]
    assert plan["advice"].startswith("train.max_length=2048 would take about")


def test_for_a_student_that_does_not_fit_the_plan_names_what_would_fit() -> None:
    plan = memory(base.load("llama-3.3-70b"), training(), parse("8xH100"))
    assert not plan["fits"]
    assert "more than the 77.2 GiB of one H100-80GB" in plan["reason"]
    assert plan["advice"].startswith("4-bit weights (QLoRA) would take about")
    assert (
        "GPU with more memory"
        in memory(base.load("llama-3.3-70b"), training(), parse("A100-40GB"))["advice"]
    )
    assert memory(base.load("llama-3.3-70b"), training(), parse("B200"))["fits"]


def test_all_weights_take_more_than_an_adapter_and_float32_more_than_bfloat16() -> None:
    def peak(**settings: Any) -> int:
        return memory(base.load("qwen3-32b"), training(**settings), parse("B300"))["peak_bytes"]

    assert (
        peak(method="qlora") < peak() < peak(dtype="float32") < peak(method="full", dtype="float32")
    )
    assert peak(max_length=2048, dropout=0.1) < peak(max_length=8192, dropout=0.1)
    assert peak(rank=16) < peak(rank=64)


def test_a_student_without_a_shape_is_not_guessed_at() -> None:
    plan = memory(base.load("smollm2-135m"), training(), parse("cpu"))
    assert (plan["fits"], plan["peak_bytes"], plan["advice"]) == (True, None, None)
    assert plan["tokens_s"] > 0


@pytest.mark.parametrize("name", sorted(path.stem for path in base.STUDENTS.glob("*.yaml")))
def test_the_parameters_of_a_shape_add_up_to_those_of_its_model(name: str) -> None:
    student = base.load(name)
    shape = student.get("shape")
    if shape is None:
        pytest.skip("it has no shape")
    attention = 2 * shape["hidden"] * shape["head_dim"] * (shape["heads"] + shape["kv_heads"])
    layer = attention + 3 * shape["hidden"] * shape["intermediate"]
    total = shape["layers"] * layer + 2 * shape["vocabulary"] * shape["hidden"]
    assert total + shape.get("vision", 0) == pytest.approx(student["parameters"], rel=0.001)


@pytest.mark.parametrize(
    ("requested", "gpu", "has_products", "dtype"),
    [
        ("auto", True, False, "bfloat16"),
        ("auto", False, True, "bfloat16"),
        ("auto", False, False, "float32"),
        ("bfloat16", False, False, "bfloat16"),
        ("float32", True, True, "float32"),
    ],
)
def test_weights_are_in_bfloat16_where_the_machine_computes_in_it_or_the_recipe_says_so(
    requested: str, gpu: bool, has_products: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("student.training.memory.multiplies_bfloat16", lambda: has_products)
    settings = Train(dtype=requested, rank=7)  # type: ignore[arg-type]
    assert resolve_dtype(settings, gpu) == Train(dtype=dtype, rank=7)  # type: ignore[arg-type]
