"""Operations that stay with one neuron."""
