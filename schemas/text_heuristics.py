"""Heuristics on an assistant's text: raw markers, a tool call announced but not made, a quoted hint.

Each rule is narrow: it prefers to miss a bad turn over rejecting a good one. Whatever executing a trace can prove is
checked elsewhere.
"""

import re
from collections.abc import Collection

# Markers that chat templates put around calls, turns and reasoning, by the families that use them.
_FAMILIES = {
    "ChatML, Qwen, Llama, Phi, GLM, Kimi, harmony, Granite, Command R": r"<\|[A-Za-z_][\w:]{2,}\|>",
    "Gemma 4": r"<\|(?:tool|tool_call|tool_response|turn|channel)>|<(?:tool_call|tool_response|turn|channel)\|>",
    "DeepSeek": r"</?｜[^｜<>]{3,}｜>?|</?\|DSML\|",
    "Kimi-VL": r"◁/?[a-z]+▷",
    "MiniMax, Seed": r"</?(?:minimax|seed|atem):(?:tool_call|think|function_calls|invoke|parameter)\b[^<>]*>",
    "Hermes, Qwen, GLM, Gemma": (
        r"</?(?:think|tool_calls?|TOOL_CALLS?|tool_response|arg_key|arg_value|start_of_turn|end_of_turn)>"
    ),
    "Qwen Coder": r"<(?:function|parameter)=[\w.-]+>",
    "MiniMax, MiniCPM": r'<invoke name="[\w.-]+">',
    "Mistral": (
        r"\[/?(?:TOOL_CALLS?|TOOL_RESULTS|TOOL_CONTENT|AVAILABLE_TOOLS|INST|SYSTEM_PROMPT|THINK|ARGS|CALL_ID)\]"
        r"|\[/?(?:think|tool_calls?)\]"
    ),
}
_MARKERS = re.compile("|".join(_FAMILIES.values()))
# A text that shows such markup to its reader quotes it as code.
_QUOTED = re.compile(r"```.*?(?:```|\Z)|``.*?``|`[^`\n]*`", re.DOTALL)

# "To answer this, ...", "First: ...", "Now let me ...".
_OPENING = r"^(?:[\w' ]{1,40}[,:] |(?:now|next|then|so|okay) )?"
_INTENT = (
    r"(?:let me|let's|let us|(?:i will|i'll|i am going to|i'm going to|i need to|i have to|i should)"
    r"(?: need to| have to)?)"
)
_SOON = r"(?: (?:now|first|then|next|also|just|quickly|start by|begin by|go ahead and)){0,3}"
# Verbs for the use of tools; "let me know", "I will look forward to it" and "I will not" must not match.
_DEEDS = (
    r"(?:call|use|check|get|fetch|retrieve|search|find|query|run|invoke|pull up|read|verify|confirm"
    r"|look (?:up|into|at|for|through|it up|this up|that up))"
    r"|(?:calling|using|checking|getting|fetching|retrieving|searching|finding|looking)"
)
_ANNOUNCES = re.compile(rf"{_OPENING}{_INTENT}{_SOON} (?:{_DEEDS})\b", re.IGNORECASE)
_PLEASANTRY = re.compile(
    r"^(?:sure|certainly|of course|okay|ok|alright|all right|absolutely|great|got it|understood"
    r"|no problem|hello|hi|thanks|thank you|please wait|please hold|one moment|just a moment|hold on)"
    r"\b[^\d]{0,40}$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?…:])\s+|\n+")

_QUOTES_HINT = re.compile(
    r"\bhints?\b"
    r"|\b(?:according to|following|based on|per) (?:the|this|your) plan\b"
    r"|\bthe plan (?:says|said|tells|states|calls for|gives|given|above)\b"
    r"|\bplan for this task\b"
    r"|\bas (?:i was )?instructed\b",
    re.IGNORECASE,
)


def marker_in(text: str) -> str | None:
    """The first raw tool-call marker, turn marker or think tag in a text, or None. Markup quoted as code is none."""
    match = _MARKERS.search(text) and _MARKERS.search(_QUOTED.sub(" ", text))
    return match.group() if match else None


def announced_call(text: str, tools: Collection[str]) -> str | None:
    """The sentence that announces a call, or the call written as text, where the text contains nothing else.

    Args:
        text: the last message of a conversation, which made no call. A text with a question mark never matches,
            because "I will cancel it. Shall I?" asks for consent.
        tools: the names of the tools that were offered.
    """
    text = text.strip().replace("’", "'")
    if not text or not tools or "?" in text:
        return None
    by_name = None
    lowered = text.lower()
    # Most texts name no tool, and compiling patterns of 15 names takes milliseconds. Letters beyond ASCII have further
    # cases, which only a pattern knows.
    is_ascii = text.isascii() and all(map(str.isascii, tools))
    if not is_ascii or any(name.lower() in lowered for name in tools):
        names = "|".join(re.escape(name) for name in tools)
        call = rf'(?:{names})\s*\(.*\)|\{{.*"name"\s*:\s*"(?:{names})".*\}}'
        if re.fullmatch(rf"(?:```\w*\s)?\s*\[?\s*(?:{call})\s*\]?\s*(?:```)?", text, re.DOTALL):
            return text
        by_name = re.compile(
            rf"{_OPENING}(?:{_INTENT}|now|next|calling|using)\b.*(?<!\w)(?:{names})(?!\w)",
            re.IGNORECASE,
        )
    announced = None
    for sentence in _SENTENCE_END.split(text):
        if _ANNOUNCES.match(sentence) or (by_name and by_name.match(sentence)):
            announced = sentence
        elif not _PLEASANTRY.match(sentence):
            return None  # the text has other content
    return announced


def quotes_hint(text: str) -> str | None:
    """The words that show that the author of a text was given the solution, or None."""
    match = _QUOTES_HINT.search(text)
    return match.group() if match else None
