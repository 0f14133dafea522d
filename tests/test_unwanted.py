"""In processes of their own: what a process has imported cannot be taken back."""

import os
import subprocess
import sys

import pytest

FAKE_MONAI = """
import importlib.util
was_found = importlib.util.find_spec("transformers") is not None
try:
    import transformers
except ImportError as error:
    refusal = str(error)
else:
    refusal = ""
"""


def run(script, *paths):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), *sys.path])}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@pytest.fixture
def fakes(tmp_path):
    """Modules that stand in for the two."""
    (tmp_path / "monai.py").write_text(FAKE_MONAI)
    (tmp_path / "transformers.py").write_text("loaded = True")
    return tmp_path


@pytest.mark.parametrize("spared", [True, False])
def test_transformers_is_refused_while_monai_is_imported(fakes, spared):
    spare = "from napari_pcs.unwanted import spare_transformers as spare; spare(); spare()" if spared else ""
    script = f"{spare}\nimport monai, sys\nprint(bool(monai.refusal), monai.was_found, 'transformers' in sys.modules)"
    assert run(script, fakes) == [str(spared), "True", str(not spared)]


def test_everybody_else_finds_it_before_and_after(fakes):
    before = "from napari_pcs.unwanted import spare_transformers as spare; spare()\n"
    assert run(before + "import transformers; print(transformers.loaded)", fakes) == ["True"]
    assert run(before + "import monai, transformers; print(transformers.loaded)", fakes) == ["True"]


def test_the_real_ones_do_without_each_other():
    """A network is built and adapted by peft, which imports transformers then."""
    script = """
import sys
from napari_pcs.unwanted import spare_transformers
spare_transformers()
from napari_pcs.models.networks import build_network
print("monai" in sys.modules, "transformers" in sys.modules)
from napari_pcs.models.lora_config import LoraConfig
from napari_pcs.models.swin_unetr import SwinUNETRConfig
from napari_pcs.strategies import prepare
network = build_network(SwinUNETRConfig(feature_size=12, window_size=2))
prepare(network, "lora", lora=LoraConfig(), seed=0)
print(any("lora" in name for name, _ in network.named_parameters()), "transformers" in sys.modules)
"""
    assert run(script) == ["True", "False", "True", "True"]
