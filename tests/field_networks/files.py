"""Checkpoints in the formats of each age."""

import json
import struct
from pathlib import Path

import numpy as np

# What MXNet 0.8 called what has another name since.
_OLD_NAMES = {
    "elemwise_add": "_Plus",
    "elemwise_mul": "_Mul",
    "_minus_scalar": "_MinusScalar",
    "_mul_scalar": "_MulScalar",
    "_maximum": "_Maximum",
    "add_n": "ElementWiseSum",
}


def save(mx, network, prefix, epoch, seed=0):
    """Write a network with random parameters, in the formats of its age."""
    parameters = draw_parameters(network, seed)
    graph = json.loads(network.symbol.tojson())
    version = {"0.8": None, "0.9": 905, "0.11": 1100}.get(network.era)
    if network.era == "0.8":
        graph = _as_of_08(graph)
    else:
        key = "attr" if network.era in ("0.9", "0.11") else "attrs"
        for node in graph["nodes"]:
            if "attrs" in node:
                node[key] = node.pop("attrs")
        minor = int(network.era.split(".")[1])
        graph["attrs"] = {"mxnet_version": ["int", version or 10000 + 100 * minor]}
    Path(f"{prefix}-symbol.json").write_text(json.dumps(graph, indent=2))
    path = f"{prefix}-{epoch:04d}.params"
    if network.era == "0.8":
        _write_first_layout(path, parameters)
    else:
        mx.nd.save(path, {name: mx.nd.array(array) for name, array in parameters.items()})


def draw_parameters(network, seed):
    random = np.random.RandomState(seed)
    rows = network.batch or 2
    known = {name: (rows, *shape) for name, shape in network.shapes.items()}
    if network.label_shape:
        known[network.labels[0]] = (rows, *network.label_shape)
    symbol = network.symbol
    shapes, _, others = symbol.infer_shape(**known)
    names = [f"arg:{name}" for name in symbol.list_arguments()]
    names += [f"aux:{name}" for name in symbol.list_auxiliary_states()]
    found = {}
    for name, shape in zip(names, [*shapes, *others]):
        if name[4:] in network.shapes or name[4:] in network.labels:
            continue
        if name.endswith("weight") and len(shape) > 1:
            values = random.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[1:])))
        else:
            values = np.abs(random.normal(size=shape, scale=0.3))
        if name.endswith(("gamma", "_var", "_scale")) and "relu" not in name:
            values = 1 + values
        found[name] = values.astype(np.float32)
    return found


def _as_of_08(graph):
    """Variables that are no arguments left out, everything about an operator under `param`."""
    nodes, places = [], {}
    # What an operator writes has a version.
    states = {number for node in graph["nodes"] for number, _, version in node["inputs"] if version}
    for number, node in enumerate(graph["nodes"]):
        if number in states:
            continue
        places[number] = len(nodes)
        texts = node.get("attrs", {})
        users = {key.strip("_"): text for key, text in texts.items() if key.startswith("__")}
        param = {key: text.replace(", ", ",") for key, text in texts.items() if key[:2] != "__"}
        made = {
            "op": _OLD_NAMES.get(node["op"], node["op"]),
            "param": {} if node["op"] == "null" else param,
            "name": node["name"],
            "inputs": [[places[n], out] for n, out, _ in node["inputs"] if n not in states],
            "backward_source_id": -1,
        }
        nodes.append({**made, "attr": users} if users else made)
    arguments = [place for place, node in enumerate(nodes) if node["op"] == "null"]
    heads = [[places[number], out] for number, out, _ in graph["heads"]]
    return {"nodes": nodes, "arg_nodes": arguments, "heads": heads}


def _write_first_layout(path, arrays):
    with open(path, "wb") as file:
        file.write(struct.pack("<QQQ", 0x112, 0, len(arrays)))
        for array in arrays.values():
            file.write(struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape))
            file.write(struct.pack("<iii", 1, 0, 0) + array.tobytes())
        file.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            file.write(struct.pack("<Q", len(name)) + name.encode())
