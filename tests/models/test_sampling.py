"""The keyed random numbers, and sampling that must be fair, bounded and independent of the batch."""

import numpy as np
import torch

from maskrcnn.models.sampling import keyed_uniform, sample


def splitmix_oracle(key: int, position: int, stream: int) -> float:
    """The mixing in Python integers, modulo 2^64."""
    mask = (1 << 64) - 1
    x = (key * 0x9E3779B97F4A7C15 + (position + (stream << 32)) * 0xC2B2AE3D27D4EB4F) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return ((x ^ (x >> 31)) >> 40) / 2**24


def test_numbers_equal_the_integer_oracle() -> None:
    keys = torch.tensor([0, 1, 123456789, 2**62 + 17])
    numbers = keyed_uniform(keys, 9, stream=3)
    for row, key in enumerate(keys.tolist()):
        assert numbers[row].tolist() == [splitmix_oracle(key, position, 3) for position in range(9)]


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = keyed_uniform(torch.arange(200), 500, stream=1).numpy()
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    chi_squared = float(((counts - 5000) ** 2 / 5000).sum())
    assert chi_squared < 43.8  # 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.015


def test_an_image_gets_the_same_sample_in_any_batch() -> None:
    positive = torch.rand(4, 300, generator=torch.Generator().manual_seed(0)) < 0.2
    keys = torch.tensor([11, 12, 13, 14])
    together = sample(positive, ~positive, 32, 8, keys, 1)
    alone = sample(positive[2:3], ~positive[2:3], 32, 8, keys[2:3], 1)
    for whole, part in zip(together, alone, strict=True):
        assert torch.equal(whole[2:3], part)


def test_quota_order_and_membership() -> None:
    positive = torch.zeros(3, 100, dtype=torch.bool)
    positive[0, :50], positive[1, :3] = True, True  # many, few and no positives
    negative = ~positive
    negative[2, 10:] = False  # only ten candidates at all
    index, valid, chosen = sample(positive, negative, 32, 8, torch.tensor([5, 6, 7]), 2)
    assert chosen.sum(1).tolist() == [8, 3, 0]
    assert valid.sum(1).tolist() == [32, 32, 10]
    for row in range(3):
        picked = index[row][valid[row]]
        assert picked.unique().numel() == picked.numel()
        assert torch.equal(positive[row, picked], chosen[row][valid[row]])
        assert (positive | negative)[row, picked].all()
        assert chosen[row, : int(chosen[row].sum())].all()  # positives first


def test_every_candidate_has_the_same_chance() -> None:
    positive = torch.zeros(2000, 20, dtype=torch.bool)
    index, valid, _ = sample(positive, ~positive, 5, 2, torch.arange(2000), 1)
    counts = np.bincount(index[valid].numpy(), minlength=20)
    assert counts.sum() == 2000 * 5
    assert float(((counts - 500) ** 2 / 500).sum()) < 43.8
