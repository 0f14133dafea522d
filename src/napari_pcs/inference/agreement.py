"""Whether an engine computes the same function as PyTorch in single precision, tried once and remembered."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_pcs.data.bundles import bundle_key
from napari_pcs.errors import SessionError
from napari_pcs.files import write_text
from napari_pcs.inference.openvino_engine import openvino_version
from napari_pcs.inference.torch_engine import TorchEngine
from napari_pcs.models.heads import channel_probabilities

if TYPE_CHECKING:
    from napari_pcs.inference.openvino_engine import OpenVINOEngine
    from napari_pcs.stop import StopToken

__all__ = ["Agreement", "Agreements", "measure_agreement"]

_FORMAT = 1
"""Changes whenever the building of an OpenVINO model does."""
_MOST = 256
"""Remembered trials; a few hundred bytes each."""
_PROBE = (64, 64, 64)
"""Voxels of the image on which a model is tried that has a known shape but new weights."""
_CPU = torch.device("cpu")
_BLOCK = 8
_log = logging.getLogger(__name__)


class Agreement(BaseModel):
    """How far an engine is from PyTorch in single precision, on one image.

    Attributes
    ----------
    precision
        Of the engine.
    largest
        Largest difference of a probability; NaN if one of them is no number.
    changed
        Share of voxels and channels whose probability crosses one half.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    precision: str
    largest: float
    changed: float

    @property
    def is_close(self) -> bool:
        """Whether the engine may be used.

        bfloat16 keeps eight bits of a number, so single probabilities near one half may move far:
        there the share of changed voxels counts.
        """
        return self.largest < 1e-3 if self.precision == "fp32" else self.changed < 0.02


class Agreements:
    """Trials of OpenVINO against PyTorch, remembered in a folder for this machine.

    A model is tried on an image of the shape that it is built for whenever configuration, shape,
    OpenVINO, PyTorch or processor are new; new weights in a known model are tried on a small one.

    Parameters
    ----------
    folder
        One small file a trial; the user's cache if left out. Where it cannot be written, trials are
        remembered by this process only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or user_cache_path("napari-pcs", appauthor=False) / "openvino"
        self._memory: dict[str, Agreement] = {}

    def known(self, engine: OpenVINOEngine, digest: str, shape: tuple[int, int, int]) -> bool | None:
        """Say whether an engine may be used for a shape; None if it has not been tried."""
        found = [self._read(key) for key in self._keys(engine, digest, shape)]
        if any(one is not None and not one.is_close for one in found):
            return False
        return None if None in found else True

    def try_out(self, engine: OpenVINOEngine, digest: str, shape: tuple[int, int, int], stop: StopToken) -> bool:
        """Try what has not been tried, remember it, and say whether the engine may be used.

        Takes a pass of PyTorch over the shape if the model is new, a second or two otherwise.

        Raises
        ------
        CancelledError
            Soon after `stop` is set; nothing is remembered.
        """
        of_weights, of_model = self._keys(engine, digest, shape)
        for key, sides in ((of_weights, _PROBE), (of_model, shape)):
            agreement = self._read(key)
            if agreement is None:
                agreement = measure_agreement(engine, sides, stop)
                self._write(key, agreement)
            if not agreement.is_close:
                _log.warning(
                    "%s is not used for this model: probabilities differ from PyTorch's by up to %.2g, and %.2g %% of"
                    " the voxels change. PyTorch runs it.",
                    *(engine.name, agreement.largest, 100 * agreement.changed),
                )
                return False
        return True

    def _keys(self, engine: OpenVINOEngine, digest: str, shape: tuple[int, int, int]) -> tuple[str, str]:
        config = engine.network.config.model_dump_json(exclude={"flash_attention", "gradient_checkpointing"})
        versions = f"{_FORMAT} {openvino_version()} {torch.__version__} {_processor()} {engine.precision}"
        return bundle_key("weights", versions, config, digest), bundle_key("model", versions, config, str(shape))

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
            _log.warning("That OpenVINO agrees with PyTorch is found out anew by every process. %s", error)


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
    largest = float((found - wanted).abs().max())
    changed = float(((found >= 0.5) != (wanted >= 0.5)).float().mean())
    return Agreement(precision=engine.precision, largest=largest, changed=changed)


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
