"""Which tags of a published student the store assigns itself, and a recipe may therefore not choose."""

LATEST = "latest"


def is_reserved(tag: str) -> bool:
    """Whether the store assigns `tag` itself: version numbers and `latest`."""
    return tag.isdecimal() or tag == LATEST
