"""Fine-tuning recipes that you read top to bottom, in native PyTorch."""
