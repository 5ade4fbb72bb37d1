"""Draw the pictures of the pages that use the example's digits.

Run with ``python docs/pictures.py``. Most pictures are saved by the code of a page; the others are
drawn here.
"""

import contextlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

import xfer

FOLDER = Path(__file__).parent
PAGES = ("tutorial.md", "auto.md", "choosing_a_layer.md", "trusting_a_probability.md")
BLUE, GREY = "#0072B2", "#666666"


def main() -> None:
    """Draw all pictures."""
    data_flow()
    ten_digits()
    card()
    for page in PAGES:
        run_page(FOLDER / page)


def run_page(page: Path) -> None:
    """Run the code of a page, and copy the pictures that it saves."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec(compile("\n".join(blocks), str(page), "exec"), {"__name__": "__page__"})
        for picture in Path(folder).glob("*.png"):
            shutil.copy(picture, FOLDER / picture.name)
    plt.close("all")


def ten_digits() -> None:
    """Draw the first ten images."""
    images, digits = xfer.example.digits()
    figure, axes = plt.subplots(1, 10, figsize=(9, 1.25), layout="constrained")
    for ax, image, digit in zip(axes, images, digits):
        show(ax, image[0])
        ax.set_xlabel(f"{digit}: {'known' if digit < 5 else 'new'}", fontsize=9)
    save(figure, "tutorial_digits.png")


def data_flow() -> None:
    """Draw the steps from one image to its probabilities."""
    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    order = np.random.RandomState(0).permutation(np.flatnonzero(digits >= 5))
    few = np.concatenate([order[digits[order] == digit][:10] for digit in range(5, 10)])
    one = order[-1:]
    maps = source.extract(images[one], "relu2")["relu2"][0]
    features = maps.max(axis=(1, 2))
    repurposer = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images[few], digits[few])
    probabilities = repurposer.predict_proba(images[one])[0]

    figure = plt.figure(figsize=(9.5, 3.2))
    axes = figure.subplots(
        1,
        4,
        width_ratios=(1, 2, 0.28, 0.9),
        gridspec_kw={"left": 0.02, "right": 0.97, "bottom": 0.16, "top": 0.8, "wspace": 0.8},
    )
    show(axes[0], images[one[0], 0])
    blues = plt.get_cmap("Blues").with_extremes(bad="#dddddd")
    show(axes[1], tiled(maps, columns=8), cmap=blues)
    show(axes[2], features[:, None], cmap=blues, aspect="auto")
    xfer.plots.class_probabilities(probabilities, repurposer.classes_, ax=axes[3])
    axes[3].set(xlabel="", ylabel="", xticks=[0, 0.5, 1])
    titles = (
        ("data", "an image", "(n, 1, 16, 16)"),
        ("source model", "32 maps of relu2", "(n, 32, 8, 8)"),
        ("layer features", "their maxima", "(n, 32)"),
        ("predictions", "probabilities", "(n, 5)"),
    )
    for ax, (what, here, shape) in zip(axes, titles):
        middle = ax.get_position().x0 + ax.get_position().width / 2
        figure.text(middle, 0.94, what, ha="center", weight="bold")
        figure.text(middle, 0.86, here, ha="center", color=GREY)
        figure.text(middle, 0.02, shape, ha="center", family="monospace", color=GREY)
    steps = ("network", "pooling", "meta-model")
    for step, left, right in zip(steps, axes[:-1], axes[1:]):
        arrow(figure, left.get_position().x1, right.get_position().x0, step)
    save(figure, "data_flow.png")


def card() -> None:
    """Draw the picture that stands beside a link to the site, 1200 x 630 pixels."""
    figure = plt.figure(figsize=(10, 5.25))
    figure.text(0.05, 0.86, "xfer", size=54, weight="bold", color=BLUE, va="center")
    promise = "A pre-trained network, about a hundred labels:\na calibrated scikit-learn classifier"
    figure.text(0.24, 0.86, promise, size=21, va="center")
    ax = figure.add_axes((0.04, 0.02, 0.92, 0.74))
    ax.imshow(plt.imread(FOLDER / "accuracy.png"))
    ax.set_axis_off()
    save(figure, "_static/card.png")


def tiled(maps: np.ndarray, columns: int) -> np.ndarray:
    """Put maps (n, height, width) side by side, with a gap between."""
    padded = np.pad(maps, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    rows = padded.reshape(-1, columns, *padded.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])[:-1, :-1]


def arrow(figure: Figure, left: float, right: float, name: str) -> None:
    """Draw an arrow between two panels, with a name above it."""
    ends = (left + 0.012, 0.48), (right - 0.03, 0.48)
    style = {"arrowstyle": "-|>", "mutation_scale": 16, "color": BLUE, "linewidth": 1.5}
    figure.add_artist(FancyArrowPatch(*ends, transform=figure.transFigure, **style))
    middle = (ends[0][0] + ends[1][0]) / 2
    figure.text(middle, 0.53, name, ha="center", color=BLUE, fontsize=9)


def show(ax: Axes, image: np.ndarray, cmap: Any = "gray_r", **options: Any) -> None:
    """Show one image without ticks."""
    ax.imshow(image, cmap=cmap, **options)
    ax.set(xticks=[], yticks=[])


def save(figure: Figure, name: str) -> None:
    """Write a picture beside the pages."""
    figure.savefig(FOLDER / name, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
