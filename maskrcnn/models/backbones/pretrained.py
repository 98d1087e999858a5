"""ImageNet weights of backbones, from a file or downloaded by name, and for images of any number of channels."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from maskrcnn.errors import UserError
from maskrcnn.models import hub


def load_pretrained(net: nn.Module, arch: str, weights: str, leave_out: tuple[str, ...]) -> None:
    """Load weights into a torchvision network without its classifier, in place.

    Args:
        net: the network.
        arch: torchvision's name of the network.
        weights: ``imagenet``, the name of a torchvision weight set, or a file with a state dict.
        leave_out: prefixes of entries to ignore.

    Raises:
        UserError: the weights cannot be loaded or do not fit.
    """
    path = Path(weights)
    state = read_state(weights) if path.suffix or path.exists() else _download(arch, weights)
    state, own = (
        {
            key: value
            for key, value in entries.items()
            if not key.startswith(leave_out) and "num_batches" not in key
        }
        for entries in (state, net.state_dict())
    )
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or other:
        raise UserError(
            f"{weights} does not hold the weights of {arch}: {len(missing)} missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(other)} of another shape {sorted(other)[:3]}"
        )
    net.load_state_dict(state, strict=False)


def read_state(source: str | Path) -> dict[str, Tensor]:
    """Read the state dict in a torch or safetensors file, or at an address on the Hub (``hf://user/repo/file``).

    Raises:
        UserError: the file does not exist, or contains something else.
    """
    path = hub.local_path(source)
    if not path.is_file():
        raise UserError(
            f"backbone weights {path}: no such file; give a file, `imagenet`, or weights=null for none"
        )
    if path.suffix == hub.SUFFIX:
        return hub.read_tensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"backbone weights {path} cannot be read as a state dict: {error}") from error
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise UserError(f"backbone weights {path} hold no state dict (names and tensors), but {type(state)}")
    return state


def _download(arch: str, name: str) -> dict[str, Tensor]:
    known = get_model_weights(arch)
    name = "IMAGENET1K_V1" if name.lower() == "imagenet" else name
    if name not in known.__members__:
        raise UserError(
            f"{arch} has no weights called {name}; there are: imagenet, {', '.join(known.__members__)}"
        )
    url = known[name].url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"the pretrained weights of {arch} could not be downloaded ({error}).\n"
            f"Fetch {url} on another machine and put it into {cache}, or pass its path as weights, "
            "or start from random weights with model.backbone.weights=null"
        ) from error


def inflated(weight: Tensor, channels: int) -> Tensor:
    """Adapt RGB filters to images of another number of channels: infrared, depth, multispectral.

    Each new filter is the mean of the three, times 3 / channels. An image with equal channels has the same response as
    before.

    Args:
        weight: ``[O, 3, k, k]``.
        channels: number of input channels.

    Returns:
        ``[O, channels, k, k]``.
    """
    shape = (weight.shape[0], channels, *weight.shape[2:])
    return (weight.mean(1, keepdim=True) * (weight.shape[1] / channels)).expand(shape).contiguous()


def inflate(conv: nn.Conv2d, channels: int) -> None:
    """Change the number of input channels of an RGB convolution in place."""
    if channels != conv.in_channels:
        conv.in_channels = channels
        conv.weight = nn.Parameter(inflated(conv.weight.detach(), channels), conv.weight.requires_grad)


@torch.no_grad()
def measured_channels(backbone: nn.Module) -> dict[int, int]:
    """Measure the number of channels of each map of a backbone by stride, finest first, with a small image."""
    training = backbone.training
    maps = backbone.eval()(torch.zeros(1, getattr(backbone, "in_channels", 3), 64, 64))
    backbone.train(training)
    return {stride: maps[stride].shape[1] for stride in sorted(maps)}
