"""Feed a torch DataLoader from a spectrogram cache and print how fast it goes (pip install '.[baselines]').

python examples/dataloader.py CACHE [WORKERS]
"""

import sys
import time
from collections.abc import Iterator

import torch

from musdbkit.cache import open_cache
from musdbkit.segments import Array, Reader

NB_FRAMES, BATCH_SIZE, NB_BATCHES = 512, 4, 20


class RandomBatches(torch.utils.data.IterableDataset[dict[str, Array]]):
    """Random batches from the training tracks; the workers share one sequence, which the seed determines."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield this worker's batches."""
        info = torch.utils.data.get_worker_info()
        worker, nb_workers = (info.id, info.num_workers) if info else (0, 1)
        return self.reader.batches(NB_FRAMES, BATCH_SIZE, seed=0, worker=worker, nb_workers=nb_workers)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    dataset = RandomBatches(open_cache(sys.argv[1]))
    nb_workers = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    batches = iter(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=nb_workers))
    batch = next(batches)
    for signal, tensor in batch.items():
        print(signal, tuple(tensor.shape), tensor.dtype)
    start = time.perf_counter()
    for _ in range(NB_BATCHES):
        batch = next(batches)
    print(f"{NB_BATCHES / (time.perf_counter() - start):.1f} batches of {BATCH_SIZE} per second, {nb_workers} workers")
