"""A round of CRL: environment steps and candidates a second, beside the same loop in PyTorch.

    python experiments/benchmarks/crl_round.py [--repeats 7] [--networks lenet300 vgg11]

One round prunes K networks layer by layer with the policy, scores all of them on the same images,
counts their parameters, and takes the steps of PPO-Lagrangian (coarse strategy, Table 5.3 of the
thesis: 64-64 networks, minibatches of 64, 10 epochs; the stop at the KL target is turned off, so
that both do the same number of steps). Here all K are played in one call and scored at their own
widths (`scoring.own_widths`). The PyTorch loop is what reinforcement learning libraries do with an
environment in Python: one policy call for each layer, one network after another made smaller by
slicing its weights and evaluated, then the same number of optimizer steps. The two take turns;
medians and quartiles are printed. The first rounds, in which most of the widths are compiled that
occur, are left out; how long they took is printed too. PyTorch (not a dependency) must be
installed. Writes `experiments/results/crl_round/<device>.json` and `.md`.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import measured
import numpy as np
import torch
from candidates import torch_network

from jaxprune import make_problem, trace
from jaxprune.costs import within_groups
from jaxprune.networks import bundled
from jaxprune.search.agents import ppo_lagrangian
from jaxprune.search.envs import layerwise

CASES = {"lenet300": ((28, 28, 1), 512), "vgg11": ((32, 32, 3), 32)}
BUDGET = 0.2
WARM = 5
"""Rounds before the timed ones."""


def smaller(dense, keep):
    """A PyTorch network whose layers have only the filters in `keep`, one index array a layer."""
    modules, inputs, layer = [], None, 0
    for module in dense:
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            weight, bias = module.weight, module.bias
            if inputs is not None:
                weight = weight[:, inputs]
            outputs = keep[layer] if layer < len(keep) else None
            if outputs is not None:
                weight = weight[outputs]
                bias = None if bias is None else bias[outputs]
            if isinstance(module, torch.nn.Linear):
                copy = torch.nn.Linear(1, 1, bias=bias is not None)
            else:
                copy = torch.nn.Conv2d(1, 1, 3, padding=module.padding, bias=bias is not None)
            copy.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
            if bias is not None:
                copy.bias = torch.nn.Parameter(bias, requires_grad=False)
            modules.append(copy)
            inputs, layer = outputs, layer + 1
        elif isinstance(module, torch.nn.BatchNorm2d):
            copy = torch.nn.BatchNorm2d(len(inputs), eps=module.eps)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(copy, name).data = getattr(module, name)[inputs]
            modules.append(copy)
        else:
            modules.append(module)
    return torch.nn.Sequential(*modules).eval()


class TorchLoop:
    """The loop of a reinforcement learning library: one environment, one step at a time."""

    def __init__(self, config, rules, rank, dense, x, y):
        self.config, self.rules, self.dense = config, rules, dense
        first = np.cumsum(rules.sizes) - rules.sizes
        self.ranks = [
            torch.from_numpy(np.array(rank[start : start + size]))
            for start, size in zip(first, rules.sizes, strict=True)
        ]
        observations = torch.tensor(rules.observations, dtype=torch.float32)
        spread = observations.std(0, unbiased=False)
        spread[spread == 0] = 1
        self.observations = (observations - observations.mean(0)) / spread
        self.x, self.y = x, y
        self.whole = sum(p.numel() for p in dense.parameters())

        def network():
            return torch.nn.Sequential(
                torch.nn.Linear(observations.shape[1], 64),
                torch.nn.Tanh(),
                torch.nn.Linear(64, 64),
                torch.nn.Tanh(),
                torch.nn.Linear(64, 1),
            )

        self.policy = torch.nn.Sequential(network(), torch.nn.Sigmoid())
        self.log_sigma = torch.nn.Parameter(torch.full((1,), np.log(config.initial_sigma).item()))
        self.critics = network(), network()
        self.optimizers = [
            torch.optim.Adam(parameters, lr=config.learning_rate)
            for parameters in (
                [*self.policy.parameters(), self.log_sigma],
                self.critics[0].parameters(),
                self.critics[1].parameters(),
            )
        ]
        self.multiplier = config.initial_multiplier

    def distribution(self, observations):
        """The policy's Gaussian."""
        return torch.distributions.Normal(self.policy(observations), self.log_sigma.exp())

    def episode(self):
        """Prunes one network layer by layer, and scores it: actions, log-probabilities, scores."""
        actions, log_probs, keep = [], [], []
        for t, size in enumerate(self.rules.sizes):
            distribution = self.distribution(self.observations[t])
            action = distribution.sample()
            ratio = float(action.clamp(0, self.config.initial_ratio))
            removed = min(int(ratio * size + 0.5), size - 1)
            keep.append(torch.nonzero(self.ranks[t] >= removed).flatten())
            actions.append(action)
            log_probs.append(distribution.log_prob(action))
        network = smaller(self.dense, keep)
        accuracy = float((network(self.x).argmax(-1) == self.y).float().mean())
        parameters = sum(p.numel() for p in network.parameters())
        return torch.stack(actions), torch.stack(log_probs), accuracy, parameters / self.whole

    def round(self):
        """One round, as `ppo_lagrangian.update` makes it."""
        with torch.no_grad():
            episodes = [self.episode() for _ in range(self.config.episodes)]
        actions, log_probs, rewards, costs = zip(*episodes, strict=True)
        self.multiplier = max(0.0, self.multiplier + 0.1 * (np.mean(costs) - BUDGET))
        seen = self.observations.repeat(len(episodes), 1)
        actions, log_probs = torch.cat(actions), torch.cat(log_probs)
        steps = len(self.rules.sizes)
        returns = [
            torch.tensor(values, dtype=torch.float32).repeat_interleave(steps)[:, None]
            for values in (rewards, costs)
        ]
        with torch.no_grad():
            advantages = [r - c(seen) for r, c in zip(returns, self.critics, strict=True)]
        combined = (advantages[0] - self.multiplier * advantages[1]) / (1 + self.multiplier)
        for _ in range(self.config.epochs):
            for index in torch.randperm(len(seen)).split(self.config.minibatch_size):
                distribution = self.distribution(seen[index])
                ratio = (distribution.log_prob(actions[index]) - log_probs[index]).exp()
                clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
                surrogate = torch.minimum(ratio * combined[index], clipped * combined[index])
                losses = [
                    -surrogate.mean(),
                    *(
                        ((critic(seen[index]) - target[index]) ** 2).mean()
                        for critic, target in zip(self.critics, returns, strict=True)
                    ),
                ]
                for loss, optimizer in zip(losses, self.optimizers, strict=True):
                    optimizer.zero_grad()
                    loss.backward()
                    for parameters in optimizer.param_groups:
                        torch.nn.utils.clip_grad_norm_(
                            parameters["params"], self.config.max_grad_norm
                        )
                    optimizer.step()


def measure(name, repeats, episodes):
    """Seconds of a round for both, every one a list of `repeats` measurements."""
    image_shape, images = CASES[name]
    network = bundled.build(name, image_shape)
    variables = network.init(jax.random.key(0))
    shape = (images, int(np.prod(image_shape))) if network.flat else (images, *image_shape)
    x = jax.random.normal(jax.random.key(1), shape)
    y = jax.random.randint(jax.random.key(2), (images,), 0, 10)
    structure = trace(network.apply, variables, x[:1])
    problem = make_problem(
        network.apply, structure, variables, (x, y), (x[:1], y[:1]), cost="params", budget=BUDGET
    )
    config = ppo_lagrangian.Config(
        episodes=episodes, target_kl=1e9, validated=1, initial_ratio=0.9, ratio_rise=0.0
    )
    rules = layerwise.rules(structure)
    rank = np.asarray(within_groups.rank(rules.sizes, problem.importance))

    host = jax.tree.map(np.asarray, variables)
    dense = torch_network(host["params"], host.get("batch_stats"))
    torch_x = np.asarray(x) if network.flat else np.transpose(np.asarray(x), (0, 3, 1, 2)).copy()
    torch_x, torch_y = torch.from_numpy(torch_x.copy()), torch.from_numpy(np.array(y, np.int64))
    check(problem, rules, rank, dense, torch_x, torch_y)
    loop = TorchLoop(config, rules, rank, dense, torch_x, torch_y)

    state = ppo_lagrangian.init(config, problem, jax.random.PRNGKey(0))
    start = time.perf_counter()
    for _ in range(WARM):
        state, _ = ppo_lagrangian.update(config, problem, state)
    compiled = time.perf_counter() - start
    loop.round()
    seconds = {"jaxprune": [], "PyTorch": []}
    for _ in range(repeats):
        start = time.perf_counter()
        state, _ = ppo_lagrangian.update(config, problem, state)
        seconds["jaxprune"].append(time.perf_counter() - start)
        start = time.perf_counter()
        loop.round()
        seconds["PyTorch"].append(time.perf_counter() - start)
    return {
        "network": name,
        "images": images,
        "episodes": episodes,
        "layers": rules.num_steps,
        "first_rounds_seconds": compiled,
        "seconds_per_round": seconds,
    }


def check(problem, rules, rank, dense, x, y):
    """Both must give the same accuracy and cost for the same mask."""
    mask = rank >= np.repeat([size // 2 for size in rules.sizes], rules.sizes)
    first = np.cumsum(rules.sizes) - rules.sizes
    keep = [
        torch.from_numpy(np.flatnonzero(mask[start : start + size]))
        for start, size in zip(first, rules.sizes, strict=True)
    ]
    network = smaller(dense, keep)
    scores = problem.evaluate(jnp.asarray(mask[None], jnp.float32))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network(x), y)
    np.testing.assert_allclose(float(loss), float(scores.loss[0]), rtol=1e-3)
    parameters = sum(p.numel() for p in network.parameters())
    dense_parameters = sum(p.numel() for p in dense.parameters())
    np.testing.assert_allclose(
        parameters / dense_parameters, float(problem.cost(jnp.asarray(mask))), rtol=1e-5
    )


def table(results):
    """The measurements as a Markdown table."""
    lines = [
        "| network | images | K | layers | | candidates/s (quartiles) | environment steps/s "
        "| x PyTorch |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for result in results:
        base = statistics.median(result["seconds_per_round"]["PyTorch"])
        for way, seconds in result["seconds_per_round"].items():
            low, median, high = statistics.quantiles(seconds, n=4)
            k, layers = result["episodes"], result["layers"]
            lines.append(
                f"| {result['network']} | {result['images']} | {k} | {layers} | {way} | "
                f"{k / median:.1f} ({k / high:.1f} - {k / low:.1f}) | {k * layers / median:.0f} | "
                f"{base / median:.2f} |"
            )
    return "\n".join(lines)


def main():
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=7)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    results = [measure(name, arguments.repeats, arguments.episodes) for name in arguments.networks]
    about = measured.circumstances()
    first = ", ".join(f"{r['network']} {r['first_rounds_seconds']:.1f} s" for r in results)
    text = (
        "# A round of CRL\n\n"
        f"{measured.in_words(about)}\n\n{table(results)}\n\n"
        f"The first {WARM} rounds, which compile, took: {first}.\n"
    )
    measured.write("crl_round", text, about | {"results": results})


if __name__ == "__main__":
    main()
