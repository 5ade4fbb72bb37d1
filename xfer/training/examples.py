"""Labelled examples to train on: in memory, or read anew in every epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from typing import Any

import numpy as np
from numpy.random import RandomState

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """Inputs of a network, class indices, and the rows of the examples where they have numbers."""

    inputs: Inputs
    targets: np.ndarray
    index: np.ndarray | None = None


@dataclass(frozen=True)
class Examples:
    """Examples in memory: inputs, or raw examples that `prepare` makes inputs of."""

    given: Inputs | list[Any]
    targets: np.ndarray
    prepare: Callable[[Any], Inputs]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: np.ndarray) -> "Examples":
        """Pick some of the examples."""
        if isinstance(self.given, dict):
            given: Any = {name: array[index] for name, array in self.given.items()}
        else:
            given = [self.given[i] for i in index]
        return replace(self, given=given, targets=self.targets[index])

    def prepared(self) -> "Examples":
        """Make the inputs of all examples."""
        return replace(self, given=self.prepare(self.given))

    def inputs(self, size: int) -> Iterator[Inputs]:
        """Yield the inputs of all examples in their order, in batches."""
        for start in range(0, len(self), size):
            some = self.take(np.arange(start, min(start + size, len(self))))
            yield self.prepare(some.given)

    def steps(self, size: int) -> int:
        """Count the batches of an epoch."""
        return -(-len(self) // min(size, len(self)))

    def epochs(self, size: int, random: RandomState) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each epoch: all examples in a random order, then in another."""
        size, steps = min(size, len(self)), self.steps(size)
        order = chain.from_iterable(random.permutation(len(self)) for _ in count())
        indices = (np.fromiter(islice(order, size), int) for _ in count())
        batches = (
            Batch(self.prepare(self.take(index).given), self.targets[index], index)
            for index in indices
        )
        return (islice(batches, steps) for _ in count())


@dataclass(frozen=True)
class Stream:
    """Examples of a loader, which makes its batches anew in every epoch."""

    read: Callable[[], Iterator[Batch]]
    n_batches: int

    def steps(self, size: int) -> int:
        """Count the batches of an epoch."""
        return self.n_batches

    def epochs(self, size: int, random: RandomState) -> Iterator[Iterator[Batch]]:
        """Yield the batches of each epoch."""
        return (self.read() for _ in count())


def split(
    targets: np.ndarray, fraction: float, random: RandomState
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the rows to train on, and a fraction of each class, but never its last one."""
    n = len(targets)
    if not fraction:
        return np.arange(n), None
    counts = np.bincount(targets)[targets]
    order = random.permutation(n)
    order = order[np.argsort(targets[order], kind="stable")]
    first = np.searchsorted(targets[order], targets)
    rank = np.argsort(order) - first
    share = np.where(rank < counts - 1, (rank + random.uniform(size=n)) / counts, 1)
    n_held_out = min(round(fraction * n), (share < 1).sum())
    if not n_held_out:
        raise ValueError(
            f"validation_fraction={fraction} leaves none of {n} examples to hold out; training "
            "needs at least one per class"
        )
    order = np.argsort(share)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
