"""The only place that knows Hydra: compose configs/, check every key and value, build what they describe.

A constructor's signature is its schema: a node with ``_target_`` may hold that callable's parameters, with values
of the annotated types, and nothing else. So schema and constructor cannot differ. The few keys that belong to no
constructor are the dataclasses below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    OverrideParseException,
)
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maskrcnn.config import files
from maskrcnn.config.check import check_value, is_own, nearest
from maskrcnn.config.pretrained import pin_pretrained
from maskrcnn.errors import Positive, Seed, UserError
from maskrcnn.evaluation.settings import Evaluation
from maskrcnn.models.precision import Precision
from maskrcnn.training.schedule import Schedule
from maskrcnn.training.settings import Checkpoints, Log

Settings = TypeVar("Settings")
# Keys whose values are paths: taken as the shell hands them over, and not read by Hydra's grammar.
_PATHS = re.compile(
    r"\+{0,2}(run_dir|run|checkpoint|input|predictions|annotations|images|out|init(\.weights)?|proposals\.(train|val)"
    r"|model\.backbone\.weights"
    r"|data\.(source\.)?(root|((train|val)_)?(annotations|images)))"
)

# `init=FILE` is what people type; the node also holds a switch.
_SHORTHAND = {"init": "init.weights"}


@dataclass
class Init:
    """weights: a checkpoint or state dict to start from (ours, torchvision's or Detectron2's), ``imagenet`` (the
    backbone alone), or None.
    reset_heads: layers of another shape start anew instead of stopping the run."""

    weights: str | None = None
    reset_heads: bool = False


@dataclass
class GivenProposals:
    """Files of tools/propose.py (``.npz``), or COCO results, to be used instead of the RPN's proposals, for the
    training and for the validation images.

    ``ground_truth`` takes the objects' own boxes: nothing is left to find, which isolates the mask head.
    most_train, most_val: of a file, the best ones of an image that are used (the paper's ablations test with 300).
    """

    train: str | None = None
    val: str | None = None
    most_train: Positive = 2000
    most_val: Positive = 1000


@dataclass
class Common:
    """Keys that every tool has.

    device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. threads: of the CPU; None is all. debug: tracebacks, not words.
    """

    run_dir: str | None = None
    device: str = "auto"
    threads: Positive | None = None
    debug: bool = False


@dataclass
class Train(Common):
    """The keys of configs/train.yaml. The groups are checked against their own constructors."""

    seed: Seed = 0
    deterministic: bool = False
    metric: str | None = None
    precision: Precision = "fp32"
    accumulate: Positive = 1
    compile: bool = False
    cuda_graphs: bool = False
    num_classes: int | None = None
    num_keypoints: int | None = None
    categories: list[dict[str, Any]] | None = None
    model: dict[str, Any] = field(default_factory=dict)
    roi_op: dict[str, Any] = field(default_factory=dict)
    box_roi_op: dict[str, Any] | str | None = None
    mask_roi_op: dict[str, Any] | str | None = None
    keypoint_roi_op: dict[str, Any] | str | None = None
    mask_targets: str = "exact"
    data: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    proposals: GivenProposals = field(default_factory=GivenProposals)
    init: Init = field(default_factory=Init)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    evaluation: Evaluation = field(default_factory=Evaluation)
    log: Log = field(default_factory=Log)


def compose_config(name: str, overrides: Sequence[str], schema: type = Train) -> DictConfig:
    """configs/``name``.yaml with ``overrides`` (``key=value``, ``group=option``), every key and value checked.

    Raises UserError that names the key, what was found and the nearest right key.
    """
    parsed = _parse(overrides)
    with initialize_config_dir(str(files.CONFIG_DIR), version_base="1.3"):
        groups = [override for override in parsed if _is_group(override)]
        for override in groups:
            _check_option(override)
        base = _compose(name, [str(override.input_line) for override in groups])
        for override in parsed:
            if override not in groups and not override.is_add():
                _check_key(base, override.get_key_element())
        config = _compose(name, [str(override.input_line) for override in parsed])
        _fill_operators(config)
    pin_pretrained(config)
    check(config, schema)
    return config


def read_config(path: Path) -> DictConfig:
    """The stored config of a run (``config.yaml``)."""
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def split(arguments: Sequence[str], schema: type) -> tuple[list[str], list[str]]:
    """A tool's own ``key=value`` arguments (the fields of ``schema``), and those for the stored config."""
    names = [f.name for f in fields(schema)]
    own = [text for text in arguments if text.partition("=")[0] in names]
    return own, [text for text in arguments if text not in own]


def plain_list(node: Any) -> list[Any]:
    """A list of the config as plain values."""
    container = OmegaConf.to_container(node, resolve=True)
    assert isinstance(container, list)
    return container


def plain_dict(node: Any) -> dict[str, Any]:
    """A group of the config as plain values."""
    container = OmegaConf.to_container(node, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def settings_of(node: Any, kind: type[Settings]) -> Settings:
    """A group of the config as the dataclass that it is checked against."""
    return kind(**plain_dict(node))


def override_config(config: DictConfig, overrides: Sequence[str], schema: type = Train) -> DictConfig:
    """A stored ``config`` changed by ``overrides``: a group (``data=voc``) is composed anew, a key is set."""
    parsed = _parse(overrides)
    with initialize_config_dir(str(files.CONFIG_DIR), version_base="1.3"):
        for override in (o for o in parsed if _is_group(o)):
            _check_option(override)
            group = override.get_key_element()
            fresh = _compose("train", [str(override.input_line)])
            if group not in fresh:
                raise UserError(
                    f"{override.input_line}: a recipe is for tools/train.py; give single keys here"
                )
            OmegaConf.update(config, group, fresh[group], merge=False)
        for override in (o for o in parsed if not _is_group(o)):
            _check_key(config, override.get_key_element())
            OmegaConf.update(config, override.get_key_element(), override.value(), merge=False)
        _fill_operators(config)
    check(config, schema)
    return config


def build(node: Any) -> Any:
    """What a checked node with ``_target_`` describes. Raises UserError where a constructor refuses its values."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError | ValueError):
            raise UserError(str(cause)) from error
        raise


def foreign_targets(node: Any) -> list[str]:
    """The callables in ``node`` that belong to neither this project nor torch's layers: building it runs them."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, list):
        return [name for item in node for name in foreign_targets(item)]
    if not isinstance(node, dict):
        return []
    below = [name for item in node.values() for name in foreign_targets(item)]
    target = node.get("_target_")
    return below if target is None or is_own(str(target)) else [str(target), *below]


def check(config: DictConfig, schema: type) -> None:
    """Raise UserError for the first key or value that does not fit ``schema`` or its ``_target_``'s signature."""
    config = config.copy()
    for name in ("num_classes", "num_keypoints"):
        if name in config and config[name] is None:
            config[name] = 1  # not known before the data set is read
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{getattr(error, 'full_key', '') or 'config'}: {str(error).splitlines()[0]}"
        ) from error
    check_value(container, schema, "")


def _parse(overrides: Sequence[str]) -> list[Override]:
    for text in overrides:
        if text.startswith("~"):
            raise UserError(f"{text}: no key can be taken away; some can be null, as in model.mask_head=null")
        if "=" not in text:
            raise UserError(f"cannot read the argument {text!r}: expected key=value, for example seed=1")
    lines = []
    for text in overrides:
        key, _, value = text.partition("=")
        lines.append(f"{_SHORTHAND.get(key, key)}={_quoted(key, value) if _PATHS.fullmatch(key) else value}")
    try:
        return OverridesParser.create().parse_overrides(lines)
    except (OverrideParseException, HydraException) as error:
        hint = "quote values that hold = , [ ] { } or spaces: \"key='value'\""
        raise UserError(f"cannot read the arguments {list(overrides)}: {error}\n{hint}") from error


def _quoted(key: str, path: str) -> str:
    """A path as one text of Hydra's grammar, unless it is quoted already or null."""
    group = key in ("init", "checkpoint") and re.fullmatch(r"\{.*:.*\}", path)
    if group or path in ("", "null") or re.fullmatch(r"'[^']*'|\"[^\"]*\"", path):
        return path
    # Backslashes are doubled only before a quote and before "${", which would begin an interpolation.
    return "'" + re.sub(r"(\\*)('|\$\{|$)", _escaped, path) + "'"


def _escaped(found: re.Match[str]) -> str:
    backslashes, special = found.groups()
    return backslashes * 2 + (f"\\{special}" if special else "")


def _is_group(override: Override) -> bool:
    group = override.get_key_element().split("@")[0]
    return any((folder / group).is_dir() for folder in files.folders()) and not isinstance(
        override.value(), dict
    )


def _check_option(override: Override) -> None:
    group, option = override.get_key_element().split("@")[0], override.value()
    options = files.options(group)
    if option is not None and str(option) not in options:
        raise UserError(
            f"{group}={option}: no such option{nearest(str(option), options)}; there are: {', '.join(options)}"
        )


def _check_key(config: DictConfig, key: str) -> None:
    known = list(_keys(config))
    if key not in known:
        raise UserError(f"unknown key {key!r}{nearest(key, known)}")


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from _keys(node, f"{prefix}{key}.")


def _compose(name: str, lines: list[str]) -> DictConfig:
    try:
        return compose(name, overrides=lines)
    except (ConfigCompositionException, HydraException, OmegaConfBaseException) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise UserError(f"the configuration cannot be composed: {str(error).strip()}{cause}") from error


def _fill_operators(config: DictConfig) -> None:
    """A head's operator by a preset's name, or the shared one where it has none of its own."""
    for head in ("box_roi_op", "mask_roi_op", "keypoint_roi_op"):
        name = config.get(head)
        if isinstance(name, str):
            path, options = files.find(f"roi_op/{name}.yaml"), files.options("roi_op")
            if path is None:
                raise UserError(
                    f"{head}={name}: no such operator{nearest(name, options)}; there are: {', '.join(options)}"
                )
            OmegaConf.update(config, head, OmegaConf.load(path), merge=False)
