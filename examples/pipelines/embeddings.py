"""A vector for each text, by a model that PyPI's wordllama ships. `python embeddings.py TEXTS OUTPUT`"""

import sys

import mobula


class Embed:
    """Built once in each worker, where it reads the model."""

    def __init__(self):
        import pathlib

        import wordllama

        # The model is in the package: it is looked for nowhere else.
        package = pathlib.Path(wordllama.__file__).parent
        self.model = wordllama.WordLlama.load(cache_dir=package, disable_download=True)

    def __call__(self, batch):
        return {"id": batch["id"], "embedding": self.model.embed(list(batch["text"]), norm=True)}


def main(texts: str, output: str) -> int:
    rows = mobula.read_parquet(texts)
    vectors = rows.map_batches(Embed, batch_size=256, concurrency=2, schema={"id": int, "embedding": "REAL[]"})
    return vectors.write_parquet(output)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), "texts")
