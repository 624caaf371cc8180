"""Train a network that tells the next character of a text, over two virtual phones."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from pydoc_data.topics import topics

import crowdlearn
import numpy as np

HERE = Path(__file__).parent
LENGTH = 24
LETTERS = "\n !\"'()*+,-./0123456789:;<=>[]_`abcdefghijklmnopqrstuvwxyz{}"
"""The characters that are told apart; any other is token 0."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/next-token"), help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="train on fewer samples")
    options = parser.parse_args()
    data = options.run.parent / "next-token-data"
    data.mkdir(parents=True, exist_ok=True)
    write(data, 1600 if options.quick else 6400)

    spec = crowdlearn.RunSpec.load(HERE / "run.toml", [f"data={json.dumps(str(data.resolve()))}"])
    run = crowdlearn.train(spec, options.run, listeners=[tell])
    told = run.evaluate()
    print(f"perplexity {told.metrics['perplexity']:.1f} of {len(LETTERS) + 1} characters")
    print(f"test accuracy {told.metrics['accuracy']:.3f} of the next characters; report: {run.report()}")


def write(data: Path, samples: int) -> None:
    """Write stretches of Python's own reference as tokens, inputs and labels int64 [N, LENGTH]: each label is
    the token that follows.
    """
    text = "".join(topics[name] for name in sorted(topics)).lower()
    number = {letter: token for token, letter in enumerate(LETTERS, 1)}
    tokens = np.array([number.get(letter, 0) for letter in text])
    cut = len(tokens) * 9 // 10
    draw = np.random.default_rng(0)
    for split, part, count in (("train", tokens[:cut], samples), ("test", tokens[cut:], 400)):
        starts = draw.integers(0, len(part) - LENGTH - 1, count)
        rows = starts[:, None] + np.arange(LENGTH + 1)
        np.savez(data / f"{split}.npz", inputs=part[rows[:, :-1]], labels=part[rows[:, 1:]])


def tell(event: crowdlearn.Event) -> None:
    """Print what an epoch reached."""
    if event.name == "evaluated":
        epoch, loss, accuracy = (event.fields[key] for key in ("epoch", "training_loss", "test_accuracy"))
        print(f"epoch {epoch + 1}: training loss {loss:.3f}, test accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
