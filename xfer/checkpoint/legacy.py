"""Every form MXNet gave its graphs since 0.8, brought to the one form of 1.9.

MXNet has changed its JSON a few times and upgrades old files as it loads them, by a list of rules
in its loader. These are those rules, as far as they matter to running or training a network.
"""

import reprlib

# What MXNet's loader calls the version of a file that names none.
_OLDEST = 800

# MXNet 0.8 left the variables that are no arguments, such as running means, out of the file.
_INPUTS = {
    "BatchNorm": ("data", "gamma", "beta", "moving_mean", "moving_var"),
    "BatchNorm_v1": ("data", "gamma", "beta", "moving_mean", "moving_var"),
    "IdentityAttachKLSparseReg": ("data", "moving_avg"),
}

# Training and placement: bare in 0.8, on an operator also behind the name of one of its inputs
# (`weight_lr_mult`), and between double underscores since.
_TRAINING = ("_ctx_group", "_lr_mult", "_wd_mult", "_force_mirroring", "_mirror_stage")

# What a variable says of its data.
_OF_VARIABLES = ("__shape__", "__dtype__")

# MXNet writes an operator's own name, which has changed for many: other=own, as they are in 1.9.
# Left out are the prefixes `_sparse_` and `_np`: names that never were an operator's own.
_RENAMED = """
    _Div=elemwise_div _Equal=_equal _Greater=_greater _Greater_Equal=_greater_equal
    _Hypot=_hypot _Lesser=_lesser _Lesser_Equal=_lesser_equal _Logical_And=_logical_and
    _Logical_Or=_logical_or _Logical_Xor=_logical_xor _Maximum=_maximum _Minimum=_minimum
    _Minus=elemwise_sub _Mod=_mod _Mul=elemwise_mul _Not_Equal=_not_equal _Plus=elemwise_add
    _Power=_power
    _DivScalar=_div_scalar _EqualScalar=_equal_scalar _GreaterEqualScalar=_greater_equal_scalar
    _GreaterScalar=_greater_scalar _HypotScalar=_hypot_scalar
    _LesserEqualScalar=_lesser_equal_scalar _LesserScalar=_lesser_scalar
    _LogicalAndScalar=_logical_and_scalar _LogicalOrScalar=_logical_or_scalar
    _LogicalXorScalar=_logical_xor_scalar _MaximumScalar=_maximum_scalar
    _MinimumScalar=_minimum_scalar _MinusScalar=_minus_scalar _ModScalar=_mod_scalar
    _MulScalar=_mul_scalar _NotEqualScalar=_not_equal_scalar _PlusScalar=_plus_scalar
    _PowerScalar=_power_scalar _RDivScalar=_rdiv_scalar _RMinusScalar=_rminus_scalar
    _RModScalar=_rmod_scalar _RPowerScalar=_rpower_scalar
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
"""
_OWN_NAMES = dict(pair.split("=") for pair in _RENAMED.split())

_KINDS = {dict: "an object", list: "a list", str: "a string"}

# A broken file may hold anything: a message shows its beginning, however long or deep it is.
_shown = reprlib.Repr()
_shown.maxstring = 80


def upgrade(graph):
    """Check a parsed graph and bring it to one form.

    Operators go by the names of MXNet 1.9, hints that only training or the placement on devices
    needs are set apart from the attributes, and the variables that 0.8 did not write are added.

    Parameters
    ----------
    graph : object
        What the JSON holds. Only what is read is checked: the lists ``arg_nodes`` and
        ``node_row_ptr`` repeat what the nodes say, and ``subgraphs``, the bodies of loops and
        conditions, are left to whoever knows the operator.

    Returns
    -------
    nodes : list of (str, str, dict, tuple, dict)
        Operator, name, attributes, inputs and hints, as in :class:`xfer.checkpoint.symbol.Node`.
    heads : tuple of (int, int)
        As in :class:`xfer.checkpoint.symbol.Graph`.

    Raises
    ------
    ValueError
        If the graph is broken: says where, what was expected and what was found.

    Examples
    --------
    >>> upgrade({"nodes": [{"op": "null", "name": "data", "inputs": []}], "heads": [[0, 0]]})
    ([('null', 'data', {}, (), {})], ((0, 0),))
    """
    version = _version(graph)
    nodes = []
    places = []  # of the nodes of the file among `nodes`, which has more
    for number, node in enumerate(_value(graph, "nodes", list, "the graph")):
        where = f"node {number}"
        name = _value(node, "name", str, where)
        where += f" ({_shown.repr(name)})"
        operator = own_name(_value(node, "op", str, where))
        attributes = _attributes(node, where)
        inputs = _entries(_value(node, "inputs", list, where), places, f"{where}: input")
        if operator == "null" and inputs:
            raise ValueError(f"{where}: a variable should have no inputs, found {len(inputs)}")
        if version < 900:
            for missing in _INPUTS.get(operator, ())[len(inputs) :]:
                inputs += ((len(nodes), 0),)
                added = f"{name}_{missing}" if name else missing
                # MXNet hands it the operator's attributes, so the same of them must stay.
                nodes.append(("null", added, _kept("null", attributes), (), _hints(attributes)))
        if version < 905 and operator in ("argmax", "argmin") and attributes.get("axis") == "-1":
            # It meant all axes, which is the default since, and not the last axis.
            del attributes["axis"]
        places.append(len(nodes))
        nodes.append((operator, name, _kept(operator, attributes), inputs, _hints(attributes)))
        for source, _ in inputs:
            kind, of, *_, hints = nodes[source]
            if kind == "null":
                hints.update(_hints_of_input(of.removeprefix(f"{name}_"), attributes))
    heads = _entries(_value(graph, "heads", list, "the graph"), places, "head")
    if not heads:
        raise ValueError("the graph should have a head, an output of the network; found none")
    return nodes, heads


def _version(graph):
    """Return the version of MXNet that wrote a graph: 10901 is 1.9.1."""
    attributes = _value(graph, "attrs", dict, "the graph", default={})
    typed = _value(attributes, "mxnet_version", list, "attrs of the graph", ["int", _OLDEST])
    if len(typed) != 2 or typed[0] != "int" or type(typed[1]) is not int:
        raise ValueError(
            f'mxnet_version of the graph should be ["int", number], found {_shown.repr(typed)}'
        )
    return typed[1]


def own_name(operator):
    """Tell the name that MXNet 1.9 gives an operator.

    Parameters
    ----------
    operator : str
        Any name that a version of MXNet has had for it.

    Returns
    -------
    str
        The same where 1.9 does not know it.
    """
    if operator.startswith(("linalg_", "random_", "sample_")):
        return f"_{operator}"
    return _OWN_NAMES.get(operator, operator)


def _attributes(node, where):
    """Return all attributes of a node: `param` to 0.8, `attr` to 0.12, and `attrs` since.

    The first two stand side by side where a user added attributes to those of the operator.
    """
    attributes = {}
    for key in ("param", "attr", "attrs"):
        found = _value(node, key, dict, where, default={})
        for name, value in found.items():
            # MXNet too refuses numbers here; no version wrote any.
            _check(value, str, f"{where}: attribute {_shown.repr(name)}")
        attributes.update(found)
    return attributes


def _kept(operator, attributes):
    """Return the attributes that matter when the network is run."""
    if operator == "null":
        # A variable may have those of the operator it was made for; they say nothing of it.
        return {key: attributes[key] for key in _OF_VARIABLES if key in attributes}
    return {
        key: value
        for key, value in attributes.items()
        if not (key.startswith("__") and key.endswith("__")) and not f"_{key}".endswith(_TRAINING)
    }


def _hints(attributes):
    """Return what only training or placement needs of a node, as 1.9 names it."""
    found = {key: value for key, value in attributes.items() if _is_hint(key)}
    bare = {f"_{key}": value for key, value in attributes.items()}
    return {**found, **{f"_{key}__": bare[key] for key in _TRAINING if key in bare}}


def _hints_of_input(name, attributes):
    """Return what an operator says in its input's stead: `weight_lr_mult`."""
    return {
        f"_{key}__": attributes[name + key]
        for key in _TRAINING
        if name and name + key in attributes
    }


def _is_hint(key):
    return key.startswith("__") and key.endswith("__") and key not in _OF_VARIABLES


def _entries(found, places, what):
    """Return (node, output) for references that are [node, output] or [node, output, version]."""
    entries = []
    for position, entry in enumerate(found):
        # Not isinstance: True is an int to Python, but no number to JSON.
        if (
            not isinstance(entry, list)
            or len(entry) not in (2, 3)
            or any(type(number) is not int or number < 0 for number in entry)
        ):
            raise ValueError(
                f"{what} {position} should be [node, output] or [node, output, version], "
                f"found {_shown.repr(entry)}"
            )
        if entry[0] >= len(places):
            raise ValueError(
                f"{what} {position} should be one of the first {len(places)} nodes, "
                f"found node {_shown.repr(entry[0])}"
            )
        entries.append((places[entry[0]], entry[1]))
    return tuple(entries)


def _value(holder, key, kind, where, default=None):
    """Return `holder[key]`, once both are of the kinds they should be."""
    _check(holder, dict, where)
    if key not in holder and default is not None:
        return default
    if key not in holder:
        raise ValueError(f"{where} should have {key!r}, found only {_shown.repr(list(holder))}")
    return _check(holder[key], kind, f"{where}: {key!r}")


def _check(value, kind, what):
    """Return a value of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{what} should be {_KINDS[kind]}, found {_shown.repr(value)}")
    return value
