"""The same computation in operations that the device is faster at.

On a CPU, XLA convolves a map that is smaller than the kernel many times slower than a larger one
(`experiments/results/small_maps/cpu.md`): the 2 x 2 maps at the end of a VGG on 32 x 32 images take
most of its time. `lower` turns each such convolution into matrix products: into one, where each
output reads each input, or into one for each position of the kernel. They multiply nothing by
padding, and their derivatives are matrix products too. So it does with kernels of a single
position: XLA computes these as fast as products, but not the derivatives with respect to their
weights (`experiments/results/small_maps/cpu.md`).

For functions that are differentiated, `lower` also writes the remaining convolutions so that XLA
computes their gradients quickly (`gradients`).
"""

from jaxprune.scoring.lowering.convolutions import by_one_product, by_positions
from jaxprune.scoring.lowering.functions import lower, lower_known, switched_on

__all__ = ["by_one_product", "by_positions", "lower", "lower_known", "switched_on"]
