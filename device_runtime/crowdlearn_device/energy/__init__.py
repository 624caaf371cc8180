"""What work costs a device: the time of a step."""
