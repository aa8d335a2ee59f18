"""Lookahead distortion against products of matrices without one weight at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import importance, trace


def structure_of(apply, params, inputs, **options):
    return trace(apply, params, jnp.ones((1, inputs)), **options)


def test_the_distortion_of_every_weight_written_out():
    """Eq. 3 of the paper for each weight; its root mean square is what a channel gets."""
    rng = np.random.default_rng(0)
    shapes = {"a": (2, 3), "b": (3, 4), "c": (4, 2)}
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    structure = structure_of(lambda p, x: x @ p["a"] @ p["b"] @ p["c"], params, 2)
    matrices = [np.asarray(params[k], np.float64) for k in "abc"]
    layers = [np.eye(2), *matrices, np.eye(2)]

    def distortion(layer, i, j):
        before, middle, behind = layers[layer - 1 : layer + 2]
        without = middle.copy()
        without[i, j] = 0
        return np.linalg.norm(before @ middle @ behind - before @ without @ behind)

    expected = [
        np.sqrt(sum(distortion(layer, i, j) ** 2 for i in range(layers[layer].shape[0])))
        for layer in (1, 2)
        for j in range(layers[layer].shape[1])
    ]
    np.testing.assert_allclose(importance.lookahead(structure, params), expected, rtol=1e-5)


def test_coupled_layers_count_as_one_and_so_do_readers():
    params = {
        "a": jnp.array([[3.0, 0.0]]),
        "b": jnp.array([[4.0, 1.0]]),
        "c": jnp.array([[1.0, 0.0], [2.0, 2.0]]),
        "d": jnp.array([[2.0], [1.0]]),
    }

    def apply(params, x):
        hidden = jax.nn.relu(x @ params["a"] + x @ params["b"])
        return hidden @ params["c"], hidden @ params["d"]

    structure = structure_of(apply, params, 1)
    # Produced by 3^2 + 4^2 and 1; read by 1 + 4 and 4 + 4 + 1.
    np.testing.assert_allclose(
        importance.lookahead(structure, params), [np.sqrt(25 * 5), np.sqrt(9)], rtol=1e-6
    )


def test_a_flattened_map_is_read_at_several_places():
    """Channels of a convolution, two places each, and a dense layer that reads both places."""
    params = {
        "conv": jnp.array([[[1.0, 2.0]]]),  # window 1, one input, two filters
        "dense": jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]),
        "out": jnp.array([[1.0], [2.0]]),
    }

    def apply(params, x):
        maps = jax.lax.conv_general_dilated(
            x, params["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return maps.reshape(len(x), -1) @ params["dense"] @ params["out"]

    structure = trace(apply, params, jnp.ones((1, 2, 1)))
    found = structure.unflatten(importance.lookahead(structure, params))
    # conv: 1 * (1 + 4) and 4 * (1 + 9). dense reads filters of norms 1, 2, 1, 2:
    # (1 + 4) * 1 and (4 + 36) * 4.
    np.testing.assert_allclose(found["conv"], np.sqrt([5, 40]), rtol=1e-6)
    np.testing.assert_allclose(found["dense"], np.sqrt([5, 160]), rtol=1e-6)


def test_input_features_have_identities_before_them():
    params = {"a": jnp.array([[3.0, 4.0], [1.0, 0.0]]), "b": jnp.array([[1.0], [2.0]])}
    structure = structure_of(lambda p, x: x @ p["a"] @ p["b"], params, 2, prune_inputs=True)
    np.testing.assert_allclose(
        importance.lookahead(structure, params), [5, 1, np.sqrt(10), 8], rtol=1e-6
    )
