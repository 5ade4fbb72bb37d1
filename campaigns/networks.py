"""Random networks: MXNet, ONNX Runtime and PyTorch give the same numbers, or xfer refuses.

Run with ``python campaigns/networks.py [--count 10000] [--seed 0] [--first 0]``; needs MXNet and
PyTorch. Each network is a random graph of operators that xfer supports, with random parameters,
some of them in half precision, and batches of 1 to 7 examples. It is saved as a checkpoint and read

- by MXNet, bound as its authors meant: without the fusions that are wrong (NONE as the backend);
- by ``xfer.load_checkpoint``, which runs it on ONNX Runtime, one batch after another;
- by ``to_torch``, as a PyTorch module.

``--first NUMBER --count 1`` repeats one network.
"""

import argparse
import os
import random
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

os.environ.update(MXNET_SUBGRAPH_BACKEND="NONE", MXNET_SUBGRAPH_VERBOSE="0")

import numpy as np
import torch

import xfer

import mxnet as mx  # isort: skip  (after xfer, so that it imports beside a newer NumPy too)

TOLERANCE = 2e-4  # of the largest number of an output


class Network:
    """A random network, and its outputs so far: (symbol, shape without the batch)."""

    def __init__(self, rng):
        self.rng, self.count = rng, 0
        self.is_image = rng.random() < 0.7
        shape = (rng.choice([1, 2, 3, 4]), rng.randint(5, 12), rng.randint(5, 12))
        self.shape = shape if self.is_image else (rng.randint(2, 20),)
        self.pool = [(mx.sym.var("data"), self.shape)]
        for _ in range(rng.randint(2, 9)):
            symbol, shape = self.choose()
            grown = self.grow(symbol, shape)
            if grown is not None:
                self.pool.append(grown)

    def choose(self):
        """Take one of the last outputs."""
        return self.rng.choice(self.pool[-3:])

    def name(self, kind):
        """Return a new name."""
        self.count += 1
        return f"{kind}{self.count}"

    def grow(self, x, shape):
        """Add an operator; None if it does not fit."""
        kinds = IMAGES if len(shape) == 3 else VECTORS
        kind = self.rng.choice(kinds)
        try:
            y = kind(self, x, shape)
        except (ValueError, IndexError):  # of randint and choice: nothing fits
            return None
        if y is None:
            return None
        _, shapes, _ = y.infer_shape(data=(3, *self.shape))
        ok = len(shapes) == 1 and shapes[0][0] == 3 and 0 < np.prod(shapes[0]) < 20_000
        return (y, shapes[0][1:]) if ok and len(shapes[0]) in (2, 4) else None

    # Images, and then what all outputs may go through.

    def convolution(self, x, shape):
        rng, transposed = self.rng, self.rng.random() < 0.15
        kernel = [rng.randint(1, min(4, side)) for side in shape[1:]]
        stride = [rng.randint(1, 2) for _ in kernel]
        pad = [rng.randint(0, size - 1) for size in kernel]
        groups = rng.choice([1, 1, 1, *(n for n in (2, 3, 4) if shape[0] % n == 0)])
        options = {"num_filter": groups * rng.randint(1, 4), "num_group": groups}
        options.update(kernel=kernel, stride=stride, pad=pad, no_bias=rng.random() < 0.3)
        if not transposed and rng.random() < 0.2:
            dilate = [
                1 if (size - 1) * 2 + 1 > side else 2 for size, side in zip(kernel, shape[1:])
            ]
            options["dilate"] = dilate
        kind = mx.sym.Deconvolution if transposed else mx.sym.Convolution
        return kind(x, name=self.name("conv"), **options)

    def pooling(self, x, shape):
        rng = self.rng
        options = {"pool_type": rng.choice(["max", "avg", "sum", "lp"])}
        if options["pool_type"] == "lp":
            options["p_value"] = 2
        if rng.random() < 0.3:
            return mx.sym.Pooling(
                x, global_pool=True, kernel=(1, 1), **options, name=self.name("p")
            )
        kernel = [rng.randint(1, min(3, side)) for side in shape[1:]]
        pad = [rng.randint(0, size // 2) for size in kernel]
        options["pooling_convention"] = rng.choice(["valid", "full"])
        if options["pool_type"] == "avg":
            options["count_include_pad"] = rng.random() < 0.5
        stride = [rng.randint(1, 2) for _ in kernel]
        return mx.sym.Pooling(
            x, kernel=kernel, pad=pad, stride=stride, **options, name=self.name("pool")
        )

    def batch_norm(self, x, shape):
        options = {"fix_gamma": self.rng.random() < 0.5, "eps": self.rng.choice([1e-5, 1e-3, 2e-5])}
        return mx.sym.BatchNorm(x, **options, name=self.name("bn"))

    def instance_norm(self, x, shape):
        return mx.sym.InstanceNorm(x, name=self.name("in"))

    def lrn(self, x, shape):
        return mx.sym.LRN(x, nsize=self.rng.choice([1, 3, 5]), name=self.name("lrn"))

    def l2(self, x, shape):
        mode = (
            self.rng.choice(["instance", "channel", "spatial"]) if len(shape) == 3 else "instance"
        )
        return mx.sym.L2Normalization(x, mode=mode, name=self.name("l2"))

    def upsampling(self, x, shape):
        return mx.sym.UpSampling(x, scale=2, sample_type="nearest", name=self.name("up"))

    def pad(self, x, shape):
        most = min(2, shape[1] - 1, shape[2] - 1)  # as reflection needs
        width = (0, 0, 0, 0, *(self.rng.randint(0, most) for _ in range(4)))
        mode = self.rng.choice(["constant", "edge", "reflect"])
        return mx.sym.Pad(x, mode=mode, pad_width=width, name=self.name("pad"))

    def transpose(self, x, shape):
        order = [1, 2, 3]
        self.rng.shuffle(order)
        return mx.sym.transpose(x, axes=(0, *order), name=self.name("t"))

    def flatten(self, x, shape):
        return mx.sym.Flatten(x, name=self.name("flat"))

    def spatial_mean(self, x, shape):
        kind = self.rng.choice([mx.sym.mean, mx.sym.max, mx.sym.sum, mx.sym.min])
        axis = self.rng.choice([(2, 3), (2, 3), (1, 2)])
        return kind(x, axis=axis, name=self.name("reduced"))

    def crop(self, x, shape):
        axis = self.rng.randint(1, len(shape))
        begin = self.rng.randint(0, shape[axis - 1] - 1)
        end = self.rng.randint(begin + 1, shape[axis - 1])
        return mx.sym.slice_axis(x, axis=axis, begin=begin, end=end, name=self.name("slice"))

    def dense(self, x, shape):
        options = {"num_hidden": self.rng.randint(1, 9), "no_bias": self.rng.random() < 0.3}
        return mx.sym.FullyConnected(x, **options, name=self.name("fc"))

    def reshape(self, x, shape):
        if len(shape) != 1:
            return mx.sym.Reshape(x, shape=(0, -1), name=self.name("reshaped"))
        parts = [n for n in range(1, shape[0] + 1) if shape[0] % n == 0]
        return mx.sym.Reshape(x, shape=(0, self.rng.choice(parts), -1, 1), name=self.name("shaped"))

    def activation(self, x, shape):
        kind = self.rng.choice(["relu", "sigmoid", "tanh", "softrelu", "softsign"])
        return mx.sym.Activation(x, act_type=kind, name=self.name("act"))

    def leaky(self, x, shape):
        kind = self.rng.choice(["leaky", "elu", "prelu", "selu", "gelu"])
        return mx.sym.LeakyReLU(x, act_type=kind, slope=0.2, name=self.name("leaky"))

    def unary(self, x, shape):
        kinds = [mx.sym.sqrt, mx.sym.square, mx.sym.abs, mx.sym.exp, mx.sym.negative, mx.sym.erf]
        kind = self.rng.choice([*kinds, mx.sym.sin, mx.sym.cbrt, mx.sym.rsqrt, mx.sym.floor])
        if kind in (mx.sym.sqrt, mx.sym.rsqrt):
            x = mx.sym.abs(x) + 0.5
        if kind is mx.sym.exp:
            x = mx.sym.clip(x, a_min=-5, a_max=3, name=self.name("clip"))
        return kind(x, name=self.name("unary"))

    def softmax(self, x, shape):
        kind = self.rng.choice([mx.sym.softmax, mx.sym.log_softmax])
        # Of one class, log_softmax is rounding errors in MXNet, which a normalization may magnify.
        axes = [axis for axis in (1, -1) if (shape[0] if axis == 1 else shape[-1]) > 1]
        return kind(x, axis=self.rng.choice(axes), name=self.name("softmax"))

    def scalar(self, x, shape):
        value = self.rng.choice([0.5, 2, -1.5, 3])
        kinds = [x + value, x - value, value - x, x * value, x / value, mx.sym.maximum(x, value)]
        return self.rng.choice([*kinds, mx.sym.minimum(x, value), x > value])

    def both(self, x, shape):
        same = [one for one, size in self.pool if size == shape]
        y = self.rng.choice(same)
        return self.rng.choice([x + y, x * y, x - y, mx.sym.maximum(x, y), mx.sym.add_n(x, y, x)])

    def broadcast(self, x, shape):
        narrow = [one for one, size in self.pool if size in ((shape[0], 1, 1), (1, 1, 1))]
        y = self.rng.choice(narrow)
        return mx.sym.broadcast_mul(x, y, name=self.name("scaled"))

    def concat(self, x, shape):
        fits = [one for one, size in self.pool if len(size) == len(shape) and size[1:] == shape[1:]]
        return mx.sym.Concat(x, self.rng.choice(fits), dim=1, name=self.name("cat"))

    def dropout(self, x, shape):
        return mx.sym.Dropout(x, p=0.5, name=self.name("dropout"))

    def layer_norm(self, x, shape):
        return mx.sym.LayerNorm(x, axis=-1, name=self.name("ln"))


N = Network
EVERY = [N.activation, N.leaky, N.unary, N.softmax, N.scalar, N.both, N.concat, N.dropout, N.crop]
EVERY += [N.reshape, N.dense, N.batch_norm, N.layer_norm, N.l2]
IMAGES = [N.convolution, N.convolution, N.convolution, N.pooling, N.pooling, N.batch_norm, N.lrn]
IMAGES += [N.instance_norm, N.upsampling, N.pad, N.transpose, N.flatten, N.spatial_mean, *EVERY]
IMAGES += [N.broadcast, N.both]
VECTORS = [N.dense, *EVERY]


def trial(number, seed, folder):
    """Compare the engines on one network; return "same" or "refused", or what is wrong."""
    rng = random.Random(f"{seed} {number}")
    network = Network(rng)
    values = np.random.RandomState(rng.randrange(2**31))
    symbol = network.pool[-1][0]
    n, half = rng.randint(1, 7), rng.random() < 0.1
    shapes, _, aux_shapes = symbol.infer_shape(data=(n, *network.shape))
    arrays = dict(zip(symbol.list_arguments(), (values.normal(0, 0.5, s) for s in shapes)))
    arrays["data"] = values.normal(size=(n, *network.shape))
    aux = dict(zip(symbol.list_auxiliary_states(), (values.uniform(0.5, 2, s) for s in aux_shapes)))
    if half:
        arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    arguments = {name: mx.nd.array(one, dtype="float32") for name, one in arrays.items()}
    aux = {name: mx.nd.array(one, dtype="float32") for name, one in aux.items()}
    executor = symbol.bind(mx.cpu(), arguments, aux_states=aux, grad_req="null")
    (expected,) = [one.asnumpy() for one in executor.forward(is_train=False)]
    data = arguments.pop("data").asnumpy()
    if half:
        arguments = {name: one.astype("float16") for name, one in arguments.items()}
    mx.model.save_checkpoint(str(folder / "net"), 0, symbol, arguments, aux)
    if not np.isfinite(expected).all():
        return "refused"
    try:
        source = xfer.load_checkpoint(folder / "net")
        layer = source.layer_names[-1]
    except ValueError as error:
        return known(error)
    wrong = []
    try:
        found = source.extract(data, layer).matrix
        wrong += differ("ONNX Runtime", found, expected)
        # One by one: the size of a batch must not matter.
        found = np.concatenate([source.extract(data[i : i + 1], layer).matrix for i in range(n)])
        wrong += differ("ONNX Runtime one by one", found, expected)
    except ValueError as error:
        if "no features" not in str(error):
            wrong.append(known(error, "ONNX Runtime: "))
    try:
        module = source.to_torch([layer]).eval()
        with torch.no_grad():
            outputs = module(torch.from_numpy(data))
        outputs = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        outputs = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
        wrong += differ("PyTorch", outputs.numpy(), expected)
    except ValueError as error:
        wrong.append(known(error, "PyTorch: "))
    wrong = [one for one in wrong if one != "refused"]
    return "; ".join(wrong) or "same"


def known(error, where=""):
    """Return "refused" for a clear refusal."""
    return "refused" if "\n" not in str(error) else f"{where}{error!r:.300}"


def differ(engine, found, expected):
    """Return what differs, as a list of one text or none."""
    expected = expected.reshape(len(expected), -1)
    found = np.asarray(found).reshape(len(found), -1)
    if found.shape != expected.shape:
        return [f"{engine} has shape {found.shape}, MXNet {expected.shape}"]
    distance = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    return [f"{engine} is off by {distance:.2g}"] if not distance < TOLERANCE else []


def main(arguments=None):
    """Print a table; return how many networks failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    refused, wrong = 0, []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(options.first, options.first + options.count):
            try:
                found = trial(number, options.seed, Path(folder))
            except Exception:
                found = traceback.format_exc()[-1500:]
            refused += found == "refused"
            if found not in ("same", "refused"):
                wrong.append(found)
                print(f"--first {number}: {found}", file=sys.stderr, flush=True)
    print("| networks | tried | refused | failed | seed |\n| --- | --- | --- | --- | --- |")
    row = f"{options.count:,} | {refused:,} | {len(wrong)} | {options.seed}"
    print(f"| random | {row} |", flush=True)
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
