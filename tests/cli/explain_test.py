"""kiln explain: the plan of a problem, for machines that are not this one."""

import sys

from harness import CliCase, OK, TARGET
import harness

KEYS = {
    "problem", "m", "plan_m", "arch", "num_sms", "tile", "reason", "m_min", "m_max", "threads",
    "smem_bytes", "output_tiles", "waves", "estimate_us", "rank", "legal_tiles", "intervals",
    "alternatives", "source", "tuned", "default"
}
LARGEST_M = 2**31 - 512


class Explain(CliCase):

    def explain(self, m, *words, n=7168, k=2048, target=TARGET, **options):
        return self.kiln("explain", "--m", m, "--n", n, "--k", k, *target, *words, expect=OK,
                         **options)

    def test_the_intervals_cover_every_m_once_and_the_tile_is_that_of_its_interval(self):
        plans = []
        for m in (0, 1, 63, 64, 65, 128, 129, 1000, 4096, 100_000, LARGEST_M):
            document = self.explain(m, "--json").json
            self.assertEqual(KEYS, set(document))
            self.assertEqual((m, m), (document["m"], document["plan_m"]))
            intervals = document["intervals"]
            self.assertEqual((0, LARGEST_M), (intervals[0]["m_min"], intervals[-1]["m_max"]))
            for left, right in zip(intervals, intervals[1:]):
                self.assertEqual(left["m_max"] + 1, right["m_min"])
                self.assertNotEqual(left["tile"], right["tile"])
            serving, = [i for i in intervals if i["m_min"] <= m <= i["m_max"]]
            self.assertEqual((serving["m_min"], serving["m_max"], serving["tile"]),
                             (document["m_min"], document["m_max"], document["tile"]))
            self.assertEqual((serving["threads"], serving["smem_bytes"]),
                             (document["threads"], document["smem_bytes"]))
            self.assertIn(document["tile"], document["reason"])
            plans.append(intervals)
        self.assertEqual(1, len({str(plan) for plan in plans}))
        self.assertGreater(len(plans[0]), 2)

    def test_the_numbers_are_those_of_the_tile(self):
        document = self.explain(4096, "--json").json
        block_m, block_n = (int(x) for x in document["tile"].split("/")[0].split("x"))
        self.assertEqual(-(-4096 // block_m) * -(-7168 // block_n), document["output_tiles"])
        self.assertAlmostEqual(document["output_tiles"] / 132, document["waves"])
        estimates = [a["estimate_us"] for a in document["alternatives"]]
        self.assertEqual(sorted(estimates), estimates)
        self.assertNotIn(document["tile"], [a["tile"] for a in document["alternatives"]])
        better = sum(estimate < document["estimate_us"] for estimate in estimates)
        self.assertTrue(1 <= document["rank"] <= document["legal_tiles"])
        self.assertEqual(better == 0, document["rank"] == 1)

    def test_the_number_of_sms_and_the_types_matter(self):
        plans = [
            self.explain(1, "--json", target=("--arch", "sm_90a", "--sms", sms)).json["intervals"]
            for sms in (4, 132)
        ]
        self.assertNotEqual(*plans)
        problem = self.explain(1, "--a", "e5m2", "--out", "f32", "--accumulate", "--sfa", "m",
                               "--json").json["problem"]
        self.assertEqual(
            {
                "layout": "dense", "scaling": "1d2d", "n": 7168, "k": 2048, "a": "e5m2",
                "b": "e4m3", "out": "f32", "sfa": "m", "accumulate": True
            }, problem)

    def test_grouped_problems_are_planned_by_all_rows_or_by_the_expected_rows(self):
        for words, expected in (
            (("grouped_contiguous", "--groups", 32), (128, 4096)),
            (("grouped_contiguous", "--groups", 32, "--alignment", 1, "--group-form", "labels"),
             (100, 3200)),
            (("grouped_masked", "--groups", 32), (100, 100)),
            (("grouped_k", "--groups", 32, "--out", "f32", "--accumulate"), (100, 100)),
        ):
            document = self.explain(100, "--layout", *words, "--json").json
            problem = document["problem"]
            self.assertEqual((words[0], 32), (problem["layout"], problem["groups"]))
            self.assertEqual(words[0] == "grouped_contiguous", "alignment" in problem)
            self.assertEqual((100, expected[1]), (document["m"], document["plan_m"]))
            self.assertTrue(document["m_min"] <= document["plan_m"] <= document["m_max"])
            serving, = [i for i in document["intervals"]
                        if i["m_min"] <= document["plan_m"] <= i["m_max"]]
            self.assertEqual(serving["tile"], document["tile"])
            block_m, block_n = map(int, document["tile"].split("/")[0].split("x"))
            self.assertEqual(32 * -(-100 // block_m) * -(-7168 // block_n),
                             document["output_tiles"])
            self.assertIn(str(expected[1]), self.explain(100, "--layout", *words).out)

    def test_the_layout_decides_what_is_not_said(self):

        def problem(*words):
            document = self.explain(64, *words, "--json").json["problem"]
            return [document.get(key) for key in ("scaling", "sfa", "group_form", "alignment")]

        self.assertEqual(["1d2d", "row", None, None], problem())
        self.assertEqual(["1d1d", "m", None, None], problem("--scaling", "1d1d"))
        groups = ("--groups", 4)
        self.assertEqual(["1d2d", "row", "ends", 128],
                         problem("--layout", "grouped_contiguous", *groups))
        self.assertEqual(["1d2d", "row", "rows", None],
                         problem("--layout", "grouped_masked", *groups))
        self.assertEqual(["1d1d", "m", "ends", None], problem("--layout", "grouped_k", *groups))
        self.assertEqual(["1d1d", "m", "packed", None],
                         problem("--layout", "grouped_k", *groups, "--group-form", "packed"))

    def test_a_given_tile_serves_every_m_and_the_reason_says_whose_it_is(self):
        document = self.explain(128, "--tile", "128x128/2x1/s4", "--json").json
        self.assertEqual("128x128/2x1/s4/c1x1/r8", document["tile"])
        self.assertEqual([(0, LARGEST_M, document["tile"])],
                         [(i["m_min"], i["m_max"], i["tile"]) for i in document["intervals"]])
        self.assertNotEqual(self.explain(128, "--json").json["reason"], document["reason"])

    def test_the_text_marks_the_interval_of_m(self):
        document = self.explain(128, "--json").json
        text = self.explain(128).out
        marked, = [line for line in text.splitlines() if line.startswith(">")]
        self.assertIn(f"{document['m_min']}..{document['m_max']}", marked)
        self.assertIn(document["tile"], marked)
        for interval in document["intervals"]:
            self.assertIn(interval["tile"], text)
        for part in ("problem ", "target    sm_90a, 132 SMs", "why ", "estimate "):
            self.assertIn(part, text)

    def test_neither_compiler_nor_cache_is_touched(self):
        self.explain(128, env=self.fake())
        self.assertEqual([], sorted(self.dir.iterdir()))


if __name__ == "__main__":
    sys.exit(harness.run())
