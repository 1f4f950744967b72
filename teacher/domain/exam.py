"""Samples the held-out exam in its parts, and chooses the templates that training lacks.

Each part is about one thing that a deployment may do to a student. `all_tools` is the headline: templates that training
has, and the whole toolbox offered. Each other part differs from it in one respect: `as_trained` offers tools as the
training tasks do, `new_templates` has whole templates that training lacks, and `drift` has renamed and reworded tools.

In: a pack and the recipe's `tasks`. Out: tasks with `part`, no two with the same request or world.
"""

from collections.abc import Collection

from schemas.errors import InputError
from schemas.recipe_teacher import Tasks
from schemas.task import Part, Task
from teacher.domain import offer, tasks, unanswerable
from teacher.domain.drift_tasks import drift_tasks
from teacher.domain.kinds.derive import derive_kinds
from teacher.domain.pack import Domain
from teacher.domain.retrieval import retrieve_tools
from teacher.domain.worlds import make_blueprint
from teacher.scenes.images import ImageStore

# A kind with fewer templates has none held out, unless domain.yaml or the recipe names it.
_LEAST_TEMPLATES = 4
# Seeds of which each template's solution is looked at, to see which tools it calls.
_LOOKED_AT = 3


def sample_exam(
    domain: Domain,
    settings: Tasks,
    held_out: Collection[str],
    *,
    pixels: bool,
    image_store: ImageStore | None = None,
) -> list[Task]:
    """Returns the tasks of the exam, part after part.

    Args:
        held_out: templates that training lacks (`held_out_templates`).
        pixels: whether the student has vision.
    """
    trained = domain.templates.keys() - set(held_out)
    others = _other_count(settings)
    parts: dict[Part, tuple[int, Collection[str], offer.Offer]] = {
        "all_tools": (settings.exam, trained, "all"),
        "as_trained": (others, trained, settings.offer),
    }
    if held_out:
        parts["new_templates"] = (others, held_out, "all")
    parts["drift"] = (others, trained, "all")
    exam: list[Task] = []
    for number, (part, (count, templates, offered)) in enumerate(parts.items()):
        # Base and student are compared on the domain's own mix, whatever the training mix is, and on what it adds.
        rows = tasks.sample(
            domain,
            "exam",
            count,
            seed=settings.seed,
            mix=_added_shares(domain, settings.mix or {}),
            pixels=pixels,
            image_store=image_store,
            templates=templates,
            part=number,
            taken=exam,
        )
        if image_store:
            rows = unanswerable.swap_images(
                rows, domain, share=settings.swapped, image_store=image_store
            )
        rows = offer.offer_tools(rows, domain, offer=offered, whole_share=settings.whole_toolbox)
        if part == "drift":
            rows = drift_tasks(rows, domain, share=1)
        if settings.offer == "retrieved":
            rows = retrieve_tools(
                rows, domain, count=settings.retrieved, complete=part == "as_trained"
            )
        if part in ("all_tools", "as_trained"):
            rows = derive_kinds(rows, domain, settings.kinds)
        # Neighbours share the beginning of their prompts, so the server's prefix cache has it.
        rows.sort(key=lambda row: (row["tools"], row["template"]))
        for row in rows:
            row["part"] = part
        exam += rows
    return exam


def _added_shares(domain: Domain, mix: dict[str, float]) -> dict[str, float]:
    """Returns what the training mix says of kinds that have a share of 0 in domain.yaml, and of their templates.

    Without it, a run that trains such a kind would not examine it.
    """
    unshared = {kind for kind, entry in domain.spec["kinds"].items() if not entry["share"]}
    names = unshared | {name for name, made in domain.templates.items() if made.kind in unshared}
    return {name: share for name, share in mix.items() if name in names}


def held_out_templates(domain: Domain, settings: Tasks) -> list[str]:
    """Returns the names of the templates that training lacks.

    They are `tasks.held_out` of the recipe, else `exam.held_out` of domain.yaml, else one template of each kind that
    has `_LEAST_TEMPLATES` or more. Without tasks for the part new_templates, no template is held out.

    Raises:
        InputError: a name is unknown, is also in `tasks.mix`, or no template would be left.
    """
    named, place = settings.held_out, "tasks.held_out"
    if not _other_count(settings):
        return []
    if named is None:
        named = domain.spec.get("exam", {}).get("held_out")
        place = f"{domain.path / 'domain.yaml'}: exam.held_out"
    if named is None:
        return _choose(domain, settings.mix or {})
    for name in named:
        if name not in domain.templates:
            raise InputError(
                f"{place}: {name}: expected a template of the domain {domain.name}: one of"
                f" {', '.join(domain.templates)}"
            )
        if (settings.mix or {}).get(name):
            raise InputError(
                f"tasks.mix.{name}: {place} keeps this template for the exam: expected another one;"
                " --set 'tasks.held_out=[]' holds none out"
            )
    if not domain.templates.keys() - set(named):
        raise InputError(f"{place}: expected at least one template that is left for training")
    return list(named)


def _other_count(settings: Tasks) -> int:
    return settings.exam // 2 if settings.exam_other is None else settings.exam_other


def _choose(domain: Domain, mix: dict[str, float]) -> list[str]:
    """Returns a template of middle difficulty of each kind with enough, whose tools other templates also call."""
    calls = {name: _solutions(domain, name) for name in domain.templates}
    left = set(domain.templates)
    chosen = []
    for kind in domain.spec["kinds"]:
        names = [name for name, template in domain.templates.items() if template.kind == kind]
        if len(names) < _LEAST_TEMPLATES:
            continue
        candidates = []
        for name in names:
            others = {tool for other in left - {name} for s in calls[other] for tool in s}
            needed = {tool for solution in calls[name] for tool in solution}
            if needed <= others and name not in mix and not domain.templates[name].needs_pixels:
                candidates.append(name)
        if candidates:
            candidates.sort(key=lambda name: (sum(map(len, calls[name])), name))
            chosen.append(candidates[len(candidates) // 2])
            left.remove(chosen[-1])
    return chosen


def _solutions(domain: Domain, name: str) -> list[list[str]]:
    """Returns the tools that the first solutions of a template call."""
    blueprints = (
        make_blueprint(domain.environment, domain.templates[name], split="train", seed=seed)[1]
        for seed in range(_LOOKED_AT)
    )
    return [[tool for tool, _ in blueprint.plan] for blueprint in blueprints]
