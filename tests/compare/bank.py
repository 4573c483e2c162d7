# SPDX-License-Identifier: Apache-2.0
"""What `cargo xtask bench --compare` measures Fanfold against.

The three jobs of the part `bank` with Polars and with Ray tasks over pyarrow,
reading the same objects through the same S3 server. Prints the seconds of each
round as JSON. Imports and the start of Ray are left out of the times.
"""

import json
import os
import sys
import time

# Read when Ray is imported: nobody else can reach this cluster of one process.
os.environ["RAY_AUTH_MODE"] = "disabled"

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import ray
from pyarrow import fs

MODEL = json.loads(sys.argv[1])
ROUNDS = int(os.environ["BENCH_ROUNDS"])
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]
NUMBERS = [f["name"] for f in MODEL["features"] if f["kind"] == "numeric"]
BOUNDS, GRADES = [0.05, 0.1, 0.2, 0.35, 0.5], ["A", "B", "C", "D", "E", "F"]
LOSS_GIVEN_DEFAULT = 0.45
STORE = {
    "aws_endpoint_url": ENDPOINT,
    "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
    "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
    "aws_region": "us-east-1",
    "aws_allow_http": "true",
}


def weights():
    """The intercept, the weight of each number, and of each text in each category column."""
    left = iter(MODEL["coefficients"])
    intercept, numbers, categories = next(left), {}, {}
    for feature in MODEL["features"]:
        if feature["kind"] == "numeric":
            numbers[feature["name"]] = next(left)
        else:
            first, *others = feature["levels"]
            categories[feature["name"]] = {first: 0.0, **{level: next(left) for level in others}}
    return intercept, numbers, categories


def polars_stats(scan):
    column = pl.col(NUMBERS)
    parts = [column.mean().name.suffix("_mean"), column.std().name.suffix("_std")]
    parts += [column.min().name.suffix("_min"), column.max().name.suffix("_max")]
    return scan.select(parts).collect(engine="streaming")


def polars_score(round_):
    intercept, numbers, categories = weights()
    odds = pl.lit(intercept)
    for name, weight in numbers.items():
        odds = odds + pl.col(name) * weight
    for name, levels in categories.items():
        odds = odds + pl.col(name).replace_strict(levels, return_dtype=pl.Float64)
    pd = 1.0 / (1.0 + (-odds).exp())
    scan = pl.scan_parquet("s3://bank/parquet/*.parquet", storage_options=STORE)
    grade = pl.lit(GRADES[-1])
    for bound, name in reversed(list(zip(BOUNDS, GRADES))):
        grade = pl.when(pl.col("pd") < bound).then(pl.lit(name)).otherwise(grade)
    scores = scan.select("customer_id", "region", "debt", pd.alias("pd")).with_columns(grade.alias("grade"))
    written = f"s3://bank/polars-{round_}/scores.parquet"
    scores.sink_parquet(written, storage_options=STORE, compression="zstd", compression_level=1)
    report = pl.scan_parquet(written, storage_options=STORE)
    return (
        report.group_by("region", "grade")
        .agg(pl.len(), pl.col("pd").mean(), (pl.col("pd") * pl.col("debt") * LOSS_GIVEN_DEFAULT).sum().alias("loss"))
        .collect(engine="streaming")
    )


def filesystem():
    return fs.S3FileSystem(endpoint_override=ENDPOINT, scheme="http", region="us-east-1")


def listed(prefix):
    found = filesystem().get_file_info(fs.FileSelector(prefix))
    return sorted(info.path for info in found if info.type == fs.FileType.File)


def sums(table):
    """Count, sum, sum of squares, least and most of each number."""
    out = []
    for name in NUMBERS:
        values = table[name].to_numpy().astype(float)
        out.append((len(values), values.sum(), (values * values).sum(), values.min(), values.max()))
    return np.array(out)


@ray.remote(num_cpus=1)
def ray_stats_of(path):
    return sums(pq.read_table(path, filesystem=filesystem(), columns=NUMBERS, use_threads=False))


@ray.remote(num_cpus=1)
def ray_csv_stats_of(path):
    with filesystem().open_input_stream(path) as stream:
        read = pacsv.read_csv(
            stream,
            read_options=pacsv.ReadOptions(use_threads=False),
            convert_options=pacsv.ConvertOptions(include_columns=NUMBERS),
        )
    return sums(read)


@ray.remote(num_cpus=1)
def ray_score_of(path, written):
    store = filesystem()
    table = pq.read_table(path, filesystem=store, use_threads=False)
    intercept, numbers, categories = weights()
    odds = np.full(table.num_rows, intercept)
    for name, weight in numbers.items():
        odds += table[name].to_numpy() * weight
    for name, levels in categories.items():
        known = pa.array(list(levels))
        at = pc.index_in(table[name], value_set=known).to_numpy()
        odds += np.array(list(levels.values()))[at]
    pd = 1.0 / (1.0 + np.exp(-odds))
    grade = pa.array(GRADES).take(pa.array(np.searchsorted(BOUNDS, pd, side="right")))
    scores = pa.table(
        {name: table[name] for name in ["customer_id", "region", "debt"]} | {"pd": pa.array(pd), "grade": grade}
    )
    pq.write_table(scores, written, filesystem=store, compression="zstd", compression_level=1)
    loss = pc.multiply(pc.multiply(scores["pd"], scores["debt"]), LOSS_GIVEN_DEFAULT)
    grouped = scores.append_column("loss", loss).group_by(["region", "grade"])
    return grouped.aggregate([("pd", "count"), ("pd", "sum"), ("loss", "sum")])


def ray_stats(of, prefix):
    parts = np.stack(ray.get([of.remote(path) for path in listed(prefix)]))
    count, total = parts[:, :, 0].sum(0), parts[:, :, 1].sum(0)
    mean = total / count
    deviation = np.sqrt((parts[:, :, 2].sum(0) - count * mean * mean) / (count - 1))
    return mean, deviation, parts[:, :, 3].min(0), parts[:, :, 4].max(0)


def ray_score(round_):
    paths = listed("bank/parquet")
    tasks = [ray_score_of.remote(path, f"bank/ray-{round_}/{n:04}.parquet") for n, path in enumerate(paths)]
    parts = pa.concat_tables(ray.get(tasks))
    return parts.group_by(["region", "grade"]).aggregate([("pd_count", "sum"), ("pd_sum", "sum"), ("loss_sum", "sum")])


def timed(job):
    seconds = []
    for round_ in range(ROUNDS):
        start = time.monotonic()
        job(round_)
        seconds.append(time.monotonic() - start)
    return seconds


def main():
    parquet = pl.scan_parquet("s3://bank/parquet/*.parquet", storage_options=STORE)
    csv = pl.scan_csv("s3://bank/csv/*.csv", storage_options=STORE)
    polars = {
        "bank_stats": timed(lambda _: polars_stats(parquet)),
        "bank_score": timed(polars_score),
        "bank_csv_stats": timed(lambda _: polars_stats(csv)),
    }
    ray.init(num_cpus=os.cpu_count(), log_to_driver=False, include_dashboard=False)
    tasks = {
        "bank_stats": timed(lambda _: ray_stats(ray_stats_of, "bank/parquet")),
        "bank_score": timed(ray_score),
        "bank_csv_stats": timed(lambda _: ray_stats(ray_csv_stats_of, "bank/csv")),
    }
    ray.shutdown()
    print(json.dumps({"polars": polars, "ray": tasks}))


main()
