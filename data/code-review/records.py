"""The records of the review desk: their types, the vocabulary of the tools, and invented names."""

import random
from dataclasses import dataclass, field
from typing import Literal, get_args

Check = Literal["lint", "types", "unit", "build", "docs", "licences", "coverage", "browser"]
Severity = Literal["low", "medium", "high", "critical"]
Component = Literal[
    "billing", "search", "accounts", "exports", "sync", "mobile", "reports", "alerts"
]
Verdict = Literal["approve", "request_changes"]
Concern = Literal["bug", "naming", "style", "question"]

CHECKS = get_args(Check)
SEVERITIES = get_args(Severity)
COMPONENTS = get_args(Component)
VERDICTS = get_args(Verdict)
CONCERNS = get_args(Concern)
SUFFIXES = {"python": "py", "javascript": "js", "sql": "sql"}


GIVEN = (
    "ada anton bea carl cleo dora emil edith felix greta hugo ida ines jonas karin leo lena marta"
    " nils nora otto petra quinn rosa simon tilda ugo vera willa yves"
)
_ONSETS = "al bar cor dren esk fal gor hem il jor kes lum mor nav or pel ras sol tam ur vin wes"
_ENDINGS = "ano by dahl ett fors gren holm ik land mark nes olt quist ric sund tal vik wen"
_ADJECTIVES = (
    "amber brisk calm copper dusty early fallow gentle hollow ivory late lucid mellow narrow pale"
    " quiet rapid silent steady tidy upper vivid western young"
)
_THINGS = (
    "anchor basin cable delta ember ferry gable harbour inlet jetty kettle lantern meadow needle"
    " orchard pepper quarry ribbon saddle timber valley willow"
)
SURNAMES = [onset + ending for onset in _ONSETS.split() for ending in _ENDINGS.split()]
PAIRS = [(one, other) for one in _ADJECTIVES.split() for other in _THINGS.split()]


@dataclass
class Run:
    """The latest run of a check. status: passed or failed."""

    id: str
    status: str
    seconds: int


@dataclass
class Issue:
    """An issue. build: the number of the build that it was found in."""

    id: str
    component: str
    severity: str
    assignee: str
    build: int


@dataclass
class Pull:
    """A pull request, with the issue that it closes."""

    id: str
    branch: str
    author: str
    issue: str
    files: dict[str, int]  # path -> lines changed
    checks: dict[str, Run]
    reviews: dict[str, str]  # reviewer -> approved or pending
    labels: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    verdict: str | None = None


def language_of(path: str) -> str:
    """The language of a file, by its suffix."""
    ending = path.rpartition(".")[2]
    return next(language for language, suffix in SUFFIXES.items() if suffix == ending)


def released_files(
    pairs: list[tuple[str, str]], owners: list[str], rng: random.Random
) -> dict[str, str]:
    """Files of a release with their owners. pairs: the words of their names."""
    suffixes = [*SUFFIXES.values()]
    return {
        f"{rng.choice(COMPONENTS)}/{one}_{other}.{rng.choice(suffixes)}": rng.choice(owners)
        for one, other in pairs
    }
