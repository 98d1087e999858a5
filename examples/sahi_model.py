"""A detector of this project for SAHI's sliced prediction."""

from __future__ import annotations

from typing import Any

from sahi.models.base import DetectionModel
from sahi.prediction import ObjectPrediction
from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
from sahi.utils.cv import get_coco_segmentation_from_bool_mask


class SahiModel(DetectionModel):
    """``SahiModel(model=Predictor("best.pt"))``. The score threshold is SAHI's ``confidence_threshold``."""

    def set_model(self, model: Any, **_: Any) -> None:
        self.model, self.has_mask = model, model.model.mask_head is not None
        self.category_names = [str(category["name"]) for category in model.categories]
        self.num_categories = len(self.category_names)

    def perform_inference(self, image: Any) -> None:
        self._original_predictions = self.model.predict([image])

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        found = self._original_predictions[0].above(self.confidence_threshold)
        (shift,) = fix_shift_amount_list(shift_amount_list or [[0, 0]])
        (size,) = fix_full_shape_list(full_shape_list) or [list(found.size)]
        self._object_prediction_list_per_image = [[]]
        for index, box in enumerate(found.boxes.tolist()):
            mask = get_coco_segmentation_from_bool_mask(found.mask(index)) if self.has_mask else None
            label, score = int(found.labels[index]), float(found.scores[index])
            self._object_prediction_list_per_image[0].append(
                ObjectPrediction(box, label, self.category_names[label], mask or None, score, shift, size)
            )
