"""The task templates of the research desk with images: charts, diagrams and pages, in the request or from a tool.

For an image in the request, a program (teacher/domain/questions.py) computes the answer from its data. For an image
from a tool, the agent must read it to make the next call: arguments must equal the values that the image shows.
"""

import random

from teacher.domain import Blueprint, Solution, at, every, run_program, template
from teacher.scenes import draw

from .environment import ResearchDesk
from .figures import development
from .operands import (
    column_of,
    count_where,
    cross_reference,
    ends_of,
    extreme,
    lookup,
    marks,
    reached,
    row_of,
    rows_of,
    source_of,
)
from .records import LEVELS
from .subjects import (
    a_diagram,
    figures_of,
    mark_calls,
    question,
    quote_of,
    recorded_reply,
    reference_to,
    scored_mark,
    unrecorded_mark,
    with_typing_error,
    without_values,
)
from .textual import phrase, pick, title_of

ENDS = {
    "argmax": ("the highest", "the largest", "at the top"),
    "argmin": ("the lowest", "the smallest", "at the bottom"),
}


# ------------------------------------------------------------------------------------------- charts


@template(kind="chart")
def chart_value(world: ResearchDesk, rng: random.Random) -> Blueprint:
    variants = ("bar", "grouped_bar", "line", "stacked_bar", "pie")
    scene = rng.choice(figures_of(world, *variants)).scene
    key, mark = rng.choice(list(marks(scene.data).items()))
    program = lookup(scene.data, key)
    request = phrase("chart_value", rng, mark=mark)
    return question(request, program, [scene], f"The chart gives {{}} {scene.data['unit']}.")


@template(kind="chart")
def chart_estimate(world: ResearchDesk, rng: random.Random) -> Blueprint:
    scene = without_values(rng.choice(figures_of(world, "bar", "stacked_bar")).scene)
    key, mark = rng.choice(list(marks(scene.data).items()))
    program = lookup(scene.data, key)
    request = phrase("chart_estimate", rng, mark=mark)
    return question(request, program, [scene], f"It is about {{}} {scene.data['unit']}.")


@template(kind="chart")
def chart_gap(world: ResearchDesk, rng: random.Random) -> Blueprint:
    scene = rng.choice(figures_of(world, "bar", "grouped_bar", "line", "pie")).scene
    (one, mark), (two, other) = rng.sample(list(marks(scene.data).items()), 2)
    program = {"op": "difference", "cells": [at(scene.data, one), at(scene.data, two)]}
    request = phrase("chart_gap", rng, mark=mark, other=other)
    return question(request, program, [scene], f"They are {{}} {scene.data['unit']} apart.")


@template(kind="chart")
def chart_extreme(world: ResearchDesk, rng: random.Random) -> Blueprint:
    scene = rng.choice(figures_of(world, "bar", "grouped_bar", "pie")).scene
    if scene.data["variant"] == "bar" and rng.random() < 0.5:
        scene = without_values(scene)
    op, series = rng.choice(("argmax", "argmin")), rng.choice(list(scene.data["series"]))
    program = extreme(
        op, every(scene.data, f"series.{series}.*"), every(scene.data, "categories.*")
    )
    where = f" for {series}" if len(scene.data["series"]) > 1 else ""
    request = phrase("chart_extreme", rng, end=rng.choice(ENDS[op]), where=where)
    return question(request, program, [scene], "That is {}.")


@template(kind="chart")
def chart_trend(world: ResearchDesk, rng: random.Random) -> Blueprint:
    names = [product.name for product in world._products.values()]
    scene = development(world._metrics, names, rng)
    series = rng.choice(list(scene.data["series"]))
    program = {"op": "trend", "cells": every(scene.data, f"series.{series}.*")}
    request = phrase("chart_trend", rng, series=series)
    return question(request, program, [scene], f"The values of {series} are {{}}.")


@template(kind="chart")
def chart_total(world: ResearchDesk, rng: random.Random) -> Blueprint:
    scene = rng.choice(figures_of(world, "stacked_bar")).scene
    i = rng.randrange(len(scene.data["categories"]))
    program = {"op": "sum", "cells": every(scene.data, f"series.*.{i}")}
    request = phrase("chart_total", rng, category=scene.data["categories"][i])
    return question(request, program, [scene], f"Together {{}} {scene.data['unit']}.")


@template(kind="chart")
def figure_of_report(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure = rng.choice(figures_of(world, "bar", "grouped_bar", "line", "stacked_bar", "pie"))
    data = figure.scene.data
    key, mark = rng.choice(list(marks(data).items()))
    answer = run_program(lookup(data, key), [data])
    solution: Solution = [
        ("get_report", {"report_id": figure.report}),
        ("get_figure", {"figure_id": figure.id}),
    ]
    request = phrase("figure_of_report", rng, report=figure.report, mark=mark)
    return Blueprint(request, solution, f"It gives {answer.value} {data['unit']}.", answer)


@template(kind="chart")
def enter_from_chart(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, metric, product, key = unrecorded_mark(world, rng)
    data = figure.scene.data
    score = run_program(lookup(data, key), [data]).value
    reference, solution = reference_to(product, rng)
    solution.append(("record_score", {"product_id": product.id, "metric": metric, "score": score}))
    return Blueprint(
        phrase("enter_from_chart", rng, metric=title_of(metric), product=reference),
        solution,
        recorded_reply(metric, product.id, score),
        pictures=[figure.scene],
        program=lookup(data, key),
    )


@template(kind="chart")
def enter_from_figure(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, metric, product, key = unrecorded_mark(world, rng)
    data = figure.scene.data
    score = run_program(lookup(data, key), [data]).value
    reference, solution = reference_to(product, rng)
    solution += [
        ("get_figure", {"figure_id": figure.id}),
        ("record_score", {"product_id": product.id, "metric": metric, "score": score}),
    ]
    request = phrase(
        "enter_from_figure", rng, figure=figure.id, metric=title_of(metric), product=reference
    )
    reply = recorded_reply(metric, product.id, score)
    return Blueprint(request, solution, reply)


@template(kind="chart")
def check_figure(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, metric, product, key = scored_mark(world, rng)
    data = figure.scene.data
    cell = at(data, key)
    record = {"value": world._scores[product.id, metric]}
    same = run_program({"op": "consistency", "cells": [cell, record]}, [data]).value == "yes"
    value = run_program({"op": "lookup", "cell": cell}, [data]).value
    finding = "confirmed" if same else "disputed"
    reference, solution = reference_to(product, rng)
    solution += [
        ("get_figure", {"figure_id": figure.id}),
        ("get_score", {"product_id": product.id, "metric": metric}),
        ("note_figure", {"figure_id": figure.id, "finding": finding, "shown": value}),
    ]
    request = phrase(
        "check_figure", rng, figure=figure.id, metric=title_of(metric), product=reference
    )
    return Blueprint(request, solution, f"{figure.id} shows {value}: {finding}.")


@template(kind="chart")
def watch_leader(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure = rng.choice(figures_of(world, "bar"))
    data = figure.scene.data
    op, level = rng.choice(("argmax", "argmin")), rng.choice(LEVELS)
    (series,) = data["series"]
    cells, names = every(data, f"series.{series}.*"), every(data, "categories.*")
    name = run_program({"op": op, "cells": cells, "names": names}, [data]).value
    product = next(p for p in world._products.values() if p.name == name)
    solution: Solution = [
        ("get_figure", {"figure_id": figure.id}),
        ("find_product", {"name": name}),
        ("watch_product", {"product_id": product.id, "level": level}),
    ]
    best = "highest" if op == "argmax" else "lowest"
    request = phrase("watch_leader", rng, figure=figure.id, best=best, level=level)
    return Blueprint(request, solution, f"{name} is on the watch list as {level}.")


# ----------------------------------------------------------------------------------------- diagrams


@template(kind="diagram")
def depends_on(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "dependency", rng)
    node = reached(data, lambda arrows: arrows == 1, rng)
    request = phrase("depends_on", rng, component=data["nodes"][node])
    return question(request, source_of(data, node), [figure.scene], "The {} depends on it.")


@template(kind="diagram")
def dependants(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "dependency", rng)
    node = reached(data, lambda arrows: arrows > 0, rng)
    starts, ends = ends_of(data)
    request = phrase("dependants", rng, component=data["nodes"][node])
    program = count_where(starts, ends, "=", data["nodes"][node])
    return question(request, program, [figure.scene], "Components that depend on it directly: {}.")


@template(kind="diagram")
def reports_to(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "organisation", rng)
    node = reached(data, lambda arrows: arrows == 1, rng)
    request = phrase("reports_to", rng, person=data["nodes"][node])
    return question(request, source_of(data, node), [figure.scene], "That is {}.")


@template(kind="diagram")
def team_size(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "organisation", rng)
    starts, ends = ends_of(data)
    person = data["nodes"][rng.choice(sorted({start for start, _, _ in data["edges"]}))]
    request = phrase("team_size", rng, person=person)
    program = count_where(ends, starts, "=", person)
    return question(request, program, [figure.scene], "Direct reports: {}.")


@template(kind="diagram")
def steps_between(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "flow", rng)
    steps = list(data["nodes"])
    first = rng.randrange(len(steps) - 2)
    last = rng.randrange(first + 2, len(steps))
    between = [at(data, f"nodes.{step}") for step in steps[first + 1 : last]]
    ends = {"first": data["nodes"][steps[first]], "last": data["nodes"][steps[last]]}
    request = phrase("steps_between", rng, **ends)
    return question(request, {"op": "count", "cells": between}, [figure.scene], "Between them: {}.")


@template(kind="diagram")
def step_back(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "flow", rng)
    start, end = next((start, end) for start, end, label in data["edges"] if label == "failed")
    here, there = at(data, f"nodes.{start}"), at(data, f"nodes.{end}")
    program = cross_reference(here, [here], [there])
    request = phrase("step_back", rng, step=data["nodes"][start])
    return question(request, program, [figure.scene], "It goes back to {}.")


@template(kind="diagram")
def next_message(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "sequence", rng)
    i = rng.randrange(len(data["edges"]) - 1)
    messages = every(data, "edges.*")
    program = cross_reference(messages[i], messages[:-1], messages[1:])
    request = phrase("next_message", rng, message=data["edges"][i][2])
    return question(request, program, [figure.scene], "The next message is {}.")


@template(kind="diagram")
def receiver(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "sequence", rng)
    messages, (_, ends) = every(data, "edges.*"), ends_of(data)
    i = rng.randrange(len(messages))
    program = cross_reference(messages[i], messages, ends)
    request = phrase("receiver", rng, message=data["edges"][i][2])
    return question(request, program, [figure.scene], "The {} receives it.")


@template(kind="diagram", pixels=True)
def point_at(world: ResearchDesk, rng: random.Random) -> Blueprint:
    scene = rng.choice(figures_of(world, "dependency", "organisation", "flow")).scene
    node = rng.choice(list(scene.data["nodes"]))
    program = {"op": "point", "cell": at(scene.data, f"nodes.{node}")}
    left, top, right, bottom = run_program(program, [scene.data], [draw(scene)]).value
    request = phrase("point_at", rng, box=f'"{scene.data["nodes"][node]}"')
    reply = f"It is at ({(left + right) // 2}, {(top + bottom) // 2})."
    return Blueprint(request, [], reply, pictures=[scene], program=program)


@template(kind="diagram")
def mark_dependant(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "dependency", rng)
    node = reached(data, lambda arrows: arrows == 1, rng)
    component = run_program(source_of(data, node), [data]).value
    solution = mark_calls(figure, component)
    request = phrase("mark_dependant", rng, figure=figure.id, component=data["nodes"][node])
    return Blueprint(request, solution, f"The {component} is marked for review.")


@template(kind="diagram")
def contact_above(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "organisation", rng)
    node = reached(data, lambda arrows: arrows == 1, rng)
    manager = run_program(source_of(data, node), [data]).value
    vendor = world._products[world._reports[figure.report].product].vendor
    solution: Solution = [
        ("get_figure", {"figure_id": figure.id}),
        ("set_contact", {"vendor_id": vendor, "person": manager}),
    ]
    facts = {"person": data["nodes"][node], "vendor": vendor, "figure": figure.id}
    return Blueprint(
        phrase("contact_above", rng, **facts),
        solution,
        f"Our contact at {vendor} is now {manager}.",
    )


@template(kind="diagram")
def mark_step(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure, data = a_diagram(world, "flow", rng)
    steps = list(data["nodes"].values())
    i = rng.randrange(len(steps) - 1)
    solution = mark_calls(figure, steps[i + 1])
    request = phrase("mark_step", rng, figure=figure.id, step=steps[i])
    return Blueprint(request, solution, f'"{steps[i + 1]}" is marked for review.')


# -------------------------------------------------------------------------------------------- pages


@template(kind="document")
def page_value(world: ResearchDesk, rng: random.Random) -> Blueprint:
    page = pick(world._reports, rng).pages[0]
    row = rng.choice(page.data["table"]["rows"])
    # The number of the sample identifies its row.
    program = cross_reference({"value": row[0]}, rows_of(page, 0), rows_of(page, 1))
    request = phrase("page_value", rng, column=column_of(page), sample=row[0])
    return question(request, program, [page], f"Sample {row[0]}: {{}}.")


@template(kind="document")
def sample_of_product(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report, product = (pick(table, rng) for table in (world._reports, world._products))
    page = report.pages[1]
    program = cross_reference({"value": product.name}, rows_of(page, 1), rows_of(page, 0))
    return question(
        phrase("sample_of_product", rng, name=product.name), program, [page], "It was sample {}."
    )


@template(kind="document")
def two_pages(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report, product = (pick(table, rng) for table in (world._reports, world._products))
    results, key = report.pages
    sample = at(key.data, f"table.{row_of(key, product.name)}.0", 1)
    program = cross_reference(sample, rows_of(results, 0), rows_of(results, 1))
    request = phrase("two_pages", rng, column=column_of(results), name=product.name)
    return question(request, program, [results, key], f"{product.name}: {{}}.")


@template(kind="document")
def count_on_page(world: ResearchDesk, rng: random.Random) -> Blueprint:
    page = pick(world._reports, rng).pages[0]
    runs = [int(row[2]) for row in page.data["table"]["rows"]]
    limit = rng.randrange(min(runs), max(runs))
    program = count_where(rows_of(page, 0), rows_of(page, 2), ">", limit)
    request = phrase("count_on_page", rng, limit=limit)
    return question(request, program, [page], "Samples with more runs: {}.")


@template(kind="document")
def page_against_chart(world: ResearchDesk, rng: random.Random) -> Blueprint:
    figure = rng.choice([f for f in figures_of(world, "bar", "grouped_bar", "line") if f.marks])
    report, (product, key) = world._reports[figure.report], rng.choice(list(figure.marks.items()))
    page, sample = report.pages[0], report.samples[product]
    row = row_of(page, sample)
    if rng.random() < 0.65:
        page = with_typing_error(world, report, product, row, rng)
    cells = [at(page.data, f"table.{row}.1"), at(figure.scene.data, key, 1)]
    name = world._products[product].name
    request = phrase("page_against_chart", rng, name=name, sample=sample)
    # The value is asked for as well, because a bare "no" could be guessed.
    program = {"op": "consistency", "cells": cells, "tell": 0}
    agree = run_program(program, [page.data, figure.scene.data]).value == "yes"
    reply = "The answer is {}: they agree." if agree else "They differ: the page says {}."
    return question(request, program, [page, figure.scene], reply)


@template(kind="document")
def quote_total(world: ResearchDesk, rng: random.Random) -> Blueprint:
    page = quote_of(world, pick(world._products, rng), rng)
    label = rng.choice(list(page.data["fields"]))
    field = {"Valid until": "last day of validity", "Delivery": "delivery time", "Total": "total"}
    program = lookup(page.data, f"fields.{label}")
    request = phrase("quote_total", rng, field=field[label])
    unit = {"Valid until": "{}", "Delivery": "{} business days", "Total": "EUR {}"}[label]
    return question(request, program, [page], f"The quote says {unit}.")


@template(kind="document")
def price_from_quote(world: ResearchDesk, rng: random.Random) -> Blueprint:
    product = pick(world._products, rng)
    page = quote_of(world, product, rng)
    program = lookup(page.data, f"table.{row_of(page, product.name)}.2")
    price = run_program(program, [page.data]).value
    reference, solution = reference_to(product, rng)
    solution.append(("set_price", {"product_id": product.id, "price": price}))
    return Blueprint(
        phrase("price_from_quote", rng, product=reference),
        solution,
        f"The list price of {product.id} is now EUR {price}.",
        pictures=[page],
        program=program,
    )


@template(kind="document")
def record_from_pages(world: ResearchDesk, rng: random.Random) -> Blueprint:
    report = rng.choice([r for r in world._reports.values() if r.metric])
    product = world._products[world._gaps[report.metric]]
    results, _ = report.pages
    program = cross_reference(
        {"value": report.samples[product.id]}, rows_of(results, 0), rows_of(results, 1)
    )
    score = run_program(program, [results.data]).value
    solution: Solution = [
        ("find_product", {"name": product.name}),
        ("get_page", {"report_id": report.id, "page": 2}),
        ("get_page", {"report_id": report.id, "page": 1}),
        ("record_score", {"product_id": product.id, "metric": report.metric, "score": score}),
    ]
    facts = {"report": report.id, "metric": title_of(report.metric), "name": product.name}
    reply = recorded_reply(report.metric, product.name, score)
    return Blueprint(phrase("record_from_pages", rng, **facts), solution, reply)
