"""A deployment on the Prefect server: what it should be, how it differs from what is there, how it is made."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import prefect_server  # noqa: F401  sets what Prefect reads as it is imported
from flows.deployments.automations import HEARTBEAT_SECONDS
from flows.deployments.change import Change, differences
from flows.deployments.file import Deployment
from schemas.error_text import one_line

# isort: split
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow

# Tags of the deployments that `stillhouse deploy` makes, and so of their flow runs: of whole runs, and of their stages.
RUN_TAG, STAGES_TAG = "stillhouse", "stillhouse-stages"
_CHANGE_DIRECTORY = "prefect.deployments.steps.set_working_directory"


@dataclass(frozen=True)
class Flows:
    """The flows of flows/distill.py, which the command hands over: this room does not import what runs the stages."""

    run: Flow[..., Any]
    stages: Flow[..., Any]


@dataclass(frozen=True)
class FlowDeployment:
    """What a deployment should be.

    Attributes:
        fields: by the names that people read, in the form of `_fields`; they decide whether the server's differs.
    """

    flow: Flow[..., Any]
    name: str
    fields: dict[str, Any]

    @property
    def full_name(self) -> str:
        return f"{self.flow.name}/{self.name}"

    def change(self, server: SyncPrefectClient, existing: DeploymentResponse | None) -> Change:
        """What is to be done about it. existing: the one of its name on the server."""
        paused = existing is not None and existing.paused
        changed = differences(_fields(existing) if existing else {}, self.fields)
        if not changed:
            return Change("none", "deployment", self.full_name, paused=paused)
        # A schedule that someone paused stays paused, unless it is another one now.
        keeps = existing is not None and existing.schedules and "schedule" not in changed
        active = existing.schedules[0].active if existing and keeps else True
        action = "update" if existing else "create"
        return Change(
            action,
            "deployment",
            self.full_name,
            lambda: self._make(server, active),
            changed,
            paused,
        )

    def _make(self, server: SyncPrefectClient, active: bool) -> None:
        fields, schedules = self.fields, []
        if fields["schedule"]:
            cron, _, timezone = fields["schedule"].rpartition(" ")
            schedule = CronSchedule(cron=cron, timezone=timezone)
            schedules.append(DeploymentScheduleCreate(schedule=schedule, active=active))
        server.create_deployment(  # changes the one that is there
            flow_id=server.create_flow_from_name(self.flow.name),
            name=self.name,
            description=fields["description"],
            schedules=schedules,
            parameters=fields["parameters"],
            work_pool_name=fields["pool"],
            tags=fields["tags"],
            pull_steps=[{_CHANGE_DIRECTORY: {"directory": fields["directory"]}}],
            entrypoint=fields["entrypoint"],
            job_variables={"env": fields["environment"]},
            parameter_openapi_schema=fields["parameter schema"],
            enforce_parameter_schema=True,
        )


def deployments_of(entry: Deployment, directory: Path, flows: Flows) -> Iterator[FlowDeployment]:
    """The deployment of an entry of deployments.yaml, and those of its stages that have pools of their own.

    directory: the working directory of the runs.
    """
    elsewhere = {}
    for model, pool in entry.elsewhere.items():
        name = f"{entry.name}-{model}"
        elsewhere[model] = f"{flows.stages.name}/{name}"
        yield FlowDeployment(
            flows.stages,
            name,
            {
                "description": f"Stages of {flows.run.name}/{entry.name}, on hardware for the {model}.",
                "schedule": None,
                "parameters": {},
                "pool": pool,
                "tags": [STAGES_TAG],
                **_common(flows.stages, directory),
            },
        )
    yield FlowDeployment(
        flows.run,
        entry.name,
        {
            "description": entry.description,
            "schedule": f"{entry.cron} {entry.timezone}" if entry.cron else None,
            "parameters": {
                "domain": entry.domain,
                "recipe": entry.recipe,
                "settings": [*entry.settings],
                "fresh": entry.fresh,
                "until": entry.until,
                "elsewhere": elsewhere,
                "limit": entry.limit,
                "overlap": entry.overlap,
            },
            "pool": entry.pool,
            "tags": [RUN_TAG, *entry.tags],
            **_common(flows.run, directory),
        },
    )


def _common(flow: Flow[..., Any], directory: Path) -> dict[str, Any]:
    return {
        "directory": str(directory),
        # The worker imports it from its own installation.
        "entrypoint": f"{flow.fn.__module__}.{flow.fn.__name__}",
        "environment": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)},
        "parameter schema": flow.parameters.model_dump_for_openapi(),
        "limit of Prefect": None,
    }


def _fields(existing: DeploymentResponse) -> dict[str, Any]:
    """The fields of a deployment of the server, as FlowDeployment has them."""
    schedules = [
        f"{each.schedule.cron} {each.schedule.timezone}"
        if isinstance(each.schedule, CronSchedule)
        else one_line(str(each.schedule))
        for each in existing.schedules
    ]
    limit, steps = existing.global_concurrency_limit, existing.pull_steps or []
    directories = [step.get(_CHANGE_DIRECTORY, {}).get("directory") for step in steps]
    return {
        "description": existing.description,
        "schedule": "; ".join(schedules) or None,
        "parameters": existing.parameters,
        "pool": existing.work_pool_name,
        # A limit of Prefect's own is removed: flows/prefect_server.py:turn says why.
        "limit of Prefect": limit.limit if limit else None,
        "tags": existing.tags,
        "directory": directories[0] if len(directories) == 1 else None,
        "entrypoint": existing.entrypoint,
        "environment": existing.job_variables.get("env"),
        "parameter schema": existing.parameter_openapi_schema,
    }
