"""The Triton kernels against their plain twins: on a GPU, and where there is none in Triton's interpreter.

The interpreter (TRITON_INTERPRET=1, read when triton is imported, hence a process of its own) computes in NumPy what a
kernel says for each program of its grid, so it shows a wrong index, mask or formula. Its bfloat16 is not that of a GPU,
so there all is float32 but the dequantiser, whose PTX has a stand-in. That Triton compiles them for a Hopper is tested
beside it; what the card makes of that is not.
"""

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensors import relative_error

from student.kernels import nf4, torch_ops, triton_ops

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE, KIND = ("cpu", torch.float32) if INTERPRETED else ("cuda", torch.bfloat16)
CLOSE = 3e-6 if INTERPRETED else 3e-3
on_kernels = (lambda test: test) if INTERPRETED else pytest.mark.gpu


def triton_version() -> tuple[int, ...]:
    try:
        return tuple(map(int, version("triton").split(".")[:2]))
    except PackageNotFoundError:
        return ()


with_triton = pytest.mark.skipif(
    triton_version() < (3, 7),  # before it the interpreter does not know NumPy 2.4
    reason="needs triton 3.7, which the extra `dev` brings on Linux beside torch's CPU build",
)


def some(*shape: int, on: str = HERE, kind: torch.dtype = KIND) -> torch.Tensor:
    return torch.randn(*shape, device=on, dtype=kind)


def some_nf4(
    rows: int, columns: int, nested: bool = True
) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """A random packed weight with its state in bitsandbytes' form, and its values worked out one by one."""
    torch.manual_seed(0)
    blocks = rows * columns // 64
    packed = torch.randint(0, 256, (rows * columns // 2, 1), dtype=torch.uint8)
    code = torch.tensor(nf4.VALUES)
    inner = SimpleNamespace(
        code=torch.randn(256).sort().values, absmax=torch.rand(-(-blocks // 256)), blocksize=256
    )
    absmax = torch.randint(0, 256, (blocks,), dtype=torch.uint8) if nested else torch.rand(blocks)
    state = SimpleNamespace(
        absmax=absmax,
        code=code,
        blocksize=64,
        quant_type="nf4",
        nested=nested,
        state2=inner if nested else None,
        offset=torch.tensor(0.7) if nested else None,
    )
    values = []
    for place, byte in enumerate(packed.flatten().tolist()):
        block = place // 32
        scale = absmax[block]
        if nested:
            scale = inner.code[int(scale)] * inner.absmax[block // 256] + state.offset
        values += [code[byte >> 4] * scale, code[byte & 15] * scale]
    return packed, state, torch.stack(values).view(rows, columns)


@pytest.mark.parametrize("nested", [True, False])
def test_nf4_is_unpacked_value_by_value(nested):
    packed, state, values = some_nf4(12, 192, nested)
    out = torch.empty(12, 200)
    torch_ops.dequantise(packed, state, out[:, :192])
    assert torch.equal(out[:, :192], values)


def test_nf4_is_unpacked_as_bitsandbytes_does():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(384, 128, generator=torch.Generator().manual_seed(0)) * 0.02
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    out = torch.empty_like(weight)
    torch_ops.dequantise(packed, state, out)
    assert torch.equal(out, functional.dequantize_4bit(packed, state))


@on_kernels
@pytest.mark.parametrize("nested", [True, False])
def test_the_dequantiser_is_exact(nested, monkeypatch):
    if INTERPRETED:
        from triton.runtime.interpreter import InterpreterBuilder

        monkeypatch.setattr(InterpreterBuilder, "create_inline_asm", inline_assembly)
    packed, state, _ = some_nf4(12, 192, nested)
    for part in (state, state.state2) if nested else (state,):
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                setattr(part, name, value.to(HERE))
    out, expected = (some(12, 208, kind=torch.bfloat16) for _ in range(2))
    triton_ops.dequantise(packed.to(HERE), state, out[:, :192])
    torch_ops.dequantise(packed.to(HERE), state, expected[:, :192])
    assert torch.equal(out[:, :192], expected[:, :192])


def calls(**where: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """Names of kernels with arguments whose sizes are no multiples of their blocks."""
    torch.manual_seed(0)
    # Where a token is a program of its own, and slow in the interpreter, a few show as much as many.
    tokens, hidden, heads, kv_heads, head, size, rank = 75, 320, 6, 2, 64, 208, 16
    few = 15 if INTERPRETED else tokens

    def given(*shape: int) -> torch.Tensor:
        return some(*shape, **where)

    x, weight = given(few, hidden + 8)[:, :hidden], given(hidden)
    grads = [given(few, hidden) for _ in range(4)]
    cos, sin = given(few // 3, head), given(few // 3, head)
    qkv = given(few, (heads + 2 * kv_heads) * head)
    turned = tuple(given(few, n, head) for n in (heads, kv_heads, kv_heads))
    gate_up, low = given(tokens, 2 * size), (given(tokens, rank), given(tokens, 2 * rank))
    logits = given(few, 20000)
    labels = torch.randint(0, 20000, (few,), device=logits.device)
    listed: list[tuple[str, tuple[Any, ...]]] = [
        ("norm", (x, weight, 1e-6, given(few, hidden))),
        ("norm_backward", (grads[0], x, weight, 1e-6, *grads[1:])),
        ("swiglu", (gate_up, given(tokens, size))),
        ("swiglu_backward", (gate_up, given(tokens, size), *low)),
        ("place_adapters", ([given(70, 5), given(9, 16), given(30, 8)], 16, given(109, 48))),
        ("place_adapters", ([given(70, 5)], 16, given(70, 16))),
        ("cross_entropy", (logits, labels, torch.tensor(0.5, device=logits.device))),
    ]
    for norms in (None, (given(head), given(head))):
        out = given(few, heads + kv_heads, head)
        listed.append(("rope", (qkv, norms, 1e-6, cos, sin, heads, kv_heads, out)))
        back = (turned, qkv, norms, 1e-6, cos, sin, torch.empty_like(qkv))
        listed.append(("rope_backward", back))
    return listed


@on_kernels
def test_the_kernels_compute_what_plain_pytorch_does():
    for name, arguments in calls():
        # Both on copies; compared is all that they return or write.
        ours, plain = copy.deepcopy(arguments), copy.deepcopy(arguments)
        results = getattr(triton_ops, name)(*ours), getattr(torch_ops, name)(*plain)
        pairs = [(a, b) for a, b in zip(ours, plain, strict=True) if isinstance(a, torch.Tensor)]
        if results[0] is not None:
            pairs.append(results)
        for found, expected in pairs:
            assert relative_error(found, expected) < CLOSE, name


@with_triton
@pytest.mark.slow
def test_without_a_gpu_the_same_holds_in_tritons_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    tests = "dequantiser_is_exact or kernels_compute"
    done = subprocess.run(
        [*command, "-k", tests],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "3 passed" in done.stdout and done.returncode == 0, done.stdout


@with_triton
def test_without_a_gpu_all_compile_for_a_hopper(monkeypatch, tmp_path):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    hopper = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    compiled = []

    def launch(function: Any, grid: tuple[int, ...]) -> Any:
        def compile_only(*arguments: Any, **options: Any) -> None:
            made = function.warmup(*arguments, grid=grid, **options)
            compiled.append((function.__name__, len(made.asm["cubin"])))

        return compile_only

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", hopper)
    monkeypatch.setattr(JITFunction, "__getitem__", launch)
    some_calls = calls(on="cpu", kind=torch.bfloat16)
    for nested in (True, False):
        packed, state, _ = some_nf4(12, 192, nested)
        some_calls.append(("dequantise", (packed, state, some(12, 192, on="cpu"))))
    for name, arguments in some_calls:
        getattr(triton_ops, name)(*arguments)
    assert len(compiled) == len(some_calls) and all(size for _, size in compiled)


def inline_assembly(
    builder: Any, assembly: str, constraints: str, values: list[Any], *_: Any
) -> Any:
    """Stands in for what Triton's interpreter lacks: the PTX instructions of the dequantiser, on arrays of registers.

    As PTX's manual has them (docs.nvidia.com/cuda/parallel-thread-execution), section 9.7.
    """
    from triton import language as tl
    from triton.runtime.interpreter import TensorHandle

    outputs = constraints.count("=")
    words = [np.ascontiguousarray(value.data).view(np.uint32) for value in values]
    registers = {f"${outputs + i}": word for i, word in enumerate(words)}

    def read(operand: str) -> np.ndarray:
        if operand in registers:
            return registers[operand]
        digits, base = (operand[2:], 16) if operand[:2] == "0f" else (operand, 0)
        return np.full_like(words[0], int(digits, base))

    def half(word: np.ndarray) -> np.ndarray:
        """A float32's bits, rounded to the nearest bfloat16's, ties to even."""
        return (word + 0x7FFF + (word >> 16 & 1)) >> 16

    def permute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
        """Byte i is that of b:a which the selector's nibble i names; its highest bit would copy a sign."""
        both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
        result = np.zeros_like(a)
        for i in range(4):
            nibble = selector >> 4 * i & 15
            assert (nibble < 8).all()
            byte = both >> (8 * nibble).astype(np.uint64) & np.uint64(255)
            result |= byte.astype(np.uint32) << 8 * i
        return result

    def by_table(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Each bit is the table's at the number that the bits of a, b and c make."""
        result = np.zeros_like(a)
        for i in range(8):
            chosen = [x if i >> place & 1 else ~x for x, place in ((a, 2), (b, 1), (c, 0))]
            result |= chosen[0] & chosen[1] & chosen[2] & -(table >> i & 1)
        return result

    instructions: dict[str, Callable[..., np.ndarray]] = {
        "mul.rn.f32": lambda a, b: (a.view(np.float32) * b.view(np.float32)).view(np.uint32),
        "cvt.rn.bf16x2.f32": lambda high, low: half(high) << 16 | half(low),
        "shr.b32": lambda a, number: a >> number,
        "and.b32": lambda a, b: a & b,
        "prmt.b32": permute,
        "lop3.b32": by_table,
    }
    for line in assembly.strip("{}").split(";"):
        name, *operands = re.split(r"[ ,]+", line.strip())
        if name and name != ".reg":
            result, *given = operands
            registers[result] = instructions[name](*map(read, given))
    results = [registers[f"${i}"].view(np.int32) for i in range(outputs)]
    return SimpleNamespace(get_result=lambda i: TensorHandle(results[i], tl.int32))
