"""A user's own project: an operator, a backbone and their configs and table, written into an empty folder."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "my_parts.py": '''
import torch
from torch import Tensor, nn


class CentrePixel(nn.Module):
    """RoI features that repeat the feature at the box's centre: a poor operator, but an operator."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        stride, pixels = next(iter(features.items()))
        height, width = pixels.shape[-2:]
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2 / stride
        columns = centres[..., 0].long().clamp(0, width - 1)
        rows = centres[..., 1].long().clamp(0, height - 1)
        images = torch.arange(len(boxes))[:, None]
        found = self.scale * pixels[images, :, rows, columns].flatten(0, 1)
        return found[:, :, None, None].expand(-1, -1, output_size, output_size).contiguous()


class Patches(nn.Module):
    """A backbone of one convolution per stride."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        strides = (4, 8, 16, 32)
        self.channels = {stride: width for stride in strides}
        self.layers = nn.ModuleList([nn.Conv2d(3, width, stride, stride) for stride in strides])

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        return {stride: layer(pixels) for stride, layer in zip(self.channels, self.layers)}
''',
    "configs/roi_op/centre.yaml": "_target_: my_parts.CentrePixel\nscale: 1.0\n",
    "configs/roi_op/align.yaml": "_target_: maskrcnn_ops.RoIOp\nsampling_ratio: 1\n",
    "configs/model/patches.yaml": """
defaults:
  - _parts
  - _fpn
  - _fpn_heads
  - _self_
backbone:
  _target_: my_parts.Patches
  width: 8
pyramid:
  in_channels: [8, 8, 8, 8]
  out_channels: 16
box_head: {trunk: {dim: 32}}
mask_head: {trunk: {dim: 16}, predictor: {dim: 16}}
""",
    "configs/tables/mine-shapes.yaml": """
title: my operator and my backbone
base: [model=patches]
axes:
  roi_op: {pool: [roi_op=pool], centre: [roi_op=centre]}
compare: {axis: roi_op, of: pool}
""",
}


def write_project(folder: Path) -> Path:
    """Write the project's files into ``folder``, which is returned."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
