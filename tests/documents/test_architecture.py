"""docs/architecture.md shows the code as it is."""

import pytest

from documents import architecture


@pytest.mark.slow
def test_the_page_shows_the_code() -> None:
    page = architecture.PAGE.read_text()
    assert architecture.filled(page) == page, "run python tests/documents/architecture.py"


def test_an_arrow_that_a_longer_path_says_is_left_out() -> None:
    assert architecture.necessary({("c", "b"), ("b", "a"), ("c", "a")}) == {("c", "b"), ("b", "a")}
    assert architecture.necessary({("c", "a"), ("b", "a")}) == {("c", "a"), ("b", "a")}


@pytest.mark.slow
def test_a_block_without_a_marker_is_noticed() -> None:
    with pytest.raises(ValueError, match="markers"):
        architecture.filled("# a page without diagrams")
