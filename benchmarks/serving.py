"""Compares GGUF types in llama.cpp's server on this machine: prompt and generated tokens per second, same weights.

python -m benchmarks.serving
"""

import argparse
import json
import random
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from teacher.inference.endpoint import Endpoint
from teacher.inference.llama_server import serve
from teacher.inference.llamacpp import run_tool
from teacher.models import catalog

TYPES = ("Q4_1", "Q8_0", "F16", "BF16")
SLOTS, PROMPT, GENERATED = 8, 700, 64


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    source = catalog.fetch(catalog.load("smollm2-135m", catalog.TEACHERS, "teacher"))
    rates = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in TYPES:
            gguf = source
            if name != "Q4_1":
                gguf = Path(scratch, f"{name}.gguf")
                run_tool("llama-quantize", "--allow-requantize", str(source), str(gguf), name)
            with serve(gguf, Path(scratch, "log"), SLOTS, 2048) as endpoint:
                rates[name] = (measure(endpoint, PROMPT, 1), measure(endpoint, 20, GENERATED))
    first = rates["Q4_1"]
    print(f"{'type':6}{'prompt tokens/s':>18}{'ratio':>7}{'generated tokens/s':>21}{'ratio':>7}")
    for name, (read, written) in rates.items():
        print(f"{name:6}{read:18.0f}{read / first[0]:7.2f}{written:21.0f}{written / first[1]:7.2f}")


def measure(endpoint: Endpoint, prompt: int, generated: int) -> float:
    """Tokens per second over all slots: prompt tokens if one token is generated, else generated tokens."""

    def one(seed: int) -> None:
        tokens = random.Random(f"{seed}/{prompt}").choices(range(1000, 40000), k=prompt)
        body = {"prompt": tokens, "n_predict": generated, "ignore_eos": True, "cache_prompt": False}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.key}"}
        url = endpoint.url.removesuffix("/v1") + "/completion"
        urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(body).encode(), headers)
        ).read()

    started = time.monotonic()
    with ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(one, range(SLOTS)))
    return SLOTS * (prompt if generated == 1 else generated) / (time.monotonic() - started)


if __name__ == "__main__":
    main()
