"""Runs cases of a test program that was built without one protection, and fails when they pass.

usage: mutant_test.py PROGRAM SPEC...      SPEC: names or tags as Catch2 takes them

Every case of every SPEC runs on its own. A case that crashes notices, too; one that hangs does not.
"""

import concurrent.futures
import os
import subprocess
import sys

LIMIT_S = 120
NOTHING_RAN = (4, 5)  # exit codes of catch_main.cc: all skipped, nothing matched


def notices(program, spec):
    """Whether the cases fail, and a line that says so."""
    environment = {**os.environ, "KILN_GATE_SCALE": "small"}
    try:
        done = subprocess.run([program, spec, "--abort"], capture_output=True, text=True, errors="replace",
                              timeout=LIMIT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return False, f"{spec}: still running after {LIMIT_S} s"
    if done.returncode == 0:
        return False, f"{spec}: passes without the protection, so it proves nothing about it"
    if done.returncode in NOTHING_RAN:
        return False, f"{spec}: no case ran\n{done.stdout[-2000:]}"
    where = next((line for line in done.stdout.splitlines() if "FAILED" in line), f"exit {done.returncode}")
    return True, f"{spec}: fails as it should: {where.strip()}"


def main(program, specs):
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(lambda spec: notices(program, spec), specs))
    for _, line in results:
        print(line)
    return 0 if results and all(good for good, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
