"""From tensor functions to one ExecuTorch program."""
