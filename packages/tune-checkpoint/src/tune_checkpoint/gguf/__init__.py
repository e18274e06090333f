"""Reading GGUF files: the header, the Llama family's weights and configuration, the tokenizer."""
