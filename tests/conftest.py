"""What every test needs: no network, patience, and GPU tests skipped where there is no GPU."""

import importlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

# Before any library reads them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
)
# Beside other processes of tests, a process has one core, and so has a llama.cpp that it starts.
BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ
if BESIDE_OTHERS:
    os.environ.update(OMP_NUM_THREADS="1", LLAMA_ARG_THREADS="1")
# The caller's store, logins, keys and run are no business of the tests.
for name in ("STORE", "RUN", "REGISTRY_USER", "REGISTRY_PASSWORD"):
    os.environ.pop(f"STILLHOUSE_{name}", None)
for name in ("SIGNING_KEY", "SIGNING_PASSWORD", "VERIFY_KEY", "VERIFY"):
    os.environ.pop(f"STILLHOUSE_{name}", None)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# That the machine is busy is no fault of what is tested.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# `make test-fast` draws fewer examples than `make test`, of tests that do not set their number.
settings.register_profile("fast", settings.get_profile("patient"), max_examples=25)
settings.load_profile("patient")


# Whole runs, with workers that are killed and schedules that come due.
WAITING = ("test_pipeline.py", "test_runs.py", "test_crashes.py")


def pytest_configure(config: pytest.Config) -> None:
    if "not slow" in config.option.markexpr:
        settings.load_profile("fast")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if BESIDE_OTHERS:
        # Those that wait for minutes first, then files of slow tests, then those of many, so that no process is left
        # with a long one at the end.
        tests = Counter(item.path for item in items)
        fast = Counter(item.path for item in items if not item.get_closest_marker("slow"))
        items.sort(
            key=lambda item: (
                item.path.name not in WAITING,
                fast[item.path] / tests[item.path],
                -tests[item.path],
            )
        )
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


_checked: dict[Any, Any] = {}


@pytest.fixture(scope="module")
def packs_are_checked_once() -> Iterator[None]:
    """Keeps what a plan's check of a pack says for the next plan with the same files: it takes most of the time."""
    from schemas.files import sha256
    from teacher.domain.check import check

    def check_once(domain: Any, amount: Any) -> Any:
        files = (file for file in domain.path.rglob("*") if file.suffix in (".py", ".yaml"))
        key = (amount, *sorted((file.name, sha256(file)) for file in files))
        if key not in _checked:
            _checked[key] = check(domain, amount)
        return _checked[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("flows.stages.plan"), "check", check_once)
        yield
