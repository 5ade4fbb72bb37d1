"""The command line, as one would type it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import xfer
from xfer.cli import main


def run(*arguments, capsys):
    """Return the exit status, the output and the errors of a command."""
    status = main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


@pytest.mark.parametrize("suffix", ["", "-symbol.json"])
def test_the_table_of_layers(shared, capsys, suffix):
    status, out, err = run("layers", f"{shared}/models/mnist_lenet{suffix}", capsys=capsys)
    assert (status, err) == (0, "")
    assert "convolution0     Convolution     (20, 24, 24)  520\n" in out
    assert "softmax          SoftmaxOutput   (10,)         0\n" in out
    assert "Input data (n, 1, 28, 28) for n examples, a usual size that fits the parameters" in out


def test_sizes_that_no_parameter_tells(shared, capsys):
    prefix = shared / "models/cifar_resnet20_v2"
    _, out, _ = run("layers", prefix, 0, capsys=capsys)
    assert "cifarresnetv20_conv0_fwd" in out
    assert "(16, ?, ?)" in out
    assert (
        "Input data (n, 3, ?, ?) for n examples; ? is an unknown size: give it with --shape." in out
    )
    _, out, _ = run("layers", prefix, "--shape", "data=3,32,32", capsys=capsys)
    assert "(16, 32, 32)" in out
    assert "?" not in out


@pytest.mark.parametrize("last", ["0000", "0003", "0010", "12345"])
def test_the_default_epoch_is_the_last(tmp_path, capsys, last):
    checkpoint = xfer.example.checkpoint()
    shutil.copy(f"{checkpoint}-symbol.json", tmp_path / "net-symbol.json")
    shutil.copy(f"{checkpoint}-0000.params", tmp_path / f"net-{last}.params")
    # Neither earlier epochs, nor files of other networks.
    for name in [f"net-{epoch}" for epoch in ("0000", "0002", "0009") if epoch < last]:
        (tmp_path / f"{name}.params").touch()
    for name in ("net-b-99999", "other-99999", "net-99999.params.old"):
        (tmp_path / f"{name}.params").touch()
    status, out, err = run("layers", tmp_path / "net", capsys=capsys)
    assert (status, err) == (0, "")
    assert "relu2" in out
    if last > "0000":
        status, _, err = run("layers", tmp_path / "net", 0, capsys=capsys)
        assert status == 1 and "net-0000.params" in err


@pytest.mark.parametrize("layer", [None, "cifarresnetv20_pool0_fwd"])
def test_a_checkpoint_as_an_onnx_file(shared, tmp_path, capsys, layer):
    prefix, path = shared / "models/cifar_resnet20_v2", tmp_path / "net.onnx"
    cut = [] if layer is None else ["--layer", layer]
    status, out, err = run("convert", prefix, 0, path, *cut, capsys=capsys)
    assert (status, err) == (0, "")
    source = xfer.load_checkpoint(prefix)
    layer = layer or source.layer_names[-1]
    assert f"Wrote {path} with output {layer}." in out
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # Any number of images, and of any size.
    for shape in ((3, 3, 32, 32), (1, 3, 40, 48)):
        images = np.random.RandomState(0).normal(size=shape).astype(np.float32)
        found = session.run([layer], {"data": images})[0]
        expected = xfer.load_checkpoint(prefix).extract(images, layer)[layer]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    status, out, _ = run("layers", path, capsys=capsys)
    assert status == 0
    assert layer in out
    again = xfer.open_source(path).extract(images, layer)[layer]
    np.testing.assert_allclose(again, found, rtol=1e-5, atol=1e-5)


def test_errors_are_one_line(shared, tmp_path, capsys):
    prefix, path = shared / "models/mnist_lenet", tmp_path / "net.onnx"
    cases = {
        ("convert", prefix, 10, path, "--layer", "fc9"): "no layer 'fc9'; layers: convolution0, ",
        ("convert", prefix, 3, path): "there is no file .*mnist_lenet-0003.params; in that folder",
        (
            "convert",
            prefix,
            10,
            path,
            "--shape",
            "data=1,5,5",
        ): "layer 'pooling0' .Pooling.: kernel=.2, 2. is larger",
        (
            "layers",
            prefix,
            "--shape",
            "image=3,2",
        ): "must be like data=3,224,224; the inputs are data",
        ("layers", tmp_path / "none.onnx"): "none.onnx",
        ("layers", tmp_path / "none.onnx", 3): "none.onnx takes neither an epoch nor --shape",
    }
    for arguments, reason in cases.items():
        status, out, err = run(*arguments, capsys=capsys)
        assert (status, out) == (1, "")
        assert err.startswith("xfer: ")
        assert err.count("\n") == 1
        assert re.search(reason, err), err
    assert not path.exists()


def test_the_program_itself(shared):
    command = [sys.executable, "-m", "xfer", "layers", shared / "models/newsgroups_cnn"]
    folder = Path(xfer.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "dropout0" in done.stdout
    assert done.stderr == ""


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory):
    """A trained repurposer and the example network, each as a file for PyTorch."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("torch")
    checkpoint = xfer.example.checkpoint()
    images, digits = xfer.example.digits()
    repurposer = xfer.NeuralNetworkFineTuneRepurposer(
        xfer.load_checkpoint(checkpoint), "pool3", num_epochs=1
    ).fit(images[:50], digits[:50])
    repurposer.save_repurposer("trained", folder)
    return folder, checkpoint, repurposer, images[:5]


@pytest.mark.parametrize("given", ["checkpoint", "an .onnx file", "a trained repurposer"])
@pytest.mark.parametrize("batch", [None, 5])
def test_a_network_as_an_exported_program(torch_files, tmp_path, capsys, given, batch):
    import torch

    folder, checkpoint, repurposer, images = torch_files
    network = [checkpoint, 0]
    expected = xfer.load_checkpoint(checkpoint).extract(images, "softmax").matrix
    if given == "an .onnx file":
        assert run("convert", *network, tmp_path / "net.onnx", capsys=capsys)[0] == 0
        network = [tmp_path / "net.onnx"]
    elif given == "a trained repurposer":
        network = [folder / "trained.xfer"]
        expected = repurposer.predict_proba(images)
    options = ["--shape", "data=1,16,16", *([] if batch is None else ["--batch", batch])]
    status, out, err = run("convert", *network, tmp_path / "net.pt2", *options, capsys=capsys)
    assert (status, err) == (0, "")
    assert f"Wrote {tmp_path / 'net.pt2'}.\n" in out
    module = torch.export.load(tmp_path / "net.pt2").module()
    for n in (5, 3) if batch is None else (5,):
        found = module(torch.from_numpy(images[:n])).detach()
        found = torch.softmax(found, 1) if given == "a trained repurposer" else found
        np.testing.assert_allclose(found, expected[:n], atol=1e-5)


def test_parameters_as_a_file(torch_files, tmp_path, capsys):
    from safetensors.numpy import load_file

    _, checkpoint, _, _ = torch_files
    path = tmp_path / "net.safetensors"
    assert run("convert", checkpoint, path, capsys=capsys)[0] == 0
    network = xfer.load_checkpoint(checkpoint).network
    found = load_file(path)
    assert found.keys() == network.parameters.keys()
    for name, array in network.parameters.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{trained}", "{folder}/x.onnx"], "can be converted only to .pt2 and .safetensors"),
        (["{trained}", "0", "{folder}/x.pt2"], "without an epoch"),
        (["{checkpoint}", "{folder}/x.txt"], "must end in .onnx, .pt2 or .safetensors"),
    ],
)
def test_what_cannot_be_converted(torch_files, capsys, arguments, message):
    folder, checkpoint, _, _ = torch_files
    names = {"trained": folder / "trained.xfer", "checkpoint": checkpoint, "folder": folder}
    status, out, err = run("convert", *(one.format(**names) for one in arguments), capsys=capsys)
    assert (status, out) == (1, "")
    assert message in err
