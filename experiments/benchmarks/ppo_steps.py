"""Environment steps a second of CRL's PPO, beside stable-baselines3's PPO.

    python experiments/benchmarks/ppo_steps.py [--repeats 15] [--episodes 64]

A round prunes K networks layer by layer with the policy and takes the steps of PPO (coarse
strategy, Table 5.3 of the thesis: 64-64 networks, minibatches of 64, 10 epochs; the stop at the KL
target is turned off, so that both do the same number of steps). Here it is `update` of
`search.agents.ppo_lagrangian`, whole: it also plays a network by the policy's means and one
scaled to the budget, scores the best on validation images, and keeps all of them; and it has a
second critic, for the cost. Stable-baselines3 plays the same environment written by hand for
Gymnasium; its reward is the accuracy less the cost weighted by a multiplier, which a callback
moves after each rollout. It is offered as many environments as episodes, and one; all the threads,
and one; the fastest of these is what ratios are taken to. Before anything is timed, both
environments must give the same observations, costs and rewards for random actions.

Two things are measured. Without evaluation, the accuracy and the cost of a network are the part of
its filters that is left, on both sides. With evaluation, they are the accuracy on images and the
parameters of the pruned network, of random weights: jaxprune scores all of a round's at their own
widths, stable-baselines3's environment slices the weights of a PyTorch network and evaluates the
smaller one. Rounds take turns; medians and quartiles are printed. The first rounds, which compile,
are left out; how long they took is printed too. PyTorch and stable-baselines3 (the extra `bench`)
must be installed. Writes `experiments/results/ppo_steps/<device>.json` and `.md`.

How much faster a round could be is measured beside: the gradients of its minibatches, of all three
networks, one after another in a compiled loop without anything else.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import measured
import numpy as np
import torch
from candidates import torch_network
from crl_round import smaller
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from jaxprune import make_problem, trace
from jaxprune.costs import within_groups
from jaxprune.networks import bundled
from jaxprune.scoring.evaluation import Scores
from jaxprune.search.agents import ppo_lagrangian
from jaxprune.search.agents.ppo_lagrangian import episodes, fitting, losses, normalization
from jaxprune.search.envs import layerwise
from jaxprune.search.problem import Problem

SHAPES = {"lenet300": (28, 28, 1), "vgg11": (32, 32, 3)}
IMAGES = 512
BUDGET = 0.2
WARM = 5
"""Rounds before the timed ones."""
PACKAGES = (*measured.PACKAGES, "stable-baselines3", "gymnasium")

Score = Callable[[Sequence[int]], tuple[float, float]]
"""The accuracy and the relative cost of a network of these widths."""


# ---------------------------------------------------------------------------------- the environment


class LayerwisePruning(gymnasium.Env):
    """Pruning layer by layer, as it is written by hand.

    Args:
        rules: the filters of each layer and what is seen of it.
        most: the largest part of a layer that may be removed.
        score: of the finished network.
    """

    def __init__(self, rules: layerwise.Rules, most: float, score: Score):
        self.sizes, self.most, self.score = rules.sizes, most, score
        self.observations = standardised(rules)
        self.multiplier = 1.0
        self.widths: list[int] = []
        shape = self.observations[0].shape
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """The first layer of a network of which nothing is removed."""
        super().reset(seed=seed)
        self.widths = []
        return self.observations[0], {}

    def step(self, action: np.ndarray):
        """Removes a part of a layer; the last one's reward is that of the network."""
        size = self.sizes[len(self.widths)]
        ratio = min(max(float(action[0]), 0.0), self.most)
        self.widths.append(size - min(int(ratio * size + 0.5), size - 1))
        if len(self.widths) < len(self.sizes):
            return self.observations[len(self.widths)], 0.0, False, False, {}
        accuracy, cost = self.score(self.widths)
        reward = accuracy - self.multiplier * cost / BUDGET
        return self.observations[-1], reward, True, False, {"cost": cost}


def standardised(rules: layerwise.Rules) -> np.ndarray:
    """What is seen of each layer, with mean 0 and deviation 1 over the layers."""
    table = np.asarray(rules.observations, np.float32)
    spread = table.std(0)
    return (table - table.mean(0)) / np.where(spread > 0, spread, 1)


def part_left(rules: layerwise.Rules) -> Score:
    """Scores a network by the part of its filters that is left, in place of evaluating it."""
    whole = sum(rules.sizes)

    def score(widths: Sequence[int]) -> tuple[float, float]:
        left = sum(widths) / whole
        return left, left

    return score


def evaluated(
    dense: torch.nn.Sequential, rank: Sequence[np.ndarray], x: np.ndarray, y: np.ndarray
) -> Score:
    """Scores a network by making it smaller and classifying images with it.

    Args:
        dense: the whole network.
        rank: for each layer the order of its filters, 0 goes first.
        x: images, as PyTorch takes them.
        y: their classes.
    """
    images, classes = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y, np.int64))
    order = [torch.from_numpy(np.argsort(-of_layer, kind="stable")) for of_layer in rank]
    whole = count(dense)

    def score(widths: Sequence[int]) -> tuple[float, float]:
        keep = [filters[:width].sort().values for filters, width in zip(order, widths, strict=True)]
        network = smaller(dense, keep)
        with torch.inference_mode():
            right = network(images).argmax(-1) == classes
        return float(right.float().mean()), count(network) / whole

    return score


def count(network: torch.nn.Module) -> int:
    """The parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


# -------------------------------------------------------------------------------- what is measured


class Case(NamedTuple):
    """A network to prune, posed to both sides.

    Attributes:
        network: its name.
        evaluation: whether candidates are evaluated.
        problem: what jaxprune is given.
        rules: the rules of the environment.
        score: what the environment by hand is given.
    """

    network: str
    evaluation: bool
    problem: Problem
    rules: layerwise.Rules
    score: Score


def pose(name: str, *, evaluation: bool) -> Case:
    """A network with random weights, to be scored with or without evaluating candidates."""
    network = bundled.build(name, SHAPES[name])
    variables = network.init(jax.random.key(0))
    images = IMAGES if evaluation else 1
    shape = (images, int(np.prod(SHAPES[name]))) if network.flat else (images, *SHAPES[name])
    x = jax.random.normal(jax.random.key(1), shape)
    y = jax.random.randint(jax.random.key(2), (images,), 0, 10)
    structure = trace(network.apply, variables, x[:1])
    rules = layerwise.rules(structure)
    if not evaluation:
        return Case(name, evaluation, unevaluated(structure), rules, part_left(rules))
    problem = make_problem(
        network.apply, structure, variables, (x, y), (x, y), cost="params", budget=BUDGET
    )
    host = jax.tree.map(np.asarray, variables)
    dense = torch_network(host["params"], host.get("batch_stats"))
    rank = np.asarray(within_groups.rank(rules.sizes, problem.importance))
    by_layer = np.split(rank, np.cumsum(rules.sizes)[:-1])
    torch_x = np.asarray(x) if network.flat else np.transpose(np.asarray(x), (0, 3, 1, 2))
    return Case(name, evaluation, problem, rules, evaluated(dense, by_layer, torch_x, y))


def unevaluated(structure: Any) -> Problem:
    """A problem whose candidates' accuracy and cost are the part of the filters that is left."""

    def left(masks: jax.Array) -> jax.Array:
        return masks.astype(jnp.float32).mean(-1)

    def evaluate(masks: jax.Array) -> Scores:
        return Scores(loss=1 - left(masks), accuracy=left(masks))

    return Problem(
        structure=structure,
        evaluate=evaluate,
        validate=evaluate,
        cost=left,
        budget=BUDGET,
        importance=jnp.arange(structure.num_channels, dtype=jnp.float32),
    )


def settings(episodes: int) -> ppo_lagrangian.Config:
    """CRL's, without the stop at the KL target and with a fixed bound on what may be removed."""
    return ppo_lagrangian.Config(
        episodes=episodes, target_kl=1e9, initial_ratio=0.9, ratio_rise=0.0
    )


def check(case: Case, tries: int = 10) -> None:
    """Both environments must agree on observations, costs and rewards, for random actions."""
    config, rules, problem = settings(1), case.rules, case.problem
    environment = LayerwisePruning(rules, config.initial_ratio, case.score)
    rank = within_groups.rank(rules.sizes, problem.importance)
    table = jnp.asarray(rules.observations)
    statistics_ = normalization.update(normalization.init(table.shape[1:]), table)
    seen = np.asarray(normalization.normalize(statistics_, table))
    step = jax.jit(functools.partial(layerwise.step, rules, rank))
    rng = np.random.default_rng(0)
    for _ in range(tries):
        environment.multiplier = rng.uniform(0, 2)
        observation, _ = environment.reset()
        state = layerwise.reset(rules, rank)
        for layer in range(rules.num_steps):
            np.testing.assert_array_equal(layerwise.observe(rules, state.step), table[layer])
            np.testing.assert_allclose(observation, seen[layer], rtol=1e-4, atol=1e-5)
            action = rng.normal(0.6, 0.4, 1).astype(np.float32)
            observation, reward, over, _, info = environment.step(action)
            state, _, done = step(state, jnp.asarray(action), jnp.float32(config.initial_ratio))
            assert over == bool(done), layer
            if not over:
                assert reward == 0.0, layer
        mask = layerwise.hard_mask(rules, state.values).astype(jnp.float32)
        cost, accuracy = float(problem.cost(mask)), float(problem.evaluate(mask[None]).accuracy[0])
        np.testing.assert_allclose(info["cost"], cost, rtol=1e-5)
        wanted = accuracy - environment.multiplier * cost / BUDGET
        # One image may lie between two classes, which another order of sums decides.
        slack = 1.5 / IMAGES if case.evaluation else 0.0
        np.testing.assert_allclose(reward, wanted, rtol=1e-5, atol=slack + 1e-6)


# ---------------------------------------------------------------------------------- the two agents


class Crl:
    """CRL's rounds.

    Attributes:
        costs: the mean cost of the episodes of each round.
    """

    def __init__(self, config: ppo_lagrangian.Config, case: Case):
        self.config, self.problem = config, case.problem
        self.state = ppo_lagrangian.init(config, case.problem, jax.random.PRNGKey(0))
        self.costs: list[float] = []

    def round(self) -> None:
        """One round: play, score, learn."""
        self.state, metrics = ppo_lagrangian.update(self.config, self.problem, self.state)
        self.costs.append(metrics["cost"][0])


class Multiplier(BaseCallback):
    """Moves the multiplier of the cost by how far a rollout is from the budget.

    Attributes:
        costs: the mean cost of the episodes of each rollout.
    """

    def __init__(self, initial: float, rate: float):
        super().__init__()
        self.value, self.rate = initial, rate
        self.costs: list[float] = []
        self._finished: list[float] = []

    def _on_step(self) -> bool:
        self._finished += [info["cost"] for info in self.locals["infos"] if "cost" in info]
        return True

    def _on_rollout_end(self) -> None:
        self.costs.append(statistics.fmean(self._finished))
        self._finished.clear()
        self.value = max(0.0, self.value + self.rate * (self.costs[-1] / BUDGET - 1))
        self.training_env.set_attr("multiplier", self.value)


class Baselines3:
    """Rounds of stable-baselines3's PPO: as many steps, minibatches and epochs as CRL's.

    Args:
        config: CRL's settings.
        case: what to prune.
        environments: how many are played at once, a divisor of the episodes.
        threads: PyTorch's.
    """

    def __init__(self, config: ppo_lagrangian.Config, case: Case, environments: int, threads: int):
        self.steps, self.threads = config.episodes * case.rules.num_steps, threads
        self.multiplier = Multiplier(config.initial_multiplier, config.multiplier_rate)

        def environment() -> LayerwisePruning:
            return LayerwisePruning(case.rules, config.initial_ratio, case.score)

        self.model = PPO(
            "MlpPolicy",
            DummyVecEnv([environment] * environments),
            learning_rate=config.learning_rate,
            n_steps=self.steps // environments,
            batch_size=config.minibatch_size,
            n_epochs=config.epochs,
            gamma=config.reward_gamma,
            gae_lambda=config.reward_lambda,
            clip_range=config.clip,
            max_grad_norm=config.max_grad_norm,
            policy_kwargs={
                "net_arch": {"pi": list(config.hidden), "vf": list(config.hidden)},
                "activation_fn": torch.nn.Tanh,
                "log_std_init": float(np.log(config.initial_sigma)),
            },
            seed=0,
            device="cpu",
        )
        # It begins with as much removed as CRL does.
        first = episodes.initial_action(config, case.problem)
        torch.nn.init.constant_(self.model.policy.action_net.bias, first)

    @property
    def costs(self) -> list[float]:
        """The mean cost of the episodes of each round."""
        return self.multiplier.costs

    def round(self) -> None:
        """One rollout, and learning from it."""
        torch.set_num_threads(self.threads)
        self.model.learn(self.steps, callback=self.multiplier, reset_num_timesteps=False)


def gradients_alone(config: ppo_lagrangian.Config, case: Case) -> Callable[[], Any]:
    """The gradients of a round's minibatches; each moves the networks, so that none is left out."""
    learning = config.within_a_round()
    learner = ppo_lagrangian.init(config, case.problem, jax.random.PRNGKey(0)).learner
    steps = config.episodes * case.rules.num_steps
    normal = functools.partial(jax.random.normal, jax.random.key(0))
    size = len(layerwise.OBSERVATION)
    samples = losses.Samples(
        observations=normal((steps, size)),
        actions=normal((steps, 1)),
        log_probs=normal((steps,)),
        advantages=normal((steps,)),
        reward_targets=normal((steps,)),
        cost_targets=normal((steps, 1)),
    )

    @jax.jit
    def all_of_them(variables: Any, samples: losses.Samples) -> Any:
        def one(variables: Any, rows: jax.Array) -> tuple[Any, None]:
            minibatch = jax.tree.map(lambda leaf: leaf[rows], samples)
            loss = jax.grad(lambda *given: losses.losses(learning, *given)[0])
            gradient = loss(variables, minibatch)
            return jax.tree.map(lambda x, g: x - 1e-6 * g, variables, gradient), None

        rows = fitting.minibatches(learning, steps, jax.random.key(1))
        return jax.lax.scan(one, variables, rows)[0]

    return functools.partial(all_of_them, learner.networks, samples)


def measure(case: Case, episodes: int, repeats: int) -> dict[str, Any]:
    """Seconds of a round for each way, every one a list of `repeats` measurements."""
    check(case)
    config = settings(episodes)
    ways: dict[str, Crl | Baselines3] = {"jaxprune": Crl(config, case)}
    threads = torch.get_num_threads()
    for environments in (episodes, 1):
        for number in sorted({1, threads}):
            name = f"stable-baselines3, environments: {environments}, threads: {number}"
            ways[name] = Baselines3(config, case, environments, number)
    first = {}
    for name, way in ways.items():
        start = time.perf_counter()
        for _ in range(WARM):
            way.round()
        first[name] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way.round()
            seconds[name].append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    gradients = gradients_alone(config, case)
    gradients()
    alone = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(gradients())
        alone.append(time.perf_counter() - start)
    return {
        "network": case.network,
        "evaluation": case.evaluation,
        "images": IMAGES if case.evaluation else 0,
        "episodes": episodes,
        "layers": case.rules.num_steps,
        "first_rounds_seconds": first,
        "seconds_per_round": seconds,
        "seconds_of_gradients": alone,
        "cost": {name: statistics.fmean(way.costs[WARM:]) for name, way in ways.items()},
    }


# ---------------------------------------------------------------------------------------- the page


def table(results: list[dict[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| network | evaluation | steps a round | | steps/s (quartiles) | ms a round "
        "| mean cost | x stable-baselines3 |",
        "|---|---|--:|---|--:|--:|--:|--:|",
    ]
    for result in results:
        medians = {way: statistics.median(s) for way, s in result["seconds_per_round"].items()}
        base = min(median for way, median in medians.items() if way != "jaxprune")
        steps = result["episodes"] * result["layers"]
        what = f"{result['images']} images" if result["evaluation"] else "none"
        for way, seconds in result["seconds_per_round"].items():
            low, median, high = statistics.quantiles(seconds, n=4)
            lines.append(
                f"| {result['network']} | {what} | {steps} | {way} | {steps / median:,.0f} "
                f"({steps / high:,.0f} - {steps / low:,.0f}) | {1e3 * median:.1f} "
                f"| {result['cost'][way]:.2f} | {base / median:.2f} |"
            )
    return "\n".join(lines)


TARGETS = {False: 20, True: 2}
"""{with evaluation: how many times the environment steps of stable-baselines3 are wanted}."""


def verdicts(results: list[dict[str, Any]]) -> str:
    """For each case the ratio beside its target, and the part that no other program could save."""
    lines = []
    for result in results:
        medians = {way: statistics.median(s) for way, s in result["seconds_per_round"].items()}
        ours = medians.pop("jaxprune")
        base = min(medians.values())
        target = TARGETS[result["evaluation"]]
        ratio = base / ours
        line = (
            f"- {result['network']} with{'' if result['evaluation'] else 'out'} evaluation: "
            f"{ratio:.1f} times, of {target} wanted"
        )
        if ratio < target:
            gradients = statistics.median(result["seconds_of_gradients"])
            line += (
                f"; {target} times would be {1e3 * base / target:.1f} ms a round. The gradients of "
                f"its minibatches alone take {1e3 * gradients:.1f} of its {1e3 * ours:.1f} ms: "
                f"with these only, it would be {base / gradients:.1f} times"
            )
        lines.append(line + ".")
    return "\n".join(lines)


def page(about: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    first = ", ".join(
        f"{result['network']} with{'' if result['evaluation'] else 'out'} evaluation "
        f"{result['first_rounds_seconds']['jaxprune']:.1f} s"
        for result in results
    )
    return (
        "# Environment steps of PPO\n\n"
        f"`{about['command']}`, {about['device']}, {versions}.\n\n{table(results)}\n\n"
        f"{verdicts(results)}\n\n"
        "A round is one compiled call. Its time is that of many small steps: matrix products of\n"
        "64 x 64 and what stands between them, which a CPU does one after another. Tried without\n"
        "much effect: one flat vector of parameters for Adam instead of a tree, leaving out the\n"
        "choice between a step and a stop at the KL target.\n\n"
        "x stable-baselines3: relative to the fastest of its ways. Mean cost: of the networks of\n"
        "the timed rounds, as a part of the dense network's. Evaluation none: a network's score\n"
        f"is the part of its filters that is left. jaxprune's first {WARM} rounds, which compile,\n"
        f"took: {first}.\n"
    )


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=15)
    parser.add_argument("--episodes", type=int, default=64)
    arguments = parser.parse_args()
    cases = [(name, False) for name in SHAPES] + [("lenet300", True)]
    results = [
        measure(pose(name, evaluation=evaluation), arguments.episodes, arguments.repeats)
        for name, evaluation in cases
    ]
    about = measured.circumstances(PACKAGES)
    text = page(about, results)
    measured.write("ppo_steps", text, about | {"results": results})


if __name__ == "__main__":
    main()
