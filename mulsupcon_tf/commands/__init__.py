"""What each binary does: pretraining, fine-tuning, evaluating, embedding, exporting, predicting."""
