"""Frozen networks with named layers; one file per framework."""

import copy
import os
import re
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from xfer._checks import check_integer
from xfer.sources.base import Layer, SourceModel
from xfer.sources.table import Features

__all__ = [
    "Features",
    "Layer",
    "SourceModel",
    "load_checkpoint",
    "open_source",
    "source_from_state",
]

#: What can run an MXNet network.
ENGINES = ("auto", "onnxruntime", "mxnet")


def open_source(
    model: Any,
    *,
    inputs: Any = None,
    preprocess: Callable[[list], Any] | None = None,
    padding_id: int | None = None,
    cache_key: str | None = None,
    batch_axis: int | Mapping[str, int] = 0,
    engine: str = "auto",
    context_function: Callable[[int], Any] | None = None,
    num_devices: int = 1,
) -> SourceModel:
    """Open a pre-trained network as a source of features.

    Parameters
    ----------
    model : network, str or path-like
        An ``mxnet.mod.Module`` or Gluon ``HybridBlock``, whose parameters are copied. A
        ``torch.nn.Module``, which is run where it is, in inference mode. A ``SentenceTransformer``,
        which takes texts. An ``onnx.ModelProto``. The path of an ``.onnx`` file, of an MXNet
        checkpoint's ``.params``, or of the folder of a saved SentenceTransformer. An open source: a
        :class:`xfer.sources.SourceModel` or any object with ``layers`` and ``extract(data,
        layer_names, *, pooling, progress)``. The network is never changed.
    inputs : ImageInputs, TextInputs, or a transform, tokenizer or image processor, optional
        Makes the network's inputs of raw examples: data are then lists of images or texts; dicts of
        arrays still count as ready inputs. A transform of torchvision or timm without randomness
        becomes ImageInputs; tokenizers and image processors are those of transformers. Image and
        text inputs, tokenizers too, are saved with a repurposer.
    preprocess : callable, optional
        A function, instead of ``inputs``. It gets a list of examples and returns an array with one
        row per example, a list with one array per example, or a dict of these by input name. It is
        not saved with a repurposer, and a cache needs a ``cache_key`` for it.
    padding_id : int, optional
        The word id that pads short sequences, which pooling ``"masked_mean"`` leaves out. Not
        needed with an input ``attention_mask`` or a PyTorch embedding that names its own.
    cache_key : str, optional
        A name of your choice for the current version of code that xfer cannot compare: a function,
        or a PyTorch network with hooks, patched methods or compiled code. Change the name whenever
        the code changes.
    batch_axis : int or dict of str to int, default=0
        The axis on which an MXNet network has the examples, for all inputs or by name: 1 for
        recurrent networks of layout TNC. In your data, examples are still on axis 0.
    engine : {"auto", "onnxruntime", "mxnet"}, default="auto"
        What runs an MXNet network. ``"auto"`` is ONNX Runtime, except for a Module on another
        device than the CPU. MXNet takes over, with a warning, where an operator has no conversion
        or, for a Module, where the two disagree on the first examples.
    context_function : callable, optional
        Makes the device of each index, as ``mxnet.cpu`` does; by default a Module's first device.
    num_devices : int, default=1
        How many MXNet devices share each batch.

    Returns
    -------
    SourceModel

    Raises
    ------
    TypeError, ValueError, ImportError, FileNotFoundError
        If ``model`` cannot be opened, a file is missing or broken, an option is wrong, or a package
        is not installed; the message says how to install it.

    Examples
    --------
    A PyTorch network:

    >>> import torch
    >>> import xfer
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, kernel_size=3), torch.nn.ReLU())
    >>> source = xfer.open_source(network)
    >>> images, digits = xfer.example.digits()
    >>> source.extract(images, "1", pooling="mean").matrix.shape
    (1797, 8)

    A file of an MXNet checkpoint:

    >>> xfer.open_source(f"{xfer.example.checkpoint()}-0000.params")
    CheckpointSource(11 layers, inputs: data)
    """
    check_integer("num_devices", num_devices)
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if inputs is not None and preprocess is not None:
        raise ValueError("inputs and preprocess both make the network's inputs: give one of them")
    if preprocess is not None and not callable(preprocess):
        raise TypeError(f"preprocess must be a function of a list of examples, got {preprocess!r}")
    if isinstance(padding_id, bool) or not isinstance(padding_id, (Integral, type(None))):
        raise TypeError(f"padding_id must be a word id, an integer, got {padding_id!r}")
    if not isinstance(cache_key, (str, type(None))):
        raise TypeError(f"cache_key must be a string, got {cache_key!r}")
    inputs = preprocess if inputs is None else inputs
    if inputs is not None:
        from xfer.inputs import as_inputs

        inputs = as_inputs(inputs, cache_key)
        padding_id = getattr(inputs, "padding_id", None) if padding_id is None else padding_id
    given = {"inputs": inputs, "padding_id": padding_id, "cache_key": cache_key}
    options = {name: value for name, value in given.items() if value is not None}
    source = _open(model, engine, context_function, num_devices)
    if batch_axis:
        source = _with_batch_axis(source, batch_axis)
    if options and source is model:
        source = copy.copy(source)
        vars(source).pop("_checked", None)
    for name, value in options.items():
        setattr(source, name, value)
    return source


def _with_batch_axis(source: Any, batch_axis: int | Mapping[str, int]) -> Any:
    if not hasattr(source, "with_batch_axes"):
        raise ValueError(f"batch_axis is for MXNet networks, not for {type(source).__name__}")
    if isinstance(batch_axis, Mapping):
        axes = {**batch_axis}
    else:
        axes = dict.fromkeys(source.input_names, batch_axis)
    unknown = sorted({*axes} - {*source.input_names})
    if unknown:
        known = ", ".join(source.input_names)
        raise ValueError(f"batch_axis names {', '.join(unknown)}, but the inputs are {known}")
    for axis in axes.values():
        check_integer("batch_axis", axis, 0)
    return source.with_batch_axes(axes)


def _open(
    model: Any, engine: str, context_function: Callable[[int], Any] | None, num_devices: int
) -> Any:
    # A model can only come from a framework that is loaded, so its class tells the file.
    frameworks = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "mxnet" in frameworks:
        from xfer.sources.mxnet import open_block, open_module

        open_one = open_block if hasattr(model, "collect_params") else open_module
        return open_one(model, engine, context_function, num_devices)
    if "sentence_transformers" in frameworks:
        from xfer.sources.sentence_transformers import SentenceTransformerSource

        return SentenceTransformerSource(model)
    if "torch" in frameworks:
        from xfer.sources.torch import TorchSource

        return TorchSource(model)
    path = str(model) if isinstance(model, (str, os.PathLike)) else ""
    if "onnx" in frameworks or path.endswith(".onnx"):
        from xfer.sources.onnx import OnnxSource

        return OnnxSource(model)
    checkpoint = re.fullmatch(r"(.+)-(\d{4,})\.params", path)
    if checkpoint and Path(f"{checkpoint[1]}-symbol.json").is_file():
        return load_checkpoint(checkpoint[1], int(checkpoint[2]), engine=engine)
    if path.endswith(".params"):
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}")
        symbols = sorted(Path(path).parent.glob("*symbol.json"))
        if len(symbols) == 1:
            return load_checkpoint(symbol_file=symbols[0], params_file=path, engine=engine)
        found = ", ".join(file.name for file in symbols[:8]) or "none"
        raise FileNotFoundError(
            f"it is ambiguous which graph belongs to {path}, the folder has: {found}; use "
            "load_checkpoint(symbol_file=..., params_file=...)"
        )
    if path and (Path(path) / "modules.json").is_file():
        try:
            from xfer.sources.sentence_transformers import SentenceTransformerSource
        except ImportError as error:
            raise ImportError(
                f"{path} holds a SentenceTransformer, which needs sentence-transformers: "
                "pip install sentence-transformers"
            ) from error
        return SentenceTransformerSource.of_folder(path)
    if hasattr(model, "layers") and hasattr(model, "extract"):
        return model
    if path.endswith((".pt", ".pth", ".bin", ".ckpt")):
        raise TypeError(
            f"{path} is a PyTorch file, which holds code or parameters, not a network: build the "
            "module, load the parameters into it, and pass the module"
        )
    if path and Path(f"{path}-symbol.json").is_file():
        raise TypeError(
            f"{path} is the prefix of a checkpoint: open it with xfer.load_checkpoint({path!r}, "
            "epoch)"
        )
    if path and not Path(path).exists():
        raise TypeError(
            f"cannot open {path!r}: there is no such file or folder. To use a network by its "
            "name, load it with its own library, such as SentenceTransformer(name) or "
            "torchvision.models, and pass the network"
        )
    if isinstance(model, type):
        name = model.__name__
        raise TypeError(f"cannot open the class {name} as a source model: give a network, {name}()")
    raise TypeError(
        f"cannot open {type(model).__name__} as a source model: {model!r:.80}; allowed are an "
        "mxnet.mod.Module, a gluon.HybridBlock, a torch.nn.Module, a SentenceTransformer, an "
        "onnx.ModelProto, the path of an .onnx file, of an MXNet checkpoint's .params file or of a "
        "SentenceTransformer's folder, and an object with `layers` and `extract`"
    )


def load_checkpoint(
    prefix: str | os.PathLike[str] | None = None,
    epoch: int = 0,
    *,
    symbol_file: str | os.PathLike[str] | None = None,
    params_file: str | os.PathLike[str] | None = None,
    inputs: Any = None,
    preprocess: Callable[[list], Any] | None = None,
    padding_id: int | None = None,
    cache_key: str | None = None,
    batch_axis: int | Mapping[str, int] = 0,
    engine: str = "auto",
) -> SourceModel:
    """Open an MXNet checkpoint as a source of features; MXNet need not be installed.

    Parameters
    ----------
    prefix : str or path-like
        What comes before ``-symbol.json`` in the name of the file with the graph, or all of it.
    epoch : int, default=0
        The epoch in ``-0000.params``, the file with the parameters.
    symbol_file, params_file : str or path-like, optional
        The two files, instead of ``prefix``, if their names do not match.
    inputs, preprocess, padding_id, cache_key, batch_axis, engine
        See :func:`xfer.open_source`.

    Returns
    -------
    SourceModel

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such checkpoint, or a file is broken; the message says where.

    Examples
    --------
    >>> import xfer
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> source.layer_names[:4]
    ['conv1', 'relu1', 'pool1', 'conv2']
    """
    check_integer("epoch", epoch, 0)
    from xfer.checkpoint.network import Network
    from xfer.sources.checkpoint import CheckpointSource

    if prefix is not None and symbol_file is params_file is None:
        network = Network.from_files(prefix, epoch)
    elif prefix is None and symbol_file is not None and params_file is not None:
        network = Network.read(symbol_file, params_file)
    else:
        raise TypeError("give a prefix, or both symbol_file and params_file")
    try:
        source = CheckpointSource(network, engine=engine)
    except ValueError as error:
        raise ValueError(f"{prefix or symbol_file} cannot be opened: {error}") from error
    given = {"inputs": inputs, "preprocess": preprocess, "engine": engine}
    given.update(padding_id=padding_id, cache_key=cache_key, batch_axis=batch_axis)
    return open_source(source, **given)


def source_from_state(
    state: Mapping[str, Any], arrays: Mapping[str, np.ndarray], given: Any = None
) -> SourceModel:
    """Make a source of what its `to_state` returned, or its `to_weights` and the network."""
    if state["kind"] == "mxnet":
        from xfer.sources.checkpoint import CheckpointSource

        return CheckpointSource.from_state(state, arrays)
    if state["kind"] == "onnx":
        from xfer.sources.onnx import OnnxSource

        return OnnxSource.from_state(state, arrays)
    if state["kind"] == "torch":
        if given is None:
            raise ValueError(
                "it holds the arrays of its PyTorch network, but not the code: give the module as "
                "source_model"
            )
        if not hasattr(given, "with_weights"):
            kind = type(given).__name__
            raise ValueError(f"its network is a PyTorch module, and source_model is a {kind}")
        return given.with_weights(state, arrays)
    raise ValueError(f"its network is of the unknown kind {state['kind']!r}")
