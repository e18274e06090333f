"""From a file of records to batches of token ids.

`records` reads the file, `formats` makes a text of a record, `encode` makes token ids of it, `loader` batches
of those. Only `loader` imports torch.
"""
