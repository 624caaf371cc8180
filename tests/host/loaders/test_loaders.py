"""Every loader of the registry: what it writes can be read, again and alike, and what is wrong is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import numpy as np
import pytest
from crowdlearn_device.data.dataset import load_dataset
from crowdlearn_host.cli import main
from crowdlearn_host.cli.console.schemas import DOCUMENTS
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.loaders.conversion import convert
from crowdlearn_host.loaders.registry import LOADERS

from .sources import ROWS, SOURCES, Source, arrays


@pytest.fixture(params=LOADERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    (tmp_path / "source").mkdir()
    return SOURCES[request.param](tmp_path / "source")


def test_every_loader_tells_its_options_and_its_document() -> None:
    for kind, loader in LOADERS.items():
        assert loader.about.endswith(".")
        assert f"convert {kind}" in DOCUMENTS
        hints = get_type_hints(loader, include_extras=True)
        assert all(len(get_args(hints[each.name])) == 2 for each in fields(cast(Any, loader))), kind


def test_listing_loaders_imports_none_of_their_packages() -> None:
    heavy = ("torch", "PIL", "tokenizers", "pyarrow")
    told = f"import crowdlearn_host.cli.data.convert, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_folder_that_a_device_reads(source: Source, tmp_path: Path) -> None:
    done = convert(source.loader, source.path, tmp_path / "data", validation_share=0.1)
    assert done.splits == {"train": 14, "validation": 2, "test": 4}
    for split in ("train", "test"):
        data = load_dataset(tmp_path / "data", split)
        assert (len(data), data.inputs.shape[1:]) == (done.splits[split], done.sample)
    told = json.loads((tmp_path / "data/conversion.json").read_text())
    assert (told["loader"], told["splits"]) == (source.loader.kind, done.splits)


def test_the_same_seed_gives_the_same_samples_and_another_others(source: Source, tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        convert(source.loader, source.path, tmp_path / folder, seed=seed)
    one, two, three = (arrays(tmp_path / name, "train")[0] for name in ("one", "two", "three"))
    assert np.array_equal(one, two)
    if len(np.unique(one, axis=0)) == len(one):
        assert not np.array_equal(one, three)


def test_every_sample_is_in_one_split(source: Source, tmp_path: Path) -> None:
    done = convert(source.loader, source.path, tmp_path / "data", validation_share=0.1)
    assert sum(done.splits.values()) == ROWS


def test_a_damaged_source_is_refused_by_place_and_writes_nothing(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        convert(source.loader, source.damaged, tmp_path / "data")
    assert source.refusal in str(told.value)
    assert "; " in str(told.value)
    assert not (tmp_path / "data").exists()


def test_what_is_not_there_is_named(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        convert(source.loader, tmp_path / "nowhere", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        convert(source.loader, tmp_path / "empty", tmp_path / "data")


def test_files_of_others_are_not_written_over(source: Source, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        convert(source.loader, source.path, tmp_path / "data")
    convert(source.loader, source.path, tmp_path / "data", validation_share=0.2, force=True)
    convert(source.loader, source.path, tmp_path / "data")  # its own, without a validation split now
    assert not (tmp_path / "data/validation.npz").exists()
    assert (tmp_path / "data/thesis.txt").read_text() == "mine"


def test_shares_that_are_none_are_refused(source: Source, tmp_path: Path) -> None:
    for share, told in ((1.0, "from 0 to 1"), (0.01, "too few"), (0.99, "too few")):
        with pytest.raises(ConfigError, match=told):
            convert(source.loader, source.path, tmp_path / "data", test_share=share)


def test_a_command_for_each_loader(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [
        word
        for each in fields(source.loader)  # type: ignore[arg-type]
        if (value := getattr(source.loader, each.name)) != each.default
        for word in (f"--{each.name.replace('_', '-')}", str(value))
    ]
    words = ["convert", source.loader.kind, str(source.path), "--to", str(tmp_path / "data"), *options]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["crowdlearn", *words, *more])
        with pytest.raises(SystemExit) as exit:
            main()
        told = capfd.readouterr()
        assert not exit.value.code, told.err
    assert json.loads(told.out)["splits"] == {"train": 16, "test": 4}
    monkeypatch.setattr(sys, "argv", ["crowdlearn", *words[:2], str(source.damaged), *words[3:]])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    assert capfd.readouterr().err.strip().splitlines()[-1].startswith("crowdlearn: ")
