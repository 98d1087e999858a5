"""torchvision's residual networks as backbones: images to maps C2..C5."""

from __future__ import annotations

from typing import Literal

import torchvision
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.folded import stem, with_folded_norms
from maskrcnn.models.backbones.pretrained import inflate, load_pretrained
from maskrcnn.models.norms import Norm, chosen_norm, norm_layer

Arch = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnext101_64x4d"]


class ResNet(nn.Module):
    """Stages res2..res5 of a ResNet (He et al., 2016) or ResNeXt.

    Args:
        arch: torchvision's name.
        norm: ``frozen_bn``, ``bn``, ``sync_bn`` or ``gn`` (32 groups). ``auto`` is ``frozen_bn`` with pretrained
            weights and ``bn`` without.
        weights: None (random), ``imagenet``, the name of a torchvision weight set, or a file with a state dict.
        last_stage: 4 stops at stride 16, 5 at stride 32.
        dilated: res5 keeps stride 16 (DC5).
        frozen_stages: number of stages (stem, res2, res3, ...) that are not trained; None is 2 with pretrained
            weights, else 0.
        norm_eps: added to the variance in the norm; torchvision's first published detectors have 0.
        stride_in_1x1: put the stride of a stage into its first 1x1 convolution instead of the 3x3 one, as the original
            networks and Detectron2 do.
        dilate_first: also dilate the first block of a dilated res5, as Detectron2 does.
        in_channels: number of channels of the images. If it is not 3, the first filters start as the mean of the RGB
            filters.

    Attributes:
        channels: number of channels of each map, by stride.

    Raises:
        UserError: the weights cannot be loaded, or do not fit ``arch`` and ``norm``.
    """

    def __init__(
        self,
        arch: Arch = "resnet50",
        norm: Norm = "auto",
        weights: str | None = None,
        last_stage: int = 5,
        dilated: bool = False,
        frozen_stages: int | None = None,
        norm_eps: float = 1e-5,
        stride_in_1x1: bool = False,
        dilate_first: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        net = build_resnet(arch, norm, weights, dilated, norm_eps, stride_in_1x1)
        if dilated and dilate_first:
            first = net.layer4[0].get_submodule("conv2")
            assert isinstance(first, nn.Conv2d)
            first.dilation = first.padding = (2, 2)
        inflate(net.conv1, in_channels)
        self.in_channels, self.stride_in_1x1 = in_channels, stride_in_1x1
        self.dilate_first = dilate_first if dilated else None  # without dilation, the setting has no effect
        self.stem = stem(net)
        layers = [net.layer1, net.layer2, net.layer3, net.layer4][: last_stage - 1]
        self.stages = nn.ModuleDict(
            {f"res{n}": with_folded_norms(layer) for n, layer in enumerate(layers, 2)}
        )
        self.strides = [4, 8, 16, 16 if dilated else 32][: last_stage - 1]
        widest = 512 if arch in ("resnet18", "resnet34") else 2048
        widths = [widest // part for part in (8, 4, 2, 1)][: last_stage - 1]
        self.channels = dict(zip(self.strides, widths, strict=True))  # a later map of the same stride wins
        frozen = (2 if weights else 0) if frozen_stages is None else frozen_stages
        for stage in [self.stem, *self.stages.values()][:frozen]:
            stage.requires_grad_(False)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """Compute the maps.

        Args:
            pixels: ``[N, in_channels, H, W]``, normalised.

        Returns:
            Maps ``[N, C_l, H/l, W/l]`` by stride l, the last one of each stride.
        """
        x = self.stem(pixels)
        maps: dict[int, Tensor] = {}
        for stride, stage in zip(self.strides, self.stages.values(), strict=True):
            x = stage(x)
            maps[stride] = x
        return maps


def build_resnet(
    arch: Arch,
    norm: Norm,
    weights: str | None,
    dilated: bool,
    norm_eps: float = 1e-5,
    stride_in_1x1: bool = False,
) -> torchvision.models.ResNet:
    """Build one of torchvision's residual networks without its classifier. Arguments as in `ResNet`."""
    if (dilated or stride_in_1x1) and arch in ("resnet18", "resnet34"):
        what = "dilated res5" if dilated else "stride_in_1x1"
        raise UserError(f"{what} needs bottleneck blocks, which {arch} does not have; use resnet50 or deeper")
    net: torchvision.models.ResNet = getattr(torchvision.models, arch)(
        norm_layer=norm_layer(chosen_norm(norm, weights), norm_eps),
        replace_stride_with_dilation=[False, False, dilated],
    )
    del net.fc
    if stride_in_1x1:
        for stage in (net.layer2, net.layer3, net.layer4):
            first, second = (stage[0].get_submodule(name) for name in ("conv1", "conv2"))
            assert isinstance(first, nn.Conv2d)
            assert isinstance(second, nn.Conv2d)
            first.stride, second.stride = second.stride, first.stride
    if weights:
        load_pretrained(net, arch, weights, leave_out=("fc.",))
    return net
