"""LoRA against peft: forward, gradients, training, merging, and folders that each reads of the other."""

import json
import os
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tune_recipes.errors import UserError
from tune_recipes.lora import (
    LoRALinear,
    add_lora,
    load_adapter,
    lora_layers,
    lora_state_dict,
    merge_lora_,
    save_adapter,
)
from tune_recipes.losses import cross_entropy_sum
from tune_recipes.models.adapter_config import base_of_adapter
from tune_recipes.models.decoder import Decoder
from tune_recipes.models.load import load_model
from tune_recipes.schema import Lora

PREFIX = "base_model.model."

# peft asks transformers for a property that transformers has renamed.
with_peft = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def load(reference) -> Decoder:
    return load_model(reference.folder, dtype=torch.float32)


def load_theirs(reference) -> Any:
    return AutoModelForCausalLM.from_pretrained(reference.folder, attn_implementation="eager")


@pytest.fixture
def adapted(references) -> Decoder:
    """A model whose adapter changes something."""
    model = load(references["biased"])
    add_lora(model, rank=4, alpha=10, seed=3)
    shake(model)
    return model


@torch.no_grad()
def shake(model):
    generator = torch.Generator().manual_seed(5)
    for _, layer in lora_layers(model):
        layer.lora_B.weight.normal_(0, 0.2, generator=generator)


@pytest.fixture
def peft_folder(references, tmp_path):
    """Write an adapter with peft, trained as it were."""

    def write(name="biased", **options):
        torch.manual_seed(0)
        options = {"r": 4, "lora_alpha": 10, "target_modules": list(Lora().targets)} | options
        model: Any = peft.get_peft_model(load_theirs(references[name]), peft.LoraConfig(**options))
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, 0, 0.2)
        model.save_pretrained(tmp_path / "theirs")
        return model.eval(), tmp_path / "theirs"

    return write


@torch.no_grad()
def test_untrained_adapter_changes_nothing(references, input_ids):
    model = load(references["biased"])
    before = model(input_ids)
    add_lora(model, rank=4, alpha=8)
    assert torch.equal(model(input_ids), before)


def test_only_the_adapter_trains_and_the_base_keeps_its_names(adapted, references):
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == set(lora_state_dict(adapted))
    assert len(trained) == 3 * 7 * 2
    assert set(adapted.state_dict()) - trained == set(load(references["biased"]).state_dict())


@with_peft
def test_adapter_is_initialised_as_pefts(references):
    torch.manual_seed(0)
    theirs = peft.get_peft_model(
        load_theirs(references["tied"]), peft.LoraConfig(r=16, target_modules=["up_proj"])
    )
    ours = load(references["tied"])
    add_lora(ours, targets=["up_proj"], rank=16, alpha=16)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            mine = ours.get_parameter(name.removeprefix(PREFIX).replace(".default", ""))
            assert mine.shape == parameter.shape
            assert mine.std().item() == pytest.approx(parameter.std().item(), rel=0.1)
            assert mine.abs().max().item() == pytest.approx(parameter.abs().max().item(), rel=0.02)


def test_adapter_follows_the_seed_and_is_float32_on_a_bfloat16_base(references, input_ids):
    states = []
    for seed in (1, 1, 2):
        model = load_model(references["tied"].folder, dtype=torch.bfloat16)
        add_lora(model, rank=4, alpha=8, seed=seed)
        assert model(input_ids).dtype == torch.bfloat16
        states.append(lora_state_dict(model)["model.layers.0.mlp.up_proj.lora_A.weight"])
    assert states[0].dtype == torch.float32
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_dropout_acts_in_training_alone_and_on_the_adapter_alone(references, input_ids):
    model = load(references["tied"])
    add_lora(model, rank=4, alpha=8, dropout=0.5)
    base = model.eval()(input_ids)
    assert torch.equal(model.train()(input_ids), base)
    shake(model)
    assert torch.equal(model.eval()(input_ids), model(input_ids))
    assert not torch.equal(model.train()(input_ids), model(input_ids))


@with_peft
@pytest.mark.parametrize("name", ["tied", "biased", "windowed"])
def test_pefts_adapter_gives_pefts_logits_and_gradients(references, peft_folder, input_ids, name):
    theirs, folder = peft_folder(name)
    ours = load(references[name])
    load_adapter(ours, folder)
    target = torch.randn(3, 40, 61, generator=torch.Generator().manual_seed(3))

    logits, expected = ours(input_ids), theirs(input_ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    (logits * target).mean().backward()
    (expected * target).mean().backward()
    gradients = {
        key.replace(".default", ""): p.grad for key, p in theirs.named_parameters() if p.requires_grad
    }
    assert gradients.keys() == {PREFIX + key for key in lora_state_dict(ours)}
    for key, parameter in lora_state_dict(ours).items():
        torch.testing.assert_close(parameter.grad, gradients[PREFIX + key], atol=1e-5, rtol=1e-4, msg=key)


@with_peft
def test_training_follows_peft(references, input_ids, tmp_path):
    ours = load(references["tied"])
    add_lora(ours, rank=4, alpha=8, seed=0)
    save_adapter(ours, tmp_path / "initial", base="base")
    theirs: Any = peft.PeftModel.from_pretrained(
        load_theirs(references["tied"]), str(tmp_path / "initial"), is_trainable=True
    )
    keep = torch.rand(3, 39, generator=torch.Generator().manual_seed(6)) < 0.5

    def losses(model, loss_of):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        values = []
        for _ in range(10):
            loss = loss_of()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            values.append(loss.item())
        return values

    def our_loss():
        logits = ours(input_ids[:, :-1], keep_BS=keep)
        return cross_entropy_sum(logits, input_ids[:, 1:][keep]) / keep.sum()

    def their_loss():
        return F.cross_entropy(theirs(input_ids[:, :-1]).logits[keep], input_ids[:, 1:][keep])

    one, other = losses(ours, our_loss), losses(theirs, their_loss)
    assert one == pytest.approx(other, abs=1e-4)
    assert one[-1] < one[0] - 1


@with_peft
@torch.no_grad()
def test_our_folder_loads_in_peft_with_equal_logits(references, adapted, input_ids, tmp_path):
    base = str(references["biased"].folder)
    save_adapter(adapted, tmp_path / "ours", base=base)

    theirs: Any = peft.PeftModel.from_pretrained(
        load_theirs(references["biased"]), str(tmp_path / "ours")
    ).eval()

    torch.testing.assert_close(adapted.eval()(input_ids), theirs(input_ids).logits, atol=1e-4, rtol=0)
    config: Any = theirs.peft_config["default"]
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (4, 10, base)
    assert config.target_modules == set(Lora().targets)
    stored = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert stored.keys() == peft.get_peft_model_state_dict(theirs).keys()


@with_peft
@torch.no_grad()
def test_layers_that_peft_chose_by_pattern_are_adapted_and_written_back(
    references, peft_folder, input_ids, tmp_path
):
    theirs, folder = peft_folder(target_modules=r".*\.[02]\.self_attn\.(q|v)_proj", layers_to_transform=None)
    ours = load(references["biased"])
    load_adapter(ours, folder)
    torch.testing.assert_close(ours(input_ids), theirs(input_ids).logits, atol=1e-4, rtol=0)

    save_adapter(ours, tmp_path / "back", base="base")
    back: Any = peft.PeftModel.from_pretrained(load_theirs(references["biased"]), str(tmp_path / "back"))
    torch.testing.assert_close(back(input_ids).logits, theirs(input_ids).logits, atol=1e-5, rtol=0)


@with_peft
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
@torch.no_grad()
def test_untied_head_is_adapted_as_by_peft(references, peft_folder, input_ids, tmp_path):
    theirs, folder = peft_folder(target_modules=["lm_head", "o_proj"])
    ours = load(references["biased"])
    load_adapter(ours, folder)
    torch.testing.assert_close(ours(input_ids), theirs(input_ids).logits, atol=1e-4, rtol=0)

    save_adapter(ours, tmp_path / "back", base="base")
    back: Any = peft.PeftModel.from_pretrained(load_theirs(references["biased"]), str(tmp_path / "back"))
    torch.testing.assert_close(back(input_ids).logits, theirs(input_ids).logits, atol=1e-5, rtol=0)

    other = load(references["biased"])
    other.lm_head.weight += 1
    with pytest.raises(UserError, match=r"made for a model whose lm_head\.weight is another"):
        load_adapter(other, folder)


@with_peft
@torch.no_grad()
def test_merge_equals_pefts(references, peft_folder, input_ids):
    theirs, folder = peft_folder()
    ours = load(references["biased"])
    load_adapter(ours, folder)
    unmerged = ours(input_ids)

    merge_lora_(ours)

    merged = dict(theirs.merge_and_unload().named_parameters())
    assert list(merged) == [name for name, _ in ours.named_parameters()]
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, merged[name], atol=1e-6, rtol=0)
    assert not any(isinstance(module, LoRALinear) for module in ours.modules())
    torch.testing.assert_close(ours(input_ids), unmerged, atol=1e-4, rtol=0)


@torch.no_grad()
def test_bfloat16_merge_rounds_once(references, adapted):
    model = load_model(references["biased"].folder, dtype=torch.bfloat16)
    add_lora(model, rank=4, alpha=10, seed=3)
    shake(model)
    layer = next(layer for _, layer in lora_layers(model))
    exact = layer.weight.double() + layer.lora_B.weight.double() @ layer.lora_A.weight.double() * 2.5

    merge_lora_(model)

    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, exact.bfloat16())  # type: ignore[union-attr]


def test_merge_that_changes_nothing_is_refused(references):
    model = load(references["tied"])
    with pytest.raises(UserError, match="changes nothing"):
        merge_lora_(model)
    add_lora(model, rank=4, alpha=8)
    with pytest.raises(UserError, match="all its updates are zero"):
        merge_lora_(model)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "qproj"], "no linear layer 'qproj' to adapt; there are: q_proj, k_proj, .*, down_proj$"),
        (["lm_head"], "no linear layer 'lm_head' to adapt"),  # its update would change the embedding too
        (["embed_tokens"], "no linear layer 'embed_tokens'"),
        ([], "lora.targets is empty"),
    ],
)
def test_unknown_targets_are_refused_with_those_that_exist(references, targets, message):
    with pytest.raises(UserError, match=message):
        add_lora(load(references["tied"]), targets=targets, rank=4, alpha=8)


@pytest.fixture
def broken(references, adapted, tmp_path):
    """Save an adapter and change its files."""

    def load_broken(config=None, change=None):
        folder = tmp_path / "broken"
        save_adapter(adapted, folder, base="base")
        raw = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(raw | (config or {})))
        tensors = load_file(folder / "adapter_model.safetensors")
        (change or (lambda tensors: None))(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")
        load_adapter(load(references["biased"]), folder)

    return load_broken


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA' is not supported"),
        ({"rank_pattern": {"q_proj": 2}}, r'rank_pattern: {"q_proj": 2} is not supported'),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern: .* is not supported"),
        ({"use_dora": True}, "use_dora: true is not supported: only plain LoRA"),
        ({"use_rslora": True}, "use_rslora"),
        ({"bias": "all"}, 'bias: "all"'),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"some_new_variant": {"k": 1}}, "some_new_variant"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' is not supported"),
        ({"r": 0}, "r: expected a positive number, found 0"),
        ({"r": 8}, r"lora_A.weight has shape \[4, 80\], but this model and rank 8 ask for \[8, 80\]"),
        ({"lora_dropout": "x"}, "lora_dropout: expected a number from 0 to 1, found 'x'"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path: expected a text, found 5"),
        ({"lora_alpha": "x"}, "lora_alpha: expected a positive number, found 'x'"),
    ],
)
def test_adapters_that_are_no_plain_lora_are_refused(broken, config, message):
    with pytest.raises(UserError, match=message):
        broken(config=config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict.clear, "there are no tensors"),
        (lambda tensors: tensors.popitem(), r"lora_B.weight is missing|lora_A.weight is missing"),
        (
            lambda t: t.update({PREFIX + "lm_head.lora_magnitude_vector": torch.ones(3)}),
            "magnitude.* not supported",
        ),
        (lambda t: t.update({PREFIX + "x.y.lora_A.weight": torch.ones(3)}), "x.y.lora_A.weight has no place"),
    ],
)
def test_adapters_of_other_models_are_refused(broken, change, message):
    with pytest.raises(UserError, match=message):
        broken(change=change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": 5}', "expected a text"),
    ],
)
def test_malformed_config_is_named_when_the_base_is_looked_for(tmp_path, text, message):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=rf"adapter_config\.json: .*{message}"):
        base_of_adapter(tmp_path)


def test_adapter_is_as_readable_as_the_umask_says(adapted, tmp_path):
    before = os.umask(0o027)
    try:
        save_adapter(adapted, tmp_path / "adapter", base="base")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "adapter").iterdir()}
    assert modes == {"adapter_config.json": 0o640, "adapter_model.safetensors": 0o640}


def test_folders_that_hold_no_adapter_are_refused(references, tmp_path):
    model = load(references["tied"])
    with pytest.raises(UserError, match=r"nowhere: no such folder. Expected a PEFT folder"):
        load_adapter(model, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no adapter_config.json in it"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match=r"adapter_config\.json: not valid JSON"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    with pytest.raises(UserError, match=r"no adapter_model.safetensors in it"):
        load_adapter(model, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"adapter_model.safetensors: cannot be read"):
        load_adapter(model, tmp_path)
