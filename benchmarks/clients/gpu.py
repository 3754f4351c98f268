"""How busy a torch model in actors keeps a GPU over a batch job.

    python benchmarks/clients/gpu.py [--mobula PATH] [--python PATH] [--rows 8000000]
        [--actors 1,2] [--width 8192] [--layers 8] [--batch-rows 65536] [--connect URL]

Needs a machine with an NVIDIA GPU, `nvidia-smi`, and torch in the Python that `--python`
names. Runs `mobula sql`, as a user would: a class that loads a
model of linear layers onto its GPU scores rows that a scan gives. With several actors each
asks for its share of one GPU. Prints, for each number of actors, the time, rows a second,
the mean of what `nvidia-smi` says the GPU was busy between the first and the last block,
and what CUDA_VISIBLE_DEVICES the actors saw.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

CLASS = """
CREATE OR REPLACE FUNCTION score(x DOUBLE) RETURNS DOUBLE LANGUAGE python AS $$
import json, os, time
import numpy as np
import torch

class score:
    def __init__(self, width=1024, layers=4, log=''):
        torch.set_grad_enabled(False)
        layer = lambda: torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU())
        self.model = torch.nn.Sequential(*[layer() for _ in range(layers)])
        self.model = self.model.half().cuda().eval()
        self.width, self.log = width, log

    def __call__(self, x):
        began = time.time()
        rows = torch.from_numpy(np.array(x)).cuda(non_blocking=True).half()
        rows = rows.unsqueeze(1).expand(-1, self.width)
        out = self.model(rows).float().mean(dim=1).double().cpu().numpy()
        with open(f'{self.log}/{os.getpid()}', 'a') as log:
            seen = os.environ.get('CUDA_VISIBLE_DEVICES')
            log.write(json.dumps([began, time.time(), len(x), seen]) + '\\n')
        return out
$$;
"""


class Watch:
    """Samples how busy the GPU is until it is stopped."""

    def __init__(self):
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        self.samples = []
        self.process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            # The first GPU: the one that everything here runs on.
            self.samples.append((time.time(), float(line)))

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.thread.join(timeout=5)

    def mean(self, begin, end):
        inside = [busy for at, busy in self.samples if begin <= at <= end]
        return sum(inside) / max(len(inside), 1) / 100, len(inside)


def run(args, actors):
    with tempfile.TemporaryDirectory() as log:
        share = 1 if actors == 1 else round(1 / actors, 3)
        sql = f"""{CLASS}
SET mobula.udf_batch_rows = {args.batch_rows};
SELECT count(*), avg(score) FROM map_batches(
  TABLE(SELECT value::DOUBLE / {args.rows} AS x FROM generate_series(1, {args.rows})),
  score(width => {args.width}, layers => {args.layers}, log => '{log}'),
  concurrency => {actors}, num_gpus => {share});
"""
        script = pathlib.Path(log, "job.sql")
        script.write_text(sql)
        where = ["--python", args.python, "--data-dir", f"{log}/data"]
        if args.connect:
            where = ["--connect", args.connect]
        command = [args.mobula, "sql", *where, "-f", str(script)]
        watch = Watch()
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True)
        whole = time.time() - began
        watch.stop()
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        blocks = []
        for path in pathlib.Path(log).iterdir():
            if path.name.isdigit():
                blocks += [json.loads(line) for line in path.read_text().splitlines()]
        begin, end = min(b[0] for b in blocks), max(b[1] for b in blocks)
        busy, samples = watch.mean(begin, end)
        return {
            "actors": actors,
            "blocks": len(blocks),
            "rows": sum(b[2] for b in blocks),
            "devices": sorted({str(b[3]) for b in blocks}),
            "job_s": round(whole, 2),
            "blocks_s": round(end - begin, 2),
            "rows_per_s": round(sum(b[2] for b in blocks) / (end - begin)),
            "in_user_code": round(sum(b[1] - b[0] for b in blocks) / (end - begin) / actors, 3),
            "gpu_busy": round(busy, 3),
            "samples": samples,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mobula", default="target/release/mobula")
    parser.add_argument("--python", default=sys.executable, help="the Python with torch")
    parser.add_argument("--connect", help="a server on this machine, instead of an engine of its own")
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--actors", default="1,2", help="numbers of actors, one run each")
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch-rows", type=int, default=65536)
    args = parser.parse_args()
    for actors in args.actors.split(","):
        print(json.dumps(run(args, int(actors))), flush=True)


if __name__ == "__main__":
    main()
