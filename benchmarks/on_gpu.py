"""Run what measures a GPU, each part within its time, and fill in the table.

    benchmarks/on_gpu.sh gpu.json
    python benchmarks/on_gpu.py gpu.json --fill docs/pretraining.md

The parts are the tests that need CUDA, a training step at a batch of 4096 against the
encoders alone, noun prompts, the compatibility function alone, and evaluation. One that
fails or takes too long does not keep the others from running; FILE is written anew
after each. With ``--device cpu`` everything is tiny, and says nothing but that it runs.
``--fill`` runs nothing: it puts a table of FILE between the two comments named
``on_gpu`` of a page.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- on_gpu -->\n', '<!-- /on_gpu -->\n'
SMALL_WORLD = ['--config', 'configs/small_world/pacl.py', '--noun-prompts']
# Seconds that a part may take, and its command.
PARTS: dict[str, tuple[int, list[str]]] = {
    'step': (170, ['benchmarks/training.py']),
    'phi': (70, ['benchmarks/compatibility.py', '--implementations', 'blockwise']),
    'noun prompts': (60, ['benchmarks/training.py', *SMALL_WORLD]),
    'evaluation': (80, ['benchmarks/evaluation.py']),
    'tests': (150, ['-m', 'pytest', '-q', '-k', 'gpu or cuda or pinned or mixed']),
}
OPTIONS = {
    'cuda': {
        'step': '--dtype bfloat16 --compile --batch-size 4096 --repeat 3 --steps 5',
        'phi': '--dtype bfloat16 --matmul-dtype bfloat16 --sizes 4096 --repeat 3',
        'noun prompts': '--batch-size 256',
        'evaluation': '--dtype float16',
    },
    'cpu': {
        'step': '--config configs/small_world/pacl.py --batch-size 4 --repeat 1',
        'phi': '--sizes 8 --tokens 9 --dim 16 --repeat 1',
        'noun prompts': '--batch-size 16 --repeat 1',
        'evaluation': '--benchmarks voc20 --size 64 64 --repeat 1',
    },
}
MACHINE = """
import json, sys, torch
cuda = sys.argv[1] == 'cuda'
device = torch.cuda.get_device_name() if cuda else 'CPU'
print(json.dumps(dict(device=device, torch=torch.__version__, cuda=torch.version.cuda)))
"""


def run_part(name: str, device: str, limit: float) -> dict[str, Any]:
    """Run a part for at most ``limit`` seconds.

    Returns:
        ``command``, ``seconds``, ``status`` (``ok``, ``failed`` or ``out of time``),
        the last lines of what it printed, and ``result``, None if there is none.
    """
    _, command = PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'result.json')
        if name == 'tests':
            found = [p for p in ROOT.glob('tests/**/test_*.py') if needs_gpu(p)]
            command = [*command, *sorted(str(p.relative_to(ROOT)) for p in found)]
        else:
            options = f'--device {device} {OPTIONS[device][name]}'.split()
            command = [*command, *options, '--json', str(file)]
        log = Path(folder, 'log')
        start = time.monotonic()
        with log.open('wb') as out:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = 'failed' if process.wait(max(limit, 1)) else 'ok'
            except subprocess.TimeoutExpired:
                status = 'out of time'
            finally:  # with whatever processes it has started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return dict(
            command=' '.join(command),
            seconds=round(time.monotonic() - start, 1),
            status=status,
            output=log.read_text(errors='replace').splitlines()[-25:],
            result=json.loads(file.read_text()) if file.exists() else None,
        )


def needs_gpu(test: Path) -> bool:
    return 'cuda.is_available' in test.read_text()


def measure(device: str, seconds: float, file: Path) -> dict[str, Any]:
    """Run all parts within ``seconds``; see the module's description."""
    end = time.monotonic() + seconds
    described = subprocess.check_output([sys.executable, '-c', MACHINE, device])
    record = dict(machine=json.loads(described.splitlines()[-1]), parts={})
    for name, (limit, _) in PARTS.items():
        left = end - time.monotonic()
        record['parts'][name] = part = run_part(name, device, min(limit, left))
        file.write_text(json.dumps(record, indent=1))
        print(f'{name}: {part["status"]} after {part["seconds"]:.0f} s', flush=True)
    return record


def table(record: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    results = {name: part['result'] for name, part in record['parts'].items()}
    machine = record['machine']
    rows = {}
    if step := results['step']:
        seconds, count = step['seconds'], step['batch_size']
        ratio = seconds['step'] / seconds['encoders']
        rows[f'step / encoders, batch {count}'] = f'{ratio:.3f}'
        rows['samples/s'] = f'{count / seconds["step"]:,.0f}'
        rows['peak memory of a step'] = f'{step["peak_memory"] / 1e9:.1f} GB'
        rows["the recipe's 300 million samples"] = f'{step["hours"]:,.1f} hours'
    for phi in results['phi'] or ():
        seconds = phi['seconds']
        for way, taken in seconds['blockwise'].items():
            name = f"φ {way}, B = N = {phi['size']}: share of the device's matrix rate"
            rows[name] = f'{seconds["device"][way] / taken:.0%}'
    if nouns := results['noun prompts']:
        ratio = nouns['seconds']['apart'] / nouns['seconds']['step']
        name = 'small world, noun prompts: a step that takes equal texts apart / a step'
        rows[f'{name}, batch {nouns["batch_size"]}'] = f'{ratio:.2f}'
    for name, result in (results['evaluation'] or {}).items():
        seconds = result['seconds']
        whole, stock = seconds['whole'], seconds['stock']
        rows[f'{name}: evaluation of an image / encoders'] = (
            f'{whole / seconds["encoder"]:.2f}'
        )
        rows[f"{name}: MMSeg's segmentor / ours"] = f'{stock / seconds["batched"]:.2f}'
    tests = record['parts']['tests']
    rows['tests on the device'] = (tests['output'] or [''])[-1].strip('= ')
    for name, part in record['parts'].items():
        if part['status'] != 'ok':
            rows[name] = f'{part["status"]} after {part["seconds"]:.0f} s'
    head = f'| {machine["device"]}, torch {machine["torch"]} | measured |\n|---|---|\n'
    return head + ''.join(f'| {name} | {value} |\n' for name, value in rows.items())


def fill(page: Path, record: dict[str, Any]) -> None:
    """Put the table into a page.

    Raises:
        ValueError: It has not the two comments, in their order.
    """
    before, begin, rest = page.read_text(encoding='utf-8').partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f'{page} has no {BEGIN.strip()} before {END.strip()}.')
    text = f'{before}{BEGIN}{table(record)}{END}{after}'
    page.write_text(text, encoding='utf-8')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('file', type=Path, help='JSON of the results')
    parser.add_argument('--device', choices=OPTIONS, default='cuda')
    parser.add_argument('--seconds', type=float, default=535, help='for all parts')
    parser.add_argument(
        '--fill', type=Path, metavar='PAGE', help='instead of measuring'
    )
    args = parser.parse_args()
    if args.fill:
        fill(args.fill, json.loads(args.file.read_text()))
    else:
        print(table(measure(args.device, args.seconds, args.file)))


if __name__ == '__main__':
    main()
