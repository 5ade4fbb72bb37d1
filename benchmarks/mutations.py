"""Damaged checkpoints: each is read, or refused with a ValueError, in bounded time and memory.

Run with ``python benchmarks/mutations.py [mutations of each file, 10,000 by default]``. The files
are those of ``models`` in the folder that XFER_TEST_DATA names.
"""

import os
import sys
import tempfile
import time
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np

from xfer.checkpoint.convert import convert
from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_builder import BATCH, UnknownShape
from xfer.checkpoint.operators import Unsupported
from xfer.checkpoint.params import read_params, split_params
from xfer.checkpoint.symbol import MxGraph

FOLDER = Path(os.environ.get("XFER_TEST_DATA") or Path(__file__).parents[2] / "shared")

#: Counts and sizes that can mislead a reader: small ones, and the limits of each type.
EXTREMES = (0, 1, 2, 3, 7, 12, 33, 2**15, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63)
EXTREMES += (-1, -2, -(2**31), -(2**63), 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA)


def main(count=10_000):
    """Print the table."""
    print("| file | mutations | clean errors | results | slowest, ms | most memory above file |")
    print("| --- | --- | --- | --- | --- | --- |")
    for pattern, (read, headers) in MUTATED.items():
        for path in sorted((FOLDER / "models").glob(pattern)):
            errors, results, slowest, memory = fuzz(path, read, headers(path), count)
            print(f"| {path.name} | {count:,} | {errors:,} | {results:,} ", end="")
            print(f"| {slowest * 1e3:.1f} | {memory / 2**10:,.0f} KiB |", flush=True)


def fuzz(path, read, positions, count, seed=0):
    """Read mutations of a file.

    Returns
    -------
    errors, results : int
        How many were refused with a ValueError, and how many were read.
    slowest : float
        Seconds that one of them took at most, memory being traced.
    memory : int
        Bytes that one of them took at most, less the size of the file.
    """
    random, data = np.random.RandomState(seed), path.read_bytes()
    errors, seconds, memory = 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        mutated = Path(folder, path.name)
        for number in range(count):
            mutated.write_bytes(mutate(data, positions, random))
            tracemalloc.start()
            start = time.perf_counter()
            try:
                read(mutated)
            except Exception as error:
                # Other subclasses of ValueError, such as UnicodeDecodeError, are accidents.
                if type(error) not in (ValueError, Unsupported, UnknownShape):
                    raise RuntimeError(f"mutation {number} of {path}, seed {seed}") from error
                errors += 1
            seconds.append(time.perf_counter() - start)
            memory.append(tracemalloc.get_traced_memory()[1] - mutated.stat().st_size)
            tracemalloc.stop()
    return errors, count - errors, max(seconds), max(memory)


def mutate(data, positions, random):
    """Change, insert, remove or truncate bytes; half of the time at one of ``positions``."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randint(len(data) + 1)
        if random.rand() < 0.5:
            at = min(positions[random.randint(len(positions))], len(data))
        few = random.randint(1, 17)
        kind = random.choice(["flip", "extreme", "insert", "delete", "truncate"])
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << random.randint(8)
        elif kind == "extreme":
            size = int(random.choice([4, 8]))
            value = EXTREMES[random.randint(len(EXTREMES))] % 2 ** (8 * size)
            data[at : at + size] = value.to_bytes(size, "little")
        elif kind == "insert":
            data[at:at] = random.bytes(few)
        elif kind == "delete":
            del data[at : at + few]
        elif kind == "truncate" and random.rand() < 0.3:
            del data[at:]
    return bytes(data)


def params(path):
    """Read a ``.params`` file; what comes back is arrays."""
    for values in read_params(path).values():
        assert isinstance(values, np.ndarray)


def params_headers(path):
    """Find the bytes of a ``.params`` file that are not array values."""
    data, start, positions = path.read_bytes(), 0, []
    for values in read_params(path).values():
        end = data.index(values.tobytes(), start)
        positions += range(start, end)
        start = end + values.nbytes
    return [*positions, *range(start, len(data))]


def graph(path):
    """Read a ``-symbol.json`` beside its own parameters, list its layers, and convert it."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    arrays = split_params(parameters_beside(path.name))
    network = Network(MxGraph.from_json(text), *arrays, ["data"], ["softmax_label"])
    network.layers(convert(network.graph, network.parameters, network.typed(network.data_shapes)))
    shapes = {"data": (BATCH, *SHAPES[path.name.partition("-")[0]])}
    convert(network.graph, network.parameters, network.typed(shapes)).check(network.graph.heads)


@cache
def parameters_beside(name):
    """Read the parameters of a shared checkpoint, by the name of its graph."""
    prefix = name.removesuffix("-symbol.json")
    return read_params(next((FOLDER / "models").glob(f"{prefix}-*.params")))


def graph_bytes(path):
    """List all bytes of a graph; its parameters are read now, and not while it is measured."""
    parameters_beside(path.name)
    return range(path.stat().st_size)


#: Shape of one example for each network.
SHAPES = {
    "newsgroups_cnn": (300,),
    "cifar_resnet20_v1": (3, 32, 32),
    "cifar_resnet20_v2": (3, 32, 32),
    "mnist_lenet": (1, 28, 28),
}

#: Pattern of file names to a function that reads one, and one that finds its bytes of most effect.
MUTATED = {
    "*.params": (params, params_headers),
    "*-symbol.json": (graph, graph_bytes),
}

if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
