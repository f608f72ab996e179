"""A library that calls itself libedgetpu, for the real runtime to load: what it does wrong is a line of C."""

import shutil
import subprocess
from pathlib import Path

import pytest

from device.accelerator import LIBEDGETPU

SOURCE = """
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
%s
const char* edgetpu_version(void) { return "BuildLabel(stub), RuntimeVersion(14)"; }
void tflite_plugin_destroy_delegate(void* delegate) {}
void* tflite_plugin_create_delegate(char** keys, char** values, size_t n, void (*report)(const char*)) { %s }
"""


def build(folder: Path, create: str, before: str = "") -> Path:
    """Compile it into `folder`; `create` makes the delegate."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    (folder / "stub.c").write_text(SOURCE % (before, create))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / LIBEDGETPU, folder / "stub.c"], check=True)
    return folder / LIBEDGETPU
