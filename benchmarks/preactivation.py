"""How far MXNet's default inference is off on a pre-activation ResNet, layer by layer.

Run with ``python benchmarks/preactivation.py``; it prints a table and draws
``docs/preactivation.png``. Each layer is bound separately, as for extracting its features.
"""

import os
from pathlib import Path

import numpy as np

import xfer

import matplotlib  # isort: skip
import mxnet as mx  # isort: skip
from matplotlib import pyplot as plt
from sources import FOLDER, cifar10, module

matplotlib.use("Agg")
PICTURE = Path(__file__).parents[1] / "docs" / "preactivation.png"
NAMES = {"cifar_resnet20_v2": "pre-activation (v2)", "cifar_resnet20_v1": "post-activation (v1)"}
IMAGES = 200


def main():
    """Print the table and draw the picture."""
    images, labels = cifar10()
    errors, accuracies = {}, {}
    for name, words in NAMES.items():
        source = xfer.load_checkpoint(FOLDER / "models" / name)
        layers = [layer.name for layer in source.layers]
        right = source.extract(images[:IMAGES], layers)
        errors[words] = [
            distance(mxnet_default(name, layer, images[:IMAGES]), right[layer]) for layer in layers
        ]
        scores = source.extract(images, layers[-1]).matrix
        accuracies[words] = {
            "xfer": np.mean(scores.argmax(axis=1) == labels),
            "MXNet, default": np.mean(
                mxnet_default(name, layers[-1], images).argmax(axis=1) == labels
            ),
            "MXNet, bound rightly": np.mean(
                xfer.open_source(module(name, label_names=None), engine="mxnet")
                .extract(images, layers[-1])
                .matrix.argmax(axis=1)
                == labels
            ),
        }
        first = next((n for n, error in zip(layers, errors[words]) if error > 1e-3), "none")
        print(f"{name}: first wrong layer {first}")
    ways = list(next(iter(accuracies.values())))
    print(f"\n| accuracy on 1,000 CIFAR-10 images | {' | '.join(ways)} |")
    print("| --- |" + " --- |" * len(ways))
    for words, found in accuracies.items():
        print(f"| {words} | " + " | ".join(f"{found[way]:.3f}" for way in ways) + " |")
    draw(errors, accuracies)


def mxnet_default(name, layer, images):
    """Compute a layer with MXNet bound for inference with default settings."""
    assert "MXNET_SUBGRAPH_BACKEND" not in os.environ
    symbol = module(name).symbol.get_internals()[f"{layer}_output"]
    inner = mx.mod.Module(symbol, label_names=None)
    inner.bind([("data", images.shape)], for_training=False)
    loaded = module(name)
    inner.set_params(loaded._arg_params, loaded._aux_params, allow_extra=True)
    inner.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=False)
    return inner.get_outputs()[0].asnumpy()


def distance(found, right):
    """Return the root mean square difference relative to that of the right values."""
    return np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2))


def draw(errors, accuracies):
    """Plot the error along the network, and the accuracies."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.4), width_ratios=(3, 2), layout="constrained"
    )
    colors = dict(zip(errors, ("tab:red", "tab:blue")))
    for words, found in errors.items():
        left.semilogy(np.maximum(found, 1e-8), ".-", label=words, color=colors[words], linewidth=1)
    left.set(
        xlabel="layer, from input to output",
        ylabel="relative error of MXNet's default",
        ylim=(1e-8, 10),
    )
    left.axhline(1, color="gray", linewidth=0.7, linestyle=":")
    left.annotate("as large as the features themselves", (0, 1.2), color="gray", fontsize=8)
    left.legend(loc="lower right", frameon=False)
    ways = list(next(iter(accuracies.values())))
    for shift, (words, found) in zip((-0.2, 0.2), accuracies.items()):
        places = np.arange(len(ways)) + shift
        bars = right.bar(places, [found[way] for way in ways], 0.4, color=colors[words])
        right.bar_label(bars, fmt="%.2f", fontsize=8)
    right.set_xticks(range(len(ways)), [way.replace(", ", ",\n") for way in ways])
    right.set(ylabel="accuracy on CIFAR-10", ylim=(0, 1.05))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
