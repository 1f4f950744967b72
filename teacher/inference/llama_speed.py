"""How long a reply of llama.cpp's server may take on this machine: one short request is timed."""

import json
import urllib.request

from schemas.errors import StageError
from teacher.inference.endpoint import Endpoint

# A reply may take this many times as long as the machine needs for it, because other work may slow the machine.
_PATIENCE = 4
_LEAST_SECONDS = 300
# What is timed: tokens of a prompt and of its reply.
_PROMPT, _REPLY = 64, 8
# A large model that is read from a slow disk takes minutes for its first token.
_TIMED_SECONDS = 1800
# The server runs on this machine: a proxy of the environment must not answer in its place.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def reply_seconds(endpoint: Endpoint, context: int, reply_tokens: int, slots: int = 1) -> float:
    """Returns the seconds that a reply may take, at least 300.

    They are four times what a prompt of `context` tokens and a reply of `reply_tokens` take at the speed of the timed
    request, times the slots that share the machine.

    Raises:
        StageError: the server does not answer the timed request.
    """
    body = {"prompt": [1] * _PROMPT, "n_predict": _REPLY, "ignore_eos": True, "cache_prompt": False}
    request = urllib.request.Request(
        endpoint.url.removesuffix("/v1") + "/completion",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.key}"},
    )
    try:
        with _DIRECT.open(request, timeout=_TIMED_SECONDS) as reply:
            timed = json.load(reply)["timings"]
    except OSError as error:
        raise StageError(f"llama-server: a reply of {_REPLY} tokens failed: {error}") from error
    prompt_ms, reply_ms = timed["prompt_per_token_ms"], timed["predicted_per_token_ms"]
    seconds = (context * prompt_ms + reply_tokens * reply_ms) / 1000
    return max(_LEAST_SECONDS, _PATIENCE * slots * seconds)
