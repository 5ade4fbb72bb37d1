"""Our classifiers on frozen features, each against what one would use without it.

Logistic regression and the SVM are compared with scikit-learn's on the raw features; the Gaussian
process and the Bayesian network with our logistic regression.

Run with ``python benchmarks/meta_models.py [SPLITS]``. Its latest table is in docs/benchmarks.md.

``python benchmarks/meta_models.py --threads`` times fits and predictions with one and with two BLAS
threads instead: the measurement behind ``xfer.meta.base.small_fit_threads``.
"""

import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC
from sources import cifar100, digits, module, newsgroups
from threadpoolctl import threadpool_limits

import xfer
from xfer.meta import base
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


THREAD_SHAPES = [(50, 128), (100, 512), (300, 512), (1000, 512), (3000, 512), (1000, 2048)]


def main(splits: int = 12) -> None:
    """Print the table."""
    # scikit-learn 1.9 deprecates the probabilities of SVC, but we compare with them.
    warnings.filterwarnings("ignore", message=".*probability.*", category=FutureWarning)
    print(
        f"{splits} random splits; mean ± standard deviation, paired difference (standard error)\n"
    )
    print("| task, labels | | accuracy, other | accuracy, ours | gain | log loss, other | ", end="")
    print("log loss, ours | gain | fit s, other / ours |\n" + "| --- " * 9 + "|")
    for name, features, labels, pools, sizes in tasks():
        for size in sizes:
            for kind, pair in PAIRS.items():
                rows = [run(pair, features, labels, pools, size, seed) for seed in range(splits)]
                print(f"| {name}, {size} | {kind} | {cells(np.array(rows))} |", flush=True)


def tasks() -> Iterator[tuple]:
    """Yield name, features, labels, (rows to sample from, test rows), and sizes of each task."""
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
        yield name, features, labels, pools, ["10 per class", "50 per class"]
    images, labels = digits()
    features = extract("mnist_lenet", 10, "activation2", images)
    yield "digits, LeNet", features, labels, None, ["10 per class", "50 per class"]


def extract(name: str, epoch: int, layer: str, data: Any) -> np.ndarray:
    """Return the features of one layer."""
    source = xfer.open_source(module(name, epoch))
    return source.extract(data, layer, progress=True).matrix


def run(
    pair: tuple, features: np.ndarray, labels: np.ndarray, pools: Any, size: str, seed: int
) -> list[tuple[float, float, float]]:
    """Return accuracy, log loss and seconds of the other and ours for one random split."""
    count = int(size.split()[0])
    order = np.random.RandomState(seed).permutation(
        np.arange(len(labels)) if pools is None else pools[0]
    )
    if size.endswith("class"):
        train = np.concatenate(
            [order[labels[order] == label][:count] for label in np.unique(labels)]
        )
    else:
        train = order[:count]
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


def cells(rows: np.ndarray) -> str:
    """Format the results of all splits: shape (splits, 2, 3)."""
    means, stds = rows.mean(axis=0), rows.std(axis=0, ddof=1)
    gains = rows[:, 1, :2] - rows[:, 0, :2]
    gain, error = gains.mean(axis=0), gains.std(axis=0, ddof=1) / np.sqrt(len(rows))
    return (
        f"{means[0, 0]:.2f} ± {stds[0, 0]:.2f} | {means[1, 0]:.2f} ± {stds[1, 0]:.2f} | "
        f"{gain[0]:+.2f} ({error[0]:.2f}) | {means[0, 1]:.3f} ± {stds[0, 1]:.3f} | "
        f"{means[1, 1]:.3f} ± {stds[1, 1]:.3f} | {-gain[1]:+.3f} ({error[1]:.3f}) | "
        f"{np.median(rows[:, 0, 2]):.2f} / {np.median(rows[:, 1, 2]):.2f}"
    )


def compare_threads(repeats: int = 3) -> None:
    """Print median seconds of fits and predictions with one and with two BLAS threads."""
    base._SMALL = 0  # or small fits would have one thread in both cases
    models = {name.split(",")[0]: ours for name, (_, ours) in PAIRS.items()}
    print("Seconds to fit, and to predict 1,000 rows, with one / two BLAS threads\n")
    print(f"| examples x features | {' | '.join(models)} |\n" + "| --- " * 5 + "|")
    for n, d in THREAD_SHAPES:
        random = np.random.RandomState(0)
        centres, y = random.normal(size=(10, d)), np.arange(n + 1000) % 10
        X = 0.35 * centres[y] + random.normal(size=(n + 1000, d))
        row = []
        for model in models.values():
            model.fit(X[:50], y[:50])  # whatever is imported late
            seconds = np.empty((repeats, 2, 2))
            for repeat in range(repeats):
                for threads in (1, 2) if repeat % 2 else (2, 1):
                    with threadpool_limits(threads, "blas"):
                        start = time.perf_counter()
                        model.fit(X[:n], y[:n])
                        middle = time.perf_counter()
                        model.predict_proba(X[n:])
                    end = time.perf_counter()
                    seconds[repeat, :, threads - 1] = middle - start, end - middle
            fit, predict = np.median(seconds, axis=0)
            row.append(f"{fit[0]:.3f} / {fit[1]:.3f}, {predict[0]:.4f} / {predict[1]:.4f}")
        print(f"| {n} x {d} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--threads"]:
        compare_threads()
    else:
        main(*map(int, sys.argv[1:]))
