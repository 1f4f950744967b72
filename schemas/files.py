"""Reads and writes the project's files, and reads those of its users.

A file is complete or does not exist: writes go to a temporary name first. Text is UTF-8; a byte-order mark and line
ends of Windows are read as if they were not there, and a file that cannot be read is named with line and byte. JSON
Lines whose name ends in .zst are compressed with zstd.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from schemas.errors import InputError, StageError

# What a file system without locks answers to one, such as NFS without its lock daemon.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def lacks_locks(error: OSError) -> bool:
    """Whether a lock failed because the file system has none."""
    return error.errno in _NO_LOCKS


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which is renamed to `path` when the block succeeds.

    The block creates a file or a directory there. When the block raises, the temporary is removed. Each call has a
    temporary of its own, so of two writers of one path each publishes the whole of what it wrote, and the last one
    stays.

    Raises:
        StageError: the disk is full or the path cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _publish(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            _remove(temporary)
        raise StageError(f"{path}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise


def _publish(temporary: Path, path: Path) -> None:
    """Renames `temporary` to `path`. A directory there is moved away whole, also one of another writer just now."""
    while True:
        if path.is_dir():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, old)
                shutil.rmtree(old)
        try:
            os.replace(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR):
                raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(files: Iterable[Path]) -> None:
    """Writes files and their directories' entries through to the disk, so that a power cut cannot take them."""
    paths = list(files)
    for path in [*paths, *sorted({path.parent for path in paths})]:
        sync_one(path)


def sync_one(path: Path) -> None:
    """Writes a file, or a directory's entries, through to the disk: a rename in it then survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dumps(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces. Everything that is hashed or compared as JSON is written by this."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text. Raises StageError where it cannot be written."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON. Raises StageError where it cannot be written."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Writes JSON Lines. Raises StageError where it cannot be written."""
    with open_jsonl(path) as write:
        for row in rows:
            write(row)


@contextlib.contextmanager
def open_jsonl(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yields a function that writes a row of JSON Lines. The file is there when the block succeeds.

    Raises:
        StageError: it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(stack.enter_context(whole(path)).open("wb"))
        if path.suffix == ZSTD:
            # The checksum finds a damaged file before its rows are used.
            compressor = zstandard.ZstdCompressor(write_checksum=True)
            file = stack.enter_context(compressor.stream_writer(file, closefd=False))
        yield lambda row: file.write(json_line(row))


def json_line(row: Any) -> bytes:
    """A row of a JSON Lines file, with its line end."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


ZSTD = ".zst"
BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/"  # what git leaves where Git LFS is not installed
)


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file to read bytes. Raises InputError where it is missing or cannot be read."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path, *, prose: bool = False) -> str:
    """The text of a file, in UTF-8, without a byte-order mark; each line ends in a newline character alone.

    Args:
        prose: what is not UTF-8 is read as Windows-1252: for text that is shown or searched, but not parsed.

    Raises:
        InputError: the file is missing, cannot be read, is a pointer of Git LFS, or is not UTF-8; then it names line
            and byte.
    """
    with open_bytes(path) as file:
        data = file.read().removeprefix(BOM)
    if data.startswith(_LFS_POINTER):
        raise InputError(
            f"{path}: found a pointer of Git LFS, expected the file: run `git lfs pull`"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if not prose or data.startswith(_UTF_16):
            raise InputError(_not_utf8(path, data, error)) from None
        text = data.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _not_utf8(path: Path, data: bytes, error: UnicodeDecodeError, first_line: int = 1) -> str:
    """What is wrong with bytes that are not UTF-8. first_line: the number of their first line in the file."""
    line = first_line + data.count(b"\n", 0, error.start)
    byte = error.start - data.rfind(b"\n", 0, error.start)
    found = "UTF-16" if data.startswith(_UTF_16) else f"0x{data[error.start]:02x}"
    return f"{path}: line {line}, byte {byte}: found {found}, expected text in UTF-8: save the file in this encoding"


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises InputError where the file is missing or is not JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields number and bytes of each line that is not blank, without line end and byte-order mark.

    Raises:
        InputError: the file is missing or cannot be read; raised by this call, before the first line.
    """
    file = open_bytes(path)
    return _numbered(_decompressed(file, path) if path.suffix == ZSTD else file, file)


def _decompressed(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yields the lines of a file compressed with zstd, also of one that was appended to frame by frame."""
    decompressor = zstandard.ZstdDecompressor()
    frame, rest = None, b""
    try:
        while chunk := file.read(1 << 17):
            while chunk:
                frame = frame or decompressor.decompressobj()
                *lines, rest = (rest + frame.decompress(chunk)).split(b"\n")
                yield from lines
                chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    except zstandard.ZstdError as error:
        raise InputError(f"{path}: damaged, expected zstd: {error}") from None
    if frame is not None:
        raise InputError(f"{path}: damaged, expected zstd: the file ends too early")
    if rest:
        yield rest


def _numbered(lines: Iterable[bytes], file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    with file:
        for number, line in enumerate(lines, start=1):
            line = (line.removeprefix(BOM) if number == 1 else line).rstrip(b"\r\n")
            if line.strip():
                yield number, line


def read_jsonl(path: Path) -> Iterator[Any]:
    """Yields the rows of a JSON Lines file; blank lines are skipped. Raises InputError that names the line."""
    for number, line in numbered_lines(path):
        try:
            yield json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise InputError(_not_utf8(path, line, error, number)) from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: not JSON: {error}") from None


def sha256(path: Path) -> str:
    """Hex digest of a file; of a directory, the digest over the sorted names and digests of its files."""
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        return sha256_text(dumps([[name, sha256(path / name)] for name in names]))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Hex digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
