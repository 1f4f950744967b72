"""Patterns mean what ECMA-262 says; the package `regress`, an engine for ECMA-262, is the second opinion."""

import pytest
import regress
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ecma_pattern import PatternNotSupported, portable
from schemas.json_schema import Schema, SchemaNotSupported


def matches(pattern, text):
    return Schema({"pattern": pattern}).problem(text) is None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("^[A-Z]{2}$", "AB", "AB\n"),
        (r"^\d+$", "12", "१२"),
        (r"^\w+$", "a_1", "é"),
        (r"^\W$", "é", "_"),
        (r"^\s$", "\ufeff", "\u0085"),
        (r"^\S$", "\u0085", "\u00a0"),
        ("^.$", "😀", "\u2028"),
        (r"^\bé?", "a", "é"),
        (r"^(?!x)[\w]+$", "a", "é"),
        (r"^\p{Lu}\p{Script=Greek}$", "Éα", "éα"),
        (r"^[+\w-.]+$", "a-b.c+", "a/b"),
        ("^[[a-z]]$", "a]", "a"),
        ("^[a&&b]$", "&", "ab"),
        ("^[^]$", "\n", ""),
        ("^x{,2}$", "x{,2}", "xx"),
        (r"^[\b]\0$", "\b\0", "b0"),
        (r"^\ud83d\ude00$", "😀", "x"),
        (r"^(?<q>['`]).+\k<q>$", "`a`", "`a'"),
        (r"(?<n>^a$)|(?<n>^b$)", "b", "c"),
        (r"^(?i:id)-\x41\u{42}$", "ID-AB", "id-ab"),
        (r"(?<!\d)\d{2}(?!\d)", "a12", "123"),
        (r"^a\/b\-c$", "a/b-c", "a/bc"),
    ],
)
def test_a_pattern_has_its_meaning_in_ecma_262(pattern, yes, no):
    assert matches(pattern, yes)
    assert not matches(pattern, no)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\Aa\z",
        "(?i)a",
        "(?P<n>a)",
        "a++",
        "(?>a)",
        r"\Qa",
        r"\h",
        r"\pL",
        "(?#c)a",
        r"(x)?a\1",
        r"\2(a)",
    ],
)
def test_what_only_other_languages_have_is_not_supported(pattern):
    with pytest.raises(PatternNotSupported):
        portable(pattern)


atoms = st.sampled_from(
    [
        *("a", "b", "1", "-", "_", ".", "]", "}", "é", " "),
        *(r"\d", r"\w", r"\s", r"\D", r"\W", r"\S"),
    ]
    + [
        r"\b",
        r"\B",
        r"\.",
        r"\/",
        r"\-",
        r"\0",
        "[^]",
        "[]",
        "[a-z]",
        r"[^\w-]",
        r"[\d.-]",
        "[[a]",
        "[a&&b~~]",
    ]
    + [
        r"\u0061",
        r"\x2d",
        r"\u{e9}",
        r"\p{L}",
        r"[^\p{L}\s]",
        r"[\S]",
        r"[^\W]",
        r"(?=a)",
        r"(?!b)",
        r"(?<=a)",
    ]
)
quantified = st.builds("".join, st.tuples(atoms, st.sampled_from(["", "", "", "?", "{2}"])))
patterns = st.recursive(
    st.lists(quantified, min_size=1, max_size=4).map("".join),
    lambda inner: (
        st.builds("({}|{})".format, inner, inner) | st.builds("(?:{})?{}".format, inner, inner)
    ),
    max_leaves=4,
).map(lambda pattern: f"^{pattern}$")
texts = st.text(st.sampled_from("ab1-_.]} é\n\u2028\0/&~[א"), max_size=5)


@settings(max_examples=200, deadline=None)
@given(patterns, st.lists(texts, max_size=6))
def test_patterns_match_what_an_engine_for_ecma_262_matches(pattern, samples):
    try:
        schema = Schema({"pattern": pattern})
    except SchemaNotSupported:  # such as a quantifier after a look-ahead
        return
    try:
        other = regress.Regex(pattern, "u")
    except regress.RegressError:  # outside unicode mode `]` may stand alone, but there is no \p{L}
        if r"\p" in pattern or r"\u{" in pattern:
            return
        other = regress.Regex(pattern)
    for text in [*samples, "", "a", "é", "a-", "\n"]:
        assert (schema.problem(text) is None) == (other.find(text) is not None), (pattern, text)
