"""The features of one kind: what one layer gives, pooled and preprocessed in one way."""

import errno
import hashlib
import json
import math
import os
import warnings
from contextlib import suppress

import numpy as np

from xfer._files import written_whole
from xfer.cache.rows import RowTable, digest_words
from xfer.cache.segments import SegmentWriter

_FILE = "entry.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Entry:
    """The features of one kind, by example; made by :meth:`FeatureCache.entry`.

    Several processes may read and write one entry at once.

    Attributes
    ----------
    shape : tuple of int, or None
        Shape of one example's features; None before the first are kept.
    """

    def __init__(self, cache, folder, key):
        self._cache = cache
        self._folder = folder
        self._key = key
        self._allowance = 0
        self._keeps = True
        self._writer = None
        self._start(self._kept_shape())

    def read(self, digests, out):
        """Read the features that are there.

        Parameters
        ----------
        digests : list of bytes of shape (m,)
            The examples, as :meth:`FeatureCache.digests` names them.
        out : ndarray of shape (m, d) or (m, ...), float32
            Row i becomes the features of example i; it is left as it was where there are none.

        Returns
        -------
        ndarray of shape (m,), bool
            Which rows were written.

        Raises
        ------
        ValueError
            If ``out`` does not fit the features.
        """
        words = digest_words(digests)
        found = np.zeros(len(words), bool)
        for refresh in (lambda: None, self._refresh):
            refresh()
            if self.shape is not None:
                self._check_out(out, len(words))
                self._table.read(words, out, found)
            if found.all():
                break
        if found.any() and not self._is_touched:
            self._touch()
        return found

    def append(self, digests, values):
        """Keep features.

        They are on disk when this returns: a process that is killed loses none of them.

        Parameters
        ----------
        digests : list of bytes of shape (m,)
            The examples.
        values : ndarray of shape (m, ...), float32
            Their features.

        Warns
        -----
        UserWarning
            Once, if there is no room for them; they are not kept then.

        Raises
        ------
        ValueError
            If the numbers differ, or the features have another shape than those that are there.
        OSError
            If the folder cannot be written.
        """
        words = digest_words(digests)
        values = np.asarray(values, "<f4")
        self._check_values(values, len(words))
        if not len(values) or not self._keeps:
            return
        try:
            obstacle = self._append(words, values)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise self._cache.unwritable(error) from error
            obstacle = f"the disk of {self._cache.path} is full: {error.strerror}"
        if obstacle is not None:
            self._keeps = False
            message = f"features are no longer kept, only computed: {obstacle}"
            warnings.warn(message, UserWarning, stacklevel=2)

    def close(self):
        """Let others write where this did; reading and writing may go on."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return f"Entry({self._folder.name}, shape {self.shape})"

    def _start(self, shape):
        """Hold features of this shape, those that the folder has."""
        self.shape = shape
        self._table = None
        self._is_touched = False
        if shape is not None:
            self._size = math.prod(shape)
            self._table = RowTable(self._folder, self._seal(shape).encode(), self._size)

    def _refresh(self):
        if self.shape is None:
            self._start(self._kept_shape())
        else:
            self._table.refresh()

    def _append(self, words, values):
        """Write rows; or return what is in the way."""
        if self.shape is None:
            self._start(values.shape[1:])
        records = self._table.records(words, values.reshape(len(values), self._size))
        needed = records.nbytes + words.nbytes
        if needed > self._allowance:
            self._touch()
            self._allowance = self._cache.make_room(self._folder, needed)
        if needed > self._allowance:
            return (
                f"the feature cache in {self._cache.path} is full: max_bytes is "
                f"{self._cache.max_bytes:,}; give FeatureCache a higher max_bytes"
            )
        self._allowance -= needed
        self._open_writer().append(words, records)
        return None

    def _open_writer(self):
        if self._writer is None or not self._writer.usable:
            self.close()
            try:
                self._writer = self._new_writer()
            except FileNotFoundError:  # another process cleared the cache in between
                self._writer = self._new_writer()
        return self._writer

    def _new_writer(self):
        self._cache.prepare()
        self._folder.mkdir(exist_ok=True)
        if self._kept_shape() != self.shape:
            record = {"key": json.loads(self._key), "shape": self.shape}
            record["checksum"] = self._seal(self.shape)
            with written_whole(self._folder / _FILE) as file:
                file.write(json.dumps(record, indent=1).encode())
        return SegmentWriter(self._folder, self._table.width)

    def _kept_shape(self):
        """Read the shape; None where there is none, or what there is cannot be trusted."""
        try:
            record = json.loads((self._folder / _FILE).read_bytes())
            shape = tuple(record["shape"])
            return shape if record["checksum"] == self._seal(shape) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _seal(self, shape):
        return hashlib.sha256(f"xfer features 1 {list(shape)} {self._key}".encode()).hexdigest()

    def _touch(self):
        """Say that the entry is in use: the cache lets the least recently used go."""
        self._is_touched = True
        with suppress(OSError):  # not there yet, or not ours to write
            os.utime(self._folder / _FILE)

    def _check_out(self, out, number):
        flat, shaped = (number, self._size), (number, *self.shape)
        if out.dtype != np.float32 or out.shape not in (flat, shaped):
            raise ValueError(
                f"out must be float32 of shape {flat} or {shaped}, "
                f"got {out.dtype} of shape {out.shape}"
            )

    def _check_values(self, values, number):
        if values.ndim < 1 or len(values) != number:
            raise ValueError(f"{number} digests came with features of shape {values.shape}")
        if self.shape is None:
            self._refresh()
        if self.shape is not None and number and values.shape[1:] != self.shape:
            raise ValueError(
                f"the features of one example have shape {values.shape[1:]}, those in the cache "
                f"{self.shape}: the entry's key must tell apart what gives features of other shapes"
            )
