"""The built-in tasks of each world, from `tasks.yaml`, as the plain values that settings are laid over.

Those that run are validated as settings, and a test validates all of them: `bench list` shows them without pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.reading import parse_yaml, read_text

# By world and name; each with those fields of `bench.config.task.Task` that it sets, all but its name.
TASKS: dict[str, dict[str, dict[str, Any]]] = parse_yaml(read_text(Path(__file__).with_name("tasks.yaml")))
WORLDS = tuple(TASKS)
