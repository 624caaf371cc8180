"""ONNX files as trainable modules."""
