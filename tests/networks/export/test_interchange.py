"""ONNX: what onnxruntime computes is what the compact network computes, for any batch size."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import Primitive

import jaxprune
from jaxprune.errors import UserError
from jaxprune.networks import export


class Residual(nn.Module):
    """BatchNorm, a residual sum, both kinds of pooling and a flattened map."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        y = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(6, (3, 3))(x)))
        x = x + nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3))(y))
        x = nn.avg_pool(nn.silu(x), (2, 2), (2, 2))
        return nn.Dense(5)(x.reshape(x.shape[0], -1))


class Perceptron(nn.Module):
    """LayerNorm, GELU and softmax."""

    @nn.compact
    def __call__(self, x):
        for width in (24, 16):
            x = nn.gelu(nn.LayerNorm()(nn.Dense(width)(x)))
        return nn.softmax(nn.Dense(4)(x))


def pruned(module, shape):
    """The module at half of its multiply-adds, with statistics that are not those of `init`."""
    x = jax.random.normal(jax.random.key(1), (3, *shape))
    variables = jax.jit(module.init)(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    return jaxprune.prune(module.apply, variables, x, scope="uniform"), x


@pytest.mark.parametrize(
    ("module", "shape"), [(Residual(), (8, 8, 2)), (Perceptron(), (6,))], ids=["cnn", "mlp"]
)
def test_onnxruntime_computes_the_network(tmp_path, module, shape):
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("jax2onnx")
    small, x = pruned(module, shape)
    export.onnx(tmp_path / "small.onnx", small, x)
    session = runtime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("x", ["batch", *shape])
    sizes = [np.prod(array.dims) for array in onnx.load(tmp_path / "small.onnx").graph.initializer]
    assert sum(sizes) < 1.2 * sum(map(np.size, jax.tree.leaves(small.params)))
    for batch in (1, 3, 8):
        x = np.random.default_rng(batch).normal(size=(batch, *shape)).astype(np.float32)
        (outputs,) = session.run(None, {"x": x})
        np.testing.assert_allclose(outputs, jax.jit(small)(small.params, x), rtol=1e-4, atol=1e-4)


def two_layers(after):
    def apply(params, x):
        return after(jnp.tanh(x @ params["in"]) @ params["out"])

    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    masks = {"in": np.array([1, 0, 1, 1])}
    return jaxprune.compact(apply, jaxprune.trace(apply, params, jnp.ones((2, 3))), params, masks)


def test_a_primitive_that_cannot_be_translated_is_named(tmp_path):
    pytest.importorskip("jax2onnx")
    own = Primitive("users_own")
    own.def_abstract_eval(lambda x: x)
    small = two_layers(own.bind)
    with pytest.raises(UserError, match="primitive 'users_own'"):
        export.onnx(tmp_path / "small.onnx", small, jnp.ones((2, 3)))
    assert not (tmp_path / "small.onnx").exists()


def test_an_equation_that_needs_the_batch_size_is_named(tmp_path):
    pytest.importorskip("jax2onnx")
    small = two_layers(lambda x: x / x.shape[0])
    with pytest.raises(UserError, match=r"'div' depends on the batch size .*2\.0 or 3\.0 or 5\.0"):
        export.onnx(tmp_path / "small.onnx", small, jnp.ones((2, 3)))


def test_a_loop_over_examples_is_named(tmp_path):
    pytest.importorskip("jax2onnx")
    small = two_layers(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x + 1, x))
    with pytest.raises(UserError, match=r"'scan' depends on the batch size .*runs several times"):
        export.onnx(tmp_path / "small.onnx", small, jnp.ones((2, 3)))


def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"pip install 'jaxprune\[onnx\]'"):
        export.onnx(tmp_path / "small.onnx", two_layers(jnp.tanh), jnp.ones((2, 3)))
