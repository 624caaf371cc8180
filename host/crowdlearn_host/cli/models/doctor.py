"""`crowdlearn doctor`: check whether a model can be sliced and trained, before anything is exported."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import crowdlearn
import typer
from rich.table import Table
from rich.text import Text

from crowdlearn_host.adb.deployment.bundle import MakeBundle
from crowdlearn_host.adb.deployment.runtimes import default_bundle
from crowdlearn_host.bundle import Bundle
from crowdlearn_host.cli.console.document import Json, document
from crowdlearn_host.cli.console.silence import Working
from crowdlearn_host.cli.console.terminal import size, terminal
from crowdlearn_host.common import event_loop
from crowdlearn_host.devices.discovery import dial
from crowdlearn_host.devices.trial import ALLOWED, PhoneTrial, try_on_phone
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.names import check_name, stated_shape
from crowdlearn_host.spec.loss import LossKind
from crowdlearn_host.spec.run_spec import RunSpec

if TYPE_CHECKING:
    from crowdlearn_export.doctor.doctor import Diagnosis, Savings
    from crowdlearn_export.doctor.module_reports import ModuleReport
    from crowdlearn_export.doctor.trial import Trial

SLICES = (
    "yes; a device runs the last layers that it holds whole in one call, from sums to the loss and back; "
    "a device that holds all layers runs a training step in one call"
)


def doctor(
    model: Annotated[
        str,
        typer.Argument(
            help="paper-mlp, mlp:784-100-10, file.py:function, or the description of a run (.toml)."
        ),
    ],
    shape: Annotated[
        str, typer.Option(help="Shape of one sample, such as 3x32x32.", show_default=False)
    ] = "",
    batch: Annotated[int, typer.Option(help="Largest micro-batch.", min=2, max=4096)] = 32,
    loss: Annotated[LossKind, typer.Option(help="Loss of the training.")] = LossKind.cross_entropy,
    phone: Annotated[
        str,
        typer.Option(
            help="Serial of a phone; run the training step there as well, and compare.", show_default=False
        ),
    ] = "",
    key: Annotated[Path | None, typer.Option(help="Private adb key [default: ~/.android/adbkey].")] = None,
    as_json: Json = False,
) -> None:
    """Check which modules slice, which only train whole and which do not train, and what a step costs."""
    named: str | RunSpec = model
    if model.endswith(".toml"):
        named, sample = _described(model, shape, loss), None
    else:
        check_name(model)
        sample = stated_shape(model, shape)
    with document(as_json) as tell:
        if phone:
            with Working(terminal(stderr=as_json), f"looking for {phone}, whose screen may ask"):
                event_loop.run(_reach(phone, key))
        with Working(terminal(stderr=as_json), f"compiling a training step of {model}"):
            report = crowdlearn.diagnose(named, sample, batch=batch, loss=loss.value)
        tried = None
        if phone and not report.compiles:
            with Working(terminal(stderr=as_json), f"running the step on {phone}") as working:
                from crowdlearn.models import trial_of

                def bundle(abi: str) -> Bundle:
                    working.step(f"looking for the bundle for {abi}, which is made once for all phones")
                    made = default_bundle(abi)
                    working.step(f"copying the bundle to {phone}, and running the step on it")
                    return made

                trial = trial_of(named, sample, batch, loss.value)
                tried = event_loop.run(_try(phone, key, trial, bundle))
        fields = {"phone": {**asdict(tried), "agrees": tried.agrees}} if tried else {}
        tell({"model": model, **asdict(report), **fields})
    if not as_json:
        _show(model, report)
        if tried:
            terminal().print(_compared(tried))
    if tried and not tried.agrees:
        raise typer.Exit(1)


def _described(path: str, shape: str, loss: LossKind) -> RunSpec:
    """Return a run's description. Raises ConfigError if options repeat what it contains."""
    if shape or loss != LossKind.cross_entropy:
        raise ConfigError(f"{path} tells the shape of a sample and the loss: leave out --shape and --loss")
    return RunSpec.load(path)


async def _reach(serial: str, key: Path | None) -> None:
    """Raise FleetError unless the phone is there and lets this computer in."""
    async with await dial(serial, key=key):
        pass


async def _try(serial: str, key: Path | None, trial: Trial, bundle: MakeBundle) -> PhoneTrial:
    async with await dial(serial, key=key) as device:
        return await try_on_phone(device, trial.pte, trial.inputs, trial.expected, bundle)


def _compared(tried: PhoneTrial) -> Text:
    verdict = ("agrees", "green") if tried.agrees else ("differs", "red")
    return Text.assemble(
        f"phone {tried.serial} ({tried.runtime}, {size(tried.sent)} sent, {tried.seconds:.1f} s): ",
        verdict,
        f", largest difference {tried.error:.0e} (at most {ALLOWED:.0e})",
    )


def _show(model: str, report: Diagnosis) -> None:
    console = terminal()
    table = Table(title=model)
    for column in ("module", "kind", "trains", "why"):
        table.add_column(column)
    for module in report.modules:
        table.add_row(module.name, module.kind, _verdict(module), module.reason)
    console.print(table)
    without = ("no", "red") if report.compiles else ("only trains whole", "yellow")
    console.print(
        Text.assemble("slices: ", *((without, f": {report.slices}") if report.slices else (SLICES,)))
    )
    for note in report.notes:
        console.print(Text.assemble(("note", "yellow"), f": {note}"))
    if report.private:
        console.print(Text.assemble(("with privacy.epsilon", "yellow"), f": {report.private}"))
    if report.frozen is not None:
        console.print(_saved(report.frozen))
    if report.compiles:
        console.print(
            Text.assemble("whole training step: ", ("does not compile", "red"), f": {report.compiles}")
        )
        return
    passed = ("passed", "green") if report.exact else ("failed", "red")
    peak = report.weight_bytes + report.step_bytes + report.program_bytes
    console.print(
        f"whole training step: one program of {size(report.program_bytes)}, "
        f"weights {size(report.weight_bytes)}; predicted peak memory {size(peak)}, of which "
        f"{size(report.step_bytes)} activations and workspace"
    )
    kernels = "XNNPACK's" if report.backend == "xnnpack" else "ExecuTorch's own"
    console.print(
        f"kernels: {kernels}, for products of {report.multiplications / 1e6:.3g} million multiplications"
        + ("; each device measures both, and takes the faster" if report.either else "")
    )
    console.print(
        Text.assemble(
            "gradients: ",
            passed,
            f", relative error {report.gradient_error:.0e} against float64 (at most {report.allowed:.0e})",
        )
    )


def _saved(frozen: Savings) -> str:
    """Return what freezing saves, in words."""
    (learn, weights), (macs, all_macs), (errors, all_errors) = frozen.weights, frozen.macs, frozen.errors
    return (
        f"frozen: {learn:,} of {weights:,} weights learn, have gradients and are shared; a sample takes "
        f"{macs / 1e6:.3g} of {all_macs / 1e6:.3g} million MAC, and errors of {errors:,} of "
        f"{all_errors:,} sums" + "".join(f"; {each} (training.frozen)" for each in frozen.rounded)
    )


def _verdict(module: ModuleReport) -> Text:
    if module.slices:
        return Text(f"sliced; {module.frozen}" if module.frozen else "sliced")
    return Text("only whole", "yellow") if module.trains else Text("no", "red")
