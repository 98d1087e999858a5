"""Converts torchvision's state dicts to our names and class order, and back.

torchvision counts background first, we count it last. Its box and mask layers have an unused row for background. Ours
have it only if the model asks for it (``background_box``, ``background_map``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

# Our names -> torchvision's names; the first match counts.
_NAMES = [
    (r"backbone\.stem\.0\.", "backbone.body.conv1."),
    (r"backbone\.stem\.1\.", "backbone.body.bn1."),
    *((rf"backbone\.stages\.res{n}\.", f"backbone.body.layer{n - 1}.") for n in (2, 3, 4, 5)),
    (r"pyramid\.lateral\.(\d)\.(?=\D)", r"backbone.fpn.inner_blocks.\1.0."),
    (r"pyramid\.lateral\.(\d)\.", r"backbone.fpn.inner_blocks.\1."),
    (r"pyramid\.output\.(\d)\.(?=\D)", r"backbone.fpn.layer_blocks.\1.0."),
    (r"pyramid\.output\.(\d)\.", r"backbone.fpn.layer_blocks.\1."),
    (r"rpn\.head\.convs\.(\d)\.", r"rpn.head.conv.\1.0."),
    (r"rpn\.head\.logits\.", "rpn.head.cls_logits."),
    (r"rpn\.head\.deltas\.", "rpn.head.bbox_pred."),
    (r"box_head\.trunk\.layers\.0\.", "roi_heads.box_head.fc6."),
    (r"box_head\.trunk\.layers\.1\.", "roi_heads.box_head.fc7."),
    (r"box_head\.trunk\.convs\.convs\.(\d)\.(?=\D)", r"roi_heads.box_head.\1.0."),
    (r"box_head\.trunk\.convs\.convs\.(\d)\.", r"roi_heads.box_head.\1."),
    (r"box_head\.logits\.", "roi_heads.box_predictor.cls_score."),
    (r"box_head\.deltas\.", "roi_heads.box_predictor.bbox_pred."),
    (r"mask_head\.trunk\.convs\.(\d)\.(?=\D)", r"roi_heads.mask_head.\1.0."),
    (r"mask_head\.trunk\.convs\.(\d)\.", r"roi_heads.mask_head.\1."),
    (r"mask_head\.predictor\.upsample\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"mask_head\.predictor\.logits\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    *((rf"keypoint_head\.trunk\.convs\.{i}\.", f"roi_heads.keypoint_head.{2 * i}.") for i in range(16)),
    (r"keypoint_head\.upsample\.", "roi_heads.keypoint_predictor.kps_score_lowres."),
]
# Names in the first published files -> names that torchvision saves today.
_FORMER = [
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?=\D)", r"backbone.fpn.\1_blocks.\2.0."),
    (r"rpn\.head\.conv\.(?=\D)", "rpn.head.conv.0.0."),
    *((rf"roi_heads\.mask_head\.mask_fcn{n}\.", f"roi_heads.mask_head.{n - 1}.0.") for n in range(1, 9)),
]
_BY_CLASS = {"box_head.logits": 1, "box_head.deltas": 4, "mask_head.predictor.logits": 1}  # rows per class


def theirs(name: str, names: Iterable[str]) -> str | None:
    """torchvision's name of our entry, or None.

    Args:
        name: our name.
        names: names of all entries of our model.
    """
    if match := re.match(r"box_head\.trunk\.fc\.layers\.(\d)\.", name):
        convs = {text.split(".")[4] for text in names if text.startswith("box_head.trunk.convs.convs.")}
        place = len(convs) + 1 + 2 * int(match[1])  # after flattening; every second layer is a ReLU
        return f"roi_heads.box_head.{place}.{name[match.end() :]}"
    return renamed(name, _NAMES)


def to_ours(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of torchvision to our names and class order. Unknown entries keep their names.

    A background row that the model lacks is left out.

    Args:
        state: torchvision's state dict.
        own: the state dict of our model.
    """
    former = {renamed(name, _FORMER) or name: value for name, value in state.items()}
    ours = {theirs(name, own): name for name in own}
    out: dict[str, Tensor] = {}
    for their_name, value in former.items():
        name = ours.get(their_name, their_name)
        rows = _rows(name)
        if rows is not None:
            value = value.roll(-rows, 0)
            unused = not name.startswith("box_head.logits")
            if unused and len(value) == len(own[name]) + rows:
                value = value[:-rows]
        out[name] = value
    return out


def from_ours(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert our state dict to torchvision's names. A missing background row is filled with zeros.

    Raises:
        KeyError: torchvision has no counterpart of a name.
    """
    out: dict[str, Tensor] = {}
    classes = len(own["box_head.logits.bias"])
    for name, value in own.items():
        their_name = theirs(name, own)
        if their_name is None:
            raise KeyError(name)
        rows = _rows(name)
        if rows is not None:
            absent = classes * rows - len(value)
            value = torch.cat([value, value.new_zeros(absent, *value.shape[1:])]).roll(rows, 0)
        out[their_name] = value
    return out


def renamed(name: str, table: list[tuple[str, str]]) -> str | None:
    """Replace the beginning of a name by the first pattern that matches; None if none does."""
    for pattern, replacement in table:
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", replacement, name)
    return None


def _rows(name: str) -> int | None:
    """Number of rows of an entry that belong to each class; None if classes have no separate rows."""
    return _BY_CLASS.get(name.rpartition(".")[0])
