"""A study in words, for the operator who decides whether the party takes part."""

from typing import Any

import msgspec

from secure_afl.node import changes, held_out
from secure_afl.node.study import RegressionStudy, RidgeStudy, Study
from secure_afl.protocol.files.explain import FORMS, Section
from secure_afl.protocol.homomorphic.agreement import Release
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.transport.endpoint import Terms
from secure_afl.tables.codebook import Codebook

_MODELS = {
    "ridge": "A linear model (ridge)",
    "logistic": "A logistic regression",
    "poisson": "A Poisson regression",
    "fedacnnl": "A network (FedACnnL)",
}


def sections(terms: Terms, study: Study) -> tuple[Section, ...]:
    """What the study learns, what leaves this party, who gets what, and what its policy asks for."""
    return (
        Section("Purpose", (study.purpose or "The study does not say.",)),
        Section("What is learned", _learned(study)),
        Section("What leaves this party", _leaves(terms, study)),
        Section("Who takes part", _parties(terms)),
        Section("Who gets the model", _recipients(terms, study)),
        Section("Noise", _noise(study)),
    )


def _learned(study: Study) -> tuple[str, ...]:
    model = _MODELS[study.model]
    if study.codebook:
        columns = f"{len(study.columns)} columns of the table, by the codebook: "
        columns += ", ".join(study.columns)
    elif study.arrays:
        columns = "The samples of a site's file of arrays"
    else:
        columns = f"{len(study.columns)} columns of the table: {', '.join(study.columns)}"
    aim = (
        f"tells {study.label!r} apart: {', '.join(study.classes)}"
        if study.classes
        else f"predicts the number {study.label!r}"
    )
    parameters = msgspec.to_builtins(getattr(study, study.model))
    return (
        f"{model} that {aim}.",
        f"{columns}.",
        *(_book(study.codebook) if study.codebook else ()),
        *_frozen(parameters.pop("backbone", None)),
        f"Parameters: {_listed(parameters) or 'none'}.",
        f"At most {study.max_rows:,} rows of a site; a row beyond the agreed bounds is an error, and nothing leaves.",
    )


def _frozen(backbone: dict[str, Any] | None) -> tuple[str, ...]:
    """The warning about a frozen backbone, which can be any function of a sample."""
    if backbone is None:
        return ()
    said = (
        f"The features come from a network that nobody trains here: {_listed(backbone)}. Approve it only if you know who made it, "
        "and compare the digest with the one that they published: a network made for the purpose can single out one sample, whose "
        "values and label would then stand in the opened sum."
    )
    return (said,)


def _book(codebook: Codebook) -> tuple[str, ...]:
    """All that a codebook says."""
    said = msgspec.to_builtins(codebook)
    columns = said.pop("columns")
    outcome = said.pop("outcome")
    return (
        *(f"Column {name!r}: {_listed(column)}." for name, column in columns.items()),
        f"Outcome: {_listed(outcome)}.",
        *(f"{name.replace('_', ' ').capitalize()}: {_text(value)}." for name, value in said.items() if value),
    )


def _listed(fields: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_text(value)}"
        for name, value in fields.items()
        if value is not None and value is not False and value not in ("", [], ())
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} = {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return repr(value) if isinstance(value, str) else str(value)


def _leaves(terms: Terms, study: Study) -> tuple[str, ...]:
    clients = len(terms.parties.clients.members)
    lines = [_sum(plan, clients) for plan in terms.plan]
    lines += [f"Never a row. {FORMS[study.backend]}"]
    if any(plan.trusts_server for plan in terms.plan):
        lines.append(
            f"Between sums the server announces {'sums' if isinstance(study, RegressionStudy) else 'layers'}. "
            + (
                "This party goes on only from what follows from sums that it verified: a server that lies needs the help of "
                "another client to make a later sum tell of single rows."
                if study.backend.masked and terms.policy.trusts_reports is not Trust.ANY
                else "Nobody checks them: a server that lies can make a later sum tell of single rows."
            )
        )
    lines.append(_control(study))
    if study.tests:
        which = (
            f"{study.held_out:.0%} of this party's rows are held out of the model, chosen by their number in the table"
            if study.held_out
            else f"This party's rows with {study.codebook and study.codebook.held_out} are held out of the model"
        )
        lines.append(
            f"{which}. The last "
            "two sums count the sites that have enough of them, and how the model does on them; this party computes the model from the sums that it checked, and leaves out "
            f"rows of classes of which it holds out fewer than {held_out.agreed(study).least_rows}."
        )
    if study.continues:
        least = changes.least_rows(study)
        lines.append(
            f"This is a change of session {study.continues[:8]}: the difference that the rows of one batch make which comes in "
            "here, or of one withdrawal; zeros if nothing changes here. It waits until what comes in, what leaves of each batch "
            f"and what stays of it has {least} rows, and no row stands out in it (docs/changed-rows.md). All clients of that "
            "session take part."
        )
    if study.keeps_sum:
        lines.append(
            f"The sum stays with the server and at each party ({changes.KEPT}), and so does how this party's rows are coded, so that "
            "a later session can change it. Whoever keeps an older sum has the difference of the two."
        )
    if study.counts:
        lines.append(
            f"First the number of rows{' and of rows of each class' if study.classes else ''}, under masks. This party gives "
            f"nothing else unless the server announces at least {study.counts.rows} rows in all"
            f"{f' and {study.counts.least} of each class' if study.classes else ''}."
        )
    if isinstance(study, RidgeStudy) and study.ridge.class_weight:
        lines.append("Rows count by these numbers, so that every class has the same weight in all.")
    return tuple(lines)


def _control(study: Study) -> str:
    """What disclosure control does at this party, or why there is none."""
    if study.least_rows > 1:
        return (
            f"Levels and classes that fewer than {study.least_rows} of this party's rows have do not go out as they are, "
            "nor does what singles a row out in columns of 0 and 1 (docs/disclosure.md)."
        )
    if study.codebook and study.codebook.least_rows > 1:
        return "No disclosure control: it does not go together with noise (docs/disclosure.md)."
    return "No disclosure control: a row with a value of its own can be read from a sum (docs/disclosure.md)."


def _sum(plan: SumPlan, clients: int) -> str:
    payload = plan.spec(clients).payload_bytes
    return (
        f"One vector for the sum {plan.statistic!r}: {plan.length:,} numbers, none above {plan.bound:.4g} in magnitude, "
        f"{payload:,} bytes under masks."
    )


def _parties(terms: Terms) -> tuple[str, ...]:
    members, holders = terms.parties.clients.members, terms.parties.key_holders
    least = max([terms.policy.least_survivors(len(members)), *(plan.survivors for plan in terms.plan)])
    lines = [
        f"{len(members)} clients: {', '.join(member.name for member in members)}.",
        f"This party's policy gives nothing to a sum over fewer than {least} of them.",
    ]
    if holders:
        lines.append(f"Key holders: {', '.join(member.name for member in holders.members)}.")
    return tuple(lines)


def _recipients(terms: Terms, study: Study) -> tuple[str, ...]:
    opened = "The server, which opens the sums"
    if study.encryption:
        weights = study.encryption.release is Release.WEIGHTS
        opened = f"The key holders, who open the sums and give the server {'the weights only' if weights else 'these'}"
    return (f"{opened}.", "All parties that joined the session, also those whose vector came too late.")


def _noise(study: Study) -> tuple[str, ...]:
    if study.privacy is None:
        return (
            "None. The sums are exact: where few rows share a value, a sum can tell of them (docs/threat-model.md).",
        )
    said = f"epsilon {study.privacy.epsilon:g} and delta {study.privacy.delta:g}"
    return (f"Differential privacy of every record, {said}, by noise that each client adds.",)
