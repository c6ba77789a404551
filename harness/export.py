"""One line a run, tidy, for other tools: units stand in the names of the columns."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from harness.files import shown
from harness.results import Results, Run


def flatten(path: Path, run: Run) -> dict[str, object]:
    """Return a run as a line; what is unknown is empty."""
    machine, usage = run.machine, run.usage
    return {
        "file": shown(path),
        "script": run.script,
        "script_sha256": run.sha256,
        "round": run.round,
        "date": run.date,
        "device": run.device,
        "devices": run.devices,
        "threads": run.threads,
        "epochs": run.epochs,
        "batch_size_images_per_device": run.batch_size,
        "training_seconds": run.seconds,
        "accuracy_fraction": run.accuracy,
        "epoch_losses": " ".join(map(str, run.losses)),
        "epoch_seconds": " ".join(map(str, run.epoch_seconds)),
        "process_seconds": usage.duration,
        "cpu_seconds": usage.cpu_seconds,
        "others_cpu_seconds": usage.cpu_seconds_of_others,
        "steal_cpu_seconds": usage.steal_seconds,
        "peak_memory_bytes": usage.memory or None,
        "peak_memory_kind": usage.memory_kind if usage.memory else None,
        "peak_gpu_memory_bytes": usage.gpu_memory or None,
        "busy_before_cpus": run.cpus_busy_before,
        "disturbed": int(run.disturbed),
        "sgemm_gflops_per_core": run.sgemm_gflops,
        "data": run.data,
        "data_sha256": run.data_sha256,
        "train_images": run.train_images,
        "test_images": run.test_images,
        "versions": " ".join(f"{name}={version}" for name, version in run.versions),
        "python_version": run.python_version,
        "hostname": machine.hostname,
        "cpu": machine.cpu_model_name,
        "cores": machine.cores,
        "cpus_used": machine.cpus_used,
        "quota_cpus": machine.cpu_quota,
        "memory_gib": machine.memory_gib,
        "gpu": machine.gpu,
        "gpu_driver": machine.gpu_driver,
        "os": machine.os,
        "platform": machine.platform,
        "tuning_variables": machine.environment,
    }


def make_csv(files: Mapping[Path, Results]) -> bytes:
    """Return the runs of all files as CSV (RFC 4180), in UTF-8."""
    lines = [flatten(path, run) for path, results in files.items() for run in results.runs]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()
