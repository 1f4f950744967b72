"""The digest of the packs in data/ beside the run's own, from which its tasks may take tools and requests.

A task names a tool of another pack and does not hold it: the prompts of generate and evaluate change with that pack.
"""

from flows.run_context import RunContext
from flows.run_directory import domain_digest
from schemas.files import dumps, sha256_text
from teacher.domain import pack


def other_packs(context: RunContext) -> dict[str, str]:
    """Returns the digest as an input of a stage (Stage.digests)."""
    names = pack.other_packs(context.domain)
    digests = [[name, domain_digest(pack.PACKS / name)] for name in names]
    return {"other packs": sha256_text(dumps(digests))}
