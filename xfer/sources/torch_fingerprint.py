"""Checksums of what decides a torch network's features, or the reasons why it cannot be known.

Everything that a network holds is described by its content: parameters, settings, objects, and the
functions of classes. Code of installed packages is known by the package's version, as long as
nobody has patched it; other code by its source text and the content of what it uses. What cannot be
described with certainty is reported, never guessed.
"""

import __future__

import ast
import builtins
import copyreg
import functools
import hashlib
import linecache
import logging
import sys
import sysconfig
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_BY_REPR = (
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype, range, slice),
    types.MemberDescriptorType,
)
# Attributes that decide what these objects do.
_PARTS: dict[type, tuple[str, ...]] = {
    types.MethodType: ("__func__", "__self__"),
    types.MethodWrapperType: ("__name__", "__self__"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    functools.partial: ("func", "args", "keywords"),
    functools.partialmethod: ("func", "args", "keywords"),
    functools.cached_property: ("func", "attrname"),
    type(functools.lru_cache(len)): ("__wrapped__",),
    types.CellType: ("cell_contents",),
}
if not isinstance(np.mean, types.FunctionType):
    _PARTS[type(np.mean)] = ("_implementation",)
_C_DESCRIPTORS = (
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_IN_EVERY_MODULE = vars(torch.nn.Module()).keys() | {"_compiled_call_impl"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
# Where transformers note where a network came from and what they have seen; not what it computes.
_NOTES = {"_name_or_path", "name_or_path", "warnings_issued", "transformers_version"}
_CLASS_NOTES = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__"),
    *("__firstlineno__", "__static_attributes__", "__annotate_func__", "__annotations_cache__"),
    *("__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl", "__match_args__"),
    *("__dataclass_params__", "__slotnames__", "__signature__", "__text_signature__"),
}
# What torch's compiler and transformers put into the class of all modules when they are used.
_PUT_IN_MODULE = {"__init__", "__setstate__", "___needs_generation_tag_patch", "smart_apply"}
# With these a function can use what its text does not name.
_DYNAMIC = {"eval", "exec", "compile", "globals", "__import__", "open"}
_GENERATED = {
    *("__init__", "__repr__", "__eq__", "__hash__", "__lt__", "__le__", "__gt__", "__ge__"),
    *("__setattr__", "__delattr__", "__replace__"),
}
_FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


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
    known = _Description(is_note, {id(part): name for name, part in module.named_modules()})
    if any(getattr(torch.nn.modules.module, f"_global{name}") for name in _HOOKS):
        known.report("torch.nn.modules.module", "has hooks for all networks")
    for mode in torch.overrides._get_current_function_mode_stack():
        if type(mode) is not torch.utils._device.DeviceContext:
            known.report(type(mode).__name__, "is a mode that changes what torch computes")
    known.check_torch()
    graph = known.describe(module, "")
    described = {name: known.describe(part, name) for name, part in parts.items()}
    if known.unknown and cache_key is None:
        shown = [*known.unknown[:3], *["..."] * (len(known.unknown) > 3)]
        raise ValueError(
            "the network cannot be known for certain, so that it could be mistaken for another: "
            f"{'; '.join(shown)}. Give it a name that you change whenever it changes: "
            'open_source(network, cache_key="a name for this version")'
        )
    found = {
        "graph": graph,
        "code": _digest(known.code),
        "parameters": known.parameters,
        "packages": {
            name: [version, _digest(sorted(known.installed[name].items()))]
            for name, version in sorted(known.packages.items())
        },
        **described,
    }
    return found if cache_key is None else {"cache_key": cache_key, **found}


class _Description:
    """Describes values so that equal ones have one description in every process."""

    def __init__(
        self, is_note: Callable[[torch.nn.Module, str], bool], names: Mapping[int, str]
    ) -> None:
        self.is_note, self.names = is_note, names
        self.unknown: list[str] = []
        self.code: list[tuple[str, str]] = []
        self.parameters: dict[str, str] = {}
        self.packages: dict[str, str] = {}
        self.installed: dict[str, dict[str, str]] = {}
        # Values are kept beside their descriptions, so that no other gets the id of one.
        self._seen: dict[int, tuple[Any, str]] = {}
        self._depth = 0
        # Objects that packages' own code holds.
        self._held: dict[int, Any] = {}

    def report(self, where: str, why: str) -> str:
        """Note what cannot be known."""
        reason = f"{where or 'the network'} {why}"
        if reason not in self.unknown:
            self.unknown.append(reason)
        return "unknown"

    def describe(self, value: Any, where: str) -> str:
        """Return a text that is the same for equal values only."""
        if type(value) in _PLAIN:
            return repr(value)
        if id(value) not in self._seen:
            self._seen[id(value)] = value, f"as {self._depth} above"
            self._depth += 1
            self._seen[id(value)] = value, _digest(self._tell(value, where))
            self._depth -= 1
        return self._seen[id(value)][1]

    def _tell(self, value: Any, where: str) -> Any:
        kind = type(value)
        parts = next((_PARTS[base] for base in kind.__mro__ if base in _PARTS), ())
        if parts:
            held = {part: getattr(value, part, None) for part in parts}
            if kind not in _PARTS:
                held.update(getattr(value, "__dict__", {}), __class__=kind)
            return kind.__name__, self._state(held, where)
        if isinstance(value, torch.Tensor):
            return self._tensor(value, where)
        if isinstance(value, torch.nn.Module):
            return self._module(value, where)
        if isinstance(value, type):
            return self._class(value, where)
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        if isinstance(value, types.BuiltinFunctionType):
            return self._builtin(value, where)
        if isinstance(value, types.ModuleType):
            if self._package(_file_of(value)):
                return value.__name__
            return self.report(where, f"is {value.__name__}, a module that is not installed")
        if isinstance(value, Enum):
            code = (types.FunctionType, property, staticmethod, classmethod)
            methods = {name: part for name, part in vars(kind).items() if type(part) in code}
            state = self._state({**methods, "value": value.value}, where)
            return kind.__qualname__, value.name, state
        if kind is np.ndarray:
            content = value.tolist() if value.dtype.hasobject else _hash(value.tobytes())
            return str(value.dtype), value.shape, self.describe(content, where)
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return str(value.dtype), value.tobytes()
        if isinstance(value, np.ufunc) and vars(np).get(str(value)[8:-2]) is value:
            return str(value)
        if isinstance(value, torch.ScriptObject) and "classes.quantized." in str(value._type()):
            return str(value._type()), self.describe(value.__getstate__(), where)
        if kind in _BY_REPR or isinstance(value, (Path, logging.Logger)):
            return kind.__name__, str(value)
        if kind is weakref.ref:
            return "reference", self.describe(value(), where)
        if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            if str(value).startswith(("aten.", "prims.", "quantized.")):
                return str(value)
            return self.report(where, f"is {value}, an operator that is not torch's own")
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> Any:
        """Describe an object by its class, its attributes, and its items if it is a container."""
        kind = type(value)
        items: list[Any] = []
        if isinstance(value, dict):
            pairs = list((OrderedDict if isinstance(value, OrderedDict) else dict).items(value))
            items = [self.describe(key, f"a key of {where}") for key, _ in pairs]
            items += [self.describe(item, f"{where}[{key!r:.40}]") for key, item in pairs]
            items.append(self.describe(getattr(value, "default_factory", None), where))
        elif isinstance(value, (list, tuple)):
            items = [self.describe(item, f"{where}[{index}]") for index, item in enumerate(value)]
        elif isinstance(value, (set, frozenset)):
            items = sorted(self.describe(item, where) for item in value)
        elif _has_hidden_content(kind):
            return self.report(where, f"is {_name(kind)}, whose content cannot be read")
        slots = copyreg._slotnames(kind)  # type: ignore[attr-defined]
        state = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
        state.update(getattr(value, "__dict__", {}))
        return self.describe(kind, where), items, self._state(state, where, kind)

    def _state(
        self, state: Mapping[str, Any], where: str, kind: type = object
    ) -> list[tuple[str, str]]:
        notes = {"_is_hf_initialized"}
        if any(base.__module__.startswith("transformers.") for base in kind.__mro__):
            notes |= _NOTES
        return [
            (name, self.describe(state[name], _join(where, name)))
            for name in sorted(state)
            if name not in notes and name not in _CLASS_NOTES
        ]

    def _module(self, module: torch.nn.Module, where: str) -> Any:
        layer = f"layer {where!r}" if where else ""
        if isinstance(module, torch.jit.ScriptModule):
            for name, tensor in module.state_dict().items():
                self.parameters[_join(where, name)] = self.describe(tensor, where)
            return self.report(layer, "is TorchScript, which can hold numbers that do not show")
        if isinstance(module, torch.fx.GraphModule):
            return self.report(layer, "is a traced graph, which can call any function")
        state = vars(module)
        if any(state.get(name) for name in _HOOKS):
            self.report(layer, "has hooks")
        if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
            self.report(layer, "is compiled")
        tensors = {
            name: self.describe(tensor, _join(where, name))
            for name, tensor in {**module._parameters, **module._buffers}.items()
        }
        if id(module) in self.names:
            where = self.names[id(module)]
            self.parameters.update({_join(where, name): tensors[name] for name in tensors})
            tensors = dict.fromkeys(tensors, "")
        notes = {
            name
            for name in state.keys() - _IN_EVERY_MODULE
            # What hides a method is never a note.
            if self.is_note(module, name) and not callable(getattr(type(module), name, None))
        }
        if isinstance(module, torch.nn.RNNBase):
            # Not what it computes with, and not the same after copying.
            notes.add("_flat_weight_refs")
        own = {n: v for n, v in state.items() if n not in _IN_EVERY_MODULE | notes}
        parts = module._modules.items()
        return (
            tensors,
            [(name, self.describe(part, _join(where, name))) for name, part in parts],
            self._state(own, where, type(module)),
            self.describe(type(module), where),
        )

    def _tensor(self, tensor: torch.Tensor, where: str) -> Any:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_nested:
            return self.report(where, f"is a tensor of class {_name(type(tensor))}")
        values = tensor.detach().resolve_conj().resolve_neg()
        content = [str(values.dtype), tuple(values.shape), self._state(vars(tensor), where)]
        if values.is_quantized:
            content.append(_content(values.int_repr()))
            values = values.dequantize()
        if values.layout != torch.strided:
            values = values.to_dense()
        return *content, _content(values)

    def _class(self, kind: type, where: str) -> Any:
        """Describe a class by all that it holds; one of a package goes to what is installed."""
        name, package = _name(kind), self._package_of_module(kind.__module__)
        above = [base for base in (*kind.__bases__, type(kind)) if base not in (object, type)]
        bases = [self.describe(base, where) for base in above]
        notes = _CLASS_NOTES | _PUT_IN_MODULE if kind is torch.nn.Module else _CLASS_NOTES
        members = {n: v for n, v in vars(kind).items() if n not in notes}
        fields = members.pop("__dataclass_fields__", {})
        members.update({f"{n} made by": f.default_factory for n, f in fields.items()})
        # What a dataclass writes for itself follows from its fields.
        members = {n: v for n, v in members.items() if not (fields and _is_generated(v))}
        if package is None:
            return kind.__qualname__, bases, self._state(members, kind.__qualname__)
        # Interactive sessions add functions to builtins.
        if kind.__module__ not in self.installed[package] and kind.__module__ != "builtins":
            self._check_names(kind.__module__, vars(sys.modules[kind.__module__]))
        self.installed[package][name] = _digest(
            [(n, self._part(members[n], f"{name}.{n}")) for n in sorted(members)]
        )
        return name, bases

    def _part(self, value: Any, where: str) -> Any:
        """Describe what a package's class or function holds; objects that are data by type."""
        kind = type(value)
        if isinstance(value, _C_DESCRIPTORS):
            return value.__name__
        if isinstance(value, type) or _is_generated(value):
            return _name(value)
        if kind in (list, tuple, dict):
            items = value.items() if kind is dict else value
            return [self._part(item, where) for item in items]
        if kind in (set, frozenset):
            return sorted(str(self._part(item, where)) for item in value)
        if kind in _PLAIN or kind in _PARTS or not _installed(_file_of(kind.__module__)):
            return self.describe(value, where)
        if not callable(value) and not hasattr(kind, "__get__"):
            return _name(kind)
        described = (*_FUNCTIONS, torch.nn.Module, torch.Tensor)
        if isinstance(value, described) or _has_hidden_content(kind) or id(value) in self._held:
            return self.describe(value, where)
        self._held[id(value)] = value
        return _name(kind), [self._part(item, where) for item in sorted(vars(value).items())]

    def _function(self, function: types.FunctionType, where: str) -> Any:
        code, name = function.__code__, function.__qualname__
        cells = dict(zip(code.co_freevars, function.__closure__ or ()))
        values = {name: getattr(cell, "cell_contents", None) for name, cell in cells.items()}
        held = [function.__defaults__, function.__kwdefaults__, values, vars(function)]
        if self._package(code.co_filename):
            return _name(function), [self._part(part, where) for part in held]
        if code.co_filename == "<__array_function__ internals>":  # NumPy before 1.25
            return self.describe(vars(function).get("__wrapped__"), where)
        where = where if not where or where.endswith(name) else f"{where}: "
        where = where if where.endswith(name) else where + name
        source, node = _source_of(function) or ("", None)
        if node is None:
            return self.report(where, "is a function whose source text cannot be known")
        self.code.append((name, _hash(source.encode())))
        names = {name for one in _nested(code) for name in one.co_names}
        paths = {path for path in _paths(node) if path[0] in names}
        # Python spells private names of globals in another way inside classes.
        paths |= {(name,) for name in names if name.startswith("_")}
        changing = (ast.Import, ast.ImportFrom, ast.Global)
        if (
            any(isinstance(part, changing) for part in ast.walk(node))
            or {path[0] for path in paths} & _DYNAMIC
            or "import_module" in names
        ):
            return self.report(where, "imports, reads or changes what it uses while it runs")
        space = {**vars(builtins), **function.__globals__}
        used = [self._global(space, path, where) for path in sorted(paths) if path[0] in space]
        return self.describe(held, where), used

    def _global(self, space: Mapping[str, Any], path: Sequence[str], where: str) -> Any:
        """Describe a global that a function uses; of a module, what the function takes of it."""
        value, *attributes = space[path[0]], *path[1:]
        while attributes and isinstance(value, types.ModuleType) and attributes[0] in vars(value):
            self.describe(value, f"{where} uses {path[0]}, which")
            value = vars(value)[attributes.pop(0)]
        return path, self.describe(value, f"{where} uses {'.'.join(path)}, which")

    def _builtin(self, function: types.BuiltinFunctionType, where: str) -> Any:
        owner = function.__self__
        if owner is not None and not isinstance(owner, (type, types.ModuleType)):
            return function.__name__, self.describe(owner, where)
        module = function.__module__ or getattr(owner, "__module__", None)
        # Static methods of compiled classes know no module.
        if module is not None and self._package_of_module(module) is None:
            return self.report(where, f"is {function.__qualname__}, compiled code of its own")
        return f"{module}.{function.__qualname__}"

    def check_torch(self) -> None:
        """Describe what torch's layers are made of, which somebody may have patched."""
        self.describe(torch.Tensor, "torch.Tensor")
        names = [*dir(torch._C._VariableFunctions), *torch.functional.__all__]
        self._check_names("torch", {name: vars(torch).get(name) for name in names})
        self._check_names("torch.nn.functional", vars(torch.nn.functional))

    def _check_names(self, module: str, space: Mapping[str, Any]) -> None:
        """Describe those functions of a package's module that somebody may have put there."""
        found = {}
        for name, value in [*space.items()]:
            if isinstance(value, _FUNCTIONS) and value.__name__ == name and _is_installed(value):
                continue
            is_table = not isinstance(value, type) and isinstance(value, MutableMapping)
            members = value.items() if is_table else [("", value)]
            for key, one in members:
                if isinstance(one, _FUNCTIONS) and _is_installed(one):
                    found[f"{name} {key}"] = _name(one)
                elif isinstance(one, _FUNCTIONS) or (
                    isinstance(one, types.ModuleType) and not _installed(_file_of(one))
                ):
                    found[f"{name} {key}"] = self.describe(one, f"{module}.{name}")
        package = self._package_of_module(module)
        assert package is not None
        self.installed[package][module] = _digest(sorted(found.items()))

    def _package(self, file: str) -> str | None:
        """Return the installed package that a file belongs to, and note its version."""
        found = _installed(file)
        if found is None:
            return None
        self.packages[found[0]] = found[1]
        self.installed.setdefault(found[0], {})
        return found[0]

    def _package_of_module(self, name: Any) -> str | None:
        return self._package(_file_of(name))


def _file_of(module: Any) -> str:
    """Return the file of a module, or of the package around one that is compiled into it."""
    name = module.__name__ if isinstance(module, types.ModuleType) else str(module)
    top = name.partition(".")[0]
    for found in (module, sys.modules.get(name), sys.modules.get(top)):
        file = getattr(found, "__file__", None)
        if file and Path(file).is_absolute():
            return file
    return "<frozen>" if top in sys.stdlib_module_names else ""


@functools.cache
def _installed(file: str) -> tuple[str, str] | None:
    """Return the name and version of the installed package that a file belongs to, or None."""
    parts = Path(file).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts[:-1]:
            name = parts[parts.index(folder) + 1].partition(".")[0]
            try:
                return name, metadata.version(name)
            except metadata.PackageNotFoundError:
                names = metadata.packages_distributions().get(name)
                return (name, metadata.version(names[0])) if names else None
    if file.startswith("<frozen") or Path(file).is_relative_to(sysconfig.get_path("stdlib")):
        return "python", "{}.{}".format(*sys.version_info)
    return None


def _is_installed(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is None or _installed(code.co_filename) is not None


def _source_of(function: types.FunctionType) -> tuple[str, ast.AST] | None:
    """Return the text of a function, if its file still holds what runs."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    try:
        nodes, codes = _read("".join(lines), code.co_flags & _FUTURE)
    except (SyntaxError, ValueError):
        return None
    node = nodes.get((code.co_firstlineno, code.co_name))
    if node is None or code not in codes:
        return None
    return "".join(lines[code.co_firstlineno - 1 : node.end_lineno]), node


@functools.lru_cache(maxsize=64)
def _read(text: str, flags: int) -> tuple[dict[tuple[int, str], Any], frozenset[types.CodeType]]:
    """Return the functions of a file: by first line and name, and as Python compiles them."""
    functions = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    nodes = {
        (min(part.lineno for part in [node, *node.decorator_list]), node.name): node
        for node in functions
    }
    compiled = compile(text, "<fingerprint>", "exec", flags, dont_inherit=True)
    return nodes, frozenset(_nested(compiled))


def _paths(node: ast.AST) -> set[tuple[str, ...]]:
    """Return the names that a function's text uses, with the attributes that it takes of them."""
    found = set()
    for part in ast.walk(node):
        path: list[str] = []
        while isinstance(part, ast.Attribute):
            path.insert(0, part.attr)
            part = part.value
        if isinstance(part, ast.Name):
            found.add((part.id, *path))
    return found


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _is_generated(value: Any) -> bool:
    """Return whether this is a method that a dataclass has written for itself."""
    code = getattr(value, "__code__", None)
    return code is not None and code.co_filename == "<string>" and code.co_name in _GENERATED


def _has_hidden_content(kind: type) -> bool:
    """Return whether objects of a class hold more than their attributes, as compiled ones do."""
    slots = copyreg._slotnames(kind)  # type: ignore[attr-defined]
    places = len(slots) + bool(kind.__dictoffset__) + bool(kind.__weakrefoffset__)
    return kind.__basicsize__ > object.__basicsize__ + 8 * places


def _content(tensor: torch.Tensor) -> str:
    return _hash(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())


def _hash(content: Any) -> str:
    return hashlib.sha256(content, usedforsecurity=False).hexdigest()


def _digest(value: Any) -> str:
    return _hash(repr(value).encode("utf-8", "surrogatepass"))


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
