"""Names of functions by what they compute, as far as that can be told without running them."""

import builtins
import copyreg
import dis
import functools
import importlib
import json
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np

from xfer.cache.digests import value_digest

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)
# What a code object computes, but for its constants; not where it stands, nor what it is called.
_CODE = (
    *("co_code", "co_exceptiontable", "co_flags", "co_names", "co_varnames", "co_freevars"),
    *("co_cellvars", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount"),
)
_TOKENIZER_SETTINGS = ("model_max_length", "padding_side", "truncation_side", "model_input_names")


def code_digest(function):
    """Name a callable by what it computes.

    The name is the same in every process, and another when its code, its defaults, what it closes
    over, or what it uses of its module changes. What comes from an installed package counts by its
    name and the package's version. What is drawn at random, read from files or asked of the
    environment cannot be seen; an object can tell what it depends on in a method or attribute
    ``__xfer_digest__`` (str or bytes).

    Parameters
    ----------
    function : callable
        A function, lambda, method, ``functools.partial``, class, or object that can be called,
        such as a torchvision transform or a tokenizer.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    ValueError
        If it holds something whose content cannot be told, such as a lock or an open file; the
        message says where.

    Examples
    --------
    >>> def scaled(by):
    ...     return lambda image: image / by
    >>> code_digest(scaled(255)) == code_digest(scaled(255))
    True
    >>> code_digest(scaled(255)) == code_digest(scaled(256))
    False
    """
    try:
        return _Describer().digest(function, "preprocess").hex()
    except RecursionError:
        raise ValueError(f"{function!r} is nested too deeply to be told from others") from None


class _Describer:
    """Walks what a callable is made of; every part becomes a digest of its kind and its parts."""

    def __init__(self):
        self._path = []  # ids of what is being walked, for what refers back to itself
        self._done = {}

    def digest(self, value, where):
        if type(value) in _PLAIN:
            return value_digest(value)
        if id(value) in self._done:
            return self._done[id(value)][0]
        if id(value) in self._path:
            return value_digest(("back", len(self._path) - self._path.index(id(value))))
        self._path.append(id(value))
        parts = self._parts(value, where)
        self._path.pop()
        # The value is kept so that no other gets its id.
        self._done[id(value)] = value_digest(parts), value
        return self._done[id(value)][0]

    def _parts(self, value, where):
        """Take a value apart: a tuple of its kind and the digests of what it is made of."""
        said = getattr(value, "__xfer_digest__", None)
        if said is not None and not isinstance(value, type):
            said = said() if callable(said) else said
            return "said", type(value).__qualname__, self.digest(said, f"{where}.__xfer_digest__")
        if _is_array(value):
            return "array", value_digest(value)
        if type(value) in (list, tuple):
            return type(value).__name__, self._all(value, where)
        if type(value) in (set, frozenset):
            return "set", sorted(self._all(value, where))
        if type(value) in (dict, types.MappingProxyType):
            return "dict", sorted(self._items(value, where))
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, types.CodeType):
            return self._code(value, where)
        named = _installed_name(value)
        if named is not None:
            return "installed", named
        for kind, take_apart in _KINDS.items():
            if isinstance(value, kind):
                return kind.__name__, self._all(take_apart(value), where)
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        if isinstance(value, type):
            return self._class(value, where)
        return self._object(value, where)

    def _all(self, values, where):
        return [self.digest(value, where) for value in values]

    def _items(self, mapping, where):
        for key, value in mapping.items():
            yield self.digest(key, where) + self.digest(value, f"{where}[{key!r}]")

    def _function(self, function, where):
        where = f"{where}, in {function.__qualname__}"
        defaults = [function.__defaults__, function.__kwdefaults__]
        defaults = self._all(defaults, f"{where}, a default")
        used = [
            (name, self.digest(value, f"{where}, {name!r}"))
            for name, value in [*_closed_over(function), *_globals_of(function)]
        ]
        return "function", self.digest(function.__code__, where), defaults, used

    def _code(self, code, where):
        attributes = [getattr(code, name) for name in _CODE]
        return "code", attributes, self._all(code.co_consts, where)

    def _class(self, kind, where):
        where = f"{where}, in {kind.__qualname__}"
        bases = self._all([type(kind), *kind.__bases__], where)
        own = []
        for name, value in sorted(vars(kind).items()):
            is_data = name.startswith("__") and not callable(value)
            if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
                own.append((name, b"slot"))
            elif name != "_abc_impl" and (not is_data or isinstance(value, tuple(_KINDS))):
                own.append((name, self.digest(value, f"{where}.{name}")))
        return "class", bases, own

    def _module(self, module):
        if _is_installed(module):
            return "module", module.__name__, _version(module.__name__)
        # A module of the user's own counts by its text, and that of others that it brings in.
        found, waiting = {}, [module]
        while waiting:
            each = waiting.pop()
            if each.__name__ not in found and not _is_installed(each):
                source = Path(getattr(each, "__file__", None) or "")
                found[each.__name__] = source.read_bytes() if source.is_file() else b""
                waiting += filter(None, map(_module_of, list(vars(each).values())))
        return "module", found

    def _object(self, value, where):
        """Take an object apart as pickle would: how it is made, and its state."""
        tokenizer = getattr(value, "backend_tokenizer", None)
        if hasattr(tokenizer, "to_str"):
            # A tokenizer notes there how it was last called.
            said = json.loads(tokenizer.to_str()) | {"padding": None, "truncation": None}
            said = json.dumps(said, sort_keys=True)
            settings = {name: getattr(value, name, None) for name in _TOKENIZER_SETTINGS}
            return "tokenizer", self.digest(type(value), where), said, settings
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise ValueError(
                f"cannot tell what {where} depends on: an object of type {kind} does not show its "
                f"content ({error}); leave it out, or give the class an attribute or method "
                "__xfer_digest__ that says what it computes"
            ) from error
        if isinstance(reduced, str):
            return "object", self.digest(type(value), where), reduced
        made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        where = f"{where}, in a {type(value).__qualname__}"
        parts = [made, arguments, state, list(items or ()), dict(pairs or ())]
        return "object", self._all(parts, where)


# What is only a wrapping of something else.
_KINDS = {
    functools.partial: lambda each: [each.func, each.args, each.keywords],
    types.MethodType: lambda each: [each.__func__, each.__self__],
    types.BuiltinMethodType: lambda each: [each.__name__, each.__self__],
    staticmethod: lambda each: [each.__func__],
    classmethod: lambda each: [each.__func__],
    property: lambda each: [each.fget, each.fset, each.fdel],
    type(functools.cache(len)): lambda each: [each.__wrapped__],
    functools.cached_property: lambda each: [each.func],
}


def _is_array(value):
    """Tell whether a value is an array or tensor of numbers."""
    if isinstance(value, type) or not hasattr(value, "__array__"):
        return False
    return getattr(value, "dtype", None) not in (None, np.dtype(object))


def _closed_over(function):
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            yield name, None


def _globals_of(function):
    for name in sorted(_global_names(function.__code__) - {"__name__"}):
        for names in (function.__globals__, vars(builtins)):
            if name in names:
                yield name, names[name]
                break


def _global_names(code):
    names = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return names.union(*map(_global_names, inner))


def _module_of(value):
    """Return the module that a value is, or comes from, if there is one."""
    if isinstance(value, types.ModuleType):
        return value
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _installed_name(value):
    """Return name and version of what an installed package holds under its own name, or None."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if isinstance(value, types.MethodType) or not isinstance(module, str):
        return None
    found = sys.modules.get(module)
    if not isinstance(name, str) or found is None or not _is_installed(found):
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name, _version(module)) if found is value else None


@functools.cache
def _version(module):
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(top), "__version__", ""))


def _is_installed(module):
    if module.__name__.partition(".")[0] in sys.stdlib_module_names:
        return True
    source = getattr(module, "__file__", None)
    if source is None:
        return module.__name__ != "__main__"
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(source).parts)
