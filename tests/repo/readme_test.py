"""README.md is true: its commands run, its help text, tables, example and links are the real ones.

Reads from the environment (set by CMakeLists.txt here): KILN_SOURCE_DIR, KILN_BUILD_DIR, KILN_CLI
(the built `kiln`) and CMAKE. With --list it prints a line "NUMBER<tab>TITLE" per runnable block.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import harness
import readme
import rules

ROOT = pathlib.Path(os.environ.get("KILN_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = readme.blocks(TEXT)
NO_DEVICE = 3


def environment(scratch):
    """The caller's, without Kiln's settings, with the built kiln in PATH and a cache of its own."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("KILN_") or key == "KILN_NVRTC"}
    folders = [pathlib.Path(os.environ["KILN_CLI"]).parent]
    if os.environ.get("KILN_TEST_PLOT_PYTHON"):  # of a virtual environment: its python3 is beside it
        folders.append(pathlib.Path(os.environ["KILN_TEST_PLOT_PYTHON"]).parent)
    env["PATH"] = ":".join(map(str, [*folders, env["PATH"]]))
    env["KILN_CACHE_DIR"] = str(scratch / "cache")
    env["KILN_GATE_BUILD"] = os.environ["KILN_BUILD_DIR"]
    env["VIRTUAL_ENV"] = str(ROOT / ".venv")
    return env


def run(command, scratch, **more):
    return subprocess.run(command, cwd=scratch, env=environment(scratch), text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **more)


class ScratchCase(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="kiln-readme-")
        self.addCleanup(directory.cleanup)
        self.scratch = pathlib.Path(directory.name)
        for folder in ("configs", "tests", "tools"):
            (self.scratch / folder).symlink_to(ROOT / folder)


class Commands(ScratchCase):
    def run_block(self, block):
        expected = 0
        for argument in block.arguments:
            self.assertRegex(argument, r"^(gpu|matplotlib|exit=\d+)$", f"README.md:{block.line}")
            if argument.startswith("exit="):
                expected = int(argument[5:])
        if "matplotlib" in block.arguments:
            if run(["python3", "-c", "import matplotlib"], self.scratch).returncode != 0:
                self.skipTest(f"python3 has no matplotlib: {block.title}")
            # As if kiln bench had been run before.
            shutil.copy(ROOT / "tests/cli/data/bench.json", self.scratch / "bench.json")
        done = run(["bash", "-euo", "pipefail", "-c", block.text], self.scratch)
        print(done.stdout)
        if "gpu" in block.arguments and done.returncode == NO_DEVICE and os.environ.get("KILN_REQUIRE_GPU") != "1":
            self.skipTest(f"no usable Hopper GPU: {block.title}")
        self.assertEqual(expected, done.returncode, f"README.md:{block.line}: {block.text}")


def _add_command_cases():
    """One method per runnable block, so that ctest lists each by itself."""
    for number, block in enumerate(block for block in BLOCKS if block.kind == "run"):
        setattr(Commands, f"test_{number}", lambda self, block=block: self.run_block(block))


_add_command_cases()


class Text(ScratchCase):
    def help_of(self, *words):
        done = run([os.environ["KILN_CLI"], *words], self.scratch)
        self.assertEqual(0, done.returncode, done.stdout)
        return done.stdout

    def test_every_marked_block_is_of_a_known_kind(self):
        self.assertLessEqual({block.kind for block in BLOCKS}, {"run", "help", "file"})
        self.assertTrue([block for block in BLOCKS if block.kind == "run"])

    def test_the_excerpt_of_the_help_is_what_kiln_prints(self):
        excerpts = [block for block in BLOCKS if block.kind == "help"]
        self.assertTrue(excerpts)
        for block in excerpts:
            self.assertIsNone(readme.excerpt_problem(block.text, self.help_of("--help")))

    def test_the_command_table_names_the_commands_of_the_help(self):
        listed = re.search(r"^Commands:\n((?:  .*\n)+)", self.help_of("--help"), re.MULTILINE)[1]
        commands = {line.split()[0] for line in listed.splitlines() if re.match(r"  \w", line)}
        in_readme = {row[0].removeprefix("kiln ").split()[0] for row in readme.table_below(TEXT, "Commands")}
        self.assertEqual(commands, in_readme)

    def test_the_exit_codes_are_those_of_the_help(self):
        listed = re.search(r"^Exit codes:(.*(?:\n.+)*)", self.help_of("--help"), re.MULTILINE)[1]
        self.assertEqual(re.findall(r"\b\d\b", listed), [row[0] for row in readme.table_below(TEXT, "Exit codes")])

    def test_each_exit_code_happens_as_the_table_says(self):
        kiln = os.environ["KILN_CLI"]
        target = "--arch sm_90a --sms 132"
        (self.scratch / "bad.json").write_text("{}", encoding="utf-8")
        cases = {
            "0": f"{kiln} version",
            "1": f"{kiln} version >/dev/full",
            "2": f"{kiln} warm --shapes bad.json {target}",
            "3": f"CUDA_VISIBLE_DEVICES= {kiln} run --layout dense --m 1 --n 128 --k 128",
            "4": f"KILN_NO_COMPILE=1 {kiln} warm --shapes configs/shapes/deepseek-v3.json {target} --cache empty",
        }
        self.assertEqual(sorted(cases), [row[0] for row in readme.table_below(TEXT, "Exit codes")])
        for code, command in cases.items():
            with self.subTest(code=code):
                done = run(["bash", "-c", command], self.scratch)
                self.assertEqual(int(code), done.returncode, f"{command}\n{done.stdout}")

    def test_the_environment_table_names_what_the_library_reads(self):
        read = set()
        for path in [*ROOT.glob("runtime/*.cc"), *ROOT.glob("jit/*.cc"), *ROOT.glob("cache/*.cc"), *ROOT.glob("tools/*.cc")]:
            read |= set(re.findall(r'"(KILN_[A-Z_]+)"', path.read_text(encoding="utf-8")))
        header = (ROOT / "runtime" / "kiln.h").read_text(encoding="utf-8")
        constants = set(re.findall(r"(?:#define |^ *|, |\{ )(KILN_\w+)", header, re.MULTILINE))
        self.assertEqual(read - constants, {row[0] for row in readme.table_below(TEXT, "Environment variables")})

    def test_every_relative_link_leads_to_a_file(self):
        for target in readme.relative_links(TEXT):
            self.assertTrue((ROOT / target).exists(), target)


class Embedding(ScratchCase):
    """Builds the embedding example of the README, letter by letter, in each way that it names."""

    def setUp(self):
        super().setUp()
        self.example = self.scratch / "example"
        self.example.mkdir()
        for block in BLOCKS:
            if block.kind == "file":
                (self.example / block.arguments[0]).write_text(block.text, encoding="utf-8")
        self.cmake = os.environ.get("CMAKE", "cmake")

    def succeed(self, *command, **more):
        done = run(list(command), self.scratch, **more)
        self.assertEqual(0, done.returncode, f"{' '.join(command)}\n{done.stdout}")
        return done.stdout

    def install(self):
        self.succeed(self.cmake, "--install", os.environ["KILN_BUILD_DIR"], "--prefix", str(self.scratch / "prefix"))

    def assert_runs(self, program):
        """The example needs a GPU to succeed; without one it must say so and not crash."""
        library_path = ":".join(str(path) for path in (self.scratch / "prefix").glob("lib*"))
        done = run(["env", f"LD_LIBRARY_PATH={library_path}", str(program)], self.scratch)
        self.assertIn(done.returncode, (0, 1), done.stdout)
        if done.returncode == 1:
            self.assertRegex(done.stdout, r"(?i)driver|device|gpu")

    def built_already(self):
        """A compiler launcher that takes the objects of the build at hand, which has compiled the same sources.
        One source of each library, and what is generated, is compiled for all that."""
        launcher = self.scratch / "built-already"
        launcher.write_text("""#!/bin/sh
output= depends= source= previous=
for word; do
  case $previous in -o) output=$word ;; -MF) depends=$word ;; -c) source=$word ;; esac
  previous=$word
done
case ${source##*/} in
  c_api.cc | problem.cc | sha256.cc | embedded_*) exec "$@" ;;
esac
folder=$(basename "$(dirname "$source")")
for object in "$KILN_GATE_BUILD/$folder"/CMakeFiles/kiln_*.dir/"${source##*/}.o"; do
  [ -e "$object" ] && : >"$depends" && exec cp "$object" "$output"
done
exec "$@"
""", encoding="utf-8")
        launcher.chmod(0o755)
        return launcher

    def test_find_package_finds_the_installed_library(self):
        self.install()
        self.succeed(self.cmake, "-G", "Ninja", "-S", str(self.example), "-B", "consumer",
                     f"-DCMAKE_PREFIX_PATH={self.scratch / 'prefix'}")
        self.succeed(self.cmake, "--build", "consumer")
        self.assert_runs(self.scratch / "consumer" / "example")

    def test_a_subdirectory_builds_the_library(self):
        text = (self.example / "CMakeLists.txt").read_text(encoding="utf-8")
        subdirectory = re.search(r"add_subdirectory\(kiln\)", text)[0]
        text = text.replace("find_package(kiln REQUIRED)", subdirectory)
        (self.example / "CMakeLists.txt").write_text(text, encoding="utf-8")
        (self.example / "kiln").symlink_to(ROOT)
        self.succeed(self.cmake, "-G", "Ninja", "-S", str(self.example), "-B", "consumer",
                     f"-DCMAKE_CXX_COMPILER_LAUNCHER={self.built_already()}", "-DCMAKE_BUILD_TYPE=",
                     "-DCMAKE_CXX_FLAGS=-O0")  # only to see it build, and fast
        self.succeed(self.cmake, "--build", "consumer", "--target", "example")
        self.assert_runs(self.scratch / "consumer" / "example")

    def test_pkg_config_finds_the_installed_library(self):
        self.install()
        files = list((self.scratch / "prefix").rglob("kiln.pc"))
        self.assertEqual(1, len(files))
        command = f"PKG_CONFIG_PATH={files[0].parent} pkg-config --cflags --libs kiln"
        flags = self.succeed("bash", "-c", command).split()
        strict = ["cc", "-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror"]
        self.succeed(*strict, str(self.example / "example.c"), "-o", "example-pc", *flags)
        self.assert_runs(self.scratch / "example-pc")
        # The other C files of the README are parts of programs.
        others = [str(path) for path in self.example.glob("*.c") if path.name != "example.c"]
        self.assertTrue(others)
        for path in others:
            self.succeed(*strict, "-c", path, "-o", "part.o", *flags)


class Checks(unittest.TestCase):
    """The checks above can fail."""

    def test_a_changed_help_text_is_found(self):
        full = "usage\n\n  a  does a\n  b  does b\nend\n"
        self.assertIsNone(readme.excerpt_problem("usage\n...\n  b  does b\nend\n", full))
        self.assertIsNotNone(readme.excerpt_problem("usage\n  b  does b\n", full))
        self.assertIsNotNone(readme.excerpt_problem("...\n  b  does c\n", full))
        self.assertIsNotNone(readme.excerpt_problem("end\n...\nusage\n", full))
        self.assertIsNotNone(readme.excerpt_problem("end\nmore\n", full))

    def test_a_marker_without_a_block_and_a_misspelt_marker_are_errors(self):
        self.assertEqual("a --b", readme.blocks("<!-- test: run exit=4 -->\n```\n# x\na --b\n```\n")[0].title)
        for text in ("<!-- test: run -->\ntext\n", "<!-- test:run -->\n```\na\n```\n"):
            with self.assertRaises(ValueError):
                readme.blocks(text)

    def test_a_table_is_read_below_its_heading(self):
        text = "# A\n| x | y |\n|---|---|\n| 1 | a |\n## B\n| x | y |\n|---|---|\n| `2` | b |\n| 3 | c |\n\nend\n"
        self.assertEqual([["2", "b"], ["3", "c"]], readme.table_below(text, "B"))

    def test_links_are_found_outside_code_only(self):
        text = "[a](b.md#c) [d](https://e) ![p](q.png)\n```\n[x](y)\n```\n"
        self.assertEqual(["b.md", "q.png"], readme.relative_links(text))

    def test_the_marked_files_are_tracked_sources(self):
        self.assertIn("README.md", rules.tracked_files(ROOT))


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        for index, runnable in enumerate(block for block in BLOCKS if block.kind == "run"):
            print(f"{index}\t{runnable.title}")
        sys.exit(0)
    sys.exit(harness.run(__name__))
