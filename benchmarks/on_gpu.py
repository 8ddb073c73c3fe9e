"""Run what measures a GPU, each part within its time, and fill in the table.

    benchmarks/on_gpu.sh gpu.json
    python benchmarks/on_gpu.py gpu.json --fill

The parts are a training step at a batch of 4096 against the encoders alone, the
compatibility function alone, evaluation, and the tests that need CUDA. One that fails
or takes too long does not keep the others from running; FILE is written anew after
each. With ``--device cpu`` everything is tiny, and says nothing but that it runs.
``--fill`` runs nothing: it puts the table of FILE into docs/pretraining.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'pretraining.md'
BEGIN, END = '<!-- on_gpu -->\n', '<!-- /on_gpu -->\n'
# Seconds that a part may take.
SECONDS = dict(step=180, phi=80, evaluation=100, tests=170)
BF16 = '--config configs/pacl_vitb16_30m_bf16.py'
SMALL = '--config configs/small_world/pacl.py'
MEASURING = {
    'cuda': dict(
        step=f'training.py {BF16} --batch-size 4096 --repeat 3 --steps 5',
        phi='compatibility.py --dtype bfloat16 --sizes 4096 --repeat 3',
        evaluation='evaluation.py --dtype float16',
    ),
    'cpu': dict(
        step=f'training.py {SMALL} --batch-size 4 --repeat 1',
        phi='compatibility.py --sizes 8 --repeat 1',
        evaluation='evaluation.py --benchmarks voc20 --size 64 64 --repeat 1',
    ),
}
TESTS = (
    "grep -rl --include='test_*.py' cuda.is_available tests | "
    f"xargs {sys.executable} -m pytest -q -k 'gpu or cuda or pinned or mixed'"
)


def commands(device: str) -> dict[str, str]:
    """What bash runs for each part."""
    start, options = f'{sys.executable} benchmarks', f'--device {device} --json "$FILE"'
    measuring = MEASURING[device].items()
    parts = {name: f'{start}/{script} {options}' for name, script in measuring}
    return dict(parts, tests=TESTS)


def run_part(command: str, limit: float) -> dict[str, Any]:
    """Run a part for at most ``limit`` seconds, with whatever processes it starts.

    Args:
        command: For bash; results go to the file that ``FILE`` names.
        limit: Then it is killed.

    Returns:
        ``command``, ``seconds``, ``status`` (``ok``, ``failed`` or ``out of time``),
        the last lines of what it printed, and ``result``, None if there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder, 'result.json'), Path(folder, 'log')
        environment = {**os.environ, 'FILE': str(file)}
        limited = ['timeout', '-s', 'KILL', str(max(limit, 1)), 'bash', '-c', command]
        start = time.monotonic()
        with log.open('wb') as out:
            code = subprocess.call(
                limited, cwd=ROOT, env=environment, stdout=out, stderr=out
            )
        status = {0: 'ok', -9: 'out of time'}.get(code, 'failed')
        return dict(
            command=command,
            seconds=round(time.monotonic() - start, 1),
            status=status,
            output=log.read_text(errors='replace').splitlines()[-25:],
            result=json.loads(file.read_text()) if file.exists() else None,
        )


def measure(device: str, seconds: float, file: Path) -> dict[str, Any]:
    """Run all parts within ``seconds``; see the module's description."""
    end = time.monotonic() + seconds
    name = torch.cuda.get_device_name() if device == 'cuda' else 'CPU'
    record = dict(device=name, torch=torch.__version__, parts={})
    for name, command in commands(device).items():
        left = end - time.monotonic()
        part = run_part(command, min(SECONDS[name], left))
        record['parts'][name] = part
        file.write_text(json.dumps(record, indent=1))
        print(f'{name}: {part["status"]} after {part["seconds"]:.0f} s', flush=True)
    return record


def table(record: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    results = {name: part['result'] for name, part in record['parts'].items()}
    rows = {}
    if step := results['step']:
        seconds, count = step['seconds'], step['batch_size']
        ratio = seconds['step'] / seconds['encoders']
        rows[f'step / encoders, batch {count}'] = f'{ratio:.3f}'
        rows['samples/s'] = f'{count / seconds["step"]:,.0f}'
        rows['peak GPU memory of a step'] = f'{step["peak_memory"] / 1e9:.1f} GB'
        rows["the recipe's 300 million samples"] = f'{step["hours"]:,.1f} hours'
    for phi in results['phi'] or ():
        for way, share in phi['shares'].items():
            name = f"φ {way}, B = N = {phi['size']}: share of the device's matrix rate"
            rows[name] = f'{share:.0%}'
    for name, seconds in (results['evaluation'] or {}).items():
        ratios = {
            'evaluation of an image / encoders': ('whole', 'encoder'),
            "MMSeg's segmentor / ours": ('stock', 'batched'),
        }
        for title, (a, b) in ratios.items():
            rows[f'{name}: {title}'] = f'{seconds[a] / seconds[b]:.2f}'
    tests = record['parts']['tests']
    rows['tests on the device'] = (tests['output'] or [''])[-1].strip('= ')
    for name, part in record['parts'].items():
        if part['status'] != 'ok':
            rows[name] = f'{part["status"]} after {part["seconds"]:.0f} s'
    head = f'| {record["device"]}, torch {record["torch"]} | measured |\n|---|---|\n'
    return head + ''.join(f'| {name} | {value} |\n' for name, value in rows.items())


def filled(text: str, record: dict[str, Any]) -> str:
    """A page with the table between its two comments."""
    whole = f'{BEGIN}{table(record)}{END}'
    return re.sub(f'{BEGIN}.*{END}', lambda _: whole, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('file', type=Path, help='JSON of the results')
    parser.add_argument('--device', choices=MEASURING, default='cuda')
    parser.add_argument('--seconds', type=float, default=535, help='for all parts')
    parser.add_argument('--fill', action='store_true', help='instead of measuring')
    args = parser.parse_args()
    if args.fill:
        record = json.loads(args.file.read_text())
        PAGE.write_text(filled(PAGE.read_text('utf-8'), record), 'utf-8')
    else:
        print(table(measure(args.device, args.seconds, args.file)))


if __name__ == '__main__':
    main()
