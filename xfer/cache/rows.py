"""The rows of an entry: where each example's row is, and whether it is still whole."""

import hashlib

import numpy as np

from xfer.cache.digests import DIGEST_BYTES
from xfer.cache.segments import SegmentReader, as_slice

# Rows are copied and checked in blocks that a processor's cache holds.
_BLOCK_WORDS = 2**16
# A row's place is one number: that of its segment, and below these bits its own.
_ROW_BITS = 40


class RowTable:
    """Every row that a folder holds, found by digest.

    Parameters
    ----------
    folder : Path
    seed : bytes
        What the rows are features of.
    size : int
        Numbers in a row.
    """

    def __init__(self, folder, seed, size):
        self._folder = folder
        self._size = size
        self._checksum = RowChecksum(seed, size)
        self._index = RowIndex()
        self._segments = []
        self.refresh()

    @property
    def width(self):
        """Words of 4 bytes in a record: a row and its checksum."""
        return self._size + 2

    def records(self, digests, rows):
        """Put rows and their checksums together, as a segment holds them.

        Parameters
        ----------
        digests : ndarray of shape (n, 4), uint32
        rows : ndarray of shape (n, size), float32

        Returns
        -------
        ndarray of shape (n, width), uint32
        """
        rows = np.ascontiguousarray(rows).view("<u4")
        return np.concatenate([rows, _halves(self._checksum(digests, rows))], axis=1)

    def refresh(self):
        """Learn of the rows that came since, also from other processes."""
        known = {segment.path for segment in self._segments}
        for path in sorted(self._folder.glob("*.digests")):
            if path not in known:
                self._segments.append(SegmentReader(path, self.width))
        for number, segment in enumerate(self._segments):
            first = segment.known
            try:
                digests = segment.read_new_digests()
            except OSError:  # deleted meanwhile, or unreadable
                continue
            if len(digests):
                places = np.arange(first, first + len(digests)) + (number << _ROW_BITS)
                self._index.add(_keys(digests), places)

    def read(self, digests, out, found):
        """Copy the rows that are known and whole to where they are wanted.

        Parameters
        ----------
        digests : ndarray of shape (m, 4), uint32
        out : ndarray of shape (m, ...), float32
        found : ndarray of shape (m,), bool
            Rows that are there already; the others are looked for, and set where they were found.
        """
        keys = _keys(digests)
        # Where a row is damaged, another of the same digest may be whole.
        while True:
            missing = np.flatnonzero(~found)
            places = self._index.find(keys[missing])
            known = np.flatnonzero(places >= 0)
            if not len(known):
                return
            order = known[np.argsort(places[known], kind="stable")]
            for segment, rows, targets in self._blocks(places[order], missing[order]):
                whole = self._copy(segment, rows, targets, digests, out)
                found[targets[whole]] = True
                if not whole.all():
                    self._index.forget(rows[~whole] + (segment << _ROW_BITS))

    def _blocks(self, places, targets):
        segments = places >> _ROW_BITS
        step = max(1, _BLOCK_WORDS // self.width)
        for number in np.unique(segments):
            start, stop = np.searchsorted(segments, [number, number + 1])
            for first in range(start, stop, step):
                block = slice(first, min(first + step, stop))
                yield number, places[block] - (number << _ROW_BITS), targets[block]

    def _copy(self, segment, rows, targets, digests, out):
        try:
            records = self._segments[segment].read(rows)
        except OSError:
            records = np.empty((0, self.width), "<u4")
        values, checksums = records[:, : self._size], records[:, self._size :]
        expected = self._checksum(digests[targets[: len(records)]], values)
        right = (checksums == _halves(expected)).all(axis=1)
        whole = np.zeros(len(rows), bool)
        whole[: len(records)] = right
        kept = values if right.all() else values[right]
        out[as_slice(targets[whole])] = kept.view("<f4").reshape(len(kept), *out.shape[1:])
        return whole


class RowChecksum:
    """Checksums of many rows at once: a multilinear sum of their words, modulo 2**64.

    The multipliers come from `seed`, which says what the rows are features of: a row moved to
    another entry, or given to another example, is as wrong as a damaged one. They are odd, so that
    no change of a single word goes unseen.
    """

    def __init__(self, seed, size):
        words = hashlib.shake_256(seed).digest(8 * (size + 4))
        words = np.frombuffer(words, "<u8") | np.uint64(1)
        self._of_digest, self._of_row = words[:4], words[4:]

    def __call__(self, digests, rows):
        """Compute the checksum of each row.

        Parameters
        ----------
        digests : ndarray of shape (n, 4), uint32
        rows : ndarray of shape (n, size), uint32
            The features, bit by bit.

        Returns
        -------
        ndarray of shape (n,), uint64
        """
        # Products of 32 by 64 bits: of 64 by 64, two flipped signs would cancel.
        sums = np.einsum("ij,j->i", rows, self._of_row)
        return sums + np.einsum("ij,j->i", digests, self._of_digest)


class RowIndex:
    """Finds rows by digest in sorted runs, which merge as they grow: additions stay cheap."""

    def __init__(self):
        self._runs = []

    def add(self, keys, places):
        """Add records.

        Parameters
        ----------
        keys : ndarray of shape (n,), uint64
            The first half of each digest. Should two digests ever share it, the checksum tells
            them apart.
        places : ndarray of shape (n,), int64
            Where the row of each is.
        """
        while self._runs and len(self._runs[-1][0]) <= 2 * len(keys):
            older = self._runs.pop()
            keys, places = np.concatenate([older[0], keys]), np.concatenate([older[1], places])
        order = np.argsort(keys, kind="stable")
        self._runs.append((keys[order], places[order]))

    def find(self, keys):
        """Find a place for each key, -1 where there is none."""
        found = np.full(len(keys), -1)
        for run, places in self._runs:
            at = np.searchsorted(run, keys)
            at[at == len(run)] = 0
            found = np.where(run[at] == keys, places[at], found)
        return found

    def forget(self, places):
        """Drop the records of these places, so that another row of the same digest is found."""
        kept = [~np.isin(run[1], places) for run in self._runs]
        runs = [(run[0][keep], run[1][keep]) for run, keep in zip(self._runs, kept)]
        self._runs = [run for run in runs if len(run[0])]


def digest_words(digests):
    """Turn a list of digests into an array of shape (n, 4), uint32."""
    content = b"".join(digests)
    if len(content) != DIGEST_BYTES * len(digests):
        raise ValueError(f"a digest must have {DIGEST_BYTES} bytes, as FeatureCache.digests gives")
    return np.frombuffer(content, "<u4").reshape(-1, 4)


def _keys(digests):
    return np.ascontiguousarray(digests).view("<u8")[:, 0]


def _halves(checksums):
    return checksums.view("<u4").reshape(-1, 2)
