"""Makes the Prefect server have what deployments.yaml says: compares, and lists the changes to apply.

It changes the deployments that the file names and two automations with names of its own, adds work pools that are
missing, and removes only deployments with its tags, and only if that is asked for. Whether something is paused is left
to the people who use Prefect's UI.
"""

import contextlib
from collections.abc import Callable, Iterator

from flows import prefect_server  # sets what Prefect reads as it is imported
from flows.deployments import automations
from flows.deployments.change import Change
from flows.deployments.file import Deployments
from flows.deployments.flow_deployment import RUN_TAG, STAGES_TAG, Flows, deployments_of
from schemas.error_text import one_line, without_logins
from schemas.errors import InputError, StageError

# isort: split
import httpx
import prefect.settings as prefect_settings
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker


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
    shown = without_logins(url)
    prefect_server.quieten()
    try:
        with get_client(sync_client=True) as opened:
            yield opened
    except httpx.HTTPStatusError as error:
        detail = one_line(error.response.text) or error.response.reason_phrase
        code = error.response.status_code
        raise StageError(f"the Prefect server at {shown} answered {code}: {detail}") from None
    except (httpx.HTTPError, RuntimeError) as error:
        reason = one_line(without_logins(str(error))) or type(error).__name__
        raise StageError(f"the Prefect server at {shown} cannot be used: {reason}") from None


def changes(
    server: SyncPrefectClient, wanted: Deployments, flows: Flows, prune: bool
) -> list[Change]:
    """Returns what makes the server have what the file says, in the order in which it is to be applied.

    prune: whether deployments that it made and the file does not name are removed.

    Raises:
        InputError: the server does not have the block of `notify`.
    """
    found = [_pool_change(server, name, limit) for name, limit in wanted.limits.items()]
    names = FlowFilter(name=FlowFilterName(any_=[flows.run.name, flows.stages.name]))
    existing = {}
    for flow in server.read_flows(flow_filter=names):
        for each in _read_deployments(server, flow.name):
            existing[f"{flow.name}/{each.name}"] = each
    for entry in wanted.deployments:
        for deployment in deployments_of(entry, wanted.directory, flows):
            before = existing.pop(deployment.full_name, None)
            found.append(deployment.change(server, before))
    for name, other in existing.items():
        if {RUN_TAG, STAGES_TAG} & {*other.tags}:
            remove = _remover(server, other)
            action, apply = ("remove", remove) if prune else ("keep", lambda: None)
            found.append(Change(action, "deployment", name, apply, paused=other.paused))
    lost = automations.lost([RUN_TAG, STAGES_TAG])
    found += automations.changes(server, automations.LOST, lost)
    failed = None
    if wanted.notify:
        block_type, _, name = wanted.notify.partition("/")
        try:
            block = server.read_block_document_by_name(name, block_type)
        except ObjectNotFound:
            raise InputError(
                f"notify: found {wanted.notify}, expected TYPE/NAME of a block of the Prefect server, made in its UI"
                " (Blocks), such as slack-webhook/distill"
            ) from None
        failed = automations.failed(RUN_TAG, block_type, block.id)
    found += automations.changes(server, automations.FAILED, failed)
    return found


def _read_deployments(server: SyncPrefectClient, flow_name: str) -> list[DeploymentResponse]:
    of_flow = FlowFilter(name=FlowFilterName(any_=[flow_name]))
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
