"""Tests the FP8 weights and the layers that multiply in FP8: against dequantised weights, and against exact ones."""

import copy
from typing import Any

import pytest
import torch
from lora_models import assert_same, loss_and_gradients, random_tokens, tiny_model
from tensors import relative_error

from student.kernels import decoder_layer_fp8, fp8, fused_layers, lora_linear_fp8
from student.kernels.fp8 import Fp8Linear

# Sizes that FP8 products take: multiples of 16.
FITTING: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}


def in_fp8(model: Any) -> Any:
    """Returns the PEFT model with e4m3 weights under its adapters."""
    for module in model.modules():
        if hasattr(module, "lora_A"):
            base = module.get_base_layer()
            module.base_layer = Fp8Linear.of(base.weight.data, base.bias)
    return model


def with_dequantised_weights(model: Any) -> Any:
    """Returns a copy whose layers under the adapters have the values of the e4m3 weights."""
    dense = copy.deepcopy(model)
    for module in dense.modules():
        if hasattr(module, "lora_A"):
            base = module.get_base_layer()
            layer = torch.nn.Linear(base.in_features, base.out_features, False)
            layer.weight = torch.nn.Parameter(base.dequantised(model.dtype), requires_grad=False)
            layer.bias = base.bias
            module.base_layer = layer
    return dense


@pytest.fixture
def multiplied_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are those of a GPU with FP8 products, which PyTorch functions compute."""
    monkeypatch.setattr(fp8, "multiplies", lambda device: True)


def test_a_weight_keeps_its_values_within_half_a_step_of_e4m3():
    torch.manual_seed(0)
    weight = torch.randn(64, 256) * torch.logspace(-6, 3, 64)[:, None]
    weight[5] = 0
    values, scale = fp8.quantise_weight(weight.bfloat16())
    restored = values.view(fp8.E4M3).float() * scale[:, None]
    assert torch.equal(torch.frexp(scale)[0], torch.full_like(scale, 0.5))  # powers of two
    assert torch.equal(scale.bfloat16().float(), scale)
    error = (restored - weight.bfloat16().float()).abs()
    # Three bits of mantissa; below 2^-6 of the scale, steps of 2^-9.
    assert (error <= torch.maximum(weight.abs() / 15, scale[:, None] * 2**-10)).all()
    assert not restored[5].any()
    assert (values.view(fp8.E4M3).float().abs().amax(1)[:5] > 200).all()


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("fused", [True, False])
def test_without_fp8_products_the_loss_and_gradients_are_those_of_dequantised_weights(
    family, fused
):
    model = in_fp8(tiny_model(family))
    tokens = random_tokens()
    dense = with_dequantised_weights(model)
    expected = loss_and_gradients(dense, input_ids=tokens, labels=tokens)
    if fused:
        fused_layers.install(model, keep=1)
    assert_same(loss_and_gradients(model, input_ids=tokens, labels=tokens), expected)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("keep", [3, 1])
def test_layers_that_multiply_in_fp8_compute_the_same_where_nothing_is_rounded(
    family, keep, multiplied_on_a_cpu, monkeypatch
):
    def not_rounded(x: fp8.Rows8, weight: torch.Tensor, scale: torch.Tensor, dtype: Any) -> Any:
        weight = weight.view(fp8.E4M3).to(dtype) * scale[:, None].to(dtype)
        return x.values @ weight.t()

    def quantise(x: torch.Tensor, columns: torch.Tensor | None = None) -> fp8.Rows8:
        return fp8.Rows8(x.clone() if columns is None else x * columns, torch.ones(len(x), 1))

    def write(x: torch.Tensor, out: fp8.Rows8) -> None:
        out.values = x.clone()

    monkeypatch.setattr(fp8, "product", not_rounded)
    monkeypatch.setattr("student.kernels.torch_ops.quantise", quantise)
    monkeypatch.setattr("student.kernels.torch_ops._write_rows8", write)
    model = in_fp8(tiny_model(family, **FITTING))
    tokens = random_tokens()
    dense = with_dequantised_weights(model)
    expected = loss_and_gradients(dense, input_ids=tokens, labels=tokens)
    fused = fused_layers.install(model, keep=keep)
    assert all(isinstance(x, decoder_layer_fp8.Fp8DecoderLayer) for x in fused.layers)
    assert_same(loss_and_gradients(model, input_ids=tokens, labels=tokens), expected)


def test_gradients_of_fp8_products_are_as_close_to_exact_weights_as_those_of_nf4(
    multiplied_on_a_cpu,
):
    functional = pytest.importorskip("bitsandbytes.functional")
    exact = tiny_model("Qwen3", torch.float32, hidden_size=256, intermediate_size=512)
    tokens = random_tokens(2, 24)
    expected = loss_and_gradients(exact, input_ids=tokens, labels=tokens)
    four_bits = copy.deepcopy(exact)
    for module in four_bits.modules():
        if hasattr(module, "lora_A"):
            weight = module.get_base_layer().weight
            packed, state = functional.quantize_4bit(weight.data, quant_type="nf4")
            weight.data = functional.dequantize_4bit(packed, state)
    eight_bits = in_fp8(exact)
    fused_layers.install(eight_bits)

    def mean_error(model: Any) -> float:
        actual = loss_and_gradients(model, input_ids=tokens, labels=tokens)
        errors = [relative_error(actual[name], value) for name, value in expected.items()]
        return sum(errors) / len(errors)

    assert 0.01 < mean_error(eight_bits) < mean_error(four_bits)


def test_products_of_e4m3_rows_are_pytorchs():
    torch.manual_seed(0)
    x, weight = torch.randn(24, 64), torch.randn(48, 64)
    from student.kernels import torch_ops

    rows, (values, scale) = torch_ops.quantise(x), fp8.quantise_weight(weight)
    try:
        expected = torch._scaled_mm(
            rows.values,
            values.view(fp8.E4M3).t(),
            scale_a=rows.scale,
            scale_b=scale[None],
            out_dtype=torch.bfloat16,
        )
    except RuntimeError as error:
        pytest.skip(f"this PyTorch has no FP8 product on a CPU: {error}")
    actual = fp8.product(rows, values, scale, torch.bfloat16)
    assert relative_error(actual, expected) < 3e-3
    assert 0.01 < relative_error(actual, x @ weight.t()) < 0.05


def test_layers_of_sizes_that_fp8_products_do_not_take_are_dequantised(multiplied_on_a_cpu):
    model = in_fp8(tiny_model("Llama", hidden_size=40))
    layer = fused_layers.install(model).layers[0]
    assert not isinstance(layer.qkv, lora_linear_fp8.Fp8Linears)


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "length"), [(2, 128), (1, 61)])
def test_two_steps_of_fp8_products_follow_float32_on_a_gpu(rows, length):
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    model = in_fp8(tiny_model("Qwen3", torch.bfloat16, max_position_embeddings=256, **shape))
    exact = with_dequantised_weights(model).float().cuda()
    model.cuda()
    fused = fused_layers.install(model, keep=2)
    assert all(isinstance(x, decoder_layer_fp8.Fp8DecoderLayer) for x in fused.layers)
    tokens = random_tokens(rows, length).cuda()
    inputs = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    losses = []
    for _ in range(2):
        actual, expected = (loss_and_gradients(each, **inputs) for each in (model, exact))
        losses.append(float(actual["loss"]))
        assert relative_error(actual["loss"], expected["loss"]) < 0.02
        errors = [relative_error(actual[name], value) for name, value in expected.items()]
        assert sum(errors) / len(errors) < 0.16, errors  # 0.125 of 61 tokens on an H200
        ours, theirs = ([p for p in m.parameters() if p.requires_grad] for m in (model, exact))
        torch.optim.SGD(ours, lr=0.05).step()
        for other, adapter in zip(theirs, ours, strict=True):
            other.data.copy_(adapter)
    assert losses[1] < losses[0]
