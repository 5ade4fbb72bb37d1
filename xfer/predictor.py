"""A repurposer as a function of batches, which Ray Data, Spark, Dask and others can call."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar

import numpy as np
from sklearn.base import is_regressor
from sklearn.utils.validation import check_is_fitted

from xfer.features import LayerFeatures, SharesNetwork
from xfer.persistence import _path, load
from xfer.sources.base import SourceModel
from xfer.sources.data import open_data, read_all

__all__ = ["Predictor"]

Batch = TypeVar("Batch")

# The columns that a classifier can add, and the method that gives each.
_COLUMNS = {
    "label": "predict",
    "probability": "predict_proba",
    "uncertainty": "predict_uncertainty",
    "novelty": "novelty",
}
_MOST_NETWORKS = 4
_loading = Lock()


class Predictor:
    """A repurposer as a function from a batch of rows to the same batch with predictions.

    Ray Data, Spark, Dask, Hugging Face datasets and ``map`` call it as it is:
    :doc:`/past_one_machine`. It is small and can be pickled. Each process opens the file at its
    first batch, and once. ONNX Runtime then uses as many threads as ``OMP_NUM_THREADS`` allows,
    which Ray, Spark and Dask set to the cores of a worker.

    Parameters
    ----------
    model : str, path-like, repurposer or LayerFeatures
        The file of a saved repurposer, or what has been fitted. A path is best for many workers,
        which then have to reach the file.
    column : str, list of str or dict of str to str, optional
        The column with the examples: paths of pictures, texts or arrays. For several inputs of the
        network, a dict from each input to its column, or a list of columns: those that have the
        names of inputs, or all in the order of the inputs. By default, the columns that have the
        names of the inputs, or else the only column.
    errors : {"fail", "report"}, default="fail"
        What to do about a row that the network cannot take, such as a broken picture or NaN.
        "fail" raises ValueError. "report" leaves its results empty, and adds the column ``error``,
        which says what is wrong with each such row and is empty elsewhere.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> repurposer = xfer.GpRepurposer(source, "relu2", pooling="max").fit(images[:50], digits[:50])
    >>> predictor = xfer.Predictor(repurposer, "pixels")
    >>> found = predictor({"id": [50, 51, 52], "pixels": images[50:53]})
    >>> list(found)
    ['id', 'pixels', 'label', 'probability', 'uncertainty', 'novelty']
    >>> found["label"]
    array([6, 7, 5])
    """

    def __init__(
        self,
        model: Any,
        column: str | Sequence[str] | Mapping[str, str] | None = None,
        *,
        errors: Literal["fail", "report"] = "fail",
    ) -> None:
        if not isinstance(model, (str, os.PathLike)):
            if not isinstance(model, SharesNetwork):
                kinds = "a fitted repurposer, LayerFeatures or the path of a .xfer file"
                raise TypeError(f"model must be {kinds}, got {type(model).__name__}")
            check_is_fitted(model)
        if errors not in ("fail", "report"):
            raise ValueError(f"errors must be 'fail' or 'report', got {errors!r}")
        self.model = model
        self.column = column
        self.errors = errors

    def __call__(self, batch: Batch) -> Batch:
        """Predict a batch.

        Parameters
        ----------
        batch : dict of str to array or list, or table
            A table is a DataFrame of pandas or polars, or a Table or RecordBatch of Arrow.

        Returns
        -------
        dict or table
            Of the same kind and with the same n rows, with the following columns added. Where
            examples have several labels, a row of ``label`` and ``probability`` has several values.

            label : of shape (n,)
                Members of ``classes_``.
            probability : of shape (n,)
                That of the label, if the classifier has ``predict_proba``.
            uncertainty : of shape (n,)
                The total uncertainty in nats, if the classifier has ``predict_uncertainty``.
            novelty : of shape (n,)
                How unlike the labelled examples a row is, if the classifier has ``novelty``.
            prediction : of shape (n,) or (n, k)
                Instead of all these, the numbers of a regressor.
            one column for each layer : of shape (n, d)
                Instead of all these, the features of LayerFeatures.
            error : of shape (n,)
                With ``errors="report"``.

        Raises
        ------
        TypeError, ValueError
            If the batch is of another kind, lacks a column, or has one that would be added; or,
            with ``errors="fail"``, if the network cannot take a row, which the message names.
        FileNotFoundError
            If there is no such file.
        """
        model = self._open()
        names = _column_names(batch)
        added = [*_no_results(model, 0), *["error"] * (self.errors == "report")]
        if taken := [name for name in added if name in names]:
            raise ValueError(
                f"the batch already has {_listed(taken)}, which would be added: rename or drop it"
            )
        source = _features(model).source_
        columns = {
            key: _values(batch, column) for key, column in self._inputs(source, names).items()
        }
        results, broken = self._predict(model, columns)
        missing = np.array([row in broken for row in range(_count(columns))], bool)
        found = {name: (values, missing) for name, values in results.items()}
        if self.errors == "report":
            reasons = np.array([broken.get(row, "") for row in range(len(missing))], str)
            found["error"] = reasons, ~missing
        return _with_columns(batch, found)

    def _open(self) -> Any:
        if not isinstance(self.model, (str, os.PathLike)):
            return self.model
        path = _path(self.model, "").absolute()
        with _loading:
            return _load(path, path.stat().st_mtime_ns)

    def _inputs(self, source: Any, names: Sequence[str]) -> dict[str | None, str]:
        """Return the column of each input; the only key is None if a column is that of examples."""
        inputs = list(getattr(source, "input_names", ()))
        column: Any = self.column
        if column is None:
            column = [name for name in names if name in inputs]
            if not column and len(names) != 1:
                raise ValueError(
                    "it is not clear which column has the examples: set column to one of "
                    f"{_listed(names)}"
                )
            column = column or names[0]
            column = column[0] if len(column) == 1 and isinstance(column, list) else column
        found: dict[str | None, str]
        if isinstance(column, Mapping):
            found = dict(column)
        elif isinstance(column, (list, tuple)):
            if not {*column} <= {*inputs} and len(column) != len(inputs):
                raise ValueError(
                    f"column has {_listed(column)} for the inputs {_listed(inputs)}: give a column "
                    "for each, or a dict from inputs to columns"
                )
            found = dict(zip(column if {*column} <= {*inputs} else inputs, column))
        else:
            found = {None: column}
        if lacking := [name for name in found.values() if name not in names]:
            raise ValueError(f"the batch has no {_listed(lacking)}; its columns: {_listed(names)}")
        return found

    def _predict(
        self, model: Any, columns: Mapping[str | None, Any]
    ) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Return the results of all rows, and what is wrong with those that are broken."""
        n, broken = _count(columns), dict[int, str]()
        while len(broken) < n:
            rows = np.arange(n)
            # Another row in the place of a broken one, so that the rest is computed as without it.
            rows[list(broken)] = next(row for row in range(n) if row not in broken)
            try:
                return _results(model, _examples(model, columns, rows)), broken
            except ImportError:
                raise
            except Exception as error:
                found = _find_broken(model, columns, [row for row in range(n) if row not in broken])
                found = found or _odd_shapes(columns, broken)
                if not found:
                    raise
                if self.errors == "fail":
                    row = min(found)
                    raise ValueError(f"row {row} of the batch: {found[row]}") from error
                broken.update(found)
        return _no_results(model, n), broken


@lru_cache(_MOST_NETWORKS)
def _load(path: Path, modified: int) -> Any:
    return load(path)


def _features(model: Any) -> Any:
    return model if isinstance(model, LayerFeatures) else model.features_


def _results(model: Any, examples: Any) -> dict[str, np.ndarray]:
    """Return all that a model says of examples, whose features are computed once."""
    if isinstance(model, LayerFeatures):
        table = model.extract(examples)
        return {name: table.matrix[:, part] for name, part in table.columns.items()}
    matrix, _ = model._read(examples)
    model = copy(model)
    model._read = lambda X: (matrix, None)
    if is_regressor(model):
        return {"prediction": model.predict(examples)}
    found = {
        name: getattr(model, method)(examples)
        for name, method in _COLUMNS.items()
        if hasattr(model, method)
    }
    labels = found["label"] = _typed(found["label"])
    if "probability" in found and labels.ndim == 1:
        is_label = labels[:, None] == model.classes_
        found["probability"] = (found["probability"] * is_label).sum(axis=1)
    if "uncertainty" in found:
        found["uncertainty"] = found["uncertainty"].total
    return found


def _no_results(model: Any, n: int) -> dict[str, np.ndarray]:
    """Return columns of the same names and types as the results, without values."""
    if isinstance(model, LayerFeatures):
        return {layer.name: np.zeros((n, 0), np.float32) for layer in model.layers_}
    if is_regressor(model):
        return {"prediction": np.zeros(n)}
    shape = (n,) if model.classes_.ndim == 1 else (n, len(model.classes_))
    found = {name: np.zeros(n) for name, method in _COLUMNS.items() if hasattr(model, method)}
    found["label"] = _typed(np.full(shape, model.classes_.flat[0], model.classes_.dtype))
    if "probability" in found:
        found["probability"] = np.zeros(shape)
    return found


def _typed(labels: np.ndarray) -> np.ndarray:
    """Return labels in an array whose type says that they are strings, where they are."""
    is_text = labels.dtype == object and all(isinstance(label, str) for label in labels.flat)
    return labels.astype(str) if is_text else labels


def _find_broken(
    model: Any, columns: Mapping[str | None, Any], rows: Iterable[int]
) -> dict[int, str]:
    """Return what is wrong with single rows: with their inputs, or else with their predictions."""
    features = _features(model)
    source = features.source_

    def read_inputs(examples: Any) -> None:
        needed = source._inputs_of(features.layers_)
        prepare = partial(source.prepare, needed=needed)
        read_all(open_data(examples), source.input_names, needed, prepare, source._is_example)

    checks: list[Callable[[Any], Any]] = [partial(_results, model)]
    if isinstance(source, SourceModel):
        checks.insert(0, read_inputs)  # quicker, because the network does not run
    found: dict[int, str] = {}
    for check in checks:
        for row in [] if found else rows:
            try:
                check(_examples(model, columns, np.array([row])))
            except ImportError:
                raise
            except Exception as error:
                reason = re.sub(r"\bexample 0( of a batch)?\b", "the example", str(error))
                found[row] = reason or type(error).__name__
    return found


def _odd_shapes(columns: Mapping[str | None, Any], broken: Mapping[int, str]) -> dict[int, str]:
    """Return what is wrong with rows that have another shape than the first one."""
    found: dict[int, str] = {}
    for column in columns.values():
        rows = [row for row in range(len(column)) if row not in broken]
        shapes = {row: np.shape(column[row]) for row in rows}
        first = shapes[rows[0]]
        for row in rows:
            if shapes[row] != first:
                found[row] = f"its shape is {shapes[row]}, and that of the first row {first}"
    return found


def _examples(model: Any, columns: Mapping[str | None, Any], rows: np.ndarray) -> Any:
    """Return some rows as a list of examples, if the network takes these, or as arrays."""
    is_raw = getattr(_features(model).source_, "inputs", None) is not None
    taken = {
        name: column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
        for name, column in columns.items()
    }
    if None in taken and is_raw:
        return list(taken[None])
    arrays = {name: _stacked(values) for name, values in taken.items()}
    return arrays.get(None, arrays)


def _stacked(values: Any) -> np.ndarray:
    """Return rows that are arrays, lists or, as in tables, arrays of arrays as one array."""
    is_plain = isinstance(values, np.ndarray) and values.dtype != object
    if not is_plain and len(values) and _has_length(values[0]):
        return np.stack([_stacked(value) for value in values])
    return np.asarray(values)


def _has_length(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def _kind(batch: Any) -> str:
    """Return the package that a table comes from, or "dict"."""
    package = type(batch).__module__.partition(".")[0]
    is_table = hasattr(batch, "columns") and package in ("pandas", "polars", "pyarrow")
    if not is_table and not isinstance(batch, Mapping):
        allowed = "a dict of columns, a DataFrame of pandas or polars, or a table of Arrow"
        raise TypeError(f"batch must be {allowed}, got {type(batch).__name__}")
    return package if is_table else "dict"


def _column_names(batch: Any) -> list[str]:
    kind = _kind(batch)
    if kind == "dict":
        return list(batch)
    return list(batch.schema.names if kind == "pyarrow" else batch.columns)


def _values(batch: Any, name: str) -> Any:
    """Return a column as an array or a list."""
    column, kind = batch[name], _kind(batch)
    if kind == "pyarrow":
        column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
        if hasattr(column, "to_numpy_ndarray"):  # tensors
            return column.to_numpy_ndarray()
        return column.to_numpy(zero_copy_only=False)
    return column if kind == "dict" else column.to_numpy()


def _count(columns: Mapping[str | None, Any]) -> int:
    return len(next(iter(columns.values())))


def _with_columns(batch: Any, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Return a batch with more columns: their values, and which of them are missing."""
    kind = _kind(batch)
    if kind == "pyarrow":
        for name, (values, missing) in found.items():
            batch = batch.append_column(name, _arrow(values, missing))
        return batch
    if kind == "polars":
        return batch.with_columns(_polars(name, *values) for name, values in found.items())
    columns = {name: _with_missing(values, missing) for name, (values, missing) in found.items()}
    if kind == "pandas":
        lists = {name: list(values) for name, values in columns.items() if values.ndim > 1}
        return batch.assign(**{**columns, **lists})
    return {**batch, **columns}


def _with_missing(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return an array with NaN where floats are missing, and None where other values are."""
    if missing.any():
        is_float = values.dtype.kind == "f"
        values = values.astype(values.dtype if is_float else object)
        values[missing] = np.nan if is_float else None
    return values


def _arrow(values: np.ndarray, missing: np.ndarray) -> Any:
    import pyarrow

    if values.ndim == 1:
        return pyarrow.array(values, mask=missing)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pyarrow.ListArray.from_arrays(offsets, values.ravel(), mask=pyarrow.array(missing))


def _polars(name: str, values: np.ndarray, missing: np.ndarray) -> Any:
    import polars

    dtype = polars.Series(values.ravel()).dtype
    rows = [None if gone else value for value, gone in zip(values.tolist(), missing)]
    return polars.Series(name, rows, dtype if values.ndim == 1 else polars.List(dtype))


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(map(repr, names))
