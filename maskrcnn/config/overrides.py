"""Parses ``key=value`` arguments. Paths may contain any character."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from maskrcnn.errors import UserError

# Keys whose values are paths. They are taken literally, and not parsed by Hydra's grammar.
_PATHS = re.compile(
    r"\+{0,2}(run_dir|run|checkpoints?|input|predictions|annotations|images?|out|page|init(\.weights)?"
    r"|proposals\.(train|val)|model\.backbone\.weights"
    r"|data\.(source\.)?(root|((train|val)_)?(annotations|images)))"
)

# `init=FILE` is short for `init.weights=FILE`.
_SHORTHAND = {"init": "init.weights"}


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse ``key=value`` arguments with Hydra's grammar. Paths are taken literally.

    Raises:
        UserError: names the argument that cannot be parsed.
    """
    lines = []
    for text in overrides:
        if text.startswith("~"):
            raise UserError(f"{text}: keys cannot be removed; some can be null, as in model.mask_head=null")
        if "=" not in text:
            raise UserError(f"cannot read the argument {text!r}: expected key=value, for example seed=1")
        key, _, value = text.partition("=")
        lines.append(f"{_SHORTHAND.get(key, key)}={_quoted(key, value) if _PATHS.fullmatch(key) else value}")
    try:
        parsed = OverridesParser.create().parse_overrides(lines)
    except HydraException as error:
        hint = "quote values that hold = , [ ] { } or spaces: \"key='value'\""
        raise UserError(f"cannot read the arguments {list(overrides)}: {error}\n{hint}") from error
    if sweeps := [str(override.input_line) for override in parsed if override.is_sweep_override()]:
        raise UserError(f"{sweeps[0]}: give one value; a list is written in brackets, [1,2]")
    return parsed


def _quoted(key: str, path: str) -> str:
    """A path, or each path of a list, as a string of Hydra's grammar, unless it is already quoted or null."""
    if key == "checkpoints" and re.fullmatch(r"\[.*\]", path):
        paths = re.findall(r"'[^']*'|\"[^\"]*\"|[^,]+", path[1:-1])
        return f"[{','.join(_quoted('', item.strip()) for item in paths)}]"
    group = key in ("init", "checkpoint") and re.fullmatch(r"\{.*:.*\}", path)
    if group or path in ("", "null") or re.fullmatch(r"'[^']*'|\"[^\"]*\"", path):
        return path
    # Double backslashes only before a quote and before "${", which would begin a reference.
    return "'" + re.sub(r"(\\*)('|\$\{|$)", _escaped, path) + "'"


def _escaped(found: re.Match[str]) -> str:
    backslashes, special = found.groups()
    return backslashes * 2 + (f"\\{special}" if special else "")


def with_literal_paths(value: Any, key: str = "") -> Any:
    """Escape ``${`` within paths, so that OmegaConf does not read it as a reference.

    Args:
        value: plain values of a config.
        key: its dotted key.
    """
    if isinstance(value, dict):
        return {name: with_literal_paths(item, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
    if isinstance(value, str) and _PATHS.fullmatch(key) and not re.fullmatch(r"\$\{[\w.]+\}", value):
        return re.sub(r"(\\*)(\$\{)", _escaped, value)
    return value
