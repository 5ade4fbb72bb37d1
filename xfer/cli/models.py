"""Models for a new task: fitted, evaluated and exported."""

import argparse
import json
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from xfer._io import atomic_write, progress_bar
from xfer.cli.data import (
    Report,
    add_data_options,
    add_model_options,
    find_columns,
    find_label,
    folder_of_paths,
    label_problem,
    open_model,
    predicted_from,
    problem,
    take_examples,
)
from xfer.cli.networks import PREFIX_HELP, open_network
from xfer.tables import Rows, is_picture, open_rows

_HEADS = {
    "auto": "AutoRepurposer",
    "lr": "LrRepurposer",
    "svm": "SvmRepurposer",
    "gp": "GpRepurposer",
    "bnn": "BnnRepurposer",
}
_PIECE = 256
_FIT = """\
Learn a task from labelled examples: features of a network that is not changed, and a classifier.
"""
_FIT_EXAMPLES = """\
examples:
  xfer fit resnet50.onnx photos/ --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 -o photos.xfer
      photos/ has one folder for each class; layers and classifiers are chosen
  xfer fit net photos.csv --layer relu5 --pooling mean --head gp -o photos.xfer
      the checkpoint net-symbol.json, net-0010.params; one layer, and a Gaussian process
  xfer fit MiniLM/ reviews.csv -o reviews.xfer
      the folder of a sentence transformer, and the columns text and label
"""
_EVALUATE_EXAMPLES = """\
examples:
  xfer evaluate photos.xfer test_photos/
  xfer evaluate photos.xfer test.csv --label kind -o report/
"""


def add_commands(commands: Any) -> None:
    """Add ``fit``, ``evaluate`` and ``export``."""
    raw = argparse.RawDescriptionHelpFormatter
    fit = commands.add_parser(
        "fit", help="learn a new task", description=_FIT, epilog=_FIT_EXAMPLES, formatter_class=raw
    )
    source_help = f"{PREFIX_HELP}; an .onnx file; or the folder of a sentence transformer"
    fit.add_argument("source", metavar="SOURCE", help=source_help)
    add_data_options(fit, labels=True)
    fit.add_argument("-o", "--out", metavar="MODEL", type=Path, required=True, help="a .xfer file")
    layer_help = "a layer for the features; can be repeated; by default layers are found"
    fit.add_argument("--layer", action="append", metavar="NAME", help=layer_help)
    pooling_help = "how to reduce a layer's output, such as mean, max, mean+max or masked_mean"
    fit.add_argument("--pooling", metavar="HOW", help=pooling_help)
    head_help = (
        "the classifier: a mixture (auto, the default), logistic regression (lr), support vector "
        "machines (svm), a Gaussian process (gp), a Bayesian neural network (bnn)"
    )
    fit.add_argument("--head", choices=list(_HEADS), default="auto", help=head_help)
    pictures = fit.add_argument_group(
        "pictures", "What the network was trained with; see xfer.ImageInputs."
    )
    pictures.add_argument("--size", type=_size, help="pixels: 224, or height,width (default: 224)")
    pictures.add_argument("--mean", type=_numbers, help="one number, or one for each channel")
    pictures.add_argument("--std", type=_numbers, help="pixels become (pixel * scale - mean) / std")
    pictures.add_argument("--scale", type=float, help="multiplies pixels of 0 to 255 (1/255)")
    pictures.add_argument("--channels", choices=["rgb", "bgr", "gray"], help="default: rgb")
    crop_help = "cut the middle out (the default), or squeeze the whole picture"
    pictures.add_argument("--crop", choices=["center", "none"], help=crop_help)
    texts = fit.add_argument_group("texts", "For networks that take the ids of words.")
    vocabulary_help = "JSON: what Vocabulary.save wrote, or a list of words"
    texts.add_argument("--vocabulary", metavar="FILE", type=Path, help=vocabulary_help)
    texts.add_argument("--length", type=int, metavar="N", help="words of a text that are read")
    fit.set_defaults(run=_fit)

    evaluate = commands.add_parser(
        "evaluate",
        help="compare a model's predictions with labels",
        description="Compare a model's predictions with labels.",
        epilog=_EVALUATE_EXAMPLES,
        formatter_class=raw,
    )
    add_model_options(evaluate)
    add_data_options(evaluate, labels=True)
    out_help = "a folder for confusion_matrix.png, reliability.png and report.json"
    evaluate.add_argument("-o", "--out", metavar="FOLDER", type=Path, help=out_help)
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser(
        "export",
        help="write a model as one ONNX file",
        description="Write a model, with its network, classifier and labels, as one ONNX file.",
        epilog="example:\n  xfer export photos.xfer photos.onnx",
        formatter_class=raw,
    )
    add_model_options(export)
    export.add_argument("out", metavar="OUT", type=Path, help="an .onnx file")
    output_help = (
        "label, probabilities, total, aleatoric, epistemic or novelty; can be repeated; by default "
        "label and probabilities"
    )
    export.add_argument("--output", action="append", metavar="NAME", help=output_help)
    export.set_defaults(run=_export)


def _size(text: str) -> Any:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)?", text):
        raise argparse.ArgumentTypeError(f"must be like 224 or 224,300 (height,width), got {text}")
    sizes = [int(one) for one in text.split(",")]
    return sizes[0] if len(sizes) == 1 else tuple(sizes)


def _numbers(text: str) -> Any:
    try:
        numbers = [float(one) for one in text.split(",")]
    except ValueError:
        like = "one number, or one for each channel without spaces, such as 0.485,0.456,0.406"
        raise argparse.ArgumentTypeError(f"must be {like}, got {text}") from None
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _fit(options: argparse.Namespace) -> int:
    import xfer

    out = options.out
    if out.suffix != ".xfer":
        raise ValueError(f"-o must be the name of a .xfer file, got {out}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.parent} to write {out.name} in")
    progress = sys.stderr.isatty()
    rows = open_rows(options.data)
    source = open_network(options.source)
    columns = find_columns(rows, source, options.column, options.label)
    label = find_label(rows, columns, options.label)
    read = next(rows.pieces(sys.maxsize), None)
    if read is None:
        raise ValueError(f"{rows.path} has no rows")
    first = read[next(iter(columns.values()))]
    source = _with_inputs(source, options, rows, next(filter(_is_fine, first), first[0]))
    examples = take_examples(read, columns, folder_of_paths(rows, source))
    report = Report(rows, options.errors)
    kept = _readable(examples, read[label], source, report, progress)
    if options.size is None and kept:
        _warn_if_small(source.inputs, next(iter(examples.values()))[kept[0]])
    labels = [read[label][row] for row in kept]
    given: dict[str, Any] = {"progress": progress}
    given.update({"pooling": options.pooling} if options.pooling else {})
    model = getattr(xfer, _HEADS[options.head])(source, options.layer, **given)
    model.fit(_as_data(examples, kept, source), labels)
    model.set_params(progress=None)  # it would be saved
    has_network = hasattr(source, "to_state")
    model.save_repurposer(out, save_source_model=None if has_network else False)
    layers = ", ".join(layer.name for layer in model.features_.layers_)
    print(f"Learned {len(model.classes_)} classes from {len(labels)} examples: {layers}.")
    if options.head == "auto" and not np.isnan(model.score_estimate_.accuracy):
        print(f"Estimated accuracy on new examples: {model.score_estimate_.accuracy:.2f}.")
    without = "" if has_network else f", without the network: give --source {options.source}"
    print(f"Wrote {out}{without}.")
    return report.exit_code()


def _with_inputs(source: Any, options: argparse.Namespace, rows: Rows, first: Any) -> Any:
    """Give a network what makes its inputs of texts or pictures, if the data are that."""
    from xfer.inputs import ImageInputs, TextInputs
    from xfer.sources import open_source
    from xfer.text import Vocabulary

    names = ("size", "mean", "std", "scale", "channels", "crop")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if (options.vocabulary is None) != (options.length is None):
        raise ValueError("--vocabulary and --length belong together: give both or none")
    if given and options.vocabulary:
        raise ValueError(f"--{next(iter(given))} is for pictures and --vocabulary for texts")
    if source.inputs is not None:
        if given or options.vocabulary:
            raise ValueError(f"{options.source} has its own inputs: leave out these options")
        return source
    if options.vocabulary:
        words = json.loads(options.vocabulary.read_text(encoding="utf-8"))
        vocabulary = Vocabulary.from_words(words) if isinstance(words, list) else None
        vocabulary = vocabulary or Vocabulary.load(options.vocabulary)
        return open_source(source, inputs=TextInputs(vocabulary, options.length))
    if given or (isinstance(first, str) and is_picture(first)):
        given.update({"crop": None} if given.get("crop") == "none" else {})
        inputs = ImageInputs(**given)
        print(f"Pictures are read by {inputs}.")
        return open_source(source, inputs=inputs)
    if isinstance(first, str):
        raise ValueError(
            f"{rows.path} begins with {first!r:.40}, and {options.source} takes numbers: for texts "
            "give --vocabulary and --length; pictures have names that end like .jpg"
        )
    return source


def _warn_if_small(inputs: Any, first: Any) -> None:
    """Warn if pictures are made much larger, which networks of large pictures are not good at."""
    from xfer.inputs import ImageInputs

    if isinstance(inputs, ImageInputs):
        height, width = replace(inputs, size=None, layout="NHWC")([first]).shape[1:3]
        size = cast(tuple[int, int], inputs.size)
        if height < size[0] / 2 and width < size[1] / 2:
            warnings.warn(
                f"the first picture has {height} x {width} pixels, and is enlarged to {size[0]} x "
                f"{size[1]}: if the network was trained on small pictures, give their --size",
                stacklevel=2,
            )


def _readable(
    examples: dict[str, list[Any]], labels: list[Any], source: Any, report: Report, progress: bool
) -> list[int]:
    """Return the rows that can be learned from, and report the others."""
    from xfer.inputs import ImageInputs

    kept, first = [], next(iter(examples.values()))
    bar = progress_bar(range(len(labels)), progress, None, "checking", "row")
    for row in bar:
        reason = problem(first[row]) or label_problem(labels[row], first[row], report.rows)
        try:
            if reason is None and isinstance(source.inputs, ImageInputs):
                source.inputs([first[row]])
        except (ValueError, TypeError, OSError) as error:
            reason = str(error)
        if reason is None and source.inputs is None:
            numbers = [np.asarray(values[row]) for values in examples.values()]
            is_fine = all(one.dtype.kind in "biuf" and np.isfinite(one).all() for one in numbers)
            reason = None if is_fine else "it is not an array of finite numbers"
        if reason is None:
            kept.append(row)
        else:
            report.add(row + 1, reason)
    return kept


def _is_fine(example: Any) -> bool:
    return problem(example) is None


def _as_data(examples: dict[str, list[Any]], kept: Sequence[int], source: Any) -> Any:
    """Return examples as repurposers take them."""
    found: dict[str, Any] = {name: [some[row] for row in kept] for name, some in examples.items()}
    if source.inputs is None:
        found = {name: np.array(values) for name, values in found.items()}
    return found.get("example", found)


def _evaluate(options: argparse.Namespace) -> int:
    from sklearn.base import is_regressor
    from sklearn.metrics import classification_report

    model = open_model(options)
    if is_regressor(model) or model.classes_.ndim > 1:
        raise TypeError(
            f"{options.model} predicts numbers or several labels; evaluate compares one label"
        )
    if options.out is not None:  # before the long work
        options.out.mkdir(parents=True, exist_ok=True)
    compared, report = _compare(model, options)
    accuracy = float(np.mean([one == other for one, other in zip(compared.true, compared.labels)]))
    numbers = {"accuracy": accuracy, "examples": len(compared.true)}
    text = f"Accuracy {accuracy:.3f} on {len(compared.true)} examples.\n"
    if compared.sure:
        numbers["mean_probability"] = float(np.mean(compared.sure))
        text += f"Mean probability of the predicted labels {numbers['mean_probability']:.3f}.\n"
    classes = [str(one) for one in model.classes_]
    each = partial(classification_report, *compared[:2], labels=classes, zero_division=0)
    if options.out is not None:  # before anything is printed, which may fail
        names = [*classes, "macro avg", "weighted avg"]
        by_class = {n: one for n, one in each(output_dict=True).items() if n in names}
        written = _write_report(options.out, compared, classes, {**numbers, "by_class": by_class})
    print(text + each(digits=3))
    if options.out is not None:
        print(f"Wrote {', '.join(written)} in {options.out}.")
    return report.exit_code()


class _Compared(NamedTuple):
    """The true and the predicted label of each example, and how sure the model is."""

    true: list[str]
    labels: list[str]
    sure: list[float]


def _compare(model: Any, options: argparse.Namespace) -> tuple[_Compared, Report]:
    """Predict the rows that can be compared, and report the others."""
    from xfer.predictor import Predictor

    rows, source = open_rows(options.data), model.features_.source_
    columns = find_columns(rows, source, options.column, options.label)
    label = find_label(rows, columns, options.label)
    folder = folder_of_paths(rows, source)
    predictor = Predictor(model, predicted_from(columns), errors="report")
    classes = [str(one) for one in model.classes_]
    report, compared, done = Report(rows, options.errors), _Compared([], [], []), 0
    bar = progress_bar(None, sys.stderr.isatty(), rows.n_rows, "evaluating", "row")
    with bar:
        for piece in rows.pieces(_PIECE):
            examples = take_examples(piece, columns, folder)
            found = predictor(examples)
            first = next(iter(examples.values()))
            for row, given in enumerate(piece[label]):
                reason = problem(first[row]) or label_problem(given, first[row], rows)
                reason = reason or found["error"][row]
                label_text = _as_class(given, model.classes_)
                if reason is None and label_text not in classes:
                    known = ", ".join(classes)
                    reason = f"the model has no class {label_text!r}; its classes are {known}"
                if reason is not None:
                    report.add(done + row + 1, reason)
                    continue
                compared.true.append(label_text)
                compared.labels.append(str(found["label"][row]))
                if "probability" in found:
                    compared.sure.append(float(found["probability"][row]))
            done += len(piece[label])
            bar.update(len(piece[label]))
    if not compared.true:
        raise ValueError(f"{rows.path} has no row that can be compared")
    return compared, report


def _as_class(given: Any, classes: np.ndarray) -> str:
    """Return a label as the text of the class that it is: of numbers, 5 is also 5.0."""
    if classes.dtype.kind in "iuf":
        with suppress(ValueError, TypeError):
            return str(next(iter(classes[classes == float(given)]), given))
    return str(given)


def _write_report(
    folder: Path, compared: _Compared, classes: list[str], numbers: dict[str, Any]
) -> list[str]:
    """Write the numbers as JSON, and the pictures; return the names of the files."""
    from sklearn.metrics import confusion_matrix

    from xfer import plots

    true, labels, sure = compared
    counts = confusion_matrix(true, labels, labels=classes)
    numbers = {**numbers, "classes": classes, "confusion_matrix": counts.tolist()}
    with atomic_write(folder / "report.json") as file:
        file.write(json.dumps(numbers, indent=1).encode())
    figure: Any = plots.confusion_matrix(true, labels, classes).figure
    _draw(figure, folder / "confusion_matrix.png")
    written = ["report.json", "confusion_matrix.png"]
    if sure:
        # The picture needs no more of a row than the predicted label and its probability.
        probabilities = np.zeros((len(true), len(classes)))
        probabilities[np.arange(len(true)), [classes.index(one) for one in labels]] = sure
        figure = plots.reliability(true, probabilities, classes).figure
        _draw(figure, folder / "reliability.png")
        written.append("reliability.png")
    return written


def _draw(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _export(options: argparse.Namespace) -> None:
    if options.out.suffix != ".onnx":
        raise ValueError(f"{options.out} must end in .onnx")
    model = open_model(options)
    model.to_onnx(options.out, outputs=options.output)
    print(f"Wrote {options.out}.")
