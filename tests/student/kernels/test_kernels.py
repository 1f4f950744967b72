"""Tests the Triton kernels against the same functions in PyTorch, on a GPU or in Triton's interpreter.

The interpreter runs every program of a kernel's grid in NumPy, so it finds a wrong index, mask or formula. Triton reads
TRITON_INTERPRET=1 when it is imported, so the interpreter needs its own process. Its bfloat16 differs from a GPU's, so
these runs use float32. The dequantiser keeps bfloat16, and `run_inline_assembly` executes its PTX. Another test
compiles all kernels for a Hopper GPU (sm_90) without running them.
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

from student.kernels import fp8, nf4, torch_ops, triton_ops

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE, DTYPE = ("cpu", torch.float32) if INTERPRETED else ("cuda", torch.bfloat16)
MAX_RELATIVE_ERROR = 3e-6 if INTERPRETED else 3e-3
runs_kernels = (lambda test: test) if INTERPRETED else pytest.mark.gpu


def triton_version() -> tuple[int, ...]:
    """Returns (major, minor), or () if Triton is not installed."""
    try:
        return tuple(map(int, version("triton").split(".")[:2]))
    except PackageNotFoundError:
        return ()


needs_triton = pytest.mark.skipif(
    triton_version() < (3, 7),  # older interpreters fail with NumPy 2.4
    reason="needs triton 3.7, which the extra `dev` installs on Linux beside torch's CPU build",
)


def random_tensor(*shape: int, device: str = DEVICE, dtype: torch.dtype = DTYPE) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=dtype)


def random_nf4(
    rows: int, columns: int, nested: bool = True
) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Returns a random packed weight, its state as bitsandbytes holds it, and its values, computed one by one."""
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
    for index, byte in enumerate(packed.flatten().tolist()):
        block = index // 32
        scale = absmax[block]
        if nested:
            scale = inner.code[int(scale)] * inner.absmax[block // 256] + state.offset
        values += [code[byte >> 4] * scale, code[byte & 15] * scale]
    return packed, state, torch.stack(values).view(rows, columns)


@pytest.mark.parametrize("nested", [True, False])
def test_nf4_values_are_those_of_the_codes_times_their_scales(nested):
    packed, state, values = random_nf4(12, 192, nested)
    out = torch.empty(12, 200)
    torch_ops.dequantise(packed, state, out[:, :192])
    assert torch.equal(out[:, :192], values)


def test_nf4_values_equal_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(384, 128, generator=torch.Generator().manual_seed(0)) * 0.02
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    out = torch.empty_like(weight)
    torch_ops.dequantise(packed, state, out)
    assert torch.equal(out, functional.dequantize_4bit(packed, state))


@runs_kernels
@pytest.mark.parametrize("nested", [True, False])
def test_dequantiser_is_exact(nested, monkeypatch):
    if INTERPRETED:
        from triton.runtime.interpreter import InterpreterBuilder

        monkeypatch.setattr(InterpreterBuilder, "create_inline_asm", run_inline_assembly)
    packed, state, _ = random_nf4(12, 192, nested)
    for part in (state, state.state2) if nested else (state,):
        for name, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                setattr(part, name, value.to(DEVICE))
    out, expected = (random_tensor(12, 208, dtype=torch.bfloat16) for _ in range(2))
    triton_ops.dequantise(packed.to(DEVICE), state, out[:, :192])
    torch_ops.dequantise(packed.to(DEVICE), state, expected[:, :192])
    assert torch.equal(out[:, :192], expected[:, :192])


def kernel_calls(**options: Any) -> list[tuple[str, tuple[Any, ...]]]:
    """Returns names of functions of `triton_ops` with arguments for each.

    Sizes are not multiples of the kernels' blocks. `options` are the device and dtype of the tensors.
    """
    torch.manual_seed(0)
    # Kernels that run one program for each token are slow in the interpreter; a few tokens cover the same code.
    tokens, hidden, heads, kv_heads, head, size, rank = 75, 320, 6, 2, 64, 208, 16
    few = 15 if INTERPRETED else tokens

    def tensor(*shape: int) -> torch.Tensor:
        return random_tensor(*shape, **options)

    x, weight = tensor(few, hidden + 8)[:, :hidden], tensor(hidden)
    grads = [tensor(few, hidden) for _ in range(4)]
    cos, sin = tensor(few // 3, head), tensor(few // 3, head)
    qkv = tensor(few, (heads + 2 * kv_heads) * head)
    rope_grads = tuple(tensor(few, n, head) for n in (heads, kv_heads, kv_heads))
    gate_up, low = tensor(tokens, 2 * size), (tensor(tokens, rank), tensor(tokens, 2 * rank))
    b_gate, b_up = tensor(size, 5), tensor(size, rank)
    rows8 = fp8.Rows8.empty(grads[0])
    some_bytes = torch.randint(0, 256, (144, 336), dtype=torch.uint8, device=x.device)
    logits = tensor(few, 20000)
    labels = torch.randint(0, 20000, (few,), device=logits.device)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("norm", (x, weight, 1e-6, tensor(few, hidden))),
        ("norm_backward", (grads[0], x, weight, 1e-6, *grads[1:])),
        ("swiglu", (gate_up, tensor(tokens, size))),
        ("swiglu_backward", (gate_up, tensor(tokens, size), *low)),
        (
            "swiglu_backward",
            (gate_up, tensor(tokens, size), *low, (b_gate, b_up, tensor(rank, size))),
        ),
        ("swiglu_low", (gate_up, low[1], b_gate, b_up)),
        ("norm", (x, weight, 1e-6, tensor(few, hidden), rows8)),
        ("quantise", (qkv,)),
        ("quantise", (gate_up, tensor(2 * size))),
        ("quantise", (torch.zeros_like(x),)),
        ("quantise", (tensor(3, 5000), tensor(5000))),
        ("quantise", (tensor(3, 20000),)),
        ("add_low_rank", (tensor(tokens, 48), tensor(tokens, 32), tensor(32, 48), rank)),
        (
            "add_low_rank",
            (tensor(tokens, 320), low[0], tensor(320, 5).t(), rank, tensor(tokens, 320)),
        ),
        ("transpose", (some_bytes, torch.empty_like(some_bytes).view(336, 144))),
        ("place_adapters", ([tensor(70, 5), tensor(9, 16), tensor(30, 8)], 16, tensor(109, 48))),
        ("place_adapters", ([tensor(70, 5)], 16, tensor(70, 16))),
        ("cross_entropy", (logits, labels, torch.tensor(0.5, device=logits.device))),
    ]
    for norms in (None, (tensor(head), tensor(head))):
        out = tensor(few, heads + kv_heads, head)
        calls.append(("rope", (qkv, norms, 1e-6, cos, sin, heads, kv_heads, out)))
        arguments = (rope_grads, qkv, norms, 1e-6, cos, sin, torch.empty_like(qkv))
        calls.append(("rope_backward", arguments))
    return calls


def convert_to_e4m3(convert: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Returns the interpreter's conversion of floats with PyTorch's for e4m3: its own halves a value that rounds up to
    a power of two."""

    def converted(data: np.ndarray, source: Any, to: Any, rounding: Any) -> np.ndarray:
        if to.name != "fp8e4nv":
            return convert(data, source, to, rounding)
        values = torch.from_numpy(np.ascontiguousarray(data)).to(fp8.E4M3)
        return values.view(torch.uint8).numpy()

    return converted


@runs_kernels
def test_kernels_compute_what_pytorch_does(monkeypatch):
    if INTERPRETED:
        from triton.runtime import interpreter

        convert = convert_to_e4m3(interpreter._convert_float)
        monkeypatch.setattr(interpreter, "_convert_float", convert)
    for name, arguments in kernel_calls():
        # The functions write into their arguments: each works on a copy, and all tensors are compared.
        ours, reference = copy.deepcopy(arguments), copy.deepcopy(arguments)
        results = getattr(triton_ops, name)(*ours), getattr(torch_ops, name)(*reference)
        for actual, expected in zip((*ours, results[0]), (*reference, results[1]), strict=True):
            if isinstance(actual, fp8.Rows8):
                actual, expected = (rows.values.float() * rows.scale for rows in (actual, expected))
            if isinstance(actual, torch.Tensor) and expected.any():
                assert relative_error(actual, expected) < MAX_RELATIVE_ERROR, name
            elif isinstance(actual, torch.Tensor):
                assert not actual.any(), name


@needs_triton
@pytest.mark.slow
def test_kernels_compute_the_same_in_tritons_interpreter_without_a_gpu():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    tests = "test_dequantiser_is_exact or test_kernels_compute_what"
    process = subprocess.run(
        [*command, "-k", tests],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "3 passed" in process.stdout and process.returncode == 0, process.stdout


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_a_hopper_gpu_without_one(monkeypatch, tmp_path):
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
            kernel = function.warmup(*arguments, grid=grid, **options)
            compiled.append((function.__name__, len(kernel.asm["cubin"])))

        return compile_only

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", hopper)
    monkeypatch.setattr(JITFunction, "__getitem__", launch)
    calls = kernel_calls(device="cpu", dtype=torch.bfloat16)
    for nested in (True, False):
        packed, state, _ = random_nf4(12, 192, nested)
        calls.append(("dequantise", (packed, state, random_tensor(12, 192, device="cpu"))))
    for name, arguments in calls:
        getattr(triton_ops, name)(*arguments)
    assert len(compiled) == len(calls) and all(size for _, size in compiled)


def run_inline_assembly(
    builder: Any, assembly: str, constraints: str, values: list[Any], *_: Any
) -> Any:
    """Executes the PTX instructions of the dequantiser on arrays of registers, which Triton's interpreter cannot.

    The PTX manual defines the instructions (docs.nvidia.com/cuda/parallel-thread-execution, section 9.7).
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
        """Returns the bits of the nearest bfloat16 of a float32's bits, ties to even."""
        return (word + 0x7FFF + (word >> 16 & 1)) >> 16

    def permute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
        """Returns words whose byte i is the byte of b:a that nibble i of the selector names.

        A nibble's highest bit would replicate the sign; the dequantiser never sets it.
        """
        joined = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
        result = np.zeros_like(a)
        for i in range(4):
            nibble = selector >> 4 * i & 15
            assert (nibble < 8).all()
            byte = joined >> (8 * nibble).astype(np.uint64) & np.uint64(255)
            result |= byte.astype(np.uint32) << 8 * i
        return result

    def look_up(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Returns words whose every bit is the table's bit at the index 4a + 2b + c of the bits there."""
        result = np.zeros_like(a)
        for i in range(8):
            matches = [x if i >> bit & 1 else ~x for x, bit in ((a, 2), (b, 1), (c, 0))]
            result |= matches[0] & matches[1] & matches[2] & -(table >> i & 1)
        return result

    instructions: dict[str, Callable[..., np.ndarray]] = {
        "mul.rn.f32": lambda a, b: (a.view(np.float32) * b.view(np.float32)).view(np.uint32),
        "cvt.rn.bf16x2.f32": lambda high, low: half(high) << 16 | half(low),
        "shr.b32": lambda a, number: a >> number,
        "and.b32": lambda a, b: a & b,
        "prmt.b32": permute,
        "lop3.b32": look_up,
    }
    for line in assembly.strip("{}").split(";"):
        name, *operands = re.split(r"[ ,]+", line.strip())
        if name and name != ".reg":
            result, *sources = operands
            registers[result] = instructions[name](*map(read, sources))
    results = [registers[f"${i}"].view(np.int32) for i in range(outputs)]
    return SimpleNamespace(get_result=lambda i: TensorHandle(results[i], tl.int32))
