"""Tiny attention networks of torchvision's classes: they take images of 16 px."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

SIZE = 16
BLOCK = "encoder.layers.encoder_layer_0"
PACKED, OUT = f"{BLOCK}.self_attention.in_proj_weight", f"{BLOCK}.self_attention.out_proj"
FIRST, SECOND = f"{BLOCK}.mlp.0", f"{BLOCK}.mlp.3"


def tiny_vit(num_classes: int = 10) -> nn.Module:
    """Two blocks of four heads of 8 on 17 tokens of 32 channels, with MLPs of 64."""
    network: nn.Module = VisionTransformer(SIZE, 4, 2, 4, 32, 64, num_classes=num_classes)
    return network


def tiny_swin(num_classes: int = 10) -> nn.Module:
    """Two stages of two blocks, the second of each shifted, with heads of 8 and a merge in between."""
    network: nn.Module = SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=num_classes)
    return network


def unsettled(model: nn.Module) -> nn.Module:
    """Return a model with random numbers for all parameters: initial ones have rows of zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model
