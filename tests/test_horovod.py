"""Horovod's ranks as a person launches them: with horovodrun, judged by what the job prints and how it ends."""

import functools
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from conftest import ON_TWO_CPUS, TWO_CPUS, check_failure, cores, needs_two_cores, processes

SCRIPT = "mnist_mx_gluon_hvd.py"
# Two hosts, named one and two, that end with this shell: each has its address, its name and its sshd. Runs "$@" on host one.
# Horovod also connects to the address that a host's own name has: it must not be 127.0.0.1.
HOSTS = """
set -e
mount -t tmpfs tmpfs /run
mkdir /run/sshd /run/hosts
cd /run/hosts
printf '127.0.0.1 localhost\n10.0.0.1 one\n10.0.0.2 two\n' > names
mount --bind names /etc/hosts
printf 'IdentityFile /run/hosts/key\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n' > ssh_config
mount --bind ssh_config /etc/ssh/ssh_config
ssh-keygen -q -t ed25519 -N '' -f key
printf 'hostname $1 && shift && exec "$@"' > as
ip netns add one
ip netns add two
ip link add eth1 netns one type veth peer name eth1 netns two
for host in one two; do
    ip -n $host link set lo up
    ip -n $host address add $(getent hosts $host | cut -d' ' -f1)/24 dev eth1
    ip -n $host link set eth1 up
    ip netns exec $host unshare --uts sh as $host $(command -v sshd) -f /dev/null -h $PWD/key -E sshd.$host \
        -o AuthorizedKeysFile=$PWD/key.pub -o StrictModes=no -o PidFile=none
done
cd "$OLDPWD"
exec ip netns exec one unshare --uts sh /run/hosts/as one "$@"
"""
NAMESPACES = "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"
ON_TWO_HOSTS = "unshare", *NAMESPACES, "sh", "-c", HOSTS, "sh"


def ranks(number, *command):
    """Return the command that runs another as ranks on this machine."""
    return "horovodrun", "-np", number, "-H", f"localhost:{number}", *command


def train(*arguments):
    return "python", SCRIPT, *arguments


def check_report(job, number, batch, epochs, local=None):
    """The job ends cleanly, after one report, from rank 0, whose threads are its share among the local ranks."""
    status, out, err = job.finish(timeout=120)
    assert status == 0, "\n".join(err)
    assert not any(word in line.lower() for word in ("traceback", "error", "exception") for line in err), "\n".join(err)
    assert all(line.startswith("[0]<stdout>:") for line in out), out
    out = [line.removeprefix("[0]<stdout>:") for line in out]
    versions = r"horovod \d[\d.]*, mxnet \d[\d.]*, python 3\.\d+\.\d+"
    threads = max(1, cores() // (local or number))
    settings = f"{number} x (?:cpu|gpu), {threads} threads, batch {number} x {batch}, seed 42"
    first = rf"{re.escape(SCRIPT)}: {versions}, {settings}"
    assert re.fullmatch(first, out[0]), out
    assert len(out) == epochs + 3, out
    for i in range(1, epochs + 1):
        assert re.fullmatch(rf"epoch +{i}/{epochs}  loss \d+\.\d{{4}}  \d+\.\d\d s", out[i]), out
    assert re.fullmatch(r"duration: \d+\.\d\d s", out[-2]), out
    assert re.fullmatch(r"accuracy: [01]\.\d{4}", out[-1]), out


@pytest.mark.alone
def test_two_ranks_give_one_report(launch, few_digits):
    check_report(launch(few_digits, *ranks(2, *train("--epochs", 10, "--batch-size", 40))), 2, 40, 10)


def test_ranks_take_the_same_steps(launch, few_digits):
    """Three steps of 40 images on every rank, though the first two have images for four: no rank waits for ever."""
    check_report(launch(few_digits, *ranks(3, *train("--epochs", 2, "--batch-size", 40))), 3, 40, 2)


def workers(job):
    """Return the numbers of the processes that train, in the order of their ranks."""
    found = []
    rank = 0
    while numbers := processes(job.mark, f"HOROVOD_RANK={rank}"):
        found += [number for number in numbers if b"python" in Path(f"/proc/{number}/comm").read_bytes()]
        rank += 1
    return found


def interrupt(job, numbers):
    """Press Ctrl-C, which a terminal sends to the launcher's whole group."""
    os.killpg(job.process.pid, signal.SIGINT)


def terminate(job, numbers):
    """Kill the launcher as kill does."""
    os.kill(job.process.pid, signal.SIGTERM)


@functools.cache
def kill(rank):
    """Return what kills a rank."""
    return lambda job, numbers: os.kill(numbers[rank], signal.SIGKILL)


ENDS = {1: kill(0), 2: interrupt, 3: terminate}  # of jobs of so many ranks
ENDLESS = train("--epochs", 9999, "--batch-size", 40)


def endless(number):
    """Return the command that runs so many ranks without end, on CPUs of two cores."""
    return *ON_TWO_CPUS, *ranks(number, *ENDLESS)


@pytest.mark.alone
@needs_two_cores
@pytest.mark.parametrize("number", ENDS)
def test_ranks_share_the_cores(live, number):
    """Each is bound to its own, with as many threads; one rank has both; three ranks take turns."""
    life = live(workers, ENDS[number], *endless(number))
    assert len(life.shares) == number
    assert set.union(*life.shares) == set(TWO_CPUS)
    assert sum(map(len, life.shares)) == max(number, 2)
    assert f", {max(1, min(cores(), 2) // number)} threads, " in life.first_line


@pytest.mark.alone
@pytest.mark.parametrize("number, rank", [(1, 0), (2, 0), (2, 1)])
def test_rank_killed(live, number, rank):
    life = live(workers, kill(rank), *endless(number))
    check_failure(life.status, life.out, life.err, f"Process {rank} exit with status code {128 + signal.SIGKILL}")


def test_rank_that_cannot_read_its_data(launch, few_digits, tmp_path):
    """The one line of the rank that fails is there, and the other rank does not wait for it."""
    damaged = shutil.copytree(few_digits, tmp_path / "damaged") / "mnist.npz"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    of_rank_1 = f"[ $HOROVOD_RANK = 0 ] || export MNIST_DIR={damaged.parent}; exec python {SCRIPT} --batch-size 40"
    job = launch(few_digits, *ranks(2, "sh", "-c", of_rank_1))
    job.check_failure(f"[1]<stderr>:error: cannot use {damaged}: ")


def test_mistake_of_all_ranks(launch, few_digits):
    """A device for every rank of the host, or an error."""
    arguments = "--device", "gpu", "--batch-size", 40
    job = launch(few_digits, *ranks(2, "env", "CUDA_VISIBLE_DEVICES=", *train(*arguments)))
    job.check_failure("error: --device gpu needs 2 x gpu, MXNet sees 0; use --device cpu")


@pytest.mark.alone
@pytest.mark.parametrize("number", [2, 3])
def test_launcher_stopped(live, number):
    """By Ctrl-C, or by kill: no rank is left, and none reports a result.

    The exit status is horovodrun's own, and now and then it is 0. In horovod 0.28.1 two threads of
    horovod/runner/common/util/safe_shell_exec.py wait for the shell of a rank: _exec_middleman by Popen.wait,
    terminate_executor_shell_and_children by psutil's wait. If psutil's is first, Popen finds no child and takes its status
    for 0. If that happens for all ranks, the job's status is 0 too.
    """
    life = live(workers, ENDS[number], *endless(number))
    lines = life.out + life.err
    assert any("Terminated" in line for line in lines), "\n".join(lines)
    assert not any("duration:" in line or "accuracy:" in line for line in lines), "\n".join(lines)


@pytest.fixture
def two_hosts(launch, few_digits):
    """Return the start of a command line that runs the rest on the first of two hosts; skip where there can be none."""
    status, _, err = launch(few_digits, *ON_TWO_HOSTS, "ssh", "-o", "StrictHostKeyChecking=no", "two", "true").finish()
    if status:
        pytest.skip(f"needs root, namespaces, ip, ssh and sshd: {' '.join(err)}")
    return ON_TWO_HOSTS


@pytest.mark.alone
def test_two_hosts(launch, few_digits, two_hosts):
    hosts = "horovodrun", "-np", 2, "-H", "one:1,two:1"
    check_report(launch(few_digits, *two_hosts, *hosts, *train("--epochs", 2, "--batch-size", 40)), 2, 40, 2, local=1)


def test_rank_killed_on_the_other_host(launch, few_digits, two_hosts):
    hosts = "horovodrun", "-np", 2, "--network-interfaces", "eth1", "-H", "one:1,two:1"
    job = launch(few_digits, *two_hosts, *hosts, *train("--epochs", 999, "--batch-size", 40))
    job.train()
    job.kill("HOROVOD_RANK=1")
    job.check_failure("Process 1 exit with status code")
