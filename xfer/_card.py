"""A model card: what a fitted repurposer is made of, and how well it predicts, in Markdown."""

import importlib.metadata
import importlib.util
import platform
from collections.abc import Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from sklearn.metrics import accuracy_score, log_loss, r2_score

import xfer
from xfer._io import atomic_write

_PACKAGES = ("numpy", "scikit-learn", "onnxruntime", "torch", "mxnet")
_BINS = 15


def card(
    model: Any, judged: tuple[np.ndarray, np.ndarray, Any] | None, path: str | PathLike[str] | None
) -> str:
    """Write the card; ``judged`` are labels, predictions and probabilities of test examples."""
    path = None if path is None else Path(path)
    about = (model.features_.fit_data_ or {}).get("about", {})
    source, layers = model.features_.source_, model.features_.layers_
    module = getattr(source, "module", None)
    n_layers, n_parameters = len(source.layers), sum(one.parameter_count for one in source.layers)
    if module is not None:  # parameters that several layers share count once
        n_parameters = sum(one.numel() for one in module.parameters())
    named = (f"{one.name} ({how})" for one, how in zip(layers, model.features_.poolings_))
    kind = type(source if module is None else module).__name__
    rows = [
        ("model", f"{type(model).__name__}, {type(model.meta_model_).__name__}"),
        ("network", f"{kind}, {n_layers:,} layers, {n_parameters:,} parameters"),
        ("inputs", ", ".join(getattr(source, "input_names", ["unknown"]))),
        ("layers", ", ".join(named)),
    ]
    if about:
        rows += [
            ("fitted", f"{about['date']}, on {about['n_examples']:,} labelled examples"),
            ("SHA-256 of the examples", about["sha256"] or "unknown"),
        ]
    rows.append(("versions", ", ".join(_versions())))
    text = f"# {_cell(path.stem) if path else type(model).__name__}\n\n{_table(('', ''), rows)}"
    if hasattr(model, "classes_"):
        text += f"\n## Labels\n\n{_labels(model.classes_, about.get('counts', []))}"
    text += "\n## Quality\n\n" + _quality(model, judged, path)
    if path is not None:
        with atomic_write(path) as file:
            file.write(text.encode())
    return text


def _quality(model: Any, judged: Any, path: Path | None) -> str:
    """Write how well a model predicts, and draw how far its probabilities can be trusted."""
    estimate = getattr(model, "score_estimate_", None)
    if judged is not None:
        y_true, predicted, probabilities = judged
        how = f"Measured on {len(y_true):,} labelled examples."
        scores = {"accuracy": accuracy_score} if hasattr(model, "classes_") else {"R²": r2_score}
        rows = [(name, f"{score(y_true, predicted):.3f}") for name, score in scores.items()]
        if probabilities is not None:
            order = np.argsort(model.classes_)  # of classes in any order
            loss = log_loss(y_true, probabilities[:, order], labels=model.classes_[order])
            rows.append(("log loss, nats", f"{loss:.3f}"))
    elif estimate is not None and estimate.n_examples:
        left_out = model.meta_model_.left_out_
        known = np.isfinite(left_out).all(axis=1)
        y_true, probabilities = model.classes_[model.meta_model_.labels_[known]], left_out[known]
        how = "Estimated on the labelled examples, each predicted from the others."
        accuracy, loss, of_accuracy, of_loss, _ = estimate
        rows = [
            ("accuracy", f"{accuracy:.3f} ± {of_accuracy:.3f}"),
            ("log loss, nats", f"{loss:.3f} ± {of_loss:.3f}"),
        ]
    else:
        return "Not measured. Give labelled examples that were not in the fit: `card(X, y)`.\n"
    picture = ""
    if probabilities is not None:
        error = _calibration_error(y_true, probabilities, model.classes_)
        rows.append((f"expected calibration error, {_BINS} bins", f"{error:.3f}"))
        picture = _draw(y_true, probabilities, model.classes_, path)
    return f"{how}\n\n{_table(('', ''), rows)}{picture}"


def _calibration_error(y_true: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Return the mean distance of confidence and accuracy: eq. 3 of Guo et al. (2017)."""
    sure = probabilities.max(axis=1)
    gap = (classes[probabilities.argmax(axis=1)] == y_true) - sure
    edges = np.linspace(0, 1, _BINS + 1)[1:-1]
    return float(np.abs(np.bincount(np.searchsorted(edges, sure), gap)).sum() / len(gap))


def _draw(
    y_true: np.ndarray, probabilities: np.ndarray, classes: np.ndarray, path: Path | None
) -> str:
    """Draw a reliability diagram beside the card, if there is a path and Matplotlib."""
    if path is None or importlib.util.find_spec("matplotlib") is None:
        return ""
    from matplotlib.figure import Figure

    from xfer.plots import reliability

    figure = Figure(figsize=(5, 6), layout="constrained")
    reliability(y_true, probabilities, classes, bins=_BINS, ax=figure.subplots())
    with atomic_write(path.with_suffix(".png")) as file:
        figure.savefig(file, format="png", dpi=120)
    return (
        f"\n![How often predictions are right against how sure they are]({quote(path.stem)}.png)\n"
    )


def _labels(classes: np.ndarray, counts: Sequence[int]) -> str:
    """Write the labels, with the number of examples of each if it is known."""
    if classes.ndim > 1:
        classes = np.arange(len(classes))
    if len(counts) != len(classes):
        return ", ".join(map(_cell, classes.tolist())) + "\n"
    rows = [(str(one), f"{n:,}") for one, n in zip(np.sort(classes).tolist(), counts)]
    return _table(("label", "examples"), rows)


def _versions() -> list[str]:
    found = [f"xfer {xfer.__version__}", f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *(map(_cell, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    """Write a value so that it stays in its cell, as it is."""
    text = " ".join(str(value).split())
    return "".join(f"\\{one}" if one in r"\|<>*_[]" else one for one in text)
