"""Repurpose a network for five digits to five others, with ten labels each.

A small network reads the handwritten digits 0 to 4, each at a random place on a canvas. It is
repurposed to 5 to 9 with ten labels per digit, and compared with the unchanged network, the same
network trained from scratch on these labels, and no network at all. The network comes with xfer,
the digits with scikit-learn; nothing is downloaded. AutoRepurposer finds its layers by itself; the
other repurposers have the layer relu2. Training from scratch needs MXNet and is skipped without it.

Run with ``make demo`` or ``python examples/demo.py [PICTURE.png]``.
"""

import sys
import time

import matplotlib
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import xfer
from xfer import plots

try:
    import mxnet as mx  # after xfer, which makes it work with a newer NumPy
    from train_digits import network, train
except ImportError:
    mx = None

TARGET_DIGITS = range(5, 10)
LABELS_PER_CLASS = 10
DRAWS = 5
ON_ONE_LAYER = [xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer]


def main(picture="demo.png"):
    """Print the table and draw the picture."""
    start = time.perf_counter()
    images, digits = xfer.example.digits()
    if mx is None:
        source_network = xfer.load_checkpoint(xfer.example.checkpoint())
        print(
            "MXNet is not installed: the checkpoint runs on ONNX Runtime, and nothing is trained.\n"
        )
    else:
        source_network = mx.mod.Module.load(xfer.example.checkpoint(), 0)
    unseen, images, digits = images[digits < 5], images[digits >= 5], digits[digits >= 5]

    print("A network that reads 0 to 4 is repurposed to the digits 5 to 9:")
    print(
        f"{LABELS_PER_CLASS} labels each, {DRAWS} draws. As it is: its outputs read as 5 to 9 ..."
    )
    results, collected = {}, {}
    for seed in range(DRAWS):
        train_rows, test_rows = draw(digits, seed)
        given = images[train_rows], digits[train_rows]
        asked, truth = images[test_rows], digits[test_rows]
        classifiers = {
            "the network as it is": AsItIs(source_network),
            "regression on pixels": make_pipeline(
                FunctionTransformer(lambda images: images.reshape(len(images), -1)),
                LogisticRegression(max_iter=1000),
            ),
        }
        if mx is not None:
            classifiers["trained from scratch"] = FromScratch()
        for kind in ON_ONE_LAYER:
            classifiers[kind.__name__] = kind(source_network, ["relu2"], pooling="max")
        classifiers["AutoRepurposer"] = xfer.AutoRepurposer(source_network)
        for name, classifier in classifiers.items():
            begin = time.perf_counter()
            probabilities = classifier.fit(*given).predict_proba(asked)
            seconds = time.perf_counter() - begin
            hits = np.array(TARGET_DIGITS)[probabilities.argmax(axis=1)] == truth
            loss = log_loss(truth, probabilities, labels=TARGET_DIGITS)
            results.setdefault(name, []).append((hits.mean(), loss, seconds))
            collected.setdefault(name, []).append((probabilities, truth))

    print(f"\n{'':22}{'accuracy':>16}{'log loss':>16}{'seconds':>9}")
    for name, rows in results.items():
        (hit, loss, seconds), (hit_spread, loss_spread, _) = np.mean(rows, 0), np.std(rows, 0)
        print(
            f"{name:22}{hit:9.3f} ± {hit_spread:.3f}{loss:10.3f} ± {loss_spread:.3f}{seconds:9.2f}"
        )
    gaussian_process = classifiers["GpRepurposer"]
    known = gaussian_process.predict_uncertainty(asked).epistemic.mean()
    new = gaussian_process.predict_uncertainty(unseen)
    print(
        f"\nEpistemic uncertainty of GpRepurposer, in nats: {known:.2f} on the digits 5 to 9, "
        f"{new.epistemic.mean():.2f} on 0 to 4,\nof which it has seen no label."
    )
    draw_picture(picture, results, collected, asked)
    print(f"\nThe picture is in {picture}. All this took {time.perf_counter() - start:.0f} s.")


class AsItIs:
    """The source network, its five outputs read as the five new digits."""

    def __init__(self, model):
        self.source = xfer.open_source(model)

    def fit(self, images, labels):
        """Learn nothing."""
        return self

    def predict_proba(self, images):
        """Return the network's own outputs."""
        return self.source.extract(images, "softmax").matrix


class FromScratch:
    """The same network, trained on the few labels only."""

    def fit(self, images, labels):
        """Train until the network has memorized the few labels."""
        module = train(network(), images, labels - 5, epochs=80)
        self.source = xfer.open_source(module)
        return self

    def predict_proba(self, images):
        """Return the network's outputs."""
        return self.source.extract(images, "softmax").matrix


def draw(labels, seed):
    """Draw rows for training, the same number of each class, and leave the others for testing."""
    order = np.random.RandomState(seed).permutation(len(labels))
    chosen = [order[labels[order] == digit][:LABELS_PER_CLASS] for digit in TARGET_DIGITS]
    train_rows = np.concatenate(chosen)
    return train_rows, np.setdiff1d(order, train_rows)


def draw_picture(path, results, collected, images):
    """Show accuracies, calibration, and the digits that the Gaussian process is most unsure of."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 7.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[5, 3])
    left, right = above.subplots(1, 2, width_ratios=[6, 5])
    draw_accuracies(left, results)
    for name in [name for name in collected if name.endswith("Repurposer")]:
        probabilities, truth = map(np.concatenate, zip(*collected[name]))
        plots.reliability(truth, probabilities, TARGET_DIGITS, bins=5, name=name, ax=right)
    draw_digits(below, images, *collected["AutoRepurposer"][-1])
    figure.savefig(path, dpi=130)


def draw_accuracies(axes, results):
    """Draw a bar for each classifier."""
    names = list(results)
    hits = np.array([[row[0] for row in results[name]] for name in names])
    colours = ["#0072B2" if name.endswith("Repurposer") else "#999999" for name in names]
    axes.barh(names, hits.mean(axis=1), xerr=hits.std(axis=1), color=colours, height=0.6)
    for place, value in enumerate(hits.mean(axis=1)):
        axes.text(0.02, place, f"{value:.2f}", color="white", va="center", weight="bold")
    axes.invert_yaxis()
    axes.axvline(0.2, color="black", linestyle=":", linewidth=1)
    axes.text(0.21, -0.45, "chance", fontsize=9)
    axes.set(xlim=(0, 1), xlabel=f"accuracy on digits 5 to 9, {LABELS_PER_CLASS} labels each")
    axes.spines[["top", "right"]].set_visible(False)


def draw_digits(figure, images, probabilities, truth):
    """Draw the digits that a classifier is most and least sure of, with its probabilities."""
    order = np.argsort(probabilities.max(axis=1))
    shown = [*order[::-1][:5], *order[:5]]
    figure.suptitle(
        "AutoRepurposer: the probability of each digit, the right one in blue;\n"
        "on the left where it is most sure, on the right where least",
        fontsize=10,
    )
    pictures, charts = figure.subplots(2, 10, height_ratios=[2, 1])
    for row, picture, bars in zip(shown, pictures, charts):
        picture.imshow(images[row, 0], cmap="gray_r")
        picture.set_title(f"a {truth[row]}", fontsize=9, pad=2)
        picture.set(xticks=[], yticks=[])
        picture.spines[:].set_color("#cccccc")
        right_answer = [digit == truth[row] for digit in TARGET_DIGITS]
        colours = np.where(right_answer, "#0072B2", "#D55E00")
        bars.bar(TARGET_DIGITS, probabilities[row], color=colours)
        bars.set(ylim=(0, 1), yticks=[], xticks=list(TARGET_DIGITS))
        bars.tick_params(labelsize=7, length=0, pad=1)
        bars.spines[["top", "right", "left"]].set_visible(False)


if __name__ == "__main__":
    main(*sys.argv[1:])
