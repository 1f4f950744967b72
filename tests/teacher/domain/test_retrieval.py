"""Tools that fit a request best: which are offered, in training and in the exam."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.recipe_teacher import Tasks
from teacher.domain import exam, offer, tasks
from teacher.domain import pack as packs
from teacher.domain.drift import tools_of
from teacher.domain.drift_tasks import drift_tasks
from teacher.domain.retrieval import best_tools, found_share, retrieve_tools


def tool(name: str, description: str) -> dict:
    parameters = {"type": "object", "properties": {}}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [
    tool("get_contract", "Returns a contract by its number."),
    tool("log_time", "Records hours of a lawyer."),
    tool("find_court", "Finds the court of a city."),
    tool("契約を読む", "契約書の条項と期限を返す。"),
]


def names(tools: list[dict]) -> list[str]:
    return [each["function"]["name"] for each in tools]


def test_the_best_tools_share_words_with_the_request_also_without_spaces_and_in_the_plural() -> (
    None
):
    assert names(best_tools(TOOLS, "Which contracts end in May?", 1)) == ["get_contract"]
    assert names(best_tools(TOOLS, "Record 3 hours for Ms Kerr", 1)) == ["log_time"]
    assert names(best_tools(TOOLS, "契約書の期限はいつですか", 1)) == ["契約を読む"]


@given(st.text(max_size=80), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_any_request_gets_as_many_distinct_tools_as_there_are(request: str, count: int) -> None:
    found = names(best_tools(TOOLS, request, count))
    assert len(found) == len(set(found)) == min(count, len(TOOLS))


def test_training_tasks_have_their_solutions_tools_and_exam_tasks_what_is_found() -> None:
    legal = packs.load("legal")
    rows = tasks.sample(legal, "train", 16, seed=0, pixels=False)
    rows = drift_tasks(offer.offer_tools(rows, legal, offer="retrieved"), legal, share=0.3)
    complete = retrieve_tools(rows, legal, count=5, complete=True)
    found = retrieve_tools(rows, legal, count=5, complete=False)
    assert found_share(complete) == 1 > found_share(found) > 0.4
    for row, before in zip(complete, rows, strict=True):
        assert len(row["tools"]) == max(5, len({step["tool"] for step in row["plan"]}))
        assert set(row["tools"]) <= set(before["tools"]) and list(tools_of(legal, row))


def test_each_part_of_the_exam_offers_what_is_retrieved() -> None:
    chosen = Tasks(offer="retrieved", retrieved=6, exam=2, swapped=0)
    legal = packs.load("legal")
    held_out = exam.held_out_templates(legal, chosen)
    rows = exam.sample_exam(legal, chosen, held_out, pixels=False)
    assert {row["part"] for row in rows} == {"all_tools", "as_trained", "new_templates", "drift"}
    assert {len(row["tools"]) for row in rows} == {6}
    assert found_share([row for row in rows if row["part"] == "as_trained"]) == 1


def test_jax_is_not_started_where_it_is_installed(tmp_path: Path) -> None:
    """On a GPU it takes 75 % of the memory at its start, from the student that is trained in the same process."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('JAX was imported')")
    program = (
        "from teacher.domain.retrieval import best_tools\n"
        "tool = {'type': 'function', 'function': {'name': 'a', 'description': 'b', 'parameters': {}}}\n"
        "best_tools([tool, tool], 'a', 1)\n"
        "import sys; sys.exit('jax' in sys.modules)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
