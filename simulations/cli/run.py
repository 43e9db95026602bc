"""The command line of a study in one process: `secure-afl run`."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from secure_afl.cli.options import FORM, options
from secure_afl.cli.terminal import (
    JsonFile,
    console,
    errors,
    make_way,
    progress,
    refusals_shown,
    say,
    write_json,
    write_text,
)
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.profile import Profile
from secure_afl.simulations.cli.source import Source
from secure_afl.simulations.study.settings import Settings

if TYPE_CHECKING:
    from secure_afl.simulations.data.dataset import Dataset
    from secure_afl.simulations.data.partition import Part

_SOURCE = {
    "data": typer.Option(
        help="heart (four hospitals), mnist5k, digits, synthetic or synthetic:A,B (drawn with --seed), the path of a "
        "table (.csv, .parquet, .xlsx, .sqlite) or .npz file or of a folder with the files of MNIST, Fashion-MNIST or CIFAR-10, "
        "or flwr:NAME (images of the Hugging Face Hub or of a folder of parquet files)."
    ),
    "site_column": typer.Option(help="Column of a file that names each row's site."),
    "label_column": typer.Option(
        help="Column of a file that holds the labels; a number to predict is declared in a codebook."
    ),
    "codebook": typer.Option(
        help="What the columns of a table mean (secure-afl codebook); default a guess from its rows.",
        exists=True,
        dir_okay=False,
    ),
    **FORM,
    "clients": typer.Option(
        help="How many clients to divide the rows among; default 10, or all sites.", min=1
    ),
    "partition": typer.Option(
        help="site, iid, dirichlet:A, labels:K or uneven:A; default site where the data name sites, else iid."
    ),
    "backbone": typer.Option(
        help="An ONNX file: the features that this frozen network gives for each row of the data replace its columns.",
        exists=True,
        dir_okay=False,
    ),
    "backbone_digest": typer.Option(
        "--backbone-sha256", help="With --backbone: the SHA-256 that the file must have."
    ),
    "backbone_limit": typer.Option(
        help="With --backbone: features are cut off at this size and divided by it; 6 after a ReLU6."
    ),
    "backbone_folder": typer.Option(
        help="With --backbone: keep the features in this folder, and read those that are there.",
        file_okay=False,
    ),
}
_SETTINGS = {
    "model": typer.Option(
        help="ridge, one linear layer; logistic or poisson, a regression of two classes or a count with standard errors (needs "
        "--trust-reports verified); or fedacnnl, a deep network trained layer by layer."
    ),
    "encoder": typer.Option(
        help="What fedacnnl's hidden layers are trained towards. seeded: nothing, one sum trains the network; the others "
        "take one sum a layer and need --trust-reports verified."
    ),
    "personalize": typer.Option(
        "--personalize", help="With fedacnnl: every client adapts the network to its rows; nothing leaves it."
    ),
    "groups": typer.Option(
        help="With --personalize: heads to learn, each from clients with like labels. More than 1 needs --trust-reports verified.",
        min=1,
    ),
    "trusts_reports": typer.Option(
        "--trust-reports",
        help="What clients believe of the server's reports about earlier sums. none; verified: what follows from sums that they "
        "verified; any: whatever it says, so that one that lies can single out rows.",
    ),
    "least_rows": typer.Option(
        help="For tables: each client codes levels with fewer rows as other levels, and merges more until no row stands out in "
        "its columns of 0 and 1 (docs/disclosure.md). Default: the codebook's (5), or with --epsilon 1, which switches it off.",
        min=1,
        show_default=False,
    ),
    "federated_evaluation": typer.Option(
        "--federated-evaluation",
        help="Count the common model's hits and errors on the clients' test rows in a second secure sum: nobody sees the figures "
        "of one client.",
    ),
    "device": typer.Option(help="Where fedacnnl computes: cpu or cuda."),
    "backend": typer.Option(
        help="How statistics leave a client: mask, pairwise masks; bfv or ckks, encrypted for a key holder (exact, or "
        "approximate); bfv+mask, masks under BFV; or plain, which shows every statistic to the server, for comparison."
    ),
    "key_holders": typer.Option(
        help="With bfv and bfv+mask: parties that share the key; all are needed.", min=1
    ),
    "release": typer.Option(
        help="With bfv and ckks: what a key holder gives to the server, the sum or the trained weights only; default "
        "weights for ckks, else sum."
    ),
    "profile": typer.Option(
        help="The server that clients defend against; active may lie, semi-honest may not."
    ),
    "suite": typer.Option(help="Key encapsulation; hybrid is ML-KEM-768 with X25519."),
    "dropout": typer.Option(
        help="Fraction of clients, from 0 to below 1, that fall silent before they upload.", min=0, max=1
    ),
    "rounds": typer.Option(
        help="Secure sums to split each client's rows into, under one key exchange.", min=1
    ),
    "epsilon": typer.Option(
        help="Differential privacy for every row, by noise that the clients add; 1 is strong, 10 weak. Not for .csv, .npz "
        "and synthetic data, whose scale is read from the rows."
    ),
    "delta": typer.Option(
        help="With --epsilon: the probability that it fails, well below 1 / number of rows."
    ),
    "clip": typer.Option(
        help="With --epsilon and ridge: rows are shortened to this length; default: the data's public bound. A smaller one needs "
        "less noise; choose it without looking at the rows."
    ),
    "seed": typer.Option(help="Fixes data, partition and dropouts; never a secret.", min=0),
    "audit": typer.Option(
        help="Write an audit log of each party into this folder; see secure-afl audit verify.",
        file_okay=False,
    ),
}
_WARNINGS = {
    Backend.PLAIN: "[bold red]plain:[/] every client's statistics are shown to the server",
    **{
        backend: f"[yellow]{backend}:[/] a client colluding with the server, or the key holders with it, could read others' "
        "uploads; bfv+mask bears either"
        for backend in (Backend.BFV, Backend.CKKS)
    },
}


_PAIR_SECONDS = 1e-3  # of CPU that a client's keys for a neighbour take
_LONG = 10.0  # seconds
_TRIED = 64  # rows to see how long a network takes
_FEW_SITES = 5


def announce_network(settings: Settings, rows: "Dataset", parts: "Sequence[Part]") -> None:
    """Say beforehand that a network's run will take long, and why."""
    if settings.model != "fedacnnl" or (seconds := network_seconds(settings, rows, parts)) <= _LONG:
        return
    console.print(
        f"[yellow]fedacnnl:[/] about {seconds:.0f} s of CPU, as the network is trained {len(parts) + 2} times to compare: together, "
        f"on pooled rows, and by each of {len(parts)} clients alone. Fewer --clients take less",
        highlight=False,
    )


def network_seconds(settings: Settings, rows: "Dataset", parts: "Sequence[Part]") -> float:
    """CPU of a network's run without its secure sums, from fitting it to a few rows."""
    from dataclasses import replace

    from secure_afl.simulations.study import networks

    few = parts[0].train[:_TRIED]
    model = networks.estimator(
        replace(settings, epsilon=None, personalize=False, groups=1), rows, classes=range(len(rows.classes))
    )
    started = time.process_time()
    model.fit_pooled(rows.X[few], rows.y[few])
    fitted = time.process_time()
    model.predict(rows.X[few])
    passed = time.process_time() - fitted  # of the rows through the network
    train, test = (
        sum(len(of) for of in each) for each in zip(*((one.train, one.test) for one in parts), strict=True)
    )
    passes = 3 * train + (len(parts) + 3) * test
    return (len(parts) + 2) * max(fitted - started - passed, 0.0) + passed / len(few) * passes


def announce(settings: Settings, clients: int) -> None:
    """Say beforehand that a run's keys will take long, and what is quicker."""
    if not settings.backend.masked or _PAIR_SECONDS * clients**2 <= _LONG:
        return
    seconds = {
        profile: _PAIR_SECONDS * clients * _neighbours(settings, clients, profile) for profile in Profile
    }
    own, sparse = seconds[settings.profile], seconds[Profile.SEMI_HONEST]
    if own <= _LONG:
        return
    text = f"[yellow]{clients} clients:[/] their keys take about {own:.0f} s of CPU"
    if settings.profile is Profile.ACTIVE:
        text += (
            f", as each client shares keys with every other. --profile semi-honest has a sparse graph, about {sparse:.0f} s, "
            "and trusts the server to keep to the protocol"
        )
    console.print(text, highlight=False)


def _neighbours(settings: Settings, clients: int, profile: Profile) -> int:
    """How many neighbours a client has, as the session will choose it for one sum."""
    from secure_afl.protocol.session import graph

    policy = settings.policy()
    return graph.choose(
        clients,
        profile,
        corrupted=policy.colluders(clients),
        dropout=policy.dropout,
        rounds=settings.rounds,
    ).degree


@options(source=_SOURCE, settings=_SETTINGS)
def run_command(
    source: Source,
    settings: Settings,
    json_file: JsonFile = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page that explains the run to anybody.", dir_okay=False),
    ] = None,
    model_file: Annotated[
        Path | None,
        typer.Option(
            "--model-out",
            help="Write the common model to this file (.safetensors), for predict, evaluate and show.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Train one model together, and compare it with pooled data and with every client alone.

    Without options: four hospitals, masked sums, an active server, hybrid keys.
    """
    with refusals_shown():
        make_way(json_file)
        make_way(html, "--html")
        make_way(model_file, "--model-out")
        # What a model needs is loaded after the options have been read.
        from secure_afl.simulations.show.printed import print_columns, print_run
        from secure_afl.simulations.study.run import phases, run

        if html:
            from secure_afl.simulations.show.report import run_page

        rows = source.load(settings.seed)
        if model_file and (
            settings.model == "fedacnnl" or settings.clip is not None or rows.codebook is None
        ):
            raise typer.BadParameter(
                "needs a ridge model, logistic or poisson of a table, without --clip: only that has coefficients of columns",
                param_hint="--model-out",
            )
        print_columns(rows)
        parts = source.divide(rows, settings.seed)
        announce(settings, len(parts))
        announce_network(settings, rows, parts)
        if settings.backend in _WARNINGS:
            console.print(_WARNINGS[settings.backend], highlight=False)
        try:
            with progress(phases(settings, rows)) as watch:
                result = run(rows, parts, settings, watch)
        except PolicyError as error:
            if source.partition is None and len(parts) < _FEW_SITES:
                error.add_note("for a trial --partition iid --clients 5 deals the rows to five clients")
            raise
        write_json(json_file, result.figures)
        learned = None
        if rows.codebook and settings.model != "fedacnnl" and settings.clip is None:
            from secure_afl.tables import model

            made = model.of_ridge if settings.model == "ridge" else model.of_glm
            learned = made(
                result.learned,
                rows.codebook,
                data=rows.name,
                backend=settings.backend.value,
                session=result.session,
            )
        if model_file and learned:
            learned.save(model_file)
            say(f"[dim]model: {escape(str(model_file))}[/]", errors)
        if html:
            write_text(
                html, run_page(result, rows.note, shlex.join(["secure-afl", *sys.argv[1:]]), learned), "page"
            )
        print_run(result, rows.note, learned)
        if settings.audit:
            say(f"[dim]audit logs: secure-afl audit verify {escape(str(settings.audit))}/*.jsonl[/]")
