"""The command line: `secure-afl`.

A command imports what it needs when it runs, so that `--help`, `keys`, `policy` and `audit` answer at once.
"""

import typer

from secure_afl.cli.audit import audit
from secure_afl.cli.codebook import codebook
from secure_afl.cli.federation import accept, join, members, provision
from secure_afl.cli.keys import keys
from secure_afl.cli.ledger import budget_command, ledger
from secure_afl.cli.model import evaluate_command, predict_command, show_command
from secure_afl.cli.node import check, node, serve, status
from secure_afl.cli.policy import policy
from secure_afl.cli.study import study
from secure_afl.simulations.cli.attack import attack
from secure_afl.simulations.cli.bench import bench
from secure_afl.simulations.cli.experiment import experiment
from secure_afl.simulations.cli.flower import flower
from secure_afl.simulations.cli.overhead import overhead
from secure_afl.simulations.cli.run import run_command
from secure_afl.simulations.cli.verify import verify_aggregator

app = typer.Typer(
    help="Learn one model from several parties' data; only masked sums leave a party.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench, name="bench")
app.add_typer(experiment, name="experiment")
app.add_typer(keys, name="keys")
app.add_typer(policy, name="policy")
app.add_typer(codebook, name="codebook")
app.add_typer(ledger, name="ledger")
app.command("budget")(budget_command)
app.add_typer(audit, name="audit")
app.add_typer(flower, name="flower")
app.command("provision")(provision)
app.add_typer(members, name="members")
app.command("join")(join)
app.command("accept")(accept)
app.command("node")(node)
app.command("serve")(serve)
app.command("check")(check)
app.command("status")(status)
app.add_typer(study, name="study")
app.command("attack")(attack)
app.command("overhead")(overhead)
app.command("run")(run_command)
app.command("verify-aggregator")(verify_aggregator)
app.command("predict")(predict_command)
app.command("evaluate")(evaluate_command)
app.command("show")(show_command)
