"""A report of a check as JSON, as JUnit XML, and as a page."""

import html
from xml.etree import ElementTree

import msgspec

from secure_afl.testing.judge import Report

_COLOURS = {"passed": "#dcf5dc", "failed": "#fbdcdc", "not claimed": "#eeeeee", "not judged": "#fff3cf"}


def as_json(report: Report) -> bytes:
    """An object with the system's name and its rows."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2)


def as_junit(report: Report) -> bytes:
    """A test suite with a case for each property; what is not claimed or not judged is skipped, with the reason."""
    failed, skipped = len(report.failed), len(report.rows) - len(report.failed) - len(report.passed)
    suite = ElementTree.Element(
        "testsuite",
        name=report.system,
        tests=str(len(report.rows)),
        failures=str(failed),
        skipped=str(skipped),
    )
    for row in report.rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=report.system, name=row.name, time=f"{row.seconds:.3f}"
        )
        if row.verdict == "failed":
            failure = ElementTree.SubElement(case, "failure", message=row.note.partition("\n")[0])
            failure.text = f"expected that {row.claim}\n{row.note}\nreplay: {row.replay}"
        elif row.verdict != "passed":
            ElementTree.SubElement(case, "skipped", message=f"{row.verdict}: {row.note}")
    made: bytes = ElementTree.tostring(suite, "utf-8", xml_declaration=True)
    return made


def as_html(report: Report) -> bytes:
    """A page that loads nothing."""
    rows = "".join(
        f'<tr style="background:{_COLOURS[row.verdict]}"><td><code>{html.escape(row.name)}</code><br>'
        f"{html.escape(row.claim)}</td><td>{row.verdict}</td><td><pre>{html.escape(row.note)}"
        f"{html.escape(chr(10) + 'replay: ' + row.replay if row.replay else '')}</pre></td></tr>"
        for row in report.rows
    )
    counted = ", ".join(
        f"{len(report.having(kind))} {kind}" for kind in ("passed", "failed", "not claimed", "not judged")
    )
    name = html.escape(report.system)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>"
        "<style>body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}"
        "td{padding:.4em;border:1px solid #ccc;vertical-align:top}pre{white-space:pre-wrap;margin:0}</style>"
        f"<h1>{name}</h1><p>{counted}</p><table>{rows}</table></html>\n"
    ).encode()
