"""The tensor types of GGUF that can be read.

Source: `enum ggml_type` of ggml.h and the block sizes of ggml-common.h. A test holds this table equal to that
of the `gguf` package, which takes half a second to import: too much for reading a header.
"""

PLAIN_TYPES = {0: "F32", 1: "F16", 30: "BF16"}
"""Number in the file -> name, for types that safetensors knows too."""

BLOCK_TYPES = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""Number in the file -> name, elements of a block, bytes of a block."""

BLOCKS = {name: (elements, num_bytes) for name, elements, num_bytes in BLOCK_TYPES.values()}
"""Name of a quantised type -> elements of a block, bytes of a block."""

TYPE_NUMBERS = {name: number for number, name in PLAIN_TYPES.items()} | {
    name: number for number, (name, _, _) in BLOCK_TYPES.items()
}
"""Name -> number in the file."""

QUANTISABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
"""The block types that the `gguf` package can make of floats."""
