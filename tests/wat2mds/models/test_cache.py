"""The models' cache: fetched over HTTP once, converted, verified, used offline; what is not what it should be is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.wat2mds.file_server import FakeClock, FileServer
from wat2mds import resume
from wat2mds.cli.main import run as command
from wat2mds.errors import ConfigError, TransientError
from wat2mds.models.cache import cached, place
from wat2mds.models.catalogue import catalogue, entry_of, needed
from wat2mds.models.clip import load_clip, model_identity
from wat2mds.models.heads import head_path, load_head
from wat2mds.models.torchvision_ops import declare_torchvision_ops
from wat2mds.models.weights import read_checkpoint
from wat2mds.settings import load_settings, profile_names


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WAT2MDS_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "models"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(resume, "clock", fake)
    return fake


def nsfw(seed: int = 0) -> dict[str, torch.Tensor]:
    """What the authors' port of the NSFW head for B/32 holds, of random numbers."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"norm.mean": (512,), "norm.variance": (512,)}
    for number, (before, after) in enumerate([(512, 32), (32, 32), (32, 1)], start=1):
        shapes |= {f"linear_{number}.weight": (after, before), f"linear_{number}.bias": (after,)}
    return {name: torch.rand(shape, generator=rng) + 0.1 for name, shape in shapes.items()}


def pth(path: Path, content: Any) -> bytes:
    torch.save(content, path)
    return path.read_bytes()


@pytest.fixture
def server(tmp_path: Path, clock: FakeClock) -> Iterator[FileServer]:
    server = FileServer(pth(tmp_path / "made.pth", nsfw()), clock)
    yield server
    server.close()


def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    monkeypatch.setenv("WAT2MDS_CATALOGUE", str(path))


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def head_entry(url: str, more: str = "") -> str:
    return f'["nsfw-b32"]\nkind = "head"\nurl = "{url}"\nform = "nsfw-b32"\nlicence = "MIT"\n{more}'


def by_hand(tensors: dict[str, torch.Tensor], rows: np.ndarray) -> np.ndarray:
    values = (torch.from_numpy(rows) - tensors["norm.mean"]) / tensors["norm.variance"].sqrt()
    for number in (1, 2, 3):
        values = values @ tensors[f"linear_{number}.weight"].T + tensors[f"linear_{number}.bias"]
        values = values.relu() if number < 3 else values.sigmoid()
    return values[:, 0].numpy()


def test_fetched_once_over_a_line_that_breaks_then_offline(
    server: FileServer, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names(tmp_path, monkeypatch, head_entry(f"{server.url}/head.pth"))
    with pytest.raises(ConfigError, match="wat2mds models fetch nsfw-b32"):
        head_path("nsfw-b32")
    server.cut_after, server.cuts = 30_000, 1
    assert command(["models", "fetch", "--profile", "demo", "--set", "filter.safety_head=nsfw-b32"]) == 0
    fetched = said(capsys)["models"][0]["files"][0]
    assert server.firsts == [0, 30_000], "it goes on where it broke off"
    assert fetched["source_sha256"] == hashlib.sha256(server.content).hexdigest()
    assert fetched["trusted"], "nobody stated a checksum"
    server.close()
    assert command(["models", "fetch", "nsfw-b32"]) == 0
    assert command(["models", "verify"]) == 0
    head = load_head("nsfw-b32", clip="ViT-B-32/openai")
    rows = np.random.default_rng(0).normal(size=(8, 512)).astype(np.float32)
    assert np.allclose(head.score(rows), by_hand(nsfw(), rows), atol=1e-5)
    assert list(cache.iterdir()) == [place(entry_of("nsfw-b32"))], "nothing is left of the attempt"
    capsys.readouterr()
    assert command(["models", "list"]) == 0
    row = next(row for row in said(capsys)["models"] if row["name"] == "nsfw-b32")
    assert (row["cached"], row["size"], row["sha256"]) == (True, len(server.content), fetched["source_sha256"])


def test_a_changed_byte_and_a_cut_file_are_found(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names(tmp_path, monkeypatch, head_entry(f"{server.url}/head.pth"))
    assert command(["models", "fetch", "nsfw-b32"]) == 0
    path = cached("nsfw-b32")
    assert path is not None
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert command(["models", "verify", "nsfw-b32"]) == 65
    assert f"expected SHA-256 {hashlib.sha256(whole).hexdigest()}, found" in caplog.text
    path.write_bytes(whole[:-10])
    assert command(["models", "verify"]) == 65
    assert f"expected {len(whole):,} bytes, found {len(whole) - 10:,}" in caplog.text
    with pytest.raises(ConfigError, match=f"expected {len(whole):,} bytes, found {len(whole) - 10:,}"):
        load_head("nsfw-b32")
    first = server.content
    server.content, server.etag = pth(tmp_path / "other.pth", nsfw(1)), '"two"'
    assert command(["models", "fetch", "nsfw-b32"]) == 65
    assert "which the first fetch recorded" in caplog.text
    server.content, server.etag = first, '"one"'
    assert command(["models", "fetch", "nsfw-b32"]) == 0
    assert path.read_bytes() == whole


def test_bytes_that_are_not_those_stated(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names(tmp_path, monkeypatch, head_entry(f"{server.url}/head.pth", f'sha256 = "{"0" * 64}"\n'))
    assert command(["models", "fetch", "nsfw-b32"]) == 65
    assert f"expected {'0' * 64}, which the catalogue states" in caplog.text
    assert cached("nsfw-b32") is None


def test_from_the_hub_with_the_checksum_that_it_states(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names(tmp_path, monkeypatch, head_entry("hf://org/name/head.pth"))
    assert command(["models", "fetch", "nsfw-b32", "--set", f"import.hub={server.url}"]) == 0
    assert server.log[0].path == "/org/name/resolve/main/head.pth"
    assert not said(capsys)["models"][0]["files"][0]["trusted"]
    assert load_head("nsfw-b32").widths == (512, 32, 32, 1)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.marker),)

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    source, marker = tmp_path / "evil.pth", tmp_path / "ran"
    if how == "torch":
        torch.save({"norm.mean": Evil(marker)}, source)
    else:
        source.write_bytes(pickle.dumps({"norm.mean": Evil(marker)}))
    names(tmp_path, monkeypatch, head_entry(str(source)))
    assert command(["models", "fetch", "nsfw-b32"]) == 78
    assert "no checkpoint of plain tensors" in caplog.text
    assert not marker.exists()


def test_torchscript_is_read_only_with_a_known_checksum(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    module.register_buffer("input_resolution", torch.tensor(224))
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(module), path)
    with pytest.raises(ConfigError, match="only where the catalogue states its SHA-256"):
        read_checkpoint(path)
    found = read_checkpoint(path, known=True)
    assert found.keys() == {"weight", "bias"}
    assert torch.equal(found["weight"], module.weight.detach())


def test_a_clip_model_loads_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare_torchvision_ops()
    import open_clip
    from safetensors.torch import save_file

    shapes = open_clip.create_model("ViT-B-32", device="meta").state_dict()
    state = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in shapes.items()}
    state["logit_scale"] += 3
    save_file(state, tmp_path / "clip.safetensors")
    entry = f'["ViT-B-32/openai"]\nkind = "clip"\nurl = "{tmp_path}/clip.safetensors"\nform = "checkpoint"\nlicence = "x"\n'
    names(tmp_path, monkeypatch, entry)
    assert command(["models", "fetch", "--profile", "laion400m"]) == 0
    clip = load_clip("ViT-B-32", "openai", "cpu")
    assert clip.identity == model_identity("ViT-B-32", "openai") == "ViT-B-32/openai"
    assert clip.model.logit_scale.item() == 3
    assert "QuickGELU" in {type(module).__name__ for module in clip.model.modules()}
    path = cached("ViT-B-32/openai")
    assert path is not None
    with path.open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(
        ConfigError,
        match=r"expected 30\d,\d{3},\d{3} bytes, found 1,000,000\. Fetch it again: wat2mds models fetch ViT-B-32/openai",
    ):
        load_clip("ViT-B-32", "openai", "cpu")


def test_without_network_the_command_that_fetches_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "nowhere")
    with pytest.raises(TransientError, match=r"wat2mds models fetch ViT-B-16/openai .* wat2mds models fetch --profile"):
        load_clip("ViT-B-16", "openai", "cpu")


def test_every_entry_and_what_profiles_need() -> None:
    found = catalogue()
    for entry in found.values():
        if entry.form == "torchscript":
            assert entry.sha256 is not None
            assert entry.sha256 in entry.url, "OpenAI's addresses hold the checksum"
        assert entry.url.startswith(("https://", "hf://"))
        assert all(url.startswith("hf://") for url in entry.beside)
    for profile in profile_names():
        given = load_settings(profile, environment={}).filter
        assert (f"{given.clip_model}/{given.clip_pretrained}" in {entry.name for entry in needed(given)}) == (profile != "demo")
    names = {"ViT-B-32/openai", "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "nsfw-b32"}
    assert {entry.name for entry in needed(load_settings("relaion_safe", environment={}).filter)} == names


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["fetch"], 78, "name models, or a profile"),
        (["fetch", "nsfw-b3"], 78, "Did you mean 'nsfw-b32'"),
        (["verify", "nsfw-b32"], 78, "Fetch: wat2mds models fetch nsfw-b32"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], code: int, text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert command(["models", *arguments]) == code
    assert text in caplog.text


def test_a_catalogue_that_is_written_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names(tmp_path, monkeypatch, '["a"]\nkind = "haed"\nurl = "x"\nform = "x"\nlicence = "x"\n')
    with pytest.raises(ConfigError, match=r"own\.toml is no catalogue"):
        catalogue()
