"""Frozen networks with named layers, one file for each framework."""

import copy
import re
from numbers import Integral
from os import PathLike
from pathlib import Path

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


def open_source(
    model,
    *,
    preprocess=None,
    padding_id=None,
    engine="auto",
    context_function=None,
    num_devices=1,
):
    """Open a pre-trained network as a source of features.

    Parameters
    ----------
    model : network, str or path-like
        An ``mxnet.mod.Module`` or a Gluon ``HybridBlock``, which is read once: its parameters are
        copied. A ``torch.nn.Module``, which is run where it is, in inference mode, and put back
        into its own. A ``SentenceTransformer``, which takes texts. An ``onnx.ModelProto``. The path
        of an ``.onnx`` file, of an MXNet checkpoint's ``.params``, or of the folder of a saved
        SentenceTransformer. An open source, which is a :class:`xfer.sources.SourceModel` or any
        object with its ``layers`` and ``extract(data, layer_names, *, pooling, progress)``. No
        network is ever changed.
    preprocess : callable, optional
        Turns a list of examples, such as texts or images, into what the network takes: an array
        with a row for each, a list of their arrays, or a dict of these by the names of its inputs,
        as tokenizers give. Then data are lists of such examples; only dicts of inputs are taken for
        ready. It is not saved with a repurposer.
    padding_id : int, optional
        The word id that fills up short sequences, which pooling ``"masked_mean"`` leaves out. A
        network with an input ``attention_mask`` needs none, nor one of torch whose embedding names
        its own.
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
    ImportError
        If a package that it needs is not installed; the message says how to install it.
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
    if preprocess is not None and not callable(preprocess):
        raise TypeError(f"preprocess must be a function of a list of examples, got {preprocess!r}")
    if padding_id is not None and (
        isinstance(padding_id, bool) or not isinstance(padding_id, Integral)
    ):
        raise TypeError(f"padding_id must be a word id, an integer, got {padding_id!r}")
    source = _open(model, engine, context_function, num_devices)
    if preprocess is None and padding_id is None:
        return source
    if source is model:
        source = copy.copy(source)
    if preprocess is not None:
        source.preprocess = preprocess
    if padding_id is not None:
        source.padding_id = padding_id
    return source


def _open(model, engine, context_function, num_devices):
    # A model can only come from a framework that is loaded, so its class tells the file.
    frameworks = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "mxnet" in frameworks:
        from xfer.sources.mxnet import BlockSource, ModuleSource

        kind = BlockSource if hasattr(model, "collect_params") else ModuleSource
        return kind(
            model, engine=engine, context_function=context_function, num_devices=num_devices
        )
    if "sentence_transformers" in frameworks:
        from xfer.sources.sentence_transformers import SentenceTransformerSource

        return SentenceTransformerSource(model)
    if "torch" in frameworks:
        from xfer.sources.torch import TorchSource

        return TorchSource(model)
    path = str(model) if isinstance(model, (str, PathLike)) else ""
    if "onnx" in frameworks or path.endswith(".onnx"):
        from xfer.sources.onnx import OnnxSource

        return OnnxSource(model)
    checkpoint = re.fullmatch(r"(.+)-(\d{4,})\.params", path)
    if checkpoint:
        return load_checkpoint(checkpoint[1], int(checkpoint[2]), engine=engine)
    if path and (Path(path) / "modules.json").is_file():
        try:
            from xfer.sources.sentence_transformers import SentenceTransformerSource
        except ImportError as error:
            raise ImportError(
                f"{path} holds a SentenceTransformer, which needs sentence-transformers: "
                "pip install 'xfer[text]'"
            ) from error

        return SentenceTransformerSource.of_folder(path)
    if hasattr(model, "layers") and hasattr(model, "extract"):
        return model
    if path.endswith((".pt", ".pth", ".bin", ".ckpt")):
        raise TypeError(
            f"{path} is a file of torch, which holds code or bare parameters, not a network: "
            "make the network, load them into it, and give the module"
        )
    raise TypeError(
        f"cannot open {type(model).__name__} as a source model: {model!r:.80}; allowed are an "
        "mxnet.mod.Module, a gluon.HybridBlock, a torch.nn.Module, a SentenceTransformer, an "
        "onnx.ModelProto, the path of an .onnx file, of an MXNet checkpoint's .params file or of a "
        "SentenceTransformer's folder, and an object with `layers` and `extract`"
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

    Examples
    --------
    >>> import xfer
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> source.layer_names[:4]
    ['conv1', 'relu1', 'pool1', 'conv2']
    >>> images, digits = xfer.example.digits()
    >>> source.extract(images[:100], "pool3")["pool3"].shape
    (100, 64, 1, 1)
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
