"""Checkpoints of LitGPT: `lit_model.pth` and `model_config.yaml`."""
