"""A table of the paper as a grid of training runs: configs/tables/<table>-<scale>.yaml, read and multiplied out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from maskrcnn.errors import UserError

Overrides = list[str]  # of tools/train.py


@dataclass(frozen=True)
class Comparison:
    """Which differences are stated: ``of`` minus each other value of ``axis``, everything else equal.

    also: further pairs of values on the axis, the first minus the second.
    """

    axis: str
    of: str
    also: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Paper:
    """Published figures of the cells whose axes are ``where``: ``{"segm_AP": 30.3, ...}``."""

    where: dict[str, str]
    figures: dict[str, float]


@dataclass(frozen=True)
class Table:
    """A grid of runs.

    title: what it shows, in a line. base: overrides of every run. axes: of each axis the values, of each value its
    overrides. proposals: None (every cell has an RPN), ``ground_truth``, or the overrides of a proposal network that is
    trained once, whose proposals all cells share. start_from_proposals: its backbone starts the cells. compare: the
    differences to state. sizes: edges in pixels of the original image (square root of an object's area) for AP by size.
    cross: the axis along which the first seed's cells are also tested with the other values, or None. folds: the axis
    whose values are folds of one data set, whose objects are also compared all together, or None. paper: published
    figures. pictures: whether pictures of its images may be shared (generated ones may).
    """

    name: str
    scale: str
    title: str
    axes: dict[str, dict[str, Overrides]]
    base: Overrides = field(default_factory=list)
    proposals: Overrides | str | None = None
    start_from_proposals: bool = False
    compare: Comparison | None = None
    sizes: list[float] = field(default_factory=lambda: [0, 32, 96])
    cross: str | None = None
    folds: str | None = None
    paper: list[Paper] = field(default_factory=list)
    pictures: bool = False

    def cells(self, seeds: int) -> list[Cell]:
        """The runs, the first seed of all of them first, so that a table is whole as early as possible."""
        return list(self._cells(seeds))

    def _cells(self, seeds: int) -> Iterator[Cell]:
        for seed in range(seeds):
            for values in product(*self.axes.values()):
                axes = dict(zip(self.axes, values, strict=True))
                overrides = [o for axis, value in axes.items() for o in self.axes[axis][value]]
                yield Cell(axes, seed, [*self.base, *overrides, f"seed={seed}"])

    def published(self, axes: Mapping[str, str]) -> dict[str, float]:
        """The paper's figures for a cell; empty where it has none."""
        return next((p.figures for p in self.paper if p.where == dict(axes)), {})


@dataclass(frozen=True)
class Cell:
    """One training run. axes: its value on each axis. overrides: of tools/train.py."""

    axes: dict[str, str]
    seed: int
    overrides: Overrides

    @property
    def id(self) -> str:
        """``roi_op=align,stride=16`` and seed 0 are ``align-16-seed0``."""
        return re.sub(r"[^\w.]+", "-", "-".join([*self.axes.values(), f"seed{self.seed}"]))


def available(folder: Path) -> list[str]:
    """The tables that are described, ``<table>-<scale>``."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_table(folder: Path, table: str, scale: str) -> Table:
    """The table ``folder/<table>-<scale>.yaml``. Raises UserError where there is none, or it is not one."""
    path = folder / f"{table}-{scale}.yaml"
    if not path.is_file():
        raise UserError(
            f"table={table} scale={scale} is not described; there are: {', '.join(available(folder))}"
        )
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    assert isinstance(content, dict)
    return _table(path, table, scale, {str(key): value for key, value in content.items()})


def _table(path: Path, name: str, scale: str, content: dict[str, Any]) -> Table:
    known = {f.name for f in fields(Table)} - {"name", "scale"}
    if unknown := sorted(content.keys() - known):
        raise UserError(f"{path}: unknown keys {unknown}; a table has {sorted(known)}")
    for key in ("title", "axes"):
        if not content.get(key):
            raise UserError(f"{path}: a table needs {key}")
    axes = {
        str(axis): {str(value): _overrides(path, o) for value, o in values.items()}
        for axis, values in content.pop("axes").items()
    }
    compare = content.pop("compare", None)
    if compare is not None:
        also = [(str(first), str(second)) for first, second in compare.get("also", [])]
        compare = Comparison(str(compare["axis"]), str(compare["of"]), also)
        for value in (compare.of, *(value for pair in also for value in pair)):
            if value not in axes.get(compare.axis, {}):
                raise UserError(f"{path}: compare names {compare.axis}={value}, which is not on the axes")
    for key in ("cross", "folds"):
        if (named := content.get(key)) is not None and named not in axes:
            raise UserError(f"{path}: {key} names {named}, which is not one of the axes {list(axes)}")
    paper = [_paper(path, axes, entry) for entry in content.pop("paper", [])]
    return Table(name=name, scale=scale, axes=axes, compare=compare, paper=paper, **content)


def _paper(path: Path, axes: dict[str, dict[str, Overrides]], entry: dict[str, Any]) -> Paper:
    where = {str(axis): str(value) for axis, value in entry.get("where", {}).items()}
    if where.keys() != axes.keys() or any(value not in axes[axis] for axis, value in where.items()):
        raise UserError(f"{path}: paper has figures where {where}, which is no cell of this table")
    return Paper(where, {key: float(value) for key, value in entry.items() if key != "where"})


def _overrides(path: Path, given: Sequence[str]) -> Overrides:
    if not isinstance(given, list) or not all(isinstance(o, str) and "=" in o for o in given):
        raise UserError(f"{path}: {given!r} must be a list of key=value overrides of tools/train.py")
    return list(given)
