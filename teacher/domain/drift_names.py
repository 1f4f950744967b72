"""Other names and other words for a pack's tools and parameters: from the pack's `synonyms`, else made by rule.

A name belongs to one split, by its hash, so that no name of the exam's drift is ever trained.

In: names and descriptions of tools, the pack's synonyms, a random generator. Out: names and descriptions.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from schemas.task import Split

Synonyms = Mapping[str, Sequence[str]]

# Other verbs for the first word of a tool's name. Any other verb is kept.
_VERBS: dict[str, tuple[str, ...]] = {
    "get": ("fetch", "read", "retrieve", "look_up", "show", "load", "view", "query"),
    "find": ("search", "locate", "look_up", "identify", "seek", "query"),
    "list": ("fetch", "enumerate", "show", "read", "collect", "get"),
    "check": ("verify", "screen", "inspect", "examine", "search"),
    "set": ("update", "change", "write", "put", "store", "edit"),
    "add": ("attach", "append", "put", "insert", "apply"),
    "close": ("complete", "finish", "conclude", "settle", "end"),
    "log": ("record", "enter", "book", "register", "post"),
    "flag": ("mark", "report", "raise", "register", "note"),
    "mark": ("flag", "tag", "highlight", "select"),
    "open": ("create", "file", "raise", "start", "report"),
    "create": ("make", "open", "add", "new", "start"),
    "delete": ("remove", "drop", "erase", "discard"),
    "remove": ("delete", "drop", "take_out", "discard"),
    "send": ("dispatch", "deliver", "post", "submit"),
    "submit": ("send", "file", "post", "give"),
    "request": ("ask_for", "demand", "order", "solicit"),
    "assign": ("give", "allot", "hand_over", "delegate"),
    "move": ("shift", "transfer", "relocate", "bring"),
    "record": ("enter", "store", "log", "write", "save"),
    "note": ("record", "write_down", "remark", "log"),
    "view": ("show", "open", "display", "see"),
    "rerun": ("restart", "repeat", "run_again", "retry"),
    "join": ("enter", "enqueue_in", "add_to"),
    "leave": ("exit", "quit", "drop_from"),
    "watch": ("follow", "track", "monitor", "observe"),
    "cite": ("quote", "reference", "refer_to"),
    "comment": ("remark", "annotate", "note"),
    "order": ("purchase", "buy", "request", "procure"),
    "update": ("change", "edit", "modify", "set"),
}
# Other words for the parts of a parameter's name.
_PARAMETER_WORDS: dict[str, tuple[str, ...]] = {
    "id": ("no", "number", "ref", "key", "code", "reference"),
    "date": ("day", "on", "when", "start_date", "as_of"),
    "days": ("day_count", "count", "number_of_days", "span"),
    "hours": ("duration", "amount", "time_spent", "effort"),
    "name": ("title", "label", "full_name", "called"),
    "status": ("state", "condition", "phase"),
    "price": ("amount", "cost", "value", "list_price"),
    "count": ("quantity", "amount", "number", "units"),
    "path": ("file", "file_name", "location"),
    "line": ("row", "line_number", "at_line"),
}
_PARAMETER_FORMS = (
    *(
        "the_{}",
        "{}_value",
        "target_{}",
        "{}_arg",
        "given_{}",
        "input_{}",
        "{}_name",
        "{}_text",
        "which_{}",
        "{}_field",
    ),
)
_TOOL_FORMS = ("{}_now", "do_{}", "desk_{}", "{}_entry", "api_{}", "{}_tool", "run_{}", "{}_v2")
# The beginning of a description, reworded: the verb and what it becomes.
_OPENINGS: dict[str, tuple[str, ...]] = {
    "Get": ("Look up", "Read", "Return", "Show", "Use this to read", "Retrieve"),
    "Find": ("Search for", "Locate", "Look for", "Use this to find"),
    "List": ("Show", "Return", "Enumerate", "Use this to list"),
    "Show": ("Display", "Open", "Return", "Use this to see"),
    "Set": ("Change", "Write", "Store", "Use this to set"),
    "Change": ("Update", "Edit", "Set", "Use this to change"),
    "Record": ("Note", "Enter", "State", "Use this to record"),
    "Search": ("Look through", "Go through", "Use this to search"),
    "Count": ("Compute", "Work out", "Use this to count"),
    "Log": ("Record", "Enter", "Book", "Use this to log"),
    "Flag": ("Mark", "Report", "Raise", "Use this to flag"),
    "Put": ("Place", "Add", "Use this to put"),
    "Open": ("File", "Create", "Use this to open"),
    "Assign": ("Give", "Hand", "Use this to assign"),
}


def belongs_to(name: str, split: Split) -> bool:
    """Returns whether a name may be shown in a split. Case and underscores do not make another name."""
    plain = name.replace("_", "").lower()
    return (hashlib.sha256(plain.encode()).digest()[0] % 2 == 0) == (split == "train")


def tool_name(
    name: str, synonyms: Synonyms, split: Split, taken: set[str], rng: random.Random
) -> str:
    """Returns another name for a tool, not one of `taken`: a synonym of the pack, else one made by rule."""
    verb, _, rest = name.partition("_")
    verbs = [*synonyms.get(verb, ()), *_VERBS.get(verb, ())]
    nouns = [rest, *_words(rest, synonyms)]
    made = [f"{verb}_{noun}".strip("_") for verb in verbs for noun in nouns]
    made += [f"{verb}_{noun}" for noun in nouns[1:]]
    return _pick([synonyms.get(name, ()), made, *_forms(_TOOL_FORMS, name)], split, taken, rng)


def parameter_name(
    name: str, synonyms: Synonyms, split: Split, taken: set[str], rng: random.Random
) -> str:
    """Returns another name for a parameter, not one of `taken`: a synonym of the pack, else one made by rule."""
    words = {**_PARAMETER_WORDS, **synonyms}
    made = list(_words(name, words))
    return _pick([synonyms.get(name, ()), made, *_forms(_PARAMETER_FORMS, name)], split, taken, rng)


def reword(description: str, rng: random.Random) -> str:
    """Returns a description that begins with other words, if its first word is a known verb."""
    first, _, rest = description.partition(" ")
    return f"{rng.choice(_OPENINGS[first])} {rest}" if first in _OPENINGS else description


def _words(name: str, words: Synonyms) -> Iterator[str]:
    """Yields a name with one or two of its parts replaced, as agreement_no for contract_id."""
    forms = [name.split("_")]
    for index, part in enumerate(forms[0]):
        forms += [
            [*form[:index], other, *form[index + 1 :]]
            for form in list(forms)
            for other in words.get(part, ())
        ]
    yield from dict.fromkeys("_".join(form) for form in forms[1:])


def _forms(forms: Sequence[str], name: str) -> list[list[str]]:
    """Returns a name in one form, and in two, for the few names of which one form has none of a split."""
    once = [form.format(name) for form in forms]
    return [once, [form.format(other) for form in forms for other in once]]


def _pick(
    choices: Sequence[Sequence[str]], split: Split, taken: set[str], rng: random.Random
) -> str:
    """Returns a random name of the first group that has one of the split; the last group always has one."""
    for group in choices:
        fitting = [name for name in group if name not in taken and belongs_to(name, split)]
        if fitting:
            return rng.choice(fitting)
    raise ValueError(f"no name of the split {split} is left in {choices[-1]}")


def camel(name: str) -> str:
    """Returns a snake_case name in camelCase."""
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)
