"""One batch of data, and what every batch is checked for."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """Some examples, of which the first ``rows`` count.

    ``examples`` are a dict of the network's inputs, each of shape (m, ...), or a list of m examples
    that are to be preprocessed.
    """

    examples: dict | list
    rows: int
    labels: np.ndarray | None


def take(examples, index):
    """Pick some of a batch's examples, by a slice or an array of their numbers."""
    if isinstance(examples, dict):
        return {name: array[index] for name, array in examples.items()}
    return examples[index] if isinstance(index, slice) else [examples[n] for n in index]


def join(parts):
    """Put the examples of several batches together."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], dict):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return [example for part in parts for example in part]


def check_names(names, input_names, needed):
    """Refuse data that lack an input that is needed, or have what is none."""
    if not {*needed} <= {*names} <= {*input_names}:
        which = "" if len(needed) == len(input_names) else f"; needed here: {', '.join(needed)}"
        raise ValueError(
            f"the data are named {', '.join(names)}; the network's inputs are "
            f"{', '.join(input_names)}{which}"
        )


def to_numpy(values):
    """Return an array of NumPy's of one of MXNet's or torch's, or of anything like an array."""
    if hasattr(values, "asnumpy"):
        return values.asnumpy()
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def as_array(values, name):
    """Return the data of one input as an array of numbers with a row for each example."""
    array = to_numpy(values)
    if array.ndim == 0 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"input {name!r} must be an array of numbers with one row for each example, got "
            f"shape {array.shape} of {array.dtype}"
        )
    return array


def checked(array, name, start=None):
    """Return inputs in a dtype that networks take, after a look for NaN and infinity."""
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        example = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0]
        raise ValueError(
            f"input {name!r} has NaN, infinity or a number beyond 32-bit floats at example "
            + (f"{example} of a batch" if start is None else f"{start + example}")
        )
    return array


def read_labels(values, rows):
    """Return the labels of one batch: those of its first rows, of shape (rows,) or (rows, k).

    Whole numbers that a framework carries as floats become integers again.

    Parameters
    ----------
    values : ndarray of shape (m, ...)
    rows : int

    Returns
    -------
    ndarray of shape (rows,) or (rows, k)

    Raises
    ------
    ValueError
        If there are more axes, or 32-bit floats so large that they cannot tell integers apart.
    """
    values = values.reshape(-1) if values.size == len(values) else values
    if values.ndim > 2:
        raise ValueError(f"labels have shape {values.shape}; one row to an example is needed")
    values = values[:rows]
    if values.dtype.kind == "f" and (np.abs(values) < 2**63).all():
        whole = values.astype(np.int64)
        if (whole == values).all():
            if values.dtype == np.float32 and (np.abs(whole) >= 2**24).any():
                raise ValueError(
                    f"the iterator carries label {whole.flat[np.abs(whole).argmax()]} as a 32-bit "
                    "float, which cannot tell it from its neighbours; use smaller labels"
                )
            return whole
    return values


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
