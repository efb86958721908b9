r"""The photos or rows of a gallery that are most alike to those given, as JSON lines and as an HTML page.

  python -m mulsupcon_tf.search --workdir=runs/photos --gallery=holiday photo.jpg
  python -m mulsupcon_tf.search --saved_model=models/photos --gallery=holiday --index=holiday.npz \
      --by=features --neighbours=20 --sheet=found.html new/ 'album/*.jpg'

What stands for the gallery is kept in an index, and made anew only for files that have changed.
"""

import json
import pathlib
from collections.abc import Sequence

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require_one
from mulsupcon_tf.config.program_flags import SearchConfig
from mulsupcon_tf.utils.atomic_file import require_writable
from mulsupcon_tf.utils.optional_packages import require_pillow


def main(config: SearchConfig, files: Sequence[str]) -> None:
    """Searches, prints, and writes the page where one is asked for."""
    require_one(config, "saved_model", "workdir")
    if config.sheet:
        require_pillow()
        require_writable(pathlib.Path(config.sheet))
    import_tensorflow_quietly()
    from mulsupcon_tf.commands.searching import search

    records = []
    try:
        for record in search(config, files):
            print(json.dumps(record), flush=True)
            records.append(record)
    finally:
        if config.sheet and records:
            from mulsupcon_tf.reporting.contact_sheet import write_sheet

            write_sheet(records, config.sheet)


def run() -> None:
    """Entry point of the console script."""
    run_binary(SearchConfig, main, usage=__doc__, takes_files=True)


if __name__ == "__main__":
    run()
