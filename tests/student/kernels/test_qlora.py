"""Tests the fused decoder layers against the modules they replace: losses and gradients, in float64 on a CPU."""

import copy
from bisect import bisect_left
from typing import Any

import pytest
import torch
from lora_models import SHAPE, assert_same, loss_and_gradients, random_tokens, tiny_model
from small_students import tiny_tokenizer
from tensors import relative_error

from student.kernels import decoder_layer, fused_layers, torch_ops
from student.kernels.linear_cross_entropy import linear_cross_entropy
from student.models.introspect import shape_of
from student.training import memory, shared_prefix, vision


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("keep", [3, 1, 0])
def test_loss_and_gradients_are_those_of_the_replaced_layers(family, keep):
    model = tiny_model(family)
    tokens = random_tokens()
    expected = loss_and_gradients(model, input_ids=tokens, labels=tokens)
    fused_layers.install(model, keep=keep)
    assert_same(loss_and_gradients(model, input_ids=tokens, labels=tokens), expected)


# The vision tower has two blocks, so that Qwen3-VL adds features of the first to an early decoder layer (deepstack).
TOWER: dict[str, Any] = {
    "Qwen2_5_VL": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    },
    "Qwen3VL": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "out_hidden_size": 32,
        "patch_size": 14,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}


def lora_without_tower() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=5,
        lora_alpha=8,
        target_modules="all-linear",
        exclude_modules=vision.TOWER,
        task_type="CAUSAL_LM",
    )


def image_inputs() -> dict[str, Any]:
    """Returns two rows with an image each, the second row padded."""
    tokens = random_tokens(2, 24).clamp(max=89)
    tokens[0, 3:9] = tokens[1, 5:9] = 90  # images of 4 x 6 and of 4 x 4 patches
    mask, labels = torch.ones_like(tokens), tokens.masked_fill(tokens == 90, -100)
    mask[1, 17:], labels[1, 17:] = 0, -100
    pixels = torch.randn(40, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(2))
    return {
        "input_ids": tokens,
        "labels": labels,
        "attention_mask": mask,
        "mm_token_type_ids": (tokens == 90).long(),
        "pixel_values": pixels.double(),
        "image_grid_thw": torch.tensor([[1, 4, 6], [1, 4, 4]]),
    }


def tiny_vision_language_model(family: str) -> Any:
    """Returns a random vision-language PEFT model with adapters on its language model only."""
    import transformers
    from peft import get_peft_model

    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "head_dim": 16}
    sections = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    config = getattr(transformers, f"{family}Config")(
        text_config={**SHAPE, **heads, "num_key_value_heads": 1, "rope_parameters": sections},
        vision_config={"depth": 2, "num_heads": 2, **TOWER[family]},
        image_token_id=90,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).double()
    model = get_peft_model(model, lora_without_tower(), autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "norm" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.train()


@pytest.mark.parametrize("family", list(TOWER))
@pytest.mark.parametrize("keep", [3, 1])
def test_vision_language_loss_and_gradients_are_those_of_the_replaced_layers(family, keep):
    model, inputs = tiny_vision_language_model(family), image_inputs()
    expected = loss_and_gradients(model, **inputs)
    black = torch.zeros_like(inputs["pixel_values"])
    blank = loss_and_gradients(model, **inputs | {"pixel_values": black})
    assert (blank["loss"] - expected["loss"]).abs() > 1e-4
    assert not any("visual" in name for name in expected)
    fused_layers.install(model, keep=keep)
    assert_same(loss_and_gradients(model, **inputs), expected)


def test_gradients_add_up_over_micro_batches_and_reach_the_embeddings():
    model = tiny_model("Qwen3")
    model.get_base_model().model.embed_tokens.weight.requires_grad_()
    tokens = random_tokens()
    expected = loss_and_gradients(model, input_ids=tokens, labels=tokens)
    fused_layers.install(model, keep=2)
    model.zero_grad()
    for row in tokens.split(1):
        (model(input_ids=row, labels=row).loss / 2).backward()
    del expected["loss"]
    actual = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert_same(actual, expected)


def test_padding_on_the_right_needs_no_mask():
    model = tiny_model("Qwen3")
    tokens = random_tokens()
    mask, labels = torch.ones_like(tokens), tokens.clone()
    mask[1, 7:], labels[1, 7:] = 0, -100
    expected = loss_and_gradients(model, input_ids=tokens, labels=labels, attention_mask=mask)
    fused_layers.install(model)
    actual = loss_and_gradients(model, input_ids=tokens, labels=labels, attention_mask=mask)
    assert_same(actual, expected)


def test_padding_on_the_left_is_refused():
    model = tiny_model("Qwen3")
    fused_layers.install(model)
    mask = torch.ones_like(random_tokens())
    mask[1, :2] = 0
    with pytest.raises(ValueError, match="Pad on the right"):
        model(input_ids=random_tokens(), attention_mask=mask)


@pytest.mark.parametrize("boundaries", ["position_ids", "cu_seq_lens"])
def test_packed_sequences_do_not_attend_to_each_other(boundaries):
    model = tiny_model("Qwen3")
    tokens = random_tokens(1, 12)
    labels = tokens.clone()
    labels[0, [0, 5]] = -100
    parts = [slice(0, 5), slice(5, 12)]
    model.zero_grad()
    for part in parts:
        share = (part.stop - part.start - 1) / 10  # of the labelled tokens
        (model(input_ids=tokens[:, part], labels=labels[:, part]).loss * share).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    fused_layers.install(model, keep=1)
    packed: dict[str, Any] = {"position_ids": torch.tensor([[*range(5), *range(7)]])}
    if boundaries == "cu_seq_lens":
        packed |= {"cu_seq_lens_q": torch.tensor([0, 5, 12], dtype=torch.int32), "max_length_q": 7}
    assert_same(loss_and_gradients(model, input_ids=tokens, labels=labels, **packed), expected)


def test_generation_and_the_base_model_are_unchanged():
    model = tiny_model("Qwen3")
    stock = copy.deepcopy(model)
    fused_layers.install(model)
    tokens = random_tokens()[:, :4]
    expected = stock.eval().generate(input_ids=tokens, max_new_tokens=5, do_sample=False)
    actual = model.eval().generate(input_ids=tokens, max_new_tokens=5, do_sample=False)
    assert torch.equal(actual, expected)
    with model.disable_adapter(), stock.disable_adapter(), torch.no_grad():
        logits = stock.train()(input_ids=tokens).logits
        torch.testing.assert_close(model.train()(input_ids=tokens).logits, logits)


def test_the_error_names_the_layer_that_cannot_be_fused():
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    def with_lora(**changes):
        lora = LoraConfig(**{"target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes})
        return get_peft_model(Qwen3ForCausalLM(Qwen3Config(**SHAPE)), lora)

    with pytest.raises(ValueError, match="layer 0, q_proj: LoRA dropout 0.1"):
        fused_layers.install(with_lora(lora_dropout=0.1))
    with pytest.raises(ValueError, match="layer 0, gate_proj: has no LoRA"):
        fused_layers.install(with_lora(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    with pytest.raises(ValueError, match="DoRA"):
        fused_layers.install(with_lora(use_dora=True))
    checkpointed = with_lora()
    checkpointed.gradient_checkpointing_enable()
    fused_layers.install(checkpointed)
    with pytest.raises(ValueError, match="gradient checkpointing is on"):
        checkpointed.train()(input_ids=random_tokens())
    trained = with_lora(modules_to_save=["input_layernorm"])
    with pytest.raises(ValueError, match="layer 0: .*input_layernorm.* is trained"):
        fused_layers.install(trained)


def test_a_layer_keeps_as_many_bytes_as_memory_planning_expects(monkeypatch):
    model = tiny_model("Qwen3")
    numbers: list[int] = []
    original = decoder_layer.DecoderLayer.forward

    def forward(self, fused, batch, x, *rest, **options):
        out, saved = original(self, fused, batch, x, *rest, **options)
        parts = [x, saved.qkv_TO, saved.attention.out_BSND, saved.middle_TH, saved.gate_up_TO]
        numbers.append(sum(p.numel() for p in [*parts, *saved.low]))
        return out, saved

    monkeypatch.setattr(decoder_layer.DecoderLayer, "forward", forward)
    fused_layers.install(model)
    tokens = random_tokens()
    model(input_ids=tokens, labels=tokens)
    config = model.config
    whole, _ = memory.activation_bytes(shape_of(config), rank=5, element=8)
    assert numbers[0] * 8 / tokens.numel() == whole - 4 * config.num_attention_heads


def test_linear_cross_entropy_is_cross_entropy_without_the_masked_rows():
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(31, 8, dtype=torch.float64)
    labels = torch.randint(0, 31, (23,))
    labels[::3] = -100
    for count in (None, 40.0):
        total = torch.nn.functional.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
        expected = total / (count or int((labels != -100).sum())) * 1.7
        (expected_grad,) = torch.autograd.grad(expected, hidden)
        actual = linear_cross_entropy(hidden, weight, labels, count, chunk=4) * 1.7
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, hidden)[0], expected_grad)


def test_layers_are_kept_while_they_fit():
    from transformers import Qwen3Config

    config = Qwen3Config(**SHAPE)
    whole, least = memory.activation_bytes(shape_of(config), rank=8)
    assert memory.layers_to_keep(shape_of(config), 100, 10**9) == config.num_hidden_layers
    working = bisect_left(
        range(10**9), 0, key=lambda n: memory.layers_to_keep(shape_of(config), 100, n)
    )
    assert memory.layers_to_keep(shape_of(config), 100, working) == 0
    assert memory.layers_to_keep(shape_of(config), 100, working + 100 * 2 * (whole - least)) == 2


@pytest.mark.slow
def test_the_trainer_learns_the_same_with_fused_layers(tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": row, "labels": row} for row in random_tokens(8, 9).tolist()]
    losses = {}
    for layers in ("stock", "fused"):
        model = tiny_model("Qwen3", torch.float32)
        config = SFTConfig(
            output_dir=str(tmp_path / layers),
            use_cpu=True,
            bf16=False,
            max_length=None,
            max_steps=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=0.01,
            logging_steps=1,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:2]),
            processing_class=tiny_tokenizer(),
        )
        if layers == "fused":
            fused_layers.install(trainer.model, keep=1)
        trainer.train()
        losses[layers] = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        losses[layers].append(trainer.evaluate()["eval_loss"])
    assert losses["fused"] == pytest.approx(losses["stock"], rel=1e-4)
    assert losses["fused"][-1] < losses["fused"][0]


# Training in bfloat16 on 4-bit weights needs a GPU.


def quantised(model: Any) -> Any:
    """Returns the model on the GPU, with bitsandbytes' 4-bit weights under its adapters."""
    bnb = pytest.importorskip("bitsandbytes")
    for module in model.modules():
        if hasattr(module, "lora_A"):
            dense = module.get_base_layer()
            packed = bnb.nn.Linear4bit(
                dense.in_features,
                dense.out_features,
                bias=dense.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
            )
            packed.weight = bnb.nn.Params4bit(dense.weight.data, False, quant_type="nf4")
            packed.bias = dense.bias
            module.base_layer = packed
    return model.cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    ("kind", "head", "rows", "length"),
    [
        ("one row", 128, 1, 256),
        ("rows", 128, 2, 128),
        ("odd rows", 64, 2, 61),
        ("packed", 64, 1, 64),
    ],
)
def test_two_steps_on_4_bit_weights_follow_float32(kind, head, rows, length, offload):
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    positions = {"head_dim": head, "max_position_embeddings": 256}
    model = quantised(tiny_model("Qwen3", torch.bfloat16, **shape, **positions))
    exact = copy.deepcopy(model)
    for module in exact.modules():
        if hasattr(module, "lora_A"):
            weight = module.base_layer.weight
            dense = torch.nn.Linear(module.in_features, module.out_features, False, "cuda")
            torch_ops.dequantise(weight.data, weight.quant_state, dense.weight.data)
            module.base_layer = dense.requires_grad_(False)
    exact, stock = exact.float(), copy.deepcopy(model)
    others = [[p for p in other.parameters() if p.requires_grad] for other in (exact, stock)]
    fused_layers.install(model, keep=1, offload=offload)
    tokens = random_tokens(rows, length).cuda()
    # With a cache, transformers' default in training too, it would ignore that sequences are packed.
    inputs: dict[str, Any] = {"input_ids": tokens, "labels": tokens, "use_cache": False}
    if kind == "packed":
        inputs["position_ids"] = torch.tensor([[*range(40), *range(24)]], device="cuda")
    losses = []
    for step in range(2):
        actual, expected, rounded = (
            loss_and_gradients(each, **inputs) for each in (model, exact, stock)
        )
        losses.append(float(actual["loss"]))
        for name, value in expected.items():
            # Gradients that nearly cancel, as those of keys do, have larger errors in bfloat16 in any layers.
            bound = max(0.08, 1.5 * relative_error(rounded[name], value))
            error = relative_error(actual[name], value)
            assert error < (bound if name != "loss" else 0.01), (step, name, error, bound)
        adapters = [p for p in model.parameters() if p.requires_grad]
        torch.optim.SGD(adapters, lr=0.05).step()
        # All continue from the same rounded weights, so that rounding of the updates to bfloat16 is not compared.
        for parameters in others:
            for other, adapter in zip(parameters, adapters, strict=True):
                other.data.copy_(adapter)
    assert losses[1] < losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("family", list(TOWER))
def test_a_vision_tower_computes_the_same_with_its_windows_in_one_kernel(family):
    model = tiny_vision_language_model(family).get_base_model().to("cuda", torch.bfloat16)
    grid_thw = torch.tensor([[1, 12, 18], [1, 10, 4]], device="cuda")
    pixels = torch.randn(256, 3 * 2 * 14 * 14, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        expected = model.model.visual(pixels, grid_thw=grid_thw).pooler_output.float()
        vision.prepare_tower(model)
        actual = model.model.visual(pixels, grid_thw=grid_thw).pooler_output.float()
        flipped = model.model.visual(pixels.flip(0), grid_thw=grid_thw).pooler_output.float()
    assert (actual - expected).norm() < 0.02 * expected.norm()
    assert (flipped - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize(("family", "bits"), [(name, bits) for name in TOWER for bits in (4, 8)])
def test_a_vision_language_student_is_quantised_once_without_its_tower(
    family, bits, tmp_path, monkeypatch
):
    pytest.importorskip("bitsandbytes")
    from peft import get_peft_model

    from schemas.recipe import Train
    from student.training import quantized_base

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = tiny_vision_language_model(family).get_base_model()
    for module in base.modules():  # a checkpoint has no LoRA layers
        for name, child in module.named_children():
            if hasattr(child, "base_layer"):
                setattr(module, name, child.base_layer)
    base.bfloat16().save_pretrained(tmp_path / "model")
    train, losses = Train(method="qlora", bits=bits, dtype="bfloat16", rank=4), []
    messages: list[str] = []
    for _ in range(2):
        model = quantized_base.load(tmp_path / "model", train, True, messages.append)
        weights = {n: p.dtype for n, p in model.named_parameters()}
        assert weights["model.visual.blocks.0.attn.qkv.weight"] == torch.bfloat16
        assert weights["model.language_model.layers.0.mlp.up_proj.weight"] == torch.uint8
        assert not any(p.requires_grad for p in model.model.visual.parameters())
        torch.manual_seed(0)
        adapted = get_peft_model(model, lora_without_tower()).train()
        inputs = {key: value.to(model.device) for key, value in image_inputs().items()}
        losses.append(adapted(**inputs).loss.item())
    assert [line.split(" ")[0] for line in messages] == ["quantising", "reading"]
    assert losses[0] == losses[1] > 0


def examples_that_begin_alike() -> list[dict[str, Any]]:
    """Returns three examples with 9 equal tokens; the last two have 5 more in common."""
    head, *tails = random_tokens(4, 9).tolist()
    rows = [head + tails[0], head + tails[1], head + tails[1][:5] + tails[2]]
    labelled = len(head) + 6
    return [{"input_ids": row, "labels": [-100] * labelled + row[labelled:]} for row in rows]


def separate_and_shared(model: Any, device: str) -> list[dict[str, torch.Tensor]]:
    """Returns loss and gradients of these examples, summed over separate rows, and of their tree."""
    examples = examples_that_begin_alike()
    count = sum(label != -100 for e in examples for label in e["labels"])

    def gradients(row: dict[str, Any]) -> dict[str, torch.Tensor]:
        row = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in row.items()}
        divisor = torch.tensor(count, device=device)
        return loss_and_gradients(model, **row, use_cache=False, num_items_in_batch=divisor)

    alone = [gradients({k: torch.tensor([v]) for k, v in e.items()}) for e in examples]
    summed = {name: torch.stack([part[name] for part in alone]).sum(0) for name in alone[0]}
    row = shared_prefix.tree_row(shared_prefix.make_pieces(examples))
    assert row["input_ids"].shape[1] == 9 + 9 + 5 + 4 + 9
    return [summed, gradients(row)]


@pytest.mark.parametrize("keep", [3, 0])
def test_a_shared_beginning_gives_the_gradients_of_separate_examples(keep, monkeypatch):
    monkeypatch.setattr(shared_prefix, "_SHORTEST", 2)
    model = tiny_model("Llama")
    fused_layers.install(model, keep=keep)
    separate, shared = separate_and_shared(model, "cpu")
    assert_same(shared, separate)


@pytest.mark.gpu
@pytest.mark.parametrize("keep", [3, 0])
def test_a_shared_beginning_gives_the_gradients_of_separate_examples_on_a_gpu(keep, monkeypatch):
    monkeypatch.setattr(shared_prefix, "_SHORTEST", 2)
    model = tiny_model("Llama", torch.bfloat16, head_dim=64).cuda()
    fused_layers.install(model, keep=keep)
    separate, shared = separate_and_shared(model, "cuda")
    for name, value in separate.items():
        assert relative_error(shared[name], value) < 0.05, name
