"""What notebooks show: tables, and estimators with their network, layers and meta-model."""

import os
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from sklearn.pipeline import Pipeline


def visual_block(estimator: Any) -> Any:
    """Describe an estimator to scikit-learn as boxes; a network is not opened for it."""
    features = getattr(estimator, "features_", estimator)
    shown = [_network(estimator, features), *_layers(estimator, features)]
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
    """Return the label and the details of the network."""
    source = getattr(features, "source_", None)
    if source is None:
        model = estimator.source_model
        if isinstance(model, (str, os.PathLike)):
            return f"network: {os.path.basename(model)}", f"{model}\nnot opened yet"
        return f"network: {type(model).__name__}", "not opened yet"
    count = sum(layer.parameter_count for layer in source.layers)
    inputs = ", ".join(source.input_names)
    sizes = f"{len(source.layers):,} layers\n{count:,} parameters"
    return f"network: {type(source).__name__}", f"inputs: {inputs}\n{sizes}"


def _layers(estimator: Any, features: Any) -> list[tuple[str, str]]:
    """Return the label and the details of the layers; an empty list if none is chosen."""
    layers = getattr(features, "layers_", None)
    if layers is None:
        chosen = getattr(estimator, "feature_layer_names", None)
        chosen = getattr(estimator, "transfer_layer_name", chosen) or []
        names = [chosen] if isinstance(chosen, str) else list(chosen)
        lines, pooling = names, getattr(estimator, "pooling", "flatten")
        known = pooling if isinstance(pooling, Mapping) else dict.fromkeys(names, pooling)
        poolings = [known.get(name, "flatten") for name in names]
    else:
        # Once data have passed through the network, it knows more shapes.
        known = {layer.name: layer for layer in features.source_.layers}
        layers = [known.get(layer.name, layer) for layer in layers]
        names, poolings = [layer.name for layer in layers], features.poolings_
        shapes = [str(layer.shape or "").replace("None", "?") for layer in layers]
        lines = [
            f"{one.name} {one.operator} {shape}".rstrip() for one, shape in zip(layers, shapes)
        ]
    lines = [
        line if pooling == "flatten" else f"{line}, pooling: {pooling}"
        for line, pooling in zip(lines, poolings)
    ]
    label = f"layer{'s' * (len(names) != 1)}: {', '.join(names)}"
    return [(label, "\n".join(lines))] if names else []
