"""The network as a picture, laid out as its diagram is."""

from os import PathLike

from xfer.plots._shared import new_axes

#: Inches to a pixel of the layout: its smallest letters come out at 8 points.
_SCALE = 1 / 90


def network(model, *, ax=None):
    """Draw an MXNet network, from its inputs at the top down to its outputs.

    Layers are boxes with their names, and below what they compute; beside the arrows that leave
    them is the shape of one example of what comes out, with a question mark for what depends on the
    data.

    Parameters
    ----------
    model : source, ModelHandler, mxnet.mod.Module, str or path-like
        What `xfer.load_checkpoint` or, of a Module or Gluon block, `xfer.open_source` made; the
        network itself; or the path of a checkpoint: its ``.params``, or what comes before
        ``-symbol.json``, of epoch 0 then.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the picture is made to fit, and its letters with it. By default on a new
        figure, large enough to be read.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        If it is no MXNet network.
    FileNotFoundError
        If there is no such checkpoint.

    Examples
    --------
    >>> import xfer
    >>> ax = network(xfer.example.checkpoint())
    >>> [text.get_text() for text in ax.texts if text.get_weight() == "bold"][:3]
    ['data', 'conv1', 'relu1']
    """
    from xfer.diagram.boxes import make_boxes
    from xfer.diagram.layout import lay_out

    source = _open(model)
    shapes = {layer.name: layer.shape for layer in source.layers if layer.shape}
    # Of the inputs a source tells no shapes in public.
    shapes.update({name: dims[1:] for name, dims in source.data_shapes.items()})
    boxes = make_boxes(source.network.graph, shapes, {*source.network.input_names})
    edges = lay_out(boxes)
    heading, left, right, top = _frame(boxes, edges)
    bottom = max((box.y + box.height / 2 for box in boxes.values()), default=0) + 22
    if ax is None:
        ax = new_axes(_SCALE * (right - left), _SCALE * (bottom - top))
    from xfer.plots import _shapes

    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()
    for edge in edges:
        _shapes.draw_edge(ax, edge)
    for box in boxes.values():
        _shapes.draw_box(ax, box)
        if box.shape:
            is_left = _is_shape_left(box)
            x, y = box.x + (-7 if is_left else 7), box.y + box.height / 2 + 10
            _shapes.write(ax, x, y, box.shape, 10.5, halo=True, ha="right" if is_left else "left")
    for mark, name in heading:
        _shapes.draw_box(ax, mark)
        _shapes.write(ax, mark.x + 13, mark.y, name, 10.5, ha="left")
    return ax


def _open(model):
    """Open a network as a source that has its graph."""
    from xfer.model_handler import ModelHandler
    from xfer.sources import load_checkpoint, open_source
    from xfer.sources.checkpoint import CheckpointSource

    if isinstance(model, ModelHandler):
        return model.source
    frameworks = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "mxnet" in frameworks:
        # A handler takes Modules without parameters too.
        is_block = hasattr(model, "collect_params")
        return open_source(model) if is_block else ModelHandler(model).source
    if isinstance(model, (str, PathLike)) and not str(model).endswith(".onnx"):
        is_parameters = str(model).endswith(".params")
        return open_source(model) if is_parameters else load_checkpoint(model)
    if not isinstance(model, CheckpointSource):
        raise TypeError(
            f"model must be an MXNet network, got {type(model).__name__}: {model!r:.80}; allowed "
            "are what xfer.load_checkpoint and, of a Module or Gluon block, xfer.open_source made, "
            "a ModelHandler, an mxnet.mod.Module, and the path of a checkpoint"
        )
    return model


def _is_shape_left(box):
    """Tell whether fewer edges leave to the left, so that a shape is written there (bool)."""
    return sum((other.x > box.x) - (other.x < box.x) for other in box.below) > 0


def _frame(boxes, edges):
    """Place what the colours mean above the network, and tell the sides.

    Returns
    -------
    marks : list of (Box, str)
        Small boxes, and what is written beside them.
    left, right, top : float
    """
    from xfer.diagram.boxes import Box

    left, right = 16.0, max((edge.right + 8 for edge in edges), default=0)
    for box in boxes.values():
        wide = 7 * len(box.shape) + 10
        is_left = _is_shape_left(box)
        left = min(left, box.x - max(box.half + 8, wide * is_left))
        right = max(right, box.x + max(box.half + 8, wide * (not is_left)))
    middle, half = (left + right) / 2, max((right - left) / 2, 180)
    left, right = middle - half, middle + half
    meanings = {box.family: {"family": box.family} for box in boxes.values()}
    meanings.pop("input", None)
    if any(box.head for box in boxes.values()):
        meanings["output of the network"] = {"head": True}
    if any(box.idle for box in boxes.values()):
        meanings["no say in inference"] = {"idle": True}
    marks, x, y = [], left + 8, 0
    for name, look in meanings.items():
        wide = 6.8 * len(name) + 34
        if marks and x + wide > right:
            x, y = left + 8, y + 19
        marks.append((Box((), x=x + 8, y=y, half=8, height=12, **look), name))
        x += wide
    for mark, _ in marks:
        mark.y -= y + 28
    return marks, left, right, -y - 46
