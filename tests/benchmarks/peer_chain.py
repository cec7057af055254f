"""The peers' steps of ``tests.benchmarks.chain``, each run by the Python of the environment that holds the peer.

    python -P peer_chain.py pairs|embeddings|join|shards …

Whatever of a peer cannot run as it is, is repaired here and nowhere else; REPAIRS in ``chain.py`` lists it.
"""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any


def _cc2dataset() -> Any:
    """Its main module. Spark's names are stubs: Spark needs Java."""
    spark = {name: types.ModuleType(name) for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions")}
    spark["pyspark"].SparkContext = spark["pyspark.sql"].SparkSession = spark["pyspark.sql.functions"].rand = None  # type: ignore
    sys.modules.update(spark)
    from cc2dataset import main
    from loguru import logger

    logger.remove()
    return main


def _rows(wat: str) -> list[tuple[str, ...]]:
    return list(_cc2dataset().process_wat(wat, "image"))


def pairs(listing: str, source: str, out: str, processes: str) -> None:
    """What its process_one_part and deduplicate_repartition_count do, with a pool of processes and pandas in Spark's place."""
    import multiprocessing

    import pandas

    wats = [source + name for name in _cc2dataset().read_wat_index_file(listing)]
    with multiprocessing.Pool(int(processes)) as pool:
        rows = [row for found in pool.imap_unordered(_rows, wats) for row in found]
    found = pandas.DataFrame(rows, columns=["uid", "url", "alt", "cc_filename", "page_url"])
    found.drop_duplicates(["uid"]).sample(frac=1, random_state=0).to_parquet(out, index=False)
    print(json.dumps({"pairs": len(found)}))


def embeddings(include: str, tars: str, count: str, out: str, model: str, batch: str, workers: str) -> None:
    """clip-retrieval's inference over img2dataset's tar files; the tiny CLIP is made known to open_clip by its own means."""
    sys.path.append(include)
    from wat2mds.models.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    import open_clip
    from clip_retrieval.clip_inference.main import main as clip_inference
    from open_clip import pretrained

    folder = Path(model)
    made = json.loads((folder / "open_clip_config.json").read_bytes())
    made["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = str(folder)
    known = Path(out).with_name("wat2mds-tiny.json")
    known.write_text(json.dumps(made["model_cfg"]))
    open_clip.add_model_config(known)
    weights = {"file": str(folder / "open_clip_model.safetensors")}
    pretrained._PRETRAINED["wat2mds-tiny"] = {"tiny": weights | made["preprocess_cfg"]}
    load = open_clip.create_model_and_transforms

    def load_for_inference(*arguments: Any, **options: Any) -> Any:
        model, *transforms = load(*arguments, **options)
        return model.eval(), *transforms

    open_clip.create_model_and_transforms = load_for_inference
    clip_inference(
        input_dataset=tars,
        output_folder=out,
        input_format="webdataset",
        batch_size=int(batch),
        num_prepro_workers=int(workers),
        clip_model="open_clip:wat2mds-tiny/tiny",
        wds_number_file_per_input_file=int(count),
    )


def join(images: str, scores: str, least: str, out: str) -> None:
    """What no peer does: similarities from embeddings, the threshold, and tables in the form that the converter reads."""
    import tarfile

    import numpy as np
    import pandas
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(scores)
    known = pandas.concat([pandas.read_parquet(path) for path in sorted((folder / "metadata").glob("*.parquet"))])
    vectors = [np.concatenate([np.load(p) for p in sorted((folder / name).glob("*.npy"))]) for name in ("img_emb", "text_emb")]
    one, other = (part.astype(np.float32) for part in vectors)
    similarity = dict(zip(known["image_path"], np.einsum("nd,nd->n", one, other).astype(float), strict=True))
    kept = 0
    for number, path in enumerate(sorted(Path(images).glob("*.tar"))):
        with tarfile.open(path) as tar:
            pictures = {member.name[:-4]: tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")}  # type: ignore
        table = pq.read_table(path.with_suffix(".parquet")).to_pandas()
        table = table[table["key"].isin(similarity.keys())]
        table["similarity"] = [similarity[key] for key in table["key"]]
        table = table[table["similarity"] >= float(least)].copy()
        table["jpg"] = [pictures[key] for key in table["key"]]
        table["NSFW"] = table["LICENSE"] = ""
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), Path(out) / f"{number:05d}.parquet")
        (Path(out) / f"{number:05d}_stats.json").write_text("{}")
        kept += len(table)
    (Path(out) / "done").touch()
    print(json.dumps({"scored": len(similarity), "kept": kept}))


def shards(include: str, local: str, remote: str) -> None:
    """streaming's converter, whose upload and merged index are repaired."""
    sys.path.append(include)
    from wat2mds.models.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    from streaming.multimodal.convert.laion.laion400m import convert_and_upload

    def upload(source: str, target: str) -> None:
        if Path(source).name == "index.json":
            index = json.loads(Path(source).read_bytes())
            for number, shard in enumerate(index["shards"]):
                shard["raw_data"]["basename"] = f"shard.{number:05d}.mds"
            Path(source).write_text(json.dumps(index))
        shutil.copyfile(source, target)

    convert_and_upload.upload = upload
    sys.argv[1:] = ["--local", local, "--remote", remote]
    Path(remote).mkdir()
    convert_and_upload.main(convert_and_upload.parse_args())


if __name__ == "__main__":
    steps = {"pairs": pairs, "embeddings": embeddings, "join": join, "shards": shards}
    steps[sys.argv[1]](*sys.argv[2:])
