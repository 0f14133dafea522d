import pytest
import torch
from safetensors.torch import save_file
from toys import Apart, Line, Numbers, Turns, make_loop

from napari_pcs import files
from napari_pcs.errors import ModelError, SessionError
from napari_pcs.training.checkpoint import Position, read_checkpoint, write_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint-last.safetensors"


def trained(task, **changes):
    loop = make_loop(task, **changes)
    list(loop.events())
    return loop


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("task", [Line, Turns])
def test_weights_optimisers_and_position_come_back_as_they_were(path, task, name):
    loop = trained(task(), optimiser={"name": name, "learning_rate": 0.01})
    write_checkpoint(path, loop.task, loop.optimisers, loop.position)
    other = make_loop(task(), optimiser={"name": name, "learning_rate": 0.01})
    assert read_checkpoint(path, other.task, other.optimisers) == loop.position
    for one, two in zip(other.task.parameters(), loop.task.parameters(), strict=True):
        assert torch.equal(one, two)
    for turn, optimiser in loop.optimisers.items():
        states = [o.state_dict()["state"] for o in (optimiser, other.optimisers[turn])]
        assert states[0].keys() == states[1].keys()
        for index, state in states[0].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][key]))


def test_a_checkpoint_of_another_task_is_refused_and_changes_nothing(path):
    loop = trained(Line())
    write_checkpoint(path, loop.task, loop.optimisers, loop.position)
    other = make_loop(Apart())
    before = [p.clone() for p in other.task.parameters()]
    with pytest.raises(ModelError, match=r"of another network or objective \(4 tensors do not fit"):
        read_checkpoint(path, other.task, other.optimisers)
    assert all(torch.equal(a, b) for a, b in zip(before, other.task.parameters(), strict=True))


def test_a_wider_network_is_another_one(path):
    loop = trained(Line())
    write_checkpoint(path, loop.task, loop.optimisers, loop.position)
    with pytest.raises(ModelError, match=r"line\.weight"):
        read_checkpoint(path, Line(4), {})


@pytest.mark.parametrize("damage", ["empty", "torn", "without a position"])
def test_a_damaged_checkpoint_is_refused(path, damage):
    loop = trained(Line())
    write_checkpoint(path, loop.task, loop.optimisers, loop.position)
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "torn":
            path.write_bytes(path.read_bytes()[:-40])
        case _:
            save_file({"task/line.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="no checkpoint that can be read"):
        read_checkpoint(path, Line(), {})


def test_the_last_good_checkpoint_survives_a_full_disk(path, monkeypatch):
    loop = trained(Line())
    write_checkpoint(path, loop.task, loop.optimisers, loop.position)
    content = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(SessionError, match="the disk is full"):
        write_checkpoint(path, loop.task, loop.optimisers, Position(step=99))
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_checkpoint_in_the_middle_of_an_epoch_keeps_its_losses(path):
    loop = make_loop(Line(), Numbers(steps=5))
    events = loop.events()
    losses = [next(events).loss for _ in range(3)]
    write_checkpoint(path, loop.task, loop.optimisers, loop.position)
    other = make_loop(Line(), Numbers(steps=5))
    found = read_checkpoint(path, other.task, other.optimisers)
    assert (found.step, found.losses, found.last_loss) == (3, losses, None)
