"""What the requests to the teacher took, in lines."""

from typing import Any

from flows.request_lines import count_tokens, request_lines


def trace(*usages: dict[str, int]) -> Any:
    return {"calls": [{"usage": usage} for usage in usages]}


def test_tokens_are_added_up_over_all_requests_and_cached_ones_where_they_are_known() -> None:
    traces = [
        trace(
            {"prompt_tokens": 100, "completion_tokens": 5},
            {"prompt_tokens": 120, "completion_tokens": 7, "cached_tokens": 96},
        ),
        trace(),
        trace({"prompt_tokens": 0, "completion_tokens": 0}),
    ]
    assert count_tokens(traces) == {"prompt": 220, "cached": 96, "completion": 12}


def test_a_generation_without_trouble_has_one_line_of_tokens() -> None:
    tokens = {"prompt": 1_234_567, "cached": 0, "completion": 8_900}
    assert request_lines({"tokens": tokens, "retries": {}, "failures": {}}) == [
        "1,234,567 prompt tokens, 8,900 in replies"
    ]
    assert request_lines({"tokens": {**tokens, "cached": 864_197}}) == [
        "1,234,567 prompt tokens (70% cached), 8,900 in replies"
    ]


def test_what_did_not_happen_and_what_an_older_receipt_does_not_have_gives_no_line() -> None:
    assert request_lines({}) == []
    assert request_lines({"tokens": {"prompt": 0, "cached": 0, "completion": 0}}) == []


def test_retries_and_failures_are_counted_by_cause_the_most_frequent_first() -> None:
    result = {
        "retries": {"timeout": 2, "rate_limited": 1200, "page": 2},
        "waited_s": 45_000,
        "failures": {"too_large": 1, "refused": 3},
    }
    retries, failures = request_lines(result)
    assert retries == (
        "1204 retries (rate_limited 1200, page 2, timeout 2), 45,000 s of waiting in all"
    )
    assert failures.startswith("4 requests without a reply (refused 3, too_large 1): ")


def test_fewer_requests_in_flight_than_the_recipe_allows_are_named() -> None:
    assert request_lines({"in_flight": {"lowest": 256, "most": 256}}) == []
    [line] = request_lines({"in_flight": {"lowest": 12, "most": 256}})
    assert line.startswith("as few as 12 of 256 requests in flight")


def test_reworded_requests_are_counted_with_the_reasons_of_the_others() -> None:
    rewritten = {"asked": 50, "taken": 20, "rejected": {"lost": 9, "truncated": 21}}
    assert request_lines({"rewritten": rewritten}) == [
        "20 of 50 requests were reworded; of the others the original stands (truncated 21, lost 9)"
    ]
    assert request_lines({"rewritten": {"asked": 0, "taken": 0, "rejected": {}}}) == []
