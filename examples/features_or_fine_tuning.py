"""Features of a frozen network, or fine-tuning it? Accuracy against the number of labels.

Three tasks: seven newsgroups from a network that knows thirteen others, and ten classes of
CIFAR-100 from two networks that know CIFAR-10. Each is learned in four ways from 5 to 500 labels a
class: logistic regression and a Gaussian process on features, the whole network fine-tuned, and the
same network trained from scratch. Every number is a mean over draws of the labelled examples.

Run with ``python examples/features_or_fine_tuning.py``, beside the folder of real models and data
that ``XFER_TEST_DATA`` names. All of it takes about two hours on two cores; every result is kept in
``--results`` as soon as it is there, so that another run goes on where one was interrupted, and
tasks can run side by side: ``python examples/features_or_fine_tuning.py newsgroups``.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.metrics import log_loss
from tqdm.auto import tqdm

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from sources import cifar100, module, newsgroups

import xfer

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
WAYS = {
    "LrRepurposer": "#0072B2",
    "GpRepurposer": "#56B4E9",
    "fine-tuned": "#D55E00",
    "from scratch": "#999999",
}


def main(arguments=None):
    """Compute what is not there yet, print the table and draw the picture."""
    options = parse(arguments)
    options.results.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        compute(task, options)
    found = read(options.results)
    show(found)
    draw_picture(found, options.picture)
    print(f"\nThe picture is in {options.picture}.")


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--draws", type=int, default=5, help="of the labelled examples")
    parser.add_argument("--most", type=int, default=500, help="labels a class")
    parser.add_argument("--results", type=Path, default=Path("features_or_fine_tuning"))
    parser.add_argument("--picture", type=Path, default=Path("features_or_fine_tuning.png"))
    options = parser.parse_args(arguments)
    for task in options.tasks:
        if task not in TASKS:
            parser.error(f"{task} is none of {', '.join(TASKS)}")
    return options


def compute(task, options):
    """Learn a task in every way from every number of labels, as often as there are draws."""
    path = options.results / f"{task}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    done = {(row["labels"], row["draw"], row["way"]) for row in rows}
    cells = [
        (labels, draw, way)
        for labels in LABELS_A_CLASS[task]
        if labels <= options.most
        for draw in range(options.draws)
        for way in WAYS
        if (labels, draw, way) not in done
    ]
    if not cells:
        return
    source, layer, pool, test = load(task)
    for labels, draw, way in tqdm(cells, desc=task):
        chosen = choose(pool[1], labels, draw)
        start = time.perf_counter()
        classifier = make(way, source, layer, len(chosen)).fit(pool[0][chosen], pool[1][chosen])
        seconds = time.perf_counter() - start
        probabilities = classifier.predict_proba(test[0])
        hits = classifier.classes_[probabilities.argmax(axis=1)] == test[1]
        loss = log_loss(test[1], probabilities, labels=classifier.classes_)
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
    """Return the source network, the layer to take, examples to draw from and others to test on."""
    if task == "newsgroups":
        ids, names = newsgroups()
        order = np.random.RandomState(0).permutation(len(names))
        test, pool = order[:2000], order[2000:]
        return (
            module("newsgroups_cnn"),
            "dropout0",
            (ids[pool], names[pool]),
            (ids[test], names[test]),
        )
    images, labels, *test = cifar100()
    source = module(f"cifar_{task}", label_names=None)
    layer = next(name for name in xfer.open_source(source).layer_names if "pool0" in name)
    return source, layer, (images, labels), test


def choose(labels, count, draw):
    """Draw as many examples of each class (rows)."""
    random = np.random.RandomState(100 + draw)
    order = random.permutation(len(labels))
    return np.concatenate([order[labels[order] == name][:count] for name in np.unique(labels)])


def make(way, source, layer, count):
    """Return a classifier that is not fitted yet, for so many examples."""
    if way == "fine-tuned":
        return xfer.NeuralNetworkFineTuneRepurposer(source, layer)
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
        num_epochs=int(np.clip(15_000 // count, 6, 60)),  # who knows nothing needs more of them
    )


def read(folder):
    """Return accuracies and losses of the draws, by task, way and labels a class."""
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
    """Print accuracy, log loss and seconds of every cell."""
    print("| task | labels a class | " + " | ".join(WAYS) + " |")
    print("| --- " * (2 + len(WAYS)) + "|")
    most = max(
        len(rows) for ways in found.values() for cell in ways.values() for rows in cell.values()
    )
    for task, ways in found.items():
        for labels in sorted({labels for cells in ways.values() for labels in cells}):
            cells = []
            for way in WAYS:
                rows = np.array(ways.get(way, {}).get(labels, []))
                if not len(rows):
                    cells.append("not run")
                    continue
                (hit, loss, _), spread = rows.mean(axis=0), rows[:, 0].std()
                few = f" (of {len(rows)})" if len(rows) < most else ""
                seconds = np.median(rows[:, 2])
                cells.append(f"{hit:.3f} ± {spread:.3f}, {loss:.3f}, {seconds:.1f} s{few}")
            print(f"| {TASKS[task]} | {labels} | " + " | ".join(cells) + " |")


def draw_picture(found, path):
    """Draw accuracy against labels a class, with a standard deviation each way, for every task."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1,
        len(found),
        figsize=(4.2 * len(found), 4),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axes, (task, ways) in zip(panels[0], found.items()):
        for way, colour in WAYS.items():
            numbers = sorted(ways.get(way, {}))
            hits = [[row[0] for row in ways[way][number]] for number in numbers]
            axes.errorbar(
                numbers,
                [np.mean(draws) for draws in hits],
                [np.std(draws) for draws in hits],
                color=colour,
                marker="o",
                markersize=4,
                capsize=3,
                label=way,
            )
        axes.set(xscale="log", title=TASKS[task], xlabel="labels a class", ylim=(0, 1))
        numbers = sorted({number for cells in ways.values() for number in cells})
        axes.set_xticks(numbers, numbers)
        axes.minorticks_off()
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy on new examples")
    panels[0][-1].legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
