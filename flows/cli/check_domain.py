"""`stillhouse check-domain`: checks a domain pack before money is spent on it."""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.output import JsonOut, write_result
from schemas.errors import InputError


def check_domain(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="The directory of a pack, such as ./my-domain, or a domain in data/.",
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "-r",
            metavar="R",
            help="The recipe whose task counts and token limits apply.",
        ),
    ] = "local",
    json_: JsonOut = None,
    show: Annotated[
        bool,
        typer.Option("--show", help="Print the tools' schemas and one task of each template."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with samples of each template."),
    ] = None,
) -> None:
    """Checks a domain pack: what its author got wrong, where, and how to mend it.

    It plays tasks of every template and looks at all of them, so that one run lists everything. No model is needed.
    Exit code 0 without errors, also with warnings; 2 with errors. `stillhouse plan` runs a sample of the same checks.

    \b
    filled         nothing is left to be written in a pack that new-domain wrote; otherwise the rest waits
    solvable       every template makes tasks whose solution runs and passes the task's own checks
    deterministic  a task is the same in another process, on another day, a second time and beside another
    provable       answers, arguments and replies follow from what the solution sees; budgets.steps is enough
    fair           train and exam share no entity and no request; agents that refuse, guess or take the first
                   tool fail; requests, tools and arguments vary; there are enough tasks
    sized          results and whole tasks fit into the recipe's train.max_length and filter.max_tokens

    A finding is one line: level, file, template, tool, seed, what was found; what to do.

    \b
    Examples:
      stillhouse check-domain ./my-domain
      stillhouse check-domain ./my-domain --show --html samples.html
      stillhouse check-domain legal --json legal-checks.json
    """
    from flows import recipe_file
    from flows.progress import track
    from schemas.files import write_text
    from student.models import base
    from student.models.chat_template import tools_counter
    from teacher.domain import pack
    from teacher.domain.check import FULL, Finding, check
    from teacher.domain.shares import count_by_template
    from teacher.planning import cost, pack_size
    from teacher.scenes.images import ImageStore

    started = time.monotonic()
    settings = recipe_file.load(recipe)
    try:
        domain = pack.load(path)
    except InputError as error:
        file = Path(path).resolve()
        finding = Finding("loads", "error", file, str(error).removeprefix(f"{file}/"), "")
        write_result({"pack": path, "findings": [finding.row()]}, json_)
        raise
    with tempfile.TemporaryDirectory(prefix="stillhouse-check-") as images:
        store = ImageStore(Path(images))
        needed = count_by_template(domain, settings.tasks.train, mix=settings.tasks.mix)
        with track("checking the tasks of each template", 3 * len(domain.templates)) as advance:
            checked = check(domain, FULL, needed=needed, image_store=store, advance=advance)
        findings = [*checked.findings, *pack_size.check_results(domain, checked.episodes, settings)]
        if checked.tasks and not any(finding.check == "deterministic" for finding in findings):
            conversations = cost.measure(
                checked.tasks,
                domain,
                store,
                teacher="source",
                student="source",
                student_tools=tools_counter(base.load(settings.student)),
            )
            findings += pack_size.check_size(domain, checked.tasks, conversations, settings)
            sizes = pack_size.summarize(checked.tasks, conversations)
            for name, row in sizes.items():
                checked.statistics["by_template"][name]["tokens"] = row
        if html is not None:
            from flows.report.pack_samples import page

            write_text(html, page(domain, checked, findings, store))
    findings.sort(key=lambda finding: finding.level)
    report: dict[str, Any] = {
        "pack": str(domain.path),
        "recipe": settings.name,
        "errors": sum(finding.level == "error" for finding in findings),
        "warnings": sum(finding.level == "warning" for finding in findings),
        "seconds": round(time.monotonic() - started, 1),
        "findings": [finding.row() for finding in findings],
        "statistics": checked.statistics,
    }
    write_result(report, json_)
    if str(json_) != "-":
        if show:
            _show(domain, checked)
        for finding in findings:
            print(f"{finding.level:9}{finding.check:15}{finding.line(domain.path)}")
        print(_summary(report))
        for written in (json_, html):
            if written is not None:
                print(f"wrote {written}")
    if report["errors"]:
        raise typer.Exit(InputError.exit_code)


def _summary(report: dict[str, Any]) -> str:
    counts = report["statistics"]
    verdict = ", ".join(
        f"{count} {name}{'s' * (count != 1)}"
        for name in ("error", "warning")
        for count in [report[f"{name}s"]]
    )
    return (
        f"{report['pack']}: {verdict}. Checked {counts['templates']} templates and {counts['tools']} tools:"
        f" {counts['tasks']} tasks played, {counts['built']} built and measured, {counts['compared']} compared"
        f" with a second process, in {report['seconds']:.0f} s."
    )


def _show(domain: Any, checked: Any) -> None:
    """Prints the tools' schemas and one task of each template with its solution."""
    for tool in domain.tools.values():
        print(json.dumps(tool["function"], ensure_ascii=False))
    for name, episodes in checked.episodes.items():
        played = next((e for e in episodes if e.blueprint), None)
        print(f"\n{name} ({domain.templates[name].kind})")
        if played is None or played.blueprint is None:
            print(f"  no task: {episodes[0].failure}")
            continue
        blueprint = played.blueprint
        print(f"  seed      {played.job.seed} ({played.job.split})")
        print(f"  request   {blueprint.request}")
        for index, (tool, arguments) in enumerate(blueprint.plan):
            print(f"  call      {tool} {json.dumps(arguments, ensure_ascii=False, default=str)}")
            if index < len(played.results):
                print(f"  result    {_cut(json.dumps(played.results[index], ensure_ascii=False))}")
        print(f"  reply     {blueprint.reply}")
        print(
            f"  answer    {played.answer.as_row() if played.answer else 'the state of the world'}"
        )


def _cut(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:400]}... ({len(text):,} characters)"
