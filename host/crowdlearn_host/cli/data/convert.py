"""`crowdlearn convert`: make a data folder from samples in other forms. Each loader is a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import printable, terminal
from crowdlearn_host.loaders.base import Loader
from crowdlearn_host.loaders.conversion import Conversion, convert
from crowdlearn_host.loaders.registry import LOADERS

app = typer.Typer(
    help="Make a data folder from a table, images, text, tensors, or a Hugging Face data set.",
    no_args_is_help=True,
)

Source = Annotated[Path, typer.Argument(help="The file or folder with samples.", show_default=False)]
To = Annotated[Path, typer.Option("--to", help="The data folder to write.")]
Test = Annotated[
    Path | None, typer.Option("--test", help="File or folder with test samples; without it, some of SOURCE.")
]
TestShare = Annotated[float, typer.Option("--test-share", help="Fraction of the samples for the test split.")]
ValidationShare = Annotated[
    float, typer.Option("--validation-share", help="Fraction of the samples for the validation split.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random splits.")]
Overwrite = Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")]


def _command(loader: type[Loader[Any]]) -> Callable[..., None]:
    """Return the command of a loader, whose options are the loader's fields and those of every
    conversion.
    """

    def command(
        source: Source,
        to: To,
        test: Test = None,
        test_share: TestShare = 0.2,
        validation_share: ValidationShare = 0.0,
        seed: Seed = 0,
        force: Overwrite = False,
        as_json: Json = False,
        **options: Any,
    ) -> None:
        with document(as_json) as tell:
            with Working(terminal(stderr=as_json), f"reading {source}") as working:
                done = convert(
                    loader(**options),
                    source,
                    to,
                    test=test,
                    test_share=test_share,
                    validation_share=validation_share,
                    seed=seed,
                    force=force,
                    on_step=working.step,
                )
            for note in done.notes:
                typer.echo(f"note: {printable(note)}", err=True)
            tell(asdict(done))
        if not as_json:
            _show(done)

    own, hints = (
        inspect.signature(command, eval_str=True).parameters,
        get_type_hints(loader, include_extras=True),
    )
    parameters = [each for each in own.values() if each.kind is not each.VAR_KEYWORD]
    for each in fields(loader):  # type: ignore[arg-type]
        kind, help = get_args(hints[each.name])
        needed = each.default is MISSING
        option = (
            typer.Option(f"--{each.name.replace('_', '-')}", help=help)
            if kind is not bool
            else (typer.Option(help=help))
        )
        parameters.append(
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[kind, option],
                default=inspect.Parameter.empty if needed else each.default,
            )
        )
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in keywords}
    command.__doc__ = loader.about
    return command


for _kind, _loader in LOADERS.items():
    app.command(_kind)(_command(_loader))


def _show(done: Conversion) -> None:
    """Print a conversion in three lines."""
    counts = ", ".join(f"{count} {split}" for split, count in done.splits.items())
    typer.echo(f"{done.folder}: {counts} samples {list(done.sample)}, {done.labels}")
    if done.classes:
        typer.echo(
            f"classes from 0: {printable(', '.join(done.classes[:20]))}"
            + (", ..." if len(done.classes) > 20 else "")
        )
    typer.echo(f'to train on them, set data = "{done.folder}" in the description of a run')
