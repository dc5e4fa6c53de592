"""kiln doctor: what it says of machines that have, lack or break a part."""

import re
import sys

from harness import CliCase, FAILURE, FAKE_CUDA_DIR, FAKE_NVRTC, NO_DEVICE, OK
import harness

NO_NVRTC = {"KILN_NVRTC": "/nonexistent/libnvrtc.so"}
FAKE_GPU = {"LD_LIBRARY_PATH": FAKE_CUDA_DIR}


class Doctor(CliCase):

    def doctor(self, *words, env, expect):
        document = self.kiln("doctor", "--json", *words, env=env, expect=expect).json
        self.assertEqual(
            {"compiler", "driver", "device", "cache", "environment", "can_compile", "can_run"},
            set(document))
        text = self.kiln("doctor", *words, env=env, expect=expect).out
        for part in ("compiler", "driver", "device"):
            self.assertRegex(text, rf"(?m)^{part} +{document[part]['state']}\b")
            # The time of the test kernel differs from run to run.
            self.assertIn(re.sub(r" in \d+ ms", "", document[part]["message"]),
                          re.sub(r" in \d+ ms", "", text))
        self.assertRegex(text, rf"(?m)^cache +{document['cache']['state']}\b")
        for variable in document["environment"]:
            self.assertIn(variable, text)
        return document

    def require_no_driver(self):
        if self.kiln("doctor", "--json").json["driver"]["state"] != "missing":
            self.skipTest("this machine has a CUDA driver")

    def test_with_a_compiler_alone_it_succeeds(self):
        self.require_no_driver()
        document = self.doctor(env=self.fake(), expect=OK)
        self.assertEqual(("ok", "13.0", FAKE_NVRTC),
                         tuple(document["compiler"][k] for k in ("state", "version", "path")))
        self.assertIn("compiled a test kernel", document["compiler"]["message"])
        self.assertEqual((True, False), (document["can_compile"], document["can_run"]))
        self.assertEqual(["kiln_check_fill.cu"], sorted(set(self.compiled_programs())))
        self.assertIn("install the NVIDIA driver", document["driver"]["message"])

    def test_the_real_compiler_is_found_where_there_is_one(self):
        self.require_nvrtc()
        document = self.kiln("doctor", "--json", expect=OK).json
        self.assertRegex(document["compiler"]["path"], r"^/.*libnvrtc.*\.so")
        self.assertRegex(document["compiler"]["version"], r"^1[23]\.\d+$")

    def test_with_neither_compiler_nor_gpu_it_exits_with_3_and_says_where_it_looked(self):
        self.require_no_driver()
        document = self.doctor(env=NO_NVRTC, expect=NO_DEVICE)
        self.assertEqual("missing", document["compiler"]["state"])
        self.assertIn("/nonexistent/libnvrtc.so: does not exist", document["compiler"]["message"])
        self.assertEqual((False, False), (document["can_compile"], document["can_run"]))

    def test_a_compiler_that_is_found_but_fails_is_broken(self):
        self.require_no_driver()
        document = self.doctor(env=self.fake(FAKE_NVRTC_FAIL="check_fill"), expect=FAILURE)
        self.assertEqual("broken", document["compiler"]["state"])
        self.assertIn("refused on request", document["compiler"]["message"])

    def test_a_compiler_of_an_unsupported_version_is_named_with_its_version(self):
        self.require_no_driver()
        document = self.doctor(env=self.fake(FAKE_NVRTC_VERSION="12.3"), expect=NO_DEVICE)
        self.assertIn("NVRTC 12.3", document["compiler"]["message"])

    def test_the_flag_wins_over_the_variable(self):
        document = self.doctor("--nvrtc", FAKE_NVRTC, env=NO_NVRTC, expect=OK)
        self.assertEqual("ok", document["compiler"]["state"])

    def test_a_gpu_is_called_ok_only_when_a_kernel_ran_on_it(self):
        # The fake driver takes every call and runs nothing.
        document = self.doctor(env=self.fake(**FAKE_GPU), expect=OK)
        self.assertEqual(("ok", FAKE_CUDA_DIR + "/libcuda.so.1"),
                         (document["driver"]["state"], document["driver"]["path"]))
        self.assertEqual(
            ("broken", 0, "Fake H200", 132),
            tuple(document["device"][k] for k in ("state", "ordinal", "name", "num_sms")))
        self.assertIn("left its output unwritten", document["device"]["message"])
        self.assertFalse(document["can_run"])

    def test_the_state_of_the_cache_directory_is_told_without_making_it(self):
        document = self.doctor("--cache", self.cache, env=self.fake(), expect=OK)
        self.assertEqual(("absent", str(self.cache)),
                         (document["cache"]["state"], document["cache"]["directory"]))
        self.assertFalse(self.cache.exists())
        self.cache.mkdir(mode=0o700)
        self.assertEqual(
            "usable",
            self.doctor("--cache", self.cache, env=self.fake(), expect=OK)["cache"]["state"])
        self.assertEqual([], list(self.cache.iterdir()))
        self.cache.chmod(0o777)
        document = self.doctor("--cache", self.cache, env=self.fake(), expect=OK)
        self.assertEqual("untrusted", document["cache"]["state"])
        self.assertIn("chmod", document["cache"]["message"])

    def test_the_environment_is_shown(self):
        document = self.doctor(env=self.fake(KILN_LOG_LEVEL="error", KILN_CACHE_DIR=""), expect=OK)
        self.assertEqual(
            {
                "KILN_CACHE_DIR": "", "KILN_CACHE_PATH": None, "KILN_CHECK_GROUPS": None,
                "KILN_LOG_LEVEL": "error", "KILN_NO_COMPILE": None, "KILN_NVRTC": FAKE_NVRTC,
                "KILN_TUNED": None, "KILN_VERIFY": None
            }, document["environment"])
        self.assertEqual("disabled", document["cache"]["state"])


if __name__ == "__main__":
    sys.exit(harness.run())
