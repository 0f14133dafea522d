"""A Swin-UNETR as an OpenVINO model, built operation by operation for one shape of the image.

Converting a trace of the PyTorch network takes minutes, because MONAI's masks of shifted windows
become constants of gigabytes; building the same function from its weights takes under a second.
Imported only where OpenVINO is installed.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
from openvino import opset13 as ops

from napari_pcs.inference.openvino_swin import Tokens, constant, layer_norm, whole_numbers
from napari_pcs.inference.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_pcs.models.swin_unetr import MultiTaskSwinUNETR

__all__ = ["build_model"]

_EPSILON = 1e-5
_SLOPE = 0.01
_STAGES = (1, 2, 3, 4)
_SCALES = ("encoder2", "encoder3", "encoder4")
_ONES, _NONE = [1, 1, 1], [0, 0, 0]
_BLOCK = 4
"""Voxels a side."""


def build_model(network: MultiTaskSwinUNETR, shape: tuple[int, int, int]) -> openvino.Model:
    """Return a network's pass over an image of one shape.

    Parameters
    ----------
    network
        Its weights are copied.
    shape
        Voxels (x, y, z), multiples of 32.

    Returns
    -------
    openvino.Model
        From (1, channel, x, y, z) to the logits (1, 2, x, y, z) and the features (1, channel), float32.

    Raises
    ------
    UnknownWeightsError
        If the network has other weights than a Swin-UNETR, such as adapters that were not merged.
    """
    weights = Weights(network)
    image = ops.parameter([1, network.config.in_channels, *shape], np.float32, name="image")
    scales = _encoded(network, weights.below("backbone.swinViT"), image, shape)
    whole = weights.below("backbone")
    half, quarter, eighth = (
        _residual(whole.below(f"{name}.layer"), x) for name, x in zip(_SCALES, scales, strict=False)
    )
    bottleneck = _residual(whole.below("encoder10.layer"), scales[4])
    x = _up(whole.below("decoder5"), bottleneck, scales[3])
    for name, skip in (("decoder4", eighth), ("decoder3", quarter), ("decoder2", half)):
        x = _up(whole.below(name), x, skip)
    x = _up_at_once(whole.below("decoder1"), x, _residual(whole.below("encoder1.layer"), image))
    head = whole.below("out.conv.conv")
    logits = ops.add(_convolution(x, head["weight"]), constant(head["bias"].reshape(1, -1, 1, 1, 1)))
    features = ops.reduce_mean(bottleneck, whole_numbers([2, 3, 4]), keep_dims=False)
    weights.require_all_used()
    return openvino.Model([logits, features], [image], "swin_unetr")


def _encoded(network: MultiTaskSwinUNETR, weights: Weights, image: Any, shape: tuple[int, int, int]) -> list[Any]:
    """Return the transformer's normalised outputs, from half resolution to the bottleneck."""
    embed = weights.below("patch_embed.proj")
    x = ops.convolution(image, constant(embed["weight"]), [2, 2, 2], _NONE, _NONE, _ONES)
    x = ops.transpose(ops.add(x, constant(embed["bias"].reshape(1, -1, 1, 1, 1))), whole_numbers([0, 2, 3, 4, 1]))
    sides = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    tokens = Tokens(ops.reshape(x, whole_numbers([*sides, embed["bias"].size]), special_zero=False), sides)
    outputs = [_as_image(tokens)]
    for number in _STAGES:
        layer = getattr(network.backbone.swinViT, f"layers{number}")[0]
        stage = weights.below(f"layers{number}.0")
        for n, block in enumerate(layer.blocks):
            tokens = tokens.after_block(block, stage.below(f"blocks.{n}"))
        tokens = tokens.merged(stage.below("downsample"))
        outputs.append(_as_image(tokens))
    return outputs


def _as_image(tokens: Tokens) -> Any:
    """Return tokens as what a convolution reads (1, channel, x, y, z), each normalised over its channels."""
    return ops.unsqueeze(ops.transpose(layer_norm(tokens.values), whole_numbers([3, 0, 1, 2])), whole_numbers([0]))


def _convolution(x: Any, weight: NDArray[np.float32]) -> Any:
    pad = [side // 2 for side in weight.shape[2:]]
    return ops.convolution(x, constant(weight), _ONES, pad, pad, _ONES)


def _instance_norm(x: Any) -> Any:
    """Normalise each channel over the field of view.

    OpenVINO's own operation sums millions of voxels one after the other in single precision: where
    the background is constant, errors all go one way, and the spread is off by half a percent. So
    blocks are averaged first, then blocks of their averages, and so on.
    """
    if not _divides_into_blocks(x):
        return ops.mvn(x, whole_numbers([2, 3, 4]), normalize_variance=True, eps=_EPSILON, eps_mode="INSIDE_SQRT")
    centred = ops.subtract(x, _mean(x))
    spread = ops.add(_mean(ops.multiply(centred, centred)), constant(_EPSILON))
    return ops.multiply(centred, ops.power(spread, constant(-0.5)))


def _mean(x: Any) -> Any:
    while _divides_into_blocks(x):
        x = ops.avg_pool(x, [_BLOCK] * 3, _NONE, _NONE, [_BLOCK] * 3, exclude_pad=True, rounding_type="floor")
    return ops.reduce_mean(x, whole_numbers([2, 3, 4]), keep_dims=True)


def _divides_into_blocks(x: Any) -> bool:
    return not any(side % _BLOCK for side in list(x.get_output_shape(0))[2:])


def _leaky(x: Any) -> Any:
    return ops.prelu(x, constant([_SLOPE]))


def _residual(weights: Weights, x: Any) -> Any:
    """MONAI's UnetResBlock."""
    shortcut = _instance_norm(_convolution(x, weights["conv3.conv.weight"])) if "conv3.conv.weight" in weights else x
    return _joined(weights, _convolution(x, weights["conv1.conv.weight"]), shortcut)


def _joined(weights: Weights, first: Any, shortcut: Any) -> Any:
    """Finish a residual block from its first convolution and its shortcut."""
    x = _convolution(_leaky(_instance_norm(first)), weights["conv2.conv.weight"])
    return _leaky(ops.add(_instance_norm(x), shortcut))


def _up(weights: Weights, x: Any, skip: Any) -> Any:
    """MONAI's UnetrUpBlock."""
    larger = ops.convolution_backprop_data(x, constant(weights["transp_conv.conv.weight"]), [2, 2, 2])
    return _residual(weights.below("conv_block"), ops.concat([larger, skip], 1))


def _up_at_once(weights: Weights, x: Any, skip: Any) -> Any:
    """MONAI's UnetrUpBlock; enlarging and convolving what was enlarged is one operation.

    A third of the arithmetic of this block, and no copy at full resolution.
    """
    enlarge, block = weights["transp_conv.conv.weight"], weights.below("conv_block")
    middle = enlarge.shape[1]
    first, third = block["conv1.conv.weight"], block["conv3.conv.weight"]
    own = constant(_composed(enlarge, first[:, :middle]))
    larger = ops.convolution_backprop_data(x, own, [2, 2, 2], pads_begin=_ONES, pads_end=_ONES)
    one = ops.add(larger, _convolution(skip, first[:, middle:]))
    own = constant(_composed(enlarge, third[:, :middle]))
    other = ops.add(ops.convolution_backprop_data(x, own, [2, 2, 2]), _convolution(skip, third[:, middle:]))
    return _joined(block, one, _instance_norm(other))


def _composed(enlarge: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the transposed convolution that does one of stride 2, and a convolution of its result.

    Parameters
    ----------
    enlarge
        (in, middle, 2, 2, 2), applied with stride 2.
    after
        (out, middle, k, k, k), applied with stride 1 and padded by (k - 1) / 2.

    Returns
    -------
    ndarray
        (in, out, k + 1, k + 1, k + 1), to be applied with stride 2 and padded by (k - 1) / 2.
    """
    side = after.shape[-1]
    mirrored = after[:, :, ::-1, ::-1, ::-1].astype(np.float64)
    composed = np.zeros((len(enlarge), len(after), *[side + 1] * 3))
    for a, b, c in product(range(2), repeat=3):
        part = np.tensordot(enlarge[:, :, a, b, c].astype(np.float64), mirrored, axes=(1, 1))
        composed[:, :, a : a + side, b : b + side, c : c + side] += part
    return composed.astype(np.float32)
