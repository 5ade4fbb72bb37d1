"""Our classifiers on frozen features, each against what one would use without it.

Logistic regression and the SVM are compared with scikit-learn's on the raw features; the Gaussian
process and the Bayesian network with our logistic regression.

Run with ``python benchmarks/meta_models.py [DRAWS]``.

The table that it printed last stands in docs/benchmarks.md.
"""

import sys
import time
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC
from sources import cifar100, digits, module, newsgroups

import xfer
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.support_vector_machine import CalibratedSvm

PAIRS = {
    "LR": (LogisticRegression(max_iter=1000), CalibratedLogisticRegression()),
    "SVM": (SVC(probability=True, random_state=0), CalibratedSvm()),
    "GP, against our LR": (CalibratedLogisticRegression(), DirichletGaussianProcess()),
    "BNN, against our LR": (CalibratedLogisticRegression(), BayesianNetwork()),
}


def main(draws=12):
    """Print the table."""
    # scikit-learn 1.9 says that SVC's probabilities go; they are what is compared with here.
    warnings.filterwarnings("ignore", message=".*probability.*", category=FutureWarning)
    print(
        f"{draws} draws of labels; mean ± standard deviation, paired difference (standard error)\n"
    )
    print("| task, labels | | accuracy, other | accuracy, ours | gain | log loss, other | ", end="")
    print("log loss, ours | gain | fit s, other / ours |\n" + "| --- " * 9 + "|")
    for name, features, labels, pools, sizes in tasks():
        for size in sizes:
            for kind, pair in PAIRS.items():
                rows = [run(pair, features, labels, pools, size, seed) for seed in range(draws)]
                print(f"| {name}, {size} | {kind} | {cells(np.array(rows))} |", flush=True)


def tasks():
    """Yield name, features, labels, rows to draw from and to test on, and sizes of each task."""
    ids, names = newsgroups()
    order = np.random.RandomState(0).permutation(len(names))
    features = extract("newsgroups_cnn", 0, "dropout0", ids)
    yield "newsgroups, dropout0", features, names, (order[2000:], order[:2000]), ["100", "1000"]
    train, train_labels, test, test_labels = cifar100()
    images, labels = np.concatenate([train, test]), np.concatenate([train_labels, test_labels])
    pools = np.arange(1000), np.arange(1000, 2000)
    for version in ("v1", "v2"):
        layer = f"cifarresnet{version}0_pool0_fwd"
        features = extract(f"cifar_resnet20_{version}", 0, layer, images)
        name = f"CIFAR-100, ResNet-20 {version}"
        yield name, features, labels, pools, ["10 a class", "50 a class"]
    images, labels = digits()
    features = extract("mnist_lenet", 10, "activation2", images)
    yield "digits, LeNet", features, labels, None, ["10 a class", "50 a class"]


def extract(name, epoch, layer, data):
    """Return features of one layer."""
    source = xfer.open_source(module(name, epoch))
    return source.extract(data, layer, progress=True).matrix


def run(pair, features, labels, pools, size, seed):
    """Return accuracy, log loss and seconds of the other and ours for one draw of labels."""
    number = int(size.split()[0])
    order = np.random.RandomState(seed).permutation(
        np.arange(len(labels)) if pools is None else pools[0]
    )
    if size.endswith("class"):
        train = np.concatenate(
            [order[labels[order] == label][:number] for label in np.unique(labels)]
        )
    else:
        train = order[:number]
    test = np.setdiff1d(order, train) if pools is None else pools[1]
    figures = []
    for model in pair:
        start = time.perf_counter()
        model.fit(features[train], labels[train])
        seconds = time.perf_counter() - start
        predicted = model.predict(features[test])
        loss = log_loss(labels[test], model.predict_proba(features[test]), labels=model.classes_)
        figures.append(((predicted == labels[test]).mean() * 100, loss, seconds))
    return figures


def cells(rows):
    """Format the figures of all draws: shape (draws, 2, 3)."""
    means, spreads = rows.mean(axis=0), rows.std(axis=0, ddof=1)
    gains = rows[:, 1, :2] - rows[:, 0, :2]
    gain, error = gains.mean(axis=0), gains.std(axis=0, ddof=1) / np.sqrt(len(rows))
    return (
        f"{means[0, 0]:.2f} ± {spreads[0, 0]:.2f} | {means[1, 0]:.2f} ± {spreads[1, 0]:.2f} | "
        f"{gain[0]:+.2f} ({error[0]:.2f}) | {means[0, 1]:.3f} ± {spreads[0, 1]:.3f} | "
        f"{means[1, 1]:.3f} ± {spreads[1, 1]:.3f} | {-gain[1]:+.3f} ({error[1]:.3f}) | "
        f"{np.median(rows[:, 0, 2]):.2f} / {np.median(rows[:, 1, 2]):.2f}"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
