"""Checks a pack's policy.md: that its rules can run, and that tasks of the pack meet each of them."""

from collections.abc import Iterator, Mapping, Sequence

from schemas.errors import InputError
from teacher.domain.check.episode import Episode
from teacher.domain.check.finding import Finding
from teacher.domain.kinds.policy import FILE, load_policy, make_policy_task
from teacher.domain.pack import Domain
from teacher.domain.tasks import build


def check_policy(
    domain: Domain, episodes: Mapping[str, Sequence[Episode]], *, is_full: bool
) -> Iterator[Finding]:
    """Yields what is wrong with policy.md; nothing for a pack without one.

    is_full: whether rules that no task meets are looked for, which builds tasks.
    """
    file = domain.path / FILE
    try:
        policy = load_policy(domain)
    except InputError as error:
        fix = "see docs/domains.md, Policy"
        yield Finding("provable", "error", file, str(error).removeprefix(f"{file}: "), fix)
        return
    if policy is None or not is_full:
        return
    tools = {rule.tool for rule in policy.rules}
    met: set[str] = set()
    for name, played in episodes.items():
        for episode in played:
            blueprint = episode.blueprint
            if episode.failure or blueprint is None or blueprint.pictures:
                continue
            if not any(tool in tools for tool, _ in blueprint.plan):
                continue
            task = build(domain, name, episode.job.split, episode.job.seed)
            try:
                made = make_policy_task(task, domain)
            except InputError as error:
                yield Finding("provable", "error", file, str(error).removeprefix(f"{file}: "), "")
                return
            met |= {rule.name for rule in policy.rules if made and made["reply"] == rule.reply}
    for rule in policy.rules:
        if rule.name not in met:
            yield Finding(
                "fair",
                "warning",
                file,
                f"no task of the templates that were played meets the rule {rule.name}",
                "give it conditions that tasks meet, or remove it: a rule that nothing meets is neither taught nor"
                " examined",
                tool=rule.tool,
            )
