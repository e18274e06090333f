"""Adapters that cannot be merged, or would change nothing, and what is said of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapter_files import (
    DOWN,
    EMBEDDING,
    HIDDEN,
    NORM,
    QUERY,
    RANK,
    VOCAB,
    WEIGHTS,
    Arrays,
    embedding_lora,
    lora,
    made,
    normal,
    write_adapter,
    write_base,
)
from tune_checkpoint import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptFileError,
    OutputExistsError,
    UnsupportedCheckpointError,
    convert,
    plan_conversion,
)
from tune_checkpoint.peft.merge import merge_adapter

TRAINED = lora(QUERY)
A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    # Far from zero, where the smallest of updates is not lost.
    return write_base(tmp_path / "base", {name: 1 + normal(*shape) ** 2 for name, shape in WEIGHTS.items()})


def filled(value: float, *shape: int) -> np.ndarray:
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedCheckpointError, r"peft_type is 'IA3'; only 'LORA' is merged here"),
        ({"peft_type": "LOHA"}, UnsupportedCheckpointError, "'LOHA'"),
        ({"peft_type": "PREFIX_TUNING"}, UnsupportedCheckpointError, "'PREFIX_TUNING'"),
        ({"peft_type": None}, UnsupportedCheckpointError, "peft_type is None"),
        ({"lora_bias": True}, UnsupportedCheckpointError, "lora_bias is set"),
        ({"layer_replication": [[0, 2], [1, 3]]}, UnsupportedCheckpointError, "layer_replication is set"),
        ({"target_parameters": ["experts.up"]}, UnsupportedCheckpointError, "target_parameters is set"),
        (
            {"arrow_config": {"top_k": 3}},
            UnsupportedCheckpointError,
            r"arrow_config is set \({\"top_k\": 3}\)",
        ),
        ({"of_the_future": 1}, UnsupportedCheckpointError, "of_the_future is set"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            UnsupportedCheckpointError,
            "'pissa_niter_4'.*save it once more",
        ),
        (
            {"init_lora_weights": "olora"},
            UnsupportedCheckpointError,
            "path_initial_model_for_weight_conversion",
        ),
        ({"init_lora_weights": "loftq"}, UnsupportedCheckpointError, "the weights that LoftQ made"),
        ({"init_lora_weights": "unheard_of"}, UnsupportedCheckpointError, "'unheard_of'.*merge it with peft"),
        ({"r": 0}, CorruptFileError, "the rank of 'r' is 0"),
        ({"r": "8"}, CorruptFileError, r"wrong value: Expected `int`, got `str` - at `\$.r`"),
        ({"lora_alpha": float("nan")}, CorruptFileError, "the alpha of 'lora_alpha' is nan"),
        ({"rank_pattern": {"q_proj": 3}}, CorruptFileError, "have rank 2, and adapter_config.json says 3"),
        (
            {"alpha_pattern": {"(a+)+$": 3}},
            UnsupportedCheckpointError,
            r"pattern '\(a\+\)\+\$' is no regular",
        ),
        ({"alpha_pattern": {"(": 3}}, UnsupportedCheckpointError, "is no regular expression"),
        ({"alpha_pattern": {".*" * 20: 3}}, UnsupportedCheckpointError, "may take very long"),
        ({"use_dora": True}, CorruptFileError, "has no lora_magnitude_vector.*says use_dora is True"),
    ],
)
def test_what_the_config_asks_for_is_refused_by_name(
    base: Path, tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
):
    adapter = write_adapter(tmp_path / "adapter", TRAINED, **fields)
    with pytest.raises(error, match=message) as caught:
        plan_conversion(base, adapter=adapter)
    assert str(adapter) in str(caught.value)


def test_ways_to_begin_that_leave_the_base_alone_are_merged(base: Path, tmp_path: Path):
    for begun in (True, False, None, "gaussian", "eva", "orthogonal"):
        plan_conversion(base, adapter=write_adapter(tmp_path / "a", TRAINED, init_lora_weights=begun))


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        (
            {A: normal(RANK, HIDDEN)},
            CorruptFileError,
            f"of module '{QUERY}' there is lora_A, not lora_A and lora_B",
        ),
        (
            {A: normal(RANK, HIDDEN), B: normal(HIDDEN, 3)},
            CorruptFileError,
            r"\[2, 8\] and .*\[8, 3\]; the first",
        ),
        ({A: normal(0), B: normal(0)}, CorruptFileError, r"has shape \[0\].*each saves only its part"),
        (
            {A: filled(NAN, RANK, HIDDEN), B: TRAINED[B]},
            CorruptFileError,
            "lora_A.weight' holds NaN or infinite",
        ),
        ({A: TRAINED[A], B: filled(INFINITE, HIDDEN, RANK)}, CorruptFileError, "lora_B.weight' holds NaN"),
        (
            {A: filled(3e38, RANK, HIDDEN), B: filled(3e38, HIDDEN, RANK)},
            CorruptFileError,
            "beyond what F32 can hold",
        ),
        (TRAINED | {f"{NORM}.weight": filled(NAN, HIDDEN)}, CorruptFileError, "norm.weight' holds NaN"),
        (
            TRAINED | {A.replace("A.w", "A.one.w"): normal(2, 8)},
            CorruptFileError,
            "are the same part of one module",
        ),
        (
            {A.replace("A.w", "A.one.w"): TRAINED[A], B.replace("B.w", "B.two.w"): TRAINED[B]},
            UnsupportedCheckpointError,
            r"several adapters \(one, two\)",
        ),
        (
            TRAINED | lora(QUERY.removeprefix("model.")),
            CorruptFileError,
            "two updates for one weight, under names that differ in their outermost part: only one",
        ),
        (
            {A: np.ones((2, 8), np.int32), B: TRAINED[B]},
            UnsupportedCheckpointError,
            "lora_A.weight' has the type I32",
        ),
        (
            lora("model.layers.7.self_attn.q_proj"),
            UnsupportedCheckpointError,
            "'model.layers.7.self_attn.q_proj.weight', which the base .* does not have; the nearest there is "
            "model.layers.0.self_attn.q_proj.weight",
        ),
        (TRAINED | {"score.weight": normal(2, HIDDEN)}, UnsupportedCheckpointError, "is for 'score.weight'"),
        (
            lora(QUERY, outputs=HIDDEN + 1),
            UnsupportedCheckpointError,
            rf"for a weight of shape \[9, 8\], and '{QUERY}.weight' of the base has \[8, 8\]",
        ),
        (lora(DOWN), UnsupportedCheckpointError, r"shape \[8, 8\].* has \[8, 12\]"),
        (lora(NORM), UnsupportedCheckpointError, r"'model.norm.weight' of the base has \[8\]"),
        (lora(EMBEDDING), UnsupportedCheckpointError, r"shape \[8, 8\].*of the base has \[20, 8\]"),
        (TRAINED | {f"{NORM}.weight": normal(9)}, UnsupportedCheckpointError, r"shape \[9\]"),
        (
            TRAINED | {f"{EMBEDDING}.weight": normal(VOCAB + 2, HIDDEN)},
            UnsupportedCheckpointError,
            "leave 22 rows in model.embed_tokens.weight and 20 in lm_head.weight",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    base: Path, tmp_path: Path, tensors: Arrays, error: type[Exception], message: str
):
    adapter = write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(error, match=message) as caught:
        made(plan_conversion(base, adapter=adapter))
    assert str(adapter) in str(caught.value)


def test_magnitudes_that_do_not_fit_are_named(base: Path, tmp_path: Path):
    name = f"{QUERY}.lora_magnitude_vector"
    adapter = write_adapter(tmp_path / "adapter", TRAINED | {name: normal(9)}, use_dora=True)
    with pytest.raises(UnsupportedCheckpointError, match=r"magnitude_vector' is for a weight of shape \[9\]"):
        plan_conversion(base, adapter=adapter)
    write_adapter(adapter, TRAINED | {name: normal(HIDDEN)})
    with pytest.raises(CorruptFileError, match=r"has a lora_magnitude_vector.*says use_dora is False"):
        plan_conversion(base, adapter=adapter)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([1], CorruptFileError, r"has shape \[2, 8\]; trainable_token_indices names 1 rows"),
        ([1, VOCAB], UnsupportedCheckpointError, "goes up to 20, and .* has 20 rows"),
        ({"lm_head": [1, 2]}, CorruptFileError, "names 0 rows"),
    ],
)
def test_trained_tokens_that_do_not_fit_are_named(
    base: Path, tmp_path: Path, indices: Any, error: type[Exception], message: str
):
    tensors = TRAINED | {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": normal(2, HIDDEN)}
    adapter = write_adapter(tmp_path / "adapter", tensors, trainable_token_indices=indices)
    with pytest.raises(error, match=message):
        plan_conversion(base, adapter=adapter)


def test_a_misfit_says_for_which_model_the_adapter_was_made(base: Path, tmp_path: Path):
    tensors = lora(QUERY, outputs=9)
    adapter = write_adapter(tmp_path / "a", tensors, base_model_name_or_path="org/Other-7B")
    with pytest.raises(UnsupportedCheckpointError, match=r"trained on org/Other-7B; the base is .*base$"):
        plan_conversion(base, adapter=adapter)
    write_adapter(adapter, tensors, base_model_name_or_path="hub/base")
    with pytest.raises(UnsupportedCheckpointError, match=r"has \[8, 8\]$"):
        plan_conversion(base, adapter=adapter)


def test_quantised_bases_are_refused_by_name(base: Path, tmp_path: Path):
    adapter = write_adapter(tmp_path / "adapter", TRAINED)
    write_base(base, {f"{QUERY}.weight": np.ones((32, 1), np.uint8)})
    with pytest.raises(UnsupportedCheckpointError, match=r"shape \[8, 8\].*has \[32, 1\]"):
        plan_conversion(base, adapter=adapter)
    write_base(base, {f"{QUERY}.weight": np.ones((8, 8), np.int8)})
    with pytest.raises(UnsupportedCheckpointError, match="whose type is I8: give the original model"):
        plan_conversion(base, adapter=adapter)
    write_base(base, {f"{QUERY}.weight": normal(8, 8)}, quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(UnsupportedCheckpointError, match=r"weights are quantised \(bitsandbytes\)"):
        plan_conversion(base, adapter=adapter)


def test_square_weight_whose_direction_cannot_be_told_is_refused(base: Path, tmp_path: Path):
    # the one is stored as (inputs, outputs), against what the config says; is the other too?
    tensors = lora(DOWN, outputs=12, inputs=8) | TRAINED
    adapter = write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(
        UnsupportedCheckpointError, match=rf"fan_in_fan_out is False.*'{QUERY}.weight' is square"
    ):
        plan_conversion(base, adapter=adapter)
    write_adapter(adapter, tensors, fan_in_fan_out=True)
    plan_conversion(base, adapter=adapter)


ZEROS = {A: TRAINED[A], B: filled(0, HIDDEN, RANK)}


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        (ZEROS, {}, "would change nothing: lora_B is all zeros in every module"),
        (ZEROS | {f"{QUERY}.lora_magnitude_vector": normal(8)}, {"use_dora": True}, "lora_B is all zeros"),
        ({A: ZEROS[B].T.copy(), B: TRAINED[B]}, {}, "would change nothing"),
        (TRAINED, {"lora_alpha": 0}, "would change nothing: lora_alpha is 0"),
        (
            {A: TRAINED[A], B: TRAINED[B] * np.float32(1e-12)},
            {},
            "every weight is the same as before, once it is",
        ),
    ],
)
def test_merge_that_changes_nothing_is_an_error(
    base: Path, tmp_path: Path, tensors: Arrays, fields: dict[str, Any], message: str
):
    adapter = write_adapter(tmp_path / "adapter", tensors, **fields)
    with pytest.raises(UnsupportedCheckpointError, match=message):
        merge_adapter(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_update_may_be_lost_in_one_type_and_kept_in_another(base: Path, tmp_path: Path):
    adapter = write_adapter(tmp_path / "adapter", {A: TRAINED[A], B: TRAINED[B] * np.float32(1e-5)})
    plan_conversion(base, adapter=adapter)
    half = tmp_path / "half"
    convert(base, half, dtype="bf16")
    with pytest.raises(UnsupportedCheckpointError, match="convert with dtype fp32"):
        plan_conversion(half, adapter=adapter)
    plan_conversion(half, adapter=adapter, dtype="fp32")


def test_modules_that_add_nothing_are_warned_of(base: Path, tmp_path: Path):
    zero = filled(0, HIDDEN, RANK)
    adapter = write_adapter(
        tmp_path / "a", TRAINED | {f"{DOWN}.lora_A.weight": normal(2, 12), f"{DOWN}.lora_B.weight": zero}
    )
    assert (
        "1 of 2 modules of the adapter add nothing, as 'model.layers.0.mlp.down_proj'"
        in (plan_conversion(base, adapter=adapter).warnings[-1])
    )


def test_matrices_of_zeros_are_a_warning_where_something_else_was_trained(base: Path, tmp_path: Path):
    adapter = write_adapter(tmp_path / "adapter", ZEROS | {f"{NORM}.weight": normal(HIDDEN)})
    plan = plan_conversion(base, adapter=adapter)
    assert "1 of 1 modules of the adapter add nothing" in plan.warnings[-1]


def test_missing_files_are_named(base: Path, tmp_path: Path):
    for path, message in (
        (tmp_path / "absent", "absent: no such file or folder"),
        (base, r"no adapter_config.json that can be read, so it is no PEFT adapter; found config.json"),
        (base / "config.json", "a file; give the folder"),
    ):
        with pytest.raises(CheckpointNotFoundError, match=message):
            merge_adapter(base, path, tmp_path / "out")
    adapter = write_adapter(tmp_path / "adapter", TRAINED)
    (adapter / "adapter_model.safetensors").rename(adapter / "weights.safetensors")
    with pytest.raises(
        CheckpointNotFoundError, match=r"no adapter_model.safetensors or adapter_model.bin; found"
    ):
        merge_adapter(base, adapter, tmp_path / "out")
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"adapter_config.json: this is not valid JSON"):
        merge_adapter(base, adapter, tmp_path / "out")


def test_output_never_takes_the_place_of_the_adapter(base: Path, tmp_path: Path):
    adapter = write_adapter(tmp_path / "adapter", TRAINED)
    write_base(adapter, {f"{QUERY}.weight": normal(8, 8)})
    with pytest.raises(OutputExistsError, match="holds the source"):
        merge_adapter(base, adapter, adapter, force=True)
    assert (adapter / "adapter_model.safetensors").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_adapter_is_merged_or_refused(base: Path, tmp_path: Path, data: st.DataObject):
    tensors = TRAINED | embedding_lora(EMBEDDING) | {f"{NORM}.weight": normal(HIDDEN)}
    adapter = write_adapter(tmp_path / "adapter", tensors, alpha_pattern={".*q_proj": 2}, use_rslora=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        content = bytearray((adapter / name).read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        (adapter / name).write_bytes(content)
    try:
        made(plan_conversion(base, adapter=adapter))
    except CheckpointError as error:
        assert str(tmp_path) in str(error)
