"""The runner of the long tests: what it finds, what it says, how it ends."""

import pytest

from tests.torture import __main__ as torture
from tests.torture.outcome import CannotRun, Outcome, scaled, scratch
from tests.torture.runner import Promise, find_promises, run, table


def promise(outcome: Outcome | Exception, name: str = "example") -> Promise:
    def main(scale: float, seed: int) -> Outcome:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Promise(name, 1, "nothing is lost", main)


def test_every_module_with_a_main_follows_the_contract() -> None:
    for found in find_promises():
        assert found.row in range(1, 27)
        assert found.promise and "\n" not in found.promise


def test_a_kept_promise_is_one_line_with_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(promise(Outcome("10 writes, 0 lost")), 0.5, 7)
    assert result.verdict == "kept"
    assert "example: 10 writes, 0 lost (seed 7)" in capsys.readouterr().out


def test_a_broken_promise_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(promise(Outcome("10 writes, 1 lost", ["blob 3 is lost"])), 0.5, 7)
    assert result.verdict == "broken"
    said = capsys.readouterr().out
    assert "blob 3 is lost" in said
    assert "again: python -m tests.torture example --scale 0.5 --seed 7" in said


def test_an_error_is_a_broken_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(promise(ValueError("boom")), 1, 7).verdict == "broken"
    assert "boom" in capsys.readouterr().out


def test_what_the_machine_does_not_allow_is_not_run() -> None:
    result = run(promise(CannotRun("needs root")), 1, 7)
    assert (result.verdict, result.figure) == ("not run", "not run: needs root")


def test_what_was_not_run_is_told_in_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that ran, and of one."""
    part = Outcome("0 lost", left_out="mounts: need root")
    promises = [
        promise(Outcome("0 lost"), "one"),
        promise(part, "two"),
        promise(CannotRun("no network"), "three"),
    ]
    monkeypatch.setattr(torture, "find_promises", lambda: promises)
    last_lines = {
        "": "NOT RUN: two (mounts: need root); three (no network)",
        "one": "nothing was left out",
        "two": "NOT RUN: two (mounts: need root)",
    }
    for name, last_line in last_lines.items():
        monkeypatch.setattr("sys.argv", ["torture", *name.split()])
        assert torture.main() == 0
        assert capsys.readouterr().out.splitlines()[-1] == last_line


def test_the_table_has_a_row_for_each() -> None:
    results = [run(promise(Outcome("0 lost"), name), 1, 7) for name in ("one", "two")]
    lines = table(results).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["1", "nothing", "is", "lost", "kept", "0", "lost", "7"]


def test_violations_fail_a_quick_form_and_are_shown_in_part() -> None:
    outcome = Outcome("lost some", [f"blob {number}" for number in range(25)])
    with pytest.raises(AssertionError, match=r"blob 19\n  and 5 more"):
        outcome.check()


def test_a_scale_never_ends_at_nothing() -> None:
    assert [scaled(200, 0.03), scaled(200, 0.001), scaled(200, 0.001, least=3)] == [6, 1, 3]


def test_scratch_is_left_for_a_look_after_a_failure() -> None:
    with scratch("x") as directory:
        pass
    assert not directory.exists()
    with pytest.raises(ValueError), scratch("x") as directory:
        raise ValueError
    assert directory.exists()
    directory.rmdir()
