"""Phones over adb: connections with many full-duplex streams, shell, files, deployment."""

from crowdlearn_host.adb.deployment.app import AppDeployment
from crowdlearn_host.adb.deployment.shell import Deployment, RuntimeDeployment
from crowdlearn_host.adb.services.device import AdbDevice, ShellResult
from crowdlearn_host.adb.wire.stream import ByteStream

__all__ = ["AdbDevice", "AppDeployment", "ByteStream", "Deployment", "RuntimeDeployment", "ShellResult"]
