"""Changes what a store holds: moves tags, removes versions, and copies a version to another store.

Each function prints nothing and returns what it did; `report` gets remarks that are worth a line.
"""

import contextlib
from collections.abc import Callable

from schemas.errors import InputError
from schemas.tags import LATEST, is_reserved, is_version
from student.registry.artifact import Model
from student.registry.location import is_tag, split_reference
from student.registry.lookup import moving_tags, newest_passed, resolve, version_numbers
from student.registry.oci_layout import LayoutRepository
from student.registry.publish import Published, files_of, publish
from student.registry.store import Descriptor, Progress, Repository, Store, parts_of, referrers_tag


def promote(store: Store, reference: str, tag: str) -> Model:
    """Makes `tag` (latest, or one that the store does not assign) name a version or a variant of it, and returns it.

    Raises:
        InputError: no such version, or the tag is not allowed.
    """
    if not is_tag(tag) or (is_reserved(tag) and tag != LATEST):
        raise InputError(
            f"{tag!r}: expected latest, or a tag that the store does not assign itself: not a number, not that of a"
            " variant"
        )
    name, of = split_reference(reference)
    if not of:
        raise InputError(f"{reference}: expected NAME:TAG, such as {name}:3")
    model = resolve(store, reference)
    repository = store.repository(name)
    with repository.locked():
        repository.set_tags({tag: _entry(repository, of)})
    return model


def rollback(store: Store, name: str) -> tuple[int, int]:
    """Moves `latest` to the newest version before the one that it names whose gate passed.

    Returns:
        The number that `latest` named, and the one that it names now.

    Raises:
        InputError: there is no `latest`, or no such version before it.
    """
    now = int(resolve(store, name).tag)
    repository = store.repository(name)
    found = newest_passed(repository, [n for n in version_numbers(repository) if n < now])
    if found is None:
        raise InputError(f"{name}: no version before {now} passed its gate in {store.location}")
    with repository.locked():
        repository.set_tags({LATEST: _entry(repository, str(found[0]))})
    return now, found[0]


def remove(store: Store, reference: str, report: Callable[[str], None]) -> list[int]:
    """Removes the version that NAME:NUMBER names, a broken one too, and returns its number.

    Raises:
        InputError: no such version, or `latest` or a tag of a person names it.
    """
    name, tag = split_reference(reference)
    repository = store.repository(name)
    if not is_version(tag) or int(tag) not in version_numbers(repository):
        numbers = ", ".join(f"{name}:{n}" for n in version_numbers(repository)) or "no version"
        raise InputError(f"{reference}: expected a version such as {name}:3: it has {numbers}")
    named, manifests = _named(repository), _manifests(repository, int(tag), report)
    holders = [t for d in manifests for t in named.get(d["digest"], [])]
    if holders:
        raise InputError(
            f"{reference}: is {', '.join(f'{name}:{t}' for t in holders)} too: promote another version to that tag"
        )
    repository.remove(manifests, report)
    return [int(tag)]


def keep(store: Store, name: str, count: int, report: Callable[[str], None]) -> list[int]:
    """Removes all but the newest `count` versions, and returns their numbers, the oldest first.

    A version that `latest` or a tag of a person names stays beside them.
    """
    repository = store.repository(name)
    numbers = sorted(version_numbers(repository))
    if not numbers:
        raise InputError(f"{name}: no such model in {store.location}")
    named = _named(repository)
    gone: list[int] = []
    manifests: list[Descriptor] = []
    for number in numbers[: max(0, len(numbers) - count)]:
        lines: list[str] = []
        found = _manifests(repository, number, lines.append)
        if not any(d["digest"] in named for d in found):
            gone.append(number)
            manifests += found
            for line in lines:
                report(line)
    repository.remove(manifests, report)
    return gone


def push(
    source: Store,
    reference: str,
    to: Store,
    variants: list[str] | None = None,
    progress: Progress | None = None,
) -> Published:
    """Publishes a version of a directory in another store, and returns what it is called there.

    It gets the same number where that is free and above all that are there.

    Args:
        variants: only these. Default: all.

    Raises:
        InputError: no such version or variant, or the source is a registry.
    """
    model = resolve(source, reference)
    repository = source.repository(model.name)
    if not isinstance(repository, LayoutRepository):
        raise InputError(
            f"{source.location}: expected a directory to push from: pull from it first"
        )
    model.check_variants(variants, reference)
    sizes = model.variants()
    left_out = set(sizes) - set(variants or sizes)
    files = [f for f in files_of(model, repository.blob_path) if f.variant not in left_out]
    manifest = {k: v for k, v in model.manifest.items() if k not in ("name", "tag", "files")}
    return publish(
        to,
        model.name,
        files,
        manifest,
        gate_passed=model.gate_passed,
        at_least=int(model.tag),
        progress=progress,
    )


def _entry(repository: Repository, tag: str) -> Descriptor:
    entry = repository.find(tag)
    if entry is None:
        raise InputError(f"{repository.name}:{tag}: no such tag in {repository.location}")
    return entry


def _named(repository: Repository) -> dict[str, list[str]]:
    """Returns the tags that are not numbers, by the digest that they name."""
    named: dict[str, list[str]] = {}
    for tag, entry in moving_tags(repository, repository.tags()).items():
        named.setdefault(entry["digest"], []).append(tag)
    return named


def _manifests(
    repository: Repository, number: int, report: Callable[[str], None]
) -> list[Descriptor]:
    """Returns the index of a version, the manifests of its variants, and what refers to them.

    A broken version cannot name its variants.
    """
    entry = _entry(repository, str(number))
    label = f"{repository.name}:{number}"
    found = [entry]
    try:
        found += parts_of(entry, repository.document(entry, label), label)[1]
    except InputError as error:
        report(f"{label}: broken: {error}")
    for manifest in list(found):
        with contextlib.suppress(InputError):
            found += repository.referrers(manifest["digest"])
        if index := repository.find(referrers_tag(manifest["digest"])):
            found.append(index)
    return found
