"""A task is the same in another process, on another day, a second time and beside another."""

from pathlib import Path

import pytest
from faulty_packs import GET, MOVED, load_pack, write_pack

from teacher.domain.check.determinism import OtherProcess, check_episodes, check_processes
from teacher.domain.check.episode import Job, play
from teacher.domain.pack import Domain, load

CLASS = '    """A workshop\'s stock room."""\n'
ITEMS = "        self._items = {\n"
FIND_ITEM = "    def find_item(self, name: str) -> dict:\n"


def jobs_of(domain: Domain, count: int) -> list[Job]:
    return [Job(name, "train", seed) for name in domain.templates for seed in range(count)]


def elsewhere(domain: Domain) -> list[str]:
    jobs = jobs_of(domain, 3)
    others = [OtherProcess(domain, jobs), OtherProcess(domain, jobs, hash=5)]
    return [
        f.line(domain.path)
        for f in check_processes(domain, [play(domain, j) for j in jobs], others)
    ]


def together(domain: Domain) -> list[str]:
    episodes = [play(domain, job) for job in jobs_of(domain, 2)]
    return [f.line(domain.path) for f in check_episodes(domain, episodes)]


def tagged(value: str) -> tuple[str, str]:
    return (GET, f'        return {{"item": item, **self._known(item), "tag": {value}}}\n')


# What a tool may return, and the reason that is named; the last one is drawn by the template itself.
DIFFERING = {
    "of_a_set": ('list({item, "red", "blue", "green", "pink", "grey"})', "PYTHONHASHSEED"),
    "of_today": ('__import__("datetime").date.today().isoformat()', "the clock"),
    "of_this_year": ('__import__("datetime").datetime.now().year', "the clock"),
    "of_this_second": ('int(__import__("time").time())', "the clock"),
    "of_a_text": ('__import__("time").strftime("%Y")', "the clock"),
    "of_chance": ("random.random()", "the global random generator"),
    "of_an_id": ('__import__("uuid").uuid4().hex', "between two equal runs"),
    "of_the_template": ("1", "the global random generator"),
}
TOOL = '''    def get_{name}(self, item: str) -> dict:
        """Get an item's count and a tag.

        Args:
            item: The item's number, such as S-1042.
        """
        return {{"item": item, **self._known(item), "tag": {value}}}

'''
TEMPLATE = """

@template(kind="lookup")
def {name}(world: StockRoom, rng: random.Random) -> Blueprint:
    {setup}
    number, item = rng.choice(list(world._items.items()))
    return Blueprint(
        request=f"How many of {{number}} do we have?",
        plan=[("get_{name}", {{"item": number}})],
        reply=f"There are {{item['count']}} of {{number}}.",
        answer=Answer("number", item["count"]),
    )
"""


def test_what_differs_elsewhere_is_named_with_tool_seed_and_reason(tmp_path: Path) -> None:
    """One pack has them all, so that the other processes are started once."""
    setup = {"of_the_template": "random.random() < 0.5 and rng.random()"}
    tools = [TOOL.format(name=name, value=value) for name, (value, _) in DIFFERING.items()]
    pack = write_pack(tmp_path / "stock", (FIND_ITEM, "".join(tools) + FIND_ITEM))
    with (pack / "environment.py").open("a") as file:
        for name in DIFFERING:
            file.write(TEMPLATE.format(name=name, setup=setup.get(name, "pass")))
    lines = elsewhere(load(str(pack)))
    assert len(lines) == len(DIFFERING)
    for line, (name, (_, reason)) in zip(lines, DIFFERING.items(), strict=True):
        assert line.startswith(f"environment.py: {name}: ") and reason in line
        if name not in setup:
            assert f": get_{name}: seed " in line and "results[0].tag" in line


def test_sorted_sets_fixed_days_and_generators_with_a_seed_are_accepted(tmp_path: Path) -> None:
    value = (
        '[*sorted({item, "red", "blue"}), __import__("datetime").date(2026, 3, 2).isoformat(),'
        " random.Random(item).random()]"
    )
    domain = load_pack(tmp_path / "stock", tagged(value))
    assert elsewhere(domain) == together(domain) == []


def test_a_file_that_is_found_in_one_directory_only_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("oak")
    domain = load_pack(
        tmp_path / "stock", ("SHELVES = [", 'open("words.txt").close()\nSHELVES = [')
    )
    (line,) = elsewhere(domain)
    assert "FileNotFoundError" in line and "with_name" in line


def test_a_task_that_depends_on_those_before_it_is_named(tmp_path: Path) -> None:
    seen = (
        GET,
        '        self._log.append(item)\n        return {"item": item, "at": len(self._log)}\n',
    )
    domain = load_pack(tmp_path / "stock", (CLASS, f"{CLASS}    _log = []\n"), seen)
    (line,) = together(domain)
    assert "results[0].at" in line and "nothing" not in line.split(";")[0]


def test_a_world_that_another_episode_overwrites_is_named(tmp_path: Path) -> None:
    changes = [
        ("        return None\n", "        StockRoom.current = self._items\n        return None\n"),
        (
            MOVED,
            '        return {"item": item, "shelf": shelf, "items": sorted(StockRoom.current)}\n',
        ),
    ]
    lines = together(load_pack(tmp_path / "stock", *changes))
    assert any("moved_item: move_item" in line and "runs beside it" in line for line in lines)


def test_what_reset_does_not_clear_is_named_and_what_it_clears_is_accepted(tmp_path: Path) -> None:
    write = (
        MOVED,
        '        self._moves.append(item)\n        return {"item": item, "moves": len(self._moves)}\n',
    )
    kept = (ITEMS, f'        self._moves = getattr(self, "_moves", [])\n{ITEMS}')
    (line,) = together(load_pack(tmp_path / "kept", kept, write))
    assert "moved_item: move_item" in line and "reset a second time" in line
    cleared = (ITEMS, f"        self._moves = []\n{ITEMS}")
    assert together(load_pack(tmp_path / "cleared", cleared, write)) == []
