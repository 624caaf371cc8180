"""Which of the devices that are there a run gets."""
