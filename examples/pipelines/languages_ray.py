"""`languages.py` with Ray Data."""

import sys

import ray


class Identify:
    def __init__(self):
        import py3langid

        self.classify = py3langid.classify
        # The first text has it read its model.
        self.classify("")

    def __call__(self, batch):
        return {"id": batch["id"], "language": [self.classify(text)[0] for text in batch["text"]]}


def main(texts: str, output: str) -> None:
    # On two cores its two actors would have both of them, and nobody would read.
    ray.init(num_cpus=4)
    rows = ray.data.read_parquet(texts)
    rows.map_batches(Identify, batch_size=256, compute=ray.data.ActorPoolStrategy(size=2)).write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
