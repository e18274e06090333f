"""GGUF files, read and written: the header, weights and configuration of the Llama family, the tokenizer."""
