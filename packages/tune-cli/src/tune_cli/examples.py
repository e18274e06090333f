"""The end of each help page: what one would type."""

CLOSING = """
View all documentation in docs/README.md of the source.
"""

USAGES = {
    "ls": "[RECIPE] [OPTIONS]",
    "cp": "NAME [DEST] [OPTIONS]",
    "cat": "CONFIG [RECIPE] [OPTION=VALUE ...] [OPTIONS]",
    "validate": "CONFIG [RECIPE] [OPTION=VALUE ...]",
    "download": "MODEL [OPTIONS]",
    "run": "RECIPE [OPTIONS] [OPTION=VALUE ...]",
    "upload": "PATH [REPO] [OPTIONS]",
    "convert-ckpt": "SRC [OPTIONS]",
    "inspect": "PATH [OPTIONS]",
    "diff": "A B [OPTIONS]",
}

EXAMPLES = {
    "tune": """\
EXAMPLES
    # Train a small model from scratch; needs no download and no GPU
    $ tune run full_finetune --config demo_full_finetune

    # Get a model
    $ tune download smollm2-135m

    # Fine-tune it on your own data
    $ tune run lora_finetune model=models/smollm2-135m data.path=mine.jsonl

    # Ask it a question
    $ tune run generate model=models/smollm2-135m prompt="Why is the sky blue?"

    # Publish what came of it
    $ tune upload runs/RUN my-model
""",
    "ls": """\
EXAMPLES
    # Everything that ships with tune
    $ tune ls

    # The configs of one recipe
    $ tune ls full_finetune

    # For programs
    $ tune ls --json
""",
    "cp": """\
EXAMPLES
    # Copy a recipe
    $ tune cp full_finetune.py --to my_project/full_finetune.py

    # Copy it to a folder that is still to be made
    $ tune cp full_finetune.py my_project/ --make-parents

    # Copy a config
    $ tune cp alpaca_llama2_full_finetune.yaml --to .

Need to see all possible recipes and configs to copy? Try running `tune ls`
""",
    "cat": """\
EXAMPLES
    # The file as it is
    $ tune cat demo_full_finetune

    # Every value that the recipe gets, with one changed
    $ tune cat demo_full_finetune --resolved optim.lr=1e-4

    # Where each value comes from: default, line of the file, command line
    $ tune cat demo_full_finetune --origins
""",
    "validate": """\
OPTIONS
    -h, --help          Show help message and exit.

EXAMPLES
    # A built-in config
    $ tune validate demo_full_finetune

    # Your own config, for your own recipe, with an option changed
    $ tune validate my_config.yaml my_recipe.py batch_size=8
""",
    "download": """\
EXAMPLES
    # The short names
    $ tune download --list

    # A model, to models/smollm2-135m
    $ tune download smollm2-135m

    # Any repository, at a tag or a commit
    $ tune download HuggingFaceTB/SmolLM2-360M --revision main

    # A gated one: accept the terms on its page, then
    $ hf auth login
    $ tune download llama3.2-1b

    # What would be fetched
    $ tune download llama2 --dry-run
""",
    "run": """\
EXAMPLES
    # A built-in recipe with a built-in config
    $ tune run full_finetune.py --config demo_full_finetune.yaml

    # Any option of the recipe can be set on the command line
    $ tune run full_finetune --config demo_full_finetune optim.lr=1e-3 --seed 7

    # On two GPUs; --nproc 2 is the same on the CPU
    $ tune run full_finetune --config demo_full_finetune --num-gpus 2

    # What it would do, and how much memory it would take
    $ tune run full_finetune --config demo_full_finetune --nproc 2 --dry-run

    # Go on with a run that was stopped
    $ tune run --resume runs/20260102-030405-demo_full_finetune-1a2b

The options of a recipe, with their defaults and what they mean:
    $ tune run full_finetune --help

For a list of all built-in recipes and configs that you can run:
    $ tune ls
""",
    "upload": """\
EXAMPLES
    # What a run has made; a model card comes with it
    $ tune upload runs/20260102-030405-alpaca-1a2b my-model --private
    Successfully authenticated! (as me)
    Uploaded 9 files, 538.1 MB sent
    You can find your model at https://huggingface.co/me/my-model

    # What would be uploaded, and what would be overwritten
    $ tune upload models/merged my-organisation/my-model --dry-run

    # Propose changes to a model of others
    $ tune upload models/merged their/model --create-pr
""",
    "convert-ckpt": """\
EXAMPLES
    # A GGUF file becomes a Hugging Face folder, which every tool reads
    $ tune convert-ckpt SmolLM2-135M.gguf --output-dir models/smollm2

    # So does what Meta publishes; here at half the size of fp32
    $ tune convert-ckpt llama/original --output-dir models/llama --dtype bf16

    # Merge an adapter into the model that it was trained on
    $ tune convert-ckpt models/llama --adapter runs/RUN/final

    # A file for llama.cpp and ollama
    $ tune convert-ckpt models/llama --to gguf --quant q8_0

    # What would be written
    $ tune convert-ckpt models/llama --to meta --dry-run
""",
    "inspect": """\
EXAMPLES
    # A folder or a file of any kind, or an adapter
    $ tune inspect models/llama

    # Every tensor, for programs
    $ tune inspect models/llama --json
""",
    "diff": """\
EXAMPLES
    # Is the conversion exact?
    $ tune diff models/llama Llama-3.2-1B/original

    # How much does quantisation change?
    $ tune diff models/llama model-q8_0.gguf
""",
}
