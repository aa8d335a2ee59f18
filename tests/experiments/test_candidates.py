"""What candidates are measured beside: the same networks, smaller or masked in PyTorch."""

import pytest

pytest.importorskip("torch", reason="what is measured beside, of the extra bench")
pytest.importorskip("torch_pruning", reason="what is measured beside, of the extra bench")

import candidates
import numpy as np
import torch

from jaxprune import costs
from jaxprune.networks import bundled
from jaxprune.scoring.evaluation import evaluate


@pytest.mark.parametrize("name", ["lenet300", pytest.param("vgg11", marks=pytest.mark.slow)])
def test_all_ways_of_pytorch_give_the_losses_of_full_width(name):
    shape = {"lenet300": (28, 28, 1), "vgg11": (32, 32, 3)}[name]
    posed = candidates.pose(bundled.build(name, shape), shape, images=4)
    masks = np.random.default_rng(0).integers(0, 2, (2, posed.structure.num_channels))
    drawn = posed._replace(few=masks.astype(np.float32))
    other = candidates.beside(drawn)
    masked = candidates.masked(posed.network.apply, posed.structure)
    on_device = posed.structure.unflatten(drawn.few)
    wanted = evaluate(masked, posed.variables, on_device, posed.x, posed.y).loss
    with torch.inference_mode():
        ways = candidates.torch_ways(drawn, other)
        assert len(ways) == 4
        for way, call in ways.items():
            np.testing.assert_allclose(call(), wanted, rtol=1e-4, err_msg=way)


@pytest.mark.slow
def test_torch_pruning_leaves_the_parameters_that_are_counted_here():
    shape = (32, 32, 3)
    posed = candidates.pose(bundled.build("vgg11", shape), shape, images=1)
    mask = np.random.default_rng(0).integers(0, 2, posed.structure.num_channels)
    other = candidates.beside(posed)
    keep = candidates.by_layer(posed.structure, mask)
    pruned = candidates.removed_by_package(other.dense, keep, other.x)
    masks = posed.structure.unflatten(mask.astype(np.float32))
    left = sum(weight.numel() for weight in pruned.parameters())
    assert left == costs.exact(posed.structure, masks, "params")
