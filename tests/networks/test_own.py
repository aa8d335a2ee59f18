"""Networks of the user's own: what they compute, what they are known by, what is refused."""

import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.errors import UserError
from jaxprune.networks import own

SHAPE, CLASSES = (4,), 3

LINEN = """
    from flax import linen as nn

    class Net(nn.Module):
        rate: float = 0.5

        @nn.compact
        def __call__(self, x, train=False):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
            return nn.Dense(3)(nn.Dropout(self.rate, deterministic=not train)(nn.relu(x)))

    def network():
        return Net()
"""

NNX = """
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

    def seeded(rngs):
        return Net(rngs)

    def fixed():
        return Net(nnx.Rngs(7))
"""

FUNCTIONS = """
    import jax, jax.numpy as jnp
    from types import SimpleNamespace

    def init(key):
        return {"params": {"a": jax.random.normal(key, (4, 8)), "b": jnp.ones((8, 3))}}

    def apply(variables, x):
        return jnp.tanh(x @ variables["params"]["a"]) @ variables["params"]["b"]

    def network(num_classes, image_shape):
        assert (num_classes, image_shape) == (3, (4,))
        return SimpleNamespace(init=init, apply=apply, apply_train=lambda v, x: (apply(v, x), {}))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder, in place of what it was; returns its name."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}".replace("-", "_")

    def write(text):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        for cached in tmp_path.glob("__pycache__/*"):
            cached.unlink()
        return name

    yield write
    sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "function"),
    [(LINEN, "network"), (NNX, "seeded"), (NNX, "fixed"), (FUNCTIONS, "network")],
    ids=["linen", "nnx with rngs", "nnx with weights", "functions"],
)
def test_a_network_can_be_trained_and_pruned(text, function, module):
    network = own.build(f"{module(text)}:{function}", SHAPE, CLASSES)
    variables = network.init(jax.random.key(1))
    x = jax.random.normal(jax.random.key(0), (16, *SHAPE))
    structure = jaxprune.trace(network.apply, variables, x)
    assert [group.size for group in structure.groups] == [8]
    masks = structure.unflatten(np.array([1, 0, 1, 1, 0, 1, 1, 1], np.float32))
    for step in (network.apply, network.apply_train):  # the same dropout in both
        masked = jaxprune.masked(step, structure)(variables, masks, x)
        small = jaxprune.compact(step, structure, variables, masks)
        logits = [leaf for leaf in jax.tree.leaves(masked) if leaf.shape == (16, 3)]
        expected = [leaf for leaf in jax.tree.leaves(small(small.params, x)) if leaf.ndim == 2]
        np.testing.assert_allclose(*logits, *expected, rtol=1e-4, atol=1e-5)
    _, state = network.apply_train(variables, x)
    assert "params" not in state
    same = jax.tree.map(jnp.shape, {**variables, **state}) == jax.tree.map(jnp.shape, variables)
    assert same


@pytest.mark.parametrize(("text", "function"), [(LINEN, "network"), (NNX, "seeded")])
def test_training_drops_other_units_for_another_batch(text, function, module):
    network = own.build(f"{module(text)}:{function}", SHAPE, CLASSES)
    variables = network.init(jax.random.key(1))
    x = jax.random.normal(jax.random.key(0), (64, *SHAPE))
    train = lambda x: network.apply_train(variables, x)[0]  # noqa: E731
    np.testing.assert_array_equal(train(x), train(x))
    # BatchNorm sees the same batch in another order, so only dropout can tell the two apart.
    assert np.abs(train(x)[::-1] - train(x[::-1])).max() > 0.1
    np.testing.assert_allclose(
        network.apply(variables, x)[::-1], network.apply(variables, x[::-1]), atol=1e-5
    )


def test_seeds_give_other_weights_except_where_the_function_brings_them(module):
    name = module(NNX)
    for function, differ in (("seeded", True), ("fixed", False)):
        network = own.build(f"{name}:{function}", SHAPE, CLASSES)
        one, other = (network.init(jax.random.key(seed))["params"] for seed in (0, 1))
        kernels = one["first"]["kernel"], other["first"]["kernel"]
        assert bool(jnp.any(kernels[0] != kernels[1])) == differ


def test_the_content_follows_what_is_computed_and_nothing_else(module):
    def content(text):
        return own.build(f"{module(text)}:network", SHAPE, CLASSES).content

    first = content(LINEN)
    assert content(LINEN) == first
    assert content(LINEN + "\n    # a comment\n    def other():\n        return 1\n") == first
    others = [
        LINEN.replace("nn.relu", "nn.gelu"),  # in inference and training
        LINEN.replace("0.5", "0.25"),  # in training alone
        LINEN.replace("nn.Dense(8)", "nn.Dense(8, kernel_init=nn.initializers.he_normal())"),
    ]
    assert len({first, *map(content, others)}) == 4


def test_constants_inside_the_code_count(module):
    text = FUNCTIONS.replace("jnp.tanh(x", "jnp.tanh(jnp.asarray(SCALE) * x")
    contents = set()
    for last in (1, 2):
        scale = f"    SCALE = [1.0, 1.0, 1.0, {last}.0]\n"
        contents.add(own.build(f"{module(scale + text)}:network", SHAPE, CLASSES).content)
    assert len(contents) == 2


def returns(what):
    return f"""
    from flax import linen as nn
    from flax import nnx
    import jax.numpy as jnp
    from types import SimpleNamespace as S
    class Net(nn.Module):
        outputs: int = 3
        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.outputs)(x)
    def functions(init=lambda key: {{"params": jnp.ones((4, 3))}},
                  apply=lambda v, x: x @ v["params"], train=None):
        return S(init=init, apply=apply,
                 apply_train=train or (lambda v, x: (apply(v, x), {{}})))
    def network():
        return {what}
    """


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("None", "returned a NoneType; it must return a Flax Linen or NNX module"),
        ("Net", "returned the class Net;"),
        ("(Net(), 3)", "returned a tuple;"),
        ("1 / 0", "raised ZeroDivisionError: division by zero .*line 16"),
        ("Net(2)", "has 2 outputs, and the labels of the data reach 2: give it 3 outputs"),
        ("functions(init=lambda key: jnp.ones(3))", "init must return a dict whose entry 'params'"),
        ("functions(init=lambda key: {'params': {}})", "variables of type dict"),
        ("functions(init=lambda key: 1 / 0)", "cannot be initialised .ZeroDivisionError"),
        ("functions(apply=lambda v, x: x[:, None] @ v['params'])", r"float32 \[2, 1, 3\]"),
        ("functions(apply=lambda v, x: x.sum(0) @ v['params'])", r"float32 \[3\]"),
        ("functions(apply=lambda v, x: (x, x))", r"returns a tuple for a batch float32 \[2, 4\]"),
        ("functions(apply=lambda v, x: x.reshape(2, 9))", r"cannot take a batch float32 \[2, 4\]"),
        ("functions(train=lambda v, x: x @ v['params'])", "apply_train must return"),
        ("functions(train=lambda v, x: (x @ v['params'], v))", "the entry 'params' of the state"),
        ("functions(train=lambda v, x: (x @ v['params'], {'new': x}))", "the entry 'new'"),
        ("nn.BatchNorm()", "cannot be initialised"),
    ],
)
def test_what_is_no_network_for_the_data_is_refused_in_one_line(what, says, module):
    name = module(returns(what))
    with pytest.raises(UserError, match=rf"\Athe model '{name}:network'.*{says}") as caught:
        own.build(f"{name}:network", SHAPE, CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "function", "says"),
    [
        ("x = 1", "network", "does not exist: .*has no attribute 'network'"),
        ("network = 3", "network", "is a int, no function"),
        ("import missing_module", "network", "No module named 'missing_module' .*line 1"),
        ("1 / 0", "network", "cannot be imported: ZeroDivisionError: .*line 1"),
        ("def network(: pass", "network", "cannot be imported: SyntaxError"),
        ("import sys; sys.exit('no')", "network", "cannot be imported: SystemExit: no"),
        ("def network(x): pass", "network", "needs an argument 'x'; it may take image_shape, num_"),
    ],
)
def test_functions_that_cannot_be_had_are_refused_in_one_line(text, function, says, module):
    name = module(text)
    with pytest.raises(UserError, match=rf"the model '{name}:{function}' .*{says}") as caught:
        own.build(f"{name}:{function}", SHAPE, CLASSES)
    assert "\n" not in str(caught.value)
