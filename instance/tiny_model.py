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


def tiny_model_path(cache: Path | None = None) -> Path:
    """Where it is, or will be."""
    digest = hashlib.sha256(json.dumps([RECIPE, SPECIALS, CHAT_TEMPLATE], sort_keys=True).encode()).hexdigest()[:12]
    return (cache or Path.home() / ".cache" / "shoal" / "models") / f"tiny-{digest}"


def ensure_tiny_model(cache: Path | None = None) -> Path:
    """The folder of the model, made if need be. Any number of processes may call it at once: each gets a whole one."""
    target = tiny_model_path(cache)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _write(unfinished)
        unfinished.chmod(0o755)
        os.rename(unfinished, target)
    except OSError:
        if not target.exists():  # else another process was first, with the same bytes
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _write(folder: Path) -> None:
    vocabulary = _write_tokenizer(folder)
    _write_weights(folder, vocabulary)


def _write_tokenizer(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415  heavy, and only the first run needs it
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415  as above

    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for special in SPECIALS:
        vocabulary[special] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos, eos, pad = SPECIALS
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=RECIPE["context_tokens"],
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    return vocabulary


def _write_weights(folder: Path, vocabulary: dict[str, int]) -> None:
    import torch  # noqa: PLC0415  heavy, and only the first run needs it
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  as above
    from transformers.utils import logging  # noqa: PLC0415  as above

    bos, eos, _ = SPECIALS
    hidden = int(RECIPE["hidden"])
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=RECIPE["layers"],
        num_attention_heads=RECIPE["heads"],
        num_key_value_heads=RECIPE["kv_heads"],
        head_dim=hidden // int(RECIPE["heads"]),
        max_position_embeddings=RECIPE["context_tokens"],
        bos_token_id=vocabulary[bos],
        eos_token_id=vocabulary[eos],
        dtype="float32",
        initializer_range=RECIPE["spread"],
    )
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(RECIPE["seed"]))
        LlamaForCausalLM(config).save_pretrained(folder)


__all__ = ["RECIPE", "ensure_tiny_model", "tiny_model_path"]
