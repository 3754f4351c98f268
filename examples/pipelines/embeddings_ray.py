"""`embeddings.py` with Ray Data."""

import sys

import ray


class Embed:
    def __init__(self):
        import pathlib

        import wordllama

        package = pathlib.Path(wordllama.__file__).parent
        self.model = wordllama.WordLlama.load(cache_dir=package, disable_download=True)

    def __call__(self, batch):
        return {"id": batch["id"], "embedding": self.model.embed(list(batch["text"]), norm=True)}


def main(texts: str, output: str) -> None:
    # On two cores its two actors would have both of them, and nobody would read.
    ray.init(num_cpus=4)
    rows = ray.data.read_parquet(texts)
    rows.map_batches(Embed, batch_size=256, compute=ray.data.ActorPoolStrategy(size=2)).write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
