"""The detector: backbone, pyramid, RPN, RoI operator, box head, mask head, keypoint head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.errors import UserError
from maskrcnn.models.heads.box import BoxBranch, BoxHead
from maskrcnn.models.heads.keypoint import KeypointHead
from maskrcnn.models.heads.mask import MaskHead
from maskrcnn.models.rpn import RPN
from maskrcnn.models.sampling import match, sample, take
from maskrcnn.structures import Detections, Images, Loss, Preprocessing, Proposals, Samples, Targets

SAMPLING_STREAM = 2


class Sampler:
    """Samples the regions that the heads are trained on (Fast R-CNN, section 2.3).

    Args:
        num_samples: regions per image. Ground-truth boxes are added to the proposals.
        positive_fraction: largest share of positive regions. The rest is background.
        iou: a region is positive if it overlaps an object by this IoU or more.
        negative_iou: a region is background if its largest IoU is below this. Regions in between are not sampled. None
            is ``iou``.
        hardest: train the box head on this many of the sampled regions per image, those with the largest loss (OHEM,
            Shrivastava et al., 2016); None is all. R-FCN uses 128 of 300 regions with ``positive_fraction=1``.
    """

    def __init__(
        self,
        num_samples: int = 512,
        positive_fraction: float = 0.25,
        iou: float = 0.5,
        negative_iou: float | None = None,
        hardest: int | None = None,
    ) -> None:
        self.num_samples, self.max_positives = num_samples, int(num_samples * positive_fraction)
        self.iou, self.negative_iou = iou, iou if negative_iou is None else negative_iou
        self.hardest = hardest

    @torch.no_grad()
    def __call__(self, proposals: Proposals, targets: Targets, num_classes: int) -> Samples:
        """Sample regions.

        Args:
            proposals: ``[N, K]`` regions.
            targets: ground truth of the batch.
            num_classes: the label of background.

        Returns:
            ``[N, num_samples]`` regions, positives first.
        """
        boxes = torch.cat([targets.boxes.to(proposals.boxes.dtype), proposals.boxes], 1)
        usable = torch.cat([targets.valid, proposals.valid], 1)
        found = match(boxes, targets)
        positive = usable & (found.iou >= self.iou)
        negative = usable & (found.iou < self.negative_iou) & ~positive & ~found.in_crowd
        index, valid, is_positive = sample(
            positive, negative, self.num_samples, self.max_positives, targets.keys, SAMPLING_STREAM
        )
        matched = torch.where(is_positive, found.object.gather(1, index), 0)
        labels = torch.where(is_positive, targets.labels.gather(1, matched), num_classes)
        return Samples(
            take(boxes, index), labels, matched, valid, is_positive, self.max_positives, self.hardest
        )


class MaskRCNN(nn.Module):
    """Mask R-CNN (He et al., 2017). Without a mask head it is Faster R-CNN, without an RPN Fast R-CNN.

    Args:
        backbone: normalised images to feature maps by stride (see `maskrcnn.models.protocols.Backbone`).
        pyramid: the backbone's maps to the maps that the RPN and the heads use, by stride.
        rpn: None if every call gets proposals.
        box_head: None with an RPN makes a proposal network, whose detections are the proposals. None with a mask head
            predicts masks of the boxes that every call gets.
        mask_head: None predicts boxes only.
        sampler: samples the regions that the heads are trained on; None for a model without heads.
        pixel_mean: mean of each channel in 0..255. The default is ImageNet's, for RGB. Floating-point images are not
            normalised again.
        pixel_std: standard deviation of each channel in 0..255.
        preprocessing: how images must be resized for the model's weights, if they came with this setting. The commands
            use the data's config instead.
        keypoint_head: None predicts no keypoints. It needs a box head.

    Raises:
        UserError: the parts do not fit together, for example a mask head without a sampler.
    """

    # The arguments of `maskrcnn.models.builders` as plain values; None for a model that was built otherwise.
    recipe: dict[str, Any] | None = None

    def __init__(
        self,
        backbone: nn.Module,
        pyramid: nn.Module,
        rpn: RPN | None,
        box_head: BoxBranch | None,
        mask_head: MaskHead | None,
        sampler: Sampler | None,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        preprocessing: Preprocessing | None = None,
        keypoint_head: KeypointHead | None = None,
    ) -> None:
        super().__init__()
        _check_parts(rpn, box_head, mask_head, sampler)
        if keypoint_head is not None and box_head is None:
            raise UserError("a keypoint head needs the boxes of a box head, but box_head is null")
        _check_channels(backbone, pixel_mean, pixel_std)
        self.backbone, self.pyramid, self.rpn = backbone, pyramid, rpn
        self.box_head, self.mask_head, self.sampler = box_head, mask_head, sampler
        self.keypoint_head, self.preprocessing = keypoint_head, preprocessing
        if box_head is not None and mask_head is not None and mask_head.trunk is None:
            if not isinstance(box_head, BoxHead):
                raise UserError(
                    "mask_head.trunk=null takes the box head's trunk, but this box head has none on regions"
                )
            mask_head.share_trunk(box_head.trunk)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    def forward(
        self, images: Images, targets: Targets, proposals: Proposals | None = None
    ) -> dict[str, Loss]:
        """Call `losses`. DistributedDataParallel needs this name."""
        return self.losses(images, targets, proposals)

    def losses(self, images: Images, targets: Targets, proposals: Proposals | None = None) -> dict[str, Loss]:
        """Compute the terms of ``L = L_rpn + L_cls + L_box + L_mask + L_keypoint``.

        Args:
            images: the batch.
            targets: its ground truth.
            proposals: regions to use instead of the RPN's; None runs the RPN.

        Returns:
            Each term by name, as a sum and the number to divide it by.
        """
        features = self.features(images)
        losses: dict[str, Loss] = {}
        if proposals is None:
            proposals, losses = self._rpn().propose_and_learn(features, images.sizes, targets)
        if self.sampler is None:
            return losses
        trained = self.box_head or self.mask_head
        assert trained is not None
        samples = self.sampler(proposals, targets, trained.num_classes)
        heads: list[BoxBranch | MaskHead | KeypointHead | None] = [
            self.box_head,
            self.mask_head,
            self.keypoint_head,
        ]
        for head in heads:
            if head is not None:
                losses |= head.losses(features, samples, targets, images)
        return losses

    def detect(self, images: Images, proposals: Proposals | None = None, trim: bool = False) -> Detections:
        """Detect the objects in ``images``.

        Args:
            images: the batch.
            proposals: regions to use instead of the RPN's; None runs the RPN.
            trim: cut the padding to the largest number of detections in an image, which saves work in the mask head
                but synchronises with the device once. Leave it off if shapes must not depend on values.

        Returns:
            Boxes ``[N, D, 4]``, scores, labels, and masks and keypoints if the model has these heads.
        """
        features = self.features(images)
        detections = self.detect_boxes(features, images, proposals)
        if trim:
            detections = _trim(detections)
        return self.detect_within(features, detections, images)

    def detect_boxes(
        self, features: dict[int, Tensor], images: Images, proposals: Proposals | None = None
    ) -> Detections:
        """Run the first half of `detect`, without masks and keypoints.

        Args:
            features: maps by stride, from `features`.
            images: the batch.
            proposals: regions to use instead of the RPN's; None runs the RPN.

        Returns:
            Boxes ``[N, D, 4]``, scores and labels.
        """
        if proposals is None:
            proposals = self._rpn().propose(features, images.sizes)
        if self.box_head is None:
            return _as_detections(proposals)
        return self.box_head.detect(features, proposals, images)

    def detect_within(
        self, features: dict[int, Tensor], detections: Detections, images: Images
    ) -> Detections:
        """Run the second half of `detect`: add masks and keypoints to given boxes.

        Args:
            features: maps by stride, from `features`.
            detections: boxes, from `detect_boxes` or elsewhere.
            images: the batch.

        Returns:
            ``detections`` with masks and keypoints.
        """
        heads: list[MaskHead | KeypointHead | None] = [self.mask_head, self.keypoint_head]
        for head in heads:
            if head is not None:
                detections = head.detect(features, detections, images)
        if self.box_head is None and detections.masks is not None:
            detections = replace(detections, scores=maskness(detections.masks))
        return detections

    def features(self, images: Images) -> dict[int, Tensor]:
        """Compute the feature maps ``[N, C, H/l, W/l]`` by stride l."""
        maps: dict[int, Tensor] = self.pyramid(self.backbone(self._normalise(images)))
        return maps

    def _normalise(self, images: Images) -> Tensor:
        """Normalise to zero mean and unit variance. Padding is zero, which is the mean colour."""
        pixels = images.pixels
        if pixels.is_floating_point():
            pixels = pixels.to(self.pixel_mean.dtype)
        else:
            pixels = (pixels - self.pixel_mean).div_(self.pixel_std)
        y, x = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
        height, width = images.sizes.view(-1, 2, 1, 1).unbind(1)  # [N, 1, 1]
        inside = (y.unsqueeze(-1) < height) & (x < width)  # [N, H, W]
        return (pixels * inside.unsqueeze(1)).contiguous(memory_format=torch.channels_last)

    def _rpn(self) -> RPN:
        if self.rpn is None:
            raise ValueError("this model has no RPN, so proposals must be given")
        return self.rpn


def _trim(detections: Detections) -> Detections:
    most = int(detections.valid.sum(1).max())
    first = {name: getattr(detections, name)[:, :most] for name in ("boxes", "scores", "labels", "valid")}
    return Detections(**first, masks=None)


def maskness(masks: Tensor) -> Tensor:
    """Mean probability of the cells that belong to the mask (SOLO, Wang et al. 2020): ``[N, D, M, M]`` to ``[N, D]``.

    It ranks masks of boxes that have no score.
    """
    inside = masks >= 0.5
    return (masks * inside).sum((-2, -1)) / inside.sum((-2, -1)).clamp(min=1)


def _as_detections(proposals: Proposals) -> Detections:
    """Proposals as detections by descending score, with label 0 if they have no labels."""
    labels = proposals.labels
    if labels is None:
        labels = torch.zeros_like(proposals.valid, dtype=torch.int64)
    return Detections(proposals.boxes, proposals.scores.sigmoid(), labels, proposals.valid, masks=None)


def _check_channels(backbone: nn.Module, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
    channels = getattr(backbone, "in_channels", len(pixel_mean))
    if not len(pixel_mean) == len(pixel_std) == channels:
        raise UserError(
            f"pixel_mean and pixel_std need a number for each of the backbone's {channels} input channels, "
            f"but have {len(pixel_mean)} and {len(pixel_std)}"
        )


def _check_parts(
    rpn: RPN | None, box_head: BoxBranch | None, mask_head: MaskHead | None, sampler: Sampler | None
) -> None:
    if rpn is None and box_head is None and mask_head is None:
        raise UserError(
            "a model needs an RPN, a box head or a mask head; rpn, box_head and mask_head are all null"
        )
    if box_head is None and mask_head is not None:
        if rpn is not None:
            raise UserError(
                "box_head=null with a mask head predicts masks of given boxes and does not use an RPN; set rpn=null"
            )
        if mask_head.trunk is None:
            raise UserError("mask_head.trunk=null takes the box head's trunk, but box_head=null")
    if (box_head is not None or mask_head is not None) and sampler is None:
        raise UserError("the heads learn from sampled regions; sampler=null is for an RPN without heads")
