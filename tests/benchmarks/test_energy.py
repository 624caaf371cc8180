"""No figure of the energy benchmark is without where it comes from."""

import json
import subprocess
import sys
from pathlib import Path

from crowdlearn_host.energy.figures import COLUMNS


def test_every_row_tells_its_provenance_and_source(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.energy", "--quick", "--json", str(tmp_path / "rows.json")],
        check=True,
        capture_output=True,
        text=True,
    )
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {"this computer", "virtual pixel-8", "virtual redmi-7"} <= {row["device"] for row in rows}
    wanted = {"device", "program", "macs", "ms", "gflops", "bytes", "joules", "provenance", "source"}
    for row in rows:
        assert wanted <= row.keys()
        assert row["provenance"] in ("measured", "modelled", "emulated")
        assert row["source"]
        for column, told in COLUMNS.items():
            assert row.get(column) is None or row.get(told)
        if row["device"].startswith("virtual"):
            assert row["provenance"] == "modelled"
            assert "power_profile.xml" in row["source"]
    steps = [
        row for row in rows if not row.get("stage") and row["device"].startswith("virtual") and row["ms"]
    ]
    assert all(row["joules"] > 0 for row in steps)
    assert {row["wire"] for row in steps} == {"", "int8", "float32"}
    compared = [row for row in rows if "deviation %" in row]
    assert len({row["program"] for row in compared}) >= 2
    assert len({row["published source"] for row in compared}) >= 2
    assert all(row["published source"] for row in compared)
    assert "source:" in found.stdout
