"""What each loader makes of its samples, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.loaders.base import Loader
from crowdlearn_host.loaders.conversion import Conversion, convert
from crowdlearn_host.loaders.hugging_face import HuggingFaceLoader
from crowdlearn_host.loaders.images import ImageLoader
from crowdlearn_host.loaders.table import CsvLoader
from crowdlearn_host.loaders.tensors import TensorLoader
from crowdlearn_host.loaders.text import TextLoader

from .sources import SOURCES, arrays, saved, tokenizer


def split(folder: Path, header: str, train: str, test: str) -> Path:
    """Write a table of two splits; cells are separated by commas, lines by spaces."""
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.csv").write_text("\n".join([header, *rows.split()]) + "\n")
    return folder


def converted(loader: Loader[Any], source: Path, **options: Any) -> Conversion:
    return convert(loader, source, source.parent / "data", **options)


def refused(loader: Loader[Any], source: Path, told: str, **options: Any) -> None:
    with pytest.raises(ConfigError, match=told):
        converted(loader, source, **options)


# --- tables


def test_categories_and_means_are_those_of_the_training_split(tmp_path: Path) -> None:
    source = split(tmp_path / "t", "size,colour,kind", "0,red,a 4,blue,b 2,red,a", "6,blue,b 2,red,a")
    done = converted(CsvLoader(target="kind"), source)
    assert (done.classes, done.inputs) == (("a", "b"), ("size", "colour=blue", "colour=red"))
    inputs, labels = arrays(tmp_path / "data", "test")
    spread = np.std([0, 4, 2])
    assert np.allclose(inputs, np.array([[4 / spread, 1, 0], [0, 0, 1]]))
    assert labels.tolist() == [1, 0]


def test_an_unknown_category_or_class_in_the_test_split_is_refused_by_line(tmp_path: Path) -> None:
    loader = CsvLoader(target="kind")
    source = split(tmp_path / "t", "colour,kind", "red,a blue,b red,a", "red,a green,b")
    refused(loader, source, r"line 3 of the test data: column colour holds 'green'.*blue, red")
    source = split(tmp_path / "t", "colour,kind", "red,a blue,b red,a", "red,c red,a")
    refused(loader, source, r"line 2 of the test data: class 'c' is none of the training data's 2: a, b")


def test_missing_values_are_told_dropped_or_filled(tmp_path: Path) -> None:
    source = split(tmp_path / "t", "size,colour,y", "1,red,0.5 3,NA,1.5 ,red,2.5 5,blue,", "1,red,1 ,red,2")
    refused(CsvLoader("y"), source, r"misses values, the first in line 3: 1 in size, 1 in colour, 1 in y")
    refused(CsvLoader("y", missing="drop"), source, "leave too few to learn from")
    done = converted(CsvLoader("y", missing="fill", standardise=False), source)
    assert done.splits == {"train": 3, "test": 2}
    inputs, labels = arrays(tmp_path / "data", "train")
    assert inputs.tolist() == [[1, 1], [3, 1], [2, 1]]
    assert (labels.tolist(), labels.dtype) == ([0.5, 1.5, 2.5], np.float32)
    assert any("1 of 4 lines are dropped" in note for note in done.notes)


def test_whole_numbers_may_be_classes_or_numbers_and_only_their_owner_knows(tmp_path: Path) -> None:
    source = split(tmp_path / "t", "x,y", "1,10 2,9 3,10", "1,9 2,10")
    refused(CsvLoader("y"), source, "--task classes or --task numbers")
    assert converted(CsvLoader("y", task="classes"), source).classes == ("9", "10")
    assert converted(CsvLoader("y", task="numbers"), source).labels == "numbers"
    assert arrays(tmp_path / "data", "test")[1].tolist() == [9, 10]
    done = converted(CsvLoader("y", task="numbers", scale_target=True), source)
    assert np.allclose(arrays(tmp_path / "data", "train")[1].mean(), 0, atol=1e-6)
    assert any(note.startswith("target y is (y - 9.66667)") for note in done.notes)


def test_a_class_may_be_named_by_more_digits_than_a_number_has(tmp_path: Path) -> None:
    long = "9" * 5000
    source = split(tmp_path / "t", "x,y", f"1,{long} 2,b 3,7", "1,b 2,7")
    assert converted(CsvLoader("y", task="classes"), source).classes == ("7", long, "b")


def test_several_targets_are_numbers(tmp_path: Path) -> None:
    source = split(tmp_path / "t", "x,y,z", "1,1,2 2,3,4 3,5,7", "1,2,3 2,3,4")
    assert converted(CsvLoader("y, z"), source).labels == "numbers [2]"
    refused(CsvLoader("y,z", task="classes"), source, "several targets")


@pytest.mark.parametrize(
    ("loader", "train", "told"),
    [
        (CsvLoader("q"), "1,a 2,b 3,a", r"no column 'q' \(--target\); it has x, y"),
        (CsvLoader("y", without="q"), "1,a 2,b 3,a", "--without"),
        (CsvLoader("y", columns="y"), "1,a 2,b 3,a", "is the target"),
        (CsvLoader("y", without="x"), "1,a 2,b 3,a", "no column is left"),
        (CsvLoader("y"), "1,a oops,b 3,a", r"column x holds numbers, and 'oops' in line 3"),
        (CsvLoader("y"), "1,a 2,a 3,a", "one class"),
        (CsvLoader("y", task="numbers"), "1,5 2,5 3,5", "one number only"),
        (CsvLoader("y", task="numbers"), "1,5 2,b 3,5", "'b', which is no number"),
        (CsvLoader("y", delimiter=";;"), "1,a 2,b", "one character"),
        (CsvLoader("y"), '1,a "2,b', "no table in UTF-8"),
        (CsvLoader("y"), "1e999,a 2,b 1,a", r"'1e999' in line 2"),
        (CsvLoader("y"), " ".join(f"w{i},{'ab'[i % 2]}" for i in range(101)), "101 different words"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, loader: CsvLoader, train: str, told: str) -> None:
    refused(loader, split(tmp_path / "t", "x,y", train, "1,a 2,b"), told)


def test_names_of_columns_are_needed_once_each(tmp_path: Path) -> None:
    refused(CsvLoader("y"), split(tmp_path / "t", "y,y", "1,a 2,b", "1,a 2,b"), "each column once")
    (tmp_path / "bytes.csv").write_bytes(b"x,y\n\xff\xfe,1\n")
    refused(CsvLoader("y"), tmp_path / "bytes.csv", "UTF-8")
    (tmp_path / "none.csv").write_text("x,y\n")
    refused(CsvLoader("y"), tmp_path / "none.csv", "no line below")


def test_a_column_that_the_test_split_lacks_is_named(tmp_path: Path) -> None:
    source = split(tmp_path / "t", "x,w,y", "1,1,a 2,2,b", "1,1,a 2,2,b")
    (source / "test.csv").write_text("x,y\n1,a\n2,b\n")
    refused(CsvLoader("y"), source, "test data has no column w")


# --- images


def test_images_of_several_sizes_are_refused_or_resized(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    source = SOURCES["images"](tmp_path).path
    assert converted(ImageLoader(), source).sample == (1, 4, 5)
    image.new("RGBA", (9, 9), (255, 0, 0, 9)).save(source / "cat/large.png")
    refused(ImageLoader(), source, r"has .*x.* pixels, .* give --size HEIGHTxWIDTH")
    done = converted(ImageLoader(size="6x3", channels=3), source)
    assert (done.sample, done.classes) == ((3, 6, 3), ("cat", "dog"))
    assert any("resized to 6x3" in note for note in done.notes)
    assert any("without transparency" in note for note in done.notes)
    assert arrays(tmp_path / "data", "train")[0].dtype == np.uint8
    assert converted(ImageLoader(size="6x3", channels=1), source).sample == (1, 6, 3)


def test_images_that_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    source = SOURCES["images"](tmp_path).path
    refused(ImageLoader(size="six"), source, "HEIGHTxWIDTH")
    refused(ImageLoader(channels=2), source, "1 .grey. or 3")
    for part in ("train", "test"):
        for kind in ("a", "b" if part == "train" else "c"):
            (tmp_path / "s" / part / kind).mkdir(parents=True)
            for number in range(2):
                image.new("L", (4, 4)).save(tmp_path / "s" / part / kind / f"{number}.png")
    refused(ImageLoader(), tmp_path / "s", r"test data, .*class 'c' is none of the training data's 2: a, b")
    image.new("I;16", (5, 4)).save(source / "cat/deep.png")
    refused(ImageLoader(), source, r"deep.png has pixels of kind I;16")


# --- text


def test_lines_become_tokens_and_the_next_of_each(tmp_path: Path) -> None:
    loader = TextLoader(tokenizer(tmp_path), length=4)
    (tmp_path / "t.txt").write_text("the cat sat\n\nthe cat ran on mat\nmat\ncat sat\nsat on\n")
    done = converted(loader, tmp_path / "t.txt", test_share=0.5)
    assert any("1 empty lines" in note for note in done.notes)
    assert any("1 lines have fewer than 2 tokens" in note for note in done.notes)
    rows = [arrays(tmp_path / "data", part) for part in ("train", "test")]
    pairs = {
        (tuple(x), tuple(y))
        for inputs, labels in rows
        for x, y in zip(inputs.tolist(), labels.tolist(), strict=True)
    }
    assert ((2, 3, 0, 0), (3, 4, -100, -100)) in pairs
    assert ((2, 3, 5, 6), (3, 5, 6, 7)) in pairs


def test_lines_beyond_the_maximum_are_refused_cut_or_dropped(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("the cat sat on mat 1 2\n" + "the cat\nmat 1\ncat sat\n" * 3)
    file = tokenizer(tmp_path)
    refused(TextLoader(file, 4), tmp_path / "t.txt", "line 1 has 7 tokens, at most 5 fit")
    assert sum(converted(TextLoader(file, 4, long="cut"), tmp_path / "t.txt").splits.values()) == 10
    assert sum(converted(TextLoader(file, 4, long="drop"), tmp_path / "t.txt").splits.values()) == 9


def test_a_stream_is_cut_so_that_every_token_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(f"the cat sat on mat {i % 5}" for i in range(20)))
    loader = TextLoader(tokenizer(tmp_path), length=10, layout="stream")
    done = converted(loader, tmp_path / "t.txt", test_share=0.25)
    inputs, labels = arrays(tmp_path / "data", "train")
    assert sum(done.splits.values()) == (120 - 1) // 10
    assert np.array_equal(inputs[:, 1:], labels[:, :-1])
    assert (labels >= 0).all()


def test_classes_of_lines(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("good\tthe cat\nbad\tthe mat\n" * 5)
    loader = TextLoader(tokenizer(tmp_path), 4, layout="classes")
    assert converted(loader, tmp_path / "t.txt").classes == ("bad", "good")
    (tmp_path / "t.txt").write_text("good\tthe cat\nthe mat\n" * 5)
    refused(loader, tmp_path / "t.txt", "line 2: expected CLASS, tab, text")


def test_tokenizers_that_are_none(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "t.txt").write_text("the cat\n" * 9)
    refused(TextLoader(tmp_path / "no.json"), tmp_path / "t.txt", "no.json is no file")
    (tmp_path / "bad.json").write_text("{}")
    refused(TextLoader(tmp_path / "bad.json"), tmp_path / "t.txt", "bad.json cannot be read")


# --- tensors


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"x": torch.ones(9, 2), "labels": torch.ones(9)}, "no tensor 'inputs', it has x, labels"),
        ([torch.ones(9, 2)], "holds list"),
        ((torch.ones(9, 2) * 1j, torch.arange(9)), "complex"),
        ((torch.ones(9, 2) * torch.nan, torch.arange(9)), "inputs of sample 0 are not finite"),
        ((torch.full((9, 2), (1 << 24) + 1), torch.arange(9)), "float32 cannot"),
        ((torch.ones(9, 2), torch.zeros(9).long()), "nothing to learn"),
        ((torch.ones(9, 2).to_sparse(), torch.arange(9)), "sparse"),
        ((torch.ones(9, 2), torch.arange(9) - 4), "expected classes from 0"),
        ((torch.ones(9, 0), torch.arange(9)), "hold nothing"),
        ((torch.ones(9, 2), torch.ones(9)), "all labels of the training data are 1"),
    ],
)
def test_tensors_that_are_refused(tmp_path: Path, content: Any, told: str) -> None:
    torch.save(content, tmp_path / "t.pt")
    refused(TensorLoader(), tmp_path / "t.pt", told)


def test_no_code_in_a_file_of_tensors_is_run(tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "t.pt")
    refused(TensorLoader(), tmp_path / "t.pt", "holds no plain tensors")
    assert not (tmp_path / "sprung").exists()


class Trap:
    """An object whose unpickling touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_other_types_become_those_that_devices_read(tmp_path: Path) -> None:
    torch.save((torch.rand(10, 3).double(), torch.rand(10).half()), tmp_path / "t.pt")
    done = converted(TensorLoader(), tmp_path / "t.pt")
    assert done.labels == "numbers"
    assert {"inputs are torch.float64, and become float32"} <= {*done.notes}


# --- Hugging Face


def test_columns_of_a_data_set_by_their_kind(tmp_path: Path) -> None:
    source = SOURCES["hugging-face"](tmp_path).path
    done = converted(HuggingFaceLoader("v", "label"), source)
    assert (done.sample, done.classes) == ((2,), ("no", "yes"))
    assert converted(HuggingFaceLoader("picture", "label"), source).sample == (3, 2, 3)
    told = HuggingFaceLoader("text", "label", tokenizer=tokenizer(tmp_path), length=5)
    assert converted(told, source).labels == "2 classes"
    following = HuggingFaceLoader("text", tokenizer=tokenizer(tmp_path), length=5)
    assert converted(following, source).labels == "5 classes at each of 5 positions"


def test_data_sets_that_are_refused(tmp_path: Path) -> None:
    source = SOURCES["hugging-face"](tmp_path).path
    for loader, told in (
        (HuggingFaceLoader("w", "label"), "no column 'w'; it has v, label"),
        (HuggingFaceLoader("text", "label"), "give --tokenizer"),
        (HuggingFaceLoader("v"), "--target must name"),
        (HuggingFaceLoader("label", "label"), "the target is none of them"),
        (HuggingFaceLoader("v,label", "text"), "one class"),
    ):
        refused(loader, source, told)
    (source / "data-00000-of-00001.arrow").write_bytes(b"ARROW1 is what it is not")
    refused(HuggingFaceLoader("v", "label"), source, "cannot be read")
    (source / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    refused(HuggingFaceLoader("v", "label"), source, "names a file elsewhere")


def test_splits_of_a_data_set_are_taken_as_they_are(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    value = {"dtype": "float64", "_type": "Value"}
    for part, rows in (("train", 5), ("test", 3), ("extra", 2)):
        columns = {"a": [float(row) for row in range(rows)], "y": [row * 0.5 for row in range(rows)]}
        saved(tmp_path / "d" / part, arrow.table(columns), {"a": value, "y": value})
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train", "test", "extra"]}')
    assert converted(HuggingFaceLoader("a", "y"), tmp_path / "d").splits == {"train": 5, "test": 3}


def test_a_data_set_that_the_library_itself_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    made = datasets.Dataset.from_dict({"v": [[1.0, 2.0]] * 9, "y": [i / 9 for i in range(9)]})
    datasets.DatasetDict(train=made, test=made.select([0, 4])).save_to_disk(str(tmp_path / "d"))
    assert converted(HuggingFaceLoader("v", "y"), tmp_path / "d").splits == {"train": 9, "test": 2}
