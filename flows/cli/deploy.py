"""The command `stillhouse deploy`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.output import JsonOut, plain, print_table, write_result

if TYPE_CHECKING:
    from flows.deployments.change import Change

_ACTIONS = {
    "create": ("would create", "created"),
    "update": ("would update", "updated"),
    "remove": ("would remove", "removed"),
    "none": ("as it is", "as it is"),
    "keep": ("not in the file", "not in the file"),
}


def deploy(
    file: Annotated[
        Path, typer.Option("--file", "-f", metavar="FILE", help="The file of the deployments.")
    ] = Path("deployments.yaml"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would change, and change nothing.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Also remove deployments that it made and the file no longer names."
        ),
    ] = False,
    json_: JsonOut = None,
) -> None:
    """Makes the Prefect deployments that deployments.yaml names.

    Each is a scheduled run of the pipeline with a domain and a recipe, called distill/NAME on the server that
    PREFECT_API_URL names. What is as the file says is left alone, so the command can be repeated. Work pools that are
    missing are made, for process workers: `prefect worker start --type process --pool cpu` runs their flow runs.

    \b
    Examples:
      stillhouse deploy --dry-run
      stillhouse deploy --file team/deployments.yaml --prune
    """
    from flows.deployments import file as deployments
    from flows.deployments import server

    wanted = deployments.read(file)
    with server.client() as client:
        from flows.deployments.flow_deployment import Flows
        from flows.distill import distill_flow, stages_flow

        flows = Flows(run=distill_flow, stages=stages_flow)
        changes = server.changes(client, wanted, flows, prune)
        if not dry_run:
            for change in changes:
                change.apply()
    write_result([_row(change) for change in changes], json_)
    if str(json_) == "-":
        return
    rows = [
        [_ACTIONS[change.action][not dry_run], change.kind, change.name, _details(change)]
        for change in changes
    ]
    print_table(["", "WHAT", "NAME", "FIELDS"], [[plain(cell) for cell in row] for row in rows])


def _row(change: "Change") -> dict[str, Any]:
    fields = {name: {"before": old, "after": new} for name, (old, new) in change.fields.items()}
    return {
        "action": change.action,
        "kind": change.kind,
        "name": change.name,
        "paused": change.paused,
        "fields": fields,
    }


def _details(change: "Change") -> str:
    """The changed fields in words; of a new object the short ones."""
    texts = []
    for name, (before, after) in change.fields.items():
        if name == "parameter schema":
            texts.append(name)
        elif change.action == "create":
            texts += [f"{name} {after}"] if name in ("type", "limit", "schedule", "pool") else []
        elif isinstance(after, dict):
            before = before or {}
            texts += [
                f"{key}: {before.get(key)} > {after.get(key)}"
                for key in {**before, **after}
                if before.get(key) != after.get(key)
            ]
        else:
            texts.append(f"{name}: {before} > {after}")
    if change.paused:
        texts.append("paused in Prefect")
    return ", ".join(texts)
