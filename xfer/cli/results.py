"""Results in a file that grows, so that an interrupted run goes on where it stopped."""

import csv
import io
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from xfer._io import atomic_write
from xfer.tables import import_pyarrow

_SECONDS = 1.0  # between two notes of how far the results have come

_ROUNDED = ("probability", "uncertainty", "novelty")  # to 6 digits in CSV
# Halves of characters, which JSON can hold and UTF-8 cannot; but for those that stand for bytes.
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")

Columns = Mapping[str, Sequence[Any]]


class Format(Protocol):
    """Makes bytes of results, to be written one after the other."""

    def start(self, columns: Columns) -> bytes:
        """Return what comes before the first rows."""

    def rows(self, columns: Columns) -> bytes:
        """Return some rows."""

    def resume(self, part: Path) -> None:
        """Look at results that are to be continued."""

    def finish(self, part: Path, out: Path) -> None:
        """Make the result of all these bytes."""


class CsvFormat:
    """Comma-separated values, UTF-8; what is missing is empty."""

    def start(self, columns: Columns) -> bytes:  # noqa: D102  (see Format)
        return _csv([list(columns)])

    def rows(self, columns: Columns) -> bytes:  # noqa: D102
        fields = [
            [_rounded(one) if name in _ROUNDED else _field(one) for one in values]
            for name, values in columns.items()
        ]
        return _csv(zip(*fields))

    def resume(self, part: Path) -> None:  # noqa: D102
        pass

    def finish(self, part: Path, out: Path) -> None:  # noqa: D102
        part.replace(out)


class ParquetFormat:
    """Parquet; until the end a stream of Arrow, because a Parquet file cannot be continued."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._arrow, self._types = import_pyarrow("pyarrow"), types

    def start(self, columns: Columns) -> bytes:  # noqa: D102  (see Format)
        fields = []
        for name, values in columns.items():
            kind = self._types.get(name) or self._array(name, values).type
            kind = self._arrow.string() if self._arrow.types.is_null(kind) else kind
            fields.append(self._arrow.field(name, kind))
        self._schema = self._arrow.schema(fields)
        return self._schema.serialize().to_pybytes()

    def _array(self, name: str, values: Sequence[Any], kind: Any = None) -> Any:
        """Return a column of some type, if it holds the values as they are."""
        try:
            if kind is None or name in self._types:
                return self._arrow.array(_typed(values), kind)
            # The cast refuses to cut numbers, as the type of an array does not.
            return self._arrow.array(_typed(values)).cast(kind)
        except (self._arrow.ArrowException, OverflowError) as error:
            was = "" if kind is None else f", after rows of {kind}"
            raise ValueError(
                f"the column {name!r} has values that one type of Parquet does not hold{was}: "
                f"{error}; write a .csv file instead"
            ) from error

    def rows(self, columns: Columns) -> bytes:  # noqa: D102
        arrays = [self._array(one.name, columns[one.name], one.type) for one in self._schema]
        batch = self._arrow.record_batch(arrays, schema=self._schema)
        return batch.serialize().to_pybytes()

    def resume(self, part: Path) -> None:  # noqa: D102
        with self._arrow.ipc.open_stream(part) as stream:
            self._schema = stream.schema

    def finish(self, part: Path, out: Path) -> None:  # noqa: D102
        parquet = import_pyarrow("pyarrow.parquet")
        with (
            atomic_write(out) as file,
            self._arrow.ipc.open_stream(part) as stream,
            parquet.ParquetWriter(file, stream.schema) as writer,
        ):
            for batch in stream:
                writer.write_batch(batch)
        part.unlink()


class GrowingFile:
    """A file beside its place until it is complete, and a note of what it is made of.

    ``NAME.part`` only grows. ``NAME.part.json`` says how many of its rows and bytes are whole, and
    of which model and data they are. After an interruption, the bytes beyond are cut off.
    """

    def __init__(self, out: Path, made_of: dict[str, str], form: Format) -> None:
        if not out.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {out.parent} to write {out.name} in")
        if out.is_dir():
            raise IsADirectoryError(f"{out} is a folder, and the result is a file")
        self.out, self._made_of, self._form = out, made_of, form
        self.part = out.with_name(f"{out.name}.part")
        self._note = out.with_name(f"{out.name}.part.json")
        self.rows = self.errors = self._size = 0
        if self.part.exists():
            self._resume()
        self._save()
        self._file = self.part.open("r+b" if self.part.exists() else "w+b")
        self._file.truncate(self._size)
        self._file.seek(self._size)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        advice = f"delete {self.part} and {self._note} to start again"
        if not self._note.exists():
            raise FileExistsError(f"{self.part} was not written by this command: {advice}")
        try:
            state = json.loads(self._note.read_text(encoding="utf-8"))
            found, rows, errors, size = (state[n] for n in ("made_of", "rows", "errors", "bytes"))
        except (ValueError, TypeError, LookupError):
            raise ValueError(f"{self._note} is damaged: {advice}") from None
        made_of = self._made_of
        if changed := [name for name in made_of if found.get(name) != made_of[name]]:
            raise ValueError(
                f"{self.part} is the unfinished result of another run: {', '.join(changed)} "
                f"changed since; {advice}"
            )
        if self.part.stat().st_size < size:
            raise ValueError(f"{self.part} has been cut: {advice}")
        self.rows, self.errors, self._size = rows, errors, size
        if self.rows:
            self._form.resume(self.part)

    def append(self, columns: Columns, n_errors: int) -> None:
        """Write some rows."""
        if os.fstat(self._file.fileno()).st_size != self._size:
            raise OSError(f"another process is writing to {self.part}")
        start = b"" if self._size else self._form.start(columns)
        data = start + self._form.rows(columns)
        self._file.write(data)
        self._file.flush()
        self._size += len(data)
        self.rows += len(next(iter(columns.values())))
        self.errors += n_errors
        if time.monotonic() - self._saved > _SECONDS:
            self.save()

    def save(self) -> None:
        """Note how far the file has come, after it is on the disk."""
        os.fsync(self._file.fileno())
        self._save()
        self._saved = time.monotonic()

    def _save(self) -> None:
        state = {"made_of": self._made_of, "rows": self.rows, "errors": self.errors}
        with atomic_write(self._note) as file:
            file.write(json.dumps({**state, "bytes": self._size}, indent=1).encode())

    def close(self) -> None:
        """Stop for now; without a row, nothing is kept."""
        if not self._file.closed:
            self.save()
            self._file.close()
            if not self.rows:
                self.part.unlink()
                self._note.unlink()

    def finish(self) -> None:
        """Put the complete file in its place."""
        self.close()
        self._form.finish(self.part, self.out)
        self._note.unlink()


def _csv(rows: Any) -> bytes:
    lines = []
    for row in rows:
        text = io.StringIO()
        # With its own line end, the writer also puts fields with a single \r between quotes.
        csv.writer(text, lineterminator="\r\n").writerow(row)
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
    # The bytes of names that are no text, which Python keeps in this way, become themselves again.
    return "".join(lines).encode(errors="surrogateescape")


def _rounded(value: Any) -> Any:
    return "" if value is None or np.isnan(value) else f"{value:.6g}"


def _field(value: Any) -> Any:
    if isinstance(value, (float, np.floating)) and np.isnan(value):
        return ""
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else value


def _typed(values: Sequence[Any]) -> Any:
    """Return a column as a list in which what is missing is None."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    return [_value(one) for one in values]


def _value(one: Any) -> Any:
    if isinstance(one, str) and not one.isascii():
        one = _LONE.sub("\ufffd", one)
        # Names of files that are no text are shown with their bytes.
        return one.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return None if isinstance(one, float) and np.isnan(one) else one
