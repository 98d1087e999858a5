"""The Python API: own data sets train, resume, are evaluated and predicted on, without Hydra."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from maskrcnn_ops import RoIOp
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

import maskrcnn
from maskrcnn import Checkpoints, Evaluation, Predictor, Trainer, Transform, UserError, faster_rcnn, mask_rcnn
from maskrcnn.data.augmentations import CopyPaste
from maskrcnn.data.loader import TrainLoader
from maskrcnn.models import FPN, RPN, Anchors, BoxHead, MaskRCNN, ResNet, RoIPooler, Sampler, TwoFCTrunk
from maskrcnn.training import checkpoint
from maskrcnn.training.checks import check_learnable
from maskrcnn.training.initialise import norms_of
from tests.cli.test_processes import free_port
from tests.cli.test_survival import assert_same_bits, environment

FAST = {"test_transform": Transform(), "device": "cpu"}


class Squares:
    """Two bright squares on a dark ground."""

    def __init__(self, length: int = 4, labels: int = 2) -> None:
        self.length, self.labels = length, labels

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        masks = torch.zeros(2, 64, 64, dtype=torch.bool)
        for number, left in enumerate((4 + index, 36)):
            image[:, 10:30, left : left + 20] = 100 + 100 * number
            masks[number, 10:30, left : left + 20] = True
        boxes = torch.tensor([[4.0 + index, 10, 24 + index, 30], [36, 10, 56, 30]])
        return image, {"boxes": boxes, "labels": torch.tensor([1, self.labels]), "masks": masks}


def small(num_classes: int = 2) -> MaskRCNN:
    torch.manual_seed(0)
    return mask_rcnn("resnet18", num_classes, small=True, norm="gn", score_threshold=0.0)


TWELVE_LINES = """
    import sys, torch
    from maskrcnn import Predictor, Trainer, Transform, mask_rcnn
    class Squares:
        def __len__(self): return 4
        def __getitem__(self, index):
            image = torch.zeros(3, 64, 64)
            image[:, 10:40, 10:30] = 0.8
            boxes, labels = torch.tensor([[10.0, 10, 30, 40]]), torch.tensor([1])
            return image, {"boxes": boxes, "labels": labels, "masks": image[:1] > 0}
    model = mask_rcnn("resnet18", num_classes=1, roi_op="align", small=True)
    trainer = Trainer(model, Squares(), Squares(), sys.argv[1], steps=2, batch_size=2, test_transform=Transform())
    metrics = trainer.fit()
    assert set(metrics) == {"bbox", "segm"} and trainer.evaluate() == metrics
    found = Predictor(sys.argv[1] + "/best.pt").predict([torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()])
    assert len(found) == 1 and found[0].size == (64, 64)
    print([name for name in sys.modules if name.split(".")[0] in ("hydra", "omegaconf")])
"""


@pytest.mark.slow
def test_twelve_lines_train_evaluate_and_predict_without_hydra(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(TWELVE_LINES))
    command = [sys.executable, str(script), str(tmp_path / "run")]
    for expected in ("2 steps of 2 images", "resuming from step 2 of 2"):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout
        assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_the_same_lines_under_torchrun(tmp_path: Path) -> None:
    """Each process draws other first weights, and all train the main one's."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(TWELVE_LINES))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launcher += [f"--master_port={free_port()}", str(script), str(tmp_path / "run")]
    done = subprocess.run(launcher, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 steps of 2 images (2 processes x 1 parts x 1 images)" in done.stdout
    assert len(checkpoint.load(tmp_path / "run" / "last.pt")["random_states"]) == 2


def test_importing_the_package_loads_neither_torch_nor_hydra() -> None:
    code = "import sys, maskrcnn, maskrcnn.models; print({'torch', 'hydra', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("module", [maskrcnn, maskrcnn.models])
def test_every_public_name_can_be_imported(module: Any) -> None:
    assert [name for name in module.__all__ if not callable(getattr(module, name))] == []
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(True)
    settings: dict[str, Any] = {"batch_size": 2, "checkpoints": Checkpoints(every=1, keep=9), **FAST}
    whole = Trainer(small(), Squares(), Squares(), tmp_path / "whole", steps=3, **settings).fit()
    (tmp_path / "again").mkdir()
    before = tmp_path / "whole" / "step_00000002.pt"
    (tmp_path / "again" / "last.pt").write_bytes(before.read_bytes())
    model = small()
    assert Trainer(model, Squares(), Squares(), tmp_path / "again", steps=3, **settings).fit() == whole
    torch.use_deterministic_algorithms(False)
    expected = checkpoint.load(tmp_path / "whole" / "last.pt")["model"]
    assert_same_bits(expected, checkpoint.load(tmp_path / "again" / "last.pt")["model"])
    assert_same_bits(expected, model.state_dict())


@pytest.mark.slow
def test_an_augmented_run_resumes_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.use_deterministic_algorithms(True)
    settings: dict[str, Any] = {
        "batch_size": 2,
        "checkpoints": Checkpoints(every=1, keep=9),
        "augmentations": ["light", CopyPaste(probability=0.9), v2.RandomRotation(20)],
        "train_loader": partial(TrainLoader, repeat_threshold=1.0, num_workers=1),
        **FAST,
    }
    data = Squares(labels=1)
    Trainer(small(), data, None, tmp_path / "whole", steps=3, **settings).fit()
    assert (
        "repeat factors: 4 images an epoch instead of 4; share of the images with class 1 100.0%"
        in " ".join(capsys.readouterr().out.split())
    )
    (tmp_path / "again").mkdir()
    before = tmp_path / "whole" / "step_00000002.pt"
    (tmp_path / "again" / "last.pt").write_bytes(before.read_bytes())
    Trainer(small(), data, None, tmp_path / "again", steps=3, **settings).fit()
    whole, again = (checkpoint.load(tmp_path / name / "last.pt")["model"] for name in ("whole", "again"))
    assert_same_bits(whole, again)
    (tmp_path / "again" / "last.pt").write_bytes(before.read_bytes())
    other = {**settings, "augmentations": ["light"]}
    with pytest.raises(UserError, match=r"data\.train_transform\.augmentations: \['light', \{'_target_'"):
        Trainer(small(), data, None, tmp_path / "again", steps=3, **other).fit()
    torch.use_deterministic_algorithms(False)


def test_augmentations_of_the_trainer_keep_its_resizing() -> None:
    trainer = Trainer(small(), Squares(), augmentations="strong", test_transform=Transform(short_side=48))
    assert trainer.train_transform == Transform(short_side=48, horizontal_flip=0.5, augmentations="strong")
    with pytest.raises(UserError, match="no preset"):
        Trainer(small(), Squares(), augmentations="stronger")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("trained")
    classes = ["left", "right"]
    Trainer(
        small(), Squares(), Squares(), folder, steps=1, batch_size=2, classes=classes, num_workers=1, **FAST
    ).fit()
    return folder


def test_a_run_with_other_settings_or_data_is_not_resumed(trained: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds a run with other settings:\n  schedule\.batch_size: 2 before, 4"
    ):
        Trainer(
            small(), Squares(), Squares(), trained, steps=1, batch_size=4, classes=["left", "right"], **FAST
        ).fit()
    with pytest.raises(UserError, match="other train data: 4 images before, 3 images now"):
        Trainer(
            small(), Squares(3), Squares(), trained, steps=1, batch_size=2, classes=["left", "right"], **FAST
        ).fit()


def test_a_checkpoint_says_how_its_model_is_built_and_tested(trained: Path) -> None:
    predictor = Predictor(trained / "best.pt", max_size=None)
    assert predictor.transform == Transform()
    assert predictor.categories == [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}]
    assert_same_bits(predictor.model.state_dict(), checkpoint.load(trained / "best.pt")["model"])
    changed = Predictor(trained / "best.pt", overrides=["model.score_threshold=0.9"])
    assert changed.model.box_head is not None
    assert changed.model.box_head.score_threshold == 0.9
    assert norms_of(trained / "best.pt") == ("gn", 0)


def test_the_ground_truth_of_an_own_data_set_is_scored(trained: Path) -> None:
    """Boxes and masks of the data set itself, given back as predictions, are perfect."""
    trainer = Trainer(small(), Squares(), Squares(), trained, steps=1, batch_size=2, **FAST)
    truth = trainer.val_set.ground_truth()
    assert [a["area"] for a in truth["annotations"]] == [400.0] * 8
    assert truth["annotations"][0]["bbox"] == [4.0, 10.0, 20.0, 20.0]
    found = [{**a, "score": 1.0} for a in truth["annotations"]]
    from maskrcnn.evaluation.metrics import evaluate

    metrics = evaluate(found, truth, kinds=("bbox", "segm"))
    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == pytest.approx(100)


def test_a_model_of_own_parts_trains_resumes_and_is_loaded_by_its_weights(tmp_path: Path) -> None:
    def model() -> MaskRCNN:
        torch.manual_seed(0)
        pyramid = FPN([64, 128, 256, 512], 32)
        rpn = RPN(32, Anchors([[16], [32], [64], [128], [256]]), post_nms_train=20)
        head = BoxHead(RoIPooler(RoIOp.preset("pool"), 7), TwoFCTrunk(32, 7, 32), 2)
        return MaskRCNN(ResNet("resnet18", "gn"), pyramid, rpn, head, None, Sampler(16))

    for steps in (1, 2):
        trainer = Trainer(model(), Squares(), Squares(), tmp_path, steps=steps, batch_size=2, **FAST)
        assert set(trainer.fit()) == {"bbox"}
    with pytest.raises(UserError, match=r"not how to build it: .*load_state_dict.*Predictor\(model\)"):
        Predictor(tmp_path / "best.pt")
    again = model()
    again.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True)["model"])
    assert len(Predictor(again, transform=Transform()).predict([np.zeros((64, 64, 3), np.uint8)])) == 1


@pytest.mark.slow
def test_best_by_chooses_what_best_pt_means(tmp_path: Path) -> None:
    def fit(folder: str, best_by: str | None) -> dict[str, Any]:
        evaluation = Evaluation(every=1, best_by=best_by)
        settings: dict[str, Any] = {"steps": 2, "batch_size": 2, "evaluation": evaluation, **FAST}
        Trainer(small(), Squares(), Squares(), tmp_path / folder, **settings).fit()
        return checkpoint.load(tmp_path / folder / "best.pt")

    metrics: list[dict[str, dict[str, float]]] = [
        {"bbox": {"AP": 9.0, "AP50": 1.0}, "segm": {"AP": 1.0}},
        {"bbox": {"AP": 8.0, "AP50": 2.0}, "segm": {"AP": 0.5}},
    ]
    from maskrcnn.evaluation import evaluator

    for best_by, step, best in ((None, 1, 1.0), ("bbox/AP50", 2, 2.0)):
        results = iter(metrics)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluator, "evaluate", lambda *given, results=results: next(results))
            content = fit(str(step), best_by)
        assert (content["step"], content["best"]) == (step, best)
    with pytest.raises(UserError, match=r"evaluation\.best_by=segm/AB: .*did you mean segm/AP"):
        fit("wrong", "segm/AB")


def test_metrics_and_best_weights_are_there_when_drawing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskrcnn.evaluation import evaluator, metrics

    def fail(*given: object, **named: object) -> None:
        assert (tmp_path / "metrics.json").exists()
        assert (tmp_path / "best.pt").exists()
        raise MemoryError("no room")

    monkeypatch.setattr(evaluator, "results_picture", fail)
    monkeypatch.setattr(metrics, "write_details", fail)
    evaluation = Evaluation(details=True)
    Trainer(
        small(), Squares(), Squares(), tmp_path, steps=1, batch_size=2, evaluation=evaluation, **FAST
    ).fit()
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: predictions.png could not be written (MemoryError: no room)" in printed
    assert "warning: a table could not be written (MemoryError: no room)" in printed
    assert not (tmp_path / "predictions.png").exists()


class PennFudan:
    """The data set of torchvision's tutorial, from its description: an image and a mask PNG with instance ids."""

    def __init__(self, root: Path) -> None:
        self.images = sorted((root / "PNGImages").iterdir())
        self.masks = sorted((root / "PedMasks").iterdir())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        from torchvision.io import decode_image

        image, mask = decode_image(str(self.images[index])), decode_image(str(self.masks[index]))
        ids = torch.unique(mask)[1:]  # the first is the background
        masks = (mask == ids[:, None, None]).to(torch.uint8)
        boxes = masks_to_boxes(masks)
        area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 2] - boxes[:, 0])
        target = {
            "boxes": boxes,
            "labels": torch.ones(len(ids), dtype=torch.int64),
            "masks": masks,
            "image_id": index,
            "area": area,
            "iscrowd": torch.zeros(len(ids), dtype=torch.int64),
        }
        return image, target


@pytest.fixture
def pedestrians(tmp_path: Path) -> Path:
    """Three pictures of different sizes with one to three people."""
    for folder in ("PNGImages", "PedMasks"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        mask = np.zeros((60 + 4 * number, 80), np.uint8)
        for person in range(number + 1):
            mask[10:50, 5 + 25 * person : 20 + 25 * person] = person + 1
        image = np.random.default_rng(number).integers(0, 255, (*mask.shape, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "PNGImages" / f"{number}.png"), image)
        cv2.imwrite(str(tmp_path / "PedMasks" / f"{number}_mask.png"), mask)
    return tmp_path


def test_the_tutorials_data_set_trains_unchanged(pedestrians: Path) -> None:
    data = PennFudan(pedestrians)
    metrics = Trainer(
        small(1), data, data, pedestrians / "run", steps=2, batch_size=2, num_workers=1, **FAST
    ).fit()
    assert set(metrics) == {"bbox", "segm"}
    assert json.loads((pedestrians / "run" / "metrics.json").read_text()) == metrics
    found = {
        result["image_id"] for result in json.loads((pedestrians / "run" / "predictions.json").read_text())
    }
    assert found == {0, 1, 2}


def test_models_and_data_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    class Boxes(Squares):
        def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
            image, target = super().__getitem__(index)
            return image, {key: target[key] for key in ("boxes", "labels")}

    with pytest.raises(UserError, match="annotations have no masks"):
        Trainer(small(), Boxes(), Boxes(), tmp_path)
    Trainer(faster_rcnn("resnet18", 2, small=True), Boxes(), Boxes(), tmp_path)
    with pytest.raises(
        UserError, match=r"sample 0 of the data set: label 2, but the model has num_classes=1"
    ):
        Trainer(small(1), Squares(), Squares(), tmp_path)
    three = Trainer(small(3), Squares(), Squares(), tmp_path)
    with pytest.raises(UserError, match="num_classes=2, but the data set has 3 categories"):
        check_learnable(small(2), three.train_set, three.val_set)


@pytest.mark.slow
def test_it_works_outside_of_the_main_thread(tmp_path: Path) -> None:
    """As in a notebook's thread, where no signal handler can be set."""
    from concurrent.futures import ThreadPoolExecutor

    trainer = Trainer(small(), Squares(), Squares(), tmp_path, steps=1, batch_size=2, num_workers=1, **FAST)
    with ThreadPoolExecutor(1) as pool:
        assert set(pool.submit(trainer.fit).result()) == {"bbox", "segm"}


PYTHON_PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PYTHON_PAGE, re.S))
def test_the_python_page_is_of_this_version(block: str) -> None:
    """Its names can be imported, and its calls have arguments that exist."""
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
    names: dict[str, Any] = {}
    exec("\n".join(map(ast.unparse, imports)), names)
    for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in names:
            keywords = {keyword.arg for keyword in call.keywords}
            assert keywords <= inspect.signature(names[call.func.id]).parameters.keys(), call.func.id
