"""Prompt sets: the published formats read as they are, and generated ones that are what they say."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from bench.api import ConfigError, DataError
from bench.cli.main import main
from bench.datasets.prompts.geneval import CATEGORIES, CLASSES, COLORS, geneval_prompts
from bench.datasets.prompts.ocr import ocr_prompts, quoted_text
from bench.datasets.prompts.readers import read_prompts
from bench.datasets.splits import GENERATED_SPLITS

GENERATORS = (geneval_prompts, ocr_prompts)
# Lines of GenEval's own evaluation_metadata.jsonl.
GENEVAL = """\
{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}], \
"prompt": "a photo of two clocks"}
{"tag": "position", "include": [{"class": "tv", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}\
], "prompt": "a photo of a dog right of a tv"}
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Reading


def test_geneval_metadata(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, "evaluation_metadata.jsonl", GENEVAL))
    assert [p.text for p in prompts] == [
        "a photo of a bench",
        "a photo of two clocks",
        "a photo of a dog right of a tv",
    ]
    assert [p.category for p in prompts] == ["single_object", "counting", "position"]
    assert prompts[1].metadata["exclude"] == [{"class": "clock", "count": 3}]
    assert prompts[2].metadata["include"][1]["position"] == ["right of", 0]
    assert [p.index for p in prompts] == [0, 1, 2] and "prompt" not in prompts[0].metadata


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_drawbench(tmp_path: Path, suffix: str) -> None:
    comma, quoted = (",", '"A car, red"') if suffix == "csv" else ("\t", "A car, red")
    rows = f"\ufeffPrompts{comma}Category\nA red colored car.{comma}Colors\n{quoted}{comma}Conflicting\n"
    prompts = read_prompts(written(tmp_path, f"drawbench.{suffix}", rows))
    assert [(p.text, p.metadata) for p in prompts] == [
        ("A red colored car.", {"tag": "Colors"}),
        ("A car, red", {"tag": "Conflicting"}),
    ]


def test_lines_of_text_with_what_they_quote(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, "test.txt", 'a bus with "Sky Voyager" on it\r\na red car\n'))
    assert [(p.text, p.metadata) for p in prompts] == [
        ('a bus with "Sky Voyager" on it', {"text": "Sky Voyager"}),
        ("a red car", {}),
    ]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a "b" c "d"', "b"), ('"b"', "b"), ("no quotes", None), ('one " quote', None), ('an "" empty one', None),
        ("a “b” c", "b"), ("„Bäckerei“ am Markt", "Bäckerei"), ("en skylt: ”öppet”", "öppet"), ("„nyitva”", "nyitva"),
        ("une enseigne « ouvert »", " ouvert "), ("ein »offen« hier", "offen"), ("看板「営業中」と", "営業中"),
        ("『題名』", "題名"), ("〝字〟", "字"), ("＂宽＂", "宽"),
        ('first “b”, then "d"', "d"),  # straight ones as before
        ('5" wide, “OPEN”', "OPEN"), ("the dog’s ‘b’ isn’t", None), ("“ ” «x»", "x"), ("“b", None),
    ],
)  # fmt: skip
def test_quoted_text(prompt: str, text: str | None) -> None:
    assert quoted_text(prompt) == text


def test_quotes_of_a_tab_separated_cell_belong_to_the_prompt(tmp_path: Path) -> None:
    """As PartiPrompts has them; what Excel and pandas quote is told by its doubled quotes, or a quoted header."""
    plain = 'Prompt\tCategory\n"O P E N" in chalk\tArtifacts\na door with "OPEN" on it\tArtifacts\n"OPEN"\tX\n'
    assert [(p.text, p.metadata["text"]) for p in read_prompts(written(tmp_path, "p.tsv", plain))] == [
        ('"O P E N" in chalk', "O P E N"),
        ('a door with "OPEN" on it', "OPEN"),
        ('"OPEN"', "OPEN"),
    ]
    excel = 'Prompt\tCategory\n"a ""b"" c"\tX\n'
    everywhere = '"Prompt"\t"Category"\r\n"a ""b"" c"\t"X"\r\n'
    for text in (excel, everywhere):
        (found,) = read_prompts(written(tmp_path, "p.tsv", text))
        assert (found.text, found.metadata) == ('a "b" c', {"tag": "X", "text": "b"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.jsonl",
            '{"prompt": "a \\ud800"}\n',
            "line 1: expected a JSON object (",
        ),
        ("p.jsonl", '{"prompt": ' + "[" * 9000, "more than 50 deep"),
        ("p.jsonl", '{"prompt": "a", "n": 1e999}', "1e999 is no finite number"),
        ("p.txt", "a\n\nb\n", "line 2: expected a prompt, got ''"),
        ("p.txt", "", "holds no prompts"),
        ("p.json", "[]", "expected prompts in a .txt, .csv, .tsv, .jsonl or .parquet file"),
        ("p.csv", "Prompts,Category\na\n", "line 2: expected 2 columns as in the header"),
        ("p.csv", "Caption\na\n", "line 2: expected a prompt under one of prompt, prompts, text"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt":\n', "line 2: expected a JSON object"),
        ("p.jsonl", '{"prompt": " "}\n', "line 1: expected a prompt under one of"),
        (
            "p.jsonl",
            '{"prompt": "a", "include": [{"class": "dog"}]}\n',
            "a class and a count of at least 1 in 'include'",
        ),
        ("p.jsonl", '{"prompt": "a", "exclude": {}}\n', "expected a list of objects under 'exclude'"),
        (
            "p.jsonl",
            '{"prompt": "a", "include": [{"class": "dog", "count": 1, "position": ["left of", 0]}]}\n',
            "expected a position [words, number of an earlier entry]",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_prompts(written(tmp_path, name, text))
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the prompts in .*gone.txt: No such file"):
        read_prompts(tmp_path / "gone.txt")


# Generating


def test_the_vocabulary_is_geneval_s() -> None:
    assert len(set(CLASSES)) == 80 and len(COLORS) == 10
    assert [CLASSES.index(name) for name in ("person", "bench", "couch", "computer mouse", "toothbrush")] == [
        0, 13, 57, 64, 79,
    ]  # fmt: skip
    sizes = {tag: size for tag, (size, _) in CATEGORIES.items()}
    assert sizes == {
        "single_object": 80, "two_object": 80 * 79, "counting": 240, "colors": 790, "position": 80 * 79 * 4,
        "color_attr": 79 * 78 * 90,
    }  # fmt: skip


def test_claims_say_what_their_prompts_say() -> None:
    made = {tag: make(5) for tag, (_, make) in CATEGORIES.items()}
    assert made["single_object"] == {"include": [{"class": "bus", "count": 1}], "prompt": "a bus"}
    assert made["two_object"]["prompt"] == "a person and a train"
    assert made["counting"] == {
        "include": [{"class": "bicycle", "count": 4}], "exclude": [{"class": "bicycle", "count": 5}],
        "prompt": "four bicycles",
    }  # fmt: skip
    assert made["colors"] == {
        "include": [{"class": "bicycle", "count": 1, "color": "purple"}],
        "prompt": "a purple bicycle",
    }
    assert made["position"] == {
        "include": [{"class": "car", "count": 1}, {"class": "person", "count": 1, "position": ["right of", 0]}],
        "prompt": "a person right of a car",
    }  # fmt: skip
    assert made["color_attr"] == {
        "include": [{"class": "bicycle", "count": 1, "color": "red"}, {"class": "car", "count": 1, "color": "pink"}],
        "prompt": "a red bicycle and a pink car",
    }  # fmt: skip


@pytest.mark.parametrize("tag", CATEGORIES)
def test_every_number_of_a_category_is_another_prompt(tag: str) -> None:
    size, make = CATEGORIES[tag]
    numbers = range(size) if size < 10_000 else range(0, size, 101)
    texts = {make(number)["prompt"] for number in numbers}
    assert len(texts) == len(numbers)
    parts = make(size - 1)["include"]
    assert len({part["class"] for part in parts}) == len(parts)


@pytest.mark.parametrize("generate", GENERATORS)
def test_splits_have_nothing_in_common_whatever_the_seed(generate) -> None:
    splits = {
        split: {p.text for p in itertools.islice(generate(split, seed, ()), 400)}
        for seed, split in enumerate(GENERATED_SPLITS)
    }
    for a, b in itertools.combinations(splits.values(), 2):
        assert a and b and not a & b


def test_what_is_shown_is_in_one_split_whichever_way_it_is_said() -> None:
    def shown(split: str) -> set[tuple[str, frozenset[str]]]:
        prompts = itertools.islice(geneval_prompts(split, 0), 1800)
        pairs = [p for p in prompts if p.category in ("two_object", "position")]
        return {(p.category, frozenset(part["class"] for part in p.metadata["include"])) for p in pairs}

    for a, b in itertools.combinations(map(shown, GENERATED_SPLITS), 2):
        assert a and b and not a & b


@pytest.mark.parametrize("generate", GENERATORS)
def test_the_seed_decides_and_what_is_to_be_left_out_is(generate) -> None:
    first, again, other = ([p.text for p in itertools.islice(generate("train", s, ()), 100)] for s in (0, 0, 1))
    assert first == again and first != other and len(set(first)) == 100
    without = [p.text for p in itertools.islice(generate("train", 0, first[:50]), 100)]
    assert not set(without) & set(first[:50])


def test_sign_prompts_quote_their_text() -> None:
    texts = [(p.metadata["text"], quoted_text(p.text)) for p in itertools.islice(ocr_prompts("tune", 3), 200)]
    assert all(text == quoted for text, quoted in texts) and len({text for text, _ in texts}) == 200


def test_written_prompts_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "geneval.jsonl"
    assert main(["prompts", "geneval", "--count", "12", "--split", "report", "--out", str(out)]) == 0
    assert "2 single_object, 2 two_object" in capsys.readouterr().out
    made = list(itertools.islice(geneval_prompts("report", 0), 12))
    assert read_prompts(out) == made
    assert set(json.loads(out.read_text().splitlines()[0])) == {"tag", "include", "prompt"}
    more = ["prompts", "ocr", "--count", "3", "--out", str(tmp_path / "ocr.txt"), "--without"]
    assert main([*more, str(out)]) == 0
    assert read_prompts(tmp_path / "ocr.txt") == list(itertools.islice(ocr_prompts("train", 0), 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drawbench", "--count", "1", "--out", "x.txt"], "prompts 'drawbench': expected one of geneval, ocr"),
        (["geneval", "--count", "0", "--out", "x.jsonl"], "expected a count of at least 1"),
        (["geneval", "--count", "1", "--out", "x.txt"], "a name that ends with .jsonl"),
        (["ocr", "--count", "1", "--split", "held_out", "--out", "x.txt"], "split 'held_out': expected one of train"),
        (["ocr", "--count", "99999999", "--split", "tune", "--out", "x.txt"], "ask for no more"),
    ],
)
def test_what_cannot_be_written_is_told(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prompts", *arguments]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_unknown_split_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="split 'test'"):
        next(geneval_prompts("test", 0))
