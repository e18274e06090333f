"""Adapters as PEFT writes them, merged into the weights that they were trained on."""
