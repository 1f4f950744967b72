import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from schemas.errors import StageError
from student.export.merge import merge
from student.registry.artifact import check_paths

TEMPLATE = "{{ 'é' }}{% for m in messages %}{{ m.content }}{% endfor %}\n"


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for shard in sorted(directory.glob("*.safetensors"))
        for name, tensor in load_file(shard).items()
    }


def shards(directory: Path) -> dict[str, list[str]]:
    """The names of the tensors in each file of weights."""
    return {p.name: sorted(load_file(p)) for p in sorted(directory.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A random Llama of two layers, in 16 bits and two shards, with what lies beside the weights."""
    directory = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(directory, max_shard_size="32KB")
    assert len(shards(directory)) == 2
    (directory / "tokenizer_config.json").write_text('{"eos_token": "é", "chat_template": "old"}')
    (directory / "chat_template.jinja").write_text("old")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "pytorch_model.bin").write_text("the same weights, once more")
    (directory / ".cache").mkdir()
    return directory


def lora(untrained: Path, to: Path, **more) -> Path:
    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        init_lora_weights=False,  # else B is zero
        **more,
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(untrained), config).save_pretrained(str(to))
    return to


@pytest.fixture(scope="module")
def adapter(untrained, tmp_path_factory):
    return lora(untrained, tmp_path_factory.mktemp("adapter"))


PATTERNS = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8},
    "alpha_pattern": {"v_proj": 3, r"layers\.0\.self_attn\.k_proj": 64},
}


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, PATTERNS, {"use_rslora": True, **PATTERNS}],
    ids=["plain", "rslora", "patterns", "both"],
)
def test_merged_weights_are_pefts_merge_in_32_bits_rounded_once(untrained, tmp_path, settings):
    adapter = lora(untrained, tmp_path / "adapter", **settings)
    merge(untrained, adapter, tmp_path / "merged", TEMPLATE)
    full = AutoModelForCausalLM.from_pretrained(untrained, dtype=torch.float32)
    expected = PeftModel.from_pretrained(full, adapter).merge_and_unload().state_dict()
    merged, before = tensors(tmp_path / "merged"), tensors(untrained)
    assert merged.keys() == before.keys() == expected.keys()
    changed = [name for name in merged if not torch.equal(merged[name], before[name])]
    assert len(changed) == 2 * 7  # the linear layers of both blocks, and nothing else
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        # One unit in the last of bfloat16's 8 bits: two float32 sums may round to two sides of a tie.
        torch.testing.assert_close(tensor.float(), expected[name], rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"use_dora": True}, "use_dora: found True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: found ['lm_head']"),
        ({"bias": "all"}, "bias: found 'all'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: found 'olora'"),
        ({"layer_replication": [[0, 2]]}, "layer_replication: found [[0, 2]]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_merging_would_ignore_is_refused_by_its_name(untrained, tmp_path, settings, problem):
    adapter = lora(untrained, tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(StageError) as raised:
        merge(untrained, adapter, tmp_path / "merged", TEMPLATE)
    assert str(raised.value).startswith(f"{file}: {problem}, which cannot be merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("extra", ["lora_magnitude_vector", "lora_embedding_A", "lora_B.bias"])
def test_a_tensor_that_is_no_pair_is_refused_whatever_the_settings_say(untrained, tmp_path, extra):
    adapter = lora(untrained, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    name = f"base_model.model.model.layers.0.self_attn.q_proj.{extra}"
    save_file(load_file(file) | {name: torch.ones(32)}, file)
    with pytest.raises(StageError, match=f"{extra}: cannot be merged: expected pairs"):
        merge(untrained, adapter, tmp_path / "merged", TEMPLATE)


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_half_of_a_pair_is_refused(untrained, tmp_path, lost):
    adapter = lora(untrained, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if lost in name)]
    save_file(tensors, file)
    with pytest.raises(StageError, match=f"{file}: base_model.*(cannot be merged|no lora_B)"):
        merge(untrained, adapter, tmp_path / "merged", TEMPLATE)


def test_transformers_loads_what_was_merged_and_its_shards_are_the_bases(
    untrained, adapter, tmp_path
):
    merge(untrained, adapter, tmp_path / "merged", TEMPLATE)
    assert shards(tmp_path / "merged") == shards(untrained)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for name, tensor in tensors(tmp_path / "merged").items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_tokenizer_and_config_come_along_but_no_other_weights_and_no_hidden_files(
    untrained, adapter, tmp_path
):
    merge(untrained, adapter, tmp_path / "merged", TEMPLATE)
    names = {p.name for p in untrained.iterdir()} - {"pytorch_model.bin", ".cache"}
    assert {p.name for p in (tmp_path / "merged").iterdir()} == names
    assert (tmp_path / "merged" / "config.json").read_text() == (
        untrained / "config.json"
    ).read_text()


def test_other_copies_of_the_weights_other_templates_and_odd_names_stay_behind(
    untrained, adapter, tmp_path
):
    base = Path(shutil.copytree(untrained, tmp_path / "base"))
    shard = sorted(base.glob("*.safetensors"))[0]
    odd = base / "first part (of 2).safetensors"
    shard.rename(odd)
    index = base / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, odd.name))
    for name in (
        *("consolidated.safetensors", "consolidated.00.pth", "model.pt", "tf_model.h5"),
        *("original/params.json", "onnx/model.onnx", "flax_model.msgpack", "notes (final).txt"),
        *("additional_chat_templates/tool_use.jinja", "chat_template.json", "README.md"),
    ):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("not the student's")
    settings = {"chat_template": "a third", "processor_class": "P"}
    (base / "processor_config.json").write_text(json.dumps(settings))
    (base / "LICENSE").write_text("Apache-2.0")
    merge(base, adapter, tmp_path / "merged", TEMPLATE)
    merge(untrained, adapter, tmp_path / "expected", TEMPLATE)
    exported, expected = tensors(tmp_path / "merged"), tensors(tmp_path / "expected")
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[name], expected[name]) for name in expected)
    names = {
        p.relative_to(tmp_path / "merged").as_posix() for p in (tmp_path / "merged").rglob("*")
    }
    assert names - {p.name for p in (tmp_path / "expected").iterdir()} == {
        "LICENSE",
        "processor_config.json",
    }
    assert len(names) == 2 + len(list((tmp_path / "expected").iterdir()))
    assert json.loads((tmp_path / "merged" / "processor_config.json").read_text()) == {
        "processor_class": "P"
    }
    check_paths(sorted(names), "mine")
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_the_template_is_in_both_places_that_readers_look_at(untrained, adapter, tmp_path):
    merge(untrained, adapter, tmp_path / "merged", TEMPLATE)
    assert (tmp_path / "merged" / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    config = json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config == {"eos_token": "é", "chat_template": TEMPLATE}


def test_full_weights_take_the_place_of_the_bases(untrained, tmp_path):
    trained = {name: tensor + 1 for name, tensor in tensors(untrained).items()}
    (tmp_path / "full").mkdir()
    save_file(trained, tmp_path / "full" / "model.safetensors", metadata={"format": "pt"})
    merge(untrained, tmp_path / "full", tmp_path / "merged", TEMPLATE)
    assert list(shards(tmp_path / "merged")) == ["model.safetensors"]
    assert not (tmp_path / "merged" / "model.safetensors.index.json").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for name, tensor in trained.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_second_merge_replaces_the_first(untrained, adapter, tmp_path):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "model-00003-of-00003.safetensors").write_text("of an older student")
    merge(untrained, adapter, tmp_path / "merged", TEMPLATE)
    assert shards(tmp_path / "merged") == shards(untrained)


# ------------------------------------------------------------------------------------- failures


def test_an_adapter_of_a_larger_model_is_refused_by_the_first_tensor_that_is_missing(
    untrained, adapter, tmp_path
):
    (tmp_path / "smaller").mkdir()
    first_layer = {k: v for k, v in tensors(untrained).items() if ".layers.1." not in k}
    save_file(first_layer, tmp_path / "smaller" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "smaller" / "tokenizer_config.json").write_text("{}")
    missing = (
        r"adapter for model\.layers\.1\.mlp\.down_proj\.weight and 6 other tensors that the base"
    )
    with pytest.raises(StageError, match=missing):
        merge(tmp_path / "smaller", adapter, tmp_path / "merged", TEMPLATE)
    assert [p.name for p in tmp_path.iterdir()] == ["smaller"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_file_that_cannot_be_written_in_full_fails_the_stage_and_leaves_nothing(
    untrained, adapter, tmp_path, method
):
    trained = adapter if method == "lora" else untrained
    # The kernel refuses to let a file grow beyond the limit, as it does on a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limits[1]))
    try:
        with pytest.raises(StageError, match="merged.*: cannot be written: .*File too large"):
            merge(untrained, trained, tmp_path / "merged", TEMPLATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_fails_leaves_the_one_before_as_it_was(untrained, adapter, tmp_path):
    merge(untrained, adapter, tmp_path / "merged", TEMPLATE)
    before = tensors(tmp_path / "merged")
    (tmp_path / "broken").mkdir()
    with pytest.raises(StageError):
        merge(tmp_path / "broken", adapter, tmp_path / "merged", TEMPLATE)
    assert all(torch.equal(before[k], v) for k, v in tensors(tmp_path / "merged").items())
    assert {p.name for p in tmp_path.iterdir()} == {"merged", "broken"}
