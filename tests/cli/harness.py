"""Runs the `kiln` command as a process, in a world of its own, for the tests of this folder.

Exit codes for ctest: 0 passed, 1 failed, KILN_SKIP_RETURN_CODE when every case was skipped.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

CLI = os.environ["KILN_CLI"]
SOURCE_DIR = pathlib.Path(os.environ["KILN_SOURCE_DIR"])
FAKE_NVRTC = os.environ["KILN_TEST_FAKE_NVRTC"]
FAKE_CUDA_DIR = os.environ["KILN_TEST_FAKE_CUDA_DIR"]
FAKE_CUPTI = pathlib.Path(os.environ["KILN_TEST_FAKE_CUPTI"])
SKIP_RETURN_CODE = int(os.environ["KILN_SKIP_RETURN_CODE"])

OK, FAILURE, USAGE, NO_DEVICE, MISS = range(5)  # exit codes
TARGET = ("--arch", "sm_90a", "--sms", "132")


class Result:

    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


# What libraries of others lose, and Kiln cannot mend.
LSAN_SUPPRESSIONS = pathlib.Path(__file__).resolve().parents[1] / "support" / "lsan.supp"


class CliCase(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="kiln-cli-")
        self.addCleanup(holder.cleanup)
        self.dir = pathlib.Path(holder.name)
        self.cache = self.dir / "cache"
        self.compile_log = self.dir / "compiles"

    def environment(self, **changes):
        """Nothing of the tester's own settings; None removes a variable."""
        env = {
            k: v
            for k, v in os.environ.items()
            if not re.match(r"KILN_|FAKE_NVRTC|CUDA_HOME|CUDA_PATH|XDG_", k)
        }
        env["HOME"] = str(self.dir)
        env.setdefault("LSAN_OPTIONS", f"suppressions={LSAN_SUPPRESSIONS}:print_suppressions=0")
        env.update(changes)
        return {key: str(value) for key, value in env.items() if value is not None}

    def fake(self, **changes):
        """The world in which the fake compiler is the only one, and counts."""
        return {"KILN_NVRTC": FAKE_NVRTC, "FAKE_NVRTC_LOG": self.compile_log, **changes}

    def start(self, *words, env=None, **options):
        return subprocess.Popen([CLI, *map(str, words)], env=self.environment(**(env or {})),
                                text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **options)

    def kiln(self, *words, env=None, expect=None, timeout=300, **options):
        done = subprocess.run([CLI, *map(str, words)], env=self.environment(**(env or {})),
                              text=True, errors="replace", stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=timeout, check=False, **options)
        result = Result(done)
        self.assertGreaterEqual(result.code, 0, f"{words} ended by a signal\n{result}")
        self.assertNotRegex(result.err, "AddressSanitizer|runtime error:|LeakSanitizer",
                            str(result))
        if expect is not None:
            self.assertEqual(expect, result.code, f"kiln {' '.join(map(str, words))}\n{result}")
        return result

    def write(self, name, content):
        path = self.dir / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content),
                            encoding="utf-8")
        return path

    def shapes(self, *problems, **fields):
        """A shapes file; a problem is a dict, or a tuple of name, n and k."""
        named = [p if isinstance(p, dict) else dict(zip(("name", "n", "k"), p)) for p in problems]
        return self.write("shapes.json", {"format": 1, "problems": named, **fields})

    def compiled_programs(self):
        """What the fake compiler was asked for, in order."""
        if not self.compile_log.exists():
            return []
        return [line.split()[1] for line in self.compile_log.read_text().splitlines()]

    def require_nvrtc(self):
        """Skips unless this machine has a real compiler that works."""
        document = self.kiln("doctor", "--json").json
        if not document["can_compile"]:
            self.skipTest(f"no working NVRTC: {document['compiler']['message']}")

    def unprivileged(self):
        """Options for kiln() under which file permissions count, also for tests run by root."""
        if os.geteuid() != 0:
            return {}
        nobody = 65534
        probe = subprocess.run(
            [CLI, "version"], user=nobody, group=nobody, extra_groups=[], capture_output=True,
            check=False) if os.access(CLI, os.X_OK) and self._reachable(CLI) else None
        if probe is None or probe.returncode != 0:
            self.skipTest(f"running as root, and another user cannot run {CLI}")
        os.chmod(self.dir, 0o755)
        return {"user": nobody, "group": nobody, "extra_groups": []}

    @staticmethod
    def _reachable(path):
        return all(parent.stat().st_mode & 0o001 for parent in pathlib.Path(path).resolve().parents)


class GpuCase(CliCase):
    """Needs a Hopper GPU: skipped without one, or a failure with KILN_REQUIRE_GPU=1."""

    def setUp(self):
        super().setUp()
        document = self.kiln("doctor", "--json").json
        if document["can_run"]:
            return
        if os.environ.get("KILN_REQUIRE_GPU") == "1":
            self.fail(f"KILN_REQUIRE_GPU=1, and there is no usable GPU: {document['device']['message']}")
        self.skipTest(f"needs a Hopper GPU: {document['device']['message']}")


def run():
    names = [f"__main__.{name}" for name in sys.argv[1:]] or ["__main__"]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    for _, reason in result.skipped:
        print(f"SKIPPED: {reason}")
    if not result.wasSuccessful() or result.testsRun == 0:
        return 1
    return SKIP_RETURN_CODE if len(result.skipped) == result.testsRun else 0
