"""A slurm of one machine, while a command runs: without systemd, cgroups or a GPU.

python tests/slurm_cluster.py sinfo

Debian's packages slurmctld, slurmd, slurm-client and munge are all it needs.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from programs import PATH

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'srun', 'sbatch')
PATIENCE = 120.0  # seconds; on a machine with nothing else to do it takes three
CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
FirstJobId={first_job}
KillWait=2
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm(cpus: int = 8) -> Iterator[dict[str, str]]:
    """A slurm with one node and one partition, ``all``, in a folder of its own.

    Args:
        cpus: How many the node is said to have.

    Yields:
        The environment in which slurm's commands find it.

    Raises:
        RuntimeError: It did not start; with the ends of its logs.
    """
    folder = Path(tempfile.mkdtemp(prefix='slurm_'))  # short, for sockets
    env = {**os.environ, 'PATH': PATH, 'SLURM_CONF': f'{folder}/slurm.conf'}
    started: list[subprocess.Popen] = []

    # It clears up even if this process is killed.
    guard = subprocess.Popen(
        [sys.executable, __file__, '--clear', str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )

    def start(name: str, *arguments: str) -> None:
        command = [name, *arguments]
        with (folder / f'{name}.log').open('wb') as log:
            daemon = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        started.append(daemon)

    def wait_for(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end or any(p.poll() is not None for p in started):
                logs = (path.read_text()[-1000:] for path in folder.glob('*.log'))
                raise RuntimeError('\n'.join(['Slurm did not start.', *logs]))
            time.sleep(0.1)

    def says(*command: str) -> str:
        return subprocess.run(command, env=env, capture_output=True, text=True).stdout

    try:
        for name in ('state', 'spool'):
            (folder / name).mkdir()
        ports = free_ports(2)
        config = CONFIG.format(
            folder=folder,
            host=socket.gethostname().partition('.')[0],
            user=getpass.getuser(),
            controller_port=ports[0],
            node_port=ports[1],
            # A job's processes meet at a port made from its number, which another
            # cluster on this machine should not have.
            first_job=secrets.randbelow(2**20) + 1,
            cpus=cpus,
        )
        (folder / 'slurm.conf').write_text(config)
        key = folder / 'munge.key'
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = ('socket', 'key-file', 'pid-file', 'seed-file', 'log-file')
        places = [f'--{f}={folder}/munge.{f.removesuffix("-file")}' for f in files]
        start('munged', '--foreground', '--force', *places)
        wait_for((folder / 'munge.socket').exists)
        start('slurmctld', '-D')
        start('slurmd', '-D', '-N', 'localhost')
        wait_for(lambda: says('sinfo', '--noheader', '--format=%T') == 'idle\n')
        yield env
    finally:
        guard.communicate(b'\n')
        for daemon in started:
            daemon.wait()


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens at."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def clear(folder: Path) -> None:
    """End daemons and what is left of jobs, and remove their folder."""
    end = time.monotonic() + PATIENCE
    while (left := processes_of(folder)) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """The processes with this folder in their environment."""
    found = []
    for path in Path('/proc').glob('[0-9]*/environ'):
        with suppress(OSError):  # it has ended, or is somebody else's
            if os.fsencode(folder) in path.read_bytes():
                found.append(int(path.parent.name))
    return found


if __name__ == '__main__':
    if sys.argv[1:2] == ['--clear']:
        sys.stdin.readline()  # or the end of the process at the other end
        clear(Path(sys.argv[2]))
        sys.exit()
    with slurm() as environment:
        done = subprocess.run(sys.argv[1:] or ['bash'], env=environment)
    sys.exit(done.returncode)
