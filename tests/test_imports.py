"""Imports go one way: tools -> {commands, config, engine, evaluation} -> {data, models} -> leaves -> maskrcnn_ops."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What each part may import of the project, itself aside.
LEAVES = {"errors", "structures", "boxes", "masks", "segmentation", "keypoints", "sampling", "ranges"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "structures": set(),
    "boxes": set(),
    "sampling": set(),
    "ranges": set(),
    "keypoints": set(),
    "masks": {"structures"},
    "segmentation": {"errors", "masks"},
    "models": LEAVES,
    "weights": LEAVES | {"models"},
    "data": LEAVES,
    "evaluation": LEAVES | {"data"},
    "engine": LEAVES | {"data", "models", "evaluation", "weights"},
    "config": LEAVES | {"engine", "config_check", "config_pretrained"},
    "config_check": {"errors", "ranges"},
    "config_pretrained": {"engine"},
    "assembly": LEAVES | {"data", "models", "evaluation", "engine", "config", "config_pretrained"},
    "predictor": LEAVES | {"data", "models", "engine", "assembly"},
    "cli": {"errors"},
    "export": LEAVES | {"models"},
    "ablation": LEAVES | {"data", "models", "evaluation", "engine", "assembly"},
    "commands": LEAVES
    | {"ablation", "config_check", "data", "models", "evaluation", "engine", "config", "assembly", "cli"}
    | {"config_pretrained", "predictor", "export"},
}
MODULES = sorted((ROOT / "maskrcnn").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The project's parts that a module imports: `maskrcnn.data.coco` and `from maskrcnn import data` are `data`."""
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
