"""Every config composes and fits its constructors; what a user mistypes is answered in words."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from maskrcnn_ops import PRESETS, RoIOp, Switches
from omegaconf import OmegaConf

from maskrcnn.cli import replay
from maskrcnn.config import build as assembly
from maskrcnn.config import compose as configs
from maskrcnn.config import files, schema
from maskrcnn.config.files import operator_node, preset_node
from maskrcnn.data.formats.shapes import Shapes
from maskrcnn.errors import UserError
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.training.settings import Checkpoints, Log, Schedule

ROOT = Path(__file__).resolve().parents[2]

MODELS = files.options("model")
OPERATORS = files.options("roi_op")
SCHEDULES = files.options("schedule")
DATA = files.options("data")
EXPERIMENTS = files.options("experiment")


@pytest.mark.parametrize(
    "override",
    [f"model={m}" for m in MODELS]
    + [f"roi_op={o}" for o in OPERATORS]
    + [f"schedule={s}" for s in SCHEDULES]
    + [f"data={d}" for d in DATA]
    + [f"experiment={e}" for e in EXPERIMENTS],
)
def test_every_option_composes_and_builds(override: str) -> None:
    config = configs.compose_config("train", [override, "num_classes=3", "num_keypoints=5"])
    for part in (config.roi_op, *(config.data[key] for key in ("train_transform", "test_transform"))):
        assert callable(configs.build(part))
    if override.startswith(("model=", "experiment=")):
        if "timm" in config.model.backbone._target_:
            pytest.importorskip("timm", reason="the extra maskrcnn[timm] is not installed")
        config.model.backbone.weights = None
        with torch.device("meta"):  # shapes without memory or arithmetic
            model = assembly.build_model(config)
        assert sum(parameter.numel() for parameter in model.parameters()) > 1e5


def operators(*overrides: str) -> tuple[str, str]:
    config = configs.compose_config("train", list(overrides))
    heads = (config.model.box_head.pooler.operator, config.model.mask_head.pooler.operator)
    return tuple(f"{op.box_rounding} {op.plus_one} {op.reduction}" for op in heads)  # type: ignore[return-value]


def test_roi_op_sets_both_heads_and_each_can_have_its_own() -> None:
    align, pool = "none False avg", "round True max"
    assert operators() == (align, align)
    assert operators("roi_op=pool") == (pool, pool)
    assert operators("box_roi_op=pool") == (pool, align)
    assert operators("mask_roi_op=pool") == (align, pool)
    assert operators("roi_op=warp", "mask_roi_op=align") == ("round True avg", align)
    assert operators("roi_op.plus_one=true") == ("none True avg", "none True avg")


@pytest.mark.parametrize("name", PRESETS)
def test_an_operator_by_name_is_the_preset_with_every_switch(name: str) -> None:
    config = configs.compose_config("train", [f"roi_op={name}"])
    found = configs.build(config.roi_op)
    assert type(found) is RoIOp
    switches = {f.name: getattr(found, f.name) for f in fields(Switches)}
    assert switches == asdict(PRESETS[name])
    assert {*config.roi_op} >= {*switches, "_target_"}  # so that each can be overridden
    assert operator_node(name) == config.roi_op


def test_the_table_of_operators_says_what_the_presets_are() -> None:
    """The rows of the table in README or docs: box rounded, +1, half pixel, bins rounded, samples, reduction."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    rows = [line for page in pages for line in page.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in rows]
    found = {
        row[0].split("`")[0]: row[1:] for row in cells if row[0].split("`")[0] in PRESETS and len(row) == 7
    }
    assert {"align", "align_legacy", "pool", "warp"} <= found.keys()
    for name, row in found.items():
        preset = PRESETS[name]
        yes = {True: "yes", False: "no"}
        samples = "every cell" if preset.bin_rounding else f"{preset.sampling_ratio}x{preset.sampling_ratio}"
        half = getattr(preset, "offset", 0.5 * bool(getattr(preset, "half_pixel", None))) == 0.5
        expected = [
            *(yes[preset.box_rounding != "none"], yes[preset.plus_one], yes[half], yes[preset.bin_rounding]),
            *(samples, {"avg": "mean", "max": "max"}[preset.reduction]),
        ]
        assert row == expected, name


def test_a_file_of_ones_own_wins_over_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "roi_op").mkdir(parents=True)
    mine = {**preset_node("align"), "sampling_ratio": 3}
    OmegaConf.save(OmegaConf.create(mine), tmp_path / "configs" / "roi_op" / "align.yaml")
    monkeypatch.chdir(tmp_path)
    config = configs.compose_config("train", ["mask_roi_op=align", "box_roi_op=pool"])
    assert config.roi_op.sampling_ratio == config.mask_roi_op.sampling_ratio == 3
    assert config.box_roi_op.reduction == "max"


def test_models_of_the_two_strides_differ_in_nothing_else() -> None:
    first, second = (
        OmegaConf.to_container(configs.compose_config("train", [f"model={m}"]).model, resolve=True)
        for m in ("r18_c4_fpnhead", "r18_c5")
    )
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["backbone"].pop("last_stage") == 4
    assert second["backbone"].pop("last_stage") == 5

    def without_channels(node: object) -> object:
        if not isinstance(node, dict):
            return node
        return {k: without_channels(v) for k, v in node.items() if k not in ("in_channels", "out_channels")}

    assert without_channels(first) == without_channels(second)


def test_init_imagenet_reaches_every_backbone_part_and_pins_the_norm() -> None:
    config = configs.compose_config("train", ["init=imagenet", "model=r50_c4"])
    assert (config.model.backbone.weights, config.model.box_head.trunk.weights) == ("imagenet", "imagenet")
    assert (config.model.backbone.norm, config.model.backbone.frozen_stages) == ("frozen_bn", 2)
    scratch = configs.compose_config("train", ["model=r50_c4"])
    assert (scratch.model.backbone.norm, scratch.model.backbone.frozen_stages) == ("bn", 0)


WRONG = [
    ("schedule.stepz=3", "unknown key 'schedule.stepz'; did you mean schedule.steps"),
    ("modle=r18_fpn", "did you mean model?"),
    ("model=r18_fpnn", "model=r18_fpnn: no such option; did you mean r18_fpn"),
    ("roi_op=pol", "did you mean pool"),
    ("box_roi_op=pol", "box_roi_op=pol: no such operator; did you mean pool"),
    ("schedule.steps=abc", "schedule.steps='abc' is not a whole number"),
    ("schedule.steps=1.5", "schedule.steps=1.5 is not a whole number"),
    ("checkpoint.every=0", "checkpoint.every=0 is not a whole number of at least 1"),
    ("log.every=0", "log.every=0 is not a whole number of at least 1"),
    ("threads=0", "threads=0 is not a whole number of at least 1"),
    ("evaluation.batch_size=0", "evaluation.batch_size=0 is not a whole number of at least 1"),
    ("schedule.lr_batch_size=0", "schedule.lr_batch_size=0 is not a whole number of at least 1"),
    ("data.num_workers=-1", "num_workers=-1 is not a whole number of at least 0"),
    ("schedule.lr=fast", "schedule.lr='fast' is not a number"),
    ("schedule.lr=-1", "schedule.lr=-1 is not a number of at least 0"),
    ("schedule.lr=nan", "schedule.lr=nan is not a number of at least 0"),
    ("schedule.momentum=-1", "schedule.momentum=-1 is not a number of at least 0 and below 1"),
    ("schedule.weight_decay=-1e-4", "schedule.weight_decay=-0.0001 is not a number of at least 0"),
    ("schedule.warmup_factor=-1", "schedule.warmup_factor=-1 is not a number of at least 0"),
    ("schedule.clip_norm=-10", "schedule.clip_norm=-10 is not a number above 0 or null"),
    ("schedule.max_loss=0", "schedule.max_loss=0 is not a number above 0"),
    ("schedule.layer_decay=0", "schedule.layer_decay=0 is not a number above 0"),
    ("schedule.ema=2.0", "schedule.ema=2.0 is not a number of at least 0 and below 1 or null"),
    (
        "schedule.milestones=[0.5,-1]",
        "schedule.milestones=[0.5, -1] is not a list, each entry a number of at",
    ),
    ("evaluation.cell=0", "evaluation.cell=0 is not a number above 0"),
    ("seed=true", "seed=True is not a whole number"),
    ("seed=99999999999999999999", "is not a whole number of at least 0 and below 9.22337e+18"),
    ("~model.mask_head", "keys cannot be removed; some can be null"),
    ("schedule.optimizer=lamb", "schedule.optimizer='lamb' is not one of sgd, adamw"),
    ("model.rpn.nms_iuo=0.5", "did you mean model.rpn.nms_iou"),
    ("+model.rpn.nms=0.5", "unknown key 'model.rpn.nms': maskrcnn.models.rpn.RPN takes"),
    ("model.rpn.anchors.sizes=[[a]]", "model.rpn.anchors.sizes"),
    ("roi_op.reduction=sum", "reduction='sum' is not one of avg, max"),
    ("schedule.lr=[1", "cannot read the arguments"),
    ("justaword", "expected key=value"),
    ("+nonsense=1", "unknown key 'nonsense'"),
]


@pytest.mark.parametrize(("override", "words"), WRONG)
def test_wrong_arguments_are_answered_in_words(override: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        configs.compose_config("train", [override])
    assert words in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        f"seed={2**63 - 1}",
        "schedule.lr=0",
        "schedule.clip_norm=null",
        "schedule.ema=0.999",
        "schedule.momentum=0",
    ],
)
def test_values_on_a_bound_that_means_something_are_taken(override: str) -> None:
    configs.compose_config("train", [override])


def test_a_replay_without_threads_is_refused() -> None:
    with pytest.raises(UserError, match="threads=0 is not a whole number of at least 1"):
        replay.main(["threads=0"])


def test_stored_configs_take_overrides() -> None:
    config = configs.compose_config("train", ["roi_op=align", "num_classes=4"])
    stored = OmegaConf.create(OmegaConf.to_container(config))
    changed = configs.override_config(stored, ["roi_op=pool", "evaluation.max_dets=7"])
    assert changed.model.mask_head.pooler.operator.reduction == "max"
    assert changed.evaluation.max_dets == 7
    with pytest.raises(UserError, match=r"did you mean evaluation\.max_dets"):
        configs.override_config(stored, ["evaluation.maxdets=7"])


def test_the_library_does_not_import_hydra() -> None:
    code = (
        "import sys, maskrcnn; assert 'torch' not in sys.modules; maskrcnn.Predictor, maskrcnn.Trainer; "
        "import maskrcnn.models.detector, maskrcnn.data.loader, maskrcnn.evaluation.coco; "
        "sys.exit('hydra' in sys.modules or 'omegaconf' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def stated(path: Path) -> dict[str, Any]:
    """What a YAML file says itself, without what it inherits."""
    content = yaml.safe_load(path.read_text())
    return {key: value for key, value in content.items() if key != "defaults"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_says_only_what_differs_from_its_dataclass(name: str) -> None:
    path = files.CONFIG_DIR / "schedule" / f"{name}.yaml"
    if "defaults" in yaml.safe_load(path.read_text()):
        return  # it differs from the one that it inherits
    default = vars(Schedule())
    assert [key for key, value in stated(path).items() if default[key] == value] == []


def test_the_defaults_of_the_config_are_those_of_the_dataclasses() -> None:
    """And of the constructor of the generated data."""
    config = configs.compose_config("train", ["schedule=1x"])
    for key, value in {
        "checkpoint": Checkpoints(),
        "evaluation": Evaluation(),
        "log": Log(),
        "schedule": Schedule(steps=90000, batch_size=16, warmup_steps=1000, milestones=[2 / 3, 8 / 9]),
    }.items():
        assert configs.plain(config[key]) == vars(value), key
    source = {k: v for k, v in configs.plain(config.data.source).items() if k != "_target_"}
    assert Shapes(**source) == Shapes("data/shapes")
    assert source.keys() == vars(Shapes("")).keys()


COMMANDS = ["ablate", "benchmark", "browse", "eval", "explain", "export", "predict", "propose", "replay"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_defaults_are_its_dataclass(command: str) -> None:
    """There is no file of them, and each key has a line in the dataclass's documentation."""
    module = importlib.import_module(f"maskrcnn.cli.{command}")
    keys = getattr(module, command.capitalize())
    assert configs.plain(configs.compose_config(command, [], keys)) == vars(keys())
    assert not (files.CONFIG_DIR / f"{command}.yaml").exists()
    documented = "\n".join(inspect.getdoc(c) or "" for c in keys.__mro__)
    assert [f.name for f in dataclasses.fields(keys) if f"    {f.name}: " not in documented] == []


@pytest.mark.parametrize(
    "group", [Schedule, Checkpoints, Evaluation, Log, schema.Init, schema.GivenProposals]
)
def test_every_setting_is_documented(group: type) -> None:
    documented = inspect.getdoc(group) or ""
    assert [f.name for f in dataclasses.fields(group) if f"    {f.name}: " not in documented] == []
