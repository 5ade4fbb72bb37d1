"""Files of rows, each with one writer at a time and any number of readers.

A segment is two files. ``.rows`` holds records of equal size: the features of one example and their
checksum. ``.digests`` holds the digest of each of these examples, and is written after it, so that
what a writer left unfinished is not seen. Nobody waits for anybody: a writer that finds every
segment taken begins another, and a record of two segments is harmless.
"""

import mmap
import os
import secrets
import weakref
from contextlib import ExitStack

import numpy as np

from xfer.cache.digests import DIGEST_BYTES

try:
    import fcntl
except ImportError:  # Windows: every writer begins a segment of its own
    fcntl = None


class SegmentReader:
    """Reads a segment, which may grow meanwhile, or be damaged.

    Parameters
    ----------
    path : Path
        Its file of digests.
    width : int
        Words of 4 bytes in a record.
    """

    def __init__(self, path, width):
        self.path = path
        self.known = 0  # records whose digests were read
        self._width = width
        self._map = None
        self._records = np.empty((0, width), "<u4")

    def read_new_digests(self):
        """Read the digests of records that came since the last call: ndarray (n, 4), uint32."""
        sizes = _size(self.path), _size(self.path.with_suffix(".rows"))
        whole = min(sizes[0] // DIGEST_BYTES, sizes[1] // (4 * self._width))
        content = b""
        if whole > self.known:
            with self.path.open("rb") as file:
                file.seek(self.known * DIGEST_BYTES)
                content = file.read((whole - self.known) * DIGEST_BYTES)
        words = np.frombuffer(content, "<u4", len(content) // DIGEST_BYTES * 4)
        self.known += len(words) // 4
        return words.reshape(-1, 4)

    def read(self, numbers):
        """Copy records out.

        Parameters
        ----------
        numbers : ndarray of int
            Their numbers, in ascending order.

        Returns
        -------
        ndarray of shape (m, width), uint32
            Fewer than were asked for where the file has become shorter.
        """
        if numbers[-1] >= len(self._records):
            self._open_map()
        # To touch a page of a map beyond the end of its file would kill the process.
        there = min(len(self._records), self._map.size() // (4 * self._width)) if self._map else 0
        numbers = numbers[: np.searchsorted(numbers, there)]
        return self._records[as_slice(numbers)].copy()

    def _open_map(self):
        with self.path.with_suffix(".rows").open("rb") as file:
            whole = os.fstat(file.fileno()).st_size // (4 * self._width)
            size = 4 * self._width * whole
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else None
        words = np.frombuffer(self._map, "<u4") if size else np.empty(0, "<u4")
        self._records = words.reshape(-1, self._width)


class SegmentWriter:
    """Appends to a segment in a folder: one that nobody writes to, or a new one.

    Parameters
    ----------
    folder : Path
    width : int
        Words of 4 bytes in a record.
    """

    def __init__(self, folder, width):
        self._width = width
        self._process = os.getpid()
        files = ExitStack()
        weakref.finalize(self, files.close)
        self._digests, self._rows, self.path = _take(folder, width, files) or _begin(folder, files)
        self.count = os.fstat(self._digests.fileno()).st_size // DIGEST_BYTES
        self.close = files.close

    @property
    def usable(self):
        """Whether this process may go on: it is not a fork, and the files were not deleted."""
        if self._process != os.getpid() or self._digests.closed:
            return False
        return os.fstat(self._digests.fileno()).st_nlink > 0

    def append(self, digests, records):
        """Write records, and then their digests."""
        _write(self._rows, self.count * 4 * self._width, records)
        _write(self._digests, self.count * DIGEST_BYTES, digests)
        self.count += len(digests)


def is_being_written(folder):
    """Tell whether a process writes to a segment in this folder, as far as the system knows."""
    for path in folder.glob("*.digests"):
        try:
            with path.open("r+b", buffering=0) as file:
                if fcntl is not None and not _lock(file):
                    return True
        except OSError:
            return True
    return False


def as_slice(numbers):
    """Turn ascending numbers without a gap into a slice, which numpy takes without a search."""
    if len(numbers) and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def _take(folder, width, files):
    for path in sorted(folder.glob("*.digests")) if fcntl is not None else ():
        with ExitStack() as opened:
            digests = opened.enter_context(path.open("r+b", buffering=0))
            if not _lock(digests) or not os.fstat(digests.fileno()).st_nlink:
                continue
            count = os.fstat(digests.fileno()).st_size // DIGEST_BYTES
            # One with fewer rows than digests is damaged, or holds rows of another shape.
            if _size(path.with_suffix(".rows")) >= max(1, count * 4 * width):
                rows = opened.enter_context(path.with_suffix(".rows").open("r+b", buffering=0))
                files.push(opened.pop_all())
                return digests, rows, path
    return None


def _begin(folder, files):
    path = folder / f"{secrets.token_hex(8)}.digests"
    # The rows first: a file of digests says that there are rows.
    rows = files.enter_context(path.with_suffix(".rows").open("x+b", buffering=0))
    digests = files.enter_context(path.open("x+b", buffering=0))
    _lock(digests)
    return digests, rows, path


def _lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (AttributeError, OSError):  # no fcntl, taken, or a file system without locks
        return False
    return True


def _write(file, start, array):
    file.seek(start)
    rest = memoryview(np.ascontiguousarray(array)).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _size(path):
    try:
        return path.stat().st_size
    except OSError:
        return 0
