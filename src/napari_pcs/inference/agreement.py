"""Whether an engine computes the same function as PyTorch in single precision, tried once and remembered."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_pcs.data.bundles import bundle_key
from napari_pcs.data.cache import cache_root
from napari_pcs.errors import SessionError
from napari_pcs.files import write_text
from napari_pcs.inference.openvino_engine import openvino_version
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.models.heads import channel_probabilities

if TYPE_CHECKING:
    from napari_pcs.inference.openvino_engine import OpenVINOEngine
    from napari_pcs.stop import StopToken

__all__ = ["PROBE", "Agreement", "Agreements", "measure_agreement"]

_FORMAT = 3
"""Changes whenever the building of an OpenVINO model does."""
_MOST = 256
"""Remembered trials; a few hundred bytes each."""
PROBE = (64, 64, 64)
"""Voxels of the image on which new weights are tried."""
_CPU = torch.device("cpu")
_BLOCK = 8
_HALF = 0.5
_log = logging.getLogger(__name__)


class Agreement(BaseModel):
    """How far an engine is from PyTorch in single precision, on one image.

    Attributes
    ----------
    precision
        Of the engine.
    largest
        Largest difference of a probability; NaN if one of them is no number.
    dice
        Of what both label, skeleton and PCS taken together; 1 if neither labels anything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    precision: str
    largest: float
    dice: float

    @property
    def is_close(self) -> bool:
        """Whether the engine may be used.

        bfloat16 keeps eight bits of a number, so single probabilities near one half may move far:
        there the labels count. Those that change are those that the network is undecided on, and as
        many turn right as wrong: where one in a hundred changes, the Dice against a reference moves by
        less than 0.005.
        """
        return self.largest < 1e-3 if self.precision == "fp32" else self.dice >= 0.99


class Agreements:
    """Trials of OpenVINO against PyTorch, remembered in a folder for this machine.

    New weights are tried on a small image, in a few seconds, before they are used. Whether it holds
    for images of one shape is tried in idle time, once for all weights of a network: that takes a
    pass of PyTorch, as long as OpenVINO would save.

    Parameters
    ----------
    folder
        One small file a trial; in the cache folder if left out. Where it cannot be written, trials are
        remembered by this object only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_root() / "openvino"
        self._memory: dict[str, Agreement] = {}

    def known(self, engine: OpenVINOEngine, digest: str, shape: tuple[int, int, int]) -> bool | None:
        """Say whether an engine may be used for a shape; None if its weights have not been tried."""
        of_weights, of_shape = self._read(_weights_key(engine, digest)), self._read(_shape_key(engine, shape))
        if of_shape is not None and not of_shape.is_close:
            return False
        return None if of_weights is None else of_weights.is_close

    def try_weights(self, engine: OpenVINOEngine, digest: str, stop: StopToken) -> bool:
        """Try weights that have not been tried, remember it, and say whether the engine may be used for them.

        Raises
        ------
        CancelledError
            Soon after `stop` is set; nothing is remembered.
        """
        return self._try(engine, _weights_key(engine, digest), PROBE, stop)

    def try_shape(self, engine: OpenVINOEngine, shape: tuple[int, int, int], stop: StopToken) -> bool:
        """Try a shape that has not been tried, whatever the weights; see `try_weights`."""
        return self._try(engine, _shape_key(engine, shape), shape, stop)

    def _try(self, engine: OpenVINOEngine, key: str, shape: tuple[int, int, int], stop: StopToken) -> bool:
        agreement = self._read(key)
        if agreement is None:
            agreement = measure_agreement(engine, shape, stop)
            self._write(key, agreement)
            if not agreement.is_close:
                _log.warning(
                    "%s is not used: on %d x %d x %d voxels its probabilities differ from PyTorch's by up to %.2g, and"
                    " the Dice of both is %.3f. PyTorch runs the model.",
                    *(engine.name, *shape, agreement.largest, agreement.dice),
                )
        return agreement.is_close

    def _read(self, key: str) -> Agreement | None:
        if key not in self._memory:
            try:
                self._memory[key] = Agreement.model_validate_json((self.folder / f"{key}.json").read_bytes())
            except (OSError, ValidationError):
                return None
        return self._memory[key]

    def _write(self, key: str, agreement: Agreement) -> None:
        self._memory[key] = agreement
        try:
            write_text(self.folder / f"{key}.json", agreement.model_dump_json())
            for path in sorted(self.folder.glob("*.json"), key=_age)[_MOST:]:
                path.unlink(missing_ok=True)
        except (SessionError, OSError) as error:
            _log.warning("Whether OpenVINO agrees with PyTorch is found out anew by every process. %s", error)


def measure_agreement(engine: OpenVINOEngine, shape: tuple[int, int, int], stop: StopToken) -> Agreement:
    """Run an engine and PyTorch in single precision on one image, and compare their probabilities.

    Parameters
    ----------
    shape
        Voxels (x, y, z) of the image.
    """
    image = _image(engine.network.config.in_channels, shape)
    found = channel_probabilities(engine.run(image, stop).logits)
    engine.release()
    wanted = channel_probabilities(TorchEngine(engine.network, _CPU, "fp32").run(image, stop).logits)
    ours, theirs = _labelled(found), _labelled(wanted)
    labelled = int(ours.sum() + theirs.sum())
    dice = 2 * int((ours & theirs).sum()) / labelled if labelled else 1.0
    return Agreement(precision=engine.precision, largest=float((found - wanted).abs().max()), dice=dice)


def _labelled(probabilities: torch.Tensor) -> torch.Tensor:
    """Return where skeleton and PCS are labelled, for probabilities (1, 2, x, y, z); see `labelling.labels_from`."""
    skeleton = probabilities[:, 0] >= _HALF
    return torch.stack([skeleton, skeleton & (probabilities[:, 1] >= _HALF * probabilities[:, 0])], dim=1)


def _weights_key(engine: OpenVINOEngine, digest: str) -> str:
    return bundle_key("weights", _circumstances(engine), digest)


def _shape_key(engine: OpenVINOEngine, shape: tuple[int, int, int]) -> str:
    return bundle_key("shape", _circumstances(engine), " ".join(map(str, shape)))


def _circumstances(engine: OpenVINOEngine) -> str:
    config = engine.network.config.model_dump_json(exclude={"flash_attention", "gradient_checkpointing"})
    versions = f"{_FORMAT} {openvino_version()} {torch.__version__}"
    return f"{config} {engine.precision} {versions} {_processor()}"


def _image(channels: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return an image (1, channels, x, y, z) like a hemisphere's: tissue in blocks, and position."""
    coarse = np.random.default_rng(0).integers(0, 3, [-(-side // _BLOCK) for side in shape]).astype(np.float32) / 2
    for axis in range(3):
        coarse = coarse.repeat(_BLOCK, axis)
    x, y, z = shape
    places = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    return torch.from_numpy(np.stack([coarse[:x, :y, :z], *places])[None, :channels].copy())


def _age(path: Path) -> float:
    """Return a number that is lower for newer files."""
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
