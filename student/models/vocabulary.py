"""Checks that a student's embedding has a row for each token of its tokenizer.

More rows than tokens are padding (Qwen: 151,665 tokens, 151,936 rows). A token without a row ends llama.cpp's converter
after the training, and an id of it ends the training.
"""

from pathlib import Path
from typing import Any

from schemas.error_text import one_line
from schemas.errors import InputError
from student.models import files

# The ends of the names of input and output embeddings in the families that transformers has.
_EMBEDDINGS = (
    *("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"),
    *("lm_head.weight", "embed_out.weight"),
)
_NAMED = 3  # tokens that a message names


def check_vocabulary(name: str, directory: Path, config: Any, tokenizer: Any) -> None:
    """Raises InputError if a token has no row, or if config.json and the weights have different numbers of rows.

    Reads the headers of the weights where they are on this machine, else config.json alone. It calls the directory
    `name`.
    """
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if not isinstance(rows, int):
        return
    for tensor, (shard, stored) in _stored_rows(directory).items():
        if stored != rows:
            raise InputError(
                f"{name}: config.json: vocab_size: found {rows:,}, expected {stored:,}, the rows of {tensor} in"
                f" {shard}: correct vocab_size, or resize the embedding (resize_token_embeddings) and save it"
            )
    ids = tokenizer.get_vocab()
    without = sorted((number, token) for token, number in ids.items() if number >= rows)
    if without:
        tokens = ", ".join(f"{token!r} ({number})" for number, token in without[:_NAMED])
        more = f" and {len(without) - _NAMED:,} others" if len(without) > _NAMED else ""
        raise InputError(
            f"{name}: the tokenizer has {len(ids):,} tokens with ids up to {without[-1][0]:,}, the embedding has"
            f" {rows:,} rows (vocab_size): expected a row for each token, found none for {tokens}{more}: remove these"
            f" tokens, or resize the embedding (resize_token_embeddings) and save it"
        )


def _stored_rows(directory: Path) -> dict[str, tuple[str, int]]:
    """The file and the rows of each embedding, from the headers of the weights that are in `directory`."""
    from safetensors import SafetensorError, safe_open

    rows = {}
    for shard in files.weights(directory, fetched=False):
        try:
            with safe_open(shard, framework="np") as file:
                for tensor in file.keys():  # noqa: SIM118 - not a dict
                    if tensor.endswith(_EMBEDDINGS):
                        rows[tensor] = (shard.name, file.get_slice(tensor).get_shape()[0])
        except SafetensorError as error:
            raise InputError(
                f"{shard}: not safetensors: {one_line(str(error))}: fetch the file again"
            ) from error
    return rows
