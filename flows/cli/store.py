"""Commands about the store: `stillhouse push`, `show`, `promote`, `rollback` and `rm`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from flows.cli.output import JsonOut, plain, print_table, write_result
from flows.progress import log, transfer
from schemas.errors import InputError

_Reference = Annotated[
    str, typer.Argument(metavar="NAME:TAG", help="A version, such as legal:3, or a variant of it.")
]


def push(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:TAG]", help="A student of the directory. Default: its tag `latest`."
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="STORE", help="oci://HOST/NAMESPACE, or another directory."),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIR", help="The directory. Default: the one that is the store."
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="V", help="Only this variant; repeatable. Default: all."),
    ] = None,
    json_: JsonOut = None,
) -> None:
    """Copies a published student from a directory to a registry.

    It keeps its number where the registry has no version with that number or a higher one. A file that is there
    already is not sent. `latest` moves to it if its gate passed.

    \b
    Examples:
      stillhouse push legal --to oci://registry.example/students
      stillhouse push legal:3 --to http://127.0.0.1:5000/students --variant Q4_K_M
    """
    from student.registry.location import parse_location
    from student.registry.open_store import open_store
    from student.registry.upkeep import push as copy

    target = open_store(parse_location(to, "--to"))
    with transfer(f"pushing {name}") as progress:
        pushed = copy(open_store(source), name, target, variant or None, progress)
    result = {
        "name": pushed.name,
        "tag": pushed.tag,
        "digest": pushed.digest,
        "store": target.location,
        "new": pushed.new,
    }
    write_result(result, json_)
    if str(json_) != "-":
        verb = "pushed" if pushed.new else "was there already"
        print(f"{verb}: {pushed.name}:{pushed.tag} in {target.location} ({pushed.digest})")


def show(name: _Reference, json_: JsonOut = None) -> None:
    """Shows a published student: its tags, variants and files, and what it was made from.

    \b
    Examples:
      stillhouse show legal:3
      stillhouse show legal:latest --json -
    """
    from schemas.tags import variant_tag
    from student.registry.lookup import resolve
    from student.registry.open_store import open_store

    store = open_store()
    model = resolve(store, name)
    variants = {
        variant: {
            "bytes": size,
            "digest": model.manifests.get(variant_tag(model.tag, variant), {}).get("digest"),
        }
        for variant, size in model.variants().items()
    }
    result: dict[str, Any] = {
        "name": model.name,
        "tag": model.tag,
        "tags": list(model.tags),
        "digest": model.digest,
        "gate_passed": model.gate_passed,
        "store": store.location,
        "variants": variants,
        "files": [
            {"path": f.path, "sha256": f.sha256, "bytes": f.bytes, "variant": f.variant}
            for f in model.files
        ],
        "manifest": model.manifest,
    }
    write_result(result, json_)
    if str(json_) == "-":
        return
    manifest = model.manifest
    scores = manifest["scorecard"]
    teacher, student, data = manifest["teacher"], manifest["student"], manifest["data"]
    print(f"{model.name}:{model.tag} in {store.location}, {manifest['created']}")
    print(f"tags      {', '.join(model.tags)}")
    print(f"digest    {model.digest}")
    print(f"gate      {'passed' if model.gate_passed else 'failed'}")
    print(f"exam      {scores['student']} of {scores['tasks']} (before: {scores['base']})")
    print(plain(f"student   {student['name']} ({student['licence']}), from {student['base']}"))
    print(plain(f"teacher   {teacher['name']} ({teacher['licence']}), from {teacher['source']}"))
    print(
        plain(f"data      {data['kept']} kept traces ({data['licence']}), sha256 {data['sha256']}")
    )
    print()
    print_table(
        ["FILE", "SIZE", "VARIANT", "SHA256"],
        [[plain(f.path), decimal(f.bytes), f.variant, f.sha256[:12]] for f in model.files],
    )


def promote(
    name: _Reference,
    tag: Annotated[
        str, typer.Argument(metavar="TAG", help="latest, or a tag of your own such as production.")
    ],
) -> None:
    """Makes a tag name a version: `latest`, or one of your own.

    \b
    Examples:
      stillhouse promote legal:3 latest
      stillhouse promote legal:3-q4_k_m production
    """
    from student.registry.open_store import open_store
    from student.registry.upkeep import promote as move

    model = move(open_store(), name, tag)
    if not model.gate_passed:
        log(f"note: the gate of {model.name}:{model.tag} did not pass")
    print(f"{model.name}:{tag} is {name}")


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A published student.")],
) -> None:
    """Moves `latest` back to the version before it whose gate passed.

    \b
    Example:
      stillhouse rollback legal
    """
    from student.registry.open_store import open_store
    from student.registry.upkeep import rollback as move

    before, now = move(open_store(), name)
    print(f"{name}:latest is {name}:{now}, and was {name}:{before}")


def rm(
    name: Annotated[
        str, typer.Argument(metavar="NAME[:TAG]", help="A version, or with --keep a student.")
    ],
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, metavar="N", help="Remove all but the newest N versions."),
    ] = None,
) -> None:
    """Removes versions of a student, and in a directory the files that no other version needs.

    A version that `latest` or a tag of your own names stays.

    \b
    Examples:
      stillhouse rm legal:2
      stillhouse rm legal --keep 3
    """
    from student.registry.open_store import open_store
    from student.registry.upkeep import keep as keep_newest
    from student.registry.upkeep import remove

    if (keep is None) == (":" not in name):
        raise InputError(f"{name}: expected NAME:TAG, or NAME with --keep N")
    store = open_store()
    gone = remove(store, name, log) if keep is None else keep_newest(store, name, keep, log)
    student = name.partition(":")[0]
    print(f"removed: {', '.join(f'{student}:{number}' for number in gone) or 'nothing'}")
