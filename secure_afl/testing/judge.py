"""The offline checker: verdicts on a record of sessions, wherever and in whatever language they were held.

A property looks for the situations that it can judge: sums with a client lost, the same vector twice, and so on. Without
one it is not judged. A wrong sum counts against the property whose situation it is, so that one flaw has one name. The
properties are in `judging`, by subject.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from secure_afl.protocol.session.errors import visible
from secure_afl.testing.judging import contents, masks, once, opened, sums
from secure_afl.testing.judging.history import BAD_VALUES, History, in_order
from secure_afl.testing.judging.properties import Property, Row, Verdict
from secure_afl.testing.record import Record


@dataclass(frozen=True)
class Report:
    """The rows of a check. `str` shows them.

    Parameters
    ----------
    system : str
        The system's name.
    rows : tuple of Row
    """

    system: str
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "system", visible(self.system))

    def having(self, verdict: Verdict) -> tuple[str, ...]:
        """The names of the properties with this verdict."""
        return tuple(row.name for row in self.rows if row.verdict == verdict)

    @property
    def failed(self) -> tuple[str, ...]:
        return self.having("failed")

    @property
    def passed(self) -> tuple[str, ...]:
        return self.having("passed")

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        wide = max((len(row.name) for row in self.rows), default=0)
        kinds: tuple[Verdict, ...] = ("passed", "failed", "not claimed", "not judged")
        counted = ", ".join(f"{len(self.having(kind))} {kind}" for kind in kinds)
        lines = [f"{self.system}: {counted}"]
        for row in self.rows:
            lines.append(f"  {row.name:{wide}}  {row.verdict:11}  {row.note or row.claim}".rstrip())
            if row.replay:
                lines.append(f"  {'':{wide}}  {'':11}  replay: {row.replay}")
        return "\n".join(lines)


_ALONE: tuple[str, ...] = ()
_SOME = ("traced",)
_PRIVATE = ("private", "traced")

PROPERTIES: tuple[Property, ...] = (
    Property("nothing_crashes", "only stated exceptions are raised", sums.nothing_crashes, (), _ALONE),
    Property(
        "inputs_are_left_alone",
        "no array of a caller is changed",
        sums.inputs_are_left_alone,
        (),
        ("nothing_crashes",),
    ),
    Property(
        "sums_are_right",
        "a sum is that of its survivors",
        sums.right_in("sums_are_right"),
        (),
        ("nothing_crashes",),
    ),
    *(
        Property(name, claim, sums.right_in(name))
        for name, claim in (
            ("later_sums_are_right", "later sums and sessions are as right as the first"),
            ("every_length_is_summed", "vectors of every length are summed"),
            ("every_cohort_is_summed", "cohorts of every size are summed"),
            ("the_order_of_clients_is_no_matter", "the order of clients changes no sum"),
            ("the_bound_itself_is_summed", "entries at the bound, and zeros, are summed"),
        )
    ),
    Property(
        "the_lost_are_left_out",
        "a sum is that of the survivors it names",
        sums.right_in("the_lost_are_left_out"),
        _SOME,
    ),
    Property(
        "any_mixture_is_summed",
        "losses, orders, lengths and cohorts together change no sum",
        sums.right_in("any_mixture_is_summed"),
    ),
    Property(
        "every_vector_travels", "nothing is summed that did not travel", sums.every_vector_travels, _SOME
    ),
    Property("too_few_open_nothing", "too few survivors open nothing", sums.too_few_open_nothing, _SOME),
    Property(
        "bad_values_are_refused",
        "NaN, infinity and what is over the bound is sums.refused before it leaves",
        sums.refused(*BAD_VALUES),
        ("validated",),
    ),
    Property(
        "bad_shapes_are_refused",
        "wrong lengths and types are sums.refused before they leave",
        sums.refused(
            "a value too few", "a value too many", "no values", "two dimensions", "complex numbers", "text"
        ),
        ("validated",),
    ),
    Property(
        "a_missing_client_is_refused",
        "no sum is made as if a client that gave nothing were in it",
        sums.a_missing_client_is_refused,
        ("validated",),
    ),
    Property(
        "no_vector_travels_in_the_clear",
        "no message tells entries of a vector",
        contents.tells_nothing("rest"),
        _PRIVATE,
    ),
    Property(
        "no_count_travels_in_the_clear",
        "no message tells a count of rows",
        contents.tells_nothing("last"),
        _PRIVATE,
    ),
    Property(
        "results_tell_only_the_sum",
        "a result tells the sum and no vector",
        contents.results_tell_only_the_sum,
        ("private",),
    ),
    Property(
        "sizes_tell_nothing", "no message's size depends on the vector", contents.sizes_tell_nothing, _PRIVATE
    ),
    Property(
        "two_sums_share_no_mask",
        "a vector that comes again in the next sum cannot be told",
        masks.two_sums_share_no_mask,
        _PRIVATE,
    ),
    Property(
        "two_sessions_share_no_mask",
        "a vector that comes again in another session cannot be told",
        masks.two_sessions_share_no_mask,
        _PRIVATE,
    ),
    Property(
        "every_entry_has_its_own_mask",
        "equal entries cannot be told",
        masks.every_entry_has_its_own_mask,
        _PRIVATE,
    ),
    Property(
        "uploads_look_uniform",
        "an upload's words do not depend on the vector",
        masks.uploads_look_uniform,
        _PRIVATE,
    ),
    Property(
        "clients_with_equal_vectors_are_unrelated",
        "clients with equal vectors cannot be told",
        masks.clients_with_equal_vectors_are_unrelated,
        _PRIVATE,
    ),
    Property(
        "no_toy_generator_is_used",
        "no secret comes from Python's or NumPy's generators",
        masks.no_toy_generator_is_used,
        ("private",),
    ),
    Property(
        "only_the_sum_is_opened",
        "what is opened unmasks no single upload",
        opened.only_the_sum_is_opened,
        _PRIVATE,
    ),
    Property("no_key_is_common", "no key is common to clients", opened.no_key_is_common, _PRIVATE),
    Property(
        "a_data_set_serves_one_session",
        "a data set serves one session",
        once.a_data_set_serves_one_session,
        ("ledger",),
    ),
    Property(
        "renewed_rows_are_summed_anew",
        "renewed rows are summed anew",
        sums.right_in("renewed_rows_are_summed_anew"),
        ("ledger", "renewal"),
    ),
    Property(
        "a_sum_is_made_once",
        "a sum is made once, for one set of survivors",
        once.a_sum_is_made_once,
        ("once",),
    ),
    Property(
        "related_sums_keep_their_survivors",
        "related sums have the same survivors",
        once.related_sums_keep_their_survivors,
        ("related", "survivors", "traced"),
    ),
    Property(
        "late_and_repeated_messages_count_once",
        "a message that comes late or twice counts once, or not at all",
        once.late_and_repeated_messages_count_once,
        _SOME,
    ),
    Property(
        "tampering_changes_no_sum",
        "an altered message changes no sum",
        once.tampering_changes_no_sum,
        ("authenticated", "traced"),
    ),
)
"""Every property, in the order in which they are judged: a cause before what follows from it."""


def judge_record(records: Iterable[Record], only: Iterable[str] | None = None) -> Report:
    """Judge a record offline. A property whose cause failed is not judged.

    Parameters
    ----------
    records : iterable of records
        In the order in which they were noted.
    only : iterable of str, optional
        Names of properties; None is all.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        For a record out of order.
    """
    systems = in_order(records)
    if not systems:
        raise ValueError("expected a record with a system line, got an empty one")
    history = History(systems, systems[0].claims)
    rows: list[Row] = []
    wanted = set(only) if only is not None else {one.name for one in PROPERTIES}
    for one in PROPERTIES:
        if one.name in wanted:
            rows.append(held_back(one, {row.name: row for row in rows}) or one.judge(history))
    return Report(history.claims.name, tuple(rows))


def held_back(one: Property, rows: Mapping[str, Row]) -> Row | None:
    """The row of a property that cannot be judged because another one failed."""
    for cause in one.depends:
        if cause in rows and rows[cause].verdict == "failed":
            return Row(one.name, one.claim, "not judged", f"{cause} failed")
        if cause in rows and rows[cause].note.endswith(" failed"):
            return Row(one.name, one.claim, "not judged", rows[cause].note)
    return None
