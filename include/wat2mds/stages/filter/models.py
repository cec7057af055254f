"""Which models the scores of a sample come from: CLIP and the heads on its embeddings, by name and content.

In: the settings. Out: names and identities. What does not belong here: loading them (``wat2mds.models``), scoring.
"""

from __future__ import annotations

from wat2mds.manifest import Input
from wat2mds.models.clip import model_identity
from wat2mds.models.heads import head_identity
from wat2mds.stage_settings import FilterSettings

# Setting that names a head: the criterion that reads its score, and the column of the score.
HEADS = {"safety_head": "max_punsafe", "watermark_head": "max_pwatermark", "aesthetic_head": "min_aesthetic"}
COLUMNS = {"safety_head": "punsafe", "watermark_head": "pwatermark", "aesthetic_head": "aesthetic"}


def models(given: FilterSettings) -> list[Input]:
    """The models by content: other weights under the same name make other scores. Raises ConfigError for one that is not there."""
    found = [Input(f"clip:{given.clip_model}/{given.clip_pretrained}", model_identity(given.clip_model, given.clip_pretrained))]
    heads = (getattr(given, key) for key in HEADS)
    return found + [Input(f"head:{head}", head_identity(head)) for head in heads if head]
