"""The automations that `stillhouse deploy` makes: lost flow runs crash, and failed ones are told of."""

from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from flows import prefect_server  # noqa: F401  sets what Prefect reads as it is imported
from flows.deployments.change import Change, differences

# isort: split
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import (
    AutomationCore,
    EventTrigger,
    Posture,
    ResourceSpecification,
)

LOST = "stillhouse: lost flow runs crash"
FAILED = "stillhouse: failed flow runs are told of"
# The shortest that Prefect takes. A run that sends nothing three times in a row is lost.
HEARTBEAT_SECONDS = 30
LOST_SECONDS = 3 * HEARTBEAT_SECONDS
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Cancelling", "Paused", "AwaitingRetry")
_TEXT = (
    "{{ flow.name }}/{{ deployment.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}:"
    " {{ flow_run.state.message }}"
)


def changes(server: SyncPrefectClient, name: str, wanted: AutomationCore | None) -> list[Change]:
    """What is to be done about the automation of a name; None where there should be none."""
    existing = server.read_automations_by_name(name)
    if wanted is None:
        return [
            Change("remove", "automation", name, partial(server.delete_automation, each.id))
            for each in existing
        ]
    after = _fields(wanted)
    if not existing:
        return [Change("create", "automation", name, partial(server.create_automation, wanted))]
    first = existing[0]
    changed = differences(_fields(first), after)
    if not changed:
        return [Change("none", "automation", name, paused=not first.enabled)]
    update = wanted.model_copy(update={"enabled": first.enabled})
    apply = partial(server.update_automation, first.id, update)
    # Their triggers and actions are too long to show.
    shown = {field: ("another", "this version's") for field in changed}
    return [Change("update", "automation", name, apply, shown, not first.enabled)]


def _fields(automation: AutomationCore) -> dict[str, Any]:
    """What decides whether an automation of the server is the wanted one, as JSON with sorted sets."""
    fields: dict[str, Any] = _sorted(automation.model_dump(mode="json"))
    return {name: fields[name] for name in ("description", "trigger", "actions")}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(inner) for inner in value), key=str)
    return value


def lost(tags: list[str]) -> AutomationCore:
    """Ends in Prefect what a killed worker, or a machine that went down, left as running: it can be retried then.

    tags: of the flow runs, one of which each has.
    """
    heartbeat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=LOST,
        description=f"Made by `stillhouse deploy`: no sign of life for {LOST_SECONDS} s.",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{state}" for state in _ENDS)},
            match=_flow_runs(),
            match_related=_tagged(tags),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=LOST_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No sign of life for {LOST_SECONDS} s. A retry continues in its directory.",
            )
        ],
    )


def failed(tag: str, block_type: str, block: UUID) -> AutomationCore:
    """Tells a notification block of Prefect, or calls a webhook block, when a flow run fails or crashes."""
    action = (
        CallWebhook(
            block_document_id=block,
            payload='{"text": {% filter tojson %}'
            + _TEXT
            + '{% endfilter %}, "url": "{{ flow_run|ui_url }}"}',
        )
        if block_type == "webhook"
        else SendNotification(
            block_document_id=block,
            subject="stillhouse: {{ flow_run.name }} {{ flow_run.state.name }}",
            body=_TEXT + "\n{{ flow_run|ui_url }}",
        )
    )
    return AutomationCore(
        name=FAILED,
        description="Made by `stillhouse deploy`, for the `notify` of deployments.yaml.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=_flow_runs(),
            match_related=_tagged([tag]),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[action],
    )


def _flow_runs() -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})


def _tagged(tags: list[str]) -> ResourceSpecification:
    """Events of flow runs that have one of the tags."""
    names = [f"prefect.tag.{tag}" for tag in tags]
    return ResourceSpecification({"prefect.resource.id": names, "prefect.resource.role": "tag"})
