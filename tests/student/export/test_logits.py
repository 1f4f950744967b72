"""How far a file's next tokens are from the original's: the numbers, and the limits by type."""

import contextlib
from typing import Any

import numpy as np
import pytest
from gate_inputs import RENDERER, TALK, trace
from http_server import Handler, HttpServer

from student.export import logits
from student.export.logits import Reference, Sample, check_logits, drift, samples
from teacher.inference.endpoint import Endpoint

VOCABULARY = 1000
F16, Q8_0, Q4_K_M = 1, 7, 15


class Server(HttpServer):
    """Returns the most likely tokens of given logits [positions, vocabulary], by the length of the prompt."""

    def __init__(self, by_length: dict[int, np.ndarray]) -> None:
        self.lengths: list[int] = []
        outer = self

        class Replies(Handler):
            def do_POST(self) -> None:
                body = self.body()
                outer.lengths.append(len(body["prompt"]))
                row = log_softmax(by_length[len(body["prompt"])])
                top = np.argsort(-row)[: body["n_probs"]]
                tokens = [{"id": int(i), "logprob": float(row[i])} for i in top]
                self.reply(200, {"completion_probabilities": [{"top_logprobs": tokens}]})

        super().__init__(Replies)


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


@pytest.fixture
def original() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (8, VOCABULARY))


def measured(original: np.ndarray, actual: np.ndarray, file_type: int = Q8_0) -> Any:
    lengths = [9, 3, 4, 20, 5, 6, 7, 8]
    reference = Reference(
        [Sample(list(range(20)), lengths, 7)], [np.stack([log_softmax(row) for row in original])]
    )
    with contextlib.closing(Server(dict(zip(lengths, actual, strict=True)))) as server:
        endpoint = Endpoint(server.url, "k", "m")
        check = check_logits(endpoint, reference, file_type)
        assert server.lengths == sorted(lengths)
        return drift(endpoint, reference), check


def test_the_same_logits_have_no_drift_whatever_is_added_to_all(original: np.ndarray) -> None:
    actual, check = measured(original, original + 7, F16)
    assert actual.kl == pytest.approx(0, abs=1e-9)
    assert (actual.same_top, actual.nmse) == (1, pytest.approx(0, abs=1e-9))
    assert check["passed"] is True
    assert check["detail"] == "KL 0.0000 nats, same top token 100.0%, NMSE 0.0000 at 8 positions"


def test_the_divergence_is_that_of_all_tokens_but_for_few_percent(original: np.ndarray) -> None:
    actual = original + np.random.default_rng(1).normal(0, 0.5, original.shape)
    p = np.stack([log_softmax(row) for row in original])
    q = np.stack([log_softmax(row) for row in actual])
    expected = float((np.exp(p) * (p - q)).sum(-1).mean())
    assert measured(original, actual)[0].kl == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("noise", "passed"), [(0.05, True), (1.0, False)])
def test_what_q8_may_lose_and_what_not(original: np.ndarray, noise: float, passed: bool) -> None:
    actual = original + np.random.default_rng(1).normal(0, noise, original.shape)
    check = measured(original, actual)[1]
    assert check["passed"] is passed
    if not passed:
        assert "expected for Q8_0 at most 0.02 nats and at least 80%" in check["detail"]


def test_a_type_of_fewer_bits_may_lose_more(original: np.ndarray) -> None:
    actual = original + np.random.default_rng(1).normal(0, 0.3, original.shape)
    by_type = {kind: measured(original, actual, kind)[1]["passed"] for kind in (F16, Q8_0, Q4_K_M)}
    assert by_type == {F16: False, Q8_0: False, Q4_K_M: True}


def test_half_of_the_positions_are_in_the_turn_that_the_model_writes() -> None:
    drawn = samples([trace(), TALK], RENDERER)
    assert len(drawn) == 2
    for sample, conversation in zip(drawn, (trace(), TALK), strict=True):
        prompt, target = RENDERER.turn(
            conversation["messages"], conversation["tools"], len(conversation["messages"]) - 1
        )
        assert sample.ids == RENDERER.ids(prompt + target)
        length = len(RENDERER.ids(prompt))
        inside = [at for at in sample.lengths if at >= length]
        assert len(inside) == min(logits._POSITIONS // 4, len(RENDERER.ids(target)))
        assert len(set(sample.lengths)) == len(sample.lengths)
        assert min(sample.lengths) > 0 and max(sample.lengths) < len(sample.ids)
