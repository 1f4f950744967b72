"""Schemas as vLLM decodes under them: what it refuses is left out, and the trace keeps the whole schema."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scripted_model import LOOP, Model, play, solution

from schemas.decodable import decodable, decodable_tools
from schemas.errors import InputError
from schemas.task import Task
from teacher.domain import Domain
from teacher.domain.json_answers import response_format
from teacher.inference import vllm_server
from teacher.rollout.guidance import Constrained

pytest_plugins = ["stock_tasks"]

HARD: dict[str, Any] = {
    "type": "object",
    "required": ["contains", "days"],
    "properties": {
        "contains": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 9},
        "days": {
            "type": ["array", "null"],
            "uniqueItems": True,
            "items": {"type": "string", "format": "date"},
        },
        "fee": {"type": "number", "multipleOf": 0.01, "enum": [1.5, 2]},
        "codes": {
            "type": "object",
            "patternProperties": {"^x": {"type": "string"}, "^y": {"type": "integer"}},
            "propertyNames": {"maxLength": 3},
            "additionalProperties": False,
        },
        "mail": {"anyOf": [{"type": "string", "format": "idn-email"}, {"type": "null"}]},
        "both": {"allOf": [{"minimum": 1}, {"multipleOf": 2}]},
    },
}


def test_a_schema_loses_what_xgrammar_cannot_decode_and_nothing_else() -> None:
    answer = response_format(HARD, "hard")["json_schema"]["schema"]
    assert answer == decodable(HARD)
    properties = answer["properties"]
    assert properties == {
        "contains": {"type": "string", "pattern": "^[a-z]+$"},
        "days": {"type": ["array", "null"], "items": {"type": "string", "format": "date"}},
        "fee": {"type": "number", "enum": [1.5, 2]},
        "codes": {"type": "object"},
        "mail": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "both": {},
    }


@pytest.mark.slow
def test_vllm_refuses_no_schema_of_an_answer_of_the_packs() -> None:
    """It answered 34 of 600 tasks with status 400: two schemas of the legal pack have `uniqueItems`."""
    try:
        python = vllm_server.interpreter()
    except InputError as error:
        pytest.skip(str(error))
    packs = Path(__file__).parents[2] / "data"
    schemas = [json.loads(file.read_text()) for file in sorted(packs.glob("*/schemas/*.json"))]
    assert len(schemas) > 5
    sent = [response_format(each, "x")["json_schema"]["schema"] for each in (HARD, *schemas)]
    program = (
        "import json, sys\n"
        "from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features as refused\n"
        "print(json.dumps([refused(each) for each in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [python, "-c", program],
        input=json.dumps([HARD, *sent]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [True] + [False] * len(sent)


def test_a_constrained_teacher_is_sent_decodable_tools_and_the_trace_keeps_the_whole_ones(
    stock: Domain, move: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = move["plan"][0]["tool"]
    parameters = stock.tools[name]["function"]["parameters"]
    plain = json.loads(json.dumps(stock.tools[name]))
    tags = {"type": "array", "uniqueItems": True}
    monkeypatch.setitem(parameters["properties"], "tags", tags)
    model = Model(solution(move))
    settings = dataclasses.replace(LOOP, guidance=Constrained())
    trace = play(stock, move, model, settings, hinted=True)
    plain["function"]["parameters"]["properties"]["tags"] = {"type": "array"}
    assert all(plain in shown for shown in model.tools)
    assert stock.tools[name] in trace["tools"] and "uniqueItems" in json.dumps(trace["tools"])
    assert decodable_tools([plain]) == [plain]
