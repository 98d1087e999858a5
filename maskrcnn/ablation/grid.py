"""A table of the paper as a grid of training runs, read from configs/tables/<table>-<data>.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from maskrcnn.errors import UserError

Overrides = list[str]  # of maskrcnn train


@dataclass(frozen=True)
class Comparison:
    """The differences that a report shows: ``of`` minus each other value of ``axis``, all other axes equal.

    Args:
        axis: the axis to compare along.
        of: the first value of each difference.
        also: further pairs of values; the difference is the first minus the second.
    """

    axis: str
    of: str
    also: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Paper:
    """Metrics that the paper published for one combination of values.

    Args:
        where: the value on each axis.
        metrics: in percent, ``{"segm_AP": 30.3, ...}``.
    """

    where: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Run:
    """One training run of a table.

    Args:
        axes: its value on each axis.
        seed: its random seed.
        overrides: its overrides of ``maskrcnn train``.
    """

    axes: dict[str, str]
    seed: int
    overrides: Overrides

    @property
    def id(self) -> str:
        """``16-align-seed0`` for seed 0 of ``{"stride": "16", "roi_op": "align"}``."""
        return re.sub(r"[^\w.]+", "-", "-".join([*self.axes.values(), f"seed{self.seed}"]))


@dataclass(frozen=True)
class Table:
    """A grid of training runs.

    Args:
        name: name of the table.
        data: the data set.
        title: title of the report.
        axes: ``{axis: {value: overrides}}``.
        base: overrides of every run.
        proposals: None: every run trains its own RPN. ``ground_truth``: ground-truth boxes are the proposals.
            Overrides: one proposal network is trained with them, and all runs share its proposals.
        start_from_proposals: whether the runs start from the proposal network's backbone.
        compare: the differences to report.
        sizes: lower edges of the ranges for AP by size: square roots of areas, in pixels of the original image.
        cross: axis along which the first seed's models are also tested with the other values.
        folds: axis whose values are folds of one data set. Objects of all folds are also compared together.
        paper: published metrics.
        pictures: whether pictures of the data may be published, as those of generated data may.
    """

    name: str
    data: str
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

    def runs(self, seeds: int) -> list[Run]:
        """The runs of every combination of values, with seeds 0 to ``seeds - 1``.

        They are ordered by seed, so that each combination soon has a run.
        """
        places = [dict(zip(self.axes, values, strict=True)) for values in product(*self.axes.values())]
        return [
            Run(place, seed, [*self.base, *self._overrides(place), f"seed={seed}"])
            for seed in range(seeds)
            for place in places
        ]

    def _overrides(self, place: Mapping[str, str]) -> Overrides:
        return [override for axis, value in place.items() for override in self.axes[axis][value]]

    def published(self, axes: Mapping[str, str]) -> dict[str, float]:
        """The paper's metrics for one combination of values; empty if it has none."""
        return next((p.metrics for p in self.paper if p.where == dict(axes)), {})


def available(folder: Path) -> list[str]:
    """Names of the tables in a folder, as ``<table>-<data>``."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_table(folder: Path, name: str, data: str) -> Table:
    """Read ``folder/<name>-<data>.yaml``.

    Args:
        folder: folder of the tables.
        name: name of the table.
        data: the data set.

    Raises:
        UserError: there is no such file, or it does not describe a table.
    """
    path = folder / f"{name}-{data}.yaml"
    if not path.is_file():
        raise UserError(
            f"no table={name} data={data}: {path} does not exist; found: {', '.join(available(folder))}"
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys such as title and axes, found {content!r}")
    return _table(path, name, data, content)


def _table(path: Path, name: str, data: str, content: dict[str, Any]) -> Table:
    known = {f.name for f in fields(Table)} - {"name", "data"}
    if unknown := sorted(str(key) for key in content.keys() - known):
        raise UserError(f"{path}: unknown keys {unknown}; a table has {sorted(known)}")
    for key in ("title", "axes"):
        if not content.get(key):
            raise UserError(f"{path}: a table needs {key}")
    axes = {
        str(axis): {str(value): _overrides(path, o) for value, o in values.items()}
        for axis, values in content.pop("axes").items()
    }
    compare = _comparison(path, axes, content.pop("compare", None))
    for key in ("cross", "folds"):
        if (named := content.get(key)) is not None and named not in axes:
            raise UserError(f"{path}: {key} names {named}, which is not one of the axes {list(axes)}")
    paper = [_paper(path, axes, entry) for entry in content.pop("paper", [])]
    return Table(name=name, data=data, axes=axes, compare=compare, paper=paper, **content)


def _comparison(
    path: Path, axes: dict[str, dict[str, Overrides]], given: dict[str, Any] | None
) -> Comparison | None:
    if given is None:
        return None
    also = [(str(first), str(second)) for first, second in given.get("also", [])]
    compare = Comparison(str(given["axis"]), str(given["of"]), also)
    for value in (compare.of, *(value for pair in also for value in pair)):
        if value not in axes.get(compare.axis, {}):
            raise UserError(f"{path}: compare names {compare.axis}={value}, which is not on the axes")
    return compare


def _paper(path: Path, axes: dict[str, dict[str, Overrides]], entry: dict[str, Any]) -> Paper:
    where = {str(axis): str(value) for axis, value in entry.get("where", {}).items()}
    if where.keys() != axes.keys() or any(value not in axes[axis] for axis, value in where.items()):
        raise UserError(f"{path}: paper has metrics of {where}, which is no run of this table")
    return Paper(where, {key: float(value) for key, value in entry.items() if key != "where"})


def _overrides(path: Path, given: Sequence[str]) -> Overrides:
    if not isinstance(given, list) or not all(isinstance(o, str) and "=" in o for o in given):
        raise UserError(f"{path}: expected a list of key=value overrides of tools/train.py, found {given!r}")
    return list(given)
