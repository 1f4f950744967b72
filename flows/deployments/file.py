"""Reads deployments.yaml and checks all that can be checked without a server: domains, recipes, settings, schedules."""

import contextlib
import os
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import prefect_server, recipe_file
from schemas.documents import check_document
from schemas.errors import InputError
from schemas.yaml_text import read_yaml
from teacher.domain import pack


@dataclass(frozen=True)
class Deployment:
    """One entry of deployments.yaml; the fields are described in schemas/deployments.schema.json.

    Attributes:
        cron, timezone: of its schedule; both None without one.
        elsewhere: the pools of stages that do not run in `pool`, by the model whose hardware they need.
    """

    name: str
    description: str
    domain: str
    recipe: str
    settings: tuple[str, ...]
    cron: str | None
    timezone: str | None
    fresh: bool
    until: str | None
    pool: str
    elsewhere: dict[str, str]
    limit: int
    overlap: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Deployments:
    """The contents of deployments.yaml.

    Attributes:
        directory: the working directory of the runs, absolute.
        limits: of the work pools that the deployments use, by name; None for no limit.
        notify: the block that is told of failures, as TYPE/NAME.
    """

    directory: Path
    limits: dict[str, int | None]
    notify: str | None
    deployments: tuple[Deployment, ...]


def read(path: Path) -> Deployments:
    """Reads deployments.yaml.

    Raises:
        InputError: the file, or a domain, recipe or setting that it names, is invalid.
    """
    document = read_yaml(path)
    check_document(document, "deployments", path)
    directory = (path.parent / document.get("directory", ".")).resolve()
    if not directory.is_dir():
        raise InputError(
            f"{path}: directory: found {directory}, expected a directory that exists on this machine"
            " and, with the same path, on those of the workers"
        )
    deployments: list[Deployment] = []
    for index, entry in enumerate(document["deployments"]):
        field = f"deployments[{index}]"
        if any(entry["name"] == other.name for other in deployments):
            raise InputError(f"{path}: {field}.name: found {entry['name']} twice, expected it once")
        deployments.append(_deployment(entry, f"{path}: {field}", directory))
    limits = {name: pool["limit"] for name, pool in document.get("pools", {}).items()}
    used = sorted({pool for each in deployments for pool in (each.pool, *each.elsewhere.values())})
    if unused := set(limits) - set(used):
        raise InputError(
            f"{path}: pools.{min(unused)}: no deployment uses it: expected one of {', '.join(used)}"
        )
    return Deployments(
        directory,
        {name: limits.get(name) for name in used},
        document.get("notify"),
        tuple(deployments),
    )


def _deployment(entry: dict[str, Any], place: str, directory: Path) -> Deployment:
    schedule = entry.get("schedule")
    if schedule:
        _check_schedule(schedule, place)
    # The runs read both from there too.
    with _working_in(directory):
        try:
            domain = pack.load(entry["domain"])
        except InputError as error:
            raise InputError(f"{place}.domain: {error}") from None
        try:
            recipe = recipe_file.load(entry["recipe"], entry.get("set"))
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
    default = f"Distils a student of {domain.name} with the recipe {recipe.name}."
    pools = {model: entry.get(f"{model}_pool", entry["pool"]) for model in ("teacher", "student")}
    return Deployment(
        name=entry["name"],
        description=entry.get("description", default),
        domain=entry["domain"],
        recipe=entry["recipe"],
        settings=tuple(entry.get("set", ())),
        cron=schedule and schedule["cron"],
        timezone=schedule and schedule["timezone"],
        fresh=entry.get("fresh", True),
        until=entry.get("until"),
        pool=entry["pool"],
        elsewhere={model: pool for model, pool in pools.items() if pool != entry["pool"]},
        limit=entry.get("limit", 1),
        overlap=entry.get("overlap", "cancel"),
        tags=tuple(entry.get("tags", ())),
    )


def _check_schedule(schedule: dict[str, str], place: str) -> None:
    if len(schedule["cron"].split()) != 5 or not prefect_server.is_cron(schedule["cron"]):
        raise InputError(
            f"{place}.schedule.cron: found {schedule['cron']!r}, expected five fields, such as 0 2 * * 1"
            " for Mondays at 02:00"
        )
    if schedule["timezone"] not in zoneinfo.available_timezones():
        raise InputError(
            f"{place}.schedule.timezone: found {schedule['timezone']!r}, expected a name of the IANA database,"
            " such as Europe/Berlin or UTC"
        )


@contextlib.contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
