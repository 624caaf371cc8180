"""The planning problem in numbers: fleet, seats, costs, memory."""
