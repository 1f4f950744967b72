"""Worlds whose tools run on a real MCP server, in a session of their own for each episode."""

import contextlib
import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from teacher.domain.given_tools import GivenTools
from teacher.domain.mcp_session import McpFault, McpServer, McpSession, close_sessions
from teacher.domain.mcp_world import McpEnvironment
from teacher.domain.tool_schemas import make_tools
from teacher.domain.worlds import PackFault, ToolError, hash_world, run_tool, start_world
from teacher.inference.process import free_port

SERVER = Path(__file__).parents[2] / "stand_ins" / "notes_server.py"
COMMAND = f"{sys.executable} {SERVER}"


def tool(name: str) -> dict[str, Any]:
    function = {"name": name, "description": name, "parameters": {"type": "object"}}
    return {"type": "function", "function": function}


NAMES = ("add_note", "notes_get", "list_notes", "crash")
GIVEN = GivenTools(
    {name: tool(name) for name in NAMES},
    frozenset({"notes_get", "list_notes"}),
    {"notes_get": "notes.get"},
)


class Notes(McpEnvironment):
    server = COMMAND
    given = GIVEN


class Kept(McpEnvironment):
    server = f"{COMMAND} {{directory}}/notes.json"
    given = GIVEN
    reuse = True


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    close_sessions()  # of a test of another file in this process
    yield
    close_sessions()


def servers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ends just now
            found += [child] if str(SERVER) in child.cmdline() else []
    return found


def world(environment: type[McpEnvironment] = Notes) -> Any:
    return start_world(environment, seed=1, split="train")[0]


def test_tools_run_on_the_server_and_each_episode_has_its_own_session() -> None:
    first, second, untouched = world(), world(), world()
    assert not servers()  # a session starts at the first call
    assert run_tool(first, "add_note", {"title": "a", "text": "x"}) == "added a"
    assert '"text": "x"' in run_tool(first, "notes_get", {"title": "a"})
    assert first._ask("notes_get", title="a") == {"title": "a", "text": "x"}
    with pytest.raises(ToolError, match="no note 'a'"):
        run_tool(second, "notes_get", {"title": "a"})
    with pytest.raises(ToolError, match="there is a note 'a'"):
        run_tool(first, "add_note", {"title": "a", "text": "y"})
    assert len(servers()) == 2
    # Reads, and writes that failed, leave the state as it is.
    assert hash_world(second) == hash_world(untouched) != hash_world(first)
    first.reset(seed=1, split="train")
    assert hash_world(first) == hash_world(untouched)
    del second
    gc.collect()
    for _ in range(100):
        if not servers():
            break
        time.sleep(0.1)
    assert not servers()  # a session ends with its episode


def test_the_order_of_independent_writes_does_not_matter() -> None:
    class Obeying(Notes):
        given = GIVEN

        def _call(self, tool: str, **arguments: Any) -> str:
            return "done"

    one, other = world(Obeying), world(Obeying)
    a, b = {"title": "a", "text": "x"}, {"title": "b", "text": "y"}
    for each, calls in ((one, (a, b)), (other, (b, a))):
        for arguments in calls:
            run_tool(each, "add_note", arguments)
    assert hash_world(one) == hash_world(other) != hash_world(world(Obeying))


@pytest.mark.slow
def test_a_session_that_is_used_again_is_the_same_process() -> None:
    first = world(Kept)
    run_tool(first, "list_notes", {})
    [process] = servers()
    del first
    gc.collect()
    run_tool(world(Kept), "list_notes", {})
    assert [each.pid for each in servers()] == [process.pid]


def test_a_server_that_ends_is_a_fault_with_what_it_wrote_last() -> None:
    with pytest.raises(PackFault, match="out of memory"):
        run_tool(world(), "crash", {})


@pytest.mark.slow
def test_a_session_whose_server_ended_is_not_used_again() -> None:
    first = world(Kept)
    with pytest.raises(PackFault, match="crash: .*out of memory"):
        run_tool(first, "crash", {})
    del first
    gc.collect()
    assert "[]" in str(world(Kept)._ask("list_notes"))


def test_a_tool_with_the_name_of_a_part_of_a_world_does_not_replace_it() -> None:
    names = ("reset", "given", "seconds", "errors")

    class Clash(McpEnvironment):
        server = COMMAND
        given = GivenTools({name: tool(name) for name in names})

        def _call(self, tool: str, **arguments: Any) -> str:
            return f"{tool} ran"

    assert {*make_tools(Clash, Path(__file__))} == {*names}
    clash = world(Clash)
    assert [run_tool(clash, name, {}) for name in names] == [f"{name} ran" for name in names]


@pytest.mark.parametrize(
    "page, message",
    [
        ('{"tools": [], "nextCursor": "more"}', "more than 1000 pages"),
        ('{"tools": 5}', "tools/list: "),
    ],
)
def test_a_list_of_tools_that_is_malformed_or_has_no_end_is_a_fault(
    page: str, message: str, tmp_path: Path
) -> None:
    hostile = tmp_path / "hostile.py"
    hostile.write_text(
        "import json, sys\n"
        "info = {'protocolVersion': '2025-06-18', 'capabilities': {'tools': {}},\n"
        "        'serverInfo': {'name': 'x', 'version': '1'}}\n"
        "for line in sys.stdin:\n"
        "    row = json.loads(line)\n"
        "    if 'id' in row:\n"
        f"        result = info if row['method'] == 'initialize' else json.loads({page!r})\n"
        "        print(json.dumps({'jsonrpc': '2.0', 'id': row['id'], 'result': result}), flush=True)\n"
    )
    session = McpSession(McpServer.parse(f"{sys.executable} {hostile}"))
    with pytest.raises(McpFault, match=message):
        session.list_tools()


def test_a_server_that_does_not_start_is_a_fault() -> None:
    with pytest.raises(McpFault, match="no session: .*No such file"):
        McpSession(McpServer.parse("/nowhere/server"))
    with pytest.raises(McpFault, match="no session: .*Connection closed .*python -h"):
        McpSession(McpServer.parse(f"{sys.executable} --unknown-option"))


def test_a_server_over_http_is_reached_by_its_url() -> None:
    port = free_port()
    command = [sys.executable, str(SERVER), "--http", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        class Remote(McpEnvironment):
            server = f"http://127.0.0.1:{port}/mcp"
            given = GIVEN

        for _ in range(100):
            try:
                text = run_tool(world(Remote), "add_note", {"title": "a", "text": "x"})
                break
            except PackFault:
                time.sleep(0.2)
        assert text == "added a"
        [*names] = [
            each["name"] for each in McpSession(McpServer.parse(Remote.server)).list_tools()
        ]
        assert names == ["add_note", "notes.get", "list_notes", "remove_note", "crash"]
    finally:
        process.terminate()
        process.wait()
