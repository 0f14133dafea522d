"""Objectives: what a network can learn from hemispheres that nobody has labelled.

An objective is one module. Its class registers itself when it is defined, wherever that is: in this
package, in a package with the entry point `napari_pcs.objectives`, or in a file given by its path.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from napari_pcs.errors import ModelError
from napari_pcs.models.contract import PARTS, Network, PartName, Segmenter
from napari_pcs.objectives.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_pcs.data.patch import Patch
    from napari_pcs.objectives.task import Batch

__all__ = ["Objective", "ObjectiveConfig", "find_objective", "known_objectives"]

_known: dict[str, type[Objective]] = {}


class ObjectiveConfig(BaseModel):
    """Settings of one objective; every field has a title, a description and bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Objective(Task):
    """One way to train a network without labels: its views, its heads, its loss.

    It does not own the optimiser, the loop or the files of a run.

    Attributes
    ----------
    name
        What it is called on the command line and on disk; defining it registers the class.
    title
        Its name in a form.
    config_class
        Its settings.
    network_class
        What it needs of a network.
    spatial_dims
        Dimensions of the images that it can use.
    trained_parts
        Parts of the network that it trains; all others stay as they are.
    picture_names
        What each image of `picture` shows.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config_class: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    network_class: ClassVar[type[Network]] = Segmenter  # type: ignore[type-abstract]
    spatial_dims: ClassVar[tuple[int, ...]] = (3,)
    trained_parts: ClassVar[tuple[PartName, ...]] = ("stem", "encoder", "decoder")
    picture_names: ClassVar[tuple[str, ...]] = ("given", "target", "found")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            return
        other = _known.get(cls.name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            msg = f"Objective {cls.name}: found it defined in {other.__module__} and in {cls.__module__}, expected one."
            raise TypeError(msg)
        _known[cls.name] = cls

    config: ObjectiveConfig

    def __init__(self, network: Network, config: ObjectiveConfig) -> None:
        """Take a network and train its parts.

        Raises
        ------
        ModelError
            If the network lacks what the objective needs.
        """
        super().__init__()
        if not isinstance(network, self.network_class) or network.config.spatial_dims not in self.spatial_dims:
            dims = " or ".join(f"{d}-D" for d in self.spatial_dims)
            msg = (
                f"Objective {self.name}: found the network {network.config.architecture}"
                f" ({network.config.spatial_dims}-D), expected a {dims} {self.network_class.__name__}."
            )
            raise ModelError(msg)
        self.network, self.config = network, config
        for part in PARTS:
            for _, module in network.modules_of(part):
                module.requires_grad_(part in self.trained_parts)

    @classmethod
    def region(cls, size: tuple[int, ...], config: ObjectiveConfig) -> tuple[int, ...]:  # noqa: ARG003
        """Return how large a patch to draw so that views of this size can be cut from it."""
        return size

    @classmethod
    @abstractmethod
    def sample(
        cls, patch: Patch, size: tuple[int, ...], config: ObjectiveConfig, rng: np.random.Generator
    ) -> dict[str, NDArray[np.generic]]:
        """Turn a patch into what `forward` needs of it.

        Runs while data are read, perhaps in another process, so it knows neither network nor device.
        Everything random belongs here and comes from `rng` (or from torch, which is seeded alike):
        then a sample is the same on every device and in a resumed run.

        Returns
        -------
        dict
            Arrays by name; those of a batch are stacked along a new first axis. May hold `position`.
        """

    def network_image(self, image: Tensor, position: Tensor | None = None) -> Tensor:
        """Append position channels (batch, 3, ...) where the network has them; zeros if None.

        A loss that tells patches from one another must not give it away: where a patch lies would
        answer for what it shows.
        """
        if not self.network.sees_position:
            return image
        if position is None:
            position = image.new_zeros((len(image), 3, *image.shape[2:]))
        return torch.cat([image, position.to(image.dtype)], dim=1)

    def picture(self, batch: Batch) -> Tensor | None:  # noqa: ARG002  an embedding has no picture
        """Return (batch, images, x, y[, z]): what the network was given, was to find, and found.

        None for objectives that do not reconstruct.
        """
        return None


def known_objectives() -> dict[str, type[Objective]]:
    """Return all registered objectives by name."""
    return dict(sorted(_known.items()))


def find_objective(name: str) -> type[Objective]:
    """Return an objective by name.

    Raises
    ------
    ModelError
        If there is none of that name; the message lists those there are.
    """
    if name not in _known:
        msg = f"Objective {name}: found none of that name, expected one of: {', '.join(sorted(_known))}."
        raise ModelError(msg)
    return _known[name]
