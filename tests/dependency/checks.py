"""What must hold for every network: masking is removal, and removal leaves a small network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import compact, masked

# Less optimised programs compile faster; what is tested does not depend on the compiler.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def random_masks(structure, seed, keep=0.6):
    """Masks that keep at least one channel of each group."""
    rng = np.random.default_rng(seed)
    masks = {g.name: (rng.random(g.size) < keep).astype(np.float32) for g in structure.groups}
    for mask in masks.values():
        mask[rng.integers(len(mask))] = 1
    return masks


def sliced(structure, tree, masks):
    """A tree of the parameters, cut to the kept positions with numpy."""
    keep = [bool(kept) for kept in structure.flatten(masks)]
    for left, right in structure.joints:
        keep.append(keep[left] and keep[right])
    keep = np.array([*keep, True])  # the last is position -1
    leaves = [
        np.asarray(leaf)[np.ix_(*(keep[axis] for axis in axes))]
        for leaf, axes in zip(jax.tree.leaves(tree), structure.channels, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def assert_close(actual, expected, tolerance=1e-5):
    """Equal up to float summation order, relative to the largest entry of each array."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        if a.size:
            scale = max(float(jnp.abs(b).max()), 1e-3)
            assert float(jnp.abs(a - b).max()) <= tolerance * scale


def check_removal(apply, params, x, structure, seed=0, tolerance=1e-10):
    """Everything that must hold, in double precision.

    - Full masks change no bit.
    - Masked equals compact: outputs, gradients, and a step that computes its own gradient.
    - The step made small does what differentiating the small network does.
    """
    with jax.enable_x64(True):
        params, x = jax.tree.map(
            lambda leaf: (
                jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            ),
            (params, x),
        )
        masks = random_masks(structure, seed)
        whole = masked(apply, structure)
        everything = structure.full_masks()
        np.testing.assert_array_equal(
            jax.jit(lambda params, x: whole(params, everything, x))(params, x),
            jax.jit(apply)(params, x),
        )
        assert_close(
            quick_jit(whole)(params, everything, x), quick_jit(apply)(params, x), tolerance
        )
        small = compact(apply, structure, params, masks)
        assert_close(small.params, sliced(structure, params, masks), 0)
        assert_close(
            quick_jit(small)(small.params, x), quick_jit(whole)(params, masks, x), tolerance
        )

        def gradient(apply):
            return jax.grad(lambda params, *rest: jnp.sin(apply(params, *rest)).sum())

        large = quick_jit(gradient(whole))(params, masks, x)
        little = quick_jit(gradient(small))(small.params, x)
        assert_close(little, sliced(structure, large, masks), tolerance)
        step = gradient(apply)
        masked_step = quick_jit(masked(step, structure))(params, masks, x)
        small_step = quick_jit(compact(step, structure, params, masks))(small.params, x)
        assert_close(small_step, sliced(structure, masked_step, masks), tolerance)
        assert_close(small_step, little, tolerance)
    return small
