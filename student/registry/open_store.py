"""Opens the store at a place: a directory, or a registry.

store = open_store()                     # where STILLHOUSE_STORE leads, else the directory store/
repository = store.repository("legal")
"""

from pathlib import Path

from student.registry.location import RegistryUrl, location
from student.registry.oci_layout import DirectoryStore
from student.registry.oci_registry import RegistryStore
from student.registry.store import Store


def open_store(where: Path | RegistryUrl | str | None = None, *, patient: bool = True) -> Store:
    """Returns the store at a place.

    Args:
        where: a recipe's setting, over which STILLHOUSE_STORE takes precedence, or a place that was parsed already.
            None: the default.
        patient: whether a request to a registry is repeated and waited for, about 50 s in all; otherwise a registry
            that does not answer in 5 s fails, for what can do without it.
    """
    if where is None:
        place = location()
    elif isinstance(where, str):
        place = location(where)
    else:
        place = where
    return (
        RegistryStore(place, patient=patient)
        if isinstance(place, RegistryUrl)
        else DirectoryStore(place)
    )
