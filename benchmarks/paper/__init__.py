"""The paper's tables and figures, and what they lack, from simulated crowds."""
