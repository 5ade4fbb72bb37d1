"""What a box tells of its operator: the family, as its colour, and how it is set."""

import re

TIMES = "\N{MULTIPLICATION SIGN}"
#: The palette of Okabe and Ito (2008), which the colour-blind can tell apart, and what is found in
#: the name of an operator, of which the first counts.
FAMILIES = {
    family: (colour, re.compile(pattern, re.IGNORECASE))
    for family, colour, pattern in (
        ("input", "#b3a100", "^null$"),
        ("output or loss", "#000000", "output$|loss|smooth_?l1|cross_entropy"),
        ("convolution", "#0072b2", "convolution"),
        ("dense", "#d55e00", "fully_?connected|embedding|rnn$"),
        ("normalisation", "#009e73", "norm(alization|_v1|withrelu)?$|^lrn$"),
        ("activation", "#e69f00", "activation|relu$|sigmoid|tanh$|softm|softsign|erf$"),
        ("pooling", "#56b4e9", "pool"),
        ("combination", "#cc79a7", "concat"),
        ("other", "#9a9a9a", ""),
    )
}


def find_family(operator):
    """Tell what kind of operator it is.

    Parameters
    ----------
    operator : str
        Its name.

    Returns
    -------
    str
        A key of `FAMILIES`.

    Examples
    --------
    >>> find_family("SoftmaxOutput"), find_family("softmax"), find_family("Flatten")
    ('output or loss', 'activation', 'other')
    """
    return next(family for family, (_, found) in FAMILIES.items() if found.search(operator))


def told_settings(node):
    """Tell what matters of how an operator is set.

    Parameters
    ----------
    node : xfer.checkpoint.symbol.Node

    Returns
    -------
    list of (str or None)
        Empty or None for what was not told or is as usual; no entries for an operator that is not
        known here.

    Examples
    --------
    >>> from xfer.checkpoint.symbol import Node
    >>> told_settings(Node("FullyConnected", "fc", {"num_hidden": "1000", "flatten": "True"}))
    ['1,000']
    """
    found = {key: re.findall(r"-?\d[\d.e-]*", text) for key, text in node.attributes.items()}
    text = node.attributes.get

    def size(key):
        return TIMES.join(found.get(key, ()))

    def number(key, unit=""):
        value = "".join(found.get(key, ()))
        return value and (f"{int(value):,}" if value.isdecimal() else value) + unit

    def unusual(word, key):
        values = {*found.get(key, ())}
        return f"{word} {size(key) if len(values) > 1 else min(values)}" if values - {"1"} else ""

    match re.sub(r"^_(npx|npi|np|contrib|sparse)_|_v1$|_", "", node.operator.lower()):
        case kind if "convolution" in kind:
            groups, dilation = unusual("groups", "num_group"), unusual("dilation", "dilate")
            filters = number("num_filter", " filters")
            return [size("kernel"), filters, unusual("stride", "stride"), dilation, groups]
        case "fullyconnected":
            return [number("num_hidden")]
        case "embedding":
            return [f" {TIMES} ".join(filter(None, map(number, ("input_dim", "output_dim"))))]
        case "pooling" if text("global_pool", "").lower() in ("true", "1"):
            return [f"global {text('pool_type', 'max')}"]
        case "pooling":
            kind = f"{text('pool_type', 'max')} {size('kernel')}"
            return [kind, unusual("stride", "stride")]
        case "activation" | "leakyrelu":
            return [text("act_type", "leaky")]
        case "dropout":
            return [text("p", "0.5")]
        case "rnn":
            return [text("mode"), number("state_size", " units"), unusual("layers", "num_layers")]
        case "reshape" | "transpose":
            return [text("shape") or text("axes")]
        case kind if kind.endswith("scalar"):
            return [text("scalar")]
    return []
