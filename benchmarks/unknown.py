"""Whether uncertainty reveals examples of unknown classes.

Run with ``python benchmarks/unknown.py``. Its latest tables are in docs/benchmarks.md.

The first table tells examples of unknown classes from those of known ones by the epistemic or the
total uncertainty, and by the largest probability of logistic regression: area under the ROC curve.
The second shows how the epistemic uncertainty falls as labels are added.
"""

import json
from collections.abc import Iterator

import numpy as np
from newsgroups_data import posts
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sources import FOLDER, cifar100, cifar_input, digits, module, newsgroups

import xfer
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression

SPLITS, ROWS = 10, 1000


def main() -> None:
    """Print both tables."""
    everything = dict(tasks())
    print(f"{SPLITS} random splits: mean ± standard deviation\n")
    print("| known, labels; unknown | LR, 1 - largest | GP, epistemic | GP, total | ", end="")
    print("BNN, epistemic | BNN, total |\n" + "| --- " * 6 + "|")
    for name, (features, labels, unknown, sizes) in everything.items():
        for size in sizes:
            rows = [areas(features, labels, unknown, size, seed) for seed in range(SPLITS)]
            cells = [
                f"{m:.3f} ± {s:.3f}" for m, s in zip(np.mean(rows, 0), np.std(rows, 0, ddof=1))
            ]
            print(f"| {name.format(size)} | {' | '.join(cells)} |", flush=True)
    print("\nEpistemic uncertainty of posts of the known groups, nats\n")
    print("| labels | 50 | 100 | 200 | 500 | 1,000 |\n" + "| --- " * 6 + "|")
    features, labels, *_ = next(iter(everything.values()))
    for name, kind in (("GP", DirichletGaussianProcess), ("BNN", BayesianNetwork)):
        values = [
            np.mean([epistemic(kind, features, labels, size, seed) for seed in range(3)])
            for size in (50, 100, 200, 500, 1000)
        ]
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |", flush=True)


def tasks() -> Iterator[tuple]:
    """Yield a name, and (features, labels, features of unknown classes, sizes) of each task."""
    source = xfer.open_source(module("newsgroups_cnn"))
    ids, names = newsgroups()
    order = np.random.RandomState(0).permutation(len(names))
    features = source.extract(ids, "dropout0", progress=True).matrix
    words = json.loads((FOLDER / "models/newsgroups_cnn-words.json").read_text())
    words = words["id2word"] if isinstance(words, dict) else words
    texts, groups = posts("source")
    rows = np.random.RandomState(0).permutation(len(texts))[:ROWS]
    corpus = xfer.Corpus(
        [texts[row] for row in rows],
        [groups[row] for row in rows],
        xfer.Vocabulary.from_words(words),
        fix_length=300,
    )
    unknown = source.extract(corpus.x, "dropout0", progress=True).matrix
    name = "target posts, {}; posts of the 13 source groups"
    yield name, (features[order], names[order], unknown, (100, 1000))

    train, train_labels, test, test_labels = cifar100()
    images, labels = np.concatenate([train, test]), np.concatenate([train_labels, test_labels])
    source = xfer.open_source(module("cifar_resnet20_v2"))
    pixels = zoom(load_digits().images[:ROWS] * 255 / 16, (1, 4, 4), order=1)
    grey = cifar_input(np.repeat(pixels[..., None], 3, axis=3))
    layer = "cifarresnetv20_pool0_fwd"
    yield (
        "CIFAR-100 images, {}; digits",
        (source.extract(images, layer).matrix, labels, source.extract(grey, layer).matrix, (100,)),
    )

    images, labels = digits()
    source = xfer.open_source(module("mnist_lenet", 10))
    photos = np.load(FOLDER / "data/cifar10_test_1000.npz")["x"][:, 2:30, 2:30].mean(axis=3)
    photos = (photos[:, None] / 255).astype(np.float32)
    order = np.random.RandomState(0).permutation(len(labels))
    features = source.extract(images, "activation2").matrix[order]
    unknown = source.extract(photos, "activation2").matrix
    yield "digits, {}; CIFAR-10 photographs", (features, labels[order], unknown, (100,))


def areas(
    features: np.ndarray, labels: np.ndarray, unknown: np.ndarray, size: int, seed: int
) -> list[float]:
    """Return the area under the ROC curve for each score that may reveal unknown classes."""
    order = np.random.RandomState(seed).permutation(len(labels))
    train, test = order[:size], order[-ROWS:] if len(order) > 2 * ROWS else order[size:]
    both = np.concatenate([features[test], unknown])
    is_unknown = np.arange(len(both)) >= len(test)
    model = CalibratedLogisticRegression().fit(features[train], labels[train])
    scores = [1 - model.predict_proba(both).max(axis=1)]
    for kind in (DirichletGaussianProcess, BayesianNetwork):
        parts = kind().fit(features[train], labels[train]).predict_uncertainty(both)
        scores += [parts.epistemic, parts.total]
    return [roc_auc_score(is_unknown, score) for score in scores]


def epistemic(kind: type, features: np.ndarray, labels: np.ndarray, size: int, seed: int) -> float:
    """Return the mean epistemic uncertainty after a fit on that many labels."""
    order = np.random.RandomState(seed).permutation(len(labels))
    model = kind().fit(features[order[:size]], labels[order[:size]])
    return model.predict_uncertainty(features[order[-ROWS:]]).epistemic.mean()


if __name__ == "__main__":
    main()
