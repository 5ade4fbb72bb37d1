"""The default regressor on frozen features, against ridge regression as one would write it.

The numbers to predict are properties of the pictures and posts. Features are those of the layer
that a head takes if you name none.

Run with ``python benchmarks/regression.py [DRAWS]``. Its latest table is in docs/benchmarks.md.
"""

import sys
from collections.abc import Iterator

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sources import FOLDER, cifar100, newsgroups

import xfer
from xfer.meta import WhitenedRidge

REGRESSORS = {
    "RidgeCV": RidgeCV(np.logspace(-3, 3, 13)),
    "StandardScaler, RidgeCV": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))),
    "WhitenedRidge": WhitenedRidge(),
}
SIZES = (20, 50, 100, 500)


def main(draws: int = 10) -> None:
    """Print the table."""
    scores = {size: {name: [] for name in REGRESSORS} for size in SIZES}
    names = []
    for task, matrix, targets in tasks():
        names.append(task)
        for size in SIZES:
            for draw in range(draws):
                rows = np.random.RandomState(draw).permutation(len(matrix))
                few, others = rows[:size], rows[size : size + 1000]
                for name, model in REGRESSORS.items():
                    model.fit(matrix[few], targets[few])
                    scores[size][name].append(model.score(matrix[others], targets[others]))
    print(f"{draws} draws of each of {len(names)} tasks: {', '.join(names)}\n")
    print("| labels | | mean R², each at least -1 | median R² | worst R² | R² below 0 |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for size, found in scores.items():
        for name, values in found.items():
            mean, below = np.maximum(values, -1).mean(), np.less(values, 0).mean()
            row = f"{mean:.2f} | {np.median(values):.2f} | {min(values):.1f} | {below:.0%}"
            print(f"| {size} | {name} | {row} |")


def tasks() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, the features and the numbers of each task."""
    images, _ = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    matrix = xfer.LayerFeatures(source).fit_transform(images)
    dark = images[:, 0].sum(axis=1) > 0.5
    yield "width of a digit", matrix, dark.sum(axis=1)
    yield "ink of a digit", matrix, images.sum(axis=(1, 2, 3))
    yield "place of a digit", matrix, dark.argmax(axis=1)
    images, _, test, _ = cifar100()
    images = np.concatenate([images, test]).astype(np.float32)
    source = xfer.load_checkpoint(FOLDER / "models/cifar_resnet20_v2", 0)
    matrix = xfer.LayerFeatures(source).fit_transform(images)
    yield "brightness of a photograph", matrix, images.mean(axis=(1, 2, 3))
    yield "contrast of a photograph", matrix, images.std(axis=(1, 2, 3))
    yield "red against blue", matrix, (images[:, 0] - images[:, 2]).mean(axis=(1, 2))
    yield "edges of a photograph", matrix, np.abs(np.diff(images)).mean(axis=(1, 2, 3))
    ids, _ = newsgroups()
    source = xfer.load_checkpoint(FOLDER / "models/newsgroups_cnn", 0)
    matrix = xfer.LayerFeatures(source).fit_transform(ids)
    yield "words of a post", matrix, np.log((ids != 0).sum(axis=1) + 1)  # 0 is padding
    yield "different words of a post", matrix, np.array([len(np.unique(one)) for one in ids])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
