"""What importing a module brings with it, seen from a fresh interpreter."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "monai",
    "napari",
    "qtpy",
    "PyQt5",
    "PyQt6",
    "PySide2",
    "PySide6",
    "magicgui",
    "superqt",
    "pyqtgraph",
    "dask",
    "distributed",
    "peft",
    "transformers",
)


def loaded_by(code):
    """Return the top-level modules that a fresh interpreter has after running some code."""
    report = "import sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_by("import napari_pcs")
    assert "napari_pcs" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy", "scipy", "nibabel", "pydantic"})


@pytest.mark.parametrize("module", ["cli", "models.folders", "models.lora_config", "models.bases"])
def test_commands_and_models_to_choose_from_load_nothing_that_computes(module):
    assert loaded_by(f"import napari_pcs.{module}").isdisjoint(HEAVY)


def test_models_are_loaded_without_peft():
    modules = ("models.store", "models.adapters", "models.lora")
    assert "peft" not in loaded_by("\n".join(f"import napari_pcs.{module}" for module in modules))


@pytest.mark.parametrize("module", ["session", "anatomy.skeleton", "data.phantom", "data.sources", "caches"])
def test_the_core_loads_neither_torch_nor_qt_nor_napari(module):
    loaded = loaded_by(f"import napari_pcs.{module}")
    assert "numpy" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_all_of_the_core_together_loads_neither_torch_nor_qt_nor_napari():
    modules = ("anatomy.length", "anatomy.grid", "anatomy.tissue", "case", "cohort", "edits", "data.phantom")
    assert loaded_by("\n".join(f"import napari_pcs.{module}" for module in modules)).isdisjoint(HEAVY)


def test_a_heavy_import_would_be_noticed():
    assert "qtpy" in loaded_by("import sys, types; sys.modules['qtpy.QtCore'] = types.ModuleType('QtCore')")
