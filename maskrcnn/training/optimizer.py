"""Builds the optimizer of a `Schedule`, with weight decay and learning rate per group of parameters."""

from __future__ import annotations

import torch
from torch import nn

from maskrcnn.training.schedule import Schedule


def build_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Build SGD or AdamW over the trained parameters.

    The ``lr_scale`` of a group is a factor of the schedule's learning rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.dim() <= 1 and not schedule.norm_weight_decay
            decay = 0.0 if plain else schedule.weight_decay
            scale = schedule.layer_decay ** (len(_STAGES) - _depth(name))
            groups.setdefault((decay, scale), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(settings, lr=schedule.scaled_lr, fused=True)
    optimizer = torch.optim.SGD(settings, lr=schedule.scaled_lr, momentum=schedule.momentum, fused=True)
    if schedule.momentum:
        for parameter in (p for parameters in groups.values() for p in parameters):
            # torch would leave them uninitialised if loss scaling skips the first update.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


_STAGES = ("stem", "res2", "res3", "res4", "res5")


def _depth(name: str) -> int:
    """The stage of a parameter in the backbone, 0 for the stem. Pyramid and heads come after the last stage."""
    parts = name.split(".")
    if parts[0] != "backbone":
        return len(_STAGES)
    if parts[1] == "stages" and parts[2].isdigit():  # torchvision's, where the first one is the stem
        return min(int(parts[2]), len(_STAGES) - 1)
    return next((depth for depth, stage in enumerate(_STAGES) if stage in parts), len(_STAGES))
