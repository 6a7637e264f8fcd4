"""The claims: which comparisons bear on them, what is registered, what the gate of learning lets through."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.api import ConfigError, DataError
from bench.cli import verify
from bench.results.records.reader import read_experiment
from bench.results.records.registration import read_registration, registration_hash
from bench.results.report.claims import Claim, claim_findings, published_claims
from bench.results.report.claims_table import claim_verdict, claims_table
from bench.results.report.primary import primary_findings
from bench.results.report.registered import registration_words
from bench.results.report.tables import summary_table
from bench.results.statistics.analysis import Analysis
from bench.results.statistics.equal_updates import at_equal_updates
from bench.results.statistics.intervals import p_value
from bench.results.statistics.null import null_verdicts
from bench.results.statistics.one_off import one_off
from tests.results.test_report import SHARP, SMALL
from tests.support.synthetic_results import World, write_world

RESULTS = Path(__file__).parents[2] / "results"
REGISTRATION = """
experiments:
  sharp: {preset: sharp, seeds: 4, budget: 60k}
  later: {preset: later-preset, seeds: 4, budget: 60k}
hypotheses:
  - {claim: 1, expected: better, experiment: sharp, task: alignment, scorer: scenes-geneval, margin: 0.01}
  - {claim: 2, expected: better, experiment: later, task: text, scorer: scenes-ocr, margin: 0.01}
  - {claim: 5, expected: better, experiment: sharp, task: alignment, scorer: scenes-clip, margin: 0.9, guidance: [3.0]}
own_guidance:
  alignment: {sft: 3.0, soar: 1.0}
"""
# Both scales on all prompts, so that verdicts have to be right there too
WHOLE = replace(
    SHARP, methods=("sft", "soar", "flowgrpo", "soar+flowgrpo"), grid=((1.0, 3.0), (5, 20)), grid_prompts=1000
)


def analysed(folder: Path, world: World) -> Analysis:
    return Analysis(read_experiment(write_world(folder, world)))


def claim(number: int) -> Claim:
    return next(one for one in published_claims().claims if one.number == number)


def cells(table: str, number: int) -> list[str]:
    return [cell.strip() for cell in table.splitlines()[1 + number].strip("|").split(" | ")]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Analysis]:
    """A results folder with a registration, and an experiment that was recorded under it."""
    results = tmp_path_factory.mktemp("registered")
    (results / "registration.yaml").write_text(REGISTRATION)
    return results, analysed(results, WHOLE)


def test_claims_follow_the_data(registered: tuple[Path, Analysis]) -> None:
    sharp = registered[1]
    said = {one.number: claim_verdict(one, found) for one in published_claims().claims
            if (found := claim_findings(sharp, one))}  # fmt: skip
    assert {*said} == {1, 3, 5, 7, 8}
    assert said[1] == said[7] == "**holds here**"
    assert said[5].startswith("**fails in part**: 1 worse, 1 better")
    assert said[8].startswith("**fails")  # the synthetic losses are shares of what was gained


def test_each_claim_has_a_row_without_a_registration_too(registered: tuple[Path, Analysis], tmp_path: Path) -> None:
    results, sharp = registered
    other = analysed(tmp_path, replace(SMALL, name="other", methods=("sft",), seeds=1, grid=((), ())))
    table = claims_table([other, sharp], None, results / "REPORT.md")
    assert len(table.splitlines()) == 2 + 8
    assert [line.count("[sharp, alignment](sharp/REPORT.md#alignment-text-image-alignment)") for line in
            table.splitlines()[2:]] == [1, 0, 1, 0, 1, 0, 1, 1]  # fmt: skip
    assert "[other" not in table
    assert cells(table, 2)[-1] == "**no data**: needs soar and sft on general or text"
    assert cells(table, 1)[-1].startswith("exploratory: ")
    assert "held out, alignment: scenes-aesthetic " in cells(table, 1)[3]


def test_nothing_wins_a_claim_that_is_not_better_than_the_base(tmp_path: Path) -> None:
    """SOAR is .15 above Flow-GRPO by gold, and gains nothing over the base: that says only what Flow-GRPO lost."""
    gains = {"alignment": {"soar": {"scenes-clip": 0.01}, "flowgrpo": {"scenes-geneval": -0.15, "scenes-clip": 0.03}}}
    sharp = analysed(tmp_path, replace(SHARP, methods=("soar", "flowgrpo"), seeds=3, gains=gains, grid=((), ())))
    of_clip, of_gold = claim_findings(sharp, claim(5))
    assert (of_gold.difference.word, of_gold.word(claim(5))) == ("better", "no better than the base")
    assert of_clip.word(claim(5)) == "worse"
    table = cells(claims_table([sharp], None, tmp_path / "REPORT.md"), 5)[3]
    assert re.search(r"better, but no better than the base † \(over the base: soar [+-]?0\.\d+ \w+, flowgrpo -", table)


def test_who_did_not_learn_gets_no_verdict(tmp_path: Path) -> None:
    """Flow-GRPO's reward stays where it was: whatever else it changes, SOAR's win over it is called what it is."""
    gains = {"alignment": {
        "soar": {"scenes-geneval": 0.25, "scenes-clip": 0.02},
        "flowgrpo": {"scenes-geneval": 0.10, "scenes-clip": -0.001},
    }}  # fmt: skip
    sharp = analysed(tmp_path, replace(SHARP, methods=("soar", "flowgrpo"), seeds=3, gains=gains, grid=((), ())))
    assert (sharp.optimises("alignment", "flowgrpo"), sharp.optimises("alignment", "soar")) == ("scenes-clip",) * 2
    assert sharp.did_not_learn("alignment", "flowgrpo") and not sharp.did_not_learn("alignment", "soar")
    gained = sharp.learning("alignment", "flowgrpo")
    expected = sharp.scores("alignment", "flowgrpo", "scenes-clip").to_numpy(float)
    expected = expected - sharp.scores("alignment", "base", "scenes-clip").to_numpy(float)
    assert gained is not None and gained.mean == pytest.approx(expected.mean()) and gained.low <= 0
    row = sharp.row("alignment", "flowgrpo", "scenes-geneval")
    assert row is not None and row.differences["base"].verdict == "better"  # by its interval alone
    assert row.differences["base"].word == "did not learn"
    assert "| flowgrpo †‡ |" in (table := summary_table(sharp, "alignment")) and "‡ did not learn: " in table
    assert claim_verdict(claim(5), claim_findings(sharp, claim(5))).startswith(
        "**not shown**: a win over an arm that did not learn"
    )
    turned = replace(claim(5), method="flowgrpo", reference="soar")
    assert claim_verdict(turned, claim_findings(sharp, turned)).startswith("**not shown**: flowgrpo did not learn")


def test_primary_comparisons_are_corrected_for_all_that_have_data(registered: tuple[Path, Analysis]) -> None:
    results, sharp = registered
    found = primary_findings(read_registration(results), [sharp])
    assert {number: len(of) for number, of in found.items()} == {1: 2, 5: 1}
    at_1, at_own = found[1]
    assert "guidance 1" in at_1.what and "guidance 1 (soar) and 3" in at_own.what
    steps = 20
    tables = {scale: {m: sharp.grid.scores("alignment", m, "scenes-geneval", scale, steps) for m in ("soar", "sft")}
              for scale in (1.0, 3.0)}  # fmt: skip
    expected = tables[1.0]["soar"].to_numpy(float) - sharp.scores("alignment", "sft", "scenes-geneval").to_numpy(float)
    assert at_own.difference.interval.mean == pytest.approx(expected.mean())
    expected = tables[1.0]["soar"].to_numpy(float) - tables[1.0]["sft"].to_numpy(float)
    assert at_1.difference.interval.mean == pytest.approx(expected.mean())
    every = [at_1, at_own, *found[5]]
    by_size = sorted(every, key=lambda one: p_value(one.difference.interval))
    least = 0.0
    for rank, one in enumerate(by_size):  # Holm's rule by hand, over three
        least = max(least, min(1.0, (3 - rank) * p_value(one.difference.interval)))
        assert one.corrected == pytest.approx(least)
    assert at_1.difference.verdict == "better"
    assert found[5][0].difference.verdict == "tie"  # of the registered margin of .9, not the task's .005


def test_the_table_is_judged_by_the_primary_comparisons(registered: tuple[Path, Analysis]) -> None:
    results, sharp = registered
    table = claims_table([sharp], read_registration(results), results / "REPORT.md")
    first = cells(table, 1)
    assert first[-1].startswith("**holds here**; p < .001, < .001 after Holm over 3 primary comparisons")
    assert first[3].count("**primary**: ") == 2
    assert cells(table, 2)[-1].endswith("; preset `later-preset` supplies its primary comparison")
    assert re.fullmatch(r"\*\*tie\*\*: no .*; p < \.001 after Holm over 3 primary comparisons", cells(table, 5)[-1])
    assert cells(table, 7)[-1].startswith("exploratory: **holds here**")
    later = read_registration(results)
    assert later is not None
    one = claims_table([sharp], replace(later, own_guidance={}), results / "REPORT.md")
    assert cells(one, 1)[-1].endswith("over 2 primary comparisons; 1 of 2 of its own have no data")


def test_equal_updates_take_the_milestone_that_is_nearest(registered: tuple[Path, Analysis]) -> None:
    """SFT is judged after 156, 312, 468 and 625 updates, SOAR after 66, 133, 200 and 267."""
    sharp = registered[1]
    found = at_equal_updates(sharp, "alignment", ("soar", "sft"), "scenes-clip")
    assert found is not None and dict(found.updates) == {"soar": (267, 267), "sft": (312, 312)}
    rows = sharp.experiment.samples.query("task == 'alignment' and split == 'report' and prompt_index < 100")
    for name, update in (("soar", 267), ("sft", 312)):
        own = rows[(rows["method"] == name) & (rows["update"] == update)]
        assert found.scores[name].shape == (4, 100)
        assert found.scores[name].to_numpy(float).mean() == pytest.approx(own["scenes-clip"].astype(float).mean())
    text = cells(claims_table([sharp], None, Path("REPORT.md")), 1)[4]
    assert text.startswith("alignment, scenes-geneval after soar 267 and sft 312 updates, 100 prompts: +0.")
    assert "(over the base: soar +0." in text


def test_prompts_of_one_claim_are_one_draw(tmp_path: Path) -> None:
    """Four prompts in a row state a claim: 160 prompts are 40 clusters, in the frames and in every interval."""
    analysis = analysed(tmp_path, replace(SMALL, prompts=160, wordings=4))
    table = analysis.scores("alignment", "soar", "scenes-clip")
    clusters = table.columns.get_level_values("cluster").to_numpy()
    np.testing.assert_array_equal(clusters, table.columns.get_level_values("prompt_index") // 4 * 4)
    found = analysis.difference("alignment", "soar", "base", "scenes-clip")
    assert found is not None and found.interval.clusters == 40


def test_whether_cells_were_registered_is_told(registered: tuple[Path, Analysis], tmp_path: Path) -> None:
    results, sharp = registered
    digest = registration_hash(results)
    assert registration_words(sharp) == f"Recorded: 17 cells under `registration.yaml` `{digest}`, as it is."
    unregistered = analysed(tmp_path, SMALL)
    assert registration_words(unregistered) == "It was not registered."
    (tmp_path / "registration.yaml").write_text(REGISTRATION)
    fewer = analysed(tmp_path, replace(SMALL, name="sharp", seeds=2))
    assert registration_words(fewer).endswith("It differs from what was planned: 2 seeds, planned 4.")
    (tmp_path / "registration.yaml").write_text(REGISTRATION + "# changed\n")
    assert f"`{digest}`, as it was before a change" in registration_words(fewer)
    (tmp_path / "registration.yaml").unlink()
    assert f"`{digest}`, which is not there" in registration_words(fewer)


def test_verify_tells_a_registration_that_was_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    (tmp_path / "registration.yaml").write_text(REGISTRATION)
    write_world(tmp_path, replace(SMALL, name="sharp", methods=("sft",), seeds=1))
    args = argparse.Namespace(results=tmp_path, name=None)
    assert verify.run(args) == 0 and "registration" not in capsys.readouterr().out
    held = registration_hash(tmp_path)
    (tmp_path / "registration.yaml").write_text(REGISTRATION.replace("margin: 0.9", "margin: 0.8"))
    assert verify.run(args) == 0
    told = capsys.readouterr().out
    assert f"cells were recorded under another registration.yaml (2 under {held})" in told
    assert f"it is {registration_hash(tmp_path)} now" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("claim: 2", "claim: 1"), "claim 1 has several primary comparisons"),
        (("experiment: later", "experiment: latter"), "names experiment 'latter', but planned are: sharp, later"),
        (("margin: 0.9", "margin: 0"), "greater than 0"),
        (("guidance: [3.0]", "guidance: [best]"), "own"),
        (("expected: better", "expcted: better"), "expcted"),
    ],
)
def test_a_damaged_registration_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in REGISTRATION
    (tmp_path / "registration.yaml").write_text(REGISTRATION.replace(*change))
    with pytest.raises(ConfigError, match=message):
        registration_hash(tmp_path)


def test_a_registration_of_an_unknown_claim_is_refused(registered: tuple[Path, Analysis], tmp_path: Path) -> None:
    (tmp_path / "registration.yaml").write_text(REGISTRATION.replace("claim: 2", "claim: 9"))
    with pytest.raises(DataError, match=r"registration\.yaml: expected claims out of 1, .*, 8, got 9"):
        primary_findings(read_registration(tmp_path), [registered[1]])


def test_the_stored_registration_has_one_comparison_for_each_claim() -> None:
    found = read_registration(RESULTS)
    assert found is not None
    assert [one.claim for one in found.hypotheses] == [one.number for one in published_claims().claims]
    assert primary_findings(found, []) == {}
    for one in found.hypotheses:
        tasks = claim(one.claim).tasks
        assert not tasks or one.task in tasks


def test_what_the_data_took_once(tmp_path: Path) -> None:
    recorded = analysed(tmp_path, replace(SMALL, once=(1200.0, 300.0)))
    once = one_off(recorded, "alignment", "sft")
    assert (once.calls, once.filter, once.encoding, once.total) == (4096, 1200.0, 300.0, 1500.0)
    assert one_off(recorded, "alignment", "flowgrpo").total == one_off(recorded, "alignment", "base").total == 0.0
    older = analysed(tmp_path, replace(SMALL, name="older", methods=("sft",)))
    assert one_off(older, "alignment", "sft").total is None  # no reward has told what a call costs
    older = analysed(tmp_path, replace(SMALL, name="priced"))
    own = older.experiment.cells.query("task == 'alignment' and method == 'flowgrpo'")
    price = own["reward_cost"].iloc[0] / own["reward_calls"].iloc[0]
    assert one_off(older, "alignment", "sft").total == pytest.approx(4096 * price)


def test_halves_of_one_method_are_seldom_told_apart(registered: tuple[Path, Analysis], tmp_path: Path) -> None:
    found = null_verdicts(registered[1])
    assert found is not None and found.comparisons == 4 * 3 and found.seeds == 2  # 3 splits of four seeds a method
    assert found.false <= 2
    assert null_verdicts(analysed(tmp_path, replace(SMALL, methods=("sft",), seeds=3))) is None
