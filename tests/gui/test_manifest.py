from importlib import import_module
from importlib.resources import files

import numpy as np
import pytest
import yaml
from npe2 import PluginManifest

from napari_pcs.data.names import SAMPLES
from napari_pcs.gui.panel import Panel
from napari_pcs.gui.state import state_of
from napari_pcs.gui.status import StatusStrip

MANIFEST = PluginManifest.from_file(str(files("napari_pcs") / "napari.yaml"))
WIDGETS = {w.display_name: w.command for w in MANIFEST.contributions.widgets}
COMMANDS = {c.id: c.python_name for c in MANIFEST.contributions.commands}


def resolve(command):
    module, name = str(COMMANDS[command]).split(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("name", WIDGETS)
def test_every_widget_of_the_manifest_opens_in_a_viewer_and_shares_its_state(make_napari_viewer, name):
    viewer = make_napari_viewer()
    widget = resolve(WIDGETS[name])(viewer)
    viewer.window.add_dock_widget(widget, name=name)
    panels = widget.findChildren(Panel)
    assert len(panels) == (6 if name == "PCS workspace" else 1)
    assert all(panel.state is state_of(viewer) for panel in panels)
    state_of(viewer).say("hello")
    assert widget.findChild(StatusStrip).sentence.text() == "hello"


def test_the_menus_and_samples_use_commands_that_exist():
    raw = yaml.safe_load((files("napari_pcs") / "napari.yaml").read_text())
    used = [item["command"] for items in raw["contributions"]["menus"].values() for item in items]
    used += [item["command"] for key in ("widgets", "sample_data") for item in raw["contributions"][key]]
    assert set(used) == set(COMMANDS)


def test_the_sample_menu_offers_what_the_load_panel_offers():
    assert tuple(sample.key for sample in MANIFEST.contributions.sample_data) == SAMPLES


@pytest.mark.parametrize("key", [key for key in SAMPLES if key.startswith("phantom")])
def test_a_sample_comes_as_layers_with_units_on_one_grid(make_napari_viewer, key):
    (entry,) = (s for s in MANIFEST.contributions.sample_data if s.key == key)
    viewer = make_napari_viewer()
    for data, options, kind in resolve(entry.command)():
        getattr(viewer, f"add_{kind}")(data, **options)
    image, labels = viewer.layers
    assert [str(u) for u in image.units] == [str(u) for u in labels.units] == ["millimeter"] * 3
    np.testing.assert_array_equal(image.extent.world, labels.extent.world)
    assert (labels.data == 2).any() == (key != "phantom-0mm")
