"""The language of each text, by a model that PyPI's py3langid ships. `python languages.py TEXTS OUTPUT`"""

import sys

import mobula


class Identify:
    """Built once in each worker, where it reads the model."""

    def __init__(self):
        import py3langid

        self.classify = py3langid.classify
        # The first text has it read its model.
        self.classify("")

    def __call__(self, batch):
        return {"id": batch["id"], "language": [self.classify(text)[0] for text in batch["text"]]}


def main(texts: str, output: str) -> int:
    rows = mobula.read_parquet(texts)
    found = rows.map_batches(Identify, batch_size=256, concurrency=2, schema={"id": int, "language": str})
    return found.write_parquet(output)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), "texts")
