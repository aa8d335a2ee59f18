"""Importance from gradients, against torch and against removing channels one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import UserError, importance, masked, trace

LABELS = jnp.array([0, 2, 1, 1])


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def test_taylor_by_hand():
    """Loss 2 y with y = x a b and x = (1, 2): dL/da = 2 x b, dL/db is not asked for."""
    params = {"a": jnp.array([[1.0, 2.0], [3.0, -1.0]]), "b": jnp.array([[1.0], [5.0]])}
    structure = trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 2)))
    gradients = jax.grad(lambda p: 2 * (jnp.array([[1.0, 2.0]]) @ p["a"] @ p["b"]).sum())(params)
    # Contributions: 2 * 1 * (1 + 6) = 14 and 2 * 5 * (2 - 2) = 0, where two terms cancel.
    np.testing.assert_allclose(importance.taylor(structure, params, gradients), [196, 0])


@pytest.mark.slow
def test_taylor_sums_coupled_layers_before_the_square(residual):
    structure, variables = residual.structure, residual.variables
    gradients = jax.grad(lambda v: cross_entropy(residual.apply(v, residual.x)))(variables)
    scores = importance.taylor(structure, variables, gradients)
    assert scores.dtype == jnp.float32
    found = structure.unflatten(scores)
    products = jax.tree.map(lambda w, g: np.asarray(w * g, np.float64), variables, gradients)
    kernels = {name: layer.get("kernel") for name, layer in products["params"].items()}
    for name, layers in {"conv1": ("conv1", "conv3"), "conv2": ("conv2",)}.items():
        contribution = sum(kernels[layer].sum((0, 1, 2)) for layer in layers)
        np.testing.assert_allclose(found[name], contribution**2, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(found["hidden"], kernels["hidden"].sum(0) ** 2, rtol=1e-4)


def test_taylor_vanishes_where_batch_norm_normalises_by_the_batch(residual):
    """Why the gradients must be those of inference: a filter's scale does not matter there."""

    def loss(variables):
        logits, _ = residual.module.apply(variables, residual.x, train=True, mutable="batch_stats")
        return cross_entropy(logits)

    in_training = jax.grad(loss)(residual.variables)
    scores = importance.taylor(residual.structure, residual.variables, in_training)
    found = residual.structure.unflatten(scores)
    assert found["conv2"].max() < 1e-6 * found["hidden"].max()


def test_snip_is_the_sensitivity_to_indicators(residual):
    """Against the derivative in an indicator for every weight, eqs. 3 to 5 of the paper."""
    variables = residual.variables
    names = ("conv1", "conv2", "conv3", "hidden", "out")
    kernels = {name: variables["params"][name]["kernel"] for name in names}

    def loss(indicators):
        layers = dict(variables["params"])
        for name in names:
            layers[name] = {**layers[name], "kernel": kernels[name] * indicators[name]}
        return cross_entropy(residual.apply({**variables, "params": layers}, residual.x))

    slopes = jax.jit(jax.grad(loss))(jax.tree.map(jnp.ones_like, kernels))
    sizes = {name: np.abs(np.asarray(slope, np.float64)) for name, slope in slopes.items()}
    total = sum(size.sum() for size in sizes.values())
    sums = {name: size.reshape(-1, size.shape[-1]).sum(0) / total for name, size in sizes.items()}

    gradients = jax.jit(jax.grad(lambda v: cross_entropy(residual.apply(v, residual.x))))(variables)
    scores = importance.snip(residual.structure, variables, gradients)
    found = residual.structure.unflatten(scores)
    np.testing.assert_allclose(found["conv1"], sums["conv1"] + sums["conv3"], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found["conv2"], sums["conv2"], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found["hidden"], sums["hidden"], rtol=1e-3, atol=1e-7)


def test_taylor_activation_is_the_change_of_a_linear_loss():
    """The hidden layer is read by one linear layer, the loss is a sum: the expansion is exact."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"a": jax.random.normal(keys[0], (3, 5)), "b": jax.random.normal(keys[1], (5, 2))}
    x = jax.random.normal(keys[2], (7, 3))

    def apply(params, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    structure = trace(apply, params, x)
    masked_apply = masked(apply, structure)

    def losses(mask):
        return np.asarray(masked_apply(params, structure.unflatten(mask), x).sum(1))

    whole = losses(np.ones(5, np.float32))
    change = [abs(whole - losses(np.float32(np.arange(5) != c))).mean() for c in range(5)]
    scores = importance.taylor_activation(structure, apply, params, x, lambda y: y.sum(1).mean())
    np.testing.assert_allclose(scores, change / np.linalg.norm(change), rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(scores**2), 1, rtol=1e-5)


def test_taylor_activation_against_torch():
    """Sums of activation times gradient for each example, where the next layer reads them."""
    torch = pytest.importorskip("torch")
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "conv1": jax.random.normal(keys[0], (3, 3, 2, 4)),
        "conv2": jax.random.normal(keys[1], (3, 3, 4, 5)),
        "out": jax.random.normal(keys[2], (5 * 6 * 6, 3)) / 20,
    }
    x = jax.random.normal(keys[3], (4, 6, 6, 2))

    def apply(params, x):
        for name in ("conv1", "conv2"):
            x = jax.lax.conv_general_dilated(
                x, params[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x)
        return x.reshape(len(x), -1) @ params["out"]

    def tensor(value, *order):
        return torch.from_numpy(np.array(value.transpose(order) if order else value))

    functional = torch.nn.functional
    first = functional.conv2d(tensor(x, 0, 3, 1, 2), tensor(params["conv1"], 3, 2, 0, 1), padding=1)
    first = functional.relu(first).requires_grad_()
    second = functional.conv2d(first, tensor(params["conv2"], 3, 2, 0, 1), padding=1)
    second = functional.relu(second)
    second.retain_grad()
    logits = second.permute(0, 2, 3, 1).flatten(1) @ tensor(params["out"])
    functional.cross_entropy(logits, torch.tensor([0, 2, 1, 1])).backward()

    structure = trace(apply, params, x)
    scores = importance.taylor_activation(structure, apply, params, x, cross_entropy)
    found = structure.unflatten(scores)
    for name, maps in {"conv1": first, "conv2": second}.items():
        expected = (maps * maps.grad).sum((2, 3)).abs().mean(0)
        expected = (expected / expected.norm()).detach().numpy()
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_taylor_activation_of_coupled_layers(residual):
    """Against the derivative of each example's loss in a mask that all readers share."""
    structure, variables = residual.structure, residual.variables
    masked_apply = masked(residual.apply, structure)

    def loss_of(mask, i):
        logits = masked_apply(variables, structure.unflatten(mask), residual.x[i : i + 1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[i : i + 1]).sum()

    ones = jnp.ones(structure.num_channels)
    slopes = np.stack([jax.grad(loss_of)(ones, i) for i in range(4)])
    expected = structure.unflatten(np.abs(slopes).mean(0))
    scores = importance.taylor_activation(
        structure, residual.apply, variables, residual.x, cross_entropy
    )
    for name, values in structure.unflatten(scores).items():
        norm = np.linalg.norm(expected[name])
        np.testing.assert_allclose(values, expected[name] / norm, rtol=1e-3, atol=1e-6)


def test_a_loss_per_example_is_refused(residual):
    with pytest.raises(UserError, match=r"loss has shape \(4,\) .* mean over the examples"):
        importance.taylor_activation(
            residual.structure, residual.apply, residual.variables, residual.x, lambda y: y.sum(1)
        )


def test_activation_is_what_the_readers_take_in():
    """By hand for two layers: the mean of |relu(x a)| over the examples."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"a": jax.random.normal(keys[0], (3, 5)), "b": jax.random.normal(keys[1], (5, 2))}
    x = jax.random.normal(keys[2], (7, 3))

    def apply(params, x):
        return jnp.tanh(jax.nn.relu(x @ params["a"]) @ params["b"])

    scores = importance.activation(trace(apply, params, x), apply, params, x)
    np.testing.assert_allclose(scores, np.maximum(x @ params["a"], 0).mean(0), rtol=1e-5)


def test_activation_sums_readers_and_counts_joints_for_both_factors():
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in (("a", (3, 6)), ("b", (6, 2)), ("c", (6, 2)), ("mix", (2, 2)))
    }
    x = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)

    def apply(params, x):
        hidden = jnp.einsum("nrc,rs->nsc", (x @ params["a"]).reshape(7, 2, 3), params["mix"])
        hidden = jnp.einsum("nsc,sr->nrc", jnp.sin(hidden), params["mix"]).reshape(7, 6)
        return hidden @ params["b"] + jnp.cos(hidden) @ params["c"]

    structure = trace(apply, params, x)
    sizes = {group.name: group.size for group in structure.groups}
    assert sizes == {"a": 2, "a#2": 3}
    scores = structure.unflatten(importance.activation(structure, apply, params, x))
    mix = np.asarray(params["mix"], np.float64)
    first = (np.asarray(x, np.float64) @ np.asarray(params["a"])).reshape(7, 2, 3)
    second = np.sin(np.einsum("nrc,rs->nsc", first, mix))
    last = np.einsum("nsc,sr->nrc", second, mix)
    read = np.abs(last).mean(0) + np.abs(np.cos(last)).mean(0)
    rows = np.abs(first).mean((0, 2)) + np.abs(second).mean((0, 2)) + read.sum(1)
    np.testing.assert_allclose(scores["a"], rows, rtol=1e-4)
    np.testing.assert_allclose(scores["a#2"], read.sum(0), rtol=1e-4)
