"""Which faiss index for how many vectors in how much memory.

In: count, length of the vectors, memory limit. Out: faiss's name of an index type, size of the training sample. Guaranteed: a function
of these three. What does not belong here: how many lists are searched, which follows from measured recall.

Rules and numbers are autofaiss's for memory-mapped indices (criteo/autofaiss, external/optimize.py: get_optimal_index_keys_v2,
get_optimal_nb_clusters, get_optimal_quantization, get_optimal_train_size), but for three things:
- its ``IVFn,Flat``, float32, is ``IVFn,SQfp16`` here: the stored embeddings are float16, half the memory loses nothing;
- between that and product quantisation stands ``IVFn,SQ8``, a byte a dimension, which keeps recall near 1 where PQ does not;
- from 1 to 10 million vectors the number of lists goes on as below, 2^round(log2(4 √n)); autofaiss has 16,384 from 1 million on,
  which is what that comes to near 10 million.
"""

from __future__ import annotations

import math
import re

from wat2mds.errors import ConfigError, nearest

# Bytes of memory for one index, image or text. The rules are autofaiss's; how large small is, is ours.
PRESETS = {"small": 2 * 10**9, "medium": 16 * 10**9, "large": 128 * 10**9}
_ID_BYTES = 8
_FLAT_BELOW = 1_000  # vectors; one list, searched whole
_PQ_FROM = 10_000
_PQ_BYTES = (256, 128, 64, 48, 32, 24, 16, 8, 4)
_POINTS, _LEAST_POINTS = 100, 31  # of the training sample for each list
# Lists are found by a graph from here on: comparing with each of more would cost as much as searching them.
_GRAPH_FROM = 1 << 16


def memory_of(preset: str) -> int:
    """Raises ConfigError for a preset that there is not."""
    if preset not in PRESETS:
        raise ConfigError(f"there is no index preset {preset!r}.{nearest(preset, PRESETS)} Presets: {', '.join(PRESETS)}")
    return PRESETS[preset]


def list_count(count: int) -> int:
    """In how many lists so many vectors are kept."""
    if count < _FLAT_BELOW:
        return 1
    if count < 10_000_000:
        return 1 << round(math.log2(4 * math.sqrt(count)))
    return 1 << 16 if count < 300_000_000 else 1 << 17


def lists_of(index_type: str) -> int:
    """The number of lists in the name of a type."""
    found = re.search(r"IVF(\d+)", index_type)
    if found is None:
        raise ConfigError(f"{index_type!r} is no index type with lists (IVF)")
    return int(found[1])


def choose(count: int, dim: int, memory_limit: int) -> str:
    """faiss's name of the type that keeps most of ``count`` vectors of ``dim`` floats within ``memory_limit`` bytes.

    Raises ConfigError where none fits.
    """
    lists = list_count(count)
    ivf = f"IVF{lists}_HNSW32" if lists >= _GRAPH_FROM else f"IVF{lists}"
    room = memory_limit - lists * dim * 4
    for code, size in (("SQfp16", 2 * dim), ("SQ8", dim)):
        if count * (size + _ID_BYTES) <= room:
            return f"{ivf},{code}"
    for size in _PQ_BYTES if count >= _PQ_FROM else ():
        if size < dim and count * (size + _ID_BYTES) <= room:
            # A little longer than the vectors, and a multiple of the parts: autofaiss's choice.
            return f"OPQ{size}_{(min(dim // size, 6) + 1) * size},{ivf},PQ{size}x8"
    raise ConfigError(
        f"{count:,} vectors of {dim} floats do not fit into {memory_limit:,} bytes with any index type: take a larger preset"
    )


def training_size(count: int, dim: int, memory_limit: int, index_type: str) -> int:
    """Vectors of the training sample: 100 a list, fewer where they would take more than half of the memory limit, not under 31 a list.

    Codes are trained on the same sample, and product quantisation wants some 10,000 (39 for each of its 256 values).
    """
    lists = lists_of(index_type)
    points = max(_LEAST_POINTS, min(_POINTS, memory_limit // 2 // (4 * dim) // lists))
    return min(count, max(points * lists, _PQ_FROM))
