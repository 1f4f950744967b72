"""Training on the CPU with a random Llama of two layers: the real trainer and real checkpoints, in seconds."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from small_students import tiny_tokenizer
from stored_examples import stored

from schemas.recipe import Train
from student.rendering.examples import Example
from student.rendering.labels import IGNORED

pytestmark = pytest.mark.slow

STUDENT = {"lora_targets": "all-linear"}
# Six examples, two per step, two epochs: six steps. The fourth is within the second epoch.
SETTINGS = Train(
    method="lora",
    rank=4,
    alpha=8,
    epochs=2,
    batch_size=2,
    learning_rate=0.05,
    dtype="float32",
    save_steps=2,
    log_steps=1,
    seed=3,
)


def some_examples(number: int, seed: int = 0) -> list[Example]:
    """Examples of random tokens and lengths. The second half of each has labels."""
    source = random.Random(seed)
    examples = []
    for _ in range(number):
        ids = [source.randrange(200) for _ in range(source.randrange(8, 24))]
        half = len(ids) // 2
        examples.append(Example(ids, [IGNORED] * half + ids[half:]))
    return examples


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def train(untrained: Path, work: Path, settings=SETTINGS, report=lambda text: None, **more):
    from student.training import sft

    work.mkdir(exist_ok=True)
    data = {"examples": some_examples(6), "held_out": [], **more}
    files: dict[str, Any] = {
        "examples": [stored(data.pop("examples"), work)],
        "held_out": stored(data.pop("held_out"), work),
    }
    return sft.train(untrained, STUDENT, settings, work=work, log=report, **files, **data)


def log(work: Path) -> list[dict]:
    return [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]


def fall(work: Path) -> float:
    """The difference of the mean loss between the first and the second half of the steps.

    The loss of a single step depends on its examples as much as on what was learned.
    """
    losses = [row["loss"] for row in log(work) if "loss" in row]
    half = len(losses) // 2
    return sum(losses[:half]) / half - sum(losses[half:]) / (len(losses) - half)


def weights(work: Path, method: str = "lora"):
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    return load_file(work / "adapter" / name)


@pytest.fixture(scope="module")
def uninterrupted(untrained, tmp_path_factory):
    work = tmp_path_factory.mktemp("uninterrupted")
    return work, train(untrained, work)


# ------------------------------------------------------------------------------------- a whole run


def test_a_run_logs_each_step_as_numbers_and_returns_its_totals(uninterrupted):
    work, result = uninterrupted
    rows = log(work)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert all(isinstance(value, int | float) for value in row.values()), row
        assert row["learning_rate"] >= 0 and row["tokens_s"] > 0 and row["memory_gib"] > 0
    assert result["steps"] == 6
    assert result["tokens"] == 2 * sum(len(e.input_ids) for e in some_examples(6))
    assert result["loss"] == rows[-1]["loss"]
    assert result["eval_loss"] is None


def test_with_method_lora_the_adapter_has_what_merging_needs(uninterrupted, untrained, tmp_path):
    import torch

    from student.export.merge import merge

    work, _ = uninterrupted
    tensors = weights(work)
    assert any(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    assert not any("lm_head" in name or "embed" in name for name in tensors)
    merge(untrained, work / "adapter", tmp_path / "merged", "{{ messages }}")
    from safetensors.torch import load_file

    before = load_file(untrained / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 14


def test_with_method_full_all_weights_are_trained_and_held_out_loss_is_measured(
    untrained, tmp_path
):
    import torch
    from safetensors.torch import load_file

    settings = SETTINGS.model_copy(update={"method": "full", "learning_rate": 0.02})
    messages: list[str] = []
    result = train(
        untrained, tmp_path / "run", settings, messages.append, held_out=some_examples(2, seed=9)
    )
    before = load_file(untrained / "model.safetensors")
    after = weights(tmp_path / "run", "full")
    assert after.keys() == before.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    assert fall(tmp_path / "run") > 0.2
    evaluations = [row for row in log(tmp_path / "run") if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == [3, 6]
    assert result["eval_loss"] == evaluations[-1]["eval_loss"]
    assert sum("held-out loss" in text for text in messages) == 2


@pytest.mark.parametrize(("bits", "difference"), [(4, 0.05), (8, 0.005)])
def test_with_method_qlora_an_adapter_is_trained_on_weights_of_few_bits(
    untrained, tmp_path, monkeypatch, uninterrupted, bits, difference
):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train(untrained, tmp_path, SETTINGS.model_copy(update={"method": "qlora", "bits": bits}))
    rows, trained = log(tmp_path), weights(tmp_path)
    assert fall(tmp_path) > 0
    # The adapter has the tensors of LoRA on 16-bit weights; the quantised weights differ a little from those.
    plain, _ = uninterrupted
    assert trained.keys() == weights(plain).keys()
    assert log(plain)[0]["loss"] != rows[0]["loss"]
    assert abs(log(plain)[0]["loss"] - rows[0]["loss"]) < difference


def test_what_is_computed_at_once_changes_nothing_that_is_learned(
    untrained, tmp_path, uninterrupted
):

    messages: list[str] = []
    settings = SETTINGS.model_copy(update={"micro_batch": 16})  # most examples alone
    train(untrained, tmp_path, settings, messages.append)
    assert messages[0].startswith("fused layers: 16 tokens at a time with all layers kept")
    for row, other in zip(log(tmp_path), log(uninterrupted[0]), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
    for name, tensor in weights(uninterrupted[0]).items():
        # A gradient near 0 makes a full step of Adam in either direction, so single weights may differ.
        assert (weights(tmp_path)[name] - tensor).norm() <= 1e-2 * tensor.norm(), name


@pytest.mark.parametrize("held_out", [[], some_examples(5, 9)])
def test_layers_that_cannot_be_fused_are_trained_unfused_to_the_same_loss(
    untrained, tmp_path, held_out, monkeypatch
):
    from student.kernels import decoder_layer

    fused = train(untrained, tmp_path / "fused", held_out=held_out)
    monkeypatch.setattr(decoder_layer, "LAYERS", set())
    messages: list[str] = []
    plain = train(untrained, tmp_path / "plain", report=messages.append, held_out=held_out)
    assert messages[0].startswith("training without fused layers: layer 0: a LlamaDecoderLayer")
    # The steps have different examples, because padded rows of a step have similar lengths.
    assert plain["loss"] == pytest.approx(fused["loss"], abs=0.3)
    assert (plain["eval_loss"] is None) == (fused["eval_loss"] is None) == (not held_out)
    if held_out:
        assert plain["eval_loss"] == pytest.approx(fused["eval_loss"], abs=0.2)


def test_a_loss_that_is_not_a_number_ends_the_training_with_an_error(untrained, tmp_path):
    from schemas.errors import StageError

    settings = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(StageError, match=r"step \d: the loss is nan: a lower train.learning_rate"):
        train(untrained, tmp_path, settings)


def test_dropout_is_trained_without_fused_layers(untrained, tmp_path):
    messages: list[str] = []
    train(untrained, tmp_path, SETTINGS.model_copy(update={"dropout": 0.1}), messages.append)
    assert "LoRA dropout 0.1 cannot be fused" in messages[0]
    assert fall(tmp_path) > 0


def test_the_held_out_loss_is_the_mean_over_labels_whatever_is_computed_at_once(
    untrained, tmp_path
):
    losses = []
    for limit in (16, 4096):
        settings = SETTINGS.model_copy(update={"micro_batch": limit, "epochs": 0.3})
        result = train(untrained, tmp_path / str(limit), settings, held_out=some_examples(7, 5))
        losses.append(result["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_quantised_once_and_read_by_the_next_run(
    untrained, tmp_path, monkeypatch, bits
):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = SETTINGS.model_copy(update={"method": "qlora", "bits": bits, "epochs": 0.3})
    messages: list[str] = []
    for name in ("first", "second"):
        train(untrained, tmp_path / name, settings, messages.append)
    ways = [text.split(" ")[0] for text in messages if f" {bits} bits" in text]
    assert ways == ["quantising", "reading"]
    assert not any("without fused layers" in text for text in messages)
    assert any("FP8 weights are dequantised" in text for text in messages) == (bits == 8)
    assert log(tmp_path / "first")[0]["loss"] == log(tmp_path / "second")[0]["loss"]
    assert len(list((tmp_path / "cache" / "stillhouse" / "quantised").iterdir())) == 1


def test_the_loss_is_that_of_the_labelled_tokens_alone(untrained, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    pair = some_examples(2, seed=5)
    # LoRA starts as the base model, so the first step's loss is the base's.
    settings = SETTINGS.model_copy(update={"epochs": 1.0})
    train(untrained, tmp_path / "run", settings, examples=pair)
    model = AutoModelForCausalLM.from_pretrained(untrained)
    lost = []
    for example in pair:
        with torch.no_grad():
            logits_TV = model(torch.tensor([example.input_ids])).logits[0, :-1]
        targets_T = torch.tensor(example.labels[1:])
        losses_T = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none")
        lost += losses_T[targets_T != IGNORED].tolist()
    (row,) = log(tmp_path / "run")
    assert len(lost) == sum(example.label_count for example in pair)
    assert row["loss"] == pytest.approx(sum(lost) / len(lost), abs=1e-4)


# ------------------------------------------------------------------------------------- early stopping

# The held-out examples have nothing in common with the training examples, so their loss soon only rises.
PATIENT = SETTINGS.model_copy(update={"patience": 2, "epochs": 20, "learning_rate": 0.1})


@pytest.fixture(scope="module")
def stopped(untrained, tmp_path_factory):
    work = tmp_path_factory.mktemp("stopped")
    messages: list[str] = []
    return (
        work,
        train(untrained, work, PATIENT, messages.append, held_out=some_examples(2, 9)),
        messages,
    )


def test_training_stops_when_the_held_out_loss_does_not_improve_and_keeps_the_best(stopped):
    import torch
    from safetensors.torch import load_file

    work, result, messages = stopped
    evaluations = {row["step"]: row["eval_loss"] for row in log(work) if "eval_loss" in row}
    assert list(evaluations) == list(range(2, result["steps"] + 1, 2))
    best = min(evaluations, key=lambda step: evaluations[step])
    assert result["steps"] == best + 4 < 60
    assert (result["kept_step"], result["eval_loss"]) == (best, evaluations[best])
    at_best = load_file(work / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    for name, tensor in weights(work).items():
        torch.testing.assert_close(tensor, at_best[name], rtol=0, atol=0)
    assert (
        f"stopped at step {result['steps']}: no better held-out loss in 2 evaluations" in messages
    )
    assert messages[-1].startswith(f"kept the weights of step {best},")


def test_a_run_killed_after_it_had_stopped_early_trains_no_further(stopped, untrained, tmp_path):
    import shutil

    import torch

    work = Path(shutil.copytree(stopped[0], tmp_path / "run"))
    shutil.rmtree(work / "adapter")
    result = train(untrained, work, PATIENT, held_out=some_examples(2, 9))
    for key in ("steps", "kept_step", "eval_loss"):
        assert result[key] == stopped[1][key]
    for name, tensor in weights(stopped[0]).items():
        torch.testing.assert_close(weights(work)[name], tensor, rtol=0, atol=0)


# ------------------------------------------------------------------------------------- killed and continued

TRAINS_AND_STOPS_AT_STEP_5 = """
import sys, time
from pathlib import Path
import test_sft

def report(text):
    if text.startswith("step 5 "):
        print("ready", flush=True)
        time.sleep(600)

test_sft.train(Path(sys.argv[1]), Path(sys.argv[2]), report=report)
"""


@pytest.fixture(scope="module")
def killed(untrained, tmp_path_factory):
    """The directory of a run that was killed in step 5, after checkpoint-4."""
    work = tmp_path_factory.mktemp("killed")
    with subprocess.Popen(
        [sys.executable, "-c", TRAINS_AND_STOPS_AT_STEP_5, str(untrained), str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout
        watchdog = threading.Timer(600, process.kill)
        watchdog.start()
        assert any(line == "ready\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
        process.wait()
        watchdog.cancel()
    assert sorted(p.name for p in (work / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert not (work / "adapter").exists()
    assert [row["step"] for row in log(work)] == [1, 2, 3, 4, 5]
    return work


@pytest.fixture
def left_behind(killed, tmp_path):
    import shutil

    return Path(shutil.copytree(killed, tmp_path / "killed"))


def assert_the_same_training(work: Path, uninterrupted) -> None:
    import torch

    whole, _ = uninterrupted
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(work)[name], tensor, rtol=0, atol=1e-5)
    assert [(r["step"], r["epoch"]) for r in log(work)] == [
        (r["step"], r["epoch"]) for r in log(whole)
    ]
    for row, other in zip(log(work), log(whole), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)


def test_a_killed_run_is_continued_to_the_same_adapter_and_the_same_log(
    untrained, left_behind, uninterrupted
):
    messages: list[str] = []
    result = train(untrained, left_behind, report=messages.append)
    assert messages[1] == "continuing from checkpoint-4"
    assert [text.split(",")[0] for text in messages[2:]] == ["step 5 of 6", "step 6 of 6"]
    assert result["steps"] == 6
    assert_the_same_training(left_behind, uninterrupted)


def test_standard_output_stays_the_commands(untrained, left_behind, capsys):
    train(untrained, left_behind)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("begun", [None, b"", b'{"epoch": 1'])
def test_a_checkpoint_that_was_being_written_is_passed_over(
    untrained, left_behind, uninterrupted, begun
):
    state = left_behind / "checkpoints" / "checkpoint-4" / "trainer_state.json"
    if begun is None:  # the trainer writes it last
        state.unlink()
        state.with_name("optimizer.pt").write_bytes(b"half")
    else:
        state.write_bytes(begun)
    messages: list[str] = []
    train(untrained, left_behind, report=messages.append)
    assert messages[1] == "continuing from checkpoint-2"
    assert_the_same_training(left_behind, uninterrupted)


def test_a_log_line_that_the_kill_cut_short_is_dropped(untrained, left_behind, uninterrupted):
    with (left_behind / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "ep')
    train(untrained, left_behind)
    assert_the_same_training(left_behind, uninterrupted)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    untrained, left_behind, uninterrupted
):
    import shutil

    shutil.rmtree(left_behind / "checkpoints")
    (left_behind / "checkpoints").mkdir()
    messages: list[str] = []
    train(untrained, left_behind, report=messages.append)
    assert messages[1].startswith("step 1 of 6")
    assert_the_same_training(left_behind, uninterrupted)


def test_a_run_killed_after_its_last_step_only_writes_its_adapter(
    untrained, tmp_path, uninterrupted
):
    import shutil

    work = Path(shutil.copytree(uninterrupted[0], tmp_path / "run"))
    shutil.rmtree(work / "adapter")
    result = train(untrained, work)
    assert result["steps"] == 6
    assert result["loss"] == uninterrupted[1]["loss"]
    assert_the_same_training(work, uninterrupted)
