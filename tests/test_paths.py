"""How paths stand in stored texts: relative to the project or the user's folder, and nothing else of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.paths import expanded, portable, portable_values


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a space in its name, within the user's."""
    folder = tmp_path / "ada" / "my work"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    return folder


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("{here}/x.py", "x.py"),
        ("{here}/x.py:Reward", "x.py:Reward"),
        ("{here}", "."),
        ("{here}/", "."),
        ("{home}/models/sd35", "~/models/sd35"),
        ("{home}", "~"),
        ("{home}by/x", ".../x"),  # another user's
        ("{here}2/a/x.py", "~/my work2/a/x.py"),
        ("/mnt/disk/sd35", ".../sd35"),
        ("/mnt/disk/sd35/", ".../sd35"),
        ("/sd35", ".../sd35"),
        ("sft,/mnt/x.py+{here}/y.py", "sft,.../x.py+y.py"),
        ("0.7*/mnt/x.py:A+0.3*{here}/y.py:B", "0.7*.../x.py:A+0.3*y.py:B"),
        ("standardised(0.7*/mnt/x.py+1*clip)", "standardised(0.7*.../x.py+1*clip)"),
        ("--model=/mnt/a/b", "--model=.../b"),
        ("cannot write {here}/results/a: No space ({home}/x.py:12, in /usr/lib/y.py:3)",
         "cannot write results/a: No space (~/x.py:12, in .../y.py:3)"),
        ("'/mnt/a' and \"{here}/b\"", "'.../a' and \"b\""),
        ("reward server http://gpu7:8000 is busy", "reward server http://... is busy"),
        ("https://gpu7.example:8000/score", "https://.../score"),
        # What is no absolute path stays
        ("x.py", "x.py"),
        ("./x.py", "./x.py"),
        ("../x.py", "../x.py"),
        ("~/x.py", "~/x.py"),
        ("organisation/name", "organisation/name"),
        ("loss/update, 3/4, n / m, and/or", "loss/update, 3/4, n / m, and/or"),
        ("https://huggingface.co/settings/tokens", "https://huggingface.co/settings/tokens"),
        ("</b> */metadata.csv ${{X}}/y", "</b> */metadata.csv ${{X}}/y"),
    ],
)  # fmt: skip
def test_a_stored_text_has_no_absolute_path(text: str, stored: str, project: Path) -> None:
    given = text.format(here=project, home=project.parent)
    assert portable(given) == stored.format()
    assert portable(portable(given)) == stored.format()
    assert str(project.parent) not in portable(given, known=False)


def test_links_to_the_project_and_to_the_users_folder_are_those(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short").symlink_to(project)
    (tmp_path / "home").symlink_to(project.parent)
    monkeypatch.setenv("PWD", str(tmp_path / "short"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert portable(f"{tmp_path}/short/x.py") == portable(f"{project}/x.py") == "x.py"
    assert portable(f"{tmp_path}/home/m") == portable(f"{project.parent}/m") == "~/m"


def test_folders_that_hold_everything_stand_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/")
    assert portable("/srv/data/x.py") == ".../x.py"


def test_values_are_stored_whole_but_for_paths(project: Path) -> None:
    values = {"model": f"{project}/m", "/mnt/x.py": [1, 0.5, None, True, ("/mnt/y.py",)], "n": {"a": "b/c"}}
    assert portable_values(values) == {"model": "m", ".../x.py": [1, 0.5, None, True, [".../y.py"]], "n": {"a": "b/c"}}


def test_the_users_folder_is_found_again(project: Path) -> None:
    text = f"sft,{project.parent}/x.py+{project.parent}/y.py"
    assert portable(text) == "sft,~/x.py+~/y.py" and expanded(portable(text)) == text
    assert expanded("a~/b ~ x~/") == "a~/b ~ x~/"
