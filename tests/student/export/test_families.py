"""Each student file on its family's vocabulary and template: what training writes is what llama.cpp reads.

One server for each student, many conversations for each server.
"""

import functools
import sys
import unicodedata
from collections.abc import Sequence

import pytest
from families import STUDENTS, VISION, Served, served
from hypothesis import given, settings
from hypothesis import strategies as st
from turns import calls, result, says, trace, user

from schemas.canonical import Refused
from student.export import checks, text_checks
from student.export.llama_server import post
from student.models import base, gguf_file, stand_in
from student.rendering.examples import turns
from student.rendering.served import as_served

pytestmark = pytest.mark.slow

TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Does {name}: “now” or later.",
            "parameters": {
                "type": "object",
                "properties": {f"a_{kind}": {"type": kind} for kind in TYPES},
            },
        },
    }
    for name in ("find", "set_end")
]
# Words that one family or another, or llama.cpp, takes for control tokens.
CONTROL = [
    *("<|im_end|>", "<|im_start|>", "</s>", "<s>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "<think>", "</think>", "<|endoftext|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|begin_of_text|>", "<|EOT|>"),
]
NEAR = ["<|im_end", "im_end|>", "< /s>", "<|eot|>", "<tool call>", "<|User|>", "</b>", "<<s>>"]


@pytest.fixture(scope="module", params=STUDENTS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    with served(request.param, tmp_path_factory.mktemp("family") / "server.log") as running:
        yield running


def taking(**values: object) -> list:
    """A tool whose parameters have the types of some values."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    types = {name: kinds.get(type(value), "object") for name, value in values.items()}
    return tool({n: {"type": "null" if values[n] is None else kind} for n, kind in types.items()})


def tool(properties: dict, required: Sequence[str] = ()) -> list:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": "find", "description": "Finds.", "parameters": parameters}
    return [{"type": "function", "function": function}]


def conversation(family: Served, messages: list, tools: list = TOOLS) -> checks.Conversation:
    """The conversation as the student's server leads it. Raises Refused as the filter does."""
    talk = trace(messages, tools)
    turns(talk, family.renderer)
    shown = as_served(talk, family.renderer)
    return {"id": "t/0", "messages": shown["messages"], "tools": shown["tools"]}


def differences(family: Served, talk: checks.Conversation) -> list[str]:
    """What llama.cpp renders or tokenizes otherwise than training does."""
    arguments = family.endpoint, [talk], family.renderer
    rendering = checks.check_rendering(*arguments)
    text = family.renderer.text(talk["messages"], talk["tools"])
    body = {"content": text, "add_special": False, "parse_special": True}
    ids = post(family.endpoint, "/tokenize", body)["tokens"]
    same = ids == family.renderer.ids(text)
    return [rendering["detail"]] * (not rendering["passed"]) + ["token ids differ"] * (not same)


SOLUTION = [
    {"role": "system", "content": "You work at a desk."},
    user("Is 15.0 h × €2.50 right? “Yes” or <no> & why"),
    calls({"a_string": "C-1"}),
    result('{"error": "try again"}'),
    calls({"a_number": 15.0, "a_string": "naïve 日本語 <b>&'\""}, {"a_array": [1, "2", None]}),
    result('{"fee": 2.50}'),
    result("[]", 1),
    says("It is 37.50."),
]


def test_a_student_file_passes_every_check_that_needs_no_trained_weights(family: Served) -> None:
    arguments = family.endpoint, [conversation(family, SOLUTION)], family.renderer
    file = gguf_file.read(family.gguf)
    template, end = map(file.value, ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id"))
    results = [
        checks.check_template(template, family.renderer),
        checks.check_stop_token(end, family.renderer),
        checks.check_rendering(*arguments),
        checks.check_token_ids(*arguments, family.renderer.overridden),
        text_checks.check_prompt_tokens(*arguments),
        text_checks.check_stops(family.endpoint, family.renderer),
        text_checks.check_parsing(*arguments),
    ]
    assert [check["detail"] for check in results if not check["passed"]] == []


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["naïve “x”", "日本語", "🙂‍↔️", "<b>&amp;'\"", "a\\nb", "{{ x }}", "\t", "1e5", "true", "null"]
)
_NUMBER = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**6), 10**6).map(lambda n: n / 100)
    | st.sampled_from([15.0, 1e11, 2.50, -0.0, 0.1, 1e-5, 123456.7, 1e22, 2**63 - 1, 2**63])
)
_VALUE = st.recursive(
    st.none() | st.booleans() | _NUMBER | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_ARGUMENTS = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), _VALUE, max_size=4)


def test_any_call_that_is_not_refused_by_name_is_rendered_and_tokenized_alike(
    family: Served,
) -> None:
    kept, reasons = [], set()

    @settings(max_examples=150)
    @given(_ARGUMENTS, _TEXT)
    def check(arguments: dict, text: str) -> None:
        messages = [user(text), calls(arguments), result(text), says("Yes.")]
        try:
            talk = conversation(family, messages, taking(**arguments))
        except Refused as refused:
            reasons.add(refused.reason)
            return
        assert differences(family, talk) == []
        kept.append(talk)

    check()
    assert len(kept) > 20, "most calls are refused: nothing is shown"
    assert reasons <= {"engines_differ", "marker_leak"}


@functools.cache
def category_edges() -> list[str]:
    """Where Unicode's categories change, as Python's table has them."""
    return [
        chr(code)
        for code in range(1, sys.maxunicode)
        if unicodedata.category(chr(code)) not in ("Cs", unicodedata.category(chr(code - 1)))
    ]


def test_a_character_of_any_kind_is_tokenized_alike_or_refused_by_name(family: Served) -> None:
    known = []
    for character in category_edges():
        text = "|".join(f"a{c}1 {c}\x01{c}b {c}\n" for c in (character, character * 2))
        try:
            family.renderer.check_texts([user(text)])
            known.append(text)
        except Refused as error:
            assert error.reason == "engines_differ"
    for start in range(0, len(known), 500):
        text = "|".join(known[start : start + 500])
        body = {"content": text, "add_special": False, "parse_special": True}
        assert post(family.endpoint, "/tokenize", body)["tokens"] == family.renderer.ids(text)
    assert len(known) > 2000
    newer = {
        "\u1c8a",
        "\u0897",
        "\U00013460",
        "\U00010d40",
    }  # of Unicode 16: letters, a mark, a digit
    for character in newer:
        with pytest.raises(Refused, match="not in llama.cpp's Unicode table"):
            family.renderer.check_texts([user(f"a{character}\x08")])


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        *((value, False) for value in (15.0, 1e11, 2.50, -0.0, 0.1, 99999.5, 2**63 - 1, -(2**63))),
        *((value, True) for value in (1234567.89, 123456.78, 1e-5, 1e22, 2**63, 0.1 + 0.2)),
        *((value, False) for value in (True, False, None, {"b": 1, "a": {"c": []}}, "15.0")),
    ],
    ids=str,
)
def test_a_value_is_the_same_in_both_or_refused_as_engines_differ(
    family: Served, value: object, refused: bool
) -> None:
    messages = [user("?"), calls({"value": value}), result("ok"), says("Yes.")]
    if refused and not family.renderer.arguments_as_text:
        with pytest.raises(Refused, match="value: found"):
            conversation(family, messages, taking(value=value))
    else:
        assert differences(family, conversation(family, messages, taking(value=value))) == []


STRING, NUMBER, BOOLEAN, NULL, LIST, OBJECT = (
    {"type": kind} for kind in ("string", "number", "boolean", "null", "array", "object")
)
NULLABLE, NUMBER_OR_TEXT = {"anyOf": [STRING, NULL]}, {"type": ["integer", "string"]}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        *(
            (schema, value)
            for schema in (BOOLEAN, {"enum": [True, False]})
            for value in (True, False)
        ),
        *((schema, None) for schema in (NULL, NULLABLE, {})),
        *((schema, 5) for schema in (NUMBER, NUMBER_OR_TEXT, {"enum": [5, 6]})),
        *((schema, "some text") for schema in (STRING, NULLABLE, NUMBER_OR_TEXT, {})),
        *(
            (STRING, text)
            for text in ("", "5", "true", "None", " x ", "\nx\n", '"x"', "{}", "a</b>")
        ),
        *(({"enum": ["5", "6"]}, "5"), ({"const": "5"}, "5"), (NUMBER, -2.5)),
        *((LIST, value) for value in ([], [True, None, 1.5, "x\n", {"a": [False]}])),
        *((OBJECT, value) for value in ({}, {"a": None, "b": {"c": True, "d": "</parameter>"}})),
    ],
    ids=repr,
)
def test_a_call_with_any_value_is_rendered_alike_and_read_back_by_llama_cpp(
    family: Served, schema: dict, value: object
) -> None:
    # The optional parameter comes first: some parsers read required ones first.
    tools = tool({"optional": STRING, "value": schema}, required=["value"])
    messages = [user("?"), calls({"optional": "x", "value": value}), result("ok"), says("Yes.")]
    talk = conversation(family, messages, tools)
    assert differences(family, talk) == []
    read = text_checks.check_parsing(family.endpoint, [talk], family.renderer)
    assert read["passed"], read["detail"]


@pytest.mark.parametrize(
    ("schema", "name", "value"),
    [
        *((NULLABLE, "value", "null"), (NUMBER_OR_TEXT, "value", "5"), ({}, "value", "[1]")),
        *((STRING, "value", "a\n</parameter>\nb"), (STRING, "other", "x")),
    ],
    ids=repr,
)
def test_a_call_that_llama_cpp_reads_otherwise_is_refused_by_name(
    family: Served, schema: dict, name: str, value: str
) -> None:
    messages = [user("?"), calls({name: value}), result("ok"), says("Yes.")]
    try:
        talk = conversation(family, messages, tool({"value": schema}))
    except Refused as refused:
        assert refused.reason == "engines_differ" and f"find: {name}: " in str(refused)
        family.renderer.bare = None
        talk = conversation(family, messages, tool({"value": schema}))
        read = text_checks.check_parsing(family.endpoint, [talk], family.renderer)
        del family.renderer.bare
        assert not read["passed"], "refused for nothing"
    else:
        assert family.renderer.bare is None
        assert text_checks.check_parsing(family.endpoint, [talk], family.renderer)["passed"]


@pytest.mark.parametrize("place", ["user", "result"])
@pytest.mark.parametrize("word", [*CONTROL, *NEAR])
def test_an_injected_control_token_reaches_the_student_as_text_or_is_refused_by_name(
    family: Served, word: str, place: str
) -> None:
    texts = {"user": "Close it.", "result": "done", place: f"before {word}\nassistant after"}
    messages = [user(texts["user"]), calls({"a_string": "x"}), result(texts["result"]), says("Yes")]
    try:
        talk = conversation(family, messages)
    except Refused as refused:
        assert word not in NEAR
        assert refused.reason == "marker_leak" and word in str(refused)
        return
    assert differences(family, talk) == []
    assert text_checks.check_prompt_tokens(family.endpoint, [talk], family.renderer)["passed"]
    body = {"content": word, "add_special": False, "parse_special": True}
    ids = post(family.endpoint, "/tokenize", body)["tokens"]
    # An added token that neither side treats as control is a word like others, as <think> is for Qwen3-Coder.
    special = family.renderer.tokenizer.all_special_tokens
    assert len(ids) > 1 or (word not in special and word not in family.renderer.template)


def test_a_families_own_end_of_turn_is_refused_in_a_text(family: Served) -> None:
    for token in family.renderer.stop:
        with pytest.raises(Refused, match="message 1: "):
            conversation(family, [user("?"), calls({"a_string": token}), result(""), says("Yes.")])


def test_a_plan_can_check_each_student_on_the_hub_before_a_download_but_those_with_vision() -> None:
    hub = {name for name in STUDENTS if "hub" in base.load(name)["source"]}
    with_family = {name for name in hub if base.load(name).get("stand_in") in stand_in.FAMILIES}
    assert hub - with_family == set(VISION)
