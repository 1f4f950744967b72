"""What is read from vLLM's log: the progress of a start, and the reason of an end."""

import pytest

from teacher.inference.vllm_log import StartProgress, failure_reason


def test_progress_is_reported_at_each_tenth_and_events_once() -> None:
    messages: list[str] = []
    listen = StartProgress(messages.append)
    for done in range(97):
        line = f"Loading safetensors checkpoint shards: {done:3}% Completed | {done}/96 [00:01<1:00, 8s/it]\n"
        listen(line[:40])
        listen(line[40:])
    for worker in range(8):
        listen(
            f"(Worker_TP{worker} pid=9) INFO [default_loader.py:502] Loading weights took 712.31 seconds\n"
        )
    for done in range(0, 68):
        listen(
            f"\rCapturing CUDA graphs (decode, FULL): {done}%|##  | {done}/67 [00:01<00:01, 9it/s]"
        )
    listen(
        "\n(EngineCore) INFO GPU KV cache size: 643,232 tokens, Maximum concurrency for 8,192 tokens per"
    )
    listen(" request: 78.52x\n")
    assert messages[0] == "loading weights: 1 of 96 files"
    assert messages[10] == "loading weights: 96 of 96 files"
    assert messages[11] == "weights loaded in 712.31 s"
    assert messages[-3] == "capturing CUDA graphs: 67 of 67"
    assert messages[-2:] == [
        "KV cache: 643,232 tokens",
        "room for 8,192 tokens per request: 78.52 at once",
    ]
    assert len(messages) < 28


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (
            "(Worker_TP0 pid=3) ERROR 11-24 torch.OutOfMemoryError: CUDA out of memory. Tried\n"
            "(EngineCore pid=2) ERROR Exception: WorkerProc initialization failed due to an exception in a"
            " background process. See stack trace for root cause.\n"
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (
            "(APIServer pid=1) WARNING 11-24 13:22:06 [system_utils.py:255] This can cause fd limit errors like"
            " `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n\n"
            "(Worker_DP0 pid=1) ERROR 11-24 [executor.py:1063]     raise NotImplementedError\n"
            "(Worker_DP0 pid=1) ERROR 11-24 [executor.py:1063] NotImplementedError\n"
            "RuntimeError: Worker failed with error '', please check the stack trace above for the root cause\n",
            "NotImplementedError",
        ),
        ("/x/python: No module named vllm\n", "No module named vllm"),
        (
            "api_server.py: error: unrecognized arguments: --nonsense\n",
            "error: unrecognized arguments: --nonsense",
        ),
        (
            "INFO all is well\nRuntimeError: Engine core initialization failed. See root cause above.\n",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        ),
        ("INFO loading\n\n", "INFO loading"),
        ("", "no output"),
    ],
)
def test_the_reason_of_an_end_is_the_first_error_that_no_other_caused(log: str, why: str) -> None:
    assert failure_reason(log) == why
