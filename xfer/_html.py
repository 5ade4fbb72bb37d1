"""What a notebook shows: tables, and of an estimator the network, the layers, the meta-model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from sklearn.pipeline import Pipeline


def visual_block(estimator):
    """Describe an estimator for scikit-learn's diagrams; a network is not opened for it.

    Parameters
    ----------
    estimator : LayerFeatures, Repurposer or MetaModelRegressor
        Fitted or not.

    Returns
    -------
    object
        What scikit-learn makes a diagram of: boxes one below the other.
    """
    features = getattr(estimator, "features_", estimator)
    boxes = [_network_box(estimator, features), *_layer_boxes(estimator, features)]
    labels = [box.label for box in boxes]
    if hasattr(estimator, "_meta_model"):
        fitted = getattr(estimator, "meta_model_", None)
        model = estimator._meta_model() if fitted is None else fitted
        boxes.append(model)
        labels.append(f"meta_model: {type(model).__name__}")
    details = [str(box) for box in boxes]
    return _block("serial", boxes, names=labels, name_details=details, dash_wrapped=False)


def table(title, head, rows, notes=()):
    """Lay rows out as HTML, no higher than a notebook's window.

    Parameters
    ----------
    title : str
    head : sequence of str
    rows : sequence of sequence of str
    notes : sequence of str, default=()
        Go below.

    Returns
    -------
    str
    """
    parts = [f"<p><b>{escape(title)}</b></p>", '<div style="max-height:30em;overflow:auto"><table>']
    parts += [_row("th", head), *(_row("td", row) for row in rows), "</table></div>"]
    return "".join(parts + [f"<p>{escape(note)}</p>" for note in notes])


def _row(tag, cells):
    style = ' style="text-align:left"'
    return "<tr>" + "".join(f"<{tag}{style}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _block(*args, **options):
    # Of scikit-learn's class for it, which is nowhere public, and has moved.
    kind = type(Pipeline([("step", "passthrough")])._sk_visual_block_())
    return kind(*args, **options)


@dataclass
class _Box:
    """A box with a label, and what it shows when it is opened."""

    label: str
    details: str

    def _sk_visual_block_(self):
        return _block("single", self, names=self.label, name_details=self.details)


def _network_box(estimator, features):
    source = getattr(features, "source_", None)
    if source is None:
        model = estimator.source_model
        is_path = isinstance(model, (str, os.PathLike))
        details = f"{model}\nnot opened yet" if is_path else "not opened yet"
        name = os.path.basename(model) if is_path else type(model).__name__
    else:
        name, layers = type(source).__name__, source.layers
        number = sum(layer.parameter_count for layer in layers)
        details = (
            f"inputs: {', '.join(source.input_names)}\n{_count(len(layers), 'layer')}\n"
            f"{_count(number, 'parameter')}"
        )
    return _Box(f"network: {name}", details)


def _layer_boxes(estimator, features):
    layers = getattr(features, "layers_", None)
    if layers is None:
        names = _layer_names(estimator)
        pooling = getattr(estimator, "pooling", "flatten")
        by_name = pooling if isinstance(pooling, Mapping) else dict.fromkeys(names, pooling)
        lines = [_line(name, "", by_name.get(name, "flatten")) for name in names]
    else:
        names = [layer.name for layer in layers]
        lines = [
            _line(layer.name, f"{layer.operator} {_shape(layer)}", pooling)
            for layer, pooling in zip(layers, features.poolings_)
        ]
    label = "layer" if len(names) == 1 else "layers"
    return [_Box(f"{label}: {', '.join(names)}", "\n".join(lines))] if names else []


def _layer_names(estimator):
    for parameter in ("feature_layer_names", "transfer_layer_name"):
        if hasattr(estimator, parameter):
            names = getattr(estimator, parameter)
            return [names] if isinstance(names, str) else list(names)
    return []


def _shape(layer):
    return "" if layer.shape is None else str(layer.shape).replace("None", "?")


def _line(name, what, pooling):
    pooled = "" if pooling == "flatten" else f", pooling: {pooling}"
    return f"{name} {what}".rstrip() + pooled


def _count(number, what):
    return f"{number:,} {what}{'' if number == 1 else 's'}"
