"""Checks config values against the signatures of the constructors that receive them, and calls the constructors."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Sequence
from dataclasses import InitVar, fields, is_dataclass
from functools import partial
from typing import Annotated, Any, Literal, Never, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from maskrcnn.errors import Bounds, UserError

_TARGET_KEYS = {"_target_", "_partial_"}


def constructor_defaults(target: str) -> dict[str, Any]:
    """The parameters of a callable that have a default; empty if it cannot be imported."""
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except ImportError:  # `check_value` reports it
        return {}
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def nearest(word: str, words: Sequence[str]) -> str:
    """The closest of ``words`` to a wrong key: first by the complete dotted key, then by its last part."""
    close = difflib.get_close_matches(word, words, n=3, cutoff=0.6)
    last = word.rsplit(".", 1)[-1]
    close += [key for key in words if key.rsplit(".", 1)[-1] == last and key not in close][:3]
    return f"; did you mean {' or '.join(close[:3])}?" if close else ""


def check_value(value: Any, expected: Any, path: str) -> None:
    """Raise UserError if a config value does not fit an annotation.

    Args:
        value: the plain value.
        expected: the annotation.
        path: dotted key, for the message.
    """
    if _is_part(value):
        _check_target(value, path)
    elif is_dataclass(expected) and isinstance(value, dict):
        _check_fields(value, expected, path)
    elif isinstance(value, list) and any(map(_is_part, value)):
        for place, item in enumerate(value):
            check_value(item, _entry(expected), f"{path}[{place}]")
    elif not _fits(value, expected):
        raise UserError(f"{path}={value!r} is not {_describe(expected)}")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_value(item, Any, f"{path}.{key}" if path else str(key))


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _check_fields(value: dict[str, Any], schema: Any, path: str) -> None:
    hints = get_type_hints(schema, include_extras=True)
    names = [f.name for f in fields(schema)]
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if key not in names:
            raise UserError(
                f"unknown key {where!r}{nearest(where, [f'{path}.{n}' if path else n for n in names])}"
            )
        check_value(item, hints[key], where)


def _check_target(value: dict[str, Any], path: str) -> None:
    try:
        target = get_object(value["_target_"])
    except Exception as error:  # importing the user's module can raise any exception
        raise UserError(f"{path}._target_={value['_target_']}: cannot be imported ({error})") from error
    parameters = inspect.signature(target).parameters
    plain_class = inspect.isclass(target) and not is_dataclass(target)
    hints = get_type_hints(target.__init__ if plain_class else target, include_extras=True)
    for key, item in value.items():
        if key not in parameters and key not in _TARGET_KEYS:
            raise UserError(
                f"unknown key {f'{path}.{key}'!r}: {value['_target_']} takes {', '.join(parameters)}"
                f"{nearest(key, list(parameters))}"
            )
        if key in parameters:
            hint = hints.get(key, Any)
            check_value(item, hint.type if isinstance(hint, InitVar) else hint, f"{path}.{key}")
    needed = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    absent = [name for name, p in needed.items() if p.default is p.empty and name not in value]
    if absent and not value.get("_partial_"):
        raise UserError(f"{path}: {value['_target_']} also needs {', '.join(absent)}")


def _fits(value: Any, expected: Any) -> bool:
    """Whether a plain YAML value fits an annotation. Parts (modules, callables) must be nodes, so they never do."""
    origin, args = get_origin(expected), get_args(expected)
    if expected is Any:
        return True
    if origin is Annotated:
        bounds = [note for note in args[1:] if isinstance(note, Bounds)]
        return _fits(value, args[0]) and all(bound.hold(value) for bound in bounds)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if expected in (None, type(None)):
        return value is None
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        inner = args[0] if args else Any
        return isinstance(value, list) and all(_fits(item, inner) for item in value)
    return isinstance(expected if origin is None else origin, type) and isinstance(value, origin or expected)


def _entry(expected: Any) -> Any:
    """The annotation of the entries of a list with the annotation ``expected``."""
    origin, args = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return Union[tuple(_entry(arg) for arg in args)]  # noqa: UP007
    return args[0] if isinstance(origin, type) and issubclass(origin, Sequence) and args else Never


def _describe(expected: Any) -> str:
    if get_origin(expected) is Annotated:
        inner, *notes = get_args(expected)
        return " ".join([_describe(inner), *(str(n) for n in notes if isinstance(n, Bounds))])
    if get_origin(expected) is Literal:
        return "one of " + ", ".join(map(str, get_args(expected)))
    if get_origin(expected) in (Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in get_args(expected))
    if get_origin(expected) is list:
        return "a list, each entry " + _describe(get_args(expected)[0])
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if get_args(expected):
        return str(expected).replace("collections.abc.", "")
    return names.get(expected, str(getattr(expected, "__name__", expected)))


def build(node: Any) -> Any:
    """Build the object that a checked node with ``_target_`` describes.

    Raises UserError if a constructor refuses its values. Hydra's `instantiate` is not used: it resolves a value twice,
    so that a path with "${" would become a reference.
    """
    try:
        return _built(OmegaConf.to_container(node, resolve=True))
    except ValueError as error:
        raise UserError(str(error)) from error


def _built(value: Any) -> Any:
    if isinstance(value, list):
        return [_built(item) for item in value]
    if not isinstance(value, dict):
        return value
    parts = {str(key): _built(item) for key, item in value.items() if key not in _TARGET_KEYS}
    if "_target_" not in value:
        return parts
    target = get_object(value["_target_"])
    return partial(target, **parts) if value.get("_partial_") else target(**parts)


def check_trusted(
    config: DictConfig,
    where: str,
    remedy: str = "; set trust_checkpoint=true if you know where the file comes from",
) -> None:
    """Raise UserError if building ``config`` would call something outside this project and torch's layers.

    Args:
        config: a stored config.
        where: file that it is stored in, for the message.
        remedy: end of the message.
    """
    if foreign := foreign_targets(config):
        raise UserError(f"{where} would call {', '.join(foreign)}, which is not part of this project{remedy}")


def foreign_targets(node: Any) -> list[str]:
    """The callables in ``node`` outside this project and torch's layers. Building the node would run them."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, list):
        return [name for item in node for name in foreign_targets(item)]
    if not isinstance(node, dict):
        return []
    below = [name for item in node.values() for name in foreign_targets(item)]
    target = node.get("_target_")
    return below if target is None or _is_own(str(target)) else [str(target), *below]


def _is_own(target: str) -> bool:
    """Whether a ``_target_`` is a part of this project, a layer of torch or a transform of torchvision.

    Instantiating these classes, and calling the builders of models, cannot run arbitrary code.
    """
    transforms = "torchvision.transforms.v2."
    homes = ("maskrcnn.models.", "maskrcnn.data.", "maskrcnn_ops.", "torch.nn.modules.", transforms)
    if not target.startswith(("maskrcnn.", "maskrcnn_ops.", "torch.nn.", transforms)):
        return False
    from maskrcnn.config.trained import BUILDERS  # lazily, because it imports torch

    try:
        found = get_object(target)
    except ImportError:  # the class belongs to another version of the project
        return False
    return found in BUILDERS.values() or (
        isinstance(found, type) and f"{found.__module__}.".startswith(homes)
    )
