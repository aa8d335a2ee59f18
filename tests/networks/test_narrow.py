"""Flax modules at a compact network's widths: they compute the same, and train in Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import jaxprune
from jaxprune import linen_module, nnx_module
from jaxprune.costs.limits import NO_LIMITS
from jaxprune.errors import UserError

LABELS = jnp.array([0, 1, 2, 3])


class Block(nn.Module):
    """A residual block with a depthwise convolution, made in `setup`."""

    width: int

    def setup(self):
        self.first = nn.Conv(2 * self.width, (3, 3), use_bias=False)
        self.norm = nn.BatchNorm(momentum=0.9)
        self.depthwise = nn.Conv(2 * self.width, (3, 3), feature_group_count=2 * self.width)
        self.second = nn.Conv(self.width, (1, 1))

    def __call__(self, x, train):
        y = nn.relu(self.norm(self.first(x), use_running_average=not train))
        return x + self.second(nn.relu(self.depthwise(y)))


class Convolutional(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = Block(self.width)(x, train)
        x = nn.ConvTranspose(self.width, (2, 2), strides=(2, 2))(x)
        x = nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(4)(x)


class Attention(nn.Module):
    """Token indices to logits."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(10, 16)(tokens)
        y = nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=16)(nn.LayerNorm()(x))
        return nn.Dense(4)(nn.gelu(nn.Dense(24)(x + y)).mean(1))


SCALE_KEPT = jaxprune.Limits(groups={"*query#2": jaxprune.Kept(least=1.0)})


def pruned(module, x, limits=NO_LIMITS, **kwargs):
    """The module's variables away from their zeros and ones, and a compact network of half."""
    variables = jax.jit(module.init)(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf + 0.05, variables)
    apply = jaxprune.from_linen(module, **kwargs)
    return jaxprune.prune(apply, variables, x, scope="uniform", limits=limits)


def assert_same(outputs, small, x):
    np.testing.assert_allclose(outputs, jax.jit(small)(small.params, x), rtol=1e-5, atol=1e-5)


def images(seed=1):
    return jax.random.normal(jax.random.key(seed), (4, 6, 6, 2))


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


@pytest.fixture(scope="module")
def convolutional():
    small = pruned(Convolutional(), images(), train=False)
    return small, linen_module(Convolutional(), small, images(), train=False)


def test_a_linen_module_computes_the_compact_network(convolutional):
    small, narrow = convolutional
    assert isinstance(narrow, Convolutional)
    assert_same(narrow.apply(small.params, images(2)), small, images(2))


def test_init_makes_variables_of_the_smaller_shapes(convolutional):
    small, narrow = convolutional
    made = jax.eval_shape(narrow.init, jax.random.key(3), images())
    assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, small.params)
    whole = jax.eval_shape(Convolutional().init, jax.random.key(3), images())
    assert whole["params"]["Conv_0"]["kernel"].shape == (3, 3, 2, 8)


def test_fine_tuning_in_linen(convolutional):
    """One step with BatchNorm's statistics, dropout and momentum, as for any module."""
    small, narrow = convolutional
    optimizer = optax.sgd(0.05, momentum=0.9)
    params, stats = small.params["params"], small.params["batch_stats"]

    @jax.jit
    def step(params, stats, moments):
        def loss(params):
            logits, updated = narrow.apply(
                {"params": params, "batch_stats": stats},
                images(),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(4)},
            )
            return cross_entropy(logits), updated["batch_stats"]

        (value, stats_), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(params, updates), stats_, moments, value

    trained, new_stats, moments, before = step(params, stats, optimizer.init(params))
    *_, after = step(trained, new_stats, moments)
    assert after < before
    norm, old = new_stats["Block_0"]["norm"], stats["Block_0"]["norm"]
    assert norm["mean"].shape == old["mean"].shape
    assert not np.allclose(norm["mean"], old["mean"])


@pytest.mark.slow
def test_embeddings_and_attention():
    tokens = jnp.arange(24).reshape(4, 6) % 10
    small = pruned(Attention(), tokens, SCALE_KEPT)
    narrow = linen_module(Attention(), small, tokens)
    assert_same(narrow.apply(small.params, tokens[:2]), small, tokens[:2])
    made = jax.eval_shape(narrow.init, jax.random.key(0), tokens)
    assert jax.tree.map(np.shape, made) == jax.tree.map(np.shape, small.params)


@pytest.mark.slow
def test_attention_whose_scale_would_change_is_named():
    tokens = jnp.arange(24).reshape(4, 6) % 10
    message = "something else .* see '{}' .attention, which divides by the root of its head dim"
    with pytest.raises(UserError, match=message.format("MultiHeadDotProductAttention_0")):
        linen_module(Attention(), pruned(Attention(), tokens), tokens)
    model = NNXAttention(nnx.Rngs(0))
    with pytest.raises(UserError, match=message.format("attention")):
        nnx_module(model, pruned_nnx(model, tokens), tokens)


class HardCoded(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(8, name="hidden")(x)).reshape(-1, 2, 4).reshape(-1, 8))


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return HardCoded(name="inner")(x)


class Scaled(nn.Module):
    """Divides by the width that it was made with."""

    width: int = 8

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        return nn.Dense(4)(scale * nn.Dense(self.width)(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Outer(), r"layer 'inner' cannot run at the new widths \(TypeError"),
        (Scaled(), r"cannot run at the new widths \(ScopeParamShapeError: .*scale"),
    ],
)
def test_layers_of_fixed_width_are_named(module, message):
    x = jnp.ones((4, 3))
    with pytest.raises(UserError, match=message):
        linen_module(module, pruned(module, x), x)


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.GroupNorm(num_groups=2)(nn.Dense(8)(x)))


def test_groups_of_a_normalisation_stay_and_their_channels_go():
    x = jax.random.normal(jax.random.key(0), (3, 5))
    apply = jaxprune.from_linen(Grouped())
    variables = jax.tree.map(lambda leaf: leaf + 0.1, Grouped().init(jax.random.key(1), x))
    structure = jaxprune.trace(apply, variables, x)
    groups, within = structure.groups
    assert (groups.size, within.size) == (2, 4)

    masks = structure.full_masks() | {within.name: np.array([1, 0, 1, 1])}
    small = jaxprune.compact(apply, structure, variables, masks)
    assert_same(linen_module(Grouped(), small, x).apply(small.params, x), small, x)

    masks = structure.full_masks() | {groups.name: np.array([1, 0])}
    small = jaxprune.compact(apply, structure, variables, masks)
    with pytest.raises(UserError, match=r"see 'GroupNorm_0' \(GroupNorm\)"):
        linen_module(Grouped(), small, x)


def test_another_mode_is_refused(convolutional):
    with pytest.raises(UserError, match=r"batch_stats.* is immutable.*give the mode"):
        linen_module(Convolutional(), convolutional[0], images(), train=True)


def test_params_must_be_variables():
    apply = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]  # noqa: E731
    params = [jnp.ones((3, 4)), jnp.ones((4, 2))]
    small = jaxprune.prune(lambda p, x: apply({"a": p[0], "b": p[1]}, x), params, jnp.ones((1, 3)))
    with pytest.raises(UserError, match="'params', not of a list"):
        linen_module(Convolutional(), small, jnp.ones((1, 3)))


class NNXConvolutional(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.first = nnx.Conv(8, 12, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(12, 12, (3, 3), feature_group_count=12, rngs=rngs)
        self.second = nnx.Conv(12, 8, (1, 1), rngs=rngs)
        self.out = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        x = x + self.second(nnx.relu(self.depthwise(nnx.relu(self.first(x)))))
        return self.out(x.mean((1, 2)))


class NNXAttention(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(10, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
        self.out = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        return self.out((x + self.attention(self.norm(x))).mean(1))


def pruned_nnx(model, x, limits=NO_LIMITS):
    apply, variables = jaxprune.from_nnx(model)
    return jaxprune.prune(apply, variables, x, scope="uniform", limits=limits)


@pytest.mark.slow
def test_an_nnx_model_computes_and_trains():
    model = NNXConvolutional(nnx.Rngs(0))
    small = pruned_nnx(model, images())
    narrow = nnx_module(model, small, images())
    widths = (narrow.stem.out_features, narrow.norm.num_features, narrow.out.in_features)
    assert len(set(widths)) == 1
    assert widths[0] < 8 == model.stem.out_features
    assert narrow.depthwise.feature_group_count == narrow.first.out_features < 12

    narrow.eval()
    assert_same(narrow(images(2)), small, images(2))

    narrow.train()
    optimizer = nnx.Optimizer(narrow, optax.sgd(0.05), wrt=nnx.Param)
    mean = np.array(narrow.norm.mean[...])

    @nnx.jit
    def step(model, optimizer):
        value, gradients = nnx.value_and_grad(lambda model: cross_entropy(model(images())))(model)
        optimizer.update(model, gradients)
        return value

    losses = [float(step(narrow, optimizer)) for _ in range(2)]
    assert losses[-1] < losses[0]
    assert not np.allclose(narrow.norm.mean[...], mean)


def test_nnx_attention():
    model = NNXAttention(nnx.Rngs(0))
    tokens = jnp.arange(24).reshape(4, 6) % 10
    whole = jaxprune.Kept(least=1.0)
    limits = jaxprune.Limits(groups={"*query#2": whole, "*value": whole})
    small = pruned_nnx(model, tokens, limits)
    narrow = nnx_module(model, small, tokens)
    assert_same(narrow(tokens[:2]), small, tokens[:2])
    kernel = narrow.attention.query.kernel
    assert (narrow.attention.num_heads, narrow.attention.head_dim) == kernel.shape[-2:]
    assert kernel.size < model.attention.query.kernel.size


class NNXHardCoded(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 8, rngs=rngs)
        self.out = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)).reshape(-1, 2, 4).reshape(-1, 8))


class NNXOuter(nnx.Module):
    def __init__(self, rngs):
        self.inner = NNXHardCoded(rngs)

    def __call__(self, x):
        return self.inner(x)


def test_nnx_layers_of_fixed_width_are_named():
    model, x = NNXOuter(nnx.Rngs(0)), jnp.ones((4, 3))
    with pytest.raises(UserError, match="layer 'inner' cannot run at the new widths"):
        nnx_module(model, pruned_nnx(model, x), x)


def test_params_must_be_those_of_the_nnx_model():
    small = pruned_nnx(NNXAttention(nnx.Rngs(0)), jnp.ones((2, 3), int))
    with pytest.raises(UserError, match="not those of this model"):
        nnx_module(NNXOuter(nnx.Rngs(0)), small, jnp.ones((4, 3)))
