"""Settings: precedence, bounds, nearest names, and what a fingerprint is made of."""

from __future__ import annotations

import pytest

from wat2mds.errors import ConfigError
from wat2mds.settings import Settings, deployment, load_settings, profile_names, read_profile, setting_keys


def test_profile_then_environment_then_command_line() -> None:
    assert load_settings("laion5b").download.image_size == 384
    environment = {"WAT2MDS_DOWNLOAD__IMAGE_SIZE": "300", "WAT2MDS_PROFILE": "laion5b"}
    assert load_settings(environment=environment).download.image_size == 300
    assert load_settings(environment=environment).profile == "laion5b"
    assert load_settings(None, ["download.image_size=200"], environment=environment).download.image_size == 200


@pytest.mark.parametrize("name", profile_names())
def test_each_profile_is_valid_and_says_where_its_numbers_come_from(name: str) -> None:
    from importlib import resources

    settings = load_settings(name, environment={})
    assert settings.profile == name
    text = (resources.files("wat2mds") / "profiles" / f"{name}.toml").read_text("utf-8")
    assert "#" in text.splitlines()[0]
    assert set(read_profile(name)) <= {"extract", "dedup", "download", "filter", "validate", "convert"}


def test_published_thresholds() -> None:
    """laion.ai's blog posts: 0.30 for LAION-400M; 0.28 English, 0.26 otherwise for LAION-5B; punsafe 0.45 for Re-LAION safe."""
    found = {n: load_settings(n, environment={}).filter for n in ("laion400m", "laion5b", "relaion_safe")}
    assert (found["laion400m"].min_similarity, found["laion400m"].min_similarity_other) == (0.30, 0.30)
    assert (found["laion5b"].min_similarity, found["laion5b"].min_similarity_other) == (0.28, 0.26)
    assert found["relaion_safe"].max_punsafe == 0.45
    assert {(f.clip_model, f.clip_pretrained) for f in found.values()} == {("ViT-B-32", "openai")}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: load_settings("laion5", environment={}), "Did you mean 'laion5b'"),
        (lambda: load_settings(None, ["download.imagesize=1"], environment={}), "Did you mean 'download.image_size'"),
        (lambda: load_settings(None, ["download.image_size=3"], environment={}), "greater than or equal to 16"),
        (
            lambda: load_settings(None, ["download.pdq=false", "filter.block_lists=pdq:x.txt"], environment={}),
            "^settings: filter.block_lists names a list of kind pdq, which download.pdq=false leaves without effect$",
        ),
        (lambda: load_settings(None, ["image_size"], environment={}), "group.key=value"),
        (lambda: load_settings(environment={"WAT2MDS_DOWNLOAD__IMAGE_SIZ": "3"}), "WAT2MDS_DOWNLOAD__IMAGE_SIZE"),
        (lambda: deployment({"WAT2MDS_ROTO": "x"}), "Did you mean 'WAT2MDS_ROOT'"),
        (lambda: deployment({"WAT2MDS_DATASET": "A b"}), "WAT2MDS_DATASET"),
    ],
)
def test_what_is_mistyped_is_named_with_its_neighbour(act: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        act()  # type: ignore[operator]


def test_settings_survive_their_file() -> None:
    settings = load_settings("demo", ["filter.languages=en,de", "download.max_aspect_ratio="], environment={})
    assert Settings.from_json(settings.to_json(), "x") == settings
    assert settings.filter.languages == ("en", "de")
    again = load_settings(None, ["download.image_size=64"], resolved=settings, environment={"WAT2MDS_DOWNLOAD__IMAGE_SIZE": "99"})
    assert again.download.image_size == 64
    with pytest.raises(ConfigError, match="contradicts"):
        load_settings("laion5b", resolved=settings, environment={})


def test_how_a_stage_runs_is_not_in_its_fingerprint() -> None:
    one = load_settings("demo", environment={})
    other = load_settings("demo", ["download.threads=3", "filter.batch_size=7", "filter.min_similarity=0.9"], environment={})
    assert one.download.fingerprint() == other.download.fingerprint()
    assert one.filter.fingerprint(decisions=False) == other.filter.fingerprint(decisions=False)
    assert one.filter.fingerprint() != other.filter.fingerprint()


def test_every_setting_says_what_it_is() -> None:
    defaults = load_settings("demo", environment={})
    for key in setting_keys():
        group, _, name = key.partition(".")
        assert type(defaults.group(group)).model_fields[name].description, f"{key} has no description: add one in settings.py"


def test_the_demo_s_threshold_is_the_one_chosen_on_the_validation_split() -> None:
    import json

    from wat2mds.models.clip import TINY_FOLDER

    chosen = json.loads((TINY_FOLDER / "metrics.json").read_text("utf-8"))["threshold"]
    settings = load_settings("demo", environment={}).filter
    assert settings.min_similarity == settings.min_similarity_other == chosen
