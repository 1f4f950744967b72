"""Tools of others become tools of a pack: real lists and files, and hostile schemas that are refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import InputError
from schemas.files import read_jsonl
from schemas.tool_calls import check_arguments
from teacher.domain.tool_import.functions import import_functions, read_functions
from teacher.domain.tool_import.openapi import read_openapi

TAU_BENCH = Path(__file__).parents[3] / "schemas" / "interchange" / "tau_bench.jsonl"


def schema_of(imported: Any, name: str) -> dict[str, Any]:
    return next(
        tool["function"]["parameters"]
        for tool in imported.tools
        if tool["function"]["name"] == name
    )


def test_the_functions_of_tau_bench_keep_their_schemas(tmp_path: Path) -> None:
    tools = [tool for row in read_jsonl(TAU_BENCH) for tool in row["tools"]]
    tools = [*{tool["function"]["name"]: tool for tool in tools}.values()]
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    imported = read_functions(tmp_path / "tools.json")
    assert [t["function"] for t in imported.tools] == [t["function"] for t in tools]
    assert "get_user_details" in imported.reads and "cancel_reservation" not in imported.reads


def test_the_forms_of_anthropic_and_mcp_are_read_and_names_that_models_may_not_use_are_changed() -> (
    None
):
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "title": "Args"}
    imported = import_functions(
        [
            {"name": "files/read", "inputSchema": schema, "annotations": {"readOnlyHint": True}},
            {"name": "files.read", "description": "Read.", "input_schema": schema},
            {"name": "write", "inputSchema": {}},
        ],
        "server",
    )
    assert [tool["function"]["name"] for tool in imported.tools] == [
        "files_read",
        "files_read_2",
        "write",
    ]
    assert imported.names == {"files_read": "files/read", "files_read_2": "files.read"}
    assert imported.reads == ["files_read", "files_read_2"]
    assert schema_of(imported, "files_read") == {
        "type": "object",
        "properties": {"path": {"type": "string"}},
    }
    assert schema_of(imported, "write") == {"type": "object", "properties": {}}


@pytest.mark.slow
def test_every_operation_of_a_real_server_becomes_a_tool(tmp_path: Path) -> None:
    """Prefect's own API: 3.1, with references, unions and nested bodies, as its server writes it."""
    from prefect.server.api.server import create_app

    file = tmp_path / "prefect.json"
    document = create_app().openapi()
    file.write_text(json.dumps(document))
    imported = read_openapi(file, only=["*flow*", "*variable*"])
    assert len(imported.tools) > 40
    assert "$ref" not in json.dumps(imported.tools)
    create = next(t for t in imported.tools if "create_variable" in t["function"]["name"])
    assert check_arguments(create, {"name": "answer", "value": 42}) is None
    assert "name" in str(check_arguments(create, {"value": 42}))
    with pytest.raises(InputError, match="POST /automations/: body: .* contains itself"):
        read_openapi(file)


def test_more_tools_than_a_model_is_offered_are_refused() -> None:
    many = import_functions([{"name": f"f{n}", "parameters": {}} for n in range(129)], "tools.json")
    with pytest.raises(InputError, match="found 129 tools, expected 1 to 128: choose with --only"):
        many.document("tools.json")
    chosen = import_functions([{"name": "f1"}, {"name": "g1"}], "tools.json", only=["g*"])
    assert [tool["function"]["name"] for tool in chosen.tools] == ["g1"]


OPENAPI: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Shop", "version": "1"},
    "paths": {
        "/orders/{id}": {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
                {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
            ],
            "get": {"operationId": "getOrder", "summary": "Get an order."},
            "patch": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/O"}}},
                }
            },
        },
        "/orders": {
            "post": {
                "operationId": "create-orders",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "array",
                                "items": {"$ref": "#/components/schemas/O"},
                            }
                        }
                    },
                },
            }
        },
    },
    "components": {
        "schemas": {
            "B": {
                "type": "object",
                "properties": {"number": {"type": "integer", "readOnly": True}},
            },
            "O": {
                "allOf": [
                    {"$ref": "#/components/schemas/B"},
                    {
                        "type": "object",
                        "required": ["count"],
                        "properties": {
                            "count": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                            "note": {"type": "string", "nullable": True, "example": "x"},
                        },
                    },
                ]
            },
        }
    },
}


def test_parameters_and_the_fields_of_a_body_are_beside_each_other(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(OPENAPI, sort_keys=False))
    imported = read_openapi(file)
    names = [tool["function"]["name"] for tool in imported.tools]
    assert names == ["getOrder", "patch_orders_id", "create_orders"]
    assert imported.reads == ["getOrder"]
    assert schema_of(imported, "patch_orders_id") == {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "count": {"type": "integer", "exclusiveMinimum": 0},
            "note": {"type": ["string", "null"]},
        },
        "required": ["id", "count"],
        "additionalProperties": False,
    }
    assert schema_of(imported, "create_orders")["properties"]["body"]["type"] == "array"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


DOUBLING = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/d0"}},
    "$defs": {
        f"d{n}": {"properties": {side: {"$ref": f"#/$defs/d{n + 1}"} for side in "lr"}}
        for n in range(25)
    }
    | {"d25": {"type": "string"}},
}


@pytest.mark.parametrize(
    "schema, message",
    [
        (
            {"type": "object", "properties": {"a": {"$ref": "#"}}},
            r"contains itself",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/a"}},
                "$defs": {
                    "a": {"items": {"$ref": "#/$defs/b"}},
                    "b": {"items": {"$ref": "#/$defs/a"}},
                },
            },
            "'#/\\$defs/a' contains itself",
        ),
        (DOUBLING, "expected at most 5,000 parts"),
        (nested(40), "32 deep"),
        (
            {"type": "object", "properties": {"a": {"enum": ["x" * 70_000]}}},
            "expected at most 60,000",
        ),
        ({"type": "object", "properties": {"a": {"pattern": r"^(?=(a+)+$)b"}}}, "exponential time"),
        ({"type": "object", "properties": {"a": {"pattern": "((a{100}){100}){100}"}}}, "pattern"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "pattern"),
        (
            {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1/x"}}},
            "of this document",
        ),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}, "no such place"),
        ({"type": "object", "properties": {"a": {"$dynamicRef": "#a"}}}, r"\$dynamicRef"),
        ({"type": "array"}, "expected object"),
        ({"type": "object", "required": "a"}, "required"),
        ([], "expected a JSON Schema"),
    ],
)
def test_a_hostile_schema_is_refused_in_one_line(schema: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        import_functions([{"name": "act", "parameters": schema}], "tools.json")
    text = str(refused.value)
    assert text.startswith("tools.json: act") and "\n" not in text and len(text) < 300


def test_what_yaml_has_and_json_has_not_is_written_as_json_or_refused_in_one_line(
    tmp_path: Path,
) -> None:
    file = tmp_path / "api.yaml"
    operation = "openapi: 3.0.0\npaths:\n  /a:\n    post:\n      parameters:\n"
    plain = [
        "{name: since, in: query, schema: {type: string, default: 2020-01-01, 5: 3}}",
        "{name: list, in: [query]}",
    ]
    body = (
        "      requestBody: {content: {5: {}, application/json: {schema: {properties: {1: {}}}}}}\n"
    )
    file.write_text(operation + "".join(f"      - {row}\n" for row in plain) + body)
    schema = schema_of(read_openapi(file), "post_a")
    assert schema["properties"]["since"] == {"type": "string", "default": "2020-01-01"}
    assert [*schema["properties"]] == ["since", "body"]
    assert [*schema["properties"]["body"]["properties"]] == ["1"]
    aliases = "&a0 [1, 1]" + "".join(f", &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))
    row = f"{{name: x, in: query, schema: {{enum: [{aliases}]}}}}"
    file.write_text(f"{operation}      - {row}\n")
    with pytest.raises(InputError, match="POST /a: x: expected at most 5,000 parts"):
        read_openapi(file)


def test_many_tools_of_one_name_get_names_of_their_own() -> None:
    many = import_functions([{"name": "x" * 70} for _ in range(1_100)], "tools.json")
    names = {tool["function"]["name"] for tool in many.tools}
    assert len(names) == 1_100 and max(map(len, names)) <= 64


@pytest.mark.parametrize(
    "document, message",
    [
        ({"swagger": "2.0"}, "openapi: found '2.0', expected 3.0 or 3.1"),
        ({"openapi": "3.1.0", "paths": []}, "paths: found"),
        ({"openapi": "3.1.0", "paths": {"/a": {"$ref": "other.yaml#/a"}}}, "of this document"),
        (["openapi"], "openapi: found None"),
    ],
)
def test_another_file_is_no_openapi_file(document: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "api.json"
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        read_openapi(file)
