"""The rooms of the code: which room may import which, that each explains itself, and that no file outgrows one duty."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("schemas", "teacher", "student", "flows")

# A room and the rooms that it may import; the layer below another is open to all of the rooms above it.
# Rooms on the same floor, such as domain and inference, do not know each other.
ROOMS = {
    "schemas": [],
    "teacher.scenes": [],
    "teacher.dialects": [],
    "teacher.models": ["teacher.dialects"],
    "teacher.domain": ["teacher.scenes"],
    "teacher.inference": ["teacher.scenes", "teacher.dialects", "teacher.models"],
    "teacher.rollout": [
        "teacher.scenes",
        "teacher.dialects",
        "teacher.models",
        "teacher.domain",
        "teacher.inference",
    ],
    "teacher.planning": [
        "teacher.scenes",
        "teacher.dialects",
        "teacher.models",
        "teacher.domain",
        "teacher.inference",
        "teacher.rollout",
    ],
    "teacher.preflight": [
        "teacher.scenes",
        "teacher.dialects",
        "teacher.models",
        "teacher.domain",
        "teacher.inference",
        "teacher.rollout",
    ],
    "student.kernels": [],
    "student.rendering": [],
    "student.models": ["student.rendering"],
    "student.training": ["student.models", "student.kernels", "student.rendering"],
    "student.export": [
        "student.models",
        "student.kernels",
        "student.rendering",
        "student.training",
    ],
    "student.registry": [
        "student.models",
        "student.kernels",
        "student.rendering",
        "student.training",
    ],
    "student.evaluate": [
        "student.models",
        "student.kernels",
        "student.rendering",
        "student.training",
    ],
    "flows": [],
    "flows.generation": ["flows"],
    "flows.stages": ["flows", "flows.generation"],
    "flows.report": ["flows"],
    "flows.deployments": ["flows"],
    "flows.cli": ["flows", "flows.stages", "flows.report", "flows.deployments"],
}
# Files of flows/ itself that stand above the stages: they run them.
ABOVE_THE_STAGES = {
    "flows.distill": ["flows", "flows.stages", "flows.report"],
    "flows.summary": ["flows", "flows.report"],
}
MOST_LINES = 400


def modules() -> Iterator[tuple[str, Path]]:
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            if "starter" not in path.parts:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield name.removesuffix(".__init__"), path


MODULES = dict(modules())


def room_of(module: str) -> str:
    layer, *rest = module.split(".")
    if layer == "schemas":
        return "schemas"
    room = f"{layer}.{rest[0]}" if rest else layer
    return room if room in ROOMS else layer


@functools.cache
def imports_of(path: Path) -> list[str]:
    """The project's modules that a file imports, also inside its functions."""
    imported: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            children = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in children]
        else:
            continue
        imported += [name for name in names if name.split(".")[0] in LAYERS]
    return imported


def test_imports_point_down() -> None:
    wrong = []
    for module, path in MODULES.items():
        here = room_of(module)
        allowed = ABOVE_THE_STAGES.get(module, ROOMS.get(here, []))
        for imported in imports_of(path):
            there = room_of(imported)
            lower_layer = LAYERS.index(there.split(".")[0]) < LAYERS.index(here.split(".")[0])
            if there != here and not lower_layer and there not in allowed:
                wrong.append(f"{module} imports {imported}: {here} may not import {there}")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_imports_what_runs_the_stages() -> None:
    users = {m for m, path in MODULES.items() if "flows.distill" in imports_of(path)}
    assert all(user.startswith("flows.cli.") for user in users), users


def test_every_package_is_a_room_or_belongs_to_one() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    named = {p for p in packages if p.count(".") == 1 and not p.startswith("schemas")}
    assert named == {room for room in ROOMS if room.count(".") == 1} - {"student.evaluate"}


def test_packs_import_the_public_faces_alone() -> None:
    faces = {"teacher.domain", "teacher.scenes"}
    packs = [*(ROOT / "data").rglob("*.py"), ROOT / "flows" / "starter" / "environment.py"]
    used = {(path.name, name) for path in packs for name in imports_of(path)}
    assert {name for _, name in used} <= faces, used


@pytest.mark.parametrize("room", sorted(set(ROOMS) - {"student.evaluate"}))
def test_a_room_says_what_it_is_for(room: str) -> None:
    text = ast.get_docstring(ast.parse(MODULES[room].read_text(encoding="utf-8"))) or ""
    assert len([line for line in text.splitlines() if line.strip()]) >= 3, text


def test_no_module_is_over_400_lines() -> None:
    lines = {m: len(path.read_text(encoding="utf-8").splitlines()) for m, path in MODULES.items()}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def test_tests_do_not_import_each_other() -> None:
    wrong = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            wrong += [f"{path.name}: {name}" for name in names if name.startswith("test_")]
    assert not wrong
