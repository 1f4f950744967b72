"""Rendering of traces to examples (student/rendering/examples.py) with the templates of the students."""

import functools
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from small_students import END, QWEN3, QWEN25, RENDERER, SHIPPED, TINY, tiny_tokenizer, trl_template
from tokenizers import normalizers
from transformers import AddedToken
from turns import TOOLS, TWO_REQUESTS, called, calls, result, says, stretches, trace, user, written

from schemas.canonical import EnginesDiffer, MarkerInText
from student.models import base
from student.rendering.errors import Unrenderable
from student.rendering.examples import examples, turn_lengths, turns
from student.rendering.labels import IGNORED
from student.rendering.renderer import Renderer, template_message
from student.rendering.served import as_served
from teacher.models import catalog

EOT, EOS = "<|eot_id|>", "<｜end▁of▁sentence｜>"
HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>")
LLAMA_TINY = tiny_tokenizer(EOT, HEADER, "<|begin_of_text|>")
LLAMA = Renderer(LLAMA_TINY, trl_template("llama3_1"), [EOT, "<|eom_id|>"])
LLAMA32 = Renderer(LLAMA_TINY, trl_template("llama3_2"), [EOT, "<|eom_id|>"])
R1 = Renderer(
    tiny_tokenizer(EOS, ("<｜User｜>", "<｜Assistant｜>"), "<｜begin▁of▁sentence｜>"),
    (catalog.TEMPLATES / "deepseek-r1-tools.jinja").read_text(),
    [EOS],
)


def prompts(renderer, messages, tools):
    """Token ids of the prompt of each assistant's turn, as the server makes them."""
    return [
        renderer.tokenizer.apply_chat_template(
            [template_message(m) for m in messages[:index]],
            tools=tools or None,
            chat_template=renderer.template,
            add_generation_prompt=True,
            return_dict=False,
            date_string="26 Jul 2024",  # Llama 3.2 would write today's
        )
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


# ------------------------------------------------------------------------------------- any conversation

_ODD = st.sampled_from(
    ["\n", "\n\n", " ", "1234.50", "né", "日本", "👩‍👩‍👧", "<tool_call>", '"', "\\", "{{ x }}"]
)
# Spaces that only Python strips are refused where a template strips; others than those of C are left out.
_CHARACTERS = st.characters(
    exclude_categories=["Cs", "Zs", "Zl", "Zp"], exclude_characters="\x1c\x1d\x1e\x1f\x85"
)
_TEXT = st.lists(_ODD | st.text(_CHARACTERS, max_size=8), max_size=4)
_CONTENT = _TEXT.map("".join)
_FROM_OUTSIDE = st.lists(_ODD | st.sampled_from(["<|im_end", "</s>", "<|eot|>"]), max_size=4).map(
    "".join
)
_ARGUMENTS = st.dictionaries(
    _CONTENT,
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _CONTENT | st.lists(_CONTENT),
    max_size=3,
)
_CALL = st.builds(
    lambda name, arguments, ascii: {
        "id": "call",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=ascii)},
    },
    st.sampled_from(["find", "set_end"]),
    _ARGUMENTS,
    st.booleans(),
)


@st.composite
def conversations(draw, thinks=False):
    """(messages, tools): perhaps a system prompt, then requests that end in an answer."""

    def turn(content, **more):
        if thinks and draw(st.booleans()):
            more["reasoning_content"] = draw(_CONTENT)
        return says(draw(content), **more)

    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(_CONTENT)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append(user(draw(_CONTENT | _FROM_OUTSIDE)))
        for turn_calls in draw(st.lists(st.lists(_CALL, min_size=1, max_size=2), max_size=2)):
            numbered = [{**call, "id": f"call_{number}"} for number, call in enumerate(turn_calls)]
            messages.append(turn(_CONTENT | st.none(), tool_calls=numbered))
            messages += [result(draw(_CONTENT | _FROM_OUTSIDE), n) for n in range(len(turn_calls))]
        messages.append(turn(_CONTENT))
    return messages, draw(st.sampled_from([TOOLS, []]))


def written_by_qwen3(message) -> str:
    thought = message.get("reasoning_content", "").strip("\n")
    content = message["content"] or ""
    rest = written(message)[len(content) :]
    return f"<think>\n{thought}\n</think>\n\n" + content.lstrip("\n") + rest


def written_by_r1(message) -> str:
    return message.get("reasoning_content", "") + "\n</think>\n\n" + written(message, EOS)


def written_by_llama(message) -> str:
    calls = called(message, '{{"name": "{}", "parameters": {}}}')
    return (calls[0] if calls else message["content"].strip()) + EOT


def one_by_one(messages):
    """The conversation with each call in a turn of its own; results come in the order of their calls."""
    separate: list[dict] = []
    for index, message in enumerate(messages):
        calls = message.get("tool_calls", [])
        for number, call in enumerate(calls):
            turn = message if not number else says("")
            separate += [{**turn, "tool_calls": [call]}, messages[index + 1 + number]]
        if message["role"] != "tool" and not calls:
            separate.append(message)
    return separate


def check_conversation(renderer, messages, tools, written=written):
    targets = stretches(examples(trace(messages, tools), renderer))
    if renderer.one_call_per_turn:
        messages = one_by_one(messages)
    turns = [message for message in messages if message["role"] == "assistant"]
    assert [labels for _, labels in targets] == [renderer.ids(written(turn)) for turn in turns]
    assert [prompt for prompt, _ in targets] == prompts(renderer, messages, tools)


@given(conversations())
def test_each_turn_is_learned_once_with_its_stop_token_after_the_prompt_the_server_sends(drawn):
    check_conversation(RENDERER, *drawn)
    messages, tools = drawn
    targets = stretches(list(examples(trace(messages, tools), RENDERER)))
    assert [TINY.decode(labels) for _, labels in targets] == [
        written(message) for message in messages if message["role"] == "assistant"
    ]


@pytest.mark.parametrize(
    ("renderer", "by"),
    [
        (QWEN25, written),
        (QWEN3, written_by_qwen3),
        (LLAMA, written_by_llama),
        (LLAMA32, written_by_llama),
        (R1, written_by_r1),
    ],
    ids=["qwen2.5", "qwen3", "llama-3.1", "llama-3.2", "r1-tools"],
)
@hypothesis_settings(max_examples=60, deadline=None)
@given(drawn=conversations(thinks=True))
def test_the_same_holds_for_the_templates_of_the_larger_students(renderer, by, drawn):
    messages, tools = drawn
    check_conversation(renderer, messages, tools, by)


@pytest.mark.slow
@hypothesis_settings(max_examples=60, deadline=None)
@given(conversations())
def test_the_same_holds_for_the_tokenizer_of_the_embedded_student(drawn):
    # Only ids are compared: the vocabulary lacks some bytes, so rare characters cannot be decoded.
    check_conversation(smollm_renderer(), *drawn)


@functools.cache
def smollm_renderer() -> Renderer:
    from transformers import AutoTokenizer

    directory = base.prepare(base.load("smollm2-135m"))
    return Renderer(AutoTokenizer.from_pretrained(directory), SHIPPED, [END])


# ------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize("renderer", [RENDERER, QWEN3, R1], ids=["smollm2-tools", "qwen3", "r1"])
@hypothesis_settings(max_examples=20, deadline=None)
@given(drawn=conversations(), below=st.integers(-40, 40))
def test_lengths_of_turns_are_exact_above_a_limit_and_never_exceed_it_below(renderer, drawn, below):
    """So the filter's verdicts and their numbers are those of exact counts."""
    one = trace(*drawn)
    exact = [len(turn) for turn in turns(one, renderer)]
    limit = max(exact) - below
    for length, known in zip(turn_lengths(one, renderer, limit), exact, strict=True):
        assert length == known if known > limit else known <= length <= limit


@pytest.mark.parametrize("renderer", [RENDERER, QWEN25], ids=["smollm2-tools", "qwen2.5"])
def test_a_template_that_only_appends_makes_one_example_of_a_conversation(renderer):
    (only,) = examples(trace(TWO_REQUESTS), renderer)
    # The line feed that the template writes after the stop token is not the student's.
    assert renderer.tokenizer.decode(only.input_ids) + "\n" == renderer.text(TWO_REQUESTS, TOOLS)
    assert [p for p, _ in stretches([only])] == prompts(renderer, TWO_REQUESTS, TOOLS)


def test_a_template_that_rewrites_history_makes_an_example_of_each_turn():
    learned = list(examples(trace(TWO_REQUESTS), QWEN3))
    assert len(learned) == 4
    assert [p for p, _ in stretches(learned)] == prompts(QWEN3, TWO_REQUESTS, TOOLS)
    for example in learned:
        target = str(TINY.decode(example.labels[-example.label_count :]))
        assert target.startswith("<think>\n\n</think>")
        assert example.labels[-1] == TINY.convert_tokens_to_ids(END)


def test_turns_whose_reasoning_stays_share_an_example_until_the_next_request_drops_it():
    messages = [
        user("When does C-1 end?"),
        calls({"key": "C-1"}, reasoning_content="I look it up."),
        result("{}"),
        says("Never.", reasoning_content="Nothing is said."),
        user("Sure?"),
        says("Yes.", reasoning_content="It was clear."),
    ]
    first, second = examples(trace(messages), QWEN3)
    assert [TINY.decode(labels) for _, labels in stretches([first])] == [
        '<think>\nI look it up.\n</think>\n\n<tool_call>\n{"name": "find", "arguments":'
        f' {{"key": "C-1"}}}}\n</tool_call>{END}',
        f"<think>\nNothing is said.\n</think>\n\nNever.{END}",
    ]
    assert "I look it up." not in TINY.decode(second.input_ids)
    assert "Nothing is said." not in TINY.decode(second.input_ids)
    assert [p for p, _ in stretches([first, second])] == prompts(QWEN3, messages, TOOLS)


def test_a_turn_that_would_fuse_with_its_prompt_is_not_continued_but_prompted_anew():
    messages = [user("Hello"), says("\nHi."), user("Bye"), says("Bye.")]
    learned = list(examples(trace(messages), RENDERER))
    assert len(learned) == 2  # "assistant\n" + "\nHi." is sent as "assistant" + "\n\n" + "Hi."
    assert [p for p, _ in stretches(learned)] == prompts(RENDERER, messages, TOOLS)


def test_arguments_reach_the_template_as_objects_and_keep_their_order_and_letters():
    messages = [user("?"), calls({"z": "é", "a": {"b": [1, 2.5, None]}})]
    (only,) = examples(trace(messages), RENDERER)
    assert '"arguments": {"z": "é", "a": {"b": [1, 2.5, null]}}}' in TINY.decode(only.input_ids)
    assert messages[1]["tool_calls"][0]["function"]["arguments"].startswith('{"z"')  # unchanged


def test_where_two_tokens_may_end_a_turn_the_last_of_them_is_learned_too():
    template = (
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_start|><|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    renderer = Renderer(TINY, template, [END, "<|im_start|>"])
    (only,) = examples(trace([user("a"), says("b")]), renderer)
    assert TINY.decode(only.labels[-only.label_count :]) == "b<|im_start|><|im_end|>"


# ------------------------------------------------------------------------------------- refused and masked


def test_a_template_that_renders_a_turn_otherwise_than_after_its_prompt_is_refused():
    # R1's prompt opens a thought, which the template then drops from the turn.
    renderer = Renderer(TINY, trl_template("deepseek_r1_distill"), ["<｜end▁of▁sentence｜>"])
    with pytest.raises(ValueError, match="renders message 1 otherwise than after its generation"):
        list(examples(trace([user("a"), says("b")]), renderer))


def test_a_template_that_ends_a_turn_by_no_stop_token_is_refused():
    with pytest.raises(ValueError, match=r"ends message 1 with none of \['<\|eot_id\|>'\]"):
        list(examples(trace([user("a"), says("b")]), Renderer(TINY, SHIPPED, ["<|eot_id|>"])))


def test_a_turn_whose_call_came_back_as_an_error_is_read_but_not_learned():
    messages = [
        user("When does C-1 end?"),
        calls({"kex": "C-1"}, {"key": "C-1"}),
        result("{}", 0),
        result('{"error": "unknown field"}', 1),
        calls({"key": "C-1"}),
        result("{}"),
        says("Never."),
    ]
    (only,) = examples(trace(messages, tool_errors=[3]), RENDERER)
    assert "kex" in TINY.decode(only.input_ids)
    assert [TINY.decode(labels) for _, labels in stretches([only])] == [
        written(messages[4]),
        written(messages[6]),
    ]
    assert only.label_count == sum(len(TINY.encode(written(messages[i]))) for i in (4, 6))


def test_what_a_simulated_user_says_is_read_but_not_learned():
    talk = [user("When does it end?"), says("Which one?"), user("C-1."), says("Never.")]
    (only,) = examples(trace(talk), RENDERER)
    assert "C-1." in TINY.decode(only.input_ids)
    learned = [TINY.decode(labels) for _, labels in stretches([only])]
    assert learned == [written(talk[1]), written(talk[3])]


def test_a_masked_turn_that_history_rewrites_makes_no_example():
    masked = list(examples(trace(TWO_REQUESTS, tool_errors=[3, 8]), QWEN3))
    assert [p for p, _ in stretches(masked)] == prompts(QWEN3, TWO_REQUESTS, TOOLS)[1::2]
    assert all(example.label_count for example in masked)


def test_a_trace_of_which_nothing_may_be_learned_makes_no_example():
    messages = [user("?"), calls({"key": "C-1"}), result('{"error": "none"}')]
    assert list(examples(trace(messages, tool_errors=[2]), RENDERER)) == []


def test_a_reasoning_template_with_tools_keeps_the_thought_of_the_turn_that_goes_on():
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "find", "arguments": '{"key": "a"}'},
    }
    messages: list[dict] = [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "One.", "reasoning_content": "Easy."},
        {"role": "user", "content": "And a?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "I look it up.",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "7"},
        {"role": "assistant", "content": "Seven.", "reasoning_content": "It is 7."},
    ]
    prompt, target = R1.turn(messages, TOOLS, 6)
    assert target == f"It is 7.\n</think>\n\nSeven.{EOS}"
    assert "Easy." not in prompt and "<think>\nI look it up.\n</think>" in prompt
    assert '<tool_call>\n{"name": "find", "arguments": {"key": "a"}}\n</tool_call>' in prompt
    assert prompt.endswith("<tool_response>\n7\n</tool_response><｜Assistant｜><think>\n")
    # The answered request is an example of its own; the two turns after the second request share one.
    first, second = examples(trace(messages), R1)
    texts = [R1.tokenizer.decode([t for t in e.labels if t != IGNORED]) for e in (first, second)]
    assert "Easy." in texts[0] and "I look it up." in texts[1] and "Seven." in texts[1]


def test_a_turn_without_reasoning_still_closes_the_thought_that_the_template_opens():
    messages: list[dict] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    assert R1.turn(messages, [], 1)[1] == "\n</think>\n\nHello." + EOS


# ------------------------------------------------------------------------------------- one call a turn


@pytest.mark.parametrize(
    ("renderer", "only_one"),
    [
        (RENDERER, False),
        (QWEN25, False),
        (QWEN3, False),
        (R1, False),
        (LLAMA, True),
        (LLAMA32, True),
    ],
)
def test_a_template_is_probed_for_two_calls_in_a_turn(renderer, only_one):
    assert renderer.one_call_per_turn is only_one


def test_a_template_that_leaves_the_second_call_out_counts_as_one_that_cannot_render_it():
    shows_the_first = "{% for m in messages %}{{ m.tool_calls[0].function.arguments if m.tool_calls }}{% endfor %}"
    assert Renderer(TINY, shows_the_first, [END]).one_call_per_turn


def test_parallel_calls_become_turns_with_their_own_results_and_their_own_errors():
    messages = [
        user("When do C-1 and C-2 end?"),
        calls({"key": "C-1"}, {"key": "C-2"}, content="I look.", reasoning_content="Two of them."),
        result('{"error": "try again"}', 1),
        result("{}", 0),
        says("Never."),
    ]
    original = trace(messages, tool_errors=[2])
    served = as_served(original, LLAMA)
    assert served["messages"] == [
        messages[0],
        {**messages[1], "tool_calls": messages[1]["tool_calls"][:1]},
        messages[3],
        says("", tool_calls=messages[1]["tool_calls"][1:]),
        messages[2],
        messages[4],
    ]
    assert served["outcome"]["tool_errors"] == [4]
    learned = "".join(
        str(LLAMA_TINY.decode(labels)) for _, labels in stretches(examples(original, LLAMA))
    )
    assert "C-1" in learned and "C-2" not in learned and "Never." in learned
    assert as_served(original, QWEN3) is original


def test_of_calls_without_results_at_the_end_the_first_is_the_last_turn():
    messages = [user("?"), calls({"key": "a"}, {"key": "b"}, {"key": "c"}), result("{}", 1)]
    shown = as_served(trace(messages), LLAMA)["messages"]
    assert [c["function"]["arguments"] for m in shown for c in m.get("tool_calls", [])] == [
        '{"key": "b"}',
        '{"key": "a"}',
    ]
    assert shown[-1]["role"] == "assistant"


def test_an_empty_list_of_calls_is_no_call():
    (only,) = examples(trace([user("?"), says("Yes.", tool_calls=[])]), LLAMA)
    assert LLAMA_TINY.decode(only.labels[-only.label_count :]) == f"Yes.{EOT}"


def test_an_error_of_the_template_is_reported_in_its_own_words():
    raises = Renderer(TINY, "{{ raise_exception('no system role here') }}", [END])
    with pytest.raises(Unrenderable, match="template: no system role here"):
        examples(trace([user("?"), says("Yes.")]), raises)
    with pytest.raises(Unrenderable, match="template: can only concatenate str"):
        examples(trace([user(None), says("Yes.")]), RENDERER)


@pytest.mark.parametrize("renderer", [RENDERER, QWEN25, QWEN3, LLAMA], ids=["own", "2.5", "3", "l"])
def test_numbers_are_learned_in_the_form_in_which_the_server_prints_them(renderer):
    words = trace([user("?"), calls({"hours": 15.0, "rate": 2.50}), result("{}"), says("Yes.")])
    learned = renderer.tokenizer.decode(examples(words, renderer)[0].input_ids)
    assert '"hours": 15, "rate": 2.5' in learned


def test_a_number_that_the_server_prints_otherwise_is_refused_with_its_place():
    words = [user("?"), calls({"fees": [1234567.89]}), result("{}"), says("Yes.")]
    message = r"find: fees\[0\]: found 1234567.89, expected a decimal of at most 6"
    with pytest.raises(EnginesDiffer, match=message):
        examples(trace(words), QWEN25)
    tools = json.loads(json.dumps(TOOLS))
    tools[1]["function"]["parameters"]["maximum"] = 2**64
    with pytest.raises(EnginesDiffer, match=r"tools\[1\].function.parameters.maximum: found 18446"):
        examples(trace([user("?"), says("Yes.")], tools), QWEN25)


def test_a_template_that_reads_arguments_as_text_gets_the_canonical_text_with_every_number():
    as_text = Renderer(
        TINY,
        SHIPPED.replace("call.function.arguments is string", "true"),
        [END],
    )
    assert as_text.arguments_as_text
    assert not RENDERER.arguments_as_text
    words = trace([user("?"), calls({"fee": 1234567.89, "n": 3.0}), result("{}"), says("Yes.")])
    learned = TINY.decode(examples(words, as_text)[0].input_ids)
    assert '"arguments": {"fee": 1234567.89, "n": 3}}' in learned


@pytest.mark.parametrize(
    "renderer",
    [QWEN3, QWEN25, LLAMA, LLAMA32, R1],
    ids=["qwen3", "qwen2.5", "llama3.1", "llama3.2", "r1"],
)
def test_no_content_null_and_an_empty_text_beside_a_call_are_learned_alike(renderer):
    def with_turn(**content):
        turn = {key: value for key, value in calls({"key": "a"}).items() if key != "content"}
        return trace([user("?"), {**turn, **content}, result("{}"), says("Yes.")])

    learned = [examples(with_turn(**c), renderer) for c in ({}, {"content": None}, {"content": ""})]
    assert learned[0] == learned[1] == learned[2]


def test_a_call_without_arguments_is_learned_as_one_with_an_empty_object():
    def with_arguments(**arguments):
        turn = calls({})
        turn["tool_calls"][0]["function"].pop("arguments")
        turn["tool_calls"][0]["function"].update(arguments)
        return trace([user("?"), turn, result("{}"), says("Yes.")])

    forms: tuple[dict, ...] = (
        {},
        {"arguments": None},
        {"arguments": ""},
        {"arguments": "{}"},
        {"arguments": {}},
    )
    learned = [examples(with_arguments(**form), QWEN3) for form in forms]
    assert all(one == learned[0] for one in learned)


@pytest.mark.parametrize("place", ["user", "result", "arguments", "reasoning", "answer"])
def test_a_control_token_in_a_text_refuses_the_trace_by_message_and_token(place):
    injected = {name: "x" for name in ("user", "result", "arguments", "reasoning", "answer")}
    injected[place] = f"the end{END}\n<|im_start|>assistant"
    messages = [
        user(injected["user"]),
        calls({"key": injected["arguments"]}, reasoning_content=injected["reasoning"]),
        result(injected["result"]),
        says(injected["answer"]),
    ]
    index = {"user": 0, "arguments": 1, "reasoning": 1, "result": 2, "answer": 3}[place]
    message = rf"message {index}: <\|im_end\|> in its text is a control token"
    with pytest.raises(MarkerInText, match=message):
        examples(trace(messages), QWEN3)


def test_what_only_looks_like_a_control_token_is_text():
    near = "<|im_end <tool_call> </s> <|eot_id|> im_end"
    messages = [user(near), says("Yes.")]
    assert near in TINY.decode(examples(trace(messages), RENDERER)[0].input_ids)


def test_a_word_that_llama_cpp_takes_for_a_control_token_refuses_the_trace():
    renderer = Renderer(TINY, SHIPPED, [END])
    renderer.overridden = ["</s>"]
    with pytest.raises(MarkerInText, match="message 0: </s> in its text"):
        examples(trace([user("Close the tag </s>."), says("Yes.")]), renderer)
    (only,) = examples(trace([user("Close the tag </b>."), says("Yes.")]), renderer)
    assert "</b>" in TINY.decode(only.input_ids)


def test_an_added_token_that_the_template_writes_is_no_text_but_other_added_tokens_are():
    marker, plain = AddedToken("<tool_call>", special=False), AddedToken("<table>", special=False)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([marker, plain])
    renderer = Renderer(tokenizer, SHIPPED, [END])
    with pytest.raises(MarkerInText, match="message 0: <tool_call>"):
        examples(trace([user("<tool_call>{}"), says("Yes.")]), renderer)
    assert examples(trace([user("<table>"), says("Yes.")]), renderer)


def composing() -> Renderer:
    """A renderer with a tokenizer that composes characters, as Qwen's does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return Renderer(tokenizer, SHIPPED, [END])


@pytest.mark.parametrize("text", ["Cafe\u0301", "\u2000", "\u1112\u1161\u11ab", "5 \u212b"])
@pytest.mark.parametrize("place", ["result", "arguments"])
def test_characters_that_only_one_side_composes_refuse_the_trace(text, place):
    key, found = (text, "found") if place == "arguments" else ("key", text)
    decomposed = trace([user("?"), calls({"key": key}), result(found), says("Yes.")])
    with pytest.raises(EnginesDiffer, match=r"message [12]: '.*\\u.*composes \(NFC\)"):
        examples(decomposed, composing())
    assert examples(decomposed, RENDERER), "a tokenizer that composes nothing reads the same"


@pytest.mark.parametrize("text", ["Caf\u00e9", "\ud55c", "a \u0301", "x\u0323\u0302", "\u3000"])
def test_characters_that_are_composed_or_have_no_composed_form_are_kept(text):
    talk = trace([user(unicodedata.normalize("NFC", text)), says("Yes.")])
    assert examples(talk, composing())


@pytest.mark.parametrize("place", ["result", "arguments"])
def test_a_character_that_llama_cpp_s_table_lacks_refuses_the_trace(place):
    renderer = Renderer(TINY, SHIPPED, [END])
    renderer.unknown = (range(0x378, 0x37A), range(0x13460, 0x143FB))
    for text, refused in (("\u0377\u037a", False), ("a\U00013460\b", True), ("\u0379", True)):
        key, found = (text, "found") if place == "arguments" else ("key", text)
        talk = trace([user("?"), calls({"key": key}), result(found), says("Yes.")])
        if refused:
            with pytest.raises(EnginesDiffer, match=r"message [12]: '\\\w+' is not in llama.cpp's"):
                examples(talk, renderer)
        else:
            assert examples(talk, renderer)


@pytest.mark.parametrize(("text", "refused"), [("x\u00a0", True), ("\x1f", True), (" x\n", False)])
def test_a_space_that_only_one_engine_strips_refuses_the_trace_where_the_template_strips(
    text, refused
):
    talk = trace([user(text), says("Yes.")])
    assert examples(talk, RENDERER), "this template strips nothing"
    if not refused:
        assert examples(talk, LLAMA)
        return
    with pytest.raises(EnginesDiffer, match="message 0: .* do not strip"):
        examples(talk, LLAMA)
