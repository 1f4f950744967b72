"""What the requests to the teacher took, in lines: tokens, retries and their causes, requests without a reply."""

from collections.abc import Iterable, Mapping
from typing import Any


def count_tokens(traces: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The tokens of all requests in `calls`, of traces or of simulated users: {"prompt", "cached", "completion"}.

    Cached ones are part of the prompts.
    """
    tokens = {"prompt": 0, "cached": 0, "completion": 0}
    for trace in traces:
        for usage in (call["usage"] for call in trace["calls"]):
            tokens["prompt"] += usage["prompt_tokens"]
            tokens["cached"] += usage.get("cached_tokens", 0)
            tokens["completion"] += usage["completion_tokens"]
    return tokens


def request_lines(result: Mapping[str, Any]) -> list[str]:
    """The lines for the result of the stage generate: none for what did not happen."""
    lines = []
    if (tokens := result.get("tokens")) and tokens["prompt"]:
        cached = f" ({tokens['cached'] / tokens['prompt']:.0%} cached)" if tokens["cached"] else ""
        lines.append(
            f"{tokens['prompt']:,} prompt tokens{cached}, {tokens['completion']:,} in replies"
        )
    if (user := result.get("user_tokens")) and user["prompt"]:
        lines.append(
            f"simulated users: {user['prompt']:,} prompt tokens, {user['completion']:,} in replies"
        )
    if (reworded := result.get("rewritten")) and reworded["asked"]:
        refused = f" ({_by_cause(reworded['rejected'])})" if reworded["rejected"] else ""
        lines.append(
            f"{reworded['taken']:,} of {reworded['asked']:,} requests were reworded; of the others the original"
            f" stands{refused}"
        )
    if (in_flight := result.get("in_flight")) and in_flight["lowest"] < in_flight["most"]:
        lines.append(
            f"as few as {in_flight['lowest']:,} of {in_flight['most']:,} requests in flight (generate.concurrency),"
            " because the teacher could not serve more"
        )
    if without := result.get("without_logprobs"):
        lines.append(f"{without:,} replies came without log-probabilities (generate.logprobs)")
    if retries := result.get("retries"):
        lines.append(
            f"{sum(retries.values())} retries ({_by_cause(retries)}), {result['waited_s']:,} s of waiting in all"
        )
    if failures := result.get("failures"):
        lines.append(
            f"{sum(failures.values())} requests without a reply ({_by_cause(failures)}): their attempts ended as"
            " teacher_error; they are asked again when a setting of serve or generate.timeout_s changes"
        )
    return lines


def _by_cause(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{cause} {count}" for cause, count in ordered)
