"""Predictions of a file or folder of any size, by this process or by Ray."""

import argparse
import hashlib
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import cpu_count

from xfer._io import progress_bar
from xfer.cli.data import (
    Report,
    add_data_options,
    add_model_options,
    find_columns,
    folder_of_paths,
    open_model,
    predicted_from,
    problem,
    take_examples,
)
from xfer.cli.results import CsvFormat, GrowingFile, ParquetFormat
from xfer.tables import Broken, Rows, open_rows

# Rows that are read, predicted and written together. A run that is continued has the same pieces,
# so that its numbers are the same to the last digit.
_PIECE = 256
_DESCRIPTION = """\
Predict the label of each row of DATA, with its probability and, where the classifier has them, its
uncertainty in nats and its novelty. The rows come out in their order, with all their columns; one
that has the name of a result gets "_given" behind it. A row that cannot be read has no label, and
the column error says why.
"""
_EXAMPLES = """\
examples:
  xfer predict photos.xfer new_photos/ -o found.csv
  xfer predict reviews.xfer reviews.csv --column text --errors report -o found.parquet
  xfer predict photos.xfer photos.jsonl | head
  xfer predict photos.xfer photos.parquet --engine ray -o found.parquet

Until it is complete, the result is found.csv.part. If the run is interrupted, the same command goes
on from there; it refuses if the model or DATA has changed.
"""


Columns = dict[str, list[Any]]


class Job(NamedTuple):
    """What is to be predicted: which rows, from which one on, and which of their columns."""

    rows: Rows
    columns: dict[str, str]
    folder: Path | None
    start: int

    def pieces(self) -> Iterator[tuple[Columns, Columns]]:
        """Read some rows at a time: all their columns, and the examples in them."""
        for piece in self.rows.pieces(_PIECE, self.start):
            yield piece, take_examples(piece, self.columns, self.folder)


def add_commands(commands: Any) -> None:
    """Add ``predict``."""
    predict = commands.add_parser(
        "predict",
        help="predict labels of new examples",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(predict)
    add_data_options(predict, labels=False)
    out_help = "a .csv or .parquet file; by default, CSV is printed"
    predict.add_argument("-o", "--out", metavar="FILE", type=Path, help=out_help)
    engine_help = (
        "ray shares the rows among all cores of this machine, or of the cluster that RAY_ADDRESS "
        "names: then write MODEL and DATA as paths that all its machines can reach"
    )
    predict.add_argument("--engine", choices=["ray"], help=engine_help)
    predict.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    out: Path | None = options.out
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{out} must end in .csv or .parquet")
    if out is not None and out.resolve() == Path(options.data).resolve():
        raise ValueError(f"{out} is DATA, which would be replaced: give the result another name")
    rows = open_rows(options.data)
    is_parquet = out is not None and out.suffix == ".parquet"
    form: Any = ParquetFormat(_types(rows)) if is_parquet else CsvFormat()
    model = open_model(options)
    columns = find_columns(rows, model.features_.source_, options.column)
    file = None if out is None else GrowingFile(out, _made_of(options, rows, columns), form)
    folder = folder_of_paths(rows, model.features_.source_)
    job = Job(rows, columns, folder, file.rows if file else 0)
    # Each worker of Ray reads the file for itself; a network that is not in it is sent.
    engine = partial(_with_ray if options.engine else _here, job)
    found = engine(options.model.absolute() if options.engine and not options.source else model)
    report = Report(rows, options.errors, file.errors if file else 0)
    if file is None:
        _run(job, found, report, partial(_print, form, []))
        return report.exit_code()
    if file.rows:
        print(f"xfer: going on after row {file.rows}", file=sys.stderr)
    try:
        _run(job, found, report, file.append)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"after row {file.rows}: the same command continues") from None
    finally:
        file.close()
    n_rows = file.rows
    file.finish()
    print(f"Wrote {n_rows} rows to {out}.")
    return report.exit_code()


def _made_of(options: argparse.Namespace, rows: Rows, columns: dict[str, str]) -> dict[str, str]:
    """Return what decides the results, to be compared when a run is continued."""
    import xfer

    with options.model.open("rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "the model": model,
        "--source": str(options.source),
        "the data": rows.version(),
        "the column": ", ".join(columns.values()),
        "the version of xfer": xfer.__version__,
    }


def _run(job: Job, results: Iterator[Any], report: Report, write: Any) -> None:
    """Report broken rows of the results, and write all."""
    n_done = job.start
    with progress_bar(None, sys.stderr.isatty(), job.rows.n_rows, "predicting", "row") as bar:
        bar.update(n_done)
        for piece, examples, found in results:
            first = next(iter(examples.values()))
            problems = [problem(one) for one in first]
            found = {
                name: _without(found[name], problems) for name in found if name not in examples
            }
            found["error"] = [
                one or (reason if isinstance(reason, str) else None)
                for one, reason in zip(problems, found["error"])
            ]
            counted = report.count
            for row, reason in enumerate(found["error"]):
                if reason is not None:
                    report.add(n_done + row + 1, reason)
            write({**_given(job, piece, found), **found}, report.count - counted)
            n_done += len(first)
            bar.total = job.rows.n_rows
            bar.update(len(first))
    if not n_done:
        raise ValueError(f"{job.rows.path} has no rows")


def _here(job: Job, model: Any) -> Iterator[tuple[Columns, Columns, Any]]:
    """Predict in this process; yield some rows, their examples and the results."""
    from xfer.predictor import Predictor

    predictor = Predictor(model, predicted_from(job.columns), errors="report")
    for piece, examples in job.pieces():
        yield piece, examples, predictor(examples)


def _with_ray(job: Job, model: Any) -> Iterator[tuple[Columns, Columns, Any]]:
    """Predict with Ray Data: a task reads, and actors on all cores predict."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("--engine ray needs Ray: pip install 'ray[data]'") from error
    from xfer.predictor import Predictor

    is_ours = not ray.is_initialized()
    # On one machine, reading has a place beside the actors, of which each takes a core.
    here = {"address": "local", "num_cpus": cpu_count() + 1}
    places: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else here
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error", **places)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    n_workers = int(ray.cluster_resources().get("CPU", 0)) - 1
    if n_workers < 1:
        raise ValueError("--engine ray needs a cluster of 2 cores or more")
    reading = partial(_read, job.rows.path, job.columns, job.folder, job.start)
    found = (
        ray.data.range(1, override_num_blocks=1)
        .map_batches(lambda _: reading(), num_cpus=0)
        .repartition(target_num_rows_per_block=_PIECE)
        .map_batches(
            Predictor,
            fn_constructor_args=(model, predicted_from(job.columns)),
            fn_constructor_kwargs={"errors": "report"},
            batch_size=_PIECE,
            compute=ray.data.ActorPoolStrategy(size=n_workers),
        )
    )
    try:
        batches = found.iter_batches(batch_size=_PIECE, batch_format="numpy")
        for (piece, examples), batch in zip(job.pieces(), batches, strict=True):
            yield piece, examples, batch
    finally:
        if is_ours:
            ray.shutdown()


def _read(
    path: Path, columns: dict[str, str], folder: Path | None, start: int
) -> Iterator[dict[str, np.ndarray]]:
    """Read the examples in a worker."""
    for _, examples in Job(open_rows(path), columns, folder, start).pieces():
        are_texts = any(isinstance(one, str) for values in examples.values() for one in values)
        kind = object if are_texts else None
        yield {name: np.array(values, kind) for name, values in examples.items()}


def _without(values: Any, problems: list[str | None]) -> list[Any]:
    """Return a column of results as a list with None where a row is broken."""
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [None if broken else one for one, broken in zip(values, problems)]


def _given(job: Job, piece: dict[str, list[Any]], found: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the columns of the data, under names that the results leave free."""
    kept = {}
    for name, values in piece.items():
        if isinstance(values[0], np.ndarray) or (job.rows.path.is_dir() and name == "label"):
            continue  # arrays of an .npz file, and what is in the path
        kept[_given_name(name, job.rows.columns, found)] = [
            None if isinstance(one, Broken) else one for one in values
        ]
    return kept


def _given_name(name: str, columns: Sequence[str], found: Collection[str]) -> str:
    """Return the name of a column of the data that neither results nor other columns have."""
    free = name
    while free in found or (free != name and free in columns):
        free += "_given"
    return free


def _types(rows: Rows) -> dict[str, Any]:
    """Return the types of Arrow that columns of the data have, where the file says so."""
    results = {"label", "probability", "uncertainty", "novelty", "prediction", "error"}
    return {_given_name(name, rows.columns, results): kind for name, kind in rows.types.items()}


def _print(form: CsvFormat, begun: list[bool], columns: Any, n_errors: int) -> None:
    """Print rows, after the names of their columns the first time."""
    text = ("" if begun else form.start(columns).decode(errors="surrogateescape")) + form.rows(
        columns
    ).decode(errors="surrogateescape")
    begun.append(True)
    sys.stdout.write(text)
