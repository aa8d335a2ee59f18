"""Fully connected networks: LeNet-300-100 and the CIFAR-10 MLP."""

from flax import linen as nn
from jax import Array


class MLP(nn.Module):
    """Fully connected layers `fc1`, `fc2`, ... with ReLU between them.

    With `widths=(300, 100)` on 28x28 images this is LeNet-300-100 (LeCun et al., "Gradient-based
    learning applied to document recognition", 1998, section III.C.4, with ReLU in place of tanh):
    266,610 parameters.

    Attributes:
        widths: Neurons of each hidden layer.
        num_classes: Size of the output layer.
    """

    widths: tuple[int, ...]
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps flattened features `[B, features]` to logits `[B, num_classes]`."""
        del train  # no layer here behaves differently in training
        for number, width in enumerate(self.widths, start=1):
            x = nn.relu(nn.Dense(width, name=f"fc{number}")(x))
        return nn.Dense(self.num_classes, name=f"fc{len(self.widths) + 1}")(x)
