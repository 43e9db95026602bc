"""Format figures: amounts with units, tables for a terminal, and the page."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from secure_afl.cli import pages
from secure_afl.cli.terminal import table
from secure_afl.simulations.overhead.figures import MEMORY, QUANTITIES, Figures, bases, found, phases
from secure_afl.simulations.overhead.measure import ALL_PHASES, CLIENT, HOLDER, SERVER, WORST
from secure_afl.simulations.overhead.peers.compare import OURS

PARTIES = (CLIENT, WORST, SERVER, HOLDER)
_NAMES = {
    "cpu_seconds": "CPU",
    "wall_seconds": "wall",
    "bytes_up": "sent",
    "bytes_down": "received",
    MEMORY: "peak memory",
}
_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "seconds": ((2 * 86400.0, "days"), (7200.0, "h"), (1.0, "s"), (1e-3, "ms"), (0.0, "µs")),
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0.0, "B")),
}
# What a unit is, where that is not the least for which it is used.
_UNIT = {"days": 86400.0, "h": 3600.0, "µs": 1e-6, "B": 1.0}
_AXIS = {"clients": "n clients", "values": "m values", "dropout": "p that drop out"}


def amount(quantity: str, value: float) -> str:
    """Three digits and a unit."""
    kind = "seconds" if quantity.endswith("seconds") else "bytes"
    size, unit = next((size, unit) for size, unit in _SCALES[kind] if value >= size)
    number = value / _UNIT.get(unit, size)
    return f"{number:,.0f} {unit}" if number >= 100 or unit == "B" else f"{number:.3g} {unit}"


def cost(cell: Mapping[str, Any], party: str, quantity: str, phase: str = ALL_PHASES) -> str:
    """A median; an en dash if the party has no such cost."""
    row = found(cell, party, quantity, phase)
    return amount(quantity, row["median"]) if row else "–"


def spread(cell: Mapping[str, Any], party: str, quantity: str) -> str:
    """The interquartile range; empty if it is zero."""
    row = found(cell, party, quantity)
    return f"± {amount(quantity, row['q3'] - row['q1'])}" if row and row["q3"] > row["q1"] else ""


def law(one: Mapping[str, Any]) -> str:
    """A law with its numbers, in seconds or bytes."""
    terms = one["form"].split(" + ")
    numbers = [f"{coefficient:.3g}" for coefficient in one["coefficients"]]
    names = [term.partition("·")[2] for term in terms]
    written = [number + (f"·{name}" if name else "") for number, name in zip(numbers, names, strict=True)]
    return " + ".join(written).replace("+ -", "− ")


def cell_words(cell: Mapping[str, Any]) -> str:
    """A cell in few words."""
    words = [f"{cell['clients']} clients", f"{cell['values']:,} values", f"{cell['dropout']:.0%} dropouts"]
    words += [f"{cell['width']}-byte words"] if cell["width"] else []
    words += [str(cell[key]) for key in ("profile", "suite") if cell[key]]
    return ", ".join(words)


# ---- a terminal ----------------------------------------------------------------------------------


def tables(figures: Figures) -> list[Table]:
    """What each backend costs at the base, the laws of CPU time over clients, and the peers."""
    shown = [_base_table(figures)]
    if any(map(_of_cpu_and_clients, figures["laws"])):
        shown.append(_law_table(figures))
    if "peers" in figures:
        shown.append(_peer_table(figures["peers"]))
    return shown


def _base_table(figures: Figures) -> Table:
    cells = bases(figures)
    shown = table(
        f"one secure sum, keys included: {cells[0]['clients']} clients, {cells[0]['values']:,} values; medians of "
        f"{figures['repeats']} ± interquartile range",
        ("backend", "party", *_NAMES.values()),
        names=2,
    )
    for cell in cells:
        for party in PARTIES:
            if found(cell, party, "cpu_seconds"):
                medians = [cost(cell, party, one) for one in QUANTITIES]
                medians[0] += f" {spread(cell, party, 'cpu_seconds')}"
                shown.add_row(cell["backend"], party, *medians)
        shown.add_section()
    return shown


def _law_table(figures: Figures) -> Table:
    shown = table(
        "CPU seconds over n clients; at 10⁶ clients an extrapolation far beyond what was measured",
        ("backend", "party", "law", "worst error", "measured", "at 10⁶ clients"),
        names=3,
    )
    for one in figures["laws"]:
        if _of_cpu_and_clients(one):
            backend = f"{one['backend']}, {one['profile']}" if one["profile"] else one["backend"]
            shown.add_row(
                backend,
                one["party"],
                law(one),
                f"{one['largest_relative_error']:.0%}",
                f"{one['lowest']:.0f}–{one['highest']:.0f}",
                amount(one["quantity"], one["extrapolation"]["value"]),
            )
    return shown


def _of_cpu_and_clients(one: Mapping[str, Any]) -> bool:
    return (one["axis"], one["quantity"]) == ("clients", "cpu_seconds")


def _peer_table(peers: Mapping[str, Any]) -> Table:
    ours = peers["cells"][0]
    shown = table(
        f"beside others, in this run: {cell_words(ours)}",
        (
            "",
            "client CPU",
            "server CPU",
            "client sent",
            "received",
            "CPU ÷ ours",
            "server ÷ ours",
            "our bytes ÷ theirs",
        ),
    )
    ratios = {one["peer"]: one for one in peers["ratios"]}
    for cell in peers["cells"]:
        row = [
            cost(cell, CLIENT, "cpu_seconds"),
            cost(cell, SERVER, "cpu_seconds"),
            cost(cell, CLIENT, "bytes_up"),
            cost(cell, CLIENT, "bytes_down"),
        ]
        if one := ratios.get(cell["backend"]):
            row += [f"{one['client_cpu']:.1f}×", f"{one['server_cpu']:.1f}×", f"{one['our_bytes']:.2f}×"]
        name = cell["backend"] if cell["dropout"] == ours["dropout"] else f"{cell['backend']} (no dropouts)"
        shown.add_row(name, *row, *[""] * (7 - len(row)))
    return shown


# ---- the page ------------------------------------------------------------------------------------

_CAPTIONS = {
    "clients": "Costs against the number of clients; both axes logarithmic. Bars are quartiles. Dashed: the second profile. Dotted: fitted laws.",
    "values": "Costs against the length of the vector, from features and from classes; both axes logarithmic.",
    "dropout": "Costs against the share of clients that fall silent after the keys.",
    "width": "Costs against the word width, which is the precision.",
    "phases": "Where CPU time goes at the base, by phase.",
}


def page(figures: Figures, pictures: Mapping[str, str]) -> str:
    """A self-contained HTML file."""
    tools: dict[str, Callable[..., Any] | Sequence[str] | Mapping[str, str] | str] = {
        "amount": amount,
        "cost": cost,
        "spread": spread,
        "law": law,
        "words": cell_words,
        "found": found,
        "phases": phases,
        "parties": PARTIES,
        "quantities": _NAMES,
        "axes": _AXIS,
        "captions": _CAPTIONS,
        "client": CLIENT,
        "server": SERVER,
        "ours": OURS,
    }
    images = {name: pages.inline("image/svg+xml", drawn.encode()) for name, drawn in pictures.items()}
    return pages.page(
        "secure_afl.simulations.show",
        "overhead.html",
        figures=figures,
        bases=bases(figures),
        images=images,
        **tools,
    )
