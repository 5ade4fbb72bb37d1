"""Parameters that a class takes from another, told once."""

from inspect import Signature, signature


def with_options_of(base):
    """Show another class's options in the signature of an ``__init__`` that passes them on.

    Parameters
    ----------
    base : type
        Its keyword-only parameters are the options.

    Returns
    -------
    callable
        Decorates an ``__init__`` with ``**options``; scikit-learn reads the names of the parameters
        from the signature.

    Examples
    --------
    >>> class Base:
    ...     def __init__(self, *, pooling="flatten"): ...
    >>> class Derived(Base):
    ...     @with_options_of(Base)
    ...     def __init__(self, c=1.0, **options): ...
    >>> signature(Derived)
    <Signature (c=1.0, *, pooling='flatten')>
    """
    options = [one for one in _parameters(base.__init__) if one.kind is one.KEYWORD_ONLY]

    def decorate(init):
        own = [one for one in _parameters(init) if one.kind is not one.VAR_KEYWORD]
        init.__signature__ = Signature([*own, *options])
        return init

    return decorate


def _parameters(function):
    return signature(function).parameters.values()
