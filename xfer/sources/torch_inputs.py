"""Data on their way into a torch network: arguments, dtypes, and word ids that it has."""

import inspect

import numpy as np
import torch

from xfer.sources.batches import check_ids
from xfer.sources.torch_layers import to_host
from xfer.sources.torch_module import class_name, device_of, dtype_of, takes_hooks


class Inputs:
    """The inputs of a network.

    Parameters
    ----------
    module : torch.nn.Module
    modules : dict of str to torch.nn.Module
        It, and all in it, by name.

    Attributes
    ----------
    names : list of str
        Every parameter of ``forward``; ``"input"`` where it only has ``*args``.
    needed : list of str
        Those without a default, or else the first.
    padding_id : int or None
        The id that the embeddings fill up short sequences with.
    """

    def __init__(self, module, modules):
        self.module = module
        self.names, self.needed, self._by_position = _parameters(module.forward)
        self.embeddings = _embeddings(modules)
        fill = {getattr(table, "padding_idx", None) for table in self.embeddings.values()} - {None}
        self.padding_id = fill.pop() if len(fill) == 1 else None

    def send(self, array):
        """Copy an array to the network's device: a network may change what it gets.

        Integers stay integers where there is an embedding; other numbers become the floats that
        the network computes with.

        Parameters
        ----------
        array : ndarray

        Returns
        -------
        torch.Tensor
        """
        device, dtype = device_of(self.module), dtype_of(self.module)
        if array.dtype.kind == "b":
            dtype = torch.bool
        elif array.dtype.kind in "iu" and self.embeddings:
            dtype = torch.int64
        on_gpu = device.type == "cuda"
        # NumPy knows no bfloat16.
        held = torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype
        host = torch.empty(array.shape, dtype=held, device="cpu", pin_memory=on_gpu)
        host.numpy()[...] = array
        return host.to(device, dtype, non_blocking=on_gpu)

    def arguments(self, tensors):
        """Arrange the inputs for a call: by position as far as that goes without a gap.

        Hooks of the user's may expect them so.

        Parameters
        ----------
        tensors : dict of str to torch.Tensor

        Returns
        -------
        args : list of torch.Tensor
        kwargs : dict of str to torch.Tensor
        """
        args, kwargs = [], dict(tensors)
        for name in self._by_position:
            if name not in kwargs:
                break
            args.append(kwargs.pop(name))
        return args, kwargs

    def watch_ids(self, hooks):
        """Let the embeddings read only ids that they have, and note what they were given.

        Parameters
        ----------
        hooks : contextlib.ExitStack
            Removes the hooks.

        Returns
        -------
        list
            What goes to :func:`check_watched` once the pass is done.
        """
        watched = []
        for name, table in self.embeddings.items():
            if not takes_hooks(table):
                continue
            reader = _IdReader(name, table, watched)
            hooks.callback(table.register_forward_pre_hook(reader, with_kwargs=True).remove)
        return watched


class _IdReader:
    """Hook that makes ids whole numbers of an embedding's table, and notes what they were.

    An id beyond the table's end would be the end of the process's work on a GPU, and to look at it
    first would make the host wait. So it reads another, and is refused when the batch is finished.
    """

    def __init__(self, name, table, watched):
        self.name, self.number, self.watched = name, getattr(table, "num_embeddings", None), watched

    def __call__(self, table, args, kwargs):
        ids = args[0] if args else kwargs["input"]
        whole = ids.long() if ids.is_floating_point() else ids
        if self.number is not None and ids.numel():
            broken = (whole != ids).any().to(whole.dtype)
            seen = torch.stack([whole.min(), whole.max(), broken])
            self.watched.append((self.name, self.number, to_host(seen)))
            whole = whole.clamp(0, self.number - 1)
        return ((whole, *args[1:]), kwargs) if args else (args, {**kwargs, "input": whole})


def check_watched(watched):
    """Refuse ids that an embedding does not have.

    Parameters
    ----------
    watched : list
        What :meth:`Inputs.watch_ids` gave, after the pass.

    Raises
    ------
    ValueError
        If there is such an id.
    """
    for name, number, seen in watched:
        low, high, broken = seen.tolist()
        check_ids({name: np.array([low, high])}, [(name, name, number)])
        if broken:
            raise ValueError(f"layer {name!r} takes word ids; the data hold fractions")


def _parameters(forward):
    """Return the names of all inputs, of those needed, and of those that go by position."""
    schema = getattr(forward, "schema", None)
    if schema is not None:  # of a scripted module
        names = [one.name for one in schema.arguments[1:]]
        needed = [one.name for one in schema.arguments[1:] if not one.has_default_value()]
        return names, needed or names[:1], names
    found = inspect.signature(forward).parameters.values()
    named = [one for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    names = [one.name for one in named] or ["input"]
    needed = [one.name for one in named if one.default is one.empty]
    by_keyword = [one.name for one in named if one.kind is one.KEYWORD_ONLY]
    return names, needed or names[:1], [name for name in names if name not in by_keyword]


def _embeddings(modules):
    kinds = {"Embedding", "EmbeddingBag"}
    found = {}
    for name, module in modules.items():
        classes = {class_name(module), *(kind.__name__ for kind in type(module).__mro__)}
        if kinds & classes and module not in found.values():
            found[name] = module
    return found
