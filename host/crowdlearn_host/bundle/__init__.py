"""The device runtime for phones without an app: a Python with its libraries that adb's shell can start."""

from crowdlearn_host.bundle.bundle import ABIS, Archive, Bundle, make_bundle

__all__ = ["ABIS", "Archive", "Bundle", "make_bundle"]
