"""`stillhouse new-domain`: writes a domain pack to start from (flows/starter), or one for tools that exist."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import InputError

_STARTER = Path(__file__).resolve().parents[1] / "starter"


def new_domain(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A directory that does not exist yet, or is empty."),
    ],
    from_mcp: Annotated[
        str | None,
        typer.Option(
            "--from-mcp",
            metavar="COMMAND|URL",
            help="An MCP server, which will run the tools of its pack.",
        ),
    ] = None,
    from_openapi: Annotated[
        Path | None,
        typer.Option(
            "--from-openapi", metavar="FILE", help="An OpenAPI 3 file, whose operations are tools."
        ),
    ] = None,
    from_tools: Annotated[
        Path | None,
        typer.Option(
            "--from-tools", metavar="FILE", help="Functions as OpenAI, Anthropic or MCP write them."
        ),
    ] = None,
    from_logs: Annotated[
        Path | None,
        typer.Option(
            "--from-logs",
            metavar="PATH",
            help="Conversations whose users' requests are examples: OpenAI chat, ATIF, STS, ShareGPT.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Only the tools of this name, such as *_order; repeatable.",
        ),
    ] = None,
) -> None:
    """Writes a domain pack to start from.

    Without an option it is a small working pack: a world with four tools, and three templates that make tasks. With
    tools of your own it is a pack whose tools have their schemas. An MCP server runs its tools itself, in a session for
    each episode; other tools get a mock world. What only you can write is marked FILL IN, and check-domain lists it.

    \b
    Examples:
      stillhouse new-domain ./my-domain
      stillhouse new-domain ./notes --from-mcp "python notes_server.py"
      stillhouse new-domain ./shop --from-openapi shop.yaml --only "*Order" --from-logs chats.jsonl
      stillhouse check-domain ./my-domain
    """
    from schemas.files import whole

    name = re.sub(r"[^a-z0-9]+", "-", path.resolve().name.lower()).strip("-")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise InputError(
            f"{path}: expected a name that begins with a letter, of at most 40 letters, digits and -"
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: exists already, expected a new or an empty directory")
    sources = [from_mcp, from_openapi, from_tools]
    if sum(source is not None for source in sources) > 1:
        raise InputError("expected one of --from-mcp, --from-openapi and --from-tools")
    if any(source is not None for source in sources):
        written = _own_files(name, from_mcp, from_openapi, from_tools, from_logs, only or [])
    elif from_logs or only:
        raise InputError(
            "--from-logs and --only go with --from-mcp, --from-openapi or --from-tools"
        )
    else:
        written = {
            file: (_STARTER / file)
            .read_text(encoding="utf-8")
            .replace("name: NAME", f"name: {name}")
            for file in ("domain.yaml", "environment.py")
        }
    with whole(path) as temporary:
        temporary.mkdir()
        for file, text in written.items():
            (temporary / file).write_text(text, encoding="utf-8")
    what = {
        "domain.yaml": "title, text, system message, the exam's smallest score",
        "environment.py": "the world, its tools, the tasks",
        "tools.json": "the tools' schemas",
        "requests.jsonl": "requests of users, as examples; look for personal data",
    }
    for number, file in enumerate(written):
        print(f"{'wrote' if not number else '     '} {path}/{file}: {what[file]}")
    domain = path if path.is_absolute() or str(path).startswith(".") else f"./{path}"
    shown = shlex.quote(str(domain))
    print("change them, then")
    print(f"  stillhouse check-domain {shown}    # what is wrong with it, and the fix")
    print(f"  stillhouse plan {shown}            # what a run would do and take")
    print(f"  stillhouse distill {shown}         # trains, evaluates and publishes a student")


def _own_files(
    name: str,
    mcp: str | None,
    openapi: Path | None,
    tools: Path | None,
    logs: Path | None,
    only: list[str],
) -> dict[str, str]:
    """Returns the files of a pack for the tools that one of the options names."""
    from flows import own_pack
    from schemas.interchange.logs import load
    from teacher.domain.mcp_session import McpFault, McpServer, McpSession
    from teacher.domain.tool_import import functions
    from teacher.domain.tool_import import openapi as openapi_files

    server = None
    if mcp is not None:
        parsed = McpServer.parse(mcp)
        try:
            session = McpSession(parsed)
            listed = session.list_tools()
            session.close()
        except McpFault as error:
            raise InputError(f"--from-mcp {error}") from None
        imported = functions.import_functions(listed, str(parsed), only)
        source, server = str(parsed), mcp
    elif openapi is not None:
        imported, source = openapi_files.read_openapi(openapi, only), openapi.name
    else:
        assert tools is not None
        imported, source = functions.read_functions(tools, only), tools.name
    conversations = []
    if logs is not None:
        read = load(logs)
        conversations = read.conversations
        for place, reason in read.refused[:3]:
            print(f"left out: {place}: {reason}")
        if len(read.refused) > 3:
            print(f"left out: {len(read.refused) - 3} more")
    return own_pack.files(name, imported, source, server=server, conversations=conversations)
