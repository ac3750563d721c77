"""What a run records of the libraries that compute products of matrices."""

import os
import platform
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_limits

from evomerge.compat.blas import instruction_variables, linear_algebra

HERE = "from evomerge.compat.blas import *; print(linear_algebra()); print(instruction_variables())"


def test_each_package_names_a_library():
    libraries = linear_algebra()
    assert sorted(libraries) == ["numpy", "scipy", "torch"]
    assert all(libraries.values())


def test_the_number_of_threads_is_no_part_of_it():
    before = linear_algebra()
    with threadpool_limits(limits=1):
        assert linear_algebra() == before


def test_another_core_type_is_seen():
    libraries = linear_algebra()
    if platform.machine() != "x86_64" or "openblas" not in libraries["numpy"]:
        pytest.skip("the core types of the test are for OpenBLAS on x86_64")
    other = "Nehalem" if "Nehalem" not in libraries["numpy"] else "Haswell"
    environment = os.environ | {"OPENBLAS_CORETYPE": other, "NPY_DISABLE_CPU_FEATURES": ""}
    said = subprocess.check_output([sys.executable, "-c", HERE], env=environment, text=True)
    seen, variables = map(eval, said.splitlines())
    assert seen != libraries and other in seen["numpy"] and seen["torch"] == libraries["torch"]
    assert variables == instruction_variables() | {"OPENBLAS_CORETYPE": other}
