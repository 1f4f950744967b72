"""README.md and docs/: links, named files, commands, options, settings and names exist, and the marked commands run.

A fenced block whose info string is `sh run` is run by these tests in an empty directory, `sh slow` by the slow tests.
The blocks `sh step` of a page are run in one directory, in order, between the files that its other blocks hold, such
as `python library/textual.py`; each line of a block `output` occurs in what the steps above it printed.
Of all other code the names are checked. `stillhouse` stands for `python -m flows.cli` of this checkout.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import prefect.settings
import pytest

from schemas.task import Split

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]

# Paths that are not of the repository: of a run or a store (relative to it), of a pack, of a model's directory, of the
# user, of the cache.
_ELSEWHERE = re.compile(
    r"(RUN/|runs/|store/|students/|\./|~/|\$XDG_CACHE_HOME/|\.venv(-vllm)?(/|$)|http).*"
    r"|(domain\.yaml|environment\.py|textual\.py|visual\.py|policy\.md)"
    r"|(tasks|journal|traces|filter|train|export|evaluate|publish|stages|images|logs|prefect|data|report)/[\w.*-]*(/[\w.*-]*)*"
    r"|(run|plan|preflight|manifest|scorecard|recipe|index|mlflow)\.json|traces\.jsonl|report(-against-NAME)?\.html|stillhouse-error\.log"
    r"|README\.md|chat_template\.jinja|vllm/|blobs/sha256/|oci-layout|\*\.gguf|\.jsonl|[\w-]+-(TYPE|mmproj)\.gguf"
    r"|additional_chat_templates/|tokenizer_config\.json|original/"
    r"|org/name|distill/weekly|(distill|stages)/NAME[\w-]*|/(etc|opt|srv)/stillhouse(/.*)?|legal-train-.*/\d"
)
_PATH = re.compile(
    r"[\w.$~*<>-]*(/[\w.*<>-]*)+|[\w*-]*\.(py|yaml|jsonl?|md|svg|toml|html|log|gguf|jinja)"
)


@dataclass(frozen=True)
class Code:
    """A block of code. kind: the info string of its fence, or "" where it is indented; line: counted from 1."""

    page: Path
    line: int
    kind: str
    text: str


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def code_of(page: Path) -> list[Code]:
    """The fenced and the indented blocks of a page."""
    blocks: list[Code] = []
    lines: list[str] = []
    fence, start = None, 0
    for number, line in enumerate([*text_of(page).splitlines(), ""], 1):
        if fence is not None:
            if line.startswith("```"):
                blocks.append(Code(page, start, fence, "\n".join(lines)))
                fence, lines = None, []
            else:
                lines.append(line)
        elif line.startswith("```"):
            fence, start, lines = line[3:].strip(), number, []
        elif line.startswith("    "):
            start = start if lines else number
            lines.append(line[4:])
        elif lines and line:
            blocks.append(Code(page, start, "", "\n".join(lines)))
            lines = []
    assert fence is None, f"{page}: a fence that is not closed"
    return [*blocks, *([Code(page, start, "", "\n".join(lines))] if lines else [])]


@cache
def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    kept, fenced = [], False
    for line in text_of(page).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            kept.append(line)
    return "\n".join(kept)


def spans_of(page: Path) -> list[str]:
    """What stands in backticks in the prose of a page."""
    paragraphs = re.split(r"\n\s*\n|\n(?=[|#-])", prose_of(page))
    spans = [span for text in paragraphs for span in re.findall(r"`([^`]+)`", text)]
    return [" ".join(span.split()) for span in spans]


def command_lines(page: Path) -> Iterator[str]:
    """Each line of code, and each span in backticks, that may hold a command; without comments."""
    for block in code_of(page):
        joined = block.text.replace("\\\n", " ")
        for line in joined.splitlines():
            yield from re.split(r"\s&&\s|\s\|\s|;\s", line.partition(" # ")[0])
    yield from spans_of(page)


@cache
def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ------------------------------------------------------------------------------------- links, files and names


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_and_their_anchors_exist(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path) -> None:
    missing = []
    for span in spans_of(page):
        if " " in span or not _PATH.fullmatch(span) or _ELSEWHERE.fullmatch(span):
            continue
        pattern = re.sub(r"<\w+>", "*", span).rstrip("/")
        if not any(list(base.glob(pattern)) for base in (ROOT, page.parent)):
            missing.append(span)
    own = (
        r"(?<![\w./-])((?:flows|student|teacher|schemas|benchmarks|tests|docs)/[\w./-]+\.[a-z]\w+)"
    )
    missing += [path for path in re.findall(own, text_of(page)) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_functions_that_are_named_are_in_their_files(page: Path) -> None:
    missing = []
    for file, name in re.findall(r"`([\w/.-]+\.py):(\w+)`", prose_of(page)):
        path = ROOT / file
        defined = rf"^ *(async def|def|class) {name}\b|^{name}\b.*="
        if not path.is_file() or not re.search(defined, path.read_text(encoding="utf-8"), re.M):
            missing.append(f"{file}:{name}")
    assert not missing, f"{page.name} names what was renamed or moved: name the new place there"


def test_every_page_is_reached_from_the_readme() -> None:
    reached = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", text_of(ROOT / "README.md")))
    reached |= {
        target
        for page in reached
        for target in re.findall(r"\]\(([\w-]+\.md)[)#]", text_of(DOCS / page))
    }
    assert reached == {page.name for page in DOCS.glob("*.md")}


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_lines_of_prose_are_at_most_120_long(page: Path) -> None:
    lines = [line for line in prose_of(page).splitlines() if not line.startswith(("|", "!["))]
    assert not [line for line in lines if len(line) > 120]


@cache
def names(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / folder).glob("*.yaml")}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_models_and_recipes_that_are_named_exist(page: Path) -> None:
    known = names("flows/recipes") | names("teacher/models") | names("student/models")
    named = re.compile(r"(kimi|qwen|llama-\d|deepseek|smollm)[\w.-]*")
    spans = {span for span in spans_of(page) if named.fullmatch(span)}
    spans |= set(re.findall(r"(?:RECIPE=|--recipe )([a-z][\w.-]*)", text_of(page)))
    spans |= set(re.findall(r"(?:teacher|student): ([a-z][\w.-]*)(?=`|\n)", text_of(page)))
    assert spans - known == set()


def test_all_models_and_recipes_are_listed() -> None:
    for page, folder in (
        ("recipes.md", "flows/recipes"),
        ("teacher.md", "teacher/models"),
        ("student.md", "student/models"),
    ):
        assert names(folder) <= set(spans_of(DOCS / page)), page


@cache
def source() -> str:
    """The text of the code, where environment variables are read."""
    files = [
        file
        for room in ("flows", "teacher", "student", "schemas")
        for file in (ROOT / room).rglob("*.py")
    ]
    files += [ROOT / "Makefile", ROOT / ".ci" / "run"]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_environment_variables_that_are_named_are_read(page: Path) -> None:
    named = set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)+\b", text_of(page))) - {"HF_DIR"}
    unread = {name for name in named if not re.search(rf"\b{name}\b", source())}
    assert {name for name in unread if not hasattr(prefect.settings, name)} == set()


def test_all_own_environment_variables_are_documented() -> None:
    own = set(re.findall(r"\bSTILLHOUSE_[A-Z_]+\b", source()))
    assert own <= set(re.findall(r"\bSTILLHOUSE_[A-Z_]+\b", text_of(DOCS / "operations.md")))


# ------------------------------------------------------------------------------------- commands and settings


@cache
def options() -> dict[str, set[str]]:
    """The options of each command of `stillhouse`; those of the group itself under ""."""
    import typer

    from flows.cli.main import app

    group: Any = typer.main.get_command(app)
    listed = {"": group, **group.commands}
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        | {"-h", "--help"}
        for name, command in listed.items()
    }


def words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def wrong_in(command: str, arguments: list[str]) -> list[str]:
    """The options of a command that it does not have, and the settings that no recipe has."""
    used = [word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)]
    wrong = [f"{command} {option}" for option in used if option not in options()[command]]
    for option, value in zip(arguments, arguments[1:], strict=False):
        if option in ("--set", "-s"):
            field = value.partition("=")[0]
            if not is_recipe_field(field):
                wrong.append(f"--set {field}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_options_that_are_shown_exist(page: Path) -> None:
    wrong = []
    for line in command_lines(page):
        match = re.match(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?stillhouse(?: (.*)|$)", line.strip())
        if not match:
            continue
        command, *arguments = [*words(match[1] or ""), ""]
        if command.startswith("-") or command in ("", "..."):
            command, arguments = "", [command]
        if command and command not in options():
            wrong.append(line)
        elif arguments != ["..."]:
            wrong += wrong_in(command, arguments)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_make_targets_and_variables_that_are_shown_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) [?:]?=", makefile, re.MULTILINE))
    wrong = []
    for line in command_lines(page):
        match = re.match(r"make (\S.*)", line.strip())
        if not match:
            continue
        target, *settings = words(match[1])
        if target not in targets:
            wrong.append(line)
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in variables:
                wrong.append(setting)
            if (
                name == "DOMAIN"
                and not value.startswith("./")
                and not (ROOT / "data" / value).is_dir()
            ):
                wrong.append(setting)
            if name == "ARGS":
                wrong += wrong_in(target, words(value))
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_modules_that_are_run_exist(page: Path) -> None:
    modules = set(re.findall(r"python -m ((?:benchmarks|flows|schemas)\.[\w.]+)", text_of(page)))
    files = {module: ROOT.joinpath(*module.split(".")) for module in modules}
    assert {
        m for m, f in files.items() if not (f.with_suffix(".py").is_file() or f.is_dir())
    } == set()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_of_benchmarks_that_are_shown_exist(page: Path) -> None:
    missing = []
    for module, rest in re.findall(r"python -m (benchmarks\.\w+)([^\n`#]*)", text_of(page)):
        script = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        options_shown = re.findall(r"--[a-z][\w-]*", rest)
        missing += [f"{module} {option}" for option in options_shown if f'"{option}"' not in script]
    assert not missing


def is_recipe_field(path: str) -> bool:
    """Whether a dotted name such as train.max_length is a field of a recipe."""
    from schemas.recipe import Recipe

    fields: Any = Recipe.model_fields
    first, *rest = path.split(".")
    if first not in fields:
        return False
    if not rest:
        return True
    section: Any = fields[first].annotation
    if rest[0] not in section.model_fields:
        return False
    return len(rest) == 1 or rest[0] in ("mix", "replay")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_settings_that_are_named_exist(page: Path) -> None:
    sections = "tasks|serve|generate|filter|train|export|evaluate|gate|publish"
    named = re.compile(rf"((?:{sections})\.[a-z_]+)(?::.*)?")
    fields = {match[1] for span in spans_of(page) if (match := named.fullmatch(span))}
    files = {"publish.py", "filter.py", "plan.json"}
    assert {field for field in fields - files if not is_recipe_field(field)} == set()


# ------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("schema", ["task", "trace", "scorecard", "manifest", "fidelity"])
def test_every_field_of_a_file_is_named_on_the_page_of_formats(schema: str) -> None:
    document = json.loads((ROOT / "schemas" / f"{schema}.schema.json").read_text(encoding="utf-8"))
    page = text_of(DOCS / "formats.md")
    fields = set(document["properties"]) - {"version"}
    assert {field for field in fields if not re.search(rf"\b{field}\b", page)} == set()


def test_the_rejections_are_those_of_the_filter_in_its_order() -> None:
    from schemas.filter import REASONS

    section = text_of(DOCS / "formats.md").partition("### Rejections")[2].partition("###")[0]
    listed = [word for word in re.findall(r"[a-z_]+", section) if word in REASONS]
    assert listed == list(REASONS)


# ------------------------------------------------------------------------------------- the diagram


def _diagram() -> Any:
    spec = importlib.util.spec_from_file_location("pipeline_diagram", DOCS / "pipeline_diagram.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagram_is_what_its_script_makes() -> None:
    assert (DOCS / "pipeline.svg").read_text(encoding="utf-8") == _diagram().svg()


def test_the_diagram_shows_the_stages_of_a_run() -> None:
    from flows.run_directory import STAGES

    assert tuple(_diagram().STAGES) == tuple(STAGES)


# ------------------------------------------------------------------------------------- the trace of the README


def test_the_task_of_the_readme_is_made_by_the_code_and_its_checks_judge_its_traces_so() -> None:
    from teacher.domain import pack, tasks
    from teacher.domain.scoring import answer_matches

    readme = text_of(ROOT / "README.md")
    marker = re.search(r"<!-- trace: (\S+) (\S+) (\S+) (\d+) -->", readme)
    assert marker
    domain, split = pack.load(marker[1]), cast(Split, marker[3])
    task = tasks.build(domain, marker[2], split, int(marker[4]))
    block = next(code.text for code in code_of(ROOT / "README.md") if task["id"] in code.text)
    for part in (task["request"], ", ".join(task["tools"])):
        assert part in block
    world = domain.environment()
    world.reset(**task)
    for call in task["plan"]:
        shown = f"{call['tool']} {json.dumps(call['arguments'])}"
        result = json.dumps(getattr(world, call["tool"])(**call["arguments"]))
        assert block.count(shown) == 3 and block.count(f"tool       {result}") == 2
    finals = re.findall(r"assistant  (The .+)", block)
    answer = task["checks"]["answer"]
    assert answer
    assert [answer_matches(answer, final) for final in finals] == [False, True]


# ------------------------------------------------------------------------------------- commands that run


def blocks(kind: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{block.page.name}:{block.line}")
        for page in PAGES
        for block in code_of(page)
        if block.kind == kind
    ]


def run_block(block: Code, directory: Path) -> str:
    """Runs a block as a shell script in a directory; returns what it printed. The first command that fails ends it."""
    quoted = shlex.quote(sys.executable)
    script = f"""set -euo pipefail
python() {{ {quoted} "$@"; }}
stillhouse() {{ {quoted} -m flows.cli "$@"; }}
{block.text}
"""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH")) if part)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, "STILLHOUSE_STORE": str(directory / "store")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("sh run"))
def test_commands_run(block: Code, tmp_path: Path) -> None:
    run_block(block, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("sh slow"))
def test_slow_commands_run(block: Code, tmp_path: Path) -> None:
    run_block(block, tmp_path)


def test_the_small_run_is_the_one_of_the_tests_of_the_pipeline() -> None:
    tree = ast.parse((ROOT / "tests/flows/test_pipeline.py").read_text(encoding="utf-8"))
    small = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SMALL"
    )
    page = DOCS / "getting-started.md"
    block = next(code.text for code in code_of(page) if "--run runs/small" in code.text)
    settings = [word for word in shlex.split(block) if re.match(r"\w+\.\w+=", word)]
    assert sorted(settings) == sorted(f"{field}={value}" for field, value in small.items())


# ------------------------------------------------------------------------------------- the tutorial

TUTORIAL = code_of(DOCS / "domain-tutorial.md")
_FILE = re.compile(r"(?:python|yaml) (\S+)")


def write_file(block: Code, directory: Path) -> None:
    """Writes the file that a block holds, if it holds one."""
    if named := _FILE.fullmatch(block.kind):
        file = directory / named[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text + "\n", encoding="utf-8")


def test_the_pack_of_the_tutorial_is_proven(tmp_path: Path) -> None:
    from teacher.domain import pack, tasks

    for block in TUTORIAL:
        write_file(block, tmp_path)
    library = pack.load(str(tmp_path / "library"))
    assert (len(library.tools), len(library.templates)) == (5, 5)
    for split, count in (("train", 220), ("exam", 60)):
        assert len(tasks.sample(library, cast(Split, split), count, seed=0)) == count


@pytest.mark.slow
def test_the_tutorial_leads_from_nothing_to_a_published_student(tmp_path: Path) -> None:
    printed = ""
    for block in TUTORIAL:
        write_file(block, tmp_path)
        if block.kind == "sh step":
            printed = run_block(block, tmp_path)
        if block.kind == "output":
            for line in block.text.splitlines():
                # Numbers may differ, and "..." stands for anything.
                pattern = r"\d+".join(re.escape(part) for part in re.split(r"\d+", line))
                assert re.search(pattern.replace(r"\.\.\.", ".*"), printed), (line, printed)
    assert list(tmp_path.glob("students/library/*.gguf"))


def test_blocks_have_a_known_mark() -> None:
    kinds = {block.kind for page in PAGES for block in code_of(page)}
    unknown = kinds - {"", "sh", "sh run", "sh slow", "sh step", "output", "python"}
    assert {kind for kind in unknown if not _FILE.fullmatch(kind)} == set()
