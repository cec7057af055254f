"""Zero-shot tags: the published categories and rules, through a real model whose image tower is turned towards chosen categories."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.wat2mds.stages.filter.drawings import download_unit, drawings
from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.manifest import read_manifest
from wat2mds.models.clip import Clip, load_clip
from wat2mds.models.zero_shot import Group, ZeroShot, categories, load_zero_shot
from wat2mds.schema import SCORES, table_of
from wat2mds.settings import load_settings, profile_names
from wat2mds.stages import filter as stage
from wat2mds.stages.filter.decisions import decide
from wat2mds.store import Layout, split

PROMPTS = {name: [p for group in lists.values() for p in group] for name, lists in categories().items()}
CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights and open_clip's own tokenizer."""
    from wat2mds.models.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("model")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    made = open_clip.CLIP(**CONFIG["model_cfg"])
    torch.nn.init.normal_(made.text_projection, std=1)
    torch.nn.init.normal_(made.token_embedding.weight, std=1)
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def clip(model: Path) -> Clip:
    return load_clip(f"local-dir:{model}", "", device="cpu")


def turned(model: Path, clip: Clip, folder: Path, towards: dict[str, Sequence[str]]) -> str:
    """The model with every image's embedding nearest to these categories, in their order."""
    from safetensors.torch import load_file, save_file
    from torch import from_numpy

    vectors, wanted = [], []
    for name, prompts in PROMPTS.items():
        for prompt, vector in zip(prompts, clip.encode_text(prompts), strict=True):
            vectors.append(vector)
            wanted.append(1 - 0.3 * towards[name].index(prompt) if prompt in towards[name] else -0.2)
    image = np.linalg.pinv(np.array(vectors, np.float64), rcond=1e-6) @ np.array(wanted)
    weights = load_file(model / "open_clip_model.safetensors")
    weights["visual.attnpool.c_proj.weight"].zero_()
    weights["visual.attnpool.c_proj.bias"] = from_numpy(image.astype(np.float32))
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


SAFE = {"nsfw": ("talk show", "neutral"), "underage": ("woman, man", "full-aged, of legal age, adult"), "animal": ("chair",)}
UNSURE = SAFE | {"nsfw": ("documentary", "sexy, hot")}
NSFW = SAFE | {"nsfw": ("sexy, hot", "porn, sex, sexy")}
SECOND = {"underage": ("woman, man", "baby, toddler")}
KID = "two KIDS with a red circle"


@pytest.mark.parametrize(
    ("towards", "tag", "plain", "of_child"),
    [
        (SAFE, "UNLIKELY", None, None),
        (SAFE | SECOND | {"animal": ("dog",)}, "UNLIKELY", None, None),
        (UNSURE, "UNSURE", None, "underage"),
        (NSFW, "NSFW", None, "underage"),
        (UNSURE | SECOND, "UNSURE", "underage", "underage"),
        (NSFW | {"underage": ("teenager, teen", "woman, man")}, "NSFW", "underage", "underage"),
        (NSFW | {"animal": ("wildlife",)}, "NSFW", "animal", "underage"),
        (UNSURE | {"animal": ("rock, stone", "wildlife")}, "UNSURE", None, "underage"),
    ],
)
def test_the_stage_tags_and_drops(
    model: Path,
    clip: Clip,
    tmp_path: Path,
    towards: dict[str, Sequence[str]],
    tag: str,
    plain: str | None,
    of_child: str | None,
) -> None:
    name = turned(model, clip, tmp_path / "model", towards)
    given = (f"filter.clip_model={name}", "filter.min_similarity=-1", "filter.min_similarity_other=-1")
    settings = load_settings("laion400m", [*given, "filter.language_candidates=en,de"], environment={})
    first, second = drawings(2)
    dataset = Layout(tmp_path.as_uri(), "d").dataset
    samples = download_unit(dataset, [replace(first, caption="a red circle"), replace(second, caption=KID)], settings)
    out = split(split(samples.url)[0])[0] + "/filter"
    done = stage.run(samples, out, settings)
    scores = read_manifest(next(i.url for i in done.inputs if "/scores/" in i.url))
    rows = pq.read_table(scores.fetch("scores.parquet", tmp_path)).to_pylist()
    assert [row["nsfw"] for row in rows] == [tag, tag]
    assert [row["child_word"] for row in rows] == [False, True]
    assert pq.read_table(done.fetch("decisions.parquet", tmp_path))["drop_reason"].to_pylist() == [plain, of_child]
    # The tags are scores: without the rule the same unit serves, and nothing is dropped.
    lenient = load_settings(
        "laion400m", [*given, "filter.language_candidates=en,de", "filter.drop_illegal=false"], environment={}
    )
    assert (again := stage.run(samples, out, lenient)).flows[0].left == 2
    assert scores.url in [i.url for i in again.inputs]


@pytest.mark.shared
def test_categories_are_the_published_ones(shared: Path) -> None:
    published = json.loads((shared / "heads" / "zero_shot_categories.json").read_text("utf-8"))
    for name, lists in categories().items():
        assert lists == {group: prompts for group, prompts in published[name].items() if group != "rule"}


def test_the_index_slip_is_mended() -> None:
    lists = categories()["nsfw"]
    assert (len(lists["neutral"]), len(lists["nsfw"])) == (19, 17)
    assert {"animal, bird, mammal, insect", "fashion, clothes"} <= set(lists["neutral"])


def test_a_category_s_own_text_is_nearest_to_itself(clip: Clip) -> None:
    tagger = load_zero_shot(clip)
    for name in PROMPTS:
        group: Group = getattr(tagger, name)
        assert group.prompts == tuple(PROMPTS[name])
        assert np.array_equal(group.nearest(group.vectors, 1)[:, 0], group.wanted)


def test_every_pair_of_nearest_categories() -> None:
    groups = {
        name: Group(tuple(p), np.eye(len(p), dtype=np.float32), np.array([p_ in categories()[name][name] for p_ in p]))
        for name, p in PROMPTS.items()
    }
    for name, group in groups.items():
        images = [group.vectors[a] + 0.5 * group.vectors[b] for a, b in itertools.permutations(range(len(group.prompts)), 2)]
        expected = [
            (bool(group.wanted[a]), bool(group.wanted[b])) for a, b in itertools.permutations(range(len(group.prompts)), 2)
        ]
        assert [tuple(found) for found in group.nearest(np.array(images), 2).tolist()] == expected
        if name == "nsfw":
            other = {n: replace(g, vectors=np.zeros((len(g.prompts), len(group.prompts)), np.float32)) for n, g in groups.items()}
            tags = ZeroShot(**(other | {"nsfw": group})).score(np.array(images), ["Kidney"] * len(images))
            assert tags["nsfw"] == [("UNLIKELY", "UNSURE", "NSFW")[sum(pair)] for pair in expected]
            assert all(tags["child_word"]), "as in the published code, inside other words too"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"nsfw": None, "underage": None}, DropReason.UNDERAGE),
        ({"nsfw": "UNSURE", "underage": None}, DropReason.UNDERAGE),
        ({"nsfw": "NSFW", "animal": None}, DropReason.ANIMAL),
        ({"nsfw": "UNLIKELY", "underage": None, "animal": None}, None),
    ],
)
def test_an_absent_tag_is_not_a_harmless_one(row: dict[str, Any], reason: DropReason | None) -> None:
    full = {"uid": "0" * 32, "similarity": 0.5, "nsfw": "NSFW", "underage": False, "animal": False, "child_word": False} | row
    table = table_of(SCORES, {key: [value] for key, value in full.items()})
    assert decide(table, load_settings("laion400m", environment={}).filter).reasons.to_pylist() == [reason]


def test_the_rule_asks_for_the_tags() -> None:
    with pytest.raises(ConfigError, match=r"set filter\.zero_shot=true"):
        load_settings("laion400m", ["filter.zero_shot=false"], environment={})
    ruled = {name for name in profile_names() if load_settings(name, environment={}).filter.drop_illegal}
    assert ruled == {"laion400m", "laion5b", "relaion_safe"}
