"""Measures training steps of the embedded student on this CPU: tokens per second with and without keeping freed memory.

python -m benchmarks.training
"""

import argparse
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from student.models import base
from student.rendering.examples import Example
from student.training import sft
from student.training.example_file import ExampleFile, ExampleWriter

STEPS, BATCH, LENGTH, LEARNED = 8, 4, 340, 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("mode", nargs="?", choices=["kept", "given"], help="measure only this mode")
    if mode := parser.parse_args().mode:
        print(measure(mode == "kept"))
        return
    rates = {}
    for name in ("given back", "kept", "given back again", "kept again"):
        mode = "kept" if name.startswith("kept") else "given"
        command = [sys.executable, "-m", "benchmarks.training", mode]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
        )
        rates[name] = float(done.stdout.splitlines()[-1])
        print(
            f"freed memory {name}: {rates[name]:.0f} tokens/s, {rates[name] / rates['given back']:.2f}"
        )


def measure(keep: bool) -> float:
    """Tokens per second of training. keep: whether glibc keeps freed memory, as sft.train sets it."""
    if not keep:
        sft._keep_freed_memory = lambda: None
    from flows.recipe_file import load

    settings = load(
        "local", ["train.epochs=1", f"train.batch_size={BATCH}", "train.holdout=0"]
    ).train
    student = base.load("smollm2-135m")
    ids = list(range(1000, 1000 + LENGTH))
    example = Example(ids, [-100] * (LENGTH - LEARNED) + ids[-LEARNED:])
    with tempfile.TemporaryDirectory() as scratch:
        directory = base.prepare(student)
        sft.train(
            directory,
            student,
            settings,
            examples=[_stored([example] * BATCH, scratch)],
            held_out=_stored([], scratch),
            work=Path(scratch, "warm"),
            log=lambda line: None,
        )
        started = time.monotonic()
        work = Path(scratch, "measured")
        sft.train(
            directory,
            student,
            settings,
            examples=[_stored([example] * BATCH * STEPS, scratch)],
            held_out=_stored([], scratch),
            work=work,
            log=lambda line: None,
        )
        return STEPS * BATCH * LENGTH / (time.monotonic() - started)


def _stored(examples: list[Example], directory: str) -> ExampleFile:
    with ExampleWriter(Path(directory, f"{uuid.uuid4().hex}.arrow")) as writer:
        writer.add(examples)
    return writer.examples


if __name__ == "__main__":
    main()
