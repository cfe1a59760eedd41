"""The command line of critic: which command lies where."""

import typer

from configs.terminal import keep_interrupts, quiet_libraries
from featurize.commands import featurize_command, inspect_command
from featurize.data.commands import audit_command
from featurize.data.prepare.commands import (
    prepare_codecontests_command,
    prepare_columns_command,
    prepare_split_command,
    prepare_tests_command,
)
from headtrain.commands import sweep_command, train_head_command
from headtrain.evaluation.commands import compare_command, eval_command
from headtrain.scoring.commands import score_command

# NOTE: commands import what they need inside, so that `critic --help` loads no torch.

app = typer.Typer(
    help="Train a verifiable critic for code: featurize once, train heads in seconds, judge them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
prepare = typer.Typer(help="Make a dataset in critic's sample format.", no_args_is_help=True)


@app.callback()
def _before_commands() -> None:
    quiet_libraries()
    keep_interrupts()


app.add_typer(prepare, name="prepare")
prepare.command("codecontests")(prepare_codecontests_command)
prepare.command("columns")(prepare_columns_command)
prepare.command("split")(prepare_split_command)
prepare.command("tests")(prepare_tests_command)
app.command("audit")(audit_command)
app.command("featurize")(featurize_command)
app.command("inspect")(inspect_command)
app.command("train-head")(train_head_command)
app.command("sweep")(sweep_command)
app.command("eval")(eval_command)
app.command("compare")(compare_command)
app.command("score")(score_command)

if __name__ == "__main__":
    app()
