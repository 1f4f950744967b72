"""The values of a text, such as C-104, 2026-03-02 and names: a model that writes for a user may not add or lose any."""

import re
from collections.abc import Iterator

# Words with the signs inside them: C-104, 2026-03-02, fix/late-kettle, 10,280.50.
_TOKEN = re.compile(r"[^\s\"“”()\[\]{}<>]+")


def values_in(text: str) -> list[str]:
    """The values of a text: words with a digit or with a sign of an identifier inside, and names."""
    values = [token for token in tokens_in(text) if is_value(token)]
    for value in values:
        text = text.replace(value, " . ")
    return [*values, *names_in(text)]


def unquoted(text: str) -> str:
    """Returns a reply without the quotation marks that surround all of it."""
    text = text.strip()
    for opening, closing in ('""', "''", "“”", "„“", "«»"):
        inner = text[1:-1]
        if len(text) > 2 and text[0] == opening and text[-1] == closing and closing not in inner:
            return inner.strip()
    return text


def names_in(text: str) -> Iterator[str]:
    """Yields the runs of capitalised words of a text, such as "Aldgate Foods", each without a sentence's first word.

    That word has a capital in any case. A name there is still found if the solution uses it (rewrite.py).
    """
    run: list[str] = []
    before = "."
    for word in [*re.findall(r"[^\W\d_]+|[^\w\s]", text), "."]:
        if word[0].isupper() and word != "I" and before not in ".!?:":
            run.append(word)
        elif run:
            yield " ".join(run)
            run = []
        before = word


def tokens_in(text: str) -> list[str]:
    """The words of a text, without the marks around them."""
    words = _TOKEN.findall(re.sub(r"['’]s\b", " ", text))
    return [token for word in words if (token := word.strip(".,;:!?'‘’"))]


def is_value(token: str) -> bool:
    """Whether a word identifies something: it has a digit, or a sign of a path or an identifier inside."""
    return any(c.isdigit() for c in token) or bool(re.search(r"\w[/_@#=.]\w", token))
