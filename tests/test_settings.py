"""Settings: from flags and a file, each checked, and a wrong name never passed over."""

import dataclasses
from dataclasses import dataclass

import pytest

from common.errors import BadSetting
from common.settings import (
    bytes_setting,
    flag_setting,
    make_settings,
    parse_flags,
    seconds_setting,
    setting,
)
from common.units import GIB, MIB


@dataclass(frozen=True, slots=True)
class Config:
    """What a server needs to know."""

    data: str = setting("its directory")
    port: int = setting("where it listens; 100% sure", 8600, int)
    segment_bytes: int = bytes_setting("the size of a segment", 6 * MIB)
    allow_strangers: bool = flag_setting("let anyone in")
    timeout_s: float = setting("seconds to wait", 2.5, float)


def from_flags(*arguments: str) -> Config:
    return make_settings(Config, parse_flags(Config, "server", arguments)[0])


def test_defaults() -> None:
    assert from_flags("--data", "d") == Config(data="d")
    assert Config(data="d").allow_strangers is False
    assert Config(data="d").segment_bytes == 6 * MIB


def test_flags() -> None:
    config = from_flags(
        "--data=d", "--port", "0", "--segment-bytes=1GiB", "--allow-strangers", "--timeout-s", "3"
    )
    assert config == Config(
        data="d", port=0, segment_bytes=GIB, allow_strangers=True, timeout_s=3.0
    )


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_flags("--data", "d").port = 1  # type: ignore[misc]  # mypy knows that it is frozen; here Python must


def test_what_a_file_may_say() -> None:
    """TOML has numbers and booleans of its own."""
    said = {
        "data": "d",
        "port": 1,
        "segment_bytes": 4096,
        "allow_strangers": True,
        "timeout_s": 1.5,
    }
    assert make_settings(Config, said) == Config(
        data="d", port=1, segment_bytes=4096, allow_strangers=True, timeout_s=1.5
    )
    assert make_settings(Config, said | {"allow_strangers": False}).allow_strangers is False
    assert make_settings(Config, said | {"segment_bytes": "1MiB"}).segment_bytes == MIB


def test_flags_rank_above_the_file() -> None:
    flags, path = parse_flags(
        Config, "server", ["--config", "f.toml", "--port", "2", "--allow-strangers"]
    )
    assert path == "f.toml"
    assert "config" not in flags
    file = {"data": "from the file", "port": 1, "allow_strangers": False}
    config = make_settings(Config, file, flags)
    assert (config.data, config.port, config.allow_strangers) == ("from the file", 2, True)


def test_without_a_file() -> None:
    assert parse_flags(Config, "server", ["--data", "d"]) == ({"data": "d"}, None)


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--prot=1", "port"),
        ("--segment-byte", "segment_bytes"),
        ("--segment_bytes=1", "segment_bytes"),
        ("--datadir", "data"),
        ("--dat", "data"),  # no abbreviations: a later flag would change what they mean
        ("--allow-stranger", "allow_strangers"),
        ("timeout", "timeout_s"),
    ],
)
def test_an_unknown_flag_names_the_nearest(flag: str, near: str) -> None:
    with pytest.raises(BadSetting, match=f"unknown setting .*; did you mean {near}"):
        from_flags("--data", "d", flag)


def test_an_unknown_name_in_the_file_names_the_nearest() -> None:
    with pytest.raises(BadSetting, match="unknown setting 'prot'; did you mean port"):
        make_settings(Config, {"data": "d", "prot": 1})
    with pytest.raises(BadSetting, match="unknown setting 'segment-bytes'; did you mean segment_b"):
        make_settings(Config, {"data": "d", "segment-bytes": 1})


def test_a_required_setting() -> None:
    with pytest.raises(BadSetting, match="--data is required: its directory"):
        make_settings(Config, {"port": 1})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("port", "http", "port: "),
        ("port", "", "port: "),
        ("port", 1.5, "port: "),
        ("port", [1], "port: "),
        ("segment_bytes", "six", "segment_bytes: not a size: 'six'"),
        ("segment_bytes", "9" * 400, "segment_bytes: "),
        ("timeout_s", "soon", "timeout_s: "),
        ("port", ["1"], "port: one value is needed"),
        ("data", {"a": 1}, "data: one value is needed"),
        ("allow_strangers", "yes", "allow_strangers: not true or false: 'yes'"),
        ("allow_strangers", 1, "allow_strangers: not true or false: '1'"),
    ],
)
def test_a_wrong_value_names_its_setting(name: str, value: object, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        make_settings(Config, {"data": "d", name: value})


def test_help_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_flags(Config, "server", ["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "What a server needs to know.",
        "--config FILE",
        "--data VALUE its directory",
        "--port VALUE where it listens; 100% sure (default: 8600)",
        "--allow-strangers let anyone in",
    ):
        assert words in shown


@dataclass(frozen=True, slots=True)
class Waits:
    """Has a setting in seconds."""

    wait_s: float = seconds_setting("how long", 1.5)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "-inf", "1s", ""])
def test_what_is_not_a_number_of_seconds(text: str) -> None:
    with pytest.raises(BadSetting, match="wait_s: "):
        make_settings(Waits, {"wait_s": text})


def test_seconds() -> None:
    assert make_settings(Waits).wait_s == 1.5
    assert make_settings(Waits, {"wait_s": "0.25"}).wait_s == 0.25
    assert make_settings(Waits, {"wait_s": 0}).wait_s == 0.0
