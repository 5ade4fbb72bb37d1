"""One batch of data, and what every batch is checked for."""

import sys
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm


@dataclass(frozen=True)
class Batch:
    """Some examples: inputs of shape (m, ...) of which the first ``rows`` count."""

    inputs: dict
    rows: int
    labels: np.ndarray | None


def check_names(names, input_names, needed):
    """Refuse data that lack an input that is needed, or have what is none."""
    if not {*needed} <= {*names} <= {*input_names}:
        which = "" if len(needed) == len(input_names) else f"; needed here: {', '.join(needed)}"
        raise ValueError(
            f"the data are named {', '.join(names)}; the network's inputs are "
            f"{', '.join(input_names)}{which}"
        )


def to_numpy(values):
    """Return an array of NumPy's of one of MXNet's, or of anything like an array."""
    return values.asnumpy() if hasattr(values, "asnumpy") else np.asarray(values)


def as_array(values, name):
    """Return the data of one input as an array of numbers with a row for each example."""
    array = to_numpy(values)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"input {name!r} must be an array of numbers with one row for each example, got "
            f"shape {array.shape} of {array.dtype}"
        )
    return array


def checked(array, name, start):
    """Return inputs in a dtype that networks take, after a look for NaN and infinity."""
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        example = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0]
        raise ValueError(
            f"input {name!r} has NaN, infinity or a number beyond 32-bit floats at example "
            f"{start + example}"
        )
    return array


def check_ids(inputs, limits):
    """Refuse word ids that a table does not have: the nearest, or one from its end, would be taken.

    Parameters
    ----------
    inputs : dict of str to ndarray
    limits : iterable of (str, str, int)
        Input, layer and number of ids of each table that reads an input.

    Raises
    ------
    ValueError
        If there is such an id.
    """
    for name, layer, number in limits:
        ids = inputs.get(name)
        if ids is not None and (ids.min() < 0 or ids.max() >= number):
            found = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(
                f"the data hold id {found:.0f}; layer {layer!r} knows ids 0 to {number - 1}: "
                "was the corpus made with the network's own vocabulary?"
            )


def progress_bar(batches, progress, total, what="features"):
    """Show a bar where it is wanted, by default in an interactive session."""
    if progress is None:
        progress = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    # The delay keeps quick work quiet.
    return tqdm(batches, total=total, disable=not progress, delay=1, desc=what, unit="batch")
