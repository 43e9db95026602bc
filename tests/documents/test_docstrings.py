"""The docstrings of public names have numpydoc's sections."""

import inspect
import re
from typing import Any

import pytest

import secure_afl
from secure_afl import testing
from secure_afl.testing import faults

PUBLIC = [
    *(getattr(package, name) for package in (secure_afl, testing) for name in package._HOMES),
    *(faults.Fault, faults.FaultyNetwork, faults.dropouts),
]
ALL_OTHERS = "The other parameters are those of"


def section(text: str, name: str) -> str:
    """What stands below a headline of dashes, up to the next one."""
    found = re.search(rf"^{name}\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def undocumented(one: Any) -> list[str]:
    """Parameters that the section leaves out."""
    text = section(inspect.getdoc(one) or "", "Parameters")
    if ALL_OTHERS in text:
        return []
    named = {
        name.strip()
        for line in text.splitlines()
        if line and not line[0].isspace()
        for name in line.partition(" : ")[0].replace("*", "").split(",")
    }
    given = inspect.signature(one).parameters.values()
    return [part.name for part in given if part.name not in named]


@pytest.mark.parametrize("one", PUBLIC, ids=lambda one: one.__name__)
def test_every_parameter_of_a_public_name_is_documented(one: Any) -> None:
    if getattr(one, "_is_protocol", False):
        assert all(inspect.getdoc(getattr(one, name)) for name in ("open", "sum", "solve"))
        return
    assert undocumented(one) == []


@pytest.mark.parametrize("one", PUBLIC, ids=lambda one: one.__name__)
def test_no_section_is_told_in_a_sentence(one: Any) -> None:
    assert not re.search(r"^Raises \S", inspect.getdoc(one) or "", re.MULTILINE)


def test_a_parameter_that_is_left_out_is_found() -> None:
    def partly(given: int, forgotten: int) -> None:
        """Do it.

        Parameters
        ----------
        given : int
            forgotten : in an indented line it is no parameter.
        """

    assert undocumented(partly) == ["forgotten"]
