"""What is attested of a student beside its signature, as in-toto predicates: its making, its gate, its scorecard."""

from importlib.metadata import version
from typing import Any

from student.registry.signatures import Statement

PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
SCORECARD = "urn:stillhouse:scorecard:1"
_BUILD_TYPE = "urn:stillhouse:distill:1"


def attestations(
    manifest: dict[str, Any], scorecard: dict[str, Any] | None, *, gate_passed: bool
) -> list[Statement]:
    """Returns the attestations of a student.

    Args:
        manifest: as publish takes it (schemas/manifest.schema.json without name, tag and files).
        scorecard: schemas/scorecard.schema.json, where it is published.
    """
    statements = [(PROVENANCE, _provenance(manifest)), (TEST_RESULT, _gate(scorecard, gate_passed))]
    if scorecard is not None:
        statements.append((SCORECARD, scorecard))
    return statements


def _provenance(manifest: dict[str, Any]) -> dict[str, Any]:
    teacher, student, data = manifest["teacher"], manifest["student"], manifest["data"]
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": {"domain": manifest["domain"], "recipe": manifest["recipe"]},
            "resolvedDependencies": [
                {
                    "name": f"teacher {teacher['name']}",
                    "annotations": {"source": teacher["source"], "licence": teacher["licence"]},
                },
                {
                    "name": f"student {student['name']}",
                    "annotations": {"source": student["base"], "licence": student["licence"]},
                },
                {
                    "name": "kept traces",
                    "digest": {"sha256": data["sha256"]},
                    "annotations": {"kept": data["kept"], "licence": data["licence"]},
                },
            ],
        },
        "runDetails": {
            "builder": {
                "id": "urn:stillhouse",
                "version": {"stillhouse": version("stillhouse")},
            },
            "metadata": {"finishedOn": manifest["created"]},
        },
    }


def _gate(scorecard: dict[str, Any] | None, gate_passed: bool) -> dict[str, Any]:
    checks = list(scorecard["gate"]["checks"]) if scorecard else []
    if scorecard and "release" in scorecard:
        checks.append({"name": "not_worse_than_latest", **scorecard["release"]})
    exam = (
        [{"name": "exam", "digest": {"sha256": scorecard["exam"]["sha256"]}}] if scorecard else []
    )
    return {
        "result": "PASSED" if gate_passed else "FAILED",
        "configuration": exam,
        "passedTests": [check["name"] for check in checks if check["passed"]],
        "failedTests": [check["name"] for check in checks if not check["passed"]],
    }
