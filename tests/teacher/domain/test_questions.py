"""Answers are computed from the data, and a second evaluator, written apart, computes the same ones."""

import random
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from second_evaluator import evaluate, flat, quantity

from teacher.domain.questions import (
    AXIS_SHARE,
    ProgramError,
    at,
    every,
    run,
    tolerance,
    used,
    value,
)
from teacher.scenes import kinds
from teacher.scenes.scene import Cell

INVOICE: dict[str, Any] = {
    "variant": "invoice",
    "title": "Invoice 77",
    "fields": {"No. 1.5": "EUR 12,500.00", "Due": "2 March 2026", "Term": "45 business days"},
    "table": {
        "columns": ["Item", "Amount", "Status"],
        "rows": [["Paper", "12.10", "paid"], ["Ink", 0.2, "overdue"], ["Glue", 300, "Paid"]],
    },
}
BARS: dict[str, Any] = {
    "variant": "bar",
    "title": "Sales",
    "categories": ["north", "south", "west"],
    "series": {"Sales": [10, 100, 101]},
    "labels": False,
}
AMOUNTS, STATUS = every(INVOICE, "table.*.1"), every(INVOICE, "table.*.2")
ITEMS = every(INVOICE, "table.*.0")


def written(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "labels": True}


# --------------------------------------------------------------------------------- a thousand scenes


def programs(data: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """Questions of every operation that the scene has cells for."""
    cells = {key: at(data, key) for key in flat(data)}
    # A drawing has one more rule: lines of brackets alone and empty values are not shown.
    keys = [key for key, one in flat(data).items() if re.search(r"\w", str(one))]
    keys = [key for key in keys if key not in _SETTINGS and not key.startswith("groups.")]
    if len(data.get("series", {})) == 1:  # no legend
        keys = [key for key in keys if key not in {f"series.{name}" for name in data["series"]}]
    if data["variant"] == "pie" and not data.get("labels"):
        keys = [key for key in keys if "axis" not in cells[key]]
    made: list[dict[str, Any]] = [{"op": "lookup", "cell": cells[rng.choice(keys)]}]
    one, other = rng.choice(keys), rng.choice(keys)
    if not any("axis" in cells[key] for key in (one, other)):
        made.append({"op": "consistency", "cells": [cells[one], cells[other]]})
        made.append({**made[-1], "tell": rng.randrange(2)})
    columns = []
    if table := data.get("table"):
        columns = [every(data, f"table.*.{c}") for c in range(len(table["columns"]))]
    columns += [every(data, f"series.{name}.*") for name in data.get("series", {})]
    names = every(data, "categories.*") if "series" in data else columns[0] if columns else []
    for column in columns:
        made.append({"op": "count", "cells": column})
        found = [flat(data)[cell["key"]] for cell in column]
        pivot = rng.choice(found)
        is_written = "axis" not in column[0]
        if is_written:
            made.append({"op": "count", "cells": column, "where": {"is": "=", "value": pivot}})
            look = {"op": "cross_reference", "cell": {"value": pivot}, "among": column}
            made.append({**look, "values": names})
        if all(isinstance(quantity(one), Fraction) for one in found):
            made.append({"op": "sum", "cells": column})
            made.append({"op": "trend", "cells": column})
            if is_written:
                where = {"is": rng.choice((">", "<=")), "value": pivot}
                made.append({"op": "count", "cells": column, "where": where})
        if all(quantity(one) is not None for one in found) and len(column) > 1:
            made.append({"op": "difference", "cells": rng.sample(column, 2)})
            op = rng.choice(("argmax", "argmin"))
            made.append({"op": op, "cells": column, "names": names})
    if "nodes" in data:
        made.append({"op": "count", "cells": every(data, "nodes.*")})
        node = rng.choice(list(data["nodes"]))
        boxes = every(data, "nodes.*")
        look = {"op": "cross_reference", "cell": {"value": data["nodes"][node]}}
        made.append({**look, "among": boxes, "values": boxes[1:] + boxes[:1]})
    return made


_SETTINGS = {"variant", "labels", "unit", "language", "highlight", "scan", "page", "pages"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(kinds.KINDS))
def test_a_thousand_scenes_of_a_kind_show_what_their_questions_need_and_both_evaluators_agree(
    kind: str,
) -> None:
    asked: dict[str, int] = {}
    for number in range(1000):
        rng = random.Random(f"questions/{kind}/{number}")
        scene = kinds.example(kind, rng)
        data, shown = scene.data, None
        if number < 100:  # tests of each kind draw a thousand
            shown = {cell.key for cell in kinds.draw(scene).cells}
        for program in programs(data, rng):
            try:
                answer = run(program, [data])
            except ProgramError as error:
                # Only for questions that the picture leaves open.
                assert re.search(r"told apart|expected once|no axis", str(error)), (program, error)
                continue
            assert shown is None or {key for _, key in used(program)} <= shown, (number, program)
            assert answer.value == pytest.approx(evaluate(program, [data])), (program, data)
            asked[program["op"]] = asked.get(program["op"], 0) + 1
    assert asked["lookup"] >= 900 and len(asked) >= 2, asked


# ----------------------------------------------------------------------------------- each operation


@pytest.mark.parametrize(
    ("key", "kind", "expected"),
    [
        ("fields.No. 1.5", "number", 12500),
        ("fields.Due", "date", "2026-03-02"),
        ("fields.Term", "number", 45),
        ("table.0.2", "text", "paid"),
        ("table.columns.1", "text", "Amount"),
        ("title", "text", "Invoice 77"),
    ],
)
def test_a_value_is_looked_up_as_what_it_looks_like(key: str, kind: str, expected: Any) -> None:
    answer = run({"op": "lookup", "cell": at(INVOICE, key)}, [INVOICE])
    assert (answer.type, answer.value) == (kind, expected)


@pytest.mark.parametrize(
    "text", ["C-1042", "007", "12 Main Street", "1,23", "v2.1", "3 red tin boxes"]
)
def test_an_identifier_or_a_phrase_is_no_number(text: str) -> None:
    data = {**INVOICE, "fields": {"Reference": text}}
    assert run({"op": "lookup", "cell": at(data, "fields.Reference")}, [data]).type == "text"


def test_a_sum_is_exact_where_binary_fractions_are_not() -> None:
    data = {**INVOICE, "table": {"columns": ["A"], "rows": [[0.1], [0.2], ["0.30"]]}}
    assert run({"op": "sum", "cells": every(data, "table.*.0")}, [data]).value == 0.6


def test_a_condition_on_another_column_chooses_the_rows_that_are_added_up() -> None:
    where = {"cells": STATUS, "is": "=", "value": "paid"}
    assert run({"op": "sum", "cells": AMOUNTS, "where": where}, [INVOICE]).value == 312.1
    assert run({"op": "count", "cells": AMOUNTS, "where": where}, [INVOICE]).value == 2


def test_days_lie_between_two_dates() -> None:
    record = {"value": "2026-03-12"}
    cells = [record, at(INVOICE, "fields.Due")]
    assert run({"op": "difference", "cells": cells}, [INVOICE]).value == 10


def test_the_largest_names_its_row() -> None:
    assert run({"op": "argmax", "cells": AMOUNTS, "names": ITEMS}, [INVOICE]).value == "Glue"
    assert run({"op": "argmin", "cells": AMOUNTS, "names": ITEMS}, [INVOICE]).value == "Ink"


def test_a_value_of_one_page_is_found_on_another() -> None:
    order = {"variant": "letter", "title": "Order", "fields": {"Article": "GLUE "}}
    program = {
        "op": "cross_reference",
        "cell": at(order, "fields.Article", 1),
        "among": ITEMS,
        "values": AMOUNTS,
    }
    assert run(program, [INVOICE, order]).value == 300
    assert (1, "fields.Article") in used(program)


@pytest.mark.parametrize(
    ("record", "expected"), [(12500, "yes"), ("12,500.00", "yes"), (12501, "no"), ("2026", "no")]
)
def test_page_and_record_agree_whatever_way_the_value_is_written(
    record: Any, expected: str
) -> None:
    cells = [at(INVOICE, "fields.No. 1.5"), {"value": record}]
    assert run({"op": "consistency", "cells": cells}, [INVOICE]).value == expected


@pytest.mark.parametrize(
    ("record", "tell", "kind", "expected"),
    [
        (12500, 0, "choice", "yes"),
        (12501, 0, "number", 12500),
        (12501, 1, "number", 12501),
        ("ink", 1, "text", "ink"),
    ],
)
def test_where_page_and_record_differ_the_question_may_ask_for_what_one_of_them_says(
    record: Any, tell: int, kind: str, expected: Any
) -> None:
    cells = [at(INVOICE, "fields.No. 1.5"), {"value": record}]
    answer = run({"op": "consistency", "cells": cells, "tell": tell}, [INVOICE])
    assert (answer.type, answer.value) == (kind, expected)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 2, 2, 5], "rising"),
        ([5, 2, 1, 1], "falling"),
        ([1, 5, 2, 9], "mixed"),
        ([3, 3], "mixed"),
    ],
)
def test_a_trend_is_named_only_where_no_step_goes_against_it(
    numbers: list[int], expected: str
) -> None:
    data = {**written(BARS), "series": {"S": numbers}}
    assert run({"op": "trend", "cells": every(data, "series.S.*")}, [data]).value == expected


def test_a_point_is_the_box_of_the_cell_in_the_drawing() -> None:
    class Drawn:
        cells = (Cell("title", "Invoice 77", (10, 20, 90, 40)),)

    program = {"op": "point", "cell": at(INVOICE, "title")}
    answer = run(program, [INVOICE], [Drawn()])
    assert (answer.type, answer.value) == ("point", [10, 20, 90, 40])
    with pytest.raises(ProgramError, match="drawn 0 times"):
        run({"op": "point", "cell": at(INVOICE, "fields.Due")}, [INVOICE], [Drawn()])


# ------------------------------------------------------------------------- values read off an axis


def test_a_value_without_a_label_may_be_off_by_a_fiftieth_of_the_axis() -> None:
    cell = at(BARS, "series.Sales.1")
    answer = run({"op": "lookup", "cell": cell}, [BARS])
    assert (answer.value, answer.tolerance) == (100, pytest.approx(AXIS_SHARE * 101))
    assert used({"op": "lookup", "cell": cell}) == [(0, "categories.1")]


def test_a_written_value_must_be_exact() -> None:
    data = written(BARS)
    cell = at(data, "series.Sales.1")
    assert run({"op": "lookup", "cell": cell}, [data]).tolerance == 0
    assert used({"op": "lookup", "cell": cell}) == [(0, "series.Sales.1")]


def test_the_errors_of_two_readings_add_up() -> None:
    cells = [at(BARS, "series.Sales.0"), at(BARS, "series.Sales.1")]
    answer = run({"op": "difference", "cells": cells}, [BARS])
    assert answer.tolerance == pytest.approx(2 * AXIS_SHARE * 101)


def test_bars_that_the_eye_cannot_tell_apart_are_not_asked_for() -> None:
    cells, names = every(BARS, "series.Sales.*"), every(BARS, "categories.*")
    with pytest.raises(ProgramError, match=r"series\.Sales\.2 and series\.Sales\.1 cannot be told"):
        run({"op": "argmax", "cells": cells, "names": names}, [BARS])
    with pytest.raises(ProgramError, match="cannot be told"):
        run({"op": "trend", "cells": cells}, [BARS])
    assert run({"op": "argmin", "cells": cells, "names": names}, [BARS]).value == "north"
    data = written(BARS)
    exact = {"op": "argmax", "cells": every(data, "series.Sales.*"), "names": names}
    assert run(exact, [data]).value == "west"


def test_a_slice_without_its_number_is_compared_but_not_read() -> None:
    pie = {**BARS, "variant": "pie", "series": {"Share": [10, 60, 30]}}
    cells, names = every(pie, "series.Share.*"), every(pie, "categories.*")
    with pytest.raises(ProgramError, match="no axis"):
        run({"op": "lookup", "cell": cells[0]}, [pie])
    assert run({"op": "argmax", "cells": cells, "names": names}, [pie]).value == "south"


def test_an_operand_that_claims_a_value_is_written_where_it_is_not_is_refused() -> None:
    cell = {"picture": 0, "key": "series.Sales.1"}
    with pytest.raises(ProgramError, match="axis: does not match how this chart shows the value"):
        run({"op": "lookup", "cell": cell}, [BARS])


def test_the_tolerance_never_exceeds_a_fiftieth_of_the_axis_that_is_drawn() -> None:
    from teacher.scenes.chart.render import build

    seen = 0
    for number in range(40):
        rng = random.Random(f"axes/{number}")
        scene = kinds.example("chart", rng)
        data = scene.data
        if data["variant"] in ("pie", "stacked_bar") or data.get("labels"):
            continue
        figure, _ = build(data, scene.seed)
        (axes,) = figure.axes
        horizontal = [t.get_text() for t in axes.get_yticklabels()][: len(data["categories"])]
        limits = axes.get_xlim() if set(horizontal) & set(data["categories"]) else axes.get_ylim()
        drawn = abs(limits[1] - limits[0])
        name = next(iter(data["series"]))
        assert 0 < tolerance(data, f"series.{name}.0") <= AXIS_SHARE * drawn * (1 + 1e-9), data
        seen += 1
        if seen == 6:
            break
    assert seen == 6


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ({"op": "guess"}, "op: 'guess': expected one of lookup, count"),
        ({"op": "lookup"}, "lookup: 'cell': the program does not give it"),
        (
            {"op": "lookup", "cell": {"picture": 0, "key": "fields.Colour"}},
            r"fields\.Colour: no such",
        ),
        ({"op": "lookup", "cell": {"picture": 0, "key": "table.9.0"}}, r"table\.9\.0: no such key"),
        ({"op": "lookup", "cell": {"picture": 3, "key": "title"}}, "image 3: the task has 1"),
        (
            {"op": "lookup", "cell": {"picture": 0, "key": "fields"}},
            "expected one value, found dict",
        ),
        ({"op": "sum", "cells": ITEMS}, r"table\.0\.0: 'Paper': expected a number"),
        (
            {"op": "argmax", "cells": AMOUNTS, "names": ITEMS[:2]},
            "names: found 2, expected one for",
        ),
        ({"op": "argmax", "cells": AMOUNTS[:1], "names": ITEMS[:1]}, "found 1 to compare"),
        ({"op": "difference", "cells": AMOUNTS}, "cells: found 3, expected two"),
        (
            {"op": "count", "cells": AMOUNTS, "where": {"is": "~", "value": 1}},
            "is: '~': expected contains or one of",
        ),
        (
            {"op": "count", "cells": AMOUNTS, "where": {"is": ">", "value": "red"}},
            "cannot be compared",
        ),
        (
            {"op": "cross_reference", "cell": {"value": "paid"}, "among": STATUS, "values": ITEMS},
            "among: holds 'paid' 2 times, expected once",
        ),
        ({"op": "point", "cell": at(INVOICE, "title")}, "only the drawn images have"),
    ],
)
def test_a_program_that_is_none_says_in_one_line_what_is_wrong(
    program: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProgramError, match=message) as error:
        run(program, [INVOICE])
    assert "\n" not in str(error.value)


def test_two_largest_of_the_same_size_are_not_asked_for() -> None:
    data = {**written(BARS), "series": {"S": [7, 7, 1]}}
    cells, names = every(data, "series.S.*"), every(data, "categories.*")
    with pytest.raises(ProgramError, match="cannot be told apart"):
        run({"op": "argmax", "cells": cells, "names": names}, [data])


# --------------------------------------------------------------------------------------- properties

NUMBERS = st.lists(
    st.integers(-(10**9), 10**9) | st.decimals(-9999, 9999, places=2), min_size=2, max_size=12
)
FORMS = ["{:,}", "{}", "EUR {:,}", "{:,} EUR", "{} %", "{:,} business days"]


@given(NUMBERS, st.randoms(use_true_random=False))
def test_both_evaluators_agree_on_numbers_written_in_any_way(
    numbers: list[Any], rng: random.Random
) -> None:
    rows = [[f"row {i}", rng.choice(FORMS).format(n)] for i, n in enumerate(numbers)]
    data = {"variant": "table", "title": "T", "table": {"columns": ["a", "b"], "rows": rows}}
    for program in programs(data, rng):
        try:
            answer = run(program, [data])
        except ProgramError as error:
            assert re.search("told apart|expected once", str(error))  # noqa: PT017
            continue
        assert answer.value == pytest.approx(evaluate(program, [data]))


@given(NUMBERS, st.randoms(use_true_random=False))
def test_a_condition_and_its_opposite_share_the_cells_out(
    numbers: list[Any], rng: random.Random
) -> None:
    rows = [[float(n)] for n in numbers]
    data = {"variant": "table", "title": "T", "table": {"columns": ["n"], "rows": rows}}
    cells = every(data, "table.*.0")
    pivot = rng.choice(rows)[0]
    for one, other in (("=", "!="), ("<", ">="), ("<=", ">")):
        counts = [
            run(
                {"op": "count", "cells": cells, "where": {"is": sign, "value": pivot}}, [data]
            ).value
            for sign in (one, other)
        ]
        assert sum(counts) == len(rows)


@given(st.dictionaries(st.text(min_size=1), st.integers(), min_size=1))
def test_a_field_is_found_whatever_its_name(fields: dict[str, int]) -> None:
    data = {"variant": "form", "title": "T", "fields": fields}
    for label, number in fields.items():
        assert value(data, f"fields.{label}") == number


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=8, unique=True), st.randoms())
def test_the_order_of_cells_changes_neither_sum_nor_extreme(
    numbers: list[int], rng: random.Random
) -> None:
    data = {
        **written(BARS),
        "categories": [f"c{i}" for i in range(len(numbers))],
        "series": {"S": numbers},
    }
    pairs = list(zip(every(data, "series.S.*"), every(data, "categories.*"), strict=True))
    answers = []
    for _ in range(2):
        cells, names = [c for c, _ in pairs], [n for _, n in pairs]
        total = run({"op": "sum", "cells": cells}, [data]).value
        answers.append((total, run({"op": "argmax", "cells": cells, "names": names}, [data]).value))
        rng.shuffle(pairs)
    assert answers[0] == answers[1] == (sum(numbers), f"c{numbers.index(max(numbers))}")
