"""What a server's metrics say of its load: vLLM's and llama.cpp's /metrics, in Prometheus's text.

vLLM preempts requests when its KV cache is full: it throws away what it computed and computes it again later. llama.cpp
defers requests that find no slot. In both cases fewer requests in flight are served as fast, and their prefixes stay in
the cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Seconds between two looks.
SECONDS = 5.0
# Share of vLLM's KV cache from which requests that wait are waiting for room in it.
_FULL = 0.95


def parse(text: str) -> dict[str, float]:
    """Each metric's sum over its labels; of a share (_perc), the largest.

    Raises:
        ValueError: the text is not that of metrics.
    """
    numbers: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.split("{")[0].split(" ")[0]
            so_far, number = numbers.get(name, 0.0), float(value)
            numbers[name] = max(so_far, number) if name.endswith("_perc") else so_far + number
    return numbers


@dataclass
class Load:
    """Reads one look after another.

    Attributes:
        preemptions: of vLLM, at the last look; None before the first one. was_full: what the last look said.
    """

    preemptions: float | None = None
    was_full: bool = False

    def most(self, numbers: Mapping[str, float]) -> int | None:
        """As many requests as the server can serve; None if it has room, and for what one look alone shows."""
        running = numbers.get("vllm:num_requests_running", 0.0)
        waiting = numbers.get("vllm:num_requests_waiting", 0.0)
        use = numbers.get("vllm:kv_cache_usage_perc", numbers.get("vllm:gpu_cache_usage_perc", 0.0))
        preemptions = numbers.get("vllm:num_preemptions_total", 0.0)
        is_preempting = self.preemptions is not None and preemptions > self.preemptions
        self.preemptions = preemptions
        processing = numbers.get("llamacpp:requests_processing", 0.0)
        deferred = numbers.get("llamacpp:requests_deferred", 0.0)
        is_full = (waiting > 0 and use >= _FULL) or deferred > 0
        is_lasting, self.was_full = is_full and self.was_full, is_full
        if is_lasting and deferred:
            # One more than the slots, so that none of them is empty while a reply travels.
            return int(processing) + 1
        # A look that finds nothing running does not show how many the server can serve.
        return max(1, int(running * 0.9)) if running and (is_preempting or is_lasting) else None
