"""The shell of a virtual phone: grammar and evaluation."""
