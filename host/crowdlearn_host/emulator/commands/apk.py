"""The package name inside an APK: its AndroidManifest.xml is a binary format of Android's resource tools."""

import lzma
import struct
import zipfile
import zlib
from typing import BinaryIO

MAX_MANIFEST = 1 << 20
_XML, _STRINGS, _ELEMENT = 0x0003, 0x0001, 0x0102
_UTF8 = 1 << 8
_CHUNK = struct.Struct("<HHI")
_POOL = struct.Struct("<IIIII")
_START = struct.Struct("<IIHHH")
_ATTRIBUTE = struct.Struct("<III")
_ATTRIBUTE_BYTES = 20
_ELEMENT_BODY = 16


class ApkError(Exception):
    """The file is not an APK that can be installed."""


def package_name(file: BinaryIO) -> str:
    """Return the `package` of the manifest of an APK. Raises ApkError."""
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.getinfo("AndroidManifest.xml")
            if entry.file_size > MAX_MANIFEST:
                raise ApkError(f"a manifest of {entry.file_size} bytes")
            with archive.open(entry) as manifest:
                # The size in the directory is a claim: read no more than the bound whatever it says.
                return manifest_package(manifest.read(MAX_MANIFEST))
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        KeyError,
        OSError,
        NotImplementedError,
        EOFError,
    ) as error:
        raise ApkError(f"not an APK: {error}") from error
    except (RuntimeError, ValueError, struct.error, zlib.error, lzma.LZMAError) as error:
        raise ApkError(f"damaged APK: {error}") from error


def manifest_package(content: bytes) -> str:
    """Return the `package` attribute of the outermost element of a binary manifest. Raises ApkError."""
    kind, header, _ = _CHUNK.unpack_from(content)
    if kind != _XML:
        raise ApkError(f"the manifest starts with chunk {kind:#x}")
    at = header
    strings: bytes = b""
    while at + _CHUNK.size <= len(content):
        kind, _, size = _CHUNK.unpack_from(content, at)
        if size < _CHUNK.size:
            raise ApkError(f"a chunk of {size} bytes")
        if kind == _STRINGS:
            strings = content[at : at + size]
        if kind == _ELEMENT:
            return _package_attribute(content[at : at + size], strings)
        at += size
    raise ApkError("the manifest has no element")


def _package_attribute(element: bytes, strings: bytes) -> str:
    _, _, start, _, count = _START.unpack_from(element, _ELEMENT_BODY)
    for index in range(count):
        at = _ELEMENT_BODY + start + index * _ATTRIBUTE_BYTES
        _, name, value = _ATTRIBUTE.unpack_from(element, at)
        if _string(strings, name) == "package":
            return _string(strings, value)
    raise ApkError("the manifest names no package")


def _string(pool: bytes, index: int) -> str:
    count, _, flags, start, _ = _POOL.unpack_from(pool, _CHUNK.size)
    if index >= count:
        raise ApkError(f"string {index} of {count}")
    (offset,) = struct.unpack_from("<I", pool, _CHUNK.size + _POOL.size + 4 * index)
    at = start + offset
    if flags & _UTF8:
        # Two lengths, in characters and in bytes, of a byte each: names of packages have less than 128.
        length = pool[at + 1] if at + 1 < len(pool) else 0
        return pool[at + 2 : at + 2 + length].decode()
    (length,) = struct.unpack_from("<H", pool, at)
    return pool[at + 2 : at + 2 + 2 * length].decode("utf-16-le")
