import threading
import time

import pytest
import torch
from networks import random_image, tiny_network
from torch import nn

from napari_pcs.errors import CancelledError
from napari_pcs.models.interrupt import interruptible
from napari_pcs.stop import StopToken


class SetAfter(StopToken):
    """Token that sets itself at the n-th check."""

    def __init__(self, n):
        super().__init__()
        self.left = n
        self.checks = 0

    def check(self):
        self.checks += 1
        if self.checks > self.left:
            self.set()
        super().check()


class Recorder(nn.Module):
    """Identity that counts how often it ran forwards and backwards; it can wait a little."""

    def __init__(self, ran, seconds=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.ran, self.seconds = ran, seconds

    def forward(self, x):
        time.sleep(self.seconds)
        self.ran.append("forward")
        out = x * self.weight
        if out.requires_grad:
            out.register_hook(lambda _: self.ran.append("backward"))
        return out


def chain(n=10, seconds=0.0):
    ran = []
    return nn.Sequential(*(Recorder(ran, seconds) for _ in range(n))), ran


def hooks_of(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_a_token_that_is_never_set_changes_nothing():
    network, image = tiny_network(), random_image()
    expected = network(image).logits
    with interruptible(network, StopToken()):
        found = network(image).logits
        found.sum().backward()
    assert torch.equal(found, expected)
    gradients = [p.grad.clone() for p in network.backbone.parameters()]
    network.zero_grad()
    expected.sum().backward()
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, network.backbone.parameters(), strict=True))


@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_a_forward_pass_ends_before_the_next_layer(n):
    network, ran = chain()
    with pytest.raises(CancelledError), interruptible(network, SetAfter(n)):
        network(torch.ones(3))
    assert ran == ["forward"] * n


@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_a_backward_pass_ends_before_the_next_layer(n):
    network, ran = chain()
    with interruptible(network, SetAfter(10 + n)):
        out = network(torch.ones(3)).sum()
        assert ran == ["forward"] * 10
        with pytest.raises(CancelledError):
            out.backward()
    assert ran.count("backward") in {n, n + 1}
    # The first layers never got a gradient.
    assert network[0].weight.grad is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_real_network_can_be_stopped_anywhere(direction, share):
    network, image = tiny_network(), random_image()
    counter = SetAfter(10**9)
    with interruptible(network, counter):
        loss = network(image).logits.sum()
        forwards = counter.checks
        loss.backward()
    network.zero_grad(set_to_none=True)
    n = int(share * forwards) if direction == "forward" else forwards + int(share * (counter.checks - forwards))
    token = SetAfter(n)
    with pytest.raises(CancelledError), interruptible(network, token):
        network(image).logits.sum().backward()
    assert token.checks == n + 1
    assert any(p.grad is None for p in network.backbone.parameters())


def test_a_token_set_from_another_thread_ends_the_pass_soon():
    network, ran = chain(200, seconds=0.02)
    token = StopToken()
    timer = threading.Timer(0.2, token.set)
    start = time.perf_counter()
    timer.start()
    with pytest.raises(CancelledError), interruptible(network, token):
        network(torch.ones(3))
    assert time.perf_counter() - start < 2
    assert 0 < len(ran) < 100
    timer.join()


@pytest.mark.parametrize("how", ["complete", "cancelled", "failed"])
def test_the_hooks_are_gone_afterwards(how):
    network, ran = chain()
    token = SetAfter(3 if how == "cancelled" else 100)

    def run():
        with interruptible(network, token):
            assert hooks_of(network) == 20
            network(torch.ones(3))
            if how == "failed":
                raise KeyError

    if how == "complete":
        run()
    else:
        with pytest.raises({"cancelled": CancelledError, "failed": KeyError}[how]):
            run()
    assert hooks_of(network) == 0
    checks = token.checks
    network(torch.ones(3))
    assert token.checks == checks
    assert ran[-10:] == ["forward"] * 10


def test_a_cancelled_network_runs_again_as_if_nothing_had_happened():
    network, image = tiny_network(), random_image()
    with torch.inference_mode():
        expected = network(image).logits
        with pytest.raises(CancelledError), interruptible(network, SetAfter(50)):
            network(image)
        assert torch.equal(network(image).logits, expected)
