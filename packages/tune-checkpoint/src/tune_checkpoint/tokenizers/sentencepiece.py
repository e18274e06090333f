"""A SentencePiece BPE model as the parts of `tokenizer.json`, with equal token ids.

Source: `Normalizer::Normalize` and `bpe::Model::SampleEncode` of google/sentencepiece say what the steps must
come to; the tests hold them equal to the library.
"""

import base64
import re
from collections import Counter
from typing import Any

from tune_checkpoint.tokenizers.bpe import bpe_model, merges_from_scores
from tune_checkpoint.tokenizers.sentencepiece_reader import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    SentencePieceModel,
)
from tune_checkpoint.tokenizers.tokenizer_json import (
    SPACE,
    AddedToken,
    TokenizerParts,
    sentencepiece_decoder,
)

ALL_SPACES = 1 << 16
"""More than any text begins with."""


def sentencepiece_parts(model: SentencePieceModel) -> tuple[TokenizerParts, list[str]]:
    """The tokenizer that encodes as SentencePiece does, and puts bos before a text if there is such a piece.

    SentencePiece never finds control tokens in a text; tokenizer.json does. Such a text is taken as one: the
    space that SentencePiece puts before a text comes before the first token of all, nowhere else.

    Returns:
        The parts; and why token ids may differ for some texts after all, one sentence each.
    """
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == NORMAL}
    symbols = [piece.piece for piece in model.pieces if piece.type == USER_DEFINED]
    merges = merges_from_scores(scores, scores)
    bpe = bpe_model(
        {piece.piece: index for index, piece in enumerate(model.pieces)},
        merges,
        unk_token=model.pieces[model.ids["unk"]].piece,
        fuse_unk=True,
        byte_fallback=bool(model.trainer.byte_fallback),
        # A user-defined piece has no merges: it is cut out of the text, and then taken as it stands. So is an
        # ordinary piece that is all there is between two of them, which its merges would make anyway.
        ignore_merges=bool(symbols),
    )
    parts = TokenizerParts(
        model=bpe,
        normalizer=_normalizer(model),
        pre_tokenizer=_pre_tokenizer(model, symbols),
        decoder=sentencepiece_decoder(_num_foreign_spaces(model)),
        added_tokens=[
            AddedToken(index, piece.piece, special=True)
            for index, piece in enumerate(model.pieces)
            if piece.type in (CONTROL, UNKNOWN)
        ],
        special={name: model.pieces[index].piece for name, index in model.ids.items()},
        ids=model.ids,
        add_bos="bos" in model.ids,
    )
    return parts, _differences(model, scores, symbols, merges)


def _num_foreign_spaces(model: SentencePieceModel) -> int:
    """Spaces that decoding drops from the beginning."""
    if model.normalizer.remove_extra_whitespaces:
        return ALL_SPACES
    return 1 if model.normalizer.add_dummy_prefix else 0


def _normalizer(model: SentencePieceModel) -> dict[str, Any]:
    spec = model.normalizer
    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        table = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if spec.remove_extra_whitespaces:
        if spec.add_dummy_prefix:
            # Leading spaces shrink to one, which takes the prefix's place: text that a normalizer removes
            # from the front would keep the prefix out. A U+2581 there is the text's own.
            steps.append(_replace({"Regex": rf"\A{SPACE}"}, SPACE * 2))
        else:
            steps.append(_replace({"Regex": r"\A +"}, ""))
        steps.append(_replace({"Regex": " {2,}"}, " "))
    steps.append(_replace({"String": " "}, SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(_replace({"Regex": rf"{SPACE}+\z"}, ""))
    return {"type": "Sequence", "normalizers": steps}


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _pre_tokenizer(model: SentencePieceModel, symbols: list[str]) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.normalizer.add_dummy_prefix and model.normalizer.remove_extra_whitespaces:
        steps.append(_metaspace(SPACE, "first"))
    elif model.normalizer.add_dummy_prefix:
        # In one step the prefix would be left out where the text itself begins with a space.
        steps += [_metaspace(" ", "first"), _metaspace(SPACE, "never")]
    if symbols:
        longest_first = sorted(symbols, key=len, reverse=True)
        pattern = "|".join(re.escape(symbol) for symbol in longest_first)
        steps.append(
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        )
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _metaspace(replacement: str, prepend_scheme: str) -> dict[str, Any]:
    return {
        "type": "Metaspace",
        "replacement": replacement,
        "prepend_scheme": prepend_scheme,
        "split": False,
    }


def _differences(
    model: SentencePieceModel, scores: dict[str, float], symbols: list[str], merges: list[tuple[str, str]]
) -> list[str]:
    """What tokenizer.json cannot express; the models of Llama and Mistral have none of it."""
    reasons: list[str] = []
    if model.normalizer.precompiled_charsmap:
        reasons.append("characters are replaced by a table, and libraries differ in some sequences of them")
    if model.normalizer.remove_extra_whitespaces and any(" " in symbol for symbol in symbols):
        reasons.append("spaces are dropped, but not inside user-defined pieces")
    made = {left + right for left, right in merges}
    lost = [token for token in scores if len(token) > 1 and token not in made]
    if lost:
        reasons.append(f"{len(lost)} pieces, {lost[0]!r} the first, do not consist of two others")
    # Runs of spaces share a score in many models, and grow from their beginning either way.
    shared = Counter(score for token, score in scores.items() if token in made and token.strip(SPACE))
    ties = [score for score, count in shared.items() if count > 1]
    if ties:
        reasons.append(f"several pieces have the score {ties[0]}, and their order is not defined by it")
    return [
        f"tokenizer.json: token ids may differ for some texts from SentencePiece's: {reason}"
        for reason in reasons
    ]
