"""`tokenizer.json` from the vocabularies of other formats, without any tokenizer library."""
