"""What happens once: a data set's session, a sum, and messages that were altered on their way."""

from collections import defaultdict

from secure_afl.testing.judging.history import AS_SENT, Asked, History
from secure_afl.testing.judging.properties import Judged, described
from secure_afl.testing.record import Crash, Sum


def a_data_set_serves_one_session(history: History, judged: Judged) -> None:
    for system in history.systems:
        served: dict[str, int] = {}
        for held in system.held:
            name = held.opened.data_set
            if held.renewed:
                served.pop(name, None)
            if name in served:
                judged.cases += 1
                if any(isinstance(one.outcome, Sum) for one in held.asked):
                    judged.against("a second session with the data set of the first gave a sum", system)
            elif any(one.sent or isinstance(one.outcome, Sum) for one in held.asked):
                served[name] = 1


def a_sum_is_made_once(history: History, judged: Judged) -> None:
    """Asked for again, whoever is lost meanwhile: no second sum over other survivors, nor the same again."""
    for system in history.systems:
        for held in system.held:
            by: dict[int, list[Asked]] = defaultdict(list)
            for asked in held.asked:
                by[asked.number].append(asked)
            for number, group in by.items():
                if len(group) < 2:
                    continue
                judged.cases += 1
                made = [one.outcome for one in group if isinstance(one.outcome, Sum)]
                if len(made) > 1:
                    sets = " and ".join(str(len(one.survivors or ())) for one in made)
                    judged.against(
                        f"sum {number + 1} was made {len(made)} times, over {sets} survivors", system
                    )


def related_sums_keep_their_survivors(history: History, judged: Judged) -> None:
    for system in history.systems:
        for held in system.held:
            made = [(one.number, one.outcome) for one in held.asked if isinstance(one.outcome, Sum)]
            if not held.opened.related or len(held.lengths) < 2:
                continue
            judged.cases += 1
            sets = {frozenset(one.survivors or ()) for _, one in made}
            if len(sets) > 1:
                told = "; ".join(
                    f"sum {number + 1}: {', '.join(one.survivors or ())}" for number, one in made
                )
                judged.against(f"related sums were made over different survivors: {told}", system)


def late_and_repeated_messages_count_once(history: History, judged: Judged) -> None:
    for asked in history.asked:
        fates = {one.fate for one in history.messages(asked)} - set(AS_SENT)
        if not fates or "altered" in fates:
            continue
        judged.cases += 1
        judged.summed += isinstance(asked.outcome, Sum)
        one = next(one for one in history.messages(asked) if one.fate not in AS_SENT)
        came = f"a message of {one.sender!r} in {one.phase!r} came {'late' if one.fate == 'late' else 'twice'}, and"
        if isinstance(asked.outcome, Crash):
            judged.against(f"{came} it raised {asked.outcome.error}", asked.held.system)
        elif (wrong := history.wrong(asked)) is not None:
            judged.against(f"{came} {described(asked)}: {wrong}", asked.held.system)
    judged.note = (
        f"{judged.cases} sums: {judged.summed} right, {judged.cases - judged.summed} refused"
        if judged.cases
        else ""
    )


def tampering_changes_no_sum(history: History, judged: Judged) -> None:
    for asked in history.asked:
        if not asked.altered and not any(one.fate not in AS_SENT for one in asked.held.sent):
            continue
        judged.cases += 1
        judged.summed += isinstance(asked.outcome, Sum)
        if isinstance(asked.outcome, Crash):
            judged.against(f"a message was altered, and it raised {asked.outcome.error}", asked.held.system)
        elif (wrong := history.wrong(asked)) is not None:
            phase = next(
                (one.phase for one in (*asked.held.sent, *asked.sent) if one.fate not in AS_SENT), "?"
            )
            judged.against(
                f"a message in {phase!r} was altered, and {described(asked)}: {wrong}", asked.held.system
            )
    for system in history.systems:
        for held in system.held:
            altered = any(one.altered for one in held.asked) or any(
                one.fate not in AS_SENT for one in held.sent
            )
            before = any(
                one.altered for earlier in system.held[: system.held.index(held)] for one in earlier.asked
            )
            if (
                before
                and not altered
                and (not held.asked or any(not isinstance(one.outcome, Sum) for one in held.asked))
            ):
                judged.against("after altered messages it makes no sum any more", system)
    judged.note = (
        f"{judged.cases} altered sums: {judged.summed} right, {judged.cases - judged.summed} refused"
        if judged.cases
        else ""
    )
