"""Writes GGUF files with llama.cpp's own tools: converts a Hugging Face directory, then quantizes the file."""

import subprocess
import sys
from pathlib import Path

from schemas.error_text import last_line
from schemas.errors import StageError
from schemas.files import whole
from teacher.inference.llamacpp import Progress, converter_environment, run_tool, source


def convert(
    directory: Path,
    to: Path,
    report: Progress = print,
    *,
    projector: bool = False,
    vocabulary_only: bool = False,
) -> None:
    """Converts a Hugging Face directory to a 16-bit GGUF.

    report: called with a line where llama.cpp's source is fetched first. projector: converts the vision tower alone
    (llama.cpp's mmproj). vocabulary_only: writes tokenizer and template without tensors, and needs no weights.

    Raises:
        StageError: the converter failed; the message has its last line.
    """
    script = source(report) / "convert_hf_to_gguf.py"
    with whole(to) as temporary:
        command = [
            sys.executable,
            str(script),
            str(directory),
            "--outfile",
            str(temporary),
            "--outtype",
            "f16" if projector else "bf16",
            *(["--mmproj"] if projector else []),
            *(["--vocab-only"] if vocabulary_only else []),
        ]
        process = subprocess.run(
            command, env=converter_environment(), capture_output=True, text=True, errors="replace"
        )
        if process.returncode:
            raise StageError(f"converting {directory} to GGUF failed: {last_line(process.stderr)}")


def quantize(gguf: Path, to: Path, variant: str) -> None:
    """Quantizes a 16-bit GGUF to a variant such as Q8_0 or Q4_K_M (llama-quantize's names).

    Raises:
        StageError: llama-quantize failed.
    """
    with whole(to) as temporary:
        run_tool("llama-quantize", str(gguf), str(temporary), variant)
