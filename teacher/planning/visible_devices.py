"""Which GPUs CUDA_VISIBLE_DEVICES leaves to a CUDA program.

The rules are CUDA's, as torch applies them (torch.cuda._parse_visible_devices): a list of numbers or of UUIDs, which
may be shortened while they stay unique. It ends at the first entry that names no device, such as -1, and a device that
is named twice leaves none. Of MIG devices a program gets one (NVIDIA's MIG user guide, "CUDA device enumeration").
"""

import itertools
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Mig:
    """A MIG device. gpu: the number of its GPU. gigabytes: of its profile, such as 10 of 1g.10gb."""

    uuid: str
    gpu: int
    profile: str
    gigabytes: int


@dataclass(frozen=True)
class Listing:
    """What `nvidia-smi -L` lists. uuids: of each GPU by its number; "" where it is not known."""

    uuids: tuple[str, ...]
    migs: tuple[Mig, ...] = ()


@dataclass(frozen=True)
class Visible:
    """What a CUDA program sees. gpus: numbers, in its order. mig: the one MIG device, and then no GPUs.

    remark: what of the variable hides GPUs or names none; "" if it is not set or names all that it seems to.
    """

    gpus: tuple[int, ...]
    mig: Mig | None = None
    remark: str = ""


def read_listing(text: str, count: int) -> Listing:
    """Reads the output of `nvidia-smi -L` for `count` GPUs."""
    uuids, migs = [""] * count, []
    gpu = -1
    for line in text.splitlines():
        if match := re.match(r"GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)", line):
            gpu = int(match[1])
            if gpu < count:
                uuids[gpu] = match[2]
        elif match := re.match(
            r"\s+MIG (\S*?(\d+)gb\S*)\s+Device\s+\d+: \(UUID: (MIG-[^)\s]+)\)", line
        ):
            migs.append(Mig(match[3], gpu, match[1], int(match[2])))
    return Listing(tuple(uuids), tuple(migs))


def choose(value: str | None, listing: Listing) -> Visible:
    """What a CUDA program sees with a value of CUDA_VISIBLE_DEVICES; None if it is not set."""
    count = len(listing.uuids)
    if value is None:
        return _with_migs(Visible(tuple(range(count))), listing)
    entries = [entry.strip() for entry in value.split(",")]
    if not value.strip():
        return Visible((), remark=_remark(value, f"it is empty and hides {_gpus(count)}", count))
    if entries[0].startswith("MIG-"):
        return _choose_mig(value, entries[0], listing)
    by_uuid = entries[0].startswith("GPU-")
    chosen: list[int] = []
    remark = ""
    seen: set[int] = set()
    # A UUID that is written twice counts also after one that names no device.
    uuids = list(itertools.takewhile(lambda entry: entry.startswith("GPU-"), entries))
    if repeated := [entry for entry in uuids if uuids.count(entry) > 1]:
        return _twice(value, repeated[0], count)
    for entry in entries:
        number = _by_uuid(entry, listing.uuids) if by_uuid else _number(entry)
        if number in seen:
            return _twice(value, entry, count)
        if number is None or number < 0 or (by_uuid and not entry.startswith("GPU-")):
            remark = remark or _names_none(entry, by_uuid, count)
            break
        seen.add(number)
        if number >= count:
            remark = remark or _names_none(entry, by_uuid, count)
        elif not remark:
            chosen.append(number)
    return _with_migs(
        Visible(tuple(chosen), remark=_remark(value, remark, count) if remark else ""), listing
    )


def _twice(value: str, entry: str, count: int) -> Visible:
    return Visible((), remark=_remark(value, f"{entry} is named twice, which leaves no GPU", count))


def _names_none(entry: str, by_uuid: bool, count: int) -> str:
    if entry == "-1":
        return "-1 hides the GPUs from there on"
    known = "a UUID of nvidia-smi -L" if by_uuid else f"0 to {count - 1}"
    return f"{entry or 'an empty entry'} names no GPU, expected {known}"


def _choose_mig(value: str, name: str, listing: Listing) -> Visible:
    matches = [mig for mig in listing.migs if mig.uuid.startswith(name)]
    if len(matches) == 1:
        return Visible((), matches[0])
    known = ", ".join(mig.uuid for mig in listing.migs) or "none"
    hint = f"{name} names no MIG device; nvidia-smi -L lists {known}"
    return Visible((), remark=_remark(value, hint, len(listing.uuids)))


def _with_migs(visible: Visible, listing: Listing) -> Visible:
    """A GPU that is divided into MIG devices cannot be used as a whole: a program gets its first MIG device."""
    divided = {mig.gpu for mig in listing.migs}
    whole = tuple(gpu for gpu in visible.gpus if gpu not in divided)
    if whole or not divided & set(visible.gpus):
        return Visible(whole, remark=visible.remark)
    first = next(mig for mig in listing.migs if mig.gpu in visible.gpus)
    return Visible((), first, visible.remark)


def _by_uuid(entry: str, uuids: tuple[str, ...]) -> int | None:
    matches = [number for number, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _number(entry: str) -> int | None:
    """The number at the beginning of an entry, as C's strtoul reads it."""
    match = re.match(r"[+-]?\d+", entry)
    return int(match[0]) if match else None


def _remark(value: str, hint: str, count: int) -> str:
    return f"CUDA_VISIBLE_DEVICES={value}: {hint}" if count else ""


def _gpus(count: int) -> str:
    return "the GPU" if count == 1 else f"the {count} GPUs"
