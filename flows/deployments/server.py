"""Makes the Prefect server have what deployments.yaml says: compares, lists the changes, applies them.

Every deployment that it makes has the tag `stillhouse`. It changes those that the file names, adds work pools that are
missing, and removes only deployments with its tag, and only if that is asked for. Whether a deployment or its schedule
is paused is left to the people who use Prefect's UI.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flows import prefect_server  # sets what Prefect reads as it is imported
from flows.deployments.file import Deployment, Deployments
from schemas.error_text import one_line
from schemas.errors import InputError, StageError

# isort: split
import httpx
import prefect.settings as prefect_settings
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.workers.process import ProcessWorker

TAG = "stillhouse"
_OVERLAPS = {
    "cancel": ConcurrencyLimitStrategy.CANCEL_NEW,
    "wait": ConcurrencyLimitStrategy.ENQUEUE,
}
_CHANGE_DIRECTORY = "prefect.deployments.steps.set_working_directory"


@dataclass(frozen=True)
class Change:
    """What is to be done about one object of the server.

    Attributes:
        action: create, update, remove, none (it is as the file says), or keep (not in the file, and left).
        fields: what it is and what it will be, by field; of an object that is to be created, what it will be alone.
        apply: does it.
    """

    action: str
    kind: str
    name: str
    apply: Callable[[], object] = lambda: None
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    paused: bool = False


@contextlib.contextmanager
def client() -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server that PREFECT_API_URL names, in the environment or in Prefect's profile.

    Raises:
        InputError: none is named.
        StageError: it does not answer, or refuses what is asked in the block.
    """
    url = prefect_settings.PREFECT_API_URL.value()
    if not url:
        raise InputError(
            "PREFECT_API_URL: not set: expected the API of a Prefect server, such as"
            " http://127.0.0.1:4200/api (`prefect server start` runs one)"
        )
    prefect_server.quieten()
    try:
        with get_client(sync_client=True) as opened:
            yield opened
    except httpx.HTTPStatusError as error:
        detail = one_line(error.response.text) or error.response.reason_phrase
        code = error.response.status_code
        raise StageError(f"the Prefect server at {url} answered {code}: {detail}") from None
    except (httpx.HTTPError, RuntimeError) as error:
        raise StageError(
            f"the Prefect server at {url} cannot be used: {one_line(str(error)) or type(error).__name__}"
        ) from None


def changes(
    server: SyncPrefectClient, wanted: Deployments, flow: Flow[..., Any], prune: bool
) -> list[Change]:
    """Returns what makes the server have what the file says, in the order in which it is to be applied.

    flow: what the deployments run. prune: whether deployments with the tag that the file does not name are removed.
    """
    found = [_pool_change(server, name, limit) for name, limit in wanted.limits.items()]
    of_flow = FlowFilter(name=FlowFilterName(any_=[flow.name]))
    existing = {each.name: each for each in _read_all(server, of_flow)}
    for deployment in wanted.deployments:
        found.append(
            _deployment_change(server, deployment, wanted, flow, existing.get(deployment.name))
        )
    named = {deployment.name for deployment in wanted.deployments}
    for name, other in existing.items():
        if name not in named and TAG in other.tags:
            remove = _remover(server, other)
            action, apply = ("remove", remove) if prune else ("keep", lambda: None)
            full_name = f"{flow.name}/{name}"
            found.append(Change(action, "deployment", full_name, apply, paused=other.paused))
    return found


def _read_all(server: SyncPrefectClient, of_flow: FlowFilter) -> list[DeploymentResponse]:
    read: list[DeploymentResponse] = []
    while page := server.read_deployments(flow_filter=of_flow, limit=100, offset=len(read)):
        read += page
    return read


def _remover(server: SyncPrefectClient, deployment: DeploymentResponse) -> Callable[[], object]:
    return lambda: server.delete_deployment(deployment.id)


def _pool_change(server: SyncPrefectClient, name: str, limit: int | None) -> Change:
    """A pool that is there keeps its type and settings, and its limit where the file has none."""
    try:
        pool = server.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        create = WorkPoolCreate(
            name=name, type="process", base_job_template=template, concurrency_limit=limit
        )
        shown = {"type": (None, "process")} | ({"limit": (None, limit)} if limit else {})
        return Change("create", "work pool", name, lambda: server.create_work_pool(create), shown)
    if limit is None or pool.concurrency_limit == limit:
        return Change("none", "work pool", name, paused=pool.is_paused)
    return Change(
        "update",
        "work pool",
        name,
        lambda: server.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit)),
        {"limit": (pool.concurrency_limit, limit)},
        pool.is_paused,
    )


def _deployment_change(
    server: SyncPrefectClient,
    wanted: Deployment,
    file: Deployments,
    flow: Flow[..., Any],
    existing: DeploymentResponse | None,
) -> Change:
    parameters = {
        "domain": wanted.domain,
        "recipe": wanted.recipe,
        "settings": [*wanted.settings],
        "fresh": wanted.fresh,
        "until": wanted.until,
    }
    schedule = f"{wanted.cron} {wanted.timezone}" if wanted.cron else None
    after: dict[str, Any] = {
        "description": wanted.description,
        "schedule": schedule,
        "parameters": parameters,
        "pool": wanted.pool,
        "limit": wanted.limit,
        "overlap": wanted.overlap,
        "tags": [TAG, *wanted.tags],
        "directory": str(file.directory),
        "entrypoint": f"{flow.fn.__module__}.{flow.fn.__name__}",
        "parameter schema": flow.parameters.model_dump_for_openapi(),
    }
    before = _fields(existing) if existing else {}
    changed = {
        name: (before.get(name), value)
        for name, value in after.items()
        if before.get(name) != value
    }
    full_name = f"{flow.name}/{wanted.name}"
    if not changed:
        assert existing is not None
        return Change("none", "deployment", full_name, paused=existing.paused)

    def apply() -> None:
        schedules = []
        if wanted.cron:
            cron = CronSchedule(cron=wanted.cron, timezone=wanted.timezone)
            # A schedule that someone paused stays paused, unless it is another one now.
            is_paused = existing is not None and "schedule" not in changed
            active = existing.schedules[0].active if existing and is_paused else True
            schedules.append(DeploymentScheduleCreate(schedule=cron, active=active))
        server.create_deployment(  # changes the one that is there
            flow_id=server.create_flow_from_name(flow.name),
            name=wanted.name,
            description=wanted.description,
            schedules=schedules,
            parameters=parameters,
            work_pool_name=wanted.pool,
            concurrency_limit=wanted.limit,
            concurrency_options=ConcurrencyOptions(collision_strategy=_OVERLAPS[wanted.overlap]),
            tags=after["tags"],
            pull_steps=[{_CHANGE_DIRECTORY: {"directory": after["directory"]}}],
            entrypoint=after["entrypoint"],
            parameter_openapi_schema=after["parameter schema"],
            enforce_parameter_schema=True,
        )

    action = "update" if existing else "create"
    paused = existing is not None and existing.paused
    return Change(action, "deployment", full_name, apply, changed, paused)


def _fields(existing: DeploymentResponse) -> dict[str, Any]:
    """The fields of a deployment of the server, in the form of those that the file asks for."""
    schedules = [
        f"{each.schedule.cron} {each.schedule.timezone}"
        if isinstance(each.schedule, CronSchedule)
        else one_line(str(each.schedule))
        for each in existing.schedules
    ]
    options = existing.concurrency_options
    limit = existing.global_concurrency_limit
    steps = existing.pull_steps or []
    return {
        "description": existing.description,
        "schedule": "; ".join(schedules) or None,
        "parameters": existing.parameters,
        "pool": existing.work_pool_name,
        "limit": limit.limit if limit else None,
        "overlap": next(
            (
                name
                for name, strategy in _OVERLAPS.items()
                if options and options.collision_strategy == strategy
            ),
            None,
        ),
        "tags": existing.tags,
        "directory": steps[0].get(_CHANGE_DIRECTORY, {}).get("directory")
        if len(steps) == 1
        else None,
        "entrypoint": existing.entrypoint,
        "parameter schema": existing.parameter_openapi_schema,
    }
