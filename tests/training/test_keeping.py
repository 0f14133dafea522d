from types import SimpleNamespace

import torch
from PIL import Image

from napari_pcs.data.health import Tally
from napari_pcs.training.events import Pictured
from napari_pcs.training.keeping import RunKeeper


class Seen(torch.nn.Module):
    """A task that has something to show."""

    picture_names = ("given", "target", "found")

    def picture(self, batch):
        return batch["image"].expand(-1, 3, -1, -1, -1)


def test_a_picture_is_a_png_that_a_viewer_opens_with_its_volumes_beside_it(tmp_path):
    keeper = RunKeeper(tmp_path, minutes=10, picture_epochs=5, files=1, tally=Tally(1, 0), is_main=True)
    loop = SimpleNamespace(
        task=Seen(),
        processes=SimpleNamespace(device=torch.device("cpu")),
        position=SimpleNamespace(step=1),
        batches=SimpleNamespace(steps_per_epoch=1),
        total_steps=3,
    )
    (event,) = keeper.epoch_over(loop, {"image": torch.rand(2, 1, 16, 16, 16)})
    assert isinstance(event, Pictured)
    files = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert files == ["epoch-00001.npy", "epoch-00001.png"]
    with Image.open(event.path) as sheet:
        assert sheet.format == "PNG"
