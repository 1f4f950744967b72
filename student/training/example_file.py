"""Training examples in a file: written one by one, read by index through the page cache.

The file is an Arrow stream, the form that `datasets` memory-maps. Memory holds 8 bytes an example: its length.
"""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

from schemas.files import whole
from student.rendering.examples import Example

# Examples of a record batch; so many are in memory at once.
_BATCH = 256


class ExampleFile(Sequence[Example]):
    """The examples of a file that an ExampleWriter has closed.

    Attributes:
        lengths: tokens of each example. label_count: tokens with a label, of all. image_count: images of all.
    """

    def __init__(
        self, path: Path, lengths: Sequence[int], label_count: int, image_count: int
    ) -> None:
        self.lengths, self.label_count, self.image_count = lengths, label_count, image_count
        self._path = path
        self._opened: Any = None

    @property
    def tokens(self) -> int:
        """The tokens of all examples."""
        return sum(self.lengths)

    @property
    def dataset(self) -> Any:
        """The examples as a `datasets.Dataset`."""
        from datasets import Dataset

        if self._opened is None:
            self._opened = Dataset.from_file(str(self._path))
        return self._opened

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return Example(**self.dataset[index])


class ExampleWriter:
    """Writes examples to a file that is there, as `examples`, when the `with` block has succeeded.

    Attributes:
        tokens: of the examples so far.

    Raises:
        StageError: the disk is full or the path cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lengths = path, array("Q")
        self._label_count = self._image_count = self.tokens = 0
        self._batch: list[Example] = []
        self._stack = ExitStack()

    def __enter__(self) -> "ExampleWriter":
        import pyarrow

        ids = pyarrow.list_(pyarrow.int32())
        names = pyarrow.list_(pyarrow.string())
        self._schema = pyarrow.schema(
            [
                ("input_ids", ids),
                ("labels", ids),
                ("image_names", names),
                ("continues", pyarrow.bool_()),
            ]
        )
        temporary = self._stack.enter_context(whole(self._path))
        self._file = self._stack.enter_context(pyarrow.ipc.new_stream(str(temporary), self._schema))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._write()
        return self._stack.__exit__(*error)

    def add(self, examples: Iterable[Example]) -> None:
        for example in examples:
            self._lengths.append(len(example.input_ids))
            self.tokens += len(example.input_ids)
            self._label_count += example.label_count
            self._image_count += len(example.image_names)
            self._batch.append(example)
            if len(self._batch) == _BATCH:
                self._write()

    def copy(self, path: Path) -> None:
        """Adds the examples of a file that another writer has closed."""
        import pyarrow

        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
            for batch in batches:
                self.add(Example(**row) for row in batch.to_pylist())

    def _write(self) -> None:
        import pyarrow

        rows = [vars(example) for example in self._batch]
        self._file.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=self._schema))
        self._batch = []

    @property
    def examples(self) -> ExampleFile:
        return ExampleFile(self._path, self._lengths, self._label_count, self._image_count)
