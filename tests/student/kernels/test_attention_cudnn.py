"""cuDNN's attention: how packed sequences are given to it, with a CPU's kernel in its place, and itself on a GPU."""

from typing import Any

import pytest
import torch
from torch import Tensor

from student.kernels import attention_cpu, attention_cudnn
from student.kernels.batch import Batch

SCALE = 0.3


def packed(*lengths: int, device: str = "cpu") -> Batch:
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return Batch(1, sum(lengths), starts.to(device), max(lengths))


BATCHES = {
    "rows": Batch(2, 256),
    "rows of another length": Batch(2, 200),
    "packed rows": packed(256, 256),
    "a row longer than the batch's end": packed(130, 300, 70),
    "a sequence that is made as long as all": packed(130, 126),
    "multiples of 128 of several lengths": packed(256, 128),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of q that cuDNN gets; PyTorch's kernel for CPUs is in its place, which takes no grouped heads."""
    aten, shapes = torch.ops.aten, []

    def forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any, scale: float) -> tuple[Any, ...]:
        shapes.append(tuple(q.shape))
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
        return out, lse, *[None] * 7

    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any, scale: float
    ) -> tuple[Tensor, ...]:  # fmt: skip
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, True, scale=scale
        )

    monkeypatch.setattr(attention_cudnn, "_attend", forward)
    monkeypatch.setattr(attention_cudnn, "_attend_backward", backward)
    return shapes


def inputs(batch: Batch, heads: tuple[int, int], size: int, like: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    tokens = batch.rows * batch.length
    return [torch.randn(tokens, n, size).to(like) for n in (heads[0], heads[0], heads[1], heads[1])]


@pytest.mark.parametrize("name", BATCHES)
def test_what_follows_a_sequence_changes_nothing(name: str, calls: list[tuple[int, ...]]) -> None:
    batch = BATCHES[name]
    grad, q, k, v = inputs(batch, (4, 4), 8, torch.empty(0, dtype=torch.float64))
    expected = attention_cpu.forward(batch, q, k, v, SCALE)
    expected_grads = attention_cpu.backward(batch, grad, q, k, v, SCALE)
    out, saved = attention_cudnn.forward(batch, q, k, v, SCALE)
    grads = attention_cudnn.backward(batch, grad, q, k, v, out, saved, SCALE)
    for found, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(found, wanted)
    assert all(shape[2] % 128 == 0 for shape in calls)


def test_packed_rows_of_one_length_are_one_call(calls: list[tuple[int, ...]]) -> None:
    batch = packed(256, 256)
    _, q, k, v = inputs(batch, (4, 4), 8, torch.empty(0, dtype=torch.float64))
    attention_cudnn.forward(batch, q, k, v, SCALE)
    assert calls == [(2, 4, 256, 8)]


@pytest.mark.parametrize(
    ("lengths", "pays"),
    [([256] * 8, True), ([250] * 8, False), ([2000, 40], False), ([2040, 8], True), ([900], False)],
)
def test_a_call_for_each_sequence_pays_where_they_are_long(lengths: list[int], pays: bool) -> None:
    assert attention_cudnn.pays(lengths) == pays


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [(1024, 1024), (3000, 40, 700), (128, 4000, 9)])
def test_packed_sequences_on_a_gpu_are_those_of_float64(lengths: tuple[int, ...]) -> None:
    batch = packed(*lengths, device="cuda")
    grad, q, k, v = inputs(batch, (16, 2), 128, torch.empty(0, dtype=torch.bfloat16, device="cuda"))
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("cuDNN's attention is used on Hopper alone")
    assert attention_cudnn.applies(batch, q[None])
    grad64, q64, k64, v64 = (x.double() for x in (grad, q, k, v))
    expected = attention_cpu.forward(batch, q64, k64, v64, SCALE)
    expected_grads = attention_cpu.backward(batch, grad64, q64, k64, v64, SCALE)
    out, saved = attention_cudnn.forward(batch, q, k, v, SCALE)
    grads = attention_cudnn.backward(batch, grad, q, k, v, out, saved, SCALE)
    for found, wanted in zip((out, *grads), (expected, *expected_grads), strict=True):
        assert float((found.double() - wanted).norm() / wanted.norm()) < 0.01
