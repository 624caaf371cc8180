"""From a configuration to a trained model: what `crowdlearn train` does."""
