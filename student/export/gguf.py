"""GGUF files with llama.cpp's own tools: convert, then quantise."""

import subprocess
import sys
from pathlib import Path

from schemas.error_text import last_line
from schemas.errors import StageError
from schemas.files import whole
from teacher.inference.llamacpp import Progress, converter_environment, run_tool, source


def convert(directory: Path, to: Path, say: Progress = print, projector: bool = False) -> None:
    """A Hugging Face directory as a 16-bit GGUF; with `projector` its vision tower alone (llama.cpp's mmproj)."""
    script = source(say) / "convert_hf_to_gguf.py"
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
        ]
        done = subprocess.run(
            command, env=converter_environment(), capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            raise StageError(f"converting {directory} to GGUF failed: {last_line(done.stderr)}")


def quantize(gguf: Path, to: Path, variant: str) -> None:
    """A 16-bit GGUF quantised to a variant such as Q8_0 or Q4_K_M (llama-quantize's names)."""
    with whole(to) as temporary:
        run_tool("llama-quantize", str(gguf), str(temporary), variant)
