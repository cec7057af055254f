"""Text towers without the padding: a caption of ten tokens need not cost as much as one of seventy-seven.

In: an open_clip model and tokens. Out: how many tokens of each row its embedding depends on, and the embedding of cut rows. Guaranteed:
what is cut cannot reach the embedding: in a tower with a causal mask no token sees those after it, and the embedding is taken at the
end-of-text token; in Hugging Face's towers padding is masked. A tower of another kind gets all tokens. What does not belong here:
tokenizing, batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def lengths(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """int64 [n]: the row's tokens that matter are the first so many of int64 [n, context]."""
    import torch

    if _is_causal(model):
        end = tokens == model.text_eos_id if model.text_pool_type == "eos" else tokens == tokens.amax(dim=1, keepdim=True)
        return end.int().argmax(dim=1) + 1
    if (padding := _masked_padding(model)) is not None:
        context = tokens.shape[1]
        return context - (tokens != padding).flip(1).int().argmax(dim=1)
    return torch.full((len(tokens),), tokens.shape[1])


def encode(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[n, dim], not normalised, of tokens int64 [n, up to context] that were cut after the longest of their `lengths`."""
    if not _is_causal(model):
        return _tensor(model.encode_text(tokens))
    # open_clip.CLIP.encode_text adds the whole positional embedding, so that it takes rows of full length only.
    from open_clip.transformer import text_global_pool

    count = tokens.shape[1]
    kind = model.transformer.get_cast_dtype()
    rows = model.token_embedding(tokens).to(kind) + model.positional_embedding[:count].to(kind)
    rows = model.ln_final(model.transformer(rows, attn_mask=model.attn_mask[:count, :count]))
    pooled = text_global_pool(rows, tokens, model.text_pool_type, eos_token_id=model.text_eos_id)
    projection = model.text_projection
    if projection is None:
        return _tensor(pooled)
    return _tensor(projection(pooled) if callable(projection) else pooled @ projection)


def _is_causal(model: Any) -> bool:
    import open_clip

    # Subclasses may compute something else.
    return type(model) is open_clip.CLIP and model.attn_mask is not None and model.text_pool_type in ("argmax", "eos")


def _masked_padding(model: Any) -> int | None:
    """The padding token that a tower of Hugging Face's masks everywhere."""
    from open_clip.hf_model import HFTextEncoder

    tower = getattr(model, "text", None)
    return int(tower.config.pad_token_id) if isinstance(tower, HFTextEncoder) else None


def _tensor(found: Any) -> torch.Tensor:
    return found  # type: ignore[no-any-return]
