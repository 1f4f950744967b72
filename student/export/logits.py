"""Measures how far a GGUF's next-token probabilities are from those of the weights that it was made of.

transformers computes the reference from the Hugging Face weights, at some positions of real conversations. llama.cpp's
server gets the same token ids and returns its most likely next tokens, so rendering and tokenizing do not count here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from student.export.checks import Check, Conversation, result
from student.export.conversations import CONVERSATIONS
from student.export.llama_server import post
from student.rendering.renderer import Renderer
from teacher.inference.endpoint import Endpoint


class Limit(NamedTuple):
    """What a type may have: the largest KL, the smallest share of the same top token, the largest NMSE."""

    name: str
    kl: float
    same_top: float
    nmse: float = math.inf


# Conversations are taken until they have so many tokens, and at least two.
_TOKENS, _FEWEST = 2048, 2
# Positions that are compared, over all conversations. Half of them are in the turn that the model writes.
_POSITIONS = 96
# Tokens that the server returns at a position. The others count as one.
_TOP = 256
# The largest drift by the file's type, llama.cpp's number for it in general.file_type (include/llama.h). Small models
# lose more than large ones: the limits are about four times the loss of a 135M student, and eight to fourteen times
# that of Llama-3-8B, which llama.cpp's tools/perplexity/README.md has (docs/student.md). A hundred positions tell the
# share of the top token to ten points only, so it has a loose limit.
LIMITS = {
    1: Limit("F16", 0.003, 0.9, 0.01),
    32: Limit("BF16", 0.003, 0.9, 0.01),
    7: Limit("Q8_0", 0.02, 0.8),
    18: Limit("Q6_K", 0.05, 0.75),
    17: Limit("Q5_K_M", 0.1, 0.7),
    15: Limit("Q4_K_M", 0.25, 0.6),
}
_OTHERS = Limit("other types", 0.5, 0.5)
# Added to a token's logit, it makes the token certain.
_CERTAIN = 1000
# A share of probability is not taken for smaller, so that its logarithm is finite.
_TINY = 1e-10


@dataclass(frozen=True)
class Sample:
    """A conversation: its token ids [T], and the numbers of tokens after which the next one is compared.

    plain: a token of ordinary text, which the server is made to write after the prompt: it returns no probabilities
        where it writes a part of a character.
    """

    ids: list[int]
    lengths: list[int]
    plain: int


@dataclass(frozen=True)
class Reference:
    """What the original weights say: for each sample log probabilities [lengths, vocabulary]."""

    samples: list[Sample]
    log_probs: list[np.ndarray]


@dataclass(frozen=True)
class Drift:
    """How far a file is from the reference, over all positions.

    Attributes:
        kl: mean Kullback-Leibler divergence from the reference, in nats. Tokens that the server does not return count
            as one, so it is a lower bound; the 256 that it returns have nearly all the probability.
        same_top: share of positions with the same most likely token.
        nmse: squared error of the logits of the returned tokens, over their variance in the reference. A constant
            that is added to all logits of a position changes no probability and does not count.
    """

    kl: float
    same_top: float
    nmse: float
    positions: int


def samples(traces: Sequence[Conversation], renderer: Renderer) -> list[Sample]:
    """Returns token ids of conversations, up to the end of their last turn, and what to compare.

    Where all conversations have images, two of student/export/conversations.py are taken: what is compared here are the
    weights of the language model.
    """
    turns: list[tuple[int, list[int]]] = []
    without_images = [t for t in traces if not renderer.image_names(t["messages"])]
    for trace in without_images or CONVERSATIONS[:_FEWEST]:
        messages = trace["messages"]
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        prompt, target = renderer.turn(messages, trace["tools"], last)
        prompt_ids = renderer.ids(prompt)
        turns.append((len(prompt_ids), prompt_ids + renderer.ids(target)))
        if sum(len(ids) for _, ids in turns) >= _TOKENS and len(turns) >= _FEWEST:
            break
    share = _POSITIONS // max(1, len(turns)) // 2
    plain = renderer.ids("a")[-1]
    return [
        Sample(ids, [*_spread(1, prompt, share), *_spread(prompt, len(ids), share)], plain)
        for prompt, ids in turns
    ]


def _spread(start: int, end: int, count: int) -> list[int]:
    """Returns at most `count` whole numbers, evenly spread from `start` to before `end`."""
    step = max(1.0, (end - start) / max(1, count))
    return [int(start + step * i) for i in range(min(count, end - start))]


def reference(directory: Path, samples: list[Sample]) -> Reference:
    """Computes the log probabilities of a directory's weights, in float32 where memory allows it."""
    import torch

    model = _model(directory)
    log_probs = []
    with torch.inference_mode():
        for sample in samples:
            ids = torch.tensor([sample.ids[: max(sample.lengths)]], device=model.device)
            at = torch.tensor([length - 1 for length in sample.lengths], device=model.device)
            logits = model(input_ids=ids, logits_to_keep=at, use_cache=False).logits[0]
            log_probs.append(torch.log_softmax(logits.float(), -1).cpu().numpy())
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the server needs the memory
    return Reference(samples, log_probs)


def _model(directory: Path) -> Any:
    """The model on a GPU if there is one; what does not fit there or in memory is read from disk layer by layer."""
    import psutil
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    from student.models import files

    config = AutoConfig.from_pretrained(directory)
    has_vision = hasattr(config, "vision_config")
    kind = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    size = sum(shard.stat().st_size for shard in files.weights(directory))
    # The files have 16 bits a weight, float32 twice as many.
    fits = 2 * size < psutil.virtual_memory().available / 2
    placed = {} if fits and not torch.cuda.is_available() else {"device_map": "auto"}
    dtype = torch.float32 if fits else "auto"
    return kind.from_pretrained(directory, dtype=dtype, **placed).eval()


def drift(endpoint: Endpoint, reference: Reference) -> Drift:
    """Asks the server for the next token at each position and compares.

    Raises:
        urllib.error.HTTPError: the server refuses a prompt.
    """
    divergence = same = error = spread = 0.0
    count = 0
    for sample, rows in zip(reference.samples, reference.log_probs, strict=True):
        # In rising order each prompt continues the one before, and the server computes only the new tokens.
        for at in np.argsort(sample.lengths):
            tokens, actual = next_tokens(endpoint, sample.ids[: sample.lengths[at]], sample.plain)
            expected = rows[at][tokens]
            divergence += _kl(expected, actual)
            same += int(tokens[0]) == int(rows[at].argmax())
            centred = expected - expected.mean()
            error += float(((actual - actual.mean() - centred) ** 2).sum())
            spread += float((centred**2).sum())
            count += 1
    return Drift(max(0.0, divergence / count), same / count, error / spread, count)


def next_tokens(endpoint: Endpoint, ids: list[int], plain: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the server's most likely next tokens after token ids, most likely first, and their log probabilities.

    plain: as of `Sample`. The bias makes the server write it; the probabilities are those without the bias.
    """
    body = {"prompt": ids, "n_predict": 1, "n_probs": _TOP, "temperature": 0, "cache_prompt": True}
    body["logit_bias"] = [[plain, _CERTAIN]]
    reply = post(endpoint, "/completion", body)["completion_probabilities"][0]["top_logprobs"]
    return (
        np.array([token["id"] for token in reply]),
        np.array([token["logprob"] for token in reply], np.float64),
    )


def check_logits(endpoint: Endpoint, reference: Reference, file_type: int | None) -> Check:
    """Checks that the server's next tokens are as likely as by the original weights, within the limits of the type."""
    if not reference.samples:
        return {
            "name": "logits",
            "passed": None,
            "detail": "undecided: no conversation without images",
        }
    limit = LIMITS.get(file_type if file_type is not None else -1, _OTHERS)
    actual = drift(endpoint, reference)
    numbers = (
        f"KL {actual.kl:.4f} nats, same top token {actual.same_top:.1%}, NMSE {actual.nmse:.4f}"
        f" at {actual.positions} positions"
    )
    problem = None
    within = (
        actual.kl <= limit.kl and actual.same_top >= limit.same_top and actual.nmse <= limit.nmse
    )
    if not within:
        nmse = f", NMSE at most {limit.nmse:g}" if math.isfinite(limit.nmse) else ""
        problem = (
            f"{numbers}: expected for {limit.name} at most {limit.kl:g} nats and at least {limit.same_top:.0%}{nmse}:"
            " the file does not have the original's weights, or llama.cpp computes them otherwise"
        )
    return {
        **result("logits", problem, numbers),
        "drift": {
            "kl": round(actual.kl, 6),
            "same_top": round(actual.same_top, 4),
            "positions": actual.positions,
        },
    }


def _kl(expected: np.ndarray, actual: np.ndarray) -> float:
    """The divergence of log probabilities of the same tokens [K], with all other tokens as one more."""
    rest_expected = max(_TINY, 1 - float(np.exp(expected).sum()))
    rest_actual = max(_TINY, 1 - float(np.exp(actual).sum()))
    listed = float((np.exp(expected) * (expected - actual)).sum())
    return listed + rest_expected * math.log(rest_expected / rest_actual)
