"""Extraction tasks of the review desk: the answer is a JSON object of a schema in schemas/."""

import random
import re
from pathlib import Path

from teacher.domain import Blueprint, Solution, json_task, read_schemas, template

from .environment import ReviewDesk
from .textual import a_pull, phrase

SCHEMAS = read_schemas(Path(__file__).with_name("schemas"))
_FUNCTION = re.compile(r"^(?:async )?(?:def|function) (\w+)\(([^)]*)\)")
_IMPORT = re.compile(r"^(?:import|from) (\w+)")


@template(kind="extract")
def pull_sheet(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """A pull request and its files, from two tables."""
    pull = a_pull(world, rng)
    asked = {"pull_id": pull.id}
    value = {
        "author": pull.author,
        "branch": pull.branch,
        "issue": pull.issue,
        "files": [{"path": path, "lines": lines} for path, lines in pull.files.items()],
    }
    plan: Solution = [("get_pull_request", asked), ("list_files", asked)]
    return json_task(SCHEMAS["pull_sheet"], phrase("pull_sheet", rng, pull=pull.id), plan, value)


@template(kind="extract")
def check_sheet(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """What failed, and who has approved."""
    pull = a_pull(world, rng)
    asked = {"pull_id": pull.id}
    reviews = world.list_reviews(pull.id)
    value = {
        "failed": [name for name, run in pull.checks.items() if run.status == "failed"],
        "reviews": [
            {"reviewer": name, "approved": state in (True, "approved")}
            for name, state in reviews.items()
        ],
    }
    plan: Solution = [("list_checks", asked), ("list_reviews", asked)]
    return json_task(SCHEMAS["check_sheet"], phrase("check_sheet", rng, pull=pull.id), plan, value)


@template(kind="extract")
def code_outline(world: ReviewDesk, rng: random.Random) -> Blueprint:
    """Code that the request has: its functions with their lines, and a module that may be absent."""
    code, functions = None, []
    while not functions:
        path = rng.choice(list(world._owners))
        code = world._mistake(path, rng)
        lines = code.text.splitlines()
        functions = [
            (found.group(1), number, [p.strip() for p in found.group(2).split(",") if p.strip()])
            for number, line in enumerate(lines, 1)
            if (found := _FUNCTION.match(line))
        ]
    imports = [found.group(1) for line in lines if (found := _IMPORT.match(line))]
    value = {
        "file": path,
        "functions": [
            {"name": name, "line": line, "parameters": parameters}
            for name, line, parameters in functions
        ],
        "first_import": imports[0] if imports else None,
    }
    listing = "\n".join(f"{number:3}  {line}".rstrip() for number, line in enumerate(lines, 1))
    request = f"{phrase('code_outline', rng, path=path)}\n\n{listing}"
    return json_task(SCHEMAS["code_outline"], request, [], value)
