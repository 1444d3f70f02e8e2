"""The random initialisation that several families share."""

from torch import nn


def kaiming_fan_out(model: nn.Module) -> None:
    """Draw convolutions as He et al. do for ReLU, by fan-out, and linear layers with a deviation of 0.01.

    Biases become zero. Norms are left as torch makes them: weights 1, biases 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
