"""The built-in tasks of each world, from `tasks.yaml`, as the plain values that settings are laid over.

Those that run are validated as settings, and a test validates all of them: `bench list` shows them without pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# By world and name; each with those fields of `bench.config.task.Task` that it sets, all but its name.
TASKS: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("tasks.yaml").read_text(encoding="utf-8")
)
WORLDS = tuple(TASKS)
