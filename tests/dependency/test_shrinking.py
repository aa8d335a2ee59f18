"""Trees like the parameters made small: optimizer states, averages, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune

MASKS = {"a": np.array([1, 0, 1, 1, 0, 0]), "b": np.array([0, 1, 1, 0])}
ROWS, COLUMNS = (np.flatnonzero(MASKS[name]) for name in "ab")
CUT = {
    "a": lambda v: v[..., ROWS],
    "b": lambda v: v[..., ROWS, :][..., COLUMNS],
    "bias": lambda v: v[..., COLUMNS],
    "o": lambda v: v[..., COLUMNS, :],
}


def apply(params, x):
    hidden = jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"] + params["bias"])
    return hidden @ params["o"]


def params():
    shapes = {"a": (3, 6), "b": (6, 4), "bias": (4,), "o": (4, 2)}
    random = np.random.default_rng(0)
    return {n: jnp.asarray(random.normal(size=s), jnp.float32) for n, s in shapes.items()}


X = jnp.ones((2, 3))
STRUCTURE = jaxprune.trace(apply, params(), X)


def cut(tree):
    return {name: CUT[name](value) for name, value in tree.items()}


def check_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_parameters_themselves_and_numpy_arrays_and_shapes():
    check_equal(jaxprune.shrink(STRUCTURE, MASKS, params()), cut(params()))
    check_equal(jaxprune.shrink(STRUCTURE, MASKS, jax.device_get(params())), cut(params()))
    abstract = jaxprune.shrink(STRUCTURE, MASKS, jax.eval_shape(params))
    assert abstract["b"] == jax.ShapeDtypeStruct((3, 2), jnp.float32)
    traced = jax.jit(lambda tree: jaxprune.shrink(STRUCTURE, MASKS, tree))(params())
    check_equal(traced, cut(params()))


def after_a_step(optimizer, start):
    """The optimizer's state after a step with gradients that are all different."""
    grads = jax.tree.map(lambda v: v + jnp.arange(v.size).reshape(v.shape), start)
    return optimizer.update(grads, optimizer.init(start), start)[1]


OPTIMIZERS = {
    "adamw": optax.adamw(optax.cosine_decay_schedule(0.1, 10)),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    "several steps": optax.MultiSteps(optax.adam(0.1), 3).gradient_transformation(),
    "hyperparameters": optax.inject_hyperparams(optax.adam)(0.1),
    "masked": optax.masked(optax.adam(0.1), {"a": True, "b": True, "bias": False, "o": False}),
    "two kinds": optax.partition(
        {"x": optax.adam(0.1), "y": optax.sgd(0.1, momentum=0.9)},
        {"a": "x", "b": "y", "bias": "x", "o": "y"},
    ),
    "average": optax.ema(0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_optax_become_what_optax_makes_of_small_parameters(name):
    """Every leaf has the shape of `init` of the small parameters, and the dense values."""
    optimizer = OPTIMIZERS[name]
    state = after_a_step(optimizer, params())
    found = jaxprune.shrink(STRUCTURE, MASKS, state)
    pairs = zip(*map(jax.tree_util.tree_leaves_with_path, (state, found)), strict=True)
    for (path, dense), (_, small) in pairs:
        name = path[-1].key if isinstance(path[-1], jax.tree_util.DictKey) else ""
        np.testing.assert_array_equal(small, CUT.get(name, lambda value: value)(dense))
    shapes = jax.eval_shape(optimizer.init, cut(params()))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, shapes)


def test_factored_moments_lack_axes():
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=2)
    state = after_a_step(optimizer, params())
    found = jaxprune.shrink(STRUCTURE, MASKS, state)
    factored, small = state[0], found[0]
    np.testing.assert_array_equal(small.v_row["b"], factored.v_row["b"][COLUMNS])
    np.testing.assert_array_equal(small.v_col["b"], factored.v_col["b"][ROWS])
    np.testing.assert_array_equal(small.v["bias"], factored.v["bias"][COLUMNS])


def test_a_memory_of_steps_has_an_axis_in_front():
    state = optax.lbfgs(memory_size=5).init(params())
    found = jaxprune.shrink(STRUCTURE, MASKS, state)
    shapes = jax.eval_shape(optax.lbfgs(memory_size=5).init, cut(params()))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, shapes)


def test_the_state_of_a_branch_of_the_parameters():
    variables = {"params": params(), "batch_stats": {"seen": jnp.zeros(6)}}

    def normalised(variables, x):
        p = variables["params"]
        hidden = jax.nn.relu(x @ p["a"] - variables["batch_stats"]["seen"])
        return jax.nn.relu(hidden @ p["b"] + p["bias"]) @ p["o"]

    structure = jaxprune.trace(normalised, variables, X)
    masks = {group.name: MASKS[group.name] for group in structure.groups}
    state = after_a_step(optax.adam(0.1), params())
    check_equal(jaxprune.shrink(structure, masks, state)[0].mu, cut(state[0].mu))
    train_state = {"step": 3, "variables": variables, "optimizer": state, "average": params()}
    found = jaxprune.shrink(structure, masks, train_state)
    np.testing.assert_array_equal(found["variables"]["batch_stats"]["seen"], np.zeros(3))
    check_equal(found["average"], cut(params()))
    check_equal(found["optimizer"][0].nu, cut(state[0].nu))
    assert found["step"] == 3


def test_arrays_are_not_shared():
    small = jaxprune.shrink(STRUCTURE, {**MASKS, "a": np.ones(6)}, given := params())
    jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(small)
    check_equal(given, params())


def test_what_cannot_be_told_is_refused():
    with pytest.raises(jaxprune.UserError, match="found nothing like the parameters"):
        jaxprune.shrink(STRUCTURE, MASKS, {"images": jnp.ones((3, 6))})
    with pytest.raises(
        jaxprune.UserError, match=r"'mu/a' has shape \(3, 3\), and the parameter 'a'"
    ):
        jaxprune.shrink(STRUCTURE, MASKS, {"mu": cut(params())})
    square = {"a": jnp.ones((3, 6)), "b": jnp.ones((6, 6)), "o": jnp.ones((6, 2))}
    structure = jaxprune.trace(
        lambda p, x: jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["o"], square, X
    )
    masks = {"a": MASKS["a"], "b": MASKS["a"]}
    rows = {"a": jnp.ones(3), "b": jnp.ones(6), "o": jnp.ones(6)}
    with pytest.raises(jaxprune.UserError, match=r"'b' has shape \(6,\), and more than one axis"):
        jaxprune.shrink(structure, masks, rows)
    two = {
        "left": {"w": jnp.ones((3, 6))},
        "right": {"w": jnp.ones((3, 6))},
        "o": jnp.ones((12, 2)),
    }
    structure = jaxprune.trace(
        lambda p, x: jnp.hstack([jnp.tanh(x @ p[n]["w"]) for n in ("left", "right")]) @ p["o"],
        two,
        X,
    )
    masks = {"left": MASKS["a"], "right": 1 - MASKS["a"]}
    with pytest.raises(
        jaxprune.UserError, match=r"'mu/w' may belong to any of \['left', 'right'\]"
    ):
        jaxprune.shrink(structure, masks, {"mu": {"w": jnp.ones((3, 6))}})


def test_the_state_of_an_optimizer_of_flax_nnx():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(3, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)])

        def __call__(self, x):
            return self.layers[1](nnx.relu(self.layers[0](x)))

    network = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.adam(0.1), wrt=nnx.Param)
    apply, variables = jaxprune.from_nnx(network)
    structure = jaxprune.trace(apply, variables, X)
    small = jaxprune.compact(apply, structure, variables, {"layers/0": MASKS["a"]})
    narrow = jaxprune.nnx_module(network, small, X)
    state = jaxprune.shrink(structure, small.masks, nnx.state(optimizer))
    trained = nnx.Optimizer(narrow, optax.adam(0.1), wrt=nnx.Param)
    assert jax.tree.map(jnp.shape, nnx.state(trained)) == jax.tree.map(jnp.shape, state)
    nnx.update(trained, state)
    trained.update(narrow, nnx.grad(lambda network: network(X).sum())(narrow))
    assert narrow.layers[0].kernel.shape == (3, 3)
