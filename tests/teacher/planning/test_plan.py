"""The plan says what fits, with which command, how long and for how much; what it does not know it does not say."""

import asyncio
import io
import json
import math
import shlex
from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from vllm_parser import parse as parse_by_vllm
from vllm_parser import serve_arguments

from flows import recipe_file
from schemas.errors import InputError
from schemas.recipe import Recipe, Train
from schemas.trace import Grounding
from student.models import base
from student.training.memory import activation_bytes, for_machine, layers_to_keep, memory
from teacher.domain import pack as domain
from teacher.domain import tasks as sampled
from teacher.domain.prompts import demonstration
from teacher.domain.unanswerable import swap_images
from teacher.inference.client import Reply
from teacher.models import catalog
from teacher.planning import cost
from teacher.planning.cost import Conversation, Shown
from teacher.planning.hardware import GIB, Gpu, Hardware, parse
from teacher.planning.plan import plan
from teacher.rollout import agent_loop
from teacher.rollout import blind_baseline as blind
from teacher.rollout.scheduler import rollouts
from teacher.scenes.images import ImageStore

KIMI_RECIPES = sorted(path.stem for path in recipe_file.RECIPES.glob("kimi-*.yaml"))


def task(calls: int = 2, prompt: float = 350.0, blind: bool = False) -> Conversation:
    shown = Shown(prompt, example=140.0, solution=60.0 * calls, result=20.0, longest=40.0)
    return Conversation(calls, shown, replace(shown, prompt=prompt - 100) if blind else None, shown)


EXAM: Any = [{"plan": [{}] * 2}] * 20


TASKS = [task(1), task(2), task(4)] * 100


def made(name: str, machine: str | None = "8xH200", *settings: str, tasks: Any = None) -> Any:
    recipe = recipe_file.load(name, list(settings))
    hardware = parse(machine) if machine else Hardware(None, 0, host_memory=24 * GIB, cores=2)
    student = base.load(recipe.student)
    return plan(
        TASKS if tasks is None else tasks,
        EXAM,
        teacher_of(recipe),
        student,
        recipe,
        hardware,
        memory(student, recipe.train, hardware),
    )


def teacher_of(recipe: Recipe) -> dict[str, Any]:
    return catalog.load(recipe.teacher, catalog.TEACHERS, "teacher")


def text(planned: dict[str, Any]) -> str:
    return "\n".join(planned["lines"])


def line(planned: dict[str, Any], label: str) -> str:
    found = [line for line in planned["lines"] if line.startswith(f"{label:10}")]
    assert found, f"no line {label!r} in {planned['lines']}"
    return found[0]


# ------------------------------------------------------------------------------------- an embedded run


def test_an_embedded_run_is_planned_in_minutes_of_its_stages() -> None:
    planned = made("local", None)
    assert set(planned["seconds"]) == {"generate", "train", "evaluate", "the rest"}
    assert planned["fits"] and planned["teacher"]["fits"] and planned["student"]["fits"]
    assert planned["command"] is None
    assert planned["teacher"]["options"] == {}
    assert "300 to solve" in line(planned, "tasks")
    assert "2 CPU cores" in line(planned, "machine")


def test_hardware_and_training_may_be_left_out() -> None:
    recipe = recipe_file.load("local")
    planned = plan(TASKS, [], teacher_of(recipe), base.load(recipe.student), recipe)
    assert planned["machine"]["cores"] >= 1
    assert planned["student"]["reason"] == "not planned"


# ------------------------------------------------------------------------------------- a teacher that fits


@pytest.mark.parametrize("name", KIMI_RECIPES)
def test_every_kimi_recipe_is_planned_on_eight_h200(name: str) -> None:
    planned = made(name)
    assert planned["fits"]
    assert planned["teacher"]["options"] == {
        "tensor_parallel": 8,
        "decode_context_parallel": 8,
        "nodes": 1,
        "max_model_len": planned["teacher"]["context"],
    }
    for label in ("fits", "serve", "tokens", "time", "student", "advice"):
        assert line(planned, label)
    assert "Kimi K2.6 is the recommended teacher for new work" in text(planned)
    assert "13 min of it to load" in line(planned, "time")
    assert all("\n" not in one for one in planned["lines"])


def test_what_is_an_estimate_says_so() -> None:
    planned = made("kimi-k2.5-qwen3-32b", "8xH200", "serve.price_per_gpu_hour=3")
    for label in ("tokens", "time", "money", "student"):
        assert "estimate" in line(planned, label)
    assert "about" in line(planned, "fits")
    assert "measured on 8xH200" in line(planned, "time")


def test_money_is_gpu_hours_times_the_price_and_is_not_mentioned_without_one() -> None:
    planned = made("kimi-k2.5-qwen3-32b", "8xH200", "serve.price_per_gpu_hour=2.5")
    teacher = planned["teacher"]
    assert teacher["cost"] == [
        pytest.approx(2.5 * hours, abs=0.01) for hours in teacher["gpu_hours"]
    ]
    assert teacher["gpu_hours"] == [
        pytest.approx(8 * seconds / 3600, abs=0.1) for seconds in teacher["seconds"]
    ]
    assert "money" not in text(made("kimi-k2.5-qwen3-32b"))


def test_the_command_carries_the_chosen_degrees_and_the_recipes_own_arguments() -> None:
    planned = made(
        "kimi-k2.5-qwen3-32b", "8xH200", "serve.tensor_parallel=4", "serve.arguments=[--seed=7]"
    )
    assert not planned["fits"]  # 4 H200 do not hold it, and the recipe's word is kept
    planned = made("kimi-k2.5-qwen3-32b", "8xB200", "serve.tensor_parallel=4")
    words = shlex.split(planned["command"])
    assert words[words.index("--tensor-parallel-size") + 1] == "4"
    assert words[words.index("--max-model-len") + 1] == str(planned["teacher"]["context"])
    assert "moonshotai/Kimi-K2.5" in words


def test_two_machines_are_joined_and_the_recipe_is_told() -> None:
    planned = made("kimi-k2.5-qwen3-32b", "2x8xH100")
    assert planned["teacher"]["options"]["nodes"] == 2
    assert "ray start" in planned["command"]
    assert line(planned, "set") == "set       serve.nodes=2"
    assert "set  " not in text(made("kimi-k2.5-qwen3-32b", "2x8xH100", "serve.nodes=2"))


def test_a_gpu_that_nobody_measured_gets_a_fit_and_no_time() -> None:
    recipe = recipe_file.load("kimi-k2.5-qwen3-32b")
    gpu = parse("H200").gpu
    assert gpu
    odd = Hardware(type(gpu)("Odd", gpu.memory, None, None, True), 8)
    planned = plan(TASKS, [], teacher_of(recipe), base.load(recipe.student), recipe, odd)
    assert planned["fits"] and planned["teacher"]["seconds"] is None
    assert line(planned, "time") == (
        "time      not known: no measurement of this teacher on such a machine"
    )


def test_a_limit_that_would_cut_thinking_short_is_warned_of() -> None:
    assert "warning" not in text(made("kimi-k2.5-qwen3-32b"))
    assert "16,384 or more" in line(
        made("kimi-k2.5-qwen3-32b", "8xH200", "generate.max_tokens=512"), "warning"
    )


# ------------------------------------------------------------------------------------- and one that does not


@pytest.mark.parametrize("machine", ["8xH100-80GB", "4xH100", "8xA100", "cpu-768GB", None])
def test_where_it_does_not_fit_the_plan_says_what_would(machine: str | None) -> None:
    planned = made("kimi-k2.5-qwen3-32b", machine)
    assert not planned["fits"] and not planned["teacher"]["fits"]
    assert planned["command"] is None
    assert planned["teacher"]["reason"] in line(planned, "no fit")
    assert line(planned, "instead")
    assert "8xH200: about" in text(planned)
    assert "UD-Q4_K_XL (584 GB" in text(planned)
    assert "these traces from a CPU host" in text(planned)
    assert "serve     " not in text(planned) and "GPU-hours" not in text(planned)


def test_degrees_that_no_machine_can_serve_are_bad_input() -> None:
    with pytest.raises(InputError, match=r"serve\.tensor_parallel: found 3"):
        made("kimi-k2.5-qwen3-32b", "8xH200", "serve.tensor_parallel=3")


# ------------------------------------------------------------------------------------- served already


def test_a_served_url_needs_no_gpu_and_gets_no_command() -> None:
    planned = made("kimi-k2.5-qwen3-32b", None, "serve.url=http://gpu-7:8000/v1")
    assert planned["teacher"]["fits"] and planned["command"] is None
    assert line(planned, "fits") == "fits      it is served already at http://gpu-7:8000/v1"
    assert "written (estimate)" in line(planned, "tokens")
    planned = made("local", None, "teacher=openai")
    assert line(planned, "fits").endswith(
        catalog.load("openai", catalog.TEACHERS, "teacher")["source"]["url"]
    )


def test_a_teacher_without_memory_facts_is_not_guessed_at() -> None:
    recipe = recipe_file.load("kimi-k2.5-qwen3-32b")
    teacher = {k: v for k, v in teacher_of(recipe).items() if k != "memory"}
    planned = plan(TASKS, [], teacher, base.load(recipe.student), recipe, parse("8xH200"))
    assert planned["teacher"]["reason"] == "not planned: its description has no memory section"
    assert planned["teacher"]["options"] == {}


# ------------------------------------------------------------------------------------- estimates


def context(*settings: str, tasks: Any = None) -> int:
    recipe = recipe_file.load("kimi-k2.5-qwen3-32b", list(settings))
    return cost.context_needed(tasks or TASKS, teacher_of(recipe), recipe)


def test_the_context_is_the_longest_prompt_and_every_step_at_its_longest() -> None:
    steps, reply = "generate.max_steps=3", "generate.max_tokens=1000"
    shortest = context(steps, reply)
    assert 3 * 1000 < shortest < 3 * 1000 + 3 * 1000
    assert context("generate.max_steps=6", reply) - shortest == pytest.approx(3 * 1500, abs=1024)
    longer = [task(prompt=10_350.0)]
    assert context(steps, reply, tasks=longer) - shortest == pytest.approx(10_000, abs=1200)
    assert context("generate.max_steps=1000") == 262_144
    assert shortest % 1024 == 0


def amounts(*settings: str, tasks: Any = None) -> dict[str, list[int]]:
    recipe = recipe_file.load("kimi-k2.5-qwen3-32b", list(settings))
    return cost.tokens(TASKS if tasks is None else tasks, teacher_of(recipe), recipe)


def test_tokens_grow_with_tasks_steps_and_attempts_and_less_is_written_without_thinking() -> None:
    plain = amounts()
    assert all(low <= high for low, high in plain.values())
    assert plain["traces"] == [300, 600]
    assert amounts(tasks=TASKS * 2)["output_tokens"] == [2 * n for n in plain["output_tokens"]]
    assert amounts(tasks=[task(8)] * 300)["output_tokens"][0] > plain["output_tokens"][0]
    once = amounts("generate.attempts=1")
    assert once["output_tokens"][0] == plain["output_tokens"][0]
    assert once["output_tokens"][1] == plain["output_tokens"][1] / 2
    instant = amounts("generate.mode=instant")
    assert all(instant["output_tokens"][end] < plain["output_tokens"][end] for end in (0, 1))
    assert amounts(tasks=[])["output_tokens"] == [0, 0]


def test_tasks_asked_again_without_their_pictures_and_attempts_that_must_agree_are_counted() -> (
    None
):
    seen = [task(2, blind=True)] * 100
    plain, again = amounts("generate.blind=false", tasks=seen), amounts(tasks=seen)
    # 100 prompts of 250 tokens, answered at once; or as long a conversation as the other, read and written once more.
    assert again["prompt_tokens"][0] - plain["prompt_tokens"][0] == 100 * 250
    assert again["prompt_tokens"][1] - plain["prompt_tokens"][1] == pytest.approx(
        plain["prompt_tokens"][1] / 2, abs=100 * 100
    )
    assert again["output_tokens"][0] == pytest.approx(plain["output_tokens"][0] * 4 / 3)
    assert again["output_tokens"][1] == pytest.approx(plain["output_tokens"][1] * 3 / 2)
    assert again["traces"] == plain["traces"] == [100, 200]
    assert amounts(tasks=[task(2)] * 100) == plain
    agreed = amounts("generate.blind=false", "filter.agreement=2", tasks=seen)
    assert agreed["traces"] == [200, 200]
    assert agreed["output_tokens"] == [2 * plain["output_tokens"][0], plain["output_tokens"][1]]
    assert agreed["trace_tokens"] == plain["trace_tokens"]


def test_the_plan_says_how_many_tasks_are_asked_again() -> None:
    seen = [task(2, blind=True)] * 24 + TASKS
    for name, machine in (("kimi-k2.5-qwen3-32b", "8xH200"), ("local", None)):
        asked = made(name, machine, tasks=seen)
        assert "24 asked again without their pictures" in line(asked, "tasks")
        silent = made(name, machine, "generate.blind=false", tasks=seen)
        assert "asked again" not in line(silent, "tasks")
        assert silent["seconds"]["generate"] < asked["seconds"]["generate"]
        agreed = made(name, machine, "filter.agreement=2", tasks=seen)
        assert "all 2 attempts each" in line(agreed, "tasks")
        assert agreed["seconds"]["generate"] > asked["seconds"]["generate"]


def test_no_trace_is_longer_than_the_context_that_is_served() -> None:
    assert amounts()["trace_tokens"][1] < context()
    # A reply cannot be longer than it is allowed to be.
    assert amounts("generate.max_tokens=100")["output_tokens"][1] <= 600 * 8 * 100


def test_the_measured_mix_takes_the_measured_time() -> None:
    # 994 requests of 8,000 and 442 tokens took 631 s on 8xH200 (vllm-project/recipes, Kimi-K2-Think.md).
    rates = {"prompt": [13_290 - 695] * 2, "output": [695] * 2}
    mix = {"prompt_tokens": [7_952_000] * 2, "output_tokens": [438_872] * 2}
    least, most = cost.seconds(mix, rates)
    assert least == pytest.approx(631, rel=0.01)
    assert most == pytest.approx(2 * 631, rel=0.01)


# ------------------------------------------------------------------------------------- and what is really sent


class Solver:
    """Answers like a client whose teacher follows the plans, and keeps the last request of each conversation."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        self.tasks = {task["id"]: task for task in tasks}
        self.last: dict[str, tuple[list[dict], list[dict]]] = {}

    async def complete(
        self, messages: list[dict], tools: list[dict], sample: int, session: str, **_: Any
    ) -> Reply:
        self.last[session] = (messages, tools)
        solved = self.tasks[session.rsplit("/", 1)[0]]
        asked = max(n for n, message in enumerate(messages) if message["role"] == "user")
        step = sum(message["role"] == "tool" for message in messages[asked:])
        message: dict[str, Any] = {"role": "assistant", "content": solved["reply"]}
        if step < len(solved["plan"]):
            call = solved["plan"][step]
            function = {"name": call["tool"], "arguments": json.dumps(call["arguments"])}
            message = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
        return Reply("key", message, "stop", 0.0, {"prompt_tokens": 0, "completion_tokens": 0})

    def tokens(self, album: ImageStore) -> float:
        """Of the last requests, each of which holds all of its conversation."""
        total = 0.0
        for messages, tools in self.last.values():
            total += len(json.dumps(tools)) / 3.7
            for message in messages:
                total += 5
                for call in message.get("tool_calls", []):
                    total += 5 + len(call["function"]["name"] + call["function"]["arguments"]) / 2.6
                parts = message["content"]
                if isinstance(parts, str):
                    parts = [{"type": "text", "text": parts}]
                for part in parts:
                    if part["type"] == "text":
                        rest, *pictures = part["text"].split("[Image: ")
                        rate = 2.6 if message["role"] == "tool" else 3.7
                        total += len(rest) / rate + len("".join(pictures)) / 2.6
                    else:
                        png = album.png(part["image_url"]["url"].removeprefix("sha256:"))
                        width, height = Image.open(io.BytesIO(png)).size
                        total += math.ceil(width / 28) * math.ceil(height / 28)
        return total


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("legal", "tech-research")]


@pytest.fixture(scope="module", params=["code-review", *_SLOW])
def pack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A pack, tasks of it with many pictures, and their album."""
    loaded, album = domain.load(request.param), ImageStore(tmp_path_factory.mktemp("album"))
    mix = dict.fromkeys(loaded.spec["kinds"], 1.0)
    return loaded, sampled.sample(loaded, "train", 20, seed=0, mix=mix, album=album), album


@pytest.mark.parametrize("images", ["pixels", "source"])
def test_what_is_estimated_of_a_packs_conversations_is_what_is_sent(
    pack: Any, images: Grounding
) -> None:
    loaded, tasks, album = pack
    maker = {"model": "m", "revision": "r", "engine": "openai", "licence": "l"}
    settings = agent_loop.Settings(8, 512, 0.0, 1.0, images=images, album=album)
    shown = {
        name: [sampled.build(loaded, name, "train", 400_000_000 + n, album=album) for n in range(2)]
        for name in {task["template"] for task in tasks}
    }

    def examples(task: dict[str, Any], hinted: bool) -> list[list[dict[str, Any]]]:
        return [demonstration(one, loaded, album=album) for one in shown[task["template"]]]

    asked, again = Solver(tasks), Solver(tasks)

    async def run() -> None:
        made = rollouts(tasks, loaded, asked, settings, maker, 4, examples=examples)  # type: ignore[arg-type]
        traces = [trace async for trace in made]
        assert all(agent_loop.passed(trace) for trace in traces)
        await blind.check(traces, tasks, loaded, again, settings, maker, 4, examples)  # type: ignore[arg-type]

    asyncio.run(run())
    measured = cost.measure(tasks, loaded, album, shown=images, read="source")

    def estimated(shown: Shown) -> float:
        return shown.prompt + 2 * shown.example + shown.solution

    assert sum(one.blind is not None for one in measured) == len(again.last) > 3
    assert sum(estimated(one.shown) for one in measured) == pytest.approx(
        asked.tokens(album), rel=0.08
    )
    assert sum(estimated(one.blind) for one in measured if one.blind) == pytest.approx(
        again.tokens(album), rel=0.08
    )


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    # By transformers' Kimi_K25ImageProcessor: a page of A4 at 150 dpi, a screen, the largest that is drawn here.
    [
        (1240, 1754, 2835),
        (640, 480, 414),
        (28, 28, 1),
        (29, 28, 2),
        (2048, 1500, 3996),
        (2048, 2048, 4225),
    ],
)
def test_a_picture_takes_a_token_for_each_square_of_28_pixels(
    width: int, height: int, tokens: int
) -> None:
    size = {"width": width, "height": height}
    assert cost.picture_tokens(size) == pytest.approx(tokens, rel=0.04)


@pytest.mark.slow
def test_the_embedded_run_is_planned_to_take_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of 180 tasks on two idle cores with AVX-512: generation took 500 s, training 493 s."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    recipe, loaded, album = recipe_file.load("local"), domain.load("legal"), ImageStore(tmp_path)
    tasks = sampled.sample(
        loaded, "train", 180, seed=0, mix=recipe.tasks.mix, pixels=False, album=album
    )
    tasks = swap_images(tasks, loaded, share=recipe.tasks.swapped, album=album)
    measured = cost.measure(tasks, loaded, album, shown="source", read="source")
    seconds = made("local", None, tasks=measured)["seconds"]
    assert seconds["generate"] == pytest.approx(500, rel=0.1)
    assert seconds["train"] == pytest.approx(493, rel=0.1)


# ------------------------------------------------------------------------------------- the student


def training(**settings: Any) -> Train:
    return Train(**{"batch_size": 1, "max_length": 2048} | settings)


@pytest.mark.parametrize(
    ("student", "batch", "peak", "tokens_s"),
    # TRL on one H100, 2,048 tokens, rank 16, 4 bits: peak GiB and, with Liger's kernels, tokens/s. Dropout keeps the
    # layers from being fused.
    [("qwen3-32b", 4, 26.9, None), ("qwen3-32b", 8, 33.9, 2419), ("llama-3.3-70b", 4, 50.6, 1188)],
)
def test_four_bit_training_takes_what_was_measured_on_an_h100(
    student: str, batch: int, peak: float, tokens_s: float | None
) -> None:
    settings = training(method="qlora", batch_size=batch, dropout=0.05)
    found = memory(base.load(student), settings, parse("1xH100"))
    assert found["fits"] and found["batch"] is None
    assert found["peak_bytes"] / GIB == pytest.approx(peak, rel=0.05)
    assert found["peak_bytes"] == sum(found["parts"].values())
    if tokens_s:
        assert found["tokens_s"] == pytest.approx(tokens_s, rel=0.07)


@pytest.mark.parametrize(
    ("student", "tokens", "kept", "peak"),
    # Fused layers on one H100 (benchmarks/qlora.md): peak GiB. In long sequences what is planned is a little more.
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
    taken = (
        parts["weights"]
        + parts["trained"]
        + tokens * (kept * whole + (shape["layers"] - kept) * least)
    )
    # The least memory with which so many layers can be kept is what they take.
    free = bisect_left(range(80 * GIB), kept, key=lambda n: layers_to_keep(shape, tokens, n))
    planned = parts["weights"] + parts["trained"] + free
    assert planned > taken
    assert peak * 0.99 < planned / GIB < peak * (1.03 if tokens < 8192 else 1.08)


@pytest.mark.parametrize(
    ("student", "tokens_s"), [("qwen3-32b", (3800, 4200)), ("llama-3.3-70b", (1750, 1900))]
)
def test_a_batch_is_chosen_that_keeps_every_layer_where_that_fits(
    student: str, tokens_s: tuple[float, float]
) -> None:
    found = memory(base.load(student), training(method="qlora"), parse("1xH100"))
    shape = base.load(student)["shape"]
    assert found["batch"]["layers_kept"] == shape["layers"]
    assert found["batch"]["tokens"] >= 2048
    assert tokens_s[0] < found["tokens_s"] < tokens_s[1]
    assert found["peak_bytes"] < 77.2 * GIB
    assert f"{found['batch']['tokens']:,} tokens at a time with all layers kept" in found["reason"]


def test_a_card_of_24_gib_trains_32b_and_one_of_48_trains_70b_by_running_layers_again() -> None:
    card = Gpu("a card", int(23.6 * GIB), None, None, True)
    found = memory(
        base.load("qwen3-32b"), training(method="qlora", max_length=1024), Hardware(card, 1)
    )
    assert found["fits"] and 0 <= found["batch"]["layers_kept"] < 64
    card = Gpu("a card", int(47.4 * GIB), None, None, True)
    found = memory(base.load("llama-3.3-70b"), training(method="qlora"), Hardware(card, 1))
    assert found["fits"] and 0 <= found["batch"]["longest_layers_kept"] < 80


def test_a_sequence_whose_inputs_do_not_fit_waits_in_the_hosts_memory() -> None:
    found = memory(
        base.load("qwen3-32b"), training(method="qlora", max_length=80000), parse("1xH100")
    )
    assert found["fits"] and found["batch"]["longest_layers_kept"] == -1
    assert "an example of 80,000 with every layer run again, their inputs in" in found["reason"]
    longer = training(method="qlora", max_length=300000)
    found = memory(base.load("qwen3-32b"), longer, parse("1xH100"))
    assert not found["fits"]
    assert found["advice"].startswith("train.max_length=2048 would take about")


def test_a_student_that_does_not_fit_is_told_what_would() -> None:
    found = memory(base.load("llama-3.3-70b"), training(), parse("8xH100"))
    assert not found["fits"]
    assert "more than the 77.2 GiB of one H100-80GB" in found["reason"]
    assert found["advice"].startswith("4-bit weights (QLoRA) would take about")
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
    found = memory(base.load("smollm2-135m"), training(), parse("cpu"))
    assert (found["fits"], found["peak_bytes"], found["advice"]) == (True, None, None)
    assert found["tokens_s"] > 0


def test_the_plan_says_of_the_student_what_was_found() -> None:
    planned = made("kimi-k2.5-llama-3.3-70b", "8xH200", "train.method=lora")
    assert planned["fits"] and not planned["student"]["fits"]
    assert planned["student"]["name"] == "llama-3.3-70b"
    assert "4-bit weights (QLoRA) would take" in line(planned, "student")
    for recipe in ("kimi-k2.5-qwen3-32b", "kimi-k2.5-llama-3.3-70b"):
        planned = made(recipe)
        assert planned["student"]["fits"] and "tokens/s" in line(planned, "student")


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


# ------------------------------------------------------------------------------------- vLLM's own word


@pytest.mark.slow
@pytest.mark.alone
def test_vllms_own_parser_takes_the_command_of_every_kimi_recipe() -> None:
    cases = [(name, "8xH200", "serve.replicas=1") for name in KIMI_RECIPES]
    cases += [(KIMI_RECIPES[0], "2x8xH100", "serve.kv_cache_dtype=fp8")]
    cases += [(KIMI_RECIPES[0], "8xB200", "serve.replicas=2")]
    plans = [made(*case) for case in cases]
    commands = [
        (planned["teacher"]["options"], serve_arguments(shown))
        for planned in plans
        for shown in planned["command"].splitlines()
        if " vllm serve " in shown
    ]
    assert len(commands) == len(cases) + 1
    for (chosen, _), parsed in zip(commands, parse_by_vllm([c for _, c in commands]), strict=True):
        assert "error" not in parsed, parsed
        assert parsed["tensor_parallel_size"] == chosen["tensor_parallel"]
        assert parsed["decode_context_parallel_size"] == chosen["decode_context_parallel"]
        assert parsed["pipeline_parallel_size"] == chosen["nodes"]
        assert parsed["max_model_len"] == chosen["max_model_len"]


@pytest.mark.parametrize(
    ("wanted", "gpu", "capability", "taken"),
    [
        ("auto", True, "AVX2", "bfloat16"),
        ("auto", False, "AVX512", "bfloat16"),
        ("auto", False, "AVX2", "float32"),
        ("auto", False, "SVE256", "float32"),
        ("bfloat16", False, "AVX2", "bfloat16"),
        ("float32", True, "AVX512", "float32"),
    ],
)
def test_weights_are_in_bfloat16_where_the_machine_computes_in_it_or_the_recipe_says_so(
    wanted: str, gpu: bool, capability: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    settings = Train(dtype=wanted, rank=7)  # type: ignore[arg-type]
    assert for_machine(settings, gpu) == Train(dtype=taken, rank=7)  # type: ignore[arg-type]
