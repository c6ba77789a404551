"""Runs and result files of known figures, for the tests of the harness."""

from harness.results import MNIST_SHA256, Results, dump, read_run

KNOWN = {
    "mnist_mx_keras.py": [30.0, 30.5, 31.0],
    "mnist_mx_gluon.py": [10.0, 10.2, 10.4],
    "mnist_mx_sym.py": [10.1, 10.3, 10.5],
    "mnist_mx_gluon_hvd.py": [16.0],
    "mnist_mx_gluon_mgpu.py": [8.0, 8.1, 8.2],
}


def metadata_of(script, number=1, **more):
    """Return the metadata of a run on a known machine; more replaces or adds values, None takes one away."""
    found = {
        "name": script,
        "sha256": "0" * 64,
        "unit": "second",
        "loops": 1,
        "round": number,
        "seed": 41 + number,
        "order": 1,
        "date": "2026-11-23 12:00:00",
        "epochs": 3,
        "batch_size": 500,
        "epoch_losses": "0.4000 0.2000 0.1000",
        "epoch_seconds": "9.00 2.00 4.00",
        "accuracy": 0.99,
        "devices": 2 if "_mgpu" in script or "_hvd" in script else 1,
        "device": "cpu",
        "threads": 4,
        "mxnet_version": "1.9.1",
        "python_version": "3.11.7",
        "data": "MNIST",
        "data_sha256": MNIST_SHA256,
        "train_images": 60_300,
        "test_images": 10_000,
        "hostname": "known",
        "cpu_model_name": "Known CPU",
        "cpu_count": 8,
        "cpus_used": 4,
        "cores": 4,
        "cpu_quota": "none",
        "memory_gib": 23.5,
        "gpu": "none",
        "gpu_driver": "none",
        "os": "Known OS",
        "platform": "Linux-6",
        "environment": "nothing set",
        "cpu_flags": "fpu sse",
        "duration": 40.0,
        "cpu_seconds": 30.0,
        "cpu_seconds_of_others": 0.1,
        "steal_seconds": 0.0,
        "mem_max_pss": 10**9,
        "cpus_busy_before": 0.1,
        "load_avg_1min": 0.0,
        "sgemm_gflops": 100.0,
    } | more
    return {key: value for key, value in found.items() if value is not None}


def make_run(script, seconds, number=1, **more):
    return read_run(metadata_of(script, number, **more), float(seconds))


def make_results(durations, **more):
    """Return results of {script: seconds of rounds 1, 2, ...}; None is a missing run; a callable in more is given script and round."""
    runs = []
    for script, seconds in durations.items():
        for number, value in enumerate(seconds, 1):
            own = {key: x(script, number) if callable(x) else x for key, x in more.items()}
            if value is not None:
                runs.append(make_run(script, value, number, **own))
    return Results(tuple(runs))


def write(path, durations, **more):
    """Write a result file of {script: seconds of rounds 1, 2, ...}."""
    path.write_bytes(dump(make_results(durations, **more)))
    return path


def cells_of_markdown(text):
    """Return the cells of all Markdown tables by the script that begins them."""
    rows = [
        [cell.strip().replace("\\*", "*") for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    found = {}
    header = []
    for row in rows:
        if row[0] == "script":
            header = row
        elif not set(row[0]) <= set(":-"):
            found[row[0]] = dict(zip(header[1:], row[1:], strict=True))
    return found
