"""What a run's model says of itself, so that it can be built again and used."""

from typing import Any

import numpy as np

from jaxprune.networks.network import Network
from jaxprune.training import data


def describe(network: Network, dataset: data.Dataset, prune_inputs: bool) -> dict[str, Any]:
    """What `networks.export.rebuild` has to know of a model, and a user of its inputs.

    Args:
        network: The dense model.
        dataset: What it was trained on.
        prune_inputs: Whether its inputs were traced as prunable.

    Returns:
        The metadata for `save`.
    """
    return {
        "model": network.name,
        "dataset": dataset.name,
        "classes": dataset.num_classes,
        "image_shape": list(dataset.train.images.shape[1:]),
        "prune_inputs": prune_inputs,
        "inputs": {
            "what": ("uint8 images / 255" if dataset.scale == 255 else "images as floats")
            + ", minus mean, divided by std"
            + (", flattened" if network.flat else ""),
            "scale": dataset.scale,
            "mean": np.asarray(dataset.mean).tolist(),
            "std": np.asarray(dataset.std).tolist(),
        },
    }
