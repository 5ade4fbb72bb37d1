"""What the commands for models share: columns of DATA, rows that are broken, the model itself."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xfer.tables import Broken, Rows

_EXAMPLES = ("text", "path", "file", "file_name", "filename", "image", "x", "X", "data")
_LABELS = ("label", "labels", "class", "target", "y")
_SHOWN = 10  # broken rows that are written to the terminal

COLUMN_HELP = (
    f"the column of the examples; by default the only one, or one named {', '.join(_EXAMPLES)}"
)
LABEL_HELP = (
    "the column of the labels; by default the only one besides the examples, or one named "
    + ", ".join(_LABELS)
)
ERRORS_HELP = (
    "what to do about a row that cannot be read, such as a broken picture or an empty text: stop, "
    "or go on and report it (default: fail)"
)


def add_data_options(command: argparse.ArgumentParser, labels: bool) -> None:
    """Add the options that say how to read DATA."""
    command.add_argument("data", metavar="DATA", type=Path, help="examples: see xfer --help")
    command.add_argument("--column", metavar="NAME", help=COLUMN_HELP)
    if labels:
        command.add_argument("--label", metavar="NAME", help=LABEL_HELP)
    command.add_argument("--errors", choices=["fail", "report"], default="fail", help=ERRORS_HELP)


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options that name a saved model."""
    command.add_argument("model", metavar="MODEL", type=Path, help="a file that xfer fit wrote")
    source_help = "the network, if it is not in MODEL: sentence transformers and PyTorch networks"
    command.add_argument("--source", metavar="SOURCE", help=source_help)


def open_model(options: argparse.Namespace) -> Any:
    """Load the model that a command names."""
    from xfer.cli.networks import open_network
    from xfer.persistence import load

    if options.model.suffix not in ("", ".xfer"):
        raise ValueError(f"MODEL must be a .xfer file, which xfer fit writes, got {options.model}")
    source = None if options.source is None else open_network(options.source)
    return load(options.model, source_model=source)


def find_columns(
    rows: Rows, source: Any, column: str | None, label: str | None = None
) -> dict[str, str]:
    """Return the columns of the examples: of each of the network's inputs, or of "example"."""
    if missing := [name for name in (column, label) if name not in (None, *rows.columns)]:
        names = ", ".join(rows.columns)
        raise ValueError(f"{rows.path} has no column {missing[0]!r}; its columns: {names}")
    inputs = getattr(source, "input_names", ())
    takes_arrays = getattr(source, "inputs", None) is None and bool(inputs)
    if column is None and takes_arrays and {*inputs} <= {*rows.columns}:
        return {name: name for name in inputs}
    if column is None:
        others = [name for name in rows.columns if name not in ([label] if label else _LABELS)]
        column = _choose(rows, others, _EXAMPLES, "the examples with --column")
    return {"example": column}


def find_label(rows: Rows, columns: dict[str, str], label: str | None) -> str:
    """Return the column of the labels."""
    others = [name for name in rows.columns if name not in columns.values()]
    return label or _choose(rows, others, _LABELS, "the labels with --label")


def _choose(rows: Rows, names: list[str], usual: Sequence[str], what: str) -> str:
    found = [name for name in usual if name in names]
    found = names if len(names) == 1 else found
    if len(found) != 1:
        known = ", ".join(rows.columns)
        raise ValueError(f"{rows.path} has the columns {known}: name the column of {what}")
    return found[0]


def folder_of_paths(rows: Rows, source: Any) -> Path | None:
    """Return the folder where relative paths of pictures in a table begin."""
    from xfer.inputs import ImageInputs

    is_table = isinstance(getattr(source, "inputs", None), ImageInputs) and not rows.path.is_dir()
    return rows.path.parent if is_table else None


def take_examples(
    piece: dict[str, list[Any]], columns: dict[str, str], folder: Path | None
) -> dict[str, list[Any]]:
    """Return the examples of some rows; relative paths begin at the folder."""
    found = {name: piece[column] for name, column in columns.items()}
    if folder is None:
        return found
    return {
        name: [
            str(folder / one) if isinstance(one, str) and problem(one) is None else one
            for one in values
        ]
        for name, values in found.items()
    }


def predicted_from(columns: dict[str, str]) -> Any:
    """Return what the Predictor calls `column`: one of examples, or one for each input."""
    return "example" if "example" in columns else list(columns)


def problem(value: Any) -> str | None:
    """Return what is wrong with an example or label: missing, without a letter, not readable."""
    if isinstance(value, Broken):
        return str(value)
    is_missing = value is None or (isinstance(value, float) and value != value)
    return "it is empty" if is_missing or (isinstance(value, str) and not value.strip()) else None


def label_problem(label: Any, example: Any, rows: Rows) -> str | None:
    """Return what is wrong with the label of an example."""
    if problem(label) is None:
        return None
    is_folder = rows.path.is_dir()
    return f"{example} is in none of the folders of the classes" if is_folder else "it has no label"


class Report:
    """Counts the rows that are broken and writes the first of them to the terminal."""

    def __init__(self, rows: Rows, errors: str, count: int = 0) -> None:
        self.rows, self.errors, self.count = rows, errors, count

    def add(self, row: int, reason: str) -> None:
        """Report a row, or stop there; the first row is 1."""
        message = f"{self.rows.path}, row {row}: {re.sub(r'^(the )?example 0 ', '', reason)}"
        if self.errors == "fail":
            raise ValueError(f"{message} (--errors report goes on without such rows)")
        self.count += 1
        if self.count <= _SHOWN:
            print(f"xfer: {message}", file=sys.stderr)
        if self.count == _SHOWN:
            print("xfer: more such rows are counted, not shown", file=sys.stderr)

    def exit_code(self) -> int:
        """Return 3 and say how many rows are broken, if there are some."""
        if self.count:
            print(f"xfer: {self.count} rows could not be read", file=sys.stderr)
        return 3 if self.count else 0
