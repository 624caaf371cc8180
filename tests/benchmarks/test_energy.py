"""No figure of the energy benchmark is without where it comes from."""

import json
import subprocess
import sys
from pathlib import Path


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
        assert row["time provenance"] in ("measured", "emulated")
        assert row["source"]
        if row["device"].startswith("virtual"):
            assert row["joules"] > 0
            assert row["provenance"] == "modelled"
    assert "source:" in found.stdout
