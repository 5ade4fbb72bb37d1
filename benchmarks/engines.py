"""Speed and memory of MXNet networks on ONNX Runtime, on correctly bound MXNet and on PyTorch.

Run with ``python benchmarks/engines.py``; PyTorch is included if it is installed, for example by
``pip install '.[benchmarks]'``. Speeds are medians over rounds in which all take turns in one
process. Memory is measured in a separate process for each.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import xfer

import mxnet as mx  # isort: skip
from sources import cifar10, module, newsgroups

from xfer.checkpoint.network import Network
from xfer.checkpoint.onnx_builder import BATCH
from xfer.checkpoint.params import write_params
from xfer.sources.checkpoint import CheckpointSource

ROUNDS = 5
BATCH_SIZE = 32


def main():
    """Print the tables."""
    peak = matrix_product_peak()
    print(f"matrix products of NumPy on this machine: {peak / 1e9:,.0f} GFLOP/s\n")
    print("| | examples/s | against MXNet | share of the peak | largest difference from MXNet |")
    print("| --- | --- | --- | --- | --- |")
    for name, make in NETWORKS.items():
        speeds(name, *make(), peak)
    print("\n| | conversion s | warm batch s | first result s | compared with MXNet s | ratios |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make in {**NETWORKS, "resnet50_v1 at 224": lambda: zoo("resnet50_v1")}.items():
        first_result(name, *make())
    print("\n| | peak memory MB | parameters MB | output MB |")
    print("| --- | --- | --- | --- |")
    for name, make in NETWORKS.items():
        peak_memories(name, *make())


def speeds(name, network, layer, inputs, peak):
    """Print a row for each engine."""
    sources = {
        f"xfer, {engine}": CheckpointSource(network, engine=engine)
        for engine in ("onnxruntime", "mxnet")
    }
    ways = {
        way: lambda source=source: source.extract(inputs, layer, batch_size=BATCH_SIZE).matrix
        for way, source in sources.items()
    }
    if find_spec("torch"):
        plain = plain_torch(network, layer)
        ways["plain PyTorch"] = lambda: plain(inputs)
    outputs = {way: run() for way, run in ways.items()}
    seconds = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    work = operations(network, layer, inputs)
    expected = outputs["xfer, mxnet"]
    for way, taken in seconds.items():
        ratio = np.median(np.divide(seconds["xfer, mxnet"], taken))
        speed = len(inputs) / np.median(taken)
        error = np.abs(outputs[way] - expected).max() / np.abs(expected).max()
        share = speed * work / peak
        print(
            f"| {name}: {way} | {speed:,.0f} | {ratio:.2f} | {share:.0%} | {error:.0e} |",
            flush=True,
        )


def first_result(name, network, layer, inputs):
    """Print the time to the first result."""
    batch = inputs[:BATCH_SIZE]
    conversions, firsts, compared, warms = [], [], [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        source = CheckpointSource(anew(network), engine="onnxruntime")
        source._conversion({network.input_names[0]: (BATCH, *batch.shape[1:])})
        conversions.append(time.perf_counter() - start)
        source.extract(batch, layer)
        firsts.append(time.perf_counter() - start)
        start = time.perf_counter()
        source.extract(batch, layer)
        warms.append(time.perf_counter() - start)
        start = time.perf_counter()
        CheckpointSource(anew(network), compare=True).extract(batch, layer)
        compared.append(time.perf_counter() - start)
    conversion, first, checked, warm = map(np.median, (conversions, firsts, compared, warms))
    seconds = " | ".join(f"{figure:.3f}" for figure in (conversion, warm, first, checked))
    ratios = ", ".join(f"{figure / (conversion + warm):.2f}" for figure in (first, checked))
    print(f"| {name} | {seconds} | {ratios} |", flush=True)


def anew(network):
    """Return a newly opened network."""
    return Network(network.json, network.arguments, network.statistics, network.input_names, [])


def peak_memories(name, network, layer, inputs):
    """Print the memory that each engine takes to load a checkpoint and extract features."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "net-symbol.json").write_text(network.json)
        write_params(f"{folder}/net-0000.params", network.parts()[1])
        np.save(f"{folder}/inputs.npy", inputs)
        for engine in ("onnxruntime", "mxnet"):
            command = [sys.executable, __file__, folder, layer, engine]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            print(f"| {name}: {engine} | " + " | ".join(f"{f:.0f}" for f in figures) + " |")


def memory(folder, layer, engine):
    """Print what a checkpoint and its features add to a process that holds the inputs."""
    inputs = np.load(f"{folder}/inputs.npy")
    small = CheckpointSource(tiny(), engine=engine)
    small.extract(np.zeros((2, 3), np.float32), small.layer_names[-1])
    before = peak_memory()
    source = xfer.load_checkpoint(f"{folder}/net", engine=engine)
    matrix = source.extract(inputs, layer, batch_size=BATCH_SIZE).matrix
    added = peak_memory() - before
    parameters = sum(array.nbytes for array in source.network.parameters.values())
    print(json.dumps([added, parameters / 1e6, matrix.nbytes / 1e6]))


def peak_memory():
    """Return the peak memory of this process in MB, without that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000


def matrix_product_peak(size=2048):
    """Measure floating-point operations per second of NumPy's matrix product."""
    left = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        left @ left
        taken.append(time.perf_counter() - start)
    return 2 * size**3 / min(taken)


def operations(network, layer, inputs):
    """Count multiplications and additions of convolutions and dense layers for one example."""
    name = network.input_names[0]
    shapes = {name: (network.data_types[name], (1, *inputs.shape[1:]))}
    layers = {found[0]: found[2] for found in network.layers(shapes)}
    total = 0
    for node in network.prune([layer]).nodes:
        if node.operator in ("Convolution", "FullyConnected"):
            weight = network.arguments[f"{node.name.removesuffix('_fwd')}_weight"]
            positions = np.prod(layers[node.name][2:]) if node.operator == "Convolution" else 1
            total += 2 * weight.size * positions
    return float(total)


def of_module(name, layer, data):
    """Return a shared network and 1,000 of its inputs."""
    source = xfer.open_source(module(name, label_names=None))
    inputs = np.asarray(data()[0][:1000], np.float32)
    return source.network, layer, inputs


def zoo(name, number=64):
    """Return a network of the zoo with random parameters, and random images of 224."""
    symbol = getattr(mx.gluon.model_zoo.vision, name)(prefix="")(mx.sym.var("data"))
    random = np.random.default_rng(0)
    shapes, _, others = symbol.infer_shape(data=(1, 3, 224, 224))

    def draw(name, shape):
        if name.endswith(("gamma", "var")):
            return np.ones(shape, np.float32)
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        return random.normal(size=shape, scale=scale).astype(np.float32)

    arguments = {n: draw(n, s) for n, s in zip(symbol.list_arguments(), shapes) if n != "data"}
    statistics = {n: draw(n, s) for n, s in zip(symbol.list_auxiliary_states(), others)}
    network = Network(symbol.tojson(), arguments, statistics, ["data"], [])
    layer = CheckpointSource(network).layer_names[-1]
    images = random.normal(size=(number, 3, 224, 224)).astype(np.float32)
    return network, layer, images


def tiny():
    """Return the smallest network, to warm up the engines."""
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, name="dense")
    arrays = {"dense_weight": np.zeros((2, 3), "f"), "dense_bias": np.zeros(2, "f")}
    return Network(symbol.tojson(), arrays, {}, ["data"], [])


def plain_torch(network, layer):
    """Return a function that runs a network in plain PyTorch."""
    import torch
    from torch.nn import functional

    # MXNet in the same process would leave it fewer threads.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    graph = network.prune([layer])
    arrays = {name: torch.tensor(array) for name, array in network.parameters.items()}

    def attribute(node, name, default=None):
        return ast.literal_eval(node.attributes.get(name, repr(default)))

    def convolution(node, x, weight, bias=None):
        stride, pad = attribute(node, "stride", (1, 1)), attribute(node, "pad", (0, 0))
        groups = attribute(node, "num_group", 1)
        return functional.conv2d(x, weight, bias, stride, pad, groups=groups)

    def batch_norm(node, x, gamma, beta, mean, variance):
        gamma = torch.ones_like(gamma) if attribute(node, "fix_gamma", True) else gamma
        eps = attribute(node, "eps", 1e-3)
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=eps)

    def pooling(node, x):
        average = node.attributes.get("pool_type", "max") == "avg"
        if attribute(node, "global_pool", False):
            return x.mean((2, 3), keepdim=True)
        kernel, pad = attribute(node, "kernel"), attribute(node, "pad", (0, 0))
        stride = attribute(node, "stride", (1, 1))
        full = node.attributes.get("pooling_convention", "valid") == "full"
        pool = functional.avg_pool2d if average else functional.max_pool2d
        return pool(x, kernel, stride, pad, ceil_mode=full)

    def dense(node, x, weight, bias=None):
        return functional.linear(x.flatten(1), weight, bias)

    kinds = {
        "Convolution": convolution,
        "BatchNorm": batch_norm,
        "Pooling": pooling,
        "FullyConnected": dense,
        "Activation": lambda node, x: getattr(torch, node.attributes["act_type"])(x),
        "elemwise_add": lambda node, x, y: x + y,
        "_plus": lambda node, x, y: x + y,
        "Flatten": lambda node, x: x.flatten(1),
        "Dropout": lambda node, x: x,
        "Concat": lambda node, *xs: torch.cat(xs, attribute(node, "dim", 1)),
        "Reshape": lambda node, x: x.reshape(attribute(node, "shape")),
        "Embedding": lambda node, x, weight: functional.embedding(x.long(), weight),
    }

    def run(batch):
        values = {}
        for number, node in enumerate(graph.nodes):
            if node.is_variable:
                values[number] = arrays.get(node.name, batch)
            else:
                values[number] = kinds[node.operator](node, *(values[s] for s, _ in node.inputs))
        return values[graph.heads[0][0]]

    def extract(inputs):
        starts = range(0, len(inputs), BATCH_SIZE)
        with torch.inference_mode():
            batches = [run(torch.tensor(inputs[start : start + BATCH_SIZE])) for start in starts]
        return torch.cat(batches).reshape(len(inputs), -1).numpy()

    return extract


NETWORKS = {
    "newsgroups_cnn": lambda: of_module("newsgroups_cnn", "dropout0", newsgroups),
    "cifar_resnet20_v1": lambda: of_module(
        "cifar_resnet20_v1", "cifarresnetv10_pool0_fwd", cifar10
    ),
    "resnet18_v1 at 224": lambda: zoo("resnet18_v1"),
    "squeezenet1.1 at 224": lambda: zoo("squeezenet1_1"),
}

if __name__ == "__main__":
    memory(*sys.argv[1:]) if len(sys.argv) > 1 else main()
