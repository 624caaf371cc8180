"""The audit's page: a table of findings, and the victim's pictures beside their reconstructions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from matplotlib import image

from crowdlearn_host.report.html_page import STYLE

from .audit import Finding, image_shape

COLUMNS = {
    "psnr": ("PSNR, dB", 1.0, ".1f"),
    "prior_psnr": ("prior only", 1.0, ".1f"),
    "ssim": ("SSIM", 1.0, ".2f"),
    "prior_ssim": ("prior only", 1.0, ".2f"),
    "reid": ("re-identified, %", 100.0, ".1f"),
    "label_accuracy": ("labels read, %", 100.0, ".1f"),
    "auc": ("membership AUC", 1.0, ".3f"),
}
"""The heading, factor and format of each figure, by its name."""
PIXELS = ".pixels img { image-rendering: pixelated; width: 100%; max-width: 720px; }"


def in_words(finding: Finding, name: str) -> str:
    """Return a figure of a finding as text, empty if the attack has none."""
    value = getattr(finding, name)
    _, factor, form = COLUMNS[name]
    return "" if value is None else format(factor * value, form)


def page(title: str, findings: Sequence[Finding], victims: Floats) -> str:
    """Return an HTML page without scripts. `victims` are the victim's first samples, float32 [N, ...]."""
    heads = "".join(f"<th>{escape(head)}</th>" for head, _, _ in COLUMNS.values())
    rows = "".join(
        f"<tr><td>{escape(f.mode)}</td><td>{escape(f.role)}</td><td>{escape(f.attack)}</td>"
        + "".join(f"<td>{in_words(f, name)}</td>" for name in COLUMNS)
        + "</tr>"
        for f in findings
    )
    table = f"<table><tr><th>mode</th><th>role</th><th>attack</th>{heads}</tr>{rows}</table>"
    shape = image_shape(victims.shape[1:])
    pictures = ""
    if shape is not None:
        strips = [("the victim's samples", victims)]
        strips += [(f"{f.role}: {f.attack}", f.pictures) for f in findings if f.pictures is not None]
        span = float(victims.min()), float(victims.max())
        pictures = "".join(
            f"<section class='pixels'><h2>{escape(name)}</h2>"
            f"<img alt='{escape(name)}' src='data:image/png;base64,{_strip(shown, shape, span)}'></section>"
            for name, shown in strips
        )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{STYLE}{PIXELS}</style><body><h1>{escape(title)}</h1>"
        f"<section>{table}</section>{pictures}</body></html>\n"
    )


def _strip(samples: Floats, shape: tuple[int, ...], span: tuple[float, float]) -> str:
    """Return images side by side as PNG in base64."""
    images = samples.reshape(-1, *shape)
    if len(shape) == 3:
        images = images.transpose(0, 2, 3, 1)
    row = np.concatenate(list(images), axis=1)
    row = np.clip((row - span[0]) / ((span[1] - span[0]) or 1.0), 0, 1)
    file = io.BytesIO()
    image.imsave(
        file, row.squeeze(-1) if row.ndim == 3 and row.shape[2] == 1 else row, cmap="gray", vmin=0, vmax=1
    )
    return base64.b64encode(file.getvalue()).decode()
