"""Model -> NeuronGraph -> slice programs (.pte)."""
