"""`crowdlearn privacy`: attacks with the values that each role of a group receives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from crowdlearn_device.platform.files import write_atomically
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.output import Force, claim
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import terminal
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.runs.results.spent import spent_of

if TYPE_CHECKING:
    from crowdlearn_host.privacy.audit.audit import Finding

TITLE = "crowdlearn privacy audit"


def privacy(
    target: Annotated[Path, typer.Argument(help="A run's folder, or a plan (JSON).", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with training data like that of the devices, or 'digits'. Without it, only the "
            "epsilon of the run is printed.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of the plan.", show_default=False)] = None,
    samples: Annotated[int, typer.Option(min=8, help="Training samples of each device.")] = 1040,
    own: Annotated[int, typer.Option(min=64, help="Samples that the attacker owns.")] = 10_000,
    epochs: Annotated[int, typer.Option(min=1, max=20, help="Epochs to train before the attacks.")] = 2,
    phones: Annotated[
        bool, typer.Option("--phones", help="Train on virtual phones, and record their messages.")
    ] = False,
    quick: Annotated[bool, typer.Option(help="Train the attackers' decoders for a shorter time.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with the reconstructed images.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Attack a run or a plan as each role of a group could, and print what that role learns.

    A group of devices trains on this computer with the devices' own code, from the run's newest weights, and
    all messages are recorded. With --phones, virtual phones train from the first weights. The epsilon that a
    run has spent is printed as well. For a simulated run, which sends no messages, that is all.
    """
    if not target.exists():
        raise ConfigError(f"{target} is not there; name a run's folder, or a plan (JSON)")
    account = spent_of(target) if target.is_dir() else None
    if account is not None and (data is None or is_simulated(target)):
        if html is not None:
            raise ConfigError("--html is a page of attacks, which a run of phones or a plan has, with --data")
        with document(as_json) as tell:
            tell({"rows": [], "privacy": account.to_json()})
        if not as_json:
            for line in account.lines():
                terminal().print(line, highlight=False)
        return
    if data is None:
        raise ConfigError("a plan is attacked with data like the devices': give --data FOLDER")
    if html is not None:
        claim(html, force=force, is_own=lambda text: f"<title>{TITLE}" in text)
    with document(as_json) as tell:
        with Working(terminal(stderr=True), "preparing") as working:
            from crowdlearn.privacy import Terms, audit  # imports the exporter

            terms = Terms(samples=samples, own=own, epochs=epochs, phones=phones, quick=quick)
            found = audit(target, data, model=model, terms=terms, on_step=working.step)
        findings = list(found.findings)
        if html is not None:
            write_atomically(html, found.page(TITLE).encode())
        fields = {} if account is None else {"privacy": account.to_json()}
        tell({"rows": [finding.row() for finding in findings], **fields})
    if not as_json:
        if account is not None and account.is_private:
            for line in account.lines():
                terminal().print(line, highlight=False)
        print_findings(terminal(), findings)
        terminal().print(Text.assemble("worst: ", (worst(findings), "bold")))


def is_simulated(run: Path) -> bool:
    """Return whether a folder is that of a simulated run."""
    return (run / "metrics.jsonl").exists() and not (run / "run.db").exists()


def print_findings(console: Console, findings: list[Finding]) -> None:
    """Print a table of findings; in brackets is what needs no message at all."""
    from crowdlearn_host.privacy.audit.page import in_words

    modes = len({finding.mode for finding in findings}) > 1
    rows = []
    for finding in findings:
        beside = [
            f"{own} ({in_words(finding, f'prior_{name}')})" if (own := in_words(finding, name)) else ""
            for name in ("psnr", "ssim")
        ]
        rows.append((*beside, *(in_words(finding, name) for name in ("reid", "label_accuracy", "auc"))))
    heads = ("PSNR, dB", "SSIM", "re-id, %", "labels, %", "AUC")
    shown = [k for k in range(len(heads)) if any(row[k] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in (*(["mode"] if modes else []), "role", "attack"):
        table.add_column(head, overflow="fold")
    for k in shown:
        table.add_column(heads[k], justify="right", no_wrap=True)
    for finding, row in zip(findings, rows, strict=True):
        names = (*([finding.mode] if modes else []), finding.role, finding.attack)
        table.add_row(*names, *(row[k] for k in shown))
    console.print(table)
    console.print("re-id: samples that are picked out of all devices'; in brackets: without any message")


def worst(findings: list[Finding]) -> str:
    """Return the single role that learns most, and what it learns, in one sentence."""
    alone = [f for f in findings if f.role in ("follower", "helper", "heir", "host")]
    images = max(
        (f for f in alone if f.psnr is not None),
        key=lambda f: (f.psnr or 0) - (f.prior_psnr or 0),
        default=None,
    )
    read = max(
        (f for f in alone if f.label_accuracy is not None), key=lambda f: f.label_accuracy or 0, default=None
    )
    parts = []
    if read is not None:
        parts.append(
            f"one {read.role} reads {100 * (read.label_accuracy or 0):.1f} % of the labels ({read.attack})"
        )
    if images is not None:
        parts.append(
            f"one {images.role} reconstructs samples at {images.psnr:.1f} dB ({images.prior_psnr:.1f} dB "
            f"without messages), and re-identifies {100 * (images.reid or 0):.1f} % ({images.attack})"
        )
    member = max((f for f in alone if f.auc is not None), key=lambda f: f.auc or 0, default=None)
    if member is not None:
        parts.append(
            f"one {member.role} recognises members with an AUC of {member.auc:.2f} ({member.attack})"
        )
    return "; ".join(parts) or "no attack applies"
