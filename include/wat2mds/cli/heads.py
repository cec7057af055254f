"""Commands about heads: small networks on embeddings, as published, made into files that filter takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wat2mds.cli.options import emit


def register(app: typer.Typer) -> None:
    app.command("convert-head")(convert_head)


def convert_head(
    kind: Annotated[
        str,
        typer.Argument(
            help="aesthetic-v1-b16, -b32 or -l14, aesthetic-v2-l14, nsfw-b32 or -l14, violence-b32 or -l14.", metavar="KIND"
        ),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            help="The head as published: .pth, .npy, a Keras archive (.zip or folder); or its arrays as .npz. No code in it is run.",
            metavar="FILE",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The safetensors file to write; name it in filter.safety_head, toxicity_head or aesthetic_head.")
    ],
) -> None:
    """Make a head file of one of LAION's published heads, each tensor checked."""
    from wat2mds.models.heads import head_identity, save_head
    from wat2mds.models.published_heads import read_published

    head = read_published(kind, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_head(out, head)
    emit({"head": str(out), "identity": head_identity(out), "clip": head.clip, "source": head.source, "licence": head.licence})
