"""What decides what a torch network computes, as checksums."""

import hashlib
import inspect
import re
import zlib
from collections.abc import Mapping
from functools import lru_cache, partial

import numpy as np
import torch

from xfer.sources.torch_module import class_name

# The quickest that hashlib has, where the processor helps.
_hash = partial(hashlib.sha256, usedforsecurity=False)
_OWN_TO_EVERY_MODULE = vars(torch.nn.Module()).keys()
_PLAIN = (type(None), bool, int, float, str)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Sums are made of so many columns, so that numbers that change places are seen too. A prime,
# which no size of a layer divides.
_COLUMNS = 1009


class Fingerprint:
    """Checksums of a network; those of parameters are kept until these change.

    Parameters
    ----------
    settings : collection of str, optional
        The network's own attributes that count; by default all. Those of its parts always do.
    """

    def __init__(self, settings=None):
        self._settings = settings
        self._kept = {}

    def __getstate__(self):
        return {**self.__dict__, "_kept": {}}

    def of(self, module):
        """Compute the checksums.

        Parameters
        ----------
        module : torch.nn.Module

        Returns
        -------
        dict
            ``"graph"`` of the modules' names, classes and settings, ``"code"`` of the source text
            of classes and functions, and ``"parameters"`` by name.
        """
        describe = _Description(self)
        graph = [
            (name, class_name(part), part.extra_repr(), describe(self._settings_of(part, name)))
            for name, part in module.named_modules(remove_duplicate=False)
        ]
        code = [_source(kind) for part in module.modules() for kind in type(part).__mro__]
        code += [getattr(part, "code", "") for part in module.modules()]
        return {
            "graph": _digest(graph),
            "code": _digest([*dict.fromkeys(map(str, code)), *describe.code]),
            "parameters": {n: self.of_tensor(n, t) for n, t in _all_tensors(module, describe)},
        }

    def _settings_of(self, module, name):
        found = _settings(module)
        if name or self._settings is None:
            return found
        return {setting: found.get(setting) for setting in self._settings}

    def of_tensor(self, name, tensor):
        """Compute the checksum of a tensor; a text describes itself."""
        if isinstance(tensor, str):
            return _digest(tensor)
        version = None if tensor.is_inference() else tensor._version
        key = (tensor.data_ptr(), version, tensor.shape, tensor.dtype, tensor.device)
        flat = _bytes_of(tensor)
        # What is changed through ``tensor.data`` has the old version.
        key = (*key, _sums(flat))
        kept = self._kept.get(name)
        if kept is None or kept[0] != key:
            digest = _hash(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(flat.cpu().numpy())
            kept = self._kept[name] = key, digest.hexdigest()
        return kept[1]


class _Description:
    """Tells values in words that are the same in every process.

    Attributes
    ----------
    code : list of str
        Checksums of the source text of the functions that were met.
    """

    def __init__(self, fingerprint):
        self.fingerprint, self.code, self._known = fingerprint, [], {}

    def __call__(self, value):
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, torch.nn.Module):
            return "a module"
        if id(value) not in self._known:
            # The value is kept too, so that no other takes its place in memory.
            self._known[id(value)] = [value, "itself"]
            self._known[id(value)][1] = self._tell(value)
        return self._known[id(value)][1]

    def _tell(self, value):
        if isinstance(value, torch.Tensor):
            return self.fingerprint.of_tensor(id(value), value)
        if isinstance(value, np.ndarray):
            return _digest([str(value.dtype), value.shape, value.tolist()])
        if isinstance(value, Mapping):
            return str([(self(key), self(item)) for key, item in value.items()])
        if isinstance(value, (list, tuple)):
            return str([self(item) for item in value])
        if isinstance(value, (set, frozenset)):
            return str(sorted(self(item) for item in value))
        if isinstance(value, partial):
            return self([value.func, value.args, value.keywords])
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function):
            self.code.append(_source(function))
        return _ADDRESS.sub("", repr(value))


def _settings(module):
    own = {n: v for n, v in vars(module).items() if n not in _OWN_TO_EVERY_MODULE}
    if type(module).__module__.startswith("torch."):
        # What torch keeps for itself follows from the rest, and may differ after copying.
        own = {name: value for name, value in own.items() if not name.startswith("_")}
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return {**own, "hooks": hooks} if hooks else own


def _all_tensors(module, describe):
    """Yield each parameter and buffer by name; and a text for other things that states hold."""
    found = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    yield from found.items()
    for name, value in module.state_dict().items():
        if name not in found:
            yield name, value if isinstance(value, torch.Tensor) else describe(value)


def _bytes_of(tensor):
    values = tensor.detach()
    values = values.int_repr() if values.is_quantized else values
    values = values.to_dense() if values.layout != torch.strided else values
    return values.contiguous().flatten().view(torch.uint8)


def _sums(flat):
    """Add all bits of a tensor up, in columns: some milliseconds for 100 MB."""
    whole = len(flat) // (8 * _COLUMNS) * 8 * _COLUMNS
    rows = flat[:whole].view(torch.int64).reshape(-1, _COLUMNS)
    # NumPy is quicker at it than torch.
    sums = rows.numpy().sum(axis=0) if flat.device.type == "cpu" else rows.sum(0).cpu().numpy()
    return zlib.crc32(flat[whole:].cpu().numpy(), zlib.crc32(sums))


@lru_cache(maxsize=4096)
def _source(kind):
    """Return a checksum of the source text of a class or function; of torch's own, nothing."""
    if kind.__module__.partition(".")[0] in ("torch", "builtins"):
        return ""
    try:
        # To find a class in a large file takes long. A package's file stands for all in it.
        file = inspect.getsourcefile(kind) or ""
        packaged = "site-packages" in file or "dist-packages" in file
        return _digest(inspect.getsource(inspect.getmodule(kind) if packaged else kind))
    except (OSError, TypeError):
        return f"{kind.__module__}.{kind.__qualname__}"


def _digest(value):
    return _hash(str(value).encode("utf-8", "surrogatepass")).hexdigest()
