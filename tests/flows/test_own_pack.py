"""Packs for tools that people have: written with gaps that check-domain lists, and good once the gaps are filled."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from teacher.domain import load
from teacher.domain.check.gaps import MARK

ROOT = Path(__file__).parents[2]
NOTES = ROOT / "tests" / "stand_ins" / "notes_server.py"
TAU_BENCH = ROOT / "tests" / "schemas" / "interchange" / "tau_bench.jsonl"
TOOLS = [
    {
        "name": "get-order",
        "description": "Get an order's item and how many of it.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "string", "description": "Number, such as O-100."}},
            "required": ["order"],
        },
    },
    {
        "name": "set_count",
        "description": "Change how many of an order's item are wanted.",
        "input_schema": {
            "type": "object",
            "properties": {"order": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["order", "count"],
        },
    },
]
# What the author of the pack writes, in the order of the gaps.
RECORDS = """
        numbers = rng.sample(split_numbers(task["split"], 1000), 12)
        items = ["bolts", "hinges", "screws", "nails", "hooks", "clamps", "knobs", "panels"]
        counts = rng.sample(range(3, 900), 12)
        self._records = {
            f"O-{n}": {"item": rng.choice(items), "count": c}
            for n, c in zip(numbers, counts, strict=True)
        }
"""
FILLED = {
    "ask": """
    number, order = rng.choice(list(world._records.items()))
    request = rng.choice(
        [f"How many are in {number}?", f"What does order {number} ask for, how many?", f"The count of {number}?"]
    )
    return Blueprint(
        request=request,
        plan=[("get-order", {"order": number})],
        reply=f"{order['count']} {order['item']} are in {number}.",
        answer=Answer("number", order["count"]),
    )
""",
    "do": """
    number, order = rng.choice(list(world._records.items()))
    count = rng.choice([n for n in range(3, 900) if n != order["count"]])
    request = rng.choice(
        [f"Make it {count} in {number}.", f"Order {number} is for {count} now.", f"{number}: we want {count}."]
    )
    return Blueprint(
        request=request,
        plan=[("set_count", {"order": number, "count": count})],
        reply=f"{number} is for {count} now.",
    )
""",
}


@pytest.fixture
def stillhouse(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main._run(list(arguments))
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def fill(file: Path, records: str, bodies: dict[str, str]) -> None:
    """Writes what is marked, as the pack's author does: after a gap, the lines that it stands for are replaced."""
    text = file.read_text().replace("    read_tools,", "    read_tools,\n    split_numbers,")
    text = re.sub(
        r"from teacher.domain import ", "from teacher.domain import split_numbers, ", text
    )
    text = re.sub(r"        # FILL IN: the records.*\n.*\n", lambda _: records.lstrip("\n"), text)
    for kind, body in bodies.items():
        text = re.sub(
            rf"(def {kind}_\w+\(.*\n(?:    #.*\n)*?)    # FILL IN.*\n(?:    .*\n)+",
            lambda match, body=body: match.group(1) + body.lstrip("\n"),  # type: ignore[misc]
            text,
        )
    file.write_text(text)


def test_a_pack_for_functions_lists_its_gaps_and_passes_once_they_are_filled(
    stillhouse: Any, tmp_path: Path
) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    code, out, _ = stillhouse("new-domain", "./orders", "--from-tools", "tools.json")
    assert code == 0 and "orders/tools.json" in out
    code, out, _ = stillhouse("check-domain", "./orders")
    pack = tmp_path / "orders"
    marked = [
        line for file in pack.glob("*.*") for line in file.read_text().splitlines() if MARK in line
    ]
    listed = [line for line in out.splitlines() if line.startswith("error")]
    assert code == 2 and len(listed) == len(marked) > 6
    assert any("environment.py: line" in line and "get-order" in line for line in listed)

    fill(pack / "environment.py", RECORDS, FILLED)
    text = (pack / "environment.py").read_text()
    text = re.sub(
        r'raise LookupError\("FILL IN: return.*',
        'return {"order": arguments["order"], **get_entry(self._records, arguments["order"], "order", "O-1")}',
        text,
    )
    text = re.sub(
        r'raise LookupError\("FILL IN: change.*',
        'get_entry(self._records, arguments["order"], "order", "O-1")["count"] = arguments["count"]\n'
        '        return {"order": arguments["order"], "count": arguments["count"]}',
        text,
    )
    (pack / "environment.py").write_text(
        text.replace("import split_numbers", "import get_entry, split_numbers")
    )
    spec = (pack / "domain.yaml").read_text()
    (pack / "domain.yaml").write_text(re.sub(r"# FILL IN.*\n", "", spec))
    code, out, _ = stillhouse("check-domain", "./orders")
    errors = [line for line in out.splitlines() if line.startswith("error")]
    assert (code, errors) == (0, []), out
    assert load("./orders").tools["get-order"]["function"]["parameters"] == TOOLS[0]["parameters"]


def test_logs_give_requests_as_examples_and_no_labels(stillhouse: Any, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in TAU_BENCH.read_text().splitlines()]
    tools = {tool["function"]["name"]: tool for row in rows for tool in row["tools"]}
    (tmp_path / "tools.json").write_text(json.dumps({"tools": [*tools.values()]}))
    code, out, _ = stillhouse(
        "new-domain", "./air", "--from-tools", "tools.json", "--from-logs", str(TAU_BENCH)
    )
    assert code == 0 and "air/requests.jsonl" in out
    requests = [json.loads(line)["request"] for line in (tmp_path / "air/requests.jsonl").open()]
    said = [m["content"] for row in rows for m in row["messages"] if m["role"] == "user"]
    assert requests and set(requests) <= {" ".join(text.split())[:500] for text in said}
    # What the logged model answered, and the arguments of its calls, are nowhere in the pack.
    written = "".join(path.read_text() for path in (tmp_path / "air").iterdir())
    for row in rows:
        for message in row["messages"]:
            if message["role"] == "assistant" and message["content"]:
                assert message["content"] not in written
            for call in message.get("tool_calls") or []:
                assert call["function"]["arguments"] not in written
    load("./air")


def test_texts_of_others_cannot_write_code_into_the_pack(stillhouse: Any, tmp_path: Path) -> None:
    hostile = 'x"""\nimport os\nos.abort()\n# FILL IN: \0{{ 7 * 7 }}\r\u2028raise SystemExit(9)'
    tool = {"name": 'a"); import os; os.abort(); ("', "description": hostile, "parameters": {}}
    (tmp_path / "tools.json").write_text(json.dumps([tool, {**tool, "name": "get_b"}]))
    logs = [
        {"role": "user", "content": hostile},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "get_b", "arguments": "{}"}}
        ]},
    ]  # fmt: skip
    (tmp_path / "logs.jsonl").write_text(json.dumps({"messages": logs}))
    code, _, error = stillhouse(
        "new-domain", "./bad", "--from-tools", "tools.json", "--from-logs", "logs.jsonl"
    )
    assert code == 0, error
    domain = load("./bad")
    assert domain.tools["get_b"]["function"]["description"] == hostile
    lines = (tmp_path / "bad" / "environment.py").read_text().splitlines()
    assert not [line for line in lines if line.lstrip().startswith(("import os", "os.", "raise S"))]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--from-tools", "none.json"], "none.json: no such file"),
        (["--from-mcp", "/nowhere/server"], "--from-mcp /nowhere/server: no session: "),
        (["--from-mcp", "http://me:secret@127.0.0.1/mcp"], "URL with a user name"),
        (["--from-mcp", "a 'b"], "No closing quotation"),
        (["--from-mcp", "x", "--from-tools", "y"], "expected one of --from-mcp"),
        (["--from-logs", "x"], "go with --from-mcp"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(
    stillhouse: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, _, error = stillhouse("new-domain", "./pack", *arguments)
    assert code == 2 and message in error and error.count("\n") == 1 and "secret" not in error
    assert not (tmp_path / "pack").exists()


# ------------------------------------------------------------------------------------------ an MCP server

NOTES_RECORDS = """
        for title in self._ask("list_notes"):
            self._call("remove_note", title=title)
        words = split_pool(["copper", "birch", "slate", "amber", "coral", "ivory", "maple", "onyx", "pearl",
                            "quartz", "russet", "saffron", "teal", "umber", "violet", "walnut"], task["split"])
        self._records = {}
        for word, number in zip(rng.sample(words, 4), rng.sample(range(100, 999), 4), strict=True):
            self._records[f"{word} {rng.choice(['door', 'shelf', 'lamp'])}"] = number
        for title, number in self._records.items():
            self._call("add_note", title=title, text=f"{number} euros")
"""
NOTES_FILLED = {
    "ask": """
    title, number = rng.choice(list(world._records.items()))
    request = rng.choice(
        [f"What does the note {title} say the price is?", f"The price in {title}?", f"{title}: what price?"]
    )
    return Blueprint(
        request=request,
        plan=[("notes_get", {"title": title})],
        reply=f"It says {number} euros.",
        answer=Answer("number", number),
    )
""",
    "do": """
    title = rng.choice(list(world._records))
    request = rng.choice([f"Remove the note {title}.", f"Delete {title}, please.", f"We do not need {title} any more."])
    return Blueprint(
        request=request,
        plan=[("remove_note", {"title": title})],
        reply=f"The note {title} is removed.",
    )
""",
}


def notes_pack(stillhouse: Any, tmp_path: Path) -> Path:
    """A filled pack for the notes server: one question and one order."""
    command = f"{sys.executable} {NOTES}"
    only = ("--only", "*note*")
    code, _, error = stillhouse("new-domain", "./notes", "--from-mcp", command, *only)
    assert code == 0, error
    pack = tmp_path / "notes"
    file = pack / "environment.py"
    text = file.read_text().replace("reuse = False", "reuse = True")
    # Two of the begun templates are enough.
    for name in ("ask_list_notes", "do_add_note"):
        text = re.sub(rf"@template\(kind=\"\w+\"\)\ndef {name}\((?:.*\n)+?    \)\n", "", text)
    file.write_text(text.replace("import Answer", "import split_pool, Answer"))
    fill(file, NOTES_RECORDS, NOTES_FILLED)
    spec = (pack / "domain.yaml").read_text()
    (pack / "domain.yaml").write_text(re.sub(r"# FILL IN.*\n", "", spec))
    return pack


SDK = ROOT / "tests" / "flows" / "mcp_sdk_example"
CALC_RECORDS = """
        numbers = split_numbers(task["split"], 100)
        self._records = [(rng.choice(list(WORDS)), *rng.sample(numbers, 3)) for _ in range(4)]
"""
CALC_FILLED = {
    "ask": """
    op, a, b, _ = rng.choice(world._records)
    value = {"add": a + b, "sub": a - b, "mul": a * b}[op]
    request = rng.choice(["What is {}?", "Please work out {}.", "{}, how much is that?"])
    return Blueprint(
        request=request.format(f"{a} {WORDS[op]} {b}"),
        plan=[("calc", {"op": op, "a": a, "b": b})],
        reply=f"It is {value}.",
        answer=Answer("number", value),
    )


@template(kind="workflow")
def ask_twice(world: Sums, rng: random.Random) -> Blueprint:
    _, a, b, c = rng.choice(world._records)
    request = rng.choice(["{} plus {}, and that times {}?", "Add {} and {}, then multiply by {}.", "({} + {}) * {}?"])
    return Blueprint(
        request=request.format(a, b, c),
        plan=[("calc", {"op": "add", "a": a, "b": b}), ("calc", {"op": "mul", "a": a + b, "b": c})],
        reply=f"It is {(a + b) * c}.",
        answer=Answer("number", (a + b) * c),
    )
""",
}


def sdk_pack(stillhouse: Any, tmp_path: Path) -> Path:
    """A filled pack for a server of the MCP SDK's own examples, which only reads, so that its session is used again."""
    library = tmp_path / "sdk" / "stories"
    library.mkdir(parents=True)
    (library / "tools_server.py").write_text((SDK / "server.py.txt").read_text())
    # Of the examples' own module of that name, what serves one on stdio.
    (library / "_hosting.py").write_text("def run_server_from_args(build):\n    build().run()\n")
    command = f"PYTHONPATH={library.parent} {sys.executable} -m stories.tools_server"
    code, _, error = stillhouse("new-domain", "./sums", "--from-mcp", command, "--only", "calc")
    assert code == 0, error
    pack = tmp_path / "sums"
    tools = json.loads((pack / "tools.json").read_text())
    assert tools["reads"] == ["calc"]  # as the server says
    file = pack / "environment.py"
    fill(file, CALC_RECORDS, CALC_FILLED)
    text = file.read_text().replace("reuse = False", "reuse = True")
    words = 'WORDS = {"add": "plus", "sub": "minus", "mul": "times"}\n\n\nclass Sums('
    file.write_text(text.replace("class Sums(", words))
    spec = (pack / "domain.yaml").read_text()
    spec = spec.replace("kinds:\n", "kinds:\n  workflow: {share: 0.5}\n")
    (pack / "domain.yaml").write_text(re.sub(r"# FILL IN.*\n", "", spec))
    return pack


@pytest.mark.slow
def test_an_mcp_server_that_keeps_state_becomes_a_domain(stillhouse: Any, tmp_path: Path) -> None:
    pack = notes_pack(stillhouse, tmp_path)
    code, out, _ = stillhouse("check-domain", str(pack))
    assert code == 0, out


@pytest.mark.slow
def test_a_server_of_the_sdks_own_examples_becomes_a_domain_and_is_distilled(
    stillhouse: Any, tmp_path: Path
) -> None:
    pack = sdk_pack(stillhouse, tmp_path)
    code, out, _ = stillhouse("check-domain", str(pack))
    assert code == 0, out
    settings = (
        "tasks.train=16",
        "tasks.exam=4",
        "tasks.exam_other=0",
        "tasks.drift=0",
        "export.variants=[Q8_0]",
        "train.epochs=4",  # after one, the student answers sums itself, which the export gate refuses
    )
    arguments = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "flows.cli", "distill", str(pack), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    run = tmp_path / "runs" / "sums-local"
    assert (run / "evaluate" / "scorecard.json").is_file(), (
        done.stdout[-3000:] + done.stderr[-2000:]
    )
    ledger = json.loads((run / "filter" / "ledger.json").read_text())
    assert ledger["kept"] > 0 and ledger["rejected"].get("tool_crashed", 0) == 0
    assert done.returncode in (0, 3)  # 3: such a small student need not pass the gate
