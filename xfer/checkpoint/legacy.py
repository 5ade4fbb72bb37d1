"""Graphs of all versions of MXNet since 0.8, upgraded to the form of 1.9.

MXNet has changed its JSON a few times, and upgrades old files by a list of rules in its loader.
These are the rules that matter to running or training a network.
"""

import re
import reprlib
from typing import Any

# What MXNet's loader calls the version of a file that names none.
_OLDEST = 800

# MXNet 0.8 did not write auxiliary variables, such as running means.
_INPUTS = {
    "BatchNorm": ("data", "gamma", "beta", "moving_mean", "moving_var"),
    "BatchNorm_v1": ("data", "gamma", "beta", "moving_mean", "moving_var"),
    "IdentityAttachKLSparseReg": ("data", "moving_avg"),
}

# Training and placement: bare in 0.8, on an operator also behind the name of one of its inputs
# (`weight_lr_mult`), and between double underscores since.
_TRAINING = ("_ctx_group", "_lr_mult", "_wd_mult", "_force_mirroring", "_mirror_stage")

# The attributes of a variable that describe its data.
_OF_VARIABLES = ("__shape__", "__dtype__")

# MXNet writes an operator's own name, which has changed for many: old=own, as of 1.9 (the last ones
# are of 2016, and MXNet no longer knows them). The prefixes
# `_sparse_` and `_np` are left out: they never were part of an operator's own name.
_RENAMED = """
    _Div=elemwise_div _Equal=_equal _Greater=_greater _Greater_Equal=_greater_equal
    _Hypot=_hypot _Lesser=_lesser _Lesser_Equal=_lesser_equal _Logical_And=_logical_and
    _Logical_Or=_logical_or _Logical_Xor=_logical_xor _Maximum=_maximum _Minimum=_minimum
    _Minus=elemwise_sub _Mod=_mod _Mul=elemwise_mul _Not_Equal=_not_equal _Plus=elemwise_add
    _Power=_power
    broadcast_axes=broadcast_axis broadcast_minus=broadcast_sub broadcast_plus=broadcast_add
    cast=Cast choose_element_0index=pick concat=Concat crop=slice ctc_loss=CTCLoss
    cumsum=_np_cumsum ElementWiseSum=add_n flatten=Flatten flip=reverse identity=_copy
    max_axis=max min_axis=min normal=_random_normal pad=Pad ravel_multi_index=_ravel_multi_index
    reshape=Reshape shuffle=_shuffle Softmax=SoftmaxOutput split=SliceChannel
    stop_gradient=BlockGrad sum_axis=sum swapaxes=SwapAxis uniform=_random_uniform
    unravel_index=_unravel_index
    _add=elemwise_add _contrib_box_non_maximum_suppression=_contrib_box_nms
    _contrib_ctc_loss=CTCLoss _contrib_CTCLoss=CTCLoss _crop_assign=_slice_assign
    _crop_assign_scalar=_slice_assign_scalar _div=elemwise_div _minus=elemwise_sub
    _mul=elemwise_mul _plus=elemwise_add _sub=elemwise_sub
    CuDNNBatchNorm=BatchNorm MultiBoxDetection=_contrib_MultiBoxDetection
    MultiBoxPrior=_contrib_MultiBoxPrior MultiBoxTarget=_contrib_MultiBoxTarget
"""
_OWN_NAMES = dict(pair.split("=") for pair in _RENAMED.split())

# The operators that hold graphs of their own. Files of 0.8 have none.
_NESTED = ("_foreach", "_while_loop", "_cond", "_sg_mkldnn_conv", "_sg_mkldnn_fully_connected")

Entries = tuple[tuple[int, int], ...]
#: Operator, name, attributes, inputs, hints and subgraphs: the fields of ``Node``.
RawNode = tuple[str, str, dict[str, str], Entries, dict[str, str], tuple[Any, ...]]

_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}

# A message shows the beginning of what a broken file holds, however long or deep that is.
_shown = reprlib.Repr()
_shown.maxstring = 80


def upgrade(graph: Any) -> tuple[list[RawNode], Entries]:
    """Check a parsed graph and bring it to one form; return its nodes and heads.

    Only what is read is checked: ``arg_nodes`` and ``node_row_ptr`` repeat what the nodes say, and
    ``subgraphs`` are kept as they are.
    """
    version = _version(graph)
    nodes: list[RawNode] = []
    new_ids: list[int] = []  # of the nodes of the file, among `nodes`, which has more
    for node_id, node in enumerate(_value(graph, "nodes", list, "the graph")):
        where = f"node {node_id}"
        name = _value(node, "name", str, where)
        where += f" ({_shown.repr(name)})"
        operator = own_name(_value(node, "op", str, where))
        attributes = _attributes(node, where)
        inputs = _entries(_value(node, "inputs", list, where), new_ids, f"{where}: input")
        if operator == "null" and inputs:
            raise ValueError(f"{where}: a variable should have no inputs, found {len(inputs)}")
        if version < 900:
            for missing in _INPUTS.get(operator, ())[len(inputs) :]:
                inputs += ((len(nodes), 0),)
                added = f"{name}_{missing}" if name else missing
                # MXNet gives it the attributes of the operator.
                kept, hints = _separated("null", attributes)
                nodes.append(("null", added, kept, (), hints, ()))
        if version < 905 and operator in ("argmax", "argmin") and attributes.get("axis") == "-1":
            # It meant all axes, the default today, and not the last one.
            del attributes["axis"]
        new_ids.append(len(nodes))
        kept, hints = _separated(operator, attributes)
        bodies = tuple(node.get("subgraphs") or ()) if operator in _NESTED else ()
        nodes.append((operator, name, kept, inputs, hints, bodies))
        for source, _ in inputs:
            kind, variable, _, _, hints, _ = nodes[source]
            # An operator holds hints for an input under its name: `weight_lr_mult`.
            own = variable.removeprefix(f"{name}_")
            if kind == "null" and own:
                found = {f"_{key}__": attributes.get(own + key) for key in _TRAINING}
                hints.update({key: value for key, value in found.items() if value is not None})
    heads = _entries(_value(graph, "heads", list, "the graph"), new_ids, "head")
    if not heads:
        raise ValueError("the graph should have a head, an output of the network; found none")
    return nodes, heads


def _version(graph: Any) -> int:
    """Return the version of MXNet that wrote a graph: 10901 is 1.9.1."""
    attributes = _value(graph, "attrs", dict, "the graph", default={})
    typed = _value(attributes, "mxnet_version", list, "attrs of the graph", ["int", _OLDEST])
    if len(typed) != 2 or typed[0] != "int" or type(typed[1]) is not int:
        found = _shown.repr(typed)
        raise ValueError(f'mxnet_version of the graph should be ["int", number], found {found}')
    return typed[1]


def own_name(operator: str) -> str:
    """Return MXNet 1.9's name of an operator, given its name in any version."""
    if operator.endswith("Scalar"):  # _GreaterEqualScalar
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", operator).lower()
    prefixed = operator.startswith(("linalg_", "random_", "sample_"))
    return f"_{operator}" if prefixed else _OWN_NAMES.get(operator, operator)


def _attributes(node: Any, where: str) -> dict[str, str]:
    attributes = {}
    # To 0.8, to 0.12 and since; the first two stand side by side where a user added attributes.
    for key in ("param", "attr", "attrs"):
        found = _value(node, key, dict, where, default={})
        for name, value in found.items():
            # MXNet refuses numbers here, too.
            _check(value, str, f"{where}: attribute {_shown.repr(name)}")
        attributes.update(found)
    return attributes


def _separated(operator: str, attributes: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Separate attributes that matter when the network is run from hints, named as in 1.9."""
    hidden = [key for key in attributes if key.startswith("__") and key.endswith("__")]
    bare = {f"_{key}": value for key, value in attributes.items()}
    hints = {key: attributes[key] for key in hidden if key not in _OF_VARIABLES}
    hints |= {f"_{key}__": bare[key] for key in _TRAINING if key in bare}
    if operator == "null":
        # A variable may have the attributes of the operator that it was made for.
        names = [key for key in _OF_VARIABLES if key in attributes]
    else:
        names = [k for k in attributes if k not in hidden and not f"_{k}".endswith(_TRAINING)]
    return {key: attributes[key] for key in names}, hints


def _entries(found: list, new_ids: list[int], what: str) -> Entries:
    """Return (node, output) for references that are [node, output] or [node, output, version]."""
    entries = []
    for i, entry in enumerate(found):
        # Not isinstance: True is an int in Python.
        known = isinstance(entry, list) and len(entry) in (2, 3)
        if not known or any(type(index) is not int or index < 0 for index in entry):
            form = f"[node, output] or [node, output, version], found {_shown.repr(entry)}"
            raise ValueError(f"{what} {i} should be {form}")
        if entry[0] >= len(new_ids):
            allowed = f"one of the first {len(new_ids)} nodes, found node {_shown.repr(entry[0])}"
            raise ValueError(f"{what} {i} should be {allowed}")
        entries.append((new_ids[entry[0]], entry[1]))
    return tuple(entries)


def _value(holder: Any, key: str, kind: type, where: str, default: Any = None) -> Any:
    """Return `holder[key]`, once both are of the kinds they should be."""
    _check(holder, dict, where)
    if key not in holder:
        if default is not None:
            return default
        raise ValueError(f"{where} should have {key!r}, found only {_shown.repr(list(holder))}")
    return _check(holder[key], kind, f"{where}: {key!r}")


def _check(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{what} should be {_KINDS[kind]}, found {_shown.repr(value)}")
    return value
