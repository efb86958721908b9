"""The demo on a tenth of its scenes."""

from mulsupcon_tf import demo
from mulsupcon_tf.datasets.images import digits

SCENES = {"train": 600, "validation": 100, "test": 200}

if __name__ == "__main__":
    digits.SCENES = SCENES
    demo.run()
