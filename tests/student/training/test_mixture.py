"""The training data of a student, and its counts."""

import json
from types import SimpleNamespace
from typing import cast

import filter_traces
import pytest
from small_students import QWEN3, QWEN25, random_llama
from turns import TOOLS, TWO_REQUESTS, calls, result, says, stretches, user

from schemas.errors import InputError, StageError
from schemas.recipe import Train
from schemas.trace import Trace
from student.rendering.examples import turns
from student.training import mixture


def trace(number=0, messages=TWO_REQUESTS):
    return {
        "task": {"id": f"legal-train-{number}"},
        "messages": messages,
        "tools": TOOLS,
        "outcome": {"tool_errors": []},
    }


def settings(**changes):
    return Train.model_validate({"holdout": 0, "max_length": 100_000, **changes})


def replayed(rows, tmp_path, tokens=1000, **changes):
    path = tmp_path / "chat.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    chosen = {"path": str(path), **changes.pop("replay", {})}
    examples, counts = mixture.replay(tokens, QWEN25, settings(replay=chosen, **changes), tmp_path)
    return SimpleNamespace(learned=list(examples), counts=counts)


CHAT = [{"messages": [user(f"What is {n} + 1?"), says(f"It is {n + 1}.")]} for n in range(200)]


# ------------------------------------------------------------------------------------- kept traces


def test_every_trace_is_learned_and_counted(tmp_path):
    mixed = mixture.mix([trace(n) for n in range(3)], QWEN25, settings(), tmp_path)
    assert list(mixed.held_out) == []
    counts = mixed.counts
    assert (counts["learned"], counts["held_out"]) == (3, 0)
    assert counts["tokens"] == counts["trace_tokens"] == 3 * len(mixed.learned[0].input_ids)
    assert counts["overflow"] == {
        "policy": "reject",
        "max_length": 100_000,
        "traces": 3,
        "traces_split": 0,
        "turns": 12,
        "turns_left_out": 0,
    }


def test_what_a_template_that_rewrites_history_costs_is_counted_and_reported(tmp_path):
    mixed = mixture.mix([trace()], QWEN3, settings(), tmp_path)
    counts = mixed.counts
    assert counts["learned"] == 4
    assert counts["trace_tokens"] == max(len(e.input_ids) for e in mixed.learned)
    assert counts["tokens"] > 3 * counts["trace_tokens"]
    counts["overflow"] |= {"traces_rejected": 2, "traces_judged": 9}
    traces, examples, rejected = mixture.lines(counts, 2)
    assert traces == (
        "1 kept traces = 1 to train on; the 1 trained on are 4 examples, because the template rewrites earlier turns"
    )
    assert examples.startswith("training on 4 examples of ")
    assert "times the tokens of their traces" in examples
    assert rejected == "2 of 9 traces were rejected as too long"


def test_a_smaller_sample_is_part_of_a_larger_one_and_keeps_the_order():
    traces = [{**trace(n), "id": f"legal-train-{n}-0"} for n in range(20)]
    samples = {
        n: list(mixture.sample(lambda: cast(list[Trace], traces), n)) for n in (3, 8, 20, 30, None)
    }
    assert samples[20] == samples[30] == samples[None] == traces
    for small, large in ((3, 8), (8, 20)):
        assert len(samples[small]) == small
        assert samples[small] == [row for row in samples[large] if row in samples[small]]
    assert samples[8] != traces[:8]  # files of traces begin with the tasks that were played first


def test_a_task_is_held_out_with_all_its_traces(tmp_path):
    mixed = mixture.mix([trace(n // 2) for n in range(40)], QWEN25, settings(holdout=0.3), tmp_path)
    assert mixed.counts["held_out"] % 2 == 0
    assert 0 < mixed.counts["held_out"] < 40 == mixed.counts["held_out"] + mixed.counts["learned"]


@pytest.mark.parametrize("renderer", [QWEN25, QWEN3], ids=["appends", "rewrites"])
def test_the_line_about_kept_traces_adds_up(renderer, tmp_path):
    short = [user("When?"), says("Never.")]
    limit = max(len(turn) for turn in turns(trace(messages=short), renderer))
    rows = [trace(n, messages=short) for n in range(37)] + [trace(n) for n in range(37, 40)]
    mixed = mixture.mix(
        rows, renderer, settings(holdout=0.2, max_length=limit, overflow="split"), tmp_path
    )
    used = mixed.counts["traces"]
    assert sum(used.values()) == 40 and used["left_out"] == 3 and used["held_out"] > 0
    assert (used["learned"], used["held_out"]) == (len(mixed.learned), len(mixed.held_out))
    mixed.counts["overflow"] |= {"traces_rejected": 0, "traces_judged": 40}
    assert mixture.lines(mixed.counts, 1)[0] == (
        f"40 kept traces = {used['learned']} to train on + {used['held_out']} held out to measure the loss"
        " (train.holdout) + 3 left out, no turn fits train.max_length"
    )
    del mixed.counts["traces"]  # of a run that did not count them
    assert mixture.lines(mixed.counts, 1)[0].startswith("training on ")


@pytest.mark.parametrize("renderer", [QWEN25, QWEN3], ids=["appends", "rewrites"])
def test_split_learns_the_turns_that_end_within_the_length_and_cuts_no_prompt(renderer, tmp_path):
    whole = turns(trace(), renderer)
    limit = len(whole[1])
    mixed = mixture.mix([trace()], renderer, settings(max_length=limit, overflow="split"), tmp_path)
    targets = stretches(list(mixed.learned))
    assert [labels for _, labels in targets] == [turn.target_ids for turn in whole[:2]]
    assert [prompt for prompt, _ in targets] == [turn.prompt_ids for turn in whole[:2]]
    assert max(len(e.input_ids) for e in mixed.learned) == limit
    overflow = mixed.counts["overflow"]
    assert (overflow["turns"], overflow["turns_left_out"], overflow["traces_split"]) == (4, 2, 1)
    overflow |= {"traces_rejected": 0, "traces_judged": 1}
    assert "2 of 4 turns end beyond" in mixture.lines(mixed.counts, 1)[2]


def test_split_learns_a_later_turn_that_fits_again_because_old_reasoning_is_dropped(tmp_path):
    messages = [
        user("When?"),
        says("Never.", reasoning_content="A long thought. " * 40),
        user("Sure?"),
        says("Yes.", reasoning_content="Clear."),
    ]
    first, second = turns(trace(messages=messages), QWEN3)
    assert len(second) < len(first)
    mixed = mixture.mix(
        [trace(messages=messages)],
        QWEN3,
        settings(max_length=len(second), overflow="split"),
        tmp_path,
    )
    assert [labels for _, labels in stretches(list(mixed.learned))] == [second.target_ids]


# ------------------------------------------------------------------------------------- replay


def test_a_replay_set_makes_up_its_share_of_all_tokens(tmp_path):
    mixed = replayed(CHAT, tmp_path, 20_000, replay={"ratio": 0.2, "licence": "MIT"})
    tokens = sum(len(e.input_ids) for e in mixed.learned)
    longest = max(len(e.input_ids) for e in mixed.learned)
    assert 0 <= tokens - 20_000 * 0.2 / 0.8 < longest
    counts = mixed.counts
    assert (counts["tokens"], counts["licence"], counts["rows"]) == (tokens, "MIT", 200)
    assert counts["used"] == counts["examples"] == len(mixed.learned) < 200
    assert counts["share"] == pytest.approx(0.2, abs=0.01)
    assert set(mixture.REPLAY) <= set(counts)


def test_a_small_replay_set_is_used_up_and_its_real_share_is_reported(tmp_path):
    counts = replayed(CHAT[:3], tmp_path, 100_000).counts
    assert counts["used"] == 3
    assert 0 < counts["share"] < 0.02


def test_the_draw_is_that_of_the_seed(tmp_path):
    one, again, other = (replayed(CHAT, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert one.learned == again.learned != other.learned


def test_rows_that_fail_the_checks_of_validate_or_the_template_are_counted(tmp_path):
    bad = [
        "{",
        {"messages": [user("?"), calls({"key": "a"})]},
        {"messages": [user("?"), says("")]},
        {"messages": [user([{"type": "image"}]), says("No.")]},
    ]
    good = {
        "messages": [user("?"), calls({"key": "a"}), result("{}"), says("Yes.")],
        "tools": TOOLS,
    }
    parsed = json.loads(json.dumps(good))
    parsed["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"key": "a"}
    mixed = replayed([*bad, good, parsed], tmp_path, 20_000)
    assert mixed.counts["rejected"] == {"malformed_trace": 2, "unknown_tool": 1, "empty_turn": 1}
    assert mixed.counts["used"] == 2
    assert mixed.learned[0].input_ids == mixed.learned[1].input_ids


def test_long_rows_are_left_out_and_counted(tmp_path):
    long = {"messages": [user("?" * 500), says("Yes.")]}
    mixed = replayed([long, *CHAT[:2]], tmp_path, 10_000, max_length=300)
    assert (mixed.counts["used"], mixed.counts["too_long"]) == (2, 1)


def test_a_replay_set_of_which_nothing_can_be_learned_stops_the_run(tmp_path):
    with pytest.raises(StageError, match="no row can be trained on: {'malformed_trace': 1}"):
        replayed(["{"], tmp_path)


@pytest.mark.parametrize("path", ["none.jsonl", "./none", "a/b/c", "/none", "none"])
def test_a_path_that_is_neither_a_file_nor_a_hubs_id_is_refused(path):
    with pytest.raises(
        InputError, match="no such file, expected a JSON Lines file or the hub's id"
    ):
        mixture.replay_file(path)
    assert mixture.replay_file("org/chats") is None


# ------------------------------------------------------------------------------------- in a run


def padded(number: int) -> str:
    """An answer; every third is far longer than train.max_length allows."""
    return f"C-{number} ends on 2 March 2027." + " It was signed." * (60 if number % 3 == 0 else 0)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "mine"
    random_llama(directory)
    return directory


def trained(student, directory, *overrides):
    """Runs filter and train on thirty traces as of a teacher. Returns ledger.json and examples.json."""
    from flows import recipe_file
    from flows.run_context import RunContext
    from flows.run_directory import Run
    from flows.stages import PIPELINE
    from schemas.files import read_json, write_jsonl
    from student.models import base
    from teacher.domain import pack
    from teacher.planning import hardware

    domain_pack = pack.load("legal")
    chosen = recipe_file.load(
        "local",
        [
            f"student={student}",
            "train.epochs=1",
            "train.batch_size=2",
            "train.holdout=0.3",
            *overrides,
        ],
    )
    with Run.open(directory, chosen, domain_pack.name, domain_pack.path) as run:
        context = RunContext(
            run, chosen, domain_pack, {}, base.load(chosen.student), hardware.find()
        )
        traces = [
            filter_traces.trace(
                n, request=f"Question {n}: " + "when, " * n + "is it over?", answer=padded(n)
            )
            for n in range(30)
        ]
        write_jsonl(context.path("tasks", "exam.jsonl"), [])
        write_jsonl(context.path("traces", "00000.jsonl.zst"), traces)
        for stage, output in (("plan", "tasks"), ("generate", "traces")):
            with run.stage(stage, {}, [context.path(output)]):
                pass
        PIPELINE["filter"].run(context)
        PIPELINE["train"].run(context)
        receipt = run.receipt("train")
        assert receipt and receipt["result"]["kept_step"] <= receipt["result"]["steps"]
        return (
            read_json(context.path("filter", "ledger.json")),
            read_json(context.path("train", "examples.json")),
        )


@pytest.mark.slow
def test_a_run_rejects_what_is_too_long_by_name(student, tmp_path):
    ledger, counts = trained(student, tmp_path / "run", "train.max_length=900")
    assert ledger["rejected"] == {"too_long": 10}
    assert ledger["kept"] == counts["overflow"]["traces"] == 20
    overflow = counts["overflow"]
    assert (overflow["traces_rejected"], overflow["traces_judged"]) == (10, 30)
    assert overflow["turns_left_out"] == 0


@pytest.mark.slow
def test_a_run_splits_mixes_in_and_stops_early(student, tmp_path):
    chat = tmp_path / "chat.jsonl"
    chat.write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    ledger, counts = trained(
        student,
        tmp_path / "run",
        "train.max_length=900",
        "train.overflow=split",
        "filter.max_tokens=4000",
        f"train.replay={{path: {chat}, ratio: 0.25}}",
        "train.patience=1",
        "train.save_steps=3",
        "train.epochs=3",
    )
    assert ledger["rejected"] == {}
    overflow = counts["overflow"]
    assert (overflow["traces"], overflow["traces_split"], overflow["turns_left_out"]) == (
        30,
        10,
        10,
    )
    assert counts["learned"] + counts["held_out"] == 30
    assert counts["replay"]["share"] == pytest.approx(0.25, abs=0.02)
