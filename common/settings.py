"""Settings of a server: one frozen dataclass, from flags and a TOML file, read once at start.

Each field of the dataclass is a flag (`--segment-bytes`) and a key of the file (`segment_bytes`);
its help stands in the field's metadata. An unknown name is an error that names the nearest known.
"""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from common.errors import BadSetting
from common.units import parse_bytes

T = TypeVar("T")


def setting(
    help: str, default: Any = dataclasses.MISSING, parse: Callable[[str], Any] = str
) -> Any:
    """A dataclass field that is a setting. Without a default it is required."""
    return dataclasses.field(default=default, kw_only=True, metadata={"help": help, "parse": parse})


def bytes_setting(help: str, default: int) -> Any:
    """A setting in bytes, written as 512MiB or 10GiB."""
    return setting(help, default, parse_bytes)


def seconds_setting(help: str, default: float) -> Any:
    """A setting in seconds, with a fraction if need be."""
    return setting(help, default, _parse_seconds)


def _parse_seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise BadSetting(f"not a number of seconds: {text!r}")
    return value


def flag_setting(help: str) -> Any:
    """A setting that is off unless its flag is given."""
    return setting(help, False, _parse_bool)


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise BadSetting(f"not true or false: {text!r}")
    return text.lower() == "true"


def parse_flags(
    kind: type[T], program: str, arguments: Sequence[str]
) -> tuple[dict[str, str], str | None]:
    """The settings given as flags, still as text, and the path given with ``--config``."""
    parser = argparse.ArgumentParser(program, description=kind.__doc__, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="TOML file with the same settings")
    for field in _fields(kind):
        shown = "" if field.default is dataclasses.MISSING else f" (default: {field.default})"
        text = (field.metadata["help"] + shown).replace("%", "%%")
        flag = "--" + field.name.replace("_", "-")
        if field.metadata["parse"] is _parse_bool:
            parser.add_argument(flag, action="store_const", const="true", help=text)
        else:
            parser.add_argument(flag, metavar="VALUE", help=text)
    known, unknown = parser.parse_known_args(arguments)
    for word in unknown:
        _refuse_unknown(kind, word.split("=")[0].lstrip("-").replace("-", "_"), word)
    given = {name: value for name, value in vars(known).items() if value is not None}
    return given, given.pop("config", None)


def as_flags(settings: Any) -> list[str]:
    """The arguments that make the same settings in another process."""
    flags: list[str] = []
    for field in dataclasses.fields(settings):
        flag, value = "--" + field.name.replace("_", "-"), getattr(settings, field.name)
        if field.metadata["parse"] is not _parse_bool:
            flags += [flag, str(value)]
        elif value:
            flags.append(flag)
    return flags


def make_settings(kind: type[T], *sources: Mapping[str, Any]) -> T:
    """Build `kind` from the sources, later ones first in rank. Raises BadSetting."""
    merged = {name: value for source in sources for name, value in source.items()}
    fields = {field.name: field for field in _fields(kind)}
    for name in merged:
        if name not in fields:
            _refuse_unknown(kind, name, name)
    for name, field in fields.items():
        if name not in merged and field.default is dataclasses.MISSING:
            raise BadSetting(f"--{name.replace('_', '-')} is required: {field.metadata['help']}")
    return kind(**{name: _convert(fields[name], value) for name, value in merged.items()})


def _fields(kind: type[Any]) -> "tuple[dataclasses.Field[Any], ...]":
    return dataclasses.fields(kind)


def _convert(field: "dataclasses.Field[Any]", value: Any) -> Any:
    if isinstance(value, list | dict):
        raise BadSetting(f"{field.name}: one value is needed, not {value!r}")
    try:
        return field.metadata["parse"](str(value))
    except ValueError:
        kind = "whole number" if field.metadata["parse"] is int else "number"
        raise BadSetting(f"{field.name}: not a {kind}: {value!r}") from None
    except BadSetting as error:
        raise BadSetting(f"{field.name}: {error}") from None


def _refuse_unknown(kind: type[Any], name: str, shown: str) -> None:
    known = [field.name for field in _fields(kind)]
    near = difflib.get_close_matches(name, known, 1, 0.0)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise BadSetting(f"unknown setting {shown!r}{hint}")
