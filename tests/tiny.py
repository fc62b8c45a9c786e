"""Tiny random text backbones with their tokenizers, built without a network: what the tests fine-tune."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast


CORPUS = (
    "heat casino crime drama comedy film music rock jazz album artist book novel travel food coffee bar park museum",
    "gym train station office home shop guitar strings pick amplifier cable paint glue filter red blue green small large",
    "great good fine poor bad broken love hate what a duel the best of and with for in on at to from new old",
)


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-cased WordPiece over whole corpus words, then single characters."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = dict.fromkeys(" ".join(CORPUS).split())
    pieces = dict.fromkeys([*specials, *characters, *(f"##{character}" for character in characters), *words])
    tokenizer = Tokenizer(
        models.WordPiece(vocab={piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with 360 pieces and an end-of-text token that is padding too, as decoders' tokenizers often have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=64
    )


def save_tiny_bert(directory: Path, seed: int = 0) -> Path:
    """A random BERT (width 32, 2 layers) and its tokenizer, saved so that `AutoModel`/`AutoTokenizer` open `directory`."""
    tokenizer = wordpiece_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(BertModel, config, tokenizer, directory, seed)


def save_tiny_llama(directory: Path, seed: int = 0) -> Path:
    """A random Llama (width 32, 2 layers, grouped-query attention) and its tokenizer, saved as above."""
    tokenizer = bpe_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(LlamaModel, config, tokenizer, directory, seed)


def _save(model_class, config, tokenizer: PreTrainedTokenizerFast, directory: Path, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return Path(directory)
