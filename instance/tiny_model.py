"""The model of the first run: a small Llama with random weights and a byte-level tokenizer, made on the spot, with no
download.

Its words are noise: nothing was ever trained. It exists so that a real engine can start, stream and be killed on any
machine in a minute. The folder's name holds the digest of the recipe, so another recipe is another folder, and what is
found complete is never changed.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

RECIPE = {
    "version": 1,
    "layers": 8,
    "hidden": 256,
    "heads": 4,
    "kv_heads": 4,
    "context_tokens": 16384,
    "seed": 1,
    "spread": 0.08,  # larger than usual: the output then depends on the whole context instead of looping
}
SPECIALS = ("<s>", "</s>", "<pad>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
