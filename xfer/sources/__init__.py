"""Frozen networks with named layers, one file for each framework."""

from xfer.sources.base import Features, Layer, SourceModel

__all__ = ["Features", "Layer", "SourceModel", "open_saved_source", "open_source"]


def open_source(model, *, context_function=None, num_devices=1):
    """Open a pre-trained network as a source of features.

    Parameters
    ----------
    model : mxnet.mod.Module, or any object with ``layers`` and ``extract``
        The network. A Module is read once, its parameters are copied, and it is never changed; it
        may be bound or not, and have labels or not. An open source is returned as it is.
    context_function : callable, optional
        Makes the device of each number, as ``mxnet.cpu`` and ``mxnet.gpu`` do; by default the
        network runs on the first device of the Module.
    num_devices : int, default=1
        How many devices share each batch.

    Returns
    -------
    SourceModel

    Raises
    ------
    TypeError
        If ``model`` is nothing that can be opened.
    ValueError
        If the Module has no parameters, or a number of devices is not a positive integer.

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
    # A model can only come from a framework that is loaded, so its class tells the file.
    if any(kind.__module__.partition(".")[0] == "mxnet" for kind in type(model).__mro__):
        from xfer.sources.mxnet import ModuleSource

        return ModuleSource(model, context_function=context_function, num_devices=num_devices)
    if hasattr(model, "layers") and hasattr(model, "extract"):
        return model
    raise TypeError(
        f"cannot open {type(model).__name__} as a source model: {model!r:.80}; "
        "allowed are an mxnet.mod.Module and an object with `layers` and `extract`"
    )


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
        try:
            from xfer.sources.mxnet import ModuleSource
        except ImportError as error:
            raise ValueError(
                "its network needs MXNet, which cannot be imported here: install mxnet==1.9.1, "
                f"which has wheels for Python 3.10 and 3.11 ({error})"
            ) from error

        return ModuleSource.from_parts(description, arrays)
    raise ValueError(f"its network is of the unknown kind {description['kind']!r}")
