"""Pages that need nothing else than themselves: HTML with its style and its pictures inside, no script, no request."""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from secure_afl.crypto.errors import optional

with optional():
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page(
    package: str, template: str, filters: Mapping[str, Callable[..., Any]] = {}, /, **values: Any
) -> str:
    """A page of the `templates/` of a package or of ours; every value is escaped, a missing one is an error."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(__package__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)


def svg(figure: Any) -> str:
    """A figure of matplotlib, the same file for the same figure, with its words as text."""
    from matplotlib import rc_context  # slow to import: only who draws waits

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "secure-afl"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def logarithmic(panel: Any, *sides: str) -> None:
    """Make axes of a panel, "x" or "y", logarithmic once all is drawn on it.

    A measured figure may be 0 or below it: a clock's tick, memory that was given back. On a logarithmic axis such a
    point is left out; an axis on which no point is above 0 stays linear.
    """
    for side in sides:
        if getattr(panel, f"{side}axis").get_minpos() < float("inf"):
            getattr(panel, f"set_{side}scale")("log", nonpositive="mask")


def inline(kind: str, image: bytes) -> str:
    """A picture of a media type as what an `img` shows."""
    return f"data:{kind};base64,{b64encode(image).decode()}"
