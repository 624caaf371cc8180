"""Commands of a virtual phone's shell."""
