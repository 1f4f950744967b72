"""The characters that llama.cpp's Unicode table lacks.

A tokenizer splits text at letters, digits and spaces before it looks up tokens. llama.cpp's table, in
src/unicode-data.cpp, is older than that of Hugging Face's tokenizers: a letter that Unicode got later is none for
llama.cpp, which splits there.
"""

import re
from functools import cache

from teacher.inference import llamacpp

# A range of the table, until the next one begins: its first character and its category, of unicode_cpt_flags.
_RANGE = re.compile(r"\{0x([0-9A-F]{6}), 0x([0-9A-F]{4})\}")
_UNDEFINED = 1


@cache
def unknown_characters() -> tuple[range, ...]:
    """Returns the code points that the table has no category for; nothing where llama.cpp's source is not here."""
    source = llamacpp.source_here()
    if source is None:
        return ()
    text = (source / "src" / "unicode-data.cpp").read_text(encoding="utf-8")
    table = text[text.index("unicode_ranges_flags") : text.index("};")]
    starts = [(int(first, 16), int(flags, 16)) for first, flags in _RANGE.findall(table)]
    return tuple(
        range(first, following)
        for (first, flags), (following, _) in zip(starts, starts[1:], strict=False)
        if flags == _UNDEFINED
    )
