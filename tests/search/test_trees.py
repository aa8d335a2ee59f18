"""Problems of networks whose inputs or outputs are trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune

RANDOM = np.random.default_rng(0)
PARAMS = {
    name: jnp.asarray(RANDOM.normal(size=shape), jnp.float32)
    for name, shape in {"table": (9, 6), "hidden": (6, 4), "out": (4, 3)}.items()
}
X = {"ids": jnp.asarray(RANDOM.integers(0, 9, (8, 5))), "mask": jnp.ones((8, 5))}
Y = jnp.arange(8) % 3


def text(params, x):
    words = (params["table"][x["ids"]] * x["mask"][..., None]).sum(1)
    return jax.nn.relu(words @ params["hidden"]) @ params["out"]


@pytest.mark.parametrize("host", [False, True])
def test_inputs_may_be_a_tree(host):
    structure = jaxprune.trace(text, PARAMS, X)
    problem = jaxprune.make_problem(
        text,
        structure,
        PARAMS,
        (X, Y),
        (X, Y),
        cost=["macs", lambda net, x: 1.0],
        budget=[0.5, 1.0],
        host=host,
    )
    masks = RANDOM.integers(0, 2, (3, structure.num_channels)).astype(np.float32)
    masks[:, [0, -1]] = 1
    scores = (problem.host if host else problem).evaluate(masks)
    for mask, accuracy in zip(masks, scores.accuracy, strict=True):
        logits = jaxprune.masked(text, structure)(PARAMS, structure.unflatten(mask), X)
        assert float(accuracy) == pytest.approx(float((logits.argmax(-1) == Y).mean()))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda logits: {"logits": logits, "extra": logits}, r"a dict with \['extra', 'logits'\]"),
        (lambda logits: (logits, logits), "returns a tuple, and candidates are scored by logits"),
        (lambda logits: logits.mean(-1), r"shape \(8,\) for labels of shape \(8,\)"),
    ],
)
def test_outputs_must_be_logits(outputs, message):
    def network(params, x):
        return outputs(text(params, x))

    structure = jaxprune.trace(network, PARAMS, X)
    with pytest.raises(jaxprune.UserError, match=message):
        jaxprune.make_problem(network, structure, PARAMS, (X, Y), (X, Y))
