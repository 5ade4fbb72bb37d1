"""The command line, as one would type it."""

import re
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
    assert "Input data (n, 1, 28, 28) for n examples, the usual size that the parameters fit" in out


def test_sizes_that_no_parameter_tells(shared, capsys):
    prefix = shared / "models/cifar_resnet20_v2"
    _, out, _ = run("layers", prefix, 0, capsys=capsys)
    assert "cifarresnetv20_conv0_fwd" in out
    assert "(16, ?, ?)" in out
    assert "Input data (n, 3, ?, ?) for n examples; ? is any size, and --shape gives one." in out
    _, out, _ = run("layers", prefix, "--shape", "data=3,32,32", capsys=capsys)
    assert "(16, 32, 32)" in out
    assert "?" not in out


@pytest.mark.parametrize("layer", [None, "cifarresnetv20_pool0_fwd"])
def test_a_checkpoint_as_an_onnx_file(shared, tmp_path, capsys, layer):
    prefix, path = shared / "models/cifar_resnet20_v2", tmp_path / "net.onnx"
    cut = [] if layer is None else ["--layer", layer]
    status, out, err = run("convert", prefix, 0, path, *cut, capsys=capsys)
    assert (status, err) == (0, "")
    source = xfer.load_checkpoint(prefix)
    layer = layer or source.layer_names[-1]
    assert f"Wrote {path} with {layer}." in out
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
        ("layers", tmp_path / "none.onnx", 3): "an .onnx file has no epochs",
    }
    for arguments, reason in cases.items():
        status, out, err = run(*arguments, capsys=capsys)
        assert (status, out) == (1, "")
        assert err.startswith("xfer: ")
        assert err.count("\n") == 1
        assert re.search(reason, err), err
    assert not path.exists()


def test_the_program_itself(shared):
    program = Path(sys.executable).with_name("xfer")
    command = [program] if program.exists() else [sys.executable, "-m", "xfer"]
    done = subprocess.run(
        [*command, "layers", shared / "models/newsgroups_cnn"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "dropout0" in done.stdout
    assert done.stderr == ""
