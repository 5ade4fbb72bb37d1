"""What the networks are made of, and what is told of each."""

from dataclasses import dataclass, field

#: Builders of networks, by name.
NETWORKS = {}


@dataclass
class FieldNetwork:
    """A network and what is to be seen of it."""

    symbol: object
    shapes: dict  # of one example of each input
    era: str = "1.3"
    layers: list = field(default_factory=list)  # that are known to be used as features
    other: dict | None = None  # shapes of an example of another size, if any will do
    told: str = ""  # how the command line words the inputs
    ids: dict = field(default_factory=dict)  # inputs that hold whole numbers: how many there are
    refused: dict = field(default_factory=dict)  # layers that are no features: what the error says
    batch: int | None = None  # for how many examples the graph is written
    labels: list = field(default_factory=list)
    label_shape: tuple | None = None  # where it does not follow from the graph
    beyond: list = field(default_factory=list)  # features that MXNet does not give


def network(function):
    NETWORKS[function.__name__] = function
    return function


def pair(size):
    return size if isinstance(size, tuple) else (size, size)


def conv(mx, x, name, filters, kernel=3, stride=1, pad=0, **more):
    sizes = {"kernel": pair(kernel), "stride": pair(stride), "pad": pair(pad)}
    return mx.sym.Convolution(x, num_filter=filters, name=name, **sizes, **more)


def pool(mx, x, name, kernel, stride=1, pad=0, kind="max", **more):
    sizes = {"kernel": pair(kernel), "stride": pair(stride), "pad": pair(pad)}
    return mx.sym.Pooling(x, pool_type=kind, name=name, **sizes, **more)


def relu(mx, x, name):
    return mx.sym.Activation(x, act_type="relu", name=name)


def prelu(mx, x, name):
    return mx.sym.LeakyReLU(x, act_type="prelu", name=name)


def norm(mx, x, name, **more):
    return mx.sym.BatchNorm(x, name=name, **{"fix_gamma": False, "eps": 2e-5, **more})
