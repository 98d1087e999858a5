"""A RoI operator with its own kernel, examples/nearest.cpp: reads the cell nearest to the centre of each bin."""

from __future__ import annotations

import ctypes
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel. A C function without torch compiles in a second and works with every torch version."""
    source, built = Path(__file__).with_suffix(".cpp"), Path(mkdtemp()) / "nearest.so"
    subprocess.run(
        ["c++", "-O3", "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(built)], check=True
    )
    return ctypes.CDLL(str(built))


@torch.library.custom_op("examples::nearest", mutates_args=())
def nearest(image: Tensor, boxes: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Pool a map ``[C, H, W]`` at boxes ``[R, 4]`` (cells) to ``[R, C, bins, bins]``, and return the indices."""
    image, boxes = image.float().contiguous(), boxes.float().contiguous()
    out = image.new_empty(len(boxes), len(image), bins, bins)
    index = torch.empty(len(boxes), bins, bins, dtype=torch.int64)
    sizes = (ctypes.c_int64(n) for n in (*image.shape, len(boxes), bins))
    library().nearest(*(ctypes.c_void_p(t.data_ptr()) for t in (image, boxes, out, index)), *sizes)
    return out, index


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.shape = inputs[0].shape


def _gradient(ctx: Any, out: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    """Adds the gradient of each bin to the cell that it read."""
    (index,) = ctx.saved_tensors
    channels, height, width = ctx.shape
    image = out.new_zeros(channels, height * width)
    image.index_add_(1, index.flatten(), out.transpose(0, 1).reshape(channels, -1))
    return image.view(ctx.shape), None, None


torch.library.register_autograd("examples::nearest", _gradient, setup_context=_remember)


class Nearest:
    """The operator for models on one map, for example ``model=r18_c5``."""

    def __call__(self, features: dict[int, Tensor], boxes: Tensor, valid: Tensor, output_size: int) -> Tensor:
        """Pool maps by stride at boxes ``[N, K, 4]``, valid ``[N, K]``, to ``[N * K, C, P, P]``."""
        ((stride, maps),) = features.items()
        pooled = [
            nearest(image, own / stride, output_size)[0] for image, own in zip(maps, boxes, strict=True)
        ]
        return torch.cat(pooled) * valid.flatten()[:, None, None, None]
