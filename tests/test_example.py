"""The small task that the documentation works with."""

import numpy as np
import pytest

import xfer


def test_each_digit_is_somewhere_on_its_canvas():
    images, digits = xfer.example.digits()
    assert images.shape == (1797, 1, 16, 16) and images.dtype == np.float32
    assert set(digits) == set(range(10))
    np.testing.assert_array_equal(images, xfer.example.digits()[0])
    ones = xfer.example.scatter(np.ones((50, 8, 8)), seed=3)
    assert (ones.sum(axis=(1, 2, 3)) == 64).all()
    assert len(np.unique(ones.reshape(50, -1), axis=0)) > 20
    for wrong in (np.ones((2, 9, 9)), np.ones(64)):
        with pytest.raises(ValueError, match=r"images must have shape \(n, 8, 8\), got "):
            xfer.example.scatter(wrong)


def test_the_checkpoint_reads_what_it_was_trained_on_and_nothing_else(mx):
    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    found = source.extract(images, "softmax").matrix.argmax(axis=1)
    assert (found == digits)[digits < 5].mean() > 0.98
    module = mx.mod.Module.load(xfer.example.checkpoint(), 0)
    by_module = xfer.open_source(module).extract(images[:50], "pool3").matrix
    np.testing.assert_allclose(by_module, source.extract(images[:50], "pool3").matrix, atol=1e-5)
