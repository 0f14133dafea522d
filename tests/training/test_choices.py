import subprocess
import sys

from napari_pcs.objectives import known_objectives
from napari_pcs.training.choices import Choices, known_choices


def test_every_registered_objective_is_offered_by_its_name_and_title():
    found = {choice.name: choice.title for choice in known_choices().objectives}
    assert found == {name: objective.title for name, objective in known_objectives().items()}


def test_another_process_can_be_asked():
    asked = [sys.executable, "-m", "napari_pcs.training.choices"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    found, here = Choices.model_validate_json(done.stdout), known_choices()
    # Other tests may have defined objectives of their own in this process.
    ours = [n for n, o in known_objectives().items() if o.__module__.startswith("napari_pcs.")]
    assert found.recipes == here.recipes
    assert found.objectives == tuple(choice for choice in here.objectives if choice.name in ours)
