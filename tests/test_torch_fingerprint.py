"""A changed torch network is another network, or it is said that this cannot be known."""

import ast
import collections
import copy
import dataclasses
import enum
import functools
import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import types
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import xfer  # noqa: E402
from xfer.sources.torch import TorchSource  # noqa: E402

SCALE = 2.0
TABLE = {"scale": [1.0, np.ones(2)]}


def times(x, by=2.0):
    return x * by


def by_global(x):
    return x * SCALE


def by_other_function(x):
    return times(x) + TABLE["scale"][0]


def reads_a_file(x):
    return x * float(open("scale.txt").read())


def imports(x):
    from helpers import scale

    return scale(x)


class Scale:
    """Neither a module nor plain data."""

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by


@dataclasses.dataclass
class Config:
    by: float = 2.0
    sizes: list = dataclasses.field(default_factory=list)


class Kind(enum.Enum):
    PLAIN = 1
    SQUARE = 2


class Net(nn.Module):
    """A network of a user's own, with what such networks hold."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        self.register_buffer("shift", torch.zeros(3), persistent=False)
        self.config = Config(sizes=[1, 2])
        self.kind = Kind.PLAIN
        self.function = times
        self.object = Scale(2.0)
        self.slotted = Slotted(1.0)
        self.pairs = [("a", 1), {"b": (2, [3])}]
        self.unregistered = [nn.Linear(3, 3)]
        self.by_name = {"tensor": torch.ones(2), "array": np.ones(2), "set": {"a", "b"}}
        self.partial = functools.partial(times, by=3.0)
        self.bound = self.object.__call__
        self.again = [self]

    def forward(self, x):
        x = self.act(self.norm(self.conv(x))).mean((2, 3), keepdim=True)
        x = self.head(x) + self.shift
        x = self.unregistered[0](self.function(x)) * self.factor
        return self.helper(torch.nn.functional.relu(by_other_function(by_global(x))))

    @functools.cached_property
    def size(self):
        return len(self.pairs)

    @staticmethod
    def helper(x, by=1.0):
        return x * by


@pytest.fixture
def network():
    return make()


def make():
    torch.manual_seed(0)
    return Net()


def fingerprint(network):
    return TorchSource(network).fingerprint(["head"])


def is_another(network, before):
    """Whether a network is told from another: by its fingerprint, or by a refusal."""
    try:
        return fingerprint(network) != before
    except ValueError as error:
        return "cannot detect every change" in str(error) and "cache_key=" in str(error)


def hook(module, *args):
    return None


def set_defaults(function):
    function.__defaults__ = (5.0,)


def double(self, x):
    return 2 * Net.forward(self, x)


def closure(by):
    def forward(x):
        return x * by

    return forward


class OtherNet(Net):
    def forward(self, x):
        return super().forward(x) * 2


def swap_rows(network):
    network.conv.weight.data[[0, 1]] = network.conv.weight.data[[1, 0]]


CHANGES = {
    "weight": lambda n: n.head[1].bias.data.add_(1),
    "swapped weights": swap_rows,
    "running statistics": lambda n: n.norm.running_var.mul_(2),
    "buffer that is not saved": lambda n: n.shift.add_(1),
    "dtype": lambda n: n.double(),
    "setting": lambda n: setattr(n.norm, "eps", 0.1),
    "module": lambda n: setattr(n, "act", nn.GELU()),
    "order": lambda n: n.head.insert(0, n.head.pop(1)),
    "attribute": lambda n: setattr(n, "scale", 2.0),
    "type of a number": lambda n: setattr(n, "by_name", {**n.by_name, "array": np.ones(2, "f4")}),
    "array in a dict": lambda n: n.by_name["array"].__setitem__(0, 3),
    "tensor in a dict": lambda n: n.by_name["tensor"].add_(1),
    "set": lambda n: n.by_name["set"].add("c"),
    "dataclass": lambda n: setattr(n.config, "by", 3.0),
    "list in a dataclass": lambda n: n.config.sizes.append(3),
    "enum": lambda n: setattr(n, "kind", Kind.SQUARE),
    "object": lambda n: setattr(n.object, "by", 3.0),
    "list for a tuple": lambda n: n.pairs.__setitem__(0, ["a", 1]),
    "inside a tuple": lambda n: n.pairs[1]["b"][1].append(4),
    "key of a dict": lambda n: n.pairs.__setitem__(1, {"c": (2, [3])}),
    "slot": lambda n: setattr(n.slotted, "by", 3.0),
    "unregistered module": lambda n: n.unregistered[0].weight.data.add_(1),
    "function": lambda n: setattr(n, "function", by_global),
    "partial": lambda n: setattr(n, "partial", functools.partial(times, by=4.0)),
    "bound method": lambda n: setattr(n, "bound", Scale(9.0).__call__),
    "patched method": lambda n: setattr(n, "forward", types.MethodType(double, n)),
    "patched function": lambda n: setattr(n, "forward", times),
    "patched method of a layer": lambda n: setattr(n.act, "forward", torch.tanh),
    "closure": lambda n: setattr(n, "forward", closure(3.0)),
    "class": lambda n: setattr(n, "__class__", OtherNet),
    "weak reference": lambda n: setattr(n, "ref", weakref.ref(n.act)),
    "tensor with an attribute": lambda n: setattr(n.conv.weight, "scale", 3),
    "parametrization": lambda n: nn.utils.parametrizations.weight_norm(n.head[1]),
}
REFUSED = {
    "lambda": (lambda n: setattr(n, "forward", lambda x: x), "has a patched forward"),
    "file": (
        lambda n: setattr(n, "function", reads_a_file),
        "function imports or looks up what it uses",
    ),
    "import": (
        lambda n: setattr(n, "function", imports),
        "function imports or looks up what it uses",
    ),
    "generator": (
        lambda n: setattr(n, "numbers", iter([1])),
        "numbers is a builtins.list_iterator",
    ),
    "queue": (lambda n: setattr(n, "past", collections.deque([1])), "past is a collections.deque"),
    "forward hook": (lambda n: n.act.register_forward_hook(hook), "layer 'act' has hooks"),
    "hook before": (lambda n: n.register_forward_pre_hook(hook), "the network has hooks"),
    "hook with names": (
        lambda n: n.act.register_forward_pre_hook(hook, with_kwargs=True),
        "layer 'act' has hooks",
    ),
    "hook in any case": (
        lambda n: n.act.register_forward_hook(hook, always_call=True),
        "layer 'act' has hooks",
    ),
    "hook of an unregistered module": (
        lambda n: n.unregistered[0].register_forward_hook(hook),
        "unregistered.*has hooks",
    ),
    "backward hook": (lambda n: n.act.register_full_backward_hook(hook), "layer 'act' has hooks"),
    "compiled": (lambda n: n.act.compile(backend="eager"), "layer 'act' is compiled"),
    "tensor class": (
        lambda n: setattr(n, "t", torch.ones(2).as_subclass(type("Mine", (torch.Tensor,), {}))),
        "t is a tensor of .*Mine",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_has_another_fingerprint(network, change):
    before = fingerprint(network)
    CHANGES[change](network)
    assert json.loads(json.dumps(before)) == before, "as it comes back from a file"
    assert is_another(network, before)


@pytest.mark.parametrize("change", REFUSED)
def test_what_cannot_be_known_is_refused_with_advice(network, change):
    known = fingerprint(network)
    apply, reason = REFUSED[change]
    apply(network)
    source = TorchSource(network)
    with pytest.raises(ValueError, match=rf"cannot detect .*{reason}.*cache_key=") as caught:
        source.fingerprint([])
    assert source.version() != source.version()
    source.cache_key = "first"
    named = source.fingerprint([])
    assert named == source.version() == source.fingerprint([])
    assert named["cache_key"] == "first"
    assert named["parameters"].items() >= known["parameters"].items()
    network.conv.weight.data.add_(1)
    assert source.fingerprint([]) != named, "what can be known counts beside a key"
    assert "\n" not in str(caught.value)


PATCHES = {
    "method of torch's": (nn.ReLU, "forward", double),
    "method of all modules": (nn.Module, "__call__", double),
    "method by another of torch's": (nn.ReLU, "forward", nn.Tanh.forward),
    "function of torch's": (nn.functional, "relu", times),
    "function by another of torch's": (nn.functional, "relu", nn.functional.gelu),
    "compiled function": (torch, "relu", torch.tanh),
    "method of tensors": (torch.Tensor, "relu", times),
    "method of the user's": (Net, "forward", double),
    "static method": (Net, "helper", staticmethod(times)),
    "method of an object's class": (Scale, "__call__", double),
    "attribute of a class": (Net, "factor", 3.0),
    "new method": (Net, "extra_repr", double),
    "global": (sys.modules[__name__], "SCALE", 3.0),
    "function that a global function uses": (sys.modules[__name__], "times", by_global),
    "defaults": (times, "__defaults__", (5.0,)),
    "defaults of a method": (Net.__dict__["helper"].__func__, "__defaults__", (5.0,)),
    "defaults by keyword": (by_global, "__kwdefaults__", {"a": 1}),
    "code": (by_global, "__code__", times.__code__),
    "code of torch's": (nn.ReLU.forward, "__code__", double.__code__),
    "attribute of a function": (times, "scale", 3.0),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_patched_code_is_other_code(network, patch, monkeypatch):
    before = fingerprint(network)
    owner, name, value = PATCHES[patch]
    if name.startswith("__") and isinstance(owner, types.FunctionType):
        kept = getattr(owner, name)
        setattr(owner, name, value)
        after = is_another(network, before)
        setattr(owner, name, kept)
    else:
        monkeypatch.setattr(owner, name, value, raising=False)
        after = is_another(network, before)
        monkeypatch.undo()
    assert after
    assert fingerprint(network) == before


def test_data_in_a_global_count(network, monkeypatch):
    before = fingerprint(network)
    monkeypatch.setitem(TABLE, "scale", [1.0, np.zeros(2)])
    assert is_another(network, before)


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
    ],
)
def test_hooks_of_all_modules_are_refused(network, register):
    handle = register(hook)
    try:
        with pytest.raises(ValueError, match="has hooks for all networks"):
            fingerprint(network)
    finally:
        handle.remove()


def test_a_mode_is_refused(network):
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Mode(), pytest.raises(ValueError, match="torch is in a mode that changes"):
        fingerprint(network)


def script(kind):
    torch.manual_seed(kind)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch retires its scripts
        return [
            torch.jit.script(network),
            torch.jit.trace(network, torch.zeros(2, 6)),
            torch.jit.freeze(torch.jit.trace(network, torch.zeros(2, 6))),
        ]


def test_scripts_are_refused():
    for network in script(0):
        for one in (network, nn.Sequential(network)):
            with pytest.raises(ValueError, match="is scripted or traced.*cache_key"):
                fingerprint(one)


def own_graph():
    return xfer.example.network()


def replace_code(network):
    network.graph.find_nodes(op="call_module", target="relu2")[0].target = "relu1"
    network.recompile()


def patch_class(network, name, value):
    setattr(type(network), name, value)


def takes_data(self, data):
    return data


GRAPH_CHANGES = {
    "attribute of an operator": lambda n: n.pool1.options.update(strides=[1, 1]),
    "kind of an operator": lambda n: setattr(n.relu1, "kind", "Tanh"),
    "operator": lambda n: setattr(n, "relu1", copy.copy(n.softmax)),
    "layer of another kind": lambda n: setattr(n, "relu1", nn.ReLU()),
    "code": replace_code,
    "parameter": lambda n: n.conv2_bias.data.add_(1),
    "attribute": lambda n: setattr(n, "scale", 2.0),
    "hook": lambda n: n.relu1.register_forward_hook(hook),
    "forward": lambda n: setattr(n, "forward", types.MethodType(takes_data, n)),
    "forward of its class": lambda n: patch_class(n, "forward", takes_data),
    "no forward of its class": lambda n: delattr(type(n), "forward"),
    "call of its class": lambda n: patch_class(n, "__call__", takes_data),
    "what its call wraps": lambda n: patch_class(
        n, "_wrapped_call", torch.fx.graph_module._WrappedCall(type(n), takes_data)
    ),
    "method of its class": lambda n: patch_class(n, "_call_impl", takes_data),
    "text of its code alone": lambda n: setattr(n, "_code", "def forward(self, data): return data"),
    "class": lambda n: setattr(n, "__class__", type("Sub", (type(n),), {})),
    "forward of an operator": lambda n: setattr(n.relu1, "forward", torch.tanh),
}


def test_graphs_that_xfer_made_are_known():
    network = own_graph()
    before = fingerprint(network)
    assert before["packages"]["xfer"] == xfer.__version__
    for same in (own_graph(), copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert fingerprint(same) == before
    around = fingerprint(nn.Sequential(network))
    network.conv2_bias.data.add_(1)
    assert fingerprint(nn.Sequential(network)) != around


@pytest.mark.parametrize("change", GRAPH_CHANGES)
def test_a_changed_graph_has_another_fingerprint(change):
    network = own_graph()
    before = fingerprint(network)
    GRAPH_CHANGES[change](network)
    assert is_another(network, before)


def test_the_function_of_an_operator_counts(monkeypatch):
    from xfer.graph_module import OPERATORS

    before = fingerprint(own_graph())
    relu = dataclasses.replace(OPERATORS["Relu"], function=times)
    monkeypatch.setitem(OPERATORS, "Relu", relu)
    assert is_another(own_graph(), before)


def test_other_graphs_are_refused():
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(6, 4), nn.ReLU()))
    functional = torch.fx.symbolic_trace(times)
    for one in (traced, functional, nn.Sequential(traced)):
        with pytest.raises(ValueError, match="is scripted or traced.*cache_key"):
            fingerprint(one)


GRAPH_PROGRAM = """
import json, sys
sys.path.insert(0, {folder!r})
import xfer
from xfer.sources.torch import TorchSource
print(json.dumps([xfer.__file__, TorchSource(xfer.example.network()).fingerprint(["head"])]))
"""


@pytest.mark.slow
def test_xfer_may_be_installed_or_a_checkout(tmp_path):
    for folder in ("site-packages", "checkout"):
        package = tmp_path / folder / "xfer"
        shutil.copytree(Path(xfer.__file__).parent, package)
        done = subprocess.run(
            [sys.executable, "-c", GRAPH_PROGRAM.format(folder=str(package.parent))],
            stdout=subprocess.PIPE,
            cwd=tmp_path,
            check=True,
        )
        file, found = json.loads(done.stdout)
        assert Path(file).parent == package
        assert found == fingerprint(own_graph())


def test_the_example_network_can_be_saved_without_itself(tmp_path):
    images, digits = xfer.example.digits()
    repurposer = xfer.LrRepurposer(own_graph(), "relu2").fit(images[:60], digits[:60])
    repurposer.save_repurposer("digits", tmp_path, save_source_model=False)
    loaded = xfer.load("digits", tmp_path, source_model=own_graph())
    np.testing.assert_array_equal(loaded.predict(images), repurposer.predict(images))
    other = own_graph()
    other.relu1.kind = "Tanh"
    with pytest.raises(ValueError, match=r"differs in its code or structure \(graph\)"):
        xfer.load("digits", tmp_path, source_model=other)


def test_weights_of_scripts_count_beside_a_key():
    for one, other in list(zip(script(0), script(1)))[:2]:
        sources = TorchSource(one), TorchSource(other)
        for source in sources:
            source.cache_key = "a"
        assert sources[0].fingerprint([]) != sources[1].fingerprint([])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_networks_are_refused():
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no kernels for quantised networks")
    network = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 4)), {nn.Linear})
    with pytest.raises(ValueError, match="whose content cannot be read.*cache_key="):
        fingerprint(network)


@pytest.mark.parametrize(
    "make_layer",
    [
        lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True),
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: nn.ParameterList([torch.ones(2)]),
        lambda: nn.ModuleDict({"a": nn.Embedding(5, 3, padding_idx=0), "b": nn.Identity()}),
    ],
)
def test_layers_of_torch_are_known(make_layer):
    torch.manual_seed(0)
    layer = make_layer()
    torch.manual_seed(0)
    found = fingerprint(layer)
    assert found == fingerprint(make_layer()) == fingerprint(copy.deepcopy(layer))
    next(layer.parameters()).data.view(-1)[0] += 1
    assert fingerprint(layer) != found


def test_parametrized_layers_are_known():
    def make_layer():
        torch.manual_seed(0)
        return nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))

    layer = make_layer()
    found = fingerprint(layer)
    assert found == fingerprint(make_layer())
    layer.parametrizations.weight.original0.data.add_(1)
    assert fingerprint(layer) != found


def test_an_equal_network_has_the_same_fingerprint(network, tmp_path):
    before = fingerprint(network)
    assert fingerprint(make()) == before
    assert fingerprint(copy.deepcopy(network)) == before
    loaded = Net()
    loaded.unregistered = network.unregistered
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert fingerprint(loaded) == before
    assert fingerprint(network.double().float()) == before
    assert fingerprint(nn.DataParallel(network)) == before
    network.conv.to(memory_format=torch.channels_last)
    assert fingerprint(network) == before


def test_use_does_not_change_a_network(network):
    before = fingerprint(network)
    images = np.random.RandomState(0).normal(size=(8, 2, 3, 3)).astype(np.float32)
    source = TorchSource(network)
    source.extract(images, ["conv", "head"])
    network.eval()
    network.requires_grad_(False)
    assert source.fingerprint(["conv"]) == source.fingerprint(["head"]) == before
    assert fingerprint(TorchSource(network).module) == before


PROGRAM = """
import json, sys
sys.path.insert(0, {folder!r})
import torch
{more}
from test_torch_fingerprint import fingerprint, make
print(json.dumps(fingerprint(make())))
"""


@pytest.mark.slow
def test_other_processes_give_the_same_fingerprint(network):
    compiles = "torch.compile(torch.nn.ReLU(), backend='eager')(torch.ones(2))"
    more = ("", f"import scipy.special, torch.ao.quantization; {compiles}")
    for seed, what in enumerate(more):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(folder=str(Path(__file__).parent), more=what)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            check=True,
        )
        assert json.loads(done.stdout) == fingerprint(network)


SOURCE = """
import torch

class FromFile(torch.nn.Module):
    def forward(self, x):
        return x * 2
"""


def test_the_text_of_a_users_class_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_first.py").write_text(SOURCE)
    (tmp_path / "their_second.py").write_text(SOURCE.replace("x * 2", "x * 3"))
    import their_first
    import their_second

    first, second = (fingerprint(module.FromFile()) for module in (their_first, their_second))
    assert first["graph"] != second["graph"]
    space = {"__name__": "nowhere"}
    exec(SOURCE, space)
    with pytest.raises(ValueError, match="FromFile, whose source cannot be read"):
        fingerprint(space["FromFile"]())


MEANT = """
import torch

def plain(function):
    return function

class Base(torch.nn.Module):
    pass

class Scaled(Base):
    names = ("a", "b")

    def forward(self, x, by=2):
        if by > 1:
            x = x * 2 + len(f"{by}, of")
        return x

def make():
    class Inner(Scaled):
        def forward(self, x):
            return x + len("one line")
    return Inner()
"""


def graph_of(text, folder):
    """Return the checksum of two networks' code, whose module is always called the same."""
    (folder / "their_code.py").write_text(text)
    # A file of the same size, written in the same second, counts as what was compiled before.
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    sys.modules.pop("their_code", None)
    importlib.invalidate_caches()
    import their_code

    found = [fingerprint(network)["graph"] for network in (their_code.Scaled(), their_code.make())]
    del sys.modules["their_code"]
    return found


SAME_MEANING = {
    "comment": ("if by > 1:", "if by > 1:  # doubled"),
    "comment at the margin": ("        return x\n", "# doubled\n        return x\n"),
    "space": ("x * 2", "(x*2)"),
    "blank line": ("    names", "\n\n    names"),
    "docstring of a class": ("    names", '    """Scale."""\n\n    names'),
    "docstring of a method": ("        if by", '        """Scale."""\n        if by'),
    "docstring for pass": ("    pass", '    """All of them."""'),
    "quotes": ('"a"', "'a'"),
    "width of the lines": ('("a", "b")', "(\n        'a',\n        'b',\n    )"),
}
OTHER_MEANING = {
    "expression": ("x * 2", "x / 2"),
    "constant": ("x * 2", "x * 3"),
    "kind of a constant": ("x * 2", "x * 2.0"),
    "text": ('"one line"', "'one  line'"),
    "blank line in a text": ('"one line"', "'''one\n\nline'''"),
    "space in a text": ('"one line"', "'''one\n    \nline'''"),
    "text in a text": (", of", ", by"),
    "default": ("by=2", "by=3"),
    "name": ("by", "times"),
    "base class": ("Scaled(Base)", "Scaled(torch.nn.Module)"),
    "decorator": ("    def forward(self, x, by", "    @plain\n    def forward(self, x, by"),
    "branch": ("        return x\n", "            return x\n"),
}


@pytest.mark.parametrize("change", SAME_MEANING)
def test_what_code_does_not_mean_does_not_count(change, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    old, new = SAME_MEANING[change]
    assert old in MEANT
    assert graph_of(MEANT.replace(old, new), tmp_path) == graph_of(MEANT, tmp_path)


def test_what_code_means_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    texts = [MEANT, *(MEANT.replace(*change) for change in OTHER_MEANING.values())]
    found = [tuple(graph_of(text, tmp_path)) for text in texts]
    assert len({*found}) == len({*texts}) == 1 + len(OTHER_MEANING)


def test_code_that_reads_its_docstring_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"imports or looks up what it uses \(__doc__\)"):
        graph_of(MEANT.replace("x * 2", "x * len(self.__doc__)"), tmp_path)


def test_syntax_has_one_form_in_all_versions_of_python():
    from xfer.sources import torch_fingerprint

    text = (
        "@a\nclass A(b, c=1):\n  d: int = None\n  async def e(f, /, *, g=...): return u'h', -1.5\n"
    )
    found = torch_fingerprint._digest(torch_fingerprint._tree(ast.parse(text)))
    assert found == "5769925cc46efde887ccefda85ee78ca4a98c207887e6a6f63501d73447a15a9"


def test_attributes_are_not_taken_for_globals(network, monkeypatch):
    before = fingerprint(network)
    for value in (3.0, weakref.ref(network), types.ModuleType("conv")):
        monkeypatch.setattr(sys.modules[__name__], "conv", value, raising=False)
        assert fingerprint(network) == before


def in_a_nested_function(x):
    return [(lambda one: one * SCALE)(one) for one in x]


def in_a_nested_class(x):
    class Inner:
        by = SCALE

        def times(self, x):
            return x * self.by

    return Inner().times(x)


def as_an_attribute_too(x):
    return x.SCALE * SCALE


@pytest.mark.parametrize(
    "function", [by_global, in_a_nested_function, in_a_nested_class, as_an_attribute_too]
)
def test_globals_count_wherever_code_loads_them(function, monkeypatch):
    before = fingerprint(Holds(function))
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert fingerprint(Holds(function)) != before


def test_modules_that_the_user_wrote_are_refused(network, monkeypatch):
    helpers = types.ModuleType("helpers")
    helpers.scale = times
    monkeypatch.setattr(sys.modules[__name__], "SCALE", helpers)
    with pytest.raises(ValueError, match="by_global uses SCALE, a module that is not installed"):
        fingerprint(network)


class Tied(nn.Module):
    def __init__(self, which):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.c = (self.a, self.b)[which]


class TiedWeight(Tied):
    def __init__(self, which):
        super().__init__(0)
        self.c = nn.Linear(3, 3)
        self.c.weight = (self.a.weight, self.b.weight)[which]


class Decorated(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        return x * SCALE


@torch.no_grad()
def decorated(x):
    return x * SCALE


class Holds(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value


@pytest.mark.parametrize("kind", [Tied, TiedWeight])
def test_which_modules_and_weights_are_shared_counts(kind):
    assert fingerprint(kind(0)) == fingerprint(kind(0)) != fingerprint(kind(1))


def test_what_a_named_tuple_holds_counts():
    from xfer.graph_module.dtypes import Array

    found = [fingerprint(Holds(Array([by], torch.float32))) for by in (1, 1, 3)]
    assert found[0] == found[1] != found[2]
    assert fingerprint(Holds(([1], torch.float32))) != found[0]


def test_what_a_bound_method_is_bound_to_counts():
    found = [fingerprint(Holds((torch.ones(3) * by).mul)) for by in (1, 1, 3)]
    assert found[0] == found[1] != found[2]


def test_what_packages_wrap_is_refused():
    for network in (Decorated(), Holds(decorated), Holds(torch.func.vmap(times))):
        with pytest.raises(ValueError, match=r"decorat.*cache_key="):
            fingerprint(network)


def test_functions_of_torch_that_have_another_name_are_refused(network, monkeypatch):
    monkeypatch.setattr(nn.functional, "relu", nn.functional.silu)
    with pytest.raises(ValueError, match=r"torch.nn.functional.relu was replaced"):
        fingerprint(network)


def test_typing_extensions_may_be_in_any_folder(network, monkeypatch):
    def moved(x):
        return torch.nn.functional.relu(x)

    moved.__code__ = moved.__code__.replace(co_filename="/elsewhere/typing_extensions.py")
    moved.__name__ = "relu"
    monkeypatch.setattr(torch, "relu", moved)
    with pytest.raises(ValueError, match=r"torch.relu was replaced"):
        fingerprint(network)
    monkeypatch.setattr("typing_extensions.__file__", "/elsewhere/typing_extensions.py")
    assert fingerprint(network)


def test_a_file_that_was_edited_after_its_import_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_third.py").write_text(SOURCE)
    import their_third

    assert fingerprint(their_third.FromFile())
    (tmp_path / "their_third.py").write_text(SOURCE.replace("x * 2", "x * 37"))
    with pytest.raises(ValueError, match=r"runs another forward than its file"):
        fingerprint(their_third.FromFile())


def test_installed_packages_are_looked_up_once(monkeypatch):
    from xfer.sources import torch_fingerprint

    for name in ("_installed", "_package", "_distributions"):
        getattr(torch_fingerprint, name).cache_clear()
    looks, look = [], torch_fingerprint.metadata.packages_distributions
    monkeypatch.setattr(
        torch_fingerprint.metadata, "packages_distributions", lambda: looks.append(1) or look()
    )
    files = [torch.__file__, torch.nn.__file__, torch.nn.functional.__file__, np.__file__]
    found = [torch_fingerprint._installed(file) for file in files]
    assert found == [("torch", torch.__version__)] * 3 + [("numpy", np.__version__)]
    assert len(looks) == 1
