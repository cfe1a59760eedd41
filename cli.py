"""The command line of critic: every command by its name, with the function that it calls.

Options and examples are in `configs.options`, functions in `configs.commands`.
"""

from typing import Annotated

import typer

from configs.commands import comparison, datasets, evaluation, export, features, scoring, training
from configs.console import CommandLine, console, quiet_libraries
from configs.options import Chosen
from featurize.io.interrupts import keep_interrupts

# NOTE: commands import what they need inside, so that `critic --help` loads no torch.

app = CommandLine(
    help="Train a verifiable critic for code: featurize once, train heads in seconds, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
prepare = CommandLine(
    "prepare", help="Make a dataset in critic's sample format.", no_args_is_help=True
)
app.add_typer(prepare, name="prepare")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        console().print(f"critic {version('critic')}")
        raise typer.Exit


@app.callback()
def _before_commands(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    quiet_libraries()
    keep_interrupts()


def _demo_hint(*, chosen: Chosen, **_: object) -> str:
    """For whoever runs the production configuration and has no features yet."""
    from configs.project import has_features

    if chosen.config is not None or has_features(chosen.overrides):
        return ""
    return (
        " (without --config this is the production configuration; `--config configs/demo.yaml`"
        " needs neither a GPU nor a download)"
    )


prepare.command("tests")(datasets.prepare_tests)
prepare.command("doctests")(datasets.prepare_doctests)
prepare.command("codecontests")(datasets.prepare_codecontests)
prepare.command("human-eval")(datasets.prepare_human_eval)
prepare.command("evalplus")(datasets.prepare_evalplus)
prepare.command("livecodebench")(datasets.prepare_livecodebench)
prepare.command("lm-eval")(datasets.prepare_lm_eval)
prepare.command("columns")(datasets.prepare_columns)
prepare.command("split")(datasets.prepare_split)
app.command("audit", hint=_demo_hint)(datasets.audit)

app.command("featurize", hint=_demo_hint)(features.featurize)
app.command("import-features", hint=_demo_hint)(features.import_features)
app.command("merge-features", hint=_demo_hint)(features.merge_features)
app.command("inspect")(features.inspect)

app.command("train-head", hint=_demo_hint)(training.train_head)
app.command("sweep", hint=_demo_hint)(training.sweep)
app.command("eval", hint=_demo_hint)(evaluation.evaluate)
app.command("show", hint=_demo_hint)(evaluation.show)
app.command("compare", hint=_demo_hint)(comparison.compare)
app.command("report", hint=_demo_hint)(comparison.report)

app.command("score")(scoring.score)
app.command("serve")(scoring.serve)
app.command("export")(export.export)
app.command("push")(export.push)


if __name__ == "__main__":
    app(prog_name="critic")
