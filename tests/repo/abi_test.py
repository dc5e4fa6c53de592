"""The C API keeps its promises to programs that are already compiled: exports, layouts, and the header
under every standard and compiler that it says.

Reads from the environment (set by CMakeLists.txt here): KILN_SOURCE_DIR, KILN_LIBRARY (libkiln.so), KILN_BUILD_DIR
(where the last tag's library is kept).
"""

import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import abi
import harness

ROOT = pathlib.Path(os.environ.get("KILN_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
HERE = ROOT / "tests" / "repo"
OLD = HERE / "abi_v0_1"
NEW = ROOT / "runtime"


class ScratchCase(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="kiln-abi-")
        self.addCleanup(directory.cleanup)
        self.scratch = pathlib.Path(directory.name)

    def compiler(self, name):
        path = shutil.which(name)
        if path is None:
            self.skipTest(f"{name} is not installed")
        return path

    def run_ok(self, *command, **more):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more)
        self.assertEqual(0, done.returncode, f"{' '.join(map(str, command))}\n{done.stdout}")
        return done.stdout


class Exports(ScratchCase):
    def test_the_library_exports_the_allowed_symbols_and_no_other(self):
        if shutil.which("nm") is None:
            self.skipTest("nm is not installed")
        allowed = [line.split("#")[0].strip() for line in (HERE / "exports.txt").read_text().splitlines()]
        allowed = {line for line in allowed if line}
        listing = self.run_ok("nm", "-D", "--defined-only", os.environ["KILN_LIBRARY"])
        exported = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
        self.assertEqual(allowed, exported)
        print(f"FIGURES: {len(exported)} exported symbols equal the allow-list")

    def test_the_header_declares_what_is_allowed(self):
        allowed = {line.split("#")[0].strip() for line in (HERE / "exports.txt").read_text().splitlines()}
        declared = {*abi.prototypes((NEW / "kiln.h").read_text(encoding="utf-8"))}
        self.assertEqual({name for name in allowed if name.startswith("kiln_")}, declared)


class Header(ScratchCase):
    def compile_with(self, c, cxx):
        text = (NEW / "kiln.h").read_text(encoding="utf-8")
        names = abi.structs(text)
        self.assertGreaterEqual(len(names), 9)
        made = [f"{name} made_{name} = {name.upper()}_INIT;" for name in names if f"{name.upper()}_INIT" in text]
        self.assertGreaterEqual(len(made), 9)
        source = "\n".join(["#include <kiln.h>", "#include <kiln.h>", *made, "int main(void) { return KILN_OK; }", ""])
        path = self.scratch / "header.c"
        path.write_text(source, encoding="utf-8")
        flags = [*abi.STRICT, f"-I{NEW}", "-fsyntax-only"]
        for standard in ("c99", "c11", "c17"):
            self.run_ok(c, f"-std={standard}", *flags, str(path))
        for standard in ("c++11", "c++17", "c++20"):
            self.run_ok(cxx, f"-std={standard}", *flags, "-x", "c++", str(path))
        print(f"FIGURES: {pathlib.Path(c).name}: header and {len(made)} initialisers in C99, C11, C17, C++11, C++17, C++20")

    def test_gcc(self):
        self.compile_with(self.compiler("gcc"), self.compiler("g++"))

    def test_clang(self):
        self.compile_with(self.compiler("clang"), self.compiler("clang++"))


class Layouts(ScratchCase):
    def test_the_frozen_header_is_read_as_a_whole(self):
        text = (OLD / "kiln.h").read_text(encoding="utf-8")
        structs = abi.structs(text)
        self.assertEqual(9, len(structs))
        self.assertEqual(9, text.count("uint32_t struct_version;"))
        self.assertEqual(["struct_size", "struct_version", "block_m", "block_n", "warpgroups_m", "warpgroups_n",
                          "stages", "cluster_m", "cluster_n", "raster_group"], structs["kiln_tile"])
        self.assertEqual(len(re.findall(r"^KILN_API ", text, re.MULTILINE)), len(abi.prototypes(text)))
        self.assertIn("KILN_ERROR_INTERNAL", abi.enumerators(text))

    def test_sizes_offsets_values_and_prototypes_are_as_in_version_0_1(self):
        self.assertEqual([], abi.incompatibilities(self.compiler("cc"), OLD, NEW, self.scratch))
        text = (OLD / "kiln.h").read_text(encoding="utf-8")
        fields = sum(len(names) for names in abi.structs(text).values())
        print(f"FIGURES: {fields} fields, {len(abi.enumerators(text))} enumerators and {len(abi.prototypes(text))} "
              "functions of version 0.1 are where they were")

    def test_each_kind_of_change_is_found(self):
        text = (NEW / "kiln.h").read_text(encoding="utf-8")
        changes = {
            "a field moved": ("  int64_t n;", "  int32_t inserted; int64_t n;"),
            "a field grew": ("  int32_t stages;", "  int64_t stages;"),
            "a field went": ("  uint32_t flags;", "  "),
            "a value changed": ("KILN_ERROR_FORKED = 12", "KILN_ERROR_FORKED = 14"),
            "a value went": ("KILN_CHECK_ON = 2", "KILN_CHECK_ALL = 2"),
            "a function went": ("kiln_quantizer_prepare(", "kiln_quantizer_ready("),
            "a parameter changed": ("int64_t m_min, int64_t m_max);", "int32_t m_min, int64_t m_max);"),
        }
        for name, (before, after) in changes.items():
            with self.subTest(name):
                self.assertIn(before, text)
                folder = self.scratch / "changed"
                folder.mkdir(exist_ok=True)
                (folder / "kiln.h").write_text(text.replace(before, after, 1), encoding="utf-8")
                self.assertNotEqual([], abi.incompatibilities(self.compiler("cc"), OLD, folder, self.scratch))


class OldPrograms(ScratchCase):
    def test_a_program_of_version_0_1_runs_with_this_library(self):
        library = pathlib.Path(os.environ["KILN_LIBRARY"])
        program = self.scratch / "example"
        self.run_ok(self.compiler("cc"), "-std=c11", *abi.STRICT, f"-I{OLD}", str(ROOT / "tests/runtime/example.c"),
                    str(library), "-ldl", "-o", str(program))
        self.run_ok(str(program), env={**os.environ, "HOME": str(self.scratch), "LD_LIBRARY_PATH": str(library.parent)})
        print("FIGURES: a C program compiled with the header of version 0.1 runs with this library")

    def test_the_program_is_bound_to_the_library_by_its_major_version(self):
        if shutil.which("objdump") is None:
            self.skipTest("objdump is not installed")
        self.assertRegex(self.run_ok("objdump", "-p", os.environ["KILN_LIBRARY"]), r"SONAME\s+libkiln\.so\.0\b")


class AgainstTheLastTag(ScratchCase):
    def git(self, *words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()

    def built(self, tag):
        """Its source and build folders. They are kept: to build them takes a minute, and the gate asks again."""
        kept = pathlib.Path(os.environ["KILN_BUILD_DIR"]) / "last-tag" / self.git("rev-parse", f"{tag}^{{commit}}")
        kept.mkdir(parents=True, exist_ok=True)
        old, build = kept / "source", kept / "build"
        with open(kept / "lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not old.exists():
                fresh = pathlib.Path(tempfile.mkdtemp(dir=kept))
                archive = subprocess.run(["git", "-C", str(ROOT), "archive", tag], capture_output=True, check=True).stdout
                subprocess.run(["tar", "-x", "-C", str(fresh)], input=archive, check=True)
                fresh.rename(old)
            self.run_ok("cmake", "-G", "Ninja", "-S", str(old), "-B", str(build), "-DKILN_BUILD_TESTS=OFF")
            self.run_ok("cmake", "--build", str(build), "--target", "kiln")
        return old, build

    def test_abidiff_finds_nothing_removed_or_changed(self):
        abidiff = self.compiler("abidiff")
        tag = self.git("describe", "--tags", "--abbrev=0")
        if not tag:
            self.skipTest("the repository has no tag to compare with")
        old, build = self.built(tag)
        before = next(build.rglob("libkiln.so"))
        done = subprocess.run([abidiff, "--headers-dir1", str(old / "runtime"), "--headers-dir2", str(NEW), str(before),
                               os.environ["KILN_LIBRARY"]], capture_output=True, text=True, check=False)
        self.assertEqual(0, done.returncode & 0b1011, done.stdout + done.stderr)  # errors, or incompatible
        print(f"FIGURES: abidiff against {tag}: nothing removed or changed")


if __name__ == "__main__":
    sys.exit(harness.run(__name__))
