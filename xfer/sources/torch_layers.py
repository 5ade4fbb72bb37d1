"""What the layers of a torch network put out, taken while it runs."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass

import torch

from xfer.sources.pooling import pool

# A module, which of its calls, and where in what it put out: lstm:0[1][0].
_NAME = re.compile(r"(.+?)(?::(\d+))?((?:\[[^][]*\])*)")


@dataclass(frozen=True)
class Output:
    """One tensor that a network computes on its way.

    Parameters
    ----------
    name : str
        What it is asked for by.
    module : str
        The module that puts it out.
    call : int or None
        Which call of the module in a pass; None where there is just one.
    path : str
        Where it is in what the module puts out, such as ``"[1][0]"``; empty where that is just one
        tensor.
    """

    name: str
    module: str
    call: int | None
    path: str


def read_name(name, modules):
    """Tell which output a name means, as far as the modules tell without a pass.

    Parameters
    ----------
    name : str
    modules : collection of str

    Returns
    -------
    Output or None
        None where there is no such module.
    """
    if name in modules:
        return Output(name, name, None, "")
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in modules:
        return None
    return Output(name, found[1], None if found[2] is None else int(found[2]), found[3])


def tensors_in(value, path=""):
    """Yield each tensor in nested tuples, lists, dicts and dataclasses, after its path."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}[{key}]")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from tensors_in(item, f"{path}[{number}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name), f"{path}[{field.name}]")


class Stop(BaseException):
    """Ends a pass in which nothing is left to do.

    A BaseException, so that no ``except Exception`` of a network takes it for an error.
    """


class Capture:
    """Takes the outputs that are asked for out of one pass.

    Parameters
    ----------
    outputs : list of Output
    keep : callable
        Gets an Output, its tensor, and whether the pass ends there; returns what is to be kept.
        The tensor may change once it has returned.
    may_stop : bool
        Whether the pass ends where everything has been taken.
    """

    def __init__(self, outputs, keep, may_stop):
        self.outputs, self.keep, self.may_stop = outputs, keep, may_stop
        self.kept = {}
        self.calls = Counter()
        self.error = None

    @property
    def complete(self):
        """Whether everything has been taken, and without an error."""
        return self.error is None and len(self.kept) == len(self.outputs)

    def hook(self, name):
        """Make a forward hook for one module."""

        def take(module, inputs, value):
            self.take(name, value)

        return take

    def take(self, name, value):
        """Take what a module has put out."""
        if self.error or (self.may_stop and self.complete):
            return  # the network caught what was to end the pass
        call = self.calls[name]
        self.calls[name] += 1
        for output in self.outputs:
            if output.module == name and (output.call or 0) == call:
                self._take(output, value)
        if self.may_stop and self.complete:
            raise Stop

    def _take(self, output, value):
        is_last = self.may_stop and len(self.kept) + 1 == len(self.outputs)
        try:
            self.kept[output.name] = self.keep(output, _tensor_of(output, value), is_last)
        except Exception as error:
            # Not the network's own: it must neither catch it nor be blamed.
            self.error = error
            raise Stop from error

    def finish(self):
        """Return what was taken, in the order of the outputs.

        Returns
        -------
        list

        Raises
        ------
        ValueError
            If an output was not there, or it is not clear which one is meant.
        """
        if self.error:
            raise self.error
        for output in self.outputs:
            calls = self.calls[output.module]
            if output.call is None and calls > 1:
                raise ValueError(
                    f"layer {output.name!r} is called {calls} times in a pass: ask for one call, "
                    f"{output.module}:0{output.path} to {output.module}:{calls - 1}{output.path}"
                )
            if output.name in self.kept:
                continue
            if calls:
                raise ValueError(
                    f"layer {output.module!r} is called {calls} times in a pass with these data; "
                    f"there is no {output.name!r}"
                )
            raise ValueError(
                f"layer {output.module!r} is never called in a pass with these data; what it does "
                "may be done by the module around it, or be compiled"
            )
        return [self.kept[output.name] for output in self.outputs]


def _tensor_of(output, value):
    found = {path: tensor for path, tensor in tensors_in(value) if path.startswith(output.path)}
    if len(found) == 1:
        return next(iter(found.values()))
    stem = output.name.removesuffix(output.path)
    if found:
        names = ", ".join(stem + path for path in found)
        raise ValueError(
            f"layer {output.name!r} gives {len(found)} tensors: ask for one of {names}"
        )
    others = ", ".join(stem + path for path, _ in tensors_in(value))
    raise ValueError(
        f"layer {stem!r} gives {others or f'no tensor, but {type(value).__name__}'}; "
        f"there is no {output.name!r}"
    )


def keep(tensor, pooling, name, mask, is_last):
    """Pool a layer's output, and bring it where the network cannot change it any more.

    Parameters
    ----------
    tensor : torch.Tensor of shape (rows, ...)
    pooling : str
    name : str
        The layer's, for messages.
    mask : torch.Tensor of shape (rows, tokens) or None
    is_last : bool
        Whether the network computes nothing more.

    Returns
    -------
    torch.Tensor of shape (rows, ...), float32
        On the host; of a GPU's, once the GPU has done what it was given.
    """
    values = tensor.detach()
    if values.is_quantized:
        values = values.dequantize()
    if values.layout != torch.strided:
        values = values.to_dense()
    # 16-bit floats would overflow in sums, and integers have no mean.
    values = values.to(torch.float32)
    pooled = pool(values, pooling, name, mask)
    shared = pooled.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    return (
        pooled.clone()
        if shared and pooled.device.type == "cpu" and not is_last
        else to_host(pooled)
    )


def to_host(tensor):
    """Copy a tensor to the host; a GPU does so when it is done with what it was given before."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
