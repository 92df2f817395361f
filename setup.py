# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Metadata of the package. Tool settings live in pyproject.toml, tested versions in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
readme = root / "README.md"
source = (root / "src" / "diffusers_ediffi" / "__init__.py").read_text(encoding="utf-8")
version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
assert version

requirements = [
    "accelerate>=1.10",
    # The package stands in a private table of diffusers (see pipelines/registration.py), hence the narrow range.
    "diffusers>=0.42.1,<0.43",
    "huggingface_hub>=1.0,<3",
    "numpy>=1.26",
    "pillow>=11",
    "pyyaml>=6",
    "safetensors>=0.5",
    "torch>=2.6",
    "transformers>=5,<6",
]
extras = {
    "train": ["filelock>=3.12", "peft>=0.17", "tokenizers>=0.22", "tqdm>=4.60"],
    "data": ["datasets>=4", "webdataset>=1.0"],
    "eval": ["scipy>=1.11"],
    "hub": ["markdown-it-py>=3"],
    "demo": ["gradio>=6.20"],
    "docs": [
        "furo>=2025.12",
        "ipykernel>=7",
        "myst-parser>=5",
        "nbclient>=0.11",
        "sphinx>=9,<9.1",  # 9.1 needs Python 3.12
        "sphinx-copybutton>=0.5.2",
        "sphinx-design>=0.8",
    ],
    "xformers": ["xformers"],
}
extras["eval"] += extras["train"]  # pictures and parts are read by what training reads them with
extras["test"] = ["hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.6", "torchao>=0.15"]
extras["test"] += ["playwright>=1.50", *extras["demo"]]
extras["test"] += [*extras["train"], *extras["data"], *extras["eval"], *extras["hub"]]
extras["dev"] = ["mypy>=1.15", "ruff>=0.11", *extras["test"]]

setup(
    name="diffusers_ediffi",
    version=version[1],
    description="eDiff-I for diffusers: an ensemble of expert denoisers, from a sentence to a 1024 x 1024 image",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author="The diffusers_ediffi authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "diffusers_ediffi": [
            "py.typed",
            "assets/**",
            "training/schedules/*.yaml",
            "space/*.html",
            "space/*.css",
            "space/*.js",
            "space/*.webp",
        ]
    },
    python_requires=">=3.11",
    install_requires=requirements,
    extras_require=extras,
    entry_points={"console_scripts": ["ediffi = diffusers_ediffi.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="diffusion, text-to-image, diffusers, eDiff-I, ensemble of experts",
    zip_safe=False,
)
