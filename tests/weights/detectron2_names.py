"""What a Detectron2 state dict holds, written down from its published naming: name -> shape."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]
BLOCKS = {50: {2: 3, 3: 4, 4: 6, 5: 3}, 101: {2: 3, 3: 4, 4: 23, 5: 3}}


def norm(prefix: str, channels: int) -> Shapes:
    return {
        f"{prefix}.norm.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")
    }


def conv(prefix: str, out: int, into: int, side: int) -> Shapes:
    """A convolution without bias and its frozen norm."""
    return {f"{prefix}.weight": (out, into, side, side)} | norm(prefix, out)


def biased(prefix: str, *shape: int, out: int | None = None) -> Shapes:
    return {f"{prefix}.weight": shape, f"{prefix}.bias": (shape[0] if out is None else out,)}


def stage(prefix: str, number: int, blocks: int) -> Shapes:
    out, middle = 256 * 2 ** (number - 2), 64 * 2 ** (number - 2)
    into = 64 if number == 2 else out // 2
    shapes: Shapes = {}
    for block in range(blocks):
        name = f"{prefix}res{number}.{block}"
        if block == 0:
            shapes |= conv(f"{name}.shortcut", out, into, 1)
        shapes |= conv(f"{name}.conv1", middle, into if block == 0 else out, 1)
        shapes |= conv(f"{name}.conv2", middle, middle, 3)
        shapes |= conv(f"{name}.conv3", out, middle, 1)
    return shapes


def backbone(prefix: str, depth: int, last: int) -> Shapes:
    shapes = conv(f"{prefix}stem.conv1", 64, 3, 7)
    for number in range(2, last + 1):
        shapes |= stage(prefix, number, BLOCKS[depth][number])
    return shapes


def rpn(channels: int, anchors: int) -> Shapes:
    head = "proposal_generator.rpn_head"
    return (
        biased(f"{head}.conv", channels, channels, 3, 3)
        | biased(f"{head}.objectness_logits", anchors, channels, 1, 1)
        | biased(f"{head}.anchor_deltas", 4 * anchors, channels, 1, 1)
    )


def predictors(channels: int, mask_channels: int, classes: int) -> Shapes:
    heads = "roi_heads"
    return (
        biased(f"{heads}.box_predictor.cls_score", classes + 1, channels)
        | biased(f"{heads}.box_predictor.bbox_pred", 4 * classes, channels)
        | biased(f"{heads}.mask_head.deconv", mask_channels, 256, 2, 2, out=256)
        | biased(f"{heads}.mask_head.predictor", classes, 256, 1, 1)
    )


def fc_heads(channels: int, classes: int) -> Shapes:
    shapes = biased("roi_heads.box_head.fc1", 1024, channels * 49) | biased(
        "roi_heads.box_head.fc2", 1024, 1024
    )
    for number in range(1, 5):
        shapes |= biased(f"roi_heads.mask_head.mask_fcn{number}", 256, channels if number == 1 else 256, 3, 3)
    return shapes | predictors(1024, 256, classes)


def c4(depth: int, classes: int) -> Shapes:
    return (
        backbone("backbone.", depth, 4)
        | rpn(1024, 15)
        | stage("roi_heads.", 5, 3)
        | predictors(2048, 2048, classes)
    )


def dc5(depth: int, classes: int) -> Shapes:
    return backbone("backbone.", depth, 5) | rpn(2048, 15) | fc_heads(2048, classes)


def fpn(depth: int, classes: int) -> Shapes:
    shapes = backbone("backbone.bottom_up.", depth, 5)
    for number in range(2, 6):
        shapes |= biased(f"backbone.fpn_lateral{number}", 256, 2 ** (number + 6), 1, 1)
        shapes |= biased(f"backbone.fpn_output{number}", 256, 256, 3, 3)
    return shapes | rpn(256, 3) | fc_heads(256, classes)


STRUCTURES = {"c4": c4, "dc5": dc5, "fpn": fpn}


def buffers(kind: str) -> Shapes:
    """What older files hold beside the weights."""
    shapes: Shapes = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    levels, anchors = (5, 3) if kind == "fpn" else (1, 15)
    return shapes | {
        f"proposal_generator.anchor_generator.cell_anchors.{level}": (anchors, 4) for level in range(levels)
    }
