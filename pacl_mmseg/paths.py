"""Where the package's own files are, installed or in place."""

from pathlib import Path

CONFIGS = Path(__file__).parent / '.mim' / 'configs'
"""The configs, where MMEngine looks for those of a package."""

TOOLS = CONFIGS.with_name('tools')
"""The command-line tools, likewise."""


def find_shipped(path: str) -> str:
    """A path, or the file of this package that it means.

    ``configs/...`` that is not below the working directory is what is installed, where
    there is such a file; any other path stays as it is.
    """
    installed = CONFIGS.parent / path
    named = Path(path).parts[:1] == ('configs',) and not Path(path).exists()
    return str(installed) if named and installed.is_file() else path
