"""Tiny random PEFT models for the tests of the fused layers, and the comparison of their losses and gradients."""

from typing import Any

import torch

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "attention_dropout": 0.0,
}


def tiny_model(family: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """Returns a random PEFT model. Its B matrices are random too: PEFT's zeros would hide the gradients of A."""
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(dtype)
    lora = LoraConfig(r=5, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.train()


def loss_and_gradients(model: Any, **inputs: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **grads}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compares within float32's precision, in which transformers computes norms and rotary embeddings."""
    for name, value in expected.items():
        assert (actual[name] - value).norm() <= 1e-5 * value.norm() + 1e-9, name


def random_tokens(rows: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(
        0, SHAPE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(1)
    )
