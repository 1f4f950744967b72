"""Two real servers of the embedded teacher side by side."""

import asyncio
import json
import time
from pathlib import Path

import psutil
import pytest

from teacher.inference import llama_server, llamacpp, replicas
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.models import catalog

TEACHER = {"model": "smollm2-135m", "revision": "1"}


async def ask(endpoint: Endpoint, journal: Journal, numbers: range) -> None:
    async with Client(endpoint, TEACHER, journal, 4, 120) as client:
        replies = await asyncio.gather(
            *(
                client.complete(
                    [{"role": "user", "content": f"Name {number} animals."}],
                    [],
                    0,
                    session=f"task-{number}/0",
                    temperature=0.0,
                    max_tokens=8,
                )
                for number in numbers
            )
        )
    assert all(reply.error is None and reply.message for reply in replies)


def keys(directory: Path) -> set[str]:
    files = directory.glob("*.jsonl")
    return {json.loads(line)["key"] for file in files for line in file.read_text().splitlines()}


@pytest.mark.slow
def test_two_servers_share_the_conversations_and_one_that_is_killed_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_CHECK_SECONDS", 0.2)
    weights = llamacpp.server_weights(catalog.load("smollm2-135m", catalog.TEACHERS, "teacher"))
    before = set(psutil.Process().children())

    def servers() -> list[psutil.Process]:
        new = set(psutil.Process().children()) - before
        return [child for child in new if child.name().startswith("llama")]

    one, two = Journal(tmp_path / "one"), Journal(tmp_path / "two")
    with llama_server.serve(weights, tmp_path / "one.log", 4, 512) as endpoint:
        asyncio.run(ask(endpoint, one, range(2, 10)))
    with llama_server.serve(
        weights, tmp_path / "two.log", 4, 512, replicas=2, drafts=True
    ) as endpoint:
        assert len(endpoint.urls) == len(servers()) == 2
        asyncio.run(ask(endpoint, two, range(2, 6)))
        logs = [tmp_path / f"two-{number}.log" for number in (0, 1)]

        def ended() -> list[int]:
            return [log.read_text().count("stop processing") for log in logs]

        deadline = time.monotonic() + 20  # a server writes the line after it has answered
        while ended() != [2, 2] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ended() == [2, 2]
        servers()[0].kill()
        asyncio.run(ask(endpoint, two, range(6, 10)))  # while one of them is gone
        deadline = time.monotonic() + 60
        while (len(servers()) < 2 or not endpoint.restarts) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert endpoint.restarts == 1
    one.close()
    two.close()
    # Which server answers changes nothing about what a reply is kept under: the same eight requests.
    assert keys(tmp_path / "one") == keys(tmp_path / "two") and len(keys(tmp_path / "one")) == 8
    assert set(psutil.Process().children()) == before
