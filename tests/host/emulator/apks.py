"""APK files for tests: a zip with a binary manifest that names a package."""

import io
import struct
import zipfile


def manifest(package: str, *, utf8: bool = False) -> bytes:
    """An AndroidManifest.xml as aapt writes it, with one element and one attribute."""
    texts = ["manifest", "package", package]
    if utf8:
        encoded = [bytes([len(t), len(t)]) + t.encode() + b"\0" for t in texts]
    else:
        encoded = [struct.pack("<H", len(t)) + t.encode("utf-16-le") + b"\0\0" for t in texts]
    offsets = [sum(map(len, encoded[:index])) for index in range(len(encoded))]
    start = 28 + 4 * len(texts)
    body = struct.pack(f"<{len(texts)}I", *offsets) + b"".join(encoded)
    size = 28 + len(body)
    pool = struct.pack("<HHIIIIII", 1, 28, size, len(texts), 0, 256 if utf8 else 0, start, 0) + body
    none = 0xFFFFFFFF
    attribute = struct.pack("<IIIHBBI", none, 1, 2, 8, 0, 3, 2)
    element = (
        struct.pack("<HHIIIIIHHHHHH", 0x102, 16, 36 + 20, 1, none, none, 0, 20, 20, 1, 0, 0, 0) + attribute
    )
    return struct.pack("<HHI", 3, 8, 8 + len(pool) + len(element)) + pool + element


def apk(package: str, *, padding: int = 0) -> bytes:
    """An APK of that package with `padding` bytes of code."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("AndroidManifest.xml", manifest(package))
        archive.writestr("classes.dex", bytes(padding))
    return file.getvalue()
