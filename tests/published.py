"""Made-up checkpoints with the names and shapes that published weights have in their files."""

import torch
from monai.networks.nets import SwinUNETR

SMALL = 12
"""Feature size of small ones; published ones have 48."""


def monai_network(feature_size=SMALL, seed=3):
    torch.manual_seed(seed)
    return SwinUNETR(in_channels=1, out_channels=1, feature_size=feature_size)


def model_swinvit(feature_size=SMALL):
    """Content of `model_swinvit.pt`: the transformer, its heads, all below `module.`."""
    vit = monai_network(feature_size).swinViT.state_dict()
    state = {f"module.{name.replace('mlp.linear', 'mlp.fc')}": tensor for name, tensor in vit.items()}
    heads = ("norm", "rotation_head", "contrastive_head", "convTrans3d")
    state |= {f"module.{head}.{kind}": torch.zeros(2) for head in heads for kind in ("weight", "bias")}
    return {"epoch": 3, "state_dict": state}


def ssl_pretrained_weights(feature_size=SMALL):
    """Content of `ssl_pretrained_weights.pth`: transformer, convolutions and decoder."""
    state = {"encoder.mask_token": torch.zeros(1), "encoder.norm.weight": torch.zeros(2)}
    for name, tensor in monai_network(feature_size).state_dict().items():
        if name.startswith("swinViT.layers"):
            name = name.replace("swinViT.", "encoder.").replace(".0.", ".0.0.", 1)
        name = name.replace("swinViT.", "encoder.")
        state[name] = tensor
    return {"model": state}


def torchvision_resnet18():
    """State dict of a ResNet-18 with a head of 1000 classes, without counts, as older files are."""
    from napari_pcs.models.resnet import ResNet18, ResNetConfig

    torch.manual_seed(4)
    network = ResNet18(ResNetConfig(classes=1000)).train()
    network(torch.rand(2, 3, 32, 32))
    return {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
