"""LeNet-5 in its Caffe form; LeNet-300-100 is an `mlp.MLP`."""

from flax import linen as nn
from jax import Array


class LeNet5(nn.Module):
    """LeNet-5 as the pruning literature uses it: the Caffe variant, 20-50-500.

    Two 5x5 convolutions without padding, each followed by 2x2 max-pooling, then two dense layers;
    ReLU after `fc1` only, as in Caffe's `lenet.prototxt`. 430,500 weights and 580 biases on 28x28
    images. (The network of LeCun et al., 1998, has 6-16-120-84 units and is not this one.)

    Attributes:
        num_classes: Size of the output layer.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""
        del train  # no layer here behaves differently in training
        x = nn.Conv(20, (5, 5), padding="VALID", name="conv1")(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.Conv(50, (5, 5), padding="VALID", name="conv2")(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(500, name="fc1")(x))
        return nn.Dense(self.num_classes, name="fc2")(x)
