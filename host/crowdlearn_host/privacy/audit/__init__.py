"""The audit of privacy: what each role of a group learns from the numbers that it holds, by attack."""
