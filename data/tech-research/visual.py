"""Tasks about pictures: charts, diagrams and pages, sent with the request or fetched with a tool.

Where a picture comes with the request, a program (teacher/questions.py) computes the answer from its data. Where a
tool returns it, the agent has to read it to make the next call: arguments must equal what the picture shows.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from teacher.domain import Blueprint, template
from teacher.questions import at, every, run
from teacher.scenes import Scene, draw

REQUESTS = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))
WORDS = yaml.safe_load(Path(__file__).with_name("world.yaml").read_text(encoding="utf-8"))
ENDS = {
    "argmax": ("the highest", "the largest", "at the top"),
    "argmin": ("the lowest", "the smallest", "at the bottom"),
}
ADVICE = ("watch", "trial", "adopt", "avoid")
SERVICES = ("Installation", "Support for one year", "Spare parts kit", "Training on site")
Plan = list[tuple[str, dict[str, Any]]]
Program = dict[str, Any]


def _say(what: str, rng: random.Random, **facts: Any) -> str:
    text = rng.choice(REQUESTS[what]).format(**facts)
    return text[0].upper() + text[1:]


def _asked(
    request: str, program: Program, pictures: list[Scene], reply: str, **more: Any
) -> Blueprint:
    """A question about pictures and nothing else: its program's answer goes into the reply's braces."""
    drawn = [draw(p) for p in pictures] if program["op"] == "point" else []
    value = run(program, [picture.data for picture in pictures], drawn).value
    return Blueprint(request, [], reply.format(value), pictures=pictures, program=program, **more)


def _charts(world: Any, *variants: str) -> list[Any]:
    return [f for f in world._figures.values() if f.scene.data["variant"] in variants]


def _diagram(world: Any, variant: str, rng: random.Random) -> tuple[Any, dict[str, Any]]:
    figure = rng.choice(_charts(world, variant))
    return figure, figure.scene.data


def _without_values(scene: Scene) -> Scene:
    return Scene("chart", {**scene.data, "labels": False}, scene.seed)


def _marks(data: dict[str, Any]) -> dict[str, str]:
    """Every mark of a chart: its key, and how a person would call it."""
    named = {}
    for name, values in data["series"].items():
        for i in range(len(values)):
            category = data["categories"][i]
            if data["variant"] in ("bar", "pie"):
                said = category
            elif data["variant"] == "grouped_bar":
                said = f"{category} in {name}"
            else:
                said = f"{name} in {category}"
            named[f"series.{name}.{i}"] = said
    return named


def _title_of(metric: str) -> str:
    return WORDS["metrics"][metric]["title"].lower()


def _named(product: Any, rng: random.Random) -> tuple[str, Plan]:
    """How a product is called in a request, and the call that leads from there to its number and name."""
    if rng.random() < 0.5:
        return product.id, [("get_product", {"product_id": product.id})]
    return f"the {product.name}", [("find_product", {"name": product.name})]


# ------------------------------------------------------------------------------------------- charts


@template(kind="chart")
def chart_value(world: Any, rng: random.Random) -> Blueprint:
    variants = ("bar", "grouped_bar", "line", "stacked_bar", "pie")
    scene = rng.choice(_charts(world, *variants)).scene
    key, mark = rng.choice(list(_marks(scene.data).items()))
    program = {"op": "lookup", "cell": at(scene.data, key)}
    request = _say("chart_value", rng, mark=mark)
    return _asked(request, program, [scene], f"The chart gives {{}} {scene.data['unit']}.")


@template(kind="chart")
def chart_estimate(world: Any, rng: random.Random) -> Blueprint:
    scene = _without_values(rng.choice(_charts(world, "bar", "stacked_bar")).scene)
    key, mark = rng.choice(list(_marks(scene.data).items()))
    program = {"op": "lookup", "cell": at(scene.data, key)}
    request = _say("chart_estimate", rng, mark=mark)
    return _asked(request, program, [scene], f"It is about {{}} {scene.data['unit']}.")


@template(kind="chart")
def chart_gap(world: Any, rng: random.Random) -> Blueprint:
    scene = rng.choice(_charts(world, "bar", "grouped_bar", "line", "pie")).scene
    (one, mark), (two, other) = rng.sample(list(_marks(scene.data).items()), 2)
    program = {"op": "difference", "cells": [at(scene.data, one), at(scene.data, two)]}
    request = _say("chart_gap", rng, mark=mark, other=other)
    return _asked(request, program, [scene], f"They are {{}} {scene.data['unit']} apart.")


@template(kind="chart")
def chart_extreme(world: Any, rng: random.Random) -> Blueprint:
    scene = rng.choice(_charts(world, "bar", "grouped_bar", "pie")).scene
    if scene.data["variant"] == "bar" and rng.random() < 0.5:
        scene = _without_values(scene)
    op, series = rng.choice(("argmax", "argmin")), rng.choice(list(scene.data["series"]))
    program = {
        "op": op,
        "cells": every(scene.data, f"series.{series}.*"),
        "names": every(scene.data, "categories.*"),
    }
    where = f" for {series}" if len(scene.data["series"]) > 1 else ""
    request = _say("chart_extreme", rng, end=rng.choice(ENDS[op]), where=where)
    return _asked(request, program, [scene], "That is {}.")


@template(kind="chart")
def chart_trend(world: Any, rng: random.Random) -> Blueprint:
    scene = Scene("chart", world._development(rng), rng.randrange(1 << 31))
    series = rng.choice(list(scene.data["series"]))
    program = {"op": "trend", "cells": every(scene.data, f"series.{series}.*")}
    request = _say("chart_trend", rng, series=series)
    return _asked(request, program, [scene], f"The values of {series} are {{}}.")


@template(kind="chart")
def chart_total(world: Any, rng: random.Random) -> Blueprint:
    scene = rng.choice(_charts(world, "stacked_bar")).scene
    i = rng.randrange(len(scene.data["categories"]))
    program = {"op": "sum", "cells": every(scene.data, f"series.*.{i}")}
    request = _say("chart_total", rng, category=scene.data["categories"][i])
    return _asked(request, program, [scene], f"Together {{}} {scene.data['unit']}.")


@template(kind="chart")
def figure_of_report(world: Any, rng: random.Random) -> Blueprint:
    figure = rng.choice(_charts(world, "bar", "grouped_bar", "line", "stacked_bar", "pie"))
    data = figure.scene.data
    key, mark = rng.choice(list(_marks(data).items()))
    answer = run({"op": "lookup", "cell": at(data, key)}, [data])
    plan: Plan = [
        ("get_report", {"report_id": figure.report}),
        ("get_figure", {"figure_id": figure.id}),
    ]
    request = _say("figure_of_report", rng, report=figure.report, mark=mark)
    return Blueprint(request, plan, f"It gives {answer.value} {data['unit']}.", answer)


def _gap(world: Any, rng: random.Random) -> tuple[Any, str, Any, str]:
    """A figure, its metric, the product whose score was never entered, and the key of its mark."""
    found = []
    for figure in world._figures.values():
        metric = world._reports[figure.report].metric
        product = world._gaps.get(metric)
        if product in figure.marks:
            found.append((figure, metric, world._products[product], figure.marks[product]))
    return rng.choice(found)


@template(kind="chart")
def enter_from_chart(world: Any, rng: random.Random) -> Blueprint:
    figure, metric, product, key = _gap(world, rng)
    data = figure.scene.data
    score = run({"op": "lookup", "cell": at(data, key)}, [data]).value
    said, plan = _named(product, rng)
    plan.append(("record_score", {"product_id": product.id, "metric": metric, "score": score}))
    return Blueprint(
        _say("enter_from_chart", rng, metric=_title_of(metric), product=said),
        plan,
        f"The {_title_of(metric)} of {product.id} is on record as {score} {data['unit']}.",
        pictures=[figure.scene],
        program={"op": "lookup", "cell": at(data, key)},
    )


@template(kind="chart")
def enter_from_figure(world: Any, rng: random.Random) -> Blueprint:
    figure, metric, product, key = _gap(world, rng)
    data = figure.scene.data
    score = run({"op": "lookup", "cell": at(data, key)}, [data]).value
    said, plan = _named(product, rng)
    plan += [
        ("get_figure", {"figure_id": figure.id}),
        ("record_score", {"product_id": product.id, "metric": metric, "score": score}),
    ]
    request = _say(
        "enter_from_figure", rng, figure=figure.id, metric=_title_of(metric), product=said
    )
    reply = f"The {_title_of(metric)} of {product.id} is on record as {score} {data['unit']}."
    return Blueprint(request, plan, reply)


@template(kind="chart")
def check_figure(world: Any, rng: random.Random) -> Blueprint:
    # Half of the findings are that the record was copied wrongly, though that is one score of each metric.
    slips: list[Any] = []
    others: list[Any] = []
    for figure in world._figures.values():
        metric = world._reports[figure.report].metric
        for product, key in figure.marks.items():
            if (product, metric) in world._scores:
                group = slips if world._slips[metric] == product else others
                group.append((figure, metric, world._products[product], key))
    figure, metric, product, key = rng.choice(rng.choice((slips, others)))
    data = figure.scene.data
    shown = at(data, key)
    record = {"value": world._scores[product.id, metric]}
    same = run({"op": "consistency", "cells": [shown, record]}, [data]).value == "yes"
    value = run({"op": "lookup", "cell": shown}, [data]).value
    finding = "confirmed" if same else "disputed"
    said, plan = _named(product, rng)
    plan += [
        ("get_figure", {"figure_id": figure.id}),
        ("get_score", {"product_id": product.id, "metric": metric}),
        ("note_figure", {"figure_id": figure.id, "finding": finding, "shown": value}),
    ]
    request = _say("check_figure", rng, figure=figure.id, metric=_title_of(metric), product=said)
    return Blueprint(request, plan, f"{figure.id} shows {value}: {finding}.")


@template(kind="chart")
def watch_leader(world: Any, rng: random.Random) -> Blueprint:
    figure = rng.choice(_charts(world, "bar"))
    data = figure.scene.data
    op, level = rng.choice(("argmax", "argmin")), rng.choice(ADVICE)
    (series,) = data["series"]
    cells, names = every(data, f"series.{series}.*"), every(data, "categories.*")
    name = run({"op": op, "cells": cells, "names": names}, [data]).value
    product = next(p for p in world._products.values() if p.name == name)
    plan: Plan = [
        ("get_figure", {"figure_id": figure.id}),
        ("find_product", {"name": name}),
        ("watch_product", {"product_id": product.id, "level": level}),
    ]
    best = "highest" if op == "argmax" else "lowest"
    request = _say("watch_leader", rng, figure=figure.id, best=best, level=level)
    return Blueprint(request, plan, f"{name} is on the watch list as {level}.")


# ----------------------------------------------------------------------------------------- diagrams


def _ends(data: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """The boxes that each arrow of a diagram leaves, and those that it reaches, as operands."""
    starts = [at(data, f"nodes.{start}") for start, _, _ in data["edges"]]
    return starts, [at(data, f"nodes.{end}") for _, end, _ in data["edges"]]


def _reached(data: dict[str, Any], fits: Callable[[int], bool], rng: random.Random) -> str:
    """A box that as many arrows reach as `fits` says."""
    into = [end for _, end, _ in data["edges"]]
    return rng.choice([node for node in data["nodes"] if fits(into.count(node))])


def _source_of(data: dict[str, Any], node: str) -> Program:
    """The program that finds where the one arrow comes from that reaches a box."""
    starts, ends = _ends(data)
    cell = at(data, f"nodes.{node}")
    return {"op": "cross_reference", "cell": cell, "among": ends, "values": starts}


@template(kind="diagram")
def depends_on(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "dependency", rng)
    node = _reached(data, lambda arrows: arrows == 1, rng)
    request = _say("depends_on", rng, component=data["nodes"][node])
    return _asked(request, _source_of(data, node), [figure.scene], "The {} depends on it.")


@template(kind="diagram")
def dependants(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "dependency", rng)
    node = _reached(data, lambda arrows: arrows > 0, rng)
    starts, ends = _ends(data)
    where = {"cells": ends, "is": "=", "value": data["nodes"][node]}
    request = _say("dependants", rng, component=data["nodes"][node])
    program = {"op": "count", "cells": starts, "where": where}
    return _asked(request, program, [figure.scene], "Components that depend on it directly: {}.")


@template(kind="diagram")
def reports_to(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "organisation", rng)
    node = _reached(data, lambda arrows: arrows == 1, rng)
    request = _say("reports_to", rng, person=data["nodes"][node])
    return _asked(request, _source_of(data, node), [figure.scene], "That is {}.")


@template(kind="diagram")
def team_size(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "organisation", rng)
    starts, ends = _ends(data)
    person = data["nodes"][rng.choice(sorted({start for start, _, _ in data["edges"]}))]
    where = {"cells": starts, "is": "=", "value": person}
    request = _say("team_size", rng, person=person)
    program = {"op": "count", "cells": ends, "where": where}
    return _asked(request, program, [figure.scene], "Direct reports: {}.")


@template(kind="diagram")
def steps_between(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "flow", rng)
    steps = list(data["nodes"])
    first = rng.randrange(len(steps) - 2)
    last = rng.randrange(first + 2, len(steps))
    between = [at(data, f"nodes.{step}") for step in steps[first + 1 : last]]
    ends = {"first": data["nodes"][steps[first]], "last": data["nodes"][steps[last]]}
    request = _say("steps_between", rng, **ends)
    return _asked(request, {"op": "count", "cells": between}, [figure.scene], "Between them: {}.")


@template(kind="diagram")
def step_back(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "flow", rng)
    start, end = next((start, end) for start, end, label in data["edges"] if label == "failed")
    here, there = at(data, f"nodes.{start}"), at(data, f"nodes.{end}")
    program = {"op": "cross_reference", "cell": here, "among": [here], "values": [there]}
    request = _say("step_back", rng, step=data["nodes"][start])
    return _asked(request, program, [figure.scene], "It goes back to {}.")


@template(kind="diagram")
def next_message(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "sequence", rng)
    i = rng.randrange(len(data["edges"]) - 1)
    messages = every(data, "edges.*")
    program = {
        "op": "cross_reference",
        "cell": messages[i],
        "among": messages[:-1],
        "values": messages[1:],
    }
    request = _say("next_message", rng, message=data["edges"][i][2])
    return _asked(request, program, [figure.scene], "The next message is {}.")


@template(kind="diagram")
def receiver(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "sequence", rng)
    messages, (_, ends) = every(data, "edges.*"), _ends(data)
    i = rng.randrange(len(messages))
    program = {"op": "cross_reference", "cell": messages[i], "among": messages, "values": ends}
    request = _say("receiver", rng, message=data["edges"][i][2])
    return _asked(request, program, [figure.scene], "The {} receives it.")


@template(kind="diagram", pixels=True)
def point_at(world: Any, rng: random.Random) -> Blueprint:
    scene = rng.choice(_charts(world, "dependency", "organisation", "flow")).scene
    node = rng.choice(list(scene.data["nodes"]))
    program = {"op": "point", "cell": at(scene.data, f"nodes.{node}")}
    left, top, right, bottom = run(program, [scene.data], [draw(scene)]).value
    request = _say("point_at", rng, box=f'"{scene.data["nodes"][node]}"')
    reply = f"It is at ({(left + right) // 2}, {(top + bottom) // 2})."
    return Blueprint(request, [], reply, pictures=[scene], program=program)


@template(kind="diagram")
def mark_dependant(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "dependency", rng)
    node = _reached(data, lambda arrows: arrows == 1, rng)
    found = run(_source_of(data, node), [data]).value
    plan: Plan = [
        ("get_figure", {"figure_id": figure.id}),
        ("mark_component", {"figure_id": figure.id, "component": found}),
    ]
    request = _say("mark_dependant", rng, figure=figure.id, component=data["nodes"][node])
    return Blueprint(request, plan, f"The {found} is marked for review.")


@template(kind="diagram")
def contact_above(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "organisation", rng)
    node = _reached(data, lambda arrows: arrows == 1, rng)
    manager = run(_source_of(data, node), [data]).value
    vendor = world._products[world._reports[figure.report].product].vendor
    plan: Plan = [
        ("get_figure", {"figure_id": figure.id}),
        ("set_contact", {"vendor_id": vendor, "person": manager}),
    ]
    facts = {"person": data["nodes"][node], "vendor": vendor, "figure": figure.id}
    return Blueprint(
        _say("contact_above", rng, **facts), plan, f"Our contact at {vendor} is now {manager}."
    )


@template(kind="diagram")
def mark_step(world: Any, rng: random.Random) -> Blueprint:
    figure, data = _diagram(world, "flow", rng)
    steps = list(data["nodes"].values())
    i = rng.randrange(len(steps) - 1)
    plan: Plan = [
        ("get_figure", {"figure_id": figure.id}),
        ("mark_component", {"figure_id": figure.id, "component": steps[i + 1]}),
    ]
    request = _say("mark_step", rng, figure=figure.id, step=steps[i])
    return Blueprint(request, plan, f'"{steps[i + 1]}" is marked for review.')


# -------------------------------------------------------------------------------------------- pages


def _rows(page: Scene, column: int, picture: int = 0) -> list[dict]:
    return every(page.data, f"table.*.{column}", picture)


def _row_of(page: Scene, word: str) -> int:
    return next(i for i, row in enumerate(page.data["table"]["rows"]) if word in row)


def _column(page: Scene, number: int = 1) -> str:
    """A column's heading as a person would say it, without its unit."""
    return page.data["table"]["columns"][number].partition(" (")[0].lower()


@template(kind="document")
def page_value(world: Any, rng: random.Random) -> Blueprint:
    page = rng.choice(list(world._reports.values())).pages[0]
    row = rng.choice(page.data["table"]["rows"])
    # The sample's number leads to its row.
    program = {
        "op": "cross_reference",
        "cell": {"value": row[0]},
        "among": _rows(page, 0),
        "values": _rows(page, 1),
    }
    request = _say("page_value", rng, column=_column(page), sample=row[0])
    return _asked(request, program, [page], f"Sample {row[0]}: {{}}.")


@template(kind="document")
def sample_of_product(world: Any, rng: random.Random) -> Blueprint:
    report, product = (rng.choice(list(t.values())) for t in (world._reports, world._products))
    page = report.pages[1]
    program = {
        "op": "cross_reference",
        "cell": {"value": product.name},
        "among": _rows(page, 1),
        "values": _rows(page, 0),
    }
    return _asked(
        _say("sample_of_product", rng, name=product.name), program, [page], "It was sample {}."
    )


@template(kind="document")
def two_pages(world: Any, rng: random.Random) -> Blueprint:
    report, product = (rng.choice(list(t.values())) for t in (world._reports, world._products))
    results, key = report.pages
    sample = at(key.data, f"table.{_row_of(key, product.name)}.0", 1)
    program = {
        "op": "cross_reference",
        "cell": sample,
        "among": _rows(results, 0),
        "values": _rows(results, 1),
    }
    request = _say("two_pages", rng, column=_column(results), name=product.name)
    return _asked(request, program, [results, key], f"{product.name}: {{}}.")


@template(kind="document")
def count_on_page(world: Any, rng: random.Random) -> Blueprint:
    page = rng.choice(list(world._reports.values())).pages[0]
    runs = [int(row[2]) for row in page.data["table"]["rows"]]
    limit = rng.randrange(min(runs), max(runs))
    where = {"cells": _rows(page, 2), "is": ">", "value": limit}
    program = {"op": "count", "cells": _rows(page, 0), "where": where}
    request = _say("count_on_page", rng, limit=limit)
    return _asked(request, program, [page], "Samples with more runs: {}.")


@template(kind="document")
def page_against_chart(world: Any, rng: random.Random) -> Blueprint:
    figure = rng.choice([f for f in _charts(world, "bar", "grouped_bar", "line") if f.marks])
    report, (product, key) = world._reports[figure.report], rng.choice(list(figure.marks.items()))
    page, sample = report.pages[0], report.samples[product]
    row = _row_of(page, sample)
    if rng.random() < 0.5:
        # A page that was typed wrongly: another number in the one cell.
        step = WORDS["metrics"][report.metric]["step"]
        rows = [list(cells) for cells in page.data["table"]["rows"]]
        slipped = world._measured[report.metric][product] + step * rng.choice((-3, -2, -1, 1, 2, 3))
        rows[row][1] = str(slipped)
        table = {**page.data["table"], "rows": rows}
        page = Scene("document", {**page.data, "table": table}, page.seed)
    cells = [at(page.data, f"table.{row}.1"), at(figure.scene.data, key, 1)]
    name = world._products[product].name
    request = _say("page_against_chart", rng, name=name, sample=sample)
    program = {"op": "consistency", "cells": cells}
    agree = run(program, [page.data, figure.scene.data]).value == "yes"
    said = "they agree" if agree else "they differ"
    return _asked(request, program, [page, figure.scene], f"The answer is {{}}: {said}.")


def _quote(world: Any, product: Any, rng: random.Random) -> Scene:
    """A vendor's quote for its product, at another price than the one on our list."""
    price = rng.choice([p for p in range(225, 12000, 25) if p != product.price])
    lines = [(product.name, rng.randrange(2, 30), price)]
    lines += [(s, 1, rng.randrange(8, 90) * 25) for s in rng.sample(SERVICES, 2)]
    rng.shuffle(lines)
    total = sum(count * each for _, count, each in lines)
    rows = [[item, str(count), f"{each:,}", f"{count * each:,}"] for item, count, each in lines]
    data = {
        "variant": "invoice",
        "title": "Quotation",
        "number": f"QT{rng.randrange(1000, 9999)}",
        "date": f"2026-02-{rng.randrange(2, 28):02}",
        "parties": [world._vendors[product.vendor].name, "Technology research desk"],
        "table": {"columns": ["Item", "Quantity", "Unit price", "Amount"], "rows": rows},
        "fields": {
            "Valid until": f"2026-{rng.randrange(4, 10):02}-{rng.randrange(1, 29):02}",
            "Delivery": f"{rng.randrange(2, 13) * 5} business days",
            "Total": f"EUR {total:,}",
        },
        "scan": rng.random() < 0.4,
    }
    return Scene("document", data, rng.randrange(1 << 31))


@template(kind="document")
def quote_total(world: Any, rng: random.Random) -> Blueprint:
    page = _quote(world, rng.choice(list(world._products.values())), rng)
    label = rng.choice(list(page.data["fields"]))
    field = {"Valid until": "last day of validity", "Delivery": "delivery time", "Total": "total"}
    program = {"op": "lookup", "cell": at(page.data, f"fields.{label}")}
    request = _say("quote_total", rng, field=field[label])
    unit = {"Valid until": "{}", "Delivery": "{} business days", "Total": "EUR {}"}[label]
    return _asked(request, program, [page], f"The quote says {unit}.")


@template(kind="document")
def price_from_quote(world: Any, rng: random.Random) -> Blueprint:
    product = rng.choice(list(world._products.values()))
    page = _quote(world, product, rng)
    program = {"op": "lookup", "cell": at(page.data, f"table.{_row_of(page, product.name)}.2")}
    price = run(program, [page.data]).value
    said, plan = _named(product, rng)
    plan.append(("set_price", {"product_id": product.id, "price": price}))
    return Blueprint(
        _say("price_from_quote", rng, product=said),
        plan,
        f"The list price of {product.id} is now EUR {price}.",
        pictures=[page],
        program=program,
    )


@template(kind="document")
def record_from_pages(world: Any, rng: random.Random) -> Blueprint:
    report = rng.choice([r for r in world._reports.values() if r.metric])
    product = world._products[world._gaps[report.metric]]
    results, _ = report.pages
    program = {
        "op": "cross_reference",
        "cell": {"value": report.samples[product.id]},
        "among": _rows(results, 0),
        "values": _rows(results, 1),
    }
    score = run(program, [results.data]).value
    plan: Plan = [
        ("find_product", {"name": product.name}),
        ("get_page", {"report_id": report.id, "page": 2}),
        ("get_page", {"report_id": report.id, "page": 1}),
        ("record_score", {"product_id": product.id, "metric": report.metric, "score": score}),
    ]
    facts = {"report": report.id, "metric": _title_of(report.metric), "name": product.name}
    unit = WORDS["metrics"][report.metric]["unit"]
    reply = f"The {facts['metric']} of {product.name} is on record as {score} {unit}."
    return Blueprint(_say("record_from_pages", rng, **facts), plan, reply)
