"""Train the network of `xfer.example` on the digits 0 to 4, each at a random place on a canvas.

Run with ``python examples/train_digits.py [PREFIX]``; by default it rewrites the checkpoint that
comes with xfer. It takes ten seconds.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

import xfer

import mxnet as mx  # isort: skip  (after xfer, so that it imports beside a newer NumPy too)


def main(prefix=None):
    """Train and save."""
    images, digits = load_digits(return_X_y=True)
    old = digits < 5
    # Each digit in six places.
    images = xfer.example.scatter(np.repeat(images[old].reshape(-1, 8, 8) / 16, 6, axis=0), seed=1)
    module = train(network(), images, np.repeat(digits[old], 6), epochs=8)
    module.save_checkpoint(prefix or xfer.example.checkpoint(), 0)


def network():
    """Return a small convolutional network with five outputs."""
    net = mx.sym.var("data")
    for stage, filters in enumerate((16, 32, 64), start=1):
        if stage > 1:
            net = mx.sym.Pooling(
                net, kernel=(2, 2), stride=(2, 2), pool_type="max", name=f"pool{stage - 1}"
            )
        net = mx.sym.Convolution(
            net, kernel=(3, 3), pad=(1, 1), num_filter=filters, name=f"conv{stage}"
        )
        net = mx.sym.Activation(net, act_type="relu", name=f"relu{stage}")
    net = mx.sym.Pooling(net, kernel=(1, 1), global_pool=True, pool_type="max", name="pool3")
    net = mx.sym.FullyConnected(net, num_hidden=5, name="fc1")
    return mx.sym.SoftmaxOutput(net, name="softmax")


def train(symbol, images, labels, epochs):
    """Train a network on labels 0 to 4 and return its Module."""
    mx.random.seed(0)
    np.random.seed(0)
    module = mx.mod.Module(symbol)
    module.fit(
        mx.io.NDArrayIter(images, labels, batch_size=min(50, len(images)), shuffle=True),
        num_epoch=epochs,
        optimizer="adam",
        optimizer_params={"learning_rate": 0.002},
        initializer=mx.init.Xavier(),
    )
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
