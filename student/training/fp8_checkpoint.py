"""Quantises a checkpoint to e4m3 while transformers loads it, tensor by tensor, and reads it back quantised.

`Fp8Config` is given to `from_pretrained` as its quantization_config. What it changes is every linear layer except the
output layer and those of `skip`: they become Fp8Linear (student/kernels/fp8.py).
"""

from typing import Any

import torch
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from student.kernels.fp8 import Fp8Linear, quantise_weight

METHOD = "e4m3_rows"  # in the cached config.json


@register_quantization_config(METHOD)
class Fp8Config(QuantizationConfigMixin):
    """skip: parts of names of modules that are not quantised, such as a vision tower."""

    def __init__(self, skip: list[str] | None = None, **_: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.skip = skip


@register_quantizer(METHOD)
class Fp8Quantizer(HfQuantizer):
    is_trainable = True  # type: ignore[assignment]

    def is_serializable(self) -> bool:
        return True

    def update_device_map(self, device_map: Any) -> Any:
        return device_map or {"": "cpu"}

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        config: Any = self.quantization_config
        kept = self.get_modules_to_not_convert(
            model, config.skip, model._keep_in_fp32_modules, add_default_skips=True
        )
        for name, module in list(model.named_modules()):
            if type(module) is torch.nn.Linear and should_convert_module(name, kept):
                has_bias = module.bias is not None
                layer = Fp8Linear(
                    module.in_features, module.out_features, has_bias, "meta", module.weight.dtype
                )
                if not self.pre_quantized:
                    layer.weight = module.weight  # transformers casts what it reads to this dtype
                model.set_submodule(name, layer)

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        module, name = get_module_from_name(model, param_name)
        return isinstance(module, Fp8Linear) and name == "weight"

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantise()

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        model.is_loaded_in_8bit = True  # TRL then trains the adapters in bfloat16
        return model


class _Quantise(ConversionOps):  # type: ignore[misc]
    """Makes the values and scales of an Fp8Linear from a weight."""

    def convert(self, input_dict: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, weight in input_dict.items():
            weight = weight[0] if isinstance(weight, list) else weight
            values, scale = quantise_weight(weight)
            results[name] = torch.nn.Parameter(values, requires_grad=False)
            results[name.removesuffix("weight") + "scale"] = scale
        return results
