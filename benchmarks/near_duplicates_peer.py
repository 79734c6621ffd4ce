"""imagededup on a folder of images, run by an interpreter that has it: its hash, and its CNN search on our features.

    PYTHON_WITH_IMAGEDEDUP benchmarks/near_duplicates_peer.py JOB.npz RESULT.json

JOB.npz: `files` (N,) and `features` (N, D). Its own CNN weights are downloaded on first use; where there is no network,
its CNN method runs on the features that are given (`find_duplicates` of an encoding map, cosine at least 0.9, its
default).
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np


def main() -> None:
    job = np.load(sys.argv[1])
    files, features = job["files"].tolist(), job["features"].astype(np.float32)
    from imagededup.handlers.search.retrieval import get_cosine_similarity
    from imagededup.methods import PHash

    result: dict[str, object] = {}
    hasher = PHash(verbose=False)
    began = time.perf_counter()
    codes = {str(i): hasher.encode_image(image_file=file) for i, file in enumerate(files)}
    codes = {name: code for name, code in codes.items() if code is not None}
    found = hasher.find_duplicates(encoding_map=codes, max_distance_threshold=10, scores=False)
    result["phash <= 10"] = [[int(a), int(b)] for a, others in found.items() for b in others if int(a) < int(b)]
    result["phash <= 10 seconds"] = time.perf_counter() - began
    began = time.perf_counter()
    similarity = get_cosine_similarity(features, verbose=False)  # what its CNN.find_duplicates calls
    for threshold in (0.9, 0.97):
        rows, columns = np.nonzero(np.triu(similarity >= threshold, 1))
        result[f"cnn >= {threshold}"] = np.stack([rows, columns], axis=1).tolist()
    result["cnn seconds"] = time.perf_counter() - began
    try:
        from imagededup.methods import CNN

        CNN(verbose=False)
        result["own weights"] = "available"
    except Exception as error:
        result["own weights"] = f"not available ({type(error).__name__})"
    with open(sys.argv[2], "w", encoding="utf-8") as stream:  # noqa: PTH123
        json.dump(result, stream)


if __name__ == "__main__":
    main()
