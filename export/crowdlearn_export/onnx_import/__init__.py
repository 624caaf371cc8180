"""ONNX models read into a normal form, to be trained."""
