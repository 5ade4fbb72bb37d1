"""Checksums of what decides a torch network's features, or the reason why there can be none.

Every change of a network can be detected if all its code is from installed packages, unpatched, or
in the source text of the user's own classes, and everything else that it holds is data. Anything
else is reported, never guessed. Source text counts by its syntax tree: comments do not.
"""

import ast
import copyreg
import dis
import functools
import hashlib
import inspect
import linecache
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typing_extensions

import xfer

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)
_BY_REPR = (torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_IN_EVERY_MODULE = vars(torch.nn.Module()).keys()
# Their code counts by itself, and notes in ``meta`` are lost in a pickle.
_IN_EVERY_GRAPH = vars(torch.fx.GraphModule({}, torch.fx.Graph())).keys()
_CALL = "GraphModule.recompile.<locals>.call_wrapped"
_OWN_GRAPHS = "xfer.graph_module.build"
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# What torch's functions and methods were called when this module was imported.
_ORIGINAL = {
    (space, name): getattr(getattr(space, name), "__name__", None)
    for space in (torch, torch.nn.functional, torch.Tensor)
    for name in dir(space)
    if callable(getattr(space, name, None))
}
# Where transformers note where a network came from and what they have seen.
_NOTES = {
    *("_is_hf_initialized", "_name_or_path", "name_or_path"),
    *("warnings_issued", "transformers_version"),
}
_CLASS_NOTES = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__"),
    *("__firstlineno__", "__static_attributes__", "__annotate_func__", "__annotations_cache__"),
    *("__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl", "__match_args__"),
    *("__dataclass_params__", "__dataclass_fields__", "__hash__", "__slotnames__", "__signature__"),
}
# With these a function can use what its text does not name.
_DYNAMIC = {"eval", "exec", "compile", "globals", "__import__", "open", "getattr", "vars"}
# The last ones are of classes inside functions.
_LOADS_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}


def fingerprint(
    module: torch.nn.Module,
    cache_key: str | None,
    is_note: Callable[[torch.nn.Module, str], bool] = lambda module, name: False,
    **parts: Any,
) -> dict[str, Any]:
    """Return checksums of a network, or raise a ValueError that says what cannot be known of it.

    With a `cache_key`, what cannot be known is left out. `is_note` knows attributes of modules that
    do not decide what these compute. Further `parts` are described beside the network.
    """
    known = _Description(is_note)
    known.check_torch()
    graph = known.graph(module)
    parameters = {name: _digest(known.tensor(t, name)) for name, t in tensors_of(module)}
    described = {name: _digest(known.describe(part, name)) for name, part in parts.items()}
    if known.unknown and cache_key is None:
        shown = [*known.unknown[:3], *["..."] * (len(known.unknown) > 3)]
        raise ValueError(
            f"xfer cannot detect every change of the network: {'; '.join(shown)}. Give a "
            "cache_key that you change whenever the network changes: "
            'open_source(network, cache_key="a name for this version")'
        )
    key = {} if cache_key is None else {"cache_key": cache_key}
    found = {"graph": _digest(graph), "parameters": parameters, "packages": known.packages}
    return {**key, **found, **described}


class _Description:
    """Describes values so that equal ones have one description in every process."""

    def __init__(self, is_note: Callable[[torch.nn.Module, str], bool]) -> None:
        self.is_note = is_note
        self.unknown: list[str] = []
        self.packages: dict[str, str] = {}
        # Values are kept beside their descriptions, so that no other gets the id of one.
        self._seen: dict[int, tuple[Any, Any]] = {}

    def report(self, where: str, why: str) -> str:
        """Note what cannot be known."""
        reason = f"{where or 'the network'} {why}"
        if reason not in self.unknown:
            self.unknown.append(reason)
        return "unknown"

    def check_torch(self) -> None:
        """Report what changes all networks: hooks, modes, and functions that somebody replaced."""
        if any(getattr(torch.nn.modules.module, f"_global{name}") for name in _HOOKS):
            self.report("torch", "has hooks for all networks")
        modes = torch.overrides._get_current_function_mode_stack()
        if any(type(mode).__name__ != "DeviceContext" for mode in modes):
            self.report("torch", "is in a mode that changes what its functions compute")
        for (space, name), called in _ORIGINAL.items():
            now = getattr(space, name, None)
            # torch wraps some of its functions when they are first used, and keeps their names.
            other = getattr(now, "__name__", None) != called
            if isinstance(now, types.FunctionType):
                # typing_extensions, with which torch wraps some functions, may be anywhere.
                file = now.__code__.co_filename
                other = other or not (_installed(file) or file == typing_extensions.__file__)
            if other:
                self.report(f"{space.__name__}.{name}", "was replaced")
        for name, value in vars(torch.nn.functional).items():
            is_function = isinstance(value, _FUNCTIONS) and name[0] != "_"
            called = getattr(value, "__name__", name).replace("_", "")
            if is_function and called != name.replace("_", ""):
                self.report(f"torch.nn.functional.{name}", "was replaced")

    def graph(self, module: torch.nn.Module, where: str = "") -> Any:
        """Describe the modules in a module, and which names stand for the same one or tensor."""
        first: dict[int, str] = {}
        parts = list(module.named_modules(remove_duplicate=False))
        same = [(n, first.setdefault(id(part), n)) for n, part in [*parts, *tensors_of(module)]]
        once = [(name, part) for name, part in parts if first[id(part)] == name]
        return same, [self.module(part, f"{where}.{name}".strip(".")) for name, part in once]

    def module(self, module: torch.nn.Module, where: str) -> Any:
        """Describe a module without the modules in it."""
        layer = f"layer {where!r}" if where else ""
        is_graph = _is_own_graph(module)
        if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)) and not is_graph:
            return self.report(layer, "is scripted or traced, which can hide numbers and code")
        if any(vars(module).get(name) for name in _HOOKS):
            self.report(layer, "has hooks")
        if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
            self.report(layer, "is compiled")
        kind, own = type(module), {}
        usual = _IN_EVERY_GRAPH if is_graph else _IN_EVERY_MODULE
        for name, value in vars(module).items():
            if callable(getattr(kind, name, None)) and name not in usual:
                self.report(layer, f"has a patched {name}")
            elif name not in usual and not self.is_note(module, name):
                own[name] = value
        if isinstance(module, torch.nn.RNNBase):
            del own["_flat_weight_refs"]  # differs after copying
        code = self._generated(module, where) if is_graph else self.describe(kind, where)
        if kind.__module__ == _OWN_GRAPHS and hasattr(kind, "function"):
            code = code, self._operator(module, where)
        return code, self._state(own, where), list(module._modules)

    def _generated(self, module: Any, where: str) -> Any:
        """Describe the code that torch generated from a graph; report a replaced one."""
        made = {n: v for n, v in vars(type(module)).items() if n not in _CLASS_NOTES}
        forward, call = made.pop("forward", None), made.pop("__call__", None)
        if getattr(forward, "__code__", None) not in _compiled(module.code):
            return self.report(where, "has a patched forward")
        wrapped = getattr(made.pop("_wrapped_call", None), "cls_call", self)
        if made or wrapped is not None or getattr(call, "__qualname__", None) != _CALL:
            return self.report(where, "has a patched class")
        code = _digest(_tree(ast.parse(module.code)))
        return self.describe(torch.fx.GraphModule, where), code, self._uses(forward, where)

    def _operator(self, module: Any, where: str) -> Any:
        """Describe the function that a layer of xfer's own graphs finds by its kind."""
        function = module.function
        # Many are made in loops; their kind, an attribute of the layer, tells them apart.
        own = isinstance(function, types.FunctionType) and self._package(function) == "xfer"
        return _name(function) if own else self.describe(function, where)

    def describe(self, value: Any, where: str) -> Any:
        """Return what is the same for equal values only."""
        if type(value) in _PLAIN:
            return repr(value)
        if id(value) not in self._seen:
            self._seen[id(value)] = value, "as above"  # what refers back to itself
            self._seen[id(value)] = value, self._tell(value, where)
        return self._seen[id(value)][1]

    def _tell(self, value: Any, where: str) -> Any:
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return self.tensor(value, where)
        if isinstance(value, torch.nn.Module):
            state = [(name, _digest(self.tensor(t, where))) for name, t in tensors_of(value)]
            return state, self.graph(value, where)
        if isinstance(value, (list, tuple)) and kind in (list, tuple, torch.Size):
            return kind.__name__, [self.describe(item, where) for item in value]
        if kind in (set, frozenset):
            return kind.__name__, sorted(str(self.describe(item, where)) for item in value)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):  # a named tuple
            items = [self.describe(item, where) for item in value]
            own = self._state(getattr(value, "__dict__", {}), where)
            return self.describe(kind, where), items, own
        if isinstance(value, dict):
            items = [(self.describe(k, where), self.describe(v, where)) for k, v in value.items()]
            own = self._state(getattr(value, "__dict__", {}), where)
            return self.describe(kind, where), items, own
        if kind is np.ndarray and not value.dtype.hasobject:
            return str(value.dtype), value.shape, _hash(np.ascontiguousarray(value))
        if kind in _BY_REPR or isinstance(value, (np.generic, Path)):
            return kind.__name__, repr(value)
        if isinstance(value, Enum):
            return self.describe(kind, where), value.name
        if kind is functools.partial:
            parts = (value.func, value.args, value.keywords)
            return [self.describe(part, where) for part in parts]
        if kind is types.MethodType:
            return [self.describe(part, where) for part in (value.__func__, value.__self__)]
        if isinstance(value, types.MemberDescriptorType):
            return value.__name__
        if isinstance(value, type):
            return self._class(value, where)
        if isinstance(value, types.ModuleType) and self._package(value):
            return value.__name__
        if isinstance(value, types.BuiltinFunctionType) and self._package(value):
            owner = value.__self__
            plain = owner is None or isinstance(owner, (type, types.ModuleType))
            return _name(value), None if plain else self.describe(owner, where)
        if isinstance(value, types.FunctionType) and self._package(value):
            module = sys.modules.get(value.__module__)
            if module and self._package(module) and _is_where_it_says(value):
                return _name(value)
            return self.report(where, f"is {_name(value)}, made by a decorator or a closure")
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Any:
        """Describe an object by its class and its attributes, if it holds nothing else."""
        kind = type(value)
        slots = copyreg._slotnames(kind)  # type: ignore[attr-defined]
        places = len(slots) + bool(kind.__dictoffset__) + bool(kind.__weakrefoffset__)
        if kind.__basicsize__ > object.__basicsize__ + 8 * places or kind.__itemsize__:
            return self.report(where, f"is a {_name(kind)}, whose content cannot be read")
        state = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
        state |= getattr(value, "__dict__", {})
        return self.describe(kind, where), self._state(state, where)

    def _state(self, state: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
        names = sorted(state.keys() - _NOTES)
        return [(n, self.describe(state[n], f"{where}.{n}" if where else n)) for n in names]

    def tensor(self, tensor: torch.Tensor, where: str) -> Any:
        """Describe a tensor by its content."""
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_quantized:
            return self.report(where, f"is a tensor of {_name(type(tensor))} {tensor.dtype}")
        values = tensor.detach().resolve_conj().resolve_neg()
        values = values if values.layout == torch.strided else values.to_dense()
        content = values.cpu().contiguous().flatten().view(torch.uint8).numpy()
        own = self._state(vars(tensor), where)
        return str(values.dtype), tuple(values.shape), _hash(content), own

    def _class(self, kind: type, where: str) -> Any:
        """Describe a class: an installed one by name, another by its syntax and what that uses."""
        found: list[Any] = []
        for base in kind.__mro__[:-1]:
            name = _name(base)
            functions = {n: _unwrapped(v) for n, v in vars(base).items()}
            functions = {n: v for n, v in functions.items() if isinstance(v, types.FunctionType)}
            # A dataclass writes methods for itself, from fields that are in its text.
            own = {n: v for n, v in functions.items() if v.__code__.co_filename != "<string>"}
            if not self._package(base):
                for method, function in own.items():
                    made = _installed(function.__code__.co_filename) and function.__closure__
                    if made and not issubclass(base, Enum) and method != "__repr__":
                        self.report(name, f"has a decorated {method}")
            own = {n: v for n, v in own.items() if not _installed(v.__code__.co_filename)}
            if self._package(base):
                found.append(name)
                forward = functions.get("forward") if base is not torch.nn.Module else None
                if forward and forward.__qualname__ != f"{base.__qualname__}.forward":
                    own["forward"] = forward
                for method in own:
                    self.report(name, f"has a patched {method}")
                continue
            try:
                lines, start = _lines_of(base, _text_of(inspect.getfile(base)))
            except (OSError, TypeError):
                return self.report(where, f"is of {name}, whose source cannot be read")
            text, file = "".join(lines), inspect.getfile(base)
            tree = self._syntax(text, name)
            for method, function in own.items():
                code, first = function.__code__, function.__code__.co_firstlineno
                if code.co_filename != file or not start <= first < start + len(lines):
                    self.report(name, f"has a patched {method}")
                elif code not in _codes(file):
                    self.report(name, f"runs another {method} than its file {file} holds now")
            uses = [(n, self._uses(v, f"{name}.{n}")) for n, v in own.items()]
            data = {n: v for n, v in vars(base).items() if n not in {*functions, *_CLASS_NOTES}}
            found.append((tree, uses, self._state(data, name)))
        return found

    def _function(self, function: types.FunctionType, where: str) -> Any:
        """Describe a function of the user's own by its syntax and what that uses."""
        try:
            text = inspect.getsource(function)
        except (OSError, TypeError):
            return self.report(where, f"is {_name(function)}, whose source cannot be read")
        if function.__name__ == "<lambda>":
            return self.report(where, "is a lambda, whose source cannot be told apart")
        if function.__code__ not in _codes(inspect.getfile(function)):
            return self.report(where, f"is not the {_name(function)} that its file holds now")
        tree = self._syntax(text, where)
        return tree, self._uses(function, where), self._state(vars(function), where)

    def _uses(self, function: types.FunctionType, where: str) -> Any:
        """Describe defaults and globals of a function; report closures."""
        if {*function.__code__.co_freevars} - {"__class__"}:
            self.report(where, "is a closure")
        defaults = [function.__defaults__, function.__kwdefaults__]
        names = _global_names(function.__code__)
        used = {n: function.__globals__[n] for n in names if n in function.__globals__}
        for name, value in used.items():
            if isinstance(value, types.ModuleType) and not self._package(value):
                self.report(where, f"uses {name}, a module that is not installed")
        used = {n: v for n, v in used.items() if not isinstance(v, types.ModuleType)}
        return self.describe(defaults, where), self._state(used, f"{where} uses")

    def _syntax(self, text: str, where: str) -> Any:
        """Return what code means; report code that uses what its text does not name."""
        try:
            tree = ast.parse(f"if True:\n{text}" if text[:1].isspace() else text)
            first = tree.body[0]
            meaning = _digest(_tree(first.body if isinstance(first, ast.If) else [first]))
        except (SyntaxError, RecursionError):
            return self.report(where, "has source text that cannot be read")
        nodes = list(ast.walk(tree))
        names = {node.id for node in nodes if isinstance(node, ast.Name)} & _DYNAMIC
        names |= {"__doc__" for n in nodes if isinstance(n, ast.Attribute) and n.attr == "__doc__"}
        if names or any(isinstance(n, (ast.Import, ast.ImportFrom, ast.Global)) for n in nodes):
            self.report(where, f"imports or looks up what it uses ({', '.join(names) or 'import'})")
        return meaning

    def _package(self, value: Any) -> str | None:
        """Return the installed package that code comes from, and note its version."""
        if isinstance(value, types.FunctionType):
            file = value.__code__.co_filename
        else:
            name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
            found = sys.modules.get(name or "builtins")
            file = getattr(found, "__file__", None) or f"<frozen {name}>" if found else ""
        package = _installed(file)
        if package is None:
            return None
        self.packages[package[0]] = package[1]
        return package[0]


@functools.cache
def _installed(file: str) -> tuple[str, str] | None:
    """Return name and version of the installed package that a file belongs to, or None."""
    if Path(file).is_relative_to(Path(xfer.__file__).parent):  # installed or a checkout
        return "xfer", xfer.__version__
    parts = Path(file).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts[:-1]:
            return _package(parts[parts.index(folder) + 1].partition(".")[0])
    frozen = file.startswith("<frozen ") and file != "<frozen __main__>"
    if frozen or Path(file).is_relative_to(sysconfig.get_path("stdlib")):
        return "python", "{}.{}".format(*sys.version_info)
    return None


@functools.cache
def _package(name: str) -> tuple[str, str] | None:
    names = _distributions().get(name, [])
    return (name, metadata.version(names[0])) if names else None


@functools.cache  # a look reads the metadata of all installed packages: about a second
def _distributions() -> Mapping[str, Sequence[str]]:
    return metadata.packages_distributions()


def _is_own_graph(module: torch.nn.Module) -> bool:
    """Return whether a module is a graph of the operators in xfer.graph_module only."""
    if type(module).__base__ is not torch.fx.GraphModule:
        return False
    kinds = {type(part) for part in module.modules()} - {type(module), torch.nn.Module}
    return bool(kinds) and all(kind.__module__ == _OWN_GRAPHS for kind in kinds)


def _codes(file: str) -> frozenset[types.CodeType]:
    """Return the code objects of a file as it is now."""
    return _compiled(_text_of(file))


def _text_of(file: str) -> str:
    linecache.checkcache(file)
    return "".join(linecache.getlines(file))


@functools.lru_cache(maxsize=256)
def _lines_of(kind: type, text: str) -> tuple[list[str], int]:
    """Return the lines of a class and the first one's number, for which Python parses the file."""
    return inspect.getsourcelines(kind)


@functools.lru_cache(maxsize=64)
def _compiled(text: str) -> frozenset[types.CodeType]:
    try:
        return frozenset(_nested(compile(text, "<fingerprint>", "exec", dont_inherit=True)))
    except SyntaxError:
        return frozenset()


def _tree(node: Any) -> Any:
    """Return a syntax tree as tuples, the same in all versions of Python (unlike ast.dump)."""
    if isinstance(node, list):
        return [_tree(item) for item in node if not _does_nothing(item)]
    if not isinstance(node, ast.AST):
        return node
    # Other versions lack fields that are empty here, and a field that is None says nothing.
    fields = [(name, value) for name, value in ast.iter_fields(node) if name != "kind"]
    told = [(name, _tree(value)) for name, value in fields if value is not None and value != []]
    return type(node).__name__, told


def _does_nothing(node: Any) -> bool:
    """Return whether a statement is a docstring, another constant, or ``pass``."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _is_where_it_says(function: types.FunctionType) -> bool:
    """Return whether a function is what its module holds under its name."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _unwrapped(member: Any) -> Any:
    """Return the function in a class attribute: a method, a static or class method, a property."""
    if isinstance(member, property):
        return member.fget
    return getattr(member, "__func__", getattr(member, "func", member))


def tensors_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all parameters and buffers by name, shared ones under each of their names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _global_names(code: types.CodeType) -> set[str]:
    """Return the names that code loads as globals; those of attributes are not among them."""
    steps = [step for one in _nested(code) for step in dis.get_instructions(one)]
    return {step.argval for step in steps if step.opname in _LOADS_GLOBAL}


def _hash(content: Any) -> str:
    return hashlib.sha256(content, usedforsecurity=False).hexdigest()


def _digest(value: Any) -> str:
    return _hash(repr(value).encode("utf-8", "surrogatepass"))


def _name(value: Any) -> str:
    return f"{value.__module__}.{getattr(value, '__qualname__', value.__name__)}"
