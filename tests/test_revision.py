"""Which commit the code is of: asked in real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imanim import revision as module


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a committed checkout of its own."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text("x = 1\n")
    git(folder.parent, "init", "--quiet")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "--quiet", "-m", "one")
    return folder


def test_it_is_the_commit_and_says_when_tracked_files_differ(package):
    commit = git(package, "rev-parse", "HEAD")
    assert len(commit) == 40 and module.of_package(package) == commit
    (package / "notes.txt").write_text("untracked files change no code that ran")
    assert module.of_package(package) == commit
    (package / "code.py").write_text("x = 2\n")
    assert module.of_package(package) == f"{commit}-dirty"


def test_somebody_elses_repository_around_an_installed_package_is_not_ours(package):
    installed = package.parent / "venv" / "site-packages" / "imanim"
    installed.mkdir(parents=True)
    assert module.of_package(installed) is None


def test_without_a_checkout_a_commit_or_git_nobody_can_tell(package, tmp_path, monkeypatch):
    (tmp_path / "plain").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert module.of_package(tmp_path / "plain" / "imanim") is None
    fresh = tmp_path / "fresh" / "imanim"
    fresh.mkdir(parents=True)
    git(fresh.parent, "init", "--quiet")
    assert module.of_package(fresh) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.of_package(package) is None


def test_a_git_hook_that_runs_us_does_not_change_the_answer(package, tmp_path, monkeypatch):
    commit = git(package, "rev-parse", "HEAD")
    git(tmp_path, "init", "--quiet", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert module.of_package(package) == commit


def test_it_is_asked_once_a_process(monkeypatch):
    first = module.revision()
    monkeypatch.setattr(module, "of_package", lambda _: "another")
    assert module.revision() == first
