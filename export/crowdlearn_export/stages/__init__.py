"""The methods of a piece as tensor functions."""
