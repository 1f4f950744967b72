"""The subjects of tasks with images: figures, marks and quotes of a world, and how a request refers to a product."""

import random
from typing import Any

from teacher.domain import Blueprint, Solution, run_program
from teacher.scenes import Scene

from .environment import ResearchDesk
from .figures import WORDS, quotation
from .operands import Program
from .records import Figure, Product, Report
from .textual import title_of


def question(request: str, program: Program, scenes: list[Scene], reply: str) -> Blueprint:
    """A task that only asks a question about images; the program's answer fills the braces of the reply."""
    value = run_program(program, [scene.data for scene in scenes]).value
    return Blueprint(request, [], reply.format(value), pictures=scenes, program=program)


def figures_of(world: ResearchDesk, *variants: str) -> list[Figure]:
    """The figures of the given variants."""
    return [f for f in world._figures.values() if f.scene.data["variant"] in variants]


def a_diagram(world: ResearchDesk, variant: str, rng: random.Random) -> tuple[Figure, dict]:
    """A random diagram of a variant, and its data."""
    figure = rng.choice(figures_of(world, variant))
    return figure, figure.scene.data


def without_values(scene: Scene) -> Scene:
    """A chart without written values, which must be estimated from the axis."""
    return Scene("chart", {**scene.data, "labels": False}, scene.seed)


def reference_to(product: Product, rng: random.Random) -> tuple[str, Solution]:
    """How a request refers to a product, and the call that finds its id and name from there."""
    if rng.random() < 0.5:
        return product.id, [("get_product", {"product_id": product.id})]
    return f"the {product.name}", [("find_product", {"name": product.name})]


def unrecorded_mark(world: ResearchDesk, rng: random.Random) -> tuple[Figure, str, Product, str]:
    """A figure, its metric, the product without a score on record, and the key of its mark."""
    marks = []
    for figure in world._figures.values():
        metric = world._reports[figure.report].metric
        product = world._gaps.get(metric)
        if product in figure.marks:
            marks.append((figure, metric, world._products[product], figure.marks[product]))
    return rng.choice(marks)


def scored_mark(world: ResearchDesk, rng: random.Random) -> tuple[Figure, str, Product, str]:
    """A figure, its metric, a product with a score on record, and the key of its mark; half of the scores are wrong."""
    slips: list[Any] = []
    others: list[Any] = []
    for figure in world._figures.values():
        metric = world._reports[figure.report].metric
        for product, key in figure.marks.items():
            if (product, metric) in world._scores:
                group = slips if world._slips[metric] == product else others
                group.append((figure, metric, world._products[product], key))
    return rng.choice(rng.choice((slips, others)))


def quote_of(world: ResearchDesk, product: Product, rng: random.Random) -> Scene:
    """The quote of a product's vendor."""
    return quotation(world._vendors[product.vendor].name, product.name, product.price, rng)


def mark_calls(figure: Figure, component: str) -> Solution:
    """The calls that read a diagram and mark a box of it."""
    return [
        ("get_figure", {"figure_id": figure.id}),
        ("mark_component", {"figure_id": figure.id, "component": component}),
    ]


def recorded_reply(metric: str, product: str, score: float) -> str:
    """The reply that a score was recorded."""
    unit = WORDS["metrics"][metric]["unit"]
    return f"The {title_of(metric)} of {product} is on record as {score} {unit}."


def with_typing_error(
    world: ResearchDesk, report: Report, product: str, row: int, rng: random.Random
) -> Scene:
    """The results page of a report with another number in the row of a product."""
    page = report.pages[0]
    step = WORDS["metrics"][report.metric]["step"]
    rows = [list(cells) for cells in page.data["table"]["rows"]]
    wrong = world._measured[report.metric][product] + step * rng.choice((-3, -2, -1, 1, 2, 3))
    rows[row][1] = str(wrong)
    table = {**page.data["table"], "rows": rows}
    return Scene("document", {**page.data, "table": table}, page.seed)
