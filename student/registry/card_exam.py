"""The model card's section about the exam: each part with its interval, on which files, and the gate."""

from typing import Any, cast

from schemas.scorecard import (
    PART_MEANINGS,
    PART_TITLES,
    Count,
    PartScore,
    Score,
    VariantResult,
    conduct_text,
    headline_title,
    interval_text,
    titled_parts,
)


def exam_section(scorecard: dict[str, Any], *, pixels: bool) -> str:
    """Returns the section's Markdown, without its heading.

    scorecard: schemas/scorecard.schema.json. pixels: whether images were shown as pixels.
    """
    base, student = scorecard["models"]["base"], scorecard["models"]["student"]
    rows = []
    for kind in _keys(base["by_kind"], student["by_kind"]):
        rows.append([f"kind: {kind}", *(_score(m["by_kind"].get(kind)) for m in (base, student))])
    for calls in _keys(base["by_calls"], student["by_calls"]):
        label = "1 call" if calls == "1" else f"{calls} calls"
        rows.append([label, *(_score(m["by_calls"].get(calls)) for m in (base, student))])
    rows.append(["well-formed turns", *(_turns(m["turns"]) for m in (base, student))])
    images = "Images were shown as pixels. " if pixels else ""
    gate = scorecard["gate"]
    checks = [
        f"- {'passed' if check['passed'] else 'not passed'}: {check['name']} ({check['detail']})"
        for check in gate["checks"]
    ]
    return "\n\n".join(
        [
            _parts(cast(Score, base), cast(Score, student)),
            f"The held-out exam has {scorecard['exam']['tasks']} tasks (sha256 `{scorecard['exam']['sha256']}`). "
            "A task is passed when both its answer and the final state of its environment are right. The models were "
            f"given no worked examples, and decoding was not constrained. {images}The intervals are 95 % Wilson "
            "intervals of the student's share.",
            *_meanings(student),
            *_comparison(scorecard.get("comparison")),
            table([headline_title(cast(Score, student)), "base", "this student"], rows),
            f"Evaluated files, served by {_engine(student)}:\n\n"
            f"- base: `{evaluated_file(base)}`, sha256 `{base['sha256']}`\n"
            f"- student: `{evaluated_file(student)}`, sha256 `{student['sha256']}`",
            _variants(scorecard.get("variants", {}), cast(Score, student)),
            f"Gate: {'passed' if gate['passed'] else 'not passed'}.\n\n" + "\n".join(checks),
            *_release(scorecard.get("release")),
        ]
    ).rstrip()


def _parts(base: Score, student: Score) -> str:
    """Returns the table of the exam's parts, the headline first."""
    before = dict(titled_parts(base))
    rows = []
    for title, part in titled_parts(student):
        reached = _score(part)
        rows.append(
            [
                title,
                _score(before.get(title)),
                f"**{reached}**" if title == headline_title(student) else reached,
                interval_text(part),
                _unasked(part),
            ]
        )
    head = ["tasks passed", "base", "this student", "95 % interval", "tasks with unasked writes"]
    return table(head, rows)


def _unasked(part: PartScore) -> str:
    if "unasked_write" not in part:
        return "-"
    text = f"{part['unasked_write']['tasks']} of {part['tasks']}"
    return f"{text}; {conduct}" if (conduct := conduct_text(part)) else text


def _meanings(student: dict[str, Any]) -> list[str]:
    """Returns what the parts are; nothing for a scorecard without parts."""
    if "parts" not in student:
        return []
    lines = [
        f"- {PART_TITLES[part]}: {meaning}"
        for part, meaning in PART_MEANINGS.items()
        if part in student["parts"]
    ]
    unasked = (
        "- unasked write: a call that changed the environment and is not in the task's solution (the same tool with "
        "equal arguments)."
    )
    return ["\n".join([*lines, unasked])]


def _comparison(counts: dict[str, Any] | None) -> list[str]:
    if counts is None:
        return []
    return [
        f"Of the same tasks, {counts['student_only']} were passed by the student alone and {counts['base_only']} by "
        f"the base alone (McNemar's exact test: p = {counts['p']:.2g})."
    ]


def _release(release: dict[str, Any] | None) -> list[str]:
    if release is None:
        return []
    again = (
        ", which was evaluated again on this exam" if release.get("evaluated") == "again" else ""
    )
    result = "passed" if release["passed"] else "held back"
    return [f"Release: {result}: {release['detail']}{again}."]


def _variants(variants: dict[str, VariantResult], student: Score) -> str:
    """Returns the table of the student's files: the headline of those that were evaluated, and their drift."""
    if not variants:
        return "Other variants in this artifact were not evaluated."
    rows = []
    for result in variants.values():
        is_main = result["sha256"] == student["sha256"]
        headline: Count | None = student if is_main else result.get("headline")
        drift = result.get("drift")
        rows.append(
            [
                f"`{result['file']}`",
                _score(headline) if headline else "not evaluated",
                f"{drift['kl']:.4f}" if drift else "-",
                f"{100 * drift['same_top']:.1f} %" if drift else "-",
            ]
        )
    head = ["file", f"tasks passed, {headline_title(student)}", "KL, nats", "same top token"]
    return table(head, rows) + (
        "\n\nKL and top token compare each file's next tokens with those of the 16-bit weights, on held-out traces."
    )


def is_in_vllm(model: dict[str, Any]) -> bool:
    """Returns whether a model of the scorecard was evaluated as a directory that vLLM serves."""
    return model.get("engine") == "vllm"


def _engine(model: dict[str, Any]) -> str:
    if not is_in_vllm(model):
        return "llama.cpp"
    return "vLLM in 16 bits (sha256 over the names and sha256 of a directory's files)"


def evaluated_file(model: dict[str, Any]) -> str:
    """Returns the file's name in the artifact, without its directory in the run."""
    return str(model["file"]).rsplit("/", 1)[-1]


def _score(part: Count | None) -> str:
    if part is None or not part["tasks"]:
        return "-"
    return f"{part['passed']} of {part['tasks']} ({100 * part['passed'] / part['tasks']:.1f} %)"


def _turns(turns: dict[str, int]) -> str:
    return _score({"passed": turns["well_formed"], "tasks": turns["total"]})


def _keys(*parts: dict[str, Any]) -> list[str]:
    return sorted({key for part in parts for key in part})


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    # A pipe or a line break would end the cell.
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
