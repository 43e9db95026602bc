"""Sums are right, wherever they may not be refused, and bad input is refused."""

from secure_afl.testing.judging.history import AS_SENT, History
from secure_afl.testing.judging.properties import Check, Judged, described
from secure_afl.testing.record import Crash, Refusal, Sum


def nothing_crashes(history: History, judged: Judged) -> None:
    for system in history.systems:
        crashes = [
            *system.crashes,
            *(held.outcome for held in system.held),
            *(one.outcome for one in system.asked),
        ]
        judged.cases += len(crashes)
        for one in crashes:
            if isinstance(one, Crash):
                judged.against(f"it raised {one.error}\n{one.traceback}", system)


def inputs_are_left_alone(history: History, judged: Judged) -> None:
    for asked in history.asked:
        for one in asked.inputs.values():
            judged.cases += 1
            if one.after:
                judged.against(
                    f"the array that {one.client!r} gave was changed in place by {described(asked)}",
                    asked.held.system,
                )


def right_in(*names: str) -> Check:
    """The sums of these situations are right, and made wherever they may not be refused."""

    def check(history: History, judged: Judged) -> None:
        for asked in history.asked:
            if history.situation(asked) not in names:
                continue
            judged.cases += 1
            if isinstance(asked.outcome, Crash):
                judged.against(f"{described(asked)} raised {asked.outcome.error}", asked.held.system)
            elif (wrong := history.wrong(asked)) is not None:
                judged.against(f"{described(asked)}: {wrong}", asked.held.system)
            elif isinstance(asked.outcome, Refusal) and history.must(asked):
                judged.against(f"{described(asked)} was refused: {asked.outcome.text}", asked.held.system)
        for system in history.systems:
            served: set[str] = set()
            for held in system.held:
                again = held.opened.data_set in served and not held.renewed
                served.add(held.opened.data_set)
                if (
                    not isinstance(held.outcome, Refusal)
                    or again
                    or any(one.fate not in AS_SENT for one in held.sent)
                ):
                    continue
                fewest, most = history.claims.clients
                situation = "the_lost_are_left_out" if held.lost else "sums_are_right"
                if situation not in names or len(held.lost) > history.claims.dropouts:
                    continue
                if fewest <= len(held.clients) <= most and (
                    not held.lost or len(held.clients) >= history.claims.cohort
                ):
                    lost = f" with {', '.join(sorted(held.lost))} lost" if held.lost else ""
                    judged.against(
                        f"a session of {len(held.clients)} clients{lost} was refused: {held.outcome.text}",
                        system,
                    )

    return check


def every_vector_travels(history: History, judged: Judged) -> None:
    for system in history.systems:
        for held in system.held:
            sent = [*held.sent, *(one for asked in held.asked for one in asked.sent)]
            made = any(isinstance(one.outcome, Sum) for one in held.asked)
            # What other parties, such as key holders, send each other may arrive.
            if all(one.fate == "lost" for one in sent if one.sender in held.clients) and (sent or made):
                judged.cases += 1
                if made:
                    seen = "no message arrived" if sent else "no message was sent"
                    judged.against(f"{seen}, and there is a sum: vectors do not travel by `carry`", system)


def too_few_open_nothing(history: History, judged: Judged) -> None:
    for asked in history.asked:
        if not asked.lost or asked.altered or not asked.sent:
            continue
        left = asked.arrived(history.uploads)
        if len(left) < history.claims.least:
            judged.cases += 1
            if isinstance(asked.outcome, Sum):
                judged.against(
                    f"{len(left)} of {len(asked.held.clients)} clients uploaded, and there is a sum; "
                    f"{history.claims.least} are needed",
                    asked.held.system,
                )


def refused(*bad: str) -> Check:
    """Vectors with such a fault are refused, or their clients left out, before anything of them leaves."""

    def check(history: History, judged: Judged) -> None:
        _after(history, bad, judged)
        for asked in history.asked:
            wrong = {client: one.bad for client, one in asked.inputs.items() if one.bad in bad}
            if not wrong or isinstance(asked.outcome, Crash):
                continue
            judged.cases += 1
            system, fault = asked.held.system, next(iter(wrong.values()))
            if (seen := history.wrong(asked)) is not None:
                judged.against(f"{fault}: {seen}", system)
            elif isinstance(asked.outcome, Sum) and asked.outcome.survivors is None:
                judged.against(f"{fault} was summed", system)
            elif any(one.sender in wrong and one.phase in history.uploads for one in asked.sent):
                judged.against(
                    f"{fault} was found only after an upload of {next(iter(wrong))!r} had left", system
                )
            elif isinstance(asked.outcome, Refusal) and not asked.outcome.text.strip():
                judged.against(f"the refusal of {fault} says nothing", system)

    return check


def _after(history: History, names: tuple[str, ...], judged: Judged) -> None:
    """A refusal leaves nothing behind: what is summed afterwards is right, and another session makes its sums."""
    for system in history.systems:
        fault, session = "", None
        for asked in system.asked:
            if bad := [one.bad for one in asked.inputs.values() if one.bad]:
                fault, session = bad[0], asked.held
            elif fault in names:
                judged.cases += 1
                if (wrong := history.wrong(asked)) is not None:
                    judged.against(f"after {fault}, {described(asked)}: {wrong}", system)
                elif asked.held is not session and isinstance(asked.outcome, Refusal) and history.must(asked):
                    judged.against(
                        f"after {fault}, {described(asked)} was refused: {asked.outcome.text}", system
                    )


def a_missing_client_is_refused(history: History, judged: Judged) -> None:
    for asked in history.asked:
        if set(asked.inputs) < set(asked.held.clients) and not isinstance(asked.outcome, Crash):
            judged.cases += 1
            if (wrong := history.wrong(asked)) is not None:
                judged.against(f"{described(asked)}: {wrong}", asked.held.system)
