"""Tidy, for Rust: what must not stand in a file of service/ingress. Each message names the replacement.

A check is a function from the lines of one file to problems (line, text). ``test_a_check_can_fail`` shows each one a
bad file.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CRATE = ROOT / "service" / "ingress"
FILE_LINES_MAX = 400
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"|//.*')
"""Literals and comments, of one line."""

Problems = Iterator[tuple[int, str]]
Check = Callable[[list[str]], Problems]


def product(lines: list[str]) -> Iterator[tuple[int, str]]:
    """(number, line) of what is no test: all but the items under ``#[cfg(test)]``, as rustfmt lays them out."""
    last = None  # how the item ends that is being left out
    for number, line in enumerate(lines, 1):
        if last is None and line.strip() == "#[cfg(test)]":
            last = re.compile(re.escape(line[: -len("#[cfg(test)]")]) + r"(\}|\S.*;$)")
        elif last is None:
            yield number, line
        elif last.match(line):
            last = None


def code(line: str) -> str:
    return TEXT.sub("", line)


def check_size(lines: list[str]) -> Problems:
    if len(lines) > FILE_LINES_MAX:
        yield 1, f"{len(lines)} lines, {FILE_LINES_MAX} are allowed: a module is one noun, split off the second"


def comment_above(lines: list[str], number: int) -> str:
    """The comment directly above the statement that line ``number`` (from 0) belongs to, attributes aside."""
    while number and (before := code(lines[number - 1]).rstrip()) and before[-1] in "=(":
        number -= 1
    found: list[str] = []
    for line in reversed(lines[:number]):
        text = line.strip()
        if not text.startswith(("//", "#[")):
            break
        found.append(text)
    return "\n".join(found)


def check_unsafe(lines: list[str]) -> Problems:
    for number, line in enumerate(lines):
        if re.search(r"\bunsafe\s*(\{|impl\b|$)", code(line)) and "SAFETY:" not in comment_above(lines, number):
            yield number + 1, "unsafe without a reason: say directly above, after '// SAFETY:', why it is sound"


def check_unwrap(lines: list[str]) -> Problems:
    for number, line in product(lines):
        if ".unwrap()" in code(line):
            yield number, '.unwrap(): return an error with ?, or .expect("why it cannot fail")'


CHECKS = (check_size, check_unsafe, check_unwrap)


def rust_files() -> list[Path]:
    """All that are no build output, and no module of nothing but tests."""
    files = (path for path in CRATE.rglob("*.rs") if "target" not in path.relative_to(CRATE).parts)
    return sorted(path for path in files if path.stem != "tests")


@pytest.mark.parametrize("check", CHECKS)
def test_the_crate_is_tidy(check: Check) -> None:
    problems = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in rust_files()
        for line, text in check(path.read_text("utf-8").splitlines())
    ]
    assert not problems, "\n" + "\n".join(problems)


BAD = [
    (check_size, "fn f() {}\n" * 401, "401 lines"),
    (check_unsafe, "// It is fine.\nunsafe { f() }", "unsafe without a reason"),
    (check_unsafe, "// SAFETY: one\n\nlet x = unsafe { f() };", "unsafe without a reason"),
    (check_unsafe, "// SAFETY: one\nunsafe impl Send for X {}\nunsafe impl Sync for X {}", "unsafe without a reason"),
    (check_unsafe, "#[cfg(test)]\nmod tests {\n    fn f() { unsafe { g() } }\n}", "unsafe without a reason"),
    (check_unwrap, "let x = f().unwrap();", ".unwrap()"),
    (check_unwrap, "let x = f()\n    .unwrap();\n#[cfg(test)]\nmod tests {\n}", ".unwrap()"),
    (check_unwrap, "#[cfg(test)]\nmod tests {\n    f()\n}\nfn f() {\n    g().unwrap()\n}", ".unwrap()"),
    (check_unwrap, "#[cfg(test)]\nmod tests;\nfn f() {\n    g().unwrap()\n}", ".unwrap()"),
]
GOOD = [
    (check_size, "fn f() {}\n" * 400),
    (check_unsafe, "// SAFETY: the slice lives as long as the batch,\n// which is pinned.\nunsafe { f() }"),
    (check_unsafe, "// SAFETY: no field is shared.\n#[allow(dead_code)]\nunsafe impl Send for X {}"),
    (check_unsafe, "// SAFETY: it is a capsule of ours.\nlet (one, other) =\n    unsafe { f() };"),
    (check_unsafe, 'let text = "unsafe"; // not unsafe'),
    (check_unsafe, "unsafe fn f() {}\nlet f: unsafe fn() = f;"),
    (check_unwrap, 'let x = f().expect("checked above"); // never .unwrap()'),
    (check_unwrap, "#[cfg(test)]\nmod tests {\n    fn f() { g().unwrap(); }\n}"),
    (check_unwrap, "impl X {\n    #[cfg(test)]\n    fn f() {\n        g().unwrap();\n    }\n}"),
]


@pytest.mark.parametrize(("check", "text", "message"), BAD)
def test_a_check_can_fail(check: Check, text: str, message: str) -> None:
    assert message in "\n".join(problem for _, problem in check(text.splitlines()))


@pytest.mark.parametrize(("check", "text"), GOOD)
def test_a_check_lets_good_code_pass(check: Check, text: str) -> None:
    assert list(check(text.splitlines())) == []
