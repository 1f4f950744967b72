"""The plan says what fits, with which command, how long and for how much; what it does not know it does not say."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conversations import CONVERSATIONS, conversation, teacher_of
from vllm_parser import parse as parse_by_vllm
from vllm_parser import serve_arguments

from flows import recipe_file
from schemas.errors import InputError
from student.models import base
from student.training.memory import memory
from teacher.domain import pack as domain
from teacher.domain import tasks as sampled
from teacher.domain.unanswerable import swap_images
from teacher.models import catalog
from teacher.planning import cost
from teacher.planning.hardware import GIB, Hardware, parse
from teacher.planning.plan import Plan, plan
from teacher.planning.replicas import llama_servers
from teacher.scenes.images import ImageStore

KIMI_RECIPES = sorted(path.stem for path in recipe_file.RECIPES.glob("kimi-*.yaml"))


EXAM: Any = [{"plan": [{}] * 2}] * 20


def hardware_of(name: str, **known: int) -> Hardware:
    return replace(parse(name), **known)  # type: ignore[arg-type]


def made(
    name: str, machine: str | Hardware | None = "8xH200", *settings: str, tasks: Any = None
) -> Any:
    recipe = recipe_file.load(name, list(settings))
    hardware = parse(machine) if isinstance(machine, str) else machine
    hardware = hardware or Hardware(None, 0, host_memory=24 * GIB, cores=2)
    student = base.load(recipe.student)
    return plan(
        CONVERSATIONS if tasks is None else tasks,
        EXAM,
        teacher=teacher_of(recipe),
        student=student,
        recipe=recipe,
        hardware=hardware,
        training={**memory(student, recipe.train, hardware)},
    )


def text(planned: Plan) -> str:
    return "\n".join(planned["lines"])


def line(planned: Plan, label: str) -> str:
    matches = [line for line in planned["lines"] if line.startswith(f"{label:10}")]
    assert matches, f"no line {label!r} in {planned['lines']}"
    return matches[0]


# ------------------------------------------------------------------------------------- an embedded run


def test_an_embedded_run_is_planned_in_minutes_of_its_stages() -> None:
    planned = made("local", None)
    assert set(planned["seconds"]) == {"generate", "train", "evaluate", "the rest"}
    assert planned["fits"] and planned["teacher"]["fits"] and planned["student"]["fits"]
    assert planned["command"] is None
    assert planned["teacher"]["options"] == {"replicas": 1}
    assert "serve  " not in text(planned)
    assert "300 to solve" in line(planned, "tasks")
    assert "2 CPU cores" in line(planned, "machine")


def test_the_sub_agents_of_a_swarm_take_time_too() -> None:
    alone = [conversation()] * 10
    swarms = [replace(one, agents=(conversation(),) * 3) for one in alone]
    one_each, all_of_them = (made("local-swarm", None, tasks=tasks) for tasks in (alone, swarms))
    assert "10 to solve (" in line(one_each, "tasks")
    assert "10 to solve, with 30 sub-agents (" in line(all_of_them, "tasks")
    for stage in ("generate", "train"):
        ratio = all_of_them["seconds"][stage] / one_each["seconds"][stage]
        assert ratio == pytest.approx(4, rel=0.1), stage


def test_hardware_and_training_may_be_left_out() -> None:
    recipe = recipe_file.load("local")
    planned = plan(
        CONVERSATIONS,
        [],
        teacher=teacher_of(recipe),
        student=base.load(recipe.student),
        recipe=recipe,
    )
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
    planned = plan(
        CONVERSATIONS,
        [],
        teacher=teacher_of(recipe),
        student=base.load(recipe.student),
        recipe=recipe,
        hardware=odd,
    )
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
    assert line(planned, "fits") == "fits      it is already served at http://gpu-7:8000/v1"
    assert "written (estimate)" in line(planned, "tokens")
    planned = made("local", None, "teacher=openai")
    assert line(planned, "fits").endswith(
        catalog.load("openai", catalog.TEACHERS, "teacher")["source"]["url"]
    )


def test_a_teacher_without_memory_facts_is_not_guessed_at() -> None:
    recipe = recipe_file.load("kimi-k2.5-qwen3-32b")
    teacher = {k: v for k, v in teacher_of(recipe).items() if k != "memory"}
    planned = plan(
        CONVERSATIONS,
        [],
        teacher=teacher,
        student=base.load(recipe.student),
        recipe=recipe,
        hardware=parse("8xH200"),
    )
    assert planned["teacher"]["reason"] == "not planned: its description has no memory section"
    assert planned["teacher"]["options"] == {}


def test_the_plan_says_how_many_tasks_are_asked_again() -> None:
    seen = [conversation(2, blind=True)] * 24 + CONVERSATIONS
    for name, machine in (("kimi-k2.5-qwen3-32b", "8xH200"), ("local", None)):
        asked = made(name, machine, tasks=seen)
        assert "24 repeated without their images" in line(asked, "tasks")
        silent = made(name, machine, "generate.blind=false", tasks=seen)
        assert "repeated" not in line(silent, "tasks")
        assert silent["seconds"]["generate"] < asked["seconds"]["generate"]
        agreed = made(name, machine, "generate.hint=retry", "filter.agreement=2", tasks=seen)
        assert "all 2 attempts each" in line(agreed, "tasks")
        assert agreed["seconds"]["generate"] > asked["seconds"]["generate"]


def test_the_plan_says_of_the_student_what_was_found() -> None:
    planned = made("kimi-k2.5-llama-3.3-70b", "8xH200", "train.method=lora")
    assert planned["fits"] and not planned["student"]["fits"]
    assert planned["student"]["name"] == "llama-3.3-70b"
    assert "4-bit weights (QLoRA) would take" in line(planned, "student")
    for recipe in ("kimi-k2.5-qwen3-32b", "kimi-k2.5-llama-3.3-70b"):
        planned = made(recipe)
        assert planned["student"]["fits"] and "tokens/s" in line(planned, "student")


@pytest.mark.slow
def test_generation_of_the_embedded_run_is_planned_to_take_what_it_took(tmp_path: Path) -> None:
    """180 tasks. On two idle cores a run of 300 tasks took 284 s."""
    recipe, loaded, image_store = (
        recipe_file.load("local"),
        domain.load("legal"),
        ImageStore(tmp_path),
    )
    tasks = sampled.sample(
        loaded, "train", 180, seed=0, mix=recipe.tasks.mix, pixels=False, image_store=image_store
    )
    tasks = swap_images(tasks, loaded, share=recipe.tasks.swapped, image_store=image_store)
    measured = cost.measure(tasks, loaded, image_store, teacher="source", student="source")
    seconds = made("local", None, tasks=measured)["seconds"]
    assert seconds["generate"] == pytest.approx(284 * 180 / 300, rel=0.1)


def test_on_a_gpu_the_embedded_run_takes_less_and_least_without_a_grammar() -> None:
    machines = [(None, "true"), ("1xH200", "true"), ("1xH200", "false")]
    host, constrained, free = (
        made("local", machine, f"generate.constrain={constrain}")["seconds"]
        for machine, constrain in machines
    )
    assert host["generate"] > constrained["generate"] > free["generate"] > 0
    assert host["evaluate"] > constrained["evaluate"] == free["evaluate"]


def test_on_a_gpu_several_llama_servers_share_the_conversations_unless_the_recipe_says_how_many() -> (
    None
):
    host = hardware_of("1xH200", cores=16, host_memory=128 * GIB)
    constrained = ("generate.concurrency=64", "generate.constrain=true")
    planned = made("local", host, *constrained)
    assert planned["teacher"]["options"] == {"replicas": 8}
    assert "8 servers of llama.cpp with 8 conversations each" in line(planned, "serve")
    single = made("local", host, *constrained, "serve.replicas=1")
    assert single["teacher"]["options"] == {"replicas": 1}
    assert single["seconds"]["generate"] > planned["seconds"]["generate"]
    assert made("local", host)["teacher"]["options"] == {"replicas": 2}  # 8 conversations
    small = hardware_of("1xH200", cores=4, host_memory=128 * GIB)
    assert made("local", small, *constrained)["teacher"]["options"] == {"replicas": 2}
    full = made("local", small, "serve.replicas=90")
    assert not full["fits"] and "serve.replicas: 90 servers take" in line(full, "no fit")


def test_a_large_model_has_as_many_llama_servers_as_a_quarter_of_the_gpu_holds() -> None:
    host = hardware_of("1xH200", cores=64, host_memory=512 * GIB)
    assert [llama_servers(host, 64, size * GIB) for size in (1, 6, 16, 43)] == [16, 4, 2, 1]
    assert llama_servers(hardware_of("cpu-768GB", cores=96), 64, GIB) == 1


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


# ------------------------------------------------------------------------------------- settings of another teacher


def test_another_teacher_on_the_local_recipe_is_told_which_settings_still_hold() -> None:
    planned = made("local", None, "teacher=openai")
    assert line(planned, "warning").endswith(
        "generate.examples=2, constrain=true, toolbox=few, hint=always, max_tokens=80, temperature=0.2,"
        " preflight=false"
    )
    assert "--recipe api-teacher has none of them" in text(planned)
    half = made("local", None, "teacher=openai", "generate.constrain=false", "generate.examples=0")
    assert "api-teacher" not in text(half)


def test_recipes_without_such_settings_have_no_such_line() -> None:
    for name, machine in (
        ("api-teacher", None),
        ("kimi-k2.5-qwen3-32b", "8xH200"),
        ("local", None),
    ):
        assert "small teacher" not in text(made(name, machine))
