"""Which models the scores of a sample come from: CLIP, the heads on its embeddings and word lists, by name and content.

In: the settings. Out: names and identities. What does not belong here: loading them (``wat2mds.models``), scoring.
"""

from __future__ import annotations

from wat2mds.manifest import Input
from wat2mds.models.clip import model_identity
from wat2mds.models.heads import head_identity
from wat2mds.stage_settings import FilterSettings
from wat2mds.stages.filter.words import lists_identity

# Setting that names a head: the column of its score.
COLUMNS = {"safety_head": "punsafe", "watermark_head": "pwatermark", "toxicity_head": "toxicity", "aesthetic_head": "aesthetic"}
# Setting that a score is made with: the criteria that read the score.
READ_BY = {
    "safety_head": ("max_punsafe", "max_punsafe_with_word"),
    "watermark_head": ("max_pwatermark",),
    "toxicity_head": ("max_toxicity",),
    "aesthetic_head": ("min_aesthetic",),
    "word_lists": ("max_punsafe_with_word",),
}


def models(given: FilterSettings) -> list[Input]:
    """The models by content: other weights under the same name make other scores. Raises ConfigError for one that is not there."""
    found = [Input(f"clip:{given.clip_model}/{given.clip_pretrained}", model_identity(given.clip_model, given.clip_pretrained))]
    if given.clip_model_other:
        other = model_identity(given.clip_model_other, given.clip_pretrained_other)
        found.append(Input(f"clip:{given.clip_model_other}/{given.clip_pretrained_other}", other))
    heads = (getattr(given, key) for key in COLUMNS)
    found += [Input(f"head:{head}", head_identity(head)) for head in heads if head]
    if given.word_lists:
        found.append(Input(f"words:{given.word_lists}", lists_identity(given.word_lists)))
    return found
