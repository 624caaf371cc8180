"""What a secure sum costs: bytes, and processor seconds of a device and of the host, at several drop-outs.

Bytes are those of the messages as they would be on the wire, keys and shares included; expansion is against
the plain vector in float32. With --flower FOLDER the same vectors are summed by Flower's SecAgg+, in an
environment of its own that is made there if it is missing.

python -m benchmarks.secagg [--quick] [--flower FOLDER] [--traffic] [--json FILE]
"""

from __future__ import annotations

import argparse
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn.privacy import Aggregator
from crowdlearn_device.privacy.aggregation.contributor import Contributor
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint
from crowdlearn_device.privacy.aggregation.messages import Masked, Revealed, SealedShares, SumRound
from crowdlearn_device.privacy.aggregation.unmasking import KeptInMemory
from crowdlearn_device.security.identity import Identity

from benchmarks.report import machine, write_rows

from . import traffic
from .environment import Flower

GROUPS, WEIGHTS, DROPPED = (8, 24, 100), (400_000, 5_000_000), (0.0, 0.1, 0.3)
KEY, TAG, NUMBER = 32, 16, 4
MOST_FOR_FLOWER = 12_000_000
"""Numbers of all groups together for which Flower is waited for."""


@dataclass(frozen=True)
class Row:
    """One round: `dropped` is the share of members that vanish before they mask."""

    groups: int
    weights: int
    dropped: float
    bit_exact: bool
    upload_bytes: float
    download_bytes: float
    expansion: float
    device_seconds: float
    host_seconds: float


def measure(groups: int, weights: int, dropped: float) -> Row:
    """Sum `weights` numbers of one holder in each group."""
    members = dict.fromkeys(range(groups), ((0, weights),))
    round_ = SumRound(secrets.token_bytes(16), members, max(2, groups // 2), groups)
    identities = {n: Identity.generate() for n in members}
    known = {n: identity.public for n, identity in identities.items()}
    numbers, host = FixedPoint(groups), Aggregator(round_, weights)
    gone = set(range(int(dropped * groups)))
    spent: dict[int, float] = dict.fromkeys(members, 0.0)
    sent: dict[int, float] = dict.fromkeys(members, 0.0)
    got: dict[int, float] = dict.fromkeys(members, 0.0)
    values = np.random.default_rng(0).normal(size=weights).astype(np.float32)
    clock = time.process_time

    def timed(n: int, began: float) -> None:
        spent[n] += clock() - began

    devices: dict[int, Contributor] = {}
    adverts = []
    for n in members:
        began = clock()
        devices[n] = Contributor(round_, n, identities[n], known, KeptInMemory())
        adverts.append(devices[n].advertise())
        timed(n, began)
        sent[n] += 2 * KEY + NUMBER
    began = clock()
    announced = host.announce(adverts)
    on_host = clock() - began
    sealed: list[SealedShares] = []
    for n, device in devices.items():
        got[n] += len(announced[n]) * (2 * KEY + NUMBER)
        began = clock()
        mine = device.share(announced[n])
        timed(n, began)
        sealed += mine
        sent[n] += sum(len(each.sealed) + 2 * NUMBER for each in mine)
    began = clock()
    shares = host.pass_on(sealed)
    on_host += clock() - began
    expected = np.zeros(weights, np.uint32)
    for n, device in devices.items():
        if n in gone:
            continue
        got[n] += sum(len(each.sealed) + 2 * NUMBER for each in shares[n])
        began = clock()
        masked: Masked = device.mask(shares[n], numbers.encode(np.roll(values, n)))
        timed(n, began)
        expected += numbers.encode(np.roll(values, n))
        sent[n] += masked.words.nbytes
        began = clock()
        host.take(masked)
        on_host += clock() - began
    confirmations = []
    for n in host.survivors:
        began = clock()
        confirmed = devices[n].confirm(host.survivors)
        timed(n, began)
        confirmations += confirmed
        sent[n] += len(confirmed) * (KEY + 2 * NUMBER)
        got[n] += len(host.survivors) * NUMBER
    by_receiver = host.confirm(confirmations)
    revealed: list[Revealed] = []
    for n in host.survivors:
        got[n] += len(by_receiver[n]) * (KEY + 2 * NUMBER)
        began = clock()
        mine_revealed = devices[n].reveal(by_receiver[n])
        timed(n, began)
        revealed.append(mine_revealed)
        sent[n] += sum(KEY + NUMBER for _ in (*mine_revealed.own_masks, *mine_revealed.mask_keys))
    began = clock()
    total = host.unmask(revealed)
    on_host += clock() - began
    upload = float(np.mean([sent[n] for n in host.survivors]))
    return Row(
        groups,
        weights,
        dropped,
        bool((total == expected).all()),
        upload,
        float(np.mean([got[n] for n in host.survivors])),
        upload / (4 * weights),
        float(np.median([spent[n] for n in host.survivors])),
        on_host,
    )


def _compared(theirs: dict[str, Any], ours: Row) -> str:
    """Return a line of Flower's figures, and by how much ours are less."""
    ratios = ", ".join(
        f"{theirs[name] / getattr(ours, name):.1f}"
        for name in ("upload_bytes", "device_seconds", "host_seconds")
    )
    return (
        f"{'flower':8s} {theirs['groups']:6d} {theirs['weights']:8d} {theirs['dropped']:8.1f} {'':>6}"
        f" {theirs['upload_bytes'] / 1e6:10.2f} {theirs['expansion']:10.3f}"
        f" {theirs['device_seconds']:9.3f} {theirs['host_seconds']:7.2f}  (over ours: {ratios})"
    )


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each number of groups, weights and drop-outs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="400,000 weights, 8 and 24 groups")
    parser.add_argument("--flower", type=Path, metavar="FOLDER", help="Flower's environment, made if missing")
    parser.add_argument(
        "--traffic", action="store_true", help="also compare simulated runs' bytes of sharing"
    )
    parser.add_argument("--json", type=Path, help="write the rows here")
    wanted = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    flower = Flower(wanted.flower) if wanted.flower else None
    print(machine())
    print("by       groups  weights  dropped  exact  upload MB  expansion  device s  host s")
    for groups in GROUPS[:2] if wanted.quick else GROUPS:
        for weights in WEIGHTS[:1] if wanted.quick else WEIGHTS:
            for dropped in DROPPED:
                row = measure(groups, weights, dropped)
                rows.append({"by": "crowdlearn", **vars(row)})
                print(
                    f"{'ours':8s} {row.groups:6d} {row.weights:8d} {row.dropped:8.1f} {row.bit_exact!s:>6}"
                    f" {row.upload_bytes / 1e6:10.2f} {row.expansion:10.3f} {row.device_seconds:9.3f}"
                    f" {row.host_seconds:7.2f}",
                    flush=True,
                )
                if flower is not None and groups * weights <= MOST_FOR_FLOWER:
                    rows.append(flower.measure(groups, weights, dropped))
                    print(_compared(rows[-1], row), flush=True)
    for found in traffic.rows() if wanted.traffic else ():
        rows.append(found)
        accuracy = f"{100 * found['accuracy']:.1f} %"
        print(f"{found['by']:11s} {found['bytes']:9d} bytes, {found['times_plain']:.2f} times, {accuracy}")
    write_rows(wanted.json, rows)


if __name__ == "__main__":
    main()
