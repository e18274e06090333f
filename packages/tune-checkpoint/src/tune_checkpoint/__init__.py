"""Read, convert and write language-model checkpoints, without PyTorch."""
