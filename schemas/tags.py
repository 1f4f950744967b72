"""Which tags of a published student the store assigns itself, and a recipe may therefore not choose."""

import re

LATEST = "latest"

# A number as the store writes it: no leading zero, and small enough to count on from.
_VERSION = re.compile(r"[1-9][0-9]{0,11}")

# The tag of one variant of a version, such as 3-q4_k_m and 3-vllm; a date such as 2026-03 is none.
_VARIANT_TAG = re.compile(
    r"(?P<version>[1-9][0-9]*)-(?P<variant>vllm|data|files|mmproj|bf16|f16|f32|[a-z]*q[0-9]+_[a-z0-9_]+)"
)
# What a publisher puts into a registry while it takes a number: claim-<number>-<random>.
CLAIM_TAG = re.compile(r"claim-(?P<version>[1-9][0-9]{0,11})-[0-9a-f]{16}")
# The tag under which registries without the referrers API keep what refers to a manifest (OCI distribution-spec v1.1).
_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}")


def is_version(tag: str) -> bool:
    """Whether `tag` is the number of a version."""
    return _VERSION.fullmatch(tag) is not None


def is_internal(tag: str) -> bool:
    """Whether `tag` names no student: it belongs to a publisher at work, or leads to signatures."""
    return CLAIM_TAG.fullmatch(tag) is not None or _REFERRERS_TAG.fullmatch(tag) is not None


def variant_tag(version: int | str, variant: str) -> str:
    """Returns the tag of one variant of a version."""
    return f"{version}-{variant.lower()}"


def is_variant_tag(tag: str) -> bool:
    """Whether `tag` has the form of the tag of a variant."""
    return _VARIANT_TAG.fullmatch(tag.lower()) is not None


def is_reserved(tag: str) -> bool:
    """Whether the store assigns `tag` itself: version numbers, those of variants, and `latest`."""
    return tag.isdecimal() or tag == LATEST or is_variant_tag(tag) or is_internal(tag)
