"""Random sampling without a random state: the numbers are a hash of the image's key.

A generator's state would have to be saved, shared between processes and kept in step with the split of the batch. With
a hash of (seed, epoch, image), an image has the same sample in any process, batch position and device.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def keyed_uniform(keys: Tensor, count: int, stream: int) -> Tensor:
    """Generate uniform numbers in [0, 1). The same keys give the same numbers.

    The mixing is that of SplitMix64 (Steele et al., 2014).

    Args:
        keys: ``[N]`` int64.
        count: numbers per key.
        stream: distinguishes independent uses of one key.

    Returns:
        ``[N, count]`` float32.
    """
    x = keys[:, None] * -7046029254386353131 + _positions(count, stream, keys.device)  # wraps modulo 2^64
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    x = x ^ _shift(x, 31)
    return _shift(x, 40).to(torch.float32) * 2.0**-24


@lru_cache(maxsize=64)
def _positions(count: int, stream: int, device: torch.device) -> Tensor:
    position = torch.arange(count, device=device, dtype=torch.int64) + (stream << 32)
    return position * -4417276706812531889


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def sample(
    positive: Tensor, negative: Tensor, num: int, max_positives: int, keys: Tensor, stream: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample up to ``num`` candidates per image at random, positives first.

    Args:
        positive: ``[N, A]`` bool.
        negative: ``[N, A]`` bool, disjoint from ``positive``.
        num: number of samples per image.
        max_positives: largest number of positives among them.
        keys: ``[N]`` int64, see `keyed_uniform`.
        stream: see `keyed_uniform`.

    Returns:
        Indices, validity and whether the sample is a positive, each ``[N, S]`` with ``S = min(num, A)``.
    """
    slots = min(num, positive.shape[1])
    uniform = keyed_uniform(keys, positive.shape[1], stream)
    pos_key, pos_index = uniform.masked_fill(~positive, -1.0).topk(min(max_positives, slots))
    neg_key, neg_index = uniform.masked_fill(~negative, -1.0).topk(slots)
    pos_valid = pos_key >= 0
    num_positive, slot = pos_valid.sum(1, keepdim=True), torch.arange(slots, device=keys.device)
    neg_valid = (neg_key >= 0) & (slot < slots - num_positive)
    valid = torch.cat([pos_valid, neg_valid], dim=1)
    valid, first = torch.sort(valid.to(torch.uint8), dim=1, descending=True, stable=True)
    indices = torch.cat([pos_index, neg_index], dim=1).gather(1, first[:, :slots])
    return indices, valid[:, :slots].bool(), slot < num_positive
