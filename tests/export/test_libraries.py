"""Models of libraries, made from configurations, train whole as they are. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from crowdlearn_export.doctor.doctor import diagnose
from torch import Tensor, nn

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {"vocab_size": 50, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}


class Logits(nn.Module):
    """The scores alone of a model that gives more."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.model(x).logits
        return scores


def gpt2() -> nn.Module:
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(n_positions=12, n_embd=32, n_layer=1, n_head=4, **dropout, **SMALL)
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def gpt2_with_lora() -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True)
    model: nn.Module = peft.get_peft_model(gpt2(), config)
    return model


def bert() -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    config = transformers.BertConfig(vocab_size=50, num_labels=3, **sizes, **dropout)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def llama() -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **SMALL))
    return model


@pytest.mark.nightly
@pytest.mark.parametrize("build", [gpt2, gpt2_with_lora, bert, llama])
def test_a_model_of_a_library_trains_whole(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    report = diagnose(Logits(build().train()), torch.randint(1, 50, (8, 12)).float())
    assert not report.compiles
    assert report.exact
