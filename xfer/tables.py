"""Files with examples, read row by row in little memory: tables, folders of pictures, arrays."""

import csv
import hashlib
import importlib
import json
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np

__all__ = ["image_folder"]

_PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".avif", ".jp2", ".ppm", ".pgm", ".pbm"),
)
_KINDS = "a folder of pictures, or a .csv, .tsv, .jsonl, .parquet or .npz file"
_LONGEST_FIELD = 2**31 - 1  # the csv module's own limit is 131,072 characters


def image_folder(path: str | os.PathLike[str]) -> tuple[list[str], np.ndarray]:
    """List the pictures of a folder that has one folder for each class.

    Pictures are found at any depth below the folder of their class, by the ending of their names.
    They are not opened. What begins with a dot is ignored; other files are named in a warning.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    paths : list of str
        Sorted by class, then by name; each begins with `path`.
    labels : ndarray of shape (n,), of str
        The folder that each is in.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, it has no pictures, a class has none, or a picture is outside
        the folders of the classes.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("red fox/1.png", "red fox/more/2.jpg", "wolf/1.png"):
    ...     (folder / name).parent.mkdir(parents=True, exist_ok=True)
    ...     (folder / name).touch()
    >>> paths, labels = image_folder(folder)
    >>> labels
    array(['red fox', 'red fox', 'wolf'], dtype='<U7')
    """
    path = Path(path)
    found = _pictures(path)
    if outside := [str(one) for one, label in found if label is None]:
        raise ValueError(
            f"{outside[0]} is in no folder of a class: {path} needs one folder for each label, "
            "with its pictures"
        )
    folders = {one.name for one in path.iterdir() if one.is_dir() and not _is_hidden(one.name)}
    if without := sorted(folders - {label for _, label in found}):
        raise ValueError(f"the folder {path / without[0]} has no pictures")
    return [str(one) for one, _ in found], np.array([label for _, label in found], str)


def is_picture(name: str) -> bool:
    """Return whether the name of a file ends like that of a picture."""
    return name.lower().endswith(_PICTURES)


class Broken(str):
    """In the place of each value of a row that cannot be read: the reason."""


class Rows(ABC):
    """The rows of a file or folder, which can be read again and again."""

    #: The names of the values in a row.
    columns: list[str]
    #: How many rows there are, for a text file estimated from the part that has been read.
    n_rows: int | None = None
    #: The types of Arrow of columns, where the file says them.
    types: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def __iter__(self) -> Iterator[Sequence[Any]]:
        """Read the rows from the first to the last."""

    def pieces(self, size: int, start: int = 0) -> Iterator[dict[str, list[Any]]]:
        """Read the rows after the first `start` as columns, `size` rows at a time."""
        rows = islice(self, start, None)
        while some := list(islice(rows, size)):
            yield dict(zip(self.columns, map(list, zip(*some))))

    def version(self) -> str:
        """Return what changes when the file changes, without reading all of it."""
        found = self.path.stat()
        return f"{self.path.absolute()} {found.st_size} {found.st_mtime_ns}"


def open_rows(path: str | os.PathLike[str]) -> Rows:
    """Open a folder or a file by its ending."""
    path = Path(path)
    kinds: dict[str, Any] = {".csv": _CsvRows, ".tsv": _CsvRows, ".npz": _ArrayRows}
    kinds.update(dict.fromkeys((".jsonl", ".ndjson"), _JsonRows))
    kinds.update(dict.fromkeys((".parquet", ".pq"), _ParquetRows))
    if path.is_dir():
        return _FolderRows(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path} must be {_KINDS}")
    try:
        return kinds[path.suffix.lower()](path)
    except (ValueError, EOFError, BadZipFile) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is broken: {error}") from error


def import_pyarrow(name: str) -> Any:
    """Import a module of pyarrow, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install pyarrow") from error


class _FolderRows(Rows):
    """Pictures, with the folder in the first place below as their label."""

    columns = ["path", "label"]

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._found = _pictures(path)
        self.n_rows = len(self._found)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return ((str(path), label) for path, label in self._found)

    def version(self) -> str:
        digest = hashlib.sha256()
        for path, _ in self._found:
            # A picture that cannot be looked at is reported when its row is read.
            found = path.stat() if path.exists() else None
            sizes = found and (found.st_size, found.st_mtime_ns)
            digest.update(f"{path} {sizes}\n".encode(errors="surrogateescape"))
        return f"{self.path.absolute()} {digest.hexdigest()}"


class _TextRows(Rows):
    """A text file; the share of its bytes that has been read tells about how many rows it has."""

    _file: IO[str] | None = None
    _n_read = 0

    @contextmanager
    def _reading(self) -> Iterator[IO[str]]:
        """Open the file; errors tell the last row that could be read."""
        self._n_read = 0
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as self._file:
                yield self._file
        except (csv.Error, json.JSONDecodeError, UnicodeDecodeError) as error:
            text = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "is broken"
            where = f"{self.path} {text} after row {self._n_read}"
            raise ValueError(f"{where}: {error}") from error

    @property
    def n_rows(self) -> int | None:  # type: ignore[override]
        if self._file is None or self._file.closed or not self._n_read:
            return self._n_read or None
        share = self._file.buffer.tell() / self.path.stat().st_size  # type: ignore[attr-defined]
        return round(self._n_read / share)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        with self._reading() as file:
            for row in self._rows(file):
                self._n_read += 1
                yield row

    def _broken(self, reason: str) -> list[Broken]:
        return [Broken(reason)] * len(self.columns)

    @abstractmethod
    def _rows(self, file: IO[str]) -> Iterator[Sequence[Any]]:
        """Read the rows of an open file."""


class _CsvRows(_TextRows):
    """A CSV file with a line of names; fields may have quotes and newlines."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        csv.field_size_limit(_LONGEST_FIELD)
        with self._reading() as file:
            # Spreadsheets write semicolons where numbers have commas.
            self._separator = max(",;\t", key=file.readline().count)
            file.seek(0)
            self.columns = next(self._reader(file), [])
        _check_names(path, self.columns)

    def _reader(self, file: IO[str]) -> Iterator[list[str]]:
        return csv.reader(file, delimiter=self._separator, strict=True)

    def _rows(self, file: IO[str]) -> Iterator[Sequence[Any]]:
        reader = self._reader(file)
        next(reader)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):  # a quote that was not closed hides other rows
                    raise
                yield self._broken(f"it is not CSV: {error}")
                continue
            if len(row) == len(self.columns):
                yield row
            elif row:  # empty lines are no rows
                yield self._broken(
                    f"it has {len(row)} fields for {len(self.columns)} columns: put fields that "
                    f'hold {self._separator!r} between quotes, "like this"'
                )


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not names or len({*names}) < len(names):
        raise ValueError(f"{path} must have columns with names that differ, got {[*names]}")


class _JsonRows(_TextRows):
    """JSON lines, with the names of the first one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._reading() as file:
            found = (_json(line) for line in file)
            self.columns = list(next((row for row in found if isinstance(row, dict)), {}))
        if not self.columns:
            raise ValueError(f"{path} must have lines like {{...}}")

    def _rows(self, file: IO[str]) -> Iterator[Sequence[Any]]:
        for line in filter(str.strip, file):
            row = _json(line)
            if isinstance(row, Exception):
                yield self._broken(f"it is not JSON: {row}")
            elif not isinstance(row, dict):
                yield self._broken(f"it must be like {{...}}, got {line:.40}")
            elif more := [name for name in row if name not in self.columns]:
                yield self._broken(f"it has {more[0]!r}, which the first row does not have")
            else:
                yield [row.get(name) for name in self.columns]


def _json(line: str) -> Any:
    """Return what a line holds, or what is wrong with it."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
        return error


class _ParquetRows(Rows):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with self._open() as file:
            self.columns, self.n_rows = file.schema_arrow.names, file.metadata.num_rows
            is_dictionary = import_pyarrow("pyarrow.types").is_dictionary
            kinds = [
                kind.value_type if is_dictionary(kind) else kind for kind in file.schema_arrow.types
            ]
        _check_names(path, self.columns)
        self.types = dict(zip(self.columns, kinds))

    def _open(self) -> Any:
        return import_pyarrow("pyarrow.parquet").ParquetFile(self.path)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        with self._open() as file:
            for batch in file.iter_batches(1024):
                yield from zip(*batch.to_pydict().values())


class _ArrayRows(Rows):
    """The arrays of an .npz file that have as many rows as the longest one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        self.n_rows = max((len(one) for one in found.values() if one.ndim), default=0)
        self._arrays = {n: one for n, one in found.items() if one.ndim and len(one) == self.n_rows}
        self.columns = list(self._arrays)
        if others := [
            f"{n} of shape {one.shape}" for n, one in found.items() if n not in self.columns
        ]:
            warnings.warn(
                f"{path}: {', '.join(others)} is left out, because the longest array has "
                f"{self.n_rows} rows",
                stacklevel=3,
            )
        if not self.columns:
            raise ValueError(f"{path} must have an array with a row for each example")

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return zip(*(one.tolist() if one.ndim == 1 else one for one in self._arrays.values()))


def _pictures(path: Path) -> list[tuple[Path, str | None]]:
    """List all pictures below a folder, each with the folder of its class or None."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    found, others = list[tuple[Path, str | None]](), list[str]()
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        inside = Path(folder).relative_to(path).parts
        for name in names:
            if is_picture(name) and not _is_hidden(name):
                found.append((Path(folder, name), inside[0] if inside else None))
            elif not _is_hidden(name):
                others.append(str(Path(folder, name)))
    if not found:
        endings = " ".join(_PICTURES)
        raise ValueError(f"{path} has no pictures: no file in it ends in one of {endings}")
    if others:
        some = ", ".join(sorted(others)[:3])
        warnings.warn(
            f"{len(others)} files in {path} do not end like pictures and are left out: {some}",
            stacklevel=3,
        )
    return sorted(found, key=lambda one: (one[1] or "", str(one[0])))


def _is_hidden(name: str) -> bool:
    return name.startswith(".")
