"""`stillhouse new-domain`: writes a small domain pack to start from (flows/starter)."""

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
) -> None:
    """Writes a small working domain pack to start from.

    The pack has a world with four tools, and three templates that make tasks: a question and two orders. Comments in
    both files say what to replace.

    \b
    Example:
      stillhouse new-domain ./my-domain
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
    with whole(path) as temporary:
        temporary.mkdir()
        for file in ("domain.yaml", "environment.py"):
            text = (_STARTER / file).read_text(encoding="utf-8")
            (temporary / file).write_text(
                text.replace("name: NAME", f"name: {name}"), encoding="utf-8"
            )
    domain = path if path.is_absolute() or str(path).startswith(".") else f"./{path}"
    shown = shlex.quote(str(domain))
    print(f"wrote {path}/domain.yaml: title, text, system message, the exam's smallest score")
    print(f"      {path}/environment.py: the world, its tools, the tasks")
    print("change them, then")
    print(f"  stillhouse check-domain {shown}    # what is wrong with it, and the fix")
    print(f"  stillhouse plan {shown}            # what a run would do and take")
    print(f"  stillhouse distill {shown}         # trains, evaluates and publishes a student")
