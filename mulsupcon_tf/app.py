"""A page in the browser, on this machine: drop a photo, see its labels and the most similar photos of a gallery.

  python -m mulsupcon_tf.app --workdir=runs/photos_ft
  python -m mulsupcon_tf.app --saved_model=models/photos --gallery=holiday --port=7861

It needs gradio, `pip install '.[app]'`, and is open to this machine alone unless --host says otherwise.
"""

import os

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.config.fields import require_one
from mulsupcon_tf.config.program_flags import AppConfig
from mulsupcon_tf.utils.optional_packages import require_gradio


def main(config: AppConfig) -> None:
    """Makes the page and serves it."""
    require_one(config, "saved_model", "workdir")
    import_tensorflow_quietly()
    # Read when it is imported; it would look for newer versions otherwise.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    require_gradio()
    from mulsupcon_tf.commands.searching import open_gallery
    from mulsupcon_tf.reporting.app_page import build_page, example_files, serve

    model, find, gallery = open_gallery(config)
    serve(build_page(model, find, example_files(gallery)), config.host, config.port)


def run() -> None:
    """Entry point of the console script."""
    run_binary(AppConfig, main, usage=__doc__)


if __name__ == "__main__":
    run()
