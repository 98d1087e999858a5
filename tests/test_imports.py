"""Imports go one way:

tools -> cli -> {config, ablation} -> training -> {evaluation, export} -> prediction -> weights -> {data, models} ->
structures -> maskrcnn_ops
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What each part may import of the project, itself aside.
LEAVES = {"errors", "structures", "console"}
PARTS = LEAVES | {"data", "models"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "structures": set(),
    "console": set(),
    "models": LEAVES,
    "data": LEAVES,
    "weights": PARTS,
    "prediction": PARTS | {"weights"},
    "evaluation": PARTS | {"prediction"},
    "export": PARTS,
    "training": PARTS | {"weights", "prediction", "evaluation"},
    "config": PARTS | {"weights", "prediction", "evaluation", "training"},
    "ablation": PARTS | {"weights", "prediction", "evaluation", "training", "config"},
    "cli": PARTS | {"weights", "prediction", "evaluation", "export", "training", "config", "ablation"},
}
MODULES = sorted((ROOT / "maskrcnn").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The project's parts that a module imports: `maskrcnn.data.masks` and `from maskrcnn import data` are `data`."""
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            parts |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("maskrcnn.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "maskrcnn":
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maskrcnn."):
            parts.add(str(node.module).split(".")[1])
    return parts


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    relative = path.relative_to(ROOT / "maskrcnn")
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert imported(path) - {own} <= ALLOWED[own]


@pytest.mark.parametrize("path", sorted((ROOT / "ops").rglob("*.py")), ids=lambda p: p.name)
def test_the_operators_do_not_know_the_framework(path: Path) -> None:
    assert imported(path) == set()


HYDRA = {"hydra", "omegaconf"}
KNOWS_HYDRA = {"config", "cli"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_and_commands_alone_import_hydra(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    part = path.relative_to(ROOT / "maskrcnn").parts[0]
    assert part in KNOWS_HYDRA or not {name.split(".")[0] for name in names} & HYDRA
