"""The report of results whose truth is known: verdicts, tables, escapes, and what `check` sees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench import registry
from bench.api import ConfigError, DataError
from bench.parsing import read_dataclass
from bench.results import report
from bench.results.figures.style import looks
from bench.results.records.reader import read_experiment
from bench.results.records.writer import CellRecord
from bench.results.report import main_table, world
from bench.results.report.claims import published_claims
from bench.results.report.document import render_document
from bench.results.report.gains import proxy_gains
from bench.results.report.main_table import papers_table
from bench.results.report.markdown import code, escape, format_number, markdown_table, signed
from bench.results.report.side_effects import side_effect_words
from bench.results.statistics.analysis import Analysis
from tests.support.synthetic_results import World, as_schema_1, build_world, ledger, start, write_world

EVIL = ("<script>alert(1)</script>", "[a](http://evil.example) ![b](x)", "pipes | and $x$ `code` *stars* @someone")
SMALL = World(
    tasks=("alignment",), seeds=2, prompts=48, milestone_prompts=24, captions=EVIL, grid=((1.0, 3.0), (5, 10))
)
SHARP = World(
    name="sharp",
    label="",
    tasks=("alignment",),
    seeds=4,
    prompts=1000,
    milestone_prompts=100,
    seed_sd=0.001,
    prompt_sd=0.02,
    methods=("sft", "soar", "flowgrpo", "resampled", "soar+flowgrpo"),
    gains={
        "alignment": {
            "sft": {"scenes-geneval": 0.10, "scenes-clip": 0.010},
            "soar": {"scenes-geneval": 0.25, "scenes-clip": 0.020},
            "flowgrpo": {"scenes-geneval": -0.15, "scenes-clip": 0.060},
            "resampled": {"scenes-clip": 0.010},
            "soar+flowgrpo": {"scenes-geneval": 0.30, "scenes-clip": 0.080},
        }
    },
    grid=((3.0,), (5, 20)),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/ and the REPORT.md made from them; not to be changed."""
    return build_world(tmp_path_factory.mktemp("built"), SMALL)


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(built, tmp_path / "copied"))


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """So many prompts and so little noise that verdicts have to be right."""
    return Analysis(read_experiment(write_world(tmp_path_factory.mktemp("sharp"), SHARP)))


def text_of(folder: Path) -> str:
    """The experiment's own report."""
    return (folder / "results" / SMALL.name / "REPORT.md").read_text(encoding="utf-8")


def short_of(folder: Path) -> str:
    return (folder / "REPORT.md").read_text(encoding="utf-8")


def check(folder: Path) -> list[str]:
    return report.check_report(folder / "results", folder / "REPORT.md")


def rebuilt(folder: Path) -> dict[str, str]:
    """All reports as they would be written, by the name of the experiment; `short` is that of all."""
    texts = render_document(folder / "results", folder / "REPORT.md").texts
    return {"short" if place.parent == folder else place.parent.name: text for place, text in texts}


@pytest.mark.slow
def test_verdicts_agree_with_the_truth(sharp: Analysis) -> None:
    def verdict(method: str, scorer: str, baseline: str = "sft") -> str:
        found = sharp.difference("alignment", method, baseline, scorer)
        assert found is not None
        return found.verdict

    assert verdict("soar", "scenes-geneval") == "better"
    assert verdict("flowgrpo", "scenes-geneval") == "worse"
    assert verdict("sft", "scenes-geneval", "base") == "better"
    assert verdict("resampled", "scenes-clip") == "tie"
    assert verdict("flowgrpo", "scenes-clip") == "better"


def test_intervals_hold_the_true_differences(sharp: Analysis) -> None:
    for method, true in (("sft", 0.10), ("soar", 0.25), ("flowgrpo", -0.15)):
        found = sharp.difference("alignment", method, "base", "scenes-geneval")
        assert found is not None and found.interval.low < true < found.interval.high
        assert found.interval.high - found.interval.low < 0.15


def test_pairing_follows_prompts_not_rows(sharp: Analysis) -> None:
    ours = sharp.scores("alignment", "soar", "scenes-clip")
    rows = sharp.experiment.samples.query("method == 'soar' and seed == 3 and update == 267 and split == 'report'")
    one = rows[rows["prompt_index"] == 17].iloc[0]
    assert ours.loc[3, (one["category"], 17, 17)] == one["scenes-clip"]


def test_reward_hacking_is_named(sharp: Analysis) -> None:
    words = {gain.method: gain.words for gain in proxy_gains(sharp, "alignment")}
    assert words["flowgrpo"].startswith("reward hacking")
    assert "hacking" not in words["soar"]


def test_the_claims_and_the_papers_columns_name_plugins_that_there_are() -> None:
    methods = {*registry.names(registry.METHODS)}
    for claim in published_claims().claims:
        assert {*claim.method.split("+"), *claim.reference.split("+")} <= methods
        assert {*claim.scorers} <= {*registry.names(registry.REWARDS)}
    assert {column.scorer for column in papers_table().columns} <= {*registry.names(registry.REWARDS)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("home: ocr}", "home: ocr, men: of_categories}"),
        ('{ocr: "0.92"', '{orc: "0.92"'),
        ("mean: of_categories", "mean: of_prompt"),
    ],
)
def test_a_damaged_table_of_the_papers_is_refused(tmp_path: Path, change: str, message: str) -> None:
    text = Path(main_table.__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    assert change in text
    (tmp_path / "main_table.yaml").write_text(text.replace(change, message), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"main_table\.yaml: .*(men|orc|of_prompt)"):
        read_dataclass(main_table.PapersTable, tmp_path / "main_table.yaml")


def test_looks_follow_the_order_and_the_base_keeps_its_own() -> None:
    found = looks(["sft", "base", "soar"])
    assert found["base"] == looks([])["base"] == looks(["other"])["base"]
    assert (found["sft"], found["soar"]) == (looks(["a", "b"])["a"], looks(["a", "b"])["b"])
    many = looks([str(number) for number in range(12)])
    assert len(many) == 13 and len({*list(many.values())[:12]}) == 12 and many["0"] == many["11"]


@pytest.mark.slow
def test_check_passes_and_building_again_changes_nothing(copied: Path) -> None:
    assert check(copied) == []
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    for path in copied.rglob("figures/*"):
        path.unlink()
    report.write_report(copied / "results", copied / "REPORT.md")
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_check_sees_a_changed_number(copied: Path) -> None:
    for path in (copied / "REPORT.md", copied / "results" / SMALL.name / "REPORT.md"):
        text = path.read_text(encoding="utf-8")
        found = re.search(r"\d\.\d{3}(?= \[)", text)
        assert found
        path.write_text(text.replace(found.group(), "9.999", 1), encoding="utf-8")
        assert any("9.999" in message and str(path) in message for message in check(copied))
        path.write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_check_sees_a_changed_score(copied: Path) -> None:
    path = next(copied.glob("results/*/alignment/soar/seed0/scores-000267.parquet"))
    frame = pd.read_parquet(path)
    frame["scenes-clip"] += 0.1
    frame.to_parquet(path, index=False)
    messages = check(copied)
    assert any("text says" in message for message in messages)
    assert any("plotted data differ" in message for message in messages)


@pytest.mark.slow
def test_check_sees_changed_figures_and_a_missing_report(copied: Path) -> None:
    folder = next(copied.glob("results/*/figures"))
    stored = folder / "curves-alignment.json"
    facts = json.loads(stored.read_text())
    facts["data"]["base"]["scenes-clip"] += 0.01
    stored.write_text(json.dumps(facts))
    (folder / "grid-alignment.png").unlink()
    (folder / "differences-alignment.png").write_bytes(b"another picture")
    (copied / "REPORT.md").unlink()
    messages = " ".join(check(copied))
    assert "REPORT.md is missing: run `python -m bench report`" in messages
    assert "curves-alignment.json: the plotted data differ" in messages
    assert "grid-alignment.png is missing" in messages
    assert "differences-alignment.png is not the picture" in messages


def test_captions_are_shown_as_they_are(built: Path) -> None:
    text = text_of(built)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"(?<!\\)\]\(http", text) and "http://" not in text
    assert "@someone" not in text and "\\*stars\\*" in text and "\\|" in text and "\\$x\\$" in text


@pytest.mark.parametrize("text", EVIL)
def test_escape_leaves_no_markup(text: str) -> None:
    shown = escape(text)
    assert not re.search(r"(?<!\\)[`*_|$\[\]]", shown) and "<" not in shown and "://" not in shown
    assert escape("a\nb\r\n# c") == "a b # c"


def test_inline_code_and_tables() -> None:
    assert code("a `b` | c") == "`` a `b` \\| c ``"
    assert markdown_table(["a", "b"], [["x", "1"], ["y", "+2 [1, 3]"]]).splitlines()[1] == "|:--|--:|"
    assert (format_number(-0.0001, 3), signed(0.0001, 3), signed(0.5, 1), signed(-0.5, 1)) == (
        "0.000",
        "0.000",
        "+0.5",
        "-0.5",
    )


def test_every_table_marks_too_few_updates(built: Path) -> None:
    rows = [line for line in text_of(built).splitlines() if re.match(r"\|.*\bflowgrpo\b", line)]
    methods = [row for row in rows if re.search(r"\| flowgrpo( †‡?)? \|", row)]
    assert len(methods) >= 8
    assert all("flowgrpo † |" in row for row in methods)
    assert "soar †" not in text_of(built)


def test_demonstrations_say_so_and_the_filter_is_named(built: Path) -> None:
    text = text_of(built)
    for title in ("### alignment", "## Claims", "## Proxy against gold", "## Set-up"):
        assert re.search(f"^{title}.*\\(demonstration\\)$", text, re.MULTILINE), title
    assert "Supervised methods use scenes-clip as a data filter" in text
    assert "published" in text.lower() and "SD3.5-Medium" in text


def test_all_sections_are_there(built: Path) -> None:
    titles = re.findall(r"^## (.*)$", text_of(built), re.MULTILINE)
    wanted = (
        "The answer|Set-up|Results|Curves|Guidance|Claims|Proxy|Samples|Diversity|What was|Failed|Statistics|How each"
    )
    for title, begin in zip(titles, wanted.split("|"), strict=True):
        assert title.startswith(begin)
    titles = re.findall(r"^## (.*)$", short_of(built), re.MULTILINE)
    wanted = "The answer|The main|Samples|Curves|Claims|Limits|How to|All"
    for title, begin in zip(titles, wanted.split("|"), strict=True):
        assert title.startswith(begin)
    for text, place in ((text_of(built), built / "results" / SMALL.name), (short_of(built), built)):
        targets = re.findall(r"(?<!\\)\]\(([^)]*)\)", text)
        files = [target.split("#")[0] for target in targets if not target.startswith("#")]
        assert files and [file for file in files if not (place / file).is_file()] == []


@pytest.mark.slow
def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", replace(SMALL, seeds=1))
    analysis = Analysis(read_experiment(folder))
    verdicts = {found.verdict for row in analysis.rows("alignment") for found in row.differences.values()}
    assert verdicts == {"undecided (one seed)"}
    assert "nan" not in "".join(rebuilt(tmp_path).values())


@pytest.mark.slow
def test_failed_torn_and_missing_cells_are_listed(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", SMALL)
    record = CellRecord(folder / "alignment" / "soar" / "seed2")
    start(record, SMALL, "alignment", "soar", 2)
    record.append("end", status="failed", reason="loss is <b>NaN</b> at update 7", ledger=ledger(updates=7))
    path = folder / "alignment" / "sft" / "seed1" / "record.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    text = rebuilt(tmp_path)[SMALL.name]
    assert "| alignment | soar | 2 | failed | loss is &lt;b&gt;NaN&lt;/b&gt; at update 7 |" in text
    assert "| alignment | sft | 1 | unfinished (last line torn) |" in text
    assert "| alignment | sft | 2 | not run | no record |" in text
    shown = report.terminal_table(folder)
    assert "failed  alignment/soar/seed2: loss is" in shown


@pytest.mark.slow
def test_without_a_base_the_rest_is_reported(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", SMALL)
    shutil.rmtree(folder / "alignment" / "base")
    text = rebuilt(tmp_path)[SMALL.name]
    assert "no base to gain over" in text and "| alignment | base | 0 | not run | no record |" in text


@pytest.mark.slow
def test_the_main_experiment_can_be_chosen(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name, label in (("first", "demonstration"), ("second", ""), ("third", "demonstration")):
        write_world(results, replace(SMALL, name=name, label=label, seeds=1, methods=("sft",), grid=((), ())))
    assert "Experiment `second`:" in rebuilt(tmp_path)["short"]
    (results / "report.json").write_text('{"main": "third", "units": ["flops", "seconds"]}')
    text = rebuilt(tmp_path)["short"]
    assert "Experiment `third` (demonstration)" in text and "[second](results/second/REPORT.md)" in text
    (results / "report.json").write_text('{"main": "fourth"}')
    with pytest.raises(DataError, match="there are second, first, third"):
        rebuilt(tmp_path)
    (results / "report.json").write_text('{"mian": "first"}')
    with pytest.raises(DataError, match="mian"):
        rebuilt(tmp_path)


@pytest.mark.slow
def test_tuning_scores_are_not_reported(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", replace(SMALL, seeds=1, methods=("sft",)))
    for path in folder.rglob("*.parquet"):
        frame = pd.read_parquet(path)
        frame["split"] = "tune"
        frame.to_parquet(path, index=False)
    assert Analysis(read_experiment(folder)).is_tuning
    texts = rebuilt(tmp_path)
    assert "No experiment has" in texts["short"] and "±" not in "".join(texts.values())


@pytest.mark.slow
def test_agreement_and_sheets_are_shown(copied: Path) -> None:
    folder = copied / "results" / "pretrain"
    folder.mkdir()
    shutil.copy(next(copied.glob("results/*/figures/*.png")), folder / "samples_base.png")
    agreement = {"scenes-clip": {"text": {"auc": 0.91234, "n": 100}, "colors": {"auc": 0.9}}}
    (folder / "agreement.json").write_text(json.dumps({"schema": 1, "proxies": agreement}))
    texts = rebuilt(copied)
    assert "![samples base](samples_base.png)" in texts["pretrain"] and "0.912" in texts["pretrain"]
    assert "(results/pretrain/REPORT.md)" in texts["short"]


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run one \(`python -m bench run`\)"):
        report.write_report(tmp_path, tmp_path / "REPORT.md")


def test_scorers_have_to_be_described(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", replace(SMALL, seeds=1, methods=("sft",)))
    path = folder / "experiment.json"
    as_schema_1(folder)
    header = json.loads(path.read_text())
    del header["scorers"]["scenes-ocr"]
    path.write_text(json.dumps(header))
    told = "experiment.json does not describe scorer 'scenes-ocr' (gold? margin?)"
    assert "No experiment has a finished cell" in rebuilt(tmp_path)["short"] and told in rebuilt(tmp_path)[SMALL.name]
    (cells, _), *others = read_experiment(folder).refused_by_reason()
    assert cells == "alignment/base/seed0 and 1 more" and not others


@pytest.mark.slow
def test_the_table_at_the_end_says_what_changed_against_base_and_baseline(built: Path) -> None:
    shown = report.terminal_table(built / "results" / SMALL.name)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown and "(demonstration)" in shown
    assert "RL methods use scenes-clip as their reward" in " ".join(shown.split())
    analysis = Analysis(read_experiment(built / "results" / SMALL.name))
    rows = lines[lines.index("By scenes-geneval (gold):") :]
    assert rows[1].split("  ")[0] == "method" and rows[1].endswith("minus sft") and "minus base" in rows[1]
    base = analysis.scores("alignment", "base", "scenes-geneval").to_numpy(float).mean()
    assert rows[2].split() == ["base", f"{base:.3f}", "–", "–"]
    row = analysis.row("alignment", "flowgrpo", "scenes-geneval")
    assert row is not None
    sign = {"worse": "▼", "undecided": "?"}
    for name in ("base", "sft"):
        it = row.differences[name].interval
        assert f"{it.mean:+.3f} [{it.low:+.3f}, {it.high:+.3f}] {sign[row.differences[name].verdict]}" in rows[5]
    assert rows[5].startswith("flowgrpo †  ") and "† fewer than 50" in shown
    assert "By scenes-clip (proxy):" in lines


def test_side_effects_beyond_the_margin_are_named(tmp_path: Path) -> None:
    """Flow-GRPO takes .15 of composition for its aesthetic; what SFT changes by less than its margin is none."""
    gains = {"aesthetic": {
        "sft": {"scenes-aesthetic": 0.10, "scenes-clip": 0.004},
        "flowgrpo": {"scenes-aesthetic": 0.3, "scenes-aesthetic-head": 0.9, "scenes-geneval": -0.16},
    }}  # fmt: skip
    world = replace(SHARP, name="price", tasks=("aesthetic",), methods=("sft", "flowgrpo"), gains=gains)
    folder = write_world(tmp_path / "results", world)
    analysis = Analysis(read_experiment(folder))
    (words,) = side_effect_words(analysis, "aesthetic")
    assert re.fullmatch(r"flowgrpo: scenes-geneval -0\.1[4-8]\d \(gold\)", words)
    assert f"minus the base:\n  {words}\n" in report.terminal_table(folder)
    assert f"- {escape(words)}\n" in rebuilt(tmp_path)["short"]


def test_the_table_says_nothing_of_rl_where_none_ran(tmp_path: Path) -> None:
    folder = write_world(tmp_path / "results", replace(SMALL, methods=("sft", "soar"), grid=((), ())))
    shown = report.terminal_table(folder)
    assert "RL" not in shown and "reward" not in shown and "Supervised methods use scenes-clip" in shown
    alone = write_world(tmp_path / "alone", replace(SMALL, methods=("flowgrpo",), grid=((), ())))
    shown = report.terminal_table(alone)
    assert "Supervised" not in shown and "RL methods use scenes-clip" in shown


def test_long_names_and_wide_numbers_fit_80_columns(tmp_path: Path) -> None:
    methods = ("sft", "soar+sft-resampled+flowgrpo-with-a-long-name", "flowgrpo")
    folder = write_world(tmp_path / "results", replace(SMALL, methods=methods, label="x" * 90, grid=((), ())))
    shown = report.terminal_table(folder)
    assert max(map(len, shown.splitlines())) <= 80
    assert "soar+sft-resampled+flowgrpo-with-a-long-name" in "".join(shown.split())


@pytest.mark.slow
def test_the_report_needs_no_torch(built: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from bench.results import report; "
        f"print(report.check_report(Path({str(built / 'results')!r}), Path({str(built / 'REPORT.md')!r}))); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    # another hash seed: no order may depend on it
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["[]", "[]"]


@pytest.mark.parametrize(("best", "said"), [(0.27, True), (0.5, False), (0.8, True)])
def test_a_base_outside_its_band_is_told(tmp_path: Path, best: float, said: bool) -> None:
    (tmp_path / "pretrain").mkdir()
    accuracy = {"1.0": {"overall": 0.1}, "3.0": {"overall": best}}
    (tmp_path / "pretrain" / "base.json").write_text(json.dumps({"accuracy_by_guidance": accuracy}))
    text = world.base_section(tmp_path)
    assert ("outside the band" in text) == said
    assert (f"{best:.1%}" in text) == said


def test_clocks_and_lost_work_are_told_by_the_terminal_and_leave_the_report_alone(built: Path, tmp_path: Path) -> None:
    """What an interrupted run has more of is telemetry: lines of lost work, other seconds, another machine."""
    shutil.copytree(built, tmp_path / "copy")
    results = tmp_path / "copy" / "results"
    before = (tmp_path / "copy" / "REPORT.md").read_bytes()
    for path in results.rglob("telemetry.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        slower = [line | {"seconds": 9 * line["seconds"] + 1, "max_rss_mib": 77.0, "host": "b"} for line in lines]
        path.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in [*slower[:1], *slower]))
    report.write_report(results, tmp_path / "copy" / "REPORT.md")
    assert (tmp_path / "copy" / "REPORT.md").read_bytes() == before
    assert "Peak MiB" not in before.decode()
    shown = report.terminal_table(results / SMALL.name).split("telemetry")[1]
    assert "seconds  peak MiB" in shown and "alignment/sft" in shown and " 77" in shown
