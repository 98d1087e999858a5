"""torchvision's other networks as backbones: VGG-16, MobileNetV2 and V3, ConvNeXt, Swin."""

from __future__ import annotations

from typing import Literal, get_args

import torchvision
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.folded import fold_frozen_norms
from maskrcnn.models.backbones.pretrained import inflate, load_pretrained, measured_channels
from maskrcnn.models.norms import Norm, chosen_norm, replace_batch_norms

TorchvisionArch = Literal[
    "vgg16",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "swin_t",
    "swin_s",
    "swin_b",
]
# Index in torchvision's ``features`` of the last layer of the stem, and of strides 4, 8, 16, 32.
_LAST_LAYERS = {
    "vgg16": (9, 15, 22, 29, 30),
    "vgg16_bn": (13, 22, 32, 42, 43),
    "mobilenet_v2": (1, 3, 6, 13, 18),
    "mobilenet_v3_small": (0, 1, 3, 8, 12),
    "mobilenet_v3_large": (1, 3, 6, 12, 16),
    "convnext": (0, 1, 3, 5, 7),
    "swin": (0, 1, 3, 5, 7),
}
_STRIDES = (4, 8, 16, 32)


class TorchvisionBackbone(nn.Module):
    """The feature layers of an ImageNet classifier, with one map per stride.

    Args:
        arch: torchvision's name.
        norm: replacement of batch norm. ``auto`` is ``frozen_bn`` with pretrained weights and ``bn`` without. Networks
            without batch norm are not changed.
        weights: see `ResNet`.
        last_stride: 16 stops before the layers of stride 32. For VGG-16 this is conv5_3, as in Faster R-CNN.
        frozen_stages: number of stages (stem, C2, C3, ...) that are not trained; None is 2 with pretrained weights,
            else 0.
        in_channels: see `ResNet`.

    Attributes:
        channels: number of channels of each map, by stride.

    Raises:
        UserError: the weights cannot be loaded or do not fit, or ``norm=gn`` for a network without batch norm.
    """

    def __init__(
        self,
        arch: TorchvisionArch = "mobilenet_v2",
        norm: Norm = "auto",
        weights: str | None = None,
        last_stride: Literal[16, 32] = 32,
        frozen_stages: int | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if arch not in get_args(TorchvisionArch):
            raise UserError(f"arch={arch!r} is none of {', '.join(get_args(TorchvisionArch))}")
        net: nn.Module = getattr(torchvision.models, arch)()
        if weights:
            load_pretrained(net, arch, weights, leave_out=("classifier.", "head."))
        replaced = replace_batch_norms(net, chosen_norm(norm, weights))
        if norm == "gn" and not replaced:
            raise UserError(f"{arch} has no batch norm that norm=gn could replace; leave norm=auto")
        features = net.get_submodule("features")
        inflate(next(m for m in features.modules() if isinstance(m, nn.Conv2d)), in_channels)
        fold_frozen_norms(features)
        self.in_channels = in_channels
        self.strides = _STRIDES[: _STRIDES.index(last_stride) + 1]
        self.channels_last = arch.startswith("swin")
        ends = _LAST_LAYERS[arch if arch in _LAST_LAYERS else arch.partition("_")[0]][: len(self.strides) + 1]
        layers = list(features.children())
        begins = [0, *(end + 1 for end in ends[:-1])]
        self.stages = nn.ModuleList(
            nn.Sequential(*layers[begin : end + 1]) for begin, end in zip(begins, ends, strict=True)
        )
        self.channels = measured_channels(self)
        frozen = (2 if weights else 0) if frozen_stages is None else frozen_stages
        for stage in self.stages[:frozen]:
            stage.requires_grad_(False)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """Compute the maps.

        Args:
            pixels: ``[N, in_channels, H, W]``, normalised.

        Returns:
            Maps ``[N, C_l, H/l, W/l]`` by stride l.
        """
        x = self.stages[0](pixels)
        maps: dict[int, Tensor] = {}
        for stride, stage in zip(self.strides, self.stages[1:], strict=True):
            x = stage(x)
            maps[stride] = x.permute(0, 3, 1, 2) if self.channels_last else x
        return maps
