"""The tree of errors: as drawn, each class distinct, and kept across the wire."""

import re
from collections.abc import Iterator

import pytest

from common import errors
from common.errors import NotFound, SixfoldError, Unavailable, revive
from common.wire import pack_error, unpack_error

LEVEL = len("├── ")


def family(root: type[SixfoldError]) -> Iterator[type[SixfoldError]]:
    yield root
    for child in root.__subclasses__():
        yield from family(child)


def drawn() -> list[tuple[str, str | None]]:
    """(class, parent) for each line of the tree in the module's docstring."""
    above: list[str] = []
    tree = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if match is None:
            continue
        depth = len(match[1]) // LEVEL
        del above[depth:]
        tree.append((match[2], above[-1] if above else None))
        above.append(match[2])
    return tree


CLASSES = [*family(SixfoldError)]


def test_the_tree_is_as_drawn() -> None:
    built = [
        (kind.__name__, None if kind is SixfoldError else kind.__mro__[1].__name__)
        for kind in CLASSES
    ]
    assert drawn() == built


def test_every_error_of_the_module_is_in_the_tree() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {kind.__name__ for kind in CLASSES} == {
        name for name in defined if issubclass(getattr(errors, name), Exception)
    }


def test_codes_are_the_names_and_unique() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes)
    for kind in CLASSES[1:]:
        assert kind.code == re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_status_exit_code_and_retry_make_sense(kind: type[SixfoldError]) -> None:
    assert 400 <= kind.http_status < 600
    assert 1 <= kind.exit_code < 126, "0 is success, from 126 on the shell means other things"
    assert not kind.retryable or kind.http_status in (408, 503)
    parent = kind.__mro__[1]
    if issubclass(parent, SixfoldError) and parent is not SixfoldError:
        assert kind.http_status == parent.http_status
        assert kind.exit_code == parent.exit_code
        assert kind.retryable == parent.retryable


def test_what_is_unavailable_may_be_tried_again() -> None:
    assert all(kind.retryable for kind in family(Unavailable))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_itself(kind: type[SixfoldError]) -> None:
    for error in (revive(kind.code, "why"), unpack_error(pack_error(kind("why")))):
        assert type(error) is kind
        assert str(error) == "why"


@pytest.mark.parametrize("code", ["", "no_such_code", "NotFound"])
def test_an_unknown_code_is_still_an_error_of_ours(code: str) -> None:
    error = revive(code, "why")
    assert type(error) is SixfoldError
    assert str(error) == "why"


def test_an_error_is_what_its_family_is() -> None:
    with pytest.raises(SixfoldError):
        raise NotFound("no such content")
