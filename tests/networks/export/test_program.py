"""StableHLO of compact networks: any batch size, and the numbers of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.networks import export


def convolutional(params, x):
    """A residual network on `[B, 6, 6, 2]` whose reshape names the batch size."""
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(  # noqa: E731
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(convolve(x, params["stem"]))
    x = x + jnp.tanh(convolve(jax.nn.relu(convolve(x, params["first"])), params["second"]))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(x.shape[0], -1) @ params["out"]


@pytest.fixture(scope="module")
def small():
    shapes = {"stem": (3, 3, 2, 8), "first": (3, 3, 8, 6), "second": (3, 3, 6, 8), "out": (72, 5)}
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    small = jaxprune.prune(convolutional, params, jnp.zeros((2, 6, 6, 2)), scope="uniform")
    assert small.params["out"].shape[0] < 72
    return small


def examples(batch):
    return np.random.default_rng(batch).normal(size=(batch, 6, 6, 2)).astype(np.float32)


def test_one_program_for_any_batch_size(small):
    exported = jax.export.deserialize(export.stablehlo(small, examples(2)).serialize())
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.out_avals[0].shape) == "(batch, 5)"
    for batch in (1, 3, 8):
        x = examples(batch)
        np.testing.assert_allclose(
            exported.call(small.params, x), convolutional(small.params, x), rtol=1e-4, atol=1e-4
        )


def test_the_program_can_be_read(small):
    assert "stablehlo.convolution" in export.stablehlo(small, examples(2)).mlir_module()


def test_saved_and_loaded_by_the_names_of_the_package(small, tmp_path):
    jaxprune.save(tmp_path / "small", small, examples(2), metadata={"task": "a test"})
    loaded = jaxprune.load(tmp_path / "small")
    assert loaded.metadata == {"task": "a test"}
    assert loaded.widths == small.widths
    for batch in (1, 3, 8):
        x = examples(batch)
        np.testing.assert_allclose(
            loaded(loaded.params, x), convolutional(small.params, x), rtol=1e-4, atol=1e-4
        )
