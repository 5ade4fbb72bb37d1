"""Draw docs/accuracy.png: the accuracy with and without a pre-trained network on few labels.

Run with ``python benchmarks/picture.py``. The scores are those that
``examples/features_or_fine_tuning.py`` wrote to ``benchmarks/features_or_fine_tuning/``.
"""

import json
from pathlib import Path

import matplotlib

from xfer.plots import learning_curve

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "features_or_fine_tuning"
PICTURE = Path(__file__).parents[1] / "docs" / "accuracy.png"
MOST = 100  # labels per class

# Lines of methods that use a pre-trained network are solid, the others dashed.
PRETRAINED = {"linestyle": "-", "linewidth": 2.6}
WITHOUT = {"linestyle": "--", "linewidth": 1.6}

# The title of each task, and the name and style of each method. Similar methods have the same
# position in both tasks, and so the same colour.
PANELS = {
    "newsgroups": (
        "7 newsgroups",
        {
            "AutoRepurposer, unlabelled": ("text CNN, and unlabelled posts", PRETRAINED),
            "AutoRepurposer": ("text CNN", PRETRAINED),
            "from scratch": ("text CNN, from scratch", WITHOUT),
            "words": ("words (TF-IDF), no network", WITHOUT),
            "AutoRepurposer on sentences, unlabelled": (
                "sentence transformer, and unlabelled",
                PRETRAINED,
            ),
        },
    ),
    "resnet20_v2": (
        "10 classes of CIFAR-100",
        {
            "AutoRepurposer, unlabelled": ("ResNet-20, and unlabelled images", PRETRAINED),
            "AutoRepurposer": ("ResNet-20", PRETRAINED),
            "from scratch": ("ResNet-20, from scratch", WITHOUT),
            "pixels": ("pixels, no network", WITHOUT),
        },
    ),
}


def main(path: Path = PICTURE) -> None:
    """Draw the picture."""
    with plt.rc_context({"font.size": 12, "axes.titlesize": 14}):
        figure = draw()
    figure.savefig(path, dpi=200)
    plt.close(figure)


def draw() -> Figure:
    """Return the figure."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True, layout="constrained")
    for axes, (task, (title, ways)) in zip(panels, PANELS.items()):
        found = read(FOLDER / f"{task}.json")
        for way, (name, style) in ways.items():
            sizes, scores = zip(*sorted(found[way].items()))
            learning_curve(sizes, scores, name=name, ax=axes)
            axes.lines[-1].set(**style)
        axes.set_title(title, loc="left")
        axes.set(xlabel="labels per class", ylabel="", ylim=(0.1, 1))
        axes.set_yticks([0.2, 0.4, 0.6, 0.8, 1])
        axes.grid(axis="y", color="#dddddd", linewidth=0.7)
        legend(axes)
    panels[0].set_ylabel("accuracy on new examples")
    return figure


def read(path: Path) -> dict[str, dict[int, list[float]]]:
    """Return the accuracies by method and number of labels per class."""
    found = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        if row["labels"] <= MOST:
            cell = found.setdefault(row["way"], {}).setdefault(row["labels"], [])
            cell.append(row["accuracy"])
    return found


def legend(axes: Axes) -> None:
    """List the lines from top to bottom, as they start on the left."""
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
