"""Batches through a network into one matrix of features, past those that a cache has."""

from collections import deque

import numpy as np

from xfer.sources.batches import join, take
from xfer.sources.data import join_labels


class Extraction:
    """Computes the features of batches, and puts them in the order of the data.

    Parameters
    ----------
    source : SourceModel
    layers : tuple of Layer
    poolings : list of str
        One for each layer.
    number : int or None
        Examples to come at most, where that is known.
    batch_size : int or None
        Examples to a batch, where that is known.
    cache : xfer.FeatureCache, optional
        Keeps features by example. Only what it lacks is computed, in full batches.
    """

    def __init__(self, source, layers, poolings, number, batch_size, cache=None):
        self.source, self.layers, self.poolings = source, layers, poolings
        self.size = batch_size or 0
        self.cache = cache
        self.entries = {}
        self.matrix = FeatureMatrix(layers, number, _in_memory if cache is None else cache.allocate)
        self.labels = []
        self.rows = 0
        self.missing = []
        self.under_way = deque()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for entries in self.entries.values():
            for entry in entries:
                entry.close()

    def add(self, batch):
        """Take the next batch: read what is kept of it, compute the rest now or soon.

        Parameters
        ----------
        batch : xfer.sources.batches.Batch
        """
        self.labels.append(batch.labels)
        rows = np.arange(self.rows, self.rows + batch.rows)
        self.rows += batch.rows
        self.matrix.make_room(self.rows)
        if self.cache is None:
            self._compute(batch.examples, rows, None)
            return
        examples = take(batch.examples, slice(batch.rows))
        digests = self.cache.digests(examples)
        gone = np.flatnonzero(~self._read(self._entries_of(examples), digests, rows))
        if len(gone):
            piece = take(examples, gone), rows[gone], [digests[number] for number in gone]
            self._wait_for_more(piece)

    def finish(self):
        """Compute what is left.

        Returns
        -------
        matrix : FeatureMatrix
        labels : ndarray of shape (n,) or None
        """
        if self.missing:
            self._compute_missing()
        while self.under_way:
            self._receive()
        self.matrix.cut(self.rows)
        return self.matrix, join_labels(self.labels)

    def _entries_of(self, examples):
        """Open what is kept of examples of this shape: of larger maps there are more features."""
        shapes = _shapes(examples)
        if str(shapes) not in self.entries:
            keys = self.source.cache_keys(self.layers, self.poolings)
            self.entries[str(shapes)] = [
                self.cache.entry({**key, "inputs": shapes}) for key in keys
            ]
        return self.entries[str(shapes)]

    def _read(self, entries, digests, rows):
        """Copy what is kept of some examples; tell of which all layers were."""
        shapes = [entry.shape for entry in entries]
        if None in shapes:
            return np.zeros(len(rows), bool)
        if self.matrix.values is None:
            self.matrix.allocate(shapes)
        found = np.ones(len(rows), bool)
        for entry, columns in zip(entries, self.matrix.columns.values()):
            found &= entry.read(digests, self.matrix.values[rows[0] : rows[-1] + 1, columns])
        return found

    def _wait_for_more(self, piece):
        self.size = max(self.size, len(piece[1]))
        if self.missing and _shapes(self.missing[0][0]) != _shapes(piece[0]):
            self._compute_missing()
        self.missing.append(piece)
        if sum(len(rows) for _, rows, _ in self.missing) >= self.size:
            self._compute_missing(self.size)

    def _compute_missing(self, number=None):
        """Compute so many of the examples that wait, by default all; the others wait on."""
        pieces, rows, digests = zip(*self.missing)
        examples, rows = join(pieces), np.concatenate(rows)
        digests = [digest for some in digests for digest in some]
        now, later = slice(number), slice(number or len(rows), None)
        rest = take(examples, later), rows[later], digests[later]
        self.missing = [rest] if len(rest[1]) else []
        self._compute(take(examples, now), rows[now], digests[now])

    def _compute(self, examples, rows, digests):
        self.size = max(self.size, len(rows))
        entries = () if self.cache is None else self._entries_of(examples)
        if self.source.one_batch_size and _count(examples) < self.size:
            # A short batch is filled up, so that every batch has one shape: with rows, for a
            # preprocess may be slow, or be given files that can be read once.
            inputs = self.source.prepare(examples, self.source._inputs_of(self.layers))
            examples = take(inputs, np.arange(self.size) % len(rows))
        started = self.source.start(examples, self.layers, self.poolings)
        self.under_way.append((started, rows, entries, digests))
        if len(self.under_way) > self.source.batches_under_way:
            self._receive()

    def _receive(self):
        started, rows, entries, digests = self.under_way.popleft()
        outputs = self.source.finish(started)
        self.matrix.write(rows, outputs)
        for entry, output in zip(entries, outputs):
            entry.append(digests, output[: len(rows)].astype(np.float32, copy=False))


class FeatureMatrix:
    """One matrix for the features of all layers; it grows only if the number was not known.

    Parameters
    ----------
    layers : sequence of Layer
    number : int or None
        Examples to come at most.
    allocate : callable
        Makes a float32 array of a shape.
    """

    def __init__(self, layers, number, allocate):
        self.layers = layers
        self.number = number
        self.empty = allocate
        self.room = number or 0
        self.values = None
        self.columns = self.shapes = {}

    def allocate(self, shapes):
        """Make the matrix for features of these shapes, one for each layer."""
        names = [layer.name for layer in self.layers]
        self.shapes = dict(zip(names, map(tuple, shapes)))
        stops = np.cumsum([int(np.prod(shape)) for shape in shapes]).tolist()
        self.columns = {n: slice(a, b) for n, a, b in zip(names, [0, *stops], stops)}
        self.values = self.empty((self.room, stops[-1]))

    def make_room(self, rows):
        """Make sure that there are so many rows."""
        if rows <= self.room:
            return
        self.room = rows if self.values is None else max(rows, self.room * 5 // 4)
        if self.values is None:
            return
        if self.values.flags.owndata:
            # A large block grows by moving pages, not bytes, so this costs no second copy.
            self.values.resize((self.room, self.values.shape[1]), refcheck=False)
        else:
            smaller, self.values = self.values, self.empty((self.room, self.values.shape[1]))
            self.values[: len(smaller)] = smaller

    def write(self, rows, outputs):
        """Put the outputs of one batch, an array for each layer, into some rows."""
        outputs = [self._only(*pair, len(rows)) for pair in zip(self.layers, outputs)]
        if self.values is None:
            self.allocate([output.shape[1:] for output in outputs])
        for layer, output in zip(self.layers, outputs):
            self._check(layer, output, rows)
            self.values[rows, self.columns[layer.name]] = output.reshape(len(rows), -1)

    def cut(self, rows):
        """Give back the room beyond some rows."""
        if rows == len(self.values):
            return
        if self.values.flags.owndata:
            self.values.resize((rows, self.values.shape[1]), refcheck=False)
        else:
            self.values = self.values[:rows]

    def _only(self, layer, output, rows):
        if output.ndim == 0 or len(output) < rows:
            raise ValueError(
                f"layer {layer.name!r} gave shape {output.shape} for a batch of {rows} examples; "
                "features need one row for each example"
            )
        return output[:rows]

    def _check(self, layer, output, rows):
        if output.shape[1:] != self.shapes[layer.name]:
            raise ValueError(
                f"layer {layer.name!r} gave shape {output.shape[1:]} for example {rows[0]}, and "
                f"{self.shapes[layer.name]} for others; features need one shape: reduce them with "
                "a pooling, such as 'masked_mean' for tokens"
            )
        if not np.isfinite(output.sum()):
            bad = np.flatnonzero(~np.isfinite(output.reshape(len(rows), -1)).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"layer {layer.name!r} gave NaN or infinity for example {rows[bad[0]]}; "
                    "the network's parameters or its input are out of range"
                )


def _in_memory(shape):
    return np.empty(shape, np.float32)


def _count(examples):
    return len(next(iter(examples.values())) if isinstance(examples, dict) else examples)


def _shapes(examples):
    """Return the shape of one example of each input; None for examples to be preprocessed."""
    if not isinstance(examples, dict):
        return None
    return {name: list(array.shape[1:]) for name, array in examples.items()}
