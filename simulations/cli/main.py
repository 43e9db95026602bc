"""The command line: `secure-afl`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from secure_afl.cli import terminal
from secure_afl.cli.audit import audit
from secure_afl.cli.codebook import codebook
from secure_afl.cli.keys import keys
from secure_afl.cli.policy import policy
from secure_afl.cli.table_options import Decimal, Encoding, Separator, Sheet, form
from secure_afl.cli.terminal import (
    JsonFile,
    console,
    make_way,
    progress,
    refusals_shown,
    write_json,
    write_text,
)
from secure_afl.crypto.hpke import Suite
from secure_afl.models.networks.encoders import Encoder
from secure_afl.protocol.session.backend import ENCRYPTED, Backend
from secure_afl.protocol.session.parameters import Profile
from secure_afl.simulations.benchmarks import masking
from secure_afl.simulations.cli.attack import attack
from secure_afl.simulations.cli.experiment import experiment
from secure_afl.simulations.cli.flower import flower
from secure_afl.simulations.cli.overhead import overhead
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import default_spec, partition
from secure_afl.simulations.study.run import KEY_PHASES, MODELS, Run, Settings, middle, run

app = typer.Typer(
    help="Learn one model from several parties' data; only masked sums leave a party.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(
    help="Measure; every benchmark prints ratios and writes a JSON file.", no_args_is_help=True
)
app.add_typer(bench, name="bench")
app.add_typer(experiment, name="experiment")
app.add_typer(keys, name="keys")
app.add_typer(policy, name="policy")
app.add_typer(codebook, name="codebook")
app.add_typer(audit, name="audit")
app.add_typer(flower, name="flower")
app.command("attack")(attack)
app.command("overhead")(overhead)


@app.command("run")
def run_command(
    data: Annotated[
        str,
        typer.Option(
            help="heart (four hospitals), mnist5k, digits, synthetic or synthetic:A,B (drawn with --seed), the path "
            "of a table (.csv, .parquet, .xlsx) or .npz file or of a folder with the files of MNIST, Fashion-MNIST or CIFAR-10, or flwr:NAME "
            "(images of the Hugging Face Hub or of a folder of parquet files)."
        ),
    ] = "heart",
    site_column: Annotated[str, typer.Option(help="Column of a file that names each row's site.")] = "site",
    label_column: Annotated[str, typer.Option(help="Column of a file that holds the labels.")] = "label",
    codebook_file: Annotated[
        Path | None,
        typer.Option(
            "--codebook",
            help="What the columns of a table mean (secure-afl codebook); default a guess from its rows.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    separator: Separator = "",
    decimal: Decimal = ".",
    encoding: Encoding = "utf-8",
    sheet: Sheet = "",
    clients: Annotated[
        int | None,
        typer.Option(help="How many clients to divide the rows among; default 10, or all sites.", min=1),
    ] = None,
    partition_spec: Annotated[
        str | None,
        typer.Option(
            "--partition",
            help="site, iid, dirichlet:A, labels:K or uneven:A; default site where the data name sites, else iid.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="ridge, one linear layer; or fedacnnl, a deep network trained layer by layer.")
    ] = "ridge",
    encoder: Annotated[
        Encoder,
        typer.Option(
            help="What fedacnnl's hidden layers are trained towards. seeded: nothing, one sum trains the network; "
            "the others take one sum a layer and need --trust-reports."
        ),
    ] = Encoder.SEEDED,
    personalize: Annotated[
        bool,
        typer.Option(
            "--personalize",
            help="With fedacnnl: every client adapts the network to its rows; nothing leaves it.",
        ),
    ] = False,
    groups: Annotated[
        int,
        typer.Option(
            help="With --personalize: heads to learn, each from clients with like labels. More than 1 needs "
            "--trust-reports.",
            min=1,
        ),
    ] = 1,
    trust_reports: Annotated[
        bool,
        typer.Option(
            "--trust-reports",
            help="Clients take what the server says of earlier sums as true; one that lies can then single out rows.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="Where fedacnnl computes: cpu or cuda.")] = "cpu",
    backend: Annotated[
        Backend,
        typer.Option(
            help="How statistics leave: mask, pairwise masks; bfv or ckks, encrypted for a key holder (exact, or "
            "approximate); bfv+mask, masks under BFV; or plain, which shows every statistic to the server, for "
            "comparison."
        ),
    ] = Backend.MASK,
    key_holders: Annotated[
        int,
        typer.Option(help="With bfv and bfv+mask: parties that share the key; all are needed.", min=1),
    ] = 1,
    release: Annotated[
        str | None,
        typer.Option(
            help="With bfv and ckks: what a key holder gives to the server, the sum or the trained weights only; "
            "default weights for ckks, else sum."
        ),
    ] = None,
    profile: Annotated[
        Profile,
        typer.Option(help="The server that clients defend against; active may lie, semi-honest may not."),
    ] = Profile.ACTIVE,
    suite: Annotated[
        Suite, typer.Option(help="Key encapsulation; hybrid is ML-KEM-768 with X25519.")
    ] = Suite.HYBRID,
    dropout: Annotated[
        float,
        typer.Option(
            help="Fraction of clients, from 0 to below 1, that fall silent before they upload.", min=0, max=1
        ),
    ] = 0.0,
    rounds: Annotated[
        int, typer.Option(help="Secure sums to split each client's rows into, under one key exchange.", min=1)
    ] = 1,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Differential privacy for every row, by noise that the clients add; 1 is strong, 10 weak. Not for .csv, "
            ".npz and synthetic data, whose scale is read from the rows."
        ),
    ] = None,
    delta: Annotated[
        float,
        typer.Option(help="With --epsilon: the probability that it fails, well below 1 / number of rows."),
    ] = 1e-5,
    clip: Annotated[
        float | None,
        typer.Option(
            help="With --epsilon and ridge: longer rows are made so short; default the data's public bound. Less noise for "
            "less; chosen without looking at the rows."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes data, partition and dropouts; never a secret.", min=0)] = 0,
    audit_folder: Annotated[
        Path | None,
        typer.Option(
            "--audit",
            help="Write an audit log of each party into this folder; see secure-afl audit verify.",
            file_okay=False,
        ),
    ] = None,
    json_file: JsonFile = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page that tells the run to anybody.", dir_okay=False),
    ] = None,
) -> None:
    """Train one classifier together, and compare it with pooled data and with every client alone.

    Without options: four hospitals, masked sums, an active server, hybrid keys.
    """
    with refusals_shown():
        if release not in (None, "sum", "weights"):
            raise typer.BadParameter(f"expected sum or weights, got {release!r}", param_hint="--release")
        if (key_holders > 1 or release) and not backend.encrypted:
            raise typer.BadParameter(
                f"needs --backend {' or '.join(ENCRYPTED)}",
                param_hint="--release" if release else "--key-holders",
            )
        if profile is not Profile.ACTIVE and backend in (Backend.BFV, Backend.CKKS):
            raise typer.BadParameter(
                "bfv and ckks always reckon with a server that lies", param_hint="--profile"
            )
        if model not in MODELS:
            raise typer.BadParameter(f"expected {' or '.join(MODELS)}, got {model!r}", param_hint="--model")
        if model == "fedacnnl" and rounds > 1:
            raise typer.BadParameter(
                "fedacnnl makes one sum a layer: leave out --rounds", param_hint="--rounds"
            )
        if personalize and model != "fedacnnl":
            raise typer.BadParameter("needs --model fedacnnl", param_hint="--personalize")
        if groups > 1 and not personalize:
            raise typer.BadParameter("needs --personalize", param_hint="--groups")
        if epsilon is not None and not backend.exact:
            raise typer.BadParameter(
                "needs exact sums: --backend mask, bfv or bfv+mask", param_hint="--epsilon"
            )
        if epsilon is not None and model == "fedacnnl" and (encoder is not Encoder.SEEDED or personalize):
            raise typer.BadParameter(
                "needs the encoder seeded, which takes one sum, and no --personalize", param_hint="--epsilon"
            )
        if clip is not None and (epsilon is None or model != "ridge"):
            raise typer.BadParameter(
                "needs --epsilon with ridge; what a network's head sees has norm 1", param_hint="--clip"
            )
        if audit_folder and backend is Backend.PLAIN:
            raise typer.BadParameter(
                "nothing is agreed on or signed with --backend plain", param_hint="--audit"
            )
        make_way(json_file)
        make_way(html, "--html")
        source = load(
            data,
            seed=seed,
            site_column=site_column,
            label_column=label_column,
            form=form(separator, decimal, encoding, sheet),
            codebook=codebook_file,
        )
        _print_columns(source)
        parts = partition(source, partition_spec or default_spec(source), clients, seed)
        settings = Settings(
            model=model,
            encoder=encoder.value,
            backend=backend,
            profile=profile,
            suite=suite,
            dropout=dropout,
            rounds=rounds,
            seed=seed,
            personalize=personalize,
            groups=groups,
            trusts_reports=trust_reports,
            device=device,
            key_holders=key_holders,
            release=release,
            audit=audit_folder,
            epsilon=epsilon,
            delta=delta,
            clip=clip,
        )
        if backend is Backend.PLAIN:
            console.print(
                "[bold red]plain:[/] every client's statistics are shown to the server", highlight=False
            )
        if backend in (Backend.BFV, Backend.CKKS):
            console.print(
                f"[yellow]{backend}:[/] a client in league with the server, or the key holders with it, could read "
                "others' uploads; bfv+mask bears either",
                highlight=False,
            )
        with progress(settings.phases(source)) as watch:
            result = run(source, parts, settings, watch)
        write_json(json_file, result.figures)
        if html:
            from secure_afl.simulations.show.report import run_page  # jinja2 and matplotlib, which few need

            write_text(html, run_page(result, source.note, shlex.join(["secure-afl", *sys.argv[1:]])), "page")
        _print_run(result, source.note)
        if audit_folder:
            console.print(
                f"[dim]audit logs: secure-afl audit verify {escape(str(audit_folder))}/*.jsonl[/]",
                highlight=False,
                soft_wrap=True,
            )


@bench.command("masking")
def bench_masking_command(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go.", dir_okay=False)] = Path(
        "bench-masking.json"
    ),
    repeats: Annotated[int, typer.Option(help="Repeats of each figure; medians are shown.", min=1)] = 3,
) -> None:
    """Client masking rate against raw AES-256-CTR, and the whole protocol's CPU at three sizes."""
    with refusals_shown():
        make_way(json_file)
        with progress(masking.steps(repeats)) as watch:
            figures = masking.measure(repeats, watch)
        for table in masking.tables(figures):
            console.print(table)
        write_json(json_file, figures)


@bench.command("scale")
def bench_scale_command(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go.", dir_okay=False)] = Path(
        "bench-scale.json"
    ),
    clients: Annotated[
        list[int] | None,
        typer.Option(
            help="How many; give it several times for a curve.", min=20, show_default="100 to 10,000"
        ),
    ] = None,
    length: Annotated[int, typer.Option(help="Values of the sum.", min=1)] = 10_000,
    dropout: Annotated[
        float, typer.Option(help="Share that falls silent after the keys.", min=0, max=0.3)
    ] = 0.05,
    corrupted: Annotated[
        float, typer.Option(help="Share that may collude with the server.", min=0, max=0.3)
    ] = 0.05,
    suite: Annotated[Suite, typer.Option(help="Keys of the clients.")] = Suite.HYBRID,
    plot: Annotated[
        Path | None, typer.Option(help="Draw cost against clients into this file.", dir_okay=False)
    ] = None,
) -> None:
    """One sum over up to thousands of clients with the sparse graph, every client simulated in full."""
    from secure_afl.simulations.benchmarks import scale

    with refusals_shown():
        make_way(json_file)
        make_way(plot, "--plot")
        counts = clients or [100, 300, 1000, 3000, 10_000]
        sizes = [scale.Scale(n, length, dropout, corrupted, suite) for n in counts]
        with progress(scale.steps(sizes), lines=True) as watch:
            figures = scale.measure(sizes, watch)
        for table in scale.tables(figures):
            console.print(table)
        write_json(json_file, figures)
        if plot:
            scale.plot(figures, plot)


@bench.command("homomorphic")
def bench_homomorphic_command(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go.", dir_okay=False)] = Path(
        "bench-homomorphic.json"
    ),
    repeats: Annotated[int, typer.Option(help="Repeats of each figure; medians are shown.", min=1)] = 3,
) -> None:
    """Bytes and CPU of encrypted sums beside the form in which NVFlare uses TenSEAL, and whole sessions."""
    from secure_afl.simulations.benchmarks import homomorphic  # loads TenSEAL

    with refusals_shown():
        make_way(json_file)
        with progress(homomorphic.steps(repeats)) as watch:
            figures = homomorphic.measure(repeats, watch)
        for table in homomorphic.tables(figures):
            console.print(table)
        write_json(json_file, figures)


# ---- what is printed -----------------------------------------------------------------------------

_MOST_COLUMNS = 40
_IDENTICAL = {True: "[green]equal, bit for bit[/]", False: "[bold red]DIFFERENT[/]"}


def _print_columns(source: Dataset) -> None:
    """What is learned from, before anything is."""
    if not source.about:
        return
    shown = terminal.table(
        f"{escape(source.name)}: columns", ("column", "kind", "values", "missing"), names=3
    )
    for name, kind, values, missing in source.about[:_MOST_COLUMNS]:
        shown.add_row(escape(name), kind, escape(values), f"{missing:.1%}" if missing else "–")
    if len(source.about) > _MOST_COLUMNS:
        shown.add_row(f"… and {len(source.about) - _MOST_COLUMNS} more", *[""] * 3)
    console.print(shown)


def _identical(figures: dict[str, Any]) -> str:
    if figures["sums_bit_identical"] is not None:
        return _IDENTICAL[figures["sums_bit_identical"]]
    if figures["backend"] == "plain":
        return "not compared: nothing is masked"
    if figures["privacy"]:
        return "not compared: the sum has noise that only the clients know"
    if figures["encryption"]["released"] == "weights":
        return "not compared: the key holder released the weights only"
    return "not compared: CKKS is approximate"


def _print_run(result: Run, note: str) -> None:
    figures = result.figures
    accuracy, sizes, seconds = figures["accuracy"], figures["bytes"], figures["seconds"]

    title = (
        f"{escape(figures['data'])}: training rows, and accuracy on each client's own test rows and on all"
    )
    kinds = {
        "alone": "alone, own",
        "together_by_client": "together, own",
        "personal_by_client": "personal, own",
    }
    kinds = {kind: heading for kind, heading in kinds.items() if kind in accuracy} | {
        "alone_on_all": "alone, all"
    }
    table = terminal.table(title, ("client", "rows", "in the sum", *kinds.values()))
    shown = figures["clients"][:20]
    for name in shown:
        scores = (accuracy[kind].get(name) for kind in kinds)
        table.add_row(
            escape(name),
            str(figures["rows"][name]),
            result.presence(name),
            *(f"{s:.3f}" if s is not None else "–" for s in scores),
        )
    if len(figures["clients"]) > len(shown):
        table.add_row(f"… and {len(figures['clients']) - len(shown)} more", *[""] * (2 + len(kinds)))
    console.print(table)

    if result.costs:
        keepers = ("holder bytes", "CPU ms") if "encryption" in figures else ()
        table = terminal.table(
            "cost by phase, first keys, then sums; medians over clients",
            ("phase", "bytes up", "bytes down", "client CPU ms", "server CPU ms", *keepers),
        )
        of_keys = True
        for phase, cost in result.phases.items():
            if of_keys != (of_keys := phase in KEY_PHASES):
                table.add_section()
            table.add_row(
                phase,
                *(f"{middle(part):,.0f}" for part in (cost.up, cost.down)),
                f"{1e3 * middle(cost.client_seconds):.2f}",
                f"{1e3 * cost.server_seconds:.2f}",
                *((f"{cost.holder_bytes:,}", f"{1e3 * cost.holder_seconds:.2f}") if keepers else ()),
            )
        console.print(table)
    if "encryption" in figures:
        console.print(
            "{parameter_set}, {key_holders} key holder(s), releasing the {released}; up to {values_per_round:,} values a "
            "sum, {fraction_bits} fraction bits".format(**figures["encryption"]),
            highlight=False,
        )
    if "parameters" in figures:
        chosen = figures["parameters"]
        borne = (
            f" (dropouts borne: {chosen['dropouts_borne']})" if chosen["dropouts_borne"] is not None else ""
        )
        text = "{profile} server, {suite} keys, ".format(**figures)
        text += "{neighbours} neighbours, threshold {threshold}{borne}; ".format(**chosen, borne=borne)
        text += "up to {values_per_round:,} values a sum, {word_bytes} bytes each, {fraction_bits} fraction bits".format(
            **chosen
        )
        console.print(text, highlight=False)
    lines = {
        "accuracy, all test rows": "together {together:.3f}, pooled in the clear {pooled_plain:.3f}".format(
            **accuracy
        ),
        "secure and integer sum": _identical(figures),
        "distance to pooled weights": "{weight_difference:.1e} measured".format(**figures)
        + (
            ", {certificate:.1e} proven (certificate)".format(**figures)
            if not figures["privacy"]
            else ", of noise"
        ),
        "a client uploads": "{upload_per_client:,} bytes (float64: {plain_float64_per_client:,}); keys {key_exchange_per_client:,}".format(
            **sizes
        ),
        "CPU seconds": "client {client:.4f}, server {server:.4f}, in the clear {plain:.6f}".format(**seconds),
    }
    if private := figures["privacy"]:
        lines["differential privacy"] = (
            "ε = {epsilon:g}, δ = {delta:g} for every row, whoever sees the model; needs {fewest_survivors} clients in "
            "the sum, {not_counted_on} of them not trusted to add noise; rows of norm up to {row_norm:g}".format(
                **private
            )
        )
    if "encryption" in figures:
        lines["CPU seconds"] += ", key holders {key_holders:.4f}".format(**seconds)
    if "personal" in accuracy:
        sizes = ", ".join(map(str, figures["groups"]))
        lines["personal models"] = f"{accuracy['personal']:.3f} on own test rows; clients by group: {sizes}"
    for name, text in lines.items():
        console.print(f"{name:<27}{text}", highlight=False)
    for warning in figures.get("warnings", ()):
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for refusal in result.refusals:
        console.print(f"[yellow]refused:[/] {escape(str(refusal))}", highlight=False)
    console.print(f"[dim]{escape(note)}[/]", highlight=False)
