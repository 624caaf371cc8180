"""Phones over adb: connections with many full-duplex streams, shell, files, deployment."""

from crowdlearn_host.adb.app_deployment import AppDeployment
from crowdlearn_host.adb.deployment import Deployment, RuntimeDeployment
from crowdlearn_host.adb.device import AdbDevice, ShellResult
from crowdlearn_host.adb.stream import ByteStream

__all__ = ["AdbDevice", "AppDeployment", "ByteStream", "Deployment", "RuntimeDeployment", "ShellResult"]
