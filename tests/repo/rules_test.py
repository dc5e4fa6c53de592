"""Holds the repository to rules.py, and rules.py to finding what it is there to find."""

import os
import pathlib
import sys
import tempfile
import unittest

import harness
import rules

ROOT = pathlib.Path(os.environ.get("KILN_SOURCE_DIR", pathlib.Path(__file__).parents[2]))


def tree(files):
    """A temporary source tree; keep the returned object alive."""
    directory = tempfile.TemporaryDirectory()
    for name, text in files.items():
        path = pathlib.Path(directory.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return directory


class RuleCase(unittest.TestCase):
    def problems_of(self, check, files):
        with tree(files) as root:
            return check(pathlib.Path(root))

    def assert_none(self, problems):
        self.assertEqual([], problems, "\n" + "\n".join(problems))


class IncludeArrows(RuleCase):
    def test_the_repository_has_no_wrong_arrow(self):
        self.assert_none(rules.include_problems(ROOT))

    def test_the_repository_has_sources_to_look_at(self):
        seen = {pathlib.PurePath(name).parts[0] for name in rules.tracked_files(ROOT)}
        self.assertLessEqual(set(rules.ALLOWED_FOLDERS), seen)

    def test_every_wrong_arrow_is_found(self):
        headers = {f"{folder}/x.h": "" for folder in rules.ALLOWED_FOLDERS}
        for folder, allowed in rules.ALLOWED_FOLDERS.items():
            for target in rules.ALLOWED_FOLDERS:
                for spelling in (f'#include "{target}/x.h"', f"#include <{target}/x.h>", f'#  include "../{target}/x.h"'):
                    found = self.problems_of(rules.include_problems, {**headers, f"{folder}/y.cc": spelling + "\n"})
                    with self.subTest(folder=folder, line=spelling):
                        self.assertEqual(target not in allowed, bool(found), found)

    def test_cuda_headers_outside_runtime_are_found(self):
        for folder in rules.ALLOWED_FOLDERS:
            for header in ("cuda.h", "cuda_runtime.h", "nvrtc.h", "cuda_fp8.h"):
                found = self.problems_of(rules.include_problems, {f"{folder}/y.cc": f"#include <{header}>\n"})
                with self.subTest(folder=folder, header=header):
                    self.assertEqual((folder, header) != ("runtime", "cuda.h"), bool(found))

    def test_an_include_that_leads_nowhere_or_through_a_macro_is_found(self):
        self.assertTrue(self.problems_of(rules.include_problems, {"jit/y.cc": '#include "jit/gone.h"\n'}))
        self.assertTrue(self.problems_of(rules.include_problems, {"jit/y.cc": "#include KILN_HEADER\n"}))
        self.assertTrue(self.problems_of(rules.include_problems, {"templates/y.cuh": "#include <math.h>\n"}))


class LinkArrows(RuleCase):
    def test_the_repository_has_no_wrong_arrow_between_targets(self):
        self.assert_none(rules.link_problems(ROOT))

    def test_a_wrong_arrow_between_targets_is_found(self):
        text = "add_library(kiln_jit a.cc)\ntarget_link_libraries(kiln_jit PRIVATE kiln_cache)\n"
        self.assertEqual(1, len(self.problems_of(rules.link_problems, {"jit/CMakeLists.txt": text})))


class TopLevel(RuleCase):
    def test_the_top_level_holds_the_agreed_names_and_no_other(self):
        self.assert_none(rules.top_level_problems(ROOT))

    def test_an_extra_and_a_missing_name_are_found(self):
        files = {name if "." in name or name == "LICENSE" else f"{name}/f": "" for name in rules.TOP_LEVEL}
        self.assert_none(self.problems_of(rules.top_level_problems, {**files, ".gitignore": ""}))
        self.assertEqual(1, len(self.problems_of(rules.top_level_problems, {**files, "notes.txt": ""})))
        del files["LICENSE"]
        self.assertEqual(1, len(self.problems_of(rules.top_level_problems, files)))


class FileLength(RuleCase):
    def test_no_file_is_too_long(self):
        warnings, problems = rules.length_problems(ROOT)
        for warning in warnings:
            print("WARNING:", warning)
        self.assert_none(problems)

    def test_a_long_file_is_found(self):
        with tree({"jit/a.cc": "\n" * 11, "jit/b.cc": "\n" * 21, "jit/c.cc": "\n" * 10}) as root:
            warnings, problems = rules.length_problems(pathlib.Path(root), warn=10, maximum=20)
        self.assertEqual((1, 1), (len(warnings), len(problems)))


class Unfinished(RuleCase):
    def test_nothing_is_left_to_do_without_an_owner(self):
        self.assert_none(rules.owner_problems(ROOT))

    def test_a_leftover_is_found(self):
        self.assertEqual(1, len(self.problems_of(rules.owner_problems, {"jit/a.cc": "// TODO: later\n"})))


class Toolchains(RuleCase):
    def test_the_oldest_and_the_newest_nvrtc_are_tested(self):
        """Which ones tests/jit compiles with; tools/check fetches them."""
        paths = [pathlib.Path(path) for path in os.environ.get("KILN_TEST_NVRTC", "").split(":") if path]
        if not paths:
            self.skipTest("KILN_TEST_NVRTC is not set: templates are compiled with one NVRTC only (no network?)")
        versions = set()
        for path in paths:
            self.assertTrue(path.is_file(), path)
            versions |= {builtins.name.split(".so.")[1] for builtins in path.parent.glob("libnvrtc-builtins.so.1?.*")}
        self.assertIn("12.4", versions)
        self.assertTrue(any(version.startswith("13.") for version in versions), versions)


if __name__ == "__main__":
    sys.exit(harness.run(__name__))
