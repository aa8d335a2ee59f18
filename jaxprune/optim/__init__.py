"""Proximal operators and the Lagrangian dual step, as optax transforms. Needs jax and optax only.

    from jaxprune.optim import prox, proximal

    optimizer = optax.chain(optax.sgd(0.1), proximal(prox.l1, strength=1e-3, learning_rate=0.1))

What is here:
  * ``prox``: proximal operators, pure functions of an array or a pytree.
  * ``proximal``: the transform that lands ``params + updates`` on the prox; last in its chain.
    ``scaled_proximal`` is its exact counterpart for a preconditioner with a known diagonal.
  * ``proximal_sgd``, ``proximal_adam``, ``fista``: ready-made optimizers.
  * ``admm``, ``surrogate_lagrangian``: weights that train freely, pulled towards a sparse copy.
  * ``dual_ascent``, ``dual_pid``: Lagrange multipliers moved by their violations;
    ``lagrangian`` pairs them with any loss and constraints.
  * ``ramp``, ``healing``: when the proximal step begins to act, how it grows, and how the weights
    that are left recover from it.
  * ``observe_sparsity``: exact zeros and empty groups, as a state anyone can log.
"""

from jaxprune.optim import prox
from jaxprune.optim.accelerated import FistaState, fista, fista_eval_params
from jaxprune.optim.dual import DualAscentState, DualPIDState, dual_ascent, dual_pid
from jaxprune.optim.lagrangian import Lagrangian, LagrangianInfo, LagrangianState, lagrangian
from jaxprune.optim.optimizers import proximal_adam, proximal_sgd
from jaxprune.optim.phases import HealingState, healing, ramp
from jaxprune.optim.sparsity import Sparsity, observe_sparsity, sparsity
from jaxprune.optim.splitting import (
    ADMMState,
    SurrogateState,
    admm,
    surrogate_lagrangian,
)
from jaxprune.optim.transform import (
    Prox,
    ProximalState,
    ScaledProximalState,
    adam_diagonal,
    proximal,
    scaled_proximal,
)

__all__ = [
    "ADMMState",
    "DualAscentState",
    "DualPIDState",
    "FistaState",
    "HealingState",
    "Lagrangian",
    "LagrangianInfo",
    "LagrangianState",
    "Prox",
    "ProximalState",
    "ScaledProximalState",
    "Sparsity",
    "SurrogateState",
    "adam_diagonal",
    "admm",
    "dual_ascent",
    "dual_pid",
    "fista",
    "fista_eval_params",
    "healing",
    "lagrangian",
    "observe_sparsity",
    "prox",
    "proximal",
    "proximal_adam",
    "proximal_sgd",
    "ramp",
    "scaled_proximal",
    "sparsity",
    "surrogate_lagrangian",
]
