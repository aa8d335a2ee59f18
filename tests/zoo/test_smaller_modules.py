"""Removal is the real thing: a module that was built with smaller widths computes the same.

Parameters are sliced by hand here, by what the architecture says each axis is. A smaller module
knows nothing of masks: its LayerNorm, GroupNorm and BatchNorm see the channels that are left.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from dependency.checks import assert_close, quick_jit
from jaxprune import Structure, compact, masked
from zoo import linen_classifiers, linen_images, linen_mobile, linen_sequences, linen_tokens
from zoo import linen_transforms as transforms
from zoo.removal import traced

Keep = np.ndarray | None
"""bool [size]: the positions of an axis that are kept; None keeps all."""

Axes = Mapping[str, tuple[Keep, ...]]
"""{layer or leaf: its last axes}. Leaves that are not named stay whole."""


class Picker:
    """Chooses how many channels of a group stay, and remembers the masks."""

    def __init__(self, structure: Structure):
        self.structure = structure
        self.masks = structure.full_masks()
        self._random = np.random.default_rng(4)

    def __call__(self, layer: str, size: int, keep: int) -> np.ndarray:
        """Keeps `keep` channels of the group of that size which the layer belongs to."""
        groups = [g for g in self.structure.groups if layer in g.layers and g.size == size]
        assert groups, f"no group of {size} channels has the layer {layer}:\n{self.structure}"
        mask = np.zeros(size, bool)
        mask[self._random.permutation(size)[:keep]] = True
        assert self.masks[groups[0].name].all()
        self.masks[groups[0].name] = mask.astype(np.float32)
        return mask


def cut(structure: Structure, variables: Any, axes: Axes) -> Any:
    """The variables, sliced by hand."""
    leaves, treedef = jax.tree.flatten(variables)
    unused = set(axes)
    small = []
    for path, leaf in zip(structure.paths, leaves, strict=True):
        name = path if path in axes else path.rpartition("/")[0]
        unused.discard(name)
        keeps = axes.get(name, ())[-leaf.ndim :] if leaf.ndim else ()
        keeps = (None,) * (leaf.ndim - len(keeps)) + tuple(keeps)
        index = [
            np.arange(size) if keep is None else np.flatnonzero(keep)
            for size, keep in zip(leaf.shape, keeps, strict=True)
        ]
        assert all(k is None or len(k) == n for k, n in zip(keeps, leaf.shape, strict=True)), path
        small.append(np.asarray(leaf)[np.ix_(*index)])
    assert not unused, f"no such layers: {unused}"
    return jax.tree.unflatten(treedef, small)


def check(name: str, build: Callable[[Picker], tuple[Any, Axes]]) -> None:
    """Compact, masked and the smaller module agree; `build` returns its apply and the axes."""
    network, structure = traced(name)
    pick = Picker(structure)
    apply, axes = build(pick)
    by_hand = cut(structure, network.variables, axes)
    small = compact(network.apply, structure, network.variables, pick.masks)
    assert_close(small.params, by_hand, tolerance=0)
    expected = quick_jit(apply)(by_hand, network.x)
    whole = quick_jit(network.apply)(network.variables, network.x)
    assert float(np.abs(whole - expected).max()) > 1e-3
    assert_close(quick_jit(small)(small.params, network.x), expected, tolerance=1e-5)
    function = quick_jit(masked(network.apply, structure))
    assert_close(function(network.variables, pick.masks, network.x), expected, tolerance=1e-5)


def inference(module: Any) -> Callable[[Any, Any], Any]:
    return lambda variables, x: module.apply(variables, x, train=False)


def numbered(layers: Mapping[str, tuple[Keep, ...]], norm: str) -> dict[str, tuple[Keep, ...]]:
    """Layers, each with a normalisation of the same number behind it."""
    norms = {name.replace("Conv", norm): (axes[-1],) for name, axes in layers.items()}
    return {**layers, **norms}


def test_vgg():
    def build(pick):
        a, b, c = pick("Conv_0", 6, 4), pick("Conv_1", 8, 5), pick("Conv_2", 12, 7)
        d = pick("Dense_0", 10, 6)
        convolutions = numbered(
            {"Conv_0": (None, a), "Conv_1": (a, b), "Conv_2": (b, c)}, "BatchNorm"
        )
        dense = {"Dense_0": (np.tile(c, 2 * 2), d), "Dense_1": (d, None)}
        module = linen_classifiers.VGG(layers=(4, 5, "M", 7, "M"), hidden=6)
        return inference(module), {**convolutions, **dense}

    check("vgg", build)


def residual_axes(norm, first, second, inner1, inner2):
    """The axes of a ResNet with a basic block in each of two stages."""
    layers = {
        "ResNetBlock_0/Conv_0": (first, inner1),
        "ResNetBlock_0/Conv_1": (inner1, first),
        "ResNetBlock_1/Conv_0": (first, inner2),
        "ResNetBlock_1/Conv_1": (inner2, second),
    }
    return numbered(layers, norm) | {
        "conv_init": (None, first),
        "bn_init": (first,),
        "ResNetBlock_1/conv_proj": (first, second),
        "ResNetBlock_1/norm_proj": (second,),
        "Dense_0": (second, None),
    }


def test_resnet():
    def build(pick):
        first, second = pick("conv_init", 8, 5), pick("ResNetBlock_1/conv_proj", 16, 10)
        inner = [
            pick("ResNetBlock_0/Conv_0", 8, 5),
            pick("ResNetBlock_1/Conv_0", 16, 10),
            pick("ResNetBlock_2/Conv_0", 16, 10),
        ]
        axes = residual_axes("BatchNorm", first, second, *inner[:2])
        last = {"Conv_0": (second, inner[2]), "Conv_1": (inner[2], second)}
        axes |= {f"ResNetBlock_2/{k}": v for k, v in numbered(last, "BatchNorm").items()}
        module = linen_classifiers.ResNet((1, 2), linen_classifiers.ResNetBlock, 5)
        return inference(module), axes

    check("resnet", build)


def test_resnet_bottleneck():
    def build(pick):
        before, axes = pick("conv_init", 4, 3), {}
        axes |= {"conv_init": (None, before), "bn_init": (before,)}
        for i, (size, keep) in enumerate([(4, 3), (8, 6)]):
            block = f"BottleneckResNetBlock_{i}"
            a, b = pick(f"{block}/Conv_0", size, keep), pick(f"{block}/Conv_1", size, keep)
            out = pick(f"{block}/Conv_2", 4 * size, 4 * keep)
            layers = {"Conv_0": (before, a), "Conv_1": (a, b), "Conv_2": (b, out)}
            axes |= {f"{block}/{k}": v for k, v in numbered(layers, "BatchNorm").items()}
            axes |= {f"{block}/conv_proj": (before, out), f"{block}/norm_proj": (out,)}
            before = out
        module = linen_classifiers.ResNet((1, 1), linen_classifiers.BottleneckResNetBlock, 3)
        return inference(module), {**axes, "Dense_0": (before, None)}

    check("resnet_bottleneck", build)


@pytest.mark.slow
def test_groupnorm():
    """Four normalisation groups lose one of their channels each, or one of them goes."""
    _, structure = traced("resnet_groupnorm")
    sizes = {group.size for group in structure.groups if "conv_init" in group.layers}

    def channels_of_every_group(pick):
        first, second = pick("conv_init", 3, 2), pick("ResNetBlock_1/conv_proj", 6, 4)
        inner = pick("ResNetBlock_0/Conv_0", 3, 2), pick("ResNetBlock_1/Conv_0", 6, 4)
        tiled = [np.tile(keep, 4) for keep in (first, second, *inner)]
        module = linen_classifiers.ResNet((1, 1), linen_classifiers.ResNetBlock, 8, groups=4)
        return inference(module), residual_axes("GroupNorm", *tiled)

    def whole_groups(pick):
        first, second = pick("conv_init", 4, 3), pick("ResNetBlock_1/conv_proj", 4, 3)
        inner = pick("ResNetBlock_0/Conv_0", 4, 3), pick("ResNetBlock_1/Conv_0", 4, 3)
        keeps = (first, 3), (second, 6), (inner[0], 3), (inner[1], 6)
        repeated = [np.repeat(keep, size) for keep, size in keeps]
        module = linen_classifiers.ResNet((1, 1), linen_classifiers.ResNetBlock, 9, groups=3)
        return inference(module), residual_axes("GroupNorm", *repeated)

    assert sizes & {3, 4}, structure
    if 3 in sizes:
        check("resnet_groupnorm", channels_of_every_group)
    if 4 in sizes:
        check("resnet_groupnorm", whole_groups)


@pytest.mark.slow
def test_resnext():
    """Grouped convolutions lose channels of every group, or whole groups."""
    _, structure = traced("resnext")
    inner = "BottleneckResNetBlock_0/Conv_0"
    sizes = {group.size for group in structure.groups if inner in group.layers}

    def smaller(pick, filters, cardinality, cut_block):
        before = pick("conv_init", 12, filters)
        axes = {"conv_init": (None, before), "bn_init": (before,)}
        for i in range(2):
            block = f"BottleneckResNetBlock_{i}"
            per_group, a, b = cut_block(pick, block, 2**i)
            out = pick(f"{block}/Conv_2", 20, 13)
            layers = {"Conv_0": (before, a), "Conv_1": (per_group, b), "Conv_2": (b, out)}
            axes |= {f"{block}/{k}": v for k, v in numbered(layers, "BatchNorm").items()}
            axes |= {f"{block}/conv_proj": (before, out), f"{block}/norm_proj": (out,)}
            before = out
        block = partial(
            linen_classifiers.BottleneckResNetBlock, cardinality=cardinality, outputs=13
        )
        module = linen_classifiers.ResNet((1, 1), block, num_filters=filters)
        return inference(module), {**axes, "Dense_0": (before, None)}

    def channels_of_every_group(pick, block, factor):
        a, b = (pick(f"{block}/Conv_{j}", 3 * factor, 2 * factor) for j in (0, 1))
        return a, np.tile(a, 4), np.tile(b, 4)

    def whole_groups(pick, block, factor):
        keep = np.repeat(pick(f"{block}/Conv_0", 4, 3), 3 * factor)
        return None, keep, keep

    assert sizes & {3, 4}, structure
    if 3 in sizes:
        check("resnext", lambda pick: smaller(pick, 8, 4, channels_of_every_group))
    if 4 in sizes:
        check("resnext", lambda pick: smaller(pick, 9, 3, whole_groups))


def test_convnext():
    """LayerNorm divides by the channels that are left."""

    def build(pick):
        stem, down = pick("stem", 6, 4), pick("downsample1", 10, 7)
        hidden = pick("stage0_block0/pwconv1", 24, 11), pick("stage1_block0/pwconv1", 40, 17)
        axes = {"stem": (None, stem), "stem_norm": (stem,), "downsample1_norm": (stem,)}
        axes |= {"downsample1": (stem, down), "norm": (down,), "head": (down, None)}
        for i, (outer, inner) in enumerate(zip((stem, down), hidden, strict=True)):
            block = f"stage{i}_block0"
            axes |= {
                f"{block}/dwconv": (None, outer),
                f"{block}/norm": (outer,),
                f"{block}/pwconv1": (outer, inner),
                f"{block}/pwconv2": (inner, outer),
                f"{block}/gamma": (outer,),
            }
        return inference(linen_classifiers.ConvNeXt(dims=(4, 7), hidden=(11, 17))), axes

    check("convnext", build)


@pytest.mark.slow
def test_mobilenet_v2():
    def build(pick):
        outputs = pick("block0/project/Conv_0", 6, 4), pick("block1/project/Conv_0", 8, 5)
        hidden = pick("block1/expand/Conv_0", 18, 12), pick("block2/expand/Conv_0", 24, 15)
        layers = {
            "block0/project": (None, outputs[0]),
            "block1/expand": (outputs[0], hidden[0]),
            "block1/depthwise": (None, hidden[0]),
            "block1/project": (hidden[0], outputs[1]),
            "block2/expand": (outputs[1], hidden[1]),
            "block2/depthwise": (None, hidden[1]),
            "block2/project": (hidden[1], outputs[1]),
            "last": (outputs[1], None),
        }
        axes = numbered({f"{k}/Conv_0": v for k, v in layers.items()}, "BatchNorm")
        module = linen_mobile.MobileNetV2(settings=((1, 4, 1), (3, 5, 2), (3, 5, 1)))
        return inference(module), axes

    check("mobilenet_v2", build)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "unet_resize"])
def test_unet(name):
    """What is concatenated is read as skip first, upsampled behind it."""
    transposed = name == "unet"

    def build(pick):
        layers, skips, upsampled, before = {}, [], {}, None

        def double_conv(block, size, keep, before):
            a, b = pick(f"{block}/Conv_0", size, keep), pick(f"{block}/Conv_1", size, keep)
            layers.update({f"{block}/Conv_0": (before, a), f"{block}/Conv_1": (a, b)})
            return b

        for i, (size, keep) in enumerate([(6, 4), (8, 5)]):
            before = double_conv(f"down{i}", size, keep, before)
            skips.append(before)
        before = double_conv("bottom", 12, 7, before)
        for i, (size, keep) in ((1, (8, 5)), (0, (6, 4))):
            if transposed:
                up = pick(f"upsample{i}", size, keep)
                upsampled[f"upsample{i}"] = (before, up)
                before = up
            before = double_conv(f"up{i}", size, keep, np.concatenate([skips[i], before]))
        axes = {**numbered(layers, "BatchNorm"), **upsampled, "segment": (before, None)}
        module = linen_images.UNet(features=(4, 5), bottom=7, transposed=transposed)
        return inference(module), axes

    check(name, build)


def test_autoencoder():
    """An axis that is split into rows, columns and channels loses channels."""

    def build(pick):
        a, b, z = pick("encode0", 8, 5), pick("encode1", 12, 8), pick("latent", 7, 4)
        c, d = pick("unflatten", 10, 6), pick("decode0", 9, 5)
        axes = {
            "encode0": (None, a),
            "encode1": (a, b),
            "latent": (np.tile(b, 2 * 2), z),
            "unflatten": (z, np.tile(c, 2 * 2)),
            "decode0": (c, d),
            "decode1": (d, None),
        }
        return inference(linen_images.Autoencoder((5, 8), 4, (6, 5))), axes

    check("autoencoder", build)


@pytest.mark.slow
def test_vit():
    """Embedding, heads and hidden widths; the size of a head stays, since it scales the scores."""

    def build(pick):
        e = pick("patches", 10, 7)
        axes = {"patches": (None, e), "norm": (e,), "head": (e, None)}
        axes |= {"class_token": (None, None, e), "positions": (None, None, e)}
        for i, (size, keep) in enumerate([(14, 9), (16, 5)]):
            block = f"block{i}"
            heads = pick(f"{block}/attention/query", 3, 2)
            hidden = pick(f"{block}/mlp/Dense_0", size, keep)
            projection = (e, heads, None)
            axes |= {
                f"{block}/norm1": (e,),
                f"{block}/attention/query": projection,
                f"{block}/attention/key": projection,
                f"{block}/attention/value": projection,
                f"{block}/attention/out": (heads, None, e),
                f"{block}/norm2": (e,),
                f"{block}/mlp/Dense_0": (e, hidden),
                f"{block}/mlp/Dense_1": (hidden, e),
            }
        return inference(linen_tokens.ViT(embedding=7, heads=2, hidden=(9, 5))), axes

    check("vit", build)


def test_mixer():
    def build(pick):
        e = pick("stem", 10, 7)
        axes = {"stem": (None, e), "norm": (e,), "head": (e, None)}
        for i, (tokens, channels) in enumerate([((6, 4), (14, 9)), ((7, 3), (16, 5))]):
            block = f"block{i}"
            t = pick(f"{block}/token_mixing/Dense_0", *tokens)
            c = pick(f"{block}/channel_mixing/Dense_0", *channels)
            axes |= {
                f"{block}/LayerNorm_0": (e,),
                f"{block}/token_mixing/Dense_0": (None, t),
                f"{block}/token_mixing/Dense_1": (t, None),
                f"{block}/LayerNorm_1": (e,),
                f"{block}/channel_mixing/Dense_0": (e, c),
                f"{block}/channel_mixing/Dense_1": (c, e),
            }
        return inference(linen_tokens.Mixer(7, (4, 3), (9, 5))), axes

    check("mixer", build)


def test_temporal_cnn():
    def build(pick):
        outer, last = pick("block0/shortcut", 8, 5), pick("block2/shortcut", 10, 6)
        inner = [pick(f"block{i}/Conv_0", *sizes) for i, sizes in enumerate([(8, 5)] * 2)]
        inner.append(pick("block2/Conv_0", 10, 6))
        outputs = [outer, outer, last]
        axes = {"block0/shortcut": (None, outer), "block2/shortcut": (outer, last)}
        before = None
        for i, (hidden, after) in enumerate(zip(inner, outputs, strict=True)):
            axes |= {f"block{i}/Conv_0": (before, hidden), f"block{i}/Conv_1": (hidden, after)}
            before = after
        module = linen_sequences.TemporalCNN(features=(5, 5, 6))
        return inference(module), {**axes, "head": (last, None)}

    check("temporal_cnn", build)


def test_gru():
    def build(pick):
        e, h = pick("embedding", 7, 4), pick("GRUCell_0/hn", 9, 5)
        axes = {f"GRUCell_0/i{gate}": (e, h) for gate in "rzn"}
        axes |= {f"GRUCell_0/h{gate}": (h, h) for gate in "rzn"}
        axes |= {"embedding": (None, e), "head": (h, None)}
        return inference(linen_sequences.TextGRU(4, 5)), axes

    check("gru_embedding", build)


def test_lstm():
    def build(pick):
        hidden = {"forward": pick("forward/hi", 8, 5), "backward": pick("backward/hi", 6, 4)}
        d = pick("hidden", 10, 6)
        axes = {
            f"{cell}/{kind}{gate}": (None if kind == "i" else h, h)
            for cell, h in hidden.items()
            for kind in "ih"
            for gate in "ifgo"
        }
        axes |= {"hidden": (np.concatenate(list(hidden.values())), d), "head": (d, None)}
        return inference(linen_sequences.BidirectionalLSTM(5, 4, 6)), axes

    check("lstm_bidirectional", build)


def test_layernorm_mlp():
    def build(pick):
        a, b = pick("Dense_0", 12, 7), pick("Dense_1", 9, 5)
        axes = {"Dense_0": (None, a), "LayerNorm_0": (a,), "Dense_1": (a, b)}
        axes |= {"LayerNorm_1": (b,), "Dense_2": (b, None)}
        return inference(transforms.DropoutMLP(hidden=(7, 5))), axes

    check("dropout_mlp", build)


def test_scanned_mlp():
    """Stacked blocks lose the same channels; RMSNorm divides by those that are left."""

    def build(pick):
        e, h = pick("embed", 8, 5), pick("blocks/up", 13, 7)
        axes = {"embed": (None, e), "head": (e, None), "blocks/norm": (e,)}
        axes |= {"blocks/up/kernel": (e, h), "blocks/up/bias": (h,)}
        axes |= {"blocks/down/kernel": (h, e), "blocks/down/bias": (e,)}
        return inference(transforms.ScannedMLP(features=5, hidden=7)), axes

    check("scanned_mlp", build)


@pytest.mark.slow
def test_llama():
    """A plain function takes its sizes from its parameters: the same function is the smaller one.

    A key and value head goes with the two query heads that read it.
    """
    network, _ = traced("llama")

    def build(pick):
        e, kv = pick("embedding", 10, 7), pick("layers/key", 3, 2)
        hidden = pick("layers/gate", 14, 9)
        axes = {
            "embedding": (None, e),
            "layers/norm1": (e,),
            "layers/query": (e, np.repeat(kv, 2), None),
            "layers/key": (e, kv, None),
            "layers/value": (e, kv, None),
            "layers/out": (np.repeat(kv, 2), None, e),
            "layers/norm2": (e,),
            "layers/gate": (e, hidden),
            "layers/up": (e, hidden),
            "layers/down": (hidden, e),
            "norm": (e,),
            "head": (e, None),
        }
        return network.apply, axes

    check("llama", build)


def test_cond():
    network, _ = traced("cond_experts")

    def build(pick):
        h, e = pick("stem", 12, 7), pick("expert1", 9, 5)
        axes = {"stem": (None, h), "expert1": (h, e), "expert2": (h, e), "head": (e, None)}
        return network.apply, axes

    check("cond_experts", build)


@pytest.mark.slow
def test_equinox_transformer():
    """Heads are runs of consecutive rows of a projection."""
    eqx = pytest.importorskip("equinox")
    from jaxprune.networks.adapters import from_equinox
    from zoo.equinox_networks import Transformer

    def build(pick):
        e, h = pick("embed", 10, 7), pick("block/attention/query_proj", 3, 2)
        hidden = pick("block/mlp/layers/0", 14, 9)
        rows, values = np.repeat(h, 4), np.repeat(h, 5)
        axes = {
            "embed/weight": (e, None),
            "embed/bias": (e,),
            "block/norm1": (e,),
            "block/attention/query_proj/weight": (rows, e),
            "block/attention/key_proj/weight": (rows, e),
            "block/attention/value_proj/weight": (values, e),
            "block/attention/output_proj/weight": (e, values),
            "block/norm2": (e,),
            "block/mlp/layers/0/weight": (hidden, e),
            "block/mlp/layers/0/bias": (hidden,),
            "block/mlp/layers/1/weight": (e, hidden),
            "block/mlp/layers/1/bias": (e,),
            "head/weight": (None, e),
        }
        model = eqx.filter_jit(Transformer)(jax.random.key(0), width=7, heads=2, hidden=9)
        smaller, template = from_equinox(model)

        def apply(params, x):
            leaves = jax.tree.leaves(params)
            return smaller(jax.tree.unflatten(jax.tree.structure(template), leaves), x)

        return apply, axes

    check("equinox_transformer", build)
