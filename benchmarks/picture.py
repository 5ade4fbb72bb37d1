"""Draw docs/accuracy.png: what a pre-trained network is worth when labels are few.

Run with ``python benchmarks/picture.py``. The figures are of the draws that
``examples/features_or_fine_tuning.py`` kept in ``benchmarks/features_or_fine_tuning/``.
"""

import json
from pathlib import Path

import matplotlib

from xfer.plots import learning_curve

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent / "features_or_fine_tuning"
PICTURE = Path(__file__).parents[1] / "docs" / "accuracy.png"
MOST = 100  # labels a class

# What starts from a pre-trained network is solid, what does without one is dashed.
PRETRAINED = {"linestyle": "-", "linewidth": 2.6}
WITHOUT = {"linestyle": "--", "linewidth": 1.6}

# For each task a title, and for each way its name and style. What is alike comes at the same place
# in both, and so has the same colour.
PANELS = {
    "newsgroups": (
        "7 newsgroups",
        {
            "sentence and words": ("sentence transformer + words", PRETRAINED),
            "from scratch": ("text CNN, from scratch", WITHOUT),
            "GpRepurposer": ("text CNN, repurposed", PRETRAINED),
            "words": ("words (TF-IDF), no network", WITHOUT),
            "sentence transformer": ("sentence transformer, repurposed", PRETRAINED),
        },
    ),
    "resnet20_v2": (
        "10 classes of CIFAR-100",
        {
            "fine-tuned": ("ResNet-20, fine-tuned", PRETRAINED),
            "from scratch": ("ResNet-20, from scratch", WITHOUT),
            "GpRepurposer": ("ResNet-20, repurposed", PRETRAINED),
            "pixels": ("pixels, no network", WITHOUT),
        },
    ),
}


def main(path=PICTURE):
    """Draw the picture."""
    with plt.rc_context({"font.size": 12, "axes.titlesize": 14}):
        figure = draw()
    figure.savefig(path, dpi=200)
    plt.close(figure)


def draw():
    """Return the figure."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True, layout="constrained")
    for axes, (task, (title, ways)) in zip(panels, PANELS.items()):
        found = read(FOLDER / f"{task}.json")
        for way, (name, style) in ways.items():
            sizes, scores = zip(*sorted(found[way].items()))
            learning_curve(sizes, scores, name=name, ax=axes)
            axes.lines[-1].set(**style)
        axes.set_title(title, loc="left")
        axes.set(xlabel="labels a class", ylabel="", ylim=(0.1, 1), yticks=[0.2, 0.4, 0.6, 0.8, 1])
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        legend(axes)
    panels[0].set_ylabel("accuracy on new examples")
    return figure


def read(path):
    """Return the accuracies of the draws, by way and labels a class."""
    found = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        if row["labels"] <= MOST:
            cell = found.setdefault(row["way"], {}).setdefault(row["labels"], [])
            cell.append(row["accuracy"])
    return found


def legend(axes):
    """Name the lines in the order in which they start, from the top."""
    lines = sorted(axes.lines, key=lambda line: -line.get_ydata()[0])
    axes.legend(
        handles=lines,
        loc="lower right",
        fontsize=10.5,
        labelspacing=0.3,
        handlelength=2.4,
        frameon=False,
        borderaxespad=0,
    )


if __name__ == "__main__":
    main()
