"""Files with one trick each, for ``hostile.py``: bombs, cycles, impossible sizes and others.

Each function takes the bytes of a valid file and a number of nodes for graphs, and returns the
bytes of a hostile file.
"""

import copy
import io
import json
import struct
import warnings
import zipfile
from collections import defaultdict

import onnx
from onnx import helper

from xfer.persistence import _CHECKSUM_LENGTH, _checksum

#: Functions that make a file which tries a trick, by format; each takes a good file and a size.
TRICKS = defaultdict(list)


def trick(*suffixes):
    """Add a trick to some formats."""

    def add(function):
        for suffix in suffixes:
            TRICKS[suffix].append(function)
        return function

    return add


@trick(".params", "-symbol.json", ".xfer", ".onnx", ".json", ".pkl")
def empty(seed, n):
    return b""


@trick("-symbol.json", ".xfer", ".json")
def deep_lists(seed, n):
    return with_json(seed, b"[" * 10**5 + b"]" * 10**5)


@trick("-symbol.json", ".xfer", ".json")
def deep_objects(seed, n):
    return with_json(seed, b'{"a":' * 10**5 + b"1" + b"}" * 10**5)


@trick("-symbol.json", ".xfer", ".json")
def long_number(seed, n):
    return with_json(seed, b"1" * 10**6)


@trick("-symbol.json", ".json")
def long_number_inside(seed, n):
    content = json.loads(seed)
    place = content["nodes"][-1]["inputs"][0] if "nodes" in content else content["id2word"]
    place[0] = 12345
    return json.dumps(content).encode().replace(b"12345", b"1" * 10**6)


@trick(".params")
def many_arrays(seed, n):
    return struct.pack("<QQQ", 0x112, 0, 2**62) + seed[24:]


@trick(".params")
def shapes_of_2_to_the_62(seed, n):
    head = struct.pack("<QQQIii", 0x112, 0, 1, 0xF993FAC9, 0, 2)
    return head + struct.pack("<qqiii", 2**62, 4, 1, 0, 0) + seed[100:]


@trick(".xfer")
def bomb(seed, n):
    return archive({"schema.json": b" " * (1000 * n), **members(seed)}, zipfile.ZIP_DEFLATED)


@trick(".xfer")
def bomb_in_an_array(seed, n):
    return with_array(seed, (250 * n,), b"\0" * (1000 * n), zipfile.ZIP_DEFLATED)


@trick(".xfer")
def parts_that_overlap(seed, n):
    """One member under a thousand names, as a directory can say."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as file:
        for name, part in members(seed).items():
            file.writestr(name, part)
        file.filelist += [copy.copy(file.filelist[0]) for _ in range(1000)]
        for number, member in enumerate(file.filelist[-1000:]):
            member.filename = member.orig_filename = f"{number}.npy"
    return found.getvalue() + _checksum(found.getvalue())


@trick(".xfer")
def array_of_2_to_the_62(seed, n):
    return with_array(seed, (2**62,), b"\0" * 1000)


@trick(".xfer")
def array_larger_than_memory(seed, n):
    return with_array(seed, (2**20, 10**4), b"\0" * 1000)


@trick(".xfer")
def absolute_name(seed, n):
    return archive({"/tmp/hostile": b"1", **members(seed)})


@trick(".xfer")
def name_above(seed, n):
    return archive({"../hostile": b"1", **members(seed)})


@trick(".xfer")
def link(seed, n):
    member = zipfile.ZipInfo("link")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    return archive({member: b"/etc/passwd", **members(seed)})


@trick(".xfer")
def twice_the_same_name(seed, n):
    again = zipfile.ZipInfo("schema.json")
    return archive({**members(seed), again: b"{}"})


@trick(".xfer")
def many_members(seed, n):
    return archive({**{f"{number}.npy": b"" for number in range(n // 10)}, **members(seed)})


@trick(".xfer")
def type_that_is_not_allowed(seed, n):
    schema = json.loads(members(seed)["schema.json"])
    schema.update(__module__="os", __class__="system")
    return with_json(seed, json.dumps(schema).encode())


@trick(".xfer")
def method_of_a_type(seed, n):
    schema = json.loads(members(seed)["schema.json"])
    content = {"__class__": "call", "__module__": "os", "__loader__": "MethodNode"}
    schema["content"] = [[{"__loader__": "OperatorFuncNode", **content}, content]]
    return with_json(seed, json.dumps(schema).encode())


@trick("-symbol.json")
def many_nodes(seed, n):
    return chain(n)


@trick("-symbol.json")
def cycle(seed, n):
    return chain(5, first=5)


@trick("-symbol.json")
def node_that_takes_itself(seed, n):
    return chain(5, first=1)


@trick("-symbol.json")
def sizes_of_2_to_the_62(seed, n):
    content = json.loads(seed)
    for node in content["nodes"]:
        attributes = node.get("attrs", {})
        attributes.update(dict.fromkeys(attributes.keys() & {"num_filter", "num_hidden"}, 2**62))
        attributes.update(dict.fromkeys(attributes.keys() & {"kernel"}, f"({2**62}, 4)"))
        node["attrs"] = {name: str(value) for name, value in attributes.items()}
    return json.dumps(content).encode()


@trick(".onnx")
def many_onnx_nodes(seed, n):
    return onnx_chain(n)


@trick(".onnx")
def onnx_cycle(seed, n):
    return onnx_chain(5, first=5)


@trick(".onnx")
def initializer_of_2_to_the_62(seed, n):
    model = onnx.ModelProto.FromString(seed)
    model.graph.initializer[0].dims[:] = [2**62]
    return model.SerializeToString()


@trick(".onnx")
def values_elsewhere(seed, n):
    model = onnx.ModelProto.FromString(seed)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model.SerializeToString()


@trick(".onnx")
def graphs_in_graphs(seed, n):
    output = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [output])
    for _ in range(30):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [output])
    return helper.make_model(graph).SerializeToString()


@trick(".pkl")
def deep_tuples(seed, n):
    return b"\x80\x02N" + b"\x85" * n + b"."


@trick(".pkl")
def doubling_lists(seed, n):
    steps = (b"(h%bh%blq%b" % (*[bytes([i])] * 2, bytes([i + 1])) for i in range(60))
    return b"\x80\x02]q\x00" + b"".join(steps) + b"."


@trick(".pkl")
def long_text(seed, n):
    return b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"."


@trick(".pkl")
def number_in_memory(seed, n):
    return b"\x80\x02Nr" + (2**31 - 1).to_bytes(4, "little") + b"."


@trick(".pkl")
def long_number_as_text(seed, n):
    return b"I" + b"1" * 10**6 + b"\n."


def with_json(seed, text):
    """Put a text where the JSON of a file is."""
    is_archive = seed.startswith(b"PK")
    return archive({**members(seed), "schema.json": text}) if is_archive else text


def members(seed):
    """Return the parts of a saved repurposer."""
    with zipfile.ZipFile(io.BytesIO(seed[:-_CHECKSUM_LENGTH])) as file:
        return {name: file.read(name) for name in file.namelist()}


def archive(parts, compression=zipfile.ZIP_STORED):
    """Write parts as a saved repurposer with a right checksum."""
    found = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(found, "w", compression) as file:
        warnings.simplefilter("ignore")  # two members of one name
        for name, part in parts.items():
            file.writestr(name, part, compression)
    return found.getvalue() + _checksum(found.getvalue())


def with_array(seed, shape, values, compression=zipfile.ZIP_STORED):
    """Replace an array in a saved repurposer."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    parts = members(seed)
    name = next(name for name in parts if name.endswith(".npy"))
    parts[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + values
    return archive(parts, compression)


def chain(n, first=0):
    """Return a graph of MXNet of so many nodes; the first takes the output of node ``first``."""
    nodes = [{"op": "null", "name": "data", "inputs": []}]
    for i in range(n):
        source = first if i == 0 else i
        node = {"op": "Activation", "name": f"a{i}", "attrs": {"act_type": "relu"}}
        nodes.append({**node, "inputs": [[source, 0, 0]]})
    version = {"mxnet_version": ["int", 10901]}
    graph = {"nodes": nodes, "arg_nodes": [0], "heads": [[n, 0, 0]], "attrs": version}
    return json.dumps(graph).encode()


def onnx_chain(n, first=0):
    """Return an ONNX file of so many nodes; the first takes the output of node ``first``."""
    names = [f"x{first}", *(f"x{i}" for i in range(1, n + 1))]
    nodes = [helper.make_node("Relu", [names[i]], [f"x{i + 1}"]) for i in range(n)]
    ends = [[helper.make_tensor_value_info(name, 1, ["n", 2])] for name in ("x0", f"x{n}")]
    opset = helper.make_opsetid("", 17)
    graph = helper.make_graph(nodes, "g", *ends)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
