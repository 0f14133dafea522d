"""What tuning reads in each step: patches of frozen values, computed once and kept.

Which values are frozen follows from what trains (`models.graph`). They are computed on the whole
hemisphere, as prediction does, since normalisation and attention see the field of view; then
patches are cut out of them. So a step runs only what trains, after the values that the whole
network would give there.
"""

from __future__ import annotations

import copy
import json
import time
from collections import OrderedDict
from contextlib import ExitStack
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_pcs.data.bundles import bundle_key
from napari_pcs.errors import InputError, ModelError
from napari_pcs.models.device import free_memory
from napari_pcs.models.field_of_view import matched, measured
from napari_pcs.models.graph import DECODED, FEATURES, IMAGE, evaluate
from napari_pcs.models.interrupt import interruptible
from napari_pcs.training.examples import Example, build_example
from napari_pcs.training.frozen import value_names, values_digest
from napari_pcs.training.places import Box, places
from napari_pcs.training.step import is_out_of_memory
from napari_pcs.training.views import view_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_pcs.data.bundles import Bundles
    from napari_pcs.models.contract import Segmenter
    from napari_pcs.objectives.task import Batch
    from napari_pcs.stop import StopToken
    from napari_pcs.training.config import TuneConfig
    from napari_pcs.training.labelled import Labelled

__all__ = ["NORM", "VALUE", "FrozenValues", "Item"]

VALUE = "value/"
"""Prefix of the values' names in a batch."""
NORM = "norm/"
"""Prefix of the names of corrections of normalisations."""
_FORMAT = "tuning patches 4"
_FINEST_STRIDE = 8
_MEMORY_SHARE = 0.8
_HALF_MAX = 6e4
_IN_MEMORY_BYTES = 2**30
_Arrays = dict[str, "NDArray[Any]"]


class Item(NamedTuple):
    """One patch: of which case, of which of its views, at which of its places."""

    case: Labelled
    view: int
    place: int


class FrozenValues:
    """Patches of labelled cases as the part of a network that trains needs them.

    Parameters
    ----------
    network
        Prepared by a strategy, with the weights that tuning starts from, on its device; a copy of it
        computes, so that it may train meanwhile.
    config
        Patches, views and seed.
    bundles
        Where values are kept, as float16; without it they are computed anew each time, as float32.
    stop
        Setting it ends a pass over a hemisphere soon.

    Attributes
    ----------
    spent_s
        Seconds that computing has taken so far.

    Raises
    ------
    InputError
        If the encoder trains and a patch is no more than one of its coarsest cells, over which nothing
        can be normalised.
    """

    def __init__(self, network: Segmenter, config: TuneConfig, bundles: Bundles | None, stop: StopToken) -> None:
        self._config, self._bundles, self._stop = config, bundles, stop
        self.names = value_names(network)
        if FEATURES not in self.names and 0 < config.patch <= network.side_multiple:
            raise InputError(
                found=f"patches of {config.patch} voxels for {config.strategy}, which trains the encoder",
                expected=f"more than {network.side_multiple}, or 0 for whole hemispheres",
                advice="Choose larger patches, or a strategy that leaves the encoder as it is: top or decoder.",
            )
        nodes = {node.name: node for node in network.nodes()}
        # With random weights what a patch differs by means nothing, and a whole hemisphere differs by nothing.
        self._corrects = config.strategy != "scratch" and config.patch > 0
        self._strides = {name: 1 if name == IMAGE else nodes[name].stride for name in self.names}
        self._stride = max(_FINEST_STRIDE, *self._strides.values())
        self._wanted = (FEATURES, DECODED) if self._corrects else (FEATURES,)
        self._digest = values_digest(network, self.names, self._wanted)
        self._network: Segmenter = copy.deepcopy(network).requires_grad_(requires_grad=False).eval()
        self._memory: OrderedDict[str, _Arrays] = OrderedDict()
        self._took: dict[str, float] = {}
        self.spent_s = 0.0
        self._last: tuple[str, Example] | None = None

    def prepare(self, case: Labelled, view: int) -> None:
        """Compute and keep all patches of one view of a case, if that has not been done."""
        if self._bundles is not None and not self._bundles.has(self._key(case, view)):
            self._arrays(case, view)

    def count(self, case: Labelled, view: int) -> int:
        """Return how many patches a view of a case has."""
        return len(self._arrays(case, view)["volumes"])

    def patch(self, item: Item) -> Batch:
        """Return one patch as a batch of one.

        Returns
        -------
        dict
            `value/<name>` (1, channel, x, y, z) at the stride of the value; `targets` (1, 2, x, y, z) and
            `looked` (1, 1, x, y, z), what is judged of it, as bytes; `class_index` (1,); `volumes` (1,):
            mm3 of labelled PCS outside the patch; `offsets` (1, channel): how much the hemisphere's mean
            encoder features are above the patch's; `norm/<module>` (1, 2, group): gain and shift of the normalisations
            that run in each step (`models.field_of_view`).
        """
        arrays = self._arrays(item.case, item.view)
        n = item.place % len(arrays["volumes"])
        taken = {name: array if name in _OF_ALL else array[n : n + 1] for name, array in arrays.items()}
        return {name: torch.from_numpy(np.array(array)) for name, array in taken.items()}

    def seconds_ahead(self, items: Sequence[Item]) -> float:
        """Return about how many seconds computing what is not kept of patches will take, 0 if nothing is known."""
        keys = [self._key(item.case, item.view) for item in items]
        if self._bundles is not None:
            keys = [key for key in dict.fromkeys(keys) if key not in self._memory and not self._bundles.has(key)]
        return len(keys) * fmean(self._took.values()) if self._took else 0.0

    def _key(self, case: Labelled, view: int) -> str:
        config = self._config
        settings = {"patch": config.patch, "patches": config.patches, "seed": config.seed}
        return bundle_key(_FORMAT, self._digest, case.digest, f"view {view}", json.dumps(settings))

    def _arrays(self, case: Labelled, view: int) -> Mapping[str, NDArray[Any]]:
        key = self._key(case, view)
        if self._bundles is None:
            return self._timed(key, case, view)
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        if (bundle := self._bundles.read(key)) is not None:
            self._took.setdefault(key, bundle.note["seconds"])
            return bundle.arrays
        computed = self._timed(key, case, view)
        arrays = {name: _half(a) if name.startswith(VALUE) else a for name, a in computed.items()}
        note = {"case": case.name, "view": view, "seconds": self._took[key]}
        if not self._bundles.write(key, arrays, note):
            self._remember(key, arrays)
        return arrays

    def _timed(self, key: str, case: Labelled, view: int) -> _Arrays:
        began = time.perf_counter()
        arrays = self._compute(case, view)
        self._took[key] = time.perf_counter() - began
        self.spent_s += self._took[key]
        return arrays

    def _remember(self, key: str, arrays: _Arrays) -> None:
        """Keep in memory what the disk refuses, as long as there is not too much of it."""
        self._memory[key] = arrays
        while len(self._memory) > 1 and sum(map(_bytes, self._memory.values())) > _IN_MEMORY_BYTES:
            self._memory.popitem(last=False)

    def _example(self, case: Labelled) -> Example:
        if self._last is None or self._last[0] != case.digest:
            network = self._network
            built = build_example(case.load(), position=network.sees_position, multiple=network.side_multiple)
            self._last = case.digest, built
        return self._last[1]

    def _compute(self, case: Labelled, view: int) -> _Arrays:
        config = self._config
        self._stop.check()
        example = view_of(self._example(case), view, config.seed)
        rng = np.random.default_rng([config.seed, view, *case.name.encode()])
        boxes = places(example, config.patch, config.patches, self._stride, rng)
        self._stop.check()
        values = self._values(example.image, boxes)
        pcs = example.targets[:, 1:]
        volumes = [pcs.sum() - _cut(pcs, box).sum() for box in boxes]
        return {
            **values,
            "targets": torch.cat([_cut(example.targets, box) for box in boxes]).to(torch.uint8).numpy(),
            "looked": torch.cat([_judged(example.looked, box) for box in boxes]).to(torch.uint8).numpy(),
            "class_index": example.class_index.numpy(),
            "volumes": torch.stack(volumes).float().numpy(),
        }

    def _values(self, image: Tensor, boxes: Sequence[Box]) -> _Arrays:
        """Return all that is stored of boxes and comes from the network, each (boxes, ...)."""
        network = self._network
        device = next(network.parameters()).device
        with torch.inference_mode(), interruptible(network, self._stop):
            if network.pass_bytes(image[0, 0].numel()) < _MEMORY_SHARE * free_memory(device):
                try:
                    return self._of_whole(image.to(device), boxes)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
            if max(boxes[0].side) <= network.side_multiple:
                msg = (
                    f"Tuning: found too little memory for a whole hemisphere, and patches of {self._config.patch}"
                    f" voxels that are too small to go by themselves; expected more than {network.side_multiple}."
                )
                raise ModelError(msg)
            # What does not fit at once is predicted in windows as well.
            pieces = [self._of_whole(_cut(image, box).to(device), [Box((0, 0, 0), box.side)]) for box in boxes]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _of_whole(self, image: Tensor, boxes: Sequence[Box]) -> _Arrays:
        network = self._network
        nodes = network.nodes()
        with ExitStack() as during:
            of_whole = during.enter_context(measured(network)) if self._corrects else {}
            whole = evaluate(nodes, {IMAGE: image}, (*self.names, *self._wanted))
        found: list[dict[str, Tensor]] = []
        for box in boxes:
            known = {name: _cut(whole[name], box, self._strides[name]) for name in self.names}
            with ExitStack() as during:
                norms = during.enter_context(matched(network, of_whole)) if self._corrects else {}
                features = evaluate(nodes, known, self._wanted)[FEATURES]
            found.append(
                {
                    **{f"{VALUE}{name}": value for name, value in known.items()},
                    "offsets": whole[FEATURES] - features,
                    **{f"{NORM}{name}": value for name, value in norms.items()},
                }
            )
        return {name: torch.cat([one[name] for one in found]).cpu().numpy() for name in found[0]}


_OF_ALL = frozenset({"class_index"})
"""Arrays that all patches of a view share."""


def _cut(value: Tensor, box: Box, stride: int = 1) -> Tensor:
    """Return the part of (batch, channel, x, y, z) in a box of voxels; what was averaged has no parts."""
    if not stride:
        return value
    slices = tuple(slice(a // stride, (a + n) // stride) for a, n in zip(box.start, box.side, strict=True))
    return value[(slice(None), slice(None), *slices)]


def _judged(looked: Tensor, box: Box) -> Tensor:
    """Return what was looked at in a box (1, 1, x, y, z), without the faces cut through the image."""
    judged = torch.zeros_like(looked)
    own = (slice(None), slice(None), *box.judged(looked.shape[2:]))
    judged[own] = looked[own]
    return _cut(judged, box)


def _half(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as float16, unless a value lies beyond its range."""
    return array.astype(np.float16) if np.abs(array).max(initial=0) < _HALF_MAX else array


def _bytes(arrays: _Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
