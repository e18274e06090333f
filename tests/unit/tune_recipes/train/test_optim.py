import pytest
import torch

from tune_recipes.schema import Optim
from tune_recipes.train.optim import build_optimizer, set_lr


def names_by_decay(model, optimizer):
    """Return the names of the parameters of each group, by its weight decay."""
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    return {
        group["weight_decay"]: {name_of[parameter] for parameter in group["params"]}
        for group in optimizer.param_groups
    }


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_matrices_are_decayed_and_norms_and_biases_are_not(make_model, name):
    model = make_model(attention_bias=True, mlp_bias=True)
    found = names_by_decay(model, build_optimizer(model, Optim(name=name, weight_decay=0.3)))
    names = {parameter_name for parameter_name, _ in model.named_parameters()}
    undecayed = {n for n in names if n.endswith((".bias", "norm.weight"))}
    assert len(undecayed) == 10  # four and three biases, three norms
    assert found == {0.3: names - undecayed, 0.0: undecayed}


def test_tied_head_is_trained_once(make_model):
    model = make_model(tie_word_embeddings=True)
    trained = [p for group in build_optimizer(model, Optim()).param_groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out(make_model):
    model = make_model().requires_grad_(False)
    model.lm_head.requires_grad_(True)
    optimizer = build_optimizer(model, Optim(weight_decay=0.3))
    assert names_by_decay(model, optimizer) == {0.3: {"lm_head.weight"}}


def test_options_reach_the_optimizer(make_model):
    adamw = build_optimizer(make_model(), Optim(lr=0.5, betas=(0.7, 0.8), eps=1e-4))
    sgd = build_optimizer(make_model(), Optim(name="sgd", lr=0.5, betas=(0.7, 0.8)))
    assert isinstance(adamw, torch.optim.AdamW)
    assert isinstance(sgd, torch.optim.SGD)
    for group in adamw.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.7, 0.8), 1e-4)
    for group in sgd.param_groups:
        assert (group["lr"], group["momentum"]) == (0.5, 0.7)


def test_rate_is_set_in_every_group(make_model):
    optimizer = build_optimizer(make_model(), Optim())
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
