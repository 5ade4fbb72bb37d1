"""Features kept by example in one SQLite file, so that none is computed twice.

To SQLite this adds a checksum for every row, a size limit, and digests of examples.
"""

import hashlib
import json
import math
import os
import re
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
from pathlib import Path
from typing import Any

import numpy as np

from xfer._checks import check_integer

_HEADER = int.from_bytes(b"xfer"), 1  # application id and format, kept by SQLite for us
_READ_HEADER = """SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
FROM pragma_application_id, pragma_user_version"""
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
# A commit survives a killed process; a power failure may cost the last commits.
_SETTINGS = """PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"""
_ROW = "SELECT checksum, row FROM features WHERE key_id = ? AND digest = ?"
_SHAPE = rb"\[(\d{1,9}(, \d{1,9})*)?\]"
_WAIT_SECONDS = 60.0  # for other processes to finish writing
_TOUCH_SECONDS = 1.0  # the last use of a key is noted at most this often
_CANNOT_OPEN = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_File = sqlite3.Connection
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
    _after = dict.fromkeys(("after_in_parent", "after_in_child"), _lock.release)
    os.register_at_fork(before=_close_before_fork, **_after)


class FeatureCache:
    """Features kept on disk by example, in one SQLite file.

    Many processes and threads may share the file. A killed process loses only what it was writing,
    and a damaged row counts as missing. If the disk is full or the file is damaged, one warning
    says so and work goes on without the cache.

    Parameters
    ----------
    path : str or path-like
        The file; the first ``write`` creates it. If this is a folder, the file is
        ``features.sqlite`` in it. Any other kind of file raises ValueError.
    max_bytes : int, default=10 GiB
        Largest size of the file. When it is reached, the least recently used keys are deleted.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> cache = FeatureCache(tempfile.mkdtemp())
    >>> key = {"network": "f3a9", "layer": "pooled"}
    >>> cache.write(key, example_digests(["a ship", "a plane"]), np.array([[1, 2], [3, 4]], "f4"))
    >>> cache.read(key, example_digests(["a plane", "a train"]))
    (array([ True, False]), array([[3., 4.]], dtype=float32))
    """

    _connection: sqlite3.Connection | None = None
    _reads, _writes = True, True

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 10 * 2**30) -> None:
        self.max_bytes: int = check_integer("max_bytes", max_bytes)
        path = Path(path).expanduser().absolute()
        self.path: Path = path / "features.sqlite" if path.is_dir() else path
        _caches.add(self)
        self._use(_pragma, "user_version")  # refuses a file that is not a cache

    def read(self, key: dict[str, Any], digests: list[bytes]) -> _Found:
        """Return which examples have features here, and their features: (found, rows).

        ``key`` is a dict for JSON of everything except the example that determines the features.
        ``digests`` come from :func:`xfer.cache.example_digests`. ``rows`` is None if the key is not
        in the file.
        """
        found = self._use(_read, json.dumps(key, sort_keys=True), digests)
        return found or (np.zeros(len(digests), bool), None)

    def write(self, key: dict[str, Any], digests: list[bytes], rows: np.ndarray) -> None:
        """Keep features, an array of shape (n, ...); OSError if the file cannot be written."""
        key_text = json.dumps(key, sort_keys=True)
        rows = np.asarray(rows, "<f4")
        if rows.shape[:1] != (len(digests),):
            raise ValueError(f"{len(digests)} digests came with features of shape {rows.shape}")
        work = _write, key_text, digests, rows, self.max_bytes
        if digests and self._use(*work, writing=True) is False:
            self._give_up(f"max_bytes is {self.max_bytes:,}; give it a higher max_bytes")

    def clear(self) -> None:
        """Delete all features."""
        self._reads = self._writes = True
        delete = "BEGIN IMMEDIATE; DELETE FROM features; DELETE FROM keys;"
        shrink = "PRAGMA incremental_vacuum; COMMIT; PRAGMA wal_checkpoint(TRUNCATE)"
        self._use(sqlite3.Connection.executescript, delete + shrink)

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return self._use(lambda file: _pragma(file, "page_size") * _pragma(file, "page_count")) or 0

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r}, max_bytes={self.max_bytes})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(FeatureCache, max_bytes=self.max_bytes), (str(self.path),)

    def _use(self, work: Callable[..., Any], *arguments: Any, writing: bool = False) -> Any:
        """Call `work` with a connection; return None if there is none, or SQLite fails."""
        with _lock:
            was_open = self._connection is not None
            try:
                is_there = writing or was_open or self.path.exists()
                if not is_there or not (self._writes if writing else self._reads):
                    return None
                if not was_open:
                    self._connect()
                return work(self._connection, *arguments)
            except BaseException as error:
                self._close()  # which undoes what was not committed
                code = getattr(error, "sqlite_errorcode", 0)
                if isinstance(error, OSError) or code & 0xFF in _CANNOT_OPEN:
                    raise OSError(f"cannot open or write {self.path}: {error}") from error
                if code == sqlite3.SQLITE_NOTADB and not was_open:
                    raise ValueError(f"{self.path} is not a feature cache") from error
                if not isinstance(error, sqlite3.DatabaseError):
                    raise
                self._reads = self._reads and writing
                self._give_up(f"{error}; if the file is damaged, delete it")

    def _connect(self) -> None:
        """Open the file, and make the tables of a new one; refuse other files unchanged."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = connection = sqlite3.connect(
            self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = bytes  # damaged text need not be UTF-8
        # Another process may be creating the schema: `auto_vacuum` writes a first page.
        if connection.execute(_READ_HEADER).fetchone() == (0, 0, 0):
            connection.executescript(_SCHEMA)
        if connection.execute(_READ_HEADER).fetchone()[:2] != _HEADER:
            raise ValueError(f"{self.path} is not a feature cache of this version of xfer")
        # The change to WAL does not wait for other processes that open a new file.
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                connection.executescript(_SETTINGS)
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > end:
                    raise
                time.sleep(0.01)

    # When Python ends, what the module imported may be gone.
    def _close(self, error: type[Exception] = sqlite3.Error) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        except error:
            pass

    __del__ = _close

    def _give_up(self, reason: str) -> None:
        self._writes = False
        warnings.warn(f"the cache {self.path} stores no more features: {reason}", stacklevel=2)


def _read(file: _File, key_text: str, digests: list[bytes]) -> _Found | None:
    """Read rows; those that fail their checksum count as missing."""
    if (known := _find_key(file, key_text)) is None:
        return None
    key_id, shape, seal, is_fresh = known
    if not is_fresh:
        with suppress(sqlite3.OperationalError):  # the file may be read-only
            file.execute("UPDATE keys SET used = ? WHERE id = ?", [time.time(), key_id])
    found, content = np.zeros(len(digests), bool), bytearray()
    for i, digest in enumerate(digests):
        checksum, row = file.execute(_ROW, [key_id, digest]).fetchone() or (None, b"")
        is_whole = isinstance(row, bytes) and len(row) == 4 * math.prod(shape)
        if is_whole and checksum == _checksum(seal, digest, row):
            found[i] = True
            content += row
    return found, np.frombuffer(content, "<f4").reshape(found.sum(), *shape)


def _write(file: _File, key_text: str, digests: list[bytes], rows: Any, max_bytes: int) -> bool:
    """Write rows in one transaction, in place of keys not used for long; False without room."""
    file.execute("BEGIN IMMEDIATE")
    if (known := _find_key(file, key_text)) is None:
        shape_text = json.dumps(rows.shape[1:])
        # A key that is there, but damaged, is written anew under its id.
        old = "(SELECT id FROM keys WHERE key = ?1)"
        insert = f"INSERT OR REPLACE INTO keys (id, key, shape, seal) VALUES ({old}, ?1, ?2, ?3)"
        file.execute(insert, [key_text, shape_text, _seal(key_text, shape_text.encode())])
        known = _find_key(file, key_text)
        if known is None:  # SQLite does not always notice that its index is damaged
            raise sqlite3.DatabaseError("a key just written cannot be found")
    key_id, shape, seal, _ = known
    if shape != rows.shape[1:]:
        raise ValueError(f"features have shape {rows.shape[1:]}, but {shape} in the cache")
    file.execute("UPDATE keys SET used = ? WHERE id = ?", [time.time(), key_id])
    contents = ((digest, row.tobytes()) for digest, row in zip(digests, rows))
    new = ((key_id, digest, _checksum(seal, digest, row), row) for digest, row in contents)
    file.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)", new)
    if not all(file.execute(_ROW, [key_id, digest]).fetchone() for digest in digests):
        raise sqlite3.DatabaseError("rows just written cannot be found")
    n_pages = max_bytes // _pragma(file, "page_size")
    while _pragma(file, "page_count") - _pragma(file, "freelist_count") > n_pages:
        query = "SELECT id FROM keys WHERE id != ? ORDER BY used LIMIT 1"
        if (oldest := file.execute(query, [key_id]).fetchone()) is None:
            file.execute("ROLLBACK")
            return False
        file.execute("DELETE FROM features WHERE key_id = ?", oldest)
        file.execute("DELETE FROM keys WHERE id = ?", oldest)
    file.execute("COMMIT")
    if (excess := _pragma(file, "page_count") - n_pages) > 0:
        file.executescript(f"PRAGMA incremental_vacuum({excess})")
    return True


def _find_key(file: _File, key_text: str) -> Any:
    """Look up id, shape, seal, and whether it was used just now; None if missing or damaged."""
    query = "SELECT id, shape, seal, used > ? FROM keys WHERE key = ?"
    found = file.execute(query, [time.time() - _TOUCH_SECONDS, key_text]).fetchone()
    if found is None or found[2] != _seal(key_text, found[1]):
        return None
    # A forged shape has a right seal, too.
    if not isinstance(found[1], bytes) or not re.fullmatch(_SHAPE, found[1]):
        return None
    return found[0], tuple(json.loads(found[1])), *found[2:]


def _pragma(file: _File, name: str) -> int:
    return int(file.execute(f"PRAGMA {name}").fetchone()[0])


def _seal(key_text: str, shape_text: Any) -> bytes:
    """Tie a key to the shape of its features."""
    return hashlib.sha256(repr((key_text, shape_text)).encode()).digest()


def _checksum(seal: bytes, digest: bytes, row: bytes) -> int:
    """Tie a row to its key and example, so that a row in a wrong place counts as damaged too."""
    return zlib.crc32(row, zlib.crc32(seal + digest))


# The fastest hash of hashlib where the processor helps; half of its 32 bytes is enough.
_hash = partial(hashlib.sha256, usedforsecurity=False)


def example_digests(examples: Mapping[str, np.ndarray] | Iterable[Any]) -> list[bytes]:
    """Return 16 bytes for each example, equal where the content is, in any process and batch.

    ``examples`` are a dict of arrays of shape (n, ...), or a list of str, bytes, numbers, arrays,
    tensors, PIL images, paths, and tuples, lists and dicts of these. A path, and a str that names
    an existing file, count with the content of the file.

    Examples
    --------
    >>> first, second, third = example_digests(["a ship", "a plane", "a ship"])
    >>> first == third, first == second
    (True, False)
    """
    if isinstance(examples, Mapping):
        arrays = {name: _plain(array) for name, array in examples.items()}
        lengths = {array.shape[:1] for array in arrays.values()}
        if len(lengths) != 1 or () in lengths:
            raise ValueError(f"the arrays must be of one length, got {lengths}")
        ((length,),) = lengths
        examples = ({name: a[i] for name, a in arrays.items()} for i in range(length))
    digests = []
    for example in examples:
        digest = _hash()
        for kind, content in _parts(example):
            digest.update(f"{kind} {len(content)}:".encode())
            digest.update(content)
        digests.append(digest.digest()[:16])
    return digests


class DataHash:
    """A SHA-256 of examples in their order, the same whatever batches they come in."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}
        self._has_all = True

    def see(self, examples: Mapping[str, np.ndarray] | Iterable[Any]) -> None:
        """Add a batch: a dict of arrays of shape (n, ...), or a list of raw examples."""
        if not isinstance(examples, Mapping):
            try:
                self._of("examples").update(b"".join(example_digests(examples)))
            except (TypeError, OSError):  # what is no data, or a file that cannot be read
                self._has_all = False
            return
        for name, array in examples.items():
            of_array = self._of(f"{name} {array.dtype.str} {array.shape[1:]}")
            of_array.update(np.ascontiguousarray(array).tobytes())

    def hexdigest(self) -> str:
        """Return it in hexadecimal digits; "" if there is none."""
        if not self._has_all:
            return ""
        parts = sorted(f"{name} {one.hexdigest()}" for name, one in self._hashes.items())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else ""

    def _of(self, name: str) -> Any:
        return self._hashes.setdefault(name, hashlib.sha256())


def _parts(value: Any) -> Iterator[tuple[str, bytes]]:
    """Yield kinds and contents that differ between any two different values."""
    kind = type(value)
    if kind in (type(None), bool, int, float, complex):
        yield kind.__name__, repr(value).encode()
    elif isinstance(value, str):
        yield "text", value.encode("utf-8", "surrogatepass")
        if os.path.isfile(value):
            with suppress(OSError):  # a text that happens to name a file that nobody may read
                yield "file", _file_digest(value)
    elif isinstance(value, os.PathLike):
        yield "path", os.fsencode(value)
        yield "file", _file_digest(value)
    elif isinstance(value, bytes | bytearray):
        yield "bytes", bytes(value)
    elif isinstance(value, np.ndarray | np.generic):
        yield from _array_parts("array", _plain(value))
    elif isinstance(value, list | tuple):
        yield "list" if isinstance(value, list) else "tuple", b"%d" % len(value)
        for item in value:
            yield from _parts(item)
    elif isinstance(value, Mapping):
        yield "dict", b"%d" % len(value)
        for key in sorted(value, key=repr):
            yield "name", repr(key).encode()
            yield from _parts(value[key])
    elif "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image):
        pixels = value.tobytes()  # this loads the file, which may add to `info`
        # What else decides how an image is turned, converted to RGBA or to another profile.
        info = [value.info.get(key) for key in ("transparency", "exif", "icc_profile", "xmp")]
        # The orientation can be changed in memory.
        with suppress(Exception):  # what is not EXIF turns nothing
            info.append(value.getexif().get(0x0112))
        yield "image", repr((value.mode, value.size, value.getpalette())).encode()
        yield from _parts((pixels, info))
    elif hasattr(value, "dtype") and (hasattr(value, "__array__") or hasattr(value, "asnumpy")):
        dtype, name = str(value.dtype), f"{kind.__module__}.{kind.__qualname__}"
        value = value.detach().cpu() if hasattr(value, "cpu") else value
        # NumPy has no bfloat16, whose values float32 has too.
        value = value.float() if "bfloat16" in dtype else value
        array = value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
        yield from _array_parts(f"{name} {dtype}", array)
    else:
        allowed = "str, bytes, numbers, arrays, tensors, PIL images, paths, lists, tuples and dicts"
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(f"an example of type {name} cannot be cached; allowed are {allowed}")


def _file_digest(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _hash).digest()


def _array_parts(kind: str, array: np.ndarray) -> Iterator[tuple[str, bytes]]:
    dtype = array.dtype.newbyteorder("<")
    if dtype.kind in "OUS":
        # Item by item: the width of a text array is that of its longest text.
        yield kind, repr(array.shape).encode()
        for item in array.ravel().tolist():
            yield from _parts(item)
    elif dtype.kind in "biufcmM":
        yield f"{kind} {dtype.str} {array.shape}", array.astype(dtype).tobytes()
    else:
        raise TypeError(f"arrays must be of numbers, times or text, got dtype {dtype}")


def _plain(array: Any) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("an example is a masked array; fill it, or give data and mask in a tuple")
    return np.asarray(array)
