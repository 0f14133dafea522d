"""Small untrained diffusion U-Nets that several test modules use."""

import torch

from napari_pcs.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig

TINY = {"channels": (8, 8, 16), "groups": 4, "head_channels": 8, "residual_blocks": 1, "cross_attention_dim": 4}


def tiny_denoiser(seed=0, **options):
    """Diffusion U-Net in evaluation mode, with random weights also where a new one has zeros.

    A new one predicts no noise at all, and most of its blocks pass on what they were given.
    """
    torch.manual_seed(seed)
    network = DiffusionUNet(DiffusionUNetConfig(**{**TINY, **options})).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    return network
