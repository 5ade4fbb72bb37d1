"""Binding an MXNet symbol so that it gives right answers, and says nothing of it."""

import os
import tempfile
import threading
from contextlib import contextmanager

_BIND_LOCK = threading.Lock()


def bind_for_inference(symbol, context, arrays, statistics):
    """Bind a symbol without gradients.

    Parameters
    ----------
    symbol : mxnet.sym.Symbol
    context : mxnet.Context
    arrays, statistics : dict of str to mxnet.nd.NDArray
        Its arguments and auxiliary states.

    Returns
    -------
    mxnet.executor.Executor
    """
    with quiet_binding():
        return symbol.bind(context, arrays, grad_req="null", aux_states=statistics)


@contextmanager
def quiet_binding():
    """Bind inside, and MXNet fuses nothing wrongly and says nothing of it."""
    # The environment and the standard error stream belong to the whole process.
    with _BIND_LOCK, _without_subgraph_backend(), _without_bind_line():
        yield


@contextmanager
def _without_subgraph_backend():
    """Keep MXNet from fusing operators while it binds.

    Its MKLDNN subgraph backend, the default on a CPU, adds a convolution's output into a tensor
    that is still needed, as the shortcut of every pre-activation ResNet is, and silently gives
    wrong features from there on.
    """
    name = "MXNET_SUBGRAPH_BACKEND"
    before = os.environ.get(name)
    os.environ[name] = "NONE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _without_bind_line():
    """Keep back the line that MXNet's C++ code writes on each such bind, and no other."""
    try:
        stderr = os.dup(2)
    except OSError:  # a process without one
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if b"subgraph backend is not in use" not in line:
                    os.write(2, line)
