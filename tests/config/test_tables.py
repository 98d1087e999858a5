"""Every table of the repository: its runs' configs compose, and it says what is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.ablation.grid import read_table
from maskrcnn.config import compose as configs

TABLES = Path(__file__).resolve().parents[2] / "configs" / "tables"
NAMES = sorted(path.stem for path in TABLES.glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_table_composes(name: str) -> None:
    table = read_table(TABLES, *name.rsplit("-", 1))
    runs = table.runs(1)
    assert len(runs) == len({run.id for run in runs})
    composed = [str(configs.compose_config("train", list(run.overrides))) for run in runs]
    assert len(set(composed)) == len(runs), "two runs of the table would compute the same"
