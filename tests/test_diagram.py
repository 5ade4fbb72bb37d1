"""Pictures of networks: everything is there, in its place, and can be read."""

import json
import random
import re
import time
from collections import Counter
from xml.etree import ElementTree

import pytest

from xfer.checkpoint.symbol import Graph, Node
from xfer.diagram import draw

CHECKPOINTS = ["mnist_lenet", "newsgroups_cnn", "cifar_resnet20_v1", "cifar_resnet20_v2"]
SVG = "{http://www.w3.org/2000/svg}"


def graph(*nodes, heads=None):
    """Make a graph of (operator, name, inputs, attributes...); the last node is its head."""
    nodes = [
        {"op": kind, "name": name, "inputs": [[k, 0] if isinstance(k, int) else k for k in inputs]}
        | {"attrs": attributes[0] if attributes else {}}
        for kind, name, inputs, *attributes in nodes
    ]
    return Graph.from_json(json.dumps({"nodes": nodes, "heads": heads or [[len(nodes) - 1, 0]]}))


def random_graph(seed, operators=40):
    """Branches, long ways past others, several inputs and outputs, some read twice, labels."""
    rng = random.Random(seed)
    nodes = [("null", "data", []), ("null", "more", [])]
    outputs = [[0, 0], [1, 0]]
    for k in range(operators):
        inputs = rng.choices(
            outputs[-rng.choice([2, 3, 3, 5, 30]) :], k=rng.choice([1, 1, 1, 2, 4])
        )
        kind = rng.choice(["relu", "Concat", "Concat", "Flatten", "SliceChannel", "SoftmaxOutput"])
        if kind == "SoftmaxOutput":
            nodes.append(("null", f"label{k}_label", []))
            inputs = [inputs[0], [len(nodes) - 1, 0]]
        places = rng.choice([1, 2, 3]) if kind == "SliceChannel" else 1
        nodes.append(
            (kind, "n" * rng.randint(0, 30) + str(k), inputs, {"num_outputs": str(places)})
        )
        outputs += [[len(nodes) - 1, place] for place in range(places)]
    return graph(*nodes, heads=[outputs[-1], rng.choice(outputs)])


class Picture:
    """What can be read back from the SVG."""

    def __init__(self, diagram):
        self.root = ElementTree.fromstring(diagram.svg)
        groups = [g for g in self.root.iter(f"{SVG}g") if g.get("data-node")]
        self.counts = Counter(int(g.get("data-node")) for g in groups)
        self.kinds = {int(g.get("data-node")): g.get("class") for g in groups}
        self.groups = {int(g.get("data-node")): g for g in groups}
        self.texts = {
            n: [t.text or "" for t in g.findall(f"{SVG}text")] for n, g in self.groups.items()
        }
        self.boxes = {number: rectangle(group) for number, group in self.groups.items()}
        self.edges = [
            (int(path.get("data-from")), int(path.get("data-to")), path)
            for path in self.root.iter(f"{SVG}path")
            if path.get("class") == "edge"
        ]


def rectangle(group):
    """Return left, top, right and bottom of the outline of a box or ellipse."""
    shape = group.find(f"{SVG}rect")
    if shape is not None:
        x, y, width, height = (float(shape.get(key)) for key in ("x", "y", "width", "height"))
        return x, y, x + width, y + height
    shape = group.find(f"{SVG}ellipse")
    x, y, rx, ry = (float(shape.get(key)) for key in ("cx", "cy", "rx", "ry"))
    return x - rx, y - ry, x + rx, y + ry


def points(path):
    """Sample an edge: every line and curve of it at 20 points."""
    found, at = [], None
    for command, text in re.findall("([MVC])([^MVC]+)", path.get("d")):
        numbers = [float(number) for number in re.split("[ ,]", text)]
        if command == "M":
            at = complex(*numbers)
            found.append(at)
            continue
        if command == "V":
            end = complex(at.real, numbers[0])
            bends = (at, at + (end - at) / 3, at + (end - at) * 2 / 3, end)
        else:
            bends = (at, *(complex(*numbers[k : k + 2]) for k in (0, 2, 4)))
        for step in range(1, 21):
            t, u = step / 20, 1 - step / 20
            a, b, c, d = bends
            found.append(u**3 * a + 3 * u * u * t * b + 3 * u * t * t * c + t**3 * d)
        at = bends[-1]
    return found


def assert_sound(drawn, parameters=()):
    """Nothing is missing, nothing covers another, and edges run between boxes from end to end."""
    picture = Picture(draw(drawn))
    expected = {k: node for k, node in enumerate(drawn.nodes) if node.name not in parameters}
    assert picture.counts == Counter(expected.keys())
    for number, node in expected.items():
        assert picture.texts[number][0] == node.name
        assert picture.kinds[number] == ("input" if node.is_variable else "layer")
    edges = [
        (source, number)
        for number, node in expected.items()
        for source, _ in node.inputs
        if source in expected
    ]
    assert Counter(edges) == Counter(edge[:2] for edge in picture.edges)
    boxes = sorted(
        (top, bottom, left, right, k) for k, (left, top, right, bottom) in picture.boxes.items()
    )
    width, height = (float(picture.root.get(key)) for key in ("width", "height"))
    for place, (_, bottom, left, right, number) in enumerate(boxes):
        assert left >= 0 and right <= width and bottom <= height
        for top, _, other_left, other_right, other in boxes[place + 1 :]:
            apart = top > bottom or other_left > right + 5 or other_right < left - 5
            assert apart, (number, other)
    for source, reader, path in picture.edges:
        sampled = points(path)
        left, _, right, bottom = picture.boxes[source]
        assert left < sampled[0].real < right and abs(sampled[0].imag - bottom) < 0.2
        left, top, right, _ = picture.boxes[reader]
        assert left < sampled[-1].real < right and 0 < top - sampled[-1].imag < 8
        downwards = [round(point.imag, 6) for point in sampled]
        assert downwards == sorted(downwards)
        for top, bottom, left, right, number in boxes:
            for point in sampled:
                if number not in (source, reader) and top < point.imag < bottom:
                    assert not left < point.real < right, (source, reader, number)
    return picture


class TestLayout:
    @pytest.mark.parametrize("seed", range(25))
    def test_random_graphs(self, seed):
        assert_sound(random_graph(seed))

    @pytest.mark.parametrize("name", CHECKPOINTS)
    def test_real_networks(self, shared, name):
        drawn = Graph.from_json((shared / "models" / f"{name}-symbol.json").read_text())
        names = {node.name for node in drawn.nodes if node.is_variable}
        assert_sound(drawn, names - {"data", "softmax_label"})

    def test_residual_networks_are_straight(self, shared):
        """All but the branches of a new width stand in one column, and skips beside it."""
        text = (shared / "models" / "cifar_resnet20_v2-symbol.json").read_text()
        picture = Picture(draw(Graph.from_json(text)))
        middles = Counter(round(left + right) for left, _, right, _ in picture.boxes.values())
        assert middles.most_common(1)[0][1] > 55
        right = max(right for *_, right, _ in picture.boxes.values())
        assert all(point.real < right + 40 for *_, path in picture.edges for point in points(path))

    def test_branches_are_about_their_middle(self):
        sizes = [("relu", "r" * size, [0]) for size in (4, 20, 9, 30)]
        picture = assert_sound(graph(("null", "data", []), *sizes, ("Concat", "c", [1, 2, 3, 4])))
        middle = {k: (left + right) / 2 for k, (left, _, right, _) in picture.boxes.items()}
        mean = sum(middle[k] for k in (1, 2, 3, 4)) / 4
        assert [middle[0], middle[5]] == pytest.approx([mean, mean], abs=0.2)
        assert [middle[k] for k in (1, 2, 3, 4)] == sorted(middle[k] for k in (1, 2, 3, 4))

    def test_edges_do_not_cross_where_they_need_not(self):
        nodes = [("null", "a", []), ("null", "b", []), ("relu", "of b", [1]), ("relu", "of a", [0])]
        picture = assert_sound(graph(*nodes, ("relu", "c", [2]), ("Concat", "d", [4, 3])))
        left = {k: box[0] for k, box in picture.boxes.items()}
        assert (left[0] < left[1]) == (left[3] < left[2])

    def test_what_comes_from_no_data_leaves_a_chain_straight(self):
        nodes = [("null", "data", []), ("relu", "r", [0]), ("_zeros", "state", [])]
        picture = assert_sound(graph(*nodes, ("elemwise_add", "sum", [1, 2])))
        middle = {k: (left + right) / 2 for k, (left, _, right, _) in picture.boxes.items()}
        assert middle[0] == pytest.approx(middle[1], abs=0.2) == pytest.approx(middle[3], abs=0.2)

    def test_skip_connections_leave_beside_the_chain(self):
        nodes = [("null", "data", []), *(("relu", f"r{k}", [k]) for k in range(3))]
        picture = assert_sound(graph(*nodes, ("elemwise_add", "sum", [3, 1])))
        starts = {(a, b): points(path)[0].real for a, b, path in picture.edges}
        assert abs(starts[1, 2] - starts[1, 4]) > 10

    def test_boxes_are_as_wide_as_their_text(self):
        wide = [("relu", letter * 40, [0]) for letter in ("n", "\N{CJK UNIFIED IDEOGRAPH-65E5}")]
        picture = assert_sound(graph(("null", "data", []), *wide, ("Concat", "c", [1, 2])))
        assert [picture.boxes[k][2] - picture.boxes[k][0] for k in (1, 2)] == pytest.approx(
            [320, 612]
        )

    def test_labels_stand_above_their_reader(self, shared):
        text = (shared / "models" / "mnist_lenet-symbol.json").read_text()
        picture = Picture(draw(Graph.from_json(text)))
        tops = {texts[0]: picture.boxes[k][1] for k, texts in picture.texts.items()}
        assert tops["fullyconnected0"] < tops["softmax_label"] < tops["softmax"]

    def test_is_fast_and_the_same_again(self):
        layers = [("null", "data", [])]
        for k in range(0, 500, 5):
            layers += [("relu", f"r{k + j}", [k + j]) for j in range(4)]
            layers.append(("elemwise_add", f"sum{k}", [k, k + 4]))
        drawn = graph(*layers)
        draw(drawn)
        started = time.perf_counter()
        first = draw(drawn)
        # Ten times what it takes.
        assert time.perf_counter() - started < 1
        assert first == draw(drawn)

    def test_of_nothing(self):
        assert Picture(draw(Graph((), ()))).counts == {}
        assert_sound(graph(("null", "data", [])))


class TestWhatIsDrawn:
    def test_settings(self):
        told = {
            "Convolution 3*3, 64 filters, stride 2": {
                "kernel": "(3, 3)",
                "num_filter": "64",
                "stride": "(2, 2)",
                "dilate": "(1, 1)",
            },
            "Convolution 1*7, 8 filters, stride 2*1, dilation 3, groups 4": {
                "kernel": "(1L, 7L)",
                "num_filter": "8",
                "stride": "(2, 1)",
                "dilate": "(3, 3)",
                "num_group": "4",
            },
            "FullyConnected 1,000": {"num_hidden": "1000"},
            "Pooling max 2*2, stride 2": {"kernel": "(2, 2)", "stride": "(2, 2)"},
            "Pooling global avg": {"kernel": "(7, 7)", "pool_type": "avg", "global_pool": "True"},
            "Activation relu": {"act_type": "relu"},
            "Dropout 0.5": {"p": "0.5"},
            "BatchNorm": {"eps": "1e-05"},
            "Embedding 30,000 * 128": {"input_dim": "30000", "output_dim": "128"},
            "_mul_scalar 0.25": {"scalar": "0.25"},
            "RNN lstm, 6 units, layers 2": {"mode": "lstm", "state_size": "6", "num_layers": "2"},
            "Flatten": {},
            "Convolution": {},
            "Embedding": {"input_dim": ""},
        }
        for line, attributes in told.items():
            line = line.replace("*", "\N{MULTIPLICATION SIGN}")
            node = Node(line.split()[0], "layer", attributes, ((0, 0),))
            texts = Picture(draw(Graph((Node("null", "data"), node), ((1, 0),)))).texts[1]
            assert texts[:2] == ["layer", line]

    def test_parameters_are_not_drawn(self):
        """By name, by who reads them, or as told; where two layers share them, both say so."""
        drawn = graph(
            ("null", "data", []),
            ("null", "w", []),
            ("null", "a_bias", []),
            ("null", "scale", []),
            ("FullyConnected", "a", [0, 1, 2]),
            ("FullyConnected", "b", [4, 1]),
            ("broadcast_mul", "scaled", [5, 3]),
        )
        picture = assert_sound(drawn, {"w", "a_bias"})
        assert picture.texts[4][2] == "shares parameters with b"
        assert picture.texts[5][2] == "shares parameters with a"
        picture = Picture(draw(drawn, input_names=["data"]))
        assert 3 not in picture.counts
        assert picture.texts[6] == ["scaled", "broadcast_mul", "with scale"]
        picture = Picture(draw(drawn, input_names=["data", "a_bias", "w", "scale"]))
        assert picture.counts == Counter(range(7))

    def test_what_is_computed_of_parameters(self):
        drawn = graph(
            ("null", "data", []),
            ("relu", "first", [0]),
            ("null", "v_weight", []),
            ("L2Normalization", "normed", [2]),
            ("FullyConnected", "fc", [1, 3]),
        )
        picture = assert_sound(drawn, {"v_weight"})
        assert picture.texts[3][2] == "with v_weight"
        (_, top, _, bottom), (_, other_top, _, other_bottom) = picture.boxes[3], picture.boxes[1]
        assert top + bottom == other_top + other_bottom

    def test_outputs_are_marked_and_what_is_idle_is_dashed(self):
        drawn = graph(
            ("null", "data", []),
            ("null", "softmax_label", []),
            ("relu", "r", [0]),
            ("SoftmaxOutput", "softmax", [2, 1]),
            heads=[[3, 0], [2, 0]],
        )
        picture = assert_sound(drawn)
        outlines = {k: [c for c in g if c.tag != f"{SVG}text"] for k, g in picture.groups.items()}
        assert {k: len(found) - 1 for k, found in outlines.items()} == {0: 1, 1: 1, 2: 2, 3: 2}
        dashed = [k for k, found in outlines.items() if found[1].get("stroke-dasharray")]
        assert dashed == [1]
        assert [(a, b) for a, b, p in picture.edges if p.get("stroke-dasharray")] == [(1, 3)]
        text = " ".join(picture.root.itertext())
        assert "output of the network" in text and "no say in inference" in text
        assert "no say" not in draw(drawn.prune([(2, 0)])).svg

    def test_shapes(self):
        drawn = graph(
            ("null", "data", []),
            ("SliceChannel", "halves", [0], {"num_outputs": "2"}),
            ("elemwise_add", "sum", [[1, 0], [1, 1]]),
            ("mean", "mean", [2]),
        )
        shapes = {"data": (3, None), "halves_output0": (4000,), "sum": None, "mean": (), "no": (1,)}
        texts = Picture(draw(drawn, shapes)).texts
        assert texts[0] == ["data", "3 \N{MULTIPLICATION SIGN} ?"]
        assert texts[1] == ["halves", "SliceChannel", "halves_output0  4,000", "halves_output1"]
        assert texts[2] == ["sum", "elemwise_add"]
        assert texts[3] == ["mean", "mean", "one number"]

    def test_shapes_are_inside_the_picture(self):
        """Also the one that is written on the left of the leftmost box."""
        inputs = [("null", letter, []) for letter in "abc"]
        drawn = graph(*inputs, ("Concat", "d", [0, 1, 2]))
        picture = Picture(draw(drawn, dict.fromkeys("abc", (3, 1024, 1024, 1000))))
        (moved,) = [g.get("transform") for g in picture.root if g.get("transform")]
        shift = float(re.match(r"translate\(([\d.]+),", moved).group(1))
        anchors = set()
        for number in range(3):
            text = picture.groups[number].findall(f"{SVG}text")[1]
            anchors.add(text.get("text-anchor"))
            start, wide = shift + float(text.get("x")), 6 * len(text.text)
            start -= wide * (text.get("text-anchor") == "end")
            assert 0 < start < start + wide < float(picture.root.get("width"))
        assert anchors == {"start", "end"}

    def test_hover_tells_all(self):
        drawn = graph(
            ("null", "data", []),
            ("null", "fc_weight", []),
            ("FullyConnected", "fc", [0, 1], {"num_hidden": "3", "flatten": "False"}),
        )
        (title,) = Picture(draw(drawn)).groups[2].findall(f"{SVG}title")
        assert title.text.splitlines() == [
            "fc (FullyConnected)",
            "num_hidden = 3",
            "flatten = False",
            "parameter fc_weight",
            "output fc",
        ]

    def test_families_have_colours_and_a_legend(self):
        kinds = ["Convolution", "FullyConnected", "LayerNorm", "Activation", "Pooling", "Flatten"]
        nodes = [(kind, kind.lower(), [k]) for k, kind in enumerate(kinds)]
        picture = assert_sound(graph(("null", "data", []), *nodes, ("relu", "r", [6])))
        colours = {k: g.find(f"{SVG}rect").get("stroke") for k, g in picture.groups.items() if k}
        assert len({*colours.values()}) == 6 and colours[4] == colours[7]
        legend = [text.text for text in picture.root.findall(f"{SVG}text")]
        families = ["convolution", "dense", "normalisation", "activation", "pooling", "other"]
        assert legend == [*families, "output of the network"]

    def test_operators_that_join_are_a_combination(self):
        nodes = [("null", "data", []), ("relu", "r", [0]), ("elemwise_add", "a", [0, 1])]
        picture = assert_sound(graph(*nodes, ("Concat", "c", [2]), ("mean", "m", [3])))
        colours = [picture.groups[k].find(f"{SVG}rect").get("stroke") for k in (2, 3, 4)]
        assert colours[0] == colours[1] != colours[2]

    @pytest.mark.parametrize(
        "name", ["a<b & \"c\" 'd'>", "]]>", "two\nlines\tand a tab\r", "日本", "  spaces  ", ""]
    )
    def test_any_name(self, name):
        picture = assert_sound(graph(("null", "data", []), ("relu", name, [0], {name: name})))
        assert f"{name} = {name}" in "".join(picture.groups[1].itertext())
        assert Picture(draw(graph(("null", name, [])), title=name)).texts[0] == [name]

    def test_characters_that_xml_has_not(self):
        picture = Picture(draw(graph(("null", "a\x00\x1b\ud800\uffffb", []))))
        assert picture.texts[0] == ["a\ufffd\ufffd\ufffd\ufffdb"]

    def test_unknown_inputs(self):
        with pytest.raises(
            ValueError, match="should be variables of the graph, got \\['dat', 'r'\\]"
        ):
            draw(graph(("null", "data", []), ("relu", "r", [0])), input_names=["r", "dat"])


class TestDiagram:
    def test_shows_and_saves(self, tmp_path):
        diagram = draw(random_graph(0), title="é")
        shown = diagram._repr_svg_()
        assert "max-width:100%" in shown
        assert [one.tag for one in ElementTree.fromstring(shown)] == [
            one.tag for one in ElementTree.fromstring(diagram.svg)
        ]
        diagram.save(tmp_path / "net.SVG")
        diagram.save(str(tmp_path / "net.svg"))
        assert (tmp_path / "net.svg").read_text(encoding="utf-8") == diagram.svg
        assert ElementTree.parse(tmp_path / "net.SVG").getroot().tag == f"{SVG}svg"

    @pytest.mark.parametrize("name", ["net.png", "net", "svg", "net.svg.pdf"])
    def test_other_endings(self, tmp_path, name):
        with pytest.raises(ValueError, match=f"path should end in .svg, got '.*{name}'"):
            draw(random_graph(0)).save(tmp_path / name)
        assert not any(tmp_path.iterdir())

    def test_repr(self):
        one = graph(("null", "data", []), ("relu", "r", [0]))
        assert repr(draw(one)) == "Diagram(1 layer, 1 input)"
        assert repr(draw(graph(("null", "data", [])))) == "Diagram(0 layers, 1 input)"
