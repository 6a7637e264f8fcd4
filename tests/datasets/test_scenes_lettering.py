"""Text that fits where it is drawn, in letters that the font has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.scenes.lettering import cut_in_front, legible, plain_font, wrapped

FONT = plain_font(10)


@given(st.text(st.sampled_from("iWM a\u00e9\u0436"), max_size=200), st.integers(40, 200), st.integers(1, 4))
def test_lines_are_no_wider_than_given(text: str, width: int, lines: int) -> None:
    found = wrapped(text, FONT, width, lines)
    assert len(found) <= lines and all(FONT.getlength(line) <= width for line in found)
    assert FONT.getlength(cut_in_front(text, FONT, width)) <= width
    whole = wrapped(text, FONT, width, 1000)
    assert "".join("".join(whole).split()) == "".join(text.split())  # nothing is lost but spaces
    assert (found == whole) == (len(whole) <= lines)


def test_lines_break_at_spaces_and_within_a_word_only_if_it_must_be() -> None:
    width = FONT.getlength("a black cat")
    assert wrapped("a black cat sat  down\nthere", FONT, width, 5) == ["a black cat", "sat down", "there"]
    assert wrapped("a black cat sat down there", FONT, width, 2) == ["a black cat", "sat ..."]
    assert wrapped("MMMMM", FONT, FONT.getlength("MMM"), 5) == ["MMM", "MM"]
    assert wrapped("", FONT, width, 5) == [] and wrapped("a", FONT, width, 0) == []


def test_a_name_is_cut_in_front() -> None:
    assert cut_in_front("folder/7.png", FONT, FONT.getlength("...r/7.png")) == "...r/7.png"
    assert cut_in_front("7.png", FONT, FONT.getlength("7.png")) == "7.png"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat, \u00e9t\u00e9, \u043a\u043e\u0442", "a cat, \u00e9t\u00e9, \u043a\u043e\u0442"),
        ("\u6f22\u5b57\u306e\u732b\u3001 two\tcats", "[?] two\tcats"),
        ("a \ud55c\uad6d\uc5b4 \ubb38\uc7a5 b", "a [?] b"),  # one mark for words beside each other
        ("\U0001f469\u200d\U0001f9b0\ufe0f.png", "[?].png"),  # joined into one sign
        ("bad \udcff byte", "bad [?] byte"),
    ],
)
def test_runs_of_unknown_letters_have_one_mark(text: str, expected: str) -> None:
    assert legible(text, FONT) == expected
