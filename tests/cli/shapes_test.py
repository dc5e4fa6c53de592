"""Shapes files, malformed, hostile and shipped: checked whole before anything is done."""

import json
import sys

from harness import CliCase, MISS, SOURCE_DIR, TARGET, USAGE
import harness


class ShapesFiles(CliCase):

    def warm(self, shapes, **options):
        return self.kiln("warm", "--shapes", shapes, *TARGET, "--cache", self.cache, "--json",
                         **options)

    def refuse(self, content, *parts):
        path = self.write("bad.json", content)
        result = self.warm(path, env=self.fake(), expect=USAGE)
        self.assertEqual("", result.out)
        for part in (str(path), *parts):
            self.assertIn(part, result.err, str(result))
        self.assertLess(len(result.err), 2000)
        self.assertFalse(self.cache.exists(), "something was done before the file was checked")

    def one(self, **fields):
        return {"format": 1, "problems": [{"name": "a", "n": 512, "k": 512, **fields}]}

    def test_a_file_that_cannot_be_read_is_refused(self):
        for path, reason in (("/nonexistent.json", "No such file"), (self.dir, "Is a directory"),
                             ("/dev/zero", "larger than 8.0 MiB")):
            self.assertIn(reason, self.warm(path, env=self.fake(), expect=USAGE).err)

    def test_text_that_is_no_json_is_refused_with_its_position(self):
        for text in ("", " ", "{", "[", "null,", "{'a': 1}", '{"a": 1,}', "// comment\n{}",
                     '{"a": NaN}', '{"a": 01}', '"\\ud800"', '{"format": 1', "\x00", '{"a": 1e999}',
                     "nul", '{"format": 1}}', '{"a": "\n"}'):
            with self.subTest(text=text):
                self.refuse(text, "not valid JSON", "line 1, column ")
        self.refuse(b'{"model": "\xff\xfe"}', "not valid JSON")
        self.refuse('{\n  "format": 1,\n  oops', "line 3, column 3: not valid JSON")

    def test_deep_nesting_is_refused(self):
        for text in ("[" * 17, "[" * 1_000_000, '{"a":' * 17, '{"a":' * 500_000,
                     "[" * 17 + "]" * 17):
            self.refuse(text, "nested deeper than 16 levels")
        self.refuse("[" * 16 + "]" * 16, "the document: must be an object")

    def test_a_huge_file_is_refused(self):
        self.refuse(" " * (8 << 20) + "{}", "larger than 8.0 MiB")

    def test_a_repeated_key_is_refused_wherever_it_is(self):
        self.refuse('{"format": 1, "format": 1}', '"format" appears twice')
        self.refuse('{"format": 1, "problems": [{"name": "a", "n": 8, "k": 16, "\\u006e": 16}]}',
                    'problems[0]: the key "n" appears twice')
        self.refuse('{"x": [{}, {"y": {"z": 1, "z": 2}}]}', 'x[1].y: the key "z" appears twice')

    def test_an_unknown_key_is_refused_with_the_nearest(self):
        self.refuse({**self.one(), "problem": []}, 'the document: unknown key "problem"',
                    'did you mean "problems"?')
        self.refuse(self.one(N=3), 'problems[0]: unknown key "N"')
        self.refuse({**self.one(), "defaults": {"accumlate": True}}, "defaults: unknown key",
                    'did you mean "accumulate"?')
        self.refuse({**self.one(), "defaults": {"n": 8}}, 'defaults: unknown key "n"')
        self.refuse(self.one(**{"\x1b[2J": 1}), r'unknown key "\x1b[2J"')

    def test_a_missing_key_is_refused(self):
        self.refuse({}, 'the key "format" is missing')
        self.refuse({"format": 1}, 'the key "problems" is missing')
        for key in ("name", "n", "k"):
            problem = {"name": "a", "n": 512, "k": 512}
            del problem[key]
            self.refuse({"format": 1, "problems": [problem]},
                        f'problems[0]: the key "{key}" is missing')

    def test_a_wrong_type_is_refused_with_its_place(self):
        wrong = {
            "name": [1, None, [], {}, True], "n": ["512", 512.0, 1.5, None, True, [], {}, 1e300],
            "k": ["", 16.0, False], "a": [1, None, "E4M3", "", "fp8", "x" * 5000,
                                          "\x07"], "b": [[]], "out": [0, "fp32"], "sfa": ["col"],
            "layout": ["grouped", 1], "scaling": ["2d"], "accumulate": [0, 1, "true", None],
            "group_form": ["end", None, 1], "groups": [0, -1, 1025, "4", 1.0, None],
            "alignment": [-1, 1025, "128", 64.0, None],
            "m": [1, "1", [], ["1"], [1.0], [None], [-1], [1, 1], [2**31],
                  list(range(300)), {}], "comment": [1]
        }
        for key, values in wrong.items():
            for value in values:
                with self.subTest(key=key, value=str(value)[:40]):
                    self.refuse(self.one(**{key: value}), f"problems[0].{key}")
                    if key not in ("name", "n", "k", "comment"):
                        self.refuse({**self.one(), "defaults": {key: value}}, f"defaults.{key}")
        for document in ([], 1, "x", None, True, 1.5):
            self.refuse(json.dumps(document), "the document: must be an object")
        for value in (0, 2, "1", 1.0, None):
            self.refuse({**self.one(), "format": value},
                        "format: must be a whole number from 1 to 1")
        for value in ([], {}, None, "x", [1], [[]], [None]):
            self.refuse({"format": 1, "problems": value}, "problems")

    def test_a_grouped_problem_without_its_number_of_groups_is_refused(self):
        for layout in ("grouped_contiguous", "grouped_masked", "grouped_k"):
            self.refuse(self.one(layout=layout), "problems[0]", 'the key "groups" is missing',
                        layout)
            self.refuse({**self.one(), "defaults": {"layout": layout}}, "problems[0]",
                        'the key "groups" is missing', layout)

    def test_a_number_out_of_range_is_refused(self):
        for value in ("0", "-1", "-8", "2147483137", "4294967296", "9223372036854775807",
                      "9223372036854775808", "18446744073709551616", "-9223372036854775809",
                      "1" + "0" * 400):
            with self.subTest(value=value):
                self.refuse(
                    '{"format": 1, "problems": [{"name": "a", "n": %s, "k": 512}]}' % value,
                    "not valid JSON" if len(value) > 100 else
                    "problems[0].n: must be a whole number from 1 to 2147483136")

    def test_a_name_that_is_no_name_or_not_unique_is_refused(self):
        for name in ("", "a b", "é", "a\n", "x" * 97, "a\x00b", "\x1b[31m"):
            with self.subTest(name=name):
                self.refuse(self.one(name=name),
                            "problems[0].name: must be 1 to 96 letters, digits and _ . + / -")
        problem = {"name": "a", "n": 512, "k": 512}
        self.refuse({"format": 1, "problems": [problem, problem]},
                    'problems[1].name: "a" is the name of an earlier problem')

    def test_too_many_problems_are_refused(self):
        problems = [{"name": f"p{i}", "n": 8, "k": 16} for i in range(10_001)]
        self.refuse({"format": 1, "problems": problems},
                    "problems: must be an array of 1 to 10000 elements")

    def test_every_shipped_file_is_a_list_of_problems_that_can_be_computed(self):
        files = sorted((SOURCE_DIR / "configs/shapes").glob("*.json"))
        self.assertGreaterEqual(len(files), 4)
        for file in files:
            with self.subTest(file=file.name):
                # Nothing may be compiled, so this only lists; a bad problem would be exit code 1.
                document = self.warm(file, env=self.fake(KILN_NO_COMPILE="1"), expect=MISS).json
                names = {use["name"] for kernel in document["kernels"] for use in kernel["uses"]}
                self.assertEqual(
                    {problem["name"] for problem in json.loads(file.read_text())["problems"]},
                    names)
                self.assertEqual([], document["bad_problems"])


if __name__ == "__main__":
    sys.exit(harness.run())
