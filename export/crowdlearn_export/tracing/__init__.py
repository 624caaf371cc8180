"""From nn.Module to the neuron graph."""
