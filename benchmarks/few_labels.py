"""AutoRepurposer's mixture with two to ten labels per class, against classifiers on one layer.

Features are computed once; each draw picks classes, and examples of them. Run with
``python benchmarks/few_labels.py [DRAWS]``. Its latest table is in docs/benchmarks.md.
"""

import sys
from collections.abc import Iterator

import numpy as np
from sklearn.metrics import accuracy_score, log_loss
from sources import FOLDER, cifar100

import xfer
from xfer.meta import CalibratedLogisticRegression, DirichletGaussianProcess, MixtureClassifier

SIZES = (2, 3, 5, 10)


def main(draws: int = 10) -> None:
    """Print the table."""
    print("| labels per class, classes | | accuracy | log loss |\n| --- | --- | ---: | ---: |")
    found: dict[tuple, list] = {}
    for layers, shares, labels in tasks():
        for n_classes in (2, 5):
            for draw in range(draws):
                random = np.random.RandomState(draw)
                classes = random.choice(np.unique(labels), n_classes, replace=False)
                rows = random.permutation(np.flatnonzero(np.isin(labels, classes)))
                for size in SIZES:
                    few = np.concatenate([rows[labels[rows] == one][:size] for one in classes])
                    others = np.setdiff1d(rows, few)
                    scores = score(layers, shares, labels, few, others)
                    for name, values in scores.items():
                        found.setdefault((size, n_classes, name), []).append(values)
    for (size, n_classes, name), values in sorted(found.items(), key=lambda one: one[0][1::-1]):
        accuracy, loss = np.mean(values, axis=0)
        print(f"| {size}, {n_classes} | {name} | {accuracy:.3f} | {loss:.3f} |")


def score(
    layers: dict, shares: dict, labels: np.ndarray, few: np.ndarray, others: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Return accuracy and log loss of each classifier."""
    last = max(shares, key=lambda name: shares[name])
    models = {
        "AutoRepurposer": (MixtureClassifier(shares), layers),
        "LrRepurposer": (CalibratedLogisticRegression(), {last: layers[last]}),
        "GpRepurposer": (DirichletGaussianProcess(), {last: layers[last]}),
    }
    found = {}
    for name, (model, given) in models.items():
        parts = [{n: matrix[rows] for n, matrix in given.items()} for rows in (few, others)]
        known, new = parts if name == "AutoRepurposer" else (next(iter(p.values())) for p in parts)
        p = model.fit(known, labels[few]).predict_proba(new)
        loss = log_loss(labels[others], p, labels=model.classes_)
        found[name] = accuracy_score(labels[others], model.classes_[p.argmax(axis=1)]), loss
    return found


def tasks() -> Iterator[tuple[dict, dict, np.ndarray]]:
    """Yield the features of each layer, the layers' prior shares, and the labels."""
    images, digits = xfer.example.digits()
    yield features(xfer.load_checkpoint(xfer.example.checkpoint()), images, digits)
    train, labels, test, others = cifar100()
    source = xfer.load_checkpoint(FOLDER / "models/cifar_resnet20_v2", 0)
    yield features(source, np.concatenate([train, test]), np.concatenate([labels, others]))


def features(source: object, data: np.ndarray, labels: np.ndarray) -> tuple:
    """Compute the layers that AutoRepurposer takes."""
    few = np.random.RandomState(0).permutation(len(data))[:60]
    auto = xfer.AutoRepurposer(source).fit(data[few], labels[few])
    table = auto.features_.extract(data)
    layers = {name: table.matrix[:, columns] for name, columns in table.columns.items()}
    return layers, auto.meta_model_.shares, labels


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
