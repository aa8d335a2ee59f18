import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune
from jaxprune.networks import adapters

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


def halves(structure):
    """Masks that keep every other channel."""
    return {group.name: np.arange(group.size) % 2 == 0 for group in structure.groups}


def check(apply, variables, x, expected, widths):
    """The adapted network computes what the library does, and half of each width can go."""
    np.testing.assert_allclose(apply(variables, x), expected, rtol=1e-5, atol=1e-5)
    structure = jaxprune.trace(apply, variables, x)
    assert {group.name: group.size for group in structure.groups} == widths
    masks = halves(structure)
    small = jaxprune.compact(apply, structure, variables, masks)
    assert small.widths == {name: (width + 1) // 2 for name, width in widths.items()}
    masked = jaxprune.masked(apply, structure)(variables, masks, x)
    assert float(jnp.abs(masked - expected).max()) > 1e-3
    np.testing.assert_allclose(small(small.params, x), masked, rtol=1e-4, atol=1e-5)
    return structure, small


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = self.features(x, train)
        return nn.Dense(5, name="head")(x)

    @nn.compact
    def features(self, x, train):
        x = nn.Conv(10, (3, 3), name="stem")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.relu(x).mean((1, 2))
        return nn.Dropout(0.5, deterministic=not train)(x)


def test_linen():
    module = LinenCNN()
    variables = module.init(jax.random.key(0), IMAGES, train=False)
    apply = jaxprune.from_linen(module, train=False)
    expected = module.apply(variables, IMAGES, train=False)
    _, small = check(apply, variables, IMAGES, expected, {"stem": 10})
    assert small.params["batch_stats"]["norm"]["mean"].shape == (5,)


def test_linen_with_another_method():
    module = LinenCNN()
    variables = module.init(jax.random.key(0), IMAGES, train=False)
    for method in ("features", LinenCNN.features):
        apply = jaxprune.from_linen(module, method=method, train=False)
        assert apply(variables, IMAGES).shape == (4, 10)


def test_linen_with_random_keys():
    keys = {"dropout": jax.random.key(1)}

    class Sampled(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))

    x = jnp.ones((2, 4))
    variables = Sampled().init({"params": jax.random.key(0), **keys}, x)
    apply = jaxprune.from_linen(Sampled(), rngs=keys)
    expected = Sampled().apply(variables, x, rngs=keys)
    np.testing.assert_array_equal(apply(variables, x), expected)


def test_linen_left_in_training_mode_is_refused():
    module = LinenCNN()
    variables = module.init(jax.random.key(0), IMAGES, train=False)
    apply = jaxprune.from_linen(module, rngs={"dropout": jax.random.key(1)}, train=True)
    with pytest.raises(Exception, match="batch_stats"):
        apply(variables, IMAGES)


class NNXBlock(nnx.Module):
    def __init__(self, width, *, rngs):
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(nnx.relu(self.norm(self.conv(x))))


class NNXCNN(nnx.Module):
    def __init__(self, *, rngs):
        self.stem = nnx.Conv(3, 9, (3, 3), rngs=rngs)
        self.blocks = nnx.List([NNXBlock(9, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(9, 4, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def test_nnx():
    model = NNXCNN(rngs=nnx.Rngs(0))
    model.train()
    apply, variables = jaxprune.from_nnx(model)
    assert not model.blocks[0].norm.use_running_average  # the caller's model is as it was
    expected = nnx.view(model, deterministic=True, use_running_average=True)(IMAGES)
    structure, small = check(apply, variables, IMAGES, expected, {"stem": 9})
    assert structure.groups[0].layers == ("stem", "blocks/0/conv", "blocks/1/conv")
    assert small.params["params"]["blocks"][1]["conv"]["kernel"].shape == (3, 3, 5, 5)
    assert small.params["state"]["blocks"][1]["norm"]["var"].shape == (5,)


def test_equinox():
    eqx = pytest.importorskip("equinox")

    class CNN(eqx.Module):
        stem: eqx.nn.Conv2d
        dropout: eqx.nn.Dropout
        head: eqx.nn.MLP

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.stem = eqx.nn.Conv2d(3, 10, 3, key=first)
            self.dropout = eqx.nn.Dropout(0.5)
            self.head = eqx.nn.MLP(10, 4, width_size=7, depth=1, key=second)

        def __call__(self, x, *, key=None):
            x = jax.nn.relu(self.stem(x)).mean((1, 2))
            return self.head(self.dropout(x, key=key))

    model = CNN(jax.random.key(0))
    apply, params = jaxprune.from_equinox(model)
    x = IMAGES.transpose(0, 3, 1, 2)
    expected = jnp.stack([eqx.nn.inference_mode(model)(image) for image in x])
    widths = {"stem": 10, "head/layers/0": 7}
    _, small = check(apply, params, x, expected, widths)
    assert small.params.stem.weight.shape == (5, 3, 3, 3)
    assert small.params.head.layers[1].weight.shape == (4, 4)


def test_equinox_with_state():
    eqx = pytest.importorskip("equinox")

    class CNN(eqx.Module):
        stem: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        head: eqx.nn.Linear

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.stem = eqx.nn.Conv2d(3, 10, 3, key=first)
            self.norm = eqx.nn.BatchNorm(10, axis_name="batch", mode="batch")
            self.head = eqx.nn.Linear(10, 4, key=second)

        def __call__(self, x, state):
            x, state = self.norm(self.stem(x), state)
            return self.head(jax.nn.relu(x).mean((1, 2))), state

    model, state = eqx.nn.make_with_state(CNN)(jax.random.key(0))
    apply, variables = jaxprune.from_equinox(model, state)
    x = IMAGES.transpose(0, 3, 1, 2)
    expected = jnp.stack([eqx.nn.inference_mode(model)(image, state)[0] for image in x])
    structure, small = check(apply, variables, x, expected, {"stem": 10})
    assert [leaf.shape for leaf in jax.tree.leaves(small.params["state"])] == [(), (5,), (5,)]
    assert int(structure.param_counts.total(np.array([10]))) == 10 * 27 + 3 * 10 + 10 * 4 + 4


def test_haiku():
    hk = pytest.importorskip("haiku")
    network = hk.transform(lambda x: hk.nets.MLP([12, 4])(hk.Flatten()(x)))
    params = network.init(jax.random.key(0), IMAGES)
    expected = network.apply(params, None, IMAGES)
    for transformed in (network, hk.without_apply_rng(network)):
        apply, variables = jaxprune.from_haiku(transformed, params)
        assert variables is params
        check(apply, variables, IMAGES, expected, {"mlp/~/linear_0": 12})


@pytest.mark.slow
def test_haiku_with_state():
    hk = pytest.importorskip("haiku")

    def forward(x, is_training):
        x = hk.Conv2D(10, 3, name="stem")(x)
        x = hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training)
        x = hk.dropout(hk.next_rng_key(), 0.5 if is_training else 0.0, x)
        return hk.Linear(3, name="head")(jax.nn.relu(x).mean((1, 2)))

    network = hk.transform_with_state(forward)
    params, state = network.init(jax.random.key(0), IMAGES, is_training=True)
    key = jax.random.key(1)
    expected, _ = network.apply(params, state, key, IMAGES, is_training=False)
    apply, variables = jaxprune.from_haiku(network, params, state, rng=key, is_training=False)
    _, small = check(apply, variables, IMAGES, expected, {"stem": 10})
    assert small.params["state"]["norm/~/mean_ema"]["average"].shape == (1, 1, 1, 5)
    with pytest.raises(ValueError, match="only there"):
        jaxprune.from_haiku(network, params)


@pytest.mark.parametrize(
    ("library", "call", "package"),
    [
        ("equinox", "from_equinox(None)", "equinox"),
        ("haiku", "from_haiku(None, {})", "dm-haiku"),
    ],
)
def test_a_missing_library_is_named(library, call, package):
    code = f"""
import sys
sys.modules[{library!r}] = None
import jaxprune
from jaxprune.networks import adapters
try:
    jaxprune.{call}
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"this adapter needs {package}: pip install {package}"


def test_adapters_load_no_library():
    libraries = "{'flax', 'equinox', 'haiku'}"
    code = f"import sys, jaxprune.networks.adapters; print({libraries} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


class NNXTagger(nnx.Module):
    """A recurrent cell, whose call draws keys for its first state, and layers in containers."""

    def __init__(self, cell, *, rngs):
        self.rnn = nnx.RNN(cell(5, 9, rngs=rngs), rngs=rngs)
        self.body = nnx.Dict(norm=nnx.LayerNorm(9, rngs=rngs))
        self.head = nnx.Sequential(
            nnx.Linear(9, 7, rngs=rngs),
            nnx.relu,
            nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(7, 3, rngs=rngs),
        )

    def __call__(self, x):
        return self.head(self.body.norm(self.rnn(x)))


SEQUENCES = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 5)), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [nnx.GRUCell, nnx.OptimizedLSTMCell])
def test_nnx_recurrent_network_is_pruned_saved_and_made_a_module(cell, tmp_path):
    model = NNXTagger(cell, rngs=nnx.Rngs(0))
    apply, variables = jaxprune.from_nnx(model)
    model.eval()
    widths = {"rnn/cell/dense_i": 9, "head/layers/0": 7}
    _, small = check(apply, variables, SEQUENCES, model(SEQUENCES), widths)
    narrow = jaxprune.nnx_module(model, small, SEQUENCES)
    assert narrow.rnn.cell.hidden_features == 5
    jaxprune.save(tmp_path / "tagger", small, SEQUENCES)
    loaded = jaxprune.load(tmp_path / "tagger")
    expected = small(small.params, SEQUENCES)
    np.testing.assert_allclose(loaded(loaded.params, SEQUENCES), expected, atol=1e-6)
    filled = adapters.nnx_with(narrow, loaded.params)  # the numbered layers came back by name
    np.testing.assert_allclose(filled(SEQUENCES), expected, atol=1e-6)


class NNXStateful(nnx.Module):
    """Counts its calls, keeps a running mean, and draws from a key of its own and from `rngs`."""

    def __init__(self, *, rngs):
        self.hidden = nnx.Linear(3, 8, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)
        self.rngs = rngs
        self.calls = nnx.Variable(jnp.int32(0))
        self.key = nnx.Variable(jax.random.key(4))
        self.mean = nnx.BatchStat(jnp.zeros(8))

    def __call__(self, x):
        self.calls[...] += 1
        h = nnx.relu(self.hidden(x) + jax.random.normal(self.key[...], (8,)))
        h += jax.random.normal(self.rngs.noise(), h.shape)
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * h.mean(0)
        return self.out(h - self.mean[...])


def test_nnx_state_that_a_call_changes_is_the_same_for_every_call():
    model = NNXStateful(rngs=nnx.Rngs(0, noise=1))
    apply, variables = jaxprune.from_nnx(model)
    x = IMAGES[:, 0, 0]
    first = apply(variables, x)
    np.testing.assert_array_equal(apply(variables, x), first)
    _, small = check(apply, variables, x, first, {"hidden": 8})
    assert small.params["state"]["mean"].shape == (4,)
    assert small.params["state"]["key"].dtype == jax.random.key(0).dtype
    assert int(model.calls[...]) == 0
    np.testing.assert_allclose(first, model(x), rtol=1e-6)


class NNXDecoder(nnx.Module):
    """Attention that writes keys and values into a cache."""

    def __init__(self, *, rngs):
        self.attention = nnx.MultiHeadAttention(4, 5, 8, decode=True, rngs=rngs)
        self.attention.init_cache((2, 6, 5))

    def __call__(self, x):
        return self.attention(x)


def test_nnx_caches_are_as_small_as_the_heads():
    model = NNXDecoder(rngs=nnx.Rngs(0))
    apply, variables = jaxprune.from_nnx(model)
    structure = jaxprune.trace(apply, variables, SEQUENCES[:, :1])
    heads = next(group for group in structure.groups if group.size == 4)
    masks = structure.full_masks() | {heads.name: np.array([1, 0, 0, 1])}
    small = jaxprune.compact(apply, structure, variables, masks)
    assert small.params["state"]["attention"]["cached_key"].shape == (2, 6, 2, 2)
    expected = jaxprune.masked(apply, structure)(variables, masks, SEQUENCES[:, :1])
    np.testing.assert_allclose(small(small.params, SEQUENCES[:, :1]), expected, atol=1e-6)
