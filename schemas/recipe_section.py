"""The base class of the recipe's sections, and the names of GGUF variants."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

# Quantizations of a GGUF file, by llama.cpp's names.
Variant = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"]


class Section(BaseModel):
    """A group of settings. An unknown name is an error, and a loaded section cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
