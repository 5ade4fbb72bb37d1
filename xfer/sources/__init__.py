"""Frozen networks with named layers, one file for each framework."""

import re
from os import PathLike

from xfer.sources.base import Features, Layer, SourceModel

__all__ = [
    "Features",
    "Layer",
    "SourceModel",
    "load_checkpoint",
    "open_saved_source",
    "open_source",
]

#: What can run an MXNet network.
ENGINES = ("auto", "onnxruntime", "mxnet")


def open_source(model, *, engine="auto", context_function=None, num_devices=1):
    """Open a pre-trained network as a source of features.

    Parameters
    ----------
    model : mxnet.mod.Module, str, path-like, onnx.ModelProto or SourceModel
        The network. A Module is read once, its parameters are copied, and it is never changed; it
        may be bound or not, and have labels or not. A path is that of an ``.onnx`` file or of an
        MXNet checkpoint's ``.params``. An open source, which is any object with ``layers`` and
        ``extract``, is returned as it is.
    engine : {"auto", "onnxruntime", "mxnet"}, default="auto"
        What runs an MXNet network. ``"auto"`` is ONNX Runtime, but for a Module that is elsewhere
        than on the CPU, or is given devices. MXNet takes over, with a warning, where an operator
        has no conversion; and, for a Module, where the two disagree on the first examples, which
        both compute.
    context_function : callable, optional
        Makes the device of each number, as ``mxnet.cpu`` and ``mxnet.gpu`` do, for a Module that
        MXNet is to run; by default it runs on the Module's first device.
    num_devices : int, default=1
        How many devices of MXNet share each batch.

    Returns
    -------
    SourceModel

    Raises
    ------
    TypeError
        If ``model`` is nothing that can be opened.
    ValueError
        If the Module has no parameters, a file is broken, a number of devices is not a positive
        integer, or there is no such engine.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import xfer
    >>> import mxnet as mx
    >>> hidden = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=4, name="hidden")
    >>> module = mx.mod.Module(mx.sym.softmax(hidden, name="out"), label_names=None)
    >>> module.bind(data_shapes=[("data", (10, 8))], for_training=False)
    >>> module.init_params()
    >>> print(xfer.open_source(module))
    ModuleSource(2 layers, inputs: data)
    layer   operator        output shape  parameters
    hidden  FullyConnected  (4,)          36
    out     softmax         (4,)          0
    """
    if isinstance(num_devices, bool) or not isinstance(num_devices, int) or num_devices < 1:
        raise ValueError(f"num_devices must be a positive integer, got {num_devices!r}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    # A model can only come from a framework that is loaded, so its class tells the file.
    frameworks = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "mxnet" in frameworks:
        from xfer.sources.mxnet import ModuleSource

        return ModuleSource(
            model, engine=engine, context_function=context_function, num_devices=num_devices
        )
    path = str(model) if isinstance(model, (str, PathLike)) else ""
    if "onnx" in frameworks or path.endswith(".onnx"):
        from xfer.sources.onnx import OnnxSource

        return OnnxSource(model)
    checkpoint = re.fullmatch(r"(.+)-(\d{4,})\.params", path)
    if checkpoint:
        return load_checkpoint(checkpoint[1], int(checkpoint[2]), engine=engine)
    if hasattr(model, "layers") and hasattr(model, "extract"):
        return model
    raise TypeError(
        f"cannot open {type(model).__name__} as a source model: {model!r:.80}; allowed are an "
        "mxnet.mod.Module, the path of an .onnx file or of an MXNet checkpoint's .params file, an "
        "onnx.ModelProto, and an object with `layers` and `extract`"
    )


def load_checkpoint(prefix, epoch=0, *, engine="auto"):
    """Open an MXNet checkpoint as a source of features; MXNet need not be installed.

    Parameters
    ----------
    prefix : str or path-like
        What comes before ``-symbol.json`` in the name of the file with the graph; or all of it.
    epoch : int, default=0
        The number in ``-0000.params``, the file with the parameters.
    engine : {"auto", "onnxruntime", "mxnet"}, default="auto"
        What runs it: ``"auto"`` is ONNX Runtime; and MXNet, where it is installed, if an operator
        has no conversion.

    Returns
    -------
    SourceModel

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint.
    ValueError
        If a file is broken; the message tells where.
    """
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"epoch must be a whole number, 0 or more, got {epoch!r}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    from xfer.checkpoint.network import Network
    from xfer.sources.checkpoint import CheckpointSource

    return CheckpointSource(Network.of_files(prefix, epoch), engine=engine)


def open_saved_source(description, arrays):
    """Open a network that a source took apart with its ``parts`` method.

    Parameters
    ----------
    description : dict
        With the ``kind`` of source.
    arrays : dict of str to ndarray

    Returns
    -------
    SourceModel

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    if description["kind"] == "mxnet":
        from xfer.sources.checkpoint import CheckpointSource

        return CheckpointSource.from_parts(description, arrays)
    if description["kind"] == "onnx":
        from xfer.sources.onnx import OnnxSource

        return OnnxSource.from_parts(description, arrays)
    raise ValueError(f"its network is of the unknown kind {description['kind']!r}")
