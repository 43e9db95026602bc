"""The page of a run, for a person who has never seen the project: `secure-afl run --html`."""

from collections.abc import Mapping, Sequence
from typing import Any

from secure_afl.analytic.evaluation import Measured
from secure_afl.cli.evaluation import of_classes, of_number
from secure_afl.cli.pages import inline, page, svg
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.show.answers import (
    changed,
    described,
    effects,
    headings,
    left_for_evaluation,
    meaning,
    remarks,
)
from secure_afl.simulations.show.forest import forest
from secure_afl.simulations.study.control import sentences
from secure_afl.simulations.study.report import Run
from secure_afl.tables.model import Model

_MODELS = {
    "ridge": "a linear model (least squares with a ridge penalty), in closed form",
    "logistic": "a logistic regression, by maximum likelihood",
    "poisson": "a Poisson regression, by maximum likelihood",
    "fedacnnl": "a network (FedACnnL, arXiv 2502.06915), layer by layer in closed form, without gradients",
}
_FORMS = {
    "mask": "as numbers that are uniformly random to everybody but the client itself: secret masks, agreed on by pairs "
    "of clients, are added to them, and cancel in the sum",
    "bfv": "encrypted under BFV, for the key holders; the server adds up ciphertexts",
    "ckks": "encrypted under CKKS, for the key holders; the server adds up ciphertexts",
    "bfv+mask": "masked with secrets of pairs of clients, and encrypted under BFV on top: server and key holders "
    "together see no more than masked numbers",
    "plain": "in the clear",
}
_SERVERS = {
    "active": "Clients reckoned with a server that lies (profile active): more than two thirds of them had to agree, by "
    "signatures to each other, on whose vectors are in the sum before masks came off.",
    "semi-honest": "Clients relied on a server that keeps to the protocol (profile semi-honest).",
}


def run_page(result: Run, note: str, command: str, model: Model | None = None) -> str:
    """One HTML file that needs nothing else. note: where the scale of the columns is from; command: how it was made;
    model: what was learned, where it has coefficients of columns.
    """
    figures = result.figures
    first = figures["table_one"]
    numbers = {one["name"]: one["deviation"] for one in first["lines"]} if first else {}
    deviations = {name: deviation for name, deviation in numbers.items() if deviation is not None}
    picture = forest(model, deviations) if model else None
    clients = [one._asdict() for one in result.clients()]
    return page(
        __package__,
        "run.html",
        {"share": result.shown, "seconds": _seconds},
        figures=figures,
        scores=result.scores,
        measure=result.measure,
        told={
            "what": _what(result),
            "verdict": _verdict(figures),
            "mind": _mind(figures),
            "left": _left(figures),
            "right": _right(figures),
            "privacy": _privacy(figures),
            "settings": _settings(figures),
        },
        described=described(first) if first else [],
        changed=changed(figures) if first else "",
        effects=effects(model) if model else [],
        headings=headings(model) if model else [],
        meaning=meaning(model) if model else "",
        remarks=remarks(model) if model else "",
        forest=inline("image/svg+xml", svg(picture).encode()) if picture else "",
        clients=clients,
        personal=result.personal,
        tested=_tested(result),
        personal_on_all=any(one["personal_on_all"] is not None for one in clients),
        chart=inline("image/svg+xml", svg(_chart(result, clients)).encode()),
        phases=result.phases(),
        refusals=[*figures.get("warnings", ()), *map(str, result.refusals)],
        machine=machine(),
        command=command,
        note=note.removeprefix("scale: "),
    )


def _tested(result: Run) -> dict[str, Any]:
    """How good the common model is on all test rows: sentences, figures by name, and rows by class, none for a number."""
    shown = result.evaluated.figures if result.evaluated else result.held_out
    if shown is None:
        return {}
    said = ["The common model on the test rows of all clients, from which nothing was learned."]
    if result.evaluated:
        said[0] += (
            " Each client counted hits and errors on its own test rows, and a secure sum added the counts up: nobody saw the "
            "figures of one client."
        )
        said += [f"{note[0].upper()}{note[1:]}." for note in result.evaluated.notes()]
    if isinstance(shown, Measured):
        return {"said": said, "figures": of_number(shown, result.figures["unit"]), "classes": []}
    classes = [
        (
            one.name,
            f"{one.rows:,}",
            *("–" if part is None else f"{part:.3f}" for part in (one.recall, one.precision)),
        )
        for one in shown.by_class
    ]
    return {"said": said, "figures": of_classes(shown), "classes": classes}


def _what(result: Run) -> str:
    figures = result.figures
    count, missing = len(figures["clients"]), set(figures["clients"]).difference(*result.survivors)
    rows = sum(figures["rows"].values())
    text = (
        f"{count} clients with {rows:,} rows of {figures['data']} ({figures['features']} columns, "
        f"{_outcome(figures)}) learned {_MODELS[figures['model']]}. All of them ran in one process, each with "
        "keys, a policy and a ledger of its own."
    )
    if missing:
        text += f" {len(missing)} fell silent before they had uploaded; the model is that of the others."
    return text


def _outcome(figures: Mapping[str, Any]) -> str:
    return f"{len(figures['classes'])} classes" if figures["classes"] else "a number to predict"


def _verdict(figures: Mapping[str, Any]) -> tuple[str, str]:
    if figures["backend"] == "plain":
        return "fails", "Nothing was hidden: the server saw every client's statistics."
    if figures["sums_bit_identical"] is False:
        return "fails", "The secure sum is not the sum of the clients' integers."
    if figures["sums_bit_identical"]:
        return "holds", (
            "No client's statistics left it readable, and the secure sum equals the sum of the clients' integers, bit for "
            "bit."
        )
    return "holds", "No client's statistics left it readable."


def _mind(figures: Mapping[str, Any]) -> str:
    if figures["backend"] in ("bfv", "ckks"):
        return (
            "One client that helps the server is enough to read others' uploads, as the server and the key holders "
            "together could; with --backend bfv+mask neither can."
        )
    return ""


def _left(figures: Mapping[str, Any]) -> list[str]:
    several = (
        "one vector" if figures["model"] == "ridge" and figures["rounds"] == 1 else "a vector for each sum"
    )
    what = "its Gram matrix, its cross-covariance with the labels, its number of rows"
    if figures["model"] in ("logistic", "poisson"):
        what += "; then gradients and an information matrix"
    told = [
        (
            f"Of its rows each client computed {several} of statistics ({what}), and gave that to the server {_FORMS[figures['backend']]}."
        ),
    ]
    if figures["backend"] != "plain":
        released = figures.get("encryption", {}).get("released")
        told.append(
            "The key holders gave the server the trained weights, and no sum."
            if released == "weights"
            else "The server learned the sum over the clients in it, who they are, and the sizes and times of messages."
        )
        if "parameters" in figures:
            told.append(_SERVERS[figures["profile"]])
            told.append(
                "Keys are ML-KEM-768 with X25519: who records the traffic today cannot open it with a quantum computer later."
                if figures["suite"] == "hybrid"
                else "Keys are X25519 alone: who records the traffic today could open it with a quantum computer later."
            )
    if evaluation := left_for_evaluation(figures):
        told.append(evaluation)
    told += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences(figures)]
    if "personal" in figures.get("accuracy", ()):
        told.append(
            "Each client fitted a model of its own on top, from its own rows; nothing of that left it."
        )
    return told


def _right(figures: Mapping[str, Any]) -> list[str]:
    measured = f"{figures['weight_difference']:.1e}"
    if figures["privacy"]:
        return [
            f"The weights are {measured} from those of the pooled rows: that is the noise for differential privacy.",
        ]
    told = [
        (
            f"The weights are {measured} from those of the same rows pooled in the clear, in the euclidean norm; no run in the "
            "field could measure that."
        ),
    ]
    if figures["certificate"] is not None:
        told.append(
            f"Proven without seeing any row, from the sum alone: the distance is at most {figures['certificate']:.1e}, of "
            f"which {figures['certificate_parts']['fixed_point']:.1e} is for rounding numbers before they were summed, the rest "
            "for float64."
        )
    if figures["sums_bit_identical"]:
        told.append("Masks and encryption changed no bit of the sum.")
    return told


def _privacy(figures: Mapping[str, Any]) -> list[str]:
    private = figures["privacy"]
    if not private:
        return [
            (
                "Masks and encryption hide what each client contributes, not what the sum and the model tell. With few clients, "
                "or a person whose record is unlike all others, that can be something."
            ),
            (
                "No differential privacy was asked for: no budget was spent, and none is promised. secure-afl run --epsilon "
                "adds noise before masks."
            ),
        ]
    return [
        (
            f"Differential privacy with ε = {private['epsilon']:g} and δ = {private['delta']:g} for every row: whoever sees the "
            f"sums and the model can hardly tell whether a row was among them. The odds that it was change by a factor of at "
            f"most e^{private['epsilon']:g}, but for a probability of {private['delta']:g}."
        ),
        (
            f"The noise is the clients': it is enough as long as {private['fewest_survivors']} of them are in a sum, and "
            f"{private['not_counted_on']} of these tell theirs or add none. A sum of fewer is not opened."
        ),
        f"Rows with a norm over {private['row_norm']:g} were made so short.",
        "The whole budget is spent for this data set: another session on it would spend as much again.",
    ]


def _settings(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = [("seed of the simulation", f"{figures['seed']} (partition and dropouts; never a secret)")]
    if "parameters" in figures:
        text = "{neighbours} neighbours for each client, {threshold} shares open a secret".format(
            **figures["parameters"]
        )
        told.append(("masks", text))
        text = "up to {values_per_round:,} values, {word_bytes} bytes each, {fraction_bits} fraction bits"
        told.append(("a sum", text.format(**figures["parameters"])))
    if "encryption" in figures:
        text = "{parameter_set}, {key_holders} key holder(s), up to {values_per_round:,} values a sum"
        told.append(("encryption", text.format(**figures["encryption"])))
    return told


_SHOWN = 30  # clients in the picture
_BARS = (
    ("alone_on_all", "alone, everybody's test rows", "#dddddd"),
    ("alone", "alone, own test rows", "#aaaaaa"),
    ("together", "together, own test rows", "#4477aa"),
    ("personal", "personal, own test rows", "#228833"),
)


def _chart(result: Run, clients: Sequence[Mapping[str, Any]]) -> Any:
    """Each client's score, and that of the common model on everybody's test rows as a line."""
    from matplotlib.figure import Figure  # slow to import: only who asks for a page waits

    shown = [one for one in clients if one["alone"] is not None][:_SHOWN]
    bars = [bar for bar in _BARS if bar[0] != "personal" or result.personal]
    figure = Figure(figsize=(10, 4), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(bars)
    for number, (kind, label, colour) in enumerate(bars):
        at = [index + (number - (len(bars) - 1) / 2) * width for index in range(len(shown))]
        panel.bar(at, [one[kind] for one in shown], width, label=label, color=colour)
    panel.axhline(
        result.scores["together"], color="black", linestyle="--", label="together, everybody's test rows"
    )
    panel.set_xticks(
        range(len(shown)),
        [one["name"] for one in shown],
        rotation=0 if len(shown) < 8 else 60,
        fontsize="small",
    )
    panel.set_ylim(0, None if result.numeric else 1)
    panel.set_ylabel(result.measure)
    figure.legend(fontsize="small", loc="outside upper center", ncols=3, frameon=False)
    return figure


def _seconds(value: float) -> str:
    return f"{1e3 * value:.2f} ms" if value < 1 else f"{value:.2f} s"
