"""Waiting bears a server that goes away, for a while."""

import pytest

from common.errors import NotFound, Unavailable
from sixfold import patience
from sixfold.console import Console
from sixfold.patience import patiently


class Server:
    """Is away for some requests."""

    def __init__(self, away: int, error: Exception | None = None) -> None:
        self.away, self.error = away, error or Unavailable("nobody there")
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        if self.asked <= self.away:
            raise self.error
        return "here"


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_S", 0.0)


async def test_it_asks_until_there_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(away=3)
    assert await patiently(Console(), server.ask) == "here"
    assert capsys.readouterr().err == "sixfold: nobody there; waiting for it to come back\n"


async def test_it_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", -1.0)
    with pytest.raises(Unavailable):
        await patiently(Console(), Server(away=1).ask)


async def test_other_errors_are_not_waited_out() -> None:
    server = Server(away=1, error=NotFound("no such node"))
    with pytest.raises(NotFound):
        await patiently(Console(), server.ask)
    assert server.asked == 1
