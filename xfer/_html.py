"""What notebooks show: tables, and estimators with their network, layers and meta-model."""

import os
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, ClassVar, TypeVar

from sklearn.pipeline import Pipeline

_Row = TypeVar("_Row", bound=Any)
_FORMATS = {int: ",", float: ".3f"}


class Rows(list[_Row]):
    """Named tuples of one kind, shown as a table."""

    _title: ClassVar[str]

    def __str__(self) -> str:
        rows = [self._head(), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        return table(f"{len(self)} {self._title}", self._head(), self._cells())

    def _head(self) -> tuple[str, ...]:
        return self[0]._fields if self else ()

    def _cells(self) -> list[tuple[str, ...]]:
        return [tuple(f"{cell:{_FORMATS.get(type(cell), '')}}" for cell in row) for row in self]


def visual_block(estimator: Any) -> Any:
    """Describe an estimator to scikit-learn as boxes; a network is not opened for it."""
    features = getattr(estimator, "features_", estimator)
    shown = [_network(estimator, features), *_layers(estimator, features)]
    # Each is a label and its details.
    boxes = [_block("single", None, names=name, name_details=details) for name, details in shown]
    if hasattr(estimator, "_meta_model"):
        fitted = getattr(estimator, "meta_model_", None)
        boxes.append(estimator._meta_model() if fitted is None else fitted)
        shown.append((f"meta_model: {type(boxes[-1]).__name__}", str(boxes[-1])))
    names, details = zip(*shown)
    return _block("serial", boxes, names=[*names], name_details=details, dash_wrapped=False)


def table(
    title: str, head: Iterable[str], rows: Iterable[Iterable[str]], notes: Iterable[str] = ()
) -> str:
    """Write rows as an HTML table that scrolls where it is higher than a notebook's window."""

    def write(tag: str, cells: Iterable[str]) -> str:
        style = 'style="text-align:left"'
        return f"<tr>{''.join(f'<{tag} {style}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join([write("th", head), *(write("td", row) for row in rows)])
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    scrolled = f'<div style="max-height:30em;overflow:auto"><table>{body}</table></div>'
    return f"<p><b>{escape(title)}</b></p>{scrolled}{below}"


def _block(*args: Any, **options: Any) -> Any:
    # scikit-learn's class of blocks is private and has moved between versions.
    return type(Pipeline([("step", "passthrough")])._sk_visual_block_())(*args, **options)


def _network(estimator: Any, features: Any) -> tuple[str, str]:
    source = getattr(features, "source_", None)
    if source is None:
        model = estimator.source_model
        if isinstance(model, (str, os.PathLike)):
            return f"network: {os.path.basename(model)}", f"{model}\nnot opened yet"
        return f"network: {type(model).__name__}", "not opened yet"
    count = sum(layer.parameter_count for layer in source.layers)
    sizes = f"{len(source.layers):,} layers\n{count:,} parameters"
    return f"network: {type(source).__name__}", f"inputs: {', '.join(source.input_names)}\n{sizes}"


def _layers(estimator: Any, features: Any) -> list[tuple[str, str]]:
    poolings: Mapping[str, str]
    if hasattr(features, "layers_"):
        names = [layer.name for layer in features.layers_]
        poolings = dict(zip(names, features.poolings_))
        # Once data have passed through the network, it knows more shapes.
        known = {layer.name: layer for layer in (*features.layers_, *features.source_.layers)}
        told = [f"{name} {known[name].operator} {known[name].shape or ''}" for name in names]
    else:
        chosen = getattr(estimator, "feature_layer_names", None)
        chosen = getattr(estimator, "transfer_layer_name", chosen) or []
        told = names = [chosen] if isinstance(chosen, str) else list(chosen)
        pooling = getattr(estimator, "pooling", "flatten")
        poolings = pooling if isinstance(pooling, Mapping) else dict.fromkeys(names, pooling)
    lines = [line.replace("None", "?").rstrip() for line in told]
    for i, name in enumerate(names):
        if poolings.get(name, "flatten") != "flatten":
            lines[i] += f", pooling: {poolings[name]}"
    label = f"layer{'s' * (len(names) != 1)}: {', '.join(names)}"
    return [(label, "\n".join(lines))] if names else []
