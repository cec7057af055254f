"""clip-retrieval 2.45's own inference on tar files, in an environment of its own; figures.json says what it used before and what it took.

Its reader of image files finds no captions (its keys keep the file's extension: KeyError), so the input is webdataset, which LAION used.
"""

import sys

# The folder of this file holds a clip.py, which all_clip would import in place of OpenAI's package.
sys.path.pop(0)

import json
import pathlib
import resource
import time


def main() -> None:
    include, tars, count, out, model, weights, batch, workers = sys.argv[1:]
    sys.path.append(include)
    from wat2mds.models.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    from all_clip import load_clip
    from clip_retrieval.clip_inference.main import main as clip_inference

    name = f"open_clip:{model}/{weights}"
    # Loaded and warmed up as its worker and its mapper will ask for it: they are given these.
    load_clip(clip_model=name, use_jit=False, warmup_batch_size=int(batch), clip_cache_path=None)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu, began = sum(one.ru_utime + one.ru_stime for one in used), time.time()
    clip_inference(
        input_dataset=tars,
        output_folder=out,
        input_format="webdataset",
        batch_size=int(batch),
        num_prepro_workers=int(workers),
        clip_model=name,
        output_partition_count=1,
        wds_number_file_per_input_file=int(count),
    )
    (pathlib.Path(out) / "figures.json").write_text(json.dumps({"cpu_before": cpu, "wall": time.time() - began}))


if __name__ == "__main__":
    main()
