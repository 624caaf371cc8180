"""What the header and the dynamic section of an ELF file of 64 bits say."""

import struct
from dataclasses import dataclass

MACHINES = {183: "arm64", 62: "x86_64"}
_HEADER = 64
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB, _SONAME = 1, 5, 14


class NotElf(ValueError):
    """Content that is no ELF file of 64 bits, or a damaged one."""


@dataclass(frozen=True)
class Elf:
    """The facts of an ELF file. `alignment` is the least of its segments', in bytes: a kernel with larger
    pages cannot load it.
    """

    machine: str
    soname: str
    needed: tuple[str, ...]
    alignment: int


def is_elf(content: bytes) -> bool:
    """Return whether it begins as an ELF file of 64 bits, little-endian."""
    return content[:6] == b"\x7fELF\x02\x01"


def machine_of(header: bytes) -> str:
    """Return the machine of the first bytes of an ELF file, "" of one that we do not know. Raises NotElf."""
    if not is_elf(header) or len(header) < 20:
        raise NotElf("no ELF file of 64 bits, little-endian")
    return MACHINES.get(int.from_bytes(header[18:20], "little"), "")


def read_elf(content: bytes) -> Elf:
    """Return the facts of an ELF file. Raises NotElf."""
    machine = machine_of(content)
    try:
        segments = list(_segments(content))
        loads = [alignment for kind, *_, alignment in segments if kind == _LOAD]
        entries = [
            struct.unpack_from("<QQ", content, at)
            for kind, offset, _, size, _ in segments
            if kind == _DYNAMIC
            for at in range(offset, offset + size, 16)
        ]
        tables = [value for tag, value in entries if tag == _STRTAB]
        place = _offset(segments, tables[0]) if tables else 0

        def names(wanted: int) -> list[str]:
            return [_text(content, place + value) for tag, value in entries if tag == wanted]

        return Elf(
            machine=machine,
            soname=next(iter(names(_SONAME)), ""),
            needed=tuple(names(_NEEDED)),
            alignment=min(loads, default=1),
        )
    except (struct.error, ValueError, OverflowError) as error:
        raise NotElf(f"a damaged ELF file: {error}") from error


def _segments(content: bytes) -> "list[tuple[int, int, int, int, int]]":
    """Return kind, offset in the file, address, size in the file and alignment of each segment."""
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    found = []
    for number in range(count):
        kind, _, offset, address, _, filled, _, alignment = struct.unpack_from(
            "<IIQQQQQQ", content, table + number * size
        )
        found.append((kind, offset, address, filled, alignment))
    return found


def _offset(segments: "list[tuple[int, int, int, int, int]]", address: int) -> int:
    for kind, offset, start, size, _ in segments:
        if kind == _LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError(f"no segment holds the address {address:#x}")


def _text(content: bytes, at: int) -> str:
    return content[at : content.index(b"\0", at)].decode()
