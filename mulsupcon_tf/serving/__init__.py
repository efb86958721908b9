"""Models for use elsewhere: SavedModel, ONNX, LiteRT, and the model card."""
