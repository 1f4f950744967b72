"""Tasks with images: proven against the drawn images, shown as pixels or in words, stored by hash."""

import asyncio
import base64
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import visual_pack
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Line, Scripted, calls, says

from schemas.documents import check_document
from schemas.errors import InputError, StageError
from schemas.messages import check_messages
from teacher.domain import Answer, Domain, tasks
from teacher.domain.prompts import demonstration
from teacher.domain.scoring import answer_matches
from teacher.domain.tasks import build, sample
from teacher.domain.unanswerable import swap_images
from teacher.inference.client import Client
from teacher.inference.journal import Journal
from teacher.rollout import agent_loop, blind_baseline
from teacher.rollout.agent_loop import Settings
from teacher.rollout.scheduler import no_examples
from teacher.scenes import images as images_module
from teacher.scenes.images import ImageStore

TEACHER: Any = {"model": "m", "revision": "r", "engine": "vllm", "licence": "Apache-2.0"}
LOOP = Settings(max_steps=6, max_tokens=80, temperature=0.2, top_p=0.95)
LIMITS = {"max_count": 2, "max_bytes": 4_000_000}
Task = Any


@pytest.fixture(scope="module")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("run") / "images")


@pytest.fixture(scope="module")
def fees(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return visual_pack.write(tmp_path_factory.mktemp("pack") / "fees")


@pytest.fixture(scope="module")
def train(fees: Domain, image_store: ImageStore) -> list[Task]:
    """Tasks of every template."""
    return sample(fees, "train", 24, seed=0, image_store=image_store)


@pytest.fixture(scope="module")
def page(fees: Domain, image_store: ImageStore) -> Task:
    return build(fees, "fee_on_page", "train", 3, image_store=image_store)


@pytest.fixture(scope="module")
def stored_note(fees: Domain, image_store: ImageStore) -> Task:
    return build(fees, "fee_of_stored_note", "train", 5, image_store=image_store)


def play(
    fees: Domain, task: Task, script: list[Line], tmp_path: Path, loop: Settings, **more: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """The trace of an episode with a scripted server, and the requests to that server."""

    async def scene() -> tuple[Any, list[dict[str, Any]]]:
        async with Scripted(script) as server:
            journal = Journal(tmp_path / "journal")
            identity = {"model": "m", "revision": "r"}
            async with Client(
                server.endpoint(), identity, journal, 2, 10, loop.image_store
            ) as client:
                trace = await agent_loop.run(task, fees, client.complete, loop, TEACHER, **more)
            journal.close()
            return trace, server.requests

    trace, requests = asyncio.run(scene())
    check_document(trace, "trace", "trace")
    return trace, requests


def plan(task: Task) -> list[Line]:
    return [*(calls(s["tool"], s["arguments"]) for s in task["plan"]), says(task["reply"])]


def parts(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part for part in message["content"] if part["type"] == kind]


# ------------------------------------------------------------------------------------- tasks


def test_a_task_names_its_pictures_and_the_cells_that_its_question_uses(
    page: Task, image_store: ImageStore
) -> None:
    check_document(page, "task", page["id"])
    (image,) = page["pictures"]
    assert page["cells"] == [[0, "fields.Fee due"]]
    about = image_store.description(image["sha256"])
    assert (about["kind"], about["variant"]) == ("document", "letter")
    assert (about["width"], about["height"]) == (image["width"], image["height"])
    cell = next(cell for cell in about["cells"] if cell["key"] == "fields.Fee due")
    assert answer_matches(page["checks"]["answer"], cell["text"])
    assert hashlib.sha256(image_store.png(image["sha256"])).hexdigest() == image["sha256"]


def test_the_pictures_of_a_task_are_the_same_files_each_time(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    again = ImageStore(tmp_path)
    assert build(fees, "fee_on_page", "train", 3, image_store=again) == page
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (image_store.directory / file.name).read_bytes()


def test_all_templates_are_proven_in_both_splits(
    fees: Domain, image_store: ImageStore, train: list[Task]
) -> None:
    for rows in (train, sample(fees, "exam", 24, seed=0, image_store=image_store)):
        assert {task["template"] for task in rows} == set(fees.templates)
        for task in rows:
            check_document(task, "task", task["id"])
            assert not image_store.missing(p["sha256"] for p in task.get("pictures", []))


def test_who_reads_what_pictures_show_is_asked_for_no_point(
    fees: Domain, image_store: ImageStore
) -> None:
    tasks = sample(fees, "train", 24, seed=0, pixels=False, image_store=image_store)
    assert "where_is_the_fee" not in {task["template"] for task in tasks}


def test_a_picture_that_is_gone_or_damaged_is_named(
    page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    name = page["pictures"][0]["sha256"]
    with pytest.raises(StageError, match=rf"{name}\.png: no such image"):
        ImageStore(tmp_path).png(name)
    (tmp_path / f"{name}.png").write_bytes(image_store.png(name)[:-1])
    with pytest.raises(StageError, match=rf"{name}\.png: damaged: its sha256 is not its name"):
        ImageStore(tmp_path).png(name)


@pytest.mark.parametrize(
    ("template", "old", "new", "problem"),
    [
        (
            "fee_on_page",
            'reply=f"The fee due is EUR {world._fee:,}."',
            'reply=f"The fee due is EUR {world._fee + 1:,}."',
            "its own reply does not give its answer",
        ),
        (
            "fee_on_page",
            'reply=f"The fee due is EUR {world._fee:,}.",',
            'reply=f"It is EUR {world._fee + 1:,}.", answer=Answer("amount", world._fee + 1),',
            "and its program computes",
        ),
        (
            "fee_on_page",
            '"What is the fee due on this page?"',
            'f"Is {world._fee} the fee due on this page?"',
            "the request already contains the answer",
        ),
        ("fee_on_page", '"variant": "letter",', '"variant": "poster",', "image 0 (document): "),
        (
            "where_is_the_fee",
            '@template(kind="document", pixels=True)',
            '@template(kind="document")',
            "asks for a point: expected @template(..., pixels=True)",
        ),
        (
            "fee_of_stored_note",
            'return Scene("document", data',
            'return Scene("poster", data',
            "the image that get_note returns (poster): kind: 'poster'",
        ),
    ],
)
def test_a_task_whose_pictures_do_not_prove_it_is_refused_in_one_line(
    tmp_path: Path, template: str, old: str, new: str, problem: str
) -> None:
    if not problem:  # the program itself cannot be stored: a bug of the pack, reported at its place
        return
    domain = visual_pack.write(tmp_path / "fees", (old, new))
    with pytest.raises(InputError) as raised:
        build(domain, template, "train", 3)
    message = str(raised.value)
    assert problem in message and "\n" not in message
    assert f"{template}: seed 3 (train)" in message


@pytest.mark.parametrize("spoilt", [2, 100])
def test_a_seed_that_is_drawn_badly_is_passed_over_but_not_three_in_a_row(
    fees: Domain, monkeypatch: pytest.MonkeyPatch, spoilt: int
) -> None:
    left = iter([["cell 'title': unreadable"]] * spoilt)
    monkeypatch.setattr(tasks, "check", lambda image: next(left, []))
    if spoilt > 2:
        with pytest.raises(InputError, match="unreadable"):
            sample(fees, "train", 4, seed=0)
    else:
        assert len(sample(fees, "train", 4, seed=0)) == 4


def test_a_question_about_a_cell_that_is_not_drawn_is_refused(tmp_path: Path) -> None:
    # The data holds it, so the program runs; the drawing has another note, without it.
    domain = visual_pack.write(
        tmp_path / "fees",
        (
            '        pictures=[note],\n        program={"op": "lookup"',
            '        pictures=[Scene("document", {k: v for k, v in note.data.items() if k != "fields"}, 1)],\n'
            '        program={"op": "lookup"',
        ),
    )
    with pytest.raises(InputError) as raised:
        build(domain, "fee_on_page", "train", 3)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'fees' / 'visual.py'}: fee_on_page: seed 3 (train): ")
    assert message.endswith(
        "program: fields.Fee due: expected a cell that image 0 (document) shows"
    )


def test_a_template_of_both_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"visual\.py: fee_of_stored_note: environment\.py has"):
        visual_pack.write(tmp_path / "fees", ("def paid_page(", "def fee_of_stored_note("))


# ------------------------------------------------------------------------------------- swapped


def test_a_swapped_task_shows_a_picture_without_what_is_asked_for(
    fees: Domain, image_store: ImageStore, train: list[Task]
) -> None:
    tasks = train
    visual = [task for task in tasks if "pictures" in task]
    rows = swap_images(tasks, fees, share=0.25, image_store=image_store)
    assert swap_images(tasks, fees, share=0.25, image_store=image_store) == rows
    swapped = [task for task in rows if "swapped" in task]
    assert len(swapped) == round(0.25 * len(visual))
    originals = {f"{task['id']}-swapped": task for task in tasks}
    for task in swapped:
        check_document(task, "task", task["id"])
        original = originals[task["id"]]
        assert task["request"] == original["request"] and task["plan"] == []
        (image,) = task["pictures"]
        assert image["kind"] == original["pictures"][0]["kind"]
        shown = {cell["key"] for cell in image_store.description(image["sha256"])["cells"]}
        assert not shown & {key for _, key in original["cells"]}
        answer = task["checks"]["answer"]
        assert answer and answer_matches(answer, task["reply"])
        assert not answer_matches(answer, original["reply"])
    assert [t for t in rows if "swapped" not in t] == [t for t in tasks if t in rows]


def test_with_no_share_nothing_is_swapped(
    fees: Domain, image_store: ImageStore, train: list[Task]
) -> None:
    assert swap_images(train, fees, share=0, image_store=image_store) == train


# ------------------------------------------------------------------------------------- what is sent


def test_pixels_are_sent_as_data_urls_and_stored_by_hash(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, images="pixels", image_store=image_store, image_limits=LIMITS)
    trace, requests = play(fees, page, plan(page), tmp_path, loop)
    assert agent_loop.passed(trace)
    image, text = requests[0]["messages"][1]["content"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    name = page["pictures"][0]["sha256"]
    assert hashlib.sha256(base64.b64decode(data)).hexdigest() == name
    assert text == {"type": "text", "text": page["request"]}
    assert trace["messages"][1]["content"] == [{"type": "image"}, text]
    assert (trace["images"], trace["grounding"]) == ([name], "pixels")
    assert check_messages(trace["messages"], trace["tools"], trace["images"])["kept"]
    for kept in (json.dumps(trace), *(f.read_text() for f in (tmp_path / "journal").iterdir())):
        assert "base64" not in kept and data[:60] not in kept


def test_a_teacher_that_reads_is_sent_one_text_with_what_the_picture_shows(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, images="source", image_store=image_store)
    trace, requests = play(fees, page, plan(page), tmp_path, loop)
    content = requests[0]["messages"][1]["content"]
    assert content.startswith("[Image: ") and content.endswith(f"]\n\n{page['request']}")
    assert image_store.description(trace["images"][0])["source"] in content
    assert (trace["images"], trace["grounding"]) == ([page["pictures"][0]["sha256"]], "source")
    assert trace["messages"][1]["content"][0] == {"type": "image"}


def test_who_is_blind_is_sent_the_request_alone(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, images="none", image_store=image_store)
    _, requests = play(fees, page, plan(page), tmp_path, loop)
    assert requests[0]["messages"][1]["content"] == page["request"]


@pytest.mark.parametrize("how", ["pixels", "source", "none"])
def test_a_tool_that_returns_a_picture_shows_it_in_its_message(
    how: Any, fees: Domain, stored_note: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, images=how, image_store=image_store, image_limits=LIMITS)
    trace, requests = play(fees, stored_note, plan(stored_note), tmp_path, loop)
    told = trace["messages"][3]
    assert told["role"] == "tool" and told["content"][0] == {"type": "image"}
    about = image_store.description(trace["images"][0])
    size = f"document, {about['width']} x {about['height']} pixels"
    assert told["content"][1] == {"type": "text", "text": size}
    sent = requests[1]["messages"][3]["content"]
    if how == "pixels":
        assert sent[0]["image_url"]["url"].startswith("data:image/png;base64,")
    elif how == "source":
        assert about["source"] in sent and sent.endswith(size)
    else:
        assert sent == size
    assert trace["grounding"] == how


def test_a_reply_is_remembered_by_the_hash_of_its_picture_and_by_what_was_shown_of_it(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    other = build(fees, "fee_on_page", "train", 5, image_store=image_store)
    assert (other["request"], other["tools"]) == (page["request"], page["tools"])
    keys = []
    for task in (page, other):
        for how in ("pixels", "source", "none"):
            loop = dataclasses.replace(LOOP, images=how, image_store=image_store)
            trace, requests = play(fees, task, [says("I do not know.")], tmp_path, loop)
            keys.append(trace["calls"][0]["key"])
            again, requests = play(fees, task, [], tmp_path, loop)
            assert again == trace and not requests
    # Blind, both tasks are the same request.
    assert keys[2] == keys[5] and len(set(keys)) == 5


def test_more_images_than_the_server_takes_end_the_episode_before_they_are_sent(
    fees: Domain, stored_note: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    look = calls("get_note", stored_note["plan"][0]["arguments"])
    count = calls("count_notes", {})
    script = [look, count, look, count, look, says("x")]
    loop = dataclasses.replace(LOOP, images="pixels", image_store=image_store, image_limits=LIMITS)
    trace, requests = play(fees, stored_note, script, tmp_path, loop)
    assert trace["outcome"]["ended"] == "teacher_error"
    assert trace["outcome"]["error"] == "3 images in a request, the server takes 2"
    assert len(requests) == 5


def test_an_image_larger_than_the_server_takes_is_not_sent(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    limits = {"max_count": 2, "max_bytes": 100}
    loop = dataclasses.replace(LOOP, images="pixels", image_store=image_store, image_limits=limits)
    trace, requests = play(fees, page, plan(page), tmp_path, loop)
    assert not requests and "the server takes 100" in trace["outcome"]["error"]


def test_worked_examples_show_their_pictures(
    fees: Domain, page: Task, stored_note: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, images="pixels", image_store=image_store)
    shown = [demonstration(task, fees, image_store=image_store) for task in (stored_note, page)]
    other = build(fees, "fee_on_page", "train", 4, image_store=image_store)
    trace, requests = play(fees, other, plan(other), tmp_path, loop, examples=shown)
    sent = requests[0]["messages"]
    lists = [m for m in sent if isinstance(m["content"], list)]
    assert [len(parts(m, "image_url")) for m in lists] == [1, 1, 1]
    assert trace["images"] == [other["pictures"][0]["sha256"]]


def test_a_task_without_pictures_is_sent_as_ever() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "assistant", "content": None}]
    for how in ("pixels", "source", "none"):
        assert images_module.request_messages(messages, how, None) == messages  # type: ignore[arg-type]


names = st.text("0123456789abcdef", min_size=64, max_size=64)
messages_with_pictures = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.just("user"), "content": st.text()}),
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "tool"]),
                "content": st.lists(
                    names.map(images_module.image_part)
                    | st.text().map(lambda text: {"type": "text", "text": text}),
                    min_size=1,
                ),
            }
        ),
    )
)


@given(messages_with_pictures)
def test_stored_messages_and_their_images_give_the_messages_back(messages: list[Any]) -> None:
    kept, images = images_module.detach_images(messages)
    assert images_module.attach_images(kept, images) == messages
    assert "sha256" not in {
        key for m in kept for p in m["content"] if isinstance(p, dict) for key in p
    }


# ------------------------------------------------------------------------------------- blind


def check_blind(
    fees: Domain, task: Task, image_store: ImageStore, tmp_path: Path, reply: str
) -> Any:
    """The outcome's `blind` of a passed trace after a teacher without the images replied."""

    async def scene() -> Any:
        loop = dataclasses.replace(LOOP, images="source", image_store=image_store)
        async with Scripted([*plan(task), says(reply)]) as server:
            journal = Journal(tmp_path / "journal")
            async with Client(
                server.endpoint(), {"model": "m"}, journal, 1, 10, image_store
            ) as client:
                trace = await agent_loop.run(task, fees, client.complete, loop, TEACHER)
                assert agent_loop.passed(trace)
                candidates = [task] if blind_baseline.needs_image(task) else []
                made = blind_baseline.attempts(
                    candidates, fees, client, loop, TEACHER, workers=1, examples=no_examples
                )
                blind_traces = [one async for one in made]
            correct = {one["task"]["id"] for one in blind_traces if agent_loop.passed(one)}
            answerable = blind_baseline.find_answerable(candidates, correct)
            blind_baseline.mark(trace, [one["id"] for one in candidates], answerable)
            journal.close()
            return trace["outcome"].get("blind"), len(blind_traces), server.requests[-1]

    return asyncio.run(scene())


def test_a_task_that_is_solved_without_its_image_is_blind(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    blind, count, request = check_blind(fees, page, image_store, tmp_path, page["reply"])
    assert blind is True and count == 1
    assert request["messages"][-1]["content"] == page["request"]


def test_a_task_that_needs_its_image_is_not_blind(
    fees: Domain, page: Task, image_store: ImageStore, tmp_path: Path
) -> None:
    blind, count, _ = check_blind(fees, page, image_store, tmp_path, "I see no page.")
    assert blind is False and count == 1


def test_a_swapped_task_is_not_attempted_without_its_image(
    fees: Domain, image_store: ImageStore, train: list[Task], tmp_path: Path
) -> None:
    some = swap_images(train, fees, share=0.25, image_store=image_store)
    swapped = next(task for task in some if "swapped" in task)
    blind, count, _ = check_blind(fees, swapped, image_store, tmp_path, "I see no page.")
    assert blind is None and count == 0


def choice(number: int, value: str) -> Task:
    answer = Answer("choice", value, options=("yes", "no")).as_row()
    return {"id": str(number), "template": "agrees", "checks": {"answer": answer}}


def test_a_teacher_that_always_guesses_yes_loses_no_task_by_it() -> None:
    tasks = [choice(number, ("yes", "no")[number % 2]) for number in range(40)]
    right = {task["id"] for task in tasks if task["checks"]["answer"]["value"] == "yes"}
    assert blind_baseline.find_answerable(tasks, right) == set()


def test_choices_that_are_right_more_often_than_chance_need_no_picture() -> None:
    tasks = [choice(number, ("yes", "no")[number % 2]) for number in range(40)]
    right = {task["id"] for task in tasks[:33]}
    assert blind_baseline.find_answerable(tasks, right) == right


def test_a_choice_that_is_always_the_same_needs_no_picture() -> None:
    tasks = [choice(number, "yes") for number in range(40)]
    right = {task["id"] for task in tasks}
    assert blind_baseline.find_answerable(tasks, right) == right


def test_where_only_some_answers_are_a_choice_the_others_say_whether_a_picture_is_needed() -> None:
    value = Answer("number", 41).as_row()
    others = [
        {"id": str(number), "template": "agrees", "checks": {"answer": value}}
        for number in range(20, 60)
    ]
    tasks = [choice(number, "yes") for number in range(20)] + others
    yes, all_of_them = {task["id"] for task in tasks[:20]}, {task["id"] for task in tasks}
    assert blind_baseline.find_answerable(tasks, yes) == set()
    assert blind_baseline.find_answerable(tasks, all_of_them) == all_of_them
