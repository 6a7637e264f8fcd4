"""Prompt sets as a run needs them: read, cut to the number asked for, named by a hash, fit for their scorers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench import registry
from bench.api import DataError, Prompt
from bench.canonical import config_hash
from bench.config.prompt_set import FoundPrompts, PromptSet, set_split
from bench.datasets.prompts.readers import locate_prompts, read_prompts
from bench.datasets.splits import round_robin, same_words


@dataclass(frozen=True)
class LoadedSet:
    """A prompt set with its prompts, whose indices are their places in the file; `settings.found` describes them."""

    name: str
    settings: PromptSet
    prompts: Sequence[Prompt]

    @property
    def found(self) -> FoundPrompts:
        """What was found in it."""
        assert self.settings.found is not None
        return self.settings.found

    @property
    def split(self) -> str:
        """What stands for this set in the column `split`, and keys the noise of its samples."""
        return set_split(self.name)


def load_set(name: str, settings: PromptSet) -> LoadedSet:
    """Read a set.

    Raises:
        DataError: it is not there, cannot be read, has fewer prompts than asked for, holds none that one of its scorers
            could judge, or others than `settings.found` says.
    """
    place = f"prompt set {name!r}"
    try:
        there = read_prompts(locate_prompts(settings.path, settings.file), settings.column)
    except DataError as error:
        raise DataError(f"{place}: {error}; or leave it out by --evaluation.prompt_sets.{name} null") from error
    wanted = len(there) if settings.prompts is None else settings.prompts
    if wanted > len(there):
        raise DataError(f"{place}: {wanted} prompts asked for, but {settings.path} has {len(there)}: ask for no more")
    chosen = first_of_each(there, wanted)
    judged = {scorer: judgeable(scorer, chosen) for scorer in settings.scorers}
    for scorer, count in judged.items():
        if not count:
            raise DataError(
                f"{place}: {scorer} can judge none of its {len(chosen)} prompts (`bench list {scorer}` says what it "
                f"needs to know of a prompt): leave it out of evaluation.prompt_sets.{name}.scorers"
            )
    print_ = config_hash({"prompts": [[p.index, p.text, p.metadata] for p in chosen]})
    if settings.found is not None and settings.found.fingerprint != print_:
        raise DataError(
            f"{place}: {settings.path} has changed since this run began ({print_}, was {settings.found.fingerprint}): "
            "restore it, or run under another --name"
        )
    found = FoundPrompts(fingerprint=print_, there=len(there), chosen=len(chosen), judged=judged)
    return LoadedSet(name, dataclasses.replace(settings, found=found), chosen)


def load_sets(sets: Mapping[str, PromptSet]) -> list[LoadedSet]:
    """All sets of an evaluation; raises as `load_set` does."""
    return [load_set(name, settings) for name, settings in sets.items()]


def first_of_each(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` of the prompts, in their order: one of each category in turn, each category from its beginning.

    GenEval's file has its categories one after another: its first prompts would be of one category alone.
    """
    categories: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        categories.setdefault(prompt.category, []).append(prompt)
    mixed = round_robin([iter(own) for own in categories.values()])
    return sorted((p for p, _ in zip(mixed, range(count), strict=False)), key=lambda p: p.index)


def among(prompts: Iterable[Prompt], texts: Iterable[str]) -> int:
    """How many of the prompts stand among the texts too; letter case and spaces do not count."""
    known = {same_words(text) for text in texts}
    return sum(same_words(prompt.text) in known for prompt in prompts)


def judgeable(scorer: str, prompts: Iterable[Prompt]) -> int:
    """How many of the prompts a scorer applies to."""
    reward = registry.load_reward(scorer)
    return sum(reward.applies(prompt.metadata) for prompt in prompts)


def prompt_sets_table(sets: Sequence[LoadedSet]) -> str:
    """What was found, for the terminal: a line for each set."""
    lines = []
    for one in sets:
        found, samples = one.found, one.settings.samples
        count = f"{found.chosen:,}" if found.chosen == found.there else f"{found.chosen:,} of {found.there:,}"
        pictures = f", {samples} pictures each" if samples > 1 else ""
        judges = ", ".join(
            scorer if count == found.chosen else f"{scorer} ({count:,} of them)"
            for scorer, count in found.judged.items()
        )
        title = "prompts     " if one is sets[0] else " " * 12
        lines.append(f"{title}{one.name}: {count} prompts{pictures}, fingerprint {found.fingerprint}, for {judges}")
    return "\n".join(lines)
