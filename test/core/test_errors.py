"""One root for every error of the package."""

from __future__ import annotations

import inspect

from seg_perception.core import errors


def test_every_error_has_the_root_and_says_when_it_is_raised() -> None:
    found = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]
    assert len(found) >= 6
    for error in found:
        assert issubclass(error, errors.SegPerceptionError)
        assert error.__doc__
        assert not issubclass(error, OSError), "OSError passes through untouched"


def test_a_list_says_how_many_it_leaves_out() -> None:
    assert errors.first_of(range(3)) == "0, 1, 2"
    assert errors.first_of(range(3), 2) == "0, 1 and 1 more"
    assert errors.first_of([]) == ""
