"""What an author still has to write in a pack that `stillhouse new-domain --from-...` wrote."""

from pathlib import Path

from schemas.files import read_text
from teacher.domain.check.finding import Finding

# Written into the files of such a pack where its author's knowledge is needed.
MARK = "FILL IN"


def find_gaps(pack: Path) -> list[Finding]:
    """Returns a finding for each line of the pack's Python and YAML files that has the mark."""
    findings = []
    for file in sorted([*pack.glob("*.py"), *pack.glob("*.yaml")]):
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if MARK in line:
                text = line.partition(MARK)[2].strip(" :\"')")
                findings.append(
                    Finding(
                        "filled",
                        "error",
                        file,
                        f"line {number}: to be written: {text or 'this line'}",
                        f"write it and remove the words {MARK}",
                    )
                )
    return findings
