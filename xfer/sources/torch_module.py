"""A torch module looked into, and set at rest for a pass."""

from contextlib import contextmanager, nullcontext

import torch

_Parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)


def unwrap(module):
    """Return the network in what distributes or compiles it, which hides its layers."""
    while True:
        if isinstance(module, _Parallel):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod
        else:
            return module


def class_name(module):
    """Name the class of a module; of a scripted one, the class it was before."""
    return getattr(module, "original_name", type(module).__name__)


def takes_hooks(module):
    """Tell whether a module is called from Python, which scripted ones are not."""
    return not isinstance(module, torch.jit.ScriptModule)


def tensors_of(module):
    """Yield parameters, then buffers."""
    yield from module.parameters()
    yield from module.buffers()


def device_of(module):
    """Return where a module's first parameter is."""
    return next((tensor.device for tensor in tensors_of(module)), torch.device("cpu"))


def dtype_of(module):
    """Return the dtype of a module's first parameter of floats."""
    found = (tensor.dtype for tensor in tensors_of(module) if tensor.is_floating_point())
    return next(found, torch.float32)


def check_ready(module):
    """Refuse a network whose parameters hold no numbers yet."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name!r} of the network has no numbers yet: lazy modules get them when they "
                "first run, so run the network on some data, and train or load it"
            )
        if tensor.is_meta:
            raise ValueError(f"{name!r} of the network is on the meta device, without numbers")


@contextmanager
def at_rest(module, device, autocast=None):
    """Run a module in inference mode; it, its flags and the generators are afterwards as before.

    Parameters
    ----------
    module : torch.nn.Module
    device : torch.device
    autocast : torch.dtype, optional
    """
    # Flags, and not eval(): that may be a method of the network's own with other effects.
    parts = list(module.modules())
    training = [part for part in parts if getattr(part, "training", False)]
    # Transformers of torch have a fast path that skips layers, unless they have hooks.
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.no_grad(),
        torch.autocast(device.type, autocast) if autocast else nullcontext(),
        _eager(parts),
    ):
        try:
            for part in training:
                part.training = False
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for part in training:
                part.training = True


def _eager(parts):
    """Run compiled parts as they were before, for compiled code has no layers."""
    if any(part._compiled_call_impl is not None or "_orig_mod" in part._modules for part in parts):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
