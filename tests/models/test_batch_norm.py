import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from napari_pcs.models.batch_norm import SharedBatchNorm, share_batch_norm
from napari_pcs.models.resnet import ResNet18, ResNetConfig

SHARES = {
    "alike": ((3, 3), 0.0, {}),
    "a large mean": ((3, 3), 1000.0, {}),
    "different shares": ((1, 4), 0.0, {"momentum": None, "eps": 1e-3}),
}
"""Samples of each process, their mean, and the layer's options."""


def layer(kind, **options):
    """Batch normalisation of 4 channels whose weights and statistics are those of no new layer."""
    found = kind(4, **options)
    values = torch.Generator().manual_seed(1)
    for tensor in (found.weight, found.bias, found.running_mean, found.running_var):
        if tensor is not None:
            tensor.data = torch.rand(4, generator=values) + 0.5
    return found


def batch(samples, dims=3, offset=0.0):
    generator = torch.Generator().manual_seed(samples)
    return torch.randn((samples, 4, *[3] * dims), generator=generator, dtype=torch.float64).float() * 2 + offset


def passed(module, image, samples):
    """Train one step: output, gradients and statistics, with a loss that is a mean over all samples."""
    image = image.clone().requires_grad_(True)
    out = module(image)
    (out.sin().flatten(1).sum(dim=1).sum() / samples).backward()
    weights = {name: p.grad.clone() for name, p in module.named_parameters()}
    return out.detach(), image.grad, weights, {name: b.clone() for name, b in module.named_buffers()}


def whole_network():
    torch.manual_seed(0)
    return ResNet18(ResNetConfig(classes=2)), torch.rand((4, 3, 64, 64), generator=torch.Generator().manual_seed(2))


def one_of_two(rank, folder):
    """Train one step on this process's samples in every case, and leave what came of it in a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, (shares, offset, options) in SHARES.items():
        mine = batch(sum(shares), offset=offset).split(shares)[rank]
        found[name] = passed(layer(SharedBatchNorm, **options), mine, sum(shares))
    network, images = whole_network()
    found["network"] = passed(network, images.split(2)[rank], 4)
    network.eval()  # in evaluation a process that is alone must not wait for the other
    if rank == 0:
        network(images)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(one_of_two, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def together(both):
    """Put the outputs of two processes together as one process would have them."""
    one, two = both
    torch.testing.assert_close(one[3], two[3], atol=0, rtol=0)
    weights = {name: gradient + two[2][name] for name, gradient in one[2].items()}
    return torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]]), weights, one[3]


@pytest.mark.parametrize("name", SHARES)
def test_two_processes_give_what_one_gives_with_the_whole_batch(two_processes, name):
    shares, offset, options = SHARES[name]
    expected = passed(layer(nn.BatchNorm3d, **options), batch(sum(shares), offset=offset), sum(shares))
    found = together([each[name] for each in two_processes])
    tolerance = 1e-3 if offset else 1e-5  # of deviations around 1000, float32 keeps 1e-4
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_a_whole_network_in_two_processes_is_that_of_one(two_processes):
    network, images = whole_network()
    found = together([each["network"] for each in two_processes])
    for ours, theirs in zip(found, passed(network, images, 4), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kind", "dims"), [(nn.BatchNorm1d, 0), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3)])
def test_in_one_process_it_is_torchs_own_bit_for_bit(kind, dims, training):
    ours, theirs = (layer(k).train(training) for k in (SharedBatchNorm, kind))
    found, expected = (passed(module, batch(5, dims), 5) for module in (ours, theirs))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_replacing_keeps_names_values_options_and_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(layer(nn.BatchNorm2d, momentum=0.3, eps=1e-2)).eval())
    before = {name: t.clone() for name, t in network.state_dict().items()}
    share_batch_norm(network)
    found = network[1][0]
    assert type(found) is SharedBatchNorm
    assert (found.momentum, found.eps, found.training) == (0.3, 1e-2, False)
    torch.testing.assert_close(dict(network.state_dict()), before, atol=0, rtol=0)


def test_what_has_no_channels_is_refused():
    with pytest.raises(ValueError, match="found 1 dimensions"):
        SharedBatchNorm(4)(torch.rand(4))
