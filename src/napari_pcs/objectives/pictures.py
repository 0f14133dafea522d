"""Random views of 2-D images, the classic set: crop, flip, colour, grey, blur, and ImageNet's normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from napari_pcs.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augmentation2D", "augment_picture", "normalise"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_ATTEMPTS = 10


class Augmentation2D(BaseModel):
    """How far two views of one image may differ; the defaults are SimCLR's for ImageNet (Chen et al. 2020, App. A)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: Literal[1, 3] = Field(
        3,
        title="Colours",
        description="Channels of a view; grey images are repeated to three, coloured ones averaged to one.",
    )
    smallest_crop: float = Field(
        0.08, gt=0, le=1, title="Smallest crop", description="Smallest share of the image's area in a view."
    )
    largest_crop: float = Field(
        1.0, gt=0, le=1, title="Largest crop", description="Largest share of the image's area in a view."
    )
    ratio: float = Field(
        4 / 3, ge=1, le=4, title="Aspect", description="Largest ratio of a crop's sides, either way round."
    )
    flip: float = Field(0.5, ge=0, le=1, title="Flip", description="Probability that left and right change places.")
    jitter: float = Field(0.8, ge=0, le=1, title="Jitter", description="Probability that colours change.")
    brightness: float = Field(0.8, ge=0, le=1, title="Brightness", description="Largest change, as a share.")
    contrast: float = Field(0.8, ge=0, le=1, title="Contrast", description="Largest change, as a share.")
    saturation: float = Field(0.8, ge=0, le=1, title="Saturation", description="Largest change, as a share.")
    hue: float = Field(0.2, ge=0, le=0.5, title="Hue", description="Largest change, in turns of the colour circle.")
    grey: float = Field(0.2, ge=0, le=1, title="Grey", description="Probability that colour is taken away.")
    blur: float = Field(0.5, ge=0, le=1, title="Blur", description="Probability of a Gaussian blur.")
    blur_sigma: float = Field(
        2.0, ge=0.1, le=10, title="Blur width", description="Largest standard deviation in pixels; 0.1 is the smallest."
    )


def augment_picture(
    image: NDArray[np.float32],
    size: tuple[int, ...],
    rng: np.random.Generator,
    settings: Augmentation2D,
    scale: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Return a random view of a 2-D image.

    Parameters
    ----------
    image
        (1 or 3, height, width) in [0, 1].
    size
        Pixels (height, width) of the view.
    rng
        Decides everything; torch's own generator is left alone.
    settings
        How far views differ.
    scale
        Smallest and largest share of the area in a view, instead of the settings'.

    Returns
    -------
    NDArray
        (settings.channels, *size) float32, normalised by ImageNet's mean and deviation.

    Raises
    ------
    InputError
        If the image is of another shape.
    """
    from kornia.geometry.transform import resize

    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise InputError(found=f"an image of shape {image.shape}", expected="(1 or 3, height, width)")
    shares = scale or (settings.smallest_crop, settings.largest_crop)
    rows, columns = _crop(image.shape[1:], rng, shares, settings.ratio)
    view = resize(torch.from_numpy(np.ascontiguousarray(image[None, :, rows, columns])), tuple(size), antialias=True)
    if rng.random() < settings.flip:
        view = view.flip(-1)
    view = view.expand(-1, 3, -1, -1)
    if rng.random() < settings.jitter:
        view = _jitter(view, rng, settings)
    if rng.random() < settings.grey:
        view = _grey(view).expand(-1, 3, -1, -1)
    if rng.random() < settings.blur:
        view = _blur(view, rng.uniform(0.1, settings.blur_sigma))
    view = view if settings.channels == 3 else _grey(view)
    return np.asarray(normalise(view)[0].numpy(), dtype=np.float32)


def normalise(image: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its deviation; grey by their averages over the three colours.

    Parameters
    ----------
    image
        (batch, 1 or 3, height, width) in [0, 1].
    """
    from kornia.enhance import normalize

    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    if image.shape[1] == 1:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return torch.as_tensor(normalize(image, mean, std))


def _crop(
    shape: tuple[int, ...], rng: np.random.Generator, shares: tuple[float, float], ratio: float
) -> tuple[slice, slice]:
    """Draw a crop: area uniform, ratio of the sides uniform in its logarithm (Szegedy et al. 2015, section 6)."""
    height, width = shape
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*shares)
        aspect = np.exp(rng.uniform(-np.log(ratio), np.log(ratio)))
        tall, wide = max(1, round(np.sqrt(area / aspect))), max(1, round(np.sqrt(area * aspect)))
        if tall <= height and wide <= width:
            top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
            return slice(top, top + tall), slice(left, left + wide)
    tall, wide = min(height, round(width * ratio)), min(width, round(height * ratio))
    top, left = (height - tall) // 2, (width - wide) // 2
    return slice(top, top + tall), slice(left, left + wide)


def _jitter(image: Tensor, rng: np.random.Generator, settings: Augmentation2D) -> Tensor:
    """Change brightness, contrast, saturation and hue in a random order."""
    from kornia import enhance

    def factor(largest: float) -> float:
        return float(rng.uniform(1 - largest, 1 + largest))

    changes = (
        (enhance.adjust_brightness_accumulative, factor(settings.brightness)),
        (enhance.adjust_contrast_with_mean_subtraction, factor(settings.contrast)),
        (enhance.adjust_saturation_with_gray_subtraction, factor(settings.saturation)),
        (enhance.adjust_hue, 2 * np.pi * float(rng.uniform(-settings.hue, settings.hue))),
    )
    for i in rng.permutation(len(changes)):
        change, amount = changes[i]
        image = change(image, amount)
    return image


def _grey(image: Tensor) -> Tensor:
    from kornia.color import rgb_to_grayscale

    return torch.as_tensor(rgb_to_grayscale(image))


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Blur with a kernel of a tenth of the side, as SimCLR's, or three pixels where that is more."""
    from kornia.filters import gaussian_blur2d

    kernel = tuple(max(3, side // 10 | 1) for side in image.shape[-2:])
    return torch.as_tensor(gaussian_blur2d(image, kernel, (sigma, sigma)))
