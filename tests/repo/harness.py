"""Runs one unittest class or method and gives ctest the exit codes that it knows.

0: passed, 1: failed, 4: every case was skipped (the reasons are printed as "SKIPPED: ...").
"""

import sys
import unittest


def run(module_name):
    names = [f"{module_name}.{name}" for name in sys.argv[1:]] or [module_name]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    for _, reason in result.skipped:
        print(f"SKIPPED: {reason}")
    if not result.wasSuccessful() or result.testsRun == 0:
        return 1
    return 4 if len(result.skipped) == result.testsRun else 0
