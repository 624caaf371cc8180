"""The parts that a device can play in a pass, each a `Role`: messages of other pieces in, results out."""
