"""Composes configs/ with Hydra, and checks every key and value.

A constructor's signature is its schema: a node with ``_target_`` may only have that callable's parameters, with values
of the annotated types. Settings that belong to no constructor are dataclasses. Their defaults are those of the config,
and YAML files contain the differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from maskrcnn.config import files
from maskrcnn.config.backbone import KEY, TIMM, fill_channels, pin_pretrained, put_timm
from maskrcnn.config.check import build as build
from maskrcnn.config.check import check_trusted as check_trusted
from maskrcnn.config.check import check_value, constructor_defaults, nearest
from maskrcnn.config.check import foreign_targets as foreign_targets
from maskrcnn.config.overrides import parse, with_literal_paths
from maskrcnn.config.schema import Common as Common
from maskrcnn.config.schema import OfCheckpoint as OfCheckpoint
from maskrcnn.config.schema import Train as Train
from maskrcnn.errors import UserError

Settings = TypeVar("Settings")
OPERATORS = ("roi_op", "box_roi_op", "mask_roi_op", "keypoint_roi_op")


def compose_config(
    name: str, overrides: Sequence[str], schema: type = Train, others: Sequence[str] = ()
) -> DictConfig:
    """Compose the config of a command, and check every key and value.

    The defaults of ``schema`` come first, then configs/``name``.yaml if it exists, then the groups
    (``model=r50_fpn``), and last the single keys of ``overrides``. A wrong key or option is an error before torch is
    imported, which takes seconds.

    Args:
        name: name of the command.
        overrides: ``key=value`` or ``group=option``.
        schema: dataclass with all keys.
        others: further names that an error may suggest.

    Raises:
        UserError: names the key, the value and the nearest valid key.
    """
    groups, single = _parsed(overrides)
    config = _with_defaults(_composed(name, groups, schema), schema)
    networks = [o.value() for o in single if o.key_or_group == KEY and str(o.value()).startswith(TIMM)]
    for network in networks:
        for override in single:  # here, because `put_timm` imports torch
            if not override.key_or_group.startswith("model.backbone."):
                _check_key(config, override, others)
        put_timm(config, str(network))
    for override in single:
        _set(config, override, merge=True, others=others)
    _fill_operators(config)
    pin_pretrained(config)
    check(config, schema)
    return config


def compose_command(name: str, arguments: Sequence[str], schema: type) -> tuple[DictConfig, list[str]]:
    """Compose a command's own settings.

    Args:
        name: name of the command.
        arguments: ``key=value``.
        schema: dataclass with the command's keys.

    Returns:
        The settings, and the arguments with other keys, which are for another config.
    """
    names = [f.name for f in fields(schema)]
    own = [text for text in arguments if text.partition("=")[0] in names]
    return compose_config(name, own, schema), [text for text in arguments if text not in own]


def _parsed(overrides: Sequence[str]) -> tuple[list[Override], list[Override]]:
    """The overrides that choose an option of a group, and those of single keys."""
    parsed = parse(overrides)
    groups = [override for override in parsed if _is_group(override)]
    return groups, [override for override in parsed if override not in groups]


def read_config(path: Path) -> DictConfig:
    """Read the stored config of a run (``config.yaml``).

    A "${" within a path is a part of the path and no reference.
    """
    config = OmegaConf.create(with_literal_paths(yaml.safe_load(path.read_text())))
    assert isinstance(config, DictConfig)
    return config


def _composed(name: str, groups: Sequence[Override], schema: type) -> DictConfig:
    """configs/``name``.yaml with replaced groups; an empty config if there is no such file."""
    if files.find(f"{name}.yaml") is None:
        if groups:
            group = groups[0].get_key_element()
            raise UserError(f"unknown key {group!r}{nearest(group, [f.name for f in fields(schema)])}")
        return OmegaConf.create({})
    for override in groups:
        _check_option(override)
    files.register_presets()
    try:
        with initialize_config_dir(str(files.CONFIG_DIR), version_base="1.3"):
            return compose(name, overrides=[str(override.input_line) for override in groups])
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise UserError(f"the configuration cannot be composed: {str(error).strip()}{cause}") from error


def _with_defaults(config: DictConfig, schema: type) -> DictConfig:
    """Add the defaults of ``schema`` and of the data source's constructor for missing keys."""
    OmegaConf.set_struct(config, False)
    whole = OmegaConf.merge(asdict(schema()), config)
    assert isinstance(whole, DictConfig)
    source = OmegaConf.select(whole, "data.source")
    if source is not None and "_target_" in source:
        for key, value in constructor_defaults(str(source._target_)).items():
            if key not in source:
                source[key] = value
    return whole


def _set(config: DictConfig, override: Override, merge: bool, others: Sequence[str] = ()) -> None:
    """Set the key of an override. ``+key`` may add one, which `check` then accepts or refuses.

    With ``merge``, a dictionary as value only changes the keys that it has. Otherwise it replaces the group.
    """
    _check_key(config, override, others)
    OmegaConf.update(config, override.key_or_group, override.value(), merge=merge, force_add=True)


def _check_key(config: DictConfig, override: Override, others: Sequence[str] = ()) -> None:
    key, known = override.key_or_group, list(_keys(config))
    if not override.is_add() and key not in known:
        raise UserError(f"unknown key {key!r}{nearest(key, [*known, *others])}")


def plain(node: Any, resolve: bool = True) -> Any:
    """A group or list of the config as plain values.

    Args:
        node: of the config.
        resolve: replace references by their values.
    """
    return OmegaConf.to_container(node, resolve=resolve)


def settings_of(node: Any, kind: type[Settings]) -> Settings:
    """Convert a group of the config to the dataclass ``kind``, against which it is checked."""
    return kind(**plain(node))


def override_config(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Change the stored config of a run.

    Args:
        config: the stored config.
        overrides: a group (``data=voc``) is composed again, and a key is set.
    """
    groups, single = _parsed(overrides)
    for override in groups:
        group = override.get_key_element()
        fresh = _composed("train", [override], Train)
        if group not in fresh:
            raise UserError(f"{override.input_line}: a recipe is for tools/train.py; give single keys here")
        OmegaConf.update(config, group, fresh[group], merge=False)
    config = _with_defaults(config, Train)
    for override in single:
        _set(config, override, merge=False)
    _fill_operators(config)
    check(config, Train)
    return config


def check(config: DictConfig, schema: type) -> None:
    """Raise UserError for the first key or value that does not fit ``schema`` or the signature of its ``_target_``."""
    config = config.copy()
    for name in ("num_classes", "num_keypoints"):
        if name in config and config[name] is None:
            config[name] = 1  # not known before the data set is read
    for name in OPERATORS:
        if is_measured(config, name):
            config[name].offset = 0.5  # not known before the backbone is built
    if isinstance(config.get("model"), DictConfig) and "pyramid" in config.model:
        fill_channels(config.model, {32: 1})  # not known before the backbone is built
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{getattr(error, 'full_key', '') or 'config'}: {str(error).splitlines()[0]}"
        ) from error
    check_value(container, schema, "")


def is_measured(config: DictConfig, operator: str) -> bool:
    """Whether an operator has ``offset: measured`` in its own settings, and not by a reference.

    Args:
        config: the config.
        operator: its key, for example ``roi_op``.
    """
    node = _group(config, operator)
    return node is not None and node.get("offset") == "measured"


def _group(config: DictConfig, key: str) -> DictConfig | None:
    """The group of a key; None for another value, null or a reference."""
    node = config._get_node(key)
    own = isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation()
    return node if own else None  # type: ignore[return-value]


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


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        yield f"{prefix}{key}"
        if (node := _group(config, key)) is not None:
            yield from _keys(node, f"{prefix}{key}.")


def _fill_operators(config: DictConfig) -> None:
    """Replace the name of a preset by its settings. A head without an operator gets the shared one."""
    for head in OPERATORS[1:]:
        name = config.get(head)
        if isinstance(name, str):
            try:
                OmegaConf.update(config, head, files.operator_node(name), merge=False)
            except UserError as error:
                raise UserError(f"{head}={name}: {error}") from error
