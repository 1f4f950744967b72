"""Writes GGUF files with llama.cpp's own tools: converts a Hugging Face directory, then quantizes the file."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

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


def importance_matrix(gguf: Path, texts: Iterable[str], to: Path) -> None:
    """Computes an importance matrix for `quantize`: how much each weight of a 16-bit GGUF counts on rendered texts.

    Raises:
        StageError: llama-imatrix failed, as it does where the texts have less than 1,024 tokens.
    """
    with TemporaryDirectory() as scratch, whole(to) as temporary:
        text = Path(scratch, "texts")
        text.write_text("".join(texts), encoding="utf-8")
        arguments = ["-m", str(gguf), "-f", str(text), "-o", str(temporary)]
        # Without --no-escape, \\n in a call's JSON would become a line break.
        run_tool("llama-imatrix", *arguments, "--parse-special", "--no-escape", "--no-ppl")


def quantize(gguf: Path, to: Path, variant: str, matrix: Path | None = None) -> None:
    """Quantizes a 16-bit GGUF to a variant such as Q8_0 or Q4_K_M (llama-quantize's names).

    matrix: an importance matrix. Only types of K-quants use it.

    Raises:
        StageError: llama-quantize failed.
    """
    weighted = ["--imatrix", str(matrix)] if matrix and "_K" in variant else []
    with whole(to) as temporary:
        run_tool("llama-quantize", *weighted, str(gguf), str(temporary), variant)
