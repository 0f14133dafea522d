"""Settings of low-rank adapters in peft's words, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_pcs.models.lora_config import LoraConfig

if TYPE_CHECKING:
    import peft

    from napari_pcs.models.low_rank import Adapter, Places

__all__ = ["from_peft", "peft_record", "to_peft"]


def to_peft(settings: LoraConfig, where: Places) -> peft.LoraConfig:
    """Return settings as peft takes them, with full module names."""
    import peft

    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        target_modules=list(where.pairs),
        modules_to_save=list(where.heads) or None,
        bias="none",
    )


def from_peft(config: Any, *, convolutions: bool) -> LoraConfig:
    """Return peft's settings as ours.

    Parameters
    ----------
    config
        A `peft.LoraConfig`, or its fields by name.
    convolutions
        Whether pairs are beside convolutions too, which only the places say.

    Raises
    ------
    KeyError
        If a field is missing.
    ValidationError
        If a value is out of bounds.
    """
    fields = config if isinstance(config, dict) else config.to_dict()
    return LoraConfig(
        rank=fields["r"],
        alpha=fields["lora_alpha"],
        dropout=fields["lora_dropout"],
        rslora=fields["use_rslora"],
        dora=fields["use_dora"],
        convolutions=convolutions,
    )


def peft_record(adapter: Adapter, base: str) -> dict[str, Any]:
    """Return what peft writes into `adapter_config.json`.

    Parameters
    ----------
    adapter
        Its settings and places.
    base
        Name of the model that it changes.
    """
    config = to_peft(adapter.settings, adapter.places)
    config.base_model_name_or_path, config.inference_mode = base, True
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return dict(sorted(fields.items()))
