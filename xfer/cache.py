"""Features kept in one SQLite file by example, so that no example passes through a network twice.

SQLite gives commits that survive a killed process, many readers and writers, and reuse of space.
This module adds a checksum for every row, a size limit, and digests of examples by their content.
"""

import hashlib
import json
import math
import os
import sqlite3
import sys
import threading
import time
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

_HEADER = int.from_bytes(b"xfer"), 1  # application id and format, kept by SQLite for us
_SCHEMA = f"""
PRAGMA page_size = {2**14};  -- large pages, so that few rows need a chain of them
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS keys (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE, shape TEXT, seal BLOB, used REAL);
CREATE TABLE IF NOT EXISTS features (key_id INTEGER, digest BLOB, checksum INTEGER, row BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS places ON features (key_id, digest);
PRAGMA application_id = {_HEADER[0]};
PRAGMA user_version = {_HEADER[1]};
COMMIT;
"""
_ROWS_PER_QUERY = 500
_WAIT_SECONDS = 60.0  # for other processes to finish writing
_TOUCH_SECONDS = 1.0  # the last use of a key is noted at most this often
_Found = tuple[np.ndarray, np.ndarray | None]

# A SQLite connection must not be carried into a forked process, not even to close it there. So a
# fork waits until no thread uses a cache, and closes them; each process opens its own again.
_lock = threading.RLock()
_caches: "weakref.WeakSet[FeatureCache]" = weakref.WeakSet()


def _close_before_fork() -> None:
    _lock.acquire()
    for cache in list(_caches):
        cache._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_close_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release
    )


class FeatureCache:
    """Features kept on disk by example, in one SQLite file.

    Features are found by a key (network, layer, pooling, shape of the inputs) and the content of
    the example, whatever the order and the batches. Many processes and threads may share the file.

    Rows are committed when ``write`` returns: a killed process loses only what it was writing. A
    damaged row counts as missing. If the disk is full or the file itself is damaged, one warning
    says so; then nothing more is kept, and work goes on without the cache.

    Parameters
    ----------
    path : str or path-like
        The file, made by the first ``write``. For an existing folder, or a path that ends with a
        separator, it is ``features.sqlite`` in that folder. A file that cannot be written is an
        OSError when there is something to write.
    max_bytes : int, default=10 GiB
        Largest size of the file. When it is reached, the least recently used keys are deleted.

    Raises
    ------
    ValueError
        If the file is not a feature cache of this format (it is left as it was), or ``max_bytes``
        is not an integer >= 1.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> cache = FeatureCache(tempfile.mkdtemp())
    >>> key = {"network": "f3a9", "layer": "pooled"}
    >>> cache.write(key, example_digests(["a ship", "a plane"]), np.array([[1, 2], [3, 4]], "f4"))
    >>> found, rows = cache.read(key, example_digests(["a plane", "a train", "a ship"]))
    >>> found
    array([ True, False,  True])
    >>> rows
    array([[3., 4.],
           [1., 2.]], dtype=float32)
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 10 * 2**30) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, Integral) or max_bytes < 1:
            raise ValueError(f"max_bytes must be an integer >= 1, got {max_bytes!r}")
        is_folder = os.fspath(path).endswith((os.sep, os.altsep or os.sep))
        path = Path(path).expanduser().absolute()
        self.path: Path = path / "features.sqlite" if is_folder or path.is_dir() else path
        self.max_bytes: int = int(max_bytes)
        self._reads: bool = True
        self._writes: bool = True
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        _caches.add(self)
        self._use(_pragma, "user_version", default=0)  # refuses a file that is not a cache

    def read(self, key: dict[str, Any], digests: list[bytes]) -> _Found:
        """Read the features that are there.

        Parameters
        ----------
        key : dict
            What decides the features beside the example, as JSON can hold it.
        digests : list of bytes of shape (n,)
            The examples, from :func:`example_digests`.

        Returns
        -------
        found : ndarray of shape (n,), bool
            Which examples have features here.
        rows : ndarray of shape (n_found, ...), float32, or None
            Their features, in the order asked for. None if nothing is known of the key.
        """
        key_text = json.dumps(key, sort_keys=True)
        nothing = np.zeros(len(digests), bool), None
        return self._use(_read, key_text, digests, default=nothing)

    def write(self, key: dict[str, Any], digests: list[bytes], rows: np.ndarray) -> None:
        """Keep features, and warn once if ``max_bytes`` or the disk has no room for them.

        Parameters
        ----------
        key : dict
            As for ``read``.
        digests : list of bytes of shape (n,)
            The examples.
        rows : ndarray of shape (n, ...), float32
            Their features.

        Raises
        ------
        ValueError
            If there are not as many rows as digests, or the key has features of another shape.
        OSError
            If the file cannot be written.
        """
        key_text = json.dumps(key, sort_keys=True)
        rows = np.asarray(rows, "<f4")
        if rows.shape[:1] != (len(digests),):
            raise ValueError(f"{len(digests)} digests came with features of shape {rows.shape}")
        if not digests:
            return
        work = _write, key_text, digests, rows, self.max_bytes
        if not self._use(*work, default=True, writing=True):
            self._writes = False
            self._warn(f"max_bytes is {self.max_bytes:,}; give it a higher max_bytes")

    def clear(self) -> None:
        """Delete all features."""
        self._reads = self._writes = True
        self._use(
            sqlite3.Connection.executescript,
            "BEGIN IMMEDIATE; DELETE FROM features; DELETE FROM keys;"
            "PRAGMA incremental_vacuum; COMMIT; PRAGMA wal_checkpoint(TRUNCATE)",
            default=None,
        )

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        page_bytes = self._use(_pragma, "page_size", default=0)
        return page_bytes * self._use(_pragma, "page_count", default=0)

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r}, max_bytes={self.max_bytes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(FeatureCache, max_bytes=self.max_bytes), (str(self.path),)

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._close()

    def _use(
        self, work: Callable[..., Any], *arguments: Any, default: Any, writing: bool = False
    ) -> Any:
        """Call `work` with a connection; return `default` if there is none, or SQLite fails."""
        with _lock:
            try:
                is_used = self._writes if writing else self._reads
                connection = self._connect(writing) if is_used else None
                return default if connection is None else work(connection, *arguments)
            except BaseException as error:
                self._close()  # which undoes what was not committed
                if not isinstance(error, sqlite3.Error | OSError):
                    raise
                self._explain(error, writing)
                return default

    def _connect(self, writing: bool) -> sqlite3.Connection | None:
        """Open the file unless it is open; None if there is no file and none is needed."""
        file = _identity(self.path)
        if self._connection is None or self._file != file:  # it was deleted or replaced
            self._close()
            if file is None and not writing:
                return None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._prepare(self._connection)
            self._file = _identity(self.path)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables of a new file; refuse a file of another kind before changing it."""
        connection.text_factory = bytes  # damaged text need not be UTF-8
        if _pragma(connection, "page_count") == 0:
            connection.executescript(_SCHEMA)
        header = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        if header != _HEADER:
            raise ValueError(
                f"{self.path} is a SQLite database, but not a feature cache that this version of "
                "xfer can use; give FeatureCache another file"
            )
        # A commit survives a killed process; a power failure may cost the last commits.
        connection.executescript(
            "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL"
        )

    def _close(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _explain(self, error: sqlite3.Error | OSError, writing: bool) -> None:
        """Raise an error that says what to do, or warn and go on without the file."""
        if isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
            raise error  # a wrong call, not a problem of the file
        default = sqlite3.SQLITE_CANTOPEN if isinstance(error, OSError) else sqlite3.SQLITE_CORRUPT
        code = getattr(error, "sqlite_errorcode", default) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            raise ValueError(
                f"{self.path} is not a SQLite database, so it is not a feature cache; "
                "give FeatureCache another file"
            ) from error
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise OSError(
                f"cannot open or write the feature cache {self.path}: {error}; give FeatureCache "
                "a file that can be written"
            ) from error
        self._writes, self._reads = False, self._reads and writing
        advice = "" if code == sqlite3.SQLITE_FULL else "; if the file is damaged, delete it"
        self._warn(f"{error}{advice}")

    def _warn(self, reason: str) -> None:
        message = f"the feature cache {self.path} keeps no more features"
        warnings.warn(f"{message}, they are only computed: {reason}", UserWarning, stacklevel=2)


def _read(connection: sqlite3.Connection, key_text: str, digests: list[bytes]) -> _Found:
    """Read rows; those that fail their checksum count as missing."""
    known = _find_key(connection, key_text)
    if known is None:
        return np.zeros(len(digests), bool), None
    key_id, shape, seal = known
    _touch(connection, key_id)
    size = 4 * math.prod(shape)
    rows: dict[bytes, bytes] = {}
    for digest, checksum, row in _select(connection, "digest, checksum, row", key_id, digests):
        is_whole = isinstance(row, bytes) and len(row) == size
        if is_whole and checksum == _checksum(seal, digest, row):
            rows[digest] = row
    found = [digest in rows for digest in digests]
    content = bytearray().join([rows[digest] for digest in digests if digest in rows])
    return np.array(found, bool), np.frombuffer(content, "<f4").reshape(sum(found), *shape)


def _write(
    connection: sqlite3.Connection,
    key_text: str,
    digests: list[bytes],
    rows: np.ndarray,
    max_bytes: int,
) -> bool:
    """Write rows in one transaction; False if there is no room for them."""
    shape = rows.shape[1:]
    connection.execute("BEGIN IMMEDIATE")
    known = _find_key(connection, key_text)
    if known is None:
        seal = _seal(key_text, json.dumps(shape).encode())
        # A key that is there, but damaged, is written anew under its id.
        insert = (
            "INSERT OR REPLACE INTO keys (id, key, shape, seal) "
            "VALUES ((SELECT id FROM keys WHERE key = ?1), ?1, ?2, ?3) RETURNING id"
        )
        values = [key_text, json.dumps(shape), seal]
        known = connection.execute(insert, values).fetchall()[0][0], shape, seal
    key_id, known_shape, seal = known
    if known_shape != shape:
        raise ValueError(
            f"the features of one example have shape {shape}, those in the cache {known_shape}: "
            "the key must name everything that decides the shape"
        )
    connection.execute("UPDATE keys SET used = ? WHERE id = ?", [time.time(), key_id])
    contents = ((digest, row.tobytes()) for digest, row in zip(digests, rows))
    connection.executemany(
        "INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)",
        ((key_id, digest, _checksum(seal, digest, row), row) for digest, row in contents),
    )
    n_found = sum(1 for _ in _select(connection, "1", key_id, digests))
    if n_found < len(set(digests)):  # SQLite did not notice that its index is damaged
        raise sqlite3.DatabaseError("rows just written cannot be found")
    n_pages = max_bytes // _pragma(connection, "page_size")
    has_room = _make_room(connection, key_id, n_pages)
    connection.execute("COMMIT" if has_room else "ROLLBACK")
    excess = _pragma(connection, "page_count") - n_pages
    if has_room and excess > 0:
        connection.executescript(f"PRAGMA incremental_vacuum({excess})")
    return has_room


def _select(
    connection: sqlite3.Connection, columns: str, key_id: int, digests: list[bytes]
) -> Iterator[tuple[Any, ...]]:
    """Look up rows, in any order."""
    for start in range(0, len(digests), _ROWS_PER_QUERY):
        some = digests[start : start + _ROWS_PER_QUERY]
        places = f"key_id = ? AND digest IN ({', '.join('?' * len(some))})"
        query = f"SELECT {columns} FROM features WHERE {places}"
        yield from connection.execute(query, [key_id, *some])


def _find_key(
    connection: sqlite3.Connection, key_text: str
) -> tuple[int, tuple[int, ...], bytes] | None:
    """Look up the id, shape and seal of a key; None if it is not there, or damaged."""
    query = "SELECT id, shape, seal FROM keys WHERE key = ?"
    for key_id, shape, seal in connection.execute(query, [key_text]).fetchall():
        if seal == _seal(key_text, shape):
            return key_id, tuple(json.loads(shape)), seal
    return None


def _touch(connection: sqlite3.Connection, key_id: int) -> None:
    """Note that a key is in use, if the file can be written now."""
    now = time.time()
    query = "SELECT 1 FROM keys WHERE id = ? AND used > ?"
    if connection.execute(query, [key_id, now - _TOUCH_SECONDS]).fetchone() is None:
        with suppress(sqlite3.OperationalError):
            connection.execute("UPDATE keys SET used = ? WHERE id = ?", [now, key_id])


def _make_room(connection: sqlite3.Connection, key_id: int, n_pages: int) -> bool:
    """Delete the keys least recently used; False if this one alone is too large."""
    while _pragma(connection, "page_count") - _pragma(connection, "freelist_count") > n_pages:
        query = "SELECT id FROM keys WHERE id != ? ORDER BY used LIMIT 1"
        oldest = connection.execute(query, [key_id]).fetchone()
        if oldest is None:
            return False
        connection.execute("DELETE FROM features WHERE key_id = ?", oldest)
        connection.execute("DELETE FROM keys WHERE id = ?", oldest)
    return True


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _seal(key_text: str, shape_text: Any) -> bytes:
    """Tie a key to the shape of its features."""
    return hashlib.sha256(repr((key_text, shape_text)).encode()).digest()


def _checksum(seal: bytes, digest: bytes, row: bytes) -> int:
    """Tie a row to its key and example, so that a row in a wrong place counts as damaged too."""
    return zlib.crc32(row, zlib.crc32(seal + digest))


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from one that took its name; None if there is no file."""
    with suppress(FileNotFoundError, NotADirectoryError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


# The fastest hash of hashlib where the processor helps; half of its 32 bytes is enough.
_hash = partial(hashlib.sha256, usedforsecurity=False)


def example_digests(examples: Mapping[str, np.ndarray] | Iterable[Any]) -> list[bytes]:
    """Digest each example by its content: equal content, equal digest, in any process and batch.

    Parameters
    ----------
    examples : dict of str to ndarray of shape (n, ...), or list
        Inputs of a network, or raw examples: str, bytes, numbers, arrays, tensors, PIL images,
        paths, and tuples, lists and dicts of these. A path, and a str that names an existing file,
        count with the content of the file.

    Returns
    -------
    list of bytes of shape (n,)
        16 bytes for each example.

    Raises
    ------
    TypeError
        If an example is of another kind.
    ValueError
        If the arrays differ in length, or there is none.

    Examples
    --------
    >>> first, second, third = example_digests(["a ship", "a plane", "a ship"])
    >>> first == third, first == second
    (True, False)
    """
    if not isinstance(examples, Mapping):
        return [_digest(example) for example in examples]
    arrays = {name: _plain(array) for name, array in examples.items()}
    lengths = {name: array.shape[:1] for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise ValueError(f"the arrays must be of one length, got {lengths}")
    (n_examples,) = next(iter(lengths.values()))
    return [_digest({name: a[i] for name, a in arrays.items()}) for i in range(n_examples)]


def _digest(value: Any) -> bytes:
    digest = _hash()
    _feed(digest, value)
    return digest.digest()[:16]


def _feed(digest: Any, value: Any) -> None:
    """Feed a value to a hash, so that no two different values feed the same bytes."""
    kind = type(value)
    if kind in (type(None), bool, int, float, complex):
        _feed_bytes(digest, kind.__name__, repr(value).encode())
    elif isinstance(value, str):
        _feed_bytes(digest, "text", value.encode("utf-8", "surrogatepass"))
        if os.path.isfile(value):
            with suppress(OSError):  # a text that happens to name a file that nobody may read
                _feed_file(digest, value)
    elif isinstance(value, os.PathLike):
        _feed_bytes(digest, "path", os.fsencode(value))
        _feed_file(digest, value)
    elif isinstance(value, bytes | bytearray):
        _feed_bytes(digest, "bytes", value)
    elif isinstance(value, np.ndarray | np.generic):
        _feed_array(digest, "array", _plain(value))
    elif isinstance(value, list | tuple):
        _feed_bytes(digest, "list" if isinstance(value, list) else "tuple", b"%d" % len(value))
        for item in value:
            _feed(digest, item)
    elif isinstance(value, Mapping):
        _feed_bytes(digest, "dict", b"%d" % len(value))
        for name in sorted(value, key=repr):
            if isinstance(name, str):  # never a path
                _feed_bytes(digest, "name", name.encode("utf-8", "surrogatepass"))
            else:
                _feed(digest, name)
            _feed(digest, value[name])
    elif "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image):
        pixels = value.tobytes()  # this loads the file, which may add to `info`
        # What else decides how an image is turned, converted to RGBA or to another profile.
        info = {name: value.info.get(name) for name in ("transparency", "exif", "icc_profile")}
        kind_of_image = repr((value.mode, value.size, value.getpalette()))
        _feed_bytes(digest, "image", kind_of_image.encode())
        _feed(digest, (pixels, info))
    elif hasattr(value, "dtype") and (hasattr(value, "__array__") or hasattr(value, "asnumpy")):
        _feed_tensor(digest, value)
    else:
        raise TypeError(
            f"an example of type {kind.__module__}.{kind.__qualname__} cannot be told from others "
            "by its content; examples may be str, bytes, numbers, arrays, tensors, PIL images, "
            "pathlib.Path, and lists, tuples and dicts of these"
        )


def _feed_bytes(digest: Any, kind: str, content: bytes | bytearray) -> None:
    digest.update(f"{kind} {len(content)}:".encode())
    digest.update(content)


def _feed_file(digest: Any, path: str | os.PathLike[str]) -> None:
    with open(path, "rb") as file:
        _feed_bytes(digest, "file", hashlib.file_digest(file, _hash).digest())


def _feed_array(digest: Any, kind: str, array: np.ndarray) -> None:
    dtype = array.dtype.newbyteorder("<")
    if dtype.kind in "OUS":
        # Item by item: the width of a text array is that of its longest text.
        _feed_bytes(digest, kind, repr(array.shape).encode())
        for item in array.ravel().tolist():
            _feed(digest, item)
    elif dtype.kind in "biufcmM":
        _feed_bytes(digest, f"{kind} {dtype.str} {array.shape}", array.astype(dtype).tobytes())
    else:
        raise TypeError(f"arrays must be of numbers, times or text, got dtype {dtype}")


def _feed_tensor(digest: Any, tensor: Any) -> None:
    kind = f"{type(tensor).__module__}.{type(tensor).__qualname__} {tensor.dtype}"
    for method in ("detach", "cpu"):
        tensor = getattr(tensor, method, lambda kept=tensor: kept)()
    if "bfloat16" in kind and hasattr(tensor, "float"):
        tensor = tensor.float()  # exact; NumPy has no such type
    array = tensor.asnumpy() if hasattr(tensor, "asnumpy") else np.asarray(tensor)
    if array.dtype == object:
        raise TypeError(f"an example of type {kind} does not become an array of numbers")
    _feed_array(digest, kind, array)


def _plain(array: Any) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("an example is a masked array; fill it, or give data and mask in a tuple")
    return np.asarray(array)
