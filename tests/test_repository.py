"""The repository as a whole: no private paths, requirements that match pyproject.toml, no download addresses."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {"__pycache__", "build", "dist", "target", "run"}
KEPT_THOUGH_HIDDEN = {".ci", ".dockerignore", ".gitignore"}
PRIVATE_PATH = re.compile(rb"(?<![\w.])/(?:home|root|Users)/\w[^\s\"']*|[A-Z]:\\\\?Users\\[^\s\"']*")
LOCK_FILES = {"uv.lock", "pylock.toml", "poetry.lock", "Pipfile.lock"}


def kept_files(folder: Path = ROOT) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".") and path.name not in KEPT_THOUGH_HIDDEN
        if hidden or path.name in SKIPPED or path.suffix == ".egg-info":
            continue
        if path.is_dir():
            yield from kept_files(path)
        else:
            yield path


def private_paths(content: bytes) -> list[str]:
    found = [match.group().decode(errors="replace") for match in PRIVATE_PATH.finditer(content)]
    return [*found, str(ROOT)] if str(ROOT).encode() in content else found


def test_no_file_names_a_path_of_one_machine() -> None:
    texts = {
        path: path.read_bytes() for path in kept_files() if path.name != "Dockerfile"
    }  # whose paths are the image's
    found = {path.relative_to(ROOT): private_paths(text) for path, text in texts.items()}
    problems = [f"{path}: {paths[0]}: write it relative to the repository" for path, paths in found.items() if paths]
    assert not problems, "\n" + "\n".join(problems)


def test_private_paths_are_found() -> None:
    folder = "/ho" + "me/"
    assert private_paths(b"see " + folder.encode() + b"ann/x.csv") == [folder + "ann/x.csv"]
    assert private_paths(b"--home /srv/fraudgate, https://example.org" + folder.encode() + b"x") == []
    assert private_paths(f"open({str(ROOT)!r})".encode())[-1] == str(ROOT)


def pinned(name: str) -> dict[str, list[Requirement]]:
    """The pins of a requirements file, by canonical name; a name has one pin per environment marker."""
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and line[0].isalnum():
            requirement = Requirement(line.removesuffix("\\").strip())
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


@pytest.mark.parametrize(("name", "extras"), [("requirements.txt", ["cpu"]), ("requirements-dev.txt", ["cpu", "dev"])])
def test_requirements_hold_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    pins = pinned(name)
    for requirement in map(Requirement, asked):
        versions = [next(iter(pin.specifier)).version for pin in pins.get(canonicalize_name(requirement.name), [])]
        met = versions and all(requirement.specifier.contains(version) for version in versions)
        assert met, f"{name} pins {requirement.name} at {versions}, asked is '{requirement}': run make requirements"


def test_both_requirements_files_pin_the_same_versions() -> None:
    dev = pinned("requirements-dev.txt")
    assert all(dev.get(name) == pins for name, pins in pinned("requirements.txt").items()), "run make requirements"


def test_requirements_and_locks_carry_no_addresses() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-rtx.txt"):
        lines = (ROOT / name).read_text().splitlines()
        bad = [line for line in lines if "://" in line or line.startswith("-")]
        assert not bad, f"{name} carries addresses: {bad[:3]}; run make requirements"
    locks = [str(path.relative_to(ROOT)) for path in kept_files() if path.name in LOCK_FILES]
    assert not locks, f"{locks} record download addresses: keep the hashed requirements instead"


def test_every_make_verb_has_one_rule() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    (listed,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    rules = re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE)
    assert sorted(rules) == sorted(listed.split())
