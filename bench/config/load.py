"""What to compare, from a preset or a YAML file and overrides of the command line.

    experiment = load("quick", {"seeds": 3, "soar.num_points": 6, "soar.train.learning_rate": 1e-5})

The top level holds the fields of `Experiment`. Beside them stand blocks: `task` changes every task and a task's name
changes that one; `train` holds for every method and a method's name for that one, with its own settings and a `train`
block of exceptions. A block `soar6: {method: soar, num_points: 6}` is a second setting of a method under its own label.
A YAML file may begin with `extends: quick` and then says only what is different. A block `search` tries each method
under many settings (`bench.config.search`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.api import ConfigError
from bench.config.resolver import Block, Resolver, merge
from bench.config.search import expand_search
from bench.config.settings import Experiment
from bench.parsing import Problems, read_yaml
from bench.suggest import hint

PRESETS = Path(__file__).with_name("presets")


def presets() -> tuple[str, ...]:
    """The names of the presets that come with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def lora_preset(model: str | None) -> str | None:
    """The preset that trains LoRA adapters on a model; None where there is none."""
    for name in presets() if model else ():
        raw = _read(name)
        if raw.get("model") == model and raw.get("train", {}).get("adaptation") == "lora":
            return name
    return None


def load_settings(
    preset: str | Path,
    overrides: Mapping[str, Any] | None = None,
    layers: Iterable[str | Path] = (),
    earlier: Iterable[str] = (),
) -> Experiment:
    """The experiment of a preset (`smoke`, `quick`, `scenes`) or a YAML file, under overrides with dotted names.

    `layers` are YAML files laid over the preset in turn (what `bench doctor --tune` writes, say); `overrides` come
    last, with values as in YAML, or as `Text` of the command line. The methods are imported, to know their settings.
    `earlier` are problems found before, told in the same message.

    Raises:
        ConfigError: everything that is wrong with the settings, in one message.
        PluginError: a method breaks the contract of `bench.api`.
    """
    problems = Problems()
    for message in earlier:
        problems.add("", message)
    raw = _read(preset)
    for layer in layers:
        raw = merge(raw, _read(layer))
    above: Block = {}
    for path, value in (overrides or {}).items():
        above = merge(above, _nested(path, value))
    experiment = Resolver(expand_search(merge(raw, above), problems), above, problems).experiment()
    problems.raise_if_any(f"settings of {str(preset)!r}")
    assert experiment is not None
    return experiment


def _read(source: str | Path, seen: tuple[str, ...] = ()) -> Block:
    """A preset or a file, what it extends included."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESETS / f"{source}.yaml"
        if not path.is_file():
            raise ConfigError(
                f"no preset {str(source)!r}{hint(str(source), presets())} (a file of your own ends with .yaml)"
            )
    if str(path.resolve()) in seen:
        raise ConfigError(f"{path} extends itself")
    raw = read_yaml(path)
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends: expected the name of a preset or a .yaml file, got {parent!r}")
    if parent.endswith((".yaml", ".yml")):
        parent = str(path.parent / parent)
    return merge(_read(parent, (*seen, str(path.resolve()))), raw)


def _nested(path: str, value: Any) -> Block:
    """{"a": {"b": value}} from "a.b"."""
    names = path.split(".")
    if not all(names):
        raise ConfigError(f"--{path}: expected names with a dot between them, like train.batch_size")
    for name in reversed(names):
        value = {name: value}
    return value
