"""Progress bars on work of more than a second."""

import sys
import warnings

with warnings.catch_warnings():
    # In a notebook without ipywidgets tqdm says that it takes bars of text, which do as well.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm


def progress_bar(iterable, wanted, total, what="features", unit="batch"):
    """Make a bar that shows after a second.

    Parameters
    ----------
    iterable : iterable or None
        What it follows; None for a bar that is moved on by hand.
    wanted : bool or None
        None is only in an interactive session.
    total : int or None
        How much there is to come, where that is known.
    what, unit : str
        What is done, and what is counted.

    Returns
    -------
    tqdm
    """
    if wanted is None:
        wanted = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    return tqdm(iterable, total=total, disable=not wanted, delay=1, desc=what, unit=unit)
