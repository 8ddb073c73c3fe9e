"""The ``pacl`` command: runs the scripts of ``tools/``, installed or in a checkout.

It lies beside the package, not in it, and imports nothing heavy: importing the package
takes seconds, and needs what ``pip install pacl-mmseg`` alone does not install.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import NoReturn

# Verb, its script in tools/, what it does.
VERBS = {
    'segment': ('segment.py', 'segment photos or a video by words of your own'),
    'compare': ('compare.py', 'one picture of several methods side by side'),
    'demo': ('demo.py', 'a web page to type words into'),
    'scene': ('scene.py', 'write scenes of the small world, to try things on'),
    'quickstart': ('quickstart.py', 'train and test in the small world, in minutes'),
    'train': ('train.py', 'train a model'),
    'dist-train': ('dist_train.sh', 'train on several GPUs'),
    'slurm-train': ('slurm_train.sh', 'train on a slurm cluster'),
    'test': ('test.py', 'evaluate a checkpoint'),
    'dist-test': ('dist_test.sh', 'evaluate a checkpoint on several GPUs'),
    'benchmark': ('benchmark.py', 'a table of methods on benchmarks'),
    'prepare-data': ('prepare_data.py', 'convert downloads to what benchmarks load'),
    'check-data': ('check_data.py', 'are the data of benchmarks complete?'),
    'pack-shards': ('dataset_tools/pack_shards.py', 'pack pairs into shards'),
    'cache-features': (
        'dataset_tools/cache_image_tokens.py',
        'encode the images of a training once',
    ),
    'export': ('export.py', 'write a trained model as a folder to share'),
}
EPILOG = """\
`pacl VERB --help` has the arguments of each. Configs, and the checkpoints
beside them, are found as configs/NAME in any folder: where there is no such file, those
installed with this package are meant.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb as its script runs, by the name ``pacl VERB``.

    Raises:
        SystemExit: As the script ends; or there is no such verb or script, or one of
            the packages that all of them need is missing, which is said in a sentence.
    """
    argv = [*(sys.argv[1:] if argv is None else argv)]
    package = Path(find_spec('pacl_mmseg').submodule_search_locations[0])
    verb, words = parse_verb(argv[:1], package), argv[1:]
    tools = package / '.mim' / 'tools'
    script = tools / VERBS[verb][0]
    if not script.is_file():
        sys.exit(f'Error: this installation has no `pacl {verb}` ({script}).')
    if verb.endswith('train'):  # how to go on, of a training that is interrupted
        os.environ['PACL_COMMAND'] = shlex.join(['pacl', verb, *words])
    try:
        runpy.run_path(str(package / 'stack.py'))['check_stack']()
        if script.suffix == '.sh':
            launch(verb, script, words)
        sys.argv = [f'pacl {verb}', *words]
        sys.path.insert(0, str(tools))
        run(script)
    except ImportError as error:
        if '--traceback' in words:
            raise
        sys.exit(f'Error: {error}')
    except KeyboardInterrupt:
        sys.exit('\nInterrupted.')


def parse_verb(argv: Sequence[str], package: Path) -> str:
    """Parse the first word, and act on it if it is an option."""
    parser = argparse.ArgumentParser(
        prog='pacl',
        usage='pacl VERB [ARGUMENTS]',
        description='Open-vocabulary segmentation with Patch Aligned Contrastive '
        'Learning.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = runpy.run_path(str(package / 'version.py'))['__version__']
    parser.add_argument('--version', action='version', version=f'pacl-mmseg {version}')
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    for verb, (_, text) in VERBS.items():
        verbs.add_parser(verb, help=text, add_help=False)
    return parser.parse_args(argv).verb


def run(script: Path) -> None:
    """As ``runpy.run_path`` runs a script, but ``sys.argv[0]`` stays as it is."""
    spec = spec_from_file_location('__main__', script)
    module = module_from_spec(spec)
    module.__spec__ = None  # as of any script: processes that it spawns go by its path
    sys.modules['__main__'] = module
    spec.loader.exec_module(module)


def launch(verb: str, script: Path, words: Sequence[str]) -> NoReturn:
    """Become a launcher's script, whose ``python`` is the one that runs this."""
    if not words or {'-h', '--help'} & {*words}:
        head = script.read_text().partition('\nset ')[0].splitlines()[1:]
        text = '\n'.join(line.removeprefix('# ') for line in head)
        print(text.replace(f'tools/{script.name}', f'pacl {verb}'))
        sys.exit(0 if words else 2)
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ.get("PATH", "")}'
    os.execvpe('bash', ['bash', str(script), *words], {**os.environ, 'PATH': path})


if __name__ == '__main__':
    main()
