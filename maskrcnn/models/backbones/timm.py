"""Networks of the package timm as backbones: images to maps by stride."""

from __future__ import annotations

import difflib
import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.backbones.folded import fold_frozen_norms
from maskrcnn.models.backbones.pretrained import read_state
from maskrcnn.models.norms import LayerNorm, chosen_norm

TimmNorm = Literal["auto", "frozen_bn", "bn", "sync_bn"]
_FINEST = 4  # stride of the first map
# Options of networks that expect images of a fixed size by default, by the prefix of their names.
_ANY_SIZE: dict[str, dict[str, Any]] = {
    "swin": {"strict_img_size": False},
    "vit_": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
}


class TimmBackbone(nn.Module):
    """Feature maps of a timm (PyTorch Image Models) network, one for each stride from 4 on.

    Args:
        name: timm's name of the network, for example ``convnext_tiny``; the prefix ``timm/`` is allowed.
        norm: replacement of batch norm: ``frozen_bn`` (neither weights nor statistics are trained), ``bn`` or
            ``sync_bn``. ``auto`` is ``frozen_bn`` with pretrained weights and ``bn`` without. Other norms are not
            changed.
        weights: None (random), ``imagenet`` (downloaded by timm), or a file with the state dict of
            ``timm.create_model(name)``, ``.pth`` or ``.safetensors``.
        last_stride: stride of the coarsest map.
        frozen_stages: n freezes the parameters on which the maps up to stride ``2**n`` depend: for most networks, 1 is
            the stem and 2 adds the first stage. None is 2 with pretrained weights, 0 without.
        in_channels: number of channels of the images. timm adapts pretrained filters to other numbers than three.
        options: further arguments of ``timm.create_model``, for example ``{drop_path_rate: 0.1}``. Swin and vision
            transformers are configured for images of any size.

    Attributes:
        channels: number of channels of each map, by stride.
        pixel_mean: mean of each channel in 0..255 that timm's weights expect.
        pixel_std: standard deviation of each channel in 0..255 that timm's weights expect.

    Raises:
        UserError: timm is not installed or does not know the network, or the weights cannot be loaded.
    """

    def __init__(
        self,
        name: str = "resnet18",
        norm: TimmNorm = "auto",
        weights: str | None = None,
        last_stride: Literal[16, 32] = 32,
        frozen_stages: int | None = None,
        in_channels: int = 3,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        name = name.removeprefix("timm/")
        of_family = next((o for begin, o in _ANY_SIZE.items() if name.startswith(begin)), {})
        given = {"in_chans": in_channels, **of_family, **(options or {})}
        net = _build(name, weights, last_stride, given)
        self._strides: list[int] = net.feature_info.reduction()
        channels = zip(self._strides, net.feature_info.channels(), strict=True)
        self.channels = {stride: count for stride, count in channels if stride >= _FINEST}
        self.strides, self.in_channels = list(self.channels), in_channels
        self._nhwc = str(getattr(net, "output_fmt", "")).endswith("NHWC")
        config = net.pretrained_cfg
        self.pixel_mean, self.pixel_std = (
            [255 * value for value in (config[key] if in_channels == 3 else config[key][:1] * in_channels)]
            for key in ("mean", "std")
        )
        net.pretrained_cfg = net.default_cfg = {}  # it also has the weights
        self.net = _with_norm(net, chosen_norm(norm, weights))
        frozen = (2 if weights else 0) if frozen_stages is None else frozen_stages
        if last_stride == 16 or any(stride <= 2**frozen for stride in self._strides):
            self._freeze(frozen)

    def forward(self, pixels: Tensor) -> dict[int, Tensor]:
        """Compute the maps.

        Args:
            pixels: ``[N, in_channels, H, W]``, normalised; H and W are multiples of the coarsest stride.

        Returns:
            Maps ``[N, C_l, H/l, W/l]`` by stride l.
        """
        maps = zip(self._strides, self.net(pixels), strict=True)
        return {stride: x.permute(0, 3, 1, 2) if self._nhwc else x for stride, x in maps if stride >= _FINEST}

    def _freeze(self, stages: int) -> None:
        """Freeze the parameters on which the maps up to stride ``2**stages`` depend, and those of no map.

        timm keeps the stages after the last map of some networks. A backward pass finds both in any architecture.
        """
        side = 2 * max(self._strides)
        self.net.eval()  # so that running statistics do not change
        maps = dict(zip(self._strides, self.net(torch.zeros(1, self.in_channels, side, side)), strict=True))
        self.net.train()
        fine = {id(p) for p in self._reached([x for stride, x in maps.items() if stride <= 2**stages])}
        used = {id(p) for p in self._reached([x for stride, x in maps.items() if stride >= _FINEST])}
        for p in self.net.parameters():
            p.requires_grad_(p.requires_grad and id(p) in used - fine)

    def _reached(self, maps: list[Tensor]) -> list[nn.Parameter]:
        """The trained parameters on which ``maps`` depend."""
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        outputs = [x.sum() for x in maps if x.requires_grad]
        if not outputs or not parameters:
            return []
        found = torch.autograd.grad(sum(outputs), parameters, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        return [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]


def pixel_statistics(name: str) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of RGB in 0..255 that a timm network's pretrained weights expect.

    Args:
        name: timm's name; the prefix ``timm/`` is allowed.

    Raises:
        UserError: timm is not installed or does not know the network.
    """
    name = name.removeprefix("timm/")
    _check_name(name)
    config = _timm().get_pretrained_cfg(name)
    mean, std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return [255 * value for value in mean], [255 * value for value in std]


def _timm() -> Any:
    """The package, imported lazily because it is optional and takes a second."""
    try:
        import timm
    except ImportError as error:
        raise UserError("a backbone of timm needs the package timm: pip install 'maskrcnn[timm]'") from error
    # A feature extractor has no classifier, and timm would warn about that.
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)
    return timm


def _check_name(name: str) -> None:
    timm = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"timm {timm.__version__} has no network {name!r}{hint} (timm.list_models() lists them)"
        )


def _build(name: str, weights: str | None, last_stride: int, options: dict[str, Any]) -> Any:
    """Build timm's network with features of strides up to ``last_stride``, the last map of each."""
    _check_name(name)
    timm = _timm()
    try:
        info = timm.create_model(name, features_only=True, **options).feature_info
        wanted = {r: i for r, i in zip(info.reduction(), info.out_indices, strict=True) if r <= last_stride}
        options = {**options, "features_only": True, "out_indices": tuple(wanted.values())}
        own = {}
        if weights not in (None, "imagenet"):
            own["pretrained_cfg_overlay"] = {"state_dict": _state_of(name, weights)}
        return timm.create_model(name, pretrained=weights is not None, **options, **own)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"the pretrained weights of timm's {name} could not be downloaded ({error}).\n"
            f"Save the state dict of timm.create_model('{name}', pretrained=True) on another machine and give "
            "model.backbone.weights=FILE, or weights=null to start from random weights"
        ) from error
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"timm cannot build {name} with features_only=True, weights={weights}, {options}: {error}"
        ) from error


def _state_of(name: str, path: str) -> dict[str, Tensor]:
    """Read a state dict from a file, and check that it belongs to the complete network ``name``."""
    state = read_state(path)
    # A feature extractor would load whatever fits and leave the rest random; the complete network is strict.
    try:
        net = _timm().create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(
            f"{path} does not hold the weights of timm's {name}:\n"
            + "\n".join(line[:300] for line in lines[:5])
        ) from error
    whole: dict[str, Tensor] = net.state_dict()
    return whole


def _with_norm(net: nn.Module, norm: LayerNorm) -> nn.Module:
    if norm == "bn":
        return net
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
    from timm.layers.norm_act import FrozenBatchNormAct2d

    if norm == "sync_bn":
        synchronized: nn.Module = convert_sync_batchnorm(net)
        return synchronized
    frozen: nn.Module = freeze_batch_norm_2d(net)
    fold_frozen_norms(frozen, FrozenBatchNormAct2d)
    return frozen
