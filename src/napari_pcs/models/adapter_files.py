"""An adapter in its folder, in the files that peft writes; reading them needs no peft."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from napari_pcs.errors import ModelError
from napari_pcs.files import json_bytes
from napari_pcs.models.low_rank import Adapter, Places
from napari_pcs.models.peft_settings import from_peft, peft_record

if TYPE_CHECKING:
    from napari_pcs.models.folders import ModelFolder
    from napari_pcs.provenance import ModelReference

__all__ = ["BASE", "CONFIG", "WEIGHTS", "adapter_contents", "read_adapter"]

BASE, CONFIG, WEIGHTS = "base.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What peft puts before a module's name in the file."""


class _Record(BaseModel):
    """Of `adapter_config.json`, what says which function the weights are."""

    peft_type: Literal["LORA"]
    r: int
    lora_alpha: float
    lora_dropout: float
    use_rslora: bool
    use_dora: bool
    target_modules: tuple[str, ...]
    modules_to_save: tuple[str, ...] | None


def read_adapter(model: ModelFolder) -> Adapter:
    """Read an adapter from its folder, against the digest.

    Raises
    ------
    ModelError
        If it is incomplete, damaged or altered.
    """
    base = model.base
    assert base is not None  # noqa: S101  only adapters are read
    try:
        config, weights = ((model.path / name).read_bytes() for name in (CONFIG, WEIGHTS))
    except OSError as error:
        raise _damaged(model, f"no complete adapter ({error})") from error
    found = _digest(base, config, weights)
    if found != model.digest:
        raise _damaged(model, f"an adapter with digest {found[:12]}, expected {model.digest[:12]}")
    try:
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in load(weights).items()}
        record = _Record.model_validate_json(config)
        convolutions = any(tensor.ndim > 2 and ".lora_A." in name for name, tensor in state.items())
        settings = from_peft(record.model_dump(), convolutions=convolutions)
    except SafetensorError as error:
        raise _damaged(model, f"adapter weights that are no complete safetensors file ({error})") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise _damaged(model, f"an unknown adapter_config.json ({'; '.join(problems)})") from error
    return Adapter(settings, Places(record.target_modules, record.modules_to_save or ()), state)


def adapter_contents(adapter: Adapter, base: ModelReference) -> tuple[dict[str, bytes], str]:
    """Return the files of an adapter by their paths within its folder, and its digest.

    The digest is of the base's, of what says which function the weights are, and of the weights.
    """
    weights = save(
        {
            f"{_PREFIX}{name}": tensor.detach().to("cpu", torch.float32).contiguous()
            for name, tensor in sorted(adapter.state.items())
        }
    )
    config = json_bytes(peft_record(adapter, base.name))
    files = {CONFIG: config, WEIGHTS: weights, BASE: json_bytes(base.model_dump())}
    return files, _digest(base, config, weights)


def _digest(base: ModelReference, config: bytes, weights: bytes) -> str:
    return hashlib.sha256(b"\n".join([base.digest.encode(), config, weights])).hexdigest()


def _damaged(model: ModelFolder, found: str) -> ModelError:
    return ModelError(f"Model {model.name}: found {found}. Copy the whole folder again.")
