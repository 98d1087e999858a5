"""Converts torchvision's detectors, with every setting that their results depend on, and back."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from maskrcnn_ops import RoIOp
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import faster_rcnn, keypoint_rcnn, mask_rcnn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from maskrcnn.errors import UserError
from maskrcnn.models.anchors import Anchors
from maskrcnn.models.backbones.resnet import Arch, ResNet
from maskrcnn.models.detector import MaskRCNN, Sampler
from maskrcnn.models.heads.box import BoxHead
from maskrcnn.models.heads.keypoint import KeypointHead
from maskrcnn.models.heads.mask import FCNPredictor, MaskHead
from maskrcnn.models.heads.trunks import ConvFCTrunk, ConvTrunk, TwoFCTrunk
from maskrcnn.models.losses import Sigmoid
from maskrcnn.models.norms import LayerNorm
from maskrcnn.models.pyramids import FPN
from maskrcnn.models.roi_pooling import RoIPooler
from maskrcnn.models.rpn import RPN
from maskrcnn.structures import Preprocessing
from maskrcnn.weights import torchvision_names

# Kind of the blocks, their number in the four stages, groups and width of a group -> name of the network.
_ARCHITECTURES: dict[tuple[type, tuple[int, ...], int, int], Arch] = {
    (resnet.BasicBlock, (2, 2, 2, 2), 1, 64): "resnet18",
    (resnet.BasicBlock, (3, 4, 6, 3), 1, 64): "resnet34",
    (resnet.Bottleneck, (3, 4, 6, 3), 1, 64): "resnet50",
    (resnet.Bottleneck, (3, 4, 23, 3), 1, 64): "resnet101",
    (resnet.Bottleneck, (3, 4, 23, 3), 64, 4): "resnext101_64x4d",
}
_NORMS: dict[Any, LayerNorm] = {
    FrozenBatchNorm2d: "frozen_bn",
    nn.SyncBatchNorm: "sync_bn",
    nn.BatchNorm2d: "bn",
}


class _Norm(NamedTuple):
    """A normalisation layer by name (None if there is none), and its epsilon."""

    norm: LayerNorm | None
    eps: float


def from_torchvision(module: nn.Module) -> MaskRCNN:
    """Convert torchvision's ``fasterrcnn_resnet*_fpn``, ``maskrcnn_...`` (v1, v2) or ``keypointrcnn_...`` to our model.

    Weights, thresholds, limits, anchors, norm epsilon, operators, the method of mask targets and `Preprocessing` are
    converted. Our label k is torchvision's k + 1. The weights are copied. The result has the mode (training or
    evaluation) and device of the module.

    Raises:
        UserError: another kind of module, or parts that are not torchvision's own.
    """
    if not isinstance(module, faster_rcnn.FasterRCNN):
        raise UserError(
            f"from_torchvision takes torchvision's Faster or Mask R-CNN, not {type(module).__name__}"
        )
    backbone = _expect(module.backbone, BackboneWithFPN, "backbone")
    model = MaskRCNN(
        _backbone(backbone.body),
        _pyramid(backbone.fpn),
        _rpn(module.rpn, backbone.out_channels),
        _box_head(module.roi_heads, backbone.out_channels),
        _mask_head(module.roi_heads) if isinstance(module, mask_rcnn.MaskRCNN) else None,
        _sampler(module.roi_heads),
        *_pixel_statistics(module.transform),
        _preprocessing(module.transform),
        _keypoint_head(module.roi_heads) if isinstance(module, keypoint_rcnn.KeypointRCNN) else None,
    )
    state = torchvision_names.to_ours(module.state_dict(), model.state_dict())
    model.load_state_dict({name: value.detach().clone() for name, value in state.items()})
    first = next(iter(state.values()))
    return model.to(device=first.device, dtype=first.dtype).train(module.training)


def to_torchvision(model: MaskRCNN) -> dict[str, Tensor]:
    """Return the state dict of torchvision's equivalent model: byte for byte what `from_torchvision` read.

    Rows for background, which torchvision has but does not use (``background_box``, ``background_map``), become zeros
    if the model lacks them.

    Raises:
        UserError: torchvision has no equivalent model.
    """
    if not isinstance(model.pyramid, FPN) or model.rpn is None or model.box_head is None:
        raise UserError(
            "torchvision's format is for models with an FPN, an RPN and a box head; this one lacks some"
        )
    agnostic = model.box_head.num_boxes == 1 != model.box_head.num_classes
    if agnostic or (model.mask_head is not None and type(model.mask_head.loss) is not Sigmoid):
        raise UserError(
            "torchvision has boxes and masks for every class (class_agnostic=false, loss=sigmoid)"
        )
    try:
        return torchvision_names.from_ours(model.state_dict())
    except KeyError as error:
        raise UserError(f"{error.args[0]} has no counterpart in torchvision's detectors") from error


def _backbone(body: nn.Module) -> ResNet:
    if any(name not in dict(body.named_children()) for name in ("conv1", "bn1", "layer4")):
        raise UserError("the model's backbone is no residual network; from_torchvision takes ResNet with FPN")
    norm = _norm(body.get_submodule("bn1"))
    assert norm.norm is not None
    stages = [body.get_submodule(f"layer{n}") for n in range(1, 5)]
    parts = [[body.get_submodule("conv1"), body.get_submodule("bn1")], *([stage] for stage in stages)]
    learning = [any(p.requires_grad for part in group for p in part.parameters()) for group in parts]
    return ResNet(
        _architecture(stages),
        norm=norm.norm,
        frozen_stages=learning.index(True) if any(learning) else len(learning),
        norm_eps=norm.eps,
    )


def _architecture(stages: list[nn.Module]) -> Arch:
    blocks = tuple(len(list(stage.children())) for stage in stages)
    first = stages[0].get_submodule("0")
    conv = getattr(first, "conv2", None)
    if isinstance(conv, nn.Conv2d):
        key = (type(first), blocks, conv.groups, conv.out_channels // conv.groups)
        if key in _ARCHITECTURES:
            return _ARCHITECTURES[key]
    raise UserError(f"the backbone, {blocks} blocks of {type(first).__name__}, is none of ours")


def _pyramid(fpn: Any) -> FPN:
    if not isinstance(fpn.extra_blocks, LastLevelMaxPool):
        raise UserError(
            f"the FPN's extra block {type(fpn.extra_blocks).__name__} is not torchvision's pooling"
        )
    norm = _norm_of(fpn.inner_blocks[0])
    channels = [block[0].in_channels for block in fpn.inner_blocks]
    return FPN(channels, fpn.inner_blocks[0][0].out_channels, norm=norm.norm, norm_eps=norm.eps)


def _rpn(rpn: Any, channels: int) -> RPN:
    generator, matcher, sampler = rpn.anchor_generator, rpn.proposal_matcher, rpn.fg_bg_sampler
    if len(set(generator.aspect_ratios)) != 1:
        raise UserError("the anchors have other aspect ratios on other levels, which is not supported")
    anchors = Anchors(generator.sizes, generator.aspect_ratios[0], offset=0.0, rounded=True, spacing="map")
    return RPN(
        channels,
        anchors,
        num_convs=len(rpn.head.conv),
        positive_iou=matcher.high_threshold,
        negative_iou=matcher.low_threshold,
        num_samples=sampler.batch_size_per_image,
        positive_fraction=sampler.positive_fraction,
        pre_nms_train=rpn._pre_nms_top_n["training"],
        post_nms_train=rpn._post_nms_top_n["training"],
        pre_nms_test=rpn._pre_nms_top_n["testing"],
        post_nms_test=rpn._post_nms_top_n["testing"],
        nms_iou=rpn.nms_thresh,
        min_size=rpn.min_size,
        score_threshold=rpn.score_thresh,
        box_weights=rpn.box_coder.weights,
        max_log_scale=rpn.box_coder.bbox_xform_clip,
    )


def _sampler(heads: Any) -> Sampler:
    return Sampler(
        heads.fg_bg_sampler.batch_size_per_image,
        heads.fg_bg_sampler.positive_fraction,
        heads.proposal_matcher.high_threshold,
        heads.proposal_matcher.low_threshold,
    )


def _box_head(heads: Any, channels: int) -> BoxHead:
    pooler, head, predictor = _pooler(heads.box_roi_pool), heads.box_head, heads.box_predictor
    _expect(predictor, faster_rcnn.FastRCNNPredictor, "box predictor")
    trunk: nn.Module
    if isinstance(head, faster_rcnn.TwoMLPHead):
        trunk = TwoFCTrunk(channels, pooler.output_size, head.fc6.out_features)
    else:
        _expect(head, faster_rcnn.FastRCNNConvFCHead, "box head")
        convs = [layer for layer in head if isinstance(layer, nn.Sequential)]
        layers = [layer for layer in head if isinstance(layer, nn.Linear)]
        trunk = ConvFCTrunk(
            channels,
            pooler.output_size,
            conv_dim=_expect(convs[0][0], nn.Conv2d, "box head's layer").out_channels,
            num_convs=len(convs),
            dim=layers[0].out_features,
            num_layers=len(layers),
            norm=_norm_of(convs[0]).norm,
            norm_eps=_norm_of(convs[0]).eps,
        )
    return BoxHead(
        pooler,
        trunk,
        predictor.cls_score.out_features - 1,
        box_weights=heads.box_coder.weights,
        score_threshold=heads.score_thresh,
        nms_iou=heads.nms_thresh,
        num_detections=heads.detections_per_img,
        num_candidates=None,
        max_log_scale=heads.box_coder.bbox_xform_clip,
        min_size=1e-2,
        background_box=True,
    )


def _mask_head(heads: Any) -> MaskHead:
    head = _expect(heads.mask_head, mask_rcnn.MaskRCNNHeads, "mask head")
    predictor = _expect(heads.mask_predictor, mask_rcnn.MaskRCNNPredictor, "mask predictor")
    convs, norm = [block[0] for block in head], _norm_of(head[0])
    if any(conv.dilation != (1, 1) for conv in convs):
        raise UserError("the mask head's convolutions are dilated, which is not supported")
    upsample, logits = predictor.conv5_mask, predictor.mask_fcn_logits
    return MaskHead(
        _pooler(heads.mask_roi_pool),
        ConvTrunk(convs[0].in_channels, convs[0].out_channels, len(convs), norm.norm, norm.eps),
        partial(FCNPredictor, upsample.in_channels, dim=upsample.out_channels),
        logits.out_channels - 1,
        mask_targets="bitmap_align",
        background_map=True,
    )


def _keypoint_head(heads: Any) -> KeypointHead:
    head = _expect(heads.keypoint_head, keypoint_rcnn.KeypointRCNNHeads, "keypoint head")
    predictor = _expect(heads.keypoint_predictor, keypoint_rcnn.KeypointRCNNPredictor, "keypoint predictor")
    convs = [layer for layer in head if isinstance(layer, nn.Conv2d)]
    return KeypointHead(
        _pooler(heads.keypoint_roi_pool),
        ConvTrunk(convs[0].in_channels, convs[0].out_channels, len(convs)),
        predictor.kps_score_lowres.out_channels,
    )


def _pooler(pooler: Any) -> RoIPooler:
    side = set(pooler.output_size)
    if sorted(pooler.featmap_names) != ["0", "1", "2", "3"] or len(side) != 1:
        raise UserError(
            f"a pooler of maps {pooler.featmap_names} to {pooler.output_size}; expected 0..3 to a square"
        )
    operator = RoIOp(
        half_pixel=False,
        min_width=1,
        sampling_ratio=pooler.sampling_ratio,
        canonical_size=pooler.canonical_scale,
        canonical_level=pooler.canonical_level,
    )
    return RoIPooler(operator, side.pop())


def _pixel_statistics(transform: Any) -> tuple[list[float], list[float]]:
    return [255 * value for value in transform.image_mean], [255 * value for value in transform.image_std]


def _preprocessing(transform: Any) -> Preprocessing:
    if transform.fixed_size is not None:
        raise UserError(f"the transform resizes to fixed_size={transform.fixed_size}, which is not supported")
    mean, std = (tuple(values) for values in _pixel_statistics(transform))
    return Preprocessing(
        transform.min_size[-1], transform.max_size, "float", transform.size_divisible, mean, std
    )


def _norm_of(block: Any) -> _Norm:
    """The norm of a torchvision block of convolution, norm and activation."""
    norms = [layer for layer in block if not isinstance(layer, nn.Conv2d | nn.ReLU)]
    return _norm(norms[0]) if norms else _Norm(None, 1e-5)


def _norm(layer: nn.Module) -> _Norm:
    for kind, name in _NORMS.items():
        if isinstance(layer, kind):
            return _Norm(name, layer.eps)
    raise UserError(f"the normalisation {type(layer).__name__} is not one that from_torchvision knows")


def _expect(part: Any, kind: type, what: str) -> Any:
    if not isinstance(part, kind):
        raise UserError(f"the {what} is a {type(part).__name__}, expected torchvision's {kind.__name__}")
    return part
