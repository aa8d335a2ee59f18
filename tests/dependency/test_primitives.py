"""Every primitive that has a rule is exercised by a network, elementwise ones by those below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from dependency.checks import assert_close, quick_jit, random_masks
from dependency.test_rules import CASES, X, weights
from jaxprune import compact, masked, trace
from jaxprune.dependency.calls import CALLS
from jaxprune.dependency.rules import RULES

PARAMS = {"a": weights(3, 6), "c": weights(3, 6), "b": weights(6, 2)}


def as_integers(h):
    return (8 * h).astype(jnp.int32)


UNARY = (
    "abs acos asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf erf_inv "
    "erfc exp exp2 expm1 floor is_finite lgamma log log1p logistic neg reciprocal round rsqrt sign "
    "sin sinh sqrt square stop_gradient tan tanh"
)
BINARY = "add atan2 div eq ge gt igamma igammac le lt max min mul ne nextafter pow rem sub"

OF_ONE = {
    **{name: getattr(lax, name) for name in UNARY.split()},
    "acosh": lambda h: lax.acosh(1 + h),
    "clz": lambda h: lax.clz(as_integers(h)),
    "population_count": lambda h: lax.population_count(as_integers(h)),
    "not": lambda h: ~as_integers(h),
    "integer_pow": lambda h: h**3,
    "convert_element_type": lambda h: h.astype(jnp.bfloat16).astype(jnp.float32),
    "bitcast_convert_type": lambda h: lax.bitcast_convert_type(h, jnp.int32),
    "reduce_precision": lambda h: lax.reduce_precision(h, 5, 10),
    "copy": lambda h: jnp.array(h, copy=True),
    "complex": lambda h: jnp.real(lax.complex(h, h) * 1j) + jnp.imag(jnp.conj(lax.complex(h, h))),
    "real": lambda h: jnp.real(jnp.exp(1j * h)),
    "clamp": lambda h: lax.clamp(0.2, h, 0.7),
    "optimization_barrier": lambda h: lax.optimization_barrier(h),
    "device_put": lambda h: jax.device_put(h),
    "name": lambda h: checkpoint_name(h, "hidden"),
    "iota": lambda h: h * lax.iota(jnp.float32, 6),
    "random_bits": lambda h: h * jax.random.uniform(jax.random.key(0), h.shape),
    "rev": lambda h: h + h[:, ::-1],
    "transpose": lambda h: h.T.T,
    "reduce_and": lambda h: h * (h > 0.2).all(-1, keepdims=True),
    "reduce_or": lambda h: h * (h > 0.8).any(-1, keepdims=True),
    "reduce_xor": lambda h: h * lax.reduce_xor(as_integers(h), (1,))[:, None],
    "argmin": lambda h: h * h.argmin(-1, keepdims=True),
    "cumprod": lambda h: jnp.cumprod(h, -1),
    "cummin": lambda h: lax.cummin(h, axis=1),
    "cumlogsumexp": lambda h: lax.cumlogsumexp(h, axis=1),
    "top_k": lambda h: h * lax.top_k(h, 1)[0],
    "split": lambda h: jnp.concatenate(jnp.split(h, 2, axis=1)[::-1], axis=1),
    "scatter_mul": lambda h: h.at[:, np.array([1, 4])].mul(2.0),
    "scatter_min": lambda h: h.at[:, np.array([1, 4])].min(0.5),
    "scatter_max": lambda h: h.at[:, np.array([1, 4])].max(0.5),
    "scatter_sub": lambda h: h.at[:, np.array([1, 4])].subtract(0.5),
    **{
        name: lambda h, function=function: (
            h - jax.vmap(lambda row: function(row, "batch"), axis_name="batch", out_axes=None)(h)
        )
        for name, function in (("psum", lax.pmean), ("pmax", lax.pmax), ("pmin", lax.pmin))
    },
    "while": lambda h: lax.while_loop(lambda c: c.sum() < 50, lambda c: 2 * c, h),
    "reduce_window_sum": lambda h: lax.reduce_window(h, 0.0, lax.add, (2, 1), (1, 1), "SAME"),
    "reduce_window_min": lambda h: lax.reduce_window(h, jnp.inf, lax.min, (2, 1), (1, 1), "SAME"),
    "reduce_window_max": lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), "SAME"),
    "reduce_prod": lambda h: h * h.prod(-1, keepdims=True),
    "reduce_window": lambda h: lax.reduce_window(
        h, 1.0, lambda a, b: a * b, (2, 1), (1, 1), "SAME"
    ),
    "tangent_of_max_pool": lambda h: jax.jvp(
        lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), "SAME"), (h,), (h**2,)
    )[1],
    "sharding_constraint": lambda h: lax.with_sharding_constraint(
        h, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ),
    "gradient_of_max_pool": lambda h: jax.grad(
        lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (2, 1), "VALID").sum()
    )(h),
    "gradient_of_relu": lambda h: jax.grad(lambda h: jax.nn.relu(h - 0.5).sum())(h),
}
OF_TWO = {
    **{name: getattr(lax, name) for name in BINARY.split()},
    "polygamma": lambda h, g: lax.polygamma(jnp.round(2 * h), g),
    "zeta": lambda h, g: lax.zeta(1 + h, g),
    "select_n": lambda h, g: jnp.where(h > g, h, g),
    "and": lambda h, g: as_integers(h) & as_integers(g),
    "or": lambda h, g: as_integers(h) | as_integers(g),
    "xor": lambda h, g: as_integers(h) ^ as_integers(g),
    "shift_left": lambda h, g: lax.shift_left(as_integers(h), as_integers(g)),
    "shift_right_arithmetic": lambda h, g: lax.shift_right_arithmetic(
        as_integers(h), as_integers(g)
    ),
    "shift_right_logical": lambda h, g: lax.shift_right_logical(as_integers(h), as_integers(g)),
    "add_any": lambda h, g: jax.grad(lambda h: (h * g + jnp.sin(h)).sum())(h),
}


def of_two(function):
    """A network that applies a function to two layers' results, all in (0.1, 0.9)."""

    def apply(params, x):
        h, g = (0.1 + 0.8 * jax.nn.sigmoid(x @ params[name]) for name in "ac")
        return (function(h, g).astype(jnp.float32) + 0 * g) @ params["b"]

    return apply


NETWORKS = {
    **{
        name: of_two(lambda h, g, function=function: function(h))
        for name, function in OF_ONE.items()
    },
    **{name: of_two(function) for name, function in OF_TWO.items()},
}


def primitives(jaxpr, found=None):
    """The names of all primitives in a jaxpr and in the functions that it calls."""
    found = set() if found is None else found
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "jaxpr"):
                    primitives(inner.jaxpr, found)
                elif hasattr(inner, "eqns"):
                    primitives(inner, found)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_equals_compact(name):
    apply = NETWORKS[name]
    structure = trace(apply, PARAMS, X)
    masks = random_masks(structure, 0)
    everything = structure.full_masks()
    np.testing.assert_array_equal(masked(apply, structure)(PARAMS, everything, X), apply(PARAMS, X))
    if name in ("argmin", "cumprod", "cummin", "cumlogsumexp", "top_k"):
        assert not structure.groups
        return
    small = compact(apply, structure, PARAMS, masks)
    large = quick_jit(masked(apply, structure))(PARAMS, masks, X)
    assert np.isfinite(large).all()
    assert_close(quick_jit(small)(small.params, X), large)


OTHER_NAMES = {"checkpoint": "remat2", "jit": "pjit", "copy": "copy_p"}
OTHER_NAMES |= {
    f"scatter-{name}": f"scatter_{name}" for name in ("add", "sub", "mul", "min", "max")
}
"""Names that differ between versions of JAX: one of the two must be exercised."""

NOT_EMITTED = {"closed_call", "core_call", "eq_to", "le_to", "lt_to", "log2", "one_minus_square"}
NOT_EMITTED |= {"all_gather_invariant", "pbroadcast", "pcast", "reshard"}
NOT_EMITTED |= {"check", "io_callback"}  # test_effects.py has them: they are not for every program
"""Of other versions of JAX, of its inner workings, or of none that a network calls by itself."""


def test_every_rule_is_exercised():
    found = set()
    for apply in NETWORKS.values():
        found |= primitives(jax.make_jaxpr(apply)(PARAMS, X).jaxpr)
    for case in CASES.values():
        found |= primitives(jax.make_jaxpr(case.apply)(case.params, case.x).jaxpr)
        if jnp.issubdtype(case.x.dtype, jnp.floating):
            gradient = jax.grad(lambda p, x, apply=case.apply: apply(p, x).sum())
            found |= primitives(jax.make_jaxpr(gradient)(case.params, case.x).jaxpr)
    for one, other in OTHER_NAMES.items():
        if {one, other} & found:
            found |= {one, other}
    missing = (set(RULES) | set(CALLS)) - found - NOT_EMITTED
    assert missing == set(), sorted(missing)
