"""Connections of devices, and what the relay carries over them."""
