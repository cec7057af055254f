"""English by one CLIP model, the rest by another, of other weights and another dimension: scores, files, decisions, what is published."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.wat2mds.stages.filter.drawings import SEGMENT, SNAPSHOT, download_unit, drawings, under
from tests.wat2mds.stages.filter.test_profiles import out_of
from wat2mds.cli.main import run as command
from wat2mds.drops import DropReason
from wat2mds.errors import ConfigError
from wat2mds.manifest import Manifest, read_manifest
from wat2mds.models.clip import TINY_FOLDER, Clip, load_clip, model_identity
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.settings import Settings
from wat2mds.stages import convert, publish, upload, validate
from wat2mds.stages import filter as stage
from wat2mds.stages.publish.verify import verify
from wat2mds.stages.upload import object_paths
from wat2mds.store import Layout, Store, split

COUNT = 24


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of random weights and 32 dimensions in place of the tiny one's."""
    declare_torchvision_ops()
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(TINY_FOLDER, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 32
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    dataset = Layout((tmp_path_factory.mktemp("two") / "root").as_uri(), "d").dataset
    return download_unit(dataset, drawings(COUNT), under("demo"), shard=8)


def two(other: str, *more: str) -> Settings:
    limits = ("filter.min_similarity=-1", "filter.min_similarity_other=-1", "filter.max_punsafe=", "filter.max_pwatermark=")
    return under("demo", *limits, *more, f"filter.clip_model_other={other}")


def scored(samples: Manifest, settings: Settings) -> tuple[Manifest, Manifest]:
    done = stage.run(samples, out_of(samples), settings)
    return done, read_manifest(next(i.url for i in done.inputs if "/scores/" in i.url))


def test_each_caption_by_the_model_of_its_language(samples: Manifest, other: str) -> None:
    settings = two(other)
    _, alone = scored(samples, under("demo"))
    _, both = scored(samples, settings)
    rows = pq.read_table(both.fetch("scores.parquet", Path())).to_pylist()
    before = pq.read_table(alone.fetch("scores.parquet", Path())).to_pylist()
    clip = load_clip(other, "", "cpu")
    stored = {
        one["uid"]: one for name in samples.matching(".parquet") for one in pq.read_table(samples.fetch(name, Path())).to_pylist()
    }
    theirs = []
    for row, first in zip(rows, before, strict=True):
        english = row["language"] == "en" and row["language_probability"] >= settings.filter.min_language_probability
        if english:
            assert row == first
            continue
        theirs.append(row)
        assert row["clip_model"] == clip.identity == model_identity(other, "") != first["clip_model"]
        one = stored[row["uid"]]
        image = clip.encode_image([clip.pixels(Image.open(io.BytesIO(one["jpg"])))])[0]
        assert row["similarity"] == pytest.approx(float(image @ clip.encode_text([one["caption"]])[0]), abs=1e-5)
        same = row.keys() - {"similarity", "clip_model"}
        assert {key: row[key] for key in same} == {key: first[key] for key in same}, "heads and tags stay the first model's"
    assert 0 < len(theirs) < len(rows)
    images, texts = (np.load(both.fetch(f"{name}_other.npy", Path())) for name in ("img_emb", "text_emb"))
    assert images.shape == texts.shape == (len(theirs), 32)
    cosines = np.einsum("nd,nd->n", images.astype(np.float32), texts.astype(np.float32))
    assert np.allclose(cosines, [row["similarity"] for row in theirs], atol=2e-3)
    for name in ("img_emb.npy", "text_emb.npy"):
        assert both.fetch(name, Path()).read_bytes() == alone.fetch(name, Path()).read_bytes()


def test_thresholds_by_language_and_the_preview(samples: Manifest, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, scores = scored(samples, two(other))
    rows = pq.read_table(scores.fetch("scores.parquet", Path())).to_pylist()
    mine = load_clip(other, "", "cpu").identity
    limit = float(np.median([row["similarity"] for row in rows if row["clip_model"] == mine]))
    settings = two(other, f"filter.min_similarity_other={limit!r}")
    done, again = scored(samples, settings)
    assert again.url == scores.url, "a threshold makes no new scores"
    reasons = pq.read_table(done.fetch("decisions.parquet", Path()))["drop_reason"].to_pylist()
    expected = [DropReason.LOW_SIMILARITY if r["clip_model"] == mine and r["similarity"] < limit else None for r in rows]
    assert reasons == expected
    assert {None, DropReason.LOW_SIMILARITY} <= set(reasons)
    work = split(out_of(samples))[0]
    given = [f"filter.{key}={'' if value is None else value}" for key, value in _changed(settings).items()]
    capsys.readouterr()
    assert command(["funnel", work, "--profile", "demo", *(part for text in given for part in ("--set", text))]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])["funnel"]["lines"][-1]
    assert line == {"stage": "filter", **vars(done.flows[0])}
    # Another probability gives captions to another model: these scores do not serve.
    extra = ["--set", "filter.min_language_probability=0.99"]
    assert command(["funnel", work, "--profile", "demo", *(part for text in given for part in ("--set", text)), *extra]) == 65


def _changed(settings: Settings) -> dict[str, object]:
    keys = ("clip_model_other", "min_similarity", "min_similarity_other", "max_punsafe", "max_pwatermark")
    return {key: getattr(settings.filter, key) for key in keys}


def test_validated_converted_and_laid_out_by_model(samples: Manifest, other: str, tmp_path: Path) -> None:
    settings = two(other)
    done, scores = scored(samples, settings)
    validated = validate.run(samples, done, str(tmp_path / "validate"), settings)
    report = json.loads(validated.fetch("report.json", tmp_path).read_bytes())
    names = {one["name"]: one["success"] for one in report["expectations"]}
    assert names["scores.similarity_true"]
    assert names["scores.image_embedding_norm"]
    made = convert.run(samples, done, str(tmp_path / "convert"), settings, validated)
    metadata = pq.read_table(made.fetch("metadata.parquet", tmp_path))
    theirs = pq.read_table(made.fetch("metadata_other.parquet", tmp_path))
    model = scores.extra["clip_model_other"]
    assert theirs["uid"].to_pylist() == [r["uid"] for r in metadata.to_pylist() if r["clip_model"] == model]
    images, texts = (np.load(made.fetch(f"{name}_other.npy", tmp_path)).astype(np.float32) for name in ("img_emb", "text_emb"))
    assert np.allclose(np.einsum("nd,nd->n", images, texts), theirs["similarity"].to_numpy(), atol=2e-3)
    paths = object_paths(made)
    folder = f"embeddings/{made.extra['unit_name']}/other"
    assert {path for path in paths.values() if "/other/" in path} == {
        f"{folder}/img_emb/img_emb_0.npy",
        f"{folder}/text_emb/text_emb_0.npy",
        f"{folder}/metadata/metadata_0.parquet",
    }
    dataset = Layout(tmp_path.as_uri(), "published").dataset
    uploaded = upload.run(made, dataset, str(tmp_path / "upload"), settings)
    publish.run([uploaded], dataset, settings)
    assert verify(dataset).problems == []
    place = Store(dataset)
    assert place.read(f"{folder}/img_emb/img_emb_0.npy") == made.fetch("img_emb_other.npy", tmp_path).read_bytes()
    assert made.unit["snapshot"] == SNAPSHOT
    assert made.unit["segment"] == SEGMENT


def test_the_same_model_twice_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="clip_model_other is clip_model: leave it empty"):
        under("demo", "filter.clip_model_other=wat2mds-tiny", "filter.clip_pretrained_other=tiny")


def test_an_image_model_gives_pwatermark(samples: Manifest, tmp_path: Path) -> None:
    from tests.wat2mds.models.test_image_models import HEADER, network
    from wat2mds.models.image_models import load_image_model, save_image_model

    path = tmp_path / "watermark.safetensors"
    save_image_model(path, HEADER, network().state_dict())
    _, scores = scored(samples, under("demo", f"filter.watermark_head={path}"))
    rows = pq.read_table(scores.fetch("scores.parquet", tmp_path)).to_pylist()
    stored = {
        one["uid"]: one["jpg"]
        for n in samples.matching(".parquet")
        for one in pq.read_table(samples.fetch(n, tmp_path)).to_pylist()
    }
    model = load_image_model(str(path), "cpu")
    for row in rows[::5]:
        with Image.open(io.BytesIO(stored[row["uid"]])) as image:
            expected = model.score([model.prepared(image.convert("RGB"))])[0]
        assert row["pwatermark"] == pytest.approx(float(expected), abs=1e-5)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="by its header, found"):
        scored(samples, under("demo", f"filter.watermark_head={path}"))


def test_a_second_model_that_does_not_fit_is_given_less(
    samples: Manifest, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = stage.run(samples, str(tmp_path / "plain"), two(other))
    sizes: list[int] = []
    embed = Clip.image_rows

    def limited(clip: Clip, batch: torch.Tensor) -> torch.Tensor:
        if clip.dim == 32:
            if len(batch) > 3:
                raise torch.OutOfMemoryError("simulated")
            sizes.append(len(batch))
        return embed(clip, batch)

    monkeypatch.setattr(Clip, "image_rows", limited)
    halved = stage.run(samples, str(tmp_path / "halved"), two(other))
    assert sizes
    assert max(sizes) <= 3
    tables = []
    for done in (plain, halved):
        scores = read_manifest(next(i.url for i in done.inputs if "/scores/" in i.url))
        tables.append(pq.read_table(scores.fetch("scores.parquet", tmp_path)))
    assert tables[0]["clip_model"].equals(tables[1]["clip_model"])
    np.testing.assert_allclose(tables[0]["similarity"], tables[1]["similarity"], atol=1e-5)
