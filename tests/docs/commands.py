"""Finds the commands of a text and composes their configs, which fails for a wrong key, option or value."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.cli import ablate, benchmark, compare, explain
from maskrcnn.cli.check_data import read_arguments, split_data
from maskrcnn.config import compose as configs

ROOT = Path(__file__).resolve().parents[2]
TOOL = re.compile(r"(?:^|\s)(?:tools/(?P<file>\w+)\.py|maskrcnn (?P<name>[\w-]+))(?P<arguments>.*)")
# Commands of other programs that the pages name.
OTHERS = (
    "git clone",
    "cd ",
    "pip install",
    "python -m venv",
    "python -m maskrcnn_ops",
    "uv add",
    "uv build",
    "uv init",
    "uv pip",
    "uv run bash benchmarks/",
    "uv run --group",
    "uv run mkdocs",
    "uv run pre-commit",
    "uv run pytest",
    "uv run python -m",
    "uv run tensorboard",
    "bash .ci/",
    "maskrcnn --",
    "sbatch tools/slurm.sh",
)


def of_page(text: str) -> list[str]:
    """The lines of the bash blocks of a Markdown text, continued lines joined, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    joined = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in joined if line.strip(" #")]


def configs_of_page(text: str) -> dict[str, str]:
    """The YAML blocks of a page whose first line is a comment with the file's name, by that name."""
    blocks = re.findall(r"^```yaml\n# (configs/\S+)\n(.*?)^```", text, re.M | re.S)
    return dict(blocks)


def of_help(text: str) -> list[str]:
    """The examples of a command's help. Two or more spaces separate a command from its comment."""
    lines = re.sub(r" *\\\n *", " ", text.partition("\nExamples:\n")[2]).splitlines()
    return [re.split(r" {2,}", line.strip())[0] for line in lines if line.startswith("  maskrcnn ")]


def parts(command: str) -> tuple[str, list[str]] | None:
    """The name of the tool as its module has it and its arguments, or None for a command of another program."""
    found = TOOL.search(command)
    if found is None or command.startswith(OTHERS):
        return None
    name = (found["file"] or found["name"]).replace("-", "_")
    return name, [word for word in shlex.split(found["arguments"].split(">")[0]) if word != "..."]


def compose(tool: str, arguments: Sequence[str]) -> None:
    """Compose the configs that the command needs. Raises UserError where it would end with status 2."""
    module = importlib.import_module(f"maskrcnn.cli.{tool}")
    if tool == "train":
        configs.compose_config("train", arguments)
    elif tool == "ablate" and "table=across" in arguments:
        settings, rest = ablate._settings(arguments)
        assert settings.table == "across"
        assert not rest
    elif tool == "compare":
        assert sum("=" not in argument for argument in arguments) >= 2
        compare._plot([argument for argument in arguments if "=" in argument])
    elif tool == "ablate":
        if "table=across" in arguments:  # a report of other tables, without runs of its own
            return
        planned = ablate.plan([*arguments, "report_only=true"])
        configs.compose_config("train", planned.runner.overrides(planned.table.runs(1)[0]))
    elif tool in ("check_data", "prepare_data"):
        own, of_data = split_data([argument for argument in arguments if argument != "--fix"])
        read_arguments(own, module.KEYS)
        configs.compose_config("train", of_data)
    elif tool == "benchmark":
        settings, rest = configs.compose_command("benchmark", arguments, benchmark.Benchmark)
        benchmark._arguments(importlib.import_module(f"benchmarks.{settings.suite}").run, rest)
    elif tool == "compare":
        assert all((word.partition("=")[0] == "plot") == ("=" in word) for word in arguments)
    elif tool in ("doctor", "completion"):
        module.main(arguments)
    else:
        schema = getattr(module, tool.capitalize())
        settings, rest = configs.compose_command(tool, arguments, schema)
        if tool == "explain":
            for name in settings.operators:
                explain._operator(name, rest)
        else:
            configs.override_config(configs.compose_config("train", []), rest)
