"""The whole family, drawn at random: the compiled kernels against the reference, and one thread against two.

Where nothing was compiled both are the reference, whose oracles are in test_operators.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maskrcnn_ops import RoIOp, reference
from torch import Tensor

from tests.ops.fuzz import some_boxes

LAYOUTS = [torch.contiguous_format, torch.channels_last]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def operator(reduction: str, **switches: Any) -> RoIOp:
    """``reduction`` may be "position_sensitive", which goes with the mean alone."""
    sensitive = reduction == "position_sensitive"
    return RoIOp(reduction="avg" if sensitive else reduction, position_sensitive=sensitive, **switches)


OPERATORS = st.builds(
    operator,
    box_rounding=st.sampled_from(["none", "round", "pixel"]),
    plus_one=st.booleans(),
    offset=st.sampled_from([0.0, 0.5, 0.37, -1.25]),
    min_width=st.sampled_from([None, 0, 0.1, 1]),
    bin_rounding=st.booleans(),
    sampling_ratio=st.integers(-1, 3),
    sample_position=st.sampled_from(["centre", "corner", "thirds"]),
    border=st.sampled_from(["align", "mnc", "inner"]),
    reduction=st.sampled_from(["avg", "max", "position_sensitive"]),
    canonical_size=st.sampled_from([8.0, 56.0, 224.0]),
)


@dataclass(frozen=True)
class Drawn:
    """Arguments of the dispatcher's operators."""

    op: RoIOp
    maps: list[Tensor]
    boxes: Tensor
    image: Tensor
    output: tuple[int, int]
    grad: Tensor

    @property
    def numbers(self) -> tuple[list[float], list[float]]:
        return [1 / (4 << level) for level in range(len(self.maps))], self.op.packed()

    @property
    def channels_last(self) -> bool:
        return reference.layout_of(self.maps[0]) == torch.channels_last

    def run(self, library: Any) -> tuple[Tensor, Tensor | None]:
        """The pooled features, and the winners of a maximum."""
        if self.op.reduction == "max":
            out, winner = library.roi_maximum(self.maps, self.boxes, self.image, *self.output, *self.numbers)
            return out, winner
        return library.roi_sample(self.maps, self.boxes, self.image, None, *self.output, *self.numbers), None

    def spread(self, library: Any, winner: Tensor | None) -> list[Tensor]:
        """The gradients of the maps."""
        shape = [*self.maps[0].shape[:2], *(size for m in self.maps for size in m.shape[2:])]
        found: list[Tensor] = library.roi_spread(
            self.grad, self.boxes, self.image, winner, shape, *self.numbers, self.channels_last, False
        )
        return found


@st.composite
def drawn(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...]) -> Drawn:
    import numpy as np

    dtype, layout = draw(st.sampled_from(dtypes)), draw(st.sampled_from(LAYOUTS))
    seed = draw(st.integers(0, 10**6))
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    channels, levels = draw(st.sampled_from([1, 3, 17, 70])), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    images, regions = draw(st.integers(1, 3)), draw(st.integers(0, 25))

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout)

    op, output = draw(OPERATORS), draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    inputs = min(channels, 17) * output[0] * output[1] if op.position_sensitive else channels
    maps = [random(images, inputs, -(-height // (1 << k)), -(-width // (1 << k))) for k in range(levels)]
    boxes = some_boxes(rng, regions, 4.0 * max(height, width))
    boxes = boxes.to(torch.float64 if dtype == torch.float64 else torch.float32)
    image = torch.from_numpy(rng.integers(-1, images, regions))
    channels = min(channels, 17) if op.position_sensitive else channels
    grad = random(regions, channels, *output) if regions else torch.zeros(0, channels, *output, dtype=dtype)
    return Drawn(op, maps, boxes, image, output, grad)


def assert_equals_reference(case: Drawn) -> None:
    ops = torch.ops.maskrcnn_ops
    (found, winner), (expected, _) = case.run(ops), case.run(reference)
    limit = TOLERANCE[found.dtype]
    torch.testing.assert_close(found, expected, atol=limit, rtol=limit)
    for ours, theirs in zip(case.spread(ops, winner), case.spread(reference, winner), strict=True):
        # A cell's gradient is a sum of many terms: the tolerance grows with the largest of them.
        scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
        torch.testing.assert_close(ours, theirs, atol=limit * scale, rtol=limit)


ALL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@settings(max_examples=60, deadline=None)
@given(drawn(ALL))
def test_any_combination_equals_the_reference(case: Drawn) -> None:
    assert_equals_reference(case)


@settings(max_examples=60, deadline=None)
@given(drawn(ALL))
def test_any_combination_gives_the_same_bits_with_one_and_two_threads(case: Drawn) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out, winner = case.run(torch.ops.maskrcnn_ops)
            results.append([out, *case.spread(torch.ops.maskrcnn_ops, winner)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
