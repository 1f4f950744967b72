"""What fits where: the arithmetic against servers that were measured, and the rules of vLLM that it has to keep."""

from typing import Any

import pytest

from schemas.errors import InputError
from schemas.recipe import Serve
from teacher.models import catalog
from teacher.planning.hardware import GIB, parse
from teacher.planning.memory import Fit, fit, host_tokens_s

KIMI = catalog.load("kimi-k2.5", catalog.TEACHERS, "teacher")
THINKING = catalog.load("kimi-k2-thinking", catalog.TEACHERS, "teacher")
LONG = 262_144

# A dense model with grouped queries, as a teacher of one's own may be: 8 KV heads of 128 in 80 layers, 140 GB.
DENSE: dict[str, Any] = {
    **{key: value for key, value in KIMI.items() if key != "family"},
    "name": "dense-70b",
    "context": 131_072,
    "parameters": 70_000_000_000,
    "memory": {
        "weights_bytes": 140_000_000_000,
        "attention": {"kind": "gqa", "layers": 80, "kv_heads": 8, "head_dim": 128},
        "source": "made up",
    },
}


def served(machine: str, context: int = 131_072, teacher: dict = KIMI, **options: Any) -> Fit:
    return fit(teacher, parse(machine), context, Serve(**options))


# ------------------------------------------------------------------------------------- what was measured


def test_eight_h200_hold_what_vllm_logged_there() -> None:
    # vllm-project/recipes, Kimi-K2-Think.md: 46.80 GiB, 715,072 tokens; with decode context parallel 5,721,088.
    plain = served("8xH200", LONG, THINKING, decode_context_parallel=1)
    assert plain.kv_per_rank / GIB == pytest.approx(46.80, rel=0.01)
    assert plain.kv_tokens == pytest.approx(715_072, rel=0.01)
    assert served("8xH200", LONG, THINKING).kv_tokens == pytest.approx(5_721_088, rel=0.01)


def test_eight_h100_leave_what_was_reported_there_and_do_not_count_as_a_fit() -> None:
    # SemiAnalysisAI/InferenceX issue 1587: 27,392 tokens, in fp8 at 0.95 of the memory with few sequences.
    fitted = served(
        "8xH100-80GB",
        decode_context_parallel=1,
        kv_cache_dtype="fp8",
        gpu_memory_utilization=0.95,
        arguments=("--max-num-seqs=1",),
    )
    assert fitted.kv_tokens == pytest.approx(27_392, rel=0.03)
    assert not fitted.fits
    assert "less than the error of this estimate" in fitted.reason


def test_a_token_of_mla_is_replicated_on_each_rank_and_divided_by_context_parallelism() -> None:
    parts = {n: served("8xH200", decode_context_parallel=n) for n in (1, 2, 4, 8)}
    # (512 + 64) values of 2 bytes in 61 layers.
    assert parts[1].kv_per_rank // parts[1].kv_tokens == pytest.approx(70_272, abs=1)
    assert parts[8].kv_tokens == pytest.approx(8 * parts[1].kv_tokens, rel=0.001)
    assert parts[4].kv_tokens == pytest.approx(2 * parts[2].kv_tokens, rel=0.001)
    fp8 = served("8xH200", decode_context_parallel=1, kv_cache_dtype="fp8")
    assert fp8.kv_tokens == pytest.approx(2 * parts[1].kv_tokens, rel=0.001)


def test_a_token_of_grouped_queries_is_divided_by_the_tensor_parallel_degree_up_to_its_heads() -> (
    None
):
    fitted = {n: served("8xH200", teacher=DENSE, tensor_parallel=n) for n in (4, 8)}
    per_token = {n: f.kv_per_rank / f.kv_tokens for n, f in fitted.items()}
    assert per_token[8] == pytest.approx(2 * 128 * 1 * 2 * 80, rel=0.001)
    assert per_token[4] == pytest.approx(2 * per_token[8], rel=0.001)
    assert fitted[8].decode_context_parallel == 1


# ------------------------------------------------------------------------------------- common machines


@pytest.mark.parametrize(
    ("machine", "fits"),
    [
        ("8xH200", True),
        ("2x8xH100-80GB", True),
        ("2x8xA100-80GB", True),
        ("4xB200", True),
        ("8xB200", True),
        ("8xMI300X", True),
        ("8xH100-80GB", False),
        ("4xH100", False),
        ("8xA100", False),
        ("4xH200", False),
        ("8xL40S", False),
        ("H200", False),
        ("cpu-768GB", False),
    ],
)
def test_each_common_machine_gets_its_answer(machine: str, fits: bool) -> None:
    fitted = served(machine)
    assert fitted.fits == fits
    assert fitted.reason
    if fits:
        assert fitted.max_model_len == 131_072
        assert fitted.concurrency >= 1
        assert fitted.alternatives == ()
    else:
        assert any(line.startswith("8xH200: ") for line in fitted.alternatives)
        # What is offered does fit.
        offered = [line.split(":")[0] for line in fitted.alternatives if line[0].isdigit()]
        assert offered and all(served(name).fits for name in offered)


def test_one_machine_is_used_where_it_suffices_and_two_where_it_does_not() -> None:
    assert served("2x8xH200").nodes == 1
    two = served("2x8xH100")
    assert (two.nodes, two.tensor_parallel) == (2, 8)
    # 31 of 61 layers lie on the first.
    assert two.weights_per_rank == pytest.approx(595e9 / 8 * 31 / 61, rel=0.001)


def test_an_a100_keeps_no_mla_cache_in_fp8() -> None:
    fitted = served("2x8xA100", kv_cache_dtype="fp8")
    assert not fitted.fits
    assert "compute capability 8.9" in fitted.reason
    assert "this machine with" not in " ".join(fitted.alternatives)
    assert served("2x8xA100", teacher=DENSE, kv_cache_dtype="fp8").fits


def test_settings_that_would_do_on_the_same_machine_are_named() -> None:
    tight = served("4xB200", LONG, decode_context_parallel=1)
    assert not tight.fits
    assert tight.alternatives[0] == "this machine with serve.kv_cache_dtype=fp8"
    assert served("4xB200", LONG, decode_context_parallel=1, kv_cache_dtype="fp8").fits


def test_the_length_that_does_fit_is_given_where_the_wanted_one_does_not() -> None:
    short = served("4xB200", LONG, decode_context_parallel=1)
    assert 100_000 < short.max_model_len < LONG
    assert served("4xB200", short.max_model_len, decode_context_parallel=1).fits


def test_more_sequences_and_larger_batches_leave_less_for_the_cache() -> None:
    plain = served("8xH200").kv_per_rank
    assert served("8xH200", arguments=("--max-num-seqs", "64")).kv_per_rank > plain
    assert served("8xH200", arguments=("--max-num-batched-tokens=32768",)).kv_per_rank < plain


def test_replicas_share_the_gpus_of_a_machine() -> None:
    assert served("8xB200", replicas=2).tensor_parallel == 4
    assert not served("8xH200", replicas=2).fits


def test_experts_that_do_not_come_out_even_cost_the_fullest_gpu() -> None:
    # 384 experts in two times five: 39 on the fullest of 10.
    uneven = served("10xB300", tensor_parallel=2, data_parallel=5, expert_parallel=True)
    dense = 595e9 - 570.76e9
    assert uneven.weights_per_rank == pytest.approx(570.76e9 * 39 / 384 + dense / 2, rel=0.001)


def test_experts_are_spread_over_all_ranks_and_the_rest_over_one_copy() -> None:
    # 384 experts come out even on 8 GPUs: whole or in slices is the same.
    whole, slices = served("8xH200", expert_parallel=True), served("8xH200")
    assert whole.weights_per_rank == pytest.approx(slices.weights_per_rank, rel=1e-6)
    copies = served("8xH200", data_parallel=8, expert_parallel=True)
    dense = 595e9 - 570.76e9
    assert copies.tensor_parallel == 1
    assert copies.weights_per_rank == pytest.approx(570.76e9 / 8 + dense, rel=0.001)


# ------------------------------------------------------------------------------------- vLLM's rules


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tensor_parallel": 6}, r"serve\.tensor_parallel: found 6, expected a divisor of the 64"),
        ({"decode_context_parallel": 3}, r"serve\.decode_context_parallel: found 3, .*\(8\)"),
        ({"tensor_parallel": 4, "decode_context_parallel": 8}, "found 8, expected a divisor"),
    ],
)
def test_degrees_that_vllm_refuses_are_bad_input(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        served("8xH200", **options)


def test_grouped_queries_have_no_copies_to_divide_below_their_heads() -> None:
    with pytest.raises(InputError, match=r"decode_context_parallel: found 2, .* 1 at most"):
        served("8xH200", teacher=DENSE, decode_context_parallel=2)


@pytest.mark.parametrize(
    "options", [{"tensor_parallel": 16}, {"nodes": 2}, {"data_parallel": 2, "tensor_parallel": 8}]
)
def test_more_gpus_than_there_are_do_not_fit(options: dict) -> None:
    fitted = served("8xH200", **options)
    assert not fitted.fits
    assert fitted.reason.startswith("one server needs ")


# ------------------------------------------------------------------------------------- under llama.cpp


def test_a_gguf_in_host_memory_fits_as_far_as_memory_goes_at_the_speed_of_that_memory() -> None:
    memory = {**KIMI["memory"], "weights_bytes": 584_000_000_000}
    gguf = {**KIMI, "engine": "llama.cpp", "memory": memory}
    fitted = served("cpu-768GB", teacher=gguf)
    assert fitted.fits
    assert fitted.max_model_len == 131_072
    assert not served("cpu-512GB", teacher=gguf).fits
    # 32 of 1,040 billion parameters of 584 GB are 18 GB a token.
    slow, fast = host_tokens_s(gguf, 584_000_000_000)
    assert (round(slow), round(fast)) == (8, 22)


def test_whole_layers_decide_what_gpus_hold_under_llama_cpp() -> None:
    lines = served("4xH100", teacher=catalog.load("kimi-k2.6", catalog.TEACHERS, "teacher"))
    mine = [line for line in lines.alternatives if "this machine under llama.cpp" in line]
    assert len(mine) == 1
    assert mine[0].startswith("not this machine under llama.cpp: UD-Q2_K_XL (340 GB")
    assert any(line.startswith("a CPU host with 768 GB") for line in lines.alternatives)
