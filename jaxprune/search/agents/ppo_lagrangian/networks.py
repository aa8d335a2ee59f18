"""The policy and the two critics: multilayer perceptrons on the (normalised) state vector.

The papers' policy is a Gaussian `N(mu(s), sigma I)` with a trainable vector sigma that does not
depend on the state (conference paper, section 2.2; thesis, section 4.3); Table 5.3 of the thesis
gives 64, 64 hidden units, tanh, and a sigmoid at the output. Readings and choices:

- The papers call sigma I the covariance matrix. Here sigma is the **standard deviation** and its
  logarithm is trained, as in stable-baselines.
- The sigmoid bounds the mean and belongs to the policy alone: a critic's output is unbounded.
- A sample of the Gaussian may leave [0, 1]. The environment sees it clipped (`executed`), while
  probabilities are those of the **unclipped sample**, as in stable-baselines: the clipped one has
  no density at 0 and 1.
- Kernels are orthogonal and biases zero, as in stable-baselines. The output layers are scaled by
  0.01, so that an untrained policy has one mean and an untrained critic value 0 in every state,
  which is what a normalised reward is expected to be.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxprune.search.agents.ppo_lagrangian.config import Learning

if TYPE_CHECKING:
    import distrax


class Networks(NamedTuple):
    """Something for each of the three networks: their variables, or their optimizers' states.

    Attributes:
        policy: of `Policy`.
        reward_critic: of an `Mlp` with one output.
        cost_critic: of an `Mlp` with one output for each budget.
    """

    policy: Any
    reward_critic: Any
    cost_critic: Any


class Mlp(nn.Module):
    """Dense layers with tanh between them; a critic as it is.

    Attributes:
        hidden: widths of the hidden layers.
        outputs: number of outputs.
    """

    hidden: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., O]` -> `[..., outputs]`."""
        orthogonal = nn.initializers.orthogonal
        for width in self.hidden:
            x = nn.tanh(nn.Dense(width, kernel_init=orthogonal(math.sqrt(2)))(x))
        return nn.Dense(self.outputs, kernel_init=orthogonal(0.01), name="output")(x)


class Policy(nn.Module):
    """A diagonal Gaussian whose mean is a function of the state.

    Attributes:
        hidden: widths of the hidden layers.
        action_size: A, the length of an action.
        initial_sigma: standard deviation before learning, above 0.
    """

    hidden: tuple[int, ...]
    action_size: int
    initial_sigma: float

    @nn.compact
    def __call__(self, observations: Array) -> "distrax.MultivariateNormalDiag":
        """`[..., O]` -> distributions of actions `[..., A]`, their means in (0, 1)."""
        import distrax  # takes long; whoever asks for the settings alone does without

        start = nn.initializers.constant(math.log(self.initial_sigma))
        log_sigma = self.param("log_sigma", start, (self.action_size,))
        mean = nn.sigmoid(Mlp(self.hidden, self.action_size, name="mean")(observations))
        sigma = jnp.broadcast_to(jnp.exp(log_sigma), mean.shape)
        return distrax.MultivariateNormalDiag(mean, sigma)


def executed(actions: Array) -> Array:
    """The actions that the environment sees: samples clipped to [0, 1]."""
    return jnp.clip(actions, 0.0, 1.0)


def init(
    config: Learning,
    key: Array,
    observation_size: int,
    action_size: int,
    num_costs: int,
    mean: ArrayLike = 0.5,
) -> Networks:
    """The variables of untrained networks for observations `[O]`, actions `[A]` and m budgets.

    The untrained policy has about this mean, in (0, 1), in every state.
    """
    modules = (
        Policy(config.hidden, action_size, config.initial_sigma),
        Mlp(config.hidden, 1),
        Mlp(config.hidden, num_costs),
    )
    keys = jax.random.split(key, len(modules))
    example = jnp.zeros((1, observation_size))
    policy, *critics = (module.init(k, example) for module, k in zip(modules, keys, strict=True))
    output = policy["params"]["mean"]["output"]
    output["bias"] += jax.scipy.special.logit(mean)
    return Networks(policy, *critics)


def action_size(variables: Any) -> int:
    """A, from the variables of a policy."""
    return len(variables["params"]["log_sigma"])


def policy(
    config: Learning, variables: Any, observations: Array
) -> "distrax.MultivariateNormalDiag":
    """Applies the policy: normalised observations `[..., O]` -> distributions over `[..., A]`."""
    module = Policy(config.hidden, action_size(variables), config.initial_sigma)
    return cast("distrax.MultivariateNormalDiag", module.apply(variables, observations))


def critic(config: Learning, variables: Any, observations: Array) -> Array:
    """Applies a critic: normalised observations `[..., O]` -> values `[..., outputs]`."""
    outputs = len(variables["params"]["output"]["bias"])
    return cast(Array, Mlp(config.hidden, outputs).apply(variables, observations))
