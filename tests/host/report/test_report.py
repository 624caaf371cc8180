"""A run's report is one page that needs nothing else, tells what happened, and trusts nobody's words."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from crowdlearn_host.cli.runs.report import report
from crowdlearn_host.cli.runs.simulate import simulate
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import RunError
from crowdlearn_host.planner.plan import EpochBytes, PiecePlan, Plan, save_plan
from crowdlearn_host.planner.problem.fleet import DeviceClass, Fleet
from crowdlearn_host.report.charts import MAX_POINTS, bars, curves
from crowdlearn_host.report.html_page import is_page
from crowdlearn_host.report.page import page
from crowdlearn_host.report.run import read_run
from crowdlearn_host.runs.results.joules import EnergyCount

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def phones(tmp_path: Path) -> Path:
    """A run folder as training on phones writes it, with a device that calls itself a script."""
    path = tmp_path / "phones-run"
    with RunFolder(path, create=True) as folder:
        folder.write("config.toml", 'name = "phones"\n')
        folder.write("environment.json", '{"torch": "2"}')
        plan = {"pieces": [[[0, 6], [0, 0], [0, 4]], [[6, 6], [0, 5], [4, 4]], [[6, 6], [5, 9], [4, 4]]]}
        folder.write("plan.json", json.dumps(plan))
        for step in range(5):
            spent = {"activation": 1000 * (step + 1), "recovery": 0}
            folder.metric(epoch=0, boundary=step + 1, rows=8, loss=2.0 / (step + 1), correct=4, bytes=spent)
        folder.event("pass", epoch=0, device=HOSTILE, boundary=5)
        folder.event("recovering", why=f"{HOSTILE} left", boundary=3)
        folder.event("evaluated", epoch=0, test_loss=0.4, test_accuracy=0.875)
        traffic: list[dict[str, str | int]] = [
            {"device": HOSTILE, "direction": way, "purpose": "activation", "bytes": size, "messages": 1}
            for way, size in (("up", 2_000_000), ("down", 1_000_000))
        ]
        folder.save({0: {}}, traffic)
    return path


def test_a_run_of_phones_is_told_whole_and_its_words_are_escaped(phones: Path) -> None:
    run = read_run(phones)
    assert run.loss[-1] == (40.0, 0.4)
    assert run.accuracy == ((40.0, 87.5),)
    assert (run.traffic[0].sent, run.traffic[0].received) == (2_000_000, 1_000_000)
    told = page(run)
    assert HOSTILE not in told
    for words in ("87.50 %", "recovering", "piece 0 (dominator)", "phones-run", "3 MB"):
        assert words in told


def test_damaged_lines_are_left_out_and_told(phones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_run(phones)
    with (phones / "metrics.jsonl").open("ab") as file:
        file.write(b'{"loss": 1\n\xff\xfe\n[1]\n' + b"[" * 100_000 + b"\n")
        file.write(b'{"loss": "x", "rows": 1}\n{"epoch": 0, "bytes": {"error": []}}\n{"bytes": 1}\n')
    report(phones)
    assert "metrics.jsonl: 7 of 12 lines are damaged (6, 7, 8, 9, 10, ...)" in capsys.readouterr().err
    assert read_run(phones).loss == whole.loss
    assert "7 of 12 lines are damaged" in (phones / "report.html").read_text()
    (phones / "metrics.jsonl").write_text("nothing\n")
    with pytest.raises(RunError, match=r"no line of metrics\.jsonl can be read"):
        report(phones)


def test_energy_is_modelled_where_the_plan_tells_what_work_costs(phones: Path) -> None:
    assert read_run(phones).joules == {}
    costs: dict[str, Any] = {
        "joules_per_mac": 1e-3,
        "joules_per_byte_sent": 1e-6,
        "joules_per_byte_received": 2e-6,
    }
    kind = DeviceClass(name="all", devices=("phone-0", "phone-1"), samples=8, macs_per_second=1e6, **costs)
    pieces = (PiecePlan(((0, 6), (0, 0), (0, 4)), macs=10.0), PiecePlan(((6, 6), (0, 9), (4, 4)), macs=20.0))
    plan = Plan(pieces, fleet=Fleet.model_validate({"class": (kind,)}))
    save_plan(plan, phones / "plan.json")
    with RunFolder(phones, create=False) as folder:
        folder.event("assigned", holders=["phone-0", "phone-1"], spares=[], epoch=0, dominator="phone-0")
        folder.metric(epoch=0, boundary=6, rows=8, loss=0.25, correct=4)
        row = {"device": "phone-1", "direction": "up", "purpose": "error", "bytes": 3_000_000, "messages": 1}
        folder.save({}, traffic=[row])
    run = read_run(phones)
    assert run.joules == pytest.approx({"phone-0": 0.08, "phone-1": 0.16 + 3.0})
    shown = page(run)
    assert "Energy of each device, modelled" in shown
    assert [(each.device, each.piece, each.purpose) for each in run.spent] == [
        ("phone-0", 0, "compute"),
        ("phone-1", 1, "compute"),
        ("phone-1", -1, "error"),
    ]
    assert all(f"{each.joules:.3g}" in shown and each.source in shown for each in run.spent)
    assert {str(each.provenance) for each in run.spent} == {"modelled"}
    counted = EnergyCount(plan)
    counted.take("assigned", {"holders": ["phone-0", "phone-1"]})
    counted.take("progress", {"rows": 8})
    assert counted.spent([row]) == list(run.spent)
    resumed = EnergyCount(plan, read_lines(phones / "events.jsonl"), read_lines(phones / "metrics.jsonl"))
    assert resumed.spent([row]) == list(run.spent)
    assert EnergyCount(Plan(pieces)).spent([row]) == []


def test_a_run_is_compared_with_what_its_plan_sends_in_so_many_epochs(phones: Path) -> None:
    """The first epoch has no way back to the first turn, and devices do not send what they download."""
    pieces = (PiecePlan(((0, 6), (0, 0), (0, 4))), PiecePlan(((6, 6), (0, 9), (4, 4))))
    planned = EpochBytes(10.0, 20.0, 40.0, 60.0, snapshots=5.0, keys=1.0, returning=30.0, downloads=30.0)
    save_plan(Plan(pieces, traffic=planned), phones / "plan.json")
    before = {each.purpose: each.sent for each in read_run(phones).ledger}
    with RunFolder(phones, create=False) as folder:
        for epoch in (0, 1):
            folder.event("epoch", epoch=epoch)
        sent = {"direction": "up", "messages": 1, "device": "phone-1"}
        received = {**sent, "direction": "down"}
        folder.save(
            {},
            traffic=[
                {**sent, "purpose": "shuffle", "bytes": 50},
                {**sent, "purpose": "sharing", "bytes": 60},
                {**received, "purpose": "sharing", "bytes": 60},
            ],
        )
    told = {each.name.partition(",")[0]: each for each in read_run(phones).compared}
    assert (told["shuffle"].planned, told["sharing"].planned) == (25.0, 30.0)
    assert told["recovery"].planned == 6.0
    for purpose, sent_bytes in (("shuffle", 50), ("sharing", 60)):
        assert told[purpose].measured == (before[purpose] + sent_bytes) / 2


def test_what_a_recovery_repeats_counts_once(phones: Path) -> None:
    with RunFolder(phones, create=False) as folder:
        for boundary in (3, 4, 5, 6):  # back at boundary 2, and on from there
            folder.metric(
                epoch=0, boundary=boundary, rows=8, loss=0.25, correct=4, bytes={"activation": 9000}
            )
    run = read_run(phones)
    assert run.loss == ((8.0, 2.0), (16.0, 1.0), (24.0, 0.25), (32.0, 0.25), (40.0, 0.25), (48.0, 0.25))
    assert run.bytes["activation"][-2][1] == 9000 / 1e6
    assert run.bytes["activation"][-1][1] == run.ledger[0].sent / 1e6 == 2.0


def test_a_line_that_was_cut_short_hides_no_other(phones: Path) -> None:
    for name in ("metrics.jsonl", "events.jsonl"):
        with (phones / name).open("a") as file:
            file.write('{"time": 1.5, "ev')
    with RunFolder(phones, create=False) as folder:
        folder.metric(epoch=0, boundary=6, rows=8, loss=0.25, correct=4, bytes={})
        folder.event("stopped")
    run = read_run(phones)
    assert run.loss[-1] == (48.0, 0.25)
    assert run.events[-1]["event"] == "stopped"


def test_a_simulated_run_is_told_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", inputs=rng.random((60, 6)), labels=rng.integers(0, 4, 60))
    (tmp_path / "crowd.toml").write_text(
        'model = "mlp:6-9-8-4"\ndevices = 6\ngroup = 3\n[training]\nepochs = 2\nbatch = 5\n'
    )
    simulate(tmp_path / "crowd.toml", str(tmp_path), tmp_path / "run", processes=1)
    report(tmp_path / "run")
    told = (tmp_path / "run" / "report.html").read_text()
    assert "mlp:6-9-8-4" in told
    assert told.count("<polyline") >= 5
    assert "piece 2: neurons" in told


def test_a_noisy_loss_has_its_running_mean_and_planned_pieces_their_load(tmp_path: Path) -> None:
    rows = [json.dumps({"samples": i, "loss": 1 + i % 2, "bytes": {}}) for i in range(200)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    pieces = [{"neurons": [[0, 6], [0, 0]], "macs": 24.0}, {"neurons": [[6, 6], [0, 4]], "macs": 1500.0}]
    (tmp_path / "plan.json").write_text(json.dumps({"pieces": pieces}))
    told = page(read_run(tmp_path))
    assert "mean of 4" in told
    assert "1.5k multiplications" in told


def test_the_page_fetches_nothing(phones: Path) -> None:
    told = page(read_run(phones))
    assert not re.search(r"(src|href|url\(|@import|https?:)", told)
    assert "<script" not in told


def shown(page: Path, folder: Path) -> str:
    """The page's elements as a browser has them, once its scripts have run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking", "--disable-sync", "--no-first-run"]
    command += [
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1300,2000",
        "--dump-dom",
        f"file://{page}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_chromium_shows_the_page(phones: Path, tmp_path: Path) -> None:
    report(phones, tmp_path / "page.html")
    told = shown(tmp_path / "page.html", tmp_path)
    assert len(re.findall("<section>", told)) == 12
    assert 'class="line c0"' in told
    assert HOSTILE not in told


LOOK = """<script>
const found = [];
const box = element => element.getBoundingClientRect();
const inside = (a, b) =>
  a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
for (const svg of document.querySelectorAll("svg")) {
  const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, box(text)]);
  texts.forEach(([words, a], n) => {
    if (!inside(a, box(svg))) found.push("cut off: " + words);
    for (const [others, b] of texts.slice(n + 1))
      if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
        found.push("overlap: " + words + " and " + others);
  });
  for (const rect of svg.querySelectorAll("rect"))
    if (getComputedStyle(rect).fill === "rgb(0, 0, 0)") found.push("black");
}
for (const legend of document.querySelectorAll(".legend"))
  if (box(legend).height > 70) found.push("a large legend");
for (const cell of document.querySelectorAll("td:first-child")) {
  const words = document.createRange();
  words.selectNodeContents(cell);
  if (words.getClientRects().length > 1) found.push("broken: " + cell.textContent);
}
for (const part of document.querySelectorAll("section"))
  if (part.scrollWidth > part.clientWidth + 1) found.push("too wide: " + part.textContent.slice(0, 40));
if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the window");
document.title = JSON.stringify(found);
</script>"""


@pytest.mark.parametrize("layers", [4, 32, 50])
@pytest.mark.parametrize("pieces", [3, 20])
def test_names_are_legible_however_deep_the_network_and_many_the_pieces(
    phones: Path, tmp_path: Path, layers: int, pieces: int
) -> None:
    """Measured in the browser: nothing overlaps, is cut off, or fills the page."""
    counts = [64, *(40 + layer % 5 for layer in range(layers - 2)), 10]
    even = [[count * n // (pieces - 1) for n in range(pieces)] for count in counts]
    divided = [
        {
            "neurons": [
                [0, count]
                if layer in (0, layers - 1) and number == 0
                else [count, count]
                if layer in (0, layers - 1)
                else [0, 0]
                if number == 0
                else [even[layer][number - 1], even[layer][number]]
                for layer, count in enumerate(counts)
            ],
            "macs": 313_600.0 + number,
        }
        for number in range(pieces)
    ]
    (phones / "plan.json").write_text(json.dumps({"pieces": divided}))
    (phones / "environment.json").write_text(
        json.dumps({"system": "Linux-6.18.44-fc-v657-x86_64-with-glibc2.36", "programs": ["0" * 64] * pieces})
    )
    (tmp_path / "page.html").write_text(page(read_run(phones)).replace("</body>", f"{LOOK}</body>"))
    told = shown(tmp_path / "page.html", tmp_path)
    title = re.search("<title>(.*?)</title>", told)
    assert title is not None
    assert json.loads(html.unescape(title[1])) == []


def test_runs_are_compared_on_one_page_that_links_the_report_of_each(phones: Path, tmp_path: Path) -> None:
    other = tmp_path / "other run"
    shutil.copytree(phones, other)
    (other / "config.toml").write_text('name = "phones"\ntraining = { epochs = 3 }\n')
    report(phones, tmp_path / "both.html", against=[other])
    told = (tmp_path / "both.html").read_text()
    for words in ("phones (phones-run)", "phones (other run)", "training.epochs", "87.50 %"):
        assert words in told
    assert HOSTILE not in told
    links = re.findall('href="(.*?)"', told)
    assert links == ["phones-run/report.html", "other%20run/report.html"]
    assert all(is_page((tmp_path / unquote(link)).read_text()) for link in links)
    assert told.count("<polyline") == 4
    report(phones, tmp_path / "both.html", against=[other])


def test_a_folder_that_is_no_run_or_damaged_is_refused(tmp_path: Path, phones: Path) -> None:
    with pytest.raises(RunError, match=r"no metrics.jsonl"):
        read_run(tmp_path)
    (phones / "plan.json").write_text('{"pieces": [[["a", 1]]]}')
    with pytest.raises(RunError, match="damaged"):
        read_run(phones)
    (phones / "plan.json").unlink()
    (phones / "run.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match="damaged"):
        read_run(phones)


def test_a_run_in_a_folder_of_any_name_has_its_bytes(phones: Path, tmp_path: Path) -> None:
    odd = tmp_path / "50%41 a?b#c&d=e"
    shutil.copytree(phones, odd)
    assert read_run(odd).traffic == read_run(phones).traffic


def test_a_crash_in_the_middle_of_a_line_costs_that_line(phones: Path) -> None:
    with (phones / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"epoch": 0, "lo')
    assert len(read_run(phones).loss) == 5


def test_a_long_run_is_thinned_and_keeps_its_last_point(tmp_path: Path) -> None:
    rows = [json.dumps({"samples": i, "loss": 1.0, "bytes": {}}) for i in range(3 * MAX_POINTS + 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    loss = read_run(tmp_path).loss
    assert len(loss) <= MAX_POINTS + 1
    assert loss[-1][0] == 3 * MAX_POINTS


def test_a_loss_that_is_not_finite_is_left_out_and_counted(tmp_path: Path) -> None:
    losses = ("NaN", "Infinity", "1.5", "-Infinity", "2.5")
    rows = [f'{{"samples": {at}, "loss": {loss}, "accuracy": NaN}}' for at, loss in enumerate(losses)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    run = read_run(tmp_path)
    assert run.loss == ((2.0, 1.5), (4.0, 2.5))
    assert run.accuracy == ()
    assert "<b>8</b><span>values that are not finite, left out" in page(run)


def test_a_curve_that_hides_another_is_dashed() -> None:
    drawn = curves({"activation": [(0, 1), (1, 2)], "error": [(0, 1), (1, 2)], "else": [(0, 0)]}, "x", "y")
    assert drawn.count(" over") == drawn.count("c1 over") > 0


@pytest.mark.parametrize("points", [[], [(0.0, 0.0)], [(5.0, 5.0)], [(0.0, -1e-9), (1.0, 1e12)]])
def test_any_curve_can_be_drawn(points: list[tuple[float, float]]) -> None:
    drawn = curves({"a": points}, "x", "y")
    assert "nan" not in drawn
    assert "inf" not in drawn.replace("info", "")
    assert bars({"a": [0.0]}, ["a"], "")
