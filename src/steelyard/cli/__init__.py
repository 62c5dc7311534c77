"""The command line: thin verbs over the library.

Verbs are imported when they are called, so that `steelyard --help` costs what click costs.
"""

from __future__ import annotations

import importlib
import sys

import click

from steelyard import __version__
from steelyard.errors import SteelyardError, UserError

# Verb -> what it does, in the order of the help page. The module of a verb is `steelyard.cli.<verb>`, with
# underscores, and its command is called `command`.
VERBS = {
    "weigh": "What is in a model, and what it takes to store.",
    "fit": "The best model that fits a size, with a report that proves it.",
    "quantize": "One codec for every matrix, streamed.",
    "prepare": "The same function in weights that are easier to round, proved in float64.",
    "tune": "Train the codes of a quantized model; its bytes stay.",
    "merge": "One model out of several, as a mergekit recipe says.",
    "convert": "The same quantized weights in another format.",
    "nest": "Every size of a model in one file, to load, grow and shed.",
    "shed": "The beginning of a nested folder that fits a size.",
    "experts": "Several experts of one base: search, learn or average a merge, or keep all in one.",
    "align": "A model's units in the order of another's, proved in float64.",
    "fuse": "One model of two that were trained apart.",
    "stitch": "Two models and many between them in one folder, to switch at run time.",
    "bridge": "A model that attends to another through trained bridges; both stay as they are.",
    "barrier": "The loss along a path between models.",
    "merge-lora": "A model with a LoRA adapter in its weights, streamed.",
    "extract-lora": "The difference of two models as an adapter that peft loads.",
    "forecast": "Scaling laws from a table of runs: what loss, how sure, which law to believe.",
    "parametrize": "Initial values, learning rates and multipliers that carry over from a smaller model.",
    "measure": "Is the result as good? Loss, divergence from the base, embeddings.",
    "outliers": "Which channels of weights and inputs make a model hard to round.",
    "run": "Carry out a recipe.",
    "verify": "Read an output folder again, independently, and check it.",
    "report": "Build a folder's report again.",
    "methods": "The table of methods.",
    "train-reference": "Train the reference model on Python's standard library.",
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"steelyard.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            ctx.fail(f"no verb {args[0]!r}; {hint}available: {', '.join(VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="steelyard")
def application() -> None:
    """Give it a checkpoint and a budget; it returns the best model that fits, with the evidence."""


def main() -> None:
    """Run the command line; a user's mistake ends with one line on standard error and exit code 2."""
    try:
        code = application.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _interrupted()
    except KeyboardInterrupt:
        _interrupted()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UserError as error:
        click.echo(f"steelyard: {error}", err=True)
        sys.exit(2)
    except SteelyardError as error:
        click.echo(f"steelyard: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        # A full or read-only disk, a file that went away: the system's own words, and never a traceback.
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"steelyard: {place}{error.strerror or error}", err=True)
        sys.exit(2)


def _interrupted() -> None:
    click.echo("\nsteelyard: interrupted; run the same command with --resume to go on", err=True)
    sys.exit(130)
