"""From five digits to five others with ten labels each.

A small network learns to read the handwritten digits 0 to 4, each somewhere on a larger canvas.
Then it is repurposed to 5 to 9 with ten labels of each, and compared with the same network used as
it is, with the same network trained from scratch on these labels, and with no network at all.
Everything comes with scikit-learn; nothing is downloaded.

Run with ``make demo`` or ``python examples/demo.py [PICTURE.png]``.
"""

import sys
import time

import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import xfer

import mxnet as mx  # isort: skip  (after xfer, so that it imports beside a newer NumPy too)

TARGET_DIGITS = range(5, 10)
LABELS_A_CLASS = 10
DRAWS = 5
CANVAS = 16


def main(picture="demo.png"):
    """Print the table and draw the picture."""
    start = time.perf_counter()
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16
    old, new = digits < 5, digits >= 5

    print(f"Training a source network on {old.sum()} images of the digits 0 to 4 ...")
    source_module = train(scatter(np.repeat(images[old], 6, axis=0)), np.repeat(digits[old], 6), 8)

    print(f"Repurposing it to the digits 5 to 9: {LABELS_A_CLASS} labels each, {DRAWS} draws ...")
    images, digits = scatter(images[new]), digits[new]
    results = {}
    for seed in range(DRAWS):
        train_rows, test_rows = draw(digits, seed)
        given = images[train_rows], digits[train_rows]
        asked, truth = images[test_rows], digits[test_rows]
        classifiers = {
            "the network as it is": AsItIs(source_module),
            "regression on pixels": make_pipeline(
                FunctionTransformer(lambda images: images.reshape(len(images), -1)),
                LogisticRegression(max_iter=1000),
            ),
            "trained from scratch": FromScratch(),
            "LrRepurposer": xfer.LrRepurposer(source_module, ["relu2"], pooling="max"),
            "SvmRepurposer": xfer.SvmRepurposer(source_module, ["relu2"], pooling="max"),
        }
        for name, classifier in classifiers.items():
            begin = time.perf_counter()
            probabilities = classifier.fit(*given).predict_proba(asked)
            seconds = time.perf_counter() - begin
            hits = np.array(TARGET_DIGITS)[probabilities.argmax(axis=1)] == truth
            loss = log_loss(truth, probabilities, labels=TARGET_DIGITS)
            results.setdefault(name, []).append((hits.mean(), loss, seconds))

    print(f"\n{'':22}{'accuracy':>16}{'log loss':>16}{'seconds':>9}")
    for name, rows in results.items():
        (hit, loss, seconds), (hit_spread, loss_spread, _) = np.mean(rows, 0), np.std(rows, 0)
        print(
            f"{name:22}{hit:9.3f} ± {hit_spread:.3f}{loss:10.3f} ± {loss_spread:.3f}{seconds:9.2f}"
        )
    draw_picture(picture, results, asked, truth, probabilities)
    print(f"\nThe picture is in {picture}. All this took {time.perf_counter() - start:.0f} s.")


def scatter(images):
    """Put each image of 8 x 8 pixels somewhere on a canvas: shape (n, 1, CANVAS, CANVAS)."""
    random = np.random.RandomState(0)
    canvases = np.zeros((len(images), 1, CANVAS, CANVAS), np.float32)
    for canvas, image, (top, left) in zip(
        canvases, images, random.randint(0, CANVAS - 7, size=(len(images), 2))
    ):
        canvas[0, top : top + 8, left : left + 8] = image
    return canvases


def network():
    """Return a small convolutional network with five outputs."""
    net = mx.sym.var("data")
    for number, filters in enumerate((16, 32, 64), start=1):
        if number > 1:
            net = mx.sym.Pooling(net, kernel=(2, 2), stride=(2, 2), pool_type="max")
        net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=filters)
        net = mx.sym.Activation(net, act_type="relu", name=f"relu{number}")
    net = mx.sym.Pooling(net, kernel=(1, 1), global_pool=True, pool_type="max")
    net = mx.sym.FullyConnected(net, num_hidden=5)
    return mx.sym.SoftmaxOutput(net, name="softmax")


def train(images, labels, epochs):
    """Train the network on labels 0 to 4 and return its Module."""
    mx.random.seed(0)
    np.random.seed(0)
    module = mx.mod.Module(network())
    module.fit(
        mx.io.NDArrayIter(images, labels, batch_size=min(50, len(images)), shuffle=True),
        num_epoch=epochs,
        optimizer="adam",
        optimizer_params={"learning_rate": 0.002},
        initializer=mx.init.Xavier(),
    )
    return module


class AsItIs:
    """The source network, its five outputs read as the five new digits."""

    def __init__(self, module):
        self.source = xfer.open_source(module)

    def fit(self, images, labels):
        """Learn nothing."""
        return self

    def predict_proba(self, images):
        """Return the network's own outputs."""
        return self.source.extract(images, "softmax").matrix


class FromScratch:
    """The same network, trained on the few labels alone."""

    def fit(self, images, labels):
        """Train until the few labels are learned by heart."""
        self.source = xfer.open_source(train(images, labels - 5, epochs=80))
        return self

    def predict_proba(self, images):
        """Return the network's outputs."""
        return self.source.extract(images, "softmax").matrix


def draw(labels, seed):
    """Draw rows for training, the same number of each class, and leave the others for testing."""
    order = np.random.RandomState(seed).permutation(len(labels))
    chosen = [order[labels[order] == digit][:LABELS_A_CLASS] for digit in TARGET_DIGITS]
    train_rows = np.concatenate(chosen)
    return train_rows, np.setdiff1d(order, train_rows)


def draw_picture(path, results, images, truth, probabilities):
    """Show the accuracies, and the digits that the last classifier is most and least sure of."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[5, 7])
    axes = left.subplots()
    names = list(results)
    hits = np.array([[row[0] for row in results[name]] for name in names])
    colours = ["#999999"] * 3 + ["#0072B2"] * 2
    axes.barh(names, hits.mean(axis=1), xerr=hits.std(axis=1), color=colours, height=0.6)
    for place, value in enumerate(hits.mean(axis=1)):
        axes.text(0.02, place, f"{value:.2f}", color="white", va="center", weight="bold")
    axes.invert_yaxis()
    axes.axvline(0.2, color="black", linestyle=":", linewidth=1)
    axes.text(0.21, len(names) - 0.55, "chance", fontsize=9)
    axes.set(xlim=(0, 1), xlabel=f"accuracy on digits 5 to 9, {LABELS_A_CLASS} labels each")
    axes.spines[["top", "right"]].set_visible(False)

    confidence = probabilities.max(axis=1)
    order = np.argsort(confidence)
    shown = [*order[::-1][:5], *order[:5]]
    right.suptitle(
        f"{names[-1]}: the probability of each digit, the right one in blue\n"
        "where it is most sure (above) and least sure (below)",
        fontsize=10,
    )
    grid = right.subplots(4, 5, height_ratios=[3, 1, 3, 1])
    for place, row in enumerate(shown):
        above = 2 * (place // 5)
        picture, bars = grid[above, place % 5], grid[above + 1, place % 5]
        picture.imshow(images[row, 0], cmap="gray_r")
        picture.set_title(f"a {truth[row]}", fontsize=9, pad=2)
        picture.set(xticks=[], yticks=[])
        picture.spines[:].set_color("#cccccc")
        right_answer = [digit == truth[row] for digit in TARGET_DIGITS]
        bars.bar(
            TARGET_DIGITS, probabilities[row], color=np.where(right_answer, "#0072B2", "#D55E00")
        )
        bars.set(ylim=(0, 1), yticks=[], xticks=list(TARGET_DIGITS))
        bars.tick_params(labelsize=7, length=0, pad=1)
        bars.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
