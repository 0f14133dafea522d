"""In which precision a device computes, by what its hardware has."""

import pytest
import torch
from networks import CPU

from napari_pcs.inference.precision import best_precision, computing_in

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("bf16", "capability", "expected"),
    [
        (True, (8, 0), "bf16"),
        (True, (9, 0), "bf16"),
        (False, (7, 0), "fp16"),
        (False, (7, 5), "fp16"),
        (False, (6, 1), "fp32"),
    ],
)
def test_a_gpu_gets_bfloat16_or_float16_where_it_has_tensor_cores_for_them(monkeypatch, bf16, capability, expected):
    emulated = []

    def supported(including_emulation=True):
        emulated.append(including_emulation)
        return bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert best_precision(GPU) == expected
    assert emulated == [False]


@pytest.mark.parametrize(
    ("onednn", "flags", "expected"),
    [
        (True, {"_is_avx512_bf16_supported": True, "_is_amx_tile_supported": False}, "bf16"),
        (True, {"_is_avx512_bf16_supported": False, "_is_amx_tile_supported": True}, "bf16"),
        (True, {"_is_avx512_bf16_supported": False, "_is_amx_tile_supported": False}, "fp32"),  # AVX2: emulated
        (True, {}, "fp32"),  # a release that does not say
        (False, {"_is_avx512_bf16_supported": True, "_is_amx_tile_supported": True}, "fp32"),
    ],
)
def test_a_cpu_gets_bfloat16_only_where_it_multiplies_it_itself(monkeypatch, onednn, flags, expected):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        if name in flags:
            monkeypatch.setattr(torch.cpu, name, lambda name=name: flags[name], raising=False)
        else:
            monkeypatch.delattr(torch.cpu, name, raising=False)
    assert best_precision(CPU) == expected


def test_other_accelerators_get_single_precision():
    assert best_precision(torch.device("mps")) == "fp32"


def test_products_are_rounded_to_the_precision_asked_for():
    a = torch.full((4, 4), 1 + 2**-10)
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with computing_in(precision, CPU):
            assert (a @ a).dtype == kind
