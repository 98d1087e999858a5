"""Detection of one image with the masks of its detections, beside the peers' Mask R-CNN R50-FPN."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from pycocotools import mask as coco_mask
from torch import Tensor

from benchmarks import detectors, detectron2, memory
from benchmarks.counting import Counted, arithmetic
from benchmarks.timing import compare_steps, device_of, keep_freed_memory, machine
from maskrcnn.data.loader import TrainBatch
from maskrcnn.models.convolution import use_fast_convolutions
from maskrcnn.models.detector import MaskRCNN
from maskrcnn.models.heads.box import BoxHead
from maskrcnn.models.precision import Precision, autocast
from maskrcnn.prediction.detections import Result, image_detections

PAIRS = 500  # (box, class) pairs above the threshold, so that 100 detections remain


def run(
    repeats: int = 5,
    side: int = 512,
    threads: int = 2,
    device: str = "auto",
    precisions: str = "fp32,bf16",
) -> dict[str, Any]:
    """One generated image of ``side`` x ``side``; detections from the same weights on both sides, ours in each of
    ``precisions``, torchvision's in float32."""
    wanted = [detectors.known_precision(name) for name in precisions.split(",")]
    place = device_of(device)
    before = {**machine(), "freed_memory_kept": keep_freed_memory(), "threads": threads}
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        image = detectors.pictures(folder, 1, (side, side))
    own, peer = detectors.pair(image)
    confident(own, peer, image)
    ours, theirs = our_side(own.to(place), image, place), their_side(peer.to(place), image, place)

    def theirs_encoded() -> list[Any]:
        masks = (theirs()[0]["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
        return [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]

    peers: list[tuple[str, Callable[[], object], str]] = [
        ("torchvision in fp32, full masks as probabilities", theirs, "2x"),
        ("torchvision in fp32, masks as COCO's run lengths, as ours", theirs_encoded, "2x"),
    ]
    if detectron2.is_installed():
        other = detectron2.detection(detectron2.with_weights_of(own, place), image)
        peers.append(("Detectron2 in fp32, full masks as booleans", other, "2x"))
    rows = []
    for precision in wanted:
        setting = f"R50-FPN, 1 x {side}x{side}, ours in {precision}, {place.type}, {threads} threads"
        for words, peer_side, goal in peers:
            rows += compare_steps(
                "detection", words, setting, partial(ours, precision), peer_side, repeats, goal
            )
    counts = {"ours": {name: len(ours(name)) for name in wanted}, "torchvision": len(theirs()[0]["boxes"])}
    return {
        "machine": before,
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "detections": counts,
        "peak_memory": memory.peaks("infer", side=side, threads=threads, device=str(place)),
        "per_image": {"ours": _counts(ours), "torchvision": _counts(theirs)},
        "arithmetic": arithmetic({"ours": ours, "torchvision": theirs}) if place.type == "cpu" else {},
        "rows": [row.as_json() for row in rows],
    }


def our_side(model: MaskRCNN, image: TrainBatch, place: torch.device) -> Callable[..., list[Result]]:
    """Detection of the batch's one image in a precision, masks as COCO's run lengths."""
    images, size = image.images.to(place), image.images.sizes[0]
    use_fast_convolutions(model)

    @torch.no_grad()
    def detect(precision: Precision = "fp32") -> list[Result]:
        with autocast(precision, place):
            found = model.detect(images, trim=True).to("cpu")
        detections = image_detections(found, 0, size, (int(size[0]), int(size[1])))
        return detections.to_coco(1, range(detectors.NUM_CLASSES))

    return detect


def their_side(model: Any, image: TrainBatch, place: torch.device) -> Callable[[], list[dict[str, Tensor]]]:
    """torchvision's detection, masks as probabilities of the image's size."""
    pixels = [p.to(place) for p in detectors.for_torchvision(image)[0]]

    @torch.no_grad()
    def detect() -> list[dict[str, Tensor]]:
        return [{name: value.cpu() for name, value in found.items()} for found in model(pixels)]

    return detect


def one_side(name: str, side: int, threads: int, device: str) -> Callable[[], object]:
    """Detection in float32 of one side alone, for `memory.peaks`."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    with tempfile.TemporaryDirectory() as folder:
        image = detectors.pictures(folder, 1, (side, side))
    own, peer = detectors.pair(image)
    confident(own, peer, image)
    if name == "ours":
        return our_side(own.to(place), image, place)
    if name == "Detectron2":
        return detectron2.detection(detectron2.with_weights_of(own, place), image)
    return their_side(peer.to(place), image, place)


def _counts(side: Any) -> dict[str, Any]:
    with Counted() as counted:
        side()
    return {"dispatches": counted.dispatches, "host_syncs": dict(counted.syncs)}


@torch.no_grad()
def confident(own: MaskRCNN, peer: Any, image: TrainBatch) -> None:
    """Spread the random class scores and raise the background's until about `PAIRS` of them pass the threshold, as a
    network's that has learned; without it none do. Both sides get the same numbers."""
    own.eval()
    peer.eval()
    head = own.box_head
    assert isinstance(head, BoxHead)
    assert own.rpn is not None
    features = own.features(image.images)
    proposals = own.rpn.propose(features, image.images.sizes)
    logits = head.predict(features, proposals.boxes, proposals.valid)[0][0]
    factor = 2 / logits[:, :-1].std()
    low, high = -20.0, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        raised = logits * factor
        raised[:, -1] += middle
        passing = int((raised.softmax(1)[:, :-1] > head.score_threshold).sum())
        low, high = (middle, high) if passing > PAIRS else (low, middle)
    head.logits.weight.mul_(factor)
    head.logits.bias.mul_(factor)
    head.logits.bias[-1] += low
    theirs = peer.roi_heads.box_predictor.cls_score
    theirs.weight.copy_(head.logits.weight.roll(1, 0))
    theirs.bias.copy_(head.logits.bias.roll(1, 0))
    peer.roi_heads.score_thresh = head.score_threshold
